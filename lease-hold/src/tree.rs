//! The command and all that it started: its descendants, as /proc shows them.
//!
//! This process is their "child subreaper": whatever daemonises becomes our child, and when
//! waiting for a child fails for want of children, nothing is left. That is the proof; the sweep
//! of /proc only finds whom to send a signal.

use crate::hub::Event;
use lease_core::process::{self, ProcessId};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;

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

/// Sends a signal to every descendant of this process, but for `spared` and theirs. What a sweep
/// misses the next one finds.
pub(crate) fn signal_all(number: i32, spared: &[ProcessId]) {
    let Some(signal) = Signal::from_named_raw(number) else {
        return;
    };
    for id in process::descendants(Pid::this().as_raw(), spared) {
        // It may have ended meanwhile, and its number may be another's by now.
        if let Some(process) = id.open() {
            process.signal(signal);
        }
    }
}
