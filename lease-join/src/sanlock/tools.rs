//! The other tools, run.

use lease_core::failure::Status;
use nix::errno::Errno;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the tools find the run directory.
const RUN_DIR: &str = "LEASE_RUN_DIR";

/// A tool that lies beside this program, or on the PATH, ready to be started: with nothing on
/// stdin, and without what the service manager gave to this process alone.
pub(super) fn command(tool: &str) -> Command {
    let beside = own_path().with_file_name(tool);
    let mut command = match beside.exists() {
        true => Command::new(beside),
        false => Command::new(tool),
    };
    command.stdin(Stdio::null());
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    command
}

/// After an update the path of this program is that of the new one.
fn own_path() -> PathBuf {
    let path = env::current_exe().unwrap_or_default();
    let text = path.to_string_lossy().into_owned();
    match text.strip_suffix(" (deleted)") {
        Some(before) => PathBuf::from(before),
        None => path,
    }
}

/// Runs a tool to its end; sanlock's number for how it went. What it says goes where our messages
/// go.
pub(super) fn run(tool: &str, args: &[impl AsRef<OsStr>]) -> i32 {
    finish(tool, command(tool).args(args))
}

/// The same for one that uses leases.
pub(super) fn run_in(run_dir: &Path, tool: &str, args: &[impl AsRef<OsStr>]) -> i32 {
    finish(tool, command(tool).args(args).env(RUN_DIR, run_dir))
}

fn finish(tool: &str, command: &mut Command) -> i32 {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let ended = command
        .spawn()
        .and_then(std::process::Child::wait_with_output);
    match ended {
        Ok(ended) if ended.status.success() => 0,
        Ok(ended) => {
            let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
            super::log::say(&said);
            said_number(&said).unwrap_or_else(|| number_of(ended.status.code()))
        }
        Err(why) => {
            super::log::say(&format!("cannot run {tool}: {why}"));
            -(Errno::ENOSYS as i32)
        }
    }
}

/// sanlock's number at the end of what a tool said.
fn said_number(said: &str) -> Option<i32> {
    let (_, number) = said.strip_suffix(']')?.rsplit_once('[')?;
    number.parse().ok().filter(|number| *number < 0)
}

/// sanlock's number for an exit code.
pub(super) fn number_of(code: Option<i32>) -> i32 {
    let is = |status: Status| code == Some(i32::from(status.code()));
    let errno = match () {
        () if is(Status::Usage) || is(Status::Invalid) => Errno::EINVAL,
        () if is(Status::NoPath) => Errno::ENOENT,
        () if is(Status::CannotCreate) => Errno::ENOSPC,
        () if is(Status::Busy) => Errno::EBUSY,
        () if is(Status::Permission) => Errno::EACCES,
        () => Errno::EIO,
    };
    -(errno as i32)
}
