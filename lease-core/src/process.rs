//! Processes that are somebody else's children: named so that a number used again is not taken for
//! them, signalled, seen dead.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
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
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        let pid = info
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))?
            .trim()
            .parse()
            .ok()?;
        let id = ProcessId::of(pid)?;
        let process = Self { id, fd };
        (!process.is_dead()).then_some(process)
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
    use std::process::Command;

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
    fn a_received_descriptor_must_be_a_pidfd() {
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert!(Process::received(OwnedFd::from(file)).is_none());
        let own = Process::own().unwrap();
        let copy = own.fd.try_clone().unwrap();
        assert_eq!(Process::received(copy).unwrap().id(), own.id());
    }
}
