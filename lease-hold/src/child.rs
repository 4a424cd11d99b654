//! The command's process: forked, held behind a gate, executed.
//!
//! The child does nothing but wait for one byte. It comes when lease-join knows of the child and
//! has said that the host id still is ours; the end of the pipe instead means that it never will.

use crate::command::Command;
use crate::hub::Event;
use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2, read, write};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::Sender;

/// A forked child that has not executed its command yet.
pub(crate) struct Gated {
    /// Its process id.
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
    gate: OwnedFd,
    failure: OwnedFd,
}

/// A child on its way to, or in, its command.
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: Pid,
    pidfd: OwnedFd,
}

/// Forks a child that waits behind its gate. Call this from the main thread: the child is
/// killed by the kernel when the thread that forked it ends.
#[allow(unsafe_code)]
pub(crate) fn fork_gated(command: &Command, environment: &[CString]) -> anyhow::Result<Gated> {
    let (gate_read, gate) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let (failure, failure_write) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let parent = Pid::this();
    let arguments = pointers(&command.arguments);
    let variables = pointers(environment);
    // SAFETY: this process has other threads, so until it executes, the child may only make calls
    // that are safe in a signal handler: `run_child` makes system calls on memory that was
    // prepared here, allocates nothing and takes no lock.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            drop_without_locks(gate, failure);
            let errno = run_child(
                parent,
                gate_read.as_fd(),
                &command.file,
                &arguments,
                &variables,
            );
            let _ = write(failure_write.as_fd(), &(errno as i32).to_ne_bytes());
            // SAFETY: ends the process at once, without running anything of the parent's.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            let raw = rustix::process::Pid::from_raw(child.as_raw()).context("no process id")?;
            let pidfd = pidfd_open(raw, PidfdFlags::empty()).context("cannot open a pidfd")?;
            Ok(Gated {
                pid: child,
                pidfd,
                gate,
                failure,
            })
        }
    }
}

/// In the child, the parent's ends have to be closed, or it would never see the end of the gate.
fn drop_without_locks(gate: OwnedFd, failure: OwnedFd) {
    drop(gate);
    drop(failure);
}

/// Pointers to C strings, ended by a null pointer, as execve(2) takes them.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Returns only if the command could not be executed.
#[allow(unsafe_code)]
fn run_child(
    parent: Pid,
    gate: BorrowedFd<'_>,
    file: &CString,
    arguments: &[*const libc::c_char],
    variables: &[*const libc::c_char],
) -> Errno {
    if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return errno;
    }
    // The parent may have ended before the line above.
    if getppid() != parent {
        return Errno::ESRCH;
    }
    // SAFETY: sets a disposition to its default; no handler is involved. Rust's start-up ignores
    // this signal, and an ignored signal stays so across exec.
    if let Err(errno) = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) } {
        return errno;
    }
    let mut byte = [0];
    loop {
        match read(gate, &mut byte) {
            Ok(1) => break,
            Err(Errno::EINTR) => {}
            _ => return Errno::ECANCELED,
        }
    }
    // SAFETY: `file` and the strings behind the pointers live in the parent's copied memory, and
    // both arrays end with a null pointer.
    unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), variables.as_ptr()) };
    Errno::last()
}

impl Gated {
    /// The child, for whoever else is to watch it.
    pub(crate) fn pidfd(&self) -> anyhow::Result<OwnedFd> {
        self.pidfd.try_clone().context("cannot copy a pidfd")
    }

    /// Lets it execute. `events` hears if it cannot.
    pub(crate) fn open(self, events: Sender<Event>) -> Child {
        let Self {
            pid,
            pidfd,
            gate,
            failure,
        } = self;
        // If it is gone already its end is reported as any other.
        let _ = write(gate.as_fd(), &[1]);
        std::thread::spawn(move || {
            let mut errno = [0; 4];
            if read(failure.as_fd(), &mut errno) == Ok(4) {
                // Without a main thread there is nobody to tell.
                let _ = events.send(Event::NotExecuted(i32::from_ne_bytes(errno)));
            }
        });
        Child { pid, pidfd }
    }
}

impl Child {
    /// Sends it a signal, if it still is.
    pub(crate) fn signal(&self, number: i32) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }
}
