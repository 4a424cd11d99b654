//! Which host id a machine takes that was told none: by what stands on the disk, and by what it
//! remembers.

use super::*;
use lease_core::delta::{Choice, Chooser, Had, Predecessor, Trace, join_after};

const HOSTS: u64 = 2000;

/// What host `number`'s record says.
#[derive(Clone, Copy, PartialEq)]
enum Stands {
    NeverUsed,
    /// Somebody's, live or dead.
    Theirs,
    /// Of somebody who has left.
    Left,
    /// As this machine remembers it: not left.
    Ours,
    /// As this machine remembers it, and left.
    OursLeft,
    /// Of this machine's name, and of a later life.
    OursLater,
    Damaged,
}
use Stands::{Damaged, Left, NeverUsed, Ours, OursLater, OursLeft, Theirs};

fn world(records: &[(u64, Stands)], others: Stands) -> World {
    let world = World::formatted(T);
    let at = |number| records.iter().find(|(host, _)| *host == number);
    for number in 1..=HOSTS {
        let stands = at(number).map_or(others, |(_, stands)| *stands);
        let beat = Beat {
            host: host_id(number),
            name: if matches!(stands, Theirs | Left) {
                "other"
            } else {
                "before"
            },
            generation: if stands == OursLater { 8 } else { 7 },
            timestamp: if matches!(stands, Left | OursLeft) {
                0
            } else {
                77
            },
            ..ours()
        };
        match stands {
            NeverUsed => {}
            Damaged => world.disk.put_at((number - 1) * 512, &[0xff; 512]),
            _ => world.put(number, &beat.record()),
        }
    }
    world
}

/// What a machine remembers that had host id `number` in its seventh life.
fn had(number: u64) -> Had {
    let had = Had {
        host: host_id(number),
        traces: Vec::new(),
    };
    had.with(Trace {
        name: Some(name("before")),
        generation: Generation(7),
    })
}

fn chosen(world: &World, had: Option<Had>) -> Option<(u64, Predecessor)> {
    let area = lockspace().read_all(&world.disk).unwrap();
    let choice = Chooser::new(had, name("us")).choose(&area)?;
    Some((choice.host.get(), choice.predecessor))
}

#[test]
fn what_was_never_used_comes_first_then_what_was_left_and_nothing_else() {
    let table: [(&[(u64, Stands)], Stands, Option<u64>); 6] = [
        (&[], NeverUsed, Some(1)),
        (&[(1, Theirs), (2, Left), (3, Damaged)], NeverUsed, Some(4)),
        (&[(1, Theirs), (9, NeverUsed)], Left, Some(9)),
        (&[(1, Theirs), (2, Damaged)], Left, Some(3)),
        (&[(2000, Left)], Theirs, Some(2000)),
        (&[(1, Damaged)], Theirs, None),
    ];
    for (number, (records, others, expected)) in table.into_iter().enumerate() {
        let found = chosen(&world(records, others), None);
        let expected = expected.map(|host| (host, Predecessor::Nobody));
        assert_eq!(found, expected, "row {number}");
    }
}

#[test]
fn what_was_ours_comes_before_all_else_for_as_long_as_nobody_has_joined_with_it() {
    let before = Predecessor::Named(name("before"));
    let table = [
        (Ours, 5, before),
        (OursLeft, 5, before),
        (NeverUsed, 5, Predecessor::Nobody),
        (OursLater, 1, Predecessor::Nobody),
        (Theirs, 1, Predecessor::Nobody),
        (Left, 1, Predecessor::Nobody),
        (Damaged, 1, Predecessor::Nobody),
    ];
    for (number, (stands, host, predecessor)) in table.into_iter().enumerate() {
        let found = chosen(&world(&[(5, stands)], NeverUsed), Some(had(5)));
        assert_eq!(found, Some((host, predecessor)), "row {number}");
    }
}

#[test]
fn a_life_that_is_not_the_predecessor_s_is_not_even_watched() {
    let cases = [
        (Theirs, Predecessor::Nobody),
        (Theirs, Predecessor::Named(name("before"))),
        (Ours, Predecessor::Nobody),
    ];
    for (stands, predecessor) in cases {
        let world = world(&[(1, stands)], NeverUsed);
        let before = world.disk.at(0, 512);
        let claimed = (&claim(), predecessor);
        let joined = join_after(
            &lockspace(),
            &world.disk,
            &world.clock,
            claimed,
            &mut |_| {},
        );
        assert!(matches!(joined, Err(JoinError::InUse { .. })), "{joined:?}");
        assert_eq!(world.clock.now().seconds(), START);
        assert_eq!(world.disk.at(0, 512), before);
    }
    let world = world(&[(1, Ours)], NeverUsed);
    let claimed = (&claim(), Predecessor::Named(name("before")));
    join_after(
        &lockspace(),
        &world.disk,
        &world.clock,
        claimed,
        &mut |_| {},
    )
    .unwrap();
    assert!(
        world.clock.now().seconds() > START + 140,
        "it was dead by then"
    );
}

#[test]
fn whoever_loses_races_chooses_among_ever_more() {
    let world = world(&[], NeverUsed);
    let mut tried = Vec::new();
    let mut chooser = Chooser::new(None, name("us"));
    let first = Choice {
        host: host_id(1),
        predecessor: Predecessor::Nobody,
    };
    let parts = (&lockspace(), &world.disk as _, &world.clock as _);
    let mut join = |choice: &Choice| {
        tried.push(choice.host.get());
        match tried.len() {
            5 => Err(JoinError::TooSlow(0)),
            _ => Err(JoinError::InUse { name: None }),
        }
    };
    chooser
        .join::<HostLease>(parts, first, &mut join)
        .unwrap_err();
    for (races, host) in (0u32..).zip(&tried) {
        // As many more as it has lost are no choice any more.
        assert!(*host <= 4u64.pow(races) + u64::from(races), "{tried:?}");
    }
    assert!(tried.iter().any(|host| *host > 4), "{tried:?}");
    let mut different = tried.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), tried.len(), "{tried:?}");
}

/// Two machines with one name whose clocks agree write the same 200 bytes.
#[test]
fn a_clone_that_writes_the_same_in_the_same_second_is_not_taken_for_us() {
    let world = World::formatted(T);
    let clone = Claim {
        boot_id: [2; 16],
        ..claim()
    };
    let theirs = World::formatted(T);
    theirs.join(&clone).unwrap();
    let record = theirs.disk.at(0, 512);
    let joined = {
        let mut tell = |waiting| {
            if matches!(waiting, Waiting::Settling { .. }) {
                world.disk.put_at(0, &record);
            }
        };
        delta::join(&lockspace(), &world.disk, &world.clock, &claim(), &mut tell)
    };
    assert!(matches!(joined, Err(JoinError::InUse { .. })), "{joined:?}");
}
