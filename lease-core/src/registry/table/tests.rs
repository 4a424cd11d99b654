//! Who may write, and who may not, by examples.

use super::*;
use crate::contain::Containment;
use crate::id::Name;
use crate::storage::Identity;

const LATE: Moment = Moment(1000);
const HELD: Phase = Phase::Held(Lver(7));
const LATE_WRITE: Left = Left {
    doubt: false,
    late: true,
};
const DOUBT: Left = Left {
    doubt: true,
    late: false,
};

/// What is wanted of the resource at these offsets of one disk; `None` could not be opened.
fn asked(mode: Mode, offsets: &[Option<u64>]) -> Asked {
    let identity = Identity {
        device: 1,
        inode: 2,
    };
    let area = |offset: &Option<u64>| offset.map(|offset| AreaId { identity, offset });
    Asked {
        resource: Name::new(b"R").unwrap(),
        mode,
        areas: offsets.iter().map(area).collect(),
        places: Vec::new(),
        spec: format!("{offsets:?}"),
    }
}

fn process(pid: i32) -> ProcessId {
    ProcessId { pid, started: 5 }
}

fn guarded(pid: i32) -> Guarded {
    Guarded {
        process: process(pid),
        containment: Containment::PidNamespace,
    }
}

impl Table {
    fn new_holder(&mut self, resources: &[Asked]) -> HolderId {
        let pid = i32::try_from(self.next).unwrap();
        self.register(process(pid), "c".into(), 9, resources.to_vec())
            .unwrap()
    }

    /// A new holder of one resource, at offset 0.
    fn one(&mut self, mode: Mode) -> HolderId {
        self.new_holder(&[asked(mode, &[Some(0)])])
    }

    fn phase(&self, id: HolderId) -> Phase {
        self.holder(id).unwrap().claims[0].phase
    }

    fn set(&mut self, id: HolderId, phase: Phase) {
        self.claim_mut(id, 0).unwrap().phase = phase;
    }

    /// "ballot", "share", or who is in the way: "passing", "busy", with "crashed".
    fn asks(&mut self, id: HolderId) -> &'static str {
        match self.acquire(id, 0, Moment(0)) {
            Ok((to, Tell::Turn { index: 0, how })) if to == id => match how {
                Turn::Ballot { .. } => "ballot",
                Turn::Share => "share",
            },
            Ok((to, Tell::Busy { index: 0, by })) if to == id => match (by.passing, by.crashed) {
                (true, false) => "passing",
                (false, false) => "busy",
                (true, true) => "passing, crashed",
                (false, true) => "busy, crashed",
            },
            Err(OutOfOrder) => "out of order",
            other => panic!("{other:?}"),
        }
    }
}

fn turn(id: HolderId, last: bool) -> Answer {
    (id, Tell::ReleaseTurn { index: 0, last })
}

#[test]
fn a_holder_has_up_to_64_resources_each_once_and_a_number_of_its_own() {
    let mut table = Table::default();
    let apart: Vec<_> = (0..65)
        .map(|n| asked(Mode::Exclusive, &[Some(n)]))
        .collect();
    let mut register = |resources: &[Asked]| {
        let registered = table.register(process(1), "c".into(), 9, resources.to_vec());
        registered.map(|id| id.0)
    };
    assert!(register(&apart).is_err());
    assert_eq!(register(&apart[..64]), Ok(1));
    let same = [
        asked(Mode::Exclusive, &[Some(1), Some(2), None]),
        asked(Mode::Shared, &[None, Some(3), Some(2)]),
    ];
    assert!(register(&same).unwrap_err().contains("the same resource"));
    let unknown = [
        asked(Mode::Exclusive, &[Some(1), None]),
        asked(Mode::Exclusive, &[Some(2), None]),
    ];
    assert_eq!(register(&unknown), Ok(2), "two that could not be opened");
    table.disconnected(HolderId(2));
    assert_eq!(table.one(Mode::Shared), HolderId(3), "no number twice");
    let ids: Vec<_> = table.holders().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 3]);
}

#[test]
fn a_new_holder_never_takes_the_number_of_one_that_was_read_back() {
    let mut table = Table::default();
    let old = table.one(Mode::Exclusive);
    table.next = 0;
    assert!(table.one(Mode::Exclusive) > old);
    table.next = u64::MAX;
    let refused = table.register(process(1), "c".into(), 9, vec![asked(Mode::Shared, &[])]);
    assert!(refused.is_err());
    assert_eq!(table.holders().count(), 2);
}

#[test]
fn who_may_acquire_beside_whom() {
    use Mode::{Exclusive, Shared};
    let table = [
        (Exclusive, Phase::Idle, Exclusive, "ballot"),
        (Exclusive, Phase::Acquiring, Exclusive, "passing"),
        (Exclusive, HELD, Exclusive, "busy"),
        (Exclusive, HELD, Shared, "busy"),
        (Exclusive, Phase::Leaving(Lver(7)), Shared, "passing"),
        (Exclusive, Phase::Releasing, Exclusive, "passing"),
        (Exclusive, Phase::Doubt, Exclusive, "busy"),
        (Shared, Phase::Idle, Shared, "ballot"),
        (Shared, Phase::Acquiring, Shared, "passing"),
        (Shared, HELD, Shared, "share"),
        (Shared, HELD, Exclusive, "busy"),
        (Shared, Phase::Leaving(Lver(7)), Shared, "passing"),
        (Shared, Phase::Releasing, Shared, "passing"),
        (Shared, Phase::Doubt, Shared, "busy"),
    ];
    for (theirs, phase, ours, expected) in table {
        let mut table = Table::default();
        let (first, second) = (table.one(theirs), table.one(ours));
        table.set(first, phase);
        assert_eq!(
            table.asks(second),
            expected,
            "{ours} beside {theirs} {phase:?}"
        );
        let turn = ["ballot", "share"].contains(&expected);
        let then = if turn { Phase::Acquiring } else { Phase::Idle };
        assert_eq!(table.phase(second), then);
    }
    let mut table = Table::default();
    let first = table.one(Exclusive);
    let elsewhere = table.new_holder(&[asked(Exclusive, &[Some(1)])]);
    assert_eq!(
        (table.asks(first), table.asks(elsewhere)),
        ("ballot", "ballot")
    );
    assert_eq!(table.asks(first), "out of order", "it has its turn already");
    assert_eq!(table.asks(HolderId(99)), "out of order");
}

#[test]
fn what_a_holder_that_has_ended_shares_is_not_joined() {
    let mut table = Table::default();
    let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
    table.set(first, HELD);
    table.disconnected(first);
    assert_eq!(table.asks(second), "passing, crashed");
    table.unproven(first);
    assert!(table.holder(first).unwrap().ended());
    assert_eq!(table.asks(second), "busy, crashed");
    assert!(!table.forget(first), "it stays reserved");
}

#[test]
fn no_ballot_before_a_late_write_has_landed() {
    let mut table = Table::default();
    let first = table.one(Mode::Exclusive);
    let elsewhere = table.new_holder(&[asked(Mode::Exclusive, &[Some(1)])]);
    let not_before = |table: &mut Table, id, now| {
        let answer = table.acquire(id, 0, now);
        let how = match answer {
            Ok((_, Tell::Turn { how, .. })) => how,
            other => panic!("{other:?}"),
        };
        table.acquired(id, 0, None, Left::NOTHING, LATE).unwrap();
        how
    };
    assert_eq!(table.asks(first), "ballot");
    let acquired = table.acquired(first, 0, None, LATE_WRITE, LATE);
    assert_eq!((acquired, table.phase(first)), (Ok(vec![]), Phase::Idle));
    let early = Moment(LATE.0 - 1);
    let ballot = |not_before| Turn::Ballot { not_before };
    assert_eq!(not_before(&mut table, first, early), ballot(LATE));
    assert_eq!(not_before(&mut table, elsewhere, early), ballot(Moment(0)));
    assert_eq!(not_before(&mut table, first, LATE), ballot(Moment(0)));
    assert_eq!(table.all_quiet_from(), Moment(0));
}

#[test]
fn an_acquire_ends_held_or_idle_or_in_doubt() {
    let ends = [
        (Some(Lver(7)), Left::NOTHING, HELD),
        (None, Left::NOTHING, Phase::Idle),
        (None, LATE_WRITE, Phase::Idle),
        (None, DOUBT, Phase::Doubt),
        (Some(Lver(7)), LATE_WRITE, HELD),
    ];
    for (lver, left, phase) in ends {
        let mut table = Table::default();
        let first = table.one(Mode::Exclusive);
        let unasked = table.acquired(first, 0, lver, left, LATE);
        assert_eq!(unasked, Err(OutOfOrder));
        assert_eq!(table.asks(first), "ballot");
        assert_eq!(table.acquired(first, 0, lver, left, LATE), Ok(vec![]));
        assert_eq!(table.phase(first), phase);
        let late = if left.late { LATE } else { Moment(0) };
        let areas = table.claim(first, 0).unwrap().asked.areas.clone();
        let quiet = [table.quiet_from(&areas), table.all_quiet_from()];
        assert_eq!(quiet, [late; 2]);
        let guard = table.guard(first, guarded(7));
        assert_eq!(guard.is_ok(), lver.is_some(), "{phase:?}");
    }
}

#[test]
fn a_holder_of_all_its_resources_has_one_guarded_process() {
    let mut table = Table::default();
    let both = [0, 1].map(|n| asked(Mode::Exclusive, &[Some(n)]));
    let first = table.new_holder(&both);
    table.set(first, HELD);
    assert_eq!(table.guard(first, guarded(7)), Err(OutOfOrder));
    table.claim_mut(first, 1).unwrap().phase = HELD;
    assert_eq!(table.guard(first, guarded(7)), Ok(()));
    assert_eq!(table.guard(first, guarded(8)), Err(OutOfOrder));
    assert_eq!(table.guard(first, guarded(7)), Ok(()), "asked again");
    assert_eq!(table.holder(first).unwrap().guarded, Some(guarded(7)));
}

#[test]
fn after_a_restart_the_same_process_comes_back_once_and_knows_best() {
    let mut table = Table::default();
    let (first, second) = (table.one(Mode::Exclusive), table.one(Mode::Exclusive));
    table.set(first, Phase::Acquiring);
    table.disconnected(first);
    table.set(second, Phase::Acquiring);
    let resume = |table: &mut Table, id, pid, phases: &[Phase]| {
        let late = vec![true; phases.len()];
        table.resume(id, process(pid), (phases, &late, true), LATE)
    };
    let came_back = resume(&mut table, second, 1, &[HELD]);
    assert_eq!(came_back, Err(OutOfOrder), "it was not away");
    let kept = serde_json::to_string(&table).unwrap();
    let mut table: Table = serde_json::from_str(&kept).unwrap();
    table.await_all();
    let links = [first, second].map(|id| table.holder(id).unwrap().link);
    assert_eq!(links, [Link::Crashed, Link::Awaited]);
    for (id, pid, phases) in [
        (first, 0, &[HELD][..]),
        (second, 0, &[HELD]),
        (second, 1, &[]),
        (second, 1, &[HELD, HELD]),
        (HolderId(99), 1, &[HELD]),
    ] {
        assert_eq!(resume(&mut table, id, pid, phases), Err(OutOfOrder));
    }
    let without = table.resume(second, process(1), (&[HELD], &[], true), LATE);
    assert_eq!(
        (without, table.all_quiet_from()),
        (Err(OutOfOrder), Moment(0))
    );
    assert_eq!(resume(&mut table, second, 1, &[HELD]), Ok(()));
    assert_eq!(table.all_quiet_from(), LATE);
    assert_eq!(table.phase(second), HELD);
    assert_eq!(table.holder(second).unwrap().link, Link::Connected);
}

#[test]
fn what_a_holder_that_has_ended_was_in_doubt_of_may_still_be_written() {
    for (phase, quiet) in [(Phase::Doubt, LATE), (HELD, Moment(0))] {
        let mut table = Table::default();
        let first = table.one(Mode::Exclusive);
        table.left(first, &[phase], LATE);
        assert_eq!((table.phase(first), table.all_quiet_from()), (phase, quiet));
    }
    Table::default().left(HolderId(1), &[HELD], LATE);
}

#[test]
fn who_gives_back_runs_nothing_any_more() {
    let mut table = Table::default();
    let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
    table.set(first, HELD);
    table.guard(first, guarded(7)).unwrap();
    assert_eq!(table.asks(second), "share");
    // It ends while it waits for its turn: there is nothing to prove.
    assert_eq!(table.release(first, 0), Ok(vec![]));
    let left = table.disconnected(first).0;
    assert_eq!(left.map(|holder| &holder.guarded), Some(&None));
    assert_eq!(table.proven_gone(first), []);
    let lver = Some(Lver(7));
    let acquired = table.acquired(second, 0, lver, Left::NOTHING, LATE);
    assert_eq!(acquired, Ok(vec![turn(first, false)]));
    assert!(table.forget(first));

    let leaving = Phase::Leaving(Lver(7));
    let others = [Phase::Idle, leaving, Phase::Releasing, Phase::Doubt];
    for (phase, guards) in others
        .into_iter()
        .chain([HELD])
        .zip([false, true].repeat(3))
    {
        table.set(second, HELD);
        table.guard(second, guarded(8)).unwrap();
        table.await_all();
        let standing = (&[phase][..], &[false][..], guards);
        table.resume(second, process(1), standing, LATE).unwrap();
        let left = &table.holder(second).unwrap().guarded;
        assert_eq!(left.is_some(), guards, "{phase:?}");
    }
}

#[test]
fn a_life_that_is_lost_stays_so_over_a_restart() {
    let mut table = Table::default();
    assert!(!table.is_lost());
    table.lose();
    let kept = serde_json::to_string(&table).unwrap();
    let table: Table = serde_json::from_str(&kept).unwrap();
    assert!(table.is_lost());
}

#[test]
fn the_last_sharer_alone_writes_the_release() {
    let mut table = Table::default();
    let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
    assert_eq!(table.release(first, 0), Err(OutOfOrder), "it holds nothing");
    table.set(first, HELD);
    table.set(second, HELD);
    assert_eq!(table.release(first, 0), Ok(vec![turn(first, false)]));
    assert_eq!(table.phase(first), Phase::Idle);
    let released = table.released(first, 0, Left::NOTHING, LATE);
    assert_eq!(released, Err(OutOfOrder), "it had nothing to write");
    assert_eq!(table.release(second, 0), Ok(vec![turn(second, true)]));
    assert_eq!(table.phase(second), Phase::Releasing);
    // Whoever wants to release meanwhile waits, and has its turn after that.
    table.set(first, HELD);
    assert_eq!(table.release(first, 0), Ok(vec![]));
    let released = table.released(second, 0, Left::NOTHING, LATE);
    assert_eq!(released, Ok(vec![turn(first, true)]));
    let released = table.released(first, 0, DOUBT, LATE);
    assert_eq!((released, table.phase(first)), (Ok(vec![]), Phase::Doubt));
}

#[test]
fn where_anothers_late_write_may_land_over_a_release_that_is_in_doubt() {
    let mut table = Table::default();
    let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
    assert_eq!(table.asks(first), "ballot");
    let acquired = table.acquired(first, 0, Some(Lver(7)), LATE_WRITE, LATE);
    assert_eq!(acquired, Ok(vec![]));
    assert_eq!(table.asks(second), "share");
    let before = Moment(LATE.0 - 1);
    let doubt = |table: &mut Table, id, now| table.as_left(id, 0, Left::NOTHING, now).doubt;
    assert!(doubt(&mut table, second, before));
    assert!(!doubt(&mut table, first, before), "it does not write there");
    assert!(!doubt(&mut table, second, LATE));
    // So it is if nobody heard of it until lease-join was started again, once or twice; by then it
    // may have landed.
    let mut away = table.clone();
    assert_eq!(away.release(first, 0), Ok(vec![]));
    away.set(second, Phase::Releasing);
    for acquires in [false, true] {
        let mut table = away.clone();
        for _ in 0..2 {
            table.await_all();
            if acquires {
                let new = table.new_holder(&[asked(Mode::Shared, &[Some(1)])]);
                table.acquire(new, 0, LATE).unwrap();
            }
            let mut dead = table.clone();
            dead.left(second, &[Phase::Idle], LATE);
            assert_eq!(dead.phase(second), Phase::Doubt);
            let standing = (&[Phase::Idle][..], &[false][..], false);
            table.resume(second, process(1), standing, LATE).unwrap();
            assert_eq!(table.phase(second), Phase::Doubt);
        }
    }
    let elsewhere = table.new_holder(&[asked(Mode::Shared, &[Some(1)])]);
    assert!(!doubt(&mut table, elsewhere, before));
    assert_eq!(table.as_left(first, 0, DOUBT, before), DOUBT);
}

#[test]
fn whoever_has_released_what_anothers_late_write_may_land_over_may_ask_again() {
    let mut table = Table::default();
    let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
    assert_eq!(table.asks(first), "ballot");
    let acquired = table.acquired(first, 0, Some(Lver(7)), LATE_WRITE, LATE);
    assert_eq!((acquired, table.asks(second)), (Ok(vec![]), "share"));
    table.set(first, Phase::Idle);
    let before = Moment(LATE.0 - 1);
    for heard in [true, false] {
        let mut table = table.clone();
        table.set(second, Phase::Releasing);
        if heard {
            let left = table.as_left(second, 0, Left::NOTHING, before);
            assert_eq!(table.released(second, 0, left, LATE), Ok(vec![]));
        } else {
            table.await_all();
            let standing = (&[Phase::Idle][..], &[false][..], false);
            let back = table.resume(second, process(1), standing, LATE);
            assert_eq!(back, Ok(()));
        }
        assert_eq!(table.phase(second), Phase::Doubt);
        let again = table.acquire(second, 0, before).unwrap();
        let how = Turn::Ballot { not_before: LATE };
        assert_eq!(again, (second, Tell::Turn { index: 0, how }), "{heard}");
        // What it is in doubt of itself it does not ask for.
        table.acquired(second, 0, None, DOUBT, LATE).unwrap();
        assert_eq!(table.asks(second), "out of order");
    }
}

#[test]
fn a_release_waits_for_who_acquires_and_goes_on_when_that_one_is_done_or_gone() {
    for ended in [true, false] {
        let mut table = Table::default();
        let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
        table.set(first, HELD);
        assert_eq!(table.asks(second), "share");
        assert_eq!(table.release(first, 0), Ok(vec![]));
        let answers = if ended {
            table.gone(second);
            let (left, answers) = table.disconnected(second);
            assert_eq!(left, None);
            answers
        } else {
            let lver = Some(Lver(7));
            table
                .acquired(second, 0, lver, Left::NOTHING, LATE)
                .unwrap()
        };
        assert_eq!(answers, [turn(first, ended)]);
    }
}

#[test]
fn whoever_dies_as_it_joins_a_share_leaves_that_to_the_others() {
    let mut table = Table::default();
    let [first, second] = [(); 2].map(|()| table.one(Mode::Shared));
    table.set(first, HELD);
    assert_eq!(table.asks(second), "share");
    assert_eq!(table.release(first, 0), Ok(vec![]));
    table.disconnected(second);
    assert_eq!(table.proven_gone(second), [turn(first, true)]);
    assert!(table.forget(second));
}

#[test]
fn what_a_holder_leaves_is_released_once_it_is_proven_gone() {
    let leaving = Phase::Leaving(Lver(7));
    let unknown = [Phase::Acquiring, Phase::Releasing, Phase::Doubt];
    for phase in [HELD, leaving].into_iter().chain(unknown) {
        let mut table = Table::default();
        let first = table.one(Mode::Exclusive);
        table.set(first, phase);
        let (left, answers) = table.disconnected(first);
        assert_eq!(left.map(|holder| holder.link), Some(Link::Crashed));
        assert_eq!(answers, []);
        assert!(!table.forget(first), "{phase:?}");
        assert_eq!(table.proven_gone(first), [turn(first, true)], "{phase:?}");
        assert_eq!(table.phase(first), Phase::Releasing);
        table.released(first, 0, Left::NOTHING, LATE).unwrap();
        assert!(table.forget(first));
        assert_eq!(table.holder(first), None);
    }
    assert_eq!(Table::default().proven_gone(HolderId(1)), []);
}

#[test]
fn a_connected_holder_is_not_forgotten_and_one_with_nothing_left_is_gone_at_once() {
    let mut table = Table::default();
    let first = table.one(Mode::Exclusive);
    assert!(!table.forget(first));
    assert_eq!(table.disconnected(first).0, None);
    assert_eq!(table.holders().count(), 0);
    let (left, answers) = table.disconnected(first);
    assert_eq!((left, answers), (None, vec![]));
}

#[test]
fn a_table_with_its_changes_is_the_one_that_was_changed() {
    let mut table = Table::default();
    let mut kept = table.clone();
    let first = table.one(Mode::Shared);
    let second = table.new_holder(&[asked(Mode::Exclusive, &[Some(1)])]);
    let steps: [(&str, fn(&mut Table, [HolderId; 2])); 11] = [
        ("registered", |_, _| {}),
        ("turn", |t, [id, _]| drop(t.acquire(id, 0, Moment(0)))),
        ("held", |t, [id, _]| {
            drop(t.acquired(id, 0, Some(Lver(7)), Left::NOTHING, LATE))
        }),
        ("guarded", |t, [id, _]| t.guard(id, guarded(1)).unwrap()),
        ("leaving", |t, [id, _]| drop(t.release(id, 0))),
        ("released", |t, [id, _]| {
            drop(t.released(id, 0, LATE_WRITE, LATE))
        }),
        ("gone", |t, [id, _]| drop(t.disconnected(id))),
        ("another's turn", |t, [_, id]| {
            drop(t.acquire(id, 0, Moment(0)))
        }),
        ("dead", |t, [_, id]| drop(t.disconnected(id))),
        ("all are awaited", |t, _| t.await_all()),
        ("lost", |t, _| t.lose()),
    ];
    for (what, step) in steps {
        let before = table.clone();
        step(&mut table, [first, second]);
        let changes = serde_json::to_vec(&table.take_changes()).unwrap();
        kept.apply(serde_json::from_slice(&changes).unwrap());
        assert_eq!(kept, table, "{what}");
        let nothing = ["registered", "all are awaited"].contains(&what);
        assert!(nothing || before != table, "{what}");
    }
}

#[test]
fn what_is_written_of_a_change_is_no_more_where_there_are_many_holders() {
    let bytes_beside = |others: u64| {
        let mut table = Table::default();
        for number in 0..others {
            table.new_holder(&[asked(Mode::Exclusive, &[Some(number + 1)])]);
        }
        table.next = 1000;
        table.take_changes();
        let id = table.one(Mode::Exclusive);
        let mut bytes = Vec::new();
        let mut write = |table: &mut Table| {
            let changes = serde_json::to_vec(&table.take_changes()).unwrap();
            bytes.push(changes.len());
        };
        write(&mut table);
        table.acquire(id, 0, Moment(0)).unwrap();
        write(&mut table);
        table
            .acquired(id, 0, Some(Lver(7)), Left::NOTHING, LATE)
            .unwrap();
        write(&mut table);
        table.release(id, 0).unwrap();
        table.released(id, 0, Left::NOTHING, LATE).unwrap();
        table.disconnected(id);
        write(&mut table);
        bytes
    };
    assert_eq!(bytes_beside(0), bytes_beside(600));
}
