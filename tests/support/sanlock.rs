//! Hosts that run the real sanlock daemon, which must be installed.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::{Ran, directory};
use crate::process::{Process, SOON, wait_until};
use crate::storage::Storage;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The daemon's watchdog time, in seconds: it takes over from anybody, and others may take over
/// from it, more than 8t and this after the last renewal.
pub const WATCHDOG: u64 = 60;

/// Longer than any takeover by the daemon, or from it, takes at t = 1.
pub const TAKEOVER: Duration = Duration::from_secs(110);

/// One host with a daemon of its own.
pub struct Daemon {
    dir: TempDir,
    /// The daemon.
    pub process: Process,
}

impl Daemon {
    /// Starts a daemon for a host of this name.
    pub fn start(name: &str) -> Self {
        // No high priority, no locked memory.
        Self::start_with(name, &["-h", "0", "-l", "0"])
    }

    /// Starts one with other options; none: as it is shipped, but for its watchdog.
    pub fn start_with(name: &str, options: &[&str]) -> Self {
        let installed = Command::new("sanlock").arg("version").output();
        installed.expect("sanlock must be installed for this test (apt-get install sanlock)");
        let dir = directory();
        let mut command = sanlock(&dir);
        // In the foreground, and no watchdog.
        command.args(["daemon", "-D", "-w", "0", "-e", name]);
        command.args(options);
        command.env("SANLOCK_PRIVILEGED", "0");
        let process = Process::start(&mut command);
        let daemon = Self { dir, process };
        wait_until("the daemon answers", SOON, || {
            (daemon.client(&["status"]).code == 0).then_some(())
        });
        daemon
    }

    /// A daemon that has joined as host `id`.
    pub fn joined(storage: &Storage, id: u64) -> Self {
        let daemon = Self::start(&format!("host{id}"));
        daemon.join(storage, id);
        daemon
    }

    /// Joins the lockspace.
    pub fn join(&self, storage: &Storage, id: u64) {
        let lockspace = storage.lockspace(id);
        let ran = self.client(&["add_lockspace", "-s", &lockspace, "-o", "1"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Runs a `sanlock client` command to its end.
    pub fn client(&self, args: &[&str]) -> Ran {
        self.start_client(args).finish()
    }

    /// Starts a `sanlock client` command.
    pub fn start_client(&self, args: &[&str]) -> Process {
        Process::start(&mut self.command(args))
    }

    /// A `sanlock client` command that is not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = sanlock(&self.dir);
        command.arg("client").args(args);
        command
    }

    /// A Python script that talks to it, by python3-sanlock, that is not started yet.
    pub fn python(&self, script: &str) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-u", "-c", script]);
        command.env("SANLOCK_RUN_DIR", self.dir.path());
        command
    }

    /// A process that is registered and can be given leases.
    pub fn register(&self) -> Process {
        let process = self.start_client(&["command", "-c", "/bin/sleep", "300"]);
        let line = format!("p {} ", process.pid());
        wait_until("the process is registered", SOON, || {
            self.client(&["status"])
                .stdout
                .contains(&line)
                .then_some(())
        });
        process
    }

    /// Acquires for a registered process. Returns sanlock's number: 0 or an error. Waits with the
    /// daemon until an owner that it does not see alive must be dead.
    pub fn acquire(&self, resource: &str, process: &Process) -> i32 {
        let pid = process.pid().to_string();
        let acquire = self.start_client(&["acquire", "-r", resource, "-p", &pid]);
        let ran = acquire.finish_within(TAKEOVER);
        number(&ran, "acquire done ")
    }

    /// Releases what a registered process holds.
    pub fn release(&self, resource: &str, process: &Process) {
        let pid = process.pid().to_string();
        let ran = self.client(&["release", "-r", resource, "-p", &pid]);
        assert_eq!(number(&ran, "release done "), 0, "{ran:?}");
    }

    /// The timestamps that it has seen last, of hosts that ever joined.
    pub fn host_status(&self) -> Vec<(u64, u64)> {
        let ran = self.client(&["host_status", "-s", "LS"]);
        let parse = |line: &str| {
            let (host, timestamp) = line.split_once(" timestamp ")?;
            Some((host.trim().parse().ok()?, timestamp.trim().parse().ok()?))
        };
        ran.stdout.lines().filter_map(parse).collect()
    }

    /// What it thinks of host `id`: LIVE, FAIL, DEAD.
    pub fn opinion(&self, id: u64) -> String {
        let ran = self.client(&["gets", "-h", "1"]);
        let start = format!("h {id} ");
        let line = ran.stdout.lines().find(|line| line.starts_with(&start));
        let word = line.and_then(|line| line.split_whitespace().last());
        word.unwrap_or_default().to_owned()
    }
}

fn sanlock(dir: &TempDir) -> Command {
    let mut command = Command::new("sanlock");
    command.env("SANLOCK_RUN_DIR", dir.path());
    command
}

fn number(ran: &Ran, label: &str) -> i32 {
    let line = ran.stdout.lines().find_map(|line| line.strip_prefix(label));
    let number = line.and_then(|line| line.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {label:?} in {ran:?}"))
}
