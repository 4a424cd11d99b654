//! Things by their numbers, which are given once.

use std::collections::BTreeMap;

/// Things, each under the number that it was given, in the order of these. Those that were taken
/// away cost nothing.
pub(super) struct Numbered<T> {
    given: usize,
    things: BTreeMap<usize, Box<T>>,
}

impl<T> Numbered<T> {
    /// None at all.
    pub(super) fn new() -> Self {
        let things = BTreeMap::new();
        Self { given: 0, things }
    }

    /// Adds a thing, and gives it a number.
    pub(super) fn add(&mut self, thing: T) -> usize {
        self.given += 1;
        self.things.insert(self.given, Box::new(thing));
        self.given
    }

    /// The thing of this number, if it is still there.
    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.things.get(&number).map(Box::as_ref)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.things.get_mut(&number).map(Box::as_mut)
    }

    /// Takes it away.
    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        self.things.remove(&number).map(|thing| *thing)
    }

    /// All that are there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.things
            .iter()
            .map(|(number, thing)| (*number, &**thing))
    }

    /// All that are there, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.things.values_mut().map(Box::as_mut)
    }
}
