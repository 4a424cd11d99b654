//! Who on this host holds what: the judgement behind lease-join's answers.
//!
//! Invariants. A resource (the same places on disk, whatever path or name led there) is written by
//! at most one holder at any moment. Exclusive: one holder; shared: any number that all share, and
//! only the last one writes the release. What a holder had when its connection ended stays
//! reserved. Time is a parameter; nothing here does I/O.

use super::message::{AreaId, Asked, HolderId, Left, Rival, Tell, Turn};
use crate::clock::Moment;
use crate::id::Lver;
use crate::spec::Mode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most resources of one holder.
pub const RESOURCES_MAX: usize = 64;

/// What a holder does with one of its resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing.
    Idle,
    /// It writes to the disk to acquire it.
    Acquiring,
    /// It holds this version.
    Held(Lver),
    /// It waits for its turn to release.
    Leaving(Lver),
    /// It writes to the disk to release it.
    Releasing,
    /// It ended, and it is not known whether the lease is ours.
    Doubt,
}

/// One resource of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// What was asked for.
    #[serde(flatten)]
    pub asked: Asked,
    /// What is done with it.
    pub phase: Phase,
}

/// One registered lease-hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: i32,
    /// Its command's name.
    pub command: String,
    /// Its resources.
    pub claims: Vec<Claimed>,
    /// Process id of the guarded command, once there is one.
    pub guarded: Option<i32>,
    /// Its connection has ended without a release.
    pub crashed: bool,
}

/// A place on which a late write of this host may still land.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Quarantine {
    areas: Vec<AreaId>,
    until: Moment,
}

/// All holders of one host in one lockspace. What is serialised is what must survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    holders: BTreeMap<HolderId, Holder>,
    quarantines: Vec<Quarantine>,
    next: u64,
}

/// An answer, and to whom it goes.
pub type Answer = (HolderId, Tell);

/// A message that no correct lease-hold sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfOrder;

impl Table {
    /// All holders.
    pub fn holders(&self) -> impl Iterator<Item = (HolderId, &Holder)> {
        self.holders.iter().map(|(id, holder)| (*id, holder))
    }

    /// Takes in a new holder. Refused, in words: too many resources, or one of them twice.
    pub fn register(
        &mut self,
        pid: i32,
        command: String,
        resources: Vec<Asked>,
    ) -> Result<HolderId, String> {
        if resources.is_empty() || resources.len() > RESOURCES_MAX {
            return Err(format!("a holder has 1 to {RESOURCES_MAX} resources"));
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
            })
            .collect();
        self.next += 1;
        let id = HolderId(self.next);
        let holder = Holder {
            pid,
            command,
            claims,
            guarded: None,
            crashed: false,
        };
        self.holders.insert(id, holder);
        Ok(id)
    }

    /// May this holder write to the disk to acquire? A turn, or who is in the way.
    pub fn acquire(
        &mut self,
        id: HolderId,
        index: usize,
        now: Moment,
    ) -> Result<Answer, OutOfOrder> {
        let claim = self.claim(id, index)?;
        if claim.phase != Phase::Idle {
            return Err(OutOfOrder);
        }
        let Asked { mode, areas, .. } = claim.asked.clone();
        let mut sharing = false;
        for (_, other, rival) in self.others(id, index, &areas) {
            let shared = matches!(other.phase, Phase::Held(_)) && other.asked.mode == Mode::Shared;
            if rival.crashed || !shared || mode != Mode::Shared {
                let by = rival_of(rival, other);
                return Ok((id, Tell::Busy { index, by }));
            }
            sharing = true;
        }
        self.quarantines.retain(|q| q.until > now);
        let how = if sharing {
            Turn::Share
        } else {
            Turn::Ballot {
                not_before: self.quiet_from(&areas),
            }
        };
        self.claim_mut(id, index)?.phase = Phase::Acquiring;
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
        match lver {
            Some(lver) => self.claim_mut(id, index)?.phase = Phase::Held(lver),
            None => self.leave_behind(id, index, left, late_until)?,
        }
        Ok(self.turns_to_release())
    }

    /// Notes the guarded process. Only a holder of all its resources has one.
    pub fn guard(&mut self, id: HolderId, pid: i32) -> Result<(), OutOfOrder> {
        let holder = self.holders.get_mut(&id).ok_or(OutOfOrder)?;
        let all_held = holder
            .claims
            .iter()
            .all(|c| matches!(c.phase, Phase::Held(_)));
        if !all_held || holder.guarded.is_some() {
            return Err(OutOfOrder);
        }
        holder.guarded = Some(pid);
        Ok(())
    }

    /// A holder wants to release: its turn comes when nobody else on this host writes to the
    /// resource.
    pub fn release(&mut self, id: HolderId, index: usize) -> Result<Vec<Answer>, OutOfOrder> {
        let claim = self.claim_mut(id, index)?;
        let Phase::Held(lver) = claim.phase else {
            return Err(OutOfOrder);
        };
        claim.phase = Phase::Leaving(lver);
        Ok(self.turns_to_release())
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

    /// The connection has ended. Returns the holder if it left something behind: it stays here.
    pub fn disconnected(&mut self, id: HolderId) -> (Option<&Holder>, Vec<Answer>) {
        let idle = |holder: &Holder| holder.claims.iter().all(|c| c.phase == Phase::Idle);
        if self.holders.get(&id).is_none_or(idle) {
            self.holders.remove(&id);
            return (None, self.turns_to_release());
        }
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.crashed = true;
        }
        (self.holders.get(&id), Vec::new())
    }

    fn leave_behind(
        &mut self,
        id: HolderId,
        index: usize,
        left: Left,
        late_until: Moment,
    ) -> Result<(), OutOfOrder> {
        let claim = self.claim_mut(id, index)?;
        claim.phase = if left == Left::Doubt {
            Phase::Doubt
        } else {
            Phase::Idle
        };
        let areas = claim.asked.areas.clone();
        if left == Left::LateWrite {
            self.quarantines.push(Quarantine {
                areas,
                until: late_until,
            });
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
                    .map(move |(i, c)| (*id, i, c.phase))
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
        areas: &'a [AreaId],
    ) -> impl Iterator<Item = (HolderId, &'a Claimed, &'a Holder)> {
        self.holders
            .iter()
            .flat_map(|(id, holder)| {
                holder
                    .claims
                    .iter()
                    .enumerate()
                    .map(move |(i, claim)| (*id, i, claim, holder))
            })
            .filter(move |(other, i, claim, _)| {
                (*other, *i) != (id, index)
                    && claim.phase != Phase::Idle
                    && overlap(&claim.asked.areas, areas)
            })
            .map(|(other, _, claim, holder)| (other, claim, holder))
    }

    fn quiet_from(&self, areas: &[AreaId]) -> Moment {
        let hit = |q: &&Quarantine| overlap(&q.areas, areas);
        self.quarantines
            .iter()
            .filter(hit)
            .map(|q| q.until)
            .max()
            .unwrap_or_default()
    }

    fn claim(&self, id: HolderId, index: usize) -> Result<&Claimed, OutOfOrder> {
        self.holders
            .get(&id)
            .and_then(|h| h.claims.get(index))
            .ok_or(OutOfOrder)
    }

    fn claim_mut(&mut self, id: HolderId, index: usize) -> Result<&mut Claimed, OutOfOrder> {
        self.holders
            .get_mut(&id)
            .and_then(|h| h.claims.get_mut(index))
            .ok_or(OutOfOrder)
    }
}

/// When a write issued at `issued` can no longer land.
pub fn landed_by(issued: Moment, dead_after: Duration) -> Moment {
    issued.after(dead_after)
}

fn overlap(one: &[AreaId], other: &[AreaId]) -> bool {
    one.iter().any(|area| other.contains(area))
}

fn rival_of(holder: &Holder, claim: &Claimed) -> Rival {
    let passing = match claim.phase {
        Phase::Acquiring | Phase::Releasing | Phase::Leaving(_) => !holder.crashed,
        Phase::Idle | Phase::Held(_) | Phase::Doubt => false,
    };
    Rival {
        pid: holder.pid,
        command: holder.command.clone(),
        passing,
        crashed: holder.crashed,
    }
}
