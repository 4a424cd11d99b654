//! Whoever guards a registered process: a lease-hold for each lockspace in which it holds, or has
//! held, a lease. It outlives this process.

use super::clients::GuardedBy;
use super::known::Known;
use super::options::Options;
use super::tools;
use lease_core::process::ProcessId;
use nix::errno::Errno;
use rustix::process::Signal;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A signal that changes nothing: what is to be done on a loss is in a script.
const NO_SIGNAL: &str = "CONT";
/// Between two looks whether one has ended before it was ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Those that were started from here.
#[derive(Debug, Default)]
pub(super) struct Guards {
    /// To be waited for some time.
    children: Mutex<Vec<Child>>,
    count: AtomicU64,
}

/// The lease-hold that guards this process in the lockspace of this lease-join.
pub(super) fn of(known: &Known, pid: i32) -> Option<ProcessId> {
    let mut holders = known.says.holders.iter();
    let guard = holders.find(|holder| holder.guarded == Some(pid))?;
    ProcessId::of(guard.pid)
}

/// Tells one to give back what it holds, and to leave the process alone.
pub(super) fn let_go(guard: ProcessId) {
    if let Some(process) = guard.open() {
        process.signal(Signal::TERM);
    }
}

impl Guards {
    /// Starts one for a process, and waits until it guards it.
    pub(super) fn start(&self, options: &Options, pid: i32, files: &GuardedBy) -> Result<(), i32> {
        self.try_start(options, pid, files).map_err(|why| {
            super::log::say(&format!("cannot guard process {pid}: {why}"));
            -(Errno::EIO as i32)
        })
    }

    fn try_start(&self, options: &Options, pid: i32, files: &GuardedBy) -> io::Result<()> {
        self.reap();
        let ready = Ready::listen(&files.on_loss, self.count.fetch_add(1, Ordering::Relaxed))?;
        let mut command = tools::command("lease-hold");
        command.args(["--pid", &pid.to_string(), "--kill-signal", NO_SIGNAL]);
        command.arg("--on-loss").arg(in_sh(&files.on_loss));
        command.arg("--on-request").arg(in_sh(&files.on_request));
        command.arg("--kept-by").arg(&files.lock);
        command.arg("--run-dir").arg(&options.run_dir);
        command.env("NOTIFY_SOCKET", &ready.path);
        command.process_group(0).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let is_ready = ready.wait(&mut child);
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(child);
        is_ready
    }

    fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

/// A script as a command for sh.
fn in_sh(script: &Path) -> OsString {
    let mut command = OsString::from("exec sh '");
    command.push(script);
    command.push("'");
    command
}

/// Where one says that it is ready.
struct Ready {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ready {
    fn listen(beside: &Path, number: u64) -> io::Result<Self> {
        let path = beside.with_extension(format!("ready-{number}"));
        // Left by one that ended in between.
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Self { socket, path })
    }

    fn wait(&self, child: &mut Child) -> io::Result<()> {
        let mut word = [0; 256];
        loop {
            match self.socket.recv(&mut word) {
                Ok(len) if word[..len].starts_with(b"READY=1") => return Ok(()),
                _ => {}
            }
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("lease-hold has ended: {status}")));
            }
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
