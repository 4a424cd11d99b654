//! A lease from acquire to release, decision by decision: what stands on the disk, and what is
//! written because of it.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "resource/cost.rs"]
mod cost;
#[path = "resource/doubt.rs"]
mod doubt;

use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::id::{BallotNumber, Generation, Lver};
use lease_core::liveness::Sightings;
use lease_core::record::ballot::BallotSector;
use lease_core::record::holder_note::HolderNote;
use lease_core::record::leader::{Leader, Stamp};
use lease_core::resource::{AcquireError, Attempt, Held, Member, Refusal, Snapshot, Wanted};
use lease_core::spec::Mode;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use support::scene::{AREA, HOSTS, World, ballot_at, block, geometry, stamp};
use support::script::{Fate, Io, ScriptClock, put};
use support::storage::host_id;

/// Host 2 has decided this version, and shares.
fn shared_by_host_2(lver: u64) -> BallotSector {
    BallotSector {
        released: true,
        shared: Some(Generation(1)),
        ..block(lver, 2, Some(stamp(2, 1)))
    }
}

/// Puts a leader on the disk: version, owner, writer, on the way to a share or not.
fn put_leader(world: &World, lver: u64, owner: Stamp, writer: Stamp, short: bool) {
    let leader = world
        .leader()
        .committed(Lver(lver), owner, writer, Some(short));
    world.disk.put_at(AREA, &leader.to_sector());
}

/// One attempt by host 1, as wanted.
fn attempt(world: &World, change: impl FnOnce(&mut Wanted)) -> Result<Attempt, AcquireError> {
    world.with(1, |resource, member, wanted| {
        let mut wanted = wanted.clone();
        change(&mut wanted);
        resource.acquire(member, &wanted, &mut Sightings::default())
    })
}

fn held(attempt: Result<Attempt, AcquireError>) -> Held {
    match attempt {
        Ok(Attempt::Held(held)) => *held,
        other => panic!("{other:?}"),
    }
}

fn share(world: &World) -> Held {
    held(attempt(world, |wanted| wanted.mode = Mode::Shared))
}

/// What was written where, and what was read: `w leader`, `r area` and so on.
fn told(log: &[Io]) -> Vec<String> {
    let tell = |io: &Io| {
        let what = if io.written.is_some() { "w" } else { "r" };
        let at = match io.offset {
            AREA => "leader".to_owned(),
            at if at < AREA => "heartbeat".to_owned(),
            at => format!("block {}", (at - AREA) / 512 - 1),
        };
        format!("{what} {at}")
    };
    log.iter().map(tell).collect()
}

fn leaders_written(log: &[Io]) -> Vec<Leader> {
    let writes = log.iter().filter(|io| io.writes(AREA));
    writes
        .map(|io| Leader::decode(io.written.as_ref().unwrap()).unwrap())
        .collect()
}

/// Before the `nth` read of leader or area, counted from 1, this is put on the disk.
fn before_read(world: &World, nth: usize, at: u64, sector: Vec<u8>) {
    let mut reads = 0;
    world.disk.rule(move |io, bytes| {
        reads += usize::from(io.written.is_none() && io.offset == AREA);
        if reads == nth {
            put(bytes, at, &sector);
        }
        Fate::Done
    });
}

/// Host 2 outbids host 1 in the first phase of its ballot, with this record.
fn outbid(world: &World, record: &BallotSector) {
    // The leader, then the area after our write.
    let sector = record.to_sector(geometry().sector());
    before_read(world, 2, ballot_at(2), sector);
}

// ---- acquire

/// One of 0 would say that the lease is free.
#[test]
fn rule_5_in_the_first_second_after_a_boot_the_owners_timestamp_is_1() {
    let world = World {
        clock: ScriptClock::at(0),
        ..World::formatted()
    };
    world.acquired(1);
    let owner = world.leader().owner().unwrap();
    assert_eq!((owner.host, owner.timestamp), (host_id(1), 1));
}

#[test]
fn rule_6_an_owner_of_our_host_id_and_a_later_life_than_ours_is_not_us() {
    let world = World::formatted();
    put_leader(&world, 5, stamp(1, 7), stamp(1, 7), false);
    let refused = world.acquire(1, &mut Sightings::default());
    let owner = world.leader().owner().unwrap();
    assert_eq!(refused, Err(AcquireError::Unclear { owner }));
}

#[test]
fn rule_8_what_an_earlier_life_of_this_host_shared_is_not_shared_by_this_one() {
    let world = World::formatted();
    let earlier = BallotSector {
        released: true,
        shared: Some(Generation(0)),
        ..block(1, 1, Some(stamp(1, 0)))
    };
    world.put_ballot(1, &earlier);
    assert_eq!(share(&world).lver, Lver(2));
    assert_eq!(world.ballot(1).shared, Some(Generation(1)));
}

#[test]
fn a_version_that_is_asked_for_is_the_only_one_that_will_do() {
    let world = World::formatted();
    let refused = attempt(&world, |wanted| wanted.lver = Some(Lver(1)));
    let found = Lver(0);
    assert!(
        matches!(refused, Ok(Attempt::Refused(Refusal::Version { found: it }, _)) if it == found),
        "{refused:?}"
    );
    let lver = held(attempt(&world, |wanted| wanted.lver = Some(found))).lver;
    assert_eq!(lver, Lver(1));

    // The leader has gone back from version 6, which host 2 has had and released.
    let world = World::formatted();
    put_leader(&world, 5, stamp(1, 0), stamp(1, 0), false);
    let freed = world.leader().released(stamp(1, 0));
    world.disk.put_at(AREA, &freed.to_sector());
    let released = BallotSector {
        released: true,
        ..block(6, 2, Some(stamp(2, 1)))
    };
    world.put_ballot(2, &released);
    let refused = attempt(&world, |wanted| wanted.lver = Some(Lver(5)));
    let found = Lver(6);
    assert!(
        matches!(refused, Ok(Attempt::Refused(Refusal::Version { found: it }, _)) if it == found),
        "{refused:?}"
    );
    let lver = held(attempt(&world, |wanted| wanted.lver = Some(found))).lver;
    assert_eq!(lver, Lver(7));
}

#[test]
fn a_host_takes_part_up_to_the_last_that_the_leader_names() {
    let world = World::formatted();
    let num_hosts = HOSTS;
    let refused = world.acquire(HOSTS + 1, &mut Sightings::default());
    assert_eq!(refused, Err(AcquireError::NumHosts { num_hosts }));
    let refused = world.acquire(2000, &mut Sightings::default());
    assert_eq!(refused, Err(AcquireError::NumHosts { num_hosts }));
    assert_eq!(world.acquired(HOSTS).lver, Lver(1));
}

#[test]
fn the_note_beside_the_ballot_says_who_holds_what_and_how() {
    for mode in [Mode::Exclusive, Mode::Shared] {
        let world = World::formatted();
        let written = Rc::new(Cell::new(0));
        let seen = Rc::clone(&written);
        world.disk.rule(move |io, _| {
            if io.writes(ballot_at(1)) {
                let sector = BallotSector::decode(io.written.as_ref().unwrap()).unwrap();
                let expected = HolderNote {
                    host: host_id(1),
                    generation: Generation(1),
                    lver: Lver(1),
                    mode,
                    pid: 4711,
                    start: 1,
                    host_name: Vec::new(),
                    command: b"qemu".to_vec(),
                };
                let bare = sector.ballot.bal == BallotNumber(0);
                assert_eq!(sector.note, (!bare).then_some(expected));
                seen.set(seen.get() + 1);
            }
            Fate::Done
        });
        held(attempt(&world, |wanted| {
            wanted.mode = mode;
            wanted.note.host = host_id(3); // Whatever the asker says of that.
            wanted.note.pid = 4711;
            wanted.note.command = b"qemu".to_vec();
        }));
        assert!(written.get() >= 2);
    }
}

#[test]
fn a_leader_says_short_hold_only_on_the_way_to_a_share() {
    let world = World::formatted();
    world.acquired(1);
    let short = |log: &[Io]| -> Vec<_> {
        let told = |leader: &Leader| (leader.short_hold(), leader.owner().is_some());
        leaders_written(log).iter().map(told).collect()
    };
    assert_eq!(short(&world.disk.log()), [(false, true)]);
    let world = World::formatted();
    share(&world);
    assert_eq!(short(&world.disk.log()), [(true, true), (false, false)]);
    assert_eq!(
        world.leader().flags(),
        World::formatted().leader().flags(),
        "all other flags are kept"
    );
}

#[test]
fn a_live_owner_on_its_way_to_a_share_is_told_from_one_that_stays() {
    let note = |mode| {
        Some(HolderNote {
            host: host_id(2),
            generation: Generation(1),
            lver: Lver(5),
            mode,
            pid: 7,
            start: 1,
            host_name: b"h".to_vec(),
            command: b"c".to_vec(),
        })
    };
    let (exclusive, shared) = (note(Mode::Exclusive), note(Mode::Shared));
    let table = [
        ("stays", false, exclusive.clone(), false),
        ("stays, and says nothing of itself", false, None, false),
        ("says so in its leader", true, None, true),
        ("its leader was written for it", false, shared, true),
    ];
    for (story, flag, note, passing) in table {
        let world = World::formatted();
        put_leader(&world, 5, stamp(2, 1), stamp(2, 1), flag);
        let own = BallotSector {
            note: note.clone(),
            ..block(5, 2, Some(stamp(2, 1)))
        };
        world.put_ballot(2, &own);
        let refused = world.acquire(1, &mut alive(&world, 2));
        let owner = Leader::owner(&world.leader()).unwrap();
        let expected = match passing {
            true => Refusal::ShortHold(owner),
            false => Refusal::Held { owner, note },
        };
        match refused {
            Ok(Attempt::Refused(why, _)) => assert_eq!(why, expected, "{story}"),
            other => panic!("{story}: {other:?}"),
        }
    }
}

/// What somebody knows that has seen the host's heartbeat change just now.
fn alive(world: &World, host: u64) -> Sightings {
    let mut seen = Sightings::default();
    for timestamp in [5, 6] {
        let record = world.put_heartbeat(host, timestamp);
        let now = world.clock.now();
        seen.look(host_id(host), &record, support::scene::timing(), now);
    }
    seen
}

// ---- a ballot that others get in the way of

#[test]
fn who_is_outbid_pauses_longer_each_time_and_tries_again_with_a_larger_number() {
    let world = World::formatted();
    // Host 2 outbids in the first phase, three times; each time with a number beyond ours.
    let mut reads = 0;
    let mut last = None;
    world.disk.rule(move |io, bytes| {
        reads += usize::from(io.written.is_none() && io.offset == AREA);
        if io.writes(ballot_at(1)) {
            let sector = BallotSector::decode(io.written.as_ref().unwrap()).unwrap();
            last = Some(sector.ballot.mbal.0);
        } else if let Some(mbal) = last.take().filter(|_| reads <= 7) {
            let ahead = block(1, mbal + 1, None).to_sector(geometry().sector());
            put(bytes, ballot_at(2), &ahead);
        }
        Fate::Done
    });
    let before = world.clock.now();
    world.acquired(1);
    let written: Vec<_> = world
        .disk
        .log()
        .iter()
        .filter(|io| io.writes(ballot_at(1)))
        .map(|io| BallotSector::decode(io.written.as_ref().unwrap()).unwrap())
        .map(|sector| sector.ballot.mbal.0)
        .collect();
    assert_eq!(written, [1, 2001, 4001, 6001, 6001]);
    // On this clock a random pause takes half of what it may: 20, 40 and 80 ms.
    let paused = world.clock.now().since(before);
    assert_eq!(paused, Duration::from_millis(20 + 40 + 80));
}

#[test]
fn who_is_outbid_looks_again_once_for_each_ballot() {
    let world = World::formatted();
    outbid(&world, &block(1, 2002, None));
    world.acquired(1);
    let log = told(&world.disk.log()).join(" ");
    // The first time by a glance; then all is looked at, and the leader again.
    let outbid = "r leader w block 1 r leader r leader r leader w block 1 r leader";
    assert!(log.starts_with(outbid), "{log}");
}

/// Host 2 outbids host 1 in each of its ballots, as soon as it has written.
fn always_outbid(world: &World) {
    world.disk.rule(|io, bytes| {
        if io.writes(ballot_at(1)) {
            let ours = BallotSector::decode(io.written.as_ref().unwrap()).unwrap();
            let ahead = block(1, ours.ballot.mbal.0 + 1, None);
            let sector = ahead.to_sector(geometry().sector());
            put(bytes, ballot_at(2), &sector);
        }
        Fate::Done
    });
}

fn ballots(world: &World) -> usize {
    let log = world.disk.log();
    log.iter().filter(|io| io.writes(ballot_at(1))).count()
}

#[test]
fn who_is_always_outbid_gives_up_after_32_ballots_and_says_what_is_in_doubt() {
    let world = World::formatted();
    always_outbid(&world);
    let contended = world.acquire(1, &mut Sightings::default());
    assert!(
        matches!(contended, Ok(Attempt::Refused(Refusal::Contended, _))),
        "{contended:?}"
    );
    assert_eq!(ballots(&world), 32);
    assert_eq!(world.ballot(1).ballot.bal, BallotNumber(0));

    let in_doubt = AcquireError::InDoubt(Box::new(AcquireError::Undecided));
    let at_stake = World::formatted();
    at_stake.put_ballot(1, &block(1, 1, Some(stamp(1, 1))));
    always_outbid(&at_stake);
    let undecided = at_stake.acquire(1, &mut Sightings::default());
    assert_eq!(undecided, Err(in_doubt.clone()));
    assert_eq!(ballots(&at_stake), 32);
    assert_eq!(at_stake.resolve(1), Err(in_doubt));
    assert_eq!(ballots(&at_stake), 32);
}

#[test]
fn who_is_outbid_by_a_later_version_judges_it_before_it_goes_on() {
    // The leader has gone back: version 1 was decided for host 2, which shares.
    let world = World::formatted();
    world.put_heartbeat(2, 5);
    outbid(&world, &shared_by_host_2(1));
    let unknown = world.acquire(1, &mut Sightings::default());
    assert!(
        matches!(&unknown, Ok(Attempt::Unknown { owner, .. }) if owner.host == host_id(2)),
        "{unknown:?}"
    );
    assert_eq!(world.leader().lver(), Lver(0), "no ballot for version 2");
    assert_eq!(world.ballot(1).ballot.lver, Lver(1));
}

/// A clock of somebody who was told to stop.
struct Told<'a>(&'a dyn Clock);

impl Clock for Told<'_> {
    fn now(&self) -> Moment {
        self.0.now()
    }

    fn wait(&self, _: Duration) -> Result<(), Interrupted> {
        Err(Interrupted)
    }

    fn back_off(&self, most: Duration) {
        self.0.back_off(most);
    }
}

#[test]
fn who_is_told_to_stop_stops_after_a_lost_ballot_unless_its_value_is_at_stake() {
    let accepted = block(1, 1, Some(stamp(1, 1)));
    let mut never_accepted = accepted.clone();
    never_accepted.ballot.bal = BallotNumber(0);
    let nothing = BallotSector::default();
    for (own, stops) in [(nothing, true), (never_accepted, true), (accepted, false)] {
        let world = World::formatted();
        world.put_ballot(1, &own);
        let mut outbid = false;
        world.disk.rule(move |io, bytes| {
            if io.writes(ballot_at(1)) && !outbid {
                outbid = true;
                let ahead = block(1, 4002, None);
                put(bytes, ballot_at(2), &ahead.to_sector(geometry().sector()));
            }
            Fate::Done
        });
        let ended = world.with(1, |resource, member, wanted| {
            let told = Told(member.clock);
            let member = Member {
                clock: &told,
                ..*member
            };
            resource.acquire(&member, wanted, &mut Sightings::default())
        });
        match stops {
            true => assert_eq!(ended, Err(AcquireError::Interrupted)),
            false => assert!(matches!(ended, Ok(Attempt::Held(_))), "{ended:?}"),
        }
    }
}

// ---- looking

#[test]
fn a_leader_that_moves_on_between_two_parts_of_a_look_is_not_behind() {
    let world = World::formatted();
    // Host 2 holds version 1, and released it while we read.
    put_leader(&world, 1, stamp(2, 1), stamp(2, 1), false);
    let freed = world.leader().released(stamp(2, 1));
    let torn = World::formatted().leader();
    world.disk.put_at(AREA, &torn.to_sector());
    let released = BallotSector {
        released: true,
        ..block(1, 2, Some(stamp(2, 1)))
    };
    world.put_ballot(2, &released);
    // We have started that version before.
    world.put_ballot(1, &block(1, 1, None));
    before_read(&world, 3, AREA, freed.to_sector());
    assert_eq!(world.acquired(1).lver, Lver(2));
    let log = told(&world.disk.log()).join(" ");
    let looks = "r leader r leader r leader r leader w block 1";
    assert!(log.starts_with(looks), "{log}");
}

#[test]
fn a_leader_that_stays_behind_is_looked_at_twice() {
    let world = World::formatted();
    let released = BallotSector {
        released: true,
        ..block(4, 2, Some(stamp(2, 1)))
    };
    world.put_ballot(2, &released);
    world.put_ballot(1, &block(1, 1, None));
    assert_eq!(world.acquired(1).lver, Lver(5));
    let log = told(&world.disk.log()).join(" ");
    let looks = "r leader r leader r leader r leader w block 1";
    assert!(log.starts_with(looks), "{log}");
}

// ---- waiting

/// A waiter waits for host 2, which has version 5, to let go: `what` is put at `at` on the disk
/// just before it looks for the fifth time. For how long it waits, and how often it looks.
fn waits(owner: bool, what: Option<(u64, Vec<u8>)>) -> (Duration, usize) {
    let world = World::formatted();
    put_leader(&world, 5, stamp(2, 1), stamp(3, 1), false);
    world.put_ballot(2, &block(5, 2, Some(stamp(2, 1))));
    world.put_heartbeat(2, 5);
    let before = world.clock.now();
    world.with(1, |resource, member, wanted| {
        let mut seen = Sightings::default();
        let (life, snapshot): (Stamp, Snapshot) = match resource.acquire(member, wanted, &mut seen)
        {
            Ok(Attempt::Unknown {
                owner, snapshot, ..
            }) => (owner, snapshot),
            other => panic!("{other:?}"),
        };
        let mut looks = 0;
        world.disk.rule(move |io, bytes| {
            looks += usize::from(io.offset == AREA);
            if let Some((at, sector)) = what.as_ref().filter(|_| looks == 5) {
                put(bytes, *at, sector);
            }
            Fate::Done
        });
        world.disk.log();
        let (owner, patience) = (owner.then_some(life), Duration::from_secs(10));
        let watched = resource.watch(member, &snapshot, owner, &mut seen, patience);
        watched.unwrap();
    });
    let log = world.disk.log();
    let looks = log.iter().filter(|io| io.offset == AREA).count();
    (world.clock.now().since(before), looks)
}

#[test]
fn a_waiter_goes_on_as_soon_as_anything_has_changed_and_not_before() {
    let world = World::formatted();
    let released = BallotSector {
        released: true,
        ..block(5, 2, Some(stamp(2, 1)))
    }
    .to_sector(geometry().sector());
    put_leader(&world, 5, stamp(2, 1), stamp(3, 1), false);
    let freed = world.leader().released(stamp(2, 1)).to_sector();
    let gone = world.put_heartbeat(2, 0).to_sector();
    let heartbeat = geometry().heartbeat_at(host_id(2)) as u64;
    let table = [
        ("released", true, (ballot_at(2), released)),
        ("freed", true, (AREA, freed)),
        ("left", true, (heartbeat, gone.clone())),
    ];
    for (story, owner, what) in table {
        assert_eq!(waits(owner, Some(what)).1, 5, "{story}");
    }
    let patience = Duration::from_secs(10);
    assert_eq!(waits(true, None).0, patience, "nothing changes");
    let unasked = waits(false, Some((heartbeat, gone)));
    assert_eq!(unasked.0, patience, "left, and nobody asked");
}

/// After a short wait it looks soon; in a long one it costs the storage little.
#[test]
fn a_waiter_looks_often_at_first_and_less_with_time() {
    let mut freed = World::formatted().leader().to_sector();
    freed.truncate(512);
    let soon = waits(true, Some((AREA, freed)));
    assert!(soon.0 <= Duration::from_millis(100), "{soon:?}");
    let (_, looks) = waits(true, None);
    assert!((50..=100).contains(&looks), "{looks}");
}

// ---- what is in doubt, or was left behind

#[test]
fn what_is_resolved_is_released_only_if_we_own_its_last_version() {
    // We owned version 8; the leader has gone back to it, and we had started version 9.
    let world = World::formatted();
    put_leader(&world, 8, stamp(1, 1), stamp(1, 1), false);
    world.put_ballot(1, &block(9, 2001, None));
    world.put_ballot(2, &block(9, 2, Some(stamp(2, 1))));
    let leader = world.leader();
    assert_eq!(world.resolve(1), Ok(()));
    assert_eq!(world.ballot(1).ballot.value, Some(stamp(2, 1)));
    assert!(!world.ballot(1).released, "version 9 is another's");
    assert_eq!(world.leader(), leader);

    // Somebody has gone on: version 9 is over, and the leader is not ours to write.
    world.put_ballot(2, &block(10, 4002, None));
    assert_eq!(world.resolve(1), Ok(()));
    assert!(world.ballot(1).released);
    assert_eq!(world.leader(), leader);

    // Of the same version: released.
    let world = World::formatted();
    put_leader(&world, 8, stamp(1, 1), stamp(1, 1), false);
    world.put_ballot(1, &block(8, 2001, Some(stamp(1, 1))));
    assert_eq!(world.resolve(1), Ok(()));
    assert!(world.ballot(1).released && world.leader().owner().is_none());

    // Another's, where we have never wanted it: nothing is to be said.
    let world = World::formatted();
    put_leader(&world, 8, stamp(2, 1), stamp(2, 1), false);
    let leader = world.leader();
    assert_eq!(world.resolve(1), Ok(()));
    assert!(world.leader() == leader && world.ballot(1) == BallotSector::default());
}

#[test]
fn what_is_resolved_is_nobodys_short_hold_and_a_share_ends_with_its_note() {
    let world = World::formatted();
    world.put_ballot(1, &block(1, 1, Some(stamp(1, 1))));
    let resolved = world.with(1, |resource, member, wanted| {
        let shared = Wanted {
            mode: Mode::Shared,
            ..wanted.clone()
        };
        resource.resolve(member, &shared)
    });
    assert_eq!(resolved, Ok(()));
    let written = leaders_written(&world.disk.log());
    assert!(written.iter().all(|leader| !leader.short_hold()));
    assert_eq!(written.len(), 2);

    let world = World::formatted();
    share(&world);
    let before = world.ballot(1);
    assert!(before.shared.is_some() && before.note.is_some());
    assert_eq!(world.resolve(1), Ok(()));
    let ended = BallotSector {
        shared: None,
        note: None,
        ..before
    };
    assert_eq!(world.ballot(1), ended);
}

#[test]
fn a_leader_that_another_wrote_for_its_owner_is_left_to_the_released_flag() {
    let world = World::formatted();
    let held = world.acquired(1);
    put_leader(&world, 1, stamp(1, 1), stamp(2, 1), false);
    let leader = world.leader();
    world.release(1, &held).unwrap();
    assert_eq!(world.leader(), leader);
    assert!(world.ballot(1).released);
}

#[test]
fn a_leader_of_another_owner_is_not_freed() {
    let world = World::formatted();
    let held = world.acquired(1);
    for lver in [1, 2] {
        put_leader(&world, lver, stamp(2, 1), stamp(2, 1), false);
        let leader = world.leader();
        world.release(1, &held).unwrap();
        assert_eq!(world.leader(), leader, "version {lver}");
    }
}

// ---- a second sharer on one host

#[test]
fn a_second_holder_shares_what_this_life_of_the_host_shares() {
    let joined = |world: &World| {
        world
            .with(1, |resource, member, _| resource.join_share(member))
            .unwrap()
    };
    let world = World::formatted();
    assert_eq!(joined(&world), None, "nobody shares");
    let first = share(&world);
    let second = joined(&world).unwrap();
    assert_eq!((second.lver, second.mode), (first.lver, Mode::Shared));
    let still = world.with(1, |resource, member, _| {
        resource.still_held(member, &second)
    });
    assert_eq!(still, Ok(true));
    world.release(1, &second).unwrap();
    assert_eq!(joined(&world), None, "released");
    let earlier = BallotSector {
        shared: Some(Generation(0)),
        ..block(1, 1, Some(stamp(1, 0)))
    };
    world.put_ballot(1, &earlier);
    assert_eq!(joined(&world), None, "an earlier life's");
}
