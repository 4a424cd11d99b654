//! The points in which sanlock's own rules are not safe, as states of the disk or orders of
//! events that see ours be right. They are numbered as in lease-disk(5). The first one, which
//! needs the real daemon beside us, is in beside.rs.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::clock::{Clock, Moment};
use lease_core::delta::{HostLease, RenewError, Tenure};
use lease_core::id::{BallotNumber, Generation, Lver};
use lease_core::liveness::Sightings;
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::{Leader, Stamp};
use lease_core::resource::{AcquireError, Attempt, Refusal};
use std::time::Duration;
use support::scene::{AREA, World, ballot_at, geometry, timing};
use support::script::{Fate, Io, SlowDisk, put};
use support::storage::host_id;

fn accepted(number: u64, host: u64, lver: u64) -> Ballot {
    Ballot {
        mbal: BallotNumber(number),
        bal: BallotNumber(number),
        value: Some(Stamp {
            host: host_id(host),
            generation: Generation(1),
            timestamp: 5,
        }),
        lver: Lver(lver),
    }
}

/// The ballots that a host has written, in their order.
fn ballots_written(log: &[Io], host: u64) -> Vec<Ballot> {
    let ours = log.iter().filter(|io| io.writes(ballot_at(host)));
    ours.map(|io| BallotSector::decode(io.written.as_deref().unwrap()).unwrap())
        .map(|sector| sector.ballot)
        .collect()
}

// ---- 2. phase 1 forgets what was accepted

#[test]
fn phase_1_keeps_what_we_have_accepted_and_that_is_what_is_committed() {
    let world = World::formatted();
    // We accepted host 2's value for version 1; it may have been decided by that.
    let before = accepted(2001, 2, 1);
    world.put_ballot(
        1,
        &BallotSector {
            ballot: before,
            ..BallotSector::default()
        },
    );
    // Host 2 has gone since; whatever it had is over.
    let attempt = world.acquire(1, &mut Sightings::default());
    let log = world.disk.log();
    let phase_1 = ballots_written(&log, 1)[0];
    assert!(phase_1.mbal > before.mbal);
    assert_eq!((phase_1.bal, phase_1.value), (before.bal, before.value));
    let leaders = log.iter().filter(|io| io.writes(AREA));
    let committed = leaders.map(|io| {
        let leader = Leader::decode(io.written.as_deref().unwrap()).unwrap();
        (leader.lver().0, leader.owner().unwrap().host.get())
    });
    assert_eq!(committed.collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    assert!(matches!(attempt, Ok(Attempt::Held(_))), "{attempt:?}");
}

// ---- 3. a timed-out write may land later

#[test]
fn nothing_is_written_behind_a_write_that_hangs() {
    let world = World::formatted();
    let held = world.acquired(1);
    world.disk.log();
    world.disk.next_write(AREA, Fate::Hangs);
    assert!(world.release(1, &held).is_err());
    assert!(world.release(1, &held).is_err());
    assert!(world.resolve(1).is_err());
    let writes = world
        .disk
        .log()
        .into_iter()
        .filter(|io| io.written.is_some());
    assert_eq!(writes.count(), 1);
    assert_eq!(world.leader().owner().unwrap().host, host_id(1));
}

#[test]
fn a_release_that_lands_late_frees_nobody_elses_lease() {
    let world = World::formatted();
    let held = world.acquired(1);
    world.disk.next_write(AREA, Fate::Hangs);
    // The leader's write hangs, and our host gives up and dies.
    assert!(world.release(1, &held).is_err());
    let before = world.leader();
    let thief = Stamp {
        host: host_id(2),
        generation: Generation(1),
        timestamp: 99,
    };
    // A retry by the next life would have to start from what stands there now.
    let taken = before.committed(Lver(2), thief, thief, None);
    world.disk.put_at(AREA, &taken.to_sector());
    assert!(world.release(1, &held).is_err());
    assert_eq!(world.leader(), taken);
}

#[test]
fn a_host_id_is_not_given_back_while_a_write_hangs() {
    let world = World::formatted();
    let mut lease = world.join();
    let at = geometry().heartbeat_at(host_id(1)) as u64;
    world.disk.next_write(at, Fate::Hangs);
    assert!(matches!(
        lease.renew(&*world.disk, &world.clock),
        Err(RenewError::Disk(_))
    ));
    assert!(matches!(
        lease.leave(&*world.disk, &world.clock),
        Err(RenewError::Disk(_))
    ));
    world.disk.land();
    assert!(lease.renew(&*world.disk, &world.clock).is_ok());
    assert_eq!(lease.leave(&*world.disk, &world.clock), Ok(()));
    assert!(
        Heartbeat::decode(&world.disk.at(at, 512))
            .unwrap()
            .is_free()
    );
}

// ---- 4. in doubt

/// The last write of an acquire, or its ballot's last, fails one way or the other.
fn in_doubt(at: u64, which: usize, fate: Fate) -> World {
    let world = World::formatted();
    let mut count = 0;
    world.disk.rule(move |io, _| {
        count += usize::from(io.writes(at));
        if io.writes(at) && count == which {
            fate
        } else {
            Fate::Done
        }
    });
    let attempt = world.acquire(1, &mut Sightings::default());
    assert!(
        matches!(attempt, Err(AcquireError::InDoubt(_))),
        "{attempt:?}"
    );
    world.disk.rule(|_, _| Fate::Done);
    world
}

const PHASE_2: (u64, usize) = (0, 2);
const COMMIT: (u64, usize) = (1, 1);

fn sector_of((what, which): (u64, usize)) -> (u64, usize) {
    (if what == 0 { ballot_at(1) } else { AREA }, which)
}

#[test]
fn what_is_in_doubt_is_brought_to_an_end_and_is_not_ours() {
    for step in [PHASE_2, COMMIT] {
        for fate in [Fate::Fails, Fate::FailsWritten] {
            let (at, which) = sector_of(step);
            let world = in_doubt(at, which, fate);
            assert_eq!(world.resolve(1), Ok(()), "{step:?} {fate:?}");
            assert_eq!(world.leader().owner(), None, "{step:?} {fate:?}");
            // The next one gets it at once, and only once.
            let lver = world.leader().lver();
            assert_eq!(world.acquired(2).lver, lver.next());
        }
    }
}

#[test]
fn what_another_host_finishes_for_us_is_given_back() {
    let (at, which) = sector_of(PHASE_2);
    let world = in_doubt(at, which, Fate::FailsWritten);
    // Host 2 finds what we accepted, and that we live: it is ours to commit.
    let heartbeat = world.put_heartbeat(1, 5);
    let mut seen = Sightings::default();
    seen.look(host_id(1), &heartbeat, timing(), world.clock.now());
    world.put_heartbeat(1, 6);
    let attempt = world.acquire(2, &mut seen);
    let Ok(Attempt::Refused(Refusal::Held { owner, .. }, _)) = &attempt else {
        panic!("{attempt:?}");
    };
    assert_eq!((owner.host, world.leader().lver()), (host_id(1), Lver(0)));
    // A host of sanlock's kind commits it for us.
    let writer = Stamp {
        host: host_id(2),
        ..*owner
    };
    let committed = world.leader().committed(Lver(1), *owner, writer, None);
    world.disk.put_at(AREA, &committed.to_sector());

    assert_eq!(world.resolve(1), Ok(()));
    assert!(matches!(world.acquire(2, &mut seen), Ok(Attempt::Held(_))));
}

#[test]
fn a_release_that_failed_after_its_first_write_says_so_once_it_is_resolved() {
    let world = World::formatted();
    let held = world.acquired(1);
    world.disk.next_write(ballot_at(1), Fate::Fails);
    assert!(world.release(1, &held).is_err());
    let freed = world.leader();
    assert!(freed.owner().is_none() && !world.ballot(1).released);
    assert_eq!(world.resolve(1), Ok(()));
    assert_eq!(world.leader(), freed);
    assert!(world.ballot(1).released);
}

#[test]
fn nothing_is_resolved_while_the_write_in_doubt_hangs() {
    let (at, which) = sector_of(COMMIT);
    let world = in_doubt(at, which, Fate::Hangs);
    world.disk.log();
    assert!(world.resolve(1).is_err());
    assert_eq!(world.disk.log(), []);
    world.disk.land();
    assert_eq!(world.resolve(1), Ok(()));
    assert_eq!(world.leader().owner(), None);
}

// ---- 5. a damaged ballot record

#[test]
fn a_damaged_ballot_record_ends_the_attempt() {
    for phase in [1, 2] {
        let world = World::formatted();
        world.put_ballot(
            3,
            &BallotSector {
                ballot: accepted(3, 3, 0),
                ..BallotSector::default()
            },
        );
        let mut writes = 0;
        world.disk.rule(move |io, bytes| {
            writes += usize::from(io.writes(ballot_at(1)));
            if writes == phase && io.written.is_none() {
                put(bytes, ballot_at(3) + 40, &[77]);
            }
            Fate::Done
        });
        let attempt = world.acquire(1, &mut Sightings::default());
        let failed = match phase {
            1 => matches!(attempt, Err(AcquireError::Ballot(_))),
            _ => matches!(attempt, Err(AcquireError::InDoubt(_))),
        };
        assert!(failed, "{attempt:?}");
        assert_eq!(ballots_written(&world.disk.log(), 1).len(), phase);
        assert_eq!(world.leader().owner(), None);
    }
}

// ---- 6. sharers that come between the look and the commit

/// Host 2 lives and was the last owner: it had version 1, and let go of it.
fn owned_last_by_host_2() -> (World, Sightings) {
    let world = World::formatted();
    let heartbeat = world.put_heartbeat(2, 5);
    let mut seen = Sightings::default();
    seen.look(host_id(2), &heartbeat, timing(), world.clock.now());
    world.put_heartbeat(2, 6);
    let two = accepted(2, 2, 1).value.unwrap();
    let leader = world.leader().committed(Lver(1), two, two, Some(true));
    world.disk.put_at(AREA, &leader.released(two).to_sector());
    let released = BallotSector {
        ballot: accepted(2, 2, 1),
        released: true,
        ..BallotSector::default()
    };
    world.put_ballot(2, &released);
    (world, seen)
}

/// Its write has landed late, or it was stopped, and goes on.
#[test]
fn a_share_that_appears_before_the_commit_bars_the_exclusive_lease() {
    let (world, mut seen) = owned_last_by_host_2();
    world.disk.rule(|io, bytes| {
        if io.writes(AREA) {
            let share = BallotSector {
                ballot: accepted(2, 2, 1),
                released: true,
                shared: Some(Generation(1)),
                note: None,
            };
            put(bytes, ballot_at(2), &share.to_sector(geometry().sector()));
        }
        Fate::Done
    });
    let attempt = world.acquire(1, &mut seen);
    let Ok(Attempt::Refused(Refusal::Shared(hosts), _)) = attempt else {
        panic!("{attempt:?}");
    };
    assert_eq!(hosts, [host_id(2)]);
    assert_eq!(world.leader().owner(), None);
    assert_eq!(world.ballot(2).shared, Some(Generation(1)));
}

/// Who asks must have both end, and hears of them at once.
#[test]
fn a_refusal_names_a_sharer_that_is_not_known_to_live_beside_one_that_is() {
    let (world, mut seen) = owned_last_by_host_2();
    world.put_heartbeat(3, 5);
    for host in [2, 3] {
        let share = BallotSector {
            shared: Some(Generation(1)),
            released: true,
            ..world.ballot(host)
        };
        world.put_ballot(host, &share);
    }
    let attempt = world.acquire(1, &mut seen);
    let Ok(Attempt::Refused(Refusal::Shared(hosts), _)) = attempt else {
        panic!("{attempt:?}");
    };
    assert_eq!(hosts, [2, 3].map(host_id));
}

// ---- 7. a dead sharer's record

/// Host 2 shares, and was seen without a change for longer than it can live.
fn with_dead_sharer() -> (World, Sightings) {
    let world = World::formatted();
    let heartbeat = world.put_heartbeat(2, 5);
    let mut seen = Sightings::default();
    seen.look(host_id(2), &heartbeat, timing(), Moment::default());
    let share = BallotSector {
        ballot: accepted(2, 2, 0),
        released: true,
        shared: Some(Generation(1)),
        note: None,
    };
    world.put_ballot(2, &share);
    (world, seen)
}

#[test]
fn a_dead_share_bars_nobody_and_its_record_is_left_to_its_host() {
    let (world, mut seen) = with_dead_sharer();
    let before = world.ballot(2);
    let attempt = world.acquire(1, &mut seen);
    assert!(matches!(attempt, Ok(Attempt::Held(_))), "{attempt:?}");
    assert_eq!(world.ballot(2), before);
    let log = world.disk.log();
    assert!(!log.iter().any(|io| io.writes(ballot_at(2))));
}

#[test]
fn a_share_of_a_later_life_is_not_taken_for_the_dead_ones() {
    let (world, mut seen) = with_dead_sharer();
    // It comes back and shares again, after we have looked at it.
    world.disk.rule(|io, bytes| {
        if io.writes(AREA) {
            let share = BallotSector {
                shared: Some(Generation(2)),
                ..BallotSector::default()
            };
            put(bytes, ballot_at(2), &share.to_sector(geometry().sector()));
        }
        Fate::Done
    });
    let attempt = world.acquire(1, &mut seen);
    assert!(!matches!(attempt, Ok(Attempt::Held(_))), "{attempt:?}");
    assert_eq!(world.ballot(2).shared, Some(Generation(2)));
}

// ---- 8. a holder looks at its leader again

#[test]
fn a_holder_sees_whether_its_lease_is_still_its_own() {
    let world = World::formatted();
    let held = world.acquired(1);
    let check = || world.with(1, |resource, member, _| resource.still_held(member, &held));
    assert_eq!(check(), Ok(true));
    let ours = world.leader();
    let stamp = |host, generation| Stamp {
        host: host_id(host),
        generation: Generation(generation),
        timestamp: 5,
    };
    let table = [
        ("written by another host, for us", 1, stamp(1, 1), true),
        ("the next version, another host's", 2, stamp(2, 1), false),
        (
            "the next version, a later life's of ours",
            2,
            stamp(1, 2),
            false,
        ),
        (
            "the same version, a later life's of ours",
            1,
            stamp(1, 2),
            false,
        ),
    ];
    for (story, lver, owner, still) in table {
        let leader = ours.committed(Lver(lver), owner, stamp(2, 1), None);
        world.disk.put_at(AREA, &leader.to_sector());
        assert_eq!(check(), Ok(still), "{story}");
    }
    world
        .disk
        .put_at(AREA, &ours.released(stamp(1, 1)).to_sector());
    assert_eq!(check(), Ok(false), "freed");
}

// ---- 9. a slow renewal

/// A renewal whose write takes `seconds`, and the lease after it.
fn slow_renewal(seconds: u64) -> (World, HostLease, Moment, Result<(), RenewError>) {
    let world = World::formatted();
    let mut lease = world.join();
    let began = world.clock.now();
    let disk = SlowDisk::new(&world.disk, &world.clock, Duration::from_secs(seconds));
    let result = lease.renew(&disk, &world.clock).map(|_| ());
    world.disk.log();
    (world, lease, began, result)
}

#[test]
fn a_renewal_counts_from_before_its_write_was_issued() {
    let (world, lease, began, result) = slow_renewal(50);
    assert_eq!(result, Ok(()));
    assert_eq!(lease.renewed(), began);
    let tenure = Tenure::new(timing(), lease.renewed());
    assert!(tenure.holds(began.after(Duration::from_secs(79))));
    assert!(!tenure.holds(began.after(Duration::from_secs(80))));
    assert!(tenure.holds(world.clock.now()));
}

#[test]
fn a_renewal_that_lands_after_8t_saves_nobody_and_nothing_follows_it() {
    let (world, mut lease, began, result) = slow_renewal(100);
    assert!(matches!(result, Err(RenewError::Lost(_))), "{result:?}");
    assert!(lease.renewed() <= began);
    let again = lease.renew(&*world.disk, &world.clock).map(|_| ());
    assert!(matches!(again, Err(RenewError::Lost(_))), "{again:?}");
    let left = lease.leave(&*world.disk, &world.clock);
    assert!(matches!(left, Err(RenewError::Lost(_))), "{left:?}");
    assert!(world.disk.log().iter().all(|io| io.written.is_none()));
}
