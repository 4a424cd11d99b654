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
mod former;
mod tenure;

pub use area::{Area, HeartbeatError, Lockspace};
pub use former::Former;
pub use tenure::Tenure;

use crate::clock::{Clock, Interrupted, Moment};
use crate::disk::{Disk, Fault};
use crate::id::{Generation, HostId, Name};
use crate::record::heartbeat::Heartbeat;
use crate::record::host_note::{BootId, HostNote};
use crate::timing::{Timing, by_another_clock};
use std::time::Duration;
use thiserror::Error;

/// How often a joiner looks at the record that it watches.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// No wait is asked for that is shorter.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// The timestamp of a free record.
const FREE: u64 = 0;
/// How often a join starts over before it gives up.
const ATTEMPTS_MAX: u32 = 3;
/// More joins than there can be while one joiner stalls.
const GENERATIONS_SKIPPED: u64 = 1000;

/// What a host wants to join as.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The host id.
    pub host: HostId,
    /// A name that no other machine has.
    pub name: Name,
    /// Our t and W.
    pub timing: Timing,
    /// Our present boot.
    pub boot_id: BootId,
    /// The last generation that this machine is known to have joined with; the next is larger.
    pub at_least: Generation,
    /// The last generation that a join of this machine began with, completed or not.
    pub attempted: Generation,
    /// Before this moment, a heartbeat that an earlier process of this machine wrote may still land
    /// (it ended without proof that its I/O had completed): 8t+W after its end.
    pub quiet_from: Moment,
    /// Before this moment a heartbeat that an earlier process of this machine **did** issue, and of
    /// which nobody knows how it ended, may still land: the record is not taken before. 0 if there
    /// is none.
    pub not_before: Moment,
}

/// Why a host id could not be joined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum JoinError {
    #[error("{0}")]
    Disk(#[from] Fault),
    #[error("{0}")]
    Record(#[from] HeartbeatError),
    #[error("in use by {}", .name.map_or_else(|| "a host without a name".into(), |n| n.to_string()))]
    InUse { name: Option<Name> },
    #[error("the storage is too slow: three attempts took longer than {0} s from read to write")]
    TooSlow(u64),
    #[error("{0}")]
    Lost(#[from] Lost),
    #[error("interrupted")]
    Interrupted,
}

impl From<Interrupted> for JoinError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

/// What a joiner waits for, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Whether the host whose record stands there is alive.
    Watching {
        /// Its name.
        name: Option<Name>,
        /// For at most this long.
        at_most: Duration,
    },
    /// Whether a write of an earlier process of this machine lands.
    LateWrite {
        /// For at most this long.
        at_most: Duration,
    },
    /// Whether anybody else joins at the same time.
    Settling {
        /// For this long.
        exactly: Duration,
    },
}

/// What stands in our sector before a join.
struct Vacant {
    record: Heartbeat,
    /// When the read that showed it began.
    read_began: Moment,
    /// Until when writes of an earlier life of this host id may still land.
    quiet_from: Option<Moment>,
    /// Until when anything of an earlier life may still run.
    former_over: Moment,
}

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
    let mut generation = claim.at_least;
    for _ in 0..ATTEMPTS_MAX {
        let vacant = wait_until_vacant(lockspace, disk, clock, claim, tell)?;
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

impl Vacant {
    /// How long the write may take, counted from the read: everybody who joins at the same time
    /// waits at least as long before reading back, by the io_timeout of the record that all read.
    fn window(&self, claim: &Claim) -> Duration {
        let theirs = Timing::of_host(&self.record, claim.timing);
        theirs.join_window().min(claim.timing.join_window())
    }

    /// The timing by which others that read this record may be joining at this moment.
    fn timing(&self, claim: &Claim) -> Timing {
        let theirs = Timing::of_host(&self.record, claim.timing);
        if theirs.io_timeout() > claim.timing.io_timeout() {
            theirs
        } else {
            claim.timing
        }
    }

    /// The record with us in it. It keeps the larger io_timeout until the join has settled.
    fn joined(&self, claim: &Claim, generation: Generation, now: Moment) -> Heartbeat {
        let timestamp = next_timestamp(self.record.timestamp(), now);
        let note = HostNote {
            watchdog: claim.timing.watchdog(),
            host: claim.host,
            generation,
            boot_id: claim.boot_id,
            former_over: over_from(timestamp, now, self.former_over),
        };
        self.record.joined(
            &claim.name,
            timestamp,
            self.timing(claim).io_timeout(),
            note,
        )
    }
}

/// The timestamp from which nothing runs any more that is over at `over`, as a record says it that
/// gets this timestamp now: timestamps may run ahead of the clock.
fn over_from(timestamp: u64, now: Moment, over: Moment) -> u64 {
    match over.since(now) {
        Duration::ZERO => 1,
        // Two more, for what both have lost of a second.
        left => timestamp.saturating_add(left.as_secs() + 2),
    }
}

/// At least 1, and not the one that stands there.
fn next_timestamp(before: u64, now: Moment) -> u64 {
    match now.seconds().max(1) {
        same if same == before => same + 1,
        other => other,
    }
}

/// What stood in our sector when it was looked at.
#[derive(Clone, Copy)]
struct Look {
    record: Heartbeat,
    began: Moment,
    ended: Moment,
}

impl Look {
    fn take(
        lockspace: &Lockspace,
        disk: &dyn Disk,
        clock: &dyn Clock,
        claim: &Claim,
    ) -> Result<Self, JoinError> {
        let began = clock.now();
        let record = lockspace.read_host(disk, claim.host)??;
        let ended = clock.now();
        Ok(Self {
            record,
            began,
            ended,
        })
    }

    fn is_of_this_boot(&self, claim: &Claim) -> bool {
        let note = self.record.note();
        note.is_some_and(|note| note.boot_id == claim.boot_id)
    }

    /// By name, from another boot of this machine.
    fn is_us(&self, claim: &Claim) -> bool {
        let noted = self.record.note().is_some();
        noted && !self.is_of_this_boot(claim) && self.record.host_name() == Some(claim.name)
    }

    /// How long it is watched, counted from the end of this look, if it stays as it is and is not
    /// free.
    fn watch(&self, claim: &Claim) -> Duration {
        let theirs = Timing::of_host(&self.record, claim.timing);
        match self.is_us(claim) {
            true => theirs.join_look(),
            false => theirs.takeover_after(),
        }
    }

    /// Until when anything may run of the life whose record this is, or of one before that: of it,
    /// as of any host, 8t + W after its last sign, which was before this look. That this machine
    /// has rebooted since we know, and nobody else: a clone with our name may be live.
    fn former_over(&self, claim: &Claim) -> Moment {
        if self.record.is_free() {
            return Moment::default();
        }
        let theirs = Timing::of_host(&self.record, claim.timing).takeover_after();
        let before = self.record.former_over_in().unwrap_or_default();
        self.ended.after(theirs.max(by_another_clock(before)))
    }

    /// Until when the earlier life's writes may still land. It may have issued one until it died:
    /// before this boot, if it was ours; until all of it was dead, if it was another machine's (a
    /// write that was permitted before 8t may be issued by a process that stalled in between). It
    /// lands within 8t + W, or never.
    fn quiet_from(&self, claim: &Claim) -> Option<Moment> {
        let theirs = Timing::of_host(&self.record, claim.timing).takeover_after();
        let over = self.former_over(claim);
        match self.is_us(claim) {
            _ if self.record.is_free() => None,
            true => Some(over),
            false => Some(over.after(theirs)),
        }
    }

    fn waiting(&self, claim: &Claim) -> Waiting {
        let late = claim.not_before.since(self.ended);
        match self.record.is_free() {
            true => Waiting::LateWrite { at_most: late },
            false => Waiting::Watching {
                name: self.record.host_name(),
                at_most: self.watch(claim).max(late),
            },
        }
    }

    /// Whether what stands there now, which is not what stood there first, is what an earlier
    /// process of ours had written.
    fn is_late_write(&self, claim: &Claim) -> bool {
        let ours = self.is_of_this_boot(claim) && self.record.host_name() == Some(claim.name);
        ours && self.record.generation() <= claim.attempted && self.began < claim.not_before
    }
}

/// Waits until the record is free, or has not changed for as long as its host can have lived; and
/// until no write of an earlier process of ours can land on it.
fn wait_until_vacant(
    lockspace: &Lockspace,
    disk: &dyn Disk,
    clock: &dyn Clock,
    claim: &Claim,
    tell: &mut dyn FnMut(Waiting),
) -> Result<Vacant, JoinError> {
    let mut first = Look::take(lockspace, disk, clock, claim)?;
    let mut now = first;
    let mut told = false;
    loop {
        let quiet = now.began >= claim.not_before;
        let watched = now.began.since(first.ended) > first.watch(claim);
        if quiet && (watched || now.record.is_free()) {
            return Ok(Vacant {
                record: now.record,
                read_began: now.began,
                quiet_from: first.quiet_from(claim),
                former_over: first.former_over(claim),
            });
        }
        if !std::mem::replace(&mut told, true) {
            tell(first.waiting(claim));
        }
        clock.wait(LOOK_EVERY)?;
        now = Look::take(lockspace, disk, clock, claim)?;
        if now.record.leader_bytes() == first.record.leader_bytes() {
            continue;
        }
        if !now.record.is_free() && !now.is_late_write(claim) {
            let name = now.record.host_name();
            return Err(JoinError::InUse { name });
        }
        first = now;
    }
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

/// How a host id was lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Lost {
    #[error("no renewal for {0} s")]
    Expired(u64),
    #[error("our heartbeat was overwritten by {}", .0.map_or_else(|| "somebody".into(), |n| n.to_string()))]
    Overwritten(Option<Name>),
    #[error("it is being given back: that write may land at any moment")]
    Leaving,
    #[error("our heartbeat is damaged: {0}")]
    Damaged(HeartbeatError),
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
        if record.leader_bytes() != self.written.leader_bytes() {
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
        let free = self.written.stamped(FREE);
        if let Err(fault) = self.lockspace.write_host(disk, self.claim.host, &free) {
            self.unsure.push((free, clock.now()));
            return Err(fault);
        }
        self.written = free;
        Ok(())
    }

    /// Our record with the timestamp of now.
    fn stamped(&mut self, now: Moment) -> Heartbeat {
        let timestamp = self.later_timestamp(now);
        let over = self.former_over.map(|over| over_from(timestamp, now, over));
        let record = self.written.stamped(timestamp);
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
        let bytes = record.leader_bytes();
        let ours = |known: &Heartbeat| known.leader_bytes() == bytes;
        let mut unsure = self.unsure.iter().map(|(record, _)| record);
        if !ours(&self.written) && !unsure.any(ours) {
            return Err(Lost::Overwritten(record.host_name()));
        }
        self.written = self.written.stamped(record.timestamp());
        // One that is seen has landed, and does not land again.
        let lands = self.claim.timing.takeover_after();
        let may_land = |known: &Heartbeat, issued_by: Moment| {
            known.leader_bytes() != bytes && read_began <= issued_by.after(lands)
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
