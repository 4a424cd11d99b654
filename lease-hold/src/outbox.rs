//! Where other threads report to the main thread.

use anyhow::Context;
use lease_core::device::Device;
use lease_core::holder::job::Answer;
use lease_core::holder::surroundings::Event;
use lease_core::opened::Opened;
use lease_core::tool::Failure;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};

/// What is reported.
#[derive(Debug)]
pub(crate) enum News {
    /// A lease-join listens again: which, and a connection to it.
    Found(usize, UnixStream),
    /// The disks of an order are open.
    Opened(Result<Vec<Opened<Device>>, Failure>),
    /// The worker of a resource is done.
    Done(usize, Answer),
    /// The file of the value was written, or read.
    Value(Event),
}

/// One end of it.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    news: Sender<News>,
    wake: Arc<EventFd>,
}

impl Outbox {
    /// Reports, and wakes the main thread. Fails if there is none.
    pub(crate) fn send(&self, news: News) -> Result<(), SendError<News>> {
        self.news.send(news)?;
        // A full counter wakes as well.
        let _ = self.wake.write(1);
        Ok(())
    }
}

/// The main thread's end.
#[derive(Debug)]
pub(crate) struct Inbox {
    news: Receiver<News>,
    wake: Arc<EventFd>,
}

impl Inbox {
    /// All that was reported since the last call.
    pub(crate) fn take(&self) -> Vec<News> {
        // Nothing to read is no news.
        let _ = self.wake.read();
        self.news.try_iter().collect()
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Both ends.
pub(crate) fn open() -> anyhow::Result<(Outbox, Inbox)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = EventFd::from_flags(flags).context("cannot make an eventfd")?;
    let wake = Arc::new(wake);
    let (sender, news) = channel();
    let outbox = Outbox {
        news: sender,
        wake: Arc::clone(&wake),
    };
    Ok((outbox, Inbox { news, wake }))
}
