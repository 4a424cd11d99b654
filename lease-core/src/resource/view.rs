//! One look at a whole resource area, and what follows from it. Pure.

use super::{AcquireError, Member, Snapshot};
use crate::disk::Fault;
use crate::id::{BallotNumber, HostId, Lver};
use crate::paxos::Blocks;
use crate::record::ballot::{Ballot, BallotSector};
use crate::record::holder_note::HolderNote;
use crate::record::leader::{Leader, Stamp};
use std::borrow::Borrow;
use std::collections::BTreeSet;

/// One look at a whole resource area, on every disk that counts, and what follows from every
/// record of it: worked out once, since there may be thousands. Or a glance: at the leader, and
/// some hosts' records alone.
pub(super) struct View {
    /// The newest leader.
    pub(super) leader: Leader,
    pub(super) disks: Vec<Blocks>,
    /// All disks were read, and all have this leader.
    pub(super) everywhere: bool,
    /// The records of all hosts were read.
    pub(super) whole: bool,
    /// All versions before this one have ended, whatever the leader says.
    started: Lver,
    at_stake: bool,
}

impl View {
    /// As `member` sees it.
    pub(super) fn new(
        member: &Member<'_>,
        leader: Leader,
        disks: Vec<Blocks>,
        everywhere: bool,
    ) -> Self {
        let next = |block: &BallotSector| match block.released {
            true => block.ballot.lver.next(),
            false => block.ballot.lver,
        };
        let started = used(&disks).map(next).max().unwrap_or_default();
        let mut view = Self {
            leader,
            disks,
            everywhere,
            whole: true,
            started,
            at_stake: false,
        };
        let lver = view.version();
        let at_stake = view.used().any(|block| is_at_stake(member, block, lver));
        view.at_stake = at_stake;
        view
    }

    /// A glance: as `member` sees it in these records alone.
    pub(super) fn glance(
        member: &Member<'_>,
        leader: Leader,
        records: impl IntoIterator<Item = (HostId, BallotSector)>,
    ) -> Self {
        let records = records.into_iter().collect();
        Self {
            whole: false,
            ..Self::new(member, leader, vec![records], false)
        }
    }

    /// Every block that has been used, on every disk.
    pub(super) fn used(&self) -> impl Iterator<Item = &BallotSector> {
        used(&self.disks)
    }

    /// The version that the next ballot decides: the one after the leader's; a later one that any
    /// host has started, since it knew that all before had ended; the one after a version that its
    /// owner says it has released.
    pub(super) fn version(&self) -> Lver {
        self.started.max(self.leader.lver().next())
    }

    /// Whether this version has had its owner, and that has let go of it, or has ended.
    pub(super) fn is_over(&self, lver: Lver) -> bool {
        let owned_or_next = match self.leader.owner() {
            Some(_) => self.leader.lver(),
            None => self.leader.lver().next(),
        };
        lver > Lver(0) && lver < self.started.max(owned_or_next)
    }

    /// The version before that: the last that anybody has had.
    pub(super) fn last(&self) -> Lver {
        Lver(self.version().0.saturating_sub(1))
    }

    /// The leader has gone back by more than what a commit under way explains.
    pub(super) fn is_behind(&self) -> bool {
        self.version() > self.leader.lver().next()
    }

    /// Whether this version may be, or come to be, decided for us: somebody has accepted our value,
    /// though we may have accepted another's since.
    pub(super) fn at_stake(&self) -> bool {
        self.at_stake
    }

    pub(super) fn newest_of(&self, host: HostId) -> BallotSector {
        newest_own(self.blocks_of(host))
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn snapshot(&self, hosts: &[HostId]) -> Snapshot {
        let mark = |host: &HostId| {
            let block = self.newest_of(*host);
            (*host, block.released, block.shared)
        };
        Snapshot {
            leader: self.leader,
            marks: hosts.iter().map(mark).collect(),
        }
    }

    pub(super) fn blocks_of(&self, host: HostId) -> impl Iterator<Item = &BallotSector> {
        self.disks.iter().map(move |blocks| blocks.of(host))
    }

    /// All lives of other hosts that share. Of the records on several disks the newest counts.
    pub(super) fn sharers(&self, except: HostId) -> Vec<Stamp> {
        let used = self.disks.iter().flat_map(Blocks::used);
        let sharing = used.filter(|(host, block)| *host != except && block.shared.is_some());
        let hosts: BTreeSet<HostId> = sharing.map(|(host, _)| host).collect();
        let life = |host: HostId| {
            let newest = newest_own(self.blocks_of(host))?;
            newest.shared.map(|generation| Stamp {
                host,
                generation,
                timestamp: 0,
            })
        };
        hosts.into_iter().filter_map(life).collect()
    }

    /// Seen in phase 2 of a ballot for the version after the leader's: the hosts that share a
    /// version before, or may yet come to. Nothing, if the leader is not of the version before.
    ///
    /// Whoever shares has owned that version, and has said so in its record before it let go of
    /// it. All versions before ours have ended, so the records that this ballot has read say it;
    /// but for the last owner's, if that was taken for dead and has gone on, or its write has
    /// landed late.
    pub(super) fn may_share(&self, except: HostId) -> Option<BTreeSet<HostId>> {
        let sharers = self.sharers(except).into_iter().map(|sharer| sharer.host);
        let last = self.leader.last_owner().map(|owner| owner.host);
        let last = last.filter(|host| *host != except);
        (!self.is_behind()).then(|| sharers.chain(last).collect())
    }

    /// What the owner that this leader names says of itself.
    pub(super) fn note_of(&self, leader: &Leader) -> Option<HolderNote> {
        let owner = leader.owner()?;
        self.blocks_of(owner.host)
            .filter_map(|block| block.note.as_ref())
            .find(|note| note.is_of(leader))
            .cloned()
    }
}

fn used(disks: &[Blocks]) -> impl Iterator<Item = &BallotSector> {
    let blocks = disks.iter().flat_map(Blocks::used);
    blocks.map(|(_, block)| block)
}

/// Whether `block` has accepted our own value, of this life, for this version.
pub(super) fn is_at_stake(member: &Member<'_>, block: &BallotSector, lver: Lver) -> bool {
    let Ballot {
        bal,
        value,
        lver: of,
        ..
    } = block.ballot;
    of == lver && bal > BallotNumber(0) && value.is_some_and(|value| member.is(value))
}

pub(super) fn is_written_by_owner(leader: &Leader) -> bool {
    let host = |stamp: Option<Stamp>| stamp.map(|stamp| stamp.host);
    host(leader.writer()) == host(leader.last_owner())
}

/// Of the leaders on several disks, the one written last: the largest version; of one version,
/// the freed one, since it is freed only after it was committed; then the one that its owner wrote,
/// since only that will be freed.
pub(super) fn newest(leaders: &[Leader]) -> Result<Leader, AcquireError> {
    let order = |leader: &&Leader| {
        let free = leader.owner().is_none();
        (
            leader.lver(),
            free,
            is_written_by_owner(leader),
            leader.encode(),
        )
    };
    leaders
        .iter()
        .max_by_key(order)
        .copied()
        .ok_or(AcquireError::Disk(Fault::Outstanding))
}

/// Of one host's record on several disks, the one written last. After a ballot the host shares or
/// not, and then releases; it never goes back without another ballot.
pub(super) fn newest_own<B: Borrow<BallotSector>>(blocks: impl Iterator<Item = B>) -> Option<B> {
    let order = |block: &B| {
        let block: &BallotSector = block.borrow();
        let ballot = &block.ballot;
        let step = match (block.released, block.shared) {
            (false, None) => 0,
            (false, Some(_)) => 1,
            (true, Some(_)) => 2,
            (true, None) => 3,
        };
        (ballot.lver, ballot.mbal, ballot.bal, step)
    };
    blocks.max_by_key(order)
}
