//! The file in which the host id is remembered that this machine has taken by itself.

use lease_core::host::memory::Memory;
use lease_core::id::Name;
use lease_core::registry::place::{Kept, Lock, Place};
use lease_core::tool::{Failure, Status, show};
use nix::errno::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// The lockspace's directory of what outlives a boot, for this process alone.
#[derive(Debug)]
pub(crate) struct Book {
    place: Place,
    /// For messages.
    file: PathBuf,
    _lock: Lock,
}

impl Book {
    /// Opens it; makes it where it is missing.
    pub(crate) fn open(state_dir: &Path, lockspace: &Name) -> Result<Self, Failure> {
        let shown = show(state_dir.as_os_str());
        let failed = |errno: Errno| {
            let text = format!(
                "cannot join {lockspace}: state directory {shown}: {}",
                errno.desc()
            );
            Failure::new(status(errno), text)
        };
        let place = Place::create(state_dir, lockspace).map_err(failed)?;
        let Some(lock) = place.lock().map_err(failed)? else {
            let text = format!(
                "cannot join {lockspace}: another lease-join of this lockspace remembers its host \
                 id in {shown}; give each host on this machine a --state-dir of its own"
            );
            return Err(Failure::new(Status::Busy, text));
        };
        let file = place.shown().join(Kept::HostId.name());
        Ok(Self {
            place,
            file,
            _lock: lock,
        })
    }

    pub(crate) fn read(&self) -> Result<Option<Memory>, Failure> {
        self.place.parsed(Kept::HostId).map_err(|why: io::Error| {
            let (what, file) = (
                "the host id of this machine is remembered",
                self.file.display(),
            );
            let (status, hint) = match why.raw_os_error() {
                Some(errno) => (status(Errno::from_raw(errno)), ""),
                None => (
                    Status::Invalid,
                    "; remove it to take a free host id, or name the one that this machine had",
                ),
            };
            Failure::new(
                status,
                format!("cannot read {file}, where {what}: {why}{hint}"),
            )
        })
    }

    pub(crate) fn write(&self, memory: &Memory) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(memory).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| self.place.write_for_good(Kept::HostId, &bytes));
        written.map_err(|why| {
            let (host, file) = (memory.had.host, self.file.display());
            let text = format!(
                "cannot remember host id {host} in {file}: {why}; a host id that is not remembered \
                 is not taken: name it, or another --state-dir"
            );
            let errno = Errno::from_raw(why.raw_os_error().unwrap_or(0));
            Failure::new(status(errno), text)
        })
    }
}

fn status(errno: Errno) -> Status {
    match errno {
        Errno::EACCES | Errno::EPERM | Errno::EROFS => Status::Permission,
        _ => Status::CannotCreate,
    }
}
