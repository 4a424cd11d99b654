//! Control groups (cgroup v2) as directories: who is in one, how all in it are killed, and seen to
//! be gone.
//!
//! One that we have not made is the [`Group`] of a process that was adopted: whether it is that
//! process's own, so that all in it can be killed with it. Somebody else will remove it: it is
//! named by its path and its inode, since the service manager may make another of that name at any
//! moment.

use crate::process::{self, ProcessId};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a round of killing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// All of it is proven gone.
    Nothing,
    /// Something lives; kill again.
    Something,
    /// The process is dead; whether anything that it started lives cannot be known.
    NotKnown,
}

/// Kills what is in a control group.
pub fn kill_cgroup(path: &Path) {
    // It may be gone, or empty: whether it is, is found out by removing it.
    let _ = fs::write(path.join("cgroup.kill"), "1");
}

/// The processes in a control group.
pub fn cgroup_processes(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The processes in a control group and in those below it.
pub fn cgroup_below(path: &Path) -> Vec<ProcessId> {
    let own = cgroup_processes(path).into_iter().filter_map(ProcessId::of);
    let mut all: Vec<ProcessId> = own.collect();
    for below in fs::read_dir(path).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(cgroup_below(&below.path()));
        }
    }
    all
}

/// Whether the directories above it, as far as they are there, are of a cgroup2 file system.
pub(crate) fn is_below_cgroup2(path: &Path) -> bool {
    let mut above = path.ancestors().skip(1).map(statfs);
    let first = above.find(|found| !matches!(found, Err(Errno::ENOENT)));
    matches!(first, Some(Ok(found)) if found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The directory of the control group that this process is in.
pub(crate) fn own_cgroup() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    find_own(&mounts, &groups).ok_or_else(|| io::Error::other("no cgroup2 file system is mounted"))
}

/// The directory of the control group that a process is in, if it is seen from here.
pub fn cgroup_of(pid: i32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    find_own(&mounts, &groups)
}

/// From `/proc/self/mountinfo` and `/proc/self/cgroup`: the mount whose root our group lies below.
fn find_own(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().rev().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        let mut words = mount.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        Some(Path::new(point).join(own.strip_prefix(root).ok()?))
    })
}

/// A control group that somebody else has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Where it is.
    #[serde(with = "crate::spec::path_text")]
    pub path: PathBuf,
    /// Its inode: no other group of this boot has it.
    pub inode: u64,
}

impl Group {
    /// That of a process, if it is its own: it can be killed at once, and nobody is in it but that
    /// process and what descends from it; and not we.
    pub fn own(process: ProcessId) -> Option<Self> {
        let path = cgroup_of(process.pid)?;
        let inode = fs::metadata(&path).ok()?.ino();
        // The root has no such file, and all that nobody has put anywhere is in it.
        File::options()
            .write(true)
            .open(path.join("cgroup.kill"))
            .ok()?;
        let family = process::descendants(process.pid, &[]);
        let members = cgroup_below(&path);
        let we = std::process::id().cast_signed();
        let ours = |id: &ProcessId| id.pid != we && (*id == process || family.contains(id));
        let own = members.contains(&process) && members.iter().all(ours);
        (own && cgroup_of(process.pid)? == path).then_some(Self { path, inode })
    }

    /// Whether it is still the one that it was.
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }

    /// Kills all that is in it, and says what is left. One that is not there any more has been
    /// removed, and the kernel removes only what is empty.
    pub fn kill(&self) -> Remains {
        if !self.is_there() {
            return self.gone();
        }
        kill_cgroup(&self.path);
        match self.is_empty() {
            Some(true) => Remains::Nothing,
            Some(false) => Remains::Something,
            None => self.gone(),
        }
    }

    /// Whether nobody is in it, nor in one below it; `None`: it cannot be seen.
    pub fn is_empty(&self) -> Option<bool> {
        let mut text = String::new();
        let mut events = self.events().ok()?;
        events.read_to_string(&mut text).ok()?;
        is_empty(&text)
    }

    /// Its file that kills all that is in it, once it is written to.
    pub fn killer(&self) -> io::Result<File> {
        File::options()
            .write(true)
            .open(self.path.join("cgroup.kill"))
    }

    /// Its file that tells of the end of the last one in it.
    pub fn events(&self) -> io::Result<File> {
        File::open(self.path.join("cgroup.events"))
    }

    fn gone(&self) -> Remains {
        match is_below_cgroup2(&self.path) {
            true => Remains::Nothing,
            false => Remains::NotKnown,
        }
    }
}

fn is_empty(events: &str) -> Option<bool> {
    let populated = events
        .lines()
        .find_map(|line| line.strip_prefix("populated "))?;
    Some(populated.trim() == "0")
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path: &Path = &self.path;
        write!(f, "control group {}", path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
20 1 0:5 / /proc rw - proc proc rw
30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
31 1 0:26 /user.slice /other rw - cgroup2 cgroup2 rw
";

    #[test]
    fn our_group_is_found_below_a_mount_that_shows_it() {
        let find = |groups| find_own(MOUNTS, groups);
        assert_eq!(find("0::/user.slice/a\n"), Some("/other/a".into()));
        assert_eq!(
            find("1:cpu:/x\n0::/system.slice\n"),
            Some("/sys/fs/cgroup/system.slice".into())
        );
        assert_eq!(find("1:cpu:/x\n"), None);
        assert_eq!(
            find_own("20 1 0:5 / /proc rw - proc proc rw\n", "0::/\n"),
            None
        );
    }

    #[test]
    fn a_group_is_empty_when_the_kernel_says_so() {
        assert_eq!(is_empty("populated 0\nfrozen 0\n"), Some(true));
        assert_eq!(is_empty("populated 1\nfrozen 0\n"), Some(false));
        assert_eq!(is_empty("frozen 0\n"), None);
    }

    #[test]
    fn a_group_that_is_not_seen_from_here_is_not_taken_for_gone() {
        let group = Group {
            path: "/no/such/group".into(),
            inode: 1,
        };
        assert_eq!((group.kill(), group.is_there()), (Remains::NotKnown, false));
    }
}
