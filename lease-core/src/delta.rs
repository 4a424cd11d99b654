//! A host id, held by a heartbeat: join, renew, leave.
//!
//! After Chockler and Malkhi, "Light-weight leases for storage-centric coordination": write
//! yourself, wait, read back; a lease lives for as long as its record is seen to change.
//!
//! Invariants. Host N alone writes sector N-1, except for a joiner that saw it free, or unchanged
//! for longer than its host can have lived. Every join takes a larger generation. A timestamp is
//! at least 1 and differs from the one before. Timestamp 0 is written only by [`HostLease::leave`]
//! (and by a join that is called off before anybody relied on it), when nothing that was guarded
//! lives and no I/O is outstanding. After a loss nothing at all is written.

mod area;
mod calls;
mod choice;
mod claim;
mod former;
mod tenure;
mod vacant;

pub use area::{Area, HeartbeatError, Lockspace};
pub use calls::{Busy, Calls, EventFlags};
pub use choice::{Choice, Chooser, Had, Trace};
pub use claim::{Claim, JoinError, Lost, Predecessor, Waiting};
pub use former::Former;
pub use tenure::Tenure;

use crate::clock::{Clock, Interrupted, Moment};
use crate::disk::{Disk, Fault};
use crate::id::Generation;
use crate::record::heartbeat::{Event, Heartbeat};
use crate::timing::Timing;
use std::time::Duration;
use thiserror::Error;
use vacant::{LOOK_EVERY, over_from, wait_until_vacant};

/// No wait is asked for that is shorter.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// The timestamp of a free record.
const FREE: u64 = 0;
/// How often a join starts over before it gives up.
const ATTEMPTS_MAX: u32 = 3;
/// More joins than there can be while one joiner stalls.
const GENERATIONS_SKIPPED: u64 = 1000;

/// Joins a host id.
///
/// Free: taken at once. Otherwise the record is watched: for 3t where it is ours by name from
/// another boot of this machine, else until its host must be dead. Then ours is written, 2t pass,
/// and it must still be there. `tell` hears what is being waited for.
///
/// On a failure after the write the record may be left behind; it then counts as a host that
/// died.
pub fn join(
    lockspace: &Lockspace,
    disk: &dyn Disk,
    clock: &dyn Clock,
    claim: &Claim,
    tell: &mut dyn FnMut(Waiting),
) -> Result<HostLease, JoinError> {
    join_after(lockspace, disk, clock, (claim, Predecessor::Any), tell)
}

/// [`join`] after the life of this predecessor, or after one that was left; after any other the
/// host id is in use.
pub fn join_after(
    lockspace: &Lockspace,
    disk: &dyn Disk,
    clock: &dyn Clock,
    (claim, predecessor): (&Claim, Predecessor),
    tell: &mut dyn FnMut(Waiting),
) -> Result<HostLease, JoinError> {
    let mut generation = claim.at_least;
    for _ in 0..ATTEMPTS_MAX {
        let vacant = wait_until_vacant(lockspace, disk, clock, (claim, predecessor), tell)?;
        let found = vacant.record.generation();
        let ours = vacant
            .record
            .note()
            .is_some_and(|n| n.boot_id == claim.boot_id);
        let late = found > generation || claim.not_before > Moment::default();
        if ours && !vacant.record.is_free() && late {
            // A join of ours that failed, or a renewal: it may have landed late, over what others
            // had made of the record in the meantime.
            generation = generation.max(generations_beyond(found));
        }
        generation = generation.max(found).max(claim.attempted).next();
        let window = vacant.window(claim);
        let record = vacant.joined(claim, generation, clock.now());
        let issued = clock.now();
        lockspace.write_host(disk, claim.host, &record)?;
        if clock.now().since(vacant.read_began) > window {
            // Others may have joined in the meantime, more than once, and we wrote over the last:
            // with a generation that one of them has used, even. Whoever it is finds out and dies
            // in time; we start over, watch our own record (of this boot) for all of that time, and
            // take a generation beyond any that they can have taken.
            generation = generations_beyond(generation);
            continue;
        }
        let ballots_from = vacant.quiet_from.unwrap_or_default().max(claim.quiet_from);
        let mut lease = HostLease {
            lockspace: *lockspace,
            claim: *claim,
            generation,
            written: record,
            unsure: Vec::new(),
            highest: record.timestamp(),
            renewed: issued,
            ballots_from,
            quiet_from: ballots_from,
            former_over: Some(vacant.former_over),
            calls: Calls::default(),
        };
        lease.settle(disk, clock, vacant.timing(claim), tell)?;
        return Ok(lease);
    }
    Err(JoinError::TooSlow(claim.timing.join_window().as_secs()))
}

/// Beyond what others can have used since `generation` was ours to take.
fn generations_beyond(generation: Generation) -> Generation {
    Generation(generation.0.saturating_add(GENERATIONS_SKIPPED))
}

/// Lets all of `duration` pass, also when told to stop: a record that is freed while others may
/// be writing theirs would free theirs.
fn wait_to_the_end(clock: &dyn Clock, duration: Duration) -> Result<(), Interrupted> {
    let until = clock.now().after(duration);
    let waited = clock.wait(duration);
    while clock.now() < until {
        clock.back_off(LOOK_EVERY.min(until.since(clock.now()).max(SHORTEST_WAIT)));
    }
    waited
}

/// A host id that is ours for as long as its heartbeat is renewed.
#[derive(Debug)]
pub struct HostLease {
    lockspace: Lockspace,
    claim: Claim,
    generation: Generation,
    /// What our sector held when it was last known for certain.
    written: Heartbeat,
    /// Writes of which it is not known whether they happened, or still may, and by when each was
    /// issued: a thread may stall between the last look at the clock and the write.
    unsure: Vec<(Heartbeat, Moment)>,
    /// The largest timestamp that was written in this life, or may have been.
    highest: u64,
    renewed: Moment,
    ballots_from: Moment,
    /// Before this moment the record is not freed.
    quiet_from: Moment,
    /// Before this moment something of an earlier life may still run, for all that others know.
    /// `None`: the lease-join that this one goes on from did not say.
    former_over: Option<Moment>,
    /// Whom it calls.
    calls: Calls,
}

/// Why a renewal did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenewError {
    /// The storage did not do it; to be tried again, until the lease has expired.
    #[error("{0}")]
    Disk(#[from] Fault),
    /// The lease is lost, now and for good. Nothing may be written any more.
    #[error("{0}")]
    Lost(#[from] Lost),
}

impl HostLease {
    /// Takes a host id over from an earlier process of the same boot, in the same life: only if the
    /// sector still holds what that process wrote last, or a write of its that had not completed,
    /// and if its lease has not expired. Never while the record is being given back: a late free
    /// would open all that this host holds.
    pub fn resume(
        lockspace: &Lockspace,
        disk: &dyn Disk,
        clock: &dyn Clock,
        claim: &Claim,
        former: &Former,
    ) -> Result<Self, RenewError> {
        check_time(former.renewed, claim.timing, clock.now())?;
        if former.unsure.contains(&FREE) {
            return Err(Lost::Leaving.into());
        }
        let read = lockspace.read_host(disk, claim.host)?;
        let record = read.map_err(Lost::Damaged)?;
        let note = record.note().is_some_and(|note| {
            (note.boot_id, note.watchdog) == (claim.boot_id, claim.timing.watchdog())
        });
        let ours = note
            && record.owner() == Some(claim.host)
            && record.generation() == former.generation
            && record.host_name() == Some(claim.name)
            && record.io_timeout() == Some(claim.timing.io_timeout());
        let found = record.timestamp();
        let expected = former.written == found || former.unsure.contains(&found);
        if !ours || !expected {
            return Err(Lost::Overwritten(record.host_name()).into());
        }
        let now = clock.now();
        check_time(former.renewed, claim.timing, now)?;
        let unsure = former.unsure.iter().map(|at| (record.stamped(*at), now));
        let unsure = unsure.collect();
        let known = former.unsure.iter().copied().chain([former.written]);
        let highest = known.max();
        Ok(Self {
            lockspace: *lockspace,
            claim: *claim,
            generation: former.generation,
            written: record,
            highest: highest.unwrap_or(0),
            unsure,
            renewed: former.renewed,
            ballots_from: former.ballots_from,
            quiet_from: former.ballots_from,
            former_over: record.former_over_in().map(|left| now.after(left)),
            calls: Calls::found_on(&record, now.after(claim.timing.call_for())),
        })
    }

    /// Gives everybody who joins at the same time the chance to see our record, or to overwrite
    /// it: 2t of the slowest.
    fn settle(
        &mut self,
        disk: &dyn Disk,
        clock: &dyn Clock,
        slowest: Timing,
        tell: &mut dyn FnMut(Waiting),
    ) -> Result<(), JoinError> {
        let exactly = slowest.join_settle();
        tell(Waiting::Settling { exactly });
        let waited = wait_to_the_end(clock, exactly);
        let record = self.lockspace.read_host(disk, self.claim.host)??;
        // A clone may have written the same, in the same second of its own time.
        let noted = record.note() == self.written.note();
        if record.leader_bytes() != self.written.leader_bytes() || !noted {
            return Err(JoinError::InUse {
                name: record.host_name(),
            });
        }
        // Who stalls here for too long may have been taken for dead since, by the slowest's times.
        check_time(self.renewed, slowest, clock.now())?;
        if waited.is_err() {
            self.free(disk, clock)?;
            return Err(JoinError::Interrupted);
        }
        if slowest != self.claim.timing {
            // From here on others may count by our own, shorter, io_timeout.
            let issued = clock.now();
            let ours = self.stamped(issued).timed(self.claim.timing.io_timeout());
            self.lockspace.write_host(disk, self.claim.host, &ours)?;
            check_time(self.renewed, slowest, clock.now())?;
            (self.written, self.renewed) = (ours, issued);
        }
        Ok(())
    }

    /// The lockspace.
    pub fn lockspace(&self) -> &Lockspace {
        &self.lockspace
    }

    /// What it was joined as.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Which life of the host this is.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The heartbeat as it was last written for certain.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.written
    }

    /// The moment before the last successful renewal was issued: 8t count from here.
    pub fn renewed(&self) -> Moment {
        self.renewed
    }

    /// Before this moment, writes of an earlier life of this host id may still land, on its ballot
    /// records and on its heartbeat: no ballot until there is a renewal that was issued later
    /// ([`crate::resource::Member::ballots_from`]).
    pub fn ballots_from(&self) -> Moment {
        self.ballots_from
    }

    /// What the next process of this boot has to know, with nothing on its way.
    pub fn former(&self) -> Former {
        Former {
            generation: self.generation,
            written: self.written.timestamp(),
            unsure: self.unsure.iter().map(|(at, _)| at.timestamp()).collect(),
            renewed: self.renewed,
            ballots_from: self.ballots_from,
        }
    }

    /// Renews the heartbeat: reads the whole area, checks that our record is still ours, writes it
    /// with a new timestamp. Returns what was read of all hosts, and when the read ended.
    pub fn renew(&mut self, disk: &dyn Disk, clock: &dyn Clock) -> Result<Scan, RenewError> {
        self.check_time(clock)?;
        let read_began = clock.now();
        let area = self.lockspace.read_all(disk)?;
        let read_ended = clock.now();
        self.check_ours(area.host(self.claim.host), read_began)?;

        let record = self.stamped(clock.now());
        self.check_time(clock)?;
        let issued = clock.now();
        if let Err(fault) = self.lockspace.write_host(disk, self.claim.host, &record) {
            if fault != Fault::Outstanding {
                self.unsure.push((record, clock.now()));
            }
            return Err(fault.into());
        }
        self.written = record;
        // Too late is lost, even if it was written: our own killers have started by now.
        self.check_time(clock)?;
        self.renewed = issued;
        Ok(Scan { area, read_ended })
    }

    /// Gives the host id back: all that this host owns is free from now on.
    ///
    /// Only when nothing that was guarded lives. Fails, and leaves it, while I/O is outstanding;
    /// may then be tried again, and nothing else.
    /// As long as a write of this life or of an earlier one may still land, the record is left to
    /// die: a free one would tell the next who joins that none can.
    pub fn leave(&mut self, disk: &dyn Disk, clock: &dyn Clock) -> Result<(), RenewError> {
        // First: it is tried again while something is outstanding, but no longer than our time.
        self.check_time(clock)?;
        disk.settle()?;
        let read_began = clock.now();
        let record = self.lockspace.read_host(disk, self.claim.host)?;
        self.check_ours(record, read_began)?;
        self.check_time(clock)?;
        Ok(self.free(disk, clock)?)
    }

    /// Until then a write of this life may land on a resource.
    pub fn expect_late_writes(&mut self, until: Moment) {
        self.quiet_from = self.quiet_from.max(until);
    }

    fn free(&mut self, disk: &dyn Disk, clock: &dyn Clock) -> Result<(), Fault> {
        // What is free may be another's by the time that a second write lands.
        let freed = self.written.is_free();
        if freed || clock.now() < self.quiet_from || !self.unsure.is_empty() {
            return Ok(());
        }
        let free = self.written.stamped(FREE).calling([], Event::default());
        if let Err(fault) = self.lockspace.write_host(disk, self.claim.host, &free) {
            self.unsure.push((free, clock.now()));
            return Err(fault);
        }
        self.written = free;
        Ok(())
    }

    /// Whom it calls; it is said from the next renewal on.
    pub fn calls(&mut self) -> &mut Calls {
        &mut self.calls
    }

    /// Our record with the timestamp of now.
    fn stamped(&mut self, now: Moment) -> Heartbeat {
        let timestamp = self.later_timestamp(now);
        let over = self.former_over.map(|over| over_from(timestamp, now, over));
        let record = self.calls.on(self.written.stamped(timestamp), now);
        record.after_former(over.unwrap_or(0))
    }

    /// Within one life no timestamp comes twice: whoever sees one again knows that nothing was
    /// written in between.
    fn later_timestamp(&mut self, now: Moment) -> u64 {
        self.highest = now.seconds().max(self.highest.wrapping_add(1));
        self.highest
    }

    fn check_time(&self, clock: &dyn Clock) -> Result<(), Lost> {
        check_time(self.renewed, self.claim.timing, clock.now())
    }

    /// Our sector must hold what we wrote last, or one of the writes that may have landed since.
    /// What it does not show may have landed since its read began.
    fn check_ours(
        &mut self,
        record: Result<Heartbeat, HeartbeatError>,
        read_began: Moment,
    ) -> Result<(), Lost> {
        let record = record.map_err(Lost::Damaged)?;
        let bytes = record.renewal_bytes();
        let ours = |known: &Heartbeat| known.renewal_bytes() == bytes;
        let mut unsure = self.unsure.iter().map(|(record, _)| record);
        if !ours(&self.written) && !unsure.any(ours) {
            return Err(Lost::Overwritten(record.host_name()));
        }
        self.written = self.written.stamped(record.timestamp());
        // One that is seen has landed, and does not land again.
        let lands = self.claim.timing.takeover_after();
        let may_land = |known: &Heartbeat, issued_by: Moment| {
            known.renewal_bytes() != bytes && read_began <= issued_by.after(lands)
        };
        self.unsure
            .retain(|(known, issued_by)| may_land(known, *issued_by));
        Ok(())
    }
}

fn check_time(renewed: Moment, timing: Timing, now: Moment) -> Result<(), Lost> {
    let age = now.since(renewed);
    if age < timing.lost_after() {
        Ok(())
    } else {
        Err(Lost::Expired(age.as_secs()))
    }
}

/// What a renewal read of all hosts.
#[derive(Debug)]
pub struct Scan {
    /// Every heartbeat.
    pub area: Area,
    /// When the read was over.
    pub read_ended: Moment,
}
