//! A version that is decided, or will be, for another host: it is that host's to write, and whoever
//! has proposed itself sees it through.

use super::*;

/// Hosts that all live, and have all started this version before: so each looks at all records
/// before its ballot.
fn all_started(hosts: u64) -> Stage {
    let mut stage = all_seen(hosts);
    for host in 1..=hosts {
        put_block(&mut stage, host, &block(1, host, None));
    }
    stage
}

#[test]
fn whoever_has_not_proposed_itself_is_in_nobodys_way_who_has() {
    let mut stage = all_started(2);
    let first = stage.hold(0, errand(Exclusive, 1));
    stage.until(first, accepts(1));
    stage.step(first);
    let (second, told) = tries(&mut stage, 1, Exclusive);
    stage.finish(second);
    assert_eq!(note_of(told.borrow().as_ref().unwrap()), "refused: held");
    assert_eq!(stage.block(0, 2), block(1, 2, None));
    stage.finish(first);
    assert_eq!(stage.leader(0).lver(), Lver(1));
    assert_safe(&stage);
}

/// Phase 1 shows it what a glance does not: it leaves it at that, and the next time it looks first.
#[test]
fn whoever_has_glanced_only_is_in_the_way_once() {
    for mode in [Exclusive, Shared] {
        let mut stage = all_seen(2);
        let first = stage.hold(0, errand(mode, 1));
        stage.until(first, accepts(1));
        stage.step(first);
        for _ in 0..2 {
            let (second, told) = tries(&mut stage, 1, Exclusive);
            stage.finish(second);
            let said = told.take().unwrap();
            assert!(matches!(said, Ok(Attempt::Refused(..))), "{said:?}");
            assert_eq!(stage.block(0, 2), block(1, 2, None), "{}", stage.story());
        }
        stage.finish(first);
        assert_safe(&stage);
    }
}

/// Live sharers are seen in phase 1, and no value of ours is accepted.
#[test]
fn whoever_has_glanced_only_sees_who_shares_before_it_proposes_itself() {
    let mut stage = all_seen(2);
    let first = stage.hold(0, errand(Shared, 30));
    stage.until_held(first);
    assert_eq!(stage.leader(0).owner(), None);
    let (second, told) = tries(&mut stage, 1, Exclusive);
    stage.finish(second);
    let said = note_of(told.borrow().as_ref().unwrap());
    assert_eq!(said, "refused: shared", "{}", stage.story());
    assert_eq!(stage.block(0, 2).ballot.bal, BallotNumber(0));
    assert_safe(&stage);
}

/// The second has looked before the first accepts, and its ballot finishes that one's.
#[test]
fn what_a_ballot_decides_for_a_live_host_is_left_to_it_and_told_as_it_is() {
    for (mode, expected) in [
        (Exclusive, "refused: held"),
        (Shared, "refused: short hold"),
    ] {
        let mut stage = all_started(2);
        let before = stage.leader(0);
        let first = stage.hold(0, errand(mode, 1));
        let (second, told) = tries(&mut stage, 1, mode);
        stage.until(second, writes_block(2));
        stage.until(first, accepts(1));
        stage.step(first);
        stage.finish(second);
        let told = told.take().unwrap();
        let said = match &told {
            Ok(Attempt::Refused(Refusal::ShortHold(_), _)) => "refused: short hold",
            other => note_of(other),
        };
        assert_eq!(said, expected, "{}", stage.story());
        if let Ok(Attempt::Refused(Refusal::Held { note, .. }, _)) = told {
            assert_eq!(note.unwrap().host.get(), 1);
        }
        assert!(stage.block(0, 2).ballot.bal > BallotNumber(0));
        assert_eq!(stage.leader(0), before);
        stage.finish(first);
        assert_safe(&stage);
    }
}

fn phase_2(host: u64) -> impl Fn(&Op) -> bool {
    let writes = writes_block(host);
    move |op| match op {
        Op::Write { bytes, .. } if writes(op) => {
            let ballot = BallotSector::decode(bytes).unwrap().ballot;
            ballot.bal == ballot.mbal
        }
        _ => false,
    }
}

/// All have looked before any of them began; host 1 has accepted itself, host 2 is about to, and
/// host 3 is to start.
fn one_accepts_itself(stage: &mut Stage, [one, two, three]: [Actor; 3]) {
    stage.until(one, writes_block(1));
    stage.until(two, writes_block(2));
    stage.until(three, writes_block(3));
    stage.until(one, phase_2(1));
    stage.until(two, phase_2(2));
    stage.step(one);
}

/// Host 1 has accepted itself, then, since it was outbid, host 2; host 3 has finished what was
/// accepted first. Host 1 does not know, and nobody but it will write that leader.
fn decided_for_one_that_has_accepted_another() -> (Stage, Actor) {
    let mut stage = all_started(4);
    let one = stage.hold(0, errand(Exclusive, 1));
    let (two, _) = tries(&mut stage, 1, Exclusive);
    let (three, told) = tries(&mut stage, 2, Exclusive);
    one_accepts_itself(&mut stage, [one, two, three]);
    stage.until(three, phase_2(3));
    stage.step(two);
    stage.step(two);
    stage.step(one);
    stage.until(one, phase_2(1));
    stage.step(three);
    stage.step(three);
    stage.until(three, phase_2(3));
    stage.step(three);
    stage.finish(three);
    assert_eq!(note_of(told.borrow().as_ref().unwrap()), "refused: held");
    stage.step(one);
    stage.kill(two);
    stage.step(one);
    let owner = |host| stage.block(0, host).ballot.value.unwrap().host.get();
    assert_eq!([1, 2, 3].map(owner), [2, 2, 1], "{}", stage.story());
    (stage, one)
}

/// All hosts live, nobody runs anything: somebody can have it.
fn can_be_had(mut stage: Stage) {
    stage.pass(seconds(60));
    let (last, told) = tries(&mut stage, 3, Exclusive);
    stage.finish(last);
    let said = note_of(told.borrow().as_ref().unwrap());
    assert_eq!(said, "held", "{}", stage.story());
    assert_eq!(stage.leader(0).lver(), Lver(2));
}

#[test]
fn what_may_be_decided_for_a_lease_hold_that_was_killed_is_given_back() {
    let (mut stage, one) = decided_for_one_that_has_accepted_another();
    stage.kill(one);
    can_be_had(stage);
}

#[test]
fn whoever_is_told_to_end_knows_first_that_nothing_was_decided_for_it() {
    let (mut stage, one) = decided_for_one_that_has_accepted_another();
    stage.interrupt(one);
    stage.finish(one);
    can_be_had(stage);
}

/// Its attempt is over by mistake: it was stopped, and seemed to have lost its host id. The next
/// one knows of nothing but what stands on the disk.
#[test]
fn a_fresh_attempt_sees_in_others_records_what_may_be_decided_for_it() {
    let (mut stage, one) = decided_for_one_that_has_accepted_another();
    stage.pauses(one, true);
    let (again, told) = tries(&mut stage, 0, Exclusive);
    stage.until(again, writes_block(1));
    stage.step(again);
    stage.fails(again, false);
    stage.finish(again);
    let in_doubt = matches!(*told.borrow(), Some(Err(AcquireError::InDoubt(_))));
    assert!(in_doubt, "{told:?}");
}

/// Another's value stands with a larger ballot; one that is larger yet, for its own, is under way.
#[test]
fn a_fresh_attempt_does_not_turn_back_while_its_own_value_may_be_decided() {
    let mut stage = all_started(4);
    let one = stage.hold(0, errand(Exclusive, 1));
    let two = stage.hold(1, errand(Exclusive, 1));
    let (three, _) = tries(&mut stage, 2, Exclusive);
    one_accepts_itself(&mut stage, [one, two, three]);
    stage.pauses(one, true);
    stage.until(three, phase_2(3));
    stage.step(two);
    let (again, told) = tries(&mut stage, 0, Exclusive);
    stage.finish(again);
    assert_eq!(note_of(told.borrow().as_ref().unwrap()), "refused: held");
    stage.finish(three);
    stage.finish(two);
    can_be_had(stage);
}

/// Whether that other lives does not matter, and cannot be known.
#[test]
fn what_came_out_for_another_is_in_doubt_no_more() {
    let mut stage = all_seen(2);
    let accepted = |host: u64| BallotSector {
        ballot: Ballot {
            bal: BallotNumber(host),
            value: Some(stamp(host, 1)),
            ..block(1, host, None).ballot
        },
        ..BallotSector::default()
    };
    put_block(&mut stage, 1, &accepted(1));
    put_block(&mut stage, 2, &accepted(2));
    stage.power_off(1);
    stage.disks[0].write(4096, &[0xAB; 4096]);
    let (actor, told) = stage.act(0, |r, m| r.resolve(m, &wanted(Exclusive)));
    stage.finish(actor);
    assert_eq!(told.take(), Some(Ok(())), "{}", stage.story());
    assert_eq!(stage.block(0, 1).ballot.value, Some(stamp(2, 1)));
}

/// lease-join brings a release to its end that was done; one of three disks does not answer.
#[test]
fn what_says_that_it_is_released_is_not_freed_once_more() {
    let mut stage = on_three_disks();
    let (actor, _) = stage.act(0, |resource, member| {
        let Ok(Attempt::Held(held)) = try_once(resource, member, Exclusive) else {
            panic!("not had");
        };
        resource.release(member, &held).unwrap();
        member.clock.wait(seconds(1)).unwrap();
        resource.resolve(member, &wanted(Exclusive))
    });
    stage.until(actor, |op| matches!(op, Op::Wait { .. }));
    let mut writes = 0;
    while let Some(op) = stage.pending(actor) {
        match op {
            Op::Read { handle, .. } if handle.disk == 2 => stage.fails(actor, false),
            op => {
                writes += u32::from(matches!(op, Op::Write { .. }));
                stage.step(actor);
            }
        }
    }
    assert_eq!(writes, 0, "{}", stage.story());
}
