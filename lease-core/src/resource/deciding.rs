//! The ballots for one version of a lease, and who writes what comes of them.

use super::view::{View, is_at_stake};
use super::{AcquireError, Attempt, BALLOTS_MAX, Member, Resource, Wanted};
use crate::id::{HostId, Lver};
use crate::liveness::Sightings;
use crate::paxos::{self, Outcome};
use crate::record::ballot::BallotSector;
use crate::record::holder_note::HolderNote;
use crate::record::leader::{Leader, Stamp};
use crate::spec::Mode;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest random pause after a lost ballot.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// The first pause; each further one is longer.
const BACK_OFF_FIRST: Duration = Duration::from_millis(20);

/// How far an attempt has come.
#[derive(Default)]
pub(super) struct Course {
    /// How many ballots it took.
    pub(super) ballots: u32,
    /// The last version for which we have accepted our own value: it may be decided for us, though
    /// we accept another's later, until it is known who has it.
    pub(super) proposed: Option<Lver>,
}

impl Course {
    /// Whether this version may be, or come to be, decided for us.
    pub(super) fn at_stake(&self, lver: Lver) -> bool {
        self.proposed == Some(lver)
    }
}

/// What was decided for us.
pub(super) struct Won {
    /// The leader, which says so.
    pub(super) leader: Leader,
    /// Our record.
    pub(super) own: BallotSector,
    /// Who alone may share an earlier version, if that is known.
    pub(super) may_share: Option<BTreeSet<HostId>>,
}

/// How the ballots for one version ended.
pub(super) enum Decided {
    /// For us.
    Ours(Box<Won>),
    /// For this life of another host, for ever; the leader does not say so.
    Theirs(Lver, Stamp),
    /// Not by us: phase 1 has shown what a glance does not, and no value of ours was accepted.
    TurnedBack(Box<Attempt>),
    /// The leader has changed, or others won too often: look again.
    Unknown,
}

/// How one ballot and its commit ended.
enum Step {
    /// We own the version that was decided.
    Ours(Box<Won>),
    /// Another host does.
    Theirs(Stamp),
    /// Phase 1 has shown that there is to be no ballot.
    TurnedBack(Box<Attempt>),
    /// The leader has changed: look again from the start.
    StartOver,
    /// Outbid; the leader is still the same.
    Again,
}

impl Resource<'_> {
    /// Ballots for `view`'s version until it is decided.
    pub(super) fn ballot_until_decided(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        mut view: View,
        course: &mut Course,
        seen: &mut Sightings,
    ) -> Result<Decided, AcquireError> {
        let lver = view.version();
        let mut own = view.newest_of(member.host);
        if view.at_stake() {
            course.proposed = Some(lver);
        }
        loop {
            course.ballots += 1;
            match self.ballot(member, wanted, &view, &mut own, course, seen)? {
                Step::Ours(won) => return Ok(Decided::Ours(won)),
                Step::Theirs(value) => return Ok(Decided::Theirs(lver, value)),
                Step::TurnedBack(attempt) => return Ok(Decided::TurnedBack(attempt)),
                Step::StartOver => return Ok(Decided::Unknown),
                Step::Again => {}
            }
            let at_stake = course.at_stake(lver);
            if !at_stake {
                // Nothing of ours can be decided yet: this is a good moment to stop.
                member.clock.wait(Duration::ZERO)?;
            }
            if course.ballots >= BALLOTS_MAX {
                return Ok(Decided::Unknown);
            }
            let most = BACK_OFF_FIRST.saturating_mul(1 << course.ballots.min(6));
            member.clock.back_off(most.min(BACK_OFF_MAX));
            if !view.whole {
                return Ok(Decided::Unknown);
            }
            let again = self.look(member).map_err(|e| e.doubtful(at_stake))?;
            if again.leader != view.leader || again.version() != lver {
                return Ok(match self.owns(member, &again.leader, lver) {
                    true => Decided::Ours(Box::new(Won {
                        leader: again.leader,
                        own,
                        may_share: None,
                    })),
                    false => Decided::Unknown,
                });
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
        course: &mut Course,
        seen: &mut Sightings,
    ) -> Result<Step, AcquireError> {
        let lver = view.version();
        let proposer = self.proposer(member, lver);
        let mbal = paxos::next_number(&proposer, &view.disks)?;
        let permit = || member.permits();
        let promised = paxos::phase_1(&self.quorum, &proposer, mbal, own, &permit);
        let at_stake = course.at_stake(lver);
        let promised = promised.map_err(|e| AcquireError::from(e).doubtful(at_stake))?;
        let Some(promised) = promised else {
            return Ok(Step::Again);
        };
        let shown = View::new(member, view.leader, promised, false);
        if !view.whole {
            // Nothing of ours is at stake: a glance starts no ballot otherwise.
            if shown.version() != lver {
                return Ok(Step::StartOver);
            }
            if let Some(attempt) = self.turned_back(member, wanted, &shown, seen)? {
                return Ok(Step::TurnedBack(Box::new(attempt)));
            }
        }
        let note = HolderNote {
            host: member.host,
            generation: member.generation,
            lver,
            mode: wanted.mode,
            ..wanted.note.clone()
        };
        let candidate = (member.stamp(), &note);
        let (quorum, promised) = (&self.quorum, &shown.disks);
        let result = paxos::phase_2(quorum, &proposer, promised, own, candidate, &permit);
        if is_at_stake(member, own, lver) {
            course.proposed = Some(lver);
        }
        let at_stake = course.at_stake(lver);
        let (outcome, blocks) = result.map_err(|e| AcquireError::from(e).doubtful(at_stake))?;
        match outcome {
            Outcome::Outbid => Ok(Step::Again),
            Outcome::Chosen(value) if value.host != member.host => Ok(Step::Theirs(value)),
            Outcome::Chosen(value) => {
                let committed = self.commit(member, wanted, view, value);
                let committed = committed.map_err(|e| e.doubtful(at_stake))?;
                let shown = View::new(member, view.leader, blocks, false);
                Ok(committed.map_or(Step::StartOver, |leader| {
                    Step::Ours(Box::new(Won {
                        leader,
                        own: own.clone(),
                        may_share: shown.may_share(member.host),
                    }))
                }))
            }
        }
    }

    /// Writes what was decided into the leader, if that is still the one that the ballot started
    /// from. Whoever goes on as its owner reads it back first ([`Resource::still_leads`]). Returns
    /// the leader if we own it.
    fn commit(
        &self,
        member: &Member<'_>,
        wanted: &Wanted,
        view: &View,
        value: Stamp,
    ) -> Result<Option<Leader>, AcquireError> {
        let lver = view.version();
        let mut leader = self.read_leader()?;
        if leader == view.leader {
            let short = member.is(value).then_some(wanted.mode == Mode::Shared);
            leader = leader.committed(lver, value, member.stamp(), short);
            self.write_leader(member, &leader)?;
        }
        // The owner is us only in this life: a value of an older life of ours is another's.
        Ok(self.owns(member, &leader, lver).then_some(leader))
    }

    /// What was decided for another host that may live is that host's to write: it may have held
    /// it and let go of it before a write of ours, which would take the leader back. For one that
    /// has ended it is written here.
    pub(super) fn theirs(
        &self,
        member: &Member<'_>,
        lver: Lver,
        value: Stamp,
        seen: &mut Sightings,
    ) -> Result<Option<Attempt>, AcquireError> {
        let view = self.look(member)?;
        if view.version() != lver {
            return Ok(None);
        }
        if let Some(attempt) = self.closed_for(member, &view, value, seen)? {
            return Ok(Some(attempt));
        }
        if self.read_leader()? == view.leader {
            let leader = view.leader.committed(lver, value, member.stamp(), None);
            self.write_leader(member, &leader)?;
        }
        Ok(None)
    }
}
