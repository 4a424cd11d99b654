//! Everything that happens reaches the main thread here, one event after another. The main thread
//! does no disk I/O and waits for nothing else.

use crate::command::Command;
use crate::session::Session;
use crate::signals;
use crate::worker::{Answer, Job, Opened};
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::id::Name;
use lease_core::registry::message::{Tell, Welcome};
use lease_core::spec::ResourceSpec;
use lease_core::tool::show;
use nix::libc;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A lease-join said something.
    Told(usize, Tell),
    /// The connection to a lease-join ended.
    Gone(usize),
    /// A lease-join listens again.
    Found(usize, UnixStream),
    /// So it was; what it was asked before has been asked again.
    Resumed,
    /// A signal came; `true`: from the terminal, so the command has it too.
    Signal(i32, bool),
    /// A worker is done.
    Done(usize, Answer),
    /// The command was started by its namespace's init: a descriptor for it.
    Started(OwnedFd),
    /// The command could not be executed: errno.
    NotExecuted(i32),
    /// The command ended, with this exit code.
    Exited(u8),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command and all that it started are gone.
    TreeGone,
}

/// Why an acquire is to be broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By a signal.
    Signal(i32),
    /// The host id is lost.
    Lost(String),
    /// lease-join leaves.
    NotJoined,
}

/// A resource and its worker.
struct Slot {
    spec: ResourceSpec,
    session: usize,
    /// Its number within the session.
    number: usize,
    jobs: Sender<Job>,
}

/// All that the main thread deals with.
pub(crate) struct Hub {
    sessions: Vec<Session>,
    slots: Vec<Slot>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// Interrupted when an acquire is to be broken off.
    pub(crate) clock: BootClock,
    /// Set once it is.
    pub(crate) ending: Option<Ending>,
    /// The command's name, for people.
    pub(crate) command: String,
    /// Where the lease-joins are found.
    pub(crate) run_dir: PathBuf,
}

impl Hub {
    /// Registers with the lease-join of each lockspace and starts the workers.
    pub(crate) fn start(
        run_dir: &Path,
        opened: Vec<Opened>,
        command: &Command,
    ) -> anyhow::Result<Self> {
        let (sender, events) = channel();
        signals::listen(sender.clone())?;
        let clock = BootClock::default();
        let name = show(&command.name);
        let mut lockspaces: Vec<Name> = Vec::new();
        for resource in &opened {
            if !lockspaces.contains(&resource.spec.lockspace) {
                lockspaces.push(resource.spec.lockspace);
            }
        }
        let mut sessions = Vec::new();
        for (number, lockspace) in lockspaces.iter().enumerate() {
            let ours = opened.iter().filter(|o| o.spec.lockspace == *lockspace);
            let asked = ours.map(Opened::asked).collect();
            let events = (number, sender.clone());
            sessions.push(Session::open(
                run_dir,
                lockspace,
                name.clone(),
                asked,
                events,
            )?);
        }
        let mut hub = Self {
            sessions,
            slots: Vec::new(),
            events,
            sender,
            clock,
            ending: None,
            command: name,
            run_dir: run_dir.to_owned(),
        };
        for (index, resource) in opened.into_iter().enumerate() {
            let spec = resource.spec.clone();
            let session = lockspaces
                .iter()
                .position(|l| *l == spec.lockspace)
                .unwrap_or(0);
            let number = hub
                .slots
                .iter()
                .filter(|slot| slot.session == session)
                .count();
            let (welcome, tenure) = (
                hub.sessions[session].welcome.clone(),
                hub.sessions[session].tenure.clone(),
            );
            let events = hub.sender.clone();
            let jobs = resource.start(index, welcome, tenure, hub.clock.clone(), events);
            hub.slots.push(Slot {
                spec,
                session,
                number,
                jobs,
            });
        }
        Ok(hub)
    }

    /// How many resources there are.
    pub(crate) fn resources(&self) -> usize {
        self.slots.len()
    }

    /// A resource's argument, and the host that it is held by.
    pub(crate) fn of_resource(&self, index: usize) -> (&ResourceSpec, &Welcome) {
        let slot = &self.slots[index];
        (&slot.spec, &self.sessions[slot.session].welcome)
    }

    /// The lease-joins that we are registered with.
    pub(crate) fn sessions(&mut self) -> &mut [Session] {
        &mut self.sessions
    }

    /// The lease-join of a resource, and the resource's number there.
    pub(crate) fn session_of(&mut self, index: usize) -> (&mut Session, usize) {
        let slot = &self.slots[index];
        (&mut self.sessions[slot.session], slot.number)
    }

    /// Which resource has this number in a session.
    pub(crate) fn resource_of(&self, session: usize, number: usize) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| (slot.session, slot.number) == (session, number))
    }

    /// A sender for threads that report events.
    pub(crate) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Gives a worker something to do.
    pub(crate) fn give(&self, index: usize, job: Job) {
        // A worker ends only after the hub.
        let _ = self.slots[index].jobs.send(job);
    }

    /// The next event; `None` when it is `until`. Renewals and losses are noted on the way.
    pub(crate) fn next(&mut self, until: Option<Moment>) -> Option<Event> {
        let pause = until.map_or(Duration::MAX, |until| until.since(self.clock.now()));
        let event = self
            .events
            .recv_timeout(pause.min(Duration::from_secs(3600)))
            .ok()?;
        match event {
            Event::Told(session, tell) => {
                self.sessions[session].heard(&tell);
                Some(Event::Told(session, tell))
            }
            Event::Gone(session) => {
                self.sessions[session].ended();
                Some(Event::Gone(session))
            }
            Event::Found(session, stream) => {
                self.sessions[session].resume(stream);
                Some(Event::Resumed)
            }
            other => Some(other),
        }
    }

    /// Waits for an event that `pick` takes, while nothing is held: any reason to end sets
    /// [`Hub::ending`] and interrupts the workers. With `give_up`, it also ends this wait, with
    /// `None`.
    pub(crate) fn wait_for<T>(
        &mut self,
        until: Option<Moment>,
        give_up: bool,
        mut pick: impl FnMut(&Self, Event) -> Result<T, Event>,
    ) -> Option<T> {
        loop {
            if give_up && self.ending.is_some() {
                return None;
            }
            let deadline = self.deadline();
            let wake = until.map_or(deadline, |until| until.min(deadline));
            match self.next(Some(wake)) {
                Some(event) => match pick(self, event) {
                    Ok(picked) => return Some(picked),
                    Err(other) => self.note_ending(&other),
                },
                None if self.clock.now() >= self.deadline() => {
                    self.end(Ending::Lost("no renewal in time".into()));
                    if !give_up {
                        // The workers find out by themselves, and end.
                        let event = self.events.recv().ok()?;
                        if let Ok(picked) = pick(self, event) {
                            return Some(picked);
                        }
                    }
                }
                None => return None,
            }
        }
    }

    /// When the first host id is lost unless it is renewed.
    pub(crate) fn deadline(&self) -> Moment {
        let deadlines = self
            .sessions
            .iter()
            .map(|session| session.tenure.deadline());
        deadlines.min().unwrap_or_default()
    }

    fn note_ending(&mut self, event: &Event) {
        let ending = match event {
            Event::Signal(
                number @ (libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT),
                _,
            ) => Ending::Signal(*number),
            Event::Told(_, Tell::Lost { why }) => Ending::Lost(why.clone()),
            Event::Told(_, Tell::Stop) => Ending::NotJoined,
            _ => return,
        };
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.clock.interrupt();
    }
}
