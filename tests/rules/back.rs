//! Leaders that go back: a commit that stalls, or a write that lands late, takes the leader to an
//! older version.

use super::*;

/// The leader is of a host that has died on its way to sharing.
#[test]
fn who_has_what_was_decided_and_is_not_written_yet_is_told_as_it_is() {
    let mut stage = Stage::joined(3);
    let dead = stage.hold(2, errand(Shared, 1));
    stage.until(dead, writes_leader);
    stage.step(dead);
    stage.power_off(2);
    stage.pass(DEAD);
    let first = stage.hold(0, errand(Exclusive, 1));
    stage.until(first, accepts(1));
    stage.step(first);
    stage.until(first, reads_leader);
    let before = stage.leader(0);
    assert!(before.short_hold() && before.owner().unwrap().host.get() == 3);
    let (actor, attempt) = tries(&mut stage, 1, Exclusive);
    stage.finish(actor);
    let attempt = attempt.take().unwrap();
    let Ok(Attempt::Refused(Refusal::Held { owner, note }, _)) = attempt else {
        panic!("{attempt:?}\n{}", stage.story());
    };
    let note = note.unwrap();
    assert_eq!([owner.host, note.host].map(HostId::get), [1, 1]);
    assert_eq!((note.lver, note.mode), (Lver(2), Exclusive));
    stage.finish(first);
    assert_safe(&stage);
}

#[test]
fn a_stalled_commit_over_a_later_version_costs_its_holder_nothing() {
    let (mut stage, first, second) = a_stalled_commit(Exclusive, 1);
    stage.finish(first);
    let third = stage.hold(2, errand(Exclusive, 30));
    stage.until_held(third);
    let late = stage.issued(second);
    stage.lands(&late);
    assert_eq!(stage.leader(0).lver(), Lver(1));
    stage.kill(second);
    stage.pass(seconds(3));
    for _ in 0..50 {
        stage.step(third);
    }
    assert_eq!(stage.running().len(), 1, "{}", stage.story());
    let leader = stage.leader(0);
    assert_eq!(
        (leader.lver(), leader.owner().unwrap().host.get()),
        (Lver(2), 3)
    );
    stage.finish(third);
    assert!(stage.leader(0).owner().is_none());
    assert_safe(&stage);
}

#[test]
fn a_lease_can_be_had_after_a_stalled_commit_took_its_leader_back() {
    for rounds in [1, 4] {
        let (mut stage, first, second) = a_stalled_commit(Exclusive, 1);
        stage.finish(first);
        for _ in 0..rounds {
            let third = stage.hold(2, errand(Exclusive, 1));
            stage.finish(third);
        }
        let late = stage.issued(second);
        stage.lands(&late);
        stage.kill(second);
        let third = stage.hold(2, errand(Exclusive, 1));
        stage.finish(third);
        assert_eq!(
            stage.leader(0).lver(),
            Lver(rounds + 2),
            "{}",
            stage.story()
        );
        assert_safe(&stage);
    }
}

#[test]
fn a_leader_that_goes_back_again_and_again_costs_its_owner_nothing() {
    let mut stage = Stage::joined(2);
    let old = stage.leader(0);
    let (actor, attempt) = stage.act(0, |r, m| try_once(r, m, Exclusive));
    for _ in 0..3 {
        stage.until(actor, writes_leader);
        stage.step(actor);
        stage.disks[0].write(area_offset(1), &old.to_sector());
    }
    stage.finish(actor);
    let said = note_of(attempt.borrow().as_ref().unwrap());
    assert_eq!((said, stage.leader(0).lver()), ("held", Lver(1)));
}

#[test]
fn an_owner_that_has_started_a_later_version_has_let_go() {
    let mut stage = Stage::joined(3);
    put_leader(&mut stage, 5, stamp(2, 1), stamp(3, 1));
    put_block(&mut stage, 2, &block(6, 2002, None));
    stage.pass(seconds(3));
    assert_eq!(watched(&mut stage, 0), "held");
}

/// Host 1 had version 2, freed it, and was killed before it could say so; host 2 had the next. What
/// is written then for host 1 was on its way since.
#[test]
fn a_leader_that_goes_back_to_one_that_has_let_go_of_it_closes_nothing() {
    let mut stage = all_seen(3);
    put_block(&mut stage, 1, &block(2, 2001, Some(stamp(1, 1))));
    let released = BallotSector {
        released: true,
        ..block(3, 4002, Some(stamp(2, 1)))
    };
    put_block(&mut stage, 2, &released);
    put_leader(&mut stage, 3, stamp(2, 1), stamp(2, 1));
    let over = stage.leader(0).released(stamp(2, 1));
    stage.disks[0].write(area_offset(1), &over.to_sector());
    let (actor, told) = stage.act(0, |r, m| r.resolve(m, &wanted(Exclusive)));
    stage.finish(actor);
    assert_eq!(told.take(), Some(Ok(())));
    put_leader(&mut stage, 2, stamp(1, 1), stamp(4, 1));
    assert_eq!(watched(&mut stage, 2), "held", "{}", stage.story());
}

/// Nobody says of a lease that is held that it is over but its owner: what was on its way before
/// the area was formatted anew does not open it.
#[test]
fn a_later_ballot_of_another_does_not_open_what_is_held() {
    let mut stage = all_seen(3);
    put_block(&mut stage, 1, &block(1, 1, Some(stamp(1, 1))));
    put_leader(&mut stage, 1, stamp(1, 1), stamp(1, 1));
    put_block(&mut stage, 2, &block(50, 2002, None));
    assert_eq!(watched(&mut stage, 2), "refused: held", "{}", stage.story());
}

#[test]
fn a_version_that_was_released_is_not_held_again() {
    let mut stage = Stage::joined(1);
    let before = stage.leader(0);
    assert_eq!(outcome(&mut stage, 0, Exclusive), "held");
    let (actor, _) = stage.act(0, |r, m| r.resolve(m, &wanted(Exclusive)));
    stage.finish(actor);
    assert_eq!(stage.leader(0).lver(), Lver(1));
    stage.disks[0].write(area_offset(1), &before.to_sector());
    assert_eq!(outcome(&mut stage, 0, Exclusive), "held");
    assert_eq!(
        stage.leader(0).lver(),
        Lver(2),
        "the fencing token was given out twice"
    );
}

#[test]
fn a_holder_does_not_write_its_leader_over_a_fresh_formatting() {
    let mut stage = Stage::joined(1);
    let formatted = stage.disks[0].read(area_offset(1), 3 * 512);
    let (actor, told) = stage.act(0, |resource, member| {
        let Ok(Attempt::Held(held)) = try_once(resource, member, Exclusive) else {
            return None;
        };
        member.clock.wait(seconds(1)).unwrap();
        Some(resource.still_held(member, &held))
    });
    stage.until(actor, |op| matches!(op, Op::Wait { .. }));
    stage.disks[0].write(area_offset(1), &formatted);
    stage.finish(actor);
    assert_eq!(*told.borrow(), Some(Some(Ok(false))));
    assert_eq!(stage.leader(0).lver(), Lver(0));
}
