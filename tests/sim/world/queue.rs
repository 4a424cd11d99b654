//! What is to happen, in the order of time; at one moment, in the order in which it was planned.

use super::super::clock::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Events, each planned for a moment.
pub(super) struct Queue<E> {
    now: Instant,
    planned: u64,
    /// Of the present moment, by their numbers: most are taken at once.
    at_once: VecDeque<(u64, E)>,
    /// Of all others: when, by which number, and where it is kept. What the heap moves is small.
    heap: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    kept: Vec<Option<E>>,
    free: Vec<usize>,
}

impl<E> Queue<E> {
    /// Nothing is planned.
    pub(super) fn new() -> Self {
        Self {
            now: 0,
            planned: 0,
            at_once: VecDeque::new(),
            heap: BinaryHeap::new(),
            kept: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Plans an event. What was due before now happens now.
    pub(super) fn plan(&mut self, at: Instant, event: E) {
        let at = at.max(self.now);
        self.planned += 1;
        if at == self.now {
            return self.at_once.push_back((self.planned, event));
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.kept.push(None);
            self.kept.len() - 1
        });
        self.kept[place] = Some(event);
        self.heap.push(Reverse((at, self.planned, place)));
    }

    /// The next event, and its moment.
    pub(super) fn next(&mut self) -> Option<(Instant, E)> {
        let first = self
            .heap
            .peek()
            .map(|Reverse((at, number, _))| (*at, *number));
        let at_once = self.at_once.front().map(|(number, _)| (self.now, *number));
        if at_once.is_some_and(|it| first.is_none_or(|first| it < first)) {
            return self.at_once.pop_front().map(|(_, event)| (self.now, event));
        }
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.now = at;
        self.free.push(place);
        Some((at, self.kept[place].take()?))
    }
}
