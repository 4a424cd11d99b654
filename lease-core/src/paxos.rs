//! One ballot of Disk Paxos (Gafni and Lamport, "Disk Paxos", section 3): phase 1, choose,
//! phase 2. Names are the paper's: `mbal`, `bal`, `inp` (here: value).
//!
//! Each version of a lease (`lver`) is one consensus, on who owns it. Departures from the paper:
//! one block a host serves all versions one after another, so a block of a smaller `lver` is an
//! empty one of ours (it has accepted nothing yet), and one of a larger `lver` says that ours is
//! decided; and the block on the disk is what a restarted host goes on from, which is the paper's
//! section 3.2 ("recovery") done at every start.

use crate::disk::Fault;
use crate::id::{BallotNumber, HostId, Lver};
use crate::layout::Geometry;
use crate::quorum::{Quorum, sector};
use crate::record::RecordError;
use crate::record::ballot::{Ballot, BallotSector};
use crate::record::holder_note::HolderNote;
use crate::record::leader::Stamp;
use thiserror::Error;

/// The ballot records of all hosts on one disk. Most hosts have never used theirs: of those none is
/// kept.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    /// In the order of the host ids.
    used: Vec<(HostId, BallotSector)>,
}

impl Blocks {
    /// A host's block.
    pub fn of(&self, host: HostId) -> &BallotSector {
        let found = self.used.binary_search_by_key(&host, |(host, _)| *host);
        found.map_or(&BallotSector::UNUSED, |at| &self.used[at].1)
    }

    /// The blocks that have been used, with their hosts, in the order of the host ids.
    pub fn used(&self) -> impl Iterator<Item = (HostId, &BallotSector)> {
        self.used.iter().map(|(host, block)| (*host, block))
    }
}

/// Of hosts in the order of their ids.
impl FromIterator<(HostId, BallotSector)> for Blocks {
    fn from_iter<I: IntoIterator<Item = (HostId, BallotSector)>>(blocks: I) -> Self {
        let used = |(_, block): &(HostId, BallotSector)| *block != BallotSector::UNUSED;
        Self {
            used: blocks.into_iter().filter(used).collect(),
        }
    }
}

/// From the block of host 1 on.
impl FromIterator<BallotSector> for Blocks {
    fn from_iter<I: IntoIterator<Item = BallotSector>>(blocks: I) -> Self {
        HostId::all(u64::MAX).zip(blocks).collect()
    }
}

/// What the blocks of all other hosts say of our ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Nobody has started a larger one.
    Unopposed,
    /// Somebody has: this ballot cannot go on.
    Outbid,
}

/// How a ballot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This value is decided, for ever.
    Chosen(Stamp),
    /// A larger ballot has started. Ours may have been accepted somewhere.
    Outbid,
}

/// Why a ballot came to no end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum BallotError {
    #[error("{0}")]
    Disk(#[from] Fault),
    #[error("of host {host}, the {error}")]
    Record { host: HostId, error: RecordError },
    #[error(
        "another host has overwritten this host's ballot record: does it use the same host id, or \
         was the resource formatted meanwhile?"
    )]
    Overwritten,
    #[error("its ballot numbers are used up; format it again while nothing uses it")]
    NumbersUsedUp,
    #[error("the host id was lost")]
    Lost,
}

/// Who runs ballots, for what.
#[derive(Debug, Clone, Copy)]
pub struct Proposer {
    /// Our host id.
    pub host: HostId,
    /// Sector and area size.
    pub geometry: Geometry,
    /// How many hosts take part.
    pub num_hosts: u64,
    /// The version that is being decided.
    pub lver: Lver,
}

/// Section 3: blocks judged. Of a smaller version they do not count; of a larger one they say that
/// ours is decided.
pub fn judge(proposer: &Proposer, mbal: BallotNumber, blocks: &Blocks) -> Judgement {
    let outbids = |(host, block): (HostId, &BallotSector)| {
        let other = host != proposer.host;
        let ballot = &block.ballot;
        other
            && (ballot.lver > proposer.lver || (ballot.lver == proposer.lver && ballot.mbal > mbal))
    };
    if blocks.used().any(outbids) {
        Judgement::Outbid
    } else {
        Judgement::Unopposed
    }
}

/// Section 3, end of phase 1: the value of the block with the largest `bal`; our own if no block
/// has one.
pub fn choose(lver: Lver, disks: &[Blocks], own: Stamp) -> Stamp {
    let accepted = |ballot: &Ballot| {
        let of_this = ballot.lver == lver && ballot.bal > BallotNumber(0);
        of_this.then_some((ballot.bal, ballot.value?))
    };
    let last = disks
        .iter()
        .flat_map(Blocks::used)
        .filter_map(|(_, block)| accepted(&block.ballot))
        .max_by_key(|(bal, _)| *bal);
    last.map_or(own, |(_, value)| value)
}

/// A number larger than any in the blocks, that only this host uses: its id modulo max_hosts.
pub fn next_number(proposer: &Proposer, disks: &[Blocks]) -> Result<BallotNumber, BallotError> {
    let max_hosts = proposer.geometry.max_hosts();
    let host = proposer.host.get();
    match disks
        .iter()
        .flat_map(Blocks::used)
        .map(|(_, block)| block.ballot.mbal.0)
        .max()
        .unwrap_or(0)
    {
        0 => Ok(BallotNumber(host)),
        largest => (largest / max_hosts * max_hosts)
            .checked_add(max_hosts + host)
            .map(BallotNumber)
            .ok_or(BallotError::NumbersUsedUp),
    }
}

/// Phase 1 of the ballot with number `mbal`: our block, and then everybody's from the disks that
/// took it; or nothing, if a larger ballot has started.
///
/// `own` is our block as it stands on the disk and is kept up to date with what was (perhaps)
/// written. `permit` is asked before each write and after it.
pub fn phase_1(
    quorum: &Quorum<'_>,
    proposer: &Proposer,
    mbal: BallotNumber,
    own: &mut BallotSector,
    permit: &dyn Fn() -> bool,
) -> Result<Option<Vec<Blocks>>, BallotError> {
    // What was accepted in this version stays (the daemon forgets it here), and what it says.
    let (bal, value, note) = match own.ballot {
        kept if kept.lver == proposer.lver => (kept.bal, kept.value, own.note.take()),
        _ => (BallotNumber(0), None, None),
    };
    *own = BallotSector {
        ballot: Ballot {
            mbal,
            bal,
            value,
            lver: proposer.lver,
        },
        note,
        ..BallotSector::default()
    };
    let blocks = write_and_read(quorum, proposer, own, permit)?;
    match judge_all(proposer, mbal, &blocks) {
        Judgement::Outbid => Ok(None),
        Judgement::Unopposed => Ok(Some(blocks)),
    }
}

/// The end of phase 1, choose, and phase 2 of the same ballot. `promised` is what phase 1 has read.
/// Returns what phase 2 has read, too.
///
/// After an error or [`Outcome::Outbid`] the value may yet be decided, and `own` says which; so
/// may any that we have accepted before.
pub fn phase_2(
    quorum: &Quorum<'_>,
    proposer: &Proposer,
    promised: &[Blocks],
    own: &mut BallotSector,
    candidate: (Stamp, &HolderNote),
    permit: &dyn Fn() -> bool,
) -> Result<(Outcome, Vec<Blocks>), BallotError> {
    let mbal = own.ballot.mbal;
    let (candidate, note) = candidate;
    let chosen = choose(proposer.lver, promised, candidate);
    own.ballot.bal = mbal;
    own.ballot.value = Some(chosen);
    let ours = chosen.same_life(candidate.host, candidate.generation);
    own.note = ours.then(|| note.clone());
    let blocks = write_and_read(quorum, proposer, own, permit)?;
    let outcome = match judge_all(proposer, mbal, &blocks) {
        Judgement::Outbid => Outcome::Outbid,
        Judgement::Unopposed => Outcome::Chosen(chosen),
    };
    Ok((outcome, blocks))
}

/// Reads every host's block from a slice that starts at the area's first byte.
pub fn decode_blocks(proposer: &Proposer, area: &[u8]) -> Result<Blocks, BallotError> {
    let geometry = proposer.geometry;
    let mut used = Vec::new();
    for host in HostId::all(proposer.num_hosts) {
        let bytes = sector(area, geometry, geometry.ballot_at(host));
        if !BallotSector::is_unused(bytes) {
            let block = BallotSector::decode(bytes);
            let block = block.map_err(|error| BallotError::Record { host, error })?;
            used.push((host, block));
        }
    }
    Ok(Blocks { used })
}

fn judge_all(proposer: &Proposer, mbal: BallotNumber, disks: &[Blocks]) -> Judgement {
    let outbid = disks
        .iter()
        .any(|blocks| judge(proposer, mbal, blocks) == Judgement::Outbid);
    if outbid {
        Judgement::Outbid
    } else {
        Judgement::Unopposed
    }
}

/// One phase: our block to every disk, then everybody's from the disks that took it.
fn write_and_read(
    quorum: &Quorum<'_>,
    proposer: &Proposer,
    own: &BallotSector,
    permit: &dyn Fn() -> bool,
) -> Result<Vec<Blocks>, BallotError> {
    let geometry = proposer.geometry;
    if !permit() {
        return Err(BallotError::Lost);
    }
    let at = geometry.ballot_at(proposer.host);
    let written = quorum.write(at, &own.to_sector(geometry.sector()))?;
    if !permit() {
        return Err(BallotError::Lost);
    }
    let len = geometry.ballots_len(proposer.num_hosts);
    let votes = quorum.read_after(&written, 0, len, |area| {
        let blocks = decode_blocks(proposer, area)?;
        if blocks.of(proposer.host).ballot != own.ballot {
            return Err(BallotError::Overwritten);
        }
        Ok(blocks)
    })?;
    Ok(votes.into_iter().map(|(_, blocks)| blocks).collect())
}
