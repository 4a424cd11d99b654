//! What is to be written where: every argument checked, every path opened, nothing written yet.

use crate::args::Args;
use lease_core::device::{self, Device};
use lease_core::disk::Disk as _;
use lease_core::format::{Index, Lockspace, Resource};
use lease_core::id::Name;
use lease_core::layout::{Geometry, SectorSize};
use lease_core::record::index::{IndexHeader, MAX_RESOURCES};
use lease_core::spec::{HostField, IndexSpec, LockspaceSpec, Mode, Place, ResourceSpec};
use lease_core::storage::{Access, Identity, Volume, cause};
use lease_core::tool::{Failure, Status, show};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode as FileMode;
use nix::unistd::AccessFlags;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one I/O may take here: areas are large, and nobody's lease depends on it.
pub(crate) const IO_LIMIT: Duration = Duration::from_secs(30);
/// Direct I/O needs whole blocks.
const BLOCK: u64 = 4096;

/// All that is to be done.
pub(crate) struct Plan {
    /// Each file or device once.
    pub(crate) disks: Vec<Disk>,
}

/// A file or device, with the areas that are to be formatted on it.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    /// `None`: it is still to be created.
    pub(crate) device: Option<Device>,
    /// It is created under another name.
    unfinished: Option<Unfinished>,
    key: Key,
    /// In the order of their offsets; none overlap.
    pub(crate) areas: Vec<Area>,
}

/// A file that gets its name once all areas in it are formatted: before that nobody finds it, and
/// takes it for one that is damaged. If that fails it goes.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it has its name it has this one no more.
        let _ = nix::unistd::unlink(&self.0);
    }
}

/// What makes two paths the same disk.
#[derive(PartialEq, Eq)]
enum Key {
    There(Identity),
    Missing(PathBuf),
}

/// One area to be formatted.
pub(crate) struct Area {
    /// The argument that asks for it.
    pub(crate) text: String,
    pub(crate) offset: u64,
    content: Content,
}

enum Content {
    Lockspace(Lockspace),
    Resource(Resource),
    Cleared(Resource),
    Index(Index),
}

/// What an argument asks for.
struct Wish {
    text: String,
    what: What,
    place: Place,
}

enum What {
    Lockspace(Name),
    Resource(Name, Name),
    Index(Name),
}

/// Checks all arguments together.
pub(crate) fn make(args: &Args) -> Result<Plan, Failure> {
    let mut plan = Plan { disks: Vec::new() };
    for wish in wishes(args)? {
        plan.add(args, wish)?;
    }
    for disk in &mut plan.disks {
        disk.areas.sort_by_key(|area| area.offset);
        disk.check_overlaps()?;
        disk.check_end(args.create)?;
    }
    Ok(plan)
}

fn wishes(args: &Args) -> Result<Vec<Wish>, Failure> {
    let mut wishes = Vec::new();
    for text in &args.lockspaces {
        let spec = LockspaceSpec::parse(text).map_err(|error| usage(&show(text), error))?;
        if spec.host != HostField::All {
            let why = "its host id must be 0 here: a lockspace is formatted for all its hosts";
            return Err(usage(&show(text), why));
        }
        wishes.push(Wish {
            text: show(text),
            what: What::Lockspace(spec.name),
            place: spec.place,
        });
    }
    for text in &args.indexes {
        let spec = IndexSpec::parse(text).map_err(|error| usage(&show(text), error))?;
        wishes.push(Wish {
            text: show(text),
            what: What::Index(spec.lockspace),
            place: spec.place,
        });
    }
    for text in &args.resources {
        wishes.extend(resource_wishes(text)?);
    }
    Ok(wishes)
}

fn resource_wishes(text: &OsString) -> Result<Vec<Wish>, Failure> {
    let spec = ResourceSpec::parse(text).map_err(|error| usage(&show(text), error))?;
    if spec.mode == Mode::Shared || spec.lver.is_some() {
        let why = "a version or SH at its end is for lease-hold; leave it out";
        return Err(usage(&show(text), why));
    }
    let wish = |place| Wish {
        text: show(text),
        what: What::Resource(spec.lockspace, spec.name),
        place,
    };
    Ok(spec.places.into_iter().map(wish).collect())
}

impl Plan {
    fn add(&mut self, args: &Args, wish: Wish) -> Result<(), Failure> {
        let found = Disk::find(&wish, args.create)?;
        let known = self.disks.iter().position(|disk| disk.key == found.key);
        let disk = match known {
            Some(index) => &mut self.disks[index],
            None => {
                self.disks.push(found);
                let last = self.disks.len() - 1;
                &mut self.disks[last]
            }
        };
        let area = disk.area(args, wish)?;
        disk.areas.push(area);
        Ok(())
    }

    /// Creates and grows files, then formats every area.
    pub(crate) fn carry_out(mut self, mode: u32) -> Result<(), Failure> {
        for disk in &mut self.disks {
            disk.prepare(mode)?;
        }
        let mut formatted: Vec<&str> = Vec::new();
        for disk in &self.disks {
            let mut here = Vec::new();
            for area in &disk.areas {
                let lasting = disk.unfinished.is_none().then_some(&here);
                let before: Vec<&str> = formatted
                    .iter()
                    .chain(lasting.into_iter().flatten())
                    .copied()
                    .collect();
                disk.write(area, &before)?;
                here.push(&area.text);
            }
            disk.finish()?;
            formatted.extend(here);
        }
        Ok(())
    }
}

impl Disk {
    /// The disk at a place, as it is now.
    fn find(wish: &Wish, create: bool) -> Result<Self, Failure> {
        let path = wish.place.path.clone();
        let missing = matches!(nix::sys::stat::stat(&path), Err(Errno::ENOENT));
        let (device, key) = if missing {
            (None, missing_key(wish, create)?)
        } else {
            let device = open(wish)?;
            let key = Key::There(device.identity());
            (Some(device), key)
        };
        Ok(Self {
            path,
            device,
            unfinished: None,
            key,
            areas: Vec::new(),
        })
    }

    fn area(&self, args: &Args, wish: Wish) -> Result<Area, Failure> {
        let geometry = self.geometry(args, &wish)?;
        let offset = wish.place.offset;
        let size = geometry.align().bytes();
        if !offset.is_multiple_of(size) {
            let why = format!("offset {offset} is not a multiple of the area size, {size}");
            return Err(usage(&wish.text, why));
        }
        if offset > i64::MAX as u64 - 2 * size {
            let why = format!("offset {offset} is beyond what any disk can have");
            return Err(usage(&wish.text, why));
        }
        let content = match wish.what {
            What::Lockspace(name) => Content::Lockspace(Lockspace {
                geometry,
                name,
                io_timeout: args.io_timeout,
            }),
            What::Resource(lockspace, name) => {
                let resource = Resource {
                    geometry,
                    lockspace,
                    name,
                    num_hosts: num_hosts(args, geometry, &wish.text)?,
                };
                match args.clear {
                    true => Content::Cleared(resource),
                    false => Content::Resource(resource),
                }
            }
            What::Index(lockspace) => Content::Index(Index {
                header: IndexHeader {
                    geometry,
                    max_resources: MAX_RESOURCES,
                    offset,
                    lockspace,
                },
            }),
        };
        Ok(Area {
            text: wish.text,
            offset,
            content,
        })
    }

    /// As asked for, else what suits the disk.
    fn geometry(&self, args: &Args, wish: &Wish) -> Result<Geometry, Failure> {
        let own = match &self.device {
            Some(device) => device.default_geometry().sector(),
            None => SectorSize::B512,
        };
        let sector = args.sector_size.unwrap_or(own);
        if sector < own {
            let why = "the device has sectors of 4096 bytes and cannot write fewer; use -Z 4096";
            return Err(usage(&wish.text, why));
        }
        match args.align_size {
            None => Ok(Geometry::default_for(sector)),
            Some(align) => Geometry::new(sector, align).map_err(|error| {
                let bytes = sector.bytes();
                usage(&wish.text, format!("{error}; sectors here have {bytes}"))
            }),
        }
    }

    fn check_overlaps(&self) -> Result<(), Failure> {
        for pair in self.areas.windows(2) {
            if pair[0].end() > pair[1].offset {
                let why = format!("it overlaps {}; choose another offset", pair[0].text);
                return Err(usage(&pair[1].text, why));
            }
        }
        Ok(())
    }

    /// A disk that exists must have room, or be a file that may grow.
    fn check_end(&self, create: bool) -> Result<(), Failure> {
        let (Some(device), Some(last)) = (&self.device, self.areas.last()) else {
            return Ok(());
        };
        let (end, size) = (last.end(), device.size());
        if end <= size {
            return Ok(());
        }
        let short = format!(
            "the area would end at byte {end}, {} ends at {size}",
            self.show()
        );
        if !device.is_file() {
            return Err(cannot(Status::Invalid, &last.text, short));
        }
        if !create {
            let why = format!("{short}; --create makes it longer");
            return Err(cannot(Status::Invalid, &last.text, why));
        }
        if !size.is_multiple_of(BLOCK) {
            let why = format!("{short}, which is no multiple of {BLOCK}, and cannot be grown");
            return Err(cannot(Status::Invalid, &last.text, why));
        }
        refuse_under_dev(&self.path, &last.text)
    }

    /// Creates or grows the file, if that is needed.
    fn prepare(&mut self, mode: u32) -> Result<(), Failure> {
        let Some(last) = self.areas.last() else {
            return Ok(());
        };
        let failed = |doing: &str, errno: Errno| {
            let (path, len) = (self.show(), last.end());
            let why = format!("{doing} {path} ({len} bytes): {}", cause(errno));
            cannot(Status::CannotCreate, &last.text, why)
        };
        match &self.device {
            Some(device) if device.size() < last.end() => device::grow(&self.path, last.end())
                .map_err(|errno| failed("cannot lengthen", errno))?,
            Some(_) => {}
            None => {
                let name = format!(".lease-init.{:016x}", fastrand::u64(..));
                let new = self.path.with_file_name(name);
                device::create(&new, last.end(), mode)
                    .map_err(|errno| failed("cannot create", errno))?;
                let opened = Device::open(&new, Access::Write, IO_LIMIT);
                self.unfinished = Some(Unfinished(new));
                self.device = Some(opened.map_err(|error| {
                    cannot(
                        Status::of_open(&error),
                        &last.text,
                        format!("{}: {error}", self.show()),
                    )
                })?);
            }
        }
        self.try_sectors()
    }

    /// A file may lie on a disk whose sectors are larger than its own are to be. Where nothing was
    /// ever written, only a write asks that disk: of the zeros that are there.
    fn try_sectors(&self) -> Result<(), Failure> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        for area in &self.areas {
            let len = area.geometry().sector_bytes();
            let at = area.offset + len as u64;
            let read = device.read(at, len);
            let tried = read.and_then(|bytes| match bytes.iter().all(|byte| *byte == 0) {
                true => device.write(at, &bytes),
                false => Ok(()),
            });
            tried.map_err(|fault| {
                let path = self.show();
                let status = Status::of_fault(&fault);
                cannot(status, &area.text, format!("{path}: {fault}"))
            })?;
        }
        Ok(())
    }

    /// Gives a file that was created its name.
    fn finish(&self) -> Result<(), Failure> {
        let (Some(Unfinished(new)), Some(last)) = (&self.unfinished, self.areas.last()) else {
            return Ok(());
        };
        device::rename_new(new, &self.path).map_err(|errno| {
            let why = format!("cannot create {}: {}", self.show(), cause(errno));
            cannot(Status::CannotCreate, &last.text, why)
        })
    }

    fn write(&self, area: &Area, formatted: &[&str]) -> Result<(), Failure> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        let written = match &area.content {
            Content::Lockspace(lockspace) => lockspace.write(device, area.offset),
            Content::Resource(resource) => resource.write(device, area.offset),
            Content::Cleared(resource) => device.write(area.offset, &resource.cleared_area()),
            Content::Index(index) => index.write(device),
        };
        written.map_err(|fault| {
            let failure = Failure::of_fault(format!("cannot format {}", area.text), &fault);
            let text = match formatted {
                [] => failure.text,
                before => format!(
                    "{} (formatted before it: {})",
                    failure.text,
                    before.join(", ")
                ),
            };
            Failure { text, ..failure }
        })
    }

    fn show(&self) -> String {
        show(self.path.as_os_str())
    }
}

impl Area {
    /// The byte after its last.
    pub(crate) fn end(&self) -> u64 {
        let areas = match &self.content {
            Content::Lockspace(_) | Content::Resource(_) | Content::Cleared(_) => 1,
            Content::Index(_) => 2,
        };
        self.offset + areas * self.geometry().align().bytes()
    }

    fn geometry(&self) -> Geometry {
        match &self.content {
            Content::Lockspace(lockspace) => lockspace.geometry,
            Content::Resource(resource) | Content::Cleared(resource) => resource.geometry,
            Content::Index(index) => index.header.geometry,
        }
    }
}

pub(crate) fn num_hosts(args: &Args, geometry: Geometry, text: &str) -> Result<u64, Failure> {
    let most = geometry.max_hosts();
    match args.max_hosts {
        Some(hosts) if hosts > most => {
            let why = format!("--max-hosts {hosts}: with {geometry} there can be {most}");
            Err(usage(text, why))
        }
        asked => Ok(asked.unwrap_or(most)),
    }
}

fn open(wish: &Wish) -> Result<Device, Failure> {
    let path = &wish.place.path;
    let device = Device::open(path, Access::Write, IO_LIMIT).map_err(|error| {
        let why = format!("{}: {error}", show(path.as_os_str()));
        cannot(Status::of_open(&error), &wish.text, why)
    })?;
    if !device.is_file() && is_in_use(path) {
        let why = "the device is in use: mounted, or part of a volume group or array";
        return Err(cannot(Status::Busy, &wish.text, why));
    }
    Ok(device)
}

/// Whether a file system or another driver has claimed a block device. Users of leases do not.
fn is_in_use(path: &Path) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    matches!(
        nix::fcntl::open(path, flags, FileMode::empty()),
        Err(Errno::EBUSY)
    )
}

/// A path at which a file is to be created: its directory must be there and writable.
fn missing_key(wish: &Wish, create: bool) -> Result<Key, Failure> {
    let path = &wish.place.path;
    let shown = show(path.as_os_str());
    if !create {
        let why = format!("{shown}: no such file or device; --create makes a file");
        return Err(cannot(Status::NoPath, &wish.text, why));
    }
    refuse_under_dev(path, &wish.text)?;
    if nix::sys::stat::lstat(path).is_ok() {
        let why = format!("{shown} is a symbolic link to nothing");
        return Err(cannot(Status::CannotCreate, &wish.text, why));
    }
    let cannot_create = |errno: Errno| {
        let status = match Status::of_errno(errno) {
            Status::Permission => Status::Permission,
            _ => Status::CannotCreate,
        };
        let hint = match errno {
            Errno::ENOENT => "; make its directory first",
            Errno::EACCES => "; run this as a user who may write to its directory",
            _ => "",
        };
        let why = format!("{shown} cannot be created: {}{hint}", cause(errno));
        cannot(status, &wish.text, why)
    };
    let directory = canonical_directory(path).map_err(cannot_create)?;
    let name = path
        .file_name()
        .ok_or_else(|| cannot_create(Errno::EISDIR))?;
    let (at, writable) = (nix::fcntl::AT_FDCWD, AccessFlags::W_OK | AccessFlags::X_OK);
    nix::unistd::faccessat(at, &directory, writable, AtFlags::AT_EACCESS).map_err(cannot_create)?;
    Ok(Key::Missing(directory.join(name)))
}

/// A file under /dev lives in memory, and its name was most likely meant to be a device's.
fn refuse_under_dev(path: &Path, text: &str) -> Result<(), Failure> {
    match canonical_directory(path) {
        Ok(directory) if directory.starts_with("/dev") => {
            let shown = show(path.as_os_str());
            let why = format!(
                "{shown}: --create makes no file under /dev; is that the name of the device?"
            );
            Err(cannot(Status::CannotCreate, text, why))
        }
        _ => Ok(()),
    }
}

fn canonical_directory(path: &Path) -> Result<PathBuf, Errno> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let found = std::fs::canonicalize(parent);
    found.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO)))
}

pub(crate) fn usage(text: &str, why: impl std::fmt::Display) -> Failure {
    cannot(Status::Usage, text, why)
}

pub(crate) fn cannot(status: Status, text: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(status, format!("cannot format {text}: {why}"))
}
