//! From what was asked for to a joined host id.

use super::config::Config;
use super::found::{Found, numbered, open};
use super::kept::{Life, Remains};
use super::names::name_of;
use super::surroundings::{HostSurroundings, VolumeOf};
use super::victim::Victim;
use super::wanted::Wanted;
use super::watchdog::{Watchdog, leave_as_found};
use crate::cgroup::Remains as Left;
use crate::clock::{Clock, Moment};
use crate::delta::{Claim, HostLease};
use crate::failure::{Failure, Status};
use crate::id::{HostId, Name};
use crate::registry::place::Kept;
use crate::registry::table::Table;
use crate::storage::Volume;
use crate::surroundings::Surroundings;
use crate::timing::{DEFAULT_IO_TIMEOUT, Timing};
use std::path::PathBuf;
use std::time::Duration;

/// Between two strikes.
const STRIKE_AGAIN: Duration = Duration::from_millis(50);

/// A host id that is ours, and all that comes with it.
pub(super) struct Joined<S: HostSurroundings> {
    /// The LOCKSPACE string.
    pub(super) shown: String,
    /// The lockspace's file or device, as it was named.
    pub(super) named: PathBuf,
    /// The same, absolute.
    pub(super) path: PathBuf,
    /// The same, open.
    pub(super) volume: VolumeOf<S>,
    /// The host id.
    pub(super) lease: HostLease,
    /// What the next lease-join has to know of it.
    pub(super) life: Life,
    /// The holders of a former lease-join, if this one goes on in its place.
    pub(super) table: Table,
    /// The armed watchdog device, if there is to be one.
    pub(super) watchdog: Option<Watchdog<S::Watchdog>>,
}

/// Goes on where a former lease-join of this boot has ended, if that can be; else joins anew,
/// saying what it waits for. `None`: told to leave before it was done.
pub(super) fn join<S: HostSurroundings>(
    s: &S,
    config: &Config,
) -> Result<Option<Joined<S>>, Failure> {
    let mut found = open(s, config)?;
    let remains = Remains::read(&s.boot_id()?, s.life(), || s.holders())?;
    let pid_namespace = s.pid_namespace()?;
    check_visible(s, remains.as_ref(), pid_namespace)?;
    // Of another host id, or another lockspace, it is only brought to its end.
    let of_this = |r: &&Remains| {
        let host = config.host.is_none_or(|host| host == r.life.host);
        host && r.life.area == found.area
    };
    let former = remains.as_ref().filter(of_this);
    let name = host_name(s, config, former)?;
    let wanted = Wanted::new(s, config, &found, (name, former))?;
    let claim = claim(s, config, &found, (wanted.choice.host, name), former)?;
    let life_of = |claim: &Claim| Life {
        watchdog: s.watchdog_name(),
        ..Life::attempt(claim, found.area, pid_namespace)
    };
    check_unchanged(s, remains.as_ref(), &life_of(&claim))?;
    found.volume.set_limit(claim.timing.io_limit());
    let watchdog = try_watchdog(s, config, claim.timing)?;
    let resumed = former.and_then(|remains| resume(s, &found, &claim, remains));
    let (lease, table, watchdog) = match (resumed, remains) {
        (Some((lease, table)), _) => (lease, table, watchdog),
        (None, remains) => {
            if let Some(remains) = remains {
                let ended = end_all(s, &remains);
                if !matches!(ended, Ok(true)) {
                    let guarded = remains.holders().next().is_some();
                    leave_as_found(s.around(), watchdog, guarded);
                    return ended.map(|_| None);
                }
            }
            // Nothing is guarded now, and a join may take longer than the device waits.
            watchdog.map_or(Ok(()), Watchdog::disarm)?;
            match wanted.join_anew(s, config, &found, (&claim, &life_of))? {
                Some(lease) => (lease, Table::default(), s.arm_watchdog(claim.timing)?),
                None => return Ok(None),
            }
        }
    };
    let life = life_of(lease.claim()).joined(&lease);
    Ok(Some(Joined {
        shown: numbered(config, life.host).to_string(),
        named: config.lockspace.place.path.clone(),
        path: config.path.clone(),
        volume: found.volume,
        life,
        lease,
        table,
        watchdog,
    }))
}

/// What runs can still be kept, by whoever goes on with that life as it was begun: another host id,
/// name or time would end it.
fn check_unchanged<S: HostSurroundings>(
    s: &S,
    remains: Option<&Remains>,
    new: &Life,
) -> Result<(), Failure> {
    let Some(remains) = remains else {
        return Ok(());
    };
    let old = &remains.life;
    let kept = s.around().now() < old.expires() && !remains.is_lost();
    let mut holders = remains.holders().filter(|_| kept);
    let (Some(holder), Some((what, was, is))) = (holders.next(), old.difference(new)) else {
        return Ok(());
    };
    let text = format!(
        "cannot join {}: {} runs there under {what} {was}, and this would be {is}; start lease-join \
         with {was}, or end what runs first",
        s.run_dir(),
        name_of(holder),
    );
    Err(Failure::new(Status::Busy, text))
}

/// What an earlier lease-join guarded could be found neither alive nor gone from elsewhere.
fn check_visible<S: HostSurroundings>(
    s: &S,
    remains: Option<&Remains>,
    here: u64,
) -> Result<(), Failure> {
    let seen = |r: &Remains| r.table.is_none() || r.life.pid_namespace == here;
    if remains.is_none_or(seen) {
        return Ok(());
    }
    let (shown, file) = (s.run_dir(), Kept::Heartbeat.name());
    let text = format!(
        "cannot join {shown}: the lease-join before was in another PID namespace, and what it \
         guarded is not seen from here; start lease-join there, or end all of that and remove \
         {shown}/{file}"
    );
    Err(Failure::new(Status::Busy, text))
}

/// A watchdog device is armed before anything is written; without one it is said what nothing
/// covers.
fn try_watchdog<S: HostSurroundings>(
    s: &S,
    config: &Config,
    timing: Timing,
) -> Result<Option<Watchdog<S::Watchdog>>, Failure> {
    if s.watchdog_name().is_none() {
        let seconds = timing.watchdog();
        let text = format!(
            "{}: promised to be dead {seconds} s after a loss; without a watchdog device nothing \
             ends what is guarded if this host freezes",
            config.lockspace
        );
        s.around().say(&text);
    }
    s.arm_watchdog(timing)
}

/// The same life of the host goes on, with its holders: same name, same times, nothing has changed
/// on the disk, and the lease has not expired.
fn resume<S: HostSurroundings>(
    s: &S,
    found: &Found<VolumeOf<S>>,
    claim: &Claim,
    remains: &Remains,
) -> Option<(HostLease, Table)> {
    let life = &remains.life;
    let table = remains.table.as_ref().filter(|table| !table.is_lost())?;
    if !life.is_joined() {
        return None;
    }
    let (lockspace, former) = (&found.lockspace, &life.former);
    let lease = HostLease::resume(lockspace, &found.volume, s.around(), claim, former).ok()?;
    Some((lease, table.clone()))
}

/// The name to join under; in the same boot that of a lease-join before.
fn host_name<S: HostSurroundings>(
    s: &S,
    config: &Config,
    former: Option<&Remains>,
) -> Result<Name, Failure> {
    let before = former.map(|remains| remains.life.host_name);
    config.name.or(before).map_or_else(|| s.random_name(), Ok)
}

/// What to join as. After a lease-join that ended in this boot, under its name and with a larger
/// generation.
fn claim<S: HostSurroundings>(
    s: &S,
    config: &Config,
    found: &Found<VolumeOf<S>>,
    (host, name): (HostId, Name),
    remains: Option<&Remains>,
) -> Result<Claim, Failure> {
    let (volume, now) = (&found.volume, || s.around().now());
    let former = remains.map(|remains| &remains.life);
    let io_timeout = config
        .io_timeout
        .or_else(|| found.heartbeats.formatted_io_timeout(host))
        .unwrap_or(DEFAULT_IO_TIMEOUT);
    let timing = Timing::new(io_timeout, config.watchdog_timeout).ok_or_else(|| {
        let text = format!(
            "cannot join {}: the times are out of range",
            config.lockspace
        );
        Failure::new(Status::Usage, text)
    })?;
    let generations = former.map(|life| (life.completed, life.former.generation));
    let (at_least, attempted) = generations.unwrap_or_default();
    // Where a dead process's write may still land, the former lease-join's may.
    let quiet_from = match former {
        Some(_) if !volume.io_ends_with_process() => now().after(timing.takeover_after()),
        _ => Moment::default(),
    };
    let is_over = volume.failure_is_final() && volume.io_ends_with_process();
    let not_before = former
        .filter(|_| !is_over)
        .map(|life| life.former.quiet_from(timing, now()));
    Ok(Claim {
        host,
        name,
        timing,
        boot_id: s.boot_id()?,
        at_least,
        attempted,
        quiet_from,
        not_before: not_before.unwrap_or_default(),
    })
}

/// Kills all holders of a former lease-join and all that they started, and sees them gone. `false`:
/// told to leave before that. A holder that can never be proven gone is a failure.
fn end_all<S: HostSurroundings>(s: &S, remains: &Remains) -> Result<bool, Failure> {
    let around = s.around();
    let generation = remains.life.former.generation;
    let mut left: Vec<_> = remains
        .table
        .iter()
        .flat_map(Table::holders)
        .filter(|(id, _)| s.take_mark(generation, *id).is_none())
        .map(|(_, holder)| (holder, Victim::of(around, holder)))
        .collect();
    if let Some((holder, _)) = left.first() {
        let name = name_of(holder);
        around.say(&format!(
            "the former lease-join's lease is over; ending {name} and all others"
        ));
    }
    loop {
        let mut unknown = None;
        left.retain(|(holder, victim)| match victim.strike(around) {
            Left::Nothing => false,
            Left::Something => true,
            Left::NotKnown => {
                unknown = Some(name_of(holder));
                false
            }
        });
        if let Some(name) = unknown {
            let (shown, file) = (s.run_dir(), Kept::Heartbeat.name());
            let text = format!(
                "cannot join {shown}: what {name} started under the former lease-join may still \
                 run; end it, remove {shown}/{file}, and start lease-join again"
            );
            return Err(Failure::new(Status::Busy, text));
        }
        if left.is_empty() || around.wait(STRIKE_AGAIN).is_err() {
            return Ok(left.is_empty());
        }
    }
}
