//! Whether a path still leads to what was opened by it.
//!
//! All that hosts share is what they find by their paths. A file that was removed, or over which
//! another was moved, can still be read and written by those who have it open; nobody else sees
//! that any more. A look may hang as any I/O may, also where the disk itself does not: each is made
//! by a thread that does nothing else meanwhile.

use super::Device;
use crate::crew::Crew;
use crate::disk::Disk;
use crate::storage::{Identity, Presence, Volume};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes that are compared of a record: the size of the smaller sector.
const RECORD: usize = 512;
/// Where direct I/O may start, and how much it reads at once, on any disk.
const BLOCK: u64 = 4096;

/// What one look has found.
#[derive(Debug)]
enum Seen {
    Told(Presence),
    /// A block device of another number: these bytes stand on it. It may be another way to the same
    /// disk, as a name that udev gives may change from one path of a SAN to another.
    OtherNode(Vec<u8>),
}

/// Looks that are made by a crew; one that hangs is followed by no other.
#[derive(Debug)]
pub(super) struct Looks {
    crew: Crew,
    /// What is open. One that hangs does not keep it open.
    file: Weak<File>,
    pending: Mutex<Option<Receiver<Seen>>>,
}

impl Looks {
    /// At what is open as `file`.
    pub(super) fn new(crew: Crew, file: &Arc<File>) -> Self {
        Self {
            crew,
            file: Arc::downgrade(file),
            pending: Mutex::default(),
        }
    }
}

impl Device {
    /// For [`Volume::presence`].
    pub(super) fn find_again(&self, record: u64, area: &Range<u64>) -> Presence {
        let first = record - record % BLOCK;
        let seen = match self.look(first, area.end) {
            Ok(Seen::Told(presence)) => return presence,
            Ok(Seen::OtherNode(bytes)) => bytes,
            Err(why) => return Presence::NotKnown(why),
        };
        let at = usize::try_from(record - first).unwrap_or_default();
        let of = |block: &[u8]| block.get(at..at + RECORD).map(<[u8]>::to_vec);
        // Only what can still be read can be seen to be another.
        match self.read(first, seen.len()) {
            Ok(ours) if of(&ours) == of(&seen) => Presence::Same,
            Ok(_) => Presence::Replaced("its path leads to another disk now".to_owned()),
            Err(fault) => Presence::NotKnown(fault.to_string()),
        }
    }

    fn look(&self, first: u64, end: u64) -> Result<Seen, String> {
        let pending = self.looks.pending.lock();
        let mut pending = pending.unwrap_or_else(PoisonError::into_inner);
        let hangs = |look: &Receiver<Seen>| look.try_recv().err() == Some(TryRecvError::Empty);
        if pending.as_ref().is_some_and(hangs) {
            return Err("an earlier look at its path has not come back".to_owned());
        }
        let (tell, told) = sync_channel(1);
        let (file, path, identity) = (self.looks.file.clone(), self.path.clone(), self.identity());
        let work = move || {
            // Nobody may be waiting any more.
            let _ = tell.send(look(&file, &path, identity, (first, end)));
        };
        let started = self.looks.crew.run(work);
        started.map_err(|why| format!("cannot start a thread: {why}"))?;
        match told.recv_timeout(self.limit) {
            Ok(seen) => Ok(seen),
            Err(RecvTimeoutError::Disconnected) => Err("its thread is gone".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                *pending = Some(told);
                let seconds = self.limit.as_secs();
                Err(format!(
                    "no answer to a look at its path within {seconds} s"
                ))
            }
        }
    }
}

fn look(file: &Weak<File>, path: &Path, identity: Identity, (first, end): (u64, u64)) -> Seen {
    let not_known = |errno: Errno| Seen::Told(Presence::NotKnown(errno.desc().to_owned()));
    let replaced = |why: &str| Seen::Told(Presence::Replaced(why.to_owned()));
    let Some(file) = file.upgrade() else {
        return not_known(Errno::EBADF);
    };
    let ours = match Links::of(&file) {
        Ok(ours) => ours,
        Err(errno) => return not_known(errno),
    };
    let found = match find(path) {
        Ok(found) => found,
        // A name that is away may come back, as of a file system that is mounted again.
        Err(Errno::ENOENT | Errno::ENOTDIR) if ours.none => return replaced("it was removed"),
        Err(errno) => return not_known(errno),
    };
    let there = Identity::of(&found);
    match there {
        Some(there) if there == identity => match ours.size.filter(|size| *size < end) {
            Some(size) => replaced(&format!("it was cut to {size} bytes")),
            None => Seen::Told(Presence::Same),
        },
        // Of two block devices only their content says whether they are the same disk.
        Some(there) if there.inode == 0 && identity.inode == 0 => match read_block(path, first) {
            Ok(bytes) => Seen::OtherNode(bytes),
            Err(errno) => not_known(errno),
        },
        _ => replaced("its path leads to another file now"),
    }
}

/// What is left of an open file's names.
struct Links {
    /// It has none.
    none: bool,
    /// Its bytes, if it is a regular file.
    size: Option<u64>,
}

impl Links {
    /// As the server of a network file system says at this moment.
    fn of(file: &File) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        match statx(file, c"", flags, StatxFlags::BASIC_STATS) {
            Ok(found) => {
                let kind = SFlag::from_bits_truncate(u32::from(found.stx_mode)) & SFlag::S_IFMT;
                Ok(Self {
                    none: found.stx_nlink == 0,
                    size: (kind == SFlag::S_IFREG).then_some(found.stx_size),
                })
            }
            // Its server does not have it any more.
            Err(rustix::io::Errno::STALE) => Ok(Self {
                none: true,
                size: None,
            }),
            Err(errno) => Err(Errno::from_raw(errno.raw_os_error())),
        }
    }
}

/// What a path leads to. A network file system may answer stat(2) from what it knows; opening a
/// file makes it ask.
fn find(path: &Path) -> Result<FileStat, Errno> {
    let found = stat(path)?;
    if super::kind(&found) != SFlag::S_IFREG {
        return Ok(found);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(file) => fstat(&file),
        Err(Errno::EACCES | Errno::EPERM) => Ok(found),
        Err(errno) => Err(errno),
    }
}

fn read_block(path: &Path, first: u64) -> Result<Vec<u8>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
    let file = File::from(nix::fcntl::open(path, flags, Mode::empty())?);
    let mut buffer = super::Buffer::default();
    let bytes = buffer.resize(usize::try_from(BLOCK).unwrap_or_default());
    let read = bytes.and_then(|bytes| file.read_exact_at(bytes, first));
    read.map_err(|why| Errno::from_raw(why.raw_os_error().unwrap_or(nix::libc::EIO)))?;
    Ok(buffer.bytes().to_vec())
}
