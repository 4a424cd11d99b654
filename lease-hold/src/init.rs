//! The init of a PID namespace: the first process in it, whose end is the end of all others.
//!
//! lease-hold executes itself as this, under another name. It starts the command, reaps whatever
//! is left to it, and carries the last deadline: it acts even when lease-hold and lease-join are
//! both stopped. Signals reach the command itself, by a descriptor that lease-hold gets from here.

use crate::child;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::id::{Generation, Name};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::Status;
use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// The name under which lease-hold executes itself as an init.
const CALLED: &str = "lease-hold-init";
/// How long lease-join's files may take to be read.
const FILES_WITHIN: Duration = Duration::from_millis(50);
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

/// What lease-hold says to the init.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LastMoment {
    /// All is killed then.
    pub(crate) at: Moment,
}

/// What an init has to know to carry the last deadline.
#[derive(Debug)]
pub(crate) struct Carried {
    /// All is killed then, unless something was renewed meanwhile.
    pub(crate) last_moment: Moment,
    /// The hosts that hold the leases.
    pub(crate) hosts: Vec<CarriedHost>,
    /// Where their lease-joins are found.
    pub(crate) run_dir: PathBuf,
}

/// One host that holds leases.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CarriedHost {
    /// Of which lockspace.
    pub(crate) lockspace: Name,
    /// The life of it that holds them.
    pub(crate) generation: Generation,
    /// From its last renewal to the last moment.
    pub(crate) lapse: Duration,
}

/// The arguments with which lease-hold executes itself as an init: `control` is its end of a
/// socket, kept open for it.
pub(crate) fn arguments(
    control: RawFd,
    carried: &Carried,
    command: &crate::command::Command,
) -> anyhow::Result<Vec<CString>> {
    let words = [
        CALLED.to_owned(),
        control.to_string(),
        carried.last_moment.0.to_string(),
        serde_json::to_string(&carried.hosts)?,
    ];
    let mut all = Vec::new();
    for word in words {
        all.push(CString::new(word)?);
    }
    all.push(CString::new(carried.run_dir.as_os_str().as_bytes())?);
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
    let last_moment = Moment(words.next()?.to_str()?.parse().ok()?);
    let hosts: Vec<CarriedHost> = serde_json::from_str(words.next()?.to_str()?).ok()?;
    let run_dir = PathBuf::from(words.next()?);
    let (file, name) = (words.next()?, words.next()?);
    let mut wire = Wire::new(UnixStream::from(child::inherited(control)?));
    carry_deadline(
        wire.stream().try_clone().ok()?,
        last_moment,
        Files::open(&run_dir, hosts),
    );
    match Command::new(file).arg0(name).args(words).spawn() {
        Ok(child) => {
            let pid = child.id().cast_signed();
            let fd = pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            wire.send_with(&Report::Started, fd.as_fd()).ok()?;
            reap(Pid::from_raw(pid), &mut wire);
        }
        Err(why) => {
            let errno = why.raw_os_error().unwrap_or(libc::ENOEXEC);
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

/// On a thread of its own: ends this process, and with it the namespace, at the last moment that
/// lease-hold knows of, or when there is no lease-hold any more. A lease-hold that was stopped
/// hears of no renewals; then those count that lease-join's own files tell of.
fn carry_deadline(stream: UnixStream, first: Moment, files: Option<Files>) {
    std::thread::spawn(move || {
        let clock = BootClock::default();
        let files = files.map(Arc::new);
        let mut wire = Wire::new(stream);
        let mut last = first;
        loop {
            let left = last.since(clock.now());
            if left.is_zero() {
                match files.as_ref().and_then(last_moment_in) {
                    Some(later) if later > clock.now() => last = later,
                    _ => end(),
                }
                continue;
            }
            if wire.stream().set_read_timeout(Some(left)).is_err() {
                end();
            }
            match wire.receive::<LastMoment>() {
                Ok(later) => last = last.max(later.at),
                Err(why) if is_timeout(&why) => {}
                Err(_) => end(),
            }
        }
    });
}

/// The files of the lease-joins that renew.
struct Files(Vec<(Place, CarriedHost)>);

impl Files {
    fn open(run_dir: &Path, hosts: Vec<CarriedHost>) -> Option<Self> {
        let open = |host: CarriedHost| Some((Place::open(run_dir, &host.lockspace).ok()?, host));
        hosts.into_iter().map(open).collect::<Option<_>>().map(Self)
    }

    /// The last moment by what they say; `None` if one of those lives is over.
    fn last_moment(&self) -> Option<Moment> {
        let of = |(place, host): &(Place, CarriedHost)| {
            Some(place.renewed(host.generation)?.after(host.lapse))
        };
        let all: Option<Vec<Moment>> = self.0.iter().map(of).collect();
        all?.into_iter().min()
    }
}

/// Looks on another thread: a file may not answer, and there is no time to wait for it.
fn last_moment_in(files: &Arc<Files>) -> Option<Moment> {
    let (tell, told) = channel();
    let files = files.clone();
    std::thread::spawn(move || tell.send(files.last_moment()));
    told.recv_timeout(FILES_WITHIN).ok()?
}

fn is_timeout(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

#[allow(clippy::exit)]
fn end() -> ! {
    std::process::exit(i32::from(Status::Lost.code()))
}
