//! A process that runs already: found by its number, held by a descriptor, and guarded from then on
//! as a command is. What it starts is contained only where it has a control group of its own.

use crate::aside::Aside;
use crate::fork::Start;
use crate::guarded::environment;
use crate::keeper::Keeper;
use crate::kept::Kept;
use crate::tree;
use lease_core::cgroup::{Group, cgroup_below};
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::holder::carrier::Carried;
use lease_core::holder::surroundings::Event;
use lease_core::id::{Name, escape};
use lease_core::process::{self, Process, ProcessId, descendants};
use lease_core::registry::place::Place;
use lease_core::tool::{Failure, Status};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal as NixSignal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid as NixPid;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use sd_notify::NotifyState;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a lease-join is called.
const LEASE_JOIN: &str = "lease-join";

/// A process that can be adopted, as far as a look can tell.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The process: its number can be another's by now, this cannot.
    pub(crate) process: Arc<Process>,
    /// What it is called.
    pub(crate) name: String,
    /// What can be killed with it, and be seen to be gone.
    pub(crate) containment: Containment,
}

impl Found {
    /// The process that has this number at this moment. Refused, in words, before anything is done:
    /// what cannot be ended from here, or must not be.
    pub(crate) fn look(pid: i32) -> Result<Self, Failure> {
        let cannot =
            |status, why: &str| Failure::new(status, format!("cannot adopt process {pid}: {why}"));
        let none = || cannot(Status::NoPath, "there is none, or it has ended");
        let raw = Pid::from_raw(pid).ok_or_else(none)?;
        let descriptor = pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| match errno {
            Errno::SRCH => none(),
            // So says the kernel of a thread.
            Errno::INVAL | Errno::NOENT => cannot(Status::NoPath, "that is a thread of another"),
            _ => cannot(Status::System, "no descriptor of it can be had"),
        })?;
        let process = Process::received(descriptor).ok_or_else(none)?;
        let id = process.id();
        let name = process::name_of(id).ok_or_else(none)?;
        if id.pid == std::process::id().cast_signed() {
            return Err(cannot(Status::Usage, "that is this lease-hold itself"));
        }
        if pid == 1 {
            return Err(cannot(
                Status::Usage,
                "all others end with it; adopt the one that does the work",
            ));
        }
        if process::is_of_kernel(id) {
            let why = "it is a thread of the kernel, which nobody can end";
            return Err(cannot(Status::Usage, why));
        }
        if name == LEASE_JOIN {
            let why = "it is a lease-join, which keeps leases and has none";
            return Err(cannot(Status::Usage, why));
        }
        if !process.may_be_signalled() {
            let why = "it is another user's, so that it could not be ended; run lease-hold as root";
            return Err(cannot(Status::Permission, why));
        }
        let containment = contained(id);
        Ok(Self {
            process: Arc::new(process),
            name: escape(name.as_bytes()),
            containment,
        })
    }

    /// What of it can be proven gone, for whoever wants to know.
    pub(crate) fn describe(&self) -> String {
        let pid = self.process.id().pid;
        match &self.containment {
            Containment::Group(group) => format!("process {pid} has {group} of its own"),
            Containment::PidNamespace => format!("process {pid} is the init of a PID namespace"),
            _ => format!(
                "process {pid} has no control group of its own: should lease-hold or lease-join \
                 have to end it, nobody can prove that what it has started is gone too"
            ),
        }
    }

    /// Fails if one of these lockspaces is kept by what would be ended with it.
    pub(crate) fn check_joins(&self, run_dir: &Path, lockspaces: &[Name]) -> Result<(), Failure> {
        let own = self.process.id();
        let family = descendants(own.pid, &[]);
        for lockspace in lockspaces {
            // What is not there is missed later.
            let Some(keeper) = lease_join_of(run_dir, lockspace) else {
                continue;
            };
            if family.iter().any(|id| id.pid == keeper) {
                let text = format!(
                    "cannot adopt process {}: lease-join of lockspace {lockspace}, process \
                     {keeper}, descends from it and would be ended with it; start lease-join as a \
                     service",
                    own.pid
                );
                return Err(Failure::new(Status::Usage, text));
            }
        }
        Ok(())
    }
}

/// The process that listens as the lease-join of a lockspace.
fn lease_join_of(run_dir: &Path, lockspace: &Name) -> Option<i32> {
    let stream = Place::open(run_dir, lockspace).ok()?.connect().ok()?;
    Some(getsockopt(&stream, PeerCredentials).ok()?.pid())
}

/// The lockspaces whose lease-join listens.
pub(crate) fn lockspaces(run_dir: &Path) -> Result<Vec<Name>, Failure> {
    let mut names = Place::all(run_dir).unwrap_or_default();
    names.retain(|name| lease_join_of(run_dir, name).is_some());
    if names.is_empty() {
        let shown = lease_core::tool::show(run_dir.as_os_str());
        let text = format!("no live lease-join in {shown}; start lease-join first");
        return Err(Failure::new(Status::NotJoined, text));
    }
    Ok(names)
}

fn contained(id: ProcessId) -> Containment {
    if process::is_init(id) {
        return Containment::PidNamespace;
    }
    Group::own(id).map_or(Containment::Alone, Containment::Group)
}

/// An adopted process, under guard.
#[derive(Debug)]
pub(crate) struct Adopted {
    found: Found,
    /// Who ends it if nobody else does.
    keeper: Option<Keeper>,
    kill_signal: NixSignal,
    pub(crate) aside: Aside,
    pub(crate) start: Start,
    /// Whoever would give it leases again has locked this file.
    kept_by: Option<PathBuf>,
    kept: Arc<Kept>,
    /// Tells of the end of the last one in its control group.
    events: Option<File>,
    is_guarded: bool,
    ended: bool,
    gone: bool,
}

impl Adopted {
    /// Not guarded yet.
    pub(crate) fn new(
        found: Found,
        keeper: Keeper,
        (kill_signal, start): (NixSignal, Start),
        aside: Aside,
    ) -> Self {
        Self {
            found,
            keeper: Some(keeper),
            kill_signal,
            aside,
            start,
            kept_by: None,
            kept: Arc::default(),
            events: None,
            is_guarded: false,
            ended: false,
            gone: false,
        }
    }

    /// The same, with a file that is locked by whoever would give it leases again.
    pub(crate) fn kept_by(self, lock: Option<PathBuf>) -> Self {
        Self {
            kept_by: lock,
            ..self
        }
    }

    fn group(&self) -> Option<&Group> {
        match &self.found.containment {
            Containment::Group(group) => Some(group),
            _ => None,
        }
    }

    /// Tells who carries the last deadline.
    pub(crate) fn stand_at_gate(
        &mut self,
        variables: &[(&'static str, String)],
        carried: &Carried,
    ) -> anyhow::Result<Containment> {
        self.kept.note(carried);
        self.aside.environment = environment(variables);
        self.events = self.group().and_then(|group| group.events().ok());
        if let Some(keeper) = &mut self.keeper {
            let killer = match &self.found.containment {
                Containment::Group(group) => Some(group.killer()?),
                _ => None,
            };
            let group = killer.as_ref().map(AsFd::as_fd);
            keeper.begin(carried, (self.found.process.as_fd(), group, true))?;
        }
        Ok(self.found.containment.clone())
    }

    /// The process.
    pub(crate) fn process(&self) -> &Process {
        &self.found.process
    }

    /// From here on it is guarded: who waits for that is told.
    pub(crate) fn open_gate(&mut self) {
        self.is_guarded = true;
        if let Some(lock) = &self.kept_by {
            self.kept
                .watch(lock.clone(), Arc::clone(&self.found.process));
        }
        // A service manager that does not listen delays nobody.
        let tell = || sd_notify::notify(&[NotifyState::Ready]);
        let _ = std::thread::Builder::new().spawn(tell);
    }

    /// It is guarded no more.
    pub(crate) fn let_go(&mut self) {
        self.is_guarded = false;
        self.keeper = None;
    }

    /// What tells of its end.
    pub(crate) fn news(&self) -> impl Iterator<Item = PollFd<'_>> {
        let process = (!self.ended).then(|| PollFd::new(self.process().as_fd(), PollFlags::POLLIN));
        let waits = self.ended && !self.gone;
        let events = self.events.as_ref().filter(|_| waits);
        let events = events.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI));
        process.into_iter().chain(events)
    }

    /// What has become of it.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if !self.ended && self.process().is_dead() {
            self.ended = true;
            if self.is_guarded {
                events.push(Event::Exited(Status::Done.code()));
            }
        }
        if self.ended && !self.gone {
            // Looked at anew each time: what is read from a file that was opened before is old.
            let left = self.group().and_then(Group::is_empty);
            self.gone = left != Some(false) && self.aside_has_ended();
            self.events = self.group().and_then(|group| group.events().ok());
            events.extend(self.gone.then_some(Event::TreeGone));
        }
        events
    }

    /// The command of --on-loss ends with the process, and not before it has done its work, as long
    /// as there is time.
    fn aside_has_ended(&self) -> bool {
        let Some(aside) = self.aside.running else {
            return true;
        };
        let ended = waitpid(NixPid::from_raw(aside.pid), Some(WaitPidFlag::WNOHANG));
        !matches!(ended, Ok(WaitStatus::StillAlive))
    }

    /// Whoever carries the last deadline need not act before this moment.
    pub(crate) fn not_before(&mut self, at: Moment) {
        self.keeper
            .iter_mut()
            .for_each(|keeper| keeper.not_before(at));
    }

    /// What is held has changed.
    pub(crate) fn carry(&mut self, carried: &Carried) {
        self.kept.note(carried);
        self.keeper
            .iter_mut()
            .for_each(|keeper| keeper.carry(carried));
    }

    /// Asks it and all that it started to end; a stopped process is woken to hear it.
    pub(crate) fn terminate(&self) {
        for number in [self.kill_signal as i32, libc::SIGCONT] {
            let Some(signal) = Signal::from_named_raw(number) else {
                continue;
            };
            self.process().signal(signal);
            self.family(true).iter().for_each(|one| {
                one.signal(signal);
            });
        }
    }

    /// Kills it and all that it started.
    pub(crate) fn kill(&self, spare_aside: bool) {
        // Before its parent is dead: later it is not found any more.
        self.family(spare_aside).iter().for_each(Process::kill);
        self.process().kill();
        let aside = self
            .aside
            .running
            .filter(|_| !spare_aside)
            .and_then(ProcessId::open);
        aside.iter().for_each(|aside| {
            aside.kill_family();
            aside.kill();
        });
        if let Some(group) = self.group() {
            group.kill();
        }
    }

    /// What descends from it or is in its control group, but for us and ours.
    fn family(&self, spare_aside: bool) -> Vec<Process> {
        let own = Process::own().map(|own| own.id());
        let keeper = self.keeper.as_ref().and_then(Keeper::id);
        let aside = self.aside.running.filter(|_| spare_aside);
        let spared: Vec<ProcessId> = own.into_iter().chain(keeper).chain(aside).collect();
        let id = self.process().id();
        let mut found = match self.process().is_dead() {
            true => Vec::new(),
            false => descendants(id.pid, &spared),
        };
        if let Some(group) = self.group() {
            found.extend(cgroup_below(&group.path));
        }
        found.retain(|other| *other != id);
        found.into_iter().filter_map(ProcessId::open).collect()
    }

    /// What is left of its control group, in words.
    pub(crate) fn rest(&self) -> Option<String> {
        let group = self.group()?;
        tree::describe(&cgroup_below(&group.path))
    }

    /// Sends it a signal. `false`: it is gone.
    pub(crate) fn signal(&self, number: i32) -> bool {
        let signal = Signal::from_named_raw(number);
        signal.is_some_and(|signal| self.process().signal(signal))
    }
}
