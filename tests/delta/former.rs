//! When the life before is over, as a record says it.

use super::*;

/// How long after each write a record of ours says that earlier lives may run.
fn left_by_the_clock(world: &World, renewals: u32) -> Vec<(u64, Duration)> {
    let mut lease = world.join(&claim()).unwrap();
    let mut told = Vec::new();
    for _ in 0..renewals {
        let now = lease.renewed().seconds() - START;
        told.push((now, world.record().former_over_in().unwrap()));
        world.clock.wait(seconds(20)).unwrap();
        world.renew(&mut lease).unwrap();
    }
    told
}

#[test]
fn a_machine_that_has_rebooted_says_that_its_life_before_may_run_for_all_of_its_time() {
    let world = World::with(&Beat {
        boot_id: [9; 16],
        ..ours()
    });
    // 3t of watching and 2t more; 8t+W and 1 % after the first look nothing runs.
    let told = left_by_the_clock(&world, 7);
    for (now, left) in &told {
        let over = Duration::from_millis(141_400).saturating_sub(seconds(*now));
        match over.is_zero() {
            true => assert_eq!(*left, Duration::ZERO, "{told:?}"),
            false => assert!(over <= *left && *left < over + seconds(3), "{told:?}"),
        }
    }
    assert!(told[0].1 > seconds(80) && told[6].1 == Duration::ZERO);
}

#[test]
fn where_the_life_before_has_left_or_was_watched_to_its_end_it_is_said_to_be_over_at_once() {
    let other_machine = Beat {
        name: "other",
        ..ours()
    };
    let left = Beat {
        timestamp: 0,
        ..ours()
    };
    for beat in [other_machine, left, ours()] {
        let world = World::with(&beat);
        world.join(&claim()).unwrap();
        assert_eq!(world.record().former_over_in(), Some(Duration::ZERO));
    }
    let never_used = World::formatted(T);
    never_used.join(&claim()).unwrap();
    assert_eq!(never_used.record().former_over_in(), Some(Duration::ZERO));
}

/// A life that was short, with smaller times, does not make one before it any older.
#[test]
fn a_third_life_waits_for_the_first_as_the_second_has_said() {
    let second = Beat {
        boot_id: [9; 16],
        watchdog: 1,
        io_timeout: 1,
        ..ours()
    };
    let world = World::formatted(T);
    world.put(1, &second.record().after_former(77 + 500));
    let lease = world.join(&claim()).unwrap();
    let left = world.record().former_over_in().unwrap();
    assert!(left > seconds(495) && left < seconds(505), "{left:?}");
    assert!(lease.ballots_from() >= ScriptClock::at(START + 505).now());
}

/// Retries make timestamps run ahead of the clock: they do not make the life before any older.
#[test]
fn a_timestamp_that_runs_ahead_of_the_clock_ends_nothing_early() {
    let world = World::with(&Beat {
        boot_id: [9; 16],
        ..ours()
    });
    let mut lease = world.join(&claim()).unwrap();
    for _ in 0..200 {
        world.renew(&mut lease).unwrap();
    }
    let ahead = world.record().timestamp() - world.clock.now().seconds();
    assert!(ahead > 150, "{ahead}");
    let over = ScriptClock::at(START + 141).now();
    let left = over.since(world.clock.now());
    assert!(world.record().former_over_in().unwrap() >= left);
}

#[test]
fn whoever_goes_on_says_the_same_of_the_life_before() {
    let world = World::with(&Beat {
        boot_id: [9; 16],
        ..ours()
    });
    let former = world.join(&claim()).unwrap().former();
    let before = world.record().former_over_in().unwrap();
    world.clock.wait(seconds(10)).unwrap();
    let mut lease = world.resume(&former).unwrap();
    world.renew(&mut lease).unwrap();
    let left = world.record().former_over_in().unwrap();
    assert!(
        left >= before - seconds(10) && left <= before + seconds(2),
        "{before:?} {left:?}"
    );
    // One that does not know of it says nothing.
    let said = world.record();
    world.put(1, &said.after_former(0));
    let former = lease.former();
    let mut lease = world.resume(&former).unwrap();
    world.renew(&mut lease).unwrap();
    assert_eq!(world.record().former_over_in(), None);
}
