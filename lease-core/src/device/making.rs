//! Regular files that are to be disks: created, lengthened, given their names.

use super::size_of;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Creates a regular file of `len` allocated zero bytes; fails with EEXIST if there is one. On any
/// failure there is none afterwards that was not there before.
pub fn create(path: &Path, len: u64, mode: u32) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    let file = File::from(nix::fcntl::open(path, flags, mode)?);
    let filled = nix::sys::stat::fchmod(&file, mode)
        .and_then(|()| extend(&file, len))
        .and_then(|()| sync_directory_of(path));
    if filled.is_err() {
        let _ = nix::unistd::unlink(path);
    }
    filled
}

/// Gives a file another name in its directory; fails with EEXIST if something has that name: by a
/// second link, which NFS has as well.
pub fn rename_new(from: &Path, to: &Path) -> Result<(), Errno> {
    nix::unistd::linkat(AT_FDCWD, from, AT_FDCWD, to, AtFlags::empty())?;
    nix::unistd::unlink(from)?;
    sync_directory_of(to)
}

/// Makes a new file's name as durable as its content.
fn sync_directory_of(path: &Path) -> Result<(), Errno> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match nix::fcntl::open(parent, flags, Mode::empty()).and_then(nix::unistd::fsync) {
        // Some file systems cannot, a directory may be searched but not read: no reason to fail.
        Err(Errno::EINVAL | Errno::EACCES) => Ok(()),
        other => other,
    }
}

/// Makes a regular file at least `len` allocated bytes long.
pub fn grow(path: &Path, len: u64) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    extend(
        &File::from(nix::fcntl::open(path, flags, Mode::empty())?),
        len,
    )
}

fn extend(file: &File, len: u64) -> Result<(), Errno> {
    let len = nix::libc::off_t::try_from(len).map_err(|_| Errno::EFBIG)?;
    match nix::fcntl::fallocate(file, FallocateFlags::empty(), 0, len) {
        // No such call on this file system (NFS before 4.2): written zeros allocate as well.
        Err(Errno::EOPNOTSUPP) => write_zeros(file, len as u64),
        other => other,
    }?;
    nix::unistd::fsync(file)
}

fn write_zeros(file: &File, len: u64) -> Result<(), Errno> {
    let zeros = vec![0; 1 << 20];
    let mut at = size_of(file)?;
    while at < len {
        let part = zeros
            .len()
            .min(usize::try_from(len - at).unwrap_or(zeros.len()));
        file.write_all_at(&zeros[..part], at)
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)))?;
        at += part as u64;
    }
    Ok(())
}
