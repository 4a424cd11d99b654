//! `--events`: what other hosts signal, as it comes.

use crate::local::{failure, is_forbidden, names_of, nobody};
use crate::output::Output;
use anyhow::Context;
use lease_core::id::Name;
use lease_core::registry::message::{Ask, HeardEvent, Tell};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Between two looks whether anybody still reads.
const LOOK_AROUND: Duration = Duration::from_millis(200);

/// What is printed of one.
#[derive(Serialize)]
struct Line {
    kind: &'static str,
    lockspace: Name,
    #[serde(flatten)]
    event: HeardEvent,
}

/// What a lease-join says.
type News = (Name, Result<HeardEvent, io::Error>);

/// Prints what the lease-join of each named lockspace hears, of all if none is named, until one of
/// them ends, or nobody reads any more.
pub(crate) fn print(run_dir: &Path, names: &[OsString]) -> anyhow::Result<()> {
    let mut wires = Vec::new();
    for (name, may_be_gone) in names_of(run_dir, names)? {
        match connect(run_dir, &name) {
            Ok(wire) => wires.push((name, wire)),
            Err(why) if may_be_gone && !is_forbidden(&why) => {}
            Err(why) => return Err(failure(run_dir, &name, &why).into()),
        }
    }
    if wires.is_empty() {
        return Err(nobody(run_dir).into());
    }
    let (tell, told) = channel();
    for (name, wire) in wires {
        let tell = tell.clone();
        let listen = move || listen(name, wire, &tell);
        let started = std::thread::Builder::new().spawn(listen);
        started.context("cannot start a thread")?;
    }
    drop(tell);
    let mut out = Output::new();
    loop {
        match told.recv_timeout(LOOK_AROUND) {
            Ok((lockspace, Ok(event))) => {
                let kind = "event";
                out.print(&Line {
                    kind,
                    lockspace,
                    event,
                })?;
                out.finish()?;
            }
            Ok((lockspace, Err(_))) => {
                let text = format!("lease-join of lockspace {lockspace} has ended");
                return Err(Failure::new(Status::NotJoined, text).into());
            }
            Err(RecvTimeoutError::Timeout) if is_read() => {}
            Err(_) => return Ok(()),
        }
    }
}

fn connect(run_dir: &Path, name: &Name) -> io::Result<Wire> {
    let place = Place::open(run_dir, name)?;
    let mut wire = Wire::new(place.connect()?);
    wire.send(&Ask::Listen)?;
    Ok(wire)
}

/// Each event once: it is heard again at each renewal while it is signalled.
fn listen(name: Name, mut wire: Wire, tell: &Sender<News>) {
    loop {
        let heard = match wire.receive() {
            Ok(Tell::Event(event)) if event.again => continue,
            Ok(Tell::Event(event)) => Ok(event),
            Ok(_) => continue,
            Err(why) => Err(why),
        };
        let ended = heard.is_err();
        if tell.send((name, heard)).is_err() || ended {
            return;
        }
    }
}

/// Whether whoever reads a pipe that we write to is still there.
fn is_read() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    // What cannot be looked at is found out by the next write.
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    !fds[0].revents().is_some_and(|found| found.intersects(gone))
}
