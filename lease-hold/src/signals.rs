//! Signals as events: all that can be caught, told apart by who sent them.

use crate::hub::Event;
use anyhow::Context;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::sync::mpsc::Sender;

/// Blocks every signal in this thread and in those that it starts. Returns what was blocked before,
/// for the command. Before any other thread is started.
pub(crate) fn block() -> anyhow::Result<SigSet> {
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_BLOCK,
        Some(&SigSet::all()),
        Some(&mut before),
    )
    .context("cannot block signals")?;
    Ok(before)
}

/// Reports every signal that is meant for us or for the command.
pub(crate) fn listen(events: Sender<Event>) -> anyhow::Result<()> {
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC)
        .context("cannot listen for signals")?;
    let own = std::process::id();
    std::thread::spawn(move || {
        while let Ok(Some(info)) = signals.read_signal() {
            let number = info.ssi_signo.cast_signed();
            // A child's end, or our own write into a closed pipe, is nobody's message.
            let of_child = number == libc::SIGCHLD && info.ssi_code > 0;
            if of_child || info.ssi_pid == own {
                continue;
            }
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            if events.send(Event::Signal(number, from_terminal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}
