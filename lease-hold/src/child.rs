//! The command's process, from its gate to its end. In a PID namespace, what is executed is not the
//! command but the namespace's init.

use crate::cage::Cage;
use crate::carrier;
use crate::command::Command;
use crate::fork::{Execution, Gated, Start, fork_to_gate, pointers, told_failure};
use crate::init::{self, Report};
use crate::tree;
use anyhow::Context;
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::holder::carrier::{Carried, LastMoment};
use lease_core::holder::surroundings::Event;
use lease_core::priority::OomScore;
use lease_core::process::{ProcessId, descendants, number_of};
use lease_core::registry::wire::Wire;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Pid, getpgid, write};
use rustix::process::{Signal, pidfd_send_signal};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A child at its gate.
#[derive(Debug)]
pub(crate) struct Waiting {
    forked: Gated,
    /// Our end of the talk with an init.
    control: Option<UnixStream>,
}

/// A command on its way, or running.
#[derive(Debug)]
pub(crate) struct Child {
    /// Our child: the command, or its init.
    first: OwnedFd,
    /// The command's process, if it is a child of ours.
    pid: Option<Pid>,
    /// The command's own process; `None` until its init has said which.
    command: Option<OwnedFd>,
    /// Signals that came before that.
    pending: Vec<i32>,
    /// The talk with an init.
    control: Option<Wire>,
    /// Where a child says that it could not execute anything.
    failure: Option<OwnedFd>,
    /// Nothing is left of it.
    gone: bool,
}

/// Forks a child that waits behind its gate, in its cage. Call this from the main thread: the
/// child is killed by the kernel when the thread that forked it ends.
pub(crate) fn fork_gated(
    command: &Command,
    environment: &[CString],
    (cage, start): (&Cage, &Start),
    (run_dir, carried): (&Path, &Carried),
) -> anyhow::Result<Waiting> {
    let variables = pointers(environment);
    let signals = &start.signals;
    if cage.containment() != Containment::PidNamespace {
        let execution = Execution {
            file: &command.file,
            arguments: pointers(&command.arguments),
            variables,
            signals,
            parent: Pid::this(),
            kept: None,
        };
        let forked = fork_into(cage, &execution, start.oom_score.as_ref())?;
        return Ok(Waiting {
            forked,
            control: None,
        });
    }
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
    let arguments = init::arguments(theirs.as_raw_fd(), carried, run_dir, command)?;
    let execution = Execution {
        file: init::SELF,
        arguments: pointers(&arguments),
        variables,
        signals,
        parent: Pid::from_raw(0),
        kept: Some(theirs.as_fd()),
    };
    // The next child is the first process of a new namespace; those after it are not.
    let own = File::open("/proc/self/ns/pid").context("cannot open our own PID namespace")?;
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace")?;
    let forked = fork_to_gate(&execution, start.oom_score.as_ref(), None);
    setns(own, CloneFlags::CLONE_NEWPID).context("cannot leave the PID namespace")?;
    Ok(Waiting {
        forked: forked?,
        control: Some(ours),
    })
}

/// Born in its control group, if there is one. Moving a process in is the same, but for a pause of
/// all forks and exits on the machine; it is left to kernels that do not let us do the other.
fn fork_into(
    cage: &Cage,
    execution: &Execution<'_>,
    oom_score: Option<&OomScore>,
) -> anyhow::Result<Gated> {
    let group = cage.open().context("cannot open the control group")?;
    let born = group
        .as_ref()
        .map(|group| fork_to_gate(execution, oom_score, Some(group.as_fd())));
    match born {
        Some(Ok(gated)) => Ok(gated),
        _ => {
            let gated = fork_to_gate(execution, oom_score, None)?;
            cage.enter(gated.pid)
                .context("cannot put the command into its control group")?;
            Ok(gated)
        }
    }
}

impl Waiting {
    /// The child, for whoever else is to watch it.
    pub(crate) fn pidfd(&self) -> anyhow::Result<OwnedFd> {
        self.forked.pidfd.try_clone().context("cannot copy a pidfd")
    }

    /// Lets it execute.
    pub(crate) fn open(self) -> anyhow::Result<Child> {
        let Self { forked, control } = self;
        let Gated {
            pid,
            pidfd,
            gate,
            failure,
        } = forked;
        if let Some(control) = &control {
            let no_waiting = control.set_nonblocking(true);
            no_waiting.context("cannot talk to the namespace's init")?;
        }
        let own = control.is_none();
        let command = own.then(|| pidfd.try_clone()).transpose();
        let command = command.context("cannot copy a pidfd")?;
        // If it is gone already its end is reported as any other.
        let _ = write(gate.as_fd(), &[1]);
        Ok(Child {
            pid: own.then_some(pid),
            command,
            first: pidfd,
            pending: Vec::new(),
            control: control.map(Wire::new),
            failure: Some(failure),
            gone: false,
        })
    }
}

impl Child {
    /// What tells of it.
    pub(crate) fn news(&self) -> impl Iterator<Item = PollFd<'_>> {
        let control = self.control.as_ref().map(|wire| wire.stream().as_fd());
        let failure = self.failure.as_ref().map(AsFd::as_fd);
        let all = control.into_iter().chain(failure);
        all.map(|fd| PollFd::new(fd, PollFlags::POLLIN))
    }

    /// What has become of it. Its end comes last: all that it, or its init, had to say has been
    /// said by then.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        if self.gone {
            return Vec::new();
        }
        let ends = tree::reap(self.pid);
        self.gone = ends.iter().any(|event| matches!(event, Event::TreeGone));
        let mut events = Vec::new();
        events.extend(self.hear_failure());
        events.extend(self.hear_init());
        events.extend(ends);
        events
    }

    fn hear_failure(&mut self) -> Option<Event> {
        let told = told_failure(self.failure.as_ref()?);
        if !matches!(told, Err(Errno::EAGAIN | Errno::EINTR)) {
            self.failure = None;
        }
        told.ok()?.map(Event::NotExecuted)
    }

    fn hear_init(&mut self) -> Vec<Event> {
        let Some(wire) = &mut self.control else {
            return Vec::new();
        };
        let open = wire.drain().unwrap_or(false);
        let mut events = Vec::new();
        while let Ok(Some(report)) = wire.take_message::<Report>() {
            match report {
                Report::Started => self.command = self.command.take().or(wire.take_descriptor()),
                Report::NotExecuted { errno } => {
                    events.push(Event::NotExecuted(Errno::from_raw(errno)));
                }
                Report::Stopped { signal } => events.push(Event::Stopped(signal)),
                Report::Exited { code } => events.push(Event::Exited(code)),
            }
        }
        if !open {
            self.control = None;
        }
        if self.command.is_some() {
            for number in std::mem::take(&mut self.pending) {
                self.signal(number);
            }
        }
        events
    }

    /// The process group that the command is in.
    pub(crate) fn group(&self) -> Option<Pid> {
        getpgid(Some(self.number()?)).ok()
    }

    /// The command's number.
    fn number(&self) -> Option<Pid> {
        let number = || number_of(self.command.as_ref()?.as_fd()).map(Pid::from_raw);
        self.pid.or_else(number)
    }

    /// Sends the command a signal. `false`: it is gone.
    pub(crate) fn signal(&mut self, number: i32) -> bool {
        if self.command.is_none() {
            self.pending.push(number);
            return true;
        }
        self.tell(number)
    }

    /// Sends the command a signal, if it runs already, whatever /proc shows. `false`: it is gone.
    fn tell(&self, number: i32) -> bool {
        let (command, signal) = (&self.command, Signal::from_named_raw(number));
        let sent = command.as_ref().zip(signal);
        sent.is_none_or(|(command, signal)| pidfd_send_signal(command, signal).is_ok())
    }

    /// Sends a signal to it and, but for `spared`, to all that it started: to the command whatever
    /// /proc shows, and once.
    pub(crate) fn signal_all(&self, number: i32, spared: &[ProcessId]) {
        let told = self.tell(number).then(|| self.number()).flatten();
        tree::signal_all(number, spared, told);
    }

    /// Kills it and, but for `spared`, all that it started.
    pub(crate) fn kill_all(&self, spared: &[ProcessId]) {
        // It may be gone.
        let _ = pidfd_send_signal(&self.first, Signal::KILL);
        tree::signal_all(libc::SIGKILL, spared, None);
    }

    /// What is left of all that it started, but for `spared` and for an init.
    pub(crate) fn rest(&self, spared: &[ProcessId]) -> Vec<ProcessId> {
        let init = match self.pid {
            Some(_) => None,
            None => number_of(self.first.as_fd()),
        };
        let mut rest = descendants(Pid::this().as_raw(), spared);
        rest.retain(|id| Some(id.pid) != init);
        rest
    }

    /// The leases have been renewed: an init need not act before this moment.
    pub(crate) fn not_before(&mut self, at: Moment) {
        if let Some(control) = &mut self.control {
            // An init that is gone has taken all with it.
            let _ = control.send_newest(&LastMoment { at });
        }
    }

    /// What is held has changed: an init hears it.
    pub(crate) fn carry(&mut self, carried: &Carried) {
        if let Some(control) = &mut self.control {
            carrier::say_carried(control, carried);
        }
    }
}
