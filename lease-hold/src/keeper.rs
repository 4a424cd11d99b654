//! The third killer, where no PID namespace has its init: a process of lease-hold's own, outside of
//! what the command is in. It carries the last deadline, and at that moment kills what is guarded.
//!
//! It is forked first of all, while there is one thread, and never executes anything. Its end is
//! none of those that lease-hold waits for: that nothing else is left is still seen.

use crate::cage::Wish;
use crate::carrier::{self, Control};
use crate::fork;
use anyhow::Context;
use lease_core::clock::Moment;
use lease_core::contain::CARRIER_NAME;
use lease_core::holder::carrier::{Carried, Carrier, LastMoment};
use lease_core::priority;
use lease_core::process::{Process, ProcessId, descendants};
use lease_core::registry::wire::Wire;
use nix::unistd::{Pid, getppid, setsid, write};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const CANNOT_TALK: &str = "cannot talk to our own process";

/// What it is told before anything is guarded, each with a descriptor.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// Of the file that kills a control group.
    Group,
    /// Of the command's process.
    Guarded(Carried),
    /// Of a process that was adopted.
    Adopted(Carried),
}

/// The process, as lease-hold sees it. It ends with this.
#[derive(Debug)]
pub(crate) struct Keeper {
    pid: Pid,
    wire: Wire,
}

impl Keeper {
    /// Forks it; `None` where a namespace's init is to do this, as far as that is known yet. Call
    /// this while there is one thread.
    pub(crate) fn start(wish: Wish, run_dir: &Path) -> anyhow::Result<Option<Self>> {
        match wish {
            Wish::Pidns => Ok(None),
            _ => Self::fork(run_dir).map(Some),
        }
    }

    /// Forks it. Call this while there is one thread.
    pub(crate) fn fork(run_dir: &Path) -> anyhow::Result<Self> {
        let holder = std::process::id().cast_signed();
        let run_dir = std::path::absolute(run_dir).context("no working directory")?;
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
        ours.set_nonblocking(true).context("cannot make a socket")?;
        let work = || keep(theirs, holder, run_dir);
        let pid = fork::fork_unseen(work).context("cannot fork")?;
        Ok(Self {
            pid,
            wire: Wire::new(ours),
        })
    }

    /// Which one it is, for whoever sweeps.
    pub(crate) fn id(&self) -> Option<ProcessId> {
        ProcessId::of(self.pid.as_raw())
    }

    /// From now on something is guarded: this process and what it starts, in this control group.
    pub(crate) fn begin(
        &mut self,
        carried: &Carried,
        (process, group, adopted): (BorrowedFd<'_>, Option<BorrowedFd<'_>>, bool),
    ) -> anyhow::Result<()> {
        if let Some(group) = group {
            let told = self.wire.send_with(&Word::Group, group);
            told.context(CANNOT_TALK)?;
        }
        let word = match adopted {
            true => Word::Adopted(carried.clone()),
            false => Word::Guarded(carried.clone()),
        };
        let told = self.wire.send_with(&word, process);
        told.context(CANNOT_TALK)
    }

    /// What is held has changed.
    pub(crate) fn carry(&mut self, carried: &Carried) {
        carrier::say_carried(&mut self.wire, carried);
    }

    /// Nothing is guarded any more: it ends. It is seen to have ended when this is dropped.
    pub(crate) fn end(&self) {
        fork::kill_unseen(self.pid);
    }

    /// The leases have been renewed: it need not act before this moment.
    pub(crate) fn not_before(&mut self, at: Moment) {
        // One that is gone is not missed while two others are there.
        let _ = self.wire.send_newest(&LastMoment { at });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        fork::end_unseen(self.pid);
    }
}

/// Whom to kill.
struct Target {
    /// What is in a control group, by its `cgroup.kill`: no other's that gets its name later.
    group: Option<OwnedFd>,
    /// The command itself, whatever /proc shows.
    command: Option<OwnedFd>,
    /// Our lease-hold: what descends from it, unless a process was adopted.
    holder: i32,
    adopted: bool,
}

impl Target {
    fn kill(&self) {
        if let Some(group) = &self.group {
            // It may be gone.
            let _ = write(group, b"1");
        }
        if let Some(command) = &self.command {
            if self.adopted {
                kill_family(command);
            }
            let _ = pidfd_send_signal(command, Signal::KILL);
        }
        if self.adopted {
            return;
        }
        // Its number may be another's once we are not its child any more.
        if getppid().as_raw() == self.holder {
            let own: Vec<ProcessId> = Process::own().iter().map(Process::id).collect();
            let found = descendants(self.holder, &own).into_iter();
            let alive = found.filter_map(ProcessId::open);
            alive.for_each(|process| process.kill());
        }
    }
}

/// Kills what descends from a process that was adopted, while it lives.
fn kill_family(command: &OwnedFd) {
    let copy = command.try_clone().ok();
    if let Some(process) = copy.and_then(Process::received) {
        process.kill_family();
    }
}

/// The life of the process: whatever fails in it, it ends, and nothing is different from before.
fn keep(control: UnixStream, holder: i32, run_dir: PathBuf) {
    if fork::close_all_but(&[control.as_raw_fd()]).is_err() || stand_apart().is_err() {
        return;
    }
    priority::lock_memory();
    priority::stay_alive();
    let mut wire = Wire::new(control);
    let (group, command) = (None, None);
    let mut target = Target {
        group,
        command,
        holder,
        adopted: false,
    };
    let carried = loop {
        match wire.receive() {
            Ok(Word::Group) => target.group = wire.take_descriptor(),
            Ok(Word::Guarded(carried)) => break carried,
            Ok(Word::Adopted(carried)) => {
                target.adopted = true;
                break carried;
            }
            Err(_) => return,
        }
    };
    if wire.stream().set_nonblocking(true).is_err() {
        return;
    }
    target.command = wire.take_descriptor();
    fork::go_first();
    if let Ok(control) = Control::new(wire, &run_dir, &carried) {
        Carrier::new(control, &carried).carry_and_kill(|| target.kill());
    }
}

/// In no way of its user: in no working directory, hit by no signal that is sent to a group.
fn stand_apart() -> nix::Result<()> {
    setsid()?;
    nix::unistd::chdir("/")?;
    nix::sys::prctl::set_name(&CString::new(CARRIER_NAME).unwrap_or_default())
}
