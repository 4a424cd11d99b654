//! Everything that happens reaches the main thread here, one event after another. The main thread
//! does no disk I/O and waits for nothing else.

use crate::alarm::Alarm;
use crate::carrier::{CarriedHost, Files};
use crate::child::Child;
use crate::session::Session;
use crate::signals::{self, Signals};
use crate::terminal;
use crate::worker::{Answer, Job, Opened};
use anyhow::Context;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::id::Name;
use lease_core::registry::message::{Tell, Welcome};
use lease_core::spec::ResourceSpec;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::time::Duration;

/// Between two looks when waiting is impossible.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A lease-join said something.
    Told(usize, Tell),
    /// A lease-join listens again.
    Found(usize, UnixStream),
    /// A signal came; `true`: from the terminal, so the command has it too.
    Signal(i32, bool),
    /// A worker is done.
    Done(usize, Answer),
    /// The command could not be executed.
    NotExecuted(Errno),
    /// The command ended, with this exit code.
    Exited(u8),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command and all that it started are gone.
    TreeGone,
}

/// Where other threads report.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    events: Sender<Event>,
    wake: Arc<EventFd>,
}

impl Outbox {
    fn new() -> anyhow::Result<(Self, Receiver<Event>)> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).context("cannot make an eventfd")?;
        let wake = Arc::new(wake);
        let (events, inbox) = channel();
        Ok((Self { events, wake }, inbox))
    }

    /// Reports, and wakes the main thread. Fails if there is none.
    pub(crate) fn send(&self, event: Event) -> Result<(), SendError<Event>> {
        self.events.send(event)?;
        // A full counter wakes as well.
        let _ = self.wake.write(1);
        Ok(())
    }
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
    inbox: Receiver<Event>,
    outbox: Outbox,
    signals: Signals,
    alarm: Alarm,
    /// What was heard and not dealt with yet.
    heard: VecDeque<Event>,
    /// A moment before that was heard.
    looked: Moment,
    /// The lease-joins' own files.
    files: Option<Files>,
    /// The command, once it runs.
    pub(crate) child: Option<Child>,
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
        command: String,
    ) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let alarm = Alarm::new().context("cannot make a timer")?;
        let (outbox, inbox) = Outbox::new()?;
        let clock = BootClock::default();
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
            let events = (number, outbox.clone());
            sessions.push(Session::open(
                run_dir,
                lockspace,
                command.clone(),
                asked,
                events,
            )?);
        }
        let hosts: Vec<CarriedHost> = sessions.iter().map(Session::carried).collect();
        let mut hub = Self {
            files: Files::open(run_dir, &hosts),
            sessions,
            slots: Vec::new(),
            inbox,
            outbox,
            signals,
            alarm,
            heard: VecDeque::new(),
            looked: Moment::default(),
            child: None,
            clock,
            ending: None,
            command,
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
            let events = hub.outbox.clone();
            let jobs = resource.start(index, welcome, tenure, hub.clock.clone(), events);
            let jobs = jobs.context("cannot start a thread")?;
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

    /// Gives a worker something to do.
    pub(crate) fn give(&self, index: usize, job: Job) {
        // A worker ends only after the hub.
        let _ = self.slots[index].jobs.send(job);
    }

    /// The next event; `None` when it is `until`, and nothing had happened by then.
    pub(crate) fn next(&mut self, until: Option<Moment>) -> Option<Event> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return Some(event);
            }
            self.gather();
            if self.heard.is_empty() {
                if until.is_some_and(|until| self.looked >= until) {
                    return None;
                }
                self.wait(until);
            }
        }
    }

    /// Takes all that has happened, without waiting. Renewals and losses are noted at once.
    fn gather(&mut self) {
        self.looked = self.clock.now();
        // Nothing to read is no news.
        let _ = self.outbox.wake.read();
        for session in &mut self.sessions {
            self.heard.extend(session.hear());
        }
        for event in self.inbox.try_iter() {
            match event {
                Event::Found(session, stream) => self.sessions[session].resume(stream),
                other => self.heard.push_back(other),
            }
        }
        // Before the child is looked at: the signal that says that it has ended comes once.
        while let Some((number, from_terminal)) = self.signals.next() {
            self.heard.push_back(Event::Signal(number, from_terminal));
        }
        let child = self.child.as_mut().map(Child::hear);
        self.heard.extend(child.into_iter().flatten());
    }

    fn wait(&self, until: Option<Moment>) {
        let mut fds = vec![
            PollFd::new(self.outbox.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.sessions.iter().filter_map(Session::news));
        fds.extend(self.child.iter().flat_map(Child::news));
        if self.alarm.wait(fds, until).is_err() {
            // Without memory for it: looking again and again is better than not to look.
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Whether a host id is lost by time: no renewal is known of, whatever is looked at.
    ///
    /// Whoever was stopped, and wakes up long after that, was told of the renewals meanwhile, or
    /// can read of them. What is learned after `now` is true of `now` too.
    pub(crate) fn is_overdue(&mut self, now: Moment) -> bool {
        if now >= self.deadline() {
            self.gather();
        }
        let lost = self.sessions.iter().any(|session| session.tenure.is_lost());
        if now >= self.deadline() && !lost {
            let renewals = self.files.as_mut().and_then(Files::renewals);
            for (session, renewed) in self.sessions.iter().zip(renewals.unwrap_or_default()) {
                renewed
                    .into_iter()
                    .for_each(|renewed| session.tenure.note_renewal(renewed));
            }
        }
        now >= self.deadline()
    }

    /// Whether every host id is still ours, for all that is known.
    pub(crate) fn holds(&mut self) -> bool {
        let now = self.clock.now();
        !self.is_overdue(now)
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
            let now = self.clock.now();
            // Somebody may have said why.
            let unheard = |hub: &Self| !hub.heard.is_empty();
            if self.ending.is_none() && !unheard(self) && self.is_overdue(now) && !unheard(self) {
                self.end(Ending::Lost("no renewal in time".into()));
            }
            if give_up && self.ending.is_some() {
                return None;
            }
            // Once everything ends, the workers find out by themselves.
            let deadline = self.ending.is_none().then(|| self.deadline());
            let wake = until.into_iter().chain(deadline).min();
            match self.next(wake) {
                Some(event) => match pick(self, event) {
                    Ok(picked) => return Some(picked),
                    Err(other) => self.note_ending(&other),
                },
                None if until.is_some_and(|until| self.looked >= until) => return None,
                None => {}
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
            Event::Signal(number, _) if terminal::stops(*number) => return terminal::stop(),
            Event::Signal(number, _) if signals::ends_waiting(*number) => Ending::Signal(*number),
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
