//! A host whose sanlock socket is served: by the real daemon, or by our lease-join.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::{Ran, binary, directory};
use crate::process::{Process, SOON, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The real daemon.
    Daemon,
    /// Our lease-join.
    Ours,
}

/// One host.
pub struct Served {
    dir: TempDir,
    name: String,
    server: Server,
    /// W of ours, in seconds.
    watchdog: u64,
    /// Whoever serves.
    pub process: Process,
}

impl Served {
    /// Starts it for a host of this name.
    pub fn start(server: Server, name: &str) -> Self {
        Self::promising(server, name, 60)
    }

    /// Starts it; ours promises to be dead so many seconds after a loss.
    pub fn promising(server: Server, name: &str, watchdog: u64) -> Self {
        let dir = directory();
        let process = Process::start(&mut command(server, dir.path(), name, watchdog));
        let served = Self {
            dir,
            name: name.to_owned(),
            server,
            watchdog,
            process,
        };
        served.wait();
        served
    }

    /// Starts another one in its place; the former one has ended.
    pub fn start_again(&mut self) {
        let mut again = command(self.server, self.dir.path(), &self.name, self.watchdog);
        self.process = Process::start(&mut again);
        self.wait();
    }

    /// Starts another kind in its place; the former one has ended.
    pub fn replace_by(&mut self, server: Server) {
        self.server = server;
        self.start_again();
    }

    fn wait(&self) {
        wait_until("the socket is served", SOON, || {
            (self.client(&["status"]).code == 0).then_some(())
        });
    }

    /// A directory for what is this host's alone.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where our tools meet on this host.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A connection of this process.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("sanlock.sock"));
        let stream = stream.expect("it is served");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        stream
    }

    /// A `sanlock client` command that is not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("sanlock");
        command.arg("client").args(args);
        command.env("SANLOCK_RUN_DIR", self.dir.path());
        command
    }

    /// Runs a `sanlock client` command to its end.
    pub fn client(&self, args: &[&str]) -> Ran {
        Process::start(&mut self.command(args)).finish()
    }
}

impl Drop for Served {
    /// What outlives whoever serves ends with the test.
    fn drop(&mut self) {
        let path = self.dir.path().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().parse::<i32>();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if let Ok(pid) = pid
                && String::from_utf8_lossy(&line).contains(&path)
            {
                // It may be gone by now.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

fn command(server: Server, dir: &Path, name: &str, watchdog: u64) -> Command {
    match server {
        Server::Daemon => {
            let mut command = Command::new("sanlock");
            // In the foreground, no watchdog, no high priority, no locked memory.
            command.args(["daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-e", name]);
            command.env("SANLOCK_RUN_DIR", dir);
            command.env("SANLOCK_PRIVILEGED", "0");
            command
        }
        Server::Ours => {
            let socket = dir.join("sanlock.sock");
            let mut command = Command::new(binary("lease-join"));
            command.arg(format!("--sanlock-socket={}", socket.display()));
            command.args(["-e", name, "--watchdog-timeout", &watchdog.to_string()]);
            command.arg("--run-dir").arg(dir.join("run"));
            command
        }
    }
}
