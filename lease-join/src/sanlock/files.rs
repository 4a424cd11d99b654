//! What outlives this process: a directory in the run directory with one file for each lockspace
//! that clients have added and for each process that has registered.
//!
//! A file is replaced as a whole. It has to survive this process, not this boot.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// No lockspace's directory is called so.
const DIRECTORY: &str = "sanlock.clients";
/// What is being written.
const NEW: &str = ".new";

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Files {
    directory: PathBuf,
}

impl Files {
    /// Makes it where it is missing.
    pub(super) fn open(run_dir: &Path) -> io::Result<Self> {
        let directory = run_dir.join(DIRECTORY);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(run_dir)?;
        match builder.recursive(false).mode(0o700).create(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Self { directory })
    }

    /// Locks the directory for this process alone; `None`: another one has it. Those who guard
    /// processes look whether anybody has.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let options = options.mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let file = options.open(self.lock_path())?;
        let whole = nix::libc::flock {
            l_type: nix::libc::F_WRLCK as i16,
            l_whence: nix::libc::SEEK_SET as i16,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => Ok(Some(file)),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What is locked then.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.path("served")
    }

    /// Writes a file.
    pub(super) fn write(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        self.write_bytes(name, &serde_json::to_vec(content)?)
    }

    /// Writes a file of these bytes.
    pub(super) fn write_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = self.directory.join(format!("{name}{NEW}"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.custom_flags(nix::libc::O_NOFOLLOW).open(&new)?;
        file.write_all(bytes)?;
        std::fs::rename(new, self.directory.join(name))
    }

    /// The path of a file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) {
        let _ = std::fs::remove_file(self.directory.join(name));
    }

    /// All files whose names begin so, as far as they can be read.
    pub(super) fn all<T: DeserializeOwned>(&self, start: &str) -> Vec<(String, io::Result<T>)> {
        let entries = std::fs::read_dir(&self.directory);
        let names = entries.into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names
            .filter(|name| name.starts_with(start) && !name.ends_with(NEW))
            .collect();
        names.sort();
        let read = |name: String| {
            let content = std::fs::read(self.directory.join(&name));
            let parsed = content.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
            (name, parsed)
        };
        names.into_iter().map(read).collect()
    }
}
