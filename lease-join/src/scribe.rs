//! Writes the holders' file, on a thread of its own: the server never waits for a file. What
//! changes while something is being written is written after it all at once.

use crate::args::TOOL;
use crate::signals::Wake;
use lease_core::host::kept::Holders;
use lease_core::registry::journal::{Journal, room_after, size_of};
use lease_core::registry::place::Place;
use lease_core::registry::table::Changes;
use lease_core::tool::say;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// From one failure to the next attempt.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What is to be written.
#[derive(Debug)]
enum Entry {
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
    /// Bytes of changes for which there is room after the last page.
    room: usize,
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
            room: 0,
        })
    }

    /// Hands over what has changed, if there is room for it, and else all of it.
    pub(crate) fn write(
        &mut self,
        number: u64,
        changes: &Changes,
        all: impl FnOnce() -> Holders,
    ) -> serde_json::Result<()> {
        let change = serde_json::to_vec(changes)?;
        let entry = match self.room.checked_sub(size_of(change.len())) {
            Some(left) => {
                self.room = left;
                Entry::Change(change)
            }
            None => {
                let page = serde_json::to_vec(&all())?;
                self.room = room_after(page.len());
                Entry::Page(page)
            }
        };
        // If the thread is gone it is never done, and nobody gets an answer that needs it.
        let _ = self.entries.send((number, entry));
        Ok(())
    }

    /// The number of an entry that was written since the last call.
    pub(crate) fn next(&self) -> Option<u64> {
        self.written.try_recv().ok()
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
