//! Hosts of ours: a run directory and a host name each.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::{Ran, binary};
use crate::process::{Process, SOON, now, wait_until};
use crate::storage::Storage;
use lease_core::clock::Moment;
use lease_core::id::Name;
use lease_core::registry::place::{Kept, Place};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
    /// Its own path to the storage.
    disk: PathBuf,
    watchdog: u64,
    /// t; what the storage was formatted with, if nothing else is asked for.
    io_timeout: Option<u8>,
}

impl Host {
    /// Host `id`, called host and its id.
    pub fn new(storage: &Storage, id: u64) -> Self {
        let name = format!("host{id}");
        Self {
            run_dir: storage.path().join(&name),
            lockspace: storage.lockspace(id),
            name,
            disk: storage.file(),
            watchdog: WATCHDOG,
            io_timeout: None,
        }
    }

    /// The same host with another t, in seconds.
    pub fn with_io_timeout(mut self, seconds: u8) -> Self {
        self.io_timeout = Some(seconds);
        self
    }

    /// The same host with another watchdog time.
    pub fn promising(mut self, watchdog: u64) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// The same host by another name.
    pub fn called(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// 8t + W: so long after its last renewal all that it guards is dead, with the storage's t of 1
    /// unless it was given another.
    pub fn dead_after(&self) -> Duration {
        let io_timeout = self.io_timeout.map_or(1, u64::from);
        Duration::from_secs(8 * io_timeout + self.watchdog)
    }

    /// The same host, in the run directory of another.
    pub fn in_place_of(mut self, other: &Host) -> Self {
        self.run_dir.clone_from(&other.run_dir);
        self
    }

    /// The same host with a path of its own to the storage.
    pub fn by_way_of(mut self, storage: &Storage, disk: &Path) -> Self {
        self.lockspace = moved(&self.lockspace, &storage.file(), disk);
        self.disk = disk.to_owned();
        self
    }

    /// The RESOURCE string of resource `number` as this host sees it.
    pub fn resource(&self, storage: &Storage, number: u64) -> String {
        moved(&storage.resource(number), &storage.file(), &self.disk)
    }

    /// The moment before its last completed renewal was issued, as its own file says.
    pub fn renewed(&self) -> Moment {
        let life = self.kept_life().expect("the heartbeat's file");
        Moment(life["renewed"].as_u64().expect("a moment"))
    }

    /// What its lease-join keeps of its heartbeat for the next one.
    pub fn kept_life(&self) -> Option<serde_json::Value> {
        let name = Name::new(b"LS").expect("a name");
        let place = Place::open(&self.run_dir, &name).ok()?;
        let text = place.read(Kept::Heartbeat).expect("it is whole")?;
        Some(serde_json::from_slice(&text).expect("JSON"))
    }

    /// Waits until it has renewed once more, and asks nobody.
    pub fn wait_for_renewal_unasked(&self) -> Moment {
        let before = self.renewed();
        let newer = || Some(self.renewed()).filter(|renewed| *renewed > before);
        wait_until("a renewal", SOON, newer)
    }

    /// Waits until it has renewed once more: from then on its lease lasts for 8 s.
    pub fn wait_for_renewal(&self) -> Moment {
        let renewed = self.wait_for_renewal_unasked();
        // Once lease-join says so to whoever asks, it has told its holders.
        wait_until("lease-join's word", SOON, || {
            let age = self.describe()["renewed"].as_f64().expect("a number");
            let at_the_latest = now().since(Moment::default()).as_secs_f64() - age;
            let renewed = renewed.since(Moment::default()).as_secs_f64();
            (at_the_latest + 0.001 >= renewed).then_some(())
        });
        renewed
    }

    /// What its lease-join says of itself.
    pub fn describe(&self) -> serde_json::Value {
        self.describe_if_there().expect("a lease-join")
    }

    /// What its lease-join says of itself, if there is one.
    pub fn describe_if_there(&self) -> Option<serde_json::Value> {
        let ran = Process::start(self.tool("lease-dump").arg("--local")).finish();
        (ran.code == 0).then(|| serde_json::from_str(&ran.stdout).expect("JSON"))
    }

    /// The next change of its holders that its lease-join writes goes to a pipe, and waits there
    /// until [`Page::let_go`].
    pub fn hold_back_page(&self) -> Page {
        let page = Page(self.run_dir.join("LS/state"));
        let pipe = self.run_dir.join("LS/pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        std::fs::rename(&pipe, &page.0).expect("it takes the page's place");
        page
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
        command.args([&self.watchdog.to_string(), &self.lockspace]);
        command.args(self.io_timeout.map(|seconds| format!("-o{seconds}")));
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

    /// One of the tools, told where this host's run directory is.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(binary(name));
        command.arg("--run-dir").arg(&self.run_dir);
        command
    }
}

/// A page that is held back.
pub struct Page(PathBuf);

impl Page {
    /// It is written, as long as what this returns is there.
    #[must_use]
    pub fn let_go(self) -> File {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        options.open(&self.0).expect("the pipe")
    }
}

/// A LOCKSPACE or RESOURCE string with another path in it.
fn moved(spec: &str, from: &Path, to: &Path) -> String {
    spec.replace(&from.display().to_string(), &to.display().to_string())
}
