//! Writes the holders' file, on a thread of its own: the server never waits for a file. What
//! changes while something is being written is written after it all at once.

use crate::TOOL;
use crate::signals::Wake;
use lease_core::registry::journal::{Journal, room_after, size_of};
use lease_core::registry::place::Place;
use lease_core::tool::say;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// From one failure to the next attempt.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Entry {
    /// All holders.
    Page(Vec<u8>),
    /// What has changed since the last entry.
    Change(Vec<u8>),
}

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Scribe {
    entries: Sender<(u64, Entry)>,
    written: Receiver<u64>,
    /// The number of the next entry.
    next: u64,
    /// Whether there is something to write in it.
    wanted: bool,
    /// Bytes of changes for which there is room after the last page.
    room: usize,
    done: u64,
}

impl Scribe {
    /// Starts the thread; `wake` is woken after each entry.
    pub(crate) fn start(place: Place, wake: Wake) -> io::Result<Self> {
        let (entries, inbox) = channel();
        let mut journal = Journal::new(place);
        let (outbox, written) = channel();
        let work = move || {
            while let Ok(first) = inbox.recv() {
                let number = write_all(&mut journal, first, &inbox);
                if outbox.send(number).is_err() {
                    return;
                }
                wake.wake();
            }
        };
        std::thread::Builder::new().spawn(work)?;
        Ok(Self {
            entries,
            written,
            next: 1,
            wanted: false,
            room: 0,
            done: 0,
        })
    }

    /// Asks for what has changed to be written. Returns the number of the entry.
    pub(crate) fn ask(&mut self) -> u64 {
        self.wanted = true;
        self.next
    }

    /// Whether the entry that was asked for is to be handed over.
    pub(crate) fn is_asked(&self) -> bool {
        self.wanted
    }

    /// Hands over what was asked for, if there is room for it: else all is to be written.
    pub(crate) fn change(&mut self, change: Vec<u8>) -> bool {
        let left = self.room.checked_sub(size_of(change.len()));
        if let Some(left) = left {
            self.room = left;
            self.hand_over(Entry::Change(change));
        }
        left.is_some()
    }

    /// Hands over a page, with all that was asked for on it.
    pub(crate) fn page(&mut self, page: Vec<u8>) {
        self.room = room_after(page.len());
        self.hand_over(Entry::Page(page));
    }

    fn hand_over(&mut self, entry: Entry) {
        // If the thread is gone it is never done, and nobody gets an answer that needs it.
        let _ = self.entries.send((self.next, entry));
        self.next += 1;
        self.wanted = false;
    }

    /// The number of the last entry that is written.
    pub(crate) fn done(&mut self) -> u64 {
        self.done = self.written.try_iter().last().unwrap_or(self.done);
        self.done
    }
}

/// Writes all that is asked for, again and again until that succeeds: nobody gets an answer that
/// rests on it before, and nobody who has one is harmed. Returns the number of the last entry.
fn write_all(journal: &mut Journal, first: (u64, Entry), inbox: &Receiver<(u64, Entry)>) -> u64 {
    let mut last = note(journal, first);
    let mut said = false;
    loop {
        for entry in inbox.try_iter() {
            last = note(journal, entry);
        }
        let Err(why) = journal.write() else {
            return last;
        };
        if !said {
            let shown = journal.place().shown().display();
            let text = format!("{shown}: cannot write the holders' file: {why}; trying again");
            say(TOOL, text);
            said = true;
        }
        std::thread::sleep(TRY_AGAIN);
    }
}

/// Takes an entry into the journal. Returns its number.
fn note(journal: &mut Journal, (number, entry): (u64, Entry)) -> u64 {
    match entry {
        Entry::Page(page) => journal.start_page(&page),
        Entry::Change(change) => journal.add(&change),
    }
    number
}
