//! The command and all that it started: its descendants, as /proc shows them.
//!
//! This process is their "child subreaper": whatever daemonises becomes our child, and when
//! waiting for a child fails for want of children, nothing is left. That is the proof; the sweep
//! of /proc only finds whom to send a signal.

use lease_core::holder::surroundings::Event;
use lease_core::id::escape;
use lease_core::process::{self, ProcessId};
use lease_core::tool::{Failure, Status, show};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use std::ffi::OsStr;

/// Most processes that are named in one line.
const NAMED_MAX: usize = 5;

/// Fails where /proc is not that of our own PID namespace: what the command starts could not be
/// found there.
pub(crate) fn check_proc(name: &OsStr) -> Result<(), Failure> {
    let why = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) if shows_own(&status, Pid::this()) => return Ok(()),
        Ok(_) => "/proc shows another PID namespace than ours",
        Err(_) => "/proc does not show us",
    };
    let text = format!(
        "cannot guard {}: {why}; mount a /proc of this PID namespace first, as unshare \
         --mount-proc does",
        show(name)
    );
    Err(Failure::new(Status::Refused, text))
}

/// Whether a process finds itself by its own number, and by that number alone: seen from outside of
/// its PID namespace it has several.
fn shows_own(status: &str, own: Pid) -> bool {
    let of = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = of("NSpid:").or_else(|| of("Pid:"));
    numbers.is_some_and(|numbers| numbers.trim() == own.to_string())
}

/// Makes this process the parent of every descendant whose own parent ends.
pub(crate) fn adopt_orphans() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Reaps whoever has ended, without waiting. Reports the command's end, if it is a child of ours,
/// and the end of all.
pub(crate) fn reap(command: Option<Pid>) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if Some(pid) == command => {
                let code = u8::try_from(code & 0xFF).unwrap_or(u8::MAX);
                events.push(Event::Exited(code));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == command => {
                let code = 128 + u8::try_from(signal as i32).unwrap_or(0);
                events.push(Event::Exited(code));
            }
            Ok(WaitStatus::Stopped(pid, signal)) if Some(pid) == command => {
                events.push(Event::Stopped(signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return events,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => {
                events.push(Event::TreeGone);
                return events;
            }
        }
    }
}

/// Sends a signal to every descendant of this process, but for `told`, who has it already, and for
/// `spared` and theirs. What a sweep misses the next one finds.
pub(crate) fn signal_all(number: i32, spared: &[ProcessId], told: Option<Pid>) {
    let Some(signal) = Signal::from_named_raw(number) else {
        return;
    };
    for id in process::descendants(Pid::this().as_raw(), spared) {
        // It may have ended meanwhile, and its number may be another's by now.
        if told.map(Pid::as_raw) != Some(id.pid)
            && let Some(process) = id.open()
        {
            process.signal(signal);
        }
    }
}

/// These processes in words, if any of them still runs.
pub(crate) fn describe(processes: &[ProcessId]) -> Option<String> {
    let named = processes.iter().filter_map(|id| {
        let name = process::name_of(*id)?;
        Some(format!("{} ({})", id.pid, escape(name.as_bytes())))
    });
    let mut named: Vec<String> = named.collect();
    let more = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    let list = named.join(", ");
    match (named.len(), more) {
        (0, _) => None,
        (1, _) => Some(format!("pid {list}")),
        (_, 0) => Some(format!("pids {list}")),
        _ => Some(format!("pids {list} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_of_our_own_namespace_shows_us_by_one_number() {
        let shows = |status| shows_own(status, Pid::from_raw(5));
        assert!(shows("Name:\tx\nPid:\t5\nPPid:\t1\nNSpid:\t5\n"));
        // Without namespaces there is no other line.
        assert!(shows("Pid:\t5\n"));
        for foreign in ["Pid:\t4711\nNSpid:\t4711\t5\n", "Pid:\t5\nNSpid:\t5\t5\n"] {
            assert!(!shows(foreign), "{foreign}");
        }
        assert!(!shows("Pid:\t55\n") && !shows(""));
    }
}
