//! The command's process: forked, held behind a gate, executed.
//!
//! The child does nothing but wait for one byte. It comes when lease-join knows of the child and
//! has said that the host id still is ours; the end of the pipe instead means that it never will.
//! In a PID namespace, what is executed is not the command but the namespace's init.

use crate::cage::Cage;
use crate::command::Command;
use crate::guard::Orders;
use crate::hub::Event;
use crate::init::{self, Carried, LastMoment, Report};
use crate::tree;
use anyhow::Context;
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::priority::OomScore;
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
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the command of --on-loss may take to start before the others are asked to end.
const START_WITHIN: Duration = Duration::from_millis(100);
/// `CLONE_INTO_CGROUP` of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

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
        return fork_into(cage, &execution, orders.oom_score.as_ref());
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
    let gated = fork_and_wait(&execution, orders.oom_score.as_ref(), Some(ours), None);
    setns(own, CloneFlags::CLONE_NEWPID).context("cannot leave the PID namespace")?;
    gated
}

/// Born in its control group, if there is one. Moving a process in is the same, but for a pause of
/// all forks and exits on the machine; it is left to kernels that do not let us do the other.
fn fork_into(
    cage: &Cage,
    execution: &Execution<'_>,
    oom_score: Option<&OomScore>,
) -> anyhow::Result<Gated> {
    let group = cage.open().context("cannot open the control group")?;
    let born = group
        .as_ref()
        .map(|group| fork_and_wait(execution, oom_score, None, Some(group.as_fd())));
    match born {
        Some(Ok(gated)) => Ok(gated),
        _ => {
            let gated = fork_and_wait(execution, oom_score, None, None)?;
            cage.enter(gated.pid)
                .context("cannot put the command into its control group")?;
            Ok(gated)
        }
    }
}

#[allow(unsafe_code)]
/// fork(2), or its like that puts the child into a control group.
///
/// # Safety
/// As of fork: in the child of a process with threads, only what is safe in a signal handler may
/// be done until it executes something.
unsafe fn fork_or_clone(group: Option<BorrowedFd<'_>>) -> Result<ForkResult, Errno> {
    let Some(group) = group else {
        // SAFETY: the caller keeps to what is asked of it above.
        return unsafe { fork() };
    };
    // SAFETY: a structure of integers, for which zero means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = group.as_raw_fd() as u64;
    let size = size_of::<libc::clone_args>();
    // SAFETY: no memory is shared and no stack is given, so this is a fork; the kernel reads
    // `size` bytes of `arguments`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size) };
    match Errno::result(pid)? {
        0 => Ok(ForkResult::Child),
        pid => {
            let child = Pid::from_raw(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?);
            Ok(ForkResult::Parent { child })
        }
    }
}

#[allow(unsafe_code)]
fn fork_and_wait(
    execution: &Execution<'_>,
    oom_score: Option<&OomScore>,
    control: Option<UnixStream>,
    group: Option<BorrowedFd<'_>>,
) -> anyhow::Result<Gated> {
    let (gate_read, gate) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let (failure, failure_write) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: this process has other threads, so until it executes, the child may only make calls
    // that are safe in a signal handler: `run_child` makes system calls on memory that was
    // prepared before, allocates nothing and takes no lock.
    match unsafe { fork_or_clone(group) }.context("cannot fork")? {
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
            oom_score
                .iter()
                .for_each(|score| score.give_to(pid.as_raw()));
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
    let ordinary = libc::sched_param { sched_priority: 0 };
    // SAFETY: a system call that reads `ordinary`. If this process was never raised it changes
    // nothing, and it is always allowed.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary) };
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
        let heard = listen_for_failure(failure, events.clone());
        match control {
            None => {
                tree::reap(Some(pid), events.clone(), vec![heard]);
                Ok(Child {
                    command: Some(pidfd),
                    pending: Vec::new(),
                    control: None,
                })
            }
            Some(control) => {
                let wire = Wire::new(control.try_clone().context("cannot copy a socket")?);
                let told = listen_to_init(Wire::new(control), events.clone());
                tree::reap(None, events.clone(), vec![heard, told]);
                Ok(Child {
                    command: None,
                    pending: Vec::new(),
                    control: Some(wire),
                })
            }
        }
    }
}

fn listen_for_failure(failure: OwnedFd, events: Sender<Event>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut errno = [0; 4];
        if read(failure.as_fd(), &mut errno) == Ok(4) {
            // Without a main thread there is nobody to tell.
            let _ = events.send(Event::NotExecuted(i32::from_ne_bytes(errno)));
        }
    })
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
    /// Sends the command a signal. `false`: it is gone.
    pub(crate) fn signal(&mut self, number: i32) -> bool {
        let Some(command) = &self.command else {
            self.pending.push(number);
            return true;
        };
        let signal = rustix::process::Signal::from_named_raw(number);
        signal.is_none_or(|signal| pidfd_send_signal(command, signal).is_ok())
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

/// Starts a shell command beside the guarded one, with the same environment. What becomes of it is
/// not looked at; it is waited for only until it has started, and not for long.
pub(crate) fn run_aside(shell_command: &OsStr, environment: &[CString]) {
    let text = shell_command.to_owned();
    let variables: Vec<(OsString, OsString)> = environment.iter().filter_map(variable).collect();
    let (tell, started) = channel();
    std::thread::spawn(move || {
        let mut shell = std::process::Command::new("sh");
        // It is reaped with all others.
        let _ = shell
            .arg("-c")
            .arg(text)
            .env_clear()
            .envs(variables)
            .spawn();
        // Nobody may be waiting any more.
        let _ = tell.send(());
    });
    // Either it has started, or the time is up: there is no more to it.
    let _ = started.recv_timeout(START_WITHIN);
}

fn variable(text: &CString) -> Option<(OsString, OsString)> {
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|b| *b == b'=')?;
    let part = |bytes| OsStr::from_bytes(bytes).to_owned();
    Some((part(&bytes[..equals]), part(&bytes[equals + 1..])))
}
