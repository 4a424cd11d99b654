//! A resource on three disks: one of them is down, and not always the same one.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "disks/slow.rs"]
mod slow;

use lease_core::device::{Device, Devices};
use lease_core::disk::{Disk, Fault};
use lease_core::id::{Generation, Lver};
use lease_core::liveness::Sightings;
use lease_core::opened::{Look, Opened};
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::ballot::BallotSector;
use lease_core::record::leader::Leader;
use lease_core::resource::{AcquireError, Attempt, Held, Member, Refusal, Resource, Wanted};
use lease_core::spec::{Mode, ResourceSpec};
use std::cell::RefCell;
use std::sync::mpsc::channel;
use std::time::Duration;
use support::scene::{AREA, World, block, geometry, stamp};
use support::script::Fate;
use support::sim::area_offset;
use support::sim::port::Op;
use support::sim::stage::{Actor, Stage, accepts, setup, writes_block, writes_leader};
use support::storage::Storage;

#[test]
fn while_one_disk_of_three_owes_an_answer_nothing_is_settled() {
    let worlds = [(); 3].map(|()| World::formatted());
    let replicas = worlds.iter().map(|world| Replica {
        disk: &*world.disk,
        offset: AREA,
    });
    let quorum = Quorum::new(replicas.collect());
    assert_eq!(quorum.settle(), Ok(()));
    worlds[1].disk.next_write(AREA, Fate::Hangs);
    let written = quorum.write(0, &[0; 512]).unwrap();
    assert_eq!(written, [(0, ()), (2, ())], "a majority");
    assert_eq!(quorum.settle(), Err(Fault::Outstanding));
    worlds[1].disk.land();
    assert_eq!(quorum.settle(), Ok(()));
}

/// A disk that says when it is asked to begin, and when its answer is waited for.
struct Asked<'a>(char, &'a RefCell<String>);

impl Asked<'_> {
    fn note(&self, what: &str) {
        self.1.borrow_mut().extend([what, &self.0.to_string(), " "]);
    }
}

impl Disk for Asked<'_> {
    fn read(&self, _: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.note("r");
        Ok(vec![0; len])
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
        self.note("w");
        Ok(())
    }

    fn begin_read(&self, _: u64, _: usize) -> Result<(), Fault> {
        self.note("begin r");
        Ok(())
    }

    fn begin_write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
        self.note("begin w");
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
}

#[test]
fn every_disk_is_asked_before_the_answer_of_one_is_waited_for() {
    let log = RefCell::default();
    let disks = ['a', 'b', 'c'].map(|name| Asked(name, &log));
    let replicas = disks.iter().map(|disk| Replica { disk, offset: 0 });
    let quorum = Quorum::new(replicas.collect());
    let written = quorum.write(0, &[0; 512]).unwrap();
    let asked = "begin wa begin wb begin wc wa wb wc ";
    assert_eq!(log.take(), asked);
    let see = |_: &[u8]| Ok::<_, Fault>(());
    quorum
        .read_after(&written[1..].to_vec(), 0, 512, see)
        .unwrap();
    assert_eq!(log.take(), "begin rb begin rc rb rc ");
}

/// R1 on three disks, and what a look at each of them has found.
fn looked_at(others: [(&Storage, u64); 2], first: &Storage) -> (ResourceSpec, [Look<Device>; 3]) {
    let more = others.map(|(disk, at)| format!(":{}:{}", disk.file().display(), disk.offset(at)));
    let text = first.resource(1) + &more.concat();
    let spec = ResourceSpec::parse(&text.into()).unwrap();
    let looks = [0, 1, 2].map(|index| Look::at(&Devices, &spec, index));
    (spec, looks)
}

#[test]
fn a_disk_that_answers_late_is_one_of_them_only_if_it_is_what_was_named() {
    let [one, two, right, other] = [1, 1, 1, 2].map(Storage::new);
    let fewer_hosts = Storage::small(1);
    let table = [
        ((&right, 1), None),
        ((&other, 2), Some("is resource R2")),
        ((&fewer_hosts, 1), Some("its disks differ in geometry")),
    ];
    for (third, wrong) in table {
        let (spec, [first, second, late]) = looked_at([(&two, 1), third], &one);
        let (tell, told) = channel();
        let nobody = |why: &_| panic!("{why}");
        let looks = (vec![second, first], Some(told));
        let mut opened = Opened::of(&spec, looks, nobody).unwrap();
        let seen = |opened: &Opened<Device>| -> Vec<bool> {
            let areas = opened.asked().areas;
            areas.iter().map(Option::is_some).collect()
        };
        assert!(opened.take_late(Duration::from_secs(1), nobody).is_none());
        assert_eq!(seen(&opened), [true, true, false]);
        tell.send(late).unwrap();
        let found = opened.take_late(Duration::from_secs(1), nobody);
        let found = found.map(|why| why.to_string());
        assert_eq!(found.is_some(), wrong.is_some(), "{found:?}");
        assert!(
            found.iter().all(|why| why.contains(wrong.unwrap())),
            "{found:?}"
        );
        assert_eq!(seen(&opened), [true, true, wrong.is_none()]);
    }
}

#[test]
fn looks_are_decided_by_a_majority_or_by_what_rules_it_out() {
    let [one, two, right, other] = [1, 1, 1, 2].map(Storage::new);
    let [gone, lost] = [1; 2].map(Storage::new);
    for storage in [&gone, &lost] {
        std::fs::remove_file(storage.file()).unwrap();
    }
    let table = [
        ([(&two, 1), (&right, 1)], [0, 1, 2], 2),
        ([(&gone, 1), (&right, 1)], [1, 0, 2], 3),
        ([(&gone, 1), (&lost, 1)], [0, 2, 1], 3),
        ([(&gone, 1), (&lost, 1)], [1, 2, 0], 2),
        ([(&two, 1), (&other, 2)], [2, 0, 1], 1),
    ];
    for (others, order, decided_by) in table {
        let (_, looks) = looked_at(others, &one);
        let mut looks = looks.map(Some);
        let mut told = Vec::new();
        for (count, index) in (1..).zip(order) {
            told.extend(looks[index].take());
            let decided = Look::decide(&told, 3);
            assert_eq!(decided, count >= decided_by, "{order:?} {count}");
        }
    }
}

/// Two hosts; three disks.
fn on_three_disks() -> Stage {
    on_disks(3)
}

/// Two hosts.
fn on_disks(disks: usize) -> Stage {
    let setups = [1, 2].map(|host| {
        let mut setup = setup(host);
        setup.disks = disks;
        setup
    });
    Stage::of(&setups)
}

/// Goes on to its end while a disk answers nothing but errors.
fn finish_without(stage: &mut Stage, actor: Actor, disk: usize) {
    while let Some(op) = stage.pending(actor) {
        match op {
            Op::Read { handle, .. } | Op::Write { handle, .. } if handle.disk == disk => {
                stage.fails(actor, false);
            }
            _ => stage.step(actor),
        }
    }
}

fn frees(op: &Op) -> bool {
    let freed = |bytes: &[u8]| Leader::decode(bytes).unwrap().owner().is_none();
    matches!(op, Op::Write { bytes, .. } if writes_leader(op) && freed(bytes))
}

/// The leader of version 1, whatever the ballots say: sanlock asks it first.
fn is_free_on_most(stage: &Stage) -> bool {
    let leaders = stage.disks.iter().map(|disk| {
        let sector = disk.read(area_offset(1), 512);
        Leader::decode(&sector).unwrap()
    });
    let freed = leaders.filter(|leader| (leader.lver(), leader.owner()) == (Lver(1), None));
    freed.count() > 1
}

fn on_stage(resource: &Resource<'_>, member: &Member<'_>) -> Result<Attempt, AcquireError> {
    resource.acquire(member, &wanted(), &mut Sightings::default())
}

fn has(resource: &Resource<'_>, member: &Member<'_>) -> Held {
    match on_stage(resource, member) {
        Ok(Attempt::Held(held)) => *held,
        other => panic!("{other:?}"),
    }
}

fn wanted() -> Wanted {
    World::formatted().with(1, |_, _, wanted| wanted.clone())
}

/// Whether another host gets it, with this disk down.
fn had_by_host_2(stage: &mut Stage, without: usize) -> bool {
    let (actor, attempt) = stage.act(1, on_stage);
    finish_without(stage, actor, without);
    matches!(*attempt.borrow(), Some(Ok(Attempt::Held(_))))
}

#[test]
fn a_value_that_was_accepted_on_a_disk_that_is_down_is_resolved_all_the_same() {
    let mut stage = on_three_disks();
    let (actor, ended) = stage.act(0, |resource, member| {
        let attempt = on_stage(resource, member);
        let doubt = matches!(attempt, Err(AcquireError::InDoubt(_)));
        (doubt, resource.resolve(member, &wanted()))
    });
    stage.until(actor, accepts(1));
    stage.step(actor);
    stage.fails(actor, false);
    stage.fails(actor, false);
    finish_without(&mut stage, actor, 0);
    assert_eq!(*ended.borrow(), Some((true, Ok(()))));
    assert!(had_by_host_2(&mut stage, 1), "{}", stage.story());
}

#[test]
fn while_a_write_to_one_disk_of_three_may_land_nothing_is_resolved() {
    let mut stage = on_three_disks();
    let (actor, ended) = stage.act(0, |resource, member| {
        let attempt = on_stage(resource, member);
        let doubt = matches!(attempt, Err(AcquireError::InDoubt(_)));
        let early = resource.resolve(member, &wanted());
        member.clock.wait(Duration::from_secs(1)).unwrap();
        (doubt, early, resource.resolve(member, &wanted()))
    });
    stage.until(actor, accepts(1));
    let late = stage.hangs(actor);
    stage.fails(actor, false);
    stage.until(actor, |op| matches!(op, Op::Wait { .. }));
    stage.lands(&late);
    stage.finish(actor);
    let outstanding = Err(AcquireError::Disk(Fault::Outstanding));
    assert_eq!(*ended.borrow(), Some((true, outstanding, Ok(()))));
}

/// Outbid, host 1 looks again, and a disk that does not answer hides what stands there: it starts
/// anew. In the meantime host 2 has found host 1's value, and has committed it.
#[test]
fn what_another_committed_for_us_between_two_looks_of_one_attempt_is_ours() {
    for storage_fails in [false, true] {
        let mut stage = on_three_disks();
        let at = area_offset(1);
        let first = stage
            .leader(0)
            .committed(Lver(1), stamp(2, 1), stamp(2, 1), Some(false))
            .released(stamp(2, 1));
        let ours = first.committed(Lver(2), stamp(1, 1), stamp(2, 1), None);
        stage.disks[2].write(at, &first.to_sector());
        let put_block_2 = |stage: &mut Stage, block: &BallotSector| {
            for disk in &mut stage.disks {
                disk.write(at + 3 * 512, &block.to_sector(geometry().sector()));
            }
        };
        let released = BallotSector {
            released: true,
            ..block(1, 2, Some(stamp(2, 1)))
        };
        put_block_2(&mut stage, &released);
        let (actor, attempt) = stage.act(0, on_stage);
        stage.until(actor, accepts(1));
        (0..3).for_each(|_| stage.step(actor));
        put_block_2(&mut stage, &block(2, 8002, None));
        (0..3).for_each(|_| stage.step(actor));
        let hides = |op: &Op| matches!(op, Op::Read { handle, .. } if handle.disk == 2);
        // What is behind is read twice, and each time the leader is asked for once more, alone.
        for _ in 0..4 {
            stage.until(actor, hides);
            stage.fails(actor, false);
        }
        for disk in &mut stage.disks {
            disk.write(at, &ours.to_sector());
        }
        if storage_fails {
            (0..3).for_each(|_| stage.step(actor));
            while stage.pending(actor).is_some() {
                stage.fails(actor, false);
            }
        }
        stage.finish(actor);
        let attempt = attempt.borrow();
        let right = match &*attempt {
            Some(Ok(Attempt::Held(held))) => !storage_fails && held.lver == Lver(2),
            Some(Err(error)) => storage_fails && matches!(error, AcquireError::InDoubt(_)),
            _ => false,
        };
        assert!(right, "{storage_fails}: {attempt:?}\n{}", stage.story());
    }
}

#[test]
fn a_release_that_reached_one_disk_is_resolved_on_the_others_too() {
    let mut stage = on_three_disks();
    let (actor, ended) = stage.act(0, |resource, member| {
        let held = has(resource, member);
        let released = resource.release(member, &held);
        (released.is_ok(), resource.resolve(member, &wanted()))
    });
    stage.until(actor, frees);
    stage.step(actor);
    stage.fails(actor, false);
    stage.fails(actor, false);
    finish_without(&mut stage, actor, 2);
    assert_eq!(*ended.borrow(), Some((false, Ok(()))));
    assert!(is_free_on_most(&stage), "{}", stage.story());
    assert!(had_by_host_2(&mut stage, 0), "{}", stage.story());
}

/// A release that frees the leader on two disks of three; late writes of hosts that are dead take
/// it back on these two, so that the newest leader still says that host 1 owns it.
#[test]
fn what_its_owner_says_it_has_released_is_open_where_its_leader_has_gone_back() {
    let mut stage = on_three_disks();
    let before = stage.leader(0);
    let (actor, ended) = stage.act(0, |resource, member| {
        let held = has(resource, member);
        resource.release(member, &held)
    });
    stage.until(actor, frees);
    stage.step(actor);
    stage.step(actor);
    stage.fails(actor, false);
    stage.finish(actor);
    assert_eq!(*ended.borrow(), Some(Ok(())));
    for disk in &mut stage.disks[..2] {
        disk.write(area_offset(1), &before.to_sector());
    }
    let (actor, attempt) = stage.act(1, on_stage);
    stage.finish(actor);
    let attempt = attempt.borrow();
    let had = matches!(*attempt, Some(Ok(Attempt::Held(_))));
    assert!(had, "{attempt:?}\n{}", stage.story());
}

#[test]
fn a_release_that_is_known_everywhere_or_to_the_next_is_not_written_again() {
    let started = block(2, 2002, None).to_sector(geometry().sector());
    let all = usize::MAX;
    let table = [
        (all, true, false, 0),
        (0, true, false, 0),
        (0, true, true, 0),
        // Freed, and not said: each on every disk that is there.
        (all, false, false, 3),
        (0, false, false, 4),
        (0, false, true, 2),
    ];
    for (down, said, next, written) in table {
        let mut stage = on_three_disks();
        let (actor, ended) = stage.act(0, |resource, member| {
            let held = has(resource, member);
            resource.release(member, &held).unwrap();
            member.clock.wait(Duration::from_secs(1)).unwrap();
            resource.resolve(member, &wanted())
        });
        stage.until(actor, |op| matches!(op, Op::Wait { .. }));
        let unsaid = BallotSector {
            released: false,
            ..stage.block(0, 1)
        };
        for disk in stage.disks.iter_mut().filter(|_| !said) {
            let sector = unsaid.to_sector(geometry().sector());
            disk.write(area_offset(1) + 2 * 512, &sector);
        }
        for disk in stage.disks.iter_mut().filter(|_| next) {
            disk.write(area_offset(1) + 3 * 512, &started);
        }
        let freed = stage.leader(0);
        let mut writes = 0;
        while let Some(op) = stage.pending(actor) {
            match op {
                Op::Write { handle, .. } | Op::Read { handle, .. } if handle.disk == down => {
                    stage.fails(actor, false);
                }
                op => {
                    writes += usize::from(matches!(op, Op::Write { .. }));
                    stage.step(actor);
                }
            }
        }
        assert_eq!(*ended.borrow(), Some(Ok(())));
        assert_eq!((writes, stage.leader(0)), (written, freed));
    }
}

/// A disk whose ballot records are damaged, or cannot be read, may alone have the newest leader.
#[test]
fn a_disk_without_its_ballot_records_counts_with_its_leader() {
    let mut damaged = with_the_newest_leader_on_disk_0();
    damaged.disks[0].write(area_offset(1) + 4 * 512, &[0xAB; 512]);
    let unreadable = with_the_newest_leader_on_disk_0();
    for (mut stage, fails) in [(damaged, usize::MAX), (unreadable, 512)] {
        let attempt = attempt_without_reads(&mut stage, |len| len > fails);
        let had = match &attempt {
            Some(Ok(Attempt::Held(held))) => Some(held.lver),
            _ => None,
        };
        assert_eq!(had, Some(Lver(2)), "{attempt:?}");
    }
}

#[test]
fn an_attempt_comes_to_an_end_where_a_leader_cannot_be_read_again() {
    let mut stage = with_the_newest_leader_on_disk_0();
    put(&mut stage, [&block(1, 1, None); 3]);
    let attempt = attempt_without_reads(&mut stage, |len| len < 3072);
    let refused = matches!(attempt, Some(Ok(Attempt::Refused(Refusal::Contended, _))));
    assert!(refused, "{attempt:?}");
}

fn with_the_newest_leader_on_disk_0() -> Stage {
    let mut stage = on_three_disks();
    let newer = stage
        .leader(0)
        .committed(Lver(1), stamp(2, 0), stamp(2, 0), Some(false))
        .released(stamp(2, 0));
    stage.disks[0].write(area_offset(1), &newer.to_sector());
    stage
}

/// What comes of host 1's attempt, if anything does, where reads of such lengths fail on disk 0.
fn attempt_without_reads(
    stage: &mut Stage,
    fail: impl Fn(usize) -> bool,
) -> Option<Result<Attempt, AcquireError>> {
    let (actor, attempt) = stage.act(0, on_stage);
    for _ in 0..10_000 {
        match stage.pending(actor) {
            Some(Op::Read { handle, len, .. }) if handle.disk == 0 && fail(*len) => {
                stage.fails(actor, false);
            }
            Some(_) => stage.step(actor),
            None => break,
        }
    }
    attempt.take()
}

#[test]
fn a_share_that_ended_is_not_seen_again_on_a_disk_that_missed_its_end() {
    // Another wrote the leader for host 1, which came to share and was overtaken by host 2.
    let sharing = [(); 3].map(|()| BallotSector {
        shared: Some(Generation(1)),
        ..block(1, 1, Some(stamp(1, 1)))
    });
    let mut stage = long_after(sharing);
    let (actor, ended) = stage.act(0, |resource, member| resource.resolve(member, &wanted()));
    finish_without(&mut stage, actor, 0);
    assert_eq!(*ended.borrow(), Some(Ok(())));
    assert!(had_by_host_2(&mut stage, 2), "{}", stage.story());
}

/// Host 1 shared on disks 0 and 2; the end of its share has reached disk 0 alone.
fn a_share_that_ended_on_disk_0() -> Stage {
    let ended = BallotSector {
        released: true,
        ..block(1, 1, Some(stamp(1, 1)))
    };
    let sharing = BallotSector {
        shared: Some(Generation(1)),
        ..ended.clone()
    };
    long_after([ended, block(1, 1, None), sharing])
}

/// Puts host 1's record on each disk.
fn put<const N: usize>(stage: &mut Stage, blocks: [&BallotSector; N]) {
    for (disk, block) in stage.disks.iter_mut().zip(blocks) {
        let sector = block.to_sector(geometry().sector());
        disk.write(area_offset(1) + 2 * 512, &sector);
    }
}

/// Host 1's records on the disks. Host 2 has had a later version.
fn long_after<const N: usize>(blocks: [BallotSector; N]) -> Stage {
    let mut stage = on_disks(N);
    let over = stage
        .leader(0)
        .committed(Lver(2), stamp(2, 1), stamp(2, 1), Some(false))
        .released(stamp(2, 1));
    put(&mut stage, blocks.each_ref());
    for disk in &mut stage.disks {
        disk.write(area_offset(1), &over.to_sector());
    }
    stage
}

fn share(resource: &Resource<'_>, member: &Member<'_>) -> Result<Attempt, AcquireError> {
    let shared = Wanted {
        mode: Mode::Shared,
        ..wanted()
    };
    resource.acquire(member, &shared, &mut Sightings::default())
}

#[test]
fn a_share_that_is_found_on_a_minority_of_the_disks_is_in_doubt() {
    let mut stage = a_share_that_ended_on_disk_0();
    let (actor, attempt) = stage.act(0, share);
    finish_without(&mut stage, actor, 0);
    let attempt = attempt.borrow();
    let doubt = matches!(*attempt, Some(Err(AcquireError::InDoubt(_))));
    assert!(doubt, "{attempt:?}\n{}", stage.story());
}

#[test]
fn a_share_that_reached_one_disk_of_two_is_in_doubt() {
    let sharing = BallotSector {
        shared: Some(Generation(1)),
        ..block(1, 1, Some(stamp(1, 1)))
    };
    let mut stage = long_after([block(1, 1, None), sharing]);
    let (actor, attempt) = stage.act(0, share);
    stage.finish(actor);
    let attempt = attempt.borrow();
    let doubt = matches!(*attempt, Some(Err(AcquireError::InDoubt(_))));
    assert!(doubt, "{attempt:?}\n{}", stage.story());
}

#[test]
fn what_ended_on_one_disk_is_ended_on_most_of_them_though_one_is_not_seen() {
    let mut stage = a_share_that_ended_on_disk_0();
    let (actor, ended) = stage.act(0, |resource, member| resource.resolve(member, &wanted()));
    finish_without(&mut stage, actor, 2);
    assert_eq!(*ended.borrow(), Some(Ok(())));
    let (actor, attempt) = stage.act(0, share);
    finish_without(&mut stage, actor, 0);
    let attempt = attempt.borrow();
    let anew = matches!(&*attempt, Some(Ok(Attempt::Held(held))) if held.lver == Lver(3));
    assert!(anew, "{attempt:?}\n{}", stage.story());
}

#[test]
fn the_end_of_a_share_on_one_disk_says_nothing_of_a_version_that_was_only_started() {
    let mut stage = on_three_disks();
    let sharing = BallotSector {
        shared: Some(Generation(1)),
        released: true,
        ..block(1, 1, Some(stamp(1, 1)))
    };
    let started = block(3, 2001, None);
    let (leader, two) = (stage.leader(0), stamp(2, 1));
    let theirs = leader.committed(Lver(3), two, two, Some(false));
    let (at, own) = (area_offset(1), area_offset(1) + 2 * 512);
    put(&mut stage, [&started, &started, &sharing]);
    for disk in &mut stage.disks {
        disk.write(at, &theirs.to_sector());
    }
    let (actor, ended) = stage.act(0, |resource, member| resource.resolve(member, &wanted()));
    stage.finish(actor);
    assert_eq!(*ended.borrow(), Some(Ok(())));
    for disk in &stage.disks {
        let block = BallotSector::decode(&disk.read(own, 512)).unwrap();
        assert_eq!(block, started);
    }
}

/// Host 1's accepted record reached disk 0 alone; while that was down it started once more.
fn started_once_more() -> (Stage, [BallotSector; 2]) {
    (
        on_three_disks(),
        [block(1, 1, Some(stamp(1, 1))), block(1, 2001, None)],
    )
}

#[test]
fn what_was_accepted_on_one_disk_is_resolved_though_the_others_have_a_later_start() {
    let (mut stage, [accepted, started]) = started_once_more();
    put(&mut stage, [&accepted, &started, &started]);
    let (actor, ended) = stage.act(0, |resource, member| resource.resolve(member, &wanted()));
    stage.finish(actor);
    assert_eq!(*ended.borrow(), Some(Ok(())));
    assert!(had_by_host_2(&mut stage, usize::MAX), "{}", stage.story());
}

/// Host 2 has read what was accepted, before that was forgotten, and is about to accept it.
#[test]
fn what_was_accepted_and_forgotten_may_be_decided_and_is_resolved() {
    let (mut stage, [accepted, started]) = started_once_more();
    for disk in &mut stage.disks {
        // So host 2 looks at all records before its ballot.
        let sector = block(1, 2, None).to_sector(geometry().sector());
        disk.write(area_offset(1) + 3 * 512, &sector);
    }
    let (second, attempt) = stage.act(1, on_stage);
    stage.until(second, writes_block(2));
    put(&mut stage, [&accepted, &started, &started]);
    stage.until(second, accepts(2));
    put(&mut stage, [&started, &started, &started]);
    let (actor, ended) = stage.act(0, |resource, member| resource.resolve(member, &wanted()));
    stage.finish(actor);
    assert_eq!(*ended.borrow(), Some(Ok(())));
    stage.finish(second);
    let had = matches!(*attempt.borrow(), Some(Ok(Attempt::Held(_))));
    assert!(had, "{}", stage.story());
}

/// Host 1's share reached disk 0 alone, and it has freed the leader since. lease-join resolves
/// while disk 0 is down.
#[test]
fn a_share_on_a_disk_that_is_not_seen_is_ended_on_the_others() {
    let accepted = block(1, 1, Some(stamp(1, 1)));
    let sharing = BallotSector {
        shared: Some(Generation(1)),
        ..accepted.clone()
    };
    for last in [BallotSector::default(), accepted.clone()] {
        let mut stage = long_after([sharing.clone(), accepted.clone(), last]);
        let (actor, ended) = stage.act(0, |resource, member| resource.resolve(member, &wanted()));
        finish_without(&mut stage, actor, 0);
        assert_eq!(*ended.borrow(), Some(Ok(())));
        assert!(had_by_host_2(&mut stage, usize::MAX), "{}", stage.story());
    }
}
