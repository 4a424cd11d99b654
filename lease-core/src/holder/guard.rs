//! The guarded command, from its gate to its end.
//!
//! What is to be done, and when, is decided by [`Deadline`]. The main thread does what it says.

use super::asking::Requests;
use super::environment;
use super::hub::{Ending, Hub};
use super::job::{Answer, HeldLease, Job};
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
use std::time::Duration;

/// How long the command of --on-loss is spared, whatever has to be killed.
const SPARED_FOR: Duration = Duration::from_secs(1);

/// Between the end of the command and a word about what it has left: most of that ends with it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Why a lease is lost, if nobody has said more.
const NO_RENEWAL: &str = "no renewal in time";

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The command and all that it started are gone; its exit code.
    Command(u8),
    /// They are gone, and the lease was lost: why.
    Lost(String),
    /// The command was never run.
    NotRun(Failure),
}

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
pub struct Orders {
    /// The signal that asks it to end when the lease is lost.
    pub kill_signal: i32,
    /// From there to SIGKILL; half of what there is, if nothing else is asked for.
    pub grace: Option<Duration>,
    /// What the command leaves behind is not waited for.
    pub end_rest: bool,
}

/// Runs the command under guard until it and all that it started are gone.
pub fn run<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
    orders: &Orders,
) -> anyhow::Result<Ended> {
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
            return Ok(ended);
        }
        asked.retain(|number| {
            let (session, around) = hub.session(*number);
            !session.start(around)
        });
    }
    if let Err(ended) = look_once_more(hub, held) {
        hub.around.give_up_gate();
        return Ok(ended);
    }
    if !hub.holds() {
        hub.around.give_up_gate();
        return Ok(Ended::NotRun(too_late(hub, NO_RENEWAL)));
    }
    hub.around.open_gate()?;
    Ok(Watch::new(hub, held, orders).run())
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

/// Why one of these leases stands where others do not look any more. `None` as well if something
/// ends all.
pub(super) fn find_replaced<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
) -> Option<String> {
    held.iter()
        .for_each(|lease| hub.give(lease.index, Job::Look));
    let mut found = None;
    for _ in held {
        let (index, result) = hub.wait_for(None, true, |_, event| match event {
            Event::Done(index, Answer::Checked(result)) => Ok((index, result)),
            other => Err(other),
        })?;
        if let Ok(Some(why)) = result {
            found.get_or_insert(format!("{} {why}", hub.name(index)));
        }
    }
    found
}

/// The lease was lost while the command stood at its gate.
fn too_late<A>(hub: &Hub<A>, why: &str) -> Failure {
    let why = format!("the lease was lost before it was started: {why}");
    cannot_run(hub, Status::Lost, &why)
}

/// Something else came while the command stood at its gate.
pub(super) fn not_started<A>(hub: &Hub<A>) -> Ended {
    Ended::NotRun(match &hub.ending {
        Some(Ending::Signal(number)) => return Ended::Command(signal::exit_code(*number)),
        Some(Ending::Lost(why)) => too_late(hub, why),
        _ => {
            let why = "lease-join is leaving the lockspace; start it again first";
            cannot_run(hub, Status::NotJoined, why)
        }
    })
}

fn cannot_run<A>(hub: &Hub<A>, status: Status, why: &str) -> Failure {
    Failure::new(status, format!("cannot run {}: {why}", hub.command))
}

/// The main thread while the command runs.
struct Watch<'a, A> {
    hub: &'a mut Hub<A>,
    held: &'a [HeldLease],
    orders: &'a Orders,
    deadline: Deadline,
    /// Until when the command of --on-loss is spared.
    spared_until: Option<Moment>,
    stop: bool,
    /// Why it was lost, as far as anybody said.
    why: Option<String>,
    taken: bool,
    /// Resources whose worker is looking at the disk.
    checking: Vec<bool>,
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
}

impl<'a, A: HolderSurroundings> Watch<'a, A> {
    fn new(hub: &'a mut Hub<A>, held: &'a [HeldLease], orders: &'a Orders) -> Self {
        let checking = vec![false; hub.resources()];
        Self {
            hub,
            held,
            orders,
            deadline: Deadline::Running,
            spared_until: None,
            stop: false,
            why: None,
            taken: false,
            checking,
            code: None,
            gone: false,
            not_executed: None,
            asked_to_end: false,
            rest_at: None,
            requests: Requests::default(),
            looked: Moment::default(),
        }
    }

    fn run(mut self) -> Ended {
        self.not_before();
        loop {
            let now = self.hub.now();
            if !self.deadline.lost() {
                self.hub.is_overdue(now);
            }
            let standing = self.standing(now);
            let was_lost = self.deadline.lost();
            let act = self.deadline.step(now, standing);
            if self.deadline.lost() && !was_lost {
                self.announce(now, standing);
            }
            match act {
                Act::Nothing => {}
                Act::Terminate => self.hub.around.terminate(),
                Act::Kill => self.kill(now),
            }
            if self.gone {
                return self.ended();
            }
            if self.rest_at.is_some_and(|at| now >= at) {
                self.speak_of_the_rest();
            }
            self.look_for_renewals(now);
            let due = self.deadline.due(standing);
            let due = self.rest_at.map_or(due, |at| at.min(due));
            let due = match self.deadline.lost() {
                true => due,
                false => due.min(self.hub.next_renewal(self.looked)),
            };
            let event = self.hub.next(Some(due));
            event.into_iter().for_each(|event| self.hear(event));
        }
    }

    fn standing(&self, now: Moment) -> Standing {
        let (taken, stop, wanted) = (self.taken, self.stop, self.orders.grace);
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
        let sessions = self.hub.sessions().iter();
        let all = sessions.map(|session| of(&session.tenure));
        let first = all.min_by_key(|s| (!s.taken, s.expires));
        first.unwrap_or(Standing {
            expires: now,
            grace: Duration::ZERO,
            taken,
            stop,
        })
    }

    /// The lease is lost: says so, and has it said. When it was taken there is no time for that.
    fn announce(&mut self, now: Moment, standing: Standing) {
        let last = self.hub.last_moment();
        let hub = &mut self.hub;
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

    fn kill(&mut self, now: Moment) {
        let spare = self.spared_until.is_some_and(|until| now < until);
        self.hub.around.kill(spare);
    }

    /// A renewal is read of when it is due.
    fn look_for_renewals(&mut self, now: Moment) {
        if self.deadline.lost() || now < self.hub.next_renewal(self.looked) {
            return;
        }
        self.looked = now;
        if self.hub.look_for_renewals() {
            self.not_before();
            self.check_disk();
        }
    }

    /// Whoever carries the last deadline hears of the renewals.
    fn not_before(&mut self) {
        let at = self.hub.last_moment();
        self.hub.around.not_before(at);
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Signal(number, from_terminal) => self.forward(number, from_terminal),
            Event::Told(_, Tell::Renewed { .. }) => {
                // From now on it is read of, where that can be.
                self.looked = self.hub.now();
                self.hub.look_for_renewals();
                self.not_before();
                self.check_disk();
            }
            Event::Told(_, Tell::Lost { why }) => {
                self.why.get_or_insert(why);
            }
            Event::Told(_, Tell::Stop) => self.stop = true,
            Event::Told(session, Tell::Asked { by }) => {
                self.requests.called(self.hub, self.held, (session, by));
            }
            Event::Done(index, Answer::RequestSeen(result)) => {
                match self.requests.seen(self.hub, index, &result) {
                    Some(Force::Kill) => self.end_by_force(),
                    Some(Force::Stop) => self.stop_as_it_wishes(),
                    None => {}
                }
            }
            Event::Done(index, Answer::Checked(result)) => self.checked(index, result),
            Event::Exited(code) => self.code = self.exited(code),
            Event::TreeGone => self.gone = true,
            // Whoever is to end the command does not stop.
            Event::Stopped(signal) if self.deadline == Deadline::Running => {
                self.hub.around.follow_stop(signal);
            }
            Event::NotExecuted(errno) => self.not_executed = Some(errno),
            _ => {}
        }
    }

    /// Somebody wants the lease, whatever the command is at. What is not dead by this is killed
    /// again some seconds later.
    fn end_by_force(&mut self) {
        self.stop = true;
        self.hub.around.kill(false);
    }

    /// Somebody wants the lease: the command may take as long as it likes.
    fn stop_as_it_wishes(&mut self) {
        if self.deadline == Deadline::Running && !self.hub.around.run_on_request() {
            self.forward(self.orders.kill_signal, false);
        }
    }

    /// The command itself has ended. What it has left is waited for, unless all was asked to end.
    fn exited(&mut self, code: u8) -> Option<u8> {
        self.rest_at = Some(self.hub.now().after(REST_AFTER));
        self.stop |= self.asked_to_end || self.orders.end_rest;
        Some(code)
    }

    /// Somebody may wonder why we are still here.
    fn speak_of_the_rest(&mut self) {
        self.rest_at = None;
        let verb = match self.deadline {
            Deadline::Running => "waiting for",
            Deadline::Ending { .. } | Deadline::Killing { .. } => "ending",
        };
        if let (Some(code), Some(rest)) = (self.code, self.hub.around.rest()) {
            let command = &self.hub.command;
            let text = format!("{command} has ended ({code}); {verb} {rest}");
            self.hub.around.machine().say(&text);
        }
    }

    /// To the command; to what it left behind, once it is gone. What is asked to end has to: when
    /// the command itself has ended, what it left is given some seconds.
    fn forward(&mut self, number: i32, from_terminal: bool) {
        let asks_to_end = signal::ends_waiting(number);
        if asks_to_end && self.code.is_some() {
            self.stop = true;
        }
        // What has to end now is told so anyhow.
        if from_terminal || (self.stop && number == self.orders.kill_signal) {
            return;
        }
        self.asked_to_end |= asks_to_end;
        let around = &mut self.hub.around;
        if self.code.is_some() || !around.signal(number) {
            around.signal_rest(number);
        }
    }

    /// At each renewal, every lease is looked at on the disk.
    fn check_disk(&mut self) {
        for lease in self.held {
            if !self.checking[lease.index] {
                self.checking[lease.index] = true;
                self.hub.give(lease.index, Job::Check(lease.held.clone()));
            }
        }
    }

    fn checked(&mut self, index: usize, result: Result<Option<String>, AcquireError>) {
        self.checking[index] = false;
        let name = self.hub.name(index);
        let why = match result {
            // The storage did not answer, or the host id is lost: not for this look to say.
            Ok(None) | Err(AcquireError::Disk(_) | AcquireError::Lost) => return,
            Ok(Some(why)) => format!("{name} {why}"),
            Err(error) => format!("{name}: {error}"),
        };
        self.taken = true;
        self.why.get_or_insert(why);
    }

    fn ended(self) -> Ended {
        let not_run = |status, errno: Errno| cannot_run(self.hub, status, errno.desc());
        match (self.not_executed, self.deadline.lost()) {
            (_, true) => Ended::Lost(self.why.unwrap_or_else(|| NO_RENEWAL.into())),
            (Some(errno @ Errno::ENOENT), _) => Ended::NotRun(not_run(Status::NoCommand, errno)),
            (Some(errno), _) => Ended::NotRun(not_run(Status::CannotExecute, errno)),
            (None, _) => Ended::Command(self.code.unwrap_or(Status::Internal.code())),
        }
    }
}
