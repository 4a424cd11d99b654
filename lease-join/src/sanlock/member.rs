//! What is done to a resource in the name of this host, beside those that hold it: its value block,
//! and requests for it.

use super::known::Known;
use super::storage::{self, LIMIT};
use lease_core::clock::BootClock;
use lease_core::delta::{Lockspace, Tenure};
use lease_core::device::{Device, Devices};
use lease_core::failure::Failure;
use lease_core::id::HostId;
use lease_core::opened::Opened;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::registry::message::Ask;
use lease_core::registry::place::Place as Seat;
use lease_core::registry::wire::Wire;
use lease_core::resource::{AcquireError, Member, Resource};
use lease_core::sanlock::number;
use lease_core::spec::{Place, ResourceSpec};
use lease_core::storage::Access;
use lease_core::timing::Timing;
use nix::errno::Errno;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Does something to a resource as a member of its lockspace; the number of why not.
pub(super) fn act<T>(
    known: &Known,
    spec: &ResourceSpec,
    work: impl FnOnce(&Resource<'_>, &Member<'_>) -> Result<T, AcquireError>,
) -> Result<T, i32> {
    let says = &known.says;
    let lost = -(Errno::ENOSPC as i32);
    let timing = Timing::new(says.io_timeout, says.watchdog).ok_or(lost)?;
    let age = Duration::try_from_secs_f64(says.renewed).map_err(|_| lost)?;
    let tenure = Tenure::new(timing, known.asked_at.before(age));
    let place = Place {
        path: says.path.clone(),
        offset: says.offset,
    };
    let heartbeats = storage::open(&place.path, Access::Read, Errno::ENODEV)?;
    let record = storage::first::<Heartbeat>(&heartbeats, &place, Heartbeat::decode)?;
    let opened = Opened::<Device>::open(&Devices, spec, |_: &Failure| {})
        .map_err(|why| why.sanlock.unwrap_or(-(Errno::EIO as i32)));
    let mut opened = opened?;
    opened.set_limit(LIMIT.min(timing.io_limit()));
    let clock = BootClock::default();
    let member = Member {
        clock: &clock,
        tenure: &tenure,
        lockspace: Lockspace {
            name: says.lockspace,
            offset: says.offset,
            geometry: record.geometry(),
        },
        heartbeats: &heartbeats,
        host: says.host_id,
        generation: says.generation,
        ballots_from: known.asked_at,
    };
    let done = work(&opened.resource(opened.disks()), &member);
    done.map_err(|error| match error {
        AcquireError::Disk(fault) => storage::of_fault(&fault),
        AcquireError::Record(error) => error.sanlock_number(),
        _ => number::IO_TIMEOUT,
    })
}

/// Has these hosts called, as long as they take to see it; 0, or the number of why not.
pub(super) fn call(run_dir: &Path, known: &Known, hosts: Vec<HostId>) -> i32 {
    let timing = Timing::new(known.says.io_timeout, known.says.watchdog);
    let call_for = timing.map_or(Duration::ZERO, Timing::call_for);
    let until = BootClock::boot_time().after(call_for);
    let call = || -> io::Result<()> {
        let stream = Seat::open(run_dir, &known.says.lockspace)?.connect()?;
        Wire::new(stream).send(&Ask::Call { hosts, until })
    };
    call().map_or(-(Errno::ENOSPC as i32), |()| 0)
}
