//! Who on this host holds what: the judgement behind lease-join's answers.
//!
//! Invariants. A resource (the same places on disk, whatever path or name led there) is written by
//! at most one holder at any moment. Exclusive: one holder; shared: any number that all share, and
//! only the last one writes the release. What a holder had when its connection ended stays
//! reserved. Time is a parameter; nothing here does I/O.

mod late;
mod roll;
#[cfg(test)]
mod tests;

use self::late::{LateWrites, overlap};
use self::roll::Roll;
use super::message::{AreaId, Asked, HolderId, Left, Phase, Rival, Tell, Turn};
use crate::clock::Moment;
use crate::contain::Guarded;
use crate::id::Lver;
use crate::liveness::Sightings;
use crate::process::ProcessId;
use crate::spec::Mode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most resources of one holder, at one time.
pub const RESOURCES_MAX: usize = 64;

/// One resource of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// What was asked for.
    #[serde(flatten)]
    pub asked: Asked,
    /// What is done with it.
    pub phase: Phase,
    /// In doubt: only whether a late write of another lands over its release. Its holder does not
    /// know of that.
    #[serde(default)]
    pub shaken: bool,
}

impl Claimed {
    /// Whether it was released, as far as its holder knows, and is in doubt nevertheless.
    fn is_shaken(&self) -> bool {
        self.phase == Phase::Doubt && self.shaken
    }
}

/// Whether a holder can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// It is connected.
    Connected,
    /// Not since lease-join was restarted; it is expected to come back.
    Awaited,
    /// It ended without a release. What it left is being cleared.
    Crashed,
    /// It ended without a release, and what it started can never be proven gone.
    Unproven,
}

/// One registered lease-hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub process: ProcessId,
    /// Its command's name.
    pub command: String,
    /// Wall clock, seconds since 1970, when it registered.
    pub since: u64,
    /// Its resources.
    pub claims: Vec<Claimed>,
    /// The guarded process, once there is one. Without one nothing was ever run: the gate opens
    /// only after this was noted.
    pub guarded: Option<Guarded>,
    /// Whether it can be talked to.
    pub link: Link,
}

impl Holder {
    /// Whether it has ended without a release.
    pub fn ended(&self) -> bool {
        matches!(self.link, Link::Crashed | Link::Unproven)
    }

    /// Whether nothing is done with any of its resources.
    pub fn is_idle(&self) -> bool {
        self.claims.iter().all(|claim| claim.phase == Phase::Idle)
    }

    /// Whether it holds all its resources: only then does it run anything.
    fn holds_all(&self) -> bool {
        let held = |claim: &Claimed| matches!(claim.phase, Phase::Held(_));
        self.claims.iter().all(held)
    }
}

/// All holders of one host in one lockspace. What is serialised is what must survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    holders: Roll,
    late: LateWrites,
    next: u64,
    /// The life of the host that they belong to is lost.
    lost: bool,
}

/// What of a table has become another since it was written down the last time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Changes {
    /// `None`: it is not there any more.
    holders: BTreeMap<HolderId, Option<Holder>>,
    late: LateWrites,
    next: u64,
    lost: bool,
}

/// An answer, and to whom it goes.
pub type Answer = (HolderId, Tell);

/// A message that no correct lease-hold sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfOrder;

impl Table {
    /// The life of the host is lost: holders have been told so, and release nothing. Nobody goes on
    /// with it, even if a renewal was completed at the very last moment.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether it is.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// All holders.
    pub fn holders(&self) -> impl Iterator<Item = (HolderId, &Holder)> {
        self.holders.iter()
    }

    /// What has changed since the last time that this was asked.
    pub fn take_changes(&mut self) -> Changes {
        Changes {
            holders: self.holders.take_changes(),
            late: self.late.clone(),
            next: self.next,
            lost: self.lost,
        }
    }

    /// Makes a table that was written down before them what it was after them.
    pub fn apply(&mut self, changes: Changes) {
        let Changes {
            holders,
            late,
            next,
            lost,
        } = changes;
        for (id, holder) in holders {
            match holder {
                Some(holder) => self.holders.put(id, holder),
                None => self.holders.remove(id),
            }
        }
        (self.late, self.next, self.lost) = (late, next, lost);
    }

    /// Takes in a new holder. Refused, in words: too many resources, or one of them twice.
    pub fn register(
        &mut self,
        process: ProcessId,
        command: String,
        since: u64,
        resources: Vec<Asked>,
    ) -> Result<HolderId, String> {
        if resources.len() > RESOURCES_MAX {
            return Err(format!("a holder has at most {RESOURCES_MAX} resources"));
        }
        for (i, asked) in resources.iter().enumerate() {
            if let Some(twice) = resources[..i]
                .iter()
                .find(|a| overlap(&a.areas, &asked.areas))
            {
                return Err(format!(
                    "{} and {} are the same resource",
                    twice.spec, asked.spec
                ));
            }
        }
        let claims = resources
            .into_iter()
            .map(|asked| Claimed {
                asked,
                phase: Phase::Idle,
                shaken: false,
            })
            .collect();
        self.next = self.number_of_new()?;
        let id = HolderId(self.next);
        let holder = Holder {
            process,
            command,
            since,
            claims,
            guarded: None,
            link: Link::Connected,
        };
        self.holders.put(id, holder);
        Ok(id)
    }

    /// Nobody has or had it, whatever was read back.
    fn number_of_new(&self) -> Result<u64, String> {
        let last = self.holders.last().map_or(0, |id| id.0);
        let next = self.next.max(last).checked_add(1);
        next.ok_or_else(|| "the numbers of holders are used up".into())
    }

    /// One resource more is wanted, under the next number or that of one that is not held any more.
    /// Refused, in words: too many, or one of them twice.
    pub fn claim_more(
        &mut self,
        id: HolderId,
        index: usize,
        (asked, hosts): (Asked, Sightings),
    ) -> Result<Answer, OutOfOrder> {
        let holder = self.holders.get(id).ok_or(OutOfOrder)?;
        let reused = holder.claims.get(index).map(|claim| claim.phase);
        if index > holder.claims.len() || reused.is_some_and(|phase| phase != Phase::Idle) {
            return Err(OutOfOrder);
        }
        let others = holder.claims.iter().enumerate();
        let others = others.filter(|(i, claim)| *i != index && claim.phase != Phase::Idle);
        let others: Vec<&Claimed> = others.map(|(_, claim)| claim).collect();
        let twice = others
            .iter()
            .find(|claim| overlap(&claim.asked.areas, &asked.areas));
        let why = match twice {
            Some(twice) => Some(format!(
                "{} and {} are the same resource",
                twice.asked.spec, asked.spec
            )),
            None if others.len() >= RESOURCES_MAX => {
                Some(format!("a holder has at most {RESOURCES_MAX} resources"))
            }
            None => None,
        };
        if let Some(why) = why {
            return Ok((id, Tell::NotClaimed { index, why }));
        }
        let holder = self.holders.get_mut(id).ok_or(OutOfOrder)?;
        let claim = Claimed {
            asked,
            phase: Phase::Idle,
            shaken: false,
        };
        match holder.claims.get_mut(index) {
            Some(free) => *free = claim,
            None => holder.claims.push(claim),
        }
        Ok((id, Tell::Claimed { index, hosts }))
    }

    /// May this holder write to the disk to acquire? A turn, or who is in the way.
    pub fn acquire(
        &mut self,
        id: HolderId,
        index: usize,
        now: Moment,
    ) -> Result<Answer, OutOfOrder> {
        let claim = self.claim(id, index)?;
        // Its ballot begins when nothing can land any more.
        if claim.phase != Phase::Idle && !claim.is_shaken() {
            return Err(OutOfOrder);
        }
        let Asked { mode, areas, .. } = claim.asked.clone();
        let mut sharing = false;
        for (_, other, rival) in self.others(id, index, &areas) {
            let shared = matches!(other.phase, Phase::Held(_)) && other.asked.mode == Mode::Shared;
            if rival.ended() || !shared || mode != Mode::Shared {
                let by = rival_of(rival, other);
                return Ok((id, Tell::Busy { index, by }));
            }
            sharing = true;
        }
        // Who is not back yet may have released while that could still land.
        let awaited = |(_, holder): (_, &Holder)| holder.link == Link::Awaited;
        if !self.holders().any(awaited) {
            self.late.forget_before(now);
        }
        let how = if sharing {
            Turn::Share
        } else {
            Turn::Ballot {
                not_before: self.quiet_from(&areas),
            }
        };
        let claim = self.claim_mut(id, index)?;
        (claim.phase, claim.shaken) = (Phase::Acquiring, false);
        Ok((id, Tell::Turn { index, how }))
    }

    /// Notes how an acquire went. `late_until` is when a late write can no longer land.
    pub fn acquired(
        &mut self,
        id: HolderId,
        index: usize,
        lver: Option<Lver>,
        left: Left,
        late_until: Moment,
    ) -> Result<Vec<Answer>, OutOfOrder> {
        if self.claim(id, index)?.phase != Phase::Acquiring {
            return Err(OutOfOrder);
        }
        self.leave_behind(id, index, left, late_until)?;
        if let Some(lver) = lver {
            self.claim_mut(id, index)?.phase = Phase::Held(lver);
        }
        Ok(self.turns_to_release())
    }

    /// Notes the guarded process. Only a holder of all its resources has one. Asked again after a
    /// restart, it is the same one.
    pub fn guard(&mut self, id: HolderId, guarded: Guarded) -> Result<(), OutOfOrder> {
        let holder = self.holders.get_mut(id).ok_or(OutOfOrder)?;
        let other = holder
            .guarded
            .as_ref()
            .is_some_and(|known| *known != guarded);
        if other || !holder.holds_all() {
            return Err(OutOfOrder);
        }
        holder.guarded = Some(guarded);
        Ok(())
    }

    /// After a restart of lease-join: nobody is connected any more.
    pub fn await_all(&mut self) {
        for holder in self.holders.all_mut() {
            if holder.link == Link::Connected {
                holder.link = Link::Awaited;
            }
        }
    }

    /// A holder that was awaited comes back, as the same process. What it says of its resources
    /// is newer than what is known here.
    pub fn resume(
        &mut self,
        id: HolderId,
        process: ProcessId,
        (phases, late, guards): (&[Phase], &[bool], bool),
        late_until: Moment,
    ) -> Result<(), OutOfOrder> {
        let standing = self.standing(id, phases);
        let holder = self.holders.get_mut(id).ok_or(OutOfOrder)?;
        // It has not heard that it may have those beyond: so it has none of them.
        let mut unheard = holder.claims.iter().skip(phases.len());
        let idle = unheard.all(|claim| claim.phase == Phase::Idle);
        let all = phases.len() == late.len() && phases.len() <= holder.claims.len() && idle;
        if holder.link != Link::Awaited || holder.process != process || !all {
            return Err(OutOfOrder);
        }
        holder.claims.truncate(phases.len());
        holder.link = Link::Connected;
        for ((claim, (phase, shaken)), late) in holder.claims.iter_mut().zip(standing).zip(late) {
            (claim.phase, claim.shaken) = (phase, shaken);
            if *late {
                self.late.add(id, &claim.asked.areas, late_until);
            }
        }
        if !guards {
            holder.guarded = None;
        }
        Ok(())
    }

    /// A holder wants to release, so it has seen the end of all that it started: nobody else has to
    /// prove that. Its turn comes when nobody else on this host writes to the resource.
    pub fn release(&mut self, id: HolderId, index: usize) -> Result<Vec<Answer>, OutOfOrder> {
        let answers = self.give_up(id, index)?;
        if let Some(holder) = self.holders.get_mut(id) {
            holder.guarded = None;
        }
        Ok(answers)
    }

    /// As [`Table::release`], of a holder whose guarded process runs on.
    pub fn give_up(&mut self, id: HolderId, index: usize) -> Result<Vec<Answer>, OutOfOrder> {
        let claim = self.claim_mut(id, index)?;
        let Phase::Held(lver) = claim.phase else {
            return Err(OutOfOrder);
        };
        claim.phase = Phase::Leaving(lver);
        Ok(self.turns_to_release())
    }

    /// The holders that guard this process, or are it.
    pub fn that_guard(&self, pid: i32) -> Vec<HolderId> {
        let guards = |holder: &Holder| {
            let guarded = holder.guarded.as_ref();
            let guarded = guarded.is_some_and(|guarded| guarded.process.pid == pid);
            !holder.ended() && (guarded || (holder.process.pid == pid && holder.guarded.is_some()))
        };
        let found = self.holders.iter().filter(|(_, holder)| guards(holder));
        found.map(|(id, _)| id).collect()
    }

    /// What a holder has left of a resource, with what it cannot know: where a write of another
    /// holder on this host may land over its own, it is in doubt whether its own stays. (Its own
    /// late writes keep it from writing on those disks.)
    pub fn as_left(&mut self, id: HolderId, index: usize, left: Left, now: Moment) -> Left {
        let shaken = self.may_be_shaken(id, index, now);
        if let Ok(claim) = self.claim_mut(id, index) {
            claim.shaken = shaken && !left.doubt;
        }
        let doubt = left.doubt || shaken;
        Left { doubt, ..left }
    }

    fn may_be_shaken(&self, id: HolderId, index: usize, now: Moment) -> bool {
        let claim = self.claim(id, index);
        claim.is_ok_and(|claim| self.late.of_another(id, &claim.asked.areas, now))
    }

    /// [`Table::as_left`] for what a holder has released while nobody heard of it: nobody knows
    /// when that was. What was shaken before stays so.
    fn standing(&self, id: HolderId, phases: &[Phase]) -> Vec<(Phase, bool)> {
        let shaken = |index| {
            self.claim(id, index).is_ok_and(|claim| {
                let alone = claim.phase == Phase::Releasing;
                let areas = &claim.asked.areas;
                claim.is_shaken() || alone && self.late.of_another(id, areas, Moment::default())
            })
        };
        let of = |(index, phase): (usize, &Phase)| match phase {
            Phase::Idle if shaken(index) => (Phase::Doubt, true),
            phase => (*phase, false),
        };
        phases.iter().enumerate().map(of).collect()
    }

    /// Notes how a release went.
    pub fn released(
        &mut self,
        id: HolderId,
        index: usize,
        left: Left,
        late_until: Moment,
    ) -> Result<Vec<Answer>, OutOfOrder> {
        if self.claim(id, index)?.phase != Phase::Releasing {
            return Err(OutOfOrder);
        }
        self.leave_behind(id, index, left, late_until)?;
        Ok(self.turns_to_release())
    }

    /// The connection has ended, or an awaited holder is dead. Returns the holder if it left
    /// something behind: it stays here until [`Table::proven_gone`] and what follows.
    pub fn disconnected(&mut self, id: HolderId) -> (Option<&Holder>, Vec<Answer>) {
        if self.holders.get(id).is_none_or(Holder::is_idle) {
            self.holders.remove(id);
            return (None, self.turns_to_release());
        }
        if let Some(holder) = self.holders.get_mut(id) {
            holder.link = Link::Crashed;
        }
        (self.holders.get(id), Vec::new())
    }

    /// A crashed holder, and all that it started, is proven gone: its leases can go back. Each
    /// that is to be released on the disk is answered with a turn, now or when it comes.
    pub fn proven_gone(&mut self, id: HolderId) -> Vec<Answer> {
        let claims = self.holder(id).into_iter().flat_map(|h| &h.claims);
        let rivals = |(index, claim): (usize, &Claimed)| {
            let areas = &claim.asked.areas;
            self.others(id, index, areas).next().is_some()
        };
        let not_alone: Vec<bool> = claims.enumerate().map(rivals).collect();
        let Some(holder) = self.holders.get_mut(id) else {
            return Vec::new();
        };
        let mut answers = Vec::new();
        for (index, claim) in holder.claims.iter_mut().enumerate() {
            match claim.phase {
                Phase::Idle | Phase::Leaving(_) => {}
                // It had a turn to share with them, and wrote nothing.
                Phase::Acquiring if not_alone[index] => claim.phase = Phase::Idle,
                Phase::Held(lver) => claim.phase = Phase::Leaving(lver),
                Phase::Acquiring | Phase::Releasing | Phase::Doubt => {
                    claim.phase = Phase::Releasing;
                    answers.push((id, Tell::ReleaseTurn { index, last: true }));
                }
            }
        }
        answers.extend(self.turns_to_release());
        answers
    }

    /// A holder has seen the end of all that it started, and has released what it had or has lost
    /// it: nothing of it is left.
    pub fn gone(&mut self, id: HolderId) {
        if let Some(holder) = self.holders.get_mut(id) {
            for claim in &mut holder.claims {
                claim.phase = Phase::Idle;
            }
        }
    }

    /// A holder that has ended has said what is left of each resource. On one that it was in doubt
    /// of, what it wrote may still land until `late_until`.
    pub fn left(&mut self, id: HolderId, phases: &[Phase], late_until: Moment) {
        let standing = self.standing(id, phases);
        let claims = self.holders.get_mut(id).map(|holder| &mut holder.claims);
        for (claim, (phase, _)) in claims.into_iter().flatten().zip(standing) {
            claim.phase = phase;
            if phase == Phase::Doubt {
                self.late.add(id, &claim.asked.areas, late_until);
            }
        }
    }

    /// What a crashed holder started can never be proven gone: its leases stay reserved.
    pub fn unproven(&mut self, id: HolderId) {
        if let Some(holder) = self.holders.get_mut(id) {
            holder.link = Link::Unproven;
        }
    }

    /// Forgets a crashed holder that has nothing left. Whether it did.
    pub fn forget(&mut self, id: HolderId) -> bool {
        let done = |h: &Holder| h.link == Link::Crashed && h.is_idle();
        let forgotten = self.holders.get(id).is_some_and(done);
        if forgotten {
            self.holders.remove(id);
        }
        forgotten
    }

    /// One holder.
    pub fn holder(&self, id: HolderId) -> Option<&Holder> {
        self.holders.get(id)
    }

    fn leave_behind(
        &mut self,
        id: HolderId,
        index: usize,
        left: Left,
        late_until: Moment,
    ) -> Result<(), OutOfOrder> {
        let claim = self.claim_mut(id, index)?;
        claim.phase = if left.doubt {
            Phase::Doubt
        } else {
            Phase::Idle
        };
        if left.late {
            let areas = claim.asked.areas.clone();
            self.late.add(id, &areas, late_until);
        }
        Ok(())
    }

    /// Gives a turn to every holder that waits to release and can.
    fn turns_to_release(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let waiting: Vec<(HolderId, usize)> = self
            .holders
            .iter()
            .flat_map(|(id, h)| {
                h.claims
                    .iter()
                    .enumerate()
                    .map(move |(i, c)| (id, i, c.phase))
            })
            .filter(|(.., phase)| matches!(phase, Phase::Leaving(_)))
            .map(|(id, index, _)| (id, index))
            .collect();
        for (id, index) in waiting {
            let Ok(claim) = self.claim(id, index) else {
                continue;
            };
            let areas = claim.asked.areas.clone();
            let phases: Vec<Phase> = self
                .others(id, index, &areas)
                .map(|(_, c, _)| c.phase)
                .collect();
            if phases
                .iter()
                .any(|p| matches!(p, Phase::Acquiring | Phase::Releasing))
            {
                continue;
            }
            let last = phases.is_empty();
            if let Ok(claim) = self.claim_mut(id, index) {
                claim.phase = if last { Phase::Releasing } else { Phase::Idle };
            }
            answers.push((id, Tell::ReleaseTurn { index, last }));
        }
        answers
    }

    /// All other claims on a resource that are more than a wish.
    fn others<'a>(
        &'a self,
        id: HolderId,
        index: usize,
        areas: &'a [Option<AreaId>],
    ) -> impl Iterator<Item = (HolderId, &'a Claimed, &'a Holder)> {
        self.holders
            .iter()
            .flat_map(|(id, holder)| {
                holder
                    .claims
                    .iter()
                    .enumerate()
                    .map(move |(i, claim)| (id, i, claim, holder))
            })
            .filter(move |(other, i, claim, _)| {
                (*other, *i) != (id, index)
                    && claim.phase != Phase::Idle
                    && overlap(&claim.asked.areas, areas)
            })
            .map(|(other, _, claim, holder)| (other, claim, holder))
    }

    /// When no late write of this host can land on a resource any more.
    pub fn quiet_from(&self, areas: &[Option<AreaId>]) -> Moment {
        self.late.quiet_from(areas)
    }

    /// When no late write of this host can land anywhere any more.
    pub fn all_quiet_from(&self) -> Moment {
        self.late.all_quiet_from()
    }

    fn claim(&self, id: HolderId, index: usize) -> Result<&Claimed, OutOfOrder> {
        self.holders
            .get(id)
            .and_then(|h| h.claims.get(index))
            .ok_or(OutOfOrder)
    }

    fn claim_mut(&mut self, id: HolderId, index: usize) -> Result<&mut Claimed, OutOfOrder> {
        self.holders
            .get_mut(id)
            .and_then(|h| h.claims.get_mut(index))
            .ok_or(OutOfOrder)
    }
}

fn rival_of(holder: &Holder, claim: &Claimed) -> Rival {
    // What a crashed holder left is being cleared: that passes as well.
    let passing = match (holder.link, claim.phase) {
        (Link::Crashed, _) => true,
        (Link::Unproven, _) => false,
        (_, Phase::Acquiring | Phase::Releasing | Phase::Leaving(_)) => true,
        (_, Phase::Idle | Phase::Held(_) | Phase::Doubt) => false,
    };
    let (pid, command) = (holder.process.pid, holder.command.clone());
    Rival {
        pid,
        command,
        passing,
        crashed: holder.ended(),
    }
}
