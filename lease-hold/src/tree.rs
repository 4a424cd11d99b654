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
use std::fs;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// Makes this process the parent of every descendant whose own parent ends.
pub(crate) fn adopt_orphans() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Reaps children on a thread of its own until there are none. Reports the command's end, if
/// it is a child of ours, and the end of all.
///
/// What the init of a PID namespace says is heard first, on `listener`, which ends with the init.
pub(crate) fn reap(
    command: Option<Pid>,
    events: Sender<Event>,
    mut listener: Option<JoinHandle<()>>,
) {
    std::thread::spawn(move || {
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
                    // It says nothing by its result.
                    let _ = listener.take().map(JoinHandle::join);
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
    let mut found = Vec::new();
    let mut parents = vec![root.as_raw()];
    let mut everybody = None;
    while let Some(parent) = parents.pop() {
        let children = children_of(parent).unwrap_or_else(|| {
            let everybody = everybody.get_or_insert_with(process::all);
            let of_parent = everybody.iter().filter(|(_, stat)| stat.parent == parent);
            of_parent.map(|(pid, _)| *pid).collect()
        });
        found.extend(children.iter().map(|child| Pid::from_raw(*child)));
        parents.extend(children);
    }
    found
}

/// The children of a process, as the kernel lists them: on a host with a thousand holders it would
/// take too long if each looked at every process. `None` where this kernel has no such list. A
/// process that is gone has none.
fn children_of(pid: i32) -> Option<Vec<i32>> {
    if !Path::new("/proc/self/task")
        .join(format!("{}/children", Pid::this()))
        .exists()
    {
        return None;
    }
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_whitespace()
                .filter_map(|child| child.parse::<i32>().ok()),
        );
    }
    Some(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_among_our_parents_descendants() {
        assert!(descendants(Pid::parent()).contains(&Pid::this()));
    }
}
