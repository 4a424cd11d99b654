//! The guarded command, from its gate to its end.
//!
//! What is to be done, and when, is decided by [`Deadline`]. The main thread does what it says.

use super::asking::Requests;
use super::ended::Ended;
use super::environment;
use super::hub::{Care, Ending, Hub, NEVER, Stage};
use super::job::{Answer, HeldLease, Job};
use super::last_look::find_replaced;
use super::not_run::{NO_RENEWAL, cannot_run, not_started, too_late};
use super::order;
use super::signal;
use super::surroundings::{Event, HolderSurroundings};
use crate::clock::Moment;
use crate::deadline::{Act, Deadline, Standing};
use crate::delta::Tenure;
use crate::failure::{Failure, Status};
use crate::record::request::Force;
use crate::registry::message::{Ask, Tell};
use crate::resource::AcquireError;
use crate::surroundings::Surroundings;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long the command of --on-loss is spared, whatever has to be killed.
const SPARED_FOR: Duration = Duration::from_secs(1);

/// Between the end of the command and a word about what it has left: most of that ends with it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Fails if the grace that is asked for does not fit what a host of ours has promised: everything
/// is dead before another host may take over, and lease-join kills at three quarters of that time.
pub fn check_grace<A: HolderSurroundings>(
    hub: &Hub<A>,
    grace: Option<Duration>,
) -> Result<(), Failure> {
    for session in hub.sessions() {
        let most = session.tenure.timing().grace_most();
        if grace.is_some_and(|grace| grace > most) {
            let text = format!(
                "a grace of more than {} s does not fit the {} s after which this host is promised \
                 to be dead (--watchdog-timeout of lease-join); give a shorter --grace",
                most.as_secs_f32(),
                session.tenure.timing().watchdog()
            );
            return Err(Failure::new(Status::Usage, text));
        }
    }
    Ok(())
}

/// How a command is to be guarded.
#[derive(Debug, Clone)]
pub struct Manner {
    /// The signal that asks it to end when the lease is lost.
    pub kill_signal: i32,
    /// From there to SIGKILL; half of what there is, if nothing else is asked for.
    pub grace: Option<Duration>,
    /// What the command leaves behind is not waited for.
    pub end_rest: bool,
    /// It ran before: who asks us to end has it let go, and no signal is handed on.
    pub adopted: bool,
}

/// Runs the command under guard until it and all that it started are gone, or what was adopted is
/// let go. Returns what is held by then.
pub fn run<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: Vec<HeldLease>,
    manner: &Manner,
) -> anyhow::Result<(Vec<HeldLease>, Ended)> {
    if let Err(ended) = open_gate(hub, &held)? {
        return Ok((held, ended));
    }
    hub.stage = Stage::Guarding;
    hub.wanted.clear();
    hub.not_before();
    hub.held = held;
    hub.care = Some(Box::new(Guard::new(manner)));
    let ended = loop {
        let due = hub.tend();
        if let Some(ended) = hub.ended() {
            break ended;
        }
        match hub.tickets.begin() {
            Some(ticket) => order::carry_out(hub, &ticket),
            None => {
                let event = hub.next(due);
                event.into_iter().for_each(|event| hub.pass_on(event));
            }
        }
    };
    (hub.stage, hub.care) = (Stage::Releasing, None);
    Ok((std::mem::take(&mut hub.held), ended))
}

/// From here on it runs, if the outer and the inner result are fine.
fn open_gate<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
) -> anyhow::Result<Result<(), Ended>> {
    let (variables, carried) = (environment::variables(hub, held), hub.carried());
    let containment = hub.around.stand_at_gate(variables, &carried)?;
    let mut asked: Vec<usize> = (0..hub.sessions().len()).collect();
    while !asked.is_empty() {
        for number in &asked {
            let (session, around) = hub.session(*number);
            let containment = containment.clone();
            session.ask(around, Ask::Guard { containment });
        }
        if let Err(ended) = wait_for_go(hub, asked.len()) {
            hub.withdraw_guard();
            hub.around.give_up_gate();
            return Ok(Err(ended));
        }
        asked.retain(|number| {
            let (session, around) = hub.session(*number);
            !session.start(around)
        });
    }
    if let Err(ended) = look_once_more(hub, held) {
        hub.around.give_up_gate();
        return Ok(Err(ended));
    }
    if !hub.holds() {
        hub.around.give_up_gate();
        return Ok(Err(Ended::NotRun(too_late(hub, NO_RENEWAL))));
    }
    hub.around.open_gate()?;
    Ok(Ok(()))
}

/// Waits until so many lease-joins know of the child and say that their host id is as it was.
fn wait_for_go<A: HolderSurroundings>(hub: &mut Hub<A>, mut missing: usize) -> Result<(), Ended> {
    while missing > 0 {
        let told = hub.wait_for(None, true, |_, event| match event {
            Event::Told(session, tell @ (Tell::Go { .. } | Tell::NotGuarded { .. })) => {
                Ok((session, tell))
            }
            other => Err(other),
        });
        let (number, generation, renewed) = match told {
            Some((
                session,
                Tell::Go {
                    generation,
                    renewed,
                },
            )) => (session, generation, renewed),
            Some((_, Tell::NotGuarded { why })) => {
                let failure = cannot_run(hub, Status::Refused, &why);
                return Err(Ended::NotRun(failure));
            }
            _ => return Err(not_started(hub)),
        };
        let now = hub.now();
        let session = &hub.sessions()[number];
        session.tenure.note_renewal(renewed);
        if session.welcome.generation != generation || !session.tenure.holds(now) {
            return Err(Ended::NotRun(too_late(hub, NO_RENEWAL)));
        }
        missing -= 1;
    }
    Ok(())
}

/// The last look before the command runs: whether others find the disks that the leases stand on.
fn look_once_more<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
) -> Result<(), Ended> {
    match find_replaced(hub, held) {
        Some(why) => Err(Ended::NotRun(too_late(hub, &why))),
        None if hub.ending.is_some() => Err(not_started(hub)),
        None => Ok(()),
    }
}

/// What is guarded, and how it stands.
#[derive(Debug)]
struct Guard {
    manner: Manner,
    deadline: Deadline,
    /// Until when the command of --on-loss is spared.
    spared_until: Option<Moment>,
    stop: bool,
    /// Why it was lost, as far as anybody said.
    why: Option<String>,
    taken: bool,
    /// Resources whose worker is looking at the disk.
    checking: BTreeSet<usize>,
    code: Option<u8>,
    /// Nothing is left of the command and of all that it started.
    gone: bool,
    not_executed: Option<Errno>,
    /// A signal that asks it to end was handed on.
    asked_to_end: bool,
    /// When what it has left is spoken of, unless that ends before.
    rest_at: Option<Moment>,
    /// What others ask of us.
    requests: Requests,
    /// When it was read of renewals.
    looked: Moment,
    /// What was adopted is to be guarded no more.
    let_go: bool,
    /// lease-joins that want to be left, or have lost their host id.
    parting: BTreeSet<usize>,
}

impl Guard {
    fn new(manner: &Manner) -> Self {
        Self {
            manner: manner.clone(),
            deadline: Deadline::Running,
            spared_until: None,
            stop: false,
            why: None,
            taken: false,
            checking: BTreeSet::new(),
            code: None,
            gone: false,
            not_executed: None,
            asked_to_end: false,
            rest_at: None,
            requests: Requests::default(),
            looked: Moment::default(),
            let_go: false,
            parting: BTreeSet::new(),
        }
    }

    /// Whether there is nothing more to guard. What has to end is not let go.
    fn is_over(&self) -> bool {
        self.gone || (self.let_go && self.deadline == Deadline::Running)
    }

    /// Leaves those lease-joins that do not want us any more where nothing is held.
    fn part<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>) {
        self.parting.retain(|number| {
            let (session, around) = hub.session(*number);
            let leave = !session.has_any();
            if leave {
                session.leave(around);
            }
            !leave
        });
    }

    fn standing<A: HolderSurroundings>(&self, hub: &Hub<A>, now: Moment) -> Standing {
        let (taken, stop, wanted) = (self.taken, self.stop, self.manner.grace);
        let of = |tenure: &Tenure| {
            let timing = tenure.timing();
            let expires = tenure.renewed().after(timing.lost_after());
            let grace = wanted.unwrap_or(timing.grace());
            Standing {
                expires,
                grace,
                taken: taken || (tenure.is_lost() && now < expires),
                stop,
            }
        };
        let sessions = hub.those_that_matter();
        let all = sessions.map(|session| of(&session.tenure));
        let first = all.min_by_key(|s| (!s.taken, s.expires));
        first.unwrap_or(Standing {
            expires: NEVER,
            grace: Duration::ZERO,
            taken,
            stop,
        })
    }

    /// The lease is lost: says so, and has it said. When it was taken there is no time for that.
    fn announce<A: HolderSurroundings>(
        &mut self,
        hub: &mut Hub<A>,
        now: Moment,
        standing: Standing,
    ) {
        let last = hub.last_moment();
        if !standing.taken && hub.around.has_aside() {
            if now >= last {
                let text = "it is too late for the command of --on-loss";
                hub.around.machine().say(text);
            } else if hub.around.run_aside() {
                self.spared_until = Some(now.after(SPARED_FOR).min(last));
            }
        }
        let why = self.why.as_deref().unwrap_or(NO_RENEWAL);
        let text = format!("the lease is lost ({why}): ending {}", hub.command);
        hub.around.machine().say(&text);
    }

    fn kill<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>, now: Moment) {
        let spare = self.spared_until.is_some_and(|until| now < until);
        hub.around.kill(spare);
    }

    /// A renewal is read of when it is due.
    fn look_for_renewals<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>, now: Moment) {
        if self.deadline.lost() || now < hub.next_renewal(self.looked) {
            return;
        }
        self.looked = now;
        if hub.look_for_renewals() {
            hub.not_before();
            self.check_disk(hub);
        }
    }

    fn hear_lease_join<A: HolderSurroundings>(
        &mut self,
        hub: &mut Hub<A>,
        session: usize,
        tell: Tell,
    ) {
        match tell {
            Tell::Renewed { .. } => {
                // From now on it is read of, where that can be.
                self.looked = hub.now();
                hub.look_for_renewals();
                hub.not_before();
                self.check_disk(hub);
            }
            Tell::Lost { why } => {
                if hub.sessions()[session].is_needed() {
                    self.why.get_or_insert(why);
                }
                self.parting.insert(session);
            }
            Tell::Stop => {
                self.stop |= hub.sessions()[session].is_needed();
                self.parting.insert(session);
                if hub.sessions()[session].has_any() && !self.stop {
                    hub.ending.get_or_insert(Ending::NotJoined);
                }
            }
            Tell::Asked { by } => self.requests.called(hub, (session, by)),
            Tell::Order { id, order } => order::hear(hub, (session, id), order),
            Tell::Withdrawn { id } if hub.tickets.withdraw(id) => {
                hub.ending.get_or_insert(Ending::Withdrawn);
            }
            _ => {}
        }
    }

    /// Somebody wants the lease, whatever the command is at. What is not dead by this is killed
    /// again some seconds later.
    fn end_by_force<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>) {
        self.stop = true;
        hub.around.kill(false);
    }

    /// Somebody wants the lease: the command may take as long as it likes.
    fn stop_as_it_wishes<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>) {
        if self.deadline != Deadline::Running || hub.around.run_on_request() {
            return;
        }
        let signal = self.manner.kill_signal;
        match self.manner.adopted {
            true => drop(hub.around.signal(signal)),
            false => self.forward(hub, signal, false),
        }
    }

    /// The command itself has ended. What it has left is waited for, unless all was asked to end.
    fn exited<A: HolderSurroundings>(&mut self, hub: &Hub<A>, code: u8) -> Option<u8> {
        self.rest_at = Some(hub.now().after(REST_AFTER));
        self.stop |= self.asked_to_end || self.manner.end_rest;
        Some(code)
    }

    /// Somebody may wonder why we are still here.
    fn speak_of_the_rest<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>) {
        self.rest_at = None;
        let verb = match self.deadline {
            Deadline::Running => "waiting for",
            Deadline::Ending { .. } | Deadline::Killing { .. } => "ending",
        };
        if let (Some(code), Some(rest)) = (self.code, hub.around.rest()) {
            let command = &hub.command;
            let text = format!("{command} has ended ({code}); {verb} {rest}");
            hub.around.machine().say(&text);
        }
    }

    /// To the command; to what it left behind, once it is gone. What is asked to end has to: when
    /// the command itself has ended, what it left is given some seconds.
    fn forward<A: HolderSurroundings>(
        &mut self,
        hub: &mut Hub<A>,
        number: i32,
        from_terminal: bool,
    ) {
        let asks_to_end = signal::ends_waiting(number);
        if self.manner.adopted {
            self.let_go |= asks_to_end;
            if signal::stops(number) {
                hub.around.stop();
            }
            return;
        }
        if asks_to_end && self.code.is_some() {
            self.stop = true;
        }
        // What has to end now is told so anyhow.
        if from_terminal || (self.stop && number == self.manner.kill_signal) {
            return;
        }
        self.asked_to_end |= asks_to_end;
        let around = &mut hub.around;
        if self.code.is_some() || !around.signal(number) {
            around.signal_rest(number);
        }
    }

    /// At each renewal, every lease is looked at on the disk.
    fn check_disk<A: HolderSurroundings>(&mut self, hub: &mut Hub<A>) {
        let held = hub.held.iter();
        let held = held.map(|lease| (lease.index, lease.held.clone()));
        for (index, held) in held.collect::<Vec<_>>() {
            if self.checking.insert(index) {
                hub.give(index, Job::Check(held));
            }
        }
    }

    fn checked<A: HolderSurroundings>(
        &mut self,
        hub: &Hub<A>,
        index: usize,
        result: Result<Option<String>, AcquireError>,
    ) {
        self.checking.remove(&index);
        // What is being given back is not missed.
        if !hub.held.iter().any(|lease| lease.index == index) {
            return;
        }
        let name = hub.name(index);
        let why = match result {
            // The storage did not answer, or the host id is lost: not for this look to say.
            Ok(None) | Err(AcquireError::Disk(_) | AcquireError::Lost) => return,
            Ok(Some(why)) => format!("{name} {why}"),
            Err(error) => format!("{name}: {error}"),
        };
        self.taken = true;
        self.why.get_or_insert(why);
    }
}

impl<A: HolderSurroundings> Care<A> for Guard {
    fn tend(&mut self, hub: &mut Hub<A>) -> Moment {
        let now = hub.now();
        if !self.deadline.lost() {
            hub.is_overdue(now);
        }
        self.part(hub);
        let standing = self.standing(hub, now);
        let was_lost = self.deadline.lost();
        let act = self.deadline.step(now, standing);
        if self.deadline.lost() && !was_lost {
            self.announce(hub, now, standing);
        }
        match act {
            Act::Nothing => {}
            Act::Terminate => hub.around.terminate(),
            Act::Kill => self.kill(hub, now),
        }
        if self.rest_at.is_some_and(|at| now >= at) && !self.gone {
            self.speak_of_the_rest(hub);
        }
        self.look_for_renewals(hub, now);
        let due = self.deadline.due(standing);
        let due = self.rest_at.map_or(due, |at| at.min(due));
        match self.deadline.lost() {
            true => due,
            false => due.min(hub.next_renewal(self.looked)),
        }
    }

    fn hear(&mut self, hub: &mut Hub<A>, event: Event) {
        match event {
            Event::Signal(number, from_terminal) => self.forward(hub, number, from_terminal),
            Event::Told(session, tell) => self.hear_lease_join(hub, session, tell),
            Event::Done(index, Answer::Checked(result)) => self.checked(hub, index, result),
            Event::Done(index, Answer::RequestSeen(result)) => {
                match self.requests.seen(hub, index, &result) {
                    Some(Force::Kill) => self.end_by_force(hub),
                    Some(Force::Stop) => self.stop_as_it_wishes(hub),
                    None => {}
                }
            }
            Event::Exited(code) => self.code = self.exited(hub, code),
            Event::TreeGone => self.gone = true,
            // Whoever is to end the command does not stop.
            Event::Stopped(signal) if self.deadline == Deadline::Running => {
                hub.around.follow_stop(signal);
            }
            Event::NotExecuted(errno) => self.not_executed = Some(errno),
            _ => {}
        }
    }

    fn ends_orders(&self) -> Option<Ending> {
        let lost = || self.why.clone().unwrap_or_else(|| NO_RENEWAL.into());
        match self.deadline {
            _ if self.is_over() => Some(Ending::Gone),
            Deadline::Running => None,
            _ if self.deadline.lost() => Some(Ending::Lost(lost())),
            _ => Some(Ending::NotJoined),
        }
    }

    fn ended(&self, hub: &mut Hub<A>) -> Option<Ended> {
        if !self.is_over() {
            return None;
        }
        if !self.gone {
            hub.around.let_go();
            return Some(Ended::LetGo);
        }
        let not_run = |status, errno: Errno| cannot_run(hub, status, errno.desc());
        Some(match (self.not_executed, self.deadline.lost()) {
            (_, true) => {
                let why = self.why.clone();
                Ended::Lost(why.unwrap_or_else(|| NO_RENEWAL.into()))
            }
            (Some(errno @ Errno::ENOENT), _) => Ended::NotRun(not_run(Status::NoCommand, errno)),
            (Some(errno), _) => Ended::NotRun(not_run(Status::CannotExecute, errno)),
            (None, _) => Ended::Command(self.code.unwrap_or(Status::Internal.code())),
        })
    }
}
