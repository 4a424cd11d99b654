//! The command's process: forked, held behind a gate, executed.
//!
//! The child does nothing but wait for one byte. It comes when lease-join knows of the child and
//! has said that the host id still is ours; the end of the pipe instead means that it never will.
//! In a PID namespace, what is executed is not the command but the namespace's init.

use crate::command::Command;
use crate::guard::Orders;
use crate::hub::Event;
use crate::init::{self, Carried, LastMoment, Report};
use crate::tree;
use anyhow::Context;
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::registry::wire::Wire;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2, read, write};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

/// A forked child that has not executed anything yet.
pub(crate) struct Gated {
    pid: Pid,
    pidfd: OwnedFd,
    gate: OwnedFd,
    failure: OwnedFd,
    /// Our end of the talk with an init.
    control: Option<UnixStream>,
}

/// A command on its way, or running.
pub(crate) struct Child {
    /// The command's own process; `None` until its init has said which.
    command: Option<OwnedFd>,
    /// Signals that came before that.
    pending: Vec<i32>,
    control: Option<Wire>,
}

/// What a child executes. All memory that it needs after the fork.
struct Execution<'a> {
    file: &'a CStr,
    arguments: Vec<*const libc::c_char>,
    variables: Vec<*const libc::c_char>,
    /// The signals that it has blocked.
    signals: &'a SigSet,
    /// Who must be its parent, as the child sees it: nobody, from within another PID namespace.
    parent: Pid,
    /// A descriptor that it keeps open when it executes.
    kept: Option<BorrowedFd<'a>>,
}

/// Forks a child that waits behind its gate, in its cage. Call this from the main thread: the
/// child is killed by the kernel when the thread that forked it ends.
pub(crate) fn fork_gated(
    command: &Command,
    environment: &[CString],
    orders: &Orders,
    carried: &Carried,
) -> anyhow::Result<Gated> {
    let variables = pointers(environment);
    let (cage, signals) = (&orders.cage, &orders.signals);
    if cage.containment() != Containment::PidNamespace {
        let execution = Execution {
            file: &command.file,
            arguments: pointers(&command.arguments),
            variables,
            signals,
            parent: Pid::this(),
            kept: None,
        };
        let gated = fork_and_wait(&execution, None)?;
        cage.enter(gated.pid)
            .context("cannot put the command into its control group")?;
        return Ok(gated);
    }
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket")?;
    let arguments = init::arguments(theirs.as_raw_fd(), carried, command)?;
    let execution = Execution {
        file: init::SELF,
        arguments: pointers(&arguments),
        variables,
        signals,
        parent: Pid::from_raw(0),
        kept: Some(theirs.as_fd()),
    };
    // The next child is the first process of a new namespace; those after it are not.
    let own = File::open("/proc/self/ns/pid").context("cannot open our own PID namespace")?;
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace")?;
    let gated = fork_and_wait(&execution, Some(ours));
    setns(own, CloneFlags::CLONE_NEWPID).context("cannot leave the PID namespace")?;
    gated
}

#[allow(unsafe_code)]
fn fork_and_wait(execution: &Execution<'_>, control: Option<UnixStream>) -> anyhow::Result<Gated> {
    let (gate_read, gate) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let (failure, failure_write) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: this process has other threads, so until it executes, the child may only make calls
    // that are safe in a signal handler: `run_child` makes system calls on memory that was
    // prepared before, allocates nothing and takes no lock.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => {
            // With these open it would never see the end of the gate.
            drop((gate, failure));
            let errno = run_child(execution, gate_read.as_fd());
            let _ = write(failure_write.as_fd(), &(errno as i32).to_ne_bytes());
            // SAFETY: ends the process at once, without running anything of the parent's.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child: pid } => {
            let raw = rustix::process::Pid::from_raw(pid.as_raw()).context("no process id")?;
            let pidfd = pidfd_open(raw, PidfdFlags::empty()).context("cannot open a pidfd")?;
            Ok(Gated {
                pid,
                pidfd,
                gate,
                failure,
                control,
            })
        }
    }
}

/// Pointers to C strings, ended by a null pointer, as execve(2) takes them.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Returns only if nothing could be executed.
#[allow(unsafe_code)]
fn run_child(execution: &Execution<'_>, gate: BorrowedFd<'_>) -> Errno {
    if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return errno;
    }
    // The parent may have ended before the line above.
    if getppid() != execution.parent {
        return Errno::ESRCH;
    }
    // SAFETY: sets a disposition to its default; no handler is involved. Rust's start-up ignores
    // this signal, and an ignored signal stays so across exec.
    if let Err(errno) = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) } {
        return errno;
    }
    if let Err(errno) = execution.signals.thread_set_mask() {
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
    if let Some(Err(errno)) = execution
        .kept
        .map(|fd| fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())))
    {
        return errno;
    }
    let (arguments, variables) = (execution.arguments.as_ptr(), execution.variables.as_ptr());
    // SAFETY: `file` and the strings behind the pointers live in the parent's copied memory, and
    // both arrays end with a null pointer.
    unsafe { libc::execve(execution.file.as_ptr(), arguments, variables) };
    Errno::last()
}

/// The descriptor that was kept open for an init under this number; nothing that it starts
/// inherits it.
#[allow(unsafe_code)]
pub(crate) fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the number comes from the command line that `fork_gated` made, where it was kept open
    // for this process alone; nothing else here has opened or owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(fd)
}

impl Gated {
    /// The child, for whoever else is to watch it.
    pub(crate) fn pidfd(&self) -> anyhow::Result<OwnedFd> {
        self.pidfd.try_clone().context("cannot copy a pidfd")
    }

    /// Lets it execute, and reaps from then on. `events` hears what becomes of it.
    pub(crate) fn open(self, events: &Sender<Event>) -> anyhow::Result<Child> {
        let Self {
            pid,
            pidfd,
            gate,
            failure,
            control,
        } = self;
        // If it is gone already its end is reported as any other.
        let _ = write(gate.as_fd(), &[1]);
        listen_for_failure(failure, events.clone());
        match control {
            None => {
                tree::reap(Some(pid), events.clone(), None);
                Ok(Child {
                    command: Some(pidfd),
                    pending: Vec::new(),
                    control: None,
                })
            }
            Some(control) => {
                let wire = Wire::new(control.try_clone().context("cannot copy a socket")?);
                let listener = listen_to_init(Wire::new(control), events.clone());
                tree::reap(None, events.clone(), Some(listener));
                Ok(Child {
                    command: None,
                    pending: Vec::new(),
                    control: Some(wire),
                })
            }
        }
    }
}

fn listen_for_failure(failure: OwnedFd, events: Sender<Event>) {
    std::thread::spawn(move || {
        let mut errno = [0; 4];
        if read(failure.as_fd(), &mut errno) == Ok(4) {
            // Without a main thread there is nobody to tell.
            let _ = events.send(Event::NotExecuted(i32::from_ne_bytes(errno)));
        }
    });
}

fn listen_to_init(mut wire: Wire, events: Sender<Event>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok(report) = wire.receive::<Report>() {
            let event = match report {
                Report::Started => match wire.take_descriptor() {
                    Some(fd) => Event::Started(fd),
                    None => continue,
                },
                Report::NotExecuted { errno } => Event::NotExecuted(errno),
                Report::Stopped { signal } => Event::Stopped(signal),
                Report::Exited { code } => Event::Exited(code),
            };
            if events.send(event).is_err() {
                return;
            }
        }
    })
}

impl Child {
    /// Sends the command a signal, if it still is.
    pub(crate) fn signal(&mut self, number: i32) {
        let Some(command) = &self.command else {
            self.pending.push(number);
            return;
        };
        if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
            // The one error that can be is that it is gone.
            let _ = pidfd_send_signal(command, signal);
        }
    }

    /// Its init has started it.
    pub(crate) fn started(&mut self, command: OwnedFd) {
        self.command = Some(command);
        for number in std::mem::take(&mut self.pending) {
            self.signal(number);
        }
    }

    /// The leases have been renewed: an init need not act before this moment.
    pub(crate) fn not_before(&mut self, at: Moment) {
        if let Some(control) = &mut self.control {
            // An init that is gone has taken all with it.
            let _ = control.send(&LastMoment { at });
        }
    }
}

/// Runs a shell command beside the guarded one, with the same environment. What becomes of it is
/// not looked at.
pub(crate) fn run_aside(shell_command: &OsStr, environment: &[CString]) {
    let text = shell_command.to_owned();
    let variables: Vec<(OsString, OsString)> = environment.iter().filter_map(variable).collect();
    std::thread::spawn(move || {
        let mut shell = std::process::Command::new("sh");
        // It is reaped with all others.
        let _ = shell
            .arg("-c")
            .arg(text)
            .env_clear()
            .envs(variables)
            .spawn();
    });
}

fn variable(text: &CString) -> Option<(OsString, OsString)> {
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|b| *b == b'=')?;
    let part = |bytes| OsStr::from_bytes(bytes).to_owned();
    Some((part(&bytes[..equals]), part(&bytes[equals + 1..])))
}
