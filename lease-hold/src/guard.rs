//! The guarded command, from its gate to its end.
//!
//! What is to be done, and when, is decided by [`Machine`], which knows neither clock nor
//! process. The main thread does what it says.

use crate::TOOL;
use crate::acquire::HeldLease;
use crate::cage::{Cage, Wish};
use crate::child::{self, Child, Gated};
use crate::command::{self, Command};
use crate::hub::{Event, Hub};
use crate::tree;
use crate::worker::{Answer, Job};
use anyhow::Context;
use lease_core::clock::{Clock, Moment};
use lease_core::registry::message::{Ask, Tell};
use lease_core::resource::AcquireError;
use lease_core::tool::{Failure, Status, say};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::ffi::CString;
use std::time::Duration;

/// From asking the command to end to killing it, when its host leaves the lockspace.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Between two rounds of killing.
const KILL_AGAIN: Duration = Duration::from_millis(50);

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

/// What the machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Nothing,
    /// SIGTERM to all.
    Terminate,
    /// SIGKILL to all.
    Kill,
}

/// What is known of the leases at one moment.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// 8t after the last renewal that is known of.
    expires: Moment,
    /// From there to the last moment at which everything has to be dead.
    margin: Duration,
    /// The lease was taken from us: not by time, but on the disk.
    taken: bool,
    /// lease-join wants to leave.
    stop: bool,
}

/// When to end the command: never, unless a lease is lost or lease-join leaves.
///
/// Lost by time: SIGTERM at 8t after the last renewal, SIGKILL after half of what is left until
/// another host may take over. Taken on the disk: another host may have it already, SIGKILL at
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Running,
    Ending { kill_at: Moment, lost: bool },
    Killing { again_at: Moment, lost: bool },
}

impl Machine {
    fn step(&mut self, now: Moment, standing: Standing) -> Act {
        let lost = standing.taken || now >= standing.expires;
        let lost_kill = match standing.taken {
            true => now,
            false => standing.expires.after(standing.margin / 2),
        };
        match *self {
            Self::Running if lost && now >= lost_kill => self.kill(now, true),
            Self::Running if lost => {
                *self = Self::Ending {
                    kill_at: lost_kill,
                    lost,
                };
                Act::Terminate
            }
            Self::Running if standing.stop => {
                *self = Self::Ending {
                    kill_at: now.after(STOP_GRACE),
                    lost: false,
                };
                Act::Terminate
            }
            Self::Running => Act::Nothing,
            Self::Ending { kill_at, lost: was } => {
                let lost = lost || was;
                let kill_at = if lost {
                    kill_at.min(lost_kill)
                } else {
                    kill_at
                };
                if now >= kill_at {
                    return self.kill(now, lost);
                }
                *self = Self::Ending { kill_at, lost };
                Act::Nothing
            }
            Self::Killing {
                again_at,
                lost: was,
            } if now >= again_at => self.kill(now, lost || was),
            Self::Killing { .. } => Act::Nothing,
        }
    }

    fn kill(&mut self, now: Moment, lost: bool) -> Act {
        *self = Self::Killing {
            again_at: now.after(KILL_AGAIN),
            lost,
        };
        Act::Kill
    }

    /// When the next step is due, if nothing happens before.
    fn due(&self, standing: Standing) -> Moment {
        match *self {
            Self::Running => standing.expires,
            Self::Ending { kill_at, lost } if !lost => kill_at.min(standing.expires),
            Self::Ending { kill_at, .. } => kill_at,
            Self::Killing { again_at, .. } => again_at,
        }
    }

    fn lost(&self) -> bool {
        matches!(
            self,
            Self::Ending { lost: true, .. } | Self::Killing { lost: true, .. }
        )
    }
}

/// Runs the command under guard until it and all that it started are gone.
pub(crate) fn run(
    hub: &mut Hub,
    held: &[HeldLease],
    command: &Command,
    environment: &[CString],
    (wish, verbose): (Wish, bool),
) -> anyhow::Result<Ended> {
    tree::adopt_orphans().context("cannot become a child subreaper")?;
    let cage = Cage::build(wish, verbose)?;
    let gated = child::fork_gated(command, environment)?;
    cage.enter(gated.pid)
        .context("cannot put the command's process into its control group")?;
    for session in hub.sessions() {
        let containment = cage.containment();
        session.ask(Ask::Guard { containment }, Some(gated.pidfd()?));
    }
    if let Err(ended) = wait_for_go(hub, &gated) {
        drop(gated);
        return Ok(ended);
    }
    let events = hub.sender();
    let child = gated.open(events.clone());
    tree::reap(child.pid, events);
    Watch::new(hub, held, child, cage, command).run()
}

/// Waits until every lease-join knows of the child and says that its host id is as it was.
fn wait_for_go(hub: &mut Hub, _gated: &Gated) -> Result<(), Ended> {
    let mut missing = hub.sessions().len();
    while missing > 0 {
        let go = hub.wait_for(None, true, |_, event| match event {
            Event::Told(
                session,
                Tell::Go {
                    generation,
                    renewed,
                },
            ) => Ok((session, generation, renewed)),
            other => Err(other),
        });
        let Some((session, generation, renewed)) = go else {
            let text = format!("{} was not started: everything ends", hub.command);
            let status = match hub.ending {
                Some(crate::hub::Ending::Signal(number)) => {
                    return Err(Ended::Command(128 + u8::try_from(number).unwrap_or(0)));
                }
                Some(crate::hub::Ending::Lost(_)) => Status::Lost,
                _ => Status::NotJoined,
            };
            return Err(Ended::NotRun(Failure::new(status, text)));
        };
        let now = hub.clock.now();
        let session = &mut hub.sessions()[session];
        session.tenure.note_renewal(renewed);
        if session.welcome.generation != generation || !session.tenure.holds(now) {
            return Err(Ended::Lost("before the command was started".into()));
        }
        missing -= 1;
    }
    Ok(())
}

/// The main thread while the command runs.
struct Watch<'a> {
    hub: &'a mut Hub,
    held: &'a [HeldLease],
    child: Child,
    cage: Cage,
    command: &'a Command,
    machine: Machine,
    stop: bool,
    /// Why it was lost, as far as anybody said.
    why: Option<String>,
    taken: bool,
    /// Resources whose worker is looking at the disk.
    checking: Vec<bool>,
    code: Option<u8>,
    not_executed: Option<Errno>,
}

impl<'a> Watch<'a> {
    fn new(
        hub: &'a mut Hub,
        held: &'a [HeldLease],
        child: Child,
        cage: Cage,
        command: &'a Command,
    ) -> Self {
        let checking = vec![false; hub.resources()];
        Self {
            hub,
            held,
            child,
            cage,
            command,
            machine: Machine::Running,
            stop: false,
            why: None,
            taken: false,
            checking,
            code: None,
            not_executed: None,
        }
    }

    fn run(mut self) -> anyhow::Result<Ended> {
        loop {
            let now = self.hub.clock.now();
            let standing = self.standing(now);
            let was = self.machine;
            match self.machine.step(now, standing) {
                Act::Nothing => {}
                Act::Terminate => tree::signal_all(Signal::SIGTERM),
                Act::Kill => {
                    self.cage.kill();
                    tree::signal_all(Signal::SIGKILL);
                }
            }
            self.report(was);
            match self.hub.next(Some(self.machine.due(standing))) {
                Some(Event::TreeGone) => return Ok(self.ended()),
                Some(event) => self.hear(event),
                None => {}
            }
        }
    }

    fn standing(&mut self, now: Moment) -> Standing {
        let (taken, stop) = (self.taken, self.stop);
        let of = |tenure: &lease_core::delta::Tenure| {
            let timing = tenure.timing();
            let expires = tenure.renewed().after(timing.lost_after());
            let margin = timing.dead_after() - timing.lost_after();
            Standing {
                expires,
                margin,
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
            margin: Duration::ZERO,
            taken,
            stop,
        })
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Signal(number, from_terminal) => self.forward(number, from_terminal),
            Event::Told(_, Tell::Renewed { .. }) => self.check_disk(),
            Event::Told(_, Tell::Lost { why }) => {
                self.why.get_or_insert(why);
            }
            Event::Told(_, Tell::Stop) => self.stop = true,
            Event::Done(index, Answer::Checked(result)) => self.checked(index, result),
            Event::Exited(code) => self.code = Some(code),
            Event::NotExecuted(errno) => self.not_executed = Some(Errno::from_raw(errno)),
            _ => {}
        }
    }

    /// To the command; to what it left behind, once it is gone.
    fn forward(&self, number: i32, from_terminal: bool) {
        if from_terminal {
            return;
        }
        match (self.code, Signal::try_from(number)) {
            (Some(_), Ok(signal)) => tree::signal_all(signal),
            _ => self.child.signal(number),
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

    fn checked(&mut self, index: usize, result: Result<bool, AcquireError>) {
        self.checking[index] = false;
        let name = crate::report::name(self.hub, index);
        let why = match result {
            // The storage did not answer, or the host id is lost: not for this look to say.
            Ok(true) | Err(AcquireError::Disk(_) | AcquireError::Lost) => return,
            Ok(false) => format!("{name} is owned by another"),
            Err(error) => format!("{name}: {error}"),
        };
        self.taken = true;
        self.why.get_or_insert(why);
    }

    fn report(&self, was: Machine) {
        if self.machine.lost() && !matches!(was, machine if machine.lost()) {
            let why = self.why.as_deref().unwrap_or("no renewal in time");
            say(
                TOOL,
                format!("the lease is lost ({why}): ending {}", self.hub.command),
            );
        }
    }

    fn ended(self) -> Ended {
        let lost = self.machine.lost();
        match (self.not_executed, lost) {
            (_, true) => Ended::Lost(self.why.unwrap_or_else(|| "no renewal in time".into())),
            (Some(Errno::ENOENT), _) => self.not_run(Status::NoCommand, Errno::ENOENT),
            (Some(errno), _) => self.not_run(Status::CannotExecute, errno),
            (None, _) => Ended::Command(self.code.unwrap_or(Status::Internal.code())),
        }
    }

    fn not_run(&self, status: Status, errno: Errno) -> Ended {
        Ended::NotRun(command::cannot(status, &self.command.name, errno.desc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    /// t = 1, W = 10, renewed at 92: lost at 100, dead by 110.
    fn standing() -> Standing {
        Standing {
            expires: at(100),
            margin: Duration::from_secs(10),
            taken: false,
            stop: false,
        }
    }

    fn acts(steps: &[(u64, Standing)]) -> Vec<Act> {
        let mut machine = Machine::Running;
        steps
            .iter()
            .map(|(second, standing)| machine.step(at(*second), *standing))
            .collect()
    }

    #[test]
    fn what_is_done_and_when() {
        let fine = standing();
        let renewed = Standing {
            expires: at(102),
            ..fine
        };
        let taken = Standing {
            taken: true,
            ..fine
        };
        let stop = Standing { stop: true, ..fine };
        use Act::{Kill, Nothing, Terminate};
        let table: [(&str, Vec<(u64, Standing)>, Vec<Act>); 8] = [
            (
                "nothing while it is renewed",
                vec![(99, fine), (100, renewed)],
                vec![Nothing, Nothing],
            ),
            (
                "SIGTERM at 8t",
                vec![(99, fine), (100, fine)],
                vec![Nothing, Terminate],
            ),
            (
                "SIGKILL half-way to the end, again and again",
                vec![(100, fine), (104, fine), (105, fine), (106, fine)],
                vec![Terminate, Nothing, Kill, Kill],
            ),
            (
                "late on the scene: SIGKILL at once",
                vec![(106, fine)],
                vec![Kill],
            ),
            (
                "taken on the disk: SIGKILL at once",
                vec![(95, taken)],
                vec![Kill],
            ),
            (
                "a renewal after the loss saves nobody",
                vec![(100, fine), (105, renewed)],
                vec![Terminate, Kill],
            ),
            (
                "lease-join leaves: SIGTERM, ten seconds, SIGKILL",
                vec![(80, stop), (89, stop), (90, stop)],
                vec![Terminate, Nothing, Kill],
            ),
            (
                "lost while stopping: the earlier end counts",
                vec![(99, stop), (105, stop)],
                vec![Terminate, Kill],
            ),
        ];
        for (story, steps, expected) in table {
            assert_eq!(acts(&steps), expected, "{story}");
        }
    }
}
