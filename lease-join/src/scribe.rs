//! Writes the holders' file, on a thread of its own: the server never waits for a file. What
//! changes while one page is being written goes into the next one all at once.

use crate::signals::Wake;
use lease_core::registry::place::{Kept, Place};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Scribe {
    pages: Sender<(u64, Vec<u8>)>,
    written: Receiver<io::Result<u64>>,
    /// The number of the next page.
    next: u64,
    /// Whether there is something to write on it.
    wanted: bool,
    done: u64,
}

impl Scribe {
    /// Starts the thread; `wake` is woken after each page.
    pub(crate) fn start(place: Place, wake: Wake) -> Self {
        let (pages, inbox) = channel::<(u64, Vec<u8>)>();
        let (outbox, written) = channel();
        std::thread::spawn(move || {
            while let Ok(first) = inbox.recv() {
                // A page holds all that is on those before it.
                let (number, page) = inbox.try_iter().last().unwrap_or(first);
                let result = place.write(Kept::Holders, &page);
                if outbox.send(result.map(|()| number)).is_err() {
                    return;
                }
                wake.wake();
            }
        });
        Self {
            pages,
            written,
            next: 1,
            wanted: false,
            done: 0,
        }
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

    /// The number of the last page that is written. An error if one could not be.
    pub(crate) fn done(&mut self) -> io::Result<u64> {
        for result in self.written.try_iter() {
            self.done = result?;
        }
        Ok(self.done)
    }
}
