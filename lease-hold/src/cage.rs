//! What the command is contained in, as asked for and as far as this machine allows.

use clap::ValueEnum;
use lease_core::cgroup::{Remains, kill_cgroup};
use lease_core::contain::{Containment, create_cgroup, enter_cgroup, remove_cgroup};
use lease_core::tool::{Failure, Status};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use std::fs::File;
use std::io;

/// How the command is to be contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wish {
    /// The first of these that this machine allows
    Auto,
    /// A control group (cgroup v2) of its own
    Cgroup,
    /// A PID namespace of its own
    Pidns,
    /// Nothing but the tree of processes
    Tree,
}

/// What the command is in. A control group is removed with it.
#[derive(Debug)]
pub(crate) struct Cage {
    containment: Containment,
    /// What kills a control group: no other's that gets its name later.
    killer: Option<File>,
    removed: bool,
}

impl Cage {
    /// As asked for, and what there is to say of it to whoever wants to know.
    pub(crate) fn build(wish: Wish) -> Result<(Self, Vec<String>), Failure> {
        let mut notes = Vec::new();
        let containment = choose(wish, &mut notes)?;
        notes.push(describe(&containment));
        let mut cage = Self {
            containment,
            killer: None,
            removed: false,
        };
        if let Containment::Cgroup(path) = &cage.containment {
            let killer = File::options().write(true).open(path.join("cgroup.kill"));
            let no = |why| Failure::new(Status::System, format!("cannot open cgroup.kill: {why}"));
            cage.killer = Some(killer.map_err(no)?);
        }
        Ok((cage, notes))
    }

    /// For those who may have to kill what is in it.
    pub(crate) fn containment(&self) -> Containment {
        self.containment.clone()
    }

    /// What kills all that is in it at once, where that can be.
    pub(crate) fn killer(&self) -> Option<&File> {
        self.killer.as_ref()
    }

    /// A descriptor of the control group, if it is one, to be born in.
    pub(crate) fn open(&self) -> io::Result<Option<File>> {
        match &self.containment {
            Containment::Cgroup(path) => File::open(path).map(Some),
            _ => Ok(None),
        }
    }

    /// Puts a process in, before it starts others.
    pub(crate) fn enter(&self, pid: Pid) -> io::Result<()> {
        match &self.containment {
            Containment::Cgroup(path) => enter_cgroup(path, pid.as_raw()),
            _ => Ok(()),
        }
    }

    /// Kills all that is in it at once, where that can be.
    pub(crate) fn kill(&self) {
        if let Containment::Cgroup(path) = &self.containment {
            kill_cgroup(path);
        }
    }

    /// Removes a control group.
    pub(crate) fn remove(&mut self) {
        if let Containment::Cgroup(path) = &self.containment
            && !self.removed
        {
            self.removed = remove_cgroup(path) == Remains::Nothing;
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.remove();
    }
}

/// As asked for; the first that there can be, if that is left open.
fn choose(wish: Wish, notes: &mut Vec<String>) -> Result<Containment, Failure> {
    let auto = wish == Wish::Auto;
    let mut not = |what: &str, why: &dyn std::fmt::Display| {
        if auto {
            notes.push(format!("no {what}: {why}"));
            return Ok(());
        }
        let text = format!("cannot contain the command in a {what}: {why}");
        Err(Failure::new(Status::Refused, text))
    };
    if auto || wish == Wish::Cgroup {
        match create_cgroup() {
            Ok(path) => return Ok(Containment::Cgroup(path)),
            Err(why) => not("control group", &why)?,
        }
    }
    if auto || wish == Wish::Pidns {
        match check_namespaces() {
            Ok(()) => return Ok(Containment::PidNamespace),
            Err(why) => not("PID namespace", &why)?,
        }
    }
    Ok(Containment::Tree)
}

/// Whether this process may make PID namespaces: tried in a thread, where it changes nothing.
fn check_namespaces() -> Result<(), Errno> {
    let thread = std::thread::Builder::new();
    let tried = thread.spawn(|| unshare(CloneFlags::CLONE_NEWPID));
    let tried = tried.ok().and_then(|thread| thread.join().ok());
    tried.unwrap_or(Err(Errno::EAGAIN))
}

fn describe(containment: &Containment) -> String {
    match containment {
        Containment::Cgroup(path) => format!("contained in control group {}", path.display()),
        Containment::PidNamespace => "contained in a PID namespace".to_owned(),
        _ => {
            "contained as a tree of processes only: if lease-hold is killed, nobody can prove that \
             the command is gone"
                .to_owned()
        }
    }
}
