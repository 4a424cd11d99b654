//! How a path becomes a disk: what is asked of whoever opens it, and what is known of it then.

use crate::disk::Disk;
use nix::errno::Errno;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// What a path is to be opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// Why a path cannot be used as a disk.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("it is a {0}, not a file or block device")]
    Kind(&'static str),
    #[error("its file system has no direct I/O (O_DIRECT), and through a cache no lease is safe")]
    NoDirectIo,
    #[error("{0}")]
    Permission(String),
    #[error("{}", cause(*.0))]
    System(Errno),
    #[error("opening it got no answer within {0} s")]
    TimedOut(u64),
}

/// What identifies a file or device, whatever path leads to it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Identity {
    /// The device: of the file system for a file, its own for a block device.
    pub device: u64,
    /// The inode of a file; 0 for a block device.
    pub inode: u64,
}

/// What a path leads to now, beside what was opened by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// The same.
    Same,
    /// Others do not find what is open, and never will: why.
    Replaced(String),
    /// This moment proves nothing: why.
    NotKnown(String),
}

/// What an error of the system means for storage.
pub fn cause(errno: Errno) -> String {
    let known = match errno {
        Errno::EROFS => "its file system is mounted read-only; mount it writable",
        Errno::ESTALE => {
            "the NFS server does not know it any more (stale file handle): it was removed or \
             replaced there, or is no longer exported; look there, and mount it again"
        }
        Errno::ENOSPC => "no space is left on its file system, or in the pool of its thin volume",
        Errno::EDQUOT => "the disk quota there is used up",
        Errno::EFBIG => "the file would be larger than its file system, or ulimit -f, allows",
        Errno::ENXIO | Errno::ENODEV | Errno::ENOMEDIUM => {
            "there is no device behind it, or not any more"
        }
        Errno::ETXTBSY => "it is in use: as swap, or by the kernel",
        Errno::EBADE => "another host has reserved the device (SCSI reservation)",
        Errno::ENOLINK => "the path to the device is down",
        Errno::ENODATA => "the medium is defective there",
        Errno::EREMOTEIO => "the storage reports an error of its own",
        Errno::EIO => "I/O error (the kernel's log may say more)",
        other => other.desc(),
    };
    known.to_owned()
}

/// Opens paths as disks.
pub trait Storage {
    /// What it opens.
    type Volume: Volume;

    /// Opens `path`, which must be a regular file or a block device, for direct I/O of at most
    /// `limit` each. Nothing is written, and opening takes no longer than `limit` either.
    fn open(&self, path: &Path, access: Access, limit: Duration)
    -> Result<Self::Volume, OpenError>;
}

impl<S: Storage> Storage for &S {
    type Volume = S::Volume;

    fn open(
        &self,
        path: &Path,
        access: Access,
        limit: Duration,
    ) -> Result<Self::Volume, OpenError> {
        (**self).open(path, access, limit)
    }
}

/// An open file or block device.
pub trait Volume: Disk {
    /// What it is, whatever path leads to it.
    fn identity(&self) -> Identity;

    /// Its bytes when it was opened.
    fn size(&self) -> u64;

    /// Whether a write that has failed is over: it is on the disk or not, and stays so.
    fn failure_is_final(&self) -> bool;

    /// Whether an I/O is over, one way or the other, once the process that issued it is dead.
    fn io_ends_with_process(&self) -> bool;

    /// Looks whether its path still leads to it. `record` is where a record of 512 bytes starts
    /// that nobody but the caller changes, and the caller not at this moment; it and all that the
    /// caller needs of the disk lie in `area`. Takes as long as an I/O may, or two.
    fn presence(&self, record: u64, area: &Range<u64>) -> Presence;

    /// Lets each I/O from now on take at most `limit`.
    fn set_limit(&mut self, limit: Duration);

    /// A read of so many bytes is to be expected: what can be done for it beforehand is done beside
    /// all else.
    fn expect_read(&self, _len: usize) {}

    /// Gives its memory back, unless an I/O is under way: it is as large as the largest one was.
    fn shed_memory(&self);

    /// From now on a write that has failed bars no other: for a user that takes whichever of its
    /// writes it finds for its own.
    fn write_after_failures(&mut self);
}
