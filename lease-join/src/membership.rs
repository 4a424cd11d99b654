//! From the command line to a joined host id.

use crate::args::{Args, Spec};
use crate::peers::describe;
use crate::signals::Signals;
use crate::state::{Attempt, Life, Remains};
use crate::watchdog::{KernelDevice, Watchdog, refused};
use crate::{TOOL, host, undertaker};
use anyhow::Context;
use lease_core::clock::{BootClock, Moment};
use lease_core::delta::{self, Claim, HostLease, JoinError, Lockspace, Waiting};
use lease_core::device::{Device, Devices};
use lease_core::disk::Disk;
use lease_core::id::Name;
use lease_core::opened::open_lockspace;
use lease_core::registry::message::AreaId;
use lease_core::registry::place::{Kept, Lock, Place};
use lease_core::registry::table::Table;
use lease_core::storage::Volume;
use lease_core::timing::{DEFAULT_IO_TIMEOUT, Timing};
use lease_core::tool::{Failure, Status, say, show};
use std::path::{Path, PathBuf};

/// The lockspace's directory on this host, and the proof that it is ours alone.
#[derive(Debug)]
pub(crate) struct Seat {
    /// The directory.
    pub(crate) place: Place,
    /// Held until the process ends.
    pub(crate) lock: Lock,
}

/// The lockspace's disk, and what was found there.
#[derive(Debug)]
pub(crate) struct Found {
    /// The disk.
    pub(crate) device: Device,
    /// The lockspace on it.
    pub(crate) lockspace: Lockspace,
}

/// Takes the lockspace's directory for this process alone.
pub(crate) fn take_seat(args: &Args, spec: &Spec) -> Result<Seat, Failure> {
    let name = &spec.lockspace.name;
    let shown = show(args.run_dir.as_os_str());
    let failed = |status, why: &str| {
        Failure::new(
            status,
            format!("cannot join {name}: run directory {shown}: {why}"),
        )
    };
    let place = Place::create(&args.run_dir, name).map_err(|errno| match errno {
        nix::errno::Errno::EACCES | nix::errno::Errno::EPERM | nix::errno::Errno::EROFS => {
            failed(Status::Permission, errno.desc())
        }
        errno => failed(Status::CannotCreate, errno.desc()),
    })?;
    match place.lock() {
        Ok(Some(lock)) => Ok(Seat { place, lock }),
        Ok(None) => Err(failed(
            Status::Busy,
            "another lease-join of this lockspace runs here",
        )),
        Err(errno) => Err(failed(Status::System, errno.desc())),
    }
}

/// Opens the lockspace's disk and reads what it is.
pub(crate) fn open(spec: &Spec) -> Result<Found, Failure> {
    let (mut device, lockspace) = open_lockspace(&Devices, &spec.lockspace)?;
    device.write_after_failures();
    let most = lockspace.geometry.max_hosts();
    if spec.host.get() > most {
        let geometry = lockspace.geometry;
        let why = format!("host ids go up to {most} there ({geometry})");
        let text = format!("cannot join {}: {why}", spec.lockspace);
        return Err(Failure::new(Status::Usage, text));
    }
    Ok(Found { device, lockspace })
}

/// A host id that is ours, and all that comes with it.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The LOCKSPACE string.
    pub(crate) shown: String,
    /// The lockspace's file or device, absolute.
    pub(crate) path: PathBuf,
    /// Its disk.
    pub(crate) found: Found,
    /// The host id.
    pub(crate) lease: HostLease,
    /// What the next lease-join has to know of it.
    pub(crate) life: Life,
    /// The holders of a former lease-join, if this one goes on in its place.
    pub(crate) table: Table,
    /// The armed watchdog device, if there is to be one.
    pub(crate) watchdog: Option<Watchdog<KernelDevice>>,
}

/// Goes on where a former lease-join of this boot has ended, if that can be; else joins anew,
/// saying on stderr what it waits for. `None`: told to leave before it was done.
pub(crate) fn join(
    args: &Args,
    spec: &Spec,
    mut found: Found,
    signals: &Signals,
    (place, remains): (&Place, Option<Remains>),
) -> anyhow::Result<Option<Joined>> {
    let area = AreaId {
        identity: found.device.identity(),
        offset: found.lockspace.offset,
    };
    let pid_namespace = host::pid_namespace()?;
    check_visible(place, remains.as_ref(), pid_namespace)?;
    // Of another host id, or another lockspace, it is only brought to its end.
    let of_this = |r: &&Remains| r.life.host == spec.host && r.life.area == area;
    let former = remains.as_ref().filter(of_this);
    let claim = claim(args, spec, &found, former)?;
    let life = Life {
        watchdog: args.watchdog.as_ref().map(|path| show(path.as_os_str())),
        ..Life::attempt(&claim, area, pid_namespace)
    };
    check_unchanged(place, remains.as_ref(), &life)?;
    found.device.set_limit(claim.timing.io_limit());
    let watchdog = try_watchdog(args, spec, claim.timing)?;
    let resumed = former.and_then(|remains| resume(&found, &claim, remains));
    let (lease, table, watchdog) = match (resumed, remains) {
        (Some((lease, table)), _) => (lease, table, watchdog),
        (None, remains) => {
            if let Some(remains) = remains {
                let ended = undertaker::end_all(place, &remains, signals);
                if !matches!(ended, Ok(true)) {
                    leave_as_found(watchdog, remains.holders().next().is_some());
                    return ended.map(|_| None).map_err(Into::into);
                }
            }
            // Nothing is guarded now, and a join may take longer than the device waits.
            if let Some(watchdog) = watchdog {
                watchdog.disarm().context("cannot disarm the watchdog")?;
            }
            let place = place.try_clone().context("cannot keep a state file")?;
            let disk = Attempt::new(&found.device, place, life.clone());
            match join_anew(spec, (&found.lockspace, &disk), signals, &claim)? {
                Some(lease) => (lease, Table::default(), arm(args, claim.timing)?),
                None => return Ok(None),
            }
        }
    };
    let path = std::path::absolute(&spec.lockspace.place.path).context("no working directory")?;
    Ok(Some(Joined {
        shown: spec.lockspace.to_string(),
        path,
        life: life.joined(&lease),
        found,
        lease,
        table,
        watchdog,
    }))
}

/// What runs can still be kept, by whoever goes on with that life as it was begun: another host id,
/// name or time would end it.
fn check_unchanged(place: &Place, remains: Option<&Remains>, new: &Life) -> Result<(), Failure> {
    let Some(remains) = remains else {
        return Ok(());
    };
    let old = &remains.life;
    let kept = BootClock::boot_time() < old.expires() && !remains.is_lost();
    let mut holders = remains.holders().filter(|_| kept);
    let (Some(holder), Some((what, was, is))) = (holders.next(), old.difference(new)) else {
        return Ok(());
    };
    let text = format!(
        "cannot join {}: {} runs there under {what} {was}, and this would be {is}; start lease-join \
         with {was}, or end what runs first",
        place.shown().display(),
        describe(holder),
    );
    Err(Failure::new(Status::Busy, text))
}

/// What is said of a device where nothing comes of the join. `guarded`: whether a former lease-join
/// may have left something that runs.
pub(crate) fn leave_as_found(watchdog: Option<Watchdog<KernelDevice>>, guarded: bool) {
    if let Some(Err(why)) = watchdog.map(|watchdog| watchdog.leave_as_found(guarded)) {
        say(TOOL, format!("cannot disarm the watchdog: {why}"));
    }
}

/// What an earlier lease-join guarded could be found neither alive nor gone from elsewhere.
fn check_visible(place: &Place, remains: Option<&Remains>, here: u64) -> Result<(), Failure> {
    let seen = |r: &Remains| r.table.is_none() || r.life.pid_namespace == here;
    if remains.is_none_or(seen) {
        return Ok(());
    }
    let (shown, file) = (place.shown().display(), Kept::Heartbeat.name());
    let text = format!(
        "cannot join {shown}: the lease-join before was in another PID namespace, and what it \
         guarded is not seen from here; start lease-join there, or end all of that and remove \
         {shown}/{file}"
    );
    Err(Failure::new(Status::Busy, text))
}

/// A watchdog device is armed before anything is written; without one it is said what nothing
/// covers.
fn try_watchdog(
    args: &Args,
    spec: &Spec,
    timing: Timing,
) -> Result<Option<Watchdog<KernelDevice>>, Failure> {
    if args.watchdog.is_none() {
        let seconds = timing.watchdog();
        let text = format!(
            "{}: promised to be dead {seconds} s after a loss; without a watchdog device nothing \
             ends what is guarded if this host freezes",
            spec.lockspace
        );
        say(TOOL, text);
    }
    arm(args, timing)
}

/// Arms the watchdog device, if there is to be one.
fn arm(args: &Args, timing: Timing) -> Result<Option<Watchdog<KernelDevice>>, Failure> {
    args.watchdog
        .as_ref()
        .map(|path| arm_device(path, timing))
        .transpose()
}

fn arm_device(path: &Path, timing: Timing) -> Result<Watchdog<KernelDevice>, Failure> {
    Watchdog::arm(KernelDevice::open(path, timing)?, timing).map_err(|why| refused(path, &why))
}

/// The same life of the host goes on, with its holders: same name, same times, nothing has changed
/// on the disk, and the lease has not expired.
fn resume(found: &Found, claim: &Claim, remains: &Remains) -> Option<(HostLease, Table)> {
    let life = &remains.life;
    let table = remains.table.as_ref().filter(|table| !table.is_lost())?;
    if !life.is_joined() || (claim.name, claim.timing) != (life.host_name, life.timing) {
        return None;
    }
    let clock = BootClock::default();
    let (lockspace, former) = (&found.lockspace, &life.former);
    let lease = HostLease::resume(lockspace, &found.device, &clock, claim, former).ok()?;
    Some((lease, table.clone()))
}

fn join_anew(
    spec: &Spec,
    (lockspace, disk): (&Lockspace, &dyn Disk),
    signals: &Signals,
    claim: &Claim,
) -> Result<Option<HostLease>, Failure> {
    let mut tell = |waiting| say(TOOL, describe_wait(spec, waiting));
    match delta::join(lockspace, disk, &signals.clock, claim, &mut tell) {
        Ok(lease) => Ok(Some(lease)),
        Err(JoinError::Interrupted) => Ok(None),
        Err(error) => Err(join_failure(spec, claim.name, &error)),
    }
}

/// What to join as. After a lease-join that ended in this boot, under its name and with a larger
/// generation.
fn claim(
    args: &Args,
    spec: &Spec,
    disk: &Found,
    remains: Option<&Remains>,
) -> Result<Claim, Failure> {
    let cannot = |status, why: String| {
        Failure::new(status, format!("cannot join {}: {why}", spec.lockspace))
    };
    let area = disk
        .lockspace
        .read_all(&disk.device)
        .map_err(|fault| cannot(Status::of_fault(&fault), fault.to_string()))?;
    let former = remains.map(|remains| &remains.life);
    let io_timeout = args
        .io_timeout
        .or_else(|| area.formatted_io_timeout(spec.host))
        .unwrap_or(DEFAULT_IO_TIMEOUT);
    let timing = Timing::new(io_timeout, args.watchdog_timeout)
        .ok_or_else(|| cannot(Status::Usage, "the times are out of range".into()))?;
    let name: Name = match (args.host_name()?, former) {
        (Some(name), _) => name,
        (None, Some(life)) => life.host_name,
        (None, None) => host::random_name()?,
    };
    let generations = former.map(|life| (life.completed, life.former.generation));
    let (at_least, attempted) = generations.unwrap_or_default();
    // Where a dead process's write may still land, the former lease-join's may.
    let quiet_from = match former {
        Some(_) if !disk.device.io_ends_with_process() => {
            BootClock::boot_time().after(timing.takeover_after())
        }
        _ => Moment::default(),
    };
    let not_before = former
        .filter(|_| !disk.device.failure_is_final())
        .map(|life| life.former.quiet_from(timing, BootClock::boot_time()));
    Ok(Claim {
        host: spec.host,
        name,
        timing,
        boot_id: host::boot_id()?,
        at_least,
        attempted,
        quiet_from,
        not_before: not_before.unwrap_or_default(),
    })
}

fn describe_wait(spec: &Spec, waiting: Waiting) -> String {
    let lockspace = &spec.lockspace;
    match waiting {
        Waiting::Watching { name, at_most } => {
            let name = name.map_or_else(|| "a host without a name".into(), |n| n.to_string());
            let seconds = at_most.as_secs();
            format!(
                "{lockspace}: host id held by {name}; watching for up to {seconds} s whether it is alive"
            )
        }
        Waiting::LateWrite { at_most } => {
            let seconds = at_most.as_secs() + 1;
            format!(
                "{lockspace}: waiting {seconds} s, since a heartbeat that an earlier lease-join \
                 here wrote may still land"
            )
        }
        Waiting::Settling { exactly } => {
            let seconds = exactly.as_secs();
            format!("{lockspace}: waiting {seconds} s to see whether anybody else joins")
        }
    }
}

fn join_failure(spec: &Spec, ours: Name, error: &JoinError) -> Failure {
    let text = format!("cannot join {}: {error}", spec.lockspace);
    match error {
        JoinError::Disk(fault) => Failure::new(Status::of_fault(fault), text).numbered(-202),
        JoinError::TooSlow(_) | JoinError::Lost(_) => Failure::new(Status::Io, text).numbered(-202),
        JoinError::Record(_) => Failure::new(Status::Invalid, text),
        JoinError::InUse { name } => {
            let what_to_do = match *name == Some(ours) {
                true => "that is our own name: a clone? Choose another host id, and another name",
                false => "choose another host id",
            };
            Failure::new(Status::Busy, format!("{text}; {what_to_do}")).numbered(-262)
        }
        JoinError::Interrupted => Failure::new(Status::Internal, text),
    }
}
