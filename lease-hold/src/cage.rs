//! What the command is contained in, as asked for and as far as this machine allows.

use crate::TOOL;
use clap::ValueEnum;
use lease_core::contain::{Containment, create_cgroup, enter_cgroup, kill_cgroup, remove_cgroup};
use lease_core::tool::{Failure, Status, say};
use nix::unistd::Pid;
use std::io;

/// How the command is to be contained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wish {
    /// A control group if there can be one, else the tree of processes
    Auto,
    /// A control group (cgroup v2) of its own
    Cgroup,
    /// Nothing but the tree of processes
    Tree,
}

/// What the command is in. A control group is removed with it.
#[derive(Debug)]
pub(crate) struct Cage {
    containment: Containment,
}

impl Cage {
    /// As asked for. Says, if told to, what it is.
    pub(crate) fn build(wish: Wish, verbose: bool) -> Result<Self, Failure> {
        let name = format!("lease-hold-{}", Pid::this());
        let containment = match (wish, create_or_not(wish, &name)) {
            (_, Some(Ok(path))) => Containment::Cgroup(path),
            (Wish::Cgroup, Some(Err(why))) => {
                let text = format!("cannot contain the command in a control group: {why}");
                return Err(Failure::new(Status::Refused, text));
            }
            (_, Some(Err(why))) if verbose => {
                say(TOOL, format!("no control group: {why}"));
                Containment::Tree
            }
            _ => Containment::Tree,
        };
        if verbose {
            say(TOOL, describe(&containment));
        }
        Ok(Self { containment })
    }

    /// For those who may have to kill what is in it.
    pub(crate) fn containment(&self) -> Containment {
        self.containment.clone()
    }

    /// Puts a process in, before it starts others.
    pub(crate) fn enter(&self, pid: Pid) -> io::Result<()> {
        match &self.containment {
            Containment::Cgroup(path) => enter_cgroup(path, pid.as_raw()),
            Containment::PidNamespace | Containment::Tree => Ok(()),
        }
    }

    /// Kills all that is in it at once, where that can be.
    pub(crate) fn kill(&self) {
        if let Containment::Cgroup(path) = &self.containment {
            kill_cgroup(path);
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Containment::Cgroup(path) = &self.containment {
            remove_cgroup(path);
        }
    }
}

fn create_or_not(wish: Wish, name: &str) -> Option<io::Result<std::path::PathBuf>> {
    (wish != Wish::Tree).then(|| create_cgroup(name))
}

fn describe(containment: &Containment) -> String {
    match containment {
        Containment::Cgroup(path) => format!("contained in control group {}", path.display()),
        Containment::PidNamespace => "contained in a PID namespace".to_owned(),
        Containment::Tree => {
            "contained as a tree of processes only: if lease-hold is killed, nobody can prove that \
             the command is gone"
                .to_owned()
        }
    }
}
