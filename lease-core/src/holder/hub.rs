//! Everything that happens reaches the main thread here, one event after another. The main thread
//! does no disk I/O and waits for nothing else.

use super::carrier::{Carried, CarriedHost};
use super::job::Job;
use super::session::Session;
use super::signal;
use super::surroundings::{Event, HolderSurroundings};
use super::wishes::Wishes;
use crate::clock::{Clock, Moment};
use crate::id::{HostId, Lver, Name};
use crate::registry::message::{Ask, Asked, Left, Tell, Welcome};
use crate::spec::ResourceSpec;
use std::collections::VecDeque;

/// Why an acquire is to be broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By a signal.
    Signal(i32),
    /// The host id is lost.
    Lost(String),
    /// lease-join leaves.
    NotJoined,
}

/// A resource.
#[derive(Debug)]
struct Slot {
    spec: ResourceSpec,
    session: usize,
    /// Its number within the session.
    number: usize,
}

/// All that the main thread deals with.
#[derive(Debug)]
pub struct Hub<A> {
    /// The machine.
    pub around: A,
    sessions: Vec<Session>,
    slots: Vec<Slot>,
    /// What was heard and not dealt with yet.
    heard: VecDeque<Event>,
    /// A moment before that was heard.
    looked: Moment,
    /// Set once an acquire is to be broken off.
    pub ending: Option<Ending>,
    /// The command's name, for people.
    pub command: String,
    /// What is asked of others.
    pub asking: Wishes,
}

impl<A: HolderSurroundings> Hub<A> {
    /// Registers with the lease-join of each lockspace and starts the workers.
    pub fn start(
        mut around: A,
        resources: Vec<(ResourceSpec, Asked)>,
        command: String,
    ) -> anyhow::Result<Self> {
        let mut lockspaces: Vec<Name> = Vec::new();
        let mut slots: Vec<Slot> = Vec::new();
        let mut asked: Vec<Vec<Asked>> = Vec::new();
        for (spec, ask) in resources {
            let known = lockspaces.iter().position(|name| *name == spec.lockspace);
            let session = known.unwrap_or(lockspaces.len());
            if known.is_none() {
                lockspaces.push(spec.lockspace);
                asked.push(Vec::new());
            }
            let number = asked[session].len();
            asked[session].push(ask);
            slots.push(Slot {
                spec,
                session,
                number,
            });
        }
        let mut sessions = Vec::new();
        for (number, resources) in asked.into_iter().enumerate() {
            let of = (number, &lockspaces[number]);
            sessions.push(Session::open(&mut around, of, command.clone(), resources)?);
        }
        let hosts: Vec<CarriedHost> = sessions.iter().map(Session::carried).collect();
        around.follow(&hosts);
        for (index, slot) in slots.iter().enumerate() {
            let Session {
                welcome, tenure, ..
            } = &sessions[slot.session];
            let started = around.start_worker(index, welcome, tenure);
            started?;
        }
        Ok(Self {
            around,
            sessions,
            slots,
            heard: VecDeque::new(),
            looked: Moment::default(),
            ending: None,
            command,
            asking: Wishes::default(),
        })
    }

    /// Now.
    pub fn now(&self) -> Moment {
        self.around.machine().now()
    }

    /// How many resources there are.
    pub fn resources(&self) -> usize {
        self.slots.len()
    }

    /// A resource's argument, and the host that it is held by.
    pub fn of_resource(&self, index: usize) -> (&ResourceSpec, &Welcome) {
        let slot = &self.slots[index];
        (&slot.spec, &self.sessions[slot.session].welcome)
    }

    /// LOCKSPACE:RESOURCE.
    pub fn name(&self, index: usize) -> String {
        let (spec, _) = self.of_resource(index);
        format!("{}:{}", spec.lockspace, spec.name)
    }

    /// The lease-joins that we are registered with.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// One of them.
    pub fn session(&mut self, number: usize) -> (&mut Session, &mut A) {
        (&mut self.sessions[number], &mut self.around)
    }

    /// The lease-join of a resource, and the resource's number there.
    fn session_of(&mut self, index: usize) -> (&mut Session, &mut A, usize) {
        let slot = &self.slots[index];
        (
            &mut self.sessions[slot.session],
            &mut self.around,
            slot.number,
        )
    }

    /// Asks the lease-join of a resource for a turn to acquire it.
    pub fn ask_to_acquire(&mut self, index: usize) {
        let (session, around, index) = self.session_of(index);
        session.ask(around, Ask::Acquire { index });
    }

    /// Has these hosts called until then: they have what was asked for.
    pub(super) fn say_call(&mut self, index: usize, hosts: Vec<HostId>, until: Moment) {
        let (session, around, _) = self.session_of(index);
        session.call(around, hosts, until);
    }

    /// Which session a resource belongs to.
    pub(super) fn session_of_resource(&self, index: usize) -> usize {
        self.slots[index].session
    }

    /// Says how an acquire went.
    pub fn say_acquired(&mut self, index: usize, lver: Option<Lver>, left: Left) {
        let (session, around, index) = self.session_of(index);
        session.acquired(around, index, (lver, left));
    }

    /// Asks for a turn to release.
    pub fn ask_to_release(&mut self, index: usize) {
        let (session, around, index) = self.session_of(index);
        session.ask(around, Ask::Release { index });
    }

    /// Says how a release went.
    pub fn say_released(&mut self, index: usize, left: Left) {
        let (session, around, index) = self.session_of(index);
        session.released(around, (index, left));
    }

    /// Whether there is no lease-join of a resource that could give a turn.
    pub fn is_alone(&mut self, index: usize) -> bool {
        !self.session_of(index).0.is_alive()
    }

    /// A resource is released without a turn.
    pub fn release_alone(&mut self, index: usize) {
        let (session, _, index) = self.session_of(index);
        session.releases_alone(index);
    }

    /// Says to all lease-joins that nothing is left.
    pub fn say_gone(&mut self) {
        for session in &self.sessions {
            session.gone(&mut self.around);
        }
    }

    /// No lease-join is asked any more to guard what stands behind the gate.
    pub fn withdraw_guard(&mut self) {
        self.sessions.iter_mut().for_each(Session::withdraw_guard);
    }

    /// Which resource has this number in a session.
    pub fn resource_of(&self, session: usize, number: usize) -> Option<usize> {
        let of = |slot: &Slot| (slot.session, slot.number) == (session, number);
        self.slots.iter().position(of)
    }

    /// Gives a worker something to do.
    pub fn give(&mut self, index: usize, job: Job) {
        self.around.give(index, job);
    }

    /// The next event; `None` when it is `until`, and nothing had happened by then.
    pub fn next(&mut self, until: Option<Moment>) -> Option<Event> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                return Some(event);
            }
            self.gather();
            if self.heard.is_empty() {
                if self.is_time(until) {
                    return None;
                }
                self.around.wait(until);
            }
        }
    }

    fn is_time(&self, until: Option<Moment>) -> bool {
        until.is_some_and(|until| self.looked >= until)
    }

    /// Takes all that has happened, without waiting. Renewals and losses are noted at once.
    fn gather(&mut self) {
        self.looked = self.now();
        for event in self.around.gather() {
            match event {
                Event::Ended(session) => self.sessions[session].ended(&mut self.around),
                Event::Found(session) => self.sessions[session].resume(&mut self.around),
                Event::Told(session, tell) => {
                    self.sessions[session].heard(&mut self.around, &tell);
                    self.heard.push_back(Event::Told(session, tell));
                }
                other => self.heard.push_back(other),
            }
        }
    }

    /// Whether a host id is lost by time: no renewal is known of, whatever is looked at.
    ///
    /// Whoever was stopped, and wakes up long after that, was told of the renewals meanwhile, or
    /// can read of them. What is learned after `now` is true of `now` too.
    pub fn is_overdue(&mut self, now: Moment) -> bool {
        if now >= self.deadline() {
            self.gather();
        }
        let lost = self.sessions.iter().any(|session| session.tenure.is_lost());
        if now >= self.deadline() && !lost {
            self.read_renewals();
        }
        now >= self.deadline()
    }

    /// Notes what the lease-joins' files say of renewals. Whether all do.
    fn read_renewals(&mut self) -> bool {
        let renewals = self.around.renewals().unwrap_or_default();
        let all = renewals.len() == self.sessions.len() && renewals.iter().all(Option::is_some);
        for (session, renewed) in self.sessions.iter().zip(renewals) {
            let renewed = renewed.into_iter();
            renewed.for_each(|renewed| session.tenure.note_renewal(renewed));
        }
        all
    }

    /// Reads of renewals while the command runs, so that nobody has to tell of them; where that
    /// fails lease-join is asked to. Whether there was one.
    pub fn look_for_renewals(&mut self) -> bool {
        let before = self.last_moment();
        let reads = self.read_renewals();
        for session in &mut self.sessions {
            session.reads(&mut self.around, reads);
        }
        self.last_moment() > before
    }

    /// When that is to be done next, after it was done at `looked`.
    pub fn next_renewal(&self, looked: Moment) -> Moment {
        let again = |session: &Session| looked.after(session.tenure.timing().io_limit() / 2);
        let sessions = self.sessions.iter();
        let due = sessions.map(|session| session.next_renewal().max(again(session)));
        due.min().unwrap_or(looked)
    }

    /// Whether every host id is still ours, for all that is known.
    pub fn holds(&mut self) -> bool {
        let now = self.now();
        !self.is_overdue(now)
    }

    /// Waits for an event that `pick` takes, while nothing is held: any reason to end sets
    /// [`Hub::ending`] and interrupts the workers. With `give_up`, it also ends this wait, with
    /// `None`.
    pub fn wait_for<T>(
        &mut self,
        until: Option<Moment>,
        give_up: bool,
        mut pick: impl FnMut(&Self, Event) -> Result<T, Event>,
    ) -> Option<T> {
        loop {
            let now = self.now();
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
                None if self.is_time(until) => return None,
                None => {}
            }
        }
    }

    /// When the first host id is lost unless it is renewed.
    pub fn deadline(&self) -> Moment {
        let deadlines = self
            .sessions
            .iter()
            .map(|session| session.tenure.deadline());
        deadlines.min().unwrap_or_default()
    }

    /// When whoever carries the last deadline is to kill, as far as we know of renewals.
    pub fn last_moment(&self) -> Moment {
        let of = |session: &Session| {
            let timing = session.tenure.timing();
            session.tenure.renewed().after(timing.lapse_after())
        };
        self.sessions.iter().map(of).min().unwrap_or_default()
    }

    /// What that one carries.
    pub fn carried(&self) -> Carried {
        Carried {
            last_moment: self.last_moment(),
            hosts: self.sessions.iter().map(Session::carried).collect(),
        }
    }

    fn note_ending(&mut self, event: &Event) {
        let ending = match event {
            Event::Signal(number, _) if signal::stops(*number) => return self.around.stop(),
            Event::Signal(number, _) if signal::ends_waiting(*number) => Ending::Signal(*number),
            Event::Told(_, Tell::Lost { why }) => Ending::Lost(why.clone()),
            Event::Told(_, Tell::Stop) => Ending::NotJoined,
            _ => return,
        };
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.around.interrupt();
    }
}
