//! Answers that wait until what they allow is in the holders' file.

use crate::registry::table::Answer;
use std::collections::VecDeque;

/// Pages of the holders' file, and the answers that rest on them. A page holds all that is on those
/// before it.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The number of the next page.
    next: u64,
    /// Whether there is something to write on it.
    wanted: bool,
    /// The last page that is known to be written.
    written: u64,
    /// Answers, each with the page that must be written before it leaves.
    unsent: VecDeque<(u64, Answer)>,
}

impl Outbox {
    /// Nothing is written.
    pub(super) fn new() -> Self {
        Self {
            next: 1,
            wanted: false,
            written: 0,
            unsent: VecDeque::new(),
        }
    }

    /// Something has changed that a next lease-join has to know.
    pub(super) fn changed(&mut self) {
        self.wanted = true;
    }

    /// These leave when what is known now is written.
    pub(super) fn put(&mut self, answers: Vec<Answer>) {
        self.changed();
        let page = self.next;
        let answers = answers.into_iter().map(|answer| (page, answer));
        self.unsent.extend(answers);
    }

    /// The number of the page that is to be handed over now, if one is: once for all that was asked
    /// for since the last time, since with many holders a page is long.
    pub(super) fn page(&mut self) -> Option<u64> {
        let page = std::mem::take(&mut self.wanted).then_some(self.next)?;
        self.next += 1;
        Some(page)
    }

    /// A page is written.
    pub(super) fn written(&mut self, page: u64) {
        self.written = self.written.max(page);
    }

    /// The next answer that may leave.
    pub(super) fn take(&mut self) -> Option<Answer> {
        let (page, _) = self.unsent.front()?;
        if *page > self.written {
            return None;
        }
        self.unsent.pop_front().map(|(_, answer)| answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::message::{HolderId, Tell};

    #[test]
    fn an_answer_leaves_when_its_page_is_written_and_in_order() {
        let mut outbox = Outbox::new();
        let answer = |id| (HolderId(id), Tell::Stop);
        assert_eq!(outbox.page(), None, "nothing has changed");
        outbox.put(vec![answer(1)]);
        assert_eq!((outbox.page(), outbox.page()), (Some(1), None));
        outbox.put(vec![answer(2)]);
        assert_eq!(outbox.take(), None);
        outbox.written(1);
        assert_eq!((outbox.take(), outbox.take()), (Some(answer(1)), None));
        outbox.changed();
        assert_eq!(outbox.page(), Some(2));
        outbox.put(vec![answer(3)]);
        assert_eq!(outbox.page(), Some(3));
        outbox.written(3);
        outbox.written(2);
        assert_eq!(outbox.take(), Some(answer(2)));
        assert_eq!(outbox.take(), Some(answer(3)));
    }
}
