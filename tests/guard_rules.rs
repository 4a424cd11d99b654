//! The rules for safety on one host, each by the history that it closes, played by hand: the
//! registry, lease-join's restart, the gate, the killers, containment, the watchdog.

#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::{Generation, Name};
use lease_core::spec::Mode::{Exclusive, Shared};
use lease_core::timing::Timing;
use std::time::Duration;
use support::sim::hold::Errand;
use support::sim::mail::Group;
use support::sim::port::Op;
use support::sim::setup::{Cage, Setup, Storage};
use support::sim::stage::{
    Actor, Late, Stage, errand, reads_leader, sanlock, setup, writes_block, writes_heartbeat,
    writes_leader,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn assert_safe(stage: &Stage) {
    assert_eq!(stage.violation(), None, "{}", stage.story());
}

fn runs(stage: &Stage) -> usize {
    stage.running().len()
}

/// An errand that is not over before the test is.
fn long() -> Errand {
    errand(Exclusive, 1000)
}

fn generation(stage: &Stage, machine: usize) -> Generation {
    stage.machine(machine).live_member().unwrap().generation
}

/// Two joined machines, the first as set up; on it a command runs.
fn one_holds(first: Setup, errand: Errand) -> (Stage, Actor) {
    let mut stage = Stage::of(&[first, setup(2)]);
    let holder = stage.hold(0, errand);
    stage.until_held(holder);
    (stage, holder)
}

fn comes_to_hold(stage: &mut Stage, machine: usize, within: u64) -> bool {
    let actor = stage.hold(machine, long());
    stage.comes_to_hold(actor, seconds(within))
}

/// The next renewal of the first machine is issued and hangs.
fn renewal_hangs(stage: &mut Stage) -> Late {
    let daemon = stage.daemon(0);
    stage.pauses(daemon, true);
    stage.until(daemon, writes_heartbeat(1));
    stage.issued(daemon)
}

// ---- rule 2

#[test]
fn rule_2_what_a_dead_holder_was_writing_is_awaited() {
    let mut stage = Stage::joined(1);
    let first = stage.hold(0, long());
    stage.until(first, writes_block(1));
    let late = stage.issued(first);
    stage.kill(first);
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_2_a_holder_that_died_while_there_was_no_lease_join_may_have_been_writing() {
    let (mut stage, first) = one_holds(setup(1), errand(Exclusive, 1));
    stage.kill_join(0);
    // Without a lease-join it releases by itself.
    stage.until(first, writes_block(1));
    let late = stage.issued(first);
    stage.kill(first);
    stage.join(0);
    assert_eq!(generation(&stage, 0), Generation(1));
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_2_a_write_that_failed_and_may_still_land_is_awaited() {
    let device = Setup {
        storage: Storage::DEVICE,
        ..setup(1)
    };
    let (mut stage, first) = one_holds(device, errand(Exclusive, 1));
    stage.until(first, writes_block(1));
    let late = stage.fails_for_now(first);
    stage.finish(first);
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_2_a_holder_that_died_before_it_told_of_a_failed_write_is_awaited_too() {
    let device = Setup {
        storage: Storage::DEVICE,
        ..setup(1)
    };
    let (mut stage, first) = one_holds(device, errand(Exclusive, 1));
    stage.until(first, writes_block(1));
    let late = stage.fails_for_now(first);
    stage.kill(first);
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_2_a_late_write_to_one_of_three_disks_is_awaited_as_well() {
    let three = |host| Setup {
        disks: 3,
        ..setup(host)
    };
    let (mut stage, first) = one_holds(three(1), errand(Exclusive, 1));
    stage.until(first, writes_block(1));
    let late = stage.hangs(first);
    stage.finish(first);
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
}

#[test]
fn rule_2_a_write_that_failed_on_one_of_three_disks_is_awaited() {
    let three = Setup {
        storage: Storage::DEVICE,
        disks: 3,
        ..setup(1)
    };
    let (mut stage, first) = one_holds(three, errand(Exclusive, 1));
    stage.until(first, writes_block(1));
    let late = stage.fails_for_now(first);
    stage.finish(first);
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
}

#[test]
fn rule_2_what_a_dead_holder_was_writing_on_a_disk_that_cannot_be_opened_is_awaited() {
    let three = Setup {
        storage: Storage::LOCAL,
        disks: 3,
        ..setup(1)
    };
    let mut stage = Stage::of(&[three, setup(2)]);
    let first = stage.hold(0, long());
    stage.until(first, |op| {
        writes_block(1)(op) && matches!(op, Op::Write { handle, .. } if handle.disk == 2)
    });
    let late = stage.issued(first);
    // That disk is no file of this machine, and away.
    stage.machine(0).unreachable.set(Some(2));
    stage.kill(first);
    let again = stage.hold(0, long());
    assert!(!stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    stage.lands(&late);
    assert!(stage.comes_to_hold(again, seconds(9)), "{}", stage.story());
    assert_safe(&stage);
}

// ---- rule 8

#[test]
fn rule_8_only_the_last_holder_on_a_host_ends_its_share() {
    let (mut stage, first) = one_holds(setup(1), errand(Shared, 1));
    let second = stage.hold(0, errand(Shared, 1000));
    stage.until_held(second);
    stage.finish(first);
    assert!(!comes_to_hold(&mut stage, 1, 30), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_8_a_holder_that_dies_as_it_joins_a_share_does_not_end_it() {
    let (mut stage, _) = one_holds(setup(1), errand(Shared, 1000));
    let second = stage.hold(0, errand(Shared, 1000));
    stage.until(second, reads_leader);
    stage.kill(second);
    assert!(!comes_to_hold(&mut stage, 1, 30), "{}", stage.story());
    assert_safe(&stage);
}

// ---- rule 11

#[test]
fn rule_11_a_restart_goes_on_with_the_same_life_and_kills_nothing() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.kill_join(0);
    stage.pass(seconds(5));
    stage.join(0);
    stage.goes_on_for(first, seconds(30));
    assert_eq!(generation(&stage, 0), Generation(1));
    assert_eq!(runs(&stage), 1, "{}", stage.story());
}

#[test]
fn rule_11_a_look_that_took_too_long_is_no_ground_to_go_on() {
    let (mut stage, _) = one_holds(setup(1), long());
    stage.kill_join(0);
    stage.pass(seconds(5));
    stage.start_join(0, 0);
    stage.stops(0, Group::Join(0), true);
    stage.pass(seconds(3));
    stage.stops(0, Group::Join(0), false);
    stage.pass(seconds(30));
    assert_eq!(generation(&stage, 0), Generation(2), "{}", stage.story());
}

#[test]
fn rule_11_a_new_life_begins_when_all_of_the_old_one_is_proven_gone() {
    let (mut stage, first) = one_holds(setup(1), long());
    (stage.enforced, stage.kills_at_once) = (false, false);
    stage.kill_join(0);
    stage.stops(0, stage.group(first), true);
    stage.pass(seconds(8));
    stage.start_join(0, 0);
    stage.pass(seconds(30));
    assert!(
        stage.machine(0).live_member().is_none(),
        "{}",
        stage.story()
    );
    stage.trees_end(0);
    stage.pass(seconds(30));
    assert_eq!(generation(&stage, 0), Generation(2), "{}", stage.story());
}

#[test]
fn rule_11_renewals_that_were_on_their_way_are_expected_after_two_restarts() {
    let (mut stage, first) = one_holds(setup(1), long());
    let late = renewal_hangs(&mut stage);
    for _ in 0..2 {
        stage.kill_join(0);
        stage.join(0);
        stage.pass(seconds(1));
    }
    stage.lands(&late);
    stage.goes_on_for(first, seconds(10));
    assert_eq!(generation(&stage, 0), Generation(1), "{}", stage.story());
    assert_eq!(runs(&stage), 1, "{}", stage.story());
}

#[test]
fn rule_11_a_life_that_is_being_given_back_is_not_gone_on_with() {
    let mut stage = Stage::joined(2);
    let daemon = stage.daemon(0);
    stage.pauses(daemon, true);
    stage.leave(0);
    stage.until(daemon, writes_heartbeat(1));
    let free = stage.issued(daemon);
    stage.kill_join(0);
    stage.join(0);
    let first = stage.hold(0, long());
    stage.comes_to_hold(first, seconds(3));
    stage.lands(&free);
    let second = stage.hold(1, long());
    stage.comes_to_hold(second, seconds(3));
    assert_safe(&stage);
}

// ---- rule 13

#[test]
fn rule_13_a_lease_goes_back_when_all_is_proven_gone() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.kills_at_once = false;
    stage.kill(first);
    let second = stage.hold(1, long());
    assert!(
        !stage.comes_to_hold(second, seconds(30)),
        "{}",
        stage.story()
    );
    assert_safe(&stage);
    stage.trees_end(0);
    assert!(
        stage.comes_to_hold(second, seconds(30)),
        "{}",
        stage.story()
    );
    assert_safe(&stage);
}

#[test]
fn rule_13_of_a_mere_tree_nothing_is_ever_proven() {
    let tree = Setup {
        cage: Cage::Tree,
        ..setup(1)
    };
    let (mut stage, first) = one_holds(tree, long());
    stage.kill(first);
    assert!(!comes_to_hold(&mut stage, 1, 60), "{}", stage.story());
    assert_safe(&stage);
}

// ---- rule 14

#[test]
fn rule_14_nothing_is_started_before_lease_join_has_noted_it() {
    let mut stage = Stage::joined(1);
    let first = stage.hold(0, long());
    stage.until(first, writes_leader);
    stage.stops(0, Group::Join(0), true);
    stage.goes_on_for(first, seconds(5));
    assert_eq!(runs(&stage), 0, "{}", stage.story());
    stage.stops(0, Group::Join(0), false);
    assert_eq!(runs(&stage), 1, "{}", stage.story());
}

#[test]
fn rule_14_what_is_noted_is_found_by_the_next_lease_join() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.kill_join(0);
    stage.carriers_stop(0, true);
    stage.kill(first);
    assert_eq!(runs(&stage), 1);
    stage.join(0);
    assert!(comes_to_hold(&mut stage, 1, 30), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_14_a_gate_that_opens_too_late_opens_for_nobody() {
    let mut stage = Stage::joined(2);
    let first = stage.hold(0, long());
    stage.until(first, writes_leader);
    stage.holds_still = true;
    let decider = stage.decider(first);
    while !matches!(stage.pending(decider), Some(Op::Page)) {
        stage.step(first);
    }
    // It has been told to go, and stops; lease-join is cut off, and kills what waits.
    stage.stops(0, stage.group(first), true);
    let daemon = stage.daemon(0);
    stage.pauses(daemon, true);
    let second = stage.hold(1, long());
    assert!(
        stage.comes_to_hold(second, seconds(30)),
        "{}",
        stage.story()
    );
    stage.stops(0, stage.group(first), false);
    stage.step(decider);
    assert_safe(&stage);
}

// ---- rule 15

#[test]
fn rule_15_lease_join_does_not_leave_before_those_who_acquire_have_gone() {
    let mut stage = Stage::joined(2);
    let first = stage.hold(0, long());
    stage.until(first, writes_leader);
    stage.leave(0);
    stage.pass(seconds(5));
    assert!(!stage.heartbeat(1).is_free(), "{}", stage.story());
    stage.finish(first);
    stage.pass(seconds(20));
    assert!(stage.heartbeat(1).is_free(), "{}", stage.story());
}

// ---- rule 16

#[test]
fn rule_16_a_holder_is_seen_dead_before_its_lease_is_cleared() {
    let (mut stage, first) = one_holds(setup(1), errand(Exclusive, 1));
    stage.until(first, writes_leader);
    stage.stops(0, stage.group(first), true);
    stage.disconnects(0);
    stage.pass(seconds(20));
    assert!(stage.is_over(first), "{}", stage.story());
    assert!(stage.leader(0).owner().is_none(), "{}", stage.story());
}

#[test]
fn a_holder_that_dies_as_it_asks_to_release_is_given_back_once() {
    let (mut stage, first) = one_holds(setup(1), errand(Exclusive, 1));
    stage.stops(0, Group::Join(0), true);
    stage.goes_on_for(first, seconds(2));
    stage.kill(first);
    stage.stops(0, Group::Join(0), false);
    assert!(comes_to_hold(&mut stage, 0, 30), "{}", stage.story());
    assert!(!comes_to_hold(&mut stage, 1, 30), "{}", stage.story());
    assert_safe(&stage);
}

#[test]
fn rule_16_what_a_holder_leaves_that_had_come_back_after_a_restart_is_ended_first() {
    for cage in [Cage::Group, Cage::Namespace, Cage::Tree] {
        let (mut stage, first) = one_holds(Setup { cage, ..setup(1) }, long());
        stage.kill_join(0);
        stage.join(0);
        stage.goes_on_for(first, seconds(3));
        stage.carriers_stop(0, true);
        stage.kill(first);
        // Of a mere tree nobody can see that nothing is left.
        let had = comes_to_hold(&mut stage, 1, 60);
        assert_eq!(had, cage != Cage::Tree, "{cage:?}: {}", stage.story());
        assert_safe(&stage);
    }
}

// ---- rule 17

#[test]
fn rule_17_what_was_held_stays_reserved_after_a_restart() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.stops(0, stage.group(first), true);
    stage.kill_join(0);
    stage.join(0);
    assert!(!comes_to_hold(&mut stage, 0, 5), "{}", stage.story());
    assert_safe(&stage);
}

// ---- rule 19

/// By 8t+W after the last renewal that has landed nothing runs.
fn assert_dead_in_time(stage: &mut Stage) {
    let at = stage.machine(0).dead_by(Generation(1));
    stage.pass(Duration::from_nanos(at - stage.now()) - millis(1));
    assert_eq!(runs(stage), 0, "{}", stage.story());
}

#[test]
fn rule_19_the_deadline_counts_from_the_renewal_that_a_message_tells_of() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.enforced = false;
    stage.carriers_stop(0, true);
    stage.stops(0, stage.group(first), true);
    let landed = stage.machine(0).dead_by(Generation(1));
    while stage.machine(0).dead_by(Generation(1)) == landed {
        stage.pass(millis(50));
    }
    stage.pass(millis(1900));
    stage.kill_join(0);
    stage.stops(0, stage.group(first), false);
    assert_dead_in_time(&mut stage);
}

#[test]
fn rule_19_lease_join_kills_what_a_stopped_holder_does_not() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.enforced = false;
    stage.stops(0, stage.group(first), true);
    stage.carriers_stop(0, true);
    let daemon = stage.daemon(0);
    stage.pauses(daemon, true);
    assert_dead_in_time(&mut stage);
}

#[test]
fn rule_19_lease_join_kills_what_has_not_come_back_to_it() {
    let (mut stage, first) = one_holds(setup(1), long());
    stage.enforced = false;
    stage.stops(0, stage.group(first), true);
    stage.carriers_stop(0, true);
    stage.kill_join(0);
    stage.join(0);
    let daemon = stage.daemon(0);
    stage.pauses(daemon, true);
    assert_dead_in_time(&mut stage);
}

#[test]
fn rule_19_a_holder_kills_when_there_is_no_lease_join() {
    let (mut stage, _) = one_holds(setup(1), long());
    stage.enforced = false;
    stage.kill_join(0);
    stage.carriers_stop(0, true);
    assert_dead_in_time(&mut stage);
}

/// However it is contained.
fn in_each_cage(play: impl Fn(Setup)) {
    for cage in [Cage::Group, Cage::Namespace, Cage::Tree] {
        play(Setup { cage, ..setup(1) });
    }
}

#[test]
fn rule_19_a_third_one_kills_when_both_are_stopped() {
    in_each_cage(|setup| {
        let (mut stage, first) = one_holds(setup, long());
        stage.enforced = false;
        stage.stops(0, stage.group(first), true);
        stage.stops(0, Group::Join(0), true);
        assert_dead_in_time(&mut stage);
    });
}

#[test]
fn rule_19_a_third_one_does_not_kill_what_is_renewed() {
    in_each_cage(|setup| {
        let (mut stage, first) = one_holds(setup, long());
        stage.stops(0, stage.group(first), true);
        stage.pass(seconds(60));
        assert_eq!(runs(&stage), 1, "{}", stage.story());
    });
}

// ---- rule 21

fn with_watchdog() -> Setup {
    Setup {
        watchdog: true,
        timing: Timing::new(1, 4).unwrap(),
        ..setup(1)
    }
}

#[test]
fn rule_21_a_machine_of_which_all_is_stopped_is_reset_in_time() {
    let (mut stage, _) = one_holds(with_watchdog(), long());
    stage.enforced = false;
    stage.freeze(0);
    assert_dead_in_time(&mut stage);
}

#[test]
fn rule_21_a_machine_that_cannot_kill_is_reset_in_time() {
    let (mut stage, _) = one_holds(with_watchdog(), long());
    (stage.enforced, stage.kills_at_once) = (false, false);
    let daemon = stage.daemon(0);
    stage.pauses(daemon, true);
    assert_dead_in_time(&mut stage);
}

#[test]
fn rule_21_a_machine_whose_lease_join_stays_away_is_reset_in_time() {
    let (mut stage, first) = one_holds(with_watchdog(), long());
    stage.enforced = false;
    stage.stops(0, stage.group(first), true);
    stage.kill_join(0);
    stage.pass(seconds(4));
    assert_eq!(runs(&stage), 0, "{}", stage.story());
}

/// A holder that is proven gone is guarded no more, though its lease can never be given back.
#[test]
fn rule_21_a_machine_that_loses_its_host_id_when_all_is_proven_gone_is_not_reset() {
    let (mut stage, first) = one_holds(with_watchdog(), long());
    let boot = stage.machine(0).boot.get();
    let _never = renewal_hangs(&mut stage);
    // The last renewal was 2 s before that: 8t are over in a moment.
    stage.pass(millis(5990));
    stage.kill(first);
    stage.pass(seconds(6));
    let machine = stage.machine(0);
    assert!(machine.live_member().is_none(), "{}", stage.story());
    let armed = machine.reset_at.get() < u64::MAX;
    assert_eq!(
        (machine.boot.get(), armed),
        (boot, false),
        "{}",
        stage.story()
    );
}

// ---- a life after another

/// Whoever waits for the lease of a machine that was back at once, under its name, gets it when
/// all of its former life must be over, and neither before nor much later.
#[test]
fn a_machine_that_is_back_at_once_opens_nothing_before_its_former_life_must_be_over() {
    let name = Some(Name::new_host(b"host").unwrap());
    for first in [setup(1), sanlock(1)] {
        let first = Setup { name, ..first };
        let mut stage = Stage::of(&[first, setup(2)]);
        let holder = stage.hold(0, long());
        stage.until_held(holder);
        let machine = stage.machine(0);
        let dead_after = machine.setup.dead_after();
        let renewed = machine.live_member().unwrap().tenure.renewed();
        let age = machine.face.now().since(renewed);
        let power_off = stage.now();
        stage.power_off(0);
        stage.join(0);
        let back = Duration::from_nanos(stage.now() - power_off);
        assert!(back < seconds(7), "{}", stage.story());
        let taker = stage.hold(1, long());
        assert!(stage.comes_to_hold(taker, seconds(90)), "{}", stage.story());
        let taken = age + Duration::from_nanos(stage.now() - power_off);
        let (early, late) = (dead_after, dead_after + seconds(10));
        assert!(
            early <= taken && taken < late,
            "{taken:?} {}",
            stage.story()
        );
        assert_safe(&stage);
    }
}

// ---- rule 20

#[test]
fn rule_20_while_a_holder_waits_for_one_of_two_the_other_can_be_had() {
    let two = |host| Setup {
        resources: 2,
        ..setup(host)
    };
    let mut stage = Stage::of(&[two(1), two(2)]);
    let only = |resource| Errand { resource, ..long() };
    let second = stage.hold(1, only(1));
    stage.until_held(second);
    let others = vec![(1, Exclusive)];
    let both = stage.hold(0, Errand { others, ..long() });
    stage.goes_on_for(both, seconds(5));
    let first = stage.hold(1, only(0));
    assert!(stage.comes_to_hold(first, seconds(60)), "{}", stage.story());
    assert_safe(&stage);
}
