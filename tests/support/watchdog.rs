//! A watchdog device that resets nothing: what lease-join does to it stands in a log, and so when
//! it would have reset the machine.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::directory;
use lease_core::clock::Moment;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// What the kernel's have before they are told another time.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One device.
pub struct Watchdog {
    dir: TempDir,
    library: PathBuf,
}

/// What was done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// When.
    pub at: Moment,
    /// `open`, `set`, `pet`, `V` or `close`.
    pub what: String,
    /// The process that has opened it, or the seconds to which it was set.
    pub number: u64,
}

impl Watchdog {
    /// One that nobody has opened.
    #[allow(clippy::new_without_default)] // It builds a library.
    pub fn new() -> Self {
        let dir = directory();
        let library = dir.path().join("watchdog.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("watchdog.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).arg(&library);
        let status = compiler.arg(source).arg("-ldl").status();
        assert!(status.expect("a C compiler").success());
        let watchdog = Self { dir, library };
        // No driver has this number, so that sysfs shows nothing of it.
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let made = mknod(&watchdog.path(), SFlag::S_IFCHR, mode, makedev(242, 7));
        made.expect("making a device needs root");
        watchdog
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("watchdog")
    }

    /// A lease-join that has it as its device.
    pub fn of(&self, join: &mut Command) {
        join.env("LD_PRELOAD", &self.library);
        join.env("WATCHDOG_DEVICE", self.path());
        join.env("WATCHDOG_DIR", self.dir.path());
        join.arg("--watchdog").arg(self.path());
    }

    /// All that was done to it, in order.
    pub fn log(&self) -> Vec<Done> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let done = |line: &str| {
            let mut words = line.split(' ');
            let mut next = || words.next().expect("a word");
            let at = Moment(next().parse().expect("a number"));
            let what = next().to_owned();
            let number = next().parse().expect("a number");
            Done { at, what, number }
        };
        text.lines().map(done).collect()
    }

    /// When it resets the machine, if nothing more is done to it; `None`: it is not armed.
    pub fn resets_at(&self) -> Option<Moment> {
        let (mut resets_at, mut timeout, mut disarms) = (None::<Moment>, TIMEOUT, false);
        for done in self.log() {
            if let Some(before) = resets_at.filter(|before| *before <= done.at) {
                return Some(before);
            }
            match done.what.as_str() {
                "set" => timeout = Duration::from_secs(done.number),
                "close" => {
                    resets_at = resets_at.filter(|_| !disarms);
                    continue;
                }
                _ => {}
            }
            disarms = done.what == "V";
            resets_at = Some(done.at.after(timeout));
        }
        resets_at
    }
}
