//! The points at which sanlock's rules are not safe (lease-disk(5)), each as a schedule: a cluster
//! of sanlock's hosts fails it, ours does not.

#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::holder::acquire::Patience;
use lease_core::id::{Generation, HostId, Lver, Name};
use lease_core::record::leader::Stamp;
use lease_core::spec::Mode::{Exclusive, Shared};
use std::time::Duration;
use support::sim::area_offset;
use support::sim::hold::Errand;
use support::sim::setup::Setup;
use support::sim::stage::{
    Stage, accepts, errand, sanlock, setup, writes_block, writes_heartbeat, writes_leader,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Long enough for any takeover of either kind.
const LONG: Duration = Duration::from_secs(300);

/// Three joined hosts of one kind, with names that a restart keeps.
fn cluster(kind: fn(u64) -> Setup) -> Stage {
    let named = |host: u64| {
        let mut setup = kind(host);
        setup.name = Some(Name::new_host(format!("host{host}").as_bytes()).unwrap());
        setup
    };
    Stage::of(&[named(1), named(2), named(3)])
}

/// Plays a schedule with either kind of host.
fn only_sanlock_fails(schedule: fn(&mut Stage)) {
    let mut stage = cluster(sanlock);
    schedule(&mut stage);
    assert!(
        stage.violation().is_some(),
        "sanlock survives it\n{}",
        stage.story()
    );
    let mut stage = cluster(setup);
    schedule(&mut stage);
    assert_eq!(stage.violation(), None, "{}", stage.story());
}

#[test]
fn point_1_a_value_of_our_old_generation_is_taken_for_ours() {
    only_sanlock_fails(|stage| {
        // Host 1's value is accepted; host 2 accepts it as well, and ends before its commit.
        let first = stage.hold(0, errand(Exclusive, 1));
        stage.until(first, accepts(1));
        stage.step(first);
        stage.power_off(0);
        let second = stage.hold(1, errand(Exclusive, 1));
        stage.until(second, writes_leader);
        stage.kill(second);
        stage.join(0);
        let again = stage.hold(0, errand(Exclusive, 500));
        assert!(stage.comes_to_hold(again, LONG), "{}", stage.story());
        let third = stage.hold(2, errand(Exclusive, 1));
        stage.comes_to_hold(third, seconds(30));
    });
}

#[test]
fn point_2_phase_1_forgets_what_was_accepted() {
    only_sanlock_fails(|stage| {
        // Decided for host 1, whose commit is on its way; its next attempt comes to phase 1 only.
        let first = stage.hold(0, errand(Exclusive, 1));
        stage.until(first, writes_leader);
        let late = stage.issued(first);
        stage.kill(first);
        stage.forget_holders(0);
        let again = stage.hold(0, errand(Exclusive, 1));
        stage.until(again, writes_block(1));
        stage.step(again);
        stage.kill(again);
        let second = stage.hold(1, errand(Exclusive, 100));
        stage.comes_to_hold(second, seconds(5));
        stage.lands(&late);
    });
}

#[test]
fn point_3_a_write_that_timed_out_lands_later() {
    only_sanlock_fails(|stage| {
        let first = stage.hold(0, errand(Exclusive, 1));
        stage.until_held(first);
        stage.until(first, writes_block(1));
        let late = stage.hangs(first);
        stage.goes_on_for(first, seconds(5));
        // It is released again, so host 1 may want it anew; that is decided when the write lands.
        let again = stage.hold(0, errand(Exclusive, 100));
        stage.comes_to(again, writes_leader, seconds(5));
        stage.lands(&late);
        let second = stage.hold(1, errand(Exclusive, 100));
        stage.comes_to_hold(second, seconds(5));
        stage.comes_to_hold(again, seconds(5));
    });
}

#[test]
fn point_4_what_is_in_doubt_is_forgotten() {
    only_sanlock_fails(|stage| {
        let once = Errand {
            patience: Patience::None,
            ..errand(Exclusive, 100)
        };
        let first = stage.hold(0, once);
        stage.until(first, writes_leader);
        let late = stage.hangs(first);
        stage.goes_on_for(first, seconds(5));
        let second = stage.hold(1, errand(Exclusive, 100));
        stage.comes_to_hold(second, seconds(5));
        stage.lands(&late);
    });
}

#[test]
fn point_5_a_ballot_record_with_a_bad_checksum_is_skipped() {
    only_sanlock_fails(|stage| {
        let first = stage.hold(0, errand(Exclusive, 100));
        stage.until(first, writes_leader);
        stage.disks[0].write(area_offset(1) + 2 * 512, &[0xA5; 512]);
        let second = stage.hold(1, errand(Exclusive, 100));
        stage.comes_to_hold(second, seconds(5));
        stage.comes_to_hold(first, seconds(5));
    });
}

#[test]
fn point_6_a_mode_record_that_comes_after_phase_1_is_not_seen() {
    only_sanlock_fails(|stage| {
        // A sharer stands still just before its mode write, until it is taken for dead.
        let first = stage.hold(0, errand(Shared, 1000));
        stage.until(first, writes_leader);
        stage.step(first);
        stage.until(first, writes_block(1));
        stage.freeze(0);
        let second = stage.hold(1, errand(Exclusive, 100));
        assert!(stage.comes_to_hold(second, LONG), "{}", stage.story());
        stage.wakes(0);
        stage.comes_to_hold(first, seconds(5));
    });
}

#[test]
fn point_7_clearing_a_dead_sharer_clears_whatever_stands_there() {
    only_sanlock_fails(|stage| {
        let first = stage.hold(0, errand(Shared, 1000));
        stage.until_held(first);
        stage.power_off(0);
        stage.join(0);
        // Host 2 is about to clear the share of host 1's former life when it loses power.
        let second = stage.hold(1, errand(Exclusive, 1000));
        let clears = stage.comes_to(second, writes_block(1), seconds(5));
        let late = clears.then(|| stage.issued(second));
        stage.power_off(1);
        let again = stage.hold(0, errand(Exclusive, 1000));
        assert!(
            stage.comes_to(again, writes_leader, LONG),
            "{}",
            stage.story()
        );
        late.iter().for_each(|late| stage.lands(late));
        let third = stage.hold(2, errand(Exclusive, 1000));
        stage.comes_to_hold(third, LONG);
        stage.comes_to_hold(again, seconds(5));
    });
}

#[test]
fn point_8_a_holder_never_looks_at_its_leader_again() {
    let noticed = |kind| {
        let mut stage = cluster(kind);
        let first = stage.hold(0, errand(Exclusive, 100));
        stage.until_held(first);
        let taken = Stamp {
            host: HostId::new(2).unwrap(),
            generation: Generation(1),
            timestamp: 5,
        };
        let leader = stage
            .leader(0)
            .committed(Lver(2), taken, taken, Some(false));
        stage.disks[0].write(area_offset(1), &leader.to_sector());
        stage.goes_on_for(first, seconds(10));
        stage.is_over(first)
    };
    assert!(!noticed(sanlock));
    assert!(noticed(setup));
}

#[test]
fn point_9_a_slow_renewal_counts_from_its_end() {
    only_sanlock_fails(|stage| {
        let first = stage.hold(0, errand(Exclusive, 1000));
        stage.until_held(first);
        // A renewal is on the disk at once, but its answer takes seven seconds; it is the last.
        let daemon = stage.daemon(0);
        stage.freeze(0);
        stage.until(daemon, writes_heartbeat(1));
        let write = stage.issued(daemon);
        stage.lands(&write);
        stage.pass(seconds(7));
        stage.comes_back(daemon);
        let second = stage.hold(1, errand(Exclusive, 1));
        assert!(stage.comes_to_hold(second, LONG), "{}", stage.story());
    });
}
