//! What we rely on of the two papers, claim by claim, in their order and in our words.
//!
//! Gafni and Lamport, "Disk Paxos" (Distributed Computing 16, 2003), section 3; Chockler and
//! Malkhi, "Light-weight leases for storage-centric coordination" (2006), whose parts are named in
//! words: see `paper/leases.rs`. Where we depart from a paper, the test says why.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "paper/leases.rs"]
mod leases;

use lease_core::id::{BallotNumber, Generation, Lver};
use lease_core::layout::SectorSize;
use lease_core::liveness::Sightings;
use lease_core::paxos::{self, BallotError, Blocks, Judgement, Outcome, Proposer};
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::holder_note::HolderNote;
use lease_core::record::leader::Stamp;
use lease_core::resource::{AcquireError, Attempt, Member, Resource, Wanted};
use lease_core::spec::Mode;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use support::shelf::{GEOMETRY, HOSTS, Shelf, at, put};
use support::sim::area_offset;
use support::sim::port::Op;
use support::sim::stage::{Stage, setup, writes_block};
use support::storage::host_id as id;

fn shelves(count: usize) -> (Vec<Shelf>, Rc<RefCell<String>>) {
    let log = Rc::default();
    let shelves = ('a'..).take(count).map(|name| Shelf::new(name, &log));
    (shelves.collect(), log)
}

fn value(host: u64) -> Stamp {
    Stamp {
        host: id(host),
        generation: Generation(1),
        timestamp: 100 + host,
    }
}

fn proposer(host: u64) -> Proposer {
    proposer_of(5, host)
}

fn proposer_of(lver: u64, host: u64) -> Proposer {
    Proposer {
        host: id(host),
        geometry: GEOMETRY,
        num_hosts: HOSTS,
        lver: Lver(lver),
    }
}

fn block(lver: u64, mbal: u64, bal: u64, value: Option<Stamp>) -> BallotSector {
    BallotSector {
        ballot: Ballot {
            mbal: BallotNumber(mbal),
            bal: BallotNumber(bal),
            value,
            lver: Lver(lver),
        },
        ..BallotSector::default()
    }
}

fn note(host: u64) -> HolderNote {
    HolderNote {
        host: id(host),
        generation: Generation(1),
        lver: Lver(5),
        mode: Mode::Exclusive,
        pid: 1,
        start: 1,
        host_name: b"n".to_vec(),
        command: b"c".to_vec(),
    }
}

fn ballot_from(
    shelves: &[Shelf],
    proposer: &Proposer,
    mbal: u64,
    own: &mut BallotSector,
) -> Result<Outcome, BallotError> {
    let replicas = shelves.iter().map(|disk| Replica { disk, offset: 0 });
    let quorum = Quorum::new(replicas.collect());
    let host = proposer.host.get();
    run(
        &quorum,
        proposer,
        mbal,
        own,
        (value(host), &note(host)),
        &|| true,
    )
}

/// Both phases of one ballot.
fn run(
    quorum: &Quorum<'_>,
    proposer: &Proposer,
    mbal: u64,
    own: &mut BallotSector,
    candidate: (Stamp, &HolderNote),
    permit: &dyn Fn() -> bool,
) -> Result<Outcome, BallotError> {
    let promised = paxos::phase_1(quorum, proposer, BallotNumber(mbal), own, permit)?;
    let Some(promised) = promised else {
        return Ok(Outcome::Outbid);
    };
    let ended = paxos::phase_2(quorum, proposer, &promised, own, candidate, permit)?;
    Ok(ended.0)
}

fn ballot(shelves: &[Shelf], host: u64, mbal: u64) -> Result<Outcome, BallotError> {
    ballot_from(shelves, &proposer(host), mbal, &mut shelves[0].block(host))
}

// ---- Disk Paxos 3.1: the algorithm

#[test]
fn a_processor_writes_only_its_own_block() {
    let (shelves, _) = shelves(1);
    let before = shelves[0].bytes.borrow().clone();
    ballot(&shelves, 2, 2).unwrap();
    let after = shelves[0].bytes.borrow();
    let own = at(2)..at(2) + 512;
    let changed = (0..after.len()).filter(|at| before[*at] != after[*at]);
    assert!(changed.into_iter().all(|at| own.contains(&at)));
}

#[test]
fn each_phase_writes_the_block_and_then_reads_all_others_on_the_same_disk() {
    let (one, log) = shelves(1);
    ballot(&one, 1, 1).unwrap();
    assert_eq!(*log.borrow(), "wa ra wa ra ");
}

#[test]
fn blocks_are_read_only_where_our_own_was_written() {
    let (shelves, log) = shelves(3);
    shelves[1].fail(true, false);
    ballot(&shelves, 1, 1).unwrap();
    assert!(!log.borrow().contains("rb"), "{}", log.borrow());
}

#[test]
fn a_majority_of_disks_is_enough_and_less_is_not() {
    for (disks, broken, decides) in [
        (1, 0, true),
        (1, 1, false),
        (2, 1, false),
        (3, 1, true),
        (3, 2, false),
        (4, 1, true),
        (4, 2, false),
    ] {
        for (writes, reads) in [(true, false), (false, true)] {
            let (shelves, _) = shelves(disks);
            shelves[..broken]
                .iter()
                .for_each(|shelf| shelf.fail(writes, reads));
            let decided = ballot(&shelves, 1, 1).is_ok();
            assert_eq!(decided, decides, "{broken} of {disks} broken");
        }
    }
    let (two, _) = shelves(4);
    two[0].fail(true, false);
    two[1].fail(false, true);
    assert!(ballot(&two, 1, 1).is_err(), "written on three");
}

#[test]
fn of_two_majorities_one_disk_saw_both_writes() {
    let (shelves, _) = shelves(3);
    shelves[2].fail(true, true);
    assert_eq!(ballot(&shelves, 1, 1), Ok(Outcome::Chosen(value(1))));
    shelves[2].fail(false, false);
    shelves[0].fail(true, true);
    assert_eq!(ballot(&shelves, 2, 2), Ok(Outcome::Chosen(value(1))));
}

#[test]
fn a_block_with_a_larger_mbal_ends_the_ballot_in_phase_1() {
    let (shelves, _) = shelves(1);
    shelves[0].put(3, &block(5, 9, 0, None));
    assert_eq!(ballot(&shelves, 1, 1), Ok(Outcome::Outbid));
    assert_eq!(
        shelves[0].block(1),
        block(5, 1, 0, None),
        "nothing is accepted"
    );
}

#[test]
fn a_block_with_a_larger_mbal_ends_the_ballot_in_phase_2() {
    // So does one of a later version, whatever its number.
    for rival in [block(5, 9, 0, None), block(6, 1, 0, None)] {
        let (shelves, _) = shelves(1);
        shelves[0].meddle(move |nth, bytes| {
            if nth == 1 {
                put(bytes, 3, &rival);
            }
        });
        assert_eq!(ballot(&shelves, 1, 1), Ok(Outcome::Outbid));
        assert_eq!(shelves[0].block(1).ballot.bal, BallotNumber(1), "accepted");
    }
}

#[test]
fn one_disk_of_a_majority_is_enough_to_end_it_in_either_phase() {
    for (disk, phase) in (0..3).flat_map(|disk| [(disk, 0), (disk, 1)]) {
        let (shelves, _) = shelves(3);
        shelves[disk].meddle(move |nth, bytes| {
            if nth == phase {
                put(bytes, 2, &block(5, 9, 0, None));
            }
        });
        let outcome = ballot(&shelves, 1, 1);
        assert_eq!(outcome, Ok(Outcome::Outbid), "disk {disk}, phase {phase}");
    }
}

#[test]
fn what_ends_a_ballot_read_aloud() {
    use Judgement::{Outbid, Unopposed};
    let table = [
        ("a smaller mbal", block(5, 6, 0, None), Unopposed),
        ("the same mbal", block(5, 7, 0, None), Unopposed),
        ("a larger mbal", block(5, 8, 0, None), Outbid),
        (
            "a larger mbal for an older version",
            block(4, 8, 8, Some(value(2))),
            Unopposed,
        ),
        (
            "any mbal for a later version: ours is decided",
            block(6, 1, 0, None),
            Outbid,
        ),
        ("an unused block", BallotSector::default(), Unopposed),
    ];
    for (story, other, judgement) in table {
        let judge = |blocks: [BallotSector; 3]| {
            paxos::judge(&proposer(1), BallotNumber(7), &Blocks::from_iter(blocks))
        };
        let unused = || BallotSector::UNUSED;
        assert_eq!(
            judge([unused(), other.clone(), unused()]),
            judgement,
            "{story}"
        );
        // Our own block never opposes us.
        assert_eq!(judge([other, unused(), unused()]), Unopposed, "{story}");
    }
}

#[test]
fn without_an_accepted_value_the_processor_proposes_its_own() {
    let (shelves, _) = shelves(1);
    shelves[0].put(2, &block(5, 1, 0, None));
    assert_eq!(ballot(&shelves, 1, 2001), Ok(Outcome::Chosen(value(1))));
}

#[test]
fn otherwise_it_proposes_the_value_with_the_largest_bal() {
    let (shelves, _) = shelves(1);
    shelves[0].put(2, &block(5, 4002, 2, Some(value(2))));
    shelves[0].put(3, &block(5, 2003, 2003, Some(value(3))));
    assert_eq!(ballot(&shelves, 1, 6001), Ok(Outcome::Chosen(value(3))));
}

#[test]
fn its_own_block_counts_among_them() {
    let (shelves, _) = shelves(1);
    shelves[0].put(1, &block(5, 2001, 2001, Some(value(2))));
    shelves[0].put(3, &block(5, 3, 3, Some(value(3))));
    assert_eq!(ballot(&shelves, 1, 4001), Ok(Outcome::Chosen(value(2))));
}

#[test]
fn values_are_compared_across_all_disks_of_the_majority() {
    let blocks = |two: BallotSector, three: BallotSector| {
        Blocks::from_iter([BallotSector::UNUSED, two, three])
    };
    let disks = [
        blocks(block(5, 2, 2, Some(value(2))), BallotSector::default()),
        blocks(BallotSector::default(), block(5, 3, 3, Some(value(3)))),
    ];
    assert_eq!(paxos::choose(Lver(5), &disks, value(1)), value(3));
    assert_eq!(
        paxos::choose(Lver(6), &disks, value(1)),
        value(1),
        "of another version"
    );
    let mut no_value = block(5, 9, 0, None);
    no_value.ballot.bal = BallotNumber(9);
    let two = [blocks(no_value, block(5, 3, 3, Some(value(3))))];
    assert_eq!(
        paxos::choose(Lver(5), &two, value(1)),
        value(3),
        "a block without a value has accepted nothing"
    );
    let no_bal = [Blocks::from_iter([block(5, 7, 0, Some(value(2)))])];
    assert_eq!(
        paxos::choose(Lver(5), &no_bal, value(1)),
        value(1),
        "not accepted in any ballot"
    );
}

#[test]
fn phase_1_keeps_bal_and_value() {
    // The daemon forgets them; that loses a decision when it stops here.
    let (shelves, _) = shelves(1);
    shelves[0].put(1, &block(5, 1, 1, Some(value(2))));
    shelves[0].meddle(|nth, bytes| {
        if nth == 0 {
            put(bytes, 3, &block(5, 9000, 0, None));
        }
    });
    assert_eq!(ballot(&shelves, 1, 2001), Ok(Outcome::Outbid));
    assert_eq!(shelves[0].block(1), block(5, 2001, 1, Some(value(2))));
}

#[test]
fn phase_2_writes_the_value_with_bal_equal_to_mbal() {
    let (shelves, _) = shelves(1);
    ballot(&shelves, 1, 2001).unwrap();
    assert_eq!(
        shelves[0].block(1).ballot,
        block(5, 2001, 2001, Some(value(1))).ballot
    );
}

#[test]
fn what_is_decided_once_is_what_every_later_ballot_decides() {
    let (shelves, _) = shelves(3);
    for (host, mbal) in [(2, 2), (1, 2001), (3, 2003), (1, 4001), (2, 6002)] {
        assert_eq!(ballot(&shelves, host, mbal), Ok(Outcome::Chosen(value(2))));
    }
}

#[test]
fn ballot_numbers_are_unique_and_larger_than_all_that_were_seen() {
    let number = |host: u64, seen: u64| {
        let disks = [Blocks::from_iter(vec![block(3, seen, 0, None); 3])];
        paxos::next_number(&proposer(host), &disks).map(|number| number.0)
    };
    assert_eq!(number(2, 0), Ok(2));
    for seen in [1, 2, 1999, 2000, 2001, 4000, 1_000_003] {
        for host in [1, 2, 3, 2000] {
            let next = number(host, seen).unwrap();
            assert!(next > seen, "{next} after {seen}");
            assert_eq!(next % 2000, host % 2000, "of host {host} after {seen}");
        }
    }
    assert_eq!(number(1, u64::MAX), Err(BallotError::NumbersUsedUp));
}

// ---- Disk Paxos 3.2: a processor that comes back

#[test]
fn a_processor_that_comes_back_goes_on_from_its_block_on_the_disk() {
    let (shelves, _) = shelves(1);
    // It had value 1 accepted, and forgot.
    shelves[0].put(1, &block(5, 1, 1, Some(value(1))));
    assert_eq!(ballot(&shelves, 1, 2001), Ok(Outcome::Chosen(value(1))));
    assert_eq!(ballot(&shelves, 3, 4003), Ok(Outcome::Chosen(value(1))));
}

/// Host 1 had accepted a value of its own, on disk 1 alone; then host 2's on disks 2 and 0, where
/// that is decided; then it started one more ballot, which has reached disk 0 alone.
fn was_host_1_in_three_ballots() -> (Stage, [BallotSector; 3]) {
    let setups = [1, 2].map(|host| {
        let mut setup = setup(host);
        setup.disks = 3;
        setup
    });
    let mut stage = Stage::of(&setups);
    let blocks = [
        block(1, 6001, 4001, Some(value(2))),
        block(1, 1, 1, Some(value(1))),
        block(1, 4001, 4001, Some(value(2))),
    ];
    for (disk, block) in stage.disks.iter_mut().zip(&blocks) {
        let offset = area_offset(1) + at(1) as u64;
        disk.write(offset, &block.to_sector(SectorSize::B512));
    }
    (stage, blocks)
}

#[test]
fn it_reads_its_blocks_from_a_majority_of_disks_and_goes_on_from_the_largest_mbal() {
    for down in 0..3 {
        let (mut stage, blocks) = was_host_1_in_three_ballots();
        let (actor, ended) = stage.act(0, |resource, member| {
            resource.resolve(member, &wanted(member))
        });
        let mut written = Vec::new();
        while let Some(op) = stage.pending(actor) {
            match op {
                Op::Read { handle, offset, .. } | Op::Write { handle, offset, .. }
                    if handle.disk == down && *offset >= area_offset(1) =>
                {
                    stage.fails(actor, false);
                }
                op => {
                    if let (true, Op::Write { bytes, .. }) = (writes_block(1)(op), op) {
                        written.push(BallotSector::decode(bytes).unwrap().ballot);
                    }
                    stage.step(actor);
                }
            }
        }
        let others = (0..3).filter(|disk| *disk != down);
        let newest = others
            .map(|disk| blocks[disk].ballot)
            .max_by_key(|b| b.mbal);
        let newest = newest.unwrap();
        assert!(written[0].mbal > newest.mbal, "without disk {down}");
        let kept = (written[0].bal, written[0].value);
        assert_eq!(kept, (newest.bal, newest.value), "without disk {down}");
        assert_eq!(written[1].value, Some(value(2)), "without disk {down}");
        assert_eq!(ended.take(), Some(Ok(())), "without disk {down}");
    }
}

fn acquire(resource: &Resource<'_>, member: &Member<'_>) -> Result<Attempt, AcquireError> {
    resource.acquire(member, &wanted(member), &mut Sightings::default())
}

fn wanted(member: &Member<'_>) -> Wanted {
    Wanted {
        mode: Mode::Exclusive,
        lver: None,
        note: note(member.host.get()),
    }
}

/// The note is no part of the paper: it is for people.
#[test]
fn what_is_kept_in_phase_1_keeps_its_note() {
    let (shelves, _) = shelves(1);
    let mut own = BallotSector {
        note: Some(note(1)),
        ..block(5, 1, 1, Some(value(1)))
    };
    shelves[0].put(2, &block(5, 4002, 0, None));
    let outcome = ballot_from(&shelves, &proposer(1), 2001, &mut own);
    assert_eq!(outcome, Ok(Outcome::Outbid));
    let written = shelves[0].block(1);
    assert_eq!(written.ballot.mbal, BallotNumber(2001));
    assert_eq!(written.note, Some(note(1)));
}

#[test]
fn its_block_of_an_older_version_has_accepted_nothing_in_this_one() {
    let (shelves, _) = shelves(1);
    shelves[0].put(1, &block(4, 1, 1, Some(value(3))));
    assert_eq!(ballot(&shelves, 1, 2001), Ok(Outcome::Chosen(value(1))));
}

// ---- Departures, each on the safe side

#[test]
fn one_block_serves_one_version_after_the_other() {
    // The paper has a block for each consensus; the disk has one sector for each host. Nobody
    // starts a version before the one before has ended, so a block of a later one ends a ballot.
    let (shelves, _) = shelves(1);
    assert_eq!(ballot(&shelves, 1, 1), Ok(Outcome::Chosen(value(1))));
    let mut own = shelves[0].block(2);
    let next = ballot_from(&shelves, &proposer_of(6, 2), 2002, &mut own);
    assert_eq!(next, Ok(Outcome::Chosen(value(2))), "anew");
    assert_eq!(ballot(&shelves, 3, 4003), Ok(Outcome::Outbid), "it is over");
}

#[test]
fn all_writes_of_a_phase_have_ended_before_the_first_read() {
    // In the paper each disk goes at its own pace. Here one thread asks them in turn, and counts
    // the majority that wrote and the majority that was read apart: sound in this order alone.
    let (healthy, log) = shelves(3);
    ballot(&healthy, 1, 1).unwrap();
    assert_eq!(*log.borrow(), "wa wb wc ra rb rc wa wb wc ra rb rc ");
    let (one_fails, log) = shelves(3);
    one_fails[0].fail(true, false);
    ballot(&one_fails, 1, 1).unwrap();
    assert_eq!(*log.borrow(), "wa wb wc rb rc wa wb wc rb rc ");
}

#[test]
fn who_is_outbid_waits_for_a_random_time_and_tries_again() {
    // The paper leaves it to a leader oracle that ballots come to an end at all. An oracle would
    // have to be agreed on as well; pauses of random and growing length need no one else, and what
    // is decided does not depend on them.
    let mut stage = Stage::joined(2);
    let (actor, attempt) = stage.act(0, acquire);
    let mut pauses = Vec::new();
    for mbal in [2002, 6002, 10_002] {
        stage.until(actor, writes_block(1));
        let offset = area_offset(1) + at(2) as u64;
        let rival = block(1, mbal, 0, None).to_sector(SectorSize::B512);
        stage.disks[0].write(offset, &rival);
        stage.until(actor, |op| matches!(op, Op::BackOff { .. }));
        pauses.extend(stage.pending(actor).cloned());
        stage.step(actor);
    }
    stage.finish(actor);
    let attempt = attempt.borrow();
    assert!(
        matches!(*attempt, Some(Ok(Attempt::Held(_)))),
        "{attempt:?}"
    );
    let most = |op: &Op| match op {
        Op::BackOff { most } => *most,
        _ => Duration::ZERO,
    };
    assert!(pauses.is_sorted_by(|one, next| most(one) < most(next)));
}

#[test]
fn an_unreadable_block_ends_the_ballot() {
    // The paper's disks have no bad checksums. The daemon skips such a block: with it, a decision.
    let (shelves, _) = shelves(1);
    shelves[0].put(2, &block(5, 2, 2, Some(value(2))));
    shelves[0].bytes.borrow_mut()[at(2)] ^= 1;
    let failed = ballot(&shelves, 1, 2001);
    assert!(matches!(failed, Err(BallotError::Record { host, .. }) if host == id(2)));
}

#[test]
fn our_own_block_read_back_different_ends_the_ballot() {
    // In the paper nobody else writes it. On a disk a late write of an earlier life can land over
    // it, or that of a machine with the same host id: then others do not see what we rely on.
    let changes: [fn(&mut Ballot); 4] = [
        |own| own.mbal = BallotNumber(own.mbal.0 + 1),
        |own| own.bal = BallotNumber(own.bal.0 + 1),
        |own| own.value = Some(value(2)),
        |own| own.lver = Lver(own.lver.0 - 1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for phase in [0, 1] {
            let (shelves, _) = shelves(1);
            shelves[0].meddle(move |nth, bytes| {
                if nth == phase {
                    let mut own = BallotSector::decode(&bytes[at(1)..][..512]).unwrap();
                    change(&mut own.ballot);
                    put(bytes, 1, &own);
                }
            });
            let overwritten = ballot(&shelves, 1, 1) == Err(BallotError::Overwritten);
            assert!(overwritten, "change {number}, phase {phase}");
        }
    }
}

#[test]
fn nothing_is_written_once_the_host_id_is_lost() {
    // The paper's processors may stop for any time and go on. Ours is another one by then: its next
    // life has the same block, and must be the only one to write it.
    for permitted in 0..4 {
        let (shelves, log) = shelves(1);
        let asked = Cell::new(0_usize);
        let permit = || asked.replace(asked.get() + 1) < permitted;
        let quorum = Quorum::new(vec![Replica {
            disk: &shelves[0],
            offset: 0,
        }]);
        let mut own = BallotSector::default();
        let candidate = (value(1), &note(1));
        let lost = run(&quorum, &proposer(1), 1, &mut own, candidate, &permit);
        assert_eq!(lost, Err(BallotError::Lost));
        let writes = log.borrow().matches('w').count();
        assert_eq!(
            writes,
            usize::div_ceil(permitted, 2),
            "asked before and after each"
        );
    }
}

#[test]
fn after_a_failure_the_caller_knows_whether_its_value_may_be_decided() {
    // The paper's processor goes on with the same ballot until a majority answers. Ours gives up at
    // an error, and another host may finish what it began: it must not call that a refusal.
    for (broken_from, accepted) in [(0, 0), (1, 1)] {
        let (shelves, _) = shelves(1);
        let mut own = BallotSector::default();
        shelves[0].fail(broken_from == 0, false);
        if broken_from == 1 {
            shelves[0].meddle(|nth, bytes| {
                if nth == 1 {
                    bytes[at(3)] = 1; // No longer a valid block.
                }
            });
        }
        assert!(ballot_from(&shelves, &proposer(1), 1, &mut own).is_err());
        assert_eq!(own.ballot.bal, BallotNumber(accepted));
    }
}
