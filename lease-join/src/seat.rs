//! The lockspace's directory on this host: taken for this process alone, and what is read there of
//! an earlier one.

use lease_core::host::kept::{Holders, Life};
use lease_core::id::Name;
use lease_core::registry::journal;
use lease_core::registry::place::{Kept, Lock, Place};
use lease_core::tool::{Failure, Status, show};
use nix::errno::Errno;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The lockspace's directory on this host, and the proof that it is ours alone.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The run directory.
    pub(crate) run_dir: PathBuf,
    /// The lockspace.
    pub(crate) lockspace: Name,
    /// The directory.
    pub(crate) place: Place,
    /// Held until the process ends.
    pub(crate) lock: Lock,
}

/// Takes the lockspace's directory for this process alone.
pub(crate) fn take(run_dir: &Path, name: &Name) -> Result<Seat, Failure> {
    let shown = show(run_dir.as_os_str());
    let failed = |status, why: &str| {
        Failure::new(
            status,
            format!("cannot join {name}: run directory {shown}: {why}"),
        )
    };
    let place = Place::create(run_dir, name).map_err(|errno| {
        let (status, why) = match errno {
            Errno::EACCES | Errno::EPERM => {
                let why = "run lease-join as the user whose it is, or as root, or choose another";
                (Status::Permission, format!("{}; {why}", errno.desc()))
            }
            Errno::EROFS => (
                Status::Permission,
                format!("{}; choose another", errno.desc()),
            ),
            Errno::EEXIST | Errno::ENOTDIR => {
                let why = "there is something that is no directory; choose another";
                (Status::CannotCreate, why.to_owned())
            }
            _ => (
                Status::CannotCreate,
                format!("{}; choose another", errno.desc()),
            ),
        };
        failed(status, &format!("{why} (--run-dir)"))
    })?;
    match place.lock() {
        Ok(Some(lock)) => Ok(Seat {
            run_dir: run_dir.to_owned(),
            lockspace: *name,
            place,
            lock,
        }),
        Ok(None) => Err(failed(
            Status::Busy,
            "another lease-join of this lockspace runs here; stop that one first",
        )),
        Err(errno) => Err(failed(Status::System, errno.desc())),
    }
}

/// Writes the heartbeat's file.
pub(crate) fn keep(place: &Place, life: &Life) -> Result<(), String> {
    let bytes = serde_json::to_vec(life).map_err(|why| why.to_string())?;
    let written = place.write(Kept::Heartbeat, &bytes);
    written.map_err(|why| why.to_string())
}

/// Reads the heartbeat's file of an earlier lease-join.
pub(crate) fn read_life(place: &Place) -> Result<Option<Life>, Failure> {
    let life = place.parsed(Kept::Heartbeat);
    life.map_err(|why| unreadable(place, Kept::Heartbeat, &why))
}

/// Reads the holders' file of an earlier lease-join.
pub(crate) fn read_holders(place: &Place) -> Result<Option<Holders>, Failure> {
    let unreadable = |why: &dyn Display| unreadable(place, Kept::Holders, why);
    let records = journal::read(place).map_err(|why| unreadable(&why))?;
    let parsed = records.map(|records| Holders::parse(&records)).transpose();
    parsed.map_err(|why| unreadable(&why))
}

fn unreadable(place: &Place, file: Kept, why: &dyn Display) -> Failure {
    let text = format!(
        "cannot join: {}/{}, which an earlier lease-join has left, cannot be read ({why}), and what \
         that one guarded may still run; end what runs, remove this file, and start again",
        place.shown().display(),
        file.name()
    );
    Failure::new(Status::Busy, text)
}
