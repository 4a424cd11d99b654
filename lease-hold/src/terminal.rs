//! The terminal, where there is one: when the command stops, whoever started lease-hold from there
//! is to notice, as if it had started the command.

use lease_core::holder::signal;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

/// Stops this process, so that the shell notices. lease-join goes on meanwhile.
pub(crate) fn stop() {
    // It cannot fail: the process is our own.
    let _ = raise(Signal::SIGSTOP);
}

/// Stops this process because its command, of process group `command`, was stopped by `signal`: by
/// the terminal, or by itself or another in the terminal's foreground, where nobody could use the
/// terminal otherwise. A command that was stopped elsewhere is stopped alone.
pub(crate) fn follow(signal: i32, command: Option<Pid>) {
    let (ours, terminal) = (getpgrp(), open());
    let foreground = || tcgetpgrp(terminal.as_ref()?).ok();
    let group = foreground();
    let of_command = group.is_some() && group == command;
    if !signal::stops(signal) && !of_command && group != Some(ours) {
        return;
    }
    stop();
    // A shell that has made itself a group of its own does not ask for the terminal again.
    if let (Some(terminal), Some(command)) = (&terminal, command)
        && of_command
        && foreground() == Some(ours)
    {
        // With SIGTTOU blocked it is not held against us, should we be in the background by now.
        let _ = tcsetpgrp(terminal, command);
    }
}

/// The terminal that this process is controlled from.
fn open() -> Option<File> {
    let mut options = File::options();
    options.custom_flags((OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits());
    options.read(true).write(true).open("/dev/tty").ok()
}
