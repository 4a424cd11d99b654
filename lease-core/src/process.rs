//! Processes that are somebody else's children: named so that a number used again is not taken for
//! them, signalled, seen dead.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// One process of this boot: its number, and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// Clock ticks from boot to its start: two processes of one number differ here.
    pub started: u64,
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its parent.
    pub parent: i32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` if there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let Stat { started, .. } = stat(pid)?;
        Some(Self { pid, started })
    }

    /// A descriptor for it; `None` if it is gone.
    pub fn open(self) -> Option<Process> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The descriptor is of whoever had the number at that moment: look again.
        (Self::of(self.pid)? == self).then_some(Process { id: self, fd })
    }
}

/// A process, by a descriptor: signals reach it or nobody.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    fd: OwnedFd,
}

impl Process {
    /// Our own process.
    pub fn own() -> Option<Self> {
        ProcessId::of(std::process::id().cast_signed())?.open()
    }

    /// The process behind a descriptor that another process sent; `None` if it is no pidfd, or of
    /// a process that is gone.
    pub fn received(fd: OwnedFd) -> Option<Self> {
        let pid = number_of(fd.as_fd())?;
        let id = ProcessId::of(pid)?;
        let process = Self { id, fd };
        (!process.is_dead()).then_some(process)
    }

    /// A descriptor of it, to give away.
    pub fn try_clone(&self) -> std::io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Which one it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Kills it. Nothing happens if it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends it a signal. `false`: it is gone.
    pub fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.fd, signal).is_ok()
    }

    /// Kills what descends from it, but for us. Proves nothing: whoever is forked meanwhile, or
    /// whose parent is dead, may be missed.
    pub fn kill_family(&self) {
        let own: Vec<ProcessId> = Self::own().iter().map(Self::id).collect();
        let found = descendants(self.id.pid, &own).into_iter();
        // It may have ended, and its number may be another's by now.
        let found: Vec<Self> = found.filter_map(ProcessId::open).collect();
        if !self.is_dead() {
            found.iter().for_each(Self::kill);
        }
    }

    /// Whether we may send it signals, if it lives.
    pub fn may_be_signalled(&self) -> bool {
        let pid = Pid::from_raw(self.id.pid);
        let refused = Err(rustix::io::Errno::PERM);
        pid.is_some_and(|pid| test_kill_process(pid) != refused)
    }

    /// Whether all its threads have ended.
    pub fn is_dead(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(ready) if ready > 0)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The number of the process behind a descriptor; `None` if it is no pidfd.
pub fn number_of(fd: BorrowedFd<'_>) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let mut lines = info.lines();
    let number = lines.find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok()
}

/// What the kernel marks its own threads with, among the flags in `/proc/PID/stat`.
const OF_KERNEL: u64 = 0x0020_0000;
/// Which word after the name these flags are.
const FLAGS_AT: usize = 6;

/// Whether a process is a thread of the kernel: no signal ends it.
pub fn is_of_kernel(id: ProcessId) -> bool {
    let line = std::fs::read(format!("/proc/{}/stat", id.pid)).unwrap_or_default();
    let end = line.iter().rposition(|b| *b == b')');
    let rest = end.and_then(|end| std::str::from_utf8(&line[end + 1..]).ok());
    let flags = rest.and_then(|rest| rest.split_ascii_whitespace().nth(FLAGS_AT));
    let flags = flags.and_then(|word| word.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & OF_KERNEL != 0)
}

/// Whether a process is the first of a PID namespace below our own: when it ends, the kernel has
/// ended all others in there.
pub fn is_init(id: ProcessId) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", id.pid)).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers: Vec<&str> = numbers.unwrap_or_default().split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}

/// What a process is called; `None` if it has ended.
pub fn name_of(id: ProcessId) -> Option<String> {
    let line = std::fs::read(format!("/proc/{}/stat", id.pid)).ok()?;
    let (start, end) = (
        line.iter().position(|b| *b == b'(')?,
        line.iter().rposition(|b| *b == b')')?,
    );
    let state = line.get(end + 2)?;
    let runs = !b"ZX".contains(state) && parse_stat(&line)?.started == id.started;
    let name = line.get(start + 1..end)?;
    runs.then(|| String::from_utf8_lossy(name).into_owned())
}

/// Every process and its parent.
pub fn all() -> Vec<(i32, Stat)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(pid)?))
        })
        .collect()
}

/// The descendants of a process, but for `spared` and what descends from those. Each is found as a
/// child of one found before: who is forked meanwhile may be missed, and is found by the next look.
pub fn descendants(root: i32, spared: &[ProcessId]) -> Vec<ProcessId> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    let mut everybody = None;
    while let Some(parent) = parents.pop() {
        let children = children_of(parent).unwrap_or_else(|| {
            let everybody = everybody.get_or_insert_with(all);
            let of_parent = everybody.iter().filter(|(_, stat)| stat.parent == parent);
            of_parent.map(|(pid, _)| *pid).collect()
        });
        for child in children.into_iter().filter_map(ProcessId::of) {
            if !spared.contains(&child) {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

/// The children of a process, as the kernel lists them: on a host with a thousand holders it would
/// take too long if each looked at every process. `None` where this kernel has no such list. A
/// process that is gone has none.
fn children_of(pid: i32) -> Option<Vec<i32>> {
    let own = std::process::id();
    if !std::path::Path::new(&format!("/proc/self/task/{own}/children")).exists() {
        return None;
    }
    let mut children = Vec::new();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let numbers = list.split_whitespace().map(str::parse::<i32>);
        children.extend(numbers.filter_map(Result::ok));
    }
    Some(children)
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The fields are counted from after the name, which stands in parentheses and may contain
/// anything: the parent is the second, the start the twentieth.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&line[end + 1..]).ok()?;
    let mut words = rest.split_ascii_whitespace().skip(1);
    let parent = words.next()?.parse().ok()?;
    let started = words.nth(17)?.parse().ok()?;
    Some(Stat { parent, started })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_stat_line_is_read_whatever_the_name_is() {
        let line = b"12 (a) S 3 (b\xff) R 9 1 1 0 -1 4 5 6 7 8 9 10 11 12 20 0 1 0 777 10";
        assert_eq!(
            parse_stat(line),
            Some(Stat {
                parent: 9,
                started: 777
            })
        );
        assert_eq!(parse_stat(b"12"), None);
    }

    #[test]
    fn a_process_is_known_until_it_is_dead_and_never_mistaken() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let id = ProcessId::of(child.id().cast_signed()).unwrap();
        let process = id.open().unwrap();
        assert!(!process.is_dead());
        let other = ProcessId {
            started: id.started + 1,
            ..id
        };
        assert!(other.open().is_none());
        process.kill();
        child.wait().unwrap();
        assert!(process.is_dead());
        assert!(id.open().is_none());
    }

    #[test]
    fn descendants_are_found_and_those_of_who_is_spared_are_not() {
        let script = "sleep 600 & echo $!; wait";
        let mut shell = Command::new("sh");
        let mut shell = shell
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let sleep: i32 = line.trim().parse().unwrap();
        let pid = shell.id().cast_signed();
        let (own, id) = (
            std::process::id().cast_signed(),
            ProcessId::of(pid).unwrap(),
        );
        let pids = |spared: &[ProcessId]| {
            let found = descendants(own, spared);
            found.iter().map(|id| id.pid).collect::<Vec<i32>>()
        };
        let all = pids(&[]);
        assert!(all.contains(&pid) && all.contains(&sleep), "{all:?}");
        let some = pids(&[id]);
        assert!(!some.contains(&pid) && !some.contains(&sleep), "{some:?}");
        for pid in [sleep, pid] {
            ProcessId::of(pid).unwrap().open().unwrap().kill();
        }
        shell.wait().unwrap();
    }

    #[test]
    fn a_received_descriptor_must_be_a_pidfd() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(Process::received(OwnedFd::from(file)).is_none());
        let own = Process::own().unwrap();
        let copy = own.fd.try_clone().unwrap();
        assert_eq!(Process::received(copy).unwrap().id(), own.id());
    }
}
