//! Things by their numbers, which are given once.

/// Things, each under the number that it was given, in the order of these.
pub(super) struct Numbered<T> {
    things: Vec<Option<Box<T>>>,
}

impl<T> Numbered<T> {
    /// None at all.
    pub(super) fn new() -> Self {
        Self { things: Vec::new() }
    }

    /// Adds a thing, and gives it a number.
    pub(super) fn add(&mut self, thing: T) -> usize {
        self.things.push(Some(Box::new(thing)));
        self.things.len() - 1
    }

    /// The thing of this number, if it is still there.
    pub(super) fn get(&self, number: usize) -> Option<&T> {
        self.things.get(number)?.as_deref()
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.things.get_mut(number)?.as_deref_mut()
    }

    /// Takes it away.
    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        self.things.get_mut(number)?.take().map(|thing| *thing)
    }

    /// All that are there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let things = self.things.iter().enumerate();
        things.filter_map(|(number, thing)| Some((number, thing.as_deref()?)))
    }

    /// All that are there, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.things.iter_mut().filter_map(Option::as_deref_mut)
    }
}
