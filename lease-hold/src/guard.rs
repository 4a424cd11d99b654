//! The guarded command, from its gate to its end.
//!
//! What is to be done, and when, is decided by [`Deadline`]. The main thread does what it says.

use crate::TOOL;
use crate::acquire::HeldLease;
use crate::cage::Cage;
use crate::carrier::Carried;
use crate::child::{self, Child};
use crate::command::{self, Command};
use crate::hub::{Event, Hub};
use crate::keeper::Keeper;
use crate::session::Session;
use crate::signals;
use crate::terminal;
use crate::tree;
use crate::worker::{Answer, Job};
use anyhow::Context;
use lease_core::clock::{Clock, Moment};
use lease_core::deadline::{Act, Deadline, Standing};
use lease_core::priority::OomScore;
use lease_core::process::ProcessId;
use lease_core::registry::message::{Ask, Tell};
use lease_core::resource::AcquireError;
use lease_core::tool::{Failure, Status, say};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use std::ffi::{CString, OsStr, OsString};
use std::time::Duration;

/// How long the command of --on-loss is spared, whatever has to be killed.
const SPARED_FOR: Duration = Duration::from_secs(1);

/// Between the end of the command and a word about what it has left: most of that ends with it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Why a lease is lost, if nobody has said more.
const NO_RENEWAL: &str = "no renewal in time";

/// How it ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The command and all that it started are gone; its exit code.
    Command(u8),
    /// They are gone, and the lease was lost: why.
    Lost(String),
    /// The command was never run.
    NotRun(Failure),
}

/// How the command is to be guarded.
pub(crate) struct Orders {
    /// Who ends it if nobody else does.
    pub(crate) keeper: Option<Keeper>,
    /// What it is in.
    pub(crate) cage: Cage,
    /// The signals that it starts with blocked.
    pub(crate) signals: SigSet,
    /// How likely the out-of-memory killer is to choose it.
    pub(crate) oom_score: Option<OomScore>,
    /// What asks it to end.
    pub(crate) kill_signal: Signal,
    /// From there to SIGKILL; half of what there is, if nothing else is asked for.
    pub(crate) grace: Option<Duration>,
    /// A shell command to run when the lease is lost.
    pub(crate) on_loss: Option<OsString>,
    /// What the command leaves behind is not waited for.
    pub(crate) end_rest: bool,
}

/// Fails if the grace that is asked for does not fit what a host of ours has promised: everything
/// is dead before another host may take over, and lease-join kills at three quarters of that time.
pub(crate) fn check_grace(hub: &mut Hub, grace: Option<Duration>) -> Result<(), Failure> {
    for session in hub.sessions() {
        let most = session.tenure.timing().grace_most();
        if grace.is_some_and(|grace| grace > most) {
            let text = format!(
                "a grace of more than {} s does not fit the {} s after which this host is promised \
                 to be dead (--watchdog-timeout of lease-join)",
                most.as_secs_f32(),
                session.tenure.timing().watchdog()
            );
            return Err(Failure::new(Status::Usage, text));
        }
    }
    Ok(())
}

/// Runs the command under guard until it and all that it started are gone.
pub(crate) fn run(
    hub: &mut Hub,
    held: &[HeldLease],
    command: &Command,
    environment: &[CString],
    mut orders: Orders,
) -> anyhow::Result<Ended> {
    tree::adopt_orphans().context("cannot become a child subreaper")?;
    let carried = carried(hub);
    let run_dir = hub.run_dir.clone();
    let gated = child::fork_gated(command, environment, &orders, (&run_dir, &carried))?;
    if let Some(keeper) = &mut orders.keeper {
        keeper.carry(&carried, &gated.pidfd()?)?;
    }
    let mut asked: Vec<usize> = (0..hub.sessions().len()).collect();
    while !asked.is_empty() {
        for number in &asked {
            let containment = orders.cage.containment();
            let pidfd = gated.pidfd()?;
            hub.sessions()[*number].ask(Ask::Guard { containment }, Some(pidfd));
        }
        if let Err(ended) = wait_for_go(hub, &command.name, asked.len()) {
            hub.sessions().iter_mut().for_each(Session::withdraw_guard);
            drop(gated);
            return Ok(ended);
        }
        asked.retain(|number| !hub.sessions()[*number].start());
    }
    if let Err(ended) = look_once_more(hub, held, &command.name) {
        return Ok(ended);
    }
    if !hub.holds() {
        return Ok(Ended::NotRun(too_late(&command.name, NO_RENEWAL)));
    }
    hub.child = Some(gated.open()?);
    Watch::new(hub, held, command, environment, orders).run()
}

/// When whoever carries the last deadline is to kill, as far as we know of renewals.
fn last_moment(hub: &mut Hub) -> Moment {
    let of = |session: &Session| {
        let timing = session.tenure.timing();
        session.tenure.renewed().after(timing.lapse_after())
    };
    hub.sessions().iter().map(of).min().unwrap_or_default()
}

/// What that one carries.
fn carried(hub: &mut Hub) -> Carried {
    let last_moment = last_moment(hub);
    Carried {
        last_moment,
        hosts: hub
            .sessions()
            .iter()
            .map(|session| session.carried())
            .collect(),
    }
}

/// Waits until so many lease-joins know of the child and say that their host id is as it was.
fn wait_for_go(hub: &mut Hub, name: &OsStr, mut missing: usize) -> Result<(), Ended> {
    while missing > 0 {
        let told = hub.wait_for(None, true, |_, event| match event {
            Event::Told(session, tell @ (Tell::Go { .. } | Tell::NotGuarded { .. })) => {
                Ok((session, tell))
            }
            other => Err(other),
        });
        let (session, generation, renewed) = match told {
            Some((
                session,
                Tell::Go {
                    generation,
                    renewed,
                },
            )) => (session, generation, renewed),
            Some((_, Tell::NotGuarded { why })) => {
                let failure = command::cannot(Status::Refused, name, &why);
                return Err(Ended::NotRun(failure));
            }
            _ => return Err(not_started(hub, name)),
        };
        let now = hub.clock.now();
        let session = &mut hub.sessions()[session];
        session.tenure.note_renewal(renewed);
        if session.welcome.generation != generation || !session.tenure.holds(now) {
            return Err(Ended::NotRun(too_late(name, NO_RENEWAL)));
        }
        missing -= 1;
    }
    Ok(())
}

/// The last look before the command runs: whether others find the disks that the leases stand on.
fn look_once_more(hub: &mut Hub, held: &[HeldLease], name: &OsStr) -> Result<(), Ended> {
    held.iter()
        .for_each(|lease| hub.give(lease.index, Job::Look));
    for _ in held {
        let looked = hub.wait_for(None, true, |_, event| match event {
            Event::Done(index, Answer::Checked(result)) => Ok((index, result)),
            other => Err(other),
        });
        match looked {
            Some((index, Ok(Some(why)))) => {
                let why = format!("{} {why}", crate::report::name(hub, index));
                return Err(Ended::NotRun(too_late(name, &why)));
            }
            Some(_) => {}
            None => return Err(not_started(hub, name)),
        }
    }
    Ok(())
}

/// The lease was lost while the command stood at its gate.
fn too_late(name: &OsStr, why: &str) -> Failure {
    let why = format!("the lease was lost before it was started: {why}");
    command::cannot(Status::Lost, name, &why)
}

/// Something else came while the command stood at its gate.
fn not_started(hub: &Hub, name: &OsStr) -> Ended {
    Ended::NotRun(match &hub.ending {
        Some(crate::hub::Ending::Signal(number)) => {
            return Ended::Command(128 + u8::try_from(*number).unwrap_or(0));
        }
        Some(crate::hub::Ending::Lost(why)) => too_late(name, why),
        _ => {
            let why = "lease-join is leaving the lockspace; start it again first";
            command::cannot(Status::NotJoined, name, why)
        }
    })
}

/// The main thread while the command runs.
struct Watch<'a> {
    hub: &'a mut Hub,
    held: &'a [HeldLease],
    orders: Orders,
    command: &'a Command,
    environment: &'a [CString],
    deadline: Deadline,
    /// The command of --on-loss, and until when it is spared.
    aside: Option<(ProcessId, Moment)>,
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
}

impl<'a> Watch<'a> {
    fn new(
        hub: &'a mut Hub,
        held: &'a [HeldLease],
        command: &'a Command,
        environment: &'a [CString],
        orders: Orders,
    ) -> Self {
        let checking = vec![false; hub.resources()];
        Self {
            hub,
            held,
            orders,
            command,
            environment,
            deadline: Deadline::Running,
            aside: None,
            stop: false,
            why: None,
            taken: false,
            checking,
            code: None,
            gone: false,
            not_executed: None,
            asked_to_end: false,
            rest_at: None,
        }
    }

    fn run(mut self) -> anyhow::Result<Ended> {
        self.not_before();
        loop {
            let now = self.hub.clock.now();
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
                Act::Terminate => self.terminate(),
                Act::Kill => self.kill(now),
            }
            if self.gone {
                return Ok(self.ended());
            }
            if self.rest_at.is_some_and(|at| now >= at) {
                self.speak_of_the_rest();
            }
            let due = self
                .rest_at
                .into_iter()
                .chain([self.deadline.due(standing)]);
            let event = self.hub.next(due.min());
            event.into_iter().for_each(|event| self.hear(event));
        }
    }

    fn standing(&mut self, now: Moment) -> Standing {
        let (taken, stop, wanted) = (self.taken, self.stop, self.orders.grace);
        let of = |tenure: &lease_core::delta::Tenure| {
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
        let all = self
            .hub
            .sessions()
            .iter()
            .map(|session| of(&session.tenure));
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
        let last = last_moment(self.hub);
        match self.orders.on_loss.as_ref().filter(|_| !standing.taken) {
            Some(_) if now >= last => say(TOOL, "it is too late for the command of --on-loss"),
            Some(on_loss) => {
                let aside = child::run_aside(on_loss, self.environment, &self.orders);
                self.aside = aside.map(|id| (id, now.after(SPARED_FOR).min(last)));
            }
            None => {}
        }
        let why = self.why.as_deref().unwrap_or(NO_RENEWAL);
        say(
            TOOL,
            format!("the lease is lost ({why}): ending {}", self.hub.command),
        );
    }

    /// Asks everything to end; a stopped process is woken to hear it.
    fn terminate(&self) {
        let aside = self.aside.iter().map(|(id, _)| *id);
        let spared: Vec<ProcessId> = aside.chain(self.keeper()).collect();
        if let Some(child) = &self.hub.child {
            child.signal_all(self.orders.kill_signal as i32, &spared);
            child.signal_all(libc::SIGCONT, &spared);
        }
    }

    fn kill(&self, now: Moment) {
        self.orders.cage.kill();
        let aside = self.aside.iter().filter(|(_, until)| now < *until);
        let spared: Vec<ProcessId> = aside.map(|(id, _)| *id).chain(self.keeper()).collect();
        if let Some(child) = &self.hub.child {
            child.kill_all(&spared);
        }
    }

    fn keeper(&self) -> Option<ProcessId> {
        self.orders.keeper.as_ref().and_then(Keeper::id)
    }

    /// Whoever carries the last deadline hears of the renewals.
    fn not_before(&mut self) {
        let at = last_moment(self.hub);
        self.hub
            .child
            .iter_mut()
            .for_each(|child| child.not_before(at));
        self.orders
            .keeper
            .iter_mut()
            .for_each(|keeper| keeper.not_before(at));
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Signal(number, from_terminal) => self.forward(number, from_terminal),
            Event::Told(_, Tell::Renewed { .. }) => {
                self.not_before();
                self.check_disk();
            }
            Event::Told(_, Tell::Lost { why }) => {
                self.why.get_or_insert(why);
            }
            Event::Told(_, Tell::Stop) => self.stop = true,
            Event::Done(index, Answer::Checked(result)) => self.checked(index, result),
            Event::Exited(code) => self.code = self.exited(code),
            Event::TreeGone => self.gone = true,
            // Whoever is to end the command does not stop.
            Event::Stopped(signal) if self.deadline == Deadline::Running => {
                let child = self.hub.child.as_ref();
                terminal::follow(signal, child.and_then(Child::group));
            }
            Event::NotExecuted(errno) => self.not_executed = Some(errno),
            _ => {}
        }
    }

    /// The command itself has ended. What it has left is waited for, unless all was asked to end.
    fn exited(&mut self, code: u8) -> Option<u8> {
        let clock = &self.hub.clock;
        self.rest_at = Some(clock.now().after(REST_AFTER));
        self.stop |= self.asked_to_end || self.orders.end_rest;
        Some(code)
    }

    /// Somebody may wonder why we are still here.
    fn speak_of_the_rest(&mut self) {
        self.rest_at = None;
        let (Some(code), Some(child)) = (self.code, &self.hub.child) else {
            return;
        };
        let aside = self.aside.iter().map(|(id, _)| *id);
        let spared: Vec<ProcessId> = aside.chain(self.keeper()).collect();
        let rest = tree::describe(&child.rest(&spared));
        let verb = match self.deadline {
            Deadline::Running => "waiting for",
            Deadline::Ending { .. } | Deadline::Killing { .. } => "ending",
        };
        if let Some(rest) = rest {
            let command = &self.hub.command;
            say(TOOL, format!("{command} has ended ({code}); {verb} {rest}"));
        }
    }

    /// To the command; to what it left behind, once it is gone. What is asked to end has to: when
    /// the command itself has ended, what it left is given some seconds.
    fn forward(&mut self, number: i32, from_terminal: bool) {
        let asks_to_end = signals::ends_waiting(number);
        if asks_to_end && self.code.is_some() {
            self.stop = true;
        }
        // What has to end now is told so anyhow.
        if from_terminal || (self.stop && number == self.orders.kill_signal as i32) {
            return;
        }
        self.asked_to_end |= asks_to_end;
        let child = self.hub.child.as_mut().filter(|_| self.code.is_none());
        if !child.is_some_and(|child| child.signal(number)) {
            let spared: Vec<ProcessId> = self.keeper().into_iter().collect();
            tree::signal_all(number, &spared, None);
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
        let name = crate::report::name(self.hub, index);
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
        let lost = self.deadline.lost();
        match (self.not_executed, lost) {
            (_, true) => Ended::Lost(self.why.unwrap_or_else(|| NO_RENEWAL.into())),
            (Some(Errno::ENOENT), _) => self.not_run(Status::NoCommand, Errno::ENOENT),
            (Some(errno), _) => self.not_run(Status::CannotExecute, errno),
            (None, _) => Ended::Command(self.code.unwrap_or(Status::Internal.code())),
        }
    }

    fn not_run(&self, status: Status, errno: Errno) -> Ended {
        Ended::NotRun(command::cannot(status, &self.command.name, errno.desc()))
    }
}
