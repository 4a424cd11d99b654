//! Hosts of ours: a run directory and a host name each.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::{Ran, binary};
use crate::process::Process;
use crate::storage::Storage;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// The watchdog time of these hosts, in seconds: as short as a test can be sure of. With t = 1
/// a host is dead 10 s after its last renewal.
pub const WATCHDOG: u64 = 2;

/// A command that says when it runs, and goes on until it is ended.
pub const STAY: [&str; 3] = ["sh", "-c", "echo held; exec sleep 100"];

/// One host.
pub struct Host {
    /// Its run directory.
    pub run_dir: PathBuf,
    name: String,
    lockspace: String,
}

impl Host {
    /// Host `id`, called host and its id.
    pub fn new(storage: &Storage, id: u64) -> Self {
        let name = format!("host{id}");
        Self {
            run_dir: storage.path().join(&name),
            lockspace: storage.lockspace(id),
            name,
        }
    }

    /// A joined host, and its lease-join.
    pub fn joined(storage: &Storage, id: u64) -> (Self, Process) {
        let host = Self::new(storage, id);
        let join = host.join();
        (host, join)
    }

    /// Starts its lease-join, and waits until it has joined.
    pub fn join(&self) -> Process {
        let process = self.start_join();
        process.wait_for_stdout("joined");
        process
    }

    /// Starts its lease-join.
    pub fn start_join(&self) -> Process {
        Process::start(&mut self.join_command())
    }

    /// Its lease-join as a command.
    pub fn join_command(&self) -> Command {
        let mut command = self.tool("lease-join");
        command.args(["-e", &self.name, "--watchdog-timeout"]);
        command.args([&WATCHDOG.to_string(), &self.lockspace]);
        command
    }

    /// Runs lease-hold to its end.
    pub fn hold(&self, args: &[&str], command: &[&str]) -> Ran {
        self.start_hold(args, command).finish()
    }

    /// Starts lease-hold.
    pub fn start_hold(&self, args: &[&str], command: &[&str]) -> Process {
        Process::start(&mut self.hold_command(args, command))
    }

    /// Starts lease-hold with a command that stays, and waits until that runs.
    pub fn holding(&self, args: &[&str]) -> Process {
        let process = self.start_hold(args, &STAY);
        process.wait_for_stdout("held");
        process
    }

    /// lease-hold as a command.
    pub fn hold_command<T: AsRef<OsStr>>(&self, args: &[&str], command: &[T]) -> Command {
        let mut tool = self.tool("lease-hold");
        tool.args(args).arg("--").args(command);
        tool
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(binary(name));
        command.arg("--run-dir").arg(&self.run_dir);
        command
    }
}
