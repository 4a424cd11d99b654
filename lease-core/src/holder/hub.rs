//! Everything that happens reaches the main thread here, one event after another. The main thread
//! does no disk I/O and waits for nothing else.

use super::carrier::{Carried, CarriedHost};
use super::ended::Ended;
use super::job::HeldLease;
use super::job::Job;
use super::session::Session;
use super::signal;
use super::surroundings::{Event, HolderSurroundings};
use super::tickets::Tickets;
use super::wishes::Wishes;
use crate::clock::{Clock, Moment};
use crate::id::{HostId, Lver, Name};
use crate::registry::message::{Ask, Asked, Left, Tell, Welcome};
use crate::spec::ResourceSpec;
use std::collections::VecDeque;

/// Without a lease nothing is lost.
pub(super) const NEVER: Moment = Moment(u64::MAX);

/// Why an acquire is to be broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By a signal.
    Signal(i32),
    /// The host id is lost.
    Lost(String),
    /// lease-join leaves.
    NotJoined,
    /// What was to be guarded has ended.
    Gone,
    /// Nobody waits for it any more.
    Withdrawn,
}

/// Whose loss matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Leases are wanted: that of any host.
    Wanting,
    /// Something is guarded: that of a host which holds a lease that it needs.
    Guarding,
    /// Leases are given back: that of a host which has any.
    Releasing,
}

/// A resource.
#[derive(Debug)]
struct Slot {
    spec: ResourceSpec,
    session: usize,
    /// Its number within the session.
    number: usize,
    /// It is not wanted any more: its number is free.
    free: bool,
}

/// Who cares for what is guarded, in every wait of an order too.
pub(super) trait Care<A>: std::fmt::Debug + Send {
    /// Does what is due; when something is due again.
    fn tend(&mut self, hub: &mut Hub<A>) -> Moment;

    /// Takes note of what has happened, and does what follows from it at once.
    fn hear(&mut self, hub: &mut Hub<A>, event: Event);

    /// Why what is being changed has to come to its end.
    fn ends_orders(&self) -> Option<Ending>;

    /// How it ended, if there is nothing more to guard. What is let go is told so.
    fn ended(&self, hub: &mut Hub<A>) -> Option<Ended>;
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
    /// What is being acquired.
    pub(super) wanted: Vec<usize>,
    pub(super) stage: Stage,
    /// What is held for what is guarded.
    pub(super) held: Vec<HeldLease>,
    /// What is to be changed of that.
    pub(super) tickets: Tickets,
    /// Who cares for what is guarded, while anything is.
    pub(super) care: Option<Box<dyn Care<A>>>,
}

impl<A: HolderSurroundings> Hub<A> {
    /// Registers with the lease-join of each lockspace, and of `others`, and starts the workers.
    pub fn start(
        mut around: A,
        others: &[Name],
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
                free: false,
            });
        }
        for name in others {
            if !lockspaces.contains(name) {
                lockspaces.push(*name);
                asked.push(Vec::new());
            }
        }
        let mut sessions = Vec::new();
        for (number, resources) in asked.into_iter().enumerate() {
            let of = (number, &lockspaces[number]);
            sessions.push(Session::open(&mut around, of, command.clone(), resources)?);
        }
        let wanted = (0..slots.len()).collect();
        let mut hub = Self {
            around,
            sessions,
            slots,
            heard: VecDeque::new(),
            looked: Moment::default(),
            ending: None,
            command,
            asking: Wishes::default(),
            wanted,
            stage: Stage::Wanting,
            held: Vec::new(),
            tickets: Tickets::default(),
            care: None,
        };
        hub.follow();
        for index in 0..hub.slots.len() {
            hub.start_worker(index)?;
        }
        Ok(hub)
    }

    /// From now on the files of all lease-joins are read.
    fn follow(&mut self) {
        let hosts: Vec<CarriedHost> = self.sessions.iter().map(Session::carried).collect();
        self.around.follow(&hosts);
    }

    /// Starts the worker of a resource.
    fn start_worker(&mut self, index: usize) -> anyhow::Result<()> {
        let session = &self.sessions[self.slots[index].session];
        let (welcome, tenure) = (&session.welcome, &session.tenure);
        self.around.start_worker(index, welcome, tenure)
    }

    /// One resource more, which has this number from now on, and another one there.
    pub(super) fn add(
        &mut self,
        spec: ResourceSpec,
        (session, number): (usize, usize),
    ) -> anyhow::Result<usize> {
        let slot = Slot {
            spec,
            session,
            number,
            free: false,
        };
        let free = self.slots.iter().position(|slot| slot.free);
        let index = free.unwrap_or(self.slots.len());
        match free {
            Some(index) => self.slots[index] = slot,
            None => self.slots.push(slot),
        }
        let started = self.start_worker(index);
        self.slots[index].free = started.is_err();
        started.map(|()| index)
    }

    /// A resource that is neither held nor wanted any more.
    pub(super) fn remove(&mut self, index: usize) {
        self.slots[index].free = true;
        self.around.end_worker(index);
    }

    /// Now.
    pub fn now(&self) -> Moment {
        self.around.machine().now()
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

    /// The one of a lockspace, if there is one.
    pub(super) fn session_for(&self, lockspace: &Name) -> Option<usize> {
        let is_it = |session: &Session| session.name() == *lockspace && !session.is_left();
        self.sessions.iter().position(is_it)
    }

    /// Which number one more resource has there: nothing of ours has it.
    pub(super) fn free_index(&self, session: usize) -> usize {
        let used = |number: usize| {
            let of = |slot: &Slot| !slot.free && (slot.session, slot.number) == (session, number);
            self.slots.iter().any(of)
        };
        self.sessions[session].free_index(used)
    }

    /// One of them.
    pub fn session(&mut self, number: usize) -> (&mut Session, &mut A) {
        (&mut self.sessions[number], &mut self.around)
    }

    /// The lease-join of a resource, and the resource's number there.
    fn session_of(&mut self, index: usize) -> (&mut Session, &mut A, usize) {
        let Slot {
            session, number, ..
        } = self.slots[index];
        (&mut self.sessions[session], &mut self.around, number)
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
        let guarding = self.stage == Stage::Guarding;
        let (session, around, index) = self.session_of(index);
        let ask = match guarding {
            true => Ask::Yield { index },
            false => Ask::Release { index },
        };
        session.ask(around, ask);
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
        let of = |slot: &Slot| !slot.free && (slot.session, slot.number) == (session, number);
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

    /// Whether the loss of this host matters.
    fn matters(&self, session: &Session) -> bool {
        match self.stage {
            Stage::Wanting => true,
            Stage::Guarding => session.is_needed(),
            Stage::Releasing => session.has_any(),
        }
    }

    /// The lease-joins whose loss matters.
    pub(super) fn those_that_matter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(|session| self.matters(session))
    }

    /// Whether a host id that matters is lost by time: no renewal is known of, whatever is looked
    /// at.
    ///
    /// Whoever was stopped, and wakes up long after that, was told of the renewals meanwhile, or
    /// can read of them. What is learned after `now` is true of `now` too.
    pub fn is_overdue(&mut self, now: Moment) -> bool {
        if now >= self.deadline() {
            self.gather();
        }
        let lost = self
            .those_that_matter()
            .any(|session| session.tenure.is_lost());
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
        let sessions = self.sessions.iter().filter(|session| !session.is_left());
        let due = sessions.map(|session| session.next_renewal().max(again(session)));
        due.min().unwrap_or(NEVER)
    }

    /// Whether every host id that matters is still ours, for all that is known.
    pub fn holds(&mut self) -> bool {
        let now = self.now();
        !self.is_overdue(now)
    }

    /// Whether the host id that a resource is held by is lost by time, at that moment.
    pub fn is_overdue_for(&mut self, index: usize, now: Moment) -> bool {
        let session = self.slots[index].session;
        self.is_session_overdue(session, now)
    }

    /// Whether it is still ours, for all that is known.
    pub fn holds_for(&mut self, index: usize) -> bool {
        let now = self.now();
        !self.is_overdue_for(index, now)
    }

    fn is_session_overdue(&mut self, number: usize, now: Moment) -> bool {
        let over = |hub: &Self| now >= hub.sessions[number].tenure.deadline();
        if over(self) {
            self.gather();
        }
        if over(self) && !self.sessions[number].tenure.is_lost() {
            self.read_renewals();
        }
        over(self)
    }

    /// Waits for an event that `pick` takes. While nothing is guarded any reason to end sets
    /// [`Hub::ending`] and interrupts the workers; else what is guarded is cared for meanwhile.
    /// With `give_up`, the ending also ends this wait, with `None`.
    pub fn wait_for<T>(
        &mut self,
        until: Option<Moment>,
        give_up: bool,
        mut pick: impl FnMut(&Self, Event) -> Result<T, Event>,
    ) -> Option<T> {
        loop {
            let now = self.now();
            let due = match self.care {
                Some(_) => self.tend(),
                None => {
                    self.look_for_an_ending(now);
                    // Once everything ends, the workers find out by themselves.
                    self.ending.is_none().then(|| self.deadline())
                }
            };
            if give_up && self.ending.is_some() {
                return None;
            }
            let wake = until.into_iter().chain(due).min();
            match self.next(wake) {
                Some(event) => match pick(self, event) {
                    Ok(picked) => return Some(picked),
                    Err(other) => self.pass_on(other),
                },
                None if self.is_time(until) => return None,
                None => {}
            }
        }
    }

    /// The next event, or `None` at `until` at the latest. What is guarded is cared for.
    pub(super) fn next_while_releasing(&mut self, until: Moment) -> Option<Event> {
        let due = self.tend();
        let wake = due.map_or(until, |due| due.min(until));
        self.next(Some(wake))
    }

    /// Nothing but what is guarded has anything to do with it.
    pub(super) fn pass_on_while_releasing(&mut self, event: Event) {
        if self.care.is_some() {
            self.pass_on(event);
        }
    }

    fn look_for_an_ending(&mut self, now: Moment) {
        // Somebody may have said why.
        let unheard = |hub: &Self| !hub.heard.is_empty();
        if self.ending.is_none() && !unheard(self) && self.is_overdue(now) && !unheard(self) {
            self.end(Ending::Lost("no renewal in time".into()));
        }
    }

    /// What nobody waits for is for what is guarded to hear; without that, it may be a reason to
    /// end.
    pub(super) fn pass_on(&mut self, event: Event) {
        match self.care.take() {
            Some(mut care) => {
                care.hear(self, event);
                self.care = Some(care);
            }
            None => self.note_ending(&event),
        }
    }

    /// Cares for what is guarded. When that is due again; an order comes to its end if what is
    /// guarded has to.
    pub(super) fn tend(&mut self) -> Option<Moment> {
        let mut care = self.care.take()?;
        let due = care.tend(self);
        if self.tickets.is_busy() && self.ending.is_none() {
            self.ending = care.ends_orders().or_else(|| self.lost_meanwhile());
        }
        self.care = Some(care);
        Some(due)
    }

    /// How what was guarded has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        let care = self.care.take()?;
        let ended = care.ended(self);
        self.care = Some(care);
        ended
    }

    /// A host id in whose name something is being acquired is lost.
    fn lost_meanwhile(&mut self) -> Option<Ending> {
        let now = self.now();
        let wanted = self.wanted.clone();
        let mut over = wanted
            .into_iter()
            .filter(|index| self.is_overdue_for(*index, now));
        over.next()
            .map(|_| Ending::Lost("no renewal in time".into()))
    }

    /// Whoever carries the last deadline hears what is held from now on.
    pub(super) fn carry(&mut self) {
        let carried = self.carried();
        self.around.carry(&carried);
    }

    /// When the first host id is lost unless it is renewed.
    pub fn deadline(&self) -> Moment {
        let deadlines = self.those_that_matter();
        let deadlines = deadlines.map(|session| session.tenure.deadline());
        deadlines.min().unwrap_or(NEVER)
    }

    /// When whoever carries the last deadline is to kill, as far as we know of renewals.
    pub fn last_moment(&self) -> Moment {
        let of = |session: &Session| {
            let timing = session.tenure.timing();
            session.tenure.renewed().after(timing.lapse_after())
        };
        self.those_that_matter().map(of).min().unwrap_or(NEVER)
    }

    /// That one hears of the renewals.
    pub(super) fn not_before(&mut self) {
        let at = self.last_moment();
        self.around.not_before(at);
    }

    /// What that one carries.
    pub fn carried(&self) -> Carried {
        Carried {
            last_moment: self.last_moment(),
            hosts: self.those_that_matter().map(Session::carried).collect(),
        }
    }

    fn note_ending(&mut self, event: &Event) {
        let ending = match event {
            Event::Signal(number, _) if signal::stops(*number) => return self.around.stop(),
            Event::Signal(number, _) if signal::ends_waiting(*number) => Ending::Signal(*number),
            Event::Told(_, Tell::Lost { why }) => Ending::Lost(why.clone()),
            Event::Told(_, Tell::Stop) => Ending::NotJoined,
            Event::TreeGone => Ending::Gone,
            _ => return,
        };
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.around.interrupt();
    }
}
