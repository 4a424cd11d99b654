//! The connections to the lease-joins.

use crate::outbox::{News, Outbox};
use lease_core::clock::BootClock;
use lease_core::delta::Tenure;
use lease_core::holder::session;
use lease_core::holder::surroundings::{Event, Unanswered};
use lease_core::id::Name;
use lease_core::process::Process;
use lease_core::registry::message::{Ask, Tell};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long lease-join may take for its first answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One connection a lockspace; `None` while there is no lease-join.
#[derive(Debug)]
pub(crate) struct Joins {
    /// Where they are found.
    pub(crate) run_dir: PathBuf,
    own: Process,
    wires: Vec<Option<Wire>>,
    outbox: Outbox,
}

impl Joins {
    /// None yet.
    pub(crate) fn new(run_dir: &Path, outbox: Outbox) -> Result<Self, Failure> {
        let none = || Failure::new(Status::System, "cannot open a pidfd of our own");
        Ok(Self {
            run_dir: run_dir.to_owned(),
            own: Process::own().ok_or_else(none)?,
            wires: Vec::new(),
            outbox,
        })
    }

    /// Connects to one more, says the first thing, and hears the answer.
    pub(crate) fn register(&mut self, lockspace: &Name, ask: &Ask) -> Result<Tell, Unanswered> {
        let absent = |error: io::Error| Unanswered::Absent(error.to_string());
        let place = Place::open(&self.run_dir, lockspace).map_err(|errno| match errno {
            Errno::EACCES => Unanswered::Forbidden,
            errno => Unanswered::Absent(errno.desc().into()),
        })?;
        let stream = place.connect().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Unanswered::Forbidden,
            _ => absent(error),
        })?;
        let (tell, wire) = greet(stream, ask, &self.own).map_err(absent)?;
        self.wires.push(Some(wire));
        Ok(tell)
    }

    /// Says something to one of them, with a descriptor beside it. `false`: it may not hear of it.
    pub(crate) fn ask(&mut self, number: usize, ask: &Ask, fd: Option<BorrowedFd<'_>>) -> bool {
        let Some(wire) = self.wires.get_mut(number).and_then(Option::as_mut) else {
            return false;
        };
        let sent = match (ask, fd) {
            (Ask::Resume { .. }, _) => wire.send_with(ask, self.own.as_fd()),
            (_, Some(fd)) => wire.send_with(ask, fd),
            (_, None) => wire.send(ask),
        };
        sent.is_ok() && !wire.is_behind()
    }

    /// What tells of them.
    pub(crate) fn news(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.wires.iter().flatten().map(|wire| {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, wire.is_behind());
            PollFd::new(wire.stream().as_fd(), flags)
        })
    }

    /// All that they have said.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, slot) in self.wires.iter_mut().enumerate() {
            let Some(wire) = slot else { continue };
            let written = wire.flush().is_ok();
            let mut open = wire.drain().unwrap_or(false) && written;
            loop {
                match wire.take_message() {
                    Ok(Some(tell)) => events.push(Event::Told(number, tell)),
                    Ok(None) => break,
                    Err(_) => {
                        open = false;
                        break;
                    }
                }
            }
            if !open {
                *slot = None;
                events.push(Event::Ended(number));
            }
        }
        events
    }

    /// On a thread of its own, looks for a lease-join that listens in place of one that has ended.
    pub(crate) fn look_for(&mut self, number: usize, lockspace: Name, tenure: Arc<Tenure>) {
        self.wires[number] = None;
        let (run_dir, outbox) = (self.run_dir.clone(), self.outbox.clone());
        let find = move || {
            let place = Place::open(&run_dir, &lockspace).ok();
            let stream = place.and_then(|place| place.connect().ok());
            // Without a main thread there is nobody to tell.
            let tell = |stream| outbox.send(News::Found(number, stream));
            stream.map(tell).is_some()
        };
        let look = move || session::seek(&BootClock::default(), &tenure, find);
        // Without the thread it is as if none could be found.
        let _ = std::thread::Builder::new().spawn(look);
    }

    /// Ends the connection to one of them.
    pub(crate) fn hang_up(&mut self, number: usize) {
        self.wires[number] = None;
    }

    /// One was found: what is said from now on goes there.
    pub(crate) fn found(&mut self, number: usize, stream: UnixStream) {
        let no_waiting = stream.set_nonblocking(true);
        self.wires[number] = no_waiting.is_ok().then(|| Wire::new(stream));
    }
}

/// Says the first thing on a connection, and hears the answer.
fn greet(stream: UnixStream, ask: &Ask, own: &Process) -> io::Result<(Tell, Wire)> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut wire = Wire::new(stream);
    wire.send_with(ask, own.as_fd())?;
    // A renewal may come in between.
    let tell = loop {
        match wire.receive()? {
            Tell::Renewed { .. } => {}
            tell => break tell,
        }
    };
    wire.stream().set_nonblocking(true)?;
    Ok((tell, wire))
}
