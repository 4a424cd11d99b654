//! The run directory: one directory a lockspace, with a lock file, a socket and two files that
//! outlive a lease-join.
//!
//! Everything is opened relative to a directory that was opened without following a symbolic
//! link; a lockspace's name cannot lead out of the run directory.

use super::message::{HolderId, Phase};
use crate::clock::Moment;
use crate::id::{Generation, Name};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fchmodat, mkdirat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where run directories are if nothing else is said.
pub const DEFAULT_RUN_DIR: &str = "/run/lease";

/// Longest state file that is read back.
const STATE_MAX: u64 = 64 << 20;

/// Bytes of a checksum and its line ends.
pub(super) const SEAL: usize = 10;
/// Reads of a file that is being replaced.
const READS_MAX: usize = 16;

/// The directory of one lockspace, open.
#[derive(Debug)]
pub struct Place {
    fd: OwnedFd,
    shown: PathBuf,
}

/// Where what outlives a boot is kept if nothing else is said.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/lease";

/// The files that tell a next lease-join of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Who holds what.
    Holders,
    /// The heartbeat: what was written last, and when.
    Heartbeat,
    /// The host id that this machine has taken by itself.
    HostId,
    /// What is asked of the watchdog device that lockspaces share.
    Watchdog,
}

impl Kept {
    /// What it is called in the directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holders => "state",
            Self::Heartbeat => "heartbeat",
            Self::HostId => "host-id",
            Self::Watchdog => "watchdog",
        }
    }

    fn name_of_new(self) -> &'static str {
        match self {
            Self::Holders => "state.new",
            Self::Heartbeat => "heartbeat.new",
            Self::HostId => "host-id.new",
            Self::Watchdog => "watchdog.new",
        }
    }
}

/// Proof that this process is the only lease-join of its lockspace on this host.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<File>);

impl Place {
    /// Opens the lockspace's directory; makes it, and the run directory, where missing.
    pub fn create(run_dir: &Path, lockspace: &Name) -> Result<Self, Errno> {
        // Whatever the umask is: whoever may write there could put a directory in this one's place.
        let created = DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(run_dir);
        created.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        let parent = open_dir(run_dir)?;
        match mkdirat(&parent, file_name(lockspace).as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let place = Self::at(&parent, run_dir, lockspace)?;
        let stat = nix::sys::stat::fstat(&place.fd)?;
        if stat.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(Errno::EPERM);
        }
        nix::sys::stat::fchmod(&place.fd, Mode::S_IRWXU)?;
        Ok(place)
    }

    /// Opens the lockspace's directory if it is there.
    pub fn open(run_dir: &Path, lockspace: &Name) -> Result<Self, Errno> {
        Self::at(&open_dir(run_dir)?, run_dir, lockspace)
    }

    /// The names of all lockspaces that have a directory.
    pub fn all(run_dir: &Path) -> io::Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(run_dir)? {
            let file = entry?.file_name();
            names.extend(name_of_file(file.as_encoded_bytes()));
        }
        names.sort();
        Ok(names)
    }

    fn at(parent: &OwnedFd, run_dir: &Path, lockspace: &Name) -> Result<Self, Errno> {
        let name = file_name(lockspace);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(parent, name.as_str(), flags, Mode::empty())?;
        Ok(Self {
            fd,
            shown: run_dir.join(name),
        })
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            shown: self.shown.clone(),
        })
    }

    /// Whether it lies in memory, so that nothing written there has to be waited for.
    pub fn is_in_memory(&self) -> bool {
        fstatfs(&self.fd).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
    }

    /// The path, for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Takes the lock; `None` if another process has it.
    pub fn lock(&self) -> Result<Option<Lock>, Errno> {
        lock(&self.fd, "lock")
    }

    /// Takes the lock of whoever shares a watchdog device; `None` if another process has it.
    pub fn lock_share(&self) -> Result<Option<Lock>, Errno> {
        lock(&self.fd, "watchdog.lock")
    }

    /// Takes the lock of whoever has the device with this name open, for the lockspaces of a run
    /// directory; `None` if another process has it.
    pub fn lock_device(run_dir: &Path, device: &str) -> Result<Option<Lock>, Errno> {
        // No lockspace's directory has a name with a dot.
        lock(&open_dir(run_dir)?, &format!("watchdog.{device}"))
    }
    /// Listens on the socket, in place of one that an earlier lease-join left. Only with the lock.
    pub fn listen(&self, _lock: &Lock) -> io::Result<UnixListener> {
        self.remove_socket()?;
        let listener = UnixListener::bind(self.socket_path())?;
        fchmodat(
            &self.fd,
            "socket",
            Mode::S_IRUSR | Mode::S_IWUSR,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
        Ok(listener)
    }

    /// Removes the socket.
    pub fn remove_socket(&self) -> Result<(), Errno> {
        match unlinkat(&self.fd, "socket", UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Connects to the lease-join that listens.
    pub fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket_path())
    }

    /// A file's content; `None` if there is none.
    pub fn read(&self, file: Kept) -> io::Result<Option<Vec<u8>>> {
        for _ in 0..READS_MAX {
            let Some(sealed) = self.get(file.name())? else {
                return Ok(None);
            };
            if let Some(bytes) = unseal(sealed) {
                return Ok(Some(bytes));
            }
            // What was opened may have become the old one, and be written over.
        }
        Err(io::Error::other("it is damaged"))
    }

    /// What is written in a file, as a whole; `None` if there is none.
    pub fn parsed<T: DeserializeOwned>(&self, file: Kept) -> io::Result<Option<T>> {
        let bytes = self.read(file)?;
        let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
        Ok(bytes.map(parse).transpose()?)
    }

    pub(super) fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let mut bytes = Vec::new();
                File::from(fd).take(STATE_MAX).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The moment before the last completed renewal of one life of this host was issued, as the
    /// lease-join of that life has noted it in [`Kept::Heartbeat`].
    pub fn renewed(&self, generation: Generation) -> Option<Moment> {
        #[derive(Deserialize)]
        struct Life {
            generation: Generation,
            renewed: Moment,
        }
        let life: Life = self.parsed(Kept::Heartbeat).ok()??;
        (life.generation == generation).then_some(life.renewed)
    }

    /// Replaces a file as a whole. It has to survive this process, not this boot, so it is not
    /// synced. The old one is kept, to be written over the next time: where the file system is full
    /// there is still room for what is no longer than that.
    pub fn write(&self, file: Kept, bytes: &[u8]) -> io::Result<()> {
        self.replace(file, &seal(bytes))
    }

    /// [`Place::write`] of what has to survive this boot too: it does once this returns.
    pub fn write_for_good(&self, file: Kept, bytes: &[u8]) -> io::Result<()> {
        let (new, sealed) = (file.name_of_new(), seal(bytes));
        self.fill(new, &sealed)?.sync_all()?;
        self.exchange(file)?;
        Ok(nix::unistd::fsync(&self.fd)?)
    }

    /// [`Place::write`] of what is sealed.
    pub(super) fn replace(&self, file: Kept, sealed: &[u8]) -> io::Result<()> {
        self.fill(file.name_of_new(), sealed)?;
        self.exchange(file)
    }

    fn exchange(&self, file: Kept) -> io::Result<()> {
        let (new, name) = (file.name_of_new(), file.name());
        let exchanged = renameat2(&self.fd, new, &self.fd, name, RenameFlags::RENAME_EXCHANGE);
        match exchanged {
            // There was none, or the file system cannot do that.
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOSYS) => {
                Ok(renameat(&self.fd, new, &self.fd, name)?)
            }
            other => Ok(other?),
        }
    }

    /// Writes to the holders' file behind the first `written` bytes of its `len`. Fails if there is
    /// none of that length.
    pub(super) fn append(&self, len: usize, written: usize, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.fd, Kept::Holders.name(), flags, Mode::empty())?;
        let file = File::from(file);
        if file.metadata()?.len() != len as u64 {
            return Err(io::Error::other("it is another file"));
        }
        file.write_all_at(bytes, written as u64)
    }

    fn fill(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        if file.metadata()?.len() > bytes.len() as u64 {
            file.set_len(bytes.len() as u64)?;
        }
        Ok(file)
    }

    /// Removes a file: it holds nothing that a next lease-join would have to know.
    pub fn remove(&self, file: Kept) -> io::Result<()> {
        for name in [file.name(), file.name_of_new()] {
            match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Leaves a mark that a holder has seen the end of all that it started, and what it has not
    /// given back: for the next lease-join, while there is none.
    pub fn mark_gone(
        &self,
        generation: Generation,
        holder: HolderId,
        phases: &[Phase],
    ) -> io::Result<()> {
        let mark = mark(generation, holder);
        let new = format!("{mark}.new");
        self.fill(&new, &serde_json::to_vec(phases)?)?;
        Ok(renameat(&self.fd, new.as_str(), &self.fd, mark.as_str())?)
    }

    /// Takes such a mark away; what is on it, if there was one. One that cannot be read says that
    /// all is gone, and nothing of what was given back.
    pub fn take_mark(&self, generation: Generation, holder: HolderId) -> Option<Vec<Phase>> {
        let mark = mark(generation, holder);
        let bytes = self.get(&mark).ok()??;
        unlinkat(&self.fd, mark.as_str(), UnlinkatFlags::NoRemoveDir).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// The socket by way of the open directory: short whatever the run directory is called.
    fn socket_path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/socket",
            self.fd.as_fd().as_raw_fd()
        ))
    }
}

/// With a checksum in a last line: a file may be written over while somebody reads it.
pub(super) fn seal(bytes: &[u8]) -> Vec<u8> {
    let sum = crc32fast::hash(bytes);
    [bytes, format!("\n{sum:08x}\n").as_bytes()].concat()
}

/// What was sealed, if it is whole.
fn unseal(mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let end = sealed.len().checked_sub(SEAL)?;
    let bytes = &sealed[..end];
    (sealed == seal(bytes)).then(|| {
        sealed.truncate(end);
        sealed
    })
}

fn mark(generation: Generation, holder: HolderId) -> String {
    format!("gone-{generation}-{}", holder.0)
}

fn lock(dir: &OwnedFd, name: &str) -> Result<Option<Lock>, Errno> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
}

/// A name as one path component: letters, digits, `_` and `-` stay, all else becomes `%NN`.
fn file_name(name: &Name) -> String {
    let mut text = String::new();
    for byte in name.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02x}")),
        }
    }
    text
}

/// The name that [`file_name`] made a component of; `None` if it made none such.
fn name_of_file(file: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(file).ok()?;
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    let name = Name::from_field(&bytes).ok()?;
    (file_name(&name) == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written_last() {
        let dir = std::env::temp_dir().join(format!("lease-place-{}", std::process::id()));
        let place = Place::create(&dir, &Name::new(b"LS").unwrap()).unwrap();
        // The third is written over the first.
        for text in ["the first", "the second", "third", "", "the last"] {
            place.write(Kept::Holders, text.as_bytes()).unwrap();
            assert_eq!(place.read(Kept::Holders).unwrap(), Some(text.into()));
        }
        place.remove(Kept::Holders).unwrap();
        assert_eq!(place.read(Kept::Holders).unwrap(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_seal_is_broken_by_every_change() {
        let sealed = seal(b"text");
        assert_eq!(unseal(sealed.clone()).unwrap(), b"text");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(unseal(changed), None);
            assert_eq!(unseal(sealed[..at].to_vec()), None);
        }
    }

    #[test]
    fn a_name_stays_one_component_and_two_names_never_meet() {
        let file = |text: &[u8]| file_name(&Name::from_field(text).unwrap());
        assert_eq!(file(b"LS-1_a"), "LS-1_a");
        assert_eq!(file(b"../etc"), "%2e%2e%2fetc");
        assert_eq!(file(b"."), "%2e");
        assert_eq!(file(b"%2e"), "%252e");
        assert_eq!(file(b"\xff a"), "%ff%20a");
        for text in [&b"LS-1_a"[..], b"../etc", b"%2e", b"\xff a"] {
            assert_eq!(
                name_of_file(file(text).as_bytes()).unwrap().as_bytes(),
                text
            );
        }
        assert_eq!(name_of_file(b"lost+found"), None);
    }
}
