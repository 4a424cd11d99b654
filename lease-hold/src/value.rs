//! The file of --value: it is written before the command runs, and read when that has ended.
//!
//! As a shell does it with `> FILE` and `< FILE`: symlinks are followed, and the command may put
//! another file in its place.

use lease_core::device::Device;
use lease_core::opened::Opened;
use lease_core::storage::Identity;
use lease_core::tool::{Failure, Status, show};
use nix::unistd::{AccessFlags, access};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct ValueFile(PathBuf);

impl ValueFile {
    /// Checks that it can be written, as far as a look can tell. Nothing is changed.
    pub(crate) fn check(path: &Path) -> Result<Self, Failure> {
        let file = Self(path.to_owned());
        let wanted = match std::fs::metadata(path) {
            Ok(found) => {
                file.check_kind(&found)?;
                access(path, AccessFlags::R_OK | AccessFlags::W_OK)
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                let parent = parent.unwrap_or(Path::new("."));
                access(parent, AccessFlags::W_OK | AccessFlags::X_OK)
            }
            Err(why) => return Err(file.cannot_write(&why)),
        };
        wanted.map_err(|why| file.cannot_write(&why.into()))?;
        Ok(file)
    }

    /// Fails if the resource has no value block; or if the file is one of the disks, which would be
    /// overwritten.
    pub(crate) fn check_against(&self, opened: &[Opened<Device>]) -> Result<(), Failure> {
        if let Some(one) = opened.iter().find(|one| !one.has_value_block()) {
            let text = format!(
                "cannot hand on a value with {}: its areas have no room for one; 1M areas of \
                 512-byte sectors and 8M areas of 4096-byte sectors have",
                one.spec
            );
            return Err(Failure::new(Status::Refused, text));
        }
        let areas = opened.iter().flat_map(|one| one.asked().areas);
        self.check_is_none_of(areas.flatten().map(|area| area.identity))
    }

    /// Fails if it is this file, which would be overwritten.
    pub(crate) fn check_is_not(&self, lockspace: &Path) -> Result<(), Failure> {
        self.check_is_none_of(identity(lockspace).into_iter())
    }

    fn check_is_none_of(&self, mut disks: impl Iterator<Item = Identity>) -> Result<(), Failure> {
        match identity(&self.0) {
            Some(found) if disks.any(|disk| disk == found) => {
                let text = format!("{}: leases lie in that file; give another", self.tried());
                Err(Failure::new(Status::Usage, text))
            }
            _ => Ok(()),
        }
    }

    /// Writes it, in place of what is there.
    pub(crate) fn write(&self, value: &[u8]) -> Result<(), Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.custom_flags(nix::libc::O_NONBLOCK).open(&self.0);
        let file = file.map_err(|why| self.cannot_write(&why))?;
        self.check_kind(&file.metadata().map_err(|why| self.cannot_write(&why))?)?;
        let write = |mut file: File| {
            file.set_len(0)?;
            file.write_all(value)
        };
        write(file).map_err(|why| self.cannot_write(&why))
    }

    /// Reads it; of one that is longer than `most` one byte beyond. The failure says nothing of
    /// what was tried.
    pub(crate) fn read(&self, most: usize) -> Result<Vec<u8>, Failure> {
        let failed = |why: &io::Error| {
            let status = match why.kind() {
                io::ErrorKind::NotFound => Status::NoPath,
                io::ErrorKind::PermissionDenied => Status::Permission,
                _ => Status::Io,
            };
            Failure::new(status, format!("{}: {}", self.shown(), describe(why)))
        };
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let file = options.open(&self.0).map_err(|why| failed(&why))?;
        if !file.metadata().map_err(|why| failed(&why))?.is_file() {
            let text = format!("{}: it is not a regular file any more", self.shown());
            return Err(Failure::new(Status::NoPath, text));
        }
        let mut value = Vec::new();
        let read = file.take(most as u64 + 1).read_to_end(&mut value);
        read.map_err(|why| failed(&why))?;
        Ok(value)
    }

    fn check_kind(&self, found: &Metadata) -> Result<(), Failure> {
        match found.is_file() {
            true => Ok(()),
            false => {
                let text = format!("{}: it is not a regular file", self.tried());
                Err(Failure::new(Status::CannotCreate, text))
            }
        }
    }

    fn shown(&self) -> String {
        show(self.0.as_os_str())
    }

    fn tried(&self) -> String {
        format!("cannot write the value to {}", self.shown())
    }

    fn cannot_write(&self, why: &io::Error) -> Failure {
        let status = match why.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Status::Permission
            }
            _ => Status::CannotCreate,
        };
        Failure::new(status, format!("{}: {}", self.tried(), describe(why)))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let found = std::fs::metadata(path).ok()?;
    Some(Identity {
        device: found.dev(),
        inode: found.ino(),
    })
}

/// Without the number.
fn describe(why: &io::Error) -> String {
    let errno = why.raw_os_error().map(nix::errno::Errno::from_raw);
    errno.map_or_else(|| why.to_string(), |errno| errno.desc().to_owned())
}
