//! Writes the holders' file, on a thread of its own: the server never waits for a file. What
//! changes while something is being written is written after it all at once. To a file system in
//! memory, where nothing has to be waited for, the server writes by itself.

use crate::args::TOOL;
use crate::signals::Wake;
use lease_core::host::kept::Holders;
use lease_core::registry::journal::{Journal, room_after, size_of};
use lease_core::registry::place::Place;
use lease_core::registry::table::Changes;
use lease_core::tool::say;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// What the journal has already, and could not be written.
    Noted,
}

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Scribe {
    entries: Sender<(u64, Entry)>,
    written: Receiver<u64>,
    journal: Arc<Mutex<Journal>>,
    wake: Wake,
    /// It lies in memory.
    quick: bool,
    /// The last entry that the thread has, until it is written.
    handed: Option<u64>,
    /// The last one that was written by the server.
    done: Option<u64>,
    /// Bytes of changes for which there is room after the last page.
    room: usize,
}

impl Scribe {
    /// Starts the thread; `wake` is woken after each entry.
    pub(crate) fn start(place: Place, wake: Wake) -> io::Result<Self> {
        let (entries, inbox) = channel();
        let quick = place.is_in_memory();
        let journal = Arc::new(Mutex::new(Journal::new(place)));
        let (outbox, written) = channel();
        let (of_thread, wakes) = (Arc::clone(&journal), wake.clone());
        let work = move || {
            while let Ok(first) = inbox.recv() {
                let number = write_all(&of_thread, first, &inbox);
                if outbox.send(number).is_err() {
                    return;
                }
                wakes.wake();
            }
        };
        std::thread::Builder::new().spawn(work)?;
        let (handed, done) = (None, None);
        Ok(Self {
            entries,
            written,
            journal,
            wake,
            quick,
            handed,
            done,
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
        let entry = match self.quick && self.handed.is_none() {
            true => self.write_here(number, entry),
            false => Some(entry),
        };
        if let Some(entry) = entry {
            self.handed = Some(number);
            // If the thread is gone it is never done, and nobody gets an answer that needs it.
            let _ = self.entries.send((number, entry));
        }
        Ok(())
    }

    /// Writes it while the thread has nothing to do; what is left to the thread, if that fails.
    fn write_here(&mut self, number: u64, entry: Entry) -> Option<Entry> {
        let mut journal = lock(&self.journal);
        note(&mut journal, entry);
        if journal.write().is_err() {
            return Some(Entry::Noted);
        }
        self.done = Some(number);
        self.wake.wake();
        None
    }

    /// The number of an entry that was written since the last call.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let written = self.written.try_recv().ok();
        if written.is_some() && written >= self.handed {
            self.handed = None;
        }
        written.or_else(|| self.done.take())
    }
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes all that is asked for, again and again until that succeeds: nobody gets an answer that
/// rests on it before, and nobody who has one is harmed. Returns the number of the last entry.
fn write_all(
    journal: &Mutex<Journal>,
    (mut last, first): (u64, Entry),
    inbox: &Receiver<(u64, Entry)>,
) -> u64 {
    let mut journal = lock(journal);
    note(&mut journal, first);
    let mut said = false;
    loop {
        for (number, entry) in inbox.try_iter() {
            note(&mut journal, entry);
            last = number;
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

/// Takes an entry into the journal.
fn note(journal: &mut Journal, entry: Entry) {
    match entry {
        Entry::Page(page) => journal.start_page(&page),
        Entry::Change(change) => journal.add(&change),
        Entry::Noted => {}
    }
}
