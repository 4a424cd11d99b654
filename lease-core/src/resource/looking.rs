//! What is read of a resource: all of it, or a glance at what a ballot can be started with.

use super::view::{View, newest, newest_own};
use super::{AcquireError, Member, Resource, Snapshot, Wanted};
use crate::id::{Generation, HostId, Lver};
use crate::paxos::{self, BallotError, Proposer};
use crate::quorum::sector;
use crate::record::ballot::BallotSector;
use crate::record::leader::Leader;
use std::collections::BTreeSet;

/// So many bytes of an area are read by one I/O in about the time of one sector.
const CLOSE: usize = 64 << 10;
/// Reads of one area until its parts agree.
const LOOKS_MAX: u32 = 16;

impl Resource<'_> {
    pub(super) fn proposer(&self, member: &Member<'_>, lver: Lver) -> Proposer {
        Proposer {
            host: member.host,
            geometry: self.geometry,
            num_hosts: self.num_hosts,
            lver,
        }
    }

    /// The leader, our own record and the last owner's, if they are enough to start a ballot with:
    /// phase 1 reads all the others, and is judged with all that a look serves.
    ///
    /// **Why that is enough.** A version's ballot may start once all versions before have ended.
    /// The leader says that the one before, L-1, is free: only its owner ever writes that, so
    /// L-1 has ended, and stays so, though this leader may have gone back. Our own record is of an
    /// earlier version than L: nothing of ours was ever accepted for L, since phase 2 is written
    /// only once phase 1 stands on a majority; and it is no share that phase 1 would take away.
    ///
    /// What others have done, before this glance or after it, phase 1 reads on the disks that took
    /// our block, so **later** than the leader:
    /// - a larger ballot or version was started: outbid, as ever. All is looked at next.
    /// - L was released: the version that is to be decided is none that this ballot is for. All is
    ///   looked at next.
    /// - another's value was accepted for L: if that host lives, it is at it, or has L; no phase 2.
    /// - a version before L is shared: its sharer has said so on a majority of the disks before it
    ///   freed the leader, or another went on, and both were before this glance. Live sharers bar
    ///   an exclusive lease; no phase 2.
    ///
    /// What phase 1 alone leaves behind is a block that has accepted nothing. The next attempt
    /// finds it to be of L, and so looks at everything before it writes.
    pub(super) fn glance(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
    ) -> Result<Option<View>, AcquireError> {
        self.check_host(member)?;
        // Of which version it is, only a look at everything can tell.
        if wanted.lver.is_some() {
            return Ok(None);
        }
        let (leader, own) = self.read_leader_and_own(member)?;
        if leader.owner().is_some() {
            return Ok(None);
        }
        let last = leader.last_owner().map(|owner| owner.host);
        let last = last.filter(|last| *last != member.host && last.get() <= self.num_hosts);
        let mut records = vec![(member.host, own)];
        if let Some(host) = last {
            records.push((host, self.read_own(&Member { host, ..*member })?));
        }
        let view = View::glance(member, leader, records);
        let own = view.newest_of(member.host);
        let unused = own.shared.is_none() && own.ballot.lver < view.version();
        Ok((unused && !view.is_behind()).then_some(view))
    }

    /// A look at the records of these hosts alone.
    pub(super) fn look_at(
        &self,
        member: &Member<'_>,
        leader: Leader,
        hosts: impl IntoIterator<Item = HostId>,
    ) -> Result<View, AcquireError> {
        let hosts = hosts.into_iter();
        let hosts: BTreeSet<_> = hosts.filter(|h| h.get() <= self.num_hosts).collect();
        let records = hosts.into_iter().map(|host| {
            let record = self.read_own(&Member { host, ..*member })?;
            Ok::<_, AcquireError>((host, record))
        });
        let records = records.collect::<Result<Vec<_>, _>>()?;
        Ok(View::glance(member, leader, records))
    }

    /// Reads leader and ballots, until they are of one moment: a leader that has only moved on
    /// between the parts of one read is not behind.
    pub(super) fn look(&self, member: &Member<'_>) -> Result<View, AcquireError> {
        let mut view = self.read_view(member)?;
        for _ in 0..LOOKS_MAX {
            if !view.is_behind() {
                break;
            }
            let again = self.read_view(member)?;
            let same = again.leader == view.leader;
            view = again;
            if same {
                break;
            }
        }
        Ok(view)
    }

    /// What `snapshot` spoke of, as it stands now.
    pub(super) fn snapshot_again(
        &self,
        member: &Member<'_>,
        snapshot: &Snapshot,
    ) -> Result<Snapshot, AcquireError> {
        let leader = self.read_leader()?;
        let mark = |(host, ..): &(HostId, bool, Option<Generation>)| {
            let block = self.read_own(&Member {
                host: *host,
                ..*member
            })?;
            Ok((*host, block.released, block.shared))
        };
        let marks = snapshot
            .marks
            .iter()
            .map(mark)
            .collect::<Result<_, AcquireError>>()?;
        Ok(Snapshot { leader, marks })
    }

    pub(super) fn check_host(&self, member: &Member<'_>) -> Result<(), AcquireError> {
        match member.host.get() > self.num_hosts {
            true => Err(AcquireError::NumHosts {
                num_hosts: self.num_hosts,
            }),
            false => Ok(()),
        }
    }

    pub(super) fn read_view(&self, member: &Member<'_>) -> Result<View, AcquireError> {
        self.check_host(member)?;
        let proposer = self.proposer(member, Lver(0));
        let len = self.geometry.ballots_len(self.num_hosts);
        let votes = self.quorum.read(0, len, |area| {
            let leader = self.check_leader(area)?;
            Ok::<_, AcquireError>((leader, paxos::decode_blocks(&proposer, area)?))
        })?;
        let (leaders, disks): (Vec<_>, Vec<_>) = votes.into_iter().map(|(_, seen)| seen).unzip();
        let mut leader = newest(&leaders)?;
        let all = disks.len() == self.quorum.disks();
        if !all {
            // A disk whose ballot records cannot be read may alone have the newest leader.
            leader = newest(&[leader, self.read_leader()?])?;
        }
        let everywhere = all && leaders.iter().all(|l| *l == leader);
        Ok(View::new(member, leader, disks, everywhere))
    }

    pub(super) fn read_leader(&self) -> Result<Leader, AcquireError> {
        let len = self.geometry.sector_bytes();
        let votes = self
            .quorum
            .read(0, len, |sector| self.check_leader(sector))?;
        let leaders: Vec<_> = votes.into_iter().map(|(_, leader)| leader).collect();
        newest(&leaders)
    }

    /// [`Resource::read_leader`] and [`Resource::read_own`]: by one read, if they are close to each
    /// other.
    fn read_leader_and_own(
        &self,
        member: &Member<'_>,
    ) -> Result<(Leader, BallotSector), AcquireError> {
        let at = self.geometry.ballot_at(member.host);
        let len = at + self.geometry.sector_bytes();
        if len > CLOSE {
            return Ok((self.read_leader()?, self.read_own(member)?));
        }
        let votes = self.quorum.read(0, len, |bytes| {
            let leader = self.check_leader(sector(bytes, self.geometry, 0))?;
            let own = decode_own(member.host, sector(bytes, self.geometry, at))?;
            Ok::<_, AcquireError>((leader, own))
        })?;
        let (leaders, blocks): (Vec<_>, Vec<_>) = votes.into_iter().map(|(_, seen)| seen).unzip();
        Ok((
            newest(&leaders)?,
            newest_own(blocks.into_iter()).unwrap_or_default(),
        ))
    }

    pub(super) fn check_leader(&self, sector: &[u8]) -> Result<Leader, AcquireError> {
        let leader = Leader::decode(sector)?;
        if *leader.lockspace() != self.lockspace {
            return Err(AcquireError::Lockspace {
                found: *leader.lockspace(),
            });
        }
        if *leader.resource() != self.name {
            return Err(AcquireError::Resource {
                found: *leader.resource(),
            });
        }
        if (leader.geometry(), leader.num_hosts()) != (self.geometry, self.num_hosts) {
            return Err(AcquireError::Geometry {
                found: leader.geometry(),
            });
        }
        Ok(leader)
    }

    /// Our own ballot record: the newest of what the disks have.
    pub(super) fn read_own(&self, member: &Member<'_>) -> Result<BallotSector, AcquireError> {
        let at = self.geometry.ballot_at(member.host);
        let votes = self
            .quorum
            .read(at, self.geometry.sector_bytes(), |bytes| {
                decode_own(member.host, bytes)
            })?;
        Ok(newest_own(votes.into_iter().map(|(_, block)| block)).unwrap_or_default())
    }
}

fn decode_own(host: HostId, sector: &[u8]) -> Result<BallotSector, AcquireError> {
    let decoded = BallotSector::decode(sector);
    decoded.map_err(|error| BallotError::Record { host, error }.into())
}
