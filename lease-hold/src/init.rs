//! The init of a PID namespace: the first process in it, whose end is the end of all others.
//!
//! lease-hold executes itself as this, under another name. It starts the command, reaps whatever
//! is left to it, and carries the last deadline. Signals reach the command itself, by a descriptor
//! that lease-hold gets from here.

use crate::carrier::Control;
use crate::command::Command;
use crate::fork;
use lease_core::holder::carrier::{Carried, Carrier};
use lease_core::priority;
use lease_core::registry::wire::Wire;
use lease_core::tool::Status;
use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name under which lease-hold executes itself as an init.
const CALLED: &str = "lease-hold-init";
/// What it is executed from.
pub(crate) const SELF: &std::ffi::CStr = c"/proc/self/exe";

/// What the init says to its lease-hold.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Report {
    /// The command runs; a pidfd comes with this message.
    Started,
    /// The command could not be executed.
    NotExecuted { errno: i32 },
    /// The command was stopped.
    Stopped { signal: i32 },
    /// The command has ended.
    Exited { code: u8 },
}

/// The arguments with which lease-hold executes itself as an init: `control` is its end of a
/// socket, kept open for it.
pub(crate) fn arguments(
    control: RawFd,
    carried: &Carried,
    run_dir: &Path,
    command: &Command,
) -> anyhow::Result<Vec<CString>> {
    let words = [
        CALLED.to_owned(),
        control.to_string(),
        serde_json::to_string(carried)?,
    ];
    let mut all = Vec::new();
    for word in words {
        all.push(CString::new(word)?);
    }
    all.push(CString::new(run_dir.as_os_str().as_bytes())?);
    all.push(command.file.clone());
    all.extend(command.arguments.iter().cloned());
    Ok(all)
}

/// Runs as an init if that is what this process was executed as.
pub(crate) fn run_if_called() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    if words.next()? != CALLED {
        return None;
    }
    Some(run(words).unwrap_or(ExitCode::from(Status::Internal.code())))
}

fn run(mut words: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let control: RawFd = words.next()?.to_str()?.parse().ok()?;
    let carried: Carried = serde_json::from_str(words.next()?.to_str()?).ok()?;
    let run_dir = PathBuf::from(words.next()?);
    let mut strings = words.map(|word| CString::new(word.into_vec()).ok());
    let file = strings.next()??;
    let arguments: Vec<CString> = strings.collect::<Option<_>>()?;
    let control = UnixStream::from(fork::inherited(control)?);
    control.set_nonblocking(true).ok()?;
    let mut wire = Wire::new(control.try_clone().ok()?);
    fork::wait_for_children().ok()?;
    let control = Control::new(Wire::new(control), &run_dir, &carried).ok()?;
    let mut carrier = Carrier::new(control, &carried);
    // Whoever was stopped since the gate opened may be too late.
    if carrier.is_over() {
        end();
    }
    carry_deadline(carrier)?;
    match fork::start(&file, &arguments) {
        Ok((pid, fd)) => {
            wire.send_with(&Report::Started, fd.as_fd()).ok()?;
            reap(pid, &mut wire);
        }
        Err(why) => {
            let errno = why
                .downcast_ref()
                .map_or(libc::EAGAIN, |errno: &Errno| *errno as i32);
            wire.send(&Report::NotExecuted { errno }).ok()?;
        }
    }
    Some(ExitCode::SUCCESS)
}

/// Reaps until nothing is left, and reports the command's end.
fn reap(command: Pid, wire: &mut Wire) {
    loop {
        let code = match waitpid(None, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => code & 0xFF,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => 128 + signal as i32,
            Ok(WaitStatus::Stopped(pid, signal)) if pid == command => {
                // As below.
                let _ = wire.send(&Report::Stopped {
                    signal: signal as i32,
                });
                continue;
            }
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        // Without lease-hold this process is about to be killed.
        let _ = wire.send(&Report::Exited {
            code: u8::try_from(code).unwrap_or(u8::MAX),
        });
    }
}

/// On a thread of its own: ends this process, and with it the namespace, when all has to end.
fn carry_deadline(mut carrier: Carrier<Control>) -> Option<()> {
    let carry = move || {
        // The command is started by another thread, as lease-hold was.
        priority::go_first();
        // Whatever has kept it from waiting: nobody carries the deadline any more.
        let _ = carrier.carry();
        end();
    };
    std::thread::Builder::new().spawn(carry).ok().map(drop)
}

#[allow(clippy::exit)]
fn end() -> ! {
    std::process::exit(i32::from(Status::Lost.code()))
}
