//! How a lease ends: its holder gives it back, or what is in doubt is brought to an end.

use super::deciding::{Course, Decided};
use super::view::{View, is_written_by_owner};
use super::{AcquireError, BALLOTS_MAX, Held, Member, Resource, Wanted};
use crate::liveness::Sightings;
use crate::record::RecordError;
use crate::record::ballot::BallotSector;
use crate::record::leader::Stamp;
use crate::spec::Mode;

impl Resource<'_> {
    /// Gives a lease back. For a shared one: only when no other holder on this host shares it.
    ///
    /// First the leader says free, if we wrote it, then our ballot record says released: nobody
    /// goes on before the leader is written, so that one that stalls takes nothing back. If another
    /// host wrote it for us it is left: that host's write could otherwise come after ours.
    /// After a failure call [`Resource::resolve`].
    pub fn release(&self, member: &Member<'_>, held: &Held) -> Result<(), AcquireError> {
        match self.give_back(member, held) {
            // It was deleted under our lease: nobody has it, and nobody can.
            Err(AcquireError::Record(RecordError::Cleared { .. })) => Ok(()),
            result => result,
        }
    }

    fn give_back(&self, member: &Member<'_>, held: &Held) -> Result<(), AcquireError> {
        if held.mode == Mode::Exclusive {
            self.free(member, held)?;
        }
        let own = BallotSector {
            ballot: held.own.ballot,
            released: true,
            ..BallotSector::default()
        };
        self.write_own(member, &own)
    }

    /// Frees the leader if it is still ours and was written by us. One that has gone back, on the
    /// disks that were read, may still be ours on another: it is brought forward, freed.
    pub(super) fn free(&self, member: &Member<'_>, held: &Held) -> Result<(), AcquireError> {
        let leader = self.read_leader()?;
        if self.owns(member, &leader, held.lver) && is_written_by_owner(&leader) {
            self.write_leader(member, &leader.released(member.stamp()))?;
        } else if leader.lver() < held.lver {
            let (ours, now) = (held.leader, member.stamp());
            let forward = ours.committed(held.lver, now, now, None).released(now);
            self.write_leader(member, &forward)?;
        }
        Ok(())
    }

    /// After [`AcquireError::InDoubt`], or for what a holder left that ended without a release:
    /// waits for what is outstanding, then runs the ballot to a known owner; if that is us,
    /// releases. On success the lease is not ours, and nobody will find it to be.
    pub fn resolve(&self, member: &Member<'_>, wanted: &Wanted) -> Result<(), AcquireError> {
        member.check_quiet()?;
        self.quorum.settle()?;
        let wanted = Wanted {
            mode: Mode::Exclusive,
            ..wanted.clone()
        };
        let mut course = Course::default();
        while course.ballots < BALLOTS_MAX {
            let view = self.look(member)?;
            let own = view.newest_of(member.host);
            // A version that we have started may be decided for us: a disk that is not seen, and
            // others, may have our value, or be about to, though no record has it any more.
            if own.ballot.lver == view.version() {
                let (course, seen) = (&mut course, &mut Sightings::default());
                match self.ballot_until_decided(member, &wanted, view, course, seen)? {
                    Decided::Theirs(..) => return Ok(()),
                    Decided::Ours(..) | Decided::TurnedBack(_) | Decided::Unknown => continue,
                }
            }
            let leader = view.leader;
            let ours = |owner: Option<Stamp>| owner.is_some_and(|owner| member.is(owner));
            if !ours(leader.owner()) || own.ballot.lver > leader.lver() {
                let freed = ours(leader.last_owner());
                let stands = self.stands(member, &view, &own);
                if freed && !(own.released && stands) {
                    self.free_everywhere(member, &view)?;
                }
                // A leader that has gone back asks what we say; and a share on a disk that is not
                // seen would outlive less.
                let said = own.released || !view.is_over(own.ballot.lver);
                // What has ended on some disks only would come back where these are not seen.
                let shares = |block: &BallotSector| block.shared.is_some();
                let shared = view.blocks_of(member.host).any(shares);
                return match said && !shared && stands {
                    true => Ok(()),
                    false => self.end(member, &own, !said),
                };
            }
            let held = Held {
                lver: leader.lver(),
                mode: Mode::Exclusive,
                own,
                leader,
            };
            return self.release(member, &held);
        }
        Err(AcquireError::Undecided.doubtful(true))
    }

    /// A leader that we have freed may be ours yet on a disk that is not seen. Whoever has started
    /// the next version does not ask.
    fn free_everywhere(&self, member: &Member<'_>, view: &View) -> Result<(), AcquireError> {
        let goes_on = |block: &BallotSector| block.ballot.lver > view.leader.lver();
        if view.everywhere || view.used().any(goes_on) {
            return Ok(());
        }
        self.write_leader(member, &view.leader)
    }

    /// Our record without a share. Whoever shares was the owner of that version, and lets go of it
    /// with its share. Of a version that is not over nothing of the kind is said: it may be
    /// another's.
    pub(super) fn end(
        &self,
        member: &Member<'_>,
        own: &BallotSector,
        over: bool,
    ) -> Result<(), AcquireError> {
        let ended = BallotSector {
            ballot: own.ballot,
            released: own.released || own.shared.is_some() || over,
            ..BallotSector::default()
        };
        self.write_own(member, &ended)
    }
}
