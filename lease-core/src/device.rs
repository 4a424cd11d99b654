//! The real disk: a file or block device, past the page cache.
//!
//! A thread of a [`Crew`] opens it, and does the I/O; whoever asked waits for an answer with a time
//! limit. The buffer goes along with the request and comes back with the answer. So at most one I/O
//! is under way, a hung disk never hangs the caller, and an I/O that timed out keeps its buffer and
//! bars the next one until it has come back. A write that has failed bars all others, unless the
//! disk is one on which it is over by then.

mod buffer;
mod making;
mod presence;

pub use self::making::{create, grow, rename_new};

use self::buffer::Buffer;
use self::presence::Looks;
use crate::crew::Crew;
use crate::disk::{Disk, Fault};
use crate::layout::{Geometry, SectorSize};
use crate::storage::{Access, Identity, OpenError, Presence, Storage, Volume, cause};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::AccessFlags;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// An open file or block device.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    found: Found,
    limit: Duration,
    worker: Mutex<Worker>,
    looks: Looks,
}

/// Who has the I/O done, and waits for it.
#[derive(Debug)]
struct Worker {
    crew: Crew,
    /// Closed by the crew: that may hang as well.
    file: Option<Arc<File>>,
    /// Where the answer to the I/O that is under way comes.
    answers: Receiver<Answer>,
    /// Kept from one I/O to the next; `None` while one is under way: an I/O was sent and its answer
    /// has not been taken yet.
    buffer: Option<Buffer>,
    /// A larger one that is being made for it.
    ready: Option<Receiver<Buffer>>,
    /// The I/O that was begun and is to be asked for next, and since when it is under way.
    begun: Option<(Aim, Instant)>,
    /// The answer that has come, until it is taken.
    came: Option<Answer>,
    /// A write has failed that may still land.
    unsure: bool,
    /// Whether a write that has failed is over: it is on the disk or not, and stays so.
    failure_is_final: bool,
}

/// What an I/O is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aim {
    write: bool,
    offset: u64,
    len: usize,
}

/// How it went.
#[derive(Debug)]
struct Answer {
    write: bool,
    result: io::Result<()>,
    buffer: Buffer,
}

impl Device {
    /// Opens `path`, which must be a regular file or a block device, for direct I/O of at most
    /// `limit` each. It has a thread of its own, for as long as it is open.
    pub fn open(path: &Path, access: Access, limit: Duration) -> Result<Self, OpenError> {
        let crew = Crew::lasting().map_err(no_thread)?;
        // A look that hangs does not take that thread away.
        Self::open_by((&crew, Crew::passing()), (path, access, limit))
    }

    /// [`Device::open`] without a thread of its own: by one crew, and looked for by another.
    fn open_by(
        (crew, eyes): (&Crew, Crew),
        (path, access, limit): (&Path, Access, Duration),
    ) -> Result<Self, OpenError> {
        let (tell, told) = sync_channel(1);
        let owned = path.to_owned();
        // Opening may hang as any I/O may.
        let work = move || {
            // If nobody waits any more, nobody asks either, and it is closed again.
            let _ = tell.send(open_file(&owned, access));
        };
        crew.run(work).map_err(no_thread)?;
        let opened = told.recv_timeout(limit);
        let (file, found) = opened.map_err(|_| OpenError::TimedOut(limit.as_secs()))??;
        let file = Arc::new(file);
        Ok(Self {
            path: path.to_owned(),
            limit,
            looks: Looks::new(eyes, &file),
            worker: Mutex::new(Worker {
                crew: crew.clone(),
                file: Some(file),
                answers: channel().1,
                buffer: Some(Buffer::default()),
                ready: None,
                begun: None,
                came: None,
                unsure: false,
                failure_is_final: found.failure_is_final,
            }),
            found,
        })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a regular file rather than a block device.
    pub fn is_file(&self) -> bool {
        self.found.is_file
    }

    /// The geometry that formatting uses here if nothing else is asked for.
    pub fn default_geometry(&self) -> Geometry {
        Geometry::default_for(self.found.sector)
    }

    fn worker(&self) -> MutexGuard<'_, Worker> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume for Device {
    fn identity(&self) -> Identity {
        self.found.identity
    }

    fn size(&self) -> u64 {
        self.found.size
    }

    fn failure_is_final(&self) -> bool {
        self.found.failure_is_final
    }

    /// So it is where the kernel itself does the I/O and lets no process end before. A network
    /// file system's client lets a killed process go, and the write may still land.
    fn io_ends_with_process(&self) -> bool {
        !self.found.is_file || self.found.failure_is_final
    }

    fn presence(&self, record: u64, area: &Range<u64>) -> Presence {
        self.find_again(record, area)
    }

    fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    fn expect_read(&self, len: usize) {
        let mut worker = self.worker();
        if worker
            .buffer
            .as_ref()
            .is_none_or(|buffer| buffer.room() >= len)
        {
            return;
        }
        let (tell, told) = sync_channel(1);
        let work = move || {
            let mut buffer = Buffer::default();
            if buffer.resize(len).is_ok() {
                buffer.touch();
                // Nobody may want it any more.
                let _ = tell.send(buffer);
            }
        };
        worker.ready = worker.crew.run(work).is_ok().then_some(told);
    }

    fn shed_memory(&self) {
        let mut worker = self.worker();
        worker.ready = None;
        if let Some(buffer) = &mut worker.buffer {
            *buffer = Buffer::default();
        }
    }

    fn write_after_failures(&mut self) {
        self.worker().failure_is_final = true;
    }
}

/// The files and devices of this machine, each with a thread of its own.
#[derive(Debug, Clone, Copy)]
pub struct Devices;

impl Storage for Devices {
    type Volume = Device;

    fn open(&self, path: &Path, access: Access, limit: Duration) -> Result<Device, OpenError> {
        Device::open(path, access, limit)
    }
}

/// The files and devices of this machine, all by one crew.
#[derive(Debug, Clone)]
pub struct DevicesBy(pub Crew);

impl Storage for DevicesBy {
    type Volume = Device;

    fn open(&self, path: &Path, access: Access, limit: Duration) -> Result<Device, OpenError> {
        Device::open_by((&self.0, self.0.clone()), (path, access, limit))
    }
}

fn no_thread(why: io::Error) -> OpenError {
    OpenError::System(Errno::try_from(why).unwrap_or(Errno::EAGAIN))
}

impl Disk for Device {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let mut worker = self.worker();
        let bytes = worker.ask(Aim::read(offset, len), None, self.limit)?;
        Ok(bytes.to_vec())
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let mut worker = self.worker();
        see(worker.ask(Aim::read(offset, len), None, self.limit)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut worker = self.worker();
        let aim = Aim::write(offset, bytes.len());
        worker.ask(aim, Some(bytes), self.limit)?;
        Ok(())
    }

    fn begin_read(&self, offset: u64, len: usize) -> Result<(), Fault> {
        self.worker().begin(Aim::read(offset, len), None)
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let aim = Aim::write(offset, bytes.len());
        self.worker().begin(aim, Some(bytes))
    }

    fn is_answered(&self) -> bool {
        self.worker().is_answered(self.limit)
    }

    fn wait(&self, patience: Duration) -> Duration {
        let since = Instant::now();
        let left = self.worker().left(self.limit);
        std::thread::park_timeout(patience.min(left));
        since.elapsed()
    }

    fn leave(&self) {
        self.worker().begun = None;
    }

    fn settle(&self) -> Result<(), Fault> {
        self.settle_within(self.limit)
    }

    fn settle_within(&self, patience: Duration) -> Result<(), Fault> {
        let mut worker = self.worker();
        worker.begun = None;
        worker.buffer = Some(worker.collect(patience)?);
        match worker.unsure {
            true => Err(Fault::Unsure),
            false => Ok(()),
        }
    }
}

impl Aim {
    fn read(offset: u64, len: usize) -> Self {
        let write = false;
        Self { write, offset, len }
    }

    fn write(offset: u64, len: usize) -> Self {
        let write = true;
        Self { write, offset, len }
    }

    /// The I/O itself.
    fn act(self, file: &File, buffer: &mut Buffer) -> io::Result<()> {
        match self.write {
            true => file.write_all_at(buffer.bytes(), self.offset),
            false => file.read_exact_at(buffer.bytes_mut(), self.offset),
        }
    }
}

impl Worker {
    /// One I/O, unless it was begun already, and the bytes as they are after it.
    fn ask(&mut self, aim: Aim, bytes: Option<&[u8]>, limit: Duration) -> Result<&[u8], Fault> {
        let begun = self.begun.take();
        let since = match begun {
            Some((begun, since)) if begun == aim => since,
            // One that nobody has asked for is outstanding, as any that has not come back.
            _ => self.issue(aim, bytes, None)?,
        };
        let left = limit.saturating_sub(since.elapsed());
        let came = self
            .came
            .take()
            .map_or_else(|| self.answers.recv_timeout(left), Ok);
        let answer = match came {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => return Err(Fault::TimedOut(limit.as_secs())),
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
        };
        self.came_back(&answer);
        let buffer = self.buffer.insert(answer.buffer);
        match answer.result {
            Ok(()) => Ok(buffer.bytes()),
            Err(error) => Err(fault(&error, aim.offset, aim.len)),
        }
    }

    /// Issues an I/O that is asked for next. What was begun before and not asked for is left.
    fn begin(&mut self, aim: Aim, bytes: Option<&[u8]>) -> Result<(), Fault> {
        self.begun = None;
        let asker = std::thread::current();
        self.begun = Some((aim, self.issue(aim, bytes, Some(asker))?));
        Ok(())
    }

    /// Whether nothing that was begun is to be waited for.
    fn is_answered(&mut self, limit: Duration) -> bool {
        if self.begun.is_some() && self.came.is_none() {
            match self.answers.try_recv() {
                Ok(answer) => self.came = Some(answer),
                Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return self.left(limit).is_zero(),
            }
        }
        true
    }

    /// How much of `limit` is left to what was begun.
    fn left(&self, limit: Duration) -> Duration {
        let begun = self.begun.as_ref();
        begun.map_or(Duration::ZERO, |(_, since)| {
            limit.saturating_sub(since.elapsed())
        })
    }

    /// Issues an I/O, if none is under way; since when it is. `asker` is woken when it has come
    /// back: who may be waiting for any of several disks.
    fn issue(
        &mut self,
        aim: Aim,
        bytes: Option<&[u8]>,
        asker: Option<Thread>,
    ) -> Result<Instant, Fault> {
        let mut buffer = self.collect(Duration::ZERO)?;
        if aim.write && self.unsure {
            self.buffer = Some(buffer);
            return Err(Fault::Unsure);
        }
        if buffer.room() < aim.len
            && let Some(ready) = self.ready.take()
        {
            buffer = ready.recv().unwrap_or_default();
        }
        match (buffer.resize(aim.len), bytes) {
            (Ok(room), Some(bytes)) => room.copy_from_slice(bytes),
            (Ok(_), None) => {}
            (Err(why), _) => {
                self.buffer = Some(buffer);
                return Err(Fault::Failed(format!("no memory for it: {why}")));
            }
        }
        let Some(file) = self.file.clone() else {
            return Err(gone());
        };
        let (outbox, answers) = sync_channel(1);
        let work = move || {
            let result = aim.act(&file, &mut buffer);
            let write = aim.write;
            let _ = outbox.send(Answer {
                write,
                result,
                buffer,
            });
            asker.iter().for_each(Thread::unpark);
        };
        let since = Instant::now();
        match self.crew.run(work) {
            Ok(()) => {
                self.answers = answers;
                Ok(since)
            }
            Err(why) => {
                self.buffer = Some(Buffer::default());
                Err(Fault::Failed(format!("no thread for it: {why}")))
            }
        }
    }

    fn came_back(&mut self, answer: &Answer) {
        self.unsure |= answer.write && answer.result.is_err() && !self.failure_is_final;
    }

    /// The buffer, once no I/O is under way: waits up to `patience` for the answer of one that
    /// timed out earlier.
    fn collect(&mut self, patience: Duration) -> Result<Buffer, Fault> {
        if let Some(buffer) = self.buffer.take() {
            return Ok(buffer);
        }
        let came = self.came.take();
        match came.map_or_else(|| self.answers.recv_timeout(patience), Ok) {
            Ok(answer) => {
                self.came_back(&answer);
                Ok(answer.buffer)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(Buffer::default()),
            Err(RecvTimeoutError::Timeout) => Err(Fault::Outstanding),
        }
    }
}

fn gone() -> Fault {
    Fault::Failed("its thread is gone".into())
}

impl Drop for Worker {
    fn drop(&mut self) {
        let file = self.file.take();
        // Without a thread for it it is closed here.
        let _ = self.crew.run(move || drop(file));
    }
}

/// What was found out about an open file.
#[derive(Debug)]
struct Found {
    identity: Identity,
    size: u64,
    is_file: bool,
    failure_is_final: bool,
    sector: SectorSize,
}

fn open_file(path: &Path, access: Access) -> Result<(File, Found), OpenError> {
    // A look before opening: opening a FIFO would wait, a device node might act.
    let stat = nix::sys::stat::stat(path).map_err(OpenError::System)?;
    match kind(&stat) {
        SFlag::S_IFREG | SFlag::S_IFBLK => {}
        SFlag::S_IFDIR => return Err(OpenError::Kind("directory")),
        SFlag::S_IFIFO => return Err(OpenError::Kind("FIFO")),
        SFlag::S_IFSOCK => return Err(OpenError::Kind("socket")),
        _ => return Err(OpenError::Kind("character device")),
    }
    let mode = match access {
        Access::Read => OFlag::O_RDONLY,
        Access::Write => OFlag::O_RDWR,
    };
    let flags = mode | OFlag::O_DIRECT | OFlag::O_SYNC | OFlag::O_CLOEXEC;
    let file = match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::EINVAL) => return Err(OpenError::NoDirectIo),
        Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::EROFS)) => {
            let why = denied(path, &stat, access, errno);
            return Err(OpenError::Permission(why));
        }
        Err(errno) => return Err(OpenError::System(errno)),
    };
    if access == Access::Write && is_read_only(&stat) {
        return Err(OpenError::Permission(READ_ONLY_DEVICE.to_owned()));
    }
    let stat = nix::sys::stat::fstat(&file).map_err(OpenError::System)?;
    let found = find_out(&file, &stat).map_err(OpenError::System)?;
    Ok((file, found))
}

impl Identity {
    /// Of what `stat` is of; `None` if that is neither a file nor a block device.
    fn of(stat: &FileStat) -> Option<Self> {
        let (device, inode) = match kind(stat) {
            SFlag::S_IFREG => (stat.st_dev, stat.st_ino),
            SFlag::S_IFBLK => (stat.st_rdev, 0),
            _ => return None,
        };
        Some(Self { device, inode })
    }
}

fn find_out(file: &File, stat: &FileStat) -> Result<Found, Errno> {
    let size = size_of(file)?;
    // It may have become another since the first look.
    let identity = Identity::of(stat).ok_or(Errno::ENOTBLK)?;
    Ok(match kind(stat) {
        SFlag::S_IFREG => Found {
            identity,
            size,
            is_file: true,
            failure_is_final: is_local(file),
            sector: SectorSize::B512,
        },
        _ => Found {
            identity,
            size,
            is_file: false,
            failure_is_final: false,
            sector: logical_sector(file),
        },
    })
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Bytes of a file or block device.
fn size_of(file: &File) -> Result<u64, Errno> {
    let end = nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekEnd)?;
    Ok(u64::try_from(end).unwrap_or(0))
}

const READ_ONLY_DEVICE: &str = "the device is read-only; make it writable where it comes from, \
                                then with blockdev --setrw";

/// Whether a block device takes no writes. Not every kernel says so when it is opened.
fn is_read_only(stat: &FileStat) -> bool {
    use nix::sys::stat::{major, minor};
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    let says = || std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    kind(stat) == SFlag::S_IFBLK && says().is_ok_and(|says| says.trim() == "1")
}

/// Why a path that is there may not be opened, as far as that can be told.
fn denied(path: &Path, stat: &FileStat, access: Access, errno: Errno) -> String {
    if access == Access::Write && is_read_only(stat) {
        return READ_ONLY_DEVICE.to_owned();
    }
    if errno == Errno::EROFS {
        return cause(errno);
    }
    let uid = nix::unistd::geteuid();
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    let wanted = match access {
        Access::Read => AccessFlags::R_OK,
        Access::Write => AccessFlags::R_OK | AccessFlags::W_OK,
    };
    let at = nix::fcntl::AT_FDCWD;
    let allowed = nix::unistd::faccessat(at, path, wanted, AtFlags::AT_EACCESS).is_ok();
    let hint = match (errno, kind(stat)) {
        (Errno::EPERM, SFlag::S_IFBLK) => {
            "; does the unit or container that this runs in allow the device (DeviceAllow=)?"
        }
        (Errno::EPERM, _) => "; is it immutable (lsattr), or forbidden by a security module?",
        _ if allowed => {
            "; its mode allows it, so SELinux or AppArmor may forbid it: see the kernel's log"
        }
        _ if uid.is_root() => "; root is refused: an NFS export with root_squash?",
        _ => "",
    };
    format!(
        "{} for uid {uid} (it belongs to uid {owner}, mode {mode:04o}){hint}",
        errno.desc()
    )
}

/// The logical sector size of a block device.
fn logical_sector(file: &File) -> SectorSize {
    match rustix::fs::ioctl_blksszget(file) {
        Ok(4096) => SectorSize::B4096,
        _ => SectorSize::B512,
    }
}

/// Whether a file lies on a file system that this kernel keeps on its own block devices, or in
/// memory. Any other is taken for a network's.
fn is_local(file: &File) -> bool {
    use nix::sys::statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
    };
    let local = [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        TMPFS_MAGIC,
    ];
    fstatfs(file).is_ok_and(|fs| local.contains(&fs.filesystem_type()))
}

/// What has gone wrong with an I/O of `len` bytes at byte `offset`.
fn fault(error: &io::Error, offset: u64, len: usize) -> Fault {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Unfit(format!(
                "it ends before byte {}: it has been cut short, or the offset is wrong",
                offset.saturating_add(len as u64)
            )),
            _ => Fault::Failed(error.to_string()),
        };
    };
    match errno {
        Errno::EINVAL => Fault::Unfit(format!(
            "it takes no I/O of {len} bytes: its sectors are larger; format it again with \
             lease-init -Z 4096, or use a disk with sectors of {len} bytes"
        )),
        Errno::ESTALE => Fault::Unfit(cause(errno)),
        Errno::EROFS => Fault::Refused(cause(errno)),
        Errno::EPERM | Errno::EACCES => Fault::Refused(format!(
            "{}: it has become read-only, or a security module forbids it",
            errno.desc()
        )),
        _ => Fault::Failed(cause(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_said_as_its_cause_and_as_final_where_it_is() {
        let of = |errno: Errno| fault(&errno.into(), 512, 512);
        for errno in [Errno::EROFS, Errno::EPERM, Errno::EACCES] {
            assert!(matches!(of(errno), Fault::Refused(_)), "{errno}");
        }
        for errno in [Errno::EINVAL, Errno::ESTALE] {
            assert!(matches!(of(errno), Fault::Unfit(_)), "{errno}");
        }
        for errno in [Errno::EIO, Errno::ENOSPC, Errno::EDQUOT, Errno::EBADE] {
            assert_eq!(of(errno), Fault::Failed(cause(errno)));
            assert_ne!(cause(errno), errno.desc(), "{errno}");
        }
        let end = io::Error::from(io::ErrorKind::UnexpectedEof);
        let Fault::Unfit(why) = fault(&end, 512, 1024) else {
            panic!("the end of a file");
        };
        assert!(why.starts_with("it ends before byte 1536:"), "{why}");
    }
}
