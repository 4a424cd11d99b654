//! Processes that a test starts: waited for with a deadline, never left behind.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::Ran;
use lease_core::clock::{BootClock, Moment};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long anything may take that has no time of its own: generous, for a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Now, on the clock that the tools use.
pub fn now() -> Moment {
    BootClock::boot_time()
}

/// Waits until `look` finds something; fails the test after `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = now().after(limit);
    loop {
        if let Some(found) = look() {
            return found;
        }
        if now() > until {
            panic!("not within {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The state of a process, as /proc shows it.
pub fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Whether a process runs: one that has ended and was not waited for does not.
pub fn runs(pid: i32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// Whether a thread of this process waits for storage.
pub fn is_in_io(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let mut threads = threads.into_iter().flatten().flatten();
    threads.any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('D'))
    })
}

/// Waits until a process has ended, and returns when that was seen.
pub fn wait_for_end(pid: i32, limit: Duration) -> Moment {
    wait_until(&format!("the end of process {pid}"), limit, || {
        (!runs(pid)).then(now)
    })
}

/// Runs all of `parts` at the same time; fails if any fails, naming each that did.
pub fn together<T: Sync>(parts: &[T], name: impl Fn(&T) -> String, run: impl Fn(&T) + Sync) {
    let failed: Vec<String> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = parts
            .iter()
            .map(|part| scope.spawn(move || run(part)))
            .collect();
        let parts = threads.into_iter().zip(parts);
        let failed = parts.filter_map(|(thread, part)| thread.join().err().map(|_| name(part)));
        failed.collect()
    });
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// A process in a group of its own. The whole group is killed when this is dropped.
pub struct Process {
    child: Child,
    shown: String,
    stdout: File,
    stderr: File,
}

impl Process {
    /// Starts `command` with nothing on stdin, collecting what it writes.
    pub fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::null())
    }

    /// Starts `command` with something on stdin, collecting what it writes.
    pub fn start_with(command: &mut Command, stdin: Stdio) -> Self {
        let stderr = tempfile::tempfile().expect("a temporary file");
        let of_child = stderr.try_clone().expect("a descriptor").into();
        Self::start_on(command, stdin, stderr, of_child)
    }

    /// Starts `command` with nothing on stdin, and on stderr a pipe that is full and that nobody
    /// reads.
    pub fn start_unread(command: &mut Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut pipe = File::from(OwnedFd::from(writer));
        let set = |flags| fcntl(&pipe, FcntlArg::F_SETFL(flags)).expect("its flags");
        set(OFlag::O_NONBLOCK);
        while (&pipe).write(&[b'x'; 4096]).is_ok() {}
        while (&pipe).write(b"x").is_ok() {}
        set(OFlag::empty());
        pipe.flush().expect("nothing to do");
        Self::start_on(
            command,
            Stdio::null(),
            OwnedFd::from(reader).into(),
            pipe.into(),
        )
    }

    /// What it has written on stderr is read from `stderr`.
    fn start_on(command: &mut Command, stdin: Stdio, stderr: File, of_child: Stdio) -> Self {
        let stdout = tempfile::tempfile().expect("a temporary file");
        let shown = format!("{command:?}");
        command.stdin(stdin).process_group(0).stderr(of_child);
        command.stdout(stdout.try_clone().expect("a descriptor"));
        let child = command
            .spawn()
            .unwrap_or_else(|why| panic!("{shown}: {why}"));
        // Else the command would keep what the child has of it.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self {
            child,
            shown,
            stdout,
            stderr,
        }
    }

    /// Writes to its stdin, which was piped.
    pub fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("it is written");
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The processes that it has started.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace();
        children.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The one of them that is in its session: of a lease-hold, not the one that it has for itself.
    pub fn child(&self) -> Option<i32> {
        let session = |pid: i32| nix::unistd::getsid(Some(Pid::from_raw(pid))).ok();
        let mut children = self.children().into_iter();
        children.find(|child| session(*child) == session(self.pid()))
    }

    /// What it has written on stdout so far.
    pub fn stdout(&self) -> String {
        content(&self.stdout)
    }

    /// What it has written on stderr so far.
    pub fn stderr(&self) -> String {
        content(&self.stderr)
    }

    /// Waits until stdout contains `part`; fails at once if it ends before.
    pub fn wait_for_stdout(&self, part: &str) {
        self.wait_for(part, |process| process.stdout());
    }

    /// Waits until stderr contains `part`; fails at once if it ends before.
    pub fn wait_for_stderr(&self, part: &str) {
        self.wait_for(part, |process| process.stderr());
    }

    fn wait_for(&self, part: &str, text: impl Fn(&Self) -> String) {
        let what = format!("{:?} from {}", part, self.shown);
        wait_until(&what, SOON, || {
            let ended = self.code();
            if text(self).contains(part) {
                return Some(());
            }
            if let Some(code) = ended {
                panic!("{what}: it ended with {code}: {}", self.stderr());
            }
            None
        });
    }

    /// Its exit code, or 128 + N for signal N, if it has ended. It is reaped only when dropped,
    /// so that nobody else gets its process id while a test still speaks of it.
    pub fn code(&self) -> Option<i32> {
        let id = Id::Pid(Pid::from_raw(self.pid()));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(id, flags).expect("our child") {
            WaitStatus::Exited(_, code) => Some(code),
            WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
            _ => None,
        }
    }

    /// Waits for its end, at most `limit`.
    pub fn finish_within(&self, limit: Duration) -> Ran {
        let what = format!("the end of {}", self.shown);
        let code = wait_until(&what, limit, || self.code());
        Ran {
            code,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }

    /// Waits for its end.
    pub fn finish(&self) -> Ran {
        self.finish_within(SOON)
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("our child");
    }

    /// Kills it alone, and sees it dead.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.finish();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may all be gone already.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        // What hangs in the kernel ends when the storage goes, which may be after this.
        let until = now().after(SOON);
        while matches!(self.child.try_wait(), Ok(None)) && now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn content(file: &File) -> String {
    let len = file.metadata().expect("a file").len();
    let mut bytes = vec![0; usize::try_from(len).expect("it fits")];
    file.read_exact_at(&mut bytes, 0).expect("it is read");
    String::from_utf8_lossy(&bytes).into_owned()
}
