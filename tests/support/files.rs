//! Running the built tools and the real sanlock on files and loop devices.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A mebibyte: the smallest area.
pub const MIB: u64 = 1 << 20;

/// Sector size, area size and its name of the five geometries; the default of files first.
pub const GEOMETRIES: [(&str, &str, u64); 5] = [
    ("512", "1M", 1),
    ("4096", "1M", 1),
    ("4096", "2M", 2),
    ("4096", "4M", 4),
    ("4096", "8M", 8),
];

/// The built binary `name`, which lies beside this program or beside the directory of this test.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let dir = own.parent().expect("target/PROFILE/PROGRAM");
    let dir = match dir.ends_with("deps") {
        true => dir.parent().expect("target/PROFILE/deps/TEST"),
        false => dir,
    };
    let path = dir.join(name);
    if !path.exists() {
        panic!(
            "{} is missing: run cargo build --workspace first",
            path.display()
        );
    }
    path
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Exit status, or 128 + N for signal N.
    pub code: i32,
    /// What it wrote on stdout.
    pub stdout: String,
    /// What it wrote on stderr.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let signal = || 128 + output.status.signal().unwrap_or(0);
        Self {
            code: output.status.code().unwrap_or_else(signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a built tool to its end in directory `dir`.
pub fn run(dir: &Path, tool: &str, args: &[impl AsRef<OsStr>]) -> Ran {
    let output = Command::new(binary(tool))
        .args(args)
        .current_dir(dir)
        .output();
    output.expect("the tool starts").into()
}

/// Runs the real `sanlock` in directory `dir`; it must be installed, and succeed.
pub fn sanlock(dir: &Path, args: &[&str]) -> Ran {
    let output = Command::new("sanlock").args(args).current_dir(dir).output();
    let ran: Ran = output
        .expect("sanlock is installed (apt-get install sanlock)")
        .into();
    assert_eq!(ran.code, 0, "sanlock {args:?}: {ran:?}");
    ran
}

/// An empty directory that goes when the test does.
pub fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The path of `name` in `dir`, as text.
pub fn path_in(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

/// A file of `mebibytes` full of `byte`.
pub fn filled(path: impl AsRef<Path>, mebibytes: u64, byte: u8) {
    let len = usize::try_from(mebibytes * MIB).expect("it fits");
    std::fs::write(path, vec![byte; len]).expect("the file is written");
}

/// All bytes of a file.
pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).expect("the file is read")
}

/// Writes over a part of a file.
pub fn patch(path: impl AsRef<Path>, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path);
    let written = file.and_then(|file| file.write_all_at(bytes, at));
    written.expect("the file is patched");
}

/// A loop device, detached when dropped. Needs root.
pub struct Loop {
    /// Its path under /dev.
    pub path: String,
}

impl Loop {
    /// A device over `file` with logical sectors of `sector_size` bytes.
    pub fn over(file: &Path, sector_size: &str) -> Self {
        Self::with(file, &["--sector-size", sector_size])
    }

    /// A device over `file` that takes no writes.
    pub fn read_only(file: &Path) -> Self {
        Self::with(file, &["--read-only"])
    }

    fn with(file: &Path, options: &[&str]) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["--show", "--find"]).args(options).arg(file);
        let ran: Ran = losetup.output().expect("losetup is installed").into();
        assert_eq!(ran.code, 0, "a loop device (needs root): {ran:?}");
        let path = ran.stdout.trim().to_owned();
        Self { path }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
    }
}

/// A sector that the real sanlock wrote.
pub fn golden(name: &str) -> Vec<u8> {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lease-core");
    bytes(core.join("golden").join(name))
}

/// A tool to be run by somebody who is not root, from a copy in `dir`, which everybody may enter.
pub fn as_nobody(dir: &Path, tool: &str) -> Command {
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir, everybody).expect("the directory is opened");
    // Not by this process: a child that another thread forks meanwhile would have the copy open for
    // writing, and then it cannot be executed.
    let copied = Command::new("cp").arg(binary(tool)).arg(dir).status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "the tool is copied"
    );
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(dir.join(tool)).current_dir(dir);
    command
}

/// A real sanlock daemon of its own, killed when dropped.
pub struct Daemon {
    run_dir: TempDir,
    process: Child,
}

impl Daemon {
    /// A daemon of this host name, without a watchdog.
    pub fn start(host_name: &str) -> Self {
        let run_dir = directory();
        let process = Command::new("sanlock")
            .args([
                "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-e", host_name,
            ])
            .env("SANLOCK_PRIVILEGED", "0")
            .env("SANLOCK_RUN_DIR", run_dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = process.expect("sanlock is installed (apt-get install sanlock)");
        let daemon = Self { run_dir, process };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !daemon.run_dir.path().join("sanlock.sock").exists() {
            assert!(
                Instant::now() < deadline,
                "the sanlock daemon does not start"
            );
            sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// `sanlock client ...` of this daemon, which must succeed.
    pub fn client(&self, args: &[&str]) -> Ran {
        let output = self.command(args).output();
        let ran: Ran = output.expect("sanlock runs").into();
        assert_eq!(ran.code, 0, "sanlock client {args:?}: {ran:?}");
        ran
    }

    /// `sanlock client ...`, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("sanlock");
        command.arg("client").args(args);
        command.env("SANLOCK_RUN_DIR", self.run_dir.path());
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A small file system, mounted while this lives.
pub struct Small(TempDir);

impl Small {
    /// An empty one.
    #[allow(clippy::new_without_default)] // It mounts.
    pub fn new() -> Self {
        let dir = directory();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=755", "none"]);
        let status = mount.arg(dir.path()).status();
        assert!(status.expect("mount").success(), "mounting needs root");
        Self(dir)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it. The file that does.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.path().join("fill");
        let room = std::fs::write(&path, vec![0; 64 << 10]);
        assert!(room.is_err(), "it is full");
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(self.0.path()).status();
    }
}
