//! Writes the holders' file, on a thread of its own: the server never waits for a file.

use crate::signals::Wake;
use lease_core::registry::place::{Kept, Place};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The thread that writes.
#[derive(Debug)]
pub(crate) struct Scribe {
    pages: Sender<Vec<u8>>,
    written: Receiver<io::Result<()>>,
    asked: u64,
    done: u64,
}

impl Scribe {
    /// Starts the thread; `wake` is woken after each page.
    pub(crate) fn start(place: Place, wake: Wake) -> Self {
        let (pages, inbox) = channel::<Vec<u8>>();
        let (outbox, written) = channel();
        std::thread::spawn(move || {
            for page in inbox {
                if outbox.send(place.write(Kept::Holders, &page)).is_err() {
                    return;
                }
                wake.wake();
            }
        });
        Self {
            pages,
            written,
            asked: 0,
            done: 0,
        }
    }

    /// Asks for a page to be written. Returns its number.
    pub(crate) fn write(&mut self, page: Vec<u8>) -> u64 {
        self.asked += 1;
        // If the thread is gone the page is never done, and nobody gets an answer that needs it.
        let _ = self.pages.send(page);
        self.asked
    }

    /// The number of the last page that is written. An error if one could not be.
    pub(crate) fn done(&mut self) -> io::Result<u64> {
        for result in self.written.try_iter() {
            result?;
            self.done += 1;
        }
        Ok(self.done)
    }
}
