//! An attempt that fails: whether it is in doubt who owns the lease.

use super::*;

#[test]
fn a_value_that_was_accepted_is_in_doubt_until_the_next_look_whatever_ended_the_ballot() {
    let world = World::formatted();
    // Freed once more, by another host, between the second phase and the commit.
    let changed = world.leader().released(stamp(2, 1)).to_sector();
    let mut reads = 0;
    world.disk.rule(move |io, bytes| {
        reads += usize::from(io.written.is_none() && io.offset == AREA);
        if reads == 4 {
            put(bytes, AREA, &changed);
        }
        match reads {
            5 => Fate::Fails,
            _ => Fate::Done,
        }
    });
    let failed = world.acquire(1, &mut Sightings::default());
    assert!(
        matches!(failed, Err(AcquireError::InDoubt(_))),
        "{failed:?}"
    );
    let accepted = world.ballot(1).ballot.value.unwrap();
    assert!(accepted.same_life(host_id(1), Generation(1)));
}

/// All that stands on the disk of it is that it has started.
#[test]
fn nothing_is_in_doubt_after_a_ballot_that_was_lost_before_anything_was_accepted() {
    for later in [block(1, 2, None), block(2, 2, None)] {
        let world = World::formatted();
        let mut reads = 0;
        let sector = later.to_sector(geometry().sector());
        world.disk.rule(move |io, bytes| {
            reads += usize::from(io.written.is_none() && io.offset == AREA);
            if reads == 2 {
                put(bytes, ballot_at(2), &sector);
            }
            match reads {
                3 => Fate::Fails,
                _ => Fate::Done,
            }
        });
        let failed = world.acquire(1, &mut Sightings::default());
        assert!(matches!(failed, Err(AcquireError::Disk(_))), "{failed:?}");
        assert_eq!(world.ballot(1).ballot.value, None);
    }
}
