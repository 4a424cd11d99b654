//! The command and all that it started: its descendants, as /proc shows them.
//!
//! This process is their "child subreaper": whatever daemonises becomes our child, and when
//! waiting for a child fails for want of children, nothing is left. That is the proof; the sweep
//! of /proc only finds whom to send a signal.

use crate::hub::Event;
use lease_core::process;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// Makes this process the parent of every descendant whose own parent ends.
pub(crate) fn adopt_orphans() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Reaps children on a thread of its own until there are none. Reports the command's end, if
/// it is a child of ours, and the end of all, but not before `others` have ended: what they
/// still have to say of the command would come too late.
pub(crate) fn reap(command: Option<Pid>, events: Sender<Event>, others: Vec<JoinHandle<()>>) {
    std::thread::spawn(move || {
        let mut others = others;
        loop {
            let event = match waitpid(None, Some(WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(pid, code)) if Some(pid) == command => {
                    Event::Exited(u8::try_from(code & 0xFF).unwrap_or(u8::MAX))
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == command => {
                    Event::Exited(128 + u8::try_from(signal as i32).unwrap_or(0))
                }
                Ok(WaitStatus::Stopped(pid, signal)) if Some(pid) == command => {
                    Event::Stopped(signal as i32)
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => {
                    // Nobody holds the other ends of what they listen to any more.
                    others.drain(..).for_each(|other| drop(other.join()));
                    Event::TreeGone
                }
            };
            let last = matches!(event, Event::TreeGone);
            if events.send(event).is_err() || last {
                return;
            }
        }
    });
}

/// Sends a signal to every descendant of this process.
pub(crate) fn signal_all(signal: Signal) {
    for pid in descendants(Pid::this()) {
        // It may have ended meanwhile. It cannot be somebody else: its parent, of our tree, or we
        // would have had to reap it first, and what a sweep misses the next one finds.
        let _ = kill(pid, signal);
    }
}

fn descendants(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, stat) in process::all() {
        children.entry(stat.parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut parents = vec![root.as_raw()];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            parents.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_among_our_parents_descendants() {
        assert!(descendants(Pid::parent()).contains(&Pid::this()));
    }
}
