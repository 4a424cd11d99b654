//! One host's own path to the storage, which can be made to fail: the same file, served by nbdkit
//! and seen through FUSE.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::directory;
use crate::process::{SOON, wait_until};
use crate::storage::Storage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A path to a storage's file. It works for as long as the thread that made it lives.
pub struct StoragePath {
    dir: TempDir,
    nbdkit: Child,
    nbdfuse: Child,
}

impl StoragePath {
    /// A path on which all is fine.
    pub fn to(storage: &Storage) -> Self {
        Self::slow(storage, 0)
    }

    /// A path on which each read and each write takes some milliseconds.
    pub fn slow(storage: &Storage, milliseconds: u64) -> Self {
        Self::with_delays(storage, milliseconds, milliseconds)
    }

    /// A path on which each write lands so many milliseconds after it was issued.
    pub fn slow_to_write(storage: &Storage, milliseconds: u64) -> Self {
        Self::with_delays(storage, 0, milliseconds)
    }

    fn with_delays(storage: &Storage, read: u64, write: u64) -> Self {
        let dir = directory();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).expect("a directory");
        let mut nbdkit = first("nbdkit");
        nbdkit.args(["-f", "-U", &at("socket")]);
        nbdkit.args(["--filter=pause", "--filter=error", "--filter=delay", "file"]);
        nbdkit
            .arg(storage.file())
            .args(["error=EIO", "error-rate=100%"]);
        nbdkit.arg(format!("error-file={}", at("refuse")));
        nbdkit.arg(format!("error-pwrite-file={}", at("refuse-writes")));
        nbdkit.arg(format!("pause-control={}", at("control")));
        nbdkit.args([format!("rdelay={read}ms"), format!("wdelay={write}ms")]);
        let mut nbdkit = start(&mut nbdkit);
        wait_until("nbdkit", SOON, || {
            assert_eq!(
                nbdkit.try_wait().expect("our child"),
                None,
                "nbdkit (is it installed?)"
            );
            let ready = ["socket", "control"].map(|name| dir.path().join(name).exists());
            (ready == [true; 2]).then_some(())
        });
        let mut nbdfuse = first("nbdfuse");
        nbdfuse
            .arg(mount.join("disk"))
            .args(["--unix", &at("socket")]);
        let mut child = start(&mut nbdfuse);
        wait_until("nbdfuse (root, /dev/fuse?)", SOON, || {
            // The socket is there before nbdkit listens on it.
            if child.try_wait().expect("our child").is_some() {
                child = start(&mut nbdfuse);
            }
            mount.join("disk").exists().then_some(())
        });
        let nbdfuse = child;
        Self {
            dir,
            nbdkit,
            nbdfuse,
        }
    }

    /// The file on it.
    pub fn disk(&self) -> PathBuf {
        self.dir.path().join("mount/disk")
    }

    /// From now on every I/O fails.
    pub fn refuse(&self) {
        std::fs::write(self.dir.path().join("refuse"), "").expect("it is written");
        self.refuse_writes();
    }

    /// From now on every write fails.
    pub fn refuse_writes(&self) {
        std::fs::write(self.dir.path().join("refuse-writes"), "").expect("it is written");
    }

    /// From now on no I/O fails.
    pub fn heal(&self) {
        for file in ["refuse", "refuse-writes"] {
            // One of them may not be there.
            let _ = std::fs::remove_file(self.dir.path().join(file));
        }
    }

    /// From now on no I/O ends. Those that run are waited for.
    pub fn hang(&self) {
        self.control(b'p', b'P');
    }

    /// All that hangs goes on.
    pub fn go_on(&self) {
        self.control(b'r', b'R');
    }

    /// From now on nothing is answered that is asked of the file or of its name.
    pub fn freeze(&self) {
        self.to_the_mount(Signal::SIGSTOP);
    }

    /// All that was asked is answered.
    pub fn thaw(&self) {
        self.to_the_mount(Signal::SIGCONT);
    }

    fn to_the_mount(&self, signal: Signal) {
        let pid = Pid::from_raw(self.nbdfuse.id().cast_signed());
        kill(pid, signal).expect("our child");
    }

    fn control(&self, order: u8, done: u8) {
        let mut control = UnixStream::connect(self.dir.path().join("control")).expect("nbdkit");
        control.set_read_timeout(Some(SOON)).expect("a limit");
        control.write_all(&[order]).expect("it is written");
        let mut answer = [0];
        control.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [done]);
    }
}

impl Drop for StoragePath {
    /// Whatever I/O hangs ends with an error, and whoever waited for it can end.
    fn drop(&mut self) {
        for child in [&mut self.nbdkit, &mut self.nbdfuse] {
            let _ = child.kill();
            let _ = child.wait();
        }
        unmount(&self.dir.path().join("mount"));
    }
}

fn unmount(path: &Path) {
    let mut unmount = Command::new("umount");
    let _ = unmount.arg("-l").arg(path).stderr(Stdio::null()).status();
}

/// A program that has its turn before others: storage has processors of its own, and is not slow
/// because this machine is busy.
fn first(program: &str) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--rr", "1", program]);
    command
}

fn start(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = command.spawn();
    started.unwrap_or_else(|why| panic!("{command:?}: {why} (see the packages of tests/run)"))
}
