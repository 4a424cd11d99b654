//! What clients ask of storage that no host id is needed for: what lies where, and formatting,
//! which lease-init does.

use super::peer::errno;
use super::tools;
use lease_core::device::Device;
use lease_core::disk::{Fault, read_as};
use lease_core::id::{HostId, Name};
use lease_core::layout::Geometry;
use lease_core::record::RecordError;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::Leader;
use lease_core::sanlock::number;
use lease_core::sanlock::part::{self, Host, Lockspace, Resource};
use lease_core::sanlock::reply::Reply;
use lease_core::spec::{DISKS_MAX, HostField, LockspaceSpec, Mode, Place, ResourceSpec};
use lease_core::storage::{Access, OpenError, Volume};
use lease_core::survey::{self, Content};
use nix::errno::Errno;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// How long one I/O may take.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// Bytes that hold the first record of an area of either sector size.
const FIRST_SECTOR: usize = 4096;

/// Opens a disk; the number of why not. `missing`: that of a path at which there is none.
pub(super) fn open(path: &Path, access: Access, missing: Errno) -> Result<Device, i32> {
    Device::open(path, access, LIMIT).map_err(|error| match error {
        OpenError::System(Errno::ENOENT) | OpenError::Kind(_) => -(missing as i32),
        OpenError::System(errno) => -(errno as i32),
        OpenError::Permission(_) => -(Errno::EACCES as i32),
        OpenError::NoDirectIo => -(Errno::EINVAL as i32),
        OpenError::TimedOut(_) => number::IO_TIMEOUT,
    })
}

/// The number of an I/O that failed.
pub(super) fn of_fault(fault: &Fault) -> i32 {
    match fault {
        Fault::TimedOut(_) => number::IO_TIMEOUT,
        Fault::Refused(_) => -(Errno::EACCES as i32),
        Fault::Unfit(_) => -(Errno::EINVAL as i32),
        _ => -(Errno::EIO as i32),
    }
}

/// Whether a lockspace of this name can be joined there, and its geometry.
pub(super) fn check_lockspace(name: &Name, place: &Place, host: HostId) -> Result<Geometry, i32> {
    let device = open(&place.path, Access::Read, Errno::ENODEV)?;
    let record = first::<Heartbeat>(&device, place, Heartbeat::decode)?;
    if record.lockspace() != name {
        return Err(number::LOCKSPACE_NAME);
    }
    let fits = host.get() <= record.geometry().max_hosts();
    fits.then(|| record.geometry()).ok_or(number::NO_HOST_ID)
}

/// The record at the start of an area.
pub(super) fn first<R>(
    device: &Device,
    place: &Place,
    decode: impl Fn(&[u8]) -> Result<R, RecordError>,
) -> Result<R, i32> {
    if place.offset.saturating_add(FIRST_SECTOR as u64) > device.size() {
        return Err(number::NO_LEASE);
    }
    let read = read_as(device, place.offset, FIRST_SECTOR, decode);
    let record = read.map_err(|fault| of_fault(&fault))?;
    record.map_err(|error| error.sanlock_number())
}

/// How large an area is there.
pub(super) fn align(place: &Place) -> Reply {
    match open(&place.path, Access::Read, Errno::ENODEV) {
        Ok(device) => {
            let bytes = device.default_geometry().align().bytes();
            Reply::of(i32::try_from(bytes).unwrap_or(i32::MAX))
        }
        Err(number) => Reply::of(number),
    }
}

/// Which lockspace lies there.
pub(super) fn read_lockspace(asked: &Lockspace) -> Reply {
    let host = HostId::new(asked.host_id.max(1)).ok();
    let mut found = asked.clone();
    let read = read_heartbeat(asked, host);
    if let Ok(record) = &read {
        found.name = Some(*record.lockspace());
        found.host_id = asked.host_id.max(1);
        found.flags = part::flags_of(record.geometry());
    }
    let body = found.encode(0);
    match read {
        Ok(record) => Reply::of(0)
            .and(record.io_timeout().map_or(0, i32::from))
            .with(body),
        Err(number) => Reply::of(number).with(body),
    }
}

fn read_heartbeat(asked: &Lockspace, host: Option<HostId>) -> Result<Heartbeat, i32> {
    let device = open(&asked.place.path, Access::Read, Errno::ENODEV)?;
    let record = first::<Heartbeat>(&device, &asked.place, Heartbeat::decode)?;
    if asked.name.is_some_and(|name| name != *record.lockspace()) {
        return Err(number::LOCKSPACE_NAME);
    }
    let geometry = record.geometry();
    let host = host.filter(|host| host.get() <= geometry.max_hosts());
    let host = host.ok_or(-(Errno::EINVAL as i32))?;
    let at = asked.place.offset + geometry.heartbeat_at(host) as u64;
    let read = read_as(&device, at, geometry.sector_bytes(), Heartbeat::decode);
    let record = read.map_err(|fault| of_fault(&fault))?;
    record.map_err(|error| error.sanlock_number())
}

/// Which resource lies there.
pub(super) fn read_resource(asked: &Resource) -> Reply {
    let mut found = asked.clone();
    let read = read_leader(asked);
    if let Ok((leader, _)) = &read {
        found.lockspace = Some(*leader.lockspace());
        found.name = Some(*leader.resource());
        found.lver = leader.lver().0;
        found.flags = part::flags_of(leader.geometry());
    }
    let number = read.map_or_else(|number| number, |_| 0);
    Reply::of(number).with(found.encode())
}

fn read_leader(asked: &Resource) -> Result<(Leader, Device), i32> {
    let place = asked.places.first().ok_or(-(Errno::ERANGE as i32))?;
    let device = open(&place.path, Access::Read, Errno::ENOENT)?;
    let leader = first::<Leader>(&device, place, Leader::decode)?;
    if asked
        .lockspace
        .is_some_and(|name| name != *leader.lockspace())
    {
        return Err(number::LOCKSPACE_NAME);
    }
    if asked.name.is_some_and(|name| name != *leader.resource()) {
        return Err(number::RESOURCE_NAME);
    }
    Ok((leader, device))
}

/// Who has a resource.
pub(super) fn read_owners(asked: &Resource) -> Reply {
    let mut found = asked.clone();
    let owners = owners(asked, &mut found);
    let (number, owners) = owners.map_or_else(|number| (number, Vec::new()), |it| (0, it));
    let count = i32::try_from(owners.len()).unwrap_or(i32::MAX);
    let mut body = found.encode();
    body.extend(owners.iter().flat_map(Host::encode));
    Reply::of(number).and(count).with(body)
}

fn owners(asked: &Resource, found: &mut Resource) -> Result<Vec<Host>, i32> {
    let (leader, device) = read_leader(asked)?;
    let place = asked.places.first().ok_or(-(Errno::ERANGE as i32))?;
    found.lver = leader.lver().0;
    found.flags = 0;
    let host = |host_id: u64, generation: u64, timestamp: u64| Host {
        host_id,
        generation,
        timestamp,
        io_timeout: 0,
        state: 0,
    };
    let area = survey::read_area(&device, place.offset, device.size());
    let area = area.map_err(|fault| of_fault(&fault))?;
    let Some(Content::Resource(lease)) = area.map(|area| area.content) else {
        return Err(number::NO_LEASE);
    };
    let sharers: Vec<Host> = lease
        .sharers()
        .map(|(id, generation, _)| host(id.get(), generation.0, 0))
        .collect();
    if !sharers.is_empty() {
        found.flags |= part::SHARED;
        return Ok(sharers);
    }
    let owner = leader
        .owner()
        .map(|it| host(it.host.get(), it.generation.0, it.timestamp));
    Ok(owner.into_iter().collect())
}

/// Formats a lockspace.
pub(super) fn write_lockspace(asked: &Lockspace, io_timeout: i32) -> Reply {
    let Ok(device) = open(&asked.place.path, Access::Read, Errno::ENODEV) else {
        return errno(Errno::ENODEV);
    };
    let spec = asked.name.map(|name| LockspaceSpec {
        name,
        host: HostField::All,
        place: asked.place.clone(),
    });
    let known = |spec: &LockspaceSpec| LockspaceSpec::parse(&text(spec)).as_ref() == Ok(spec);
    let (Some(spec), Ok(io_timeout)) = (spec.filter(known), u8::try_from(io_timeout)) else {
        return errno(Errno::EINVAL);
    };
    let mut args = vec![OsString::from("-s"), text(&spec)];
    if io_timeout > 0 {
        args.extend(["-o".into(), io_timeout.to_string().into()]);
    }
    format(&device, args, asked.flags)
}

/// Formats a resource.
pub(super) fn write_resource(asked: &Resource, num_hosts: i32, clear: bool) -> Reply {
    if asked.num_disks == 0 || asked.num_disks as usize > DISKS_MAX {
        return errno(Errno::ERANGE);
    }
    let device = asked
        .places
        .first()
        .map(|place| open(&place.path, Access::Read, Errno::ENOENT));
    let device = match device {
        Some(Ok(device)) => device,
        Some(Err(number)) => return Reply::of(number),
        None => return errno(Errno::ERANGE),
    };
    let Some(spec) = spec_of(asked, Mode::Exclusive) else {
        return errno(Errno::EINVAL);
    };
    let mut args = vec![OsString::from("-r"), text(&spec)];
    if num_hosts > 0 {
        args.extend(["--max-hosts".into(), num_hosts.to_string().into()]);
    }
    if clear {
        args.push("--clear".into());
    }
    format(&device, args, asked.flags)
}

/// What a message names, as our tools name it; `None`: they cannot.
pub(super) fn spec_of(asked: &Resource, mode: Mode) -> Option<ResourceSpec> {
    let spec = ResourceSpec {
        lockspace: asked.lockspace?,
        name: asked.name?,
        places: asked.places.clone(),
        mode,
        lver: None,
    };
    (ResourceSpec::parse(&text(&spec)).as_ref() == Ok(&spec)).then_some(spec)
}

pub(super) fn text(spec: &impl ToString) -> OsString {
    spec.to_string().into()
}

/// Runs lease-init over what stands there, as the daemon does, unless it is alive.
pub(super) fn format(device: &Device, mut args: Vec<OsString>, flags: u32) -> Reply {
    args.push("--force".into());
    if device.is_file() {
        args.push("--create".into());
    }
    if let Some(sector) = part::sector_of(flags) {
        args.extend(["-Z".into(), sector.bytes().to_string().into()]);
    }
    if let Some(area) = part::area_of(flags) {
        args.extend(["-A".into(), format!("{}M", area.mebibytes()).into()]);
    }
    Reply::of(tools::run("lease-init", &args))
}
