//! The leases of a QEMU's disks, as libvirt's `auto_disk_leases` has them: one file a disk, named
//! by the MD5 of the disk's path, in one directory; the resource is called like the file. So hosts
//! with libvirt and hosts without exclude each other.
//!
//! A file that is missing is made under another name and formatted before it gets its own: two
//! hosts that make it at the same time end with one, which nobody has seen without a lease in it.
//! libvirt makes it first and formats it then, so what is empty is waited for.

use crate::qemu::{Disk, Guest};
use lease_core::device::{self, Device};
use lease_core::disk::{Disk as _, Fault};
use lease_core::format;
use lease_core::holder::acquire::End;
use lease_core::id::Name;
use lease_core::layout::{Geometry, SectorSize};
use lease_core::spec::{Place, ResourceSpec};
use lease_core::storage::{Access, OpenError, Volume as _, cause};
use lease_core::tool::{Failure, Status, show};
use md5::{Digest, Md5};
use nix::errno::Errno;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long one I/O may take while a lease is made.
const IO_LIMIT: Duration = Duration::from_secs(10);
/// How long another may take from making a file to formatting it.
const FORMATTED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The leases of the disks that a command writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Auto {
    leases: Vec<Lease>,
    is_incoming: bool,
}

/// The lease of a disk.
#[derive(Debug, Clone)]
struct Lease {
    /// The disk, as its lease is named after it.
    disk: PathBuf,
    spec: ResourceSpec,
    /// Where its file is.
    path: PathBuf,
    /// Whose file owners and permissions it gets: the lockspace's, if that lies beside it.
    like: PathBuf,
}

impl Auto {
    /// Of a command that must be a QEMU, in `directory`.
    pub(crate) fn of(
        command: &[OsString],
        directory: &Path,
        lockspace: &OsString,
    ) -> Result<Self, Failure> {
        let guest = Guest::of(command)?;
        let name = Name::new(lockspace.as_bytes()).map_err(|why| {
            let text = format!("cannot hold leases in {}: {why}", show(lockspace));
            Failure::new(Status::Usage, text)
        })?;
        let leases = guest.disks.iter();
        let leases = leases.map(|disk| Lease::of(disk, directory, (name, lockspace)));
        Ok(Self {
            leases: leases.collect::<Result<_, _>>()?,
            is_incoming: guest.is_incoming,
        })
    }

    /// What to acquire.
    pub(crate) fn specs(&self) -> impl Iterator<Item = ResourceSpec> {
        self.leases.iter().map(|lease| lease.spec.clone())
    }

    /// Makes what is missing, and waits for what another host is making.
    pub(crate) fn make(&self) -> Result<(), Failure> {
        self.leases.iter().try_for_each(Lease::make)
    }

    /// Why nothing is held, with the disks whose leases they are; and what else could be done.
    pub(crate) fn explain_end(&self, end: End) -> End {
        match end {
            End::Refused(failure) => End::Refused(self.explain(failure)),
            End::Failed(failure) => End::Failed(self.explain(failure)),
            other => other,
        }
    }

    /// The same of an error.
    pub(crate) fn explain_error(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<Failure>() {
            Ok(failure) => self.explain(failure).into(),
            Err(other) => other,
        }
    }

    fn explain(&self, mut failure: Failure) -> Failure {
        for lease in &self.leases {
            let (lockspace, name) = (lease.spec.lockspace, lease.spec.name);
            let named = format!("{lockspace}:{name}");
            let with_disk = format!("{named} ({})", show(lease.disk.as_os_str()));
            failure.text = failure.text.replacen(&named, &with_disk, 1);
        }
        if self.is_incoming && failure.status == Status::Busy {
            failure.text += "; a live migration needs libvirt's sanlock plugin on both hosts (see \
                             man lease-libvirt)";
        }
        failure
    }
}

impl Lease {
    fn of(
        disk: &Disk,
        directory: &Path,
        (lockspace, lockspace_file): (Name, &OsString),
    ) -> Result<Self, Failure> {
        let absolute = match disk.path.is_absolute() {
            // Byte for byte as it stands there, as libvirt takes it.
            true => disk.path.clone(),
            false => std::path::absolute(&disk.path).map_err(|why| {
                let shown = show(disk.path.as_os_str());
                let text = format!("cannot tell where {shown} is: {why}; give its whole path");
                Failure::new(Status::System, text)
            })?,
        };
        let hex: String = Md5::digest(absolute.as_os_str().as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let wrong = |why| Failure::new(Status::Internal, format!("{hex} is no name: {why}"));
        let name = Name::new(hex.as_bytes()).map_err(wrong)?;
        let path = directory.join(&hex);
        Ok(Self {
            disk: absolute,
            spec: ResourceSpec {
                lockspace,
                name,
                places: vec![Place {
                    path: path.clone(),
                    offset: 0,
                }],
                mode: disk.mode,
                lver: None,
            },
            path,
            like: directory.join(lockspace_file),
        })
    }

    fn make(&self) -> Result<(), Failure> {
        let failed = |status, why: String| {
            let (disk, path) = (show(self.disk.as_os_str()), show(self.path.as_os_str()));
            let text = format!("cannot make the lease of {disk}: {path}: {why}");
            Failure::new(status, text)
        };
        let errno = |errno| match Status::of_errno(errno) {
            Status::System => failed(Status::CannotCreate, cause(errno)),
            status => failed(status, cause(errno)),
        };
        if !is_there(&self.path).map_err(errno)? {
            self.format().map_err(|why| match why {
                Unmade::Errno(number) => errno(number),
                Unmade::Open(why) => failed(Status::of_open(&why), why.to_string()),
                Unmade::Fault(fault) => failed(Status::of_fault(&fault), fault.to_string()),
            })?;
        }
        self.wait_until_formatted(failed)
    }

    /// Makes the file, unless another is there first.
    fn format(&self) -> Result<(), Unmade> {
        let geometry = Geometry::default_for(SectorSize::B512);
        let resource = format::Resource {
            geometry,
            lockspace: self.spec.lockspace,
            name: self.spec.name,
            num_hosts: geometry.max_hosts(),
        };
        let new = format!(".{}.{:016x}", self.spec.name, fastrand::u64(..));
        let new = self.path.with_file_name(new);
        let like = std::fs::metadata(&self.like).ok();
        let mode = like.as_ref().map_or(0o600, |like| like.mode() & 0o666);
        device::create(&new, geometry.align().bytes(), mode)?;
        let made = like
            .map_or(Ok(()), |like| give_to(&new, like.uid(), like.gid()))
            .and_then(|()| {
                let device = Device::open(&new, Access::Write, IO_LIMIT).map_err(Unmade::Open)?;
                resource.write(&device, 0).map_err(Unmade::Fault)?;
                match device::rename_new(&new, &self.path) {
                    Ok(()) | Err(Errno::EEXIST) => Ok(()),
                    Err(errno) => Err(Unmade::Errno(errno)),
                }
            });
        // Where it was renamed, it is gone.
        let _ = nix::unistd::unlink(&new);
        made
    }

    /// What is empty is being formatted, by a host with libvirt.
    fn wait_until_formatted(
        &self,
        failed: impl Fn(Status, String) -> Failure,
    ) -> Result<(), Failure> {
        let until = Instant::now() + FORMATTED_WITHIN;
        while self.is_empty() {
            if Instant::now() > until {
                let why = "it is empty, and nobody formats it; if no host is just starting a \
                           guest with this disk, remove it, and it is made anew";
                return Err(failed(Status::Invalid, why.to_owned()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Whether it can be read and nothing was written to it. What else is wrong with it is said
    /// when it is opened as a lease.
    fn is_empty(&self) -> bool {
        const SECTOR: usize = 4096;
        let Ok(device) = Device::open(&self.path, Access::Read, IO_LIMIT) else {
            return false;
        };
        match device.size() {
            size if size < SECTOR as u64 => true,
            _ => device
                .read(0, SECTOR)
                .is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0)),
        }
    }
}

/// Why a lease could not be made.
enum Unmade {
    Errno(Errno),
    Open(OpenError),
    Fault(Fault),
}

impl From<Errno> for Unmade {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

fn is_there(path: &Path) -> Result<bool, Errno> {
    match nix::sys::stat::stat(path) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Who may not give files away keeps them.
fn give_to(path: &Path, user: u32, group: u32) -> Result<(), Unmade> {
    match nix::unistd::chown(path, Some(user.into()), Some(group.into())) {
        Ok(()) | Err(Errno::EPERM) => Ok(()),
        Err(errno) => Err(Unmade::Errno(errno)),
    }
}
