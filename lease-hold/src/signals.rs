//! Signals as events: all that can be caught, told apart by who sent them.

use crate::fork;
use crate::terminal;
use anyhow::Context;
use lease_core::crew::Crew;
use lease_core::holder::signal;
use lease_core::tool::{Failure, Status};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getsid};
use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, sync_channel};

/// The signals that are heard: none that we were told to ignore, as by nohup(1); but for the end of
/// a child, which is not a matter of taste.
fn heard() -> SigSet {
    let mut set = SigSet::all();
    for signal in Signal::iterator().filter(|signal| *signal != Signal::SIGCHLD) {
        if fork::was_ignored(signal as i32) {
            set.remove(signal);
        }
    }
    set
}

/// Blocks what is to be heard in this thread and in those that it starts. Returns what was blocked
/// before, for the command. Before any other thread is started.
pub(crate) fn block() -> anyhow::Result<SigSet> {
    fork::wait_for_children().context("cannot wait for children")?;
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&heard()), Some(&mut before))
        .context("cannot block signals")?;
    Ok(before)
}

/// Where signals arrive.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// From now on they are heard.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&heard(), flags).context("cannot listen for signals")?;
        Ok(Self(fd))
    }

    /// The next one that is meant for us or for the command; `true`: from the terminal, so the
    /// command has it too.
    pub(crate) fn next(&self) -> Option<(i32, bool)> {
        while let Ok(Some(info)) = self.0.read_signal() {
            let number = info.ssi_signo.cast_signed();
            // A child's end, or our own write into a closed pipe, is nobody's message.
            let of_child = number == libc::SIGCHLD && info.ssi_code > 0;
            if !of_child && info.ssi_pid != std::process::id() {
                let of_kernel = info.ssi_code == libc::SI_KERNEL;
                return Some((number, of_kernel && is_for_a_group(number, leads_session())));
            }
        }
        None
    }
}

/// What may take long, while a signal that ends the waiting ends this process. Only what is undone
/// by the end of this process may be done.
#[derive(Debug)]
pub(crate) struct Doing<T> {
    signals: Signals,
    /// Its other end is closed when the work is done, however that ends.
    done: PipeReader,
    told: Receiver<anyhow::Result<T>>,
}

impl<T: Send + 'static> Doing<T> {
    /// Has it begun.
    pub(crate) fn begin(
        crew: &Crew,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let (done, doing) = std::io::pipe().context("cannot make a pipe")?;
        let (tell, told) = sync_channel(1);
        let work = move || {
            // Nobody may be waiting any more.
            let _ = tell.send(work());
            drop(doing);
        };
        crew.run(work).context("cannot start a thread")?;
        Ok(Self {
            signals,
            done,
            told,
        })
    }

    /// Waits until it is done. The inner `Err`: a signal that ends the waiting came before.
    pub(crate) fn wait(self) -> anyhow::Result<Result<T, i32>> {
        loop {
            let mut fds = [
                PollFd::new(self.done.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for signals"),
            }
            if fds[0].revents().is_some_and(|news| !news.is_empty()) {
                let lost = |_| Failure::new(Status::Internal, "a thread ended too early");
                return self.told.recv().map_err(lost)?.map(Ok);
            }
            while let Some((number, _)) = self.signals.next() {
                if signal::ends_waiting(number) {
                    return Ok(Err(number));
                }
                if signal::stops(number) {
                    terminal::stop();
                }
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a signal of the kernel is one that a terminal sends to a whole process group. The leader
/// of the session alone is told of a hangup; once it has ended, the group in the foreground. All
/// else, as an alarm that was set before we were executed, is for us alone.
fn is_for_a_group(number: i32, leads_session: bool) -> bool {
    match number {
        libc::SIGINT | libc::SIGQUIT | libc::SIGWINCH => true,
        libc::SIGHUP | libc::SIGCONT => !leads_session,
        _ => signal::stops(number),
    }
}

fn leads_session() -> bool {
    getsid(None) == Ok(Pid::this())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_what_a_terminal_sends_to_a_group_and_nothing_else() {
        for number in 1..=31 {
            let (alone, led) = match number {
                libc::SIGINT | libc::SIGQUIT | libc::SIGWINCH => (true, true),
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => (true, true),
                // Told to the leader alone, or to all once there is none.
                libc::SIGHUP | libc::SIGCONT => (false, true),
                _ => (false, false),
            };
            assert_eq!(is_for_a_group(number, true), alone, "signal {number}");
            assert_eq!(is_for_a_group(number, false), led, "signal {number}");
        }
    }
}
