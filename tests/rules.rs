//! The rules for safety that touch the protocol, each by the history that it closes, played by
//! hand; and each defect that the simulated world found, so that it stays found.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "rules/back.rs"]
mod back;
#[path = "rules/ids.rs"]
mod ids;
#[path = "rules/theirs.rs"]
mod theirs;

use lease_core::clock::{Clock, Moment};
use lease_core::delta::{self, Claim, JoinError, Tenure};
use lease_core::disk::Disk;
use lease_core::id::{BallotNumber, Generation, HostId, Lver, Name};
use lease_core::liveness::Sightings;
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::holder_note::HolderNote;
use lease_core::record::leader::Stamp;
use lease_core::resource::{AcquireError, Attempt, Member, Refusal, Resource, Wanted};
use lease_core::spec::Mode::{self, Exclusive, Shared};
use lease_core::timing::Timing;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use support::scene::block;
use support::sim::port::{Handle, Op, Port};
use support::sim::setup::Setup;
use support::sim::stage::{
    Actor, Late, Stage, accepts, errand, reads_leader, sanlock, setup, writes_block,
    writes_heartbeat, writes_leader,
};
use support::sim::{LOCKSPACE, area_offset};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Longer than 8t+W of every host on these stages (t = 1, W = 2), on any clock.
const DEAD: Duration = Duration::from_millis(10_200);

fn wanted(mode: Mode) -> Wanted {
    Wanted {
        mode,
        lver: None,
        note: HolderNote {
            host: HostId::new(1).unwrap(),
            generation: Generation(0),
            lver: Lver(0),
            mode,
            pid: 1,
            start: 1,
            host_name: b"n".to_vec(),
            command: b"c".to_vec(),
        },
    }
}

fn try_once(
    resource: &Resource<'_>,
    member: &Member<'_>,
    mode: Mode,
) -> Result<Attempt, AcquireError> {
    resource.acquire(member, &wanted(mode), &mut Sightings::default())
}

fn assert_safe(stage: &Stage) {
    assert_eq!(stage.violation(), None, "{}", stage.story());
}

fn stamp(host: u64, generation: u64) -> Stamp {
    Stamp {
        host: HostId::new(host).unwrap(),
        generation: Generation(generation),
        timestamp: 5,
    }
}

/// All hosts are known to live.
fn all_seen(hosts: u64) -> Stage {
    let mut stage = Stage::joined(hosts);
    stage.pass(seconds(5));
    stage
}

/// Puts a ballot record on the disk.
fn put_block(stage: &mut Stage, host: u64, block: &BallotSector) {
    let at = (1 + host) * 512;
    let bytes = block.to_sector(lease_core::layout::SectorSize::B512);
    stage.disks[0].write(area_offset(1) + at, &bytes);
}

/// Puts a leader on the disk: version, owner, writer.
fn put_leader(stage: &mut Stage, lver: u64, owner: Stamp, writer: Stamp) {
    let leader = stage
        .leader(0)
        .committed(Lver(lver), owner, writer, Some(false));
    stage.disks[0].write(area_offset(1), &leader.to_sector());
}

fn note_of(attempt: &Result<Attempt, AcquireError>) -> &'static str {
    match attempt {
        Ok(Attempt::Held(_)) => "held",
        Ok(Attempt::Refused(Refusal::Held { .. }, _)) => "refused: held",
        Ok(Attempt::Refused(Refusal::Shared(_), _)) => "refused: shared",
        Ok(Attempt::Refused(..)) => "refused",
        Ok(Attempt::Unknown { .. }) => "unknown",
        Err(AcquireError::TooEarly { .. }) => "too early",
        Err(AcquireError::InDoubt(_)) => "in doubt",
        Err(AcquireError::Lost) => "lost",
        Err(AcquireError::Unclear { .. }) => "unclear",
        Err(AcquireError::Heartbeat { .. }) => "heartbeat",
        Err(_) => "error",
    }
}

/// One attempt to its end, in a word.
fn outcome(stage: &mut Stage, machine: usize, mode: Mode) -> &'static str {
    let (actor, attempt) = stage.act(machine, move |r, m| try_once(r, m, mode));
    stage.finish(actor);
    let attempt = attempt.borrow();
    note_of(attempt.as_ref().unwrap())
}

// ---- rule 1

#[test]
fn rule_1_a_release_whose_write_hangs_is_not_written_again_before_that_has_landed() {
    let mut stage = Stage::joined(2);
    let first = stage.hold(0, errand(Exclusive, 1));
    stage.until_held(first);
    stage.until(first, writes_leader);
    let late = stage.hangs(first);
    for _ in 0..20 {
        assert!(!matches!(stage.pending(first), Some(Op::Write { .. })));
        stage.step(first);
    }
    stage.lands(&late);
    stage.finish(first);
    let second = stage.hold(1, errand(Exclusive, 1));
    stage.finish(second);
    assert_safe(&stage);
}

// ---- rule 2

/// Host 1's machine loses power while its first write of a ballot is on its way, and is back
/// within seconds by its own name.
fn back_with_a_write_on_its_way() -> (Stage, Late, u64) {
    let named = |host: u64| {
        let name = Name::new_host(format!("host{host}").as_bytes()).unwrap();
        let mut setup = setup(host);
        setup.name = Some(name);
        setup
    };
    let mut stage = Stage::of(&[named(1), named(2)]);
    let first = stage.hold(0, errand(Exclusive, 1));
    stage.until(first, writes_block(1));
    let (late, issued) = (stage.issued(first), stage.now());
    stage.power_off(0);
    stage.join(0);
    (stage, late, issued)
}

#[test]
fn rule_2_no_ballot_while_a_write_of_an_earlier_life_may_land() {
    let (mut stage, late, issued) = back_with_a_write_on_its_way();
    let (again, _) = stage.act(0, |resource, member| {
        while let Err(AcquireError::TooEarly { .. }) = try_once(resource, member, Exclusive) {
            member.clock.wait(seconds(1)).unwrap();
        }
    });
    while stage.now() < issued + 9_000_000_000 {
        if stage.pending(again).is_some_and(writes_leader) {
            break; // Accepted already; in a moment it is committed.
        }
        stage.step(again);
    }
    stage.lands(&late);
    let other = stage.hold(1, errand(Exclusive, 1));
    stage.finish(other);
    stage.finish(again);
    assert_safe(&stage);
    assert_eq!(stage.leader(0).lver(), Lver(2), "{}", stage.story());
}

#[test]
fn rule_2_the_quiet_lasts_until_a_renewal_has_shown_that_the_heartbeat_is_still_ours() {
    let mut stage = Stage::joined(1);
    stage.freeze(0);
    stage.pass(seconds(1));
    let life = stage.machine(0).live_member().unwrap();
    let renewed = life.tenure.renewed();
    let (actor, attempt) = stage.act(0, move |resource, member| {
        let early = Member {
            ballots_from: Moment(renewed.0 + 1),
            ..*member
        };
        [early.ballots_from, renewed].map(|ballots_from| {
            let member = Member {
                ballots_from,
                ..*member
            };
            note_of(&try_once(resource, &member, Exclusive))
        })
    });
    stage.finish(actor);
    assert_eq!(*attempt.borrow(), Some(["too early", "held"]));
}

#[test]
fn rule_2_after_another_machine_died_writes_are_awaited_for_twice_as_long() {
    let mut stage = Stage::joined(2);
    stage.power_off(0);
    let before = stage.now();
    stage.join(0);
    let life = stage.machine(0).live_member().unwrap();
    let quiet = stage.machine(0).face.when(life.ballots_from) - before;
    // Issued by a process that stalled until it was killed at 8t+W, landed 8t+W later.
    assert!(quiet >= 20_000_000_000, "{quiet}");
}

// ---- rule 3

#[test]
fn rule_3_a_ballot_is_not_committed_over_a_leader_that_has_changed() {
    let (mut stage, first, second) = a_stalled_commit(Exclusive, 1);
    stage.step(second);
    stage.until_held(first);
    let writer = stage.leader(0).writer().unwrap();
    assert_eq!(
        writer.host.get(),
        2,
        "committed by the other: left as it is"
    );
    stage.finish(first);
    assert_safe(&stage);
}

#[test]
fn rule_3_a_commit_that_was_overwritten_at_once_is_not_believed() {
    let mut stage = Stage::joined(2);
    let old = stage.leader(0);
    let first = stage.hold(0, errand(Exclusive, 1));
    stage.until(first, writes_leader);
    stage.step(first);
    stage.disks[0].write(area_offset(1), &old.to_sector());
    stage.until_held(first);
    assert_eq!(stage.leader(0).lver(), Lver(1), "{}", stage.story());
}

#[test]
fn rule_3_a_holder_whose_leader_names_another_is_told() {
    let mut stage = Stage::joined(2);
    let (actor, told) = stage.act(0, |resource, member| {
        let Ok(Attempt::Held(held)) = try_once(resource, member, Exclusive) else {
            return None;
        };
        let before = resource.still_held(member, &held);
        member.clock.wait(seconds(1)).unwrap();
        Some((before, resource.still_held(member, &held)))
    });
    stage.until(actor, |op| matches!(op, Op::Wait { .. }));
    put_leader(&mut stage, 2, stamp(2, 1), stamp(2, 1));
    stage.finish(actor);
    assert_eq!(*told.borrow(), Some(Some((Ok(true), Ok(false)))));
}

#[test]
fn rule_3_a_sharer_whose_mode_record_is_gone_is_told() {
    let of_another_life = BallotSector {
        shared: Some(Generation(2)),
        ..BallotSector::default()
    };
    for found in [BallotSector::default(), of_another_life] {
        let mut stage = Stage::joined(2);
        let (actor, told) = stage.act(0, |resource, member| {
            let Ok(Attempt::Held(held)) = try_once(resource, member, Shared) else {
                return None;
            };
            let before = resource.still_held(member, &held);
            member.clock.wait(seconds(1)).unwrap();
            Some((before, resource.still_held(member, &held)))
        });
        stage.until(actor, |op| matches!(op, Op::Wait { .. }));
        put_block(&mut stage, 1, &found);
        stage.finish(actor);
        assert_eq!(*told.borrow(), Some(Some((Ok(true), Ok(false)))));
    }
}

// ---- rule 4

/// Steps until the end, and says whether anything was written on the way.
fn writes_more(stage: &mut Stage, actor: Actor) -> bool {
    while !stage.is_over(actor) {
        if matches!(stage.pending(actor), Some(Op::Write { .. })) {
            return true;
        }
        stage.step(actor);
    }
    false
}

#[test]
fn rule_4_after_8t_without_a_renewal_nothing_is_written() {
    // At each operation in turn renewals end.
    for steps in 0..30 {
        let mut stage = Stage::joined(1);
        let (actor, _) = stage.act(0, |resource, member| {
            if let Ok(Attempt::Held(held)) = try_once(resource, member, Exclusive) {
                let _ = resource.release(member, &held);
            }
        });
        for _ in 0..steps {
            stage.step(actor);
        }
        if matches!(stage.pending(actor), Some(Op::Write { .. })) {
            continue; // Permitted already.
        }
        stage.freeze(0);
        stage.pass(seconds(8));
        assert!(
            !writes_more(&mut stage, actor),
            "after {steps} operations\n{}",
            stage.story()
        );
    }
}

#[test]
fn rule_4_a_write_that_took_too_long_is_the_last() {
    for steps in 0..30 {
        let mut stage = Stage::joined(1);
        let (actor, attempt) = stage.act(0, |r, m| try_once(r, m, Exclusive));
        for _ in 0..steps {
            stage.step(actor);
        }
        if !matches!(stage.pending(actor), Some(Op::Write { .. })) {
            continue;
        }
        stage.freeze(0);
        stage.pass(seconds(8));
        stage.step(actor);
        assert!(
            stage.is_over(actor),
            "it goes on after {steps} operations: {:?}",
            stage.pending(actor)
        );
        assert_eq!(note_of(attempt.borrow().as_ref().unwrap()), "lost");
    }
}

#[test]
fn rule_4_an_attempt_that_took_too_long_holds_nothing() {
    for steps in 0..30 {
        for mode in [Exclusive, Shared] {
            let mut stage = Stage::joined(1);
            let (actor, attempt) = stage.act(0, move |r, m| try_once(r, m, mode));
            for _ in 0..steps {
                stage.step(actor);
            }
            if stage.is_over(actor) {
                continue;
            }
            stage.freeze(0);
            stage.pass(seconds(8));
            stage.finish(actor);
            let said = note_of(attempt.borrow().as_ref().unwrap());
            assert_eq!(said, "lost", "{mode:?} after {steps} operations");
        }
    }
}

#[test]
fn rule_4_a_host_id_that_was_lost_is_never_written_again() {
    let mut stage = Stage::new(&[setup(1)]);
    let claim = claim(&stage, 0, b"name");
    let lost = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&lost);
    let actor = with_lockspace(&mut stage, 0, move |port, file| {
        let mut lease = delta::join(&LOCKSPACE, file, port, &claim, &mut |_| {}).unwrap();
        port.wait(seconds(9)).unwrap();
        heard.borrow_mut().push(lease.renew(file, port).is_err());
        heard.borrow_mut().push(lease.leave(file, port).is_err());
    });
    stage.until(actor, |op| matches!(op, Op::Wait { .. }));
    stage.step(actor);
    stage.until(actor, |op| matches!(op, Op::Wait { .. }));
    assert!(!writes_more(&mut stage, actor));
    assert_eq!(*lost.borrow(), [true, true]);
}

// ---- rule 5

#[test]
fn rule_5_timestamps_always_change_and_are_never_zero() {
    let mut stage = Stage::new(&[setup(1)]);
    let claim = claim(&stage, 0, b"name");
    let stamps = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&stamps);
    let actor = with_lockspace(&mut stage, 0, move |port, file| {
        let mut lease = delta::join(&LOCKSPACE, file, port, &claim, &mut |_| {}).unwrap();
        for _ in 0..5 {
            lease.renew(file, port).unwrap();
            seen.borrow_mut().push(lease.heartbeat().timestamp());
        }
    });
    stage.finish(actor);
    let stamps = stamps.borrow();
    assert!(
        stamps.windows(2).all(|pair| pair[1] > pair[0]),
        "{stamps:?}"
    );
    assert!(stamps[0] > 0);
}

// ---- rule 6

#[test]
fn rule_6_a_released_flag_of_another_version_does_not_open_a_lease() {
    let table = [
        ("in this version", 5, 3, "held"),
        ("in an older version", 4, 3, "refused: held"),
        ("and it is still to free the leader", 5, 2, "refused: held"),
    ];
    for (story, released_in, writer, expected) in table {
        let mut stage = Stage::joined(3);
        put_leader(&mut stage, 5, stamp(2, 1), stamp(writer, 1));
        let released = BallotSector {
            released: true,
            ..block(released_in, 2, Some(stamp(2, 1)))
        };
        put_block(&mut stage, 2, &released);
        stage.pass(seconds(3));
        assert_eq!(watched(&mut stage, 0), expected, "released {story}");
    }
}

/// Before its first write a release may stop for any time: nobody goes on, so that it takes nothing
/// back. Between its two writes nobody waits for it, and the second takes nothing from the next
/// owner. So it is too where the leader had gone back.
#[test]
fn rule_6_a_release_that_stops_is_one_once_its_first_write_is_done() {
    for (goes_back, done) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut stage = Stage::joined(3);
        let before = stage.leader(0);
        let (first, released) = stage.act(0, |resource, member| {
            let Ok(Attempt::Held(held)) = try_once(resource, member, Exclusive) else {
                return None;
            };
            member.clock.wait(seconds(3)).unwrap();
            Some(resource.release(member, &held).is_ok())
        });
        stage.until(first, |op| matches!(op, Op::Wait { .. }));
        if goes_back {
            stage.disks[0].write(area_offset(1), &before.to_sector());
        }
        stage.until(first, writes_leader);
        if done {
            stage.step(first);
            assert!(stage.pending(first).is_some_and(writes_block(1)));
        }
        let [second, third] = match done {
            true => ["held", "refused: held"],
            false => ["refused: held", "held"],
        };
        assert_eq!(watched(&mut stage, 1), second, "{}", stage.story());
        stage.finish(first);
        assert_eq!(released.take(), Some(Some(true)));
        assert_eq!(watched(&mut stage, 2), third, "{}", stage.story());
        assert_eq!(stage.leader(0).lver(), Lver(2));
    }
}

type Told = Rc<RefCell<Option<Result<Attempt, AcquireError>>>>;

/// An attempt by a host that has seen the others' heartbeats change.
fn tries(stage: &mut Stage, machine: usize, mode: Mode) -> (Actor, Told) {
    let life = stage.machine(machine).live_member().unwrap();
    stage.act(machine, move |resource, member| {
        let mut seen = life.seen.borrow().clone();
        resource.acquire(member, &wanted(mode), &mut seen)
    })
}

/// What comes of such an attempt at an exclusive lease.
fn watched(stage: &mut Stage, machine: usize) -> &'static str {
    let (actor, told) = tries(stage, machine, Exclusive);
    stage.finish(actor);
    note_of(told.borrow().as_ref().unwrap())
}

#[test]
fn rule_6_an_owner_whose_heartbeat_is_unreadable_or_older_is_never_dead() {
    let mut stage = Stage::joined(2);
    put_leader(&mut stage, 5, stamp(2, 7), stamp(2, 7));
    stage.pass(DEAD * 3);
    assert_eq!(watched(&mut stage, 0), "unclear");
    stage.power_off(1);
    stage.disks[0].write(4096, &[0xAB; 4096]);
    stage.pass(DEAD * 3);
    assert_eq!(watched(&mut stage, 0), "heartbeat");
}

#[test]
fn rule_6_a_sharer_whose_heartbeat_is_unreadable_or_older_is_never_dead() {
    let mut stage = Stage::joined(2);
    let sharing = BallotSector {
        released: true,
        shared: Some(Generation(7)),
        ..block(5, 2, Some(stamp(2, 7)))
    };
    put_block(&mut stage, 2, &sharing);
    stage.pass(DEAD * 3);
    assert_eq!(watched(&mut stage, 0), "unclear");
    stage.power_off(1);
    stage.disks[0].write(4096, &[0xAB; 4096]);
    stage.pass(DEAD * 3);
    assert_eq!(watched(&mut stage, 0), "heartbeat");
}

/// Version 9 was decided for host 2; the leader says 5, free.
#[test]
fn rule_6_a_leader_behind_its_ballots_decides_nothing_twice() {
    for dead in [false, true] {
        let mut stage = Stage::joined(3);
        put_leader(&mut stage, 5, stamp(1, 1), stamp(1, 1));
        put_block(&mut stage, 2, &block(9, 4002, Some(stamp(2, 1))));
        if dead {
            stage.power_off(1);
            stage.pass(DEAD);
        }
        stage.pass(seconds(3));
        // What a live host has to write is not written for it.
        let (expected, lver) = if dead {
            ("held", 10)
        } else {
            ("refused: held", 5)
        };
        assert_eq!(watched(&mut stage, 0), expected, "{}", stage.story());
        assert_eq!(stage.leader(0).lver(), Lver(lver));
    }
}

// ---- rule 7

#[test]
fn rule_7_a_sharer_that_was_taken_for_dead_before_its_mode_write_does_not_share() {
    let mut stage = Stage::joined(2);
    // A host that believes in itself whatever happens: only the leader can tell it.
    let (first, attempt) = stage.act(0, |resource, member| {
        let tenure = Tenure::new(member.tenure.timing(), Moment(u64::MAX / 2));
        let member = Member {
            tenure: &tenure,
            ..*member
        };
        try_once(resource, &member, Shared)
    });
    stage.until(first, writes_leader);
    stage.step(first);
    stage.until(first, writes_block(1));
    stage.freeze(0);
    let second = stage.hold(1, errand(Exclusive, 60));
    stage.until_held(second);
    stage.finish(first);
    assert_eq!(
        note_of(attempt.borrow().as_ref().unwrap()),
        "refused",
        "{}",
        stage.story()
    );
    assert_eq!(stage.block(0, 1).shared, None);
}

// ---- rule 8

#[test]
fn rule_8_a_ballot_does_not_take_away_what_another_holder_on_this_host_shares() {
    let mut stage = Stage::joined(1);
    assert_eq!(outcome(&mut stage, 0, Shared), "held");
    assert_eq!(outcome(&mut stage, 0, Exclusive), "refused: shared");
    assert_eq!(outcome(&mut stage, 0, Shared), "held");
    assert_eq!(stage.block(0, 1).shared, Some(Generation(1)));
    assert_eq!(stage.leader(0).lver(), Lver(1), "no ballot was run");
}

// ---- rule 9

fn claim(stage: &Stage, machine: usize, name: &[u8]) -> Claim {
    let setup = &stage.machine(machine).setup;
    Claim {
        host: setup.host,
        name: Name::new_host(name).unwrap(),
        timing: setup.timing,
        boot_id: [machine as u8 + 1; 16],
        at_least: Generation(0),
        attempted: Generation(0),
        quiet_from: Moment(0),
        not_before: Moment(0),
    }
}

fn with_lockspace(
    stage: &mut Stage,
    machine: usize,
    play: impl FnOnce(&Port<'_>, &dyn Disk) + 'static,
) -> Actor {
    let handle = Handle {
        file: 1,
        disk: 0,
        limit: seconds(1),
    };
    let body = move |port: &Port<'_>| play(port, &port.file(handle));
    stage.start(machine, Box::new(body))
}

type Joined = Rc<RefCell<Option<Result<(Generation, Moment), JoinError>>>>;

fn joins(stage: &mut Stage, machine: usize, claim: Claim) -> (Actor, Joined) {
    let joined = Joined::default();
    let slot = Rc::clone(&joined);
    let actor = with_lockspace(stage, machine, move |port, file| {
        let lease = delta::join(&LOCKSPACE, file, port, &claim, &mut |_| {});
        *slot.borrow_mut() = Some(lease.map(|l| (l.generation(), l.ballots_from())));
    });
    (actor, joined)
}

#[test]
fn rule_9_of_two_machines_with_one_id_that_join_at_once_one_has_it() {
    // A clone has the same name.
    for (name, second_writes_first) in [(b"b", true), (b"b", false), (b"a", true), (b"a", false)] {
        let mut stage = Stage::new(&[setup(1), setup(1)]);
        let claims = [claim(&stage, 0, b"a"), claim(&stage, 1, name)];
        let (a, first) = joins(&mut stage, 0, claims[0]);
        let (b, second) = joins(&mut stage, 1, claims[1]);
        stage.until(a, writes_heartbeat(1));
        stage.until(b, writes_heartbeat(1));
        let order = if second_writes_first { [b, a] } else { [a, b] };
        for actor in order {
            stage.step(actor);
        }
        stage.finish(a);
        stage.finish(b);
        let had = [first, second].map(|joined| joined.borrow().as_ref().unwrap().is_ok());
        assert_eq!(had, [second_writes_first, !second_writes_first]);
    }
}

#[test]
fn rule_9_a_joiner_that_stalled_before_its_write_has_not_joined() {
    let mut stage = Stage::new(&[setup(1), setup(1)]);
    let slow = claim(&stage, 0, b"slow");
    let (actor, joined) = joins(&mut stage, 0, slow);
    stage.until(actor, writes_heartbeat(1));
    // Meanwhile the other joins, leaves, and joins again.
    for _ in 0..2 {
        let quick = claim(&stage, 1, b"quick");
        let lease = with_lockspace(&mut stage, 1, move |port, file| {
            let mut lease = delta::join(&LOCKSPACE, file, port, &quick, &mut |_| {}).unwrap();
            lease.leave(file, port).unwrap();
        });
        stage.finish(lease);
    }
    stage.finish(actor);
    let (generation, _) = joined.borrow().clone().unwrap().unwrap();
    assert!(
        generation > Generation(2),
        "generation {generation} was used"
    );
    assert!(
        stage.now() > DEAD.as_nanos() as u64,
        "it did not watch what it wrote over"
    );
}

#[test]
fn rule_9_the_window_is_that_of_the_record_which_all_joiners_read() {
    let mut setups = [setup(1), setup(1)];
    setups[0].timing = Timing::new(10, 2).unwrap();
    let mut stage = Stage::new(&setups);
    let (slow, quick) = (claim(&stage, 0, b"slow"), claim(&stage, 1, b"quick"));
    let (a, first) = joins(&mut stage, 0, slow);
    stage.until(a, writes_heartbeat(1));
    let (b, second) = joins(&mut stage, 1, quick);
    stage.finish(b);
    assert!(second.borrow().as_ref().unwrap().is_ok());
    // Well within 2t of its own t, but not within that of the record.
    stage.finish(a);
    let (generation, _) = first.borrow().clone().unwrap().unwrap();
    assert!(
        generation > Generation(2),
        "joined beside the other, as generation {generation}"
    );
}

// ---- rule 10

#[test]
fn rule_10_a_name_that_matches_is_watched_and_the_same_boot_for_all_of_its_time() {
    let table = [
        ("another boot, same name", [7; 16], &b"name"[..], 3),
        ("same boot, same name", [1; 16], b"name", 10),
        ("another boot, another name", [7; 16], b"other", 10),
    ];
    for (story, boot_id, name, at_least) in table {
        let mut stage = Stage::new(&[setup(1)]);
        let dead = claim(&stage, 0, b"name");
        let (actor, _) = joins(&mut stage, 0, dead);
        stage.finish(actor);
        let start = stage.now();
        let again = Claim {
            boot_id,
            name: Name::new_host(name).unwrap(),
            ..dead
        };
        let (actor, joined) = joins(&mut stage, 0, again);
        stage.finish(actor);
        assert!(joined.borrow().as_ref().unwrap().is_ok(), "{story}");
        let took = (stage.now() - start) / 1_000_000_000;
        assert!(
            (at_least + 2..at_least + 5).contains(&took),
            "{story}: {took} s"
        );
    }
}

#[test]
fn rule_10_a_live_host_of_our_name_keeps_its_id() {
    let mut stage = Stage::joined(1);
    let name = stage.heartbeat(1).host_name().unwrap();
    let clone = Claim {
        boot_id: [9; 16],
        ..claim(&stage, 0, name.as_bytes())
    };
    let (actor, joined) = joins(&mut stage, 0, clone);
    stage.finish(actor);
    let refused = matches!(*joined.borrow(), Some(Err(JoinError::InUse { .. })));
    assert!(refused, "{:?}", joined.borrow());
}

// ---- a heartbeat is freed only when nothing of the past can land

#[test]
fn a_join_that_is_called_off_frees_nothing_before_it_has_settled() {
    let mut stage = Stage::new(&[setup(1), setup(1)]);
    let (early, late) = (claim(&stage, 0, b"early"), claim(&stage, 1, b"late"));
    let (a, _) = joins(&mut stage, 0, early);
    let (b, joined) = joins(&mut stage, 1, late);
    stage.until(a, writes_heartbeat(1));
    stage.until(b, writes_heartbeat(1));
    stage.step(a);
    // Told to stop at once, it may free its record: not before others would have shown up.
    stage.interrupt(a);
    for _ in 0..3 {
        if stage.pending(a).is_some_and(writes_heartbeat(1)) || stage.is_over(a) {
            break;
        }
        stage.step(a);
    }
    stage.step(b);
    stage.finish(a);
    stage.finish(b);
    assert!(joined.borrow().as_ref().unwrap().is_ok());
    assert!(
        !stage.heartbeat(1).is_free(),
        "the other's record was freed\n{}",
        stage.story()
    );
}

#[test]
fn leaving_soon_after_a_join_over_a_dead_record_leaves_the_record_to_die() {
    let mut stage = Stage::joined(1);
    stage.power_off(0);
    let again = Claim {
        boot_id: [9; 16],
        ..claim(&stage, 0, b"other")
    };
    let actor = with_lockspace(&mut stage, 0, move |port, file| {
        let mut lease = delta::join(&LOCKSPACE, file, port, &again, &mut |_| {}).unwrap();
        lease.leave(file, port).unwrap();
    });
    stage.finish(actor);
    assert!(
        !stage.heartbeat(1).is_free(),
        "the next would not wait for late writes"
    );
}

#[test]
fn leaving_after_all_has_landed_frees_the_record() {
    let mut stage = Stage::new(&[setup(1)]);
    let claim = claim(&stage, 0, b"name");
    let actor = with_lockspace(&mut stage, 0, move |port, file| {
        let mut lease = delta::join(&LOCKSPACE, file, port, &claim, &mut |_| {}).unwrap();
        lease.leave(file, port).unwrap();
    });
    stage.finish(actor);
    assert!(stage.heartbeat(1).is_free());
}

// ---- takeover

#[test]
fn a_takeover_waits_one_percent_longer_than_the_owner_may_live() {
    let mut stage = Stage::joined(2);
    let first = stage.hold(0, errand(Exclusive, 1000));
    stage.until_held(first);
    stage.freeze(0);
    stage.pass(seconds(3)); // Host 2 has seen its last renewal.
    let renewed = stage.machine(0).live_member().unwrap().tenure.renewed();
    let seen = stage.machine(1).live_member().unwrap();
    let since = seen
        .seen
        .borrow()
        .of(HostId::new(1).unwrap())
        .unwrap()
        .since;
    // Its looks, a second apart, are 50 ms after a whole second.
    let past = stage.machine(1).face.now().since(since).as_millis() as u64;
    stage.pass(Duration::from_millis(4050 - past));
    let second = stage.hold(1, errand(Exclusive, 1));
    stage.until_held(second);
    assert!(stage.machine(0).face.when(renewed) <= stage.machine(1).face.when(since));
    let waited = stage.machine(1).face.now().since(since);
    assert!(waited > Duration::from_millis(10_100), "{waited:?}");
    assert_safe(&stage);
}

// ---- leaders that go back

/// Host 2, of sanlock's kind, has finished host 1's ballot for version 1 and stalls before it
/// writes the leader.
fn a_stalled_commit(mode: Mode, seconds: u64) -> (Stage, Actor, Actor) {
    let mut stage = Stage::of(&[setup(1), sanlock(2), setup(3)]);
    let first = stage.hold(0, errand(mode, seconds));
    stage.until(first, accepts(1));
    stage.step(first);
    stage.until(first, reads_leader);
    let second = stage.hold(1, errand(Exclusive, 1));
    stage.until(second, writes_leader);
    (stage, first, second)
}

// ---- shares

#[test]
fn a_dead_sharers_record_is_no_obstacle_and_nobody_writes_in_it() {
    let mut stage = Stage::joined(2);
    let first = stage.hold(0, errand(Shared, 1000));
    stage.until_held(first);
    stage.power_off(0);
    let second = stage.hold(1, errand(Exclusive, 1));
    while !stage.is_over(second) {
        let others = stage.pending(second).is_some_and(writes_block(1));
        assert!(!others, "host 2 writes host 1's record\n{}", stage.story());
        stage.step(second);
    }
    assert_eq!(stage.shared.checker.borrow().exclusive, 1);
    assert_safe(&stage);
}

#[test]
fn a_share_that_appears_after_the_glance_is_seen_in_phase_1() {
    let mut stage = Stage::joined(2);
    let (second, attempt) = stage.act(1, |r, m| try_once(r, m, Exclusive));
    stage.until(second, writes_block(2));
    // Its glance is over; now host 1 comes to share.
    let first = stage.hold(0, errand(Shared, 30));
    stage.until_held(first);
    // Ballot numbers and leader as host 2 saw them: as if all that had happened in one read.
    let fresh = Stage::joined(2);
    let old = fresh.leader(0);
    stage.disks[0].write(area_offset(1), &old.to_sector());
    let share = stage.block(0, 1);
    let quiet = BallotSector {
        ballot: Ballot::default(),
        ..share
    };
    put_block(&mut stage, 1, &quiet);
    stage.finish(second);
    let said = note_of(attempt.borrow().as_ref().unwrap());
    assert!(
        ["refused: shared", "unknown"].contains(&said),
        "{said}\n{}",
        stage.story()
    );
}

#[test]
fn a_share_opens_its_leader_only_once_it_is_sure() {
    let (mut stage, first, second) = a_stalled_commit(Shared, 30);
    stage.step(second);
    stage.kill(second);
    let writes = writes_block(1);
    stage.until(first, &writes);
    stage.step(first);
    let block = stage.block(0, 1);
    assert_eq!((block.released, block.shared), (false, Some(Generation(1))));
    stage.until_held(first);
    assert!(stage.block(0, 1).released);
    stage.pass(seconds(3));
    assert_eq!(watched(&mut stage, 2), "refused: shared");
    assert_safe(&stage);
}

// ---- several disks

fn on_three_disks() -> Stage {
    let setups = [1, 2].map(|host| Setup {
        disks: 3,
        ..setup(host)
    });
    Stage::of(&setups)
}

#[test]
fn of_a_share_on_several_disks_the_newest_record_counts() {
    let mut stage = on_three_disks();
    let first = stage.hold(0, errand(Shared, 1));
    stage.until_held(first);
    stage.until(first, writes_block(1));
    // The share's end reaches two disks of three.
    stage.step(first);
    stage.step(first);
    stage.fails(first, false);
    stage.finish(first);
    assert_eq!(
        outcome(&mut stage, 1, Exclusive),
        "held",
        "{}",
        stage.story()
    );
}

#[test]
fn a_release_that_reads_only_disks_whose_leader_has_gone_back_frees_it_on_the_others_too() {
    let mut stage = on_three_disks();
    let before = stage.leader(0);
    let (first, released) = stage.act(0, |resource, member| {
        let Ok(Attempt::Held(held)) = try_once(resource, member, Exclusive) else {
            return None;
        };
        member.clock.wait(seconds(1)).unwrap();
        Some(resource.release(member, &held))
    });
    stage.until(first, |op| matches!(op, Op::Wait { .. }));
    for disk in &mut stage.disks[..2] {
        disk.write(area_offset(1), &before.to_sector());
    }
    stage.until(first, reads_leader);
    stage.step(first);
    stage.step(first);
    stage.fails(first, false);
    stage.finish(first);
    assert_eq!(released.take(), Some(Some(Ok(()))));
    let leader = stage.leader(0);
    assert_eq!((leader.lver(), leader.owner()), (Lver(1), None));
    stage.pass(seconds(3));
    assert_eq!(watched(&mut stage, 1), "held", "{}", stage.story());
    assert_eq!(stage.leader(0).lver(), Lver(2));
}

#[test]
fn a_share_that_ended_on_one_disk_only_is_ended_on_most_of_them_by_resolving() {
    let mut stage = on_three_disks();
    let (first, resolved) = stage.act(0, |resource, member| {
        let Ok(Attempt::Held(held)) = try_once(resource, member, Shared) else {
            return None;
        };
        let released = resource.release(member, &held).is_ok();
        Some((released, resource.resolve(member, &wanted(Shared))))
    });
    let shares = |bytes: &[u8]| BallotSector::decode(bytes).unwrap().shared.is_some();
    stage.until(
        first,
        |op| matches!(op, Op::Write { bytes, .. } if writes_block(1)(op) && shares(bytes)),
    );
    stage.until(
        first,
        |op| matches!(op, Op::Write { bytes, .. } if writes_block(1)(op) && !shares(bytes)),
    );
    stage.fails(first, false);
    stage.fails(first, false);
    stage.finish(first);
    assert_eq!(resolved.take(), Some(Some((false, Ok(())))));
    let sharing =
        |disk: &&support::sim::disk::Platter| shares(&disk.read(area_offset(1) + 1024, 512));
    assert!(
        stage.disks.iter().filter(sharing).count() < 2,
        "{}",
        stage.story()
    );
}

#[test]
fn a_leader_that_another_wrote_on_some_disks_only_is_open_once_released() {
    let mut stage = on_three_disks();
    put_leader(&mut stage, 5, stamp(2, 1), stamp(2, 1));
    let by_owner = stage.disks[0].clone();
    put_leader(&mut stage, 5, stamp(2, 1), stamp(1, 1));
    let by_another = stage.disks[0].clone();
    let copy = |stage: &mut Stage, disk: usize, from: &support::sim::disk::Platter| {
        let bytes = from.read(area_offset(1), 512);
        stage.disks[disk].write(area_offset(1), &bytes);
    };
    copy(&mut stage, 1, &by_owner);
    copy(&mut stage, 2, &by_another);
    let released = BallotSector {
        released: true,
        ..block(5, 2, Some(stamp(2, 1)))
    };
    put_block(&mut stage, 2, &released);
    stage.pass(seconds(3));
    assert_eq!(watched(&mut stage, 0), "held", "{}", stage.story());
}

// ---- in doubt

#[test]
fn after_a_failed_accept_or_commit_it_is_in_doubt_and_resolving_ends_that() {
    for what in ["accept", "commit"] {
        for done in [true, false] {
            let mut stage = Stage::joined(2);
            let (actor, attempt) = stage.act(0, |resource, member| {
                let first = note_of(&try_once(resource, member, Exclusive));
                (first, resource.resolve(member, &wanted(Exclusive)))
            });
            match what {
                "accept" => stage.until(actor, accepts(1)),
                _ => stage.until(actor, writes_leader),
            }
            stage.fails(actor, done);
            stage.finish(actor);
            assert_eq!(
                *attempt.borrow(),
                Some(("in doubt", Ok(()))),
                "{what} {done}"
            );
            assert_eq!(
                outcome(&mut stage, 1, Exclusive),
                "held",
                "{what} {done}\n{}",
                stage.story()
            );
        }
    }
}

#[test]
fn what_was_not_accepted_anywhere_is_not_in_doubt() {
    let mut stage = Stage::joined(1);
    let (actor, attempt) = stage.act(0, |r, m| try_once(r, m, Exclusive));
    stage.until(actor, writes_block(1));
    stage.fails(actor, true);
    stage.finish(actor);
    assert_eq!(note_of(attempt.borrow().as_ref().unwrap()), "error");
}

#[test]
fn a_value_of_an_older_life_of_this_host_is_not_ours() {
    let mut stage = Stage::joined(2);
    // Generation 0 of host 1 had its value accepted and died before the commit.
    put_block(&mut stage, 1, &block(1, 1, Some(stamp(1, 0))));
    assert_eq!(outcome(&mut stage, 0, Exclusive), "held");
    let leader = stage.leader(0);
    assert_eq!(
        (leader.lver(), leader.owner().unwrap().generation),
        (Lver(2), Generation(1))
    );
}
