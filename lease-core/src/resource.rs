//! A lease's life: look at the owner, wait out a dead one, ballot, commit, share, release.
//!
//! The ballots are the truth, the leader says where they stand. What is committed for a version is
//! what its ballot decided, whoever writes it; a version's ballot starts only once the owner of the
//! version before is known to have ended: it was free, released, gone or dead, and it stays so for
//! good. The leader is written only (a) by the owner, to commit what was decided for it, (b) by
//! anybody for an owner that is gone or dead, or (c) by the owner that also wrote it, to free it,
//! and only after that it says that it has released. So an owner may stall before a write: nobody
//! goes on before it. Whoever has accepted its own value is at it until it is known who has the
//! version; meanwhile those who have not, wait. But others may stall in (b), as may whoever frees
//! once more what not all disks have; a host of sanlock's kind writes for live owners too, and a
//! write may land late: then the leader **goes back** to an older version. So nobody trusts it
//! alone: a block of a later version says that the leader is behind (`View::version`), the ballot
//! of that version gives the same owner again, and a holder who finds the leader behind writes it
//! again.
//!
//! Invariants. Host N alone writes ballot record N. An owner is a host *and* its generation. Before
//! each write the host id must still be ours ([`Tenure`]), and after it again.

mod asking;
mod deciding;
mod ending;
mod looking;
mod outcome;
mod value_block;
mod view;

pub use outcome::{AcquireError, AskedFor, Attempt, Held, Refusal, Snapshot, Wanted};

use self::deciding::{Course, Decided, Won};
use self::view::{View, is_written_by_owner};
use crate::clock::{Clock, Moment};
use crate::delta::{Lockspace, Tenure};
use crate::disk::Disk;
use crate::id::{Generation, HostId, Lver, Name};
use crate::layout::Geometry;
use crate::liveness::{Sightings, Verdict};
use crate::paxos;
use crate::quorum::Quorum;
use crate::record::ballot::BallotSector;
use crate::record::leader::{Leader, Stamp};
use crate::spec::Mode;
use std::collections::BTreeSet;
use std::time::Duration;

/// A waiting host looks at the leader, and at the owner's heartbeat, this soon at first,
const LOOK_FIRST: Duration = Duration::from_millis(20);
/// and at least this often: each time it has waited for a sixteenth longer.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// That part.
const LOOK_AFTER: u32 = 16;
/// Ballots in one attempt, before it reports that others keep winning.
const BALLOTS_MAX: u32 = 32;
/// How often a leader is brought forward: each late write takes it back once.
const REPAIRS_MAX: u32 = 32;
/// Records that are read one by one rather than all at once.
const FEW: usize = 8;

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
    /// Before this moment writes of an earlier life of the host id, or at this resource of a
    /// process that died or was not told how its write ended, may still land: no ballot before a
    /// renewal that was issued later. That renewal also shows that none landed on our heartbeat.
    pub ballots_from: Moment,
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

    /// A late write of the past could undo what we write now.
    fn check_quiet(&self) -> Result<(), AcquireError> {
        if self.tenure.renewed() >= self.ballots_from {
            Ok(())
        } else {
            Err(AcquireError::TooEarly {
                until: self.ballots_from,
            })
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
        member.check_quiet()?;
        let mut course = Course::default();
        let mut at_stake = false;
        let mut started = None;
        let mut glance = self.glance(member, wanted)?;
        loop {
            let view = match glance.take() {
                Some(view) => view,
                None => self.look(member).map_err(|e| e.doubtful(at_stake))?,
            };
            if let Some(won) = self.became_ours(member, &view, started) {
                return self.finish(member, wanted, won, seen);
            }
            at_stake = view.at_stake() || course.at_stake(view.version());
            if course.ballots >= BALLOTS_MAX {
                return match at_stake {
                    true => Err(AcquireError::Undecided.doubtful(true)),
                    false => Ok(Attempt::Refused(Refusal::Contended, view.snapshot(&[]))),
                };
            }
            if !at_stake && view.whole {
                // Nothing of ours can be decided yet: this is a good moment to turn back.
                if let Some(attempt) = self.turned_back(member, wanted, &view, seen)? {
                    return Ok(attempt);
                }
                if self.read_leader()? != view.leader {
                    course.ballots += 1; // Not for ever: disks may come and go.
                    continue;
                }
            }
            started = started.or(Some(view.version()));
            match self.ballot_until_decided(member, wanted, view, &mut course, seen)? {
                Decided::Ours(won) => return self.finish(member, wanted, *won, seen),
                Decided::TurnedBack(attempt) => return Ok(*attempt),
                Decided::Theirs(lver, value) => {
                    (at_stake, course.proposed) = (false, None);
                    if let Some(attempt) = self.theirs(member, lver, value, seen)? {
                        return Ok(attempt);
                    }
                }
                // Whatever ended the ballot, a value of ours may have been accepted.
                Decided::Unknown => at_stake = course.proposed.is_some(),
            }
        }
    }

    /// A ballot of this attempt has come out for us, and another host has committed that: one of
    /// sanlock's kind, or one that took us for dead.
    fn became_ours(&self, member: &Member<'_>, view: &View, started: Option<Lver>) -> Option<Won> {
        let own = view.newest_of(member.host);
        let lver = own.ballot.lver;
        let ours = started.is_some_and(|first| first <= lver);
        (ours && self.owns(member, &view.leader, lver)).then_some(Won {
            leader: view.leader,
            own,
            may_share: None,
        })
    }

    /// What comes of an attempt without a ballot, if it comes to that.
    fn turned_back(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        let found = view.last();
        if wanted.lver.is_some_and(|lver| lver != found) {
            let why = Refusal::Version { found };
            return Ok(Some(Attempt::Refused(why, view.snapshot(&[]))));
        }
        let own = view.newest_of(member.host);
        let ours = |owner: Stamp| member.is(owner);
        if own.shared == Some(member.generation) && !view.leader.owner().is_some_and(ours) {
            // What stands on fewer is seen by nobody who reads the others, and is to be ended.
            if !self.stands(member, view, &own) {
                return Err(AcquireError::Undecided.doubtful(true));
            }
            return Ok(Some(self.shared_already(member, wanted, view, own)));
        }
        if let Some(attempt) = self.closed(member, wanted, view, seen)? {
            return Ok(Some(attempt));
        }
        // Whoever has accepted its own value goes on until it is decided; a ballot of ours would be
        // for that host too, and in its way.
        let value = paxos::choose(view.version(), &view.disks, member.stamp());
        match value.host == member.host {
            true => Ok(None),
            false => self.closed_for(member, view, value, seen),
        }
    }

    /// Whether our own record is this one on a majority of the disks, so that nobody can overlook
    /// it.
    fn stands(&self, member: &Member<'_>, view: &View, own: &BallotSector) -> bool {
        let same = view.blocks_of(member.host).filter(|block| *block == own);
        same.count() * 2 > self.quorum.disks()
    }

    /// This host shares it already; a ballot would take that share away under its holder.
    fn shared_already(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        own: BallotSector,
    ) -> Attempt {
        match wanted.mode {
            Mode::Shared => Attempt::Held(Box::new(Held {
                lver: own.ballot.lver,
                mode: Mode::Shared,
                own,
                leader: view.leader,
            })),
            Mode::Exclusive => {
                let why = Refusal::Shared(vec![member.host]);
                Attempt::Refused(why, view.snapshot(&[member.host]))
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
        let since = member.clock.now();
        let until = since.after(patience);
        loop {
            let now = member.clock.now();
            let left = until.since(now);
            if left.is_zero() {
                return Ok(());
            }
            let pause = (now.since(since) / LOOK_AFTER).clamp(LOOK_FIRST, LOOK_EVERY);
            member.clock.wait(left.min(pause))?;
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

    /// Whether a lease that we hold is still ours on the disk. Compares who owns it, not bytes:
    /// another host may have committed it for us. A leader that has gone back is written again.
    pub fn still_held(&self, member: &Member<'_>, held: &Held) -> Result<bool, AcquireError> {
        match held.mode {
            Mode::Exclusive => self.still_leads(member, held),
            Mode::Shared => Ok(self.read_own(member)?.shared == Some(member.generation)),
        }
    }

    /// Whether the leader says that we own, or can be made to say so again: late writes of other
    /// hosts may have taken it back to an older version, but never forward.
    fn still_leads(&self, member: &Member<'_>, held: &Held) -> Result<bool, AcquireError> {
        for _ in 0..REPAIRS_MAX {
            let leader = self.read_leader()?;
            if leader.lver() >= held.lver {
                return Ok(self.owns(member, &leader, held.lver));
            }
            // Unless all was formatted anew: then our ballot record is gone as well.
            if self.read_own(member)?.ballot != held.own.ballot {
                return Ok(false);
            }
            let owner = held.leader.owner().unwrap_or_else(|| member.stamp());
            let again = held
                .leader
                .committed(held.lver, owner, member.stamp(), None);
            self.write_leader(member, &again)?;
        }
        Err(AcquireError::Undecided)
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

    // ---- judging

    /// May no ballot start now? One may if the leader is free, or ours, or of a host that is gone
    /// or dead; and for an exclusive lease, if nobody alive shares it.
    fn closed(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        if let Some(owner) = view.leader.owner()
            && !self.is_open(member, view, owner)?
            && let Some(attempt) = self.closed_by(member, view, &view.leader, owner, seen)?
        {
            return Ok(Some(attempt));
        }
        match wanted.mode {
            Mode::Exclusive => self.closed_by_sharers(member, view, seen),
            Mode::Shared => Ok(None),
        }
    }

    /// Without a look at any heartbeat: it is ours; or its owner has let go of it.
    fn is_open(
        &self,
        member: &Member<'_>,
        view: &View,
        owner: Stamp,
    ) -> Result<bool, AcquireError> {
        if owner.host == member.host && owner.generation > member.generation {
            return Err(AcquireError::Unclear { owner });
        }
        // A host that has started a later version had let go of this one: the leader has gone back.
        let lver = view.leader.lver();
        let started_later = |block: &BallotSector| block.ballot.lver > lver;
        // The owner does not free a leader that another host wrote for it; and one that it has
        // freed may be its own yet on some disk. One that it is still to free is waited for.
        let left = !is_written_by_owner(&view.leader) || !view.everywhere;
        let released = |block: &BallotSector| left && block.released && block.ballot.lver == lver;
        let let_go = |block: &BallotSector| started_later(block) || released(block);
        Ok(owner.host == member.host || view.blocks_of(owner.host).any(let_go))
    }

    /// Unless that host has ended: that it has, or will have, the next version.
    fn closed_for(
        &self,
        member: &Member<'_>,
        view: &View,
        value: Stamp,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        let leader = view.leader;
        let theirs = leader.committed(view.version(), value, value, Some(false));
        self.closed_by(member, view, &theirs, value, seen)
    }

    /// Unless `owner` has ended: that it has the lease, by this leader.
    fn closed_by(
        &self,
        member: &Member<'_>,
        view: &View,
        leader: &Leader,
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
                let note = view.note_of(leader);
                // One that another host has committed for it lacks the flag: then its note says
                // that it is on its way to sharing.
                let sharing = note.as_ref().is_some_and(|note| note.mode == Mode::Shared);
                let why = if leader.short_hold() || sharing {
                    Refusal::ShortHold(owner)
                } else {
                    Refusal::Held { owner, note }
                };
                Some(Attempt::Refused(why, view.snapshot(&[owner.host])))
            }
        })
    }

    /// Refused while a live host shares; unknown while nothing is known of one. A refusal names
    /// both.
    fn closed_by_sharers(
        &self,
        member: &Member<'_>,
        view: &View,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        let (mut alive, mut sharing) = (Vec::new(), Vec::new());
        let mut unknown = None;
        for sharer in view.sharers(member.host) {
            match self.verdict(member, sharer, seen)? {
                Verdict::Gone | Verdict::Dead => continue,
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
            sharing.push(sharer.host);
        }
        if alive.is_empty() {
            return Ok(unknown);
        }
        let snapshot = view.snapshot(&alive);
        Ok(Some(Attempt::Refused(Refusal::Shared(sharing), snapshot)))
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

    fn owns(&self, member: &Member<'_>, leader: &Leader, lver: Lver) -> bool {
        leader.lver() == lver && leader.owner().is_some_and(|owner| member.is(owner))
    }

    // ---- after the commit

    fn finish(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        won: Won,
        seen: &mut Sightings,
    ) -> Result<Attempt, AcquireError> {
        let held = Held {
            lver: won.leader.lver(),
            mode: wanted.mode,
            own: won.own,
            leader: won.leader,
        };
        match wanted.mode {
            Mode::Exclusive => self.become_exclusive(member, held, won.may_share, seen),
            Mode::Shared => self.become_shared(member, held),
        }
        .map_err(|e| e.doubtful(true))
    }

    /// We own the leader; now nobody may share. The mode records are read again, after the commit:
    /// those of the few that may share, where these are known.
    /// A dead host's share is no obstacle, and is left: nobody writes in another host's record.
    fn become_exclusive(
        &self,
        member: &Member<'_>,
        held: Held,
        may_share: Option<BTreeSet<HostId>>,
        seen: &mut Sightings,
    ) -> Result<Attempt, AcquireError> {
        let view = match may_share {
            Some(hosts) if hosts.len() <= FEW => self.look_at(member, held.leader, hosts)?,
            _ => self.look(member)?,
        };
        if !self.still_leads(member, &held)? {
            return Ok(Attempt::Refused(Refusal::Contended, view.snapshot(&[])));
        }
        if let Some(closed) = self.closed_by_sharers(member, &view, seen)? {
            self.release(member, &held)?;
            return Ok(closed);
        }
        member.check()?;
        Ok(Attempt::Held(Box::new(held)))
    }

    /// We own the leader for a short hold: say that we share, see that the leader is still ours,
    /// and only then free it, and say that it is open.
    fn become_shared(&self, member: &Member<'_>, mut held: Held) -> Result<Attempt, AcquireError> {
        held.own.released = false;
        held.own.shared = Some(member.generation);
        self.write_own(member, &held.own)?;
        if !self.still_leads(member, &held)? {
            // We were taken for dead before our share was written: it does not count.
            self.end(member, &held.own, false)?;
            let snapshot = self.look(member)?.snapshot(&[]);
            return Ok(Attempt::Refused(Refusal::Contended, snapshot));
        }
        self.free(member, &held)?;
        held.own.released = true;
        self.write_own(member, &held.own)?;
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
}
