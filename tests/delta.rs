//! A host id from join to leave, decision by decision: what stands on the disk and what time it
//! is, to the nanosecond, and what is made of that.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "delta/choice.rs"]
mod choice;
#[path = "delta/former.rs"]
mod former;

use lease_core::clock::{Clock, Moment};
use lease_core::delta::{
    self, Claim, Former, HostLease, JoinError, Lockspace, Lost, RenewError, Tenure, Waiting,
};
use lease_core::format;
use lease_core::id::{Generation, HostId, Name};
use lease_core::layout::Geometry;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::HostNote;
use lease_core::timing::Timing;
use std::time::Duration;
use support::script::{Fate, ScriptClock, ScriptDisk, SlowDisk, put};
use support::storage::host_id;

const START: u64 = 10_000;
const NANOSECOND: Duration = Duration::from_nanos(1);
const T: u8 = 10;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn timing(io_timeout: u8) -> Timing {
    Timing::new(io_timeout, 60).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lockspace() -> Lockspace {
    Lockspace {
        name: name("LS"),
        offset: 0,
        geometry: Geometry::ALL[0],
    }
}

/// Host 1 of this machine, t = 10.
fn claim() -> Claim {
    Claim {
        host: host_id(1),
        name: name("us"),
        timing: timing(T),
        boot_id: [1; 16],
        at_least: Generation(0),
        attempted: Generation(0),
        quiet_from: Moment::default(),
        not_before: Moment::default(),
    }
}

/// What somebody's heartbeat says.
#[derive(Clone, Copy)]
struct Beat {
    host: HostId,
    name: &'static str,
    boot_id: [u8; 16],
    watchdog: u16,
    io_timeout: u8,
    generation: u64,
    timestamp: u64,
}

/// Host 1 as it is joined by `claim`, generation 5.
fn ours() -> Beat {
    Beat {
        host: host_id(1),
        name: "us",
        boot_id: [1; 16],
        watchdog: 60,
        io_timeout: T,
        generation: 5,
        timestamp: 77,
    }
}

impl Beat {
    fn record(&self) -> Heartbeat {
        let note = HostNote {
            watchdog: self.watchdog,
            host: self.host,
            generation: Generation(self.generation),
            boot_id: self.boot_id,
            former_over: 1,
        };
        Heartbeat::new(Geometry::ALL[0], &name("LS"), self.io_timeout).joined(
            &name(self.name),
            self.timestamp,
            self.io_timeout,
            note,
        )
    }
}

/// A lockspace on a disk, and a clock.
struct World {
    disk: ScriptDisk,
    clock: ScriptClock,
}

impl World {
    fn formatted(io_timeout: u8) -> Self {
        let lockspace = format::Lockspace {
            geometry: Geometry::ALL[0],
            name: name("LS"),
            io_timeout,
        };
        Self {
            disk: ScriptDisk::new(lockspace.area()),
            clock: ScriptClock::at(START),
        }
    }

    /// With this in host 1's sector.
    fn with(beat: &Beat) -> Self {
        let world = Self::formatted(T);
        world.put(1, &beat.record());
        world
    }

    fn put(&self, sector: u64, record: &Heartbeat) {
        self.disk.put_at((sector - 1) * 512, &record.to_sector());
    }

    fn record(&self) -> Heartbeat {
        Heartbeat::decode(&self.disk.at(0, 512)).unwrap()
    }

    fn join(&self, claim: &Claim) -> Result<HostLease, JoinError> {
        self.join_telling(claim).0
    }

    fn join_telling(&self, claim: &Claim) -> (Result<HostLease, JoinError>, Vec<Waiting>) {
        let mut told = Vec::new();
        let mut tell = |waiting| told.push(waiting);
        let lease = delta::join(&lockspace(), &self.disk, &self.clock, claim, &mut tell);
        (lease, told)
    }

    fn join_slowly(&self, write: Duration) -> HostLease {
        let disk = SlowDisk::new(&self.disk, &self.clock, write);
        delta::join(&lockspace(), &disk, &self.clock, &claim(), &mut |_| {}).unwrap()
    }

    fn resume(&self, former: &Former) -> Result<HostLease, RenewError> {
        HostLease::resume(&lockspace(), &self.disk, &self.clock, &claim(), former)
    }

    fn renew(&self, lease: &mut HostLease) -> Result<(), RenewError> {
        lease.renew(&self.disk, &self.clock).map(|_| ())
    }

    fn leave(&self, lease: &mut HostLease) -> Result<(), RenewError> {
        lease.leave(&self.disk, &self.clock)
    }
}

// ---- what a lockspace was formatted with

#[test]
fn the_formatted_io_timeout_is_that_of_a_record_which_nobody_has_joined() {
    let world = World::formatted(7);
    world.put(1, &ours().record());
    let area = || lockspace().read_all(&world.disk).unwrap();
    let formatted = |host| area().formatted_io_timeout(host_id(host));
    assert_eq!(formatted(1), Some(7));
    let joined: Vec<_> = area().joined().collect();
    assert_eq!(joined, [(host_id(1), ours().record())]);
    for host in 1..=2000 {
        let io_timeout = if host == 3 { 33 } else { T };
        let host = host_id(host);
        let record = Beat {
            host,
            io_timeout,
            ..ours()
        };
        world.put(host.get(), &record.record());
    }
    assert_eq!(formatted(3), Some(33), "all were joined: the host's own");
}

// ---- join

#[test]
fn a_join_takes_the_next_generation_and_skips_what_a_failed_join_of_ours_may_have_hidden() {
    let other_boot = [9; 16];
    let table = [
        ("another boot's", other_boot, 77, 0, 6),
        ("a failed join of ours, landed late", [1; 16], 77, 0, 1006),
        ("ours, and the last that we know of", [1; 16], 77, 5, 6),
        ("ours, and not even that", [1; 16], 77, 8, 9),
        ("ours, given back", [1; 16], 0, 0, 6),
    ];
    for (story, boot_id, timestamp, at_least, generation) in table {
        let world = World::with(&Beat {
            boot_id,
            timestamp,
            ..ours()
        });
        let claim = Claim {
            at_least: Generation(at_least),
            attempted: Generation(at_least),
            ..claim()
        };
        let lease = world.join(&claim).unwrap();
        assert_eq!(lease.generation(), Generation(generation), "{story}");
        assert_eq!(world.record(), *lease.heartbeat(), "{story}");
    }
}

#[test]
fn a_join_that_wrote_within_its_window_stands_and_a_later_one_starts_over() {
    let window = timing(T).join_window();
    assert_eq!(
        World::formatted(T).join_slowly(window).generation(),
        Generation(1)
    );
    let world = World::formatted(T);
    let disk = SlowDisk::new(&world.disk, &world.clock, window + NANOSECOND);
    let late = delta::join(&lockspace(), &disk, &world.clock, &claim(), &mut |_| {});
    assert_eq!(late.map(|_| ()), Err(JoinError::TooSlow(19)));
}

#[test]
fn a_join_counts_by_the_slower_io_timeout_until_it_has_settled() {
    for (formatted, slowest) in [(20, 20), (10, 10), (5, 10)] {
        let world = World::formatted(formatted);
        let (lease, told) = world.join_telling(&claim());
        let exactly = seconds(2 * u64::from(slowest));
        assert_eq!(told, [Waiting::Settling { exactly }]);
        let written = |io: &support::script::Io| Heartbeat::decode(io.written.as_ref()?).ok();
        let first = world.disk.log().iter().find_map(written).unwrap();
        assert_eq!(first.io_timeout(), Some(slowest));
        assert_eq!(world.record().io_timeout(), Some(T));
        assert_eq!(world.record(), *lease.unwrap().heartbeat());
    }
}

#[test]
fn a_join_renews_at_its_end_only_where_the_io_timeout_has_to_change() {
    for (formatted, writes) in [(20, 2), (T, 1)] {
        let world = World::formatted(formatted);
        let lease = world.join(&claim()).unwrap();
        let log = world.disk.log();
        let written = log.iter().filter(|io| io.written.is_some()).count();
        assert_eq!(written, writes, "formatted with {formatted}");
        let since = if writes == 2 { 40 } else { 0 };
        assert_eq!(lease.renewed(), ScriptClock::at(START + since).now());
    }
}

#[test]
fn a_first_timestamp_is_the_second_at_least_1_and_never_the_one_that_stands_there() {
    let free = World::formatted(T);
    free.join(&claim()).unwrap();
    assert_eq!(free.record().timestamp(), START);

    let just_booted = World {
        clock: ScriptClock::at(0),
        ..World::formatted(T)
    };
    just_booted.join(&claim()).unwrap();
    assert_eq!(just_booted.record().timestamp(), 1);

    // Our name, another boot: watched for 3t, and looked at once a second.
    let now = START + 31;
    for (before, after) in [(now - 1, now), (now, now + 1), (now + 1, now)] {
        let world = World::with(&Beat {
            boot_id: [9; 16],
            timestamp: before,
            ..ours()
        });
        world.join(&claim()).unwrap();
        assert_eq!(world.record().timestamp(), after);
    }
}

#[test]
fn a_record_is_watched_for_longer_than_its_time() {
    for (boot_id, at_most, looked) in [([9; 16], 30_000, 31), ([1; 16], 141_400, 142)] {
        let world = World::with(&Beat { boot_id, ..ours() });
        let (lease, told) = world.join_telling(&claim());
        let watching = Waiting::Watching {
            name: Some(name("us")),
            at_most: Duration::from_millis(at_most),
        };
        assert_eq!(told[0], watching);
        assert_eq!(
            lease.unwrap().renewed(),
            ScriptClock::at(START + looked).now()
        );
    }
}

// ---- a join after one that ended with its write on its way

/// After a join of generation 5 that may land within ten seconds.
fn after_an_attempt() -> Claim {
    Claim {
        at_least: Generation(4),
        attempted: Generation(5),
        not_before: ScriptClock::at(START + 10).now(),
        ..claim()
    }
}

impl World {
    /// Before the look with this number, counted from 0, the sector comes to hold `beat`.
    fn lands_before_look(&self, number: u32, beat: &Beat) {
        let (mut looks, landed) = (0, beat.record().to_sector());
        self.disk.rule(move |_, bytes| {
            if looks == number {
                put(bytes, 0, &landed);
            }
            looks += 1;
            Fate::Done
        });
    }
}

#[test]
fn a_free_record_is_not_taken_before_the_write_of_an_earlier_join_has_landed_or_never_will() {
    let world = World::formatted(T);
    let (lease, told) = world.join_telling(&after_an_attempt());
    let (at_most, exactly) = (seconds(10), seconds(20));
    let expected = [
        Waiting::LateWrite { at_most },
        Waiting::Settling { exactly },
    ];
    assert_eq!(told, expected);
    let lease = lease.unwrap();
    assert_eq!(lease.renewed(), ScriptClock::at(START + 10).now());
    assert_eq!(lease.generation(), Generation(6));
    // From then on nothing is waited for.
    let claim = Claim {
        not_before: ScriptClock::at(START).now(),
        ..after_an_attempt()
    };
    let (lease, told) = World::formatted(T).join_telling(&claim);
    assert!(matches!(told[..], [Waiting::Settling { .. }]), "{told:?}");
    assert_eq!(lease.unwrap().renewed(), ScriptClock::at(START).now());
}

/// Two machines with one host id: the other has joined, with a larger generation, before the late
/// renewal of ours landed.
#[test]
fn what_a_late_renewal_may_have_landed_over_is_not_joined_as_once_more() {
    let known = Claim {
        at_least: Generation(5),
        attempted: Generation(5),
        ..claim()
    };
    let joined = |not_before| {
        let claim = Claim {
            not_before,
            ..known
        };
        let world = World::with(&ours());
        world.join(&claim).unwrap().generation()
    };
    assert_eq!(joined(Moment::default()), Generation(6), "nothing was late");
    assert_eq!(joined(ScriptClock::at(START).now()), Generation(1006));
    let free = World::formatted(T);
    let claim = after_an_attempt();
    assert_eq!(free.join(&claim).unwrap().generation(), Generation(6));
}

#[test]
fn a_late_write_of_an_earlier_join_is_watched_like_any_other() {
    let world = World::formatted(T);
    world.lands_before_look(3, &ours());
    let lease = world.join(&after_an_attempt()).unwrap();
    let watched = ScriptClock::at(START + 3 + 142).now();
    assert_eq!(lease.renewed(), watched);
    // In between others may have joined, more than once.
    assert_eq!(lease.generation(), Generation(1006));
    // Over what is being watched already, too.
    let world = World::with(&Beat {
        generation: 4,
        ..ours()
    });
    world.lands_before_look(3, &ours());
    let lease = world.join(&after_an_attempt()).unwrap();
    assert_eq!(lease.renewed(), watched);
}

#[test]
fn what_no_earlier_join_of_ours_can_have_written_is_another_host() {
    type Row = (&'static str, u32, fn(&mut Beat));
    let table: [Row; 4] = [
        ("another boot", 3, |beat| beat.boot_id = [2; 16]),
        ("another name", 3, |beat| beat.name = "other"),
        ("a later join", 3, |beat| beat.generation = 6),
        ("too late", 10, |beat| beat.watchdog = 60),
    ];
    for (story, look, change) in table {
        // Something to watch for longer than ten seconds.
        let world = World::with(&Beat {
            generation: 4,
            ..ours()
        });
        let mut beat = ours();
        change(&mut beat);
        world.lands_before_look(look, &beat);
        let in_use = JoinError::InUse {
            name: Some(name(beat.name)),
        };
        let refused = world.join(&after_an_attempt()).map(|_| ());
        assert_eq!(refused, Err(in_use), "{story}");
    }
}

#[test]
fn a_free_record_that_is_seen_before_the_time_is_not_taken_either() {
    let world = World::with(&ours());
    world.lands_before_look(
        3,
        &Beat {
            timestamp: 0,
            ..ours()
        },
    );
    let lease = world.join(&after_an_attempt()).unwrap();
    assert_eq!(lease.renewed(), ScriptClock::at(START + 10).now());
}

#[test]
fn what_a_next_process_must_know_follows_the_writes_one_by_one() {
    let world = World::formatted(T);
    let mut lease = world.join(&claim()).unwrap();
    let joined = lease.heartbeat().timestamp();
    world.disk.next_write(0, Fate::Fails);
    world.renew(&mut lease).unwrap_err();
    let mut former = lease.former();
    let expected = Former {
        generation: Generation(1),
        written: joined,
        unsure: vec![START + 20],
        renewed: lease.renewed(),
        ballots_from: Moment::default(),
    };
    assert_eq!(former, expected);
    // What was issued long before can land no more: twice 141 s.
    former.issue(START + 302, timing(T));
    assert_eq!(former.unsure, [START + 20, START + 302]);
    former.issue(START + 303, timing(T));
    assert_eq!(former.unsure, [START + 302, START + 303]);
    former.complete(START + 303, Moment(7));
    assert_eq!(former.unsure, [START + 302]);
    assert_eq!((former.written, former.renewed), (START + 303, Moment(7)));
    former.unsure = vec![u64::MAX]; // Whatever was read back.
    former.issue(START, timing(T));
    assert_eq!(former.unsure, [u64::MAX, START]);
}

#[test]
fn where_the_end_of_a_write_is_not_known_all_is_quiet_8t_and_w_after_the_look() {
    let now = ScriptClock::at(START).now();
    let known = former();
    assert_eq!(known.quiet_from(timing(T), now), Moment::default());
    let unsure = Former {
        unsure: vec![START - 100],
        ..known
    };
    let quiet_from = now.after(timing(T).takeover_after());
    assert_eq!(unsure.quiet_from(timing(T), now), quiet_from);
}

// ---- resume

/// What an earlier process knew, that had written `ours` five seconds ago.
fn former() -> Former {
    Former {
        generation: Generation(5),
        written: 77,
        unsure: Vec::new(),
        renewed: ScriptClock::at(START - 5).now(),
        ballots_from: Moment(123),
    }
}

#[test]
fn a_heartbeat_that_differs_in_anything_is_not_resumed() {
    type Row = (&'static str, fn(&mut Beat));
    let table: [Row; 10] = [
        ("another boot", |beat| beat.boot_id = [2; 16]),
        ("another watchdog time", |beat| beat.watchdog = 59),
        ("another host", |beat| beat.host = host_id(2)),
        ("an earlier life", |beat| beat.generation = 4),
        ("a later life", |beat| beat.generation = 6),
        ("another name", |beat| beat.name = "other"),
        ("another io_timeout", |beat| beat.io_timeout = 11),
        ("a later renewal", |beat| beat.timestamp = 78),
        ("an earlier renewal", |beat| beat.timestamp = 76),
        ("free", |beat| beat.timestamp = 0),
    ];
    for (story, change) in table {
        let mut beat = ours();
        change(&mut beat);
        let refused = World::with(&beat).resume(&former()).map(|_| ());
        let expected = Lost::Overwritten(Some(name(beat.name)));
        assert_eq!(refused, Err(expected.into()), "{story}");
    }
    let mut bare = World::with(&ours());
    bare.disk.put_at(200, &[0; 56]);
    let refused = bare.resume(&former()).map(|_| ());
    assert!(
        refused.is_err(),
        "without a note nothing says which boot it is of"
    );
    bare = World::with(&ours());
    let lease = bare.resume(&former()).unwrap();
    assert_eq!(
        (lease.generation(), lease.renewed(), lease.ballots_from()),
        (Generation(5), former().renewed, former().ballots_from)
    );
}

#[test]
fn a_write_in_flight_is_expected_before_and_after_a_resume_and_no_other() {
    let in_flight = Former {
        unsure: vec![79],
        ..former()
    };
    let landed = ours();
    let landed = Beat {
        timestamp: 79,
        ..landed
    };
    // It has landed already.
    let world = World::with(&landed);
    let mut lease = world.resume(&in_flight).unwrap();
    assert_eq!(world.renew(&mut lease), Ok(()));
    assert!(world.resume(&former()).is_err(), "nobody wrote that");
    // It has not: no renewal may look like it, or a watcher that has seen both would not know
    // that anything was written in between.
    let same_second = Former {
        unsure: vec![START],
        ..former()
    };
    let world = World::with(&ours());
    let mut lease = world.resume(&same_second).unwrap();
    assert_eq!(world.renew(&mut lease), Ok(()));
    assert_eq!(world.record().timestamp(), START + 1);
    // It lands later, over renewals, even.
    let world = World::with(&ours());
    let mut lease = world.resume(&in_flight).unwrap();
    assert_eq!(world.renew(&mut lease), Ok(()));
    world.put(1, &landed.record());
    assert_eq!(world.renew(&mut lease), Ok(()));
    // Another's write is not ours.
    let other = Beat {
        timestamp: 80,
        ..landed
    };
    world.put(1, &other.record());
    let lost = world.renew(&mut lease);
    assert_eq!(lost, Err(Lost::Overwritten(Some(name("us"))).into()));
}

// ---- renew, leave

#[test]
fn at_8t_to_the_nanosecond_a_lease_is_lost() {
    for (age, lost) in [(seconds(80) - NANOSECOND, false), (seconds(80), true)] {
        let expected = |ended: Result<(), RenewError>| match lost {
            true => assert_eq!(ended, Err(Lost::Expired(80).into())),
            false => assert_eq!(ended, Ok(())),
        };
        let joined = || {
            let world = World::formatted(T);
            let mut lease = world.join(&claim()).unwrap();
            world.renew(&mut lease).unwrap();
            world.clock.pass(age);
            (world, lease)
        };
        let (world, mut lease) = joined();
        expected(world.renew(&mut lease));
        let (world, mut lease) = joined();
        expected(world.leave(&mut lease));
        let world = World::with(&ours());
        world.clock.pass(age - seconds(5));
        expected(world.resume(&former()).map(|_| ()));

        let tenure = Tenure::new(timing(T), ScriptClock::at(START).now());
        let then = ScriptClock::at(START).now().after(age);
        assert_eq!(tenure.holds(then), !lost);
    }
}

#[test]
fn a_tenure_that_was_lost_holds_at_no_moment() {
    let renewed = ScriptClock::at(START).now();
    let tenure = Tenure::new(timing(T), renewed);
    assert_eq!((tenure.timing(), tenure.renewed()), (timing(T), renewed));
    assert_eq!(tenure.deadline(), renewed.after(seconds(80)));
    assert!(tenure.holds(renewed) && !tenure.is_lost());
    tenure.note_renewal(Moment(1));
    assert_eq!(
        tenure.renewed(),
        renewed,
        "an older renewal changes nothing"
    );
    tenure.note_loss();
    tenure.note_renewal(renewed.after(seconds(1)));
    assert!(tenure.is_lost());
    assert_eq!(tenure.deadline(), Moment::default());
    assert!(!tenure.holds(renewed) && !tenure.holds(Moment::default()));
}

#[test]
fn a_renewal_that_failed_may_be_on_the_disk_or_not() {
    for fate in [Fate::Fails, Fate::FailsWritten] {
        let world = World::formatted(T);
        let mut lease = world.join(&claim()).unwrap();
        world.disk.next_write(0, fate);
        let failed = world.renew(&mut lease);
        assert!(matches!(failed, Err(RenewError::Disk(_))), "{failed:?}");
        assert_eq!(world.renew(&mut lease), Ok(()), "{fate:?}");
        assert_eq!(world.record(), *lease.heartbeat());
    }
}

#[test]
fn a_renewal_that_stalled_and_failed_may_land_for_all_of_its_time_after_that() {
    let world = World::formatted(T);
    let mut lease = world.join(&claim()).unwrap();
    let stalled = SlowDisk::new(&world.disk, &world.clock, seconds(50));
    world.disk.next_write(0, Fate::Fails);
    world.disk.log();
    let failed = lease.renew(&stalled, &world.clock);
    assert!(matches!(failed, Err(RenewError::Disk(_))));
    let late = world.disk.log().into_iter().find_map(|io| io.written);
    for _ in 0..8 {
        assert_eq!(world.renew(&mut lease), Ok(()));
        world.clock.pass(seconds(20));
    }
    // The last look was at 140 s, and nothing lands after 141.4 s.
    world.disk.put_at(0, &late.unwrap());
    assert_eq!(world.renew(&mut lease), Ok(()));
}

#[test]
fn a_renewal_that_hangs_may_land_over_nothing_but_what_stood_there() {
    let world = World::formatted(T);
    let mut lease = world.join(&claim()).unwrap();
    world.disk.next_write(0, Fate::Hangs);
    assert!(matches!(world.renew(&mut lease), Err(RenewError::Disk(_))));
    let bars = world.renew(&mut lease);
    assert!(matches!(bars, Err(RenewError::Disk(_))), "{bars:?}");
    world.disk.land();
    assert_eq!(world.renew(&mut lease), Ok(()));
}

#[test]
fn a_record_is_not_given_back_while_a_write_may_land_on_a_resource() {
    for (late, freed) in [(seconds(1), false), (Duration::ZERO, true)] {
        let world = World::formatted(T);
        let mut lease = world.join(&claim()).unwrap();
        lease.expect_late_writes(world.clock.now().after(late));
        world.leave(&mut lease).unwrap();
        assert_eq!(world.record().is_free(), freed);
    }
}

#[test]
fn a_record_is_given_back_from_the_moment_at_which_nothing_can_land_any_more() {
    for (early, freed) in [(NANOSECOND, false), (Duration::ZERO, true)] {
        let world = World::formatted(T);
        let quiet_from = ScriptClock::at(START + 60).now();
        let claim = Claim {
            quiet_from,
            ..claim()
        };
        let mut lease = world.join(&claim).unwrap();
        assert_eq!(lease.ballots_from(), quiet_from);
        world
            .clock
            .pass(quiet_from.since(world.clock.now()) - early);
        world.leave(&mut lease).unwrap();
        assert_eq!(world.record().is_free(), freed);
    }
}
