//! What needs several lockspaces, several leases, or several lives of a host, played by hand.

#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::{Generation, HostId, Lver};
use lease_core::record::leader::{Leader, Stamp};
use lease_core::registry::message::Tell;
use lease_core::spec::Mode::Exclusive;
use lease_core::timing::Timing;
use std::time::Duration;
use support::sim::area_offset;
use support::sim::hold::Errand;
use support::sim::mail::{Group, Letter};
use support::sim::setup::{Cage, Setup};
use support::sim::stage::{Actor, Stage, errand, setup, writes_leader};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn assert_safe(stage: &Stage) {
    assert_eq!(stage.violation(), None, "{}", stage.story());
}

fn runs(stage: &Stage) -> usize {
    stage.running().len()
}

/// A host id in each of two lockspaces, with different times, and a resource in each.
fn in_two(host: u64) -> Setup {
    Setup {
        resources: 2,
        more: vec![(HostId::new(host).unwrap(), Timing::new(1, 3).unwrap())],
        ..setup(host)
    }
}

/// Both resources, for longer than the test lasts.
fn both() -> Errand {
    Errand {
        others: vec![(1, Exclusive)],
        ..errand(Exclusive, 1000)
    }
}

/// A machine whose command runs under both.
fn both_held(setup: Setup) -> (Stage, Actor) {
    let mut stage = Stage::of(&[setup]);
    let holder = stage.hold(0, both());
    stage.until_held(holder);
    assert_eq!(runs(&stage), 2, "{}", stage.story());
    stage.enforced = false;
    (stage, holder)
}

/// By 8t+W after the last renewal that has landed in that lockspace nothing runs; until then all
/// does.
fn assert_dead_in_time(stage: &mut Stage, lockspace: usize) {
    let machine = stage.machine(0).in_lockspace(lockspace);
    let at = Duration::from_nanos(machine.dead_by(Generation(1)) - stage.now());
    let margin = machine.setup.dead_after() - machine.setup.lost_after();
    stage.pass(at - margin - Duration::from_millis(500));
    assert_eq!(runs(stage), 2, "{lockspace}: {}", stage.story());
    stage.pass(margin + Duration::from_millis(499));
    assert_eq!(runs(stage), 0, "{lockspace}: {}", stage.story());
}

/// Nothing is renewed any more in one lockspace, though its lease-join lives.
fn silence(stage: &mut Stage, lockspace: usize) {
    let daemon = stage.daemon_of(0, lockspace);
    stage.pauses(daemon, true);
}

// ---- the deadline of each lockspace, by whoever is left

#[test]
fn a_holder_keeps_the_deadline_of_each_lockspace() {
    for lockspace in [0, 1] {
        let (mut stage, _) = both_held(in_two(1));
        stage.kill_join_of(0, lockspace);
        stage.carriers_stop(0, true);
        assert_dead_in_time(&mut stage, lockspace);
    }
}

#[test]
fn the_lease_join_of_each_lockspace_kills_what_a_stopped_holder_does_not() {
    for lockspace in [0, 1] {
        let (mut stage, holder) = both_held(in_two(1));
        stage.stops(0, stage.group(holder), true);
        stage.carriers_stop(0, true);
        silence(&mut stage, lockspace);
        assert_dead_in_time(&mut stage, lockspace);
    }
}

#[test]
fn who_carries_the_last_deadline_carries_that_of_each_lockspace() {
    for cage in [Cage::Group, Cage::Namespace, Cage::Tree] {
        for lockspace in [0, 1] {
            let setup = Setup { cage, ..in_two(1) };
            let (mut stage, holder) = both_held(setup);
            stage.kill_join_of(0, lockspace);
            // Meanwhile the holder hears of renewals in the other one.
            stage.pass(seconds(4));
            stage.stops(0, stage.group(holder), true);
            assert_dead_in_time(&mut stage, lockspace);
        }
    }
}

#[test]
fn a_lease_join_of_one_lockspace_is_restarted_and_nothing_ends() {
    for lockspace in [0, 1] {
        let (mut stage, holder) = both_held(in_two(1));
        for _ in 0..3 {
            stage.kill_join_of(0, lockspace);
            stage.pass(seconds(2));
            stage.join_in(0, lockspace);
            stage.goes_on_for(holder, seconds(3));
        }
        assert_eq!(runs(&stage), 2, "{}", stage.story());
        // It is known to the new one: killed with all that could, it leaves nothing.
        stage.carriers_stop(0, true);
        stage.kill(holder);
        stage.pass(seconds(20));
        assert_eq!(runs(&stage), 0, "{}", stage.story());
        assert_safe(&stage);
    }
}

// ---- several leases

fn stamp(host: u64) -> Stamp {
    Stamp {
        host: HostId::new(host).unwrap(),
        generation: Generation(1),
        timestamp: 1,
    }
}

#[test]
fn one_of_two_leases_is_taken_away_and_the_other_is_released() {
    let two = Setup {
        resources: 2,
        ..setup(1)
    };
    let (mut stage, holder) = both_held(two);
    let before: Leader = stage.leader(0);
    let lver = Lver(before.lver().0 + 1);
    let taken = before.committed(lver, stamp(2), stamp(2), None);
    stage.disks[0].write(area_offset(1), &taken.to_sector());
    stage.goes_on_for(holder, seconds(4));
    assert_eq!(runs(&stage), 0, "{}", stage.story());
    assert!(stage.leader(1).owner().is_none(), "{}", stage.story());
    let story = stage.story();
    assert!(!story.contains("ended without a release"), "{story}");
}

// ---- several lives

#[test]
fn a_gate_opens_for_the_word_of_its_own_life_alone() {
    for (generation, expected) in [(1, 1), (2, 0)] {
        let mut stage = Stage::joined(1);
        let holder = stage.hold(0, errand(Exclusive, 1000));
        stage.until(holder, writes_leader);
        stage.stops(0, Group::Join(0), true);
        stage.goes_on_for(holder, seconds(2));
        let machine = std::rc::Rc::clone(stage.machine(0));
        let renewed = machine.live_member().unwrap().tenure.renewed();
        for connection in machine.connections.borrow().values() {
            let generation = Generation(generation);
            let go = Tell::Go {
                generation,
                renewed,
            };
            stage.shared.post(connection.client, Letter::Tell(go));
        }
        stage.goes_on_for(holder, seconds(2));
        assert_eq!(runs(&stage), expected, "{generation}: {}", stage.story());
    }
}

/// Host 3 waits for what host 2 holds, and has seen host 1. That leaves, joins again, gets the
/// lease and loses power: host 3 waits for that life from its own first look at it.
#[test]
fn whoever_waits_counts_for_a_new_life_from_its_own_first_look_at_it() {
    let mut stage = Stage::joined(3);
    let second = stage.hold(1, errand(Exclusive, 20));
    stage.until_held(second);
    stage.pass(seconds(5));
    let third = stage.hold(2, errand(Exclusive, 1000));
    stage.goes_on_for(third, seconds(3));
    stage.leave(0);
    stage.pass(seconds(14));
    assert!(stage.heartbeat(1).is_free(), "{}", stage.story());
    stage.join(0);
    stage.finish(second);
    let first = stage.hold(0, errand(Exclusive, 1000));
    stage.until_held(first);
    stage.power_off(0);
    let landed = stage.machine(0).dead_by(Generation(2));
    let left = Duration::from_nanos(landed - stage.now());
    assert!(left > seconds(5), "{}", stage.story());
    assert!(!stage.comes_to_hold(third, left), "{}", stage.story());
    assert!(stage.comes_to_hold(third, seconds(30)), "{}", stage.story());
    assert_safe(&stage);
}

/// Others count by the times that they have read of a life.
#[test]
fn a_life_is_not_gone_on_with_under_other_times() {
    for (t, w) in [(1, 9), (2, 2)] {
        let mut stage = Stage::joined(1);
        stage.kill_join(0);
        stage.machine(0).timing.set(Timing::new(t, w).unwrap());
        stage.join(0);
        stage.pass(seconds(5));
        assert_eq!(stage.heartbeat(1).generation(), Generation(2));
        assert_safe(&stage);
    }
}

/// What a former life guards can still be kept: whoever comes with other times is sent away, and
/// goes on under those that it had.
#[test]
fn what_runs_is_kept_from_a_lease_join_with_other_times() {
    let mut stage = Stage::joined(1);
    let holder = stage.hold(0, errand(Exclusive, 1000));
    stage.until_held(holder);
    stage.kill_join(0);
    let timing = stage.machine(0).timing.replace(Timing::new(1, 9).unwrap());
    let other = stage.start_join(0, 0);
    stage.pass(seconds(1));
    assert!(stage.is_over(other), "{}", stage.story());
    stage.machine(0).timing.set(timing);
    stage.join(0);
    stage.goes_on_for(holder, seconds(20));
    assert_eq!(stage.heartbeat(1).generation(), Generation(1));
    assert_eq!(runs(&stage), 1, "{}", stage.story());
}

// ---- an answer and its page

#[test]
fn a_gate_opens_when_that_is_written_and_not_before() {
    let mut stage = Stage::joined(1);
    let holder = stage.hold(0, errand(Exclusive, 1000));
    stage.until(holder, writes_leader);
    let scribe = stage.scribe(0);
    stage.pauses(scribe, true);
    stage.goes_on_for(holder, seconds(5));
    assert_eq!(runs(&stage), 0, "{}", stage.story());
    stage.pauses(scribe, false);
    stage.goes_on_for(holder, seconds(1));
    assert_eq!(runs(&stage), 1, "{}", stage.story());
}
