//! Processes are forked, held behind a gate, executed.
//!
//! A child at its gate does nothing but wait for one byte. It comes when lease-join knows of the
//! child and has said that the host id still is ours; the end of the pipe instead means that it
//! never will.

use anyhow::Context;
use lease_core::priority::OomScore;
use lease_core::process::ProcessId;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, Pid, fork, getppid, pipe2, read, setpgid, write};
use rustix::process::{PidfdFlags, pidfd_open};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

/// `CLONE_INTO_CGROUP` of linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Numbers of standard input, output and error.
const STANDARD: [RawFd; 3] = [0, 1, 2];

/// Bit n: signal n + 1 was ignored when this process was started.
static IGNORED: AtomicU64 = AtomicU64::new(0);
/// Bit n: descriptor n of [`STANDARD`] was closed then.
static CLOSED: AtomicU8 = AtomicU8::new(0);
/// How this process was scheduled then: policy and priority, as sched_setscheduler(2) takes them.
static SCHEDULED: [AtomicI32; 2] = [AtomicI32::new(libc::SCHED_OTHER), AtomicI32::new(0)];

#[allow(unsafe_code)]
#[used]
// SAFETY: what stands in this section is called before `main`, when there is one thread, and
// `note_start` makes system calls only, but for a setting of the allocator.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note_start;

/// Notes what the standard library changes before `main` (it ignores SIGPIPE, and opens /dev/null
/// in place of a standard descriptor that is closed), and what we change later.
#[allow(unsafe_code)]
extern "C" fn note_start() {
    one_heap();
    for fd in STANDARD {
        // SAFETY: asks for the flags of a descriptor, which fails if it is not open.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
    for number in 1..=64 {
        // SAFETY: an all-zero sigaction is a valid one; without a new one, sigaction(2) only
        // writes the present one there.
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(number, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            IGNORED.fetch_or(1 << (number - 1), Ordering::Relaxed);
        }
    }
    let mut parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: two system calls about this process; the second writes to `parameter`.
    let (policy, known) = unsafe {
        let policy = libc::sched_getscheduler(0);
        (policy, libc::sched_getparam(0, &raw mut parameter) == 0)
    };
    if policy >= 0 && known {
        SCHEDULED[0].store(policy, Ordering::Relaxed);
        SCHEDULED[1].store(parameter.sched_priority, Ordering::Relaxed);
    }
}

/// No heap of its own for each thread: what one of them has needed once would stay there, locked.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn one_heap() {
    // SAFETY: changes a setting of the allocator, while there is one thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(target_env = "gnu"))]
fn one_heap() {}

/// Gives back what the heap does not need at the moment: while that can be done, which it cannot
/// once memory is locked.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub(crate) fn trim_heap() {
    // SAFETY: the allocator takes its own locks.
    unsafe { libc::malloc_trim(0) };
}

/// As above: only where it is known how.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim_heap() {}

/// Whether a signal was ignored when this process was started.
pub(crate) fn was_ignored(number: i32) -> bool {
    IGNORED.load(Ordering::Relaxed) & (1 << (number - 1)) != 0
}

/// Makes sure that children which end are there to be waited for, also if whoever started this
/// process ignores the ends of its own.
#[allow(unsafe_code)]
pub(crate) fn wait_for_children() -> Result<(), Errno> {
    // SAFETY: sets a disposition to its default; no handler is involved.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}

/// Before something is executed, in a child or in place of this program: what differs from how this
/// process was started is put back.
#[allow(unsafe_code)]
pub(crate) fn put_back() -> Result<(), Errno> {
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD] {
        let handler = match was_ignored(signal as i32) {
            true => SigHandler::SigIgn,
            false => SigHandler::SigDfl,
        };
        // SAFETY: no handler is involved.
        unsafe { nix::sys::signal::signal(signal, handler) }?;
    }
    for fd in STANDARD {
        if CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0 {
            // SAFETY: what is open there is /dev/null, which nothing in this child uses.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// How a child starts, whatever this process is.
#[derive(Debug)]
pub(crate) struct Start {
    /// The signals that it has blocked.
    pub(crate) signals: SigSet,
    /// How likely the out-of-memory killer is to choose it.
    pub(crate) oom_score: Option<OomScore>,
}

/// A forked child that has not executed anything yet.
#[derive(Debug)]
pub(crate) struct Gated {
    /// Its number.
    pub(crate) pid: Pid,
    /// A descriptor for it.
    pub(crate) pidfd: OwnedFd,
    /// One byte lets it execute; the end of this is its own.
    pub(crate) gate: OwnedFd,
    /// Where it says that it could not execute anything.
    pub(crate) failure: OwnedFd,
}

/// What a child executes. All memory that it needs after the fork.
pub(crate) struct Execution<'a> {
    pub(crate) file: &'a CStr,
    pub(crate) arguments: Vec<*const libc::c_char>,
    pub(crate) variables: Vec<*const libc::c_char>,
    /// The signals that it has blocked.
    pub(crate) signals: &'a SigSet,
    /// Who must be its parent, as the child sees it: nobody, from within another PID namespace.
    pub(crate) parent: Pid,
    /// A descriptor that it keeps open when it executes.
    pub(crate) kept: Option<BorrowedFd<'a>>,
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

/// Forks a child that waits behind its gate, in a control group if there is one. Call this from the
/// main thread: the child is killed by the kernel when the thread that forked it ends.
#[allow(unsafe_code)]
pub(crate) fn fork_to_gate(
    execution: &Execution<'_>,
    oom_score: Option<&OomScore>,
    group: Option<BorrowedFd<'_>>,
) -> anyhow::Result<Gated> {
    let (gate_read, gate) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let no_waiting = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (failure, failure_write) = pipe2(no_waiting).context("cannot make a pipe")?;
    // SAFETY: this process has other threads, so until it executes, the child may only make calls
    // that are safe in a signal handler: `run_child` makes system calls on memory that was
    // prepared before, allocates nothing and takes no lock.
    match unsafe { fork_or_clone(group) }.context("cannot fork")? {
        ForkResult::Child => {
            // With these open it would never see the end of the gate.
            drop((gate, failure));
            let errno = run_child(execution, Some(gate_read.as_fd()));
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
            })
        }
    }
}

/// Pointers to C strings, ended by a null pointer, as execve(2) takes them.
pub(crate) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Returns only if nothing could be executed.
#[allow(unsafe_code)]
fn run_child(execution: &Execution<'_>, gate: Option<BorrowedFd<'_>>) -> Errno {
    if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return errno;
    }
    // The parent may have ended before the line above.
    if getppid() != execution.parent {
        return Errno::ESRCH;
    }
    let [policy, sched_priority] = SCHEDULED.each_ref().map(|n| n.load(Ordering::Relaxed));
    let before = libc::sched_param { sched_priority };
    // SAFETY: a system call that reads `before`. If this process was never raised it changes
    // nothing, and what it could be raised from it can be put back to.
    unsafe { libc::sched_setscheduler(0, policy, &raw const before) };
    if let Err(errno) = execution.signals.thread_set_mask() {
        return errno;
    }
    if gate.is_some_and(|gate| !let_through(gate)) {
        return Errno::ECANCELED;
    }
    if let Err(errno) = put_back() {
        return errno;
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

/// Waits behind the gate. `false`: it will never open.
fn let_through(gate: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    loop {
        match read(gate, &mut byte) {
            Ok(1) => return true,
            Err(Errno::EINTR) => {}
            _ => return false,
        }
    }
}

/// Executes a command in a child, as this process was started itself, and waits until it does.
/// Returns the child, and a descriptor for it. Before the command runs, this process leaves the
/// process group that both are in: whoever stops that stops nobody who carries a deadline.
pub(crate) fn start(file: &CStr, arguments: &[CString]) -> anyhow::Result<(Pid, OwnedFd)> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let text = [name.as_bytes(), value.as_bytes()].join(&b'=');
        variables.push(CString::new(text)?);
    }
    let execution = Execution {
        file,
        arguments: pointers(arguments),
        variables: pointers(&variables),
        signals: &SigSet::thread_get_mask()?,
        parent: Pid::this(),
        kept: None,
    };
    let gated = fork_to_gate(&execution, None, None)?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    write(&gated.gate, &[1])?;
    let mut fds = [PollFd::new(gated.failure.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    match told_failure(&gated.failure)? {
        Some(errno) => Err(errno.into()),
        None => Ok((gated.pid, gated.pidfd)),
    }
}

/// What a child has said of why it could not execute anything; nothing if it did execute.
pub(crate) fn told_failure(failure: &OwnedFd) -> Result<Option<Errno>, Errno> {
    let mut errno = [0; 4];
    let count = read(failure, &mut errno)?;
    let told = Errno::from_raw(i32::from_ne_bytes(errno));
    Ok((count == errno.len()).then_some(told))
}

/// Starts a shell command beside the guarded one, with the same environment, and waits for
/// nothing: whether it can be executed is its own affair. `None`: it could not be forked.
#[allow(unsafe_code)]
pub(crate) fn run_aside(
    shell_command: &OsStr,
    environment: &[CString],
    start: &Start,
) -> Option<ProcessId> {
    let text = CString::new(shell_command.as_bytes()).ok()?;
    let arguments = [c"sh".to_owned(), c"-c".to_owned(), text];
    let execution = Execution {
        file: c"/bin/sh",
        arguments: pointers(&arguments),
        variables: pointers(environment),
        signals: &start.signals,
        parent: Pid::this(),
        kept: None,
    };
    // SAFETY: as in `fork_to_gate`.
    match unsafe { fork() }.ok()? {
        ForkResult::Child => {
            run_child(&execution, None);
            // SAFETY: ends the process at once, without running anything of the parent's.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            let score = start.oom_score.iter();
            score.for_each(|score| score.give_to(child.as_raw()));
            ProcessId::of(child.as_raw())
        }
    }
}

/// Forks a process that runs `work` and ends with it. Whoever waits for children does not see it
/// end, but for [`end_unseen`]. Call this while there is one thread.
#[allow(unsafe_code)]
pub(crate) fn fork_unseen(work: impl FnOnce()) -> Result<Pid, Errno> {
    let none: libc::c_long = 0;
    // SAFETY: clone(2) without flags and without a signal for the parent is a fork, on whichever
    // machine: all its arguments are zero. There is no other thread that could hold a lock, so the
    // child may do all that we may.
    let pid = unsafe { libc::syscall(libc::SYS_clone, none, none, none, none, none) };
    match Errno::result(pid)? {
        0 => {
            work();
            // SAFETY: ends the process at once, without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Pid::from_raw(
            i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?,
        )),
    }
}

/// Such a process has its turn before others, as far as that is allowed. The C library takes its
/// thread for that of its parent.
#[allow(unsafe_code)]
pub(crate) fn go_first() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: a system call about this process that reads `lowest`.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) };
}

/// Kills such a process, whose number cannot be another's before [`end_unseen`].
pub(crate) fn kill_unseen(pid: Pid) {
    // It may have been killed.
    let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
}

/// Ends such a process.
pub(crate) fn end_unseen(pid: Pid) {
    kill_unseen(pid);
    let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::__WCLONE));
}

/// Closes all that this process has open, but for what has one of these numbers; standard input,
/// output and error are /dev/null from then on.
#[allow(unsafe_code)]
pub(crate) fn close_all_but(kept: &[RawFd]) -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    let names = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.collect();
    for number in numbers {
        if !STANDARD.contains(&number) && !kept.contains(&number) && number != null.as_raw_fd() {
            // SAFETY: whatever of this process's has it open is never used again: the caller goes
            // on with what it keeps alone.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
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
