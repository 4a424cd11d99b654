//! What the protocols ask of shared storage.
//!
//! Assumed of it (lease.7, ASSUMPTIONS): a sector is written whole or not at all; a completed
//! write is what every later read returns, on every host.

use std::time::Duration;
use thiserror::Error;

/// Why an I/O gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The storage answered with an error. A write may be on the disk, or not, or come to be there
    /// **later**: a network's client that has given up does not call back what it has sent.
    #[error("{0}")]
    Failed(String),
    /// The I/O does not fit the storage: it ends before, has larger sectors, or is not there any
    /// more. No other attempt would do better.
    #[error("{0}")]
    Unfit(String),
    /// The storage may not be read or written. No other attempt would do better.
    #[error("{0}")]
    Refused(String),
    /// No answer in time. The I/O is **outstanding**: a write may still land at any later moment.
    #[error("no answer from the storage within {0} s")]
    TimedOut(u64),
    /// Not tried, because an earlier I/O on this disk is still outstanding.
    #[error("an earlier I/O on it has not come back")]
    Outstanding,
    /// Not tried, because an earlier write on this disk has failed, and may still land.
    #[error("an earlier write on it has failed, and may still land")]
    Unsure,
}

/// One disk, as one user of it sees it.
///
/// At most one I/O is under way at any moment: there are never two writes to one sector in
/// flight. An I/O that timed out bars all others until it has come back; a write that failed bars
/// all further writes of this user, unless it is known to be over.
pub trait Disk {
    /// Reads `len` bytes at byte `offset`, past every cache. Both are multiples of the sector
    /// size. Sectors are atomic, the whole read is not.
    ///
    /// On failure nothing is known of the content.
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault>;

    /// Reads as [`Disk::read`] does, and shows the bytes instead of handing them over. On failure
    /// nothing is shown.
    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        see(&self.read(offset, len)?);
        Ok(())
    }

    /// Writes `bytes` at byte `offset`; on success they are on stable storage and every later
    /// read on any host returns them. Offset and length are multiples of the sector size.
    ///
    /// On [`Fault::Failed`], [`Fault::Unfit`], [`Fault::Refused`] and [`Fault::TimedOut`] they may
    /// be there or not, or **come to be there later**, over what anyone has written since. On
    /// [`Fault::Outstanding`] and [`Fault::Unsure`] nothing was written.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault>;

    /// Begins what [`Disk::inspect`] with the same arguments then ends: several disks can be at it
    /// at once. A fault: nothing was begun, and that call is not to follow.
    ///
    /// Between the two come only [`Disk::is_answered`] and [`Disk::wait`]; or [`Disk::leave`] ends
    /// it. A disk that begins nothing does all in that call.
    fn begin_read(&self, _offset: u64, _len: usize) -> Result<(), Fault> {
        Ok(())
    }

    /// The same for [`Disk::write`]. The write is on its way from here on.
    fn begin_write(&self, _offset: u64, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether the call that ends what was begun would wait no more: the answer is here, or has
    /// taken too long.
    fn is_answered(&self) -> bool {
        true
    }

    /// Waits for at most `patience` until what the caller has begun may have been answered, on this
    /// disk or on another. How long that was.
    fn wait(&self, _patience: Duration) -> Duration {
        Duration::ZERO
    }

    /// What was begun and has not been answered is given up: it is **outstanding**, as if it had
    /// timed out. Its answer, whenever that comes, is nobody's.
    fn leave(&self) {}

    /// Waits until no write can land any more, for as long as one I/O may take; fails with
    /// [`Fault::Outstanding`] or [`Fault::Unsure`] if one still may.
    fn settle(&self) -> Result<(), Fault>;

    /// The same, for no longer than `patience`.
    fn settle_within(&self, _patience: Duration) -> Result<(), Fault> {
        self.settle()
    }
}

/// What `make` makes of the bytes that a read shows.
pub fn read_as<T>(
    disk: &dyn Disk,
    offset: u64,
    len: usize,
    make: impl FnOnce(&[u8]) -> T,
) -> Result<T, Fault> {
    let mut make = Some(make);
    let mut made = None;
    disk.inspect(offset, len, &mut |bytes| {
        made = make.take().map(|make| make(bytes));
    })?;
    made.ok_or_else(|| Fault::Failed("it has shown nothing".to_owned()))
}

/// A disk that could not be opened: it is in no majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absent;

impl Absent {
    fn fault() -> Fault {
        Fault::Failed("it could not be opened".to_owned())
    }
}

impl Disk for Absent {
    fn read(&self, _: u64, _: usize) -> Result<Vec<u8>, Fault> {
        Err(Self::fault())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
        Err(Self::fault())
    }
    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
}

impl<D: Disk + ?Sized> Disk for &D {
    fn begin_read(&self, offset: u64, len: usize) -> Result<(), Fault> {
        (**self).begin_read(offset, len)
    }
    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        (**self).begin_write(offset, bytes)
    }
    fn is_answered(&self) -> bool {
        (**self).is_answered()
    }
    fn wait(&self, patience: Duration) -> Duration {
        (**self).wait(patience)
    }
    fn leave(&self) {
        (**self).leave();
    }
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        (**self).read(offset, len)
    }
    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        (**self).inspect(offset, len, see)
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        (**self).write(offset, bytes)
    }
    fn settle(&self) -> Result<(), Fault> {
        (**self).settle()
    }
    fn settle_within(&self, patience: Duration) -> Result<(), Fault> {
        (**self).settle_within(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_could_not_be_opened_reads_and_writes_nothing_and_owes_nothing() {
        let disk: &dyn Disk = &&Absent;
        assert!(matches!(disk.read(0, 512), Err(Fault::Failed(_))));
        assert!(matches!(disk.write(0, &[0; 512]), Err(Fault::Failed(_))));
        assert_eq!(disk.settle(), Ok(()));
    }

    #[test]
    fn a_reference_to_a_disk_is_that_disk() {
        struct Hung;
        impl Disk for Hung {
            fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
                Ok(vec![offset as u8; len])
            }
            fn write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
                Err(Fault::TimedOut(1))
            }
            fn settle(&self) -> Result<(), Fault> {
                Err(Fault::Outstanding)
            }
        }
        let disk: &dyn Disk = &&Hung;
        assert_eq!(disk.read(7, 2), Ok(vec![7, 7]));
        assert_eq!(read_as(&disk, 7, 2, <[u8]>::to_vec), Ok(vec![7, 7]));
        assert_eq!(disk.write(0, &[]), Err(Fault::TimedOut(1)));
        assert_eq!(disk.settle(), Err(Fault::Outstanding));
    }
}
