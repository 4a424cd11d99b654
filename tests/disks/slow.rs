//! Disks that take their time, or hang, are not waited for once a majority has answered.

use super::has;
use lease_core::disk::{Disk, Fault};
use lease_core::id::Lver;
use lease_core::quorum::{Quorum, Replica};
use lease_core::resource::{Member, Resource};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use support::scene::{AREA, World};
use support::script::Slow;

/// On three disks.
fn on_slow<T>(
    host: u64,
    disks: &[Slow<'_>; 3],
    play: impl FnOnce(&Resource<'_>, &Member<'_>) -> T,
) -> T {
    let replicas = disks.iter().map(|disk| Replica { disk, offset: AREA });
    let quorum = Quorum::new(replicas.collect());
    World::formatted().with(host, |resource, member, _| {
        play(
            &Resource {
                quorum,
                ..*resource
            },
            member,
        )
    })
}

/// An hour: longer than anything is waited for here.
const HANGS: Duration = Duration::from_secs(3600);

#[test]
fn a_disk_that_hangs_is_waited_for_once_and_then_only_as_long_as_the_others_took() {
    let lived = |hung: Option<usize>| {
        let waited = Cell::default();
        let disks = [(); 3].map(|()| Slow::new(World::formatted().disk, &waited));
        if let Some(hung) = hung {
            disks[hung].takes.set(HANGS);
        }
        on_slow(1, &disks, |resource, member| {
            let held = has(resource, member);
            assert_eq!(resource.still_held(member, &held), Ok(true));
            assert_eq!(resource.release(member, &held), Ok(()));
        });
        let counts = disks.map(|disk| disk.count.get());
        (waited.get(), counts)
    };
    let (took, counts) = lived(None);
    for hung in 0..3 {
        let (hung_took, hung_counts) = lived(Some(hung));
        assert_eq!(hung_took, took + Duration::from_millis(1));
        for disk in 0..3 {
            let asked = if disk == hung { 1 } else { counts[disk] };
            assert_eq!(hung_counts[disk], asked, "{hung}");
        }
    }
}

/// A disk answers no more from any I/O on, and what it was asked then is done when another host has
/// the lease.
#[test]
fn what_a_disk_that_was_not_waited_for_does_later_harms_nobody() {
    for (hung, last) in (0..3).flat_map(|hung| (0..12).map(move |last| (hung, last))) {
        let waited = Cell::default();
        let scripts = [(); 3].map(|()| World::formatted().disk);
        let open = || [0, 1, 2].map(|disk| Slow::new(Rc::clone(&scripts[disk]), &waited));
        let (first, second) = (open(), open());
        first[hung].takes_from(last, HANGS);
        on_slow(1, &first, |resource, member| {
            let held = has(resource, member);
            assert_eq!(held.lver, Lver(1));
            assert_eq!(resource.still_held(member, &held), Ok(true));
            assert_eq!(resource.release(member, &held), Ok(()));
            let hangs = first[hung].count.get() == last + 1;
            assert_eq!(resource.quorum.settle().is_err(), hangs, "{hung} {last}");
        });
        on_slow(2, &second, |resource, member| {
            let held = has(resource, member);
            assert_eq!(held.lver, Lver(2), "{hung} {last}");
            waited.set(waited.get() + HANGS);
            assert!(first.iter().all(|disk| disk.settle() == Ok(())));
            assert_eq!(resource.still_held(member, &held), Ok(true));
            assert_eq!(resource.release(member, &held), Ok(()));
        });
        let again = open();
        on_slow(1, &again, |resource, member| {
            assert_eq!(has(resource, member).lver, Lver(3), "{hung} {last}");
        });
    }
}

/// It is an answer to an earlier question.
#[test]
fn the_late_answer_of_a_disk_is_not_taken_for_its_next_one() {
    let waited = Cell::default();
    let scripts = [(); 3].map(|()| World::formatted().disk);
    let disks = [0, 1, 2].map(|disk| Slow::new(Rc::clone(&scripts[disk]), &waited));
    let replicas = disks.iter().map(|disk| Replica { disk, offset: 0 });
    let quorum = Quorum::new(replicas.collect());
    let read = || {
        let first = |bytes: &[u8]| Ok::<_, Fault>(bytes[0]);
        quorum.read(0, 512, first).unwrap()
    };
    scripts.iter().for_each(|disk| disk.put_at(0, &[1; 512]));
    disks[2].takes.set(Duration::from_millis(3));
    assert_eq!(read(), [(0, 1), (1, 1)], "a majority");
    scripts.iter().for_each(|disk| disk.put_at(0, &[2; 512]));
    assert_eq!(read(), [(0, 2), (1, 2)], "it is outstanding");
    disks[2].takes.set(Duration::from_millis(1));
    waited.set(waited.get() + HANGS);
    assert_eq!(read(), [(0, 2), (1, 2), (2, 2)]);
    disks[2].takes.set(Duration::from_micros(1900));
    assert_eq!(read().len(), 3, "it is only slower");
}
