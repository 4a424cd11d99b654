//! Writes the holders' file, on a thread of its own: the server never waits for a file. What
//! changes while one page is being written goes into the next one all at once.

use crate::TOOL;
use crate::signals::Wake;
use lease_core::registry::place::{Kept, Place};
use lease_core::tool::say;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// From one failure to the next attempt.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Scribe {
    pages: Sender<(u64, Vec<u8>)>,
    written: Receiver<u64>,
    /// The number of the next page.
    next: u64,
    /// Whether there is something to write on it.
    wanted: bool,
    done: u64,
}

impl Scribe {
    /// Starts the thread; `wake` is woken after each page.
    pub(crate) fn start(place: Place, wake: Wake) -> io::Result<Self> {
        let (pages, inbox) = channel::<(u64, Vec<u8>)>();
        let (outbox, written) = channel();
        let work = move || {
            while let Ok(first) = inbox.recv() {
                let number = write_newest(&place, first, &inbox);
                if outbox.send(number).is_err() {
                    return;
                }
                wake.wake();
            }
        };
        std::thread::Builder::new().spawn(work)?;
        Ok(Self {
            pages,
            written,
            next: 1,
            wanted: false,
            done: 0,
        })
    }

    /// Asks for a page to be written. Returns its number.
    pub(crate) fn ask(&mut self) -> u64 {
        self.wanted = true;
        self.next
    }

    /// Whether the page that was asked for is to be handed over.
    pub(crate) fn is_asked(&self) -> bool {
        self.wanted
    }

    /// Hands over the page that was asked for.
    pub(crate) fn write(&mut self, page: Vec<u8>) {
        // If the thread is gone the page is never done, and nobody gets an answer that needs it.
        let _ = self.pages.send((self.next, page));
        self.next += 1;
        self.wanted = false;
    }

    /// The number of the last page that is written.
    pub(crate) fn done(&mut self) -> u64 {
        self.done = self.written.try_iter().last().unwrap_or(self.done);
        self.done
    }
}

/// Writes the newest page, again and again until that succeeds: nobody gets an answer that rests
/// on it before, and nobody who has one is harmed. Returns its number.
fn write_newest(place: &Place, first: (u64, Vec<u8>), inbox: &Receiver<(u64, Vec<u8>)>) -> u64 {
    let mut newest = first;
    let mut said = false;
    loop {
        // A page holds all that is on those before it.
        newest = inbox.try_iter().last().unwrap_or(newest);
        let Err(why) = place.write(Kept::Holders, &newest.1) else {
            return newest.0;
        };
        if !said {
            let shown = place.shown().display();
            let text = format!("{shown}: cannot write the holders' file: {why}; trying again");
            say(TOOL, text);
            said = true;
        }
        std::thread::sleep(TRY_AGAIN);
    }
}
