//! What stands in our sector before a join, and how long it is watched.

use super::area::Lockspace;
use super::claim::{Claim, JoinError, Predecessor, Waiting};
use crate::clock::{Clock, Moment};
use crate::disk::Disk;
use crate::id::Generation;
use crate::record::heartbeat::Heartbeat;
use crate::record::host_note::HostNote;
use crate::timing::{Timing, by_another_clock};
use std::time::Duration;

/// How often a joiner looks at the record that it watches.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What stands in our sector before a join.
pub(super) struct Vacant {
    pub(super) record: Heartbeat,
    /// When the read that showed it began.
    pub(super) read_began: Moment,
    /// Until when writes of an earlier life of this host id may still land.
    pub(super) quiet_from: Option<Moment>,
    /// Until when anything of an earlier life may still run.
    pub(super) former_over: Moment,
}

impl Vacant {
    /// How long the write may take, counted from the read: everybody who joins at the same time
    /// waits at least as long before reading back, by the io_timeout of the record that all read.
    pub(super) fn window(&self, claim: &Claim) -> Duration {
        let theirs = Timing::of_host(&self.record, claim.timing);
        theirs.join_window().min(claim.timing.join_window())
    }

    /// The timing by which others that read this record may be joining at this moment.
    pub(super) fn timing(&self, claim: &Claim) -> Timing {
        let theirs = Timing::of_host(&self.record, claim.timing);
        if theirs.io_timeout() > claim.timing.io_timeout() {
            theirs
        } else {
            claim.timing
        }
    }

    /// The record with us in it. It keeps the larger io_timeout until the join has settled.
    pub(super) fn joined(&self, claim: &Claim, generation: Generation, now: Moment) -> Heartbeat {
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
pub(super) fn over_from(timestamp: u64, now: Moment, over: Moment) -> u64 {
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
/// until no write of an earlier process of ours can land on it. A life of another than
/// `predecessor`, or of this very start, is not waited for: the host id is in use.
pub(super) fn wait_until_vacant(
    lockspace: &Lockspace,
    disk: &dyn Disk,
    clock: &dyn Clock,
    (claim, predecessor): (&Claim, Predecessor),
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
        let name = now.record.host_name();
        let known = predecessor.is(name) || name == Some(claim.name);
        if !now.record.is_free() && !known {
            return Err(JoinError::InUse { name });
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
