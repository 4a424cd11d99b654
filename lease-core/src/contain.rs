//! What holds a command and all that it starts together, so that it can be killed as a whole and
//! seen to be gone.
//!
//! A control group (cgroup v2): whoever is started in it stays in it. A PID namespace: when its
//! first process ends, the kernel has ended all others. Or nothing but the tree of processes: good
//! for finding whom to kill while lease-hold lives, never a proof once it is dead.

use crate::cgroup::{
    Group, Remains, cgroup_below, cgroup_processes, is_below_cgroup2, kill_cgroup, own_cgroup,
};
use crate::process::{self, Process, ProcessId};
use crate::spec::path_text;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::signal::kill;
use nix::unistd::{AccessFlags, Pid, UnlinkatFlags, access, unlinkat};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How a command is contained. Enough to kill it and see it gone without the lease-hold that
/// started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Containment {
    /// In this directory of a cgroup2 file system.
    Cgroup(#[serde(with = "path_text")] PathBuf),
    /// In the PID namespace of the guarded process, which is its init.
    PidNamespace,
    /// Not at all: only found as descendants.
    Tree,
    /// In a control group that was there before: that of a process that was adopted.
    Group(Group),
    /// Not at all: a process that was adopted, of which itself is seen to be gone and nothing else.
    Alone,
}

impl Containment {
    /// Whether nothing runs in it before lease-hold opens the gate, as far as a peer can know: what
    /// was adopted ran before, and without a lease.
    pub fn starts_at_gate(&self) -> bool {
        match self {
            Self::Tree | Self::Group(_) | Self::Alone => true,
            Self::Cgroup(_) | Self::PidNamespace => false,
        }
    }

    /// Whether it is that of a process that was adopted.
    pub fn is_adopted(&self) -> bool {
        matches!(self, Self::Group(_) | Self::Alone)
    }
}

/// A guarded process and how it is contained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    /// The command's process; with a PID namespace, its init.
    pub process: ProcessId,
    /// What it is in.
    pub containment: Containment,
}

impl Guarded {
    /// Whether what the process is in is within reach from here: only then can all of it be killed
    /// from here, and seen to be gone.
    pub fn is_within_reach(&self) -> bool {
        match &self.containment {
            Containment::Cgroup(path) => {
                access(&path.join("cgroup.kill"), AccessFlags::W_OK).is_ok()
                    && cgroup_processes(path).contains(&self.process.pid)
            }
            Containment::Group(group) => {
                let file = group.path.join("cgroup.kill");
                group.is_there()
                    && access(&file, AccessFlags::W_OK).is_ok()
                    && cgroup_below(&group.path).contains(&self.process)
            }
            Containment::Alone => self.process.open().is_some_and(|it| it.may_be_signalled()),
            Containment::PidNamespace | Containment::Tree => true,
        }
    }

    /// Kills all of it and looks what is left. `process` is a descriptor for it, if it lives.
    pub fn kill(&self, process: Option<&Process>) -> Remains {
        if self.containment.is_adopted() {
            // While it lives: later they are the children of another.
            process.into_iter().for_each(Process::kill_family);
        }
        process.into_iter().for_each(Process::kill);
        let dead = process.is_none_or(Process::is_dead);
        match &self.containment {
            Containment::Cgroup(path) => remove_cgroup(path),
            Containment::Group(group) => match group.kill() {
                Remains::Nothing if !dead => Remains::Something,
                remains => remains,
            },
            _ if !dead => Remains::Something,
            Containment::PidNamespace | Containment::Alone => Remains::Nothing,
            Containment::Tree => Remains::NotKnown,
        }
    }
}

/// What runs of all that the lease-hold with the number `holder` guards, as it is seen from here:
/// `first` is the process that it has started first.
pub fn guarded_by(holder: i32, first: i32, containment: &Containment) -> Vec<ProcessId> {
    match containment {
        Containment::Cgroup(path) => cgroup_below(path),
        Containment::Group(group) => cgroup_below(&group.path),
        Containment::Alone => {
            let first_of_all = ProcessId::of(first).into_iter();
            first_of_all
                .chain(process::descendants(first, &[]))
                .collect()
        }
        Containment::PidNamespace => process::descendants(first, &[]),
        Containment::Tree => {
            let spared: Vec<ProcessId> = process::descendants(holder, &[])
                .into_iter()
                .filter(|id| process::name_of(*id).is_some_and(|name| name == CARRIER_NAME))
                .collect();
            process::descendants(holder, &spared)
        }
    }
}

/// What the process of a lease-hold that carries its last deadline is called.
pub const CARRIER_NAME: &str = "lease-hold-last";

/// How the control group of a lease-hold is called, before its process id and the number of the PID
/// namespace that this is an id of: a process of another namespace may have the same.
const CGROUP_PREFIX: &str = "lease-hold-";

/// Makes a control group below our own. An error says why there cannot be one.
pub fn create_cgroup() -> io::Result<PathBuf> {
    let parent = own_cgroup()?;
    let namespace = fs::metadata("/proc/self/ns/pid")?.ino();
    remove_empty_cgroups(&parent, namespace);
    let own = std::process::id();
    let path = parent.join(format!("{CGROUP_PREFIX}{own}-{namespace}"));
    fs::create_dir(&path)?;
    // Without this file the kernel is too old to kill a group at once.
    if !path.join("cgroup.kill").exists() {
        fs::remove_dir(&path)?;
        return Err(io::Error::other("this kernel has no cgroup.kill"));
    }
    Ok(path)
}

/// Removes what a lease-hold of our PID namespace has left that was killed before anybody knew of
/// its control group. The kernel removes only what is empty.
fn remove_empty_cgroups(parent: &Path, namespace: u64) {
    let own = std::process::id().cast_signed();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| owner(name, namespace)) else {
            continue;
        };
        if pid == own || kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            // It may not be empty, or another may have removed it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Whose control group has this name, if it is that of a lease-hold of this PID namespace.
fn owner(name: &str, namespace: u64) -> Option<i32> {
    let (pid, of) = name.strip_prefix(CGROUP_PREFIX)?.split_once('-')?;
    (of == namespace.to_string()).then(|| pid.parse().ok())?
}

/// Moves a process into a control group; what it starts from then on is born there.
pub fn enter_cgroup(path: &Path, pid: i32) -> io::Result<()> {
    fs::write(path.join("cgroup.procs"), pid.to_string())
}

/// Kills what is in a control group and in those below it, and removes it: the kernel removes only
/// what is empty. One that is not there has been removed, but for one that is not seen from here.
pub fn remove_cgroup(path: &Path) -> Remains {
    kill_cgroup(path);
    for below in fs::read_dir(path).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&below.path());
        }
    }
    match unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
        Ok(()) => Remains::Nothing,
        Err(Errno::ENOENT) if is_below_cgroup2(path) => Remains::Nothing,
        Err(Errno::ENOENT | Errno::ENOTDIR) => Remains::NotKnown,
        Err(_) => Remains::Something,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lease_hold_of_another_pid_namespace_has_is_not_ours_to_remove() {
        assert_eq!(owner("lease-hold-4-4026531836", 4026531836), Some(4));
        for other in [
            "lease-hold-4-4026532000",
            "lease-hold-4",
            "lease-hold-x-4026531836",
        ] {
            assert_eq!(owner(other, 4026531836), None, "{other}");
        }
    }

    #[test]
    fn a_control_group_that_is_not_seen_from_here_is_not_taken_for_gone() {
        for path in ["/proc/self/gone", "/no/such/gone", "/proc/self/stat/gone"] {
            let remains = remove_cgroup(Path::new(path));
            assert_eq!(remains, Remains::NotKnown, "{path}");
        }
    }

    #[test]
    fn a_control_group_that_is_not_seen_from_here_is_out_of_reach() {
        let process = Process::own().unwrap().id();
        let of = |containment| {
            Guarded {
                process,
                containment,
            }
            .is_within_reach()
        };
        assert!(!of(Containment::Cgroup("/no/such/group".into())));
        assert!(of(Containment::PidNamespace) && of(Containment::Tree));
    }

    #[test]
    fn a_tree_is_never_proven_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id().cast_signed()).unwrap();
        let open = process.open().unwrap();
        let guarded = Guarded {
            process,
            containment: Containment::Tree,
        };
        guarded.kill(Some(&open));
        child.wait().unwrap();
        assert_eq!(guarded.kill(Some(&open)), Remains::NotKnown);
        let namespace = Guarded {
            containment: Containment::PidNamespace,
            ..guarded
        };
        assert_eq!(namespace.kill(None), Remains::Nothing);
    }
}
