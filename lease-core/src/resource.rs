//! A lease's life: look at the owner, wait out a dead one, ballot, commit, share, release.
//!
//! Invariants. `lver` in the leader grows by one with every commit and never goes back. What is
//! committed for a version is what its ballot decided, whoever writes it. The leader is written
//! only (a) to commit the next version, over exactly the leader that the ballot started from, or
//! (b) by the owner that also wrote it, to free it. An owner is a host *and* its generation. Before
//! each write the host id must still be ours ([`Tenure`]), and after it again.

use crate::clock::{Clock, Interrupted, Moment};
use crate::delta::{HeartbeatError, Lockspace, Tenure};
use crate::disk::{Disk, Fault};
use crate::id::{BallotNumber, Generation, HostId, Lver, Name};
use crate::layout::Geometry;
use crate::liveness::{Sightings, Verdict};
use crate::paxos::{self, BallotError, Blocks, Outcome, Proposer};
use crate::quorum::{Quorum, sector};
use crate::record::RecordError;
use crate::record::ballot::BallotSector;
use crate::record::holder_note::HolderNote;
use crate::record::leader::{Leader, Stamp};
use crate::spec::Mode;
use std::time::Duration;
use thiserror::Error;

/// How often a waiting host looks at the owner's heartbeat and at the leader.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest random pause after a lost ballot.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// The first pause; each further one is longer.
const BACK_OFF_FIRST: Duration = Duration::from_millis(20);
/// Ballots in one attempt, before it reports that others keep winning.
const BALLOTS_MAX: u32 = 32;

/// A resource on its disks.
pub struct Resource<'a> {
    /// Its disks.
    pub quorum: Quorum<'a>,
    /// Its lockspace.
    pub lockspace: Name,
    /// Its name.
    pub name: Name,
    /// Sector and area size.
    pub geometry: Geometry,
    /// How many hosts take part in its ballots.
    pub num_hosts: u64,
}

/// The host in whose name a lease is acquired: one life of one host id.
pub struct Member<'a> {
    /// Its clock.
    pub clock: &'a dyn Clock,
    /// Its renewals, as far as they are known.
    pub tenure: &'a Tenure,
    /// The lockspace.
    pub lockspace: Lockspace,
    /// The lockspace's disk, to look at other hosts' heartbeats.
    pub heartbeats: &'a dyn Disk,
    /// Its host id.
    pub host: HostId,
    /// Its generation.
    pub generation: Generation,
}

impl Member<'_> {
    fn permits(&self) -> bool {
        self.tenure.holds(self.clock.now())
    }

    fn check(&self) -> Result<(), AcquireError> {
        if self.permits() {
            Ok(())
        } else {
            Err(AcquireError::Lost)
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            host: self.host,
            generation: self.generation,
            timestamp: self.clock.now().seconds().max(1),
        }
    }

    fn is(&self, stamp: Stamp) -> bool {
        stamp.same_life(self.host, self.generation)
    }
}

/// What is wanted of a resource.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Exclusive or shared.
    pub mode: Mode,
    /// Only this version will do.
    pub lver: Option<Lver>,
    /// Who asks, in words for people; host, generation, lver and mode are filled in.
    pub note: HolderNote,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its version: the fencing token.
    pub lver: Lver,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Our ballot record as it stands on the disk.
    own: BallotSector,
    /// The leader as we saw it last.
    leader: Leader,
}

/// What came of an attempt to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is ours.
    Held(Box<Held>),
    /// Somebody has it, or it is not what was asked for.
    Refused(Refusal, Snapshot),
    /// Its owner, or a sharer, is not known to be alive or dead.
    Unknown {
        /// Which life of which host.
        owner: Stamp,
        /// When it will be known at the latest.
        until: Moment,
        /// What stood on the disk.
        snapshot: Snapshot,
    },
}

/// What a waiter watches: when any of it changes, another attempt is worth its while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    leader: Leader,
    /// The hosts in the way, each with its released flag and its share.
    marks: Vec<(HostId, bool, Option<Generation>)>,
}

/// Why a lease was refused: who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A live host owns it.
    Held {
        /// The owner.
        owner: Stamp,
        /// What it says of itself.
        note: Option<HolderNote>,
    },
    /// Live hosts share it.
    Shared(Vec<HostId>),
    /// A live host is passing through on its way to sharing it.
    ShortHold(Stamp),
    /// Other hosts won every ballot.
    Contended,
    /// The lease is of another version than asked for.
    Version {
        /// Which one it is of.
        found: Lver,
    },
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum AcquireError {
    #[error("{0}")]
    Disk(#[from] Fault),
    #[error("{0}; whether the lease is ours is in doubt")]
    InDoubt(Box<Self>),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("ballot record of {0}")]
    Ballot(BallotError),
    #[error("it belongs to lockspace {found}")]
    Lockspace { found: Name },
    #[error("it is resource {found}")]
    Resource { found: Name },
    #[error("its record says {found}")]
    Geometry { found: Geometry },
    #[error("it takes host ids up to {num_hosts} only")]
    NumHosts { num_hosts: u64 },
    #[error("its leader record (lver {leader}) is older than its ballot records (lver {ballots})")]
    Behind { leader: Lver, ballots: Lver },
    #[error("heartbeat of host {host}: {error}")]
    Heartbeat { host: HostId, error: HeartbeatError },
    #[error("the heartbeat of host {} is older than its lease (generation {})", .owner.host, .owner.generation)]
    Unclear { owner: Stamp },
    #[error("the host id was lost")]
    Lost,
    #[error("interrupted")]
    Interrupted,
}

impl From<Interrupted> for AcquireError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

/// One look at a whole resource area, on every disk that counts.
struct View {
    leader: Leader,
    disks: Vec<Blocks>,
}

/// Whether a ballot may start over this leader.
enum Gate {
    /// Yes; `looked`: heartbeats were read since the leader was.
    Open { looked: bool },
    /// Not now.
    Closed(Attempt),
}

/// How one ballot and its commit ended.
enum Step {
    /// We own the version that was decided.
    Ours(Box<Leader>),
    /// The leader has changed: look again from the start.
    StartOver,
    /// Outbid; the leader is still the same.
    Again,
}

impl Resource<'_> {
    /// Tries to acquire once: one look, one ballot (again while others interfere), commit.
    ///
    /// `seen` is what is known of other hosts and is added to. On any failure nothing is held;
    /// after [`AcquireError::InDoubt`] call [`Resource::resolve`].
    pub fn acquire(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        seen: &mut Sightings,
    ) -> Result<Attempt, AcquireError> {
        let mut ballots = 0;
        loop {
            let view = self.look(member)?;
            if wanted.lver.is_some_and(|lver| lver != view.leader.lver()) {
                let why = Refusal::Version {
                    found: view.leader.lver(),
                };
                return Ok(Attempt::Refused(why, view.snapshot(&[])));
            }
            let looked = match self.gate(member, wanted, &view, seen)? {
                Gate::Open { looked } => looked,
                Gate::Closed(attempt) => return Ok(attempt),
            };
            if looked && self.read_leader()? != view.leader {
                continue;
            }
            match self.ballot_until_decided(member, wanted, view, &mut ballots)? {
                Some((leader, own)) => return self.finish(member, wanted, &leader, own, seen),
                None if ballots < BALLOTS_MAX => {}
                None => return self.contended(member),
            }
        }
    }

    /// Waits until another [`Resource::acquire`] is worth its while: `snapshot` is no longer what
    /// stands on the disk, or more is known of `owner`; for at most `patience`.
    pub fn watch(
        &self,
        member: &Member<'_>,
        snapshot: &Snapshot,
        owner: Option<Stamp>,
        seen: &mut Sightings,
        patience: Duration,
    ) -> Result<(), AcquireError> {
        let until = member.clock.now().after(patience);
        loop {
            let left = until.since(member.clock.now());
            if left.is_zero() {
                return Ok(());
            }
            member.clock.wait(left.min(LOOK_EVERY))?;
            member.check()?;
            if self.snapshot_again(member, snapshot)? != *snapshot {
                return Ok(());
            }
            if let Some(owner) = owner
                && !matches!(self.verdict(member, owner, seen)?, Verdict::Unknown { .. })
            {
                return Ok(());
            }
        }
    }

    /// After [`AcquireError::InDoubt`], or for what a holder left that ended without a release:
    /// waits for what is outstanding, then runs the ballot to a known owner; if that is us,
    /// releases. On success the lease is not ours, and nobody will find it to be.
    pub fn resolve(&self, member: &Member<'_>, wanted: &Wanted) -> Result<(), AcquireError> {
        self.quorum.settle()?;
        let wanted = Wanted {
            mode: Mode::Exclusive,
            ..wanted.clone()
        };
        let mut ballots = 0;
        for _ in 0..BALLOTS_MAX {
            let view = self.look(member)?;
            let own = newest_own(view.blocks_of(member.host).cloned());
            let leader = view.leader;
            if leader.owner().is_some_and(|owner| member.is(owner)) {
                let held = Held {
                    lver: leader.lver(),
                    mode: wanted.mode,
                    own,
                    leader,
                };
                return self.release(member, &held);
            }
            let pending =
                own.ballot.lver == leader.lver().next() && own.ballot.bal > BallotNumber(0);
            if !pending {
                return self.end_share(member, own);
            }
            self.ballot_until_decided(member, &wanted, view, &mut ballots)?;
        }
        Err(AcquireError::InDoubt(Box::new(AcquireError::Disk(
            Fault::Outstanding,
        ))))
    }

    fn end_share(&self, member: &Member<'_>, own: BallotSector) -> Result<(), AcquireError> {
        if own.shared.is_none() {
            return Ok(());
        }
        self.write_own(
            member,
            &BallotSector {
                shared: None,
                note: None,
                ..own
            },
        )
    }

    /// Whether a lease that we hold is still ours on the disk. Compares who owns it, not bytes:
    /// another host may have committed it for us.
    pub fn still_held(&self, member: &Member<'_>, held: &Held) -> Result<bool, AcquireError> {
        match held.mode {
            Mode::Exclusive => Ok(self.owns(member, &self.read_leader()?, held.lver)),
            Mode::Shared => Ok(self.read_own(member)?.shared == Some(member.generation)),
        }
    }

    /// Gives a lease back. For a shared one: only when no other holder on this host shares it.
    ///
    /// First our ballot record says released, then, if we wrote the leader and it has not
    /// changed, the leader says free. If another host wrote it for us it is left: its write could
    /// otherwise come after ours.
    pub fn release(&self, member: &Member<'_>, held: &Held) -> Result<(), AcquireError> {
        let own = BallotSector {
            ballot: held.own.ballot,
            released: true,
            ..BallotSector::default()
        };
        self.write_own(member, &own)?;
        if held.mode == Mode::Exclusive {
            self.free(member, &held.leader)?;
        }
        Ok(())
    }

    /// Takes part in a share that another holder on this host has.
    pub fn join_share(&self, member: &Member<'_>) -> Result<Option<Held>, AcquireError> {
        let leader = self.read_leader()?;
        let own = self.read_own(member)?;
        let lver = own.ballot.lver;
        let ours = own.shared == Some(member.generation);
        Ok(ours.then_some(Held {
            lver,
            mode: Mode::Shared,
            own,
            leader,
        }))
    }

    // ---- looking

    fn proposer(&self, member: &Member<'_>, lver: Lver) -> Proposer {
        Proposer {
            host: member.host,
            geometry: self.geometry,
            num_hosts: self.num_hosts,
            lver,
        }
    }

    /// Reads leader and ballots and checks that they agree.
    fn look(&self, member: &Member<'_>) -> Result<View, AcquireError> {
        let mut view = self.read_view(member)?;
        // The area is not read at one moment: a leader that has moved on since is no error.
        while let Some(ballots) = view.ballots_ahead() {
            let again = self.read_view(member)?;
            if again.leader == view.leader {
                return Err(AcquireError::Behind {
                    leader: view.leader.lver(),
                    ballots,
                });
            }
            view = again;
        }
        Ok(view)
    }

    /// What `snapshot` spoke of, as it stands now.
    fn snapshot_again(
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

    fn contended(&self, member: &Member<'_>) -> Result<Attempt, AcquireError> {
        Ok(Attempt::Refused(
            Refusal::Contended,
            self.look(member)?.snapshot(&[]),
        ))
    }

    fn read_view(&self, member: &Member<'_>) -> Result<View, AcquireError> {
        if member.host.get() > self.num_hosts {
            return Err(AcquireError::NumHosts {
                num_hosts: self.num_hosts,
            });
        }
        let proposer = self.proposer(member, Lver(0));
        let len = self.geometry.ballots_len(self.num_hosts);
        let votes = self.quorum.read(0, len, |area| {
            let leader = self.check_leader(&area)?;
            Ok::<_, AcquireError>((leader, paxos::decode_blocks(&proposer, &area)?))
        })?;
        let (leaders, disks): (Vec<_>, Vec<_>) = votes.into_iter().map(|(_, seen)| seen).unzip();
        Ok(View {
            leader: newest(&leaders)?,
            disks,
        })
    }

    fn read_leader(&self) -> Result<Leader, AcquireError> {
        let len = self.geometry.sector_bytes();
        let votes = self
            .quorum
            .read(0, len, |sector| self.check_leader(&sector))?;
        newest(
            &votes
                .into_iter()
                .map(|(_, leader)| leader)
                .collect::<Vec<_>>(),
        )
    }

    fn check_leader(&self, sector: &[u8]) -> Result<Leader, AcquireError> {
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
    fn read_own(&self, member: &Member<'_>) -> Result<BallotSector, AcquireError> {
        let at = self.geometry.ballot_at(member.host);
        let votes = self
            .quorum
            .read(at, self.geometry.sector_bytes(), |bytes| {
                BallotSector::decode(&bytes).map_err(|error| {
                    AcquireError::from(BallotError::Record {
                        host: member.host,
                        error,
                    })
                })
            })?;
        Ok(newest_own(votes.into_iter().map(|(_, block)| block)))
    }

    // ---- judging

    /// May a ballot start? The leader is free, or ours, or of a host that is gone or dead; and for
    /// an exclusive lease, nobody alive shares it.
    fn gate(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        seen: &mut Sightings,
    ) -> Result<Gate, AcquireError> {
        let mut looked = false;
        if let Some(owner) = view.leader.owner()
            && !self.is_open(member, view, owner)?
        {
            looked = true;
            if let Some(attempt) = self.closed_by(member, view, owner, seen)? {
                return Ok(Gate::Closed(attempt));
            }
        }
        if wanted.mode == Mode::Exclusive
            && let Some(attempt) = self.closed_by_sharers(member, view, seen)?
        {
            return Ok(Gate::Closed(attempt));
        }
        Ok(Gate::Open { looked })
    }

    /// Without a look at any heartbeat: it is ours, or its owner has released it after another
    /// host had committed it.
    fn is_open(
        &self,
        member: &Member<'_>,
        view: &View,
        owner: Stamp,
    ) -> Result<bool, AcquireError> {
        if owner.host == member.host {
            return if owner.generation <= member.generation {
                Ok(true)
            } else {
                Err(AcquireError::Unclear { owner })
            };
        }
        let written_by_another = view
            .leader
            .writer()
            .is_none_or(|writer| writer.host != owner.host);
        let released =
            |block: &BallotSector| block.released && block.ballot.lver == view.leader.lver();
        Ok(written_by_another && view.blocks_of(owner.host).any(released))
    }

    fn closed_by(
        &self,
        member: &Member<'_>,
        view: &View,
        owner: Stamp,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        Ok(match self.verdict(member, owner, seen)? {
            Verdict::Gone | Verdict::Dead => None,
            Verdict::Unknown { until } => {
                let snapshot = view.snapshot(&[owner.host]);
                Some(Attempt::Unknown {
                    owner,
                    until,
                    snapshot,
                })
            }
            Verdict::Unclear => return Err(AcquireError::Unclear { owner }),
            Verdict::Alive => {
                let note = view.holder_note();
                // One that another host has committed for it lacks the flag: then its note says
                // that it is on its way to sharing.
                let sharing = note.as_ref().is_some_and(|note| note.mode == Mode::Shared);
                let why = if view.leader.short_hold() || sharing {
                    Refusal::ShortHold(owner)
                } else {
                    Refusal::Held { owner, note }
                };
                Some(Attempt::Refused(why, view.snapshot(&[owner.host])))
            }
        })
    }

    /// Refused while a live host shares; unknown while nothing is known of one.
    fn closed_by_sharers(
        &self,
        member: &Member<'_>,
        view: &View,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        let mut alive = Vec::new();
        let mut unknown = None;
        for sharer in view.sharers(member.host) {
            match self.verdict(member, sharer, seen)? {
                Verdict::Gone | Verdict::Dead => {}
                Verdict::Alive => alive.push(sharer.host),
                Verdict::Unknown { until } => {
                    let snapshot = view.snapshot(&[sharer.host]);
                    unknown = Some(Attempt::Unknown {
                        owner: sharer,
                        until,
                        snapshot,
                    });
                }
                Verdict::Unclear => return Err(AcquireError::Unclear { owner: sharer }),
            }
        }
        if alive.is_empty() {
            return Ok(unknown);
        }
        let snapshot = view.snapshot(&alive);
        Ok(Some(Attempt::Refused(Refusal::Shared(alive), snapshot)))
    }

    /// One look at a host's heartbeat, and what follows from it.
    fn verdict(
        &self,
        member: &Member<'_>,
        life: Stamp,
        seen: &mut Sightings,
    ) -> Result<Verdict, AcquireError> {
        let read_began = member.clock.now();
        let record = member
            .lockspace
            .read_host(member.heartbeats, life.host)?
            .map_err(|error| AcquireError::Heartbeat {
                host: life.host,
                error,
            })?;
        let timing = member.tenure.timing();
        seen.look(life.host, &record, timing, member.clock.now());
        Ok(seen.judge(life.host, life.generation, &record, read_began))
    }

    // ---- deciding

    /// Ballots for the version after `view`'s until it is decided. `None`: somebody else has it,
    /// or moved on; look again.
    fn ballot_until_decided(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        mut view: View,
        ballots: &mut u32,
    ) -> Result<Option<(Leader, BallotSector)>, AcquireError> {
        let mut own = newest_own(view.blocks_of(member.host).cloned());
        loop {
            *ballots += 1;
            match self.ballot(member, wanted, &view, &mut own)? {
                Step::Ours(leader) => return Ok(Some((*leader, own))),
                Step::StartOver => return Ok(None),
                Step::Again => {}
            }
            let accepted = own.ballot.bal > BallotNumber(0);
            if !accepted {
                // Nothing of ours can be decided yet: this is a good moment to stop.
                member.clock.wait(Duration::ZERO)?;
                if *ballots >= BALLOTS_MAX {
                    return Ok(None);
                }
            }
            let most = BACK_OFF_FIRST.saturating_mul(1 << (*ballots).min(6));
            member.clock.back_off(most.min(BACK_OFF_MAX));
            let again = self.look(member).map_err(|e| e.doubtful(accepted))?;
            if again.leader != view.leader {
                return Ok(self
                    .decided_for_us(member, &view, &again.leader)
                    .map(|l| (l, own)));
            }
            view = again;
        }
    }

    /// One ballot, and the commit of what it decided.
    fn ballot(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        own: &mut BallotSector,
    ) -> Result<Step, AcquireError> {
        let lver = view.leader.lver().next();
        let proposer = self.proposer(member, lver);
        let mbal = paxos::next_number(&proposer, &view.disks)?;
        let candidate = member.stamp();
        let note = HolderNote {
            host: member.host,
            generation: member.generation,
            lver,
            mode: wanted.mode,
            ..wanted.note.clone()
        };
        let permit = || member.permits();
        let result = paxos::run(
            &self.quorum,
            &proposer,
            mbal,
            own,
            (candidate, &note),
            &permit,
        );
        let accepted = own.ballot.bal > BallotNumber(0);
        match result.map_err(|e| AcquireError::from(e).doubtful(accepted))? {
            Outcome::Outbid => Ok(Step::Again),
            Outcome::Chosen(value) => self
                .commit(member, wanted, view, value, lver)
                .map_err(|e| e.doubtful(true)),
        }
    }

    /// Writes what was decided into the leader, if that is still the one that the ballot started
    /// from, and reads it back.
    fn commit(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        value: Stamp,
        lver: Lver,
    ) -> Result<Step, AcquireError> {
        let mut now = self.read_leader()?;
        if now == view.leader {
            let short = member.is(value).then_some(wanted.mode == Mode::Shared);
            let leader = view.leader.committed(lver, value, member.stamp(), short);
            self.write_leader(member, &leader)?;
            now = self.read_leader()?;
        }
        Ok(match self.decided_for_us(member, view, &now) {
            Some(leader) => Step::Ours(Box::new(leader)),
            None => Step::StartOver,
        })
    }

    /// The leader, if it is that of the version after `view`'s and the owner is us, in this life:
    /// a value of an older life of ours is another's.
    fn decided_for_us(&self, member: &Member<'_>, view: &View, leader: &Leader) -> Option<Leader> {
        self.owns(member, leader, view.leader.lver().next())
            .then_some(*leader)
    }

    fn owns(&self, member: &Member<'_>, leader: &Leader, lver: Lver) -> bool {
        leader.lver() == lver && leader.owner().is_some_and(|owner| member.is(owner))
    }

    // ---- after the commit

    fn finish(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        leader: &Leader,
        own: BallotSector,
        seen: &mut Sightings,
    ) -> Result<Attempt, AcquireError> {
        let held = Held {
            lver: leader.lver(),
            mode: wanted.mode,
            own,
            leader: *leader,
        };
        match wanted.mode {
            Mode::Exclusive => self.become_exclusive(member, held, seen),
            Mode::Shared => self.become_shared(member, held),
        }
        .map_err(|e| e.doubtful(true))
    }

    /// We own the leader; now nobody may share. The mode records are read again, after the commit.
    fn become_exclusive(
        &self,
        member: &Member<'_>,
        mut held: Held,
        seen: &mut Sightings,
    ) -> Result<Attempt, AcquireError> {
        let view = self.look(member)?;
        if !self.owns(member, &view.leader, held.lver) {
            return self.contended(member);
        }
        held.leader = view.leader;
        if let Some(closed) = self.closed_by_sharers(member, &view, seen)? {
            self.release(member, &held)?;
            return Ok(closed);
        }
        for sharer in view.sharers(member.host) {
            self.clear_share(member, sharer)?;
        }
        member.check()?;
        Ok(Attempt::Held(Box::new(held)))
    }

    /// Ends a dead host's share; what it has accepted in ballots stays. Only while we own the
    /// leader, and only if the record still is what we judged.
    fn clear_share(&self, member: &Member<'_>, dead: Stamp) -> Result<(), AcquireError> {
        let theirs = Member {
            host: dead.host,
            generation: dead.generation,
            ..*member
        };
        let block = self.read_own(&theirs)?;
        if block.shared == Some(dead.generation) {
            self.write_own(
                &theirs,
                &BallotSector {
                    shared: None,
                    note: None,
                    ..block
                },
            )?;
        }
        Ok(())
    }

    /// We own the leader for a short hold: say that we share, see that the leader is still ours,
    /// free it.
    fn become_shared(&self, member: &Member<'_>, mut held: Held) -> Result<Attempt, AcquireError> {
        held.own.released = true;
        held.own.shared = Some(member.generation);
        self.write_own(member, &held.own)?;
        let leader = self.read_leader()?;
        if !self.owns(member, &leader, held.lver) {
            // We were taken for dead before our share was written: it does not count.
            let own = BallotSector {
                shared: None,
                note: None,
                ..held.own
            };
            self.write_own(member, &own)?;
            return self.contended(member);
        }
        self.free(member, &leader)?;
        member.check()?;
        Ok(Attempt::Held(Box::new(held)))
    }

    // ---- writing

    fn write_own(&self, member: &Member<'_>, own: &BallotSector) -> Result<(), AcquireError> {
        let at = self.geometry.ballot_at(member.host);
        self.write(member, at, &own.to_sector(self.geometry.sector()))
    }

    fn write_leader(&self, member: &Member<'_>, leader: &Leader) -> Result<(), AcquireError> {
        self.write(member, 0, &leader.to_sector())
    }

    fn write(&self, member: &Member<'_>, at: usize, sector: &[u8]) -> Result<(), AcquireError> {
        member.check()?;
        self.quorum.write(at, sector)?;
        member.check()
    }

    /// Frees the leader if it is still the one that we know, ours, and written by us.
    fn free(&self, member: &Member<'_>, known: &Leader) -> Result<(), AcquireError> {
        let leader = self.read_leader()?;
        let ours = |stamp: Option<Stamp>| stamp.is_some_and(|stamp| member.is(stamp));
        if leader == *known && ours(leader.owner()) && ours(leader.writer()) {
            self.write_leader(member, &leader.released(member.stamp()))?;
        }
        Ok(())
    }
}

impl View {
    fn snapshot(&self, hosts: &[HostId]) -> Snapshot {
        let mark = |host: &HostId| {
            let block = newest_own(self.blocks_of(*host).cloned());
            (*host, block.released, block.shared)
        };
        Snapshot {
            leader: self.leader,
            marks: hosts.iter().map(mark).collect(),
        }
    }

    fn blocks_of(&self, host: HostId) -> impl Iterator<Item = &BallotSector> {
        self.disks
            .iter()
            .filter_map(move |blocks| blocks.get(host.index()))
    }

    /// All lives of other hosts that share.
    fn sharers(&self, except: HostId) -> Vec<Stamp> {
        let mut sharers: Vec<Stamp> = Vec::new();
        for blocks in &self.disks {
            for (host, block) in HostId::all(blocks.len() as u64).zip(blocks) {
                let Some(generation) = block.shared.filter(|_| host != except) else {
                    continue;
                };
                if !sharers
                    .iter()
                    .any(|known| known.same_life(host, generation))
                {
                    sharers.push(Stamp {
                        host,
                        generation,
                        timestamp: 0,
                    });
                }
            }
        }
        sharers
    }

    /// What the owner says of itself.
    fn holder_note(&self) -> Option<HolderNote> {
        let owner = self.leader.owner()?;
        self.blocks_of(owner.host)
            .filter_map(|block| block.note.as_ref())
            .find(|note| note.is_of(&self.leader))
            .cloned()
    }

    /// The version of a ballot that has accepted a value although the version before it was never
    /// committed: the leader has gone back.
    fn ballots_ahead(&self) -> Option<Lver> {
        let next = self.leader.lver().next();
        let accepted = |b: &&BallotSector| b.ballot.bal > BallotNumber(0) && b.ballot.lver > next;
        self.disks
            .iter()
            .flatten()
            .filter(accepted)
            .map(|b| b.ballot.lver)
            .max()
    }
}

/// Of the leaders on several disks, the one written last: the largest version; of one version,
/// the freed one, since it is freed only after it was committed.
fn newest(leaders: &[Leader]) -> Result<Leader, AcquireError> {
    let order = |leader: &&Leader| (leader.lver(), leader.owner().is_none());
    leaders
        .iter()
        .max_by_key(order)
        .copied()
        .ok_or(AcquireError::Disk(Fault::Outstanding))
}

/// Of our own record on several disks, the one written last.
fn newest_own(blocks: impl Iterator<Item = BallotSector>) -> BallotSector {
    let order = |block: &BallotSector| {
        let ballot = &block.ballot;
        (ballot.lver, ballot.mbal, ballot.bal, block.released)
    };
    blocks.max_by_key(order).unwrap_or_default()
}

impl From<BallotError> for AcquireError {
    fn from(error: BallotError) -> Self {
        match error {
            BallotError::Disk(fault) => Self::Disk(fault),
            BallotError::Lost => Self::Lost,
            other => Self::Ballot(other),
        }
    }
}

impl AcquireError {
    /// A failure after our value may have been accepted leaves it in doubt who owns.
    fn doubtful(self, accepted: bool) -> Self {
        match self {
            sure @ (Self::Lost | Self::Interrupted | Self::InDoubt(_)) => sure,
            error if accepted => Self::InDoubt(Box::new(error)),
            error => error,
        }
    }
}

/// Reads a resource's leader to learn what the resource is: names, geometry, hosts. `sector` is
/// what stands at the area's start.
pub fn identify(first_sector: &[u8]) -> Result<Leader, RecordError> {
    Leader::decode(sector(first_sector, Geometry::ALL[0], 0))
}
