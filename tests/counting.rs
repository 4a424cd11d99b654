//! Times, from where they are counted and to where: looks and writes that take their time, and
//! what an earlier life or process may have left on its way.

#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::delta::{self, Claim, Former, HostLease, JoinError, Lost};
use lease_core::disk::Disk;
use lease_core::id::{Generation, Lver};
use lease_core::liveness::Sightings;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::resource::{Attempt, Member};
use std::time::Duration;
use support::scene::{AREA, World, lockspace, name, stamp, timing};
use support::script::{ScriptClock, SlowDisk};
use support::storage::host_id;

/// Of every scene.
const START: u64 = 10_000;
const NANOSECOND: Duration = Duration::from_nanos(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(second: u64) -> Moment {
    ScriptClock::at(second).now()
}

/// Host 1, t = 10; no other machine has its name.
fn claim() -> Claim {
    Claim {
        host: host_id(1),
        name: name("us"),
        timing: timing(),
        boot_id: [1; 16],
        at_least: Generation(0),
        attempted: Generation(0),
        quiet_from: Moment::default(),
        not_before: Moment::default(),
    }
}

fn join(world: &World, disk: &dyn Disk, claim: &Claim) -> Result<HostLease, JoinError> {
    delta::join(&lockspace(), disk, &world.clock, claim, &mut |_| {})
}

/// Nobody has joined, and the record asks for this t.
fn asks_for(io_timeout: u8) -> World {
    let world = World::formatted();
    let free = Heartbeat::decode(&world.disk.at(0, 512)).unwrap();
    let slower = free.timed(io_timeout);
    world.disk.put_at(0, &slower.to_sector());
    world
}

fn writes(world: &World) -> usize {
    let log = world.disk.log();
    log.iter().filter(|io| io.written.is_some()).count()
}

/// The disk with reads and writes that take so long.
fn slow(world: &World, read: Duration, write: Duration) -> SlowDisk<'_> {
    SlowDisk {
        read,
        ..SlowDisk::new(&world.disk, &world.clock, write)
    }
}

/// Host 1's id was joined, by another machine.
fn taken() -> World {
    let world = World::formatted();
    world.put_heartbeat(1, 77);
    world
}

// ---- join

#[test]
fn the_time_for_a_join_counts_from_before_its_read() {
    let (window, read) = (timing().join_window(), seconds(5));
    let joined = |write| {
        let world = World::formatted();
        join(&world, &slow(&world, read, write), &claim()).map(|lease| lease.generation())
    };
    assert_eq!(joined(window - read), Ok(Generation(1)));
    let late = joined(window - read + NANOSECOND);
    assert_eq!(late, Err(JoinError::TooSlow(19)));
}

#[test]
fn a_join_counts_from_before_its_last_write_was_issued() {
    // Where the record asks for more than its own t, it writes its own once it has settled.
    for (t, issued) in [(10, 0), (20, 5 + 40)] {
        let world = asks_for(t);
        let disk = slow(&world, Duration::ZERO, seconds(5));
        let lease = join(&world, &disk, &claim()).unwrap();
        assert_eq!(lease.renewed(), at(START + issued));
    }
}

/// A clock of somebody who wakes up so late from each wait, and may then be told to stop.
struct Late<'a> {
    clock: &'a dyn Clock,
    by: Duration,
    told: bool,
}

impl Clock for Late<'_> {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.clock.wait(duration + self.by)?;
        if self.told { Err(Interrupted) } else { Ok(()) }
    }

    fn back_off(&self, most: Duration) {
        self.clock.back_off(most);
    }
}

/// Joins where the record asks for this t, and wakes up so late. How often it writes, and whether
/// its lease is lost by then.
fn join_late(t: u8, write: Duration, by: Duration, told: bool) -> (usize, bool) {
    let world = asks_for(t);
    let clock = &world.clock;
    let late = Late { clock, by, told };
    let disk = slow(&world, Duration::ZERO, write);
    let joined = delta::join(&lockspace(), &disk, &late, &claim(), &mut |_| {});
    let lost = matches!(joined, Err(JoinError::Lost(Lost::Expired(_))));
    assert!(
        lost || told || joined.is_ok_and(|lease| lease.generation() == Generation(1)),
        "{t} {by:?}"
    );
    (writes(&world), lost)
}

/// Who joins writes a second time where the record asked for more than its own t; and, told to
/// stop, frees what it has written. Until then others count by what the record asked for.
#[test]
fn rule_4_who_stalled_as_it_joined_writes_nothing_more() {
    // After 72 s it has settled.
    let too_late = seconds(8 * 36 - 72);
    for told in [false, true] {
        let join = |by| join_late(36, Duration::ZERO, by, told);
        assert_eq!(join(too_late - NANOSECOND), (2, false));
        assert_eq!(join(too_late), (1, true));
    }
}

#[test]
fn a_join_whose_last_write_takes_too_long_has_not_joined() {
    let write = seconds(8);
    let too_late = seconds(8 * 36 - 72) - 2 * write;
    assert_eq!(
        join_late(36, write, too_late - NANOSECOND, false),
        (2, false)
    );
    assert_eq!(join_late(36, write, too_late, false), (2, true));
}

#[test]
fn a_join_may_settle_for_longer_than_a_lease_of_its_own_lasts() {
    assert_eq!(
        join_late(255, Duration::ZERO, Duration::ZERO, false),
        (2, false)
    );
}

/// What a read shows stood there at some moment between its beginning and its end.
#[test]
fn a_record_is_watched_from_the_end_of_the_first_look_to_the_beginning_of_the_last() {
    let world = taken();
    let disk = slow(&world, seconds(3), Duration::ZERO);
    let lease = join(&world, &disk, &claim()).unwrap();
    // The first ends at 3 s, others begin from 4 s on, each four seconds after the one before; and
    // 144 - 3 is not more than 141.4.
    assert_eq!(lease.renewed(), at(START + 148 + 3));
}

/// The sanlock daemon may have been given our name.
#[test]
fn a_record_of_our_name_without_a_note_is_watched_for_all_of_its_time() {
    let world = taken();
    world.disk.put_at(200, &[0; 56]);
    let claim = Claim {
        name: name("other"),
        ..claim()
    };
    let lease = join(&world, &*world.disk, &claim).unwrap();
    assert_eq!(lease.renewed(), at(START + 142));
}

#[test]
fn ballots_wait_for_the_writes_of_the_life_before_and_of_the_process_before() {
    // Another machine's: 8t + W until all of it is dead, and as long for its last write; by a
    // clock that may run faster.
    let its_own = at(START).after(2 * seconds(140) * 101 / 100);
    let later = its_own.after(NANOSECOND);
    for (quiet_from, expected) in [(Moment(1), its_own), (later, later)] {
        let world = taken();
        let claim = Claim {
            quiet_from,
            ..claim()
        };
        let lease = join(&world, &*world.disk, &claim).unwrap();
        assert_eq!(lease.ballots_from(), expected);
    }
}

// ---- resume

/// Goes on with a life of which this is known, five seconds after its last renewal.
fn resumed(world: &World, unsure: Vec<u64>, ballots_from: Moment) -> HostLease {
    let claim = Claim {
        name: name("other"),
        boot_id: [0; 16],
        ..claim()
    };
    let former = Former {
        generation: Generation(1),
        written: 77,
        unsure,
        renewed: at(START - 5),
        ballots_from,
    };
    HostLease::resume(&lockspace(), &*world.disk, &world.clock, &claim, &former).unwrap()
}

/// Nobody knows when what an earlier process had on its way was issued, but it was before.
#[test]
fn a_write_in_flight_may_land_for_all_of_its_time_after_a_resume() {
    let world = taken();
    let mut lease = resumed(&world, vec![79], Moment::default());
    for _ in 0..7 {
        world.clock.pass(seconds(20));
        lease.renew(&*world.disk, &world.clock).unwrap();
    }
    // The last look was at 140 s, and nothing lands after 141.4 s.
    world.put_heartbeat(1, 79);
    lease.renew(&*world.disk, &world.clock).unwrap();
}

#[test]
fn a_life_that_was_resumed_is_not_given_back_while_a_write_of_one_before_may_land() {
    for (early, freed) in [(NANOSECOND, false), (Duration::ZERO, true)] {
        let world = taken();
        let mut lease = resumed(&world, Vec::new(), at(START + 60));
        world.clock.pass(seconds(60) - early);
        lease.leave(&*world.disk, &world.clock).unwrap();
        let record = Heartbeat::decode(&world.disk.at(0, 512)).unwrap();
        assert_eq!(record.is_free(), freed);
    }
}

// ---- renew

#[test]
fn a_renewal_that_takes_8t_is_lost_and_whoever_reads_for_as_long_does_not_write() {
    let (none, all) = (Duration::ZERO, seconds(80));
    for (read, write, written) in [(all, none, 0), (none, all, 1)] {
        let world = World::formatted();
        let mut lease = world.join();
        lease.renew(&*world.disk, &world.clock).unwrap();
        world.disk.log();
        let renewed = lease.renew(&slow(&world, read, write), &world.clock);
        assert_eq!(renewed.map(|_| ()), Err(Lost::Expired(80).into()));
        assert_eq!(writes(&world), written);
    }
}

// ---- acquire

#[test]
fn an_owner_is_watched_from_the_end_of_the_first_look_to_the_beginning_of_the_last() {
    let world = World::formatted();
    let owner = stamp(2, 1);
    let leader = world.leader();
    let leader = leader.committed(Lver(5), owner, owner, Some(false));
    world.disk.put_at(AREA, &leader.to_sector());
    world.put_heartbeat(2, 5);
    let look = seconds(3);
    let heartbeats = slow(&world, look, Duration::ZERO);
    let mut seen = Sightings::default();
    let mut attempt = || {
        world.with(1, |resource, member, wanted| {
            let member = Member {
                heartbeats: &heartbeats,
                ..*member
            };
            resource.acquire(&member, wanted, &mut seen)
        })
    };
    let dead = at(START).after(look).after(timing().takeover_after());
    let first = attempt();
    assert!(
        matches!(first, Ok(Attempt::Unknown { until, .. }) if until == dead),
        "{first:?}"
    );
    world.clock.pass(dead.since(world.clock.now()));
    let last = attempt();
    assert!(matches!(last, Ok(Attempt::Unknown { .. })), "{last:?}");
    let taken = attempt();
    assert!(matches!(taken, Ok(Attempt::Held(_))), "{taken:?}");
}
