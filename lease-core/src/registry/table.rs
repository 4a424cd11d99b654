//! Who on this host holds what: the judgement behind lease-join's answers.
//!
//! Invariants. A resource (the same places on disk, whatever path or name led there) is written by
//! at most one holder at any moment. Exclusive: one holder; shared: any number that all share, and
//! only the last one writes the release. What a holder had when its connection ended stays
//! reserved. Time is a parameter; nothing here does I/O.

use super::message::{AreaId, Asked, HolderId, Left, Phase, Rival, Tell, Turn};
use crate::clock::Moment;
use crate::contain::Guarded;
use crate::id::Lver;
use crate::process::ProcessId;
use crate::spec::Mode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most resources of one holder.
pub const RESOURCES_MAX: usize = 64;

/// One resource of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// What was asked for.
    #[serde(flatten)]
    pub asked: Asked,
    /// What is done with it.
    pub phase: Phase,
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

    /// Whether it holds all its resources: only then does it run anything.
    fn holds_all(&self) -> bool {
        let held = |claim: &Claimed| matches!(claim.phase, Phase::Held(_));
        self.claims.iter().all(held)
    }
}

/// A place on which a late write of this host may still land.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Quarantine {
    /// Whose write it is.
    by: HolderId,
    areas: Vec<Option<AreaId>>,
    until: Moment,
}

/// All holders of one host in one lockspace. What is serialised is what must survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    holders: BTreeMap<HolderId, Holder>,
    quarantines: Vec<Quarantine>,
    next: u64,
    /// The life of the host that they belong to is lost.
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
        self.holders.iter().map(|(id, holder)| (*id, holder))
    }

    /// Takes in a new holder. Refused, in words: too many resources, or one of them twice.
    pub fn register(
        &mut self,
        process: ProcessId,
        command: String,
        since: u64,
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
            process,
            command,
            since,
            claims,
            guarded: None,
            link: Link::Connected,
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
            if rival.ended() || !shared || mode != Mode::Shared {
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
        self.leave_behind(id, index, left, late_until)?;
        if let Some(lver) = lver {
            self.claim_mut(id, index)?.phase = Phase::Held(lver);
        }
        Ok(self.turns_to_release())
    }

    /// Notes the guarded process. Only a holder of all its resources has one. Asked again after a
    /// restart, it is the same one.
    pub fn guard(&mut self, id: HolderId, guarded: Guarded) -> Result<(), OutOfOrder> {
        let holder = self.holders.get_mut(&id).ok_or(OutOfOrder)?;
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
        for holder in self.holders.values_mut() {
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
        (phases, late): (&[Phase], &[bool]),
        (now, late_until): (Moment, Moment),
    ) -> Result<(), OutOfOrder> {
        let phases = self.standing(id, phases, now);
        let holder = self.holders.get_mut(&id).ok_or(OutOfOrder)?;
        let all = [phases.len(), late.len()] == [holder.claims.len(); 2];
        if holder.link != Link::Awaited || holder.process != process || !all {
            return Err(OutOfOrder);
        }
        holder.link = Link::Connected;
        for ((claim, phase), late) in holder.claims.iter_mut().zip(phases).zip(late) {
            claim.phase = phase;
            if *late {
                let areas = claim.asked.areas.clone();
                let (by, until) = (id, late_until);
                self.quarantines.push(Quarantine { by, areas, until });
            }
        }
        if !holder.holds_all() {
            holder.guarded = None;
        }
        Ok(())
    }

    /// A holder wants to release, so it has seen the end of all that it started: nobody else has to
    /// prove that. Its turn comes when nobody else on this host writes to the resource.
    pub fn release(&mut self, id: HolderId, index: usize) -> Result<Vec<Answer>, OutOfOrder> {
        let claim = self.claim_mut(id, index)?;
        let Phase::Held(lver) = claim.phase else {
            return Err(OutOfOrder);
        };
        claim.phase = Phase::Leaving(lver);
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.guarded = None;
        }
        Ok(self.turns_to_release())
    }

    /// What a holder has left of a resource, with what it cannot know: where a write of another
    /// holder on this host may land over its own, it is in doubt whether its own stays. (Its own
    /// late writes keep it from writing on those disks.)
    pub fn as_left(&self, id: HolderId, index: usize, left: Left, now: Moment) -> Left {
        let doubt = left.doubt || self.is_shaken(id, index, now);
        Left { doubt, ..left }
    }

    fn is_shaken(&self, id: HolderId, index: usize, now: Moment) -> bool {
        let areas = self.claim(id, index).map(|claim| &claim.asked.areas);
        areas.is_ok_and(|areas| {
            let hit = |q: &Quarantine| q.by != id && q.until > now && overlap(&q.areas, areas);
            self.quarantines.iter().any(hit)
        })
    }

    /// [`Table::as_left`] for what a holder has released while nobody heard of it.
    fn standing(&self, id: HolderId, phases: &[Phase], now: Moment) -> Vec<Phase> {
        let had_the_turn = |i| self.claim(id, i).map(|c| c.phase) == Ok(Phase::Releasing);
        let of = |(index, phase): (usize, &Phase)| match phase {
            Phase::Idle if had_the_turn(index) && self.is_shaken(id, index, now) => Phase::Doubt,
            phase => *phase,
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
        let idle = |holder: &Holder| holder.claims.iter().all(|c| c.phase == Phase::Idle);
        if self.holders.get(&id).is_none_or(idle) {
            self.holders.remove(&id);
            return (None, self.turns_to_release());
        }
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.link = Link::Crashed;
        }
        (self.holders.get(&id), Vec::new())
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
        let Some(holder) = self.holders.get_mut(&id) else {
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
        if let Some(holder) = self.holders.get_mut(&id) {
            for claim in &mut holder.claims {
                claim.phase = Phase::Idle;
            }
        }
    }

    /// A holder that has ended has said what is left of each resource. On one that it was in doubt
    /// of, what it wrote may still land until `late_until`.
    pub fn left(&mut self, id: HolderId, phases: &[Phase], when: (Moment, Moment)) {
        let (now, late_until) = when;
        let phases = self.standing(id, phases, now);
        let claims = self.holders.get_mut(&id).map(|holder| &mut holder.claims);
        for (claim, phase) in claims.into_iter().flatten().zip(phases) {
            claim.phase = phase;
            if phase == Phase::Doubt {
                let areas = claim.asked.areas.clone();
                let (by, until) = (id, late_until);
                self.quarantines.push(Quarantine { by, areas, until });
            }
        }
    }

    /// What a crashed holder started can never be proven gone: its leases stay reserved.
    pub fn unproven(&mut self, id: HolderId) {
        if let Some(holder) = self.holders.get_mut(&id) {
            holder.link = Link::Unproven;
        }
    }

    /// Forgets a crashed holder that has nothing left. Whether it did.
    pub fn forget(&mut self, id: HolderId) -> bool {
        let done =
            |h: &Holder| h.link == Link::Crashed && h.claims.iter().all(|c| c.phase == Phase::Idle);
        let forgotten = self.holders.get(&id).is_some_and(done);
        if forgotten {
            self.holders.remove(&id);
        }
        forgotten
    }

    /// One holder.
    pub fn holder(&self, id: HolderId) -> Option<&Holder> {
        self.holders.get(&id)
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
        let areas = claim.asked.areas.clone();
        if left.late {
            let (by, until) = (id, late_until);
            self.quarantines.push(Quarantine { by, areas, until });
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
        areas: &'a [Option<AreaId>],
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

    /// When no late write of this host can land on a resource any more.
    pub fn quiet_from(&self, areas: &[Option<AreaId>]) -> Moment {
        let hit = |q: &&Quarantine| overlap(&q.areas, areas);
        self.quarantines
            .iter()
            .filter(hit)
            .map(|q| q.until)
            .max()
            .unwrap_or_default()
    }

    /// When no late write of this host can land anywhere any more.
    pub fn all_quiet_from(&self) -> Moment {
        let until = self.quarantines.iter().map(|q| q.until);
        until.max().unwrap_or_default()
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

fn overlap(one: &[Option<AreaId>], other: &[Option<AreaId>]) -> bool {
    one.iter()
        .any(|area| area.is_some() && other.contains(area))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contain::Containment;
    use crate::device::Identity;
    use crate::id::Name;

    const LATE: Moment = Moment(1000);
    const WHEN: (Moment, Moment) = (Moment(0), LATE);
    const HELD: Phase = Phase::Held(Lver(7));
    const LATE_WRITE: Left = Left {
        doubt: false,
        late: true,
    };
    const DOUBT: Left = Left {
        doubt: true,
        late: false,
    };

    /// What is wanted of the resource at these offsets of one disk; `None` could not be opened.
    fn asked(mode: Mode, offsets: &[Option<u64>]) -> Asked {
        let identity = Identity {
            device: 1,
            inode: 2,
        };
        let area = |offset: &Option<u64>| offset.map(|offset| AreaId { identity, offset });
        Asked {
            resource: Name::new(b"R").unwrap(),
            mode,
            areas: offsets.iter().map(area).collect(),
            places: Vec::new(),
            spec: format!("{offsets:?}"),
        }
    }

    fn process(pid: i32) -> ProcessId {
        ProcessId { pid, started: 5 }
    }

    fn guarded(pid: i32) -> Guarded {
        Guarded {
            process: process(pid),
            containment: Containment::PidNamespace,
        }
    }

    impl Table {
        fn new_holder(&mut self, resources: &[Asked]) -> HolderId {
            let pid = i32::try_from(self.next).unwrap();
            self.register(process(pid), "c".into(), 9, resources.to_vec())
                .unwrap()
        }

        /// A new holder of one resource, at offset 0.
        fn one(&mut self, mode: Mode) -> HolderId {
            self.new_holder(&[asked(mode, &[Some(0)])])
        }

        fn phase(&self, id: HolderId) -> Phase {
            self.holder(id).unwrap().claims[0].phase
        }

        fn set(&mut self, id: HolderId, phase: Phase) {
            self.claim_mut(id, 0).unwrap().phase = phase;
        }

        /// "ballot", "share", or who is in the way: "passing", "busy", with "crashed".
        fn asks(&mut self, id: HolderId) -> &'static str {
            match self.acquire(id, 0, Moment(0)) {
                Ok((to, Tell::Turn { index: 0, how })) if to == id => match how {
                    Turn::Ballot { .. } => "ballot",
                    Turn::Share => "share",
                },
                Ok((to, Tell::Busy { index: 0, by })) if to == id => match (by.passing, by.crashed)
                {
                    (true, false) => "passing",
                    (false, false) => "busy",
                    (true, true) => "passing, crashed",
                    (false, true) => "busy, crashed",
                },
                Err(OutOfOrder) => "out of order",
                other => panic!("{other:?}"),
            }
        }
    }

    fn turn(id: HolderId, last: bool) -> Answer {
        (id, Tell::ReleaseTurn { index: 0, last })
    }

    #[test]
    fn a_holder_has_1_to_64_resources_each_once_and_a_number_of_its_own() {
        let mut table = Table::default();
        let apart: Vec<_> = (0..65)
            .map(|n| asked(Mode::Exclusive, &[Some(n)]))
            .collect();
        let mut register = |resources: &[Asked]| {
            let registered = table.register(process(1), "c".into(), 9, resources.to_vec());
            registered.map(|id| id.0)
        };
        assert!(register(&[]).is_err());
        assert!(register(&apart).is_err());
        assert_eq!(register(&apart[..64]), Ok(1));
        let same = [
            asked(Mode::Exclusive, &[Some(1), Some(2), None]),
            asked(Mode::Shared, &[None, Some(3), Some(2)]),
        ];
        assert!(register(&same).unwrap_err().contains("the same resource"));
        let unknown = [
            asked(Mode::Exclusive, &[Some(1), None]),
            asked(Mode::Exclusive, &[Some(2), None]),
        ];
        assert_eq!(register(&unknown), Ok(2), "two that could not be opened");
        table.disconnected(HolderId(2));
        assert_eq!(table.one(Mode::Shared), HolderId(3), "no number twice");
        let ids: Vec<_> = table.holders().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 3]);
    }

    #[test]
    fn who_may_acquire_beside_whom() {
        use Mode::{Exclusive, Shared};
        let table = [
            (Exclusive, Phase::Idle, Exclusive, "ballot"),
            (Exclusive, Phase::Acquiring, Exclusive, "passing"),
            (Exclusive, HELD, Exclusive, "busy"),
            (Exclusive, HELD, Shared, "busy"),
            (Exclusive, Phase::Leaving(Lver(7)), Shared, "passing"),
            (Exclusive, Phase::Releasing, Exclusive, "passing"),
            (Exclusive, Phase::Doubt, Exclusive, "busy"),
            (Shared, Phase::Idle, Shared, "ballot"),
            (Shared, Phase::Acquiring, Shared, "passing"),
            (Shared, HELD, Shared, "share"),
            (Shared, HELD, Exclusive, "busy"),
            (Shared, Phase::Leaving(Lver(7)), Shared, "passing"),
            (Shared, Phase::Releasing, Shared, "passing"),
            (Shared, Phase::Doubt, Shared, "busy"),
        ];
        for (theirs, phase, ours, expected) in table {
            let mut table = Table::default();
            let (first, second) = (table.one(theirs), table.one(ours));
            table.set(first, phase);
            assert_eq!(
                table.asks(second),
                expected,
                "{ours} beside {theirs} {phase:?}"
            );
            let turn = ["ballot", "share"].contains(&expected);
            let then = if turn { Phase::Acquiring } else { Phase::Idle };
            assert_eq!(table.phase(second), then);
        }
        let mut table = Table::default();
        let first = table.one(Exclusive);
        let elsewhere = table.new_holder(&[asked(Exclusive, &[Some(1)])]);
        assert_eq!(
            (table.asks(first), table.asks(elsewhere)),
            ("ballot", "ballot")
        );
        assert_eq!(table.asks(first), "out of order", "it has its turn already");
        assert_eq!(table.asks(HolderId(99)), "out of order");
    }

    #[test]
    fn what_a_holder_that_has_ended_shares_is_not_joined() {
        let mut table = Table::default();
        let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
        table.set(first, HELD);
        table.disconnected(first);
        assert_eq!(table.asks(second), "passing, crashed");
        table.unproven(first);
        assert!(table.holder(first).unwrap().ended());
        assert_eq!(table.asks(second), "busy, crashed");
        assert!(!table.forget(first), "it stays reserved");
    }

    #[test]
    fn no_ballot_before_a_late_write_has_landed() {
        let mut table = Table::default();
        let first = table.one(Mode::Exclusive);
        let elsewhere = table.new_holder(&[asked(Mode::Exclusive, &[Some(1)])]);
        let not_before = |table: &mut Table, id, now| {
            let answer = table.acquire(id, 0, now);
            let how = match answer {
                Ok((_, Tell::Turn { how, .. })) => how,
                other => panic!("{other:?}"),
            };
            table.acquired(id, 0, None, Left::NOTHING, LATE).unwrap();
            how
        };
        assert_eq!(table.asks(first), "ballot");
        let acquired = table.acquired(first, 0, None, LATE_WRITE, LATE);
        assert_eq!((acquired, table.phase(first)), (Ok(vec![]), Phase::Idle));
        let early = Moment(LATE.0 - 1);
        let ballot = |not_before| Turn::Ballot { not_before };
        assert_eq!(not_before(&mut table, first, early), ballot(LATE));
        assert_eq!(not_before(&mut table, elsewhere, early), ballot(Moment(0)));
        assert_eq!(not_before(&mut table, first, LATE), ballot(Moment(0)));
        assert_eq!(table.all_quiet_from(), Moment(0));
    }

    #[test]
    fn an_acquire_ends_held_or_idle_or_in_doubt() {
        let ends = [
            (Some(Lver(7)), Left::NOTHING, HELD),
            (None, Left::NOTHING, Phase::Idle),
            (None, LATE_WRITE, Phase::Idle),
            (None, DOUBT, Phase::Doubt),
            (Some(Lver(7)), LATE_WRITE, HELD),
        ];
        for (lver, left, phase) in ends {
            let mut table = Table::default();
            let first = table.one(Mode::Exclusive);
            let unasked = table.acquired(first, 0, lver, left, LATE);
            assert_eq!(unasked, Err(OutOfOrder));
            assert_eq!(table.asks(first), "ballot");
            assert_eq!(table.acquired(first, 0, lver, left, LATE), Ok(vec![]));
            assert_eq!(table.phase(first), phase);
            let late = if left.late { LATE } else { Moment(0) };
            let areas = table.claim(first, 0).unwrap().asked.areas.clone();
            let quiet = [table.quiet_from(&areas), table.all_quiet_from()];
            assert_eq!(quiet, [late; 2]);
            let guard = table.guard(first, guarded(7));
            assert_eq!(guard.is_ok(), lver.is_some(), "{phase:?}");
        }
    }

    #[test]
    fn a_holder_of_all_its_resources_has_one_guarded_process() {
        let mut table = Table::default();
        let both = [0, 1].map(|n| asked(Mode::Exclusive, &[Some(n)]));
        let first = table.new_holder(&both);
        table.set(first, HELD);
        assert_eq!(table.guard(first, guarded(7)), Err(OutOfOrder));
        table.claim_mut(first, 1).unwrap().phase = HELD;
        assert_eq!(table.guard(first, guarded(7)), Ok(()));
        assert_eq!(table.guard(first, guarded(8)), Err(OutOfOrder));
        assert_eq!(table.guard(first, guarded(7)), Ok(()), "asked again");
        assert_eq!(table.holder(first).unwrap().guarded, Some(guarded(7)));
    }

    #[test]
    fn after_a_restart_the_same_process_comes_back_once_and_knows_best() {
        let mut table = Table::default();
        let (first, second) = (table.one(Mode::Exclusive), table.one(Mode::Exclusive));
        table.set(first, Phase::Acquiring);
        table.disconnected(first);
        table.set(second, Phase::Acquiring);
        let resume = |table: &mut Table, id, pid, phases: &[Phase]| {
            let late = vec![true; phases.len()];
            table.resume(id, process(pid), (phases, &late), WHEN)
        };
        let came_back = resume(&mut table, second, 1, &[HELD]);
        assert_eq!(came_back, Err(OutOfOrder), "it was not away");
        let kept = serde_json::to_string(&table).unwrap();
        let mut table: Table = serde_json::from_str(&kept).unwrap();
        table.await_all();
        let links = [first, second].map(|id| table.holder(id).unwrap().link);
        assert_eq!(links, [Link::Crashed, Link::Awaited]);
        for (id, pid, phases) in [
            (first, 0, &[HELD][..]),
            (second, 0, &[HELD]),
            (second, 1, &[]),
            (second, 1, &[HELD, HELD]),
            (HolderId(99), 1, &[HELD]),
        ] {
            assert_eq!(resume(&mut table, id, pid, phases), Err(OutOfOrder));
        }
        let without = table.resume(second, process(1), (&[HELD], &[]), WHEN);
        assert_eq!(
            (without, table.all_quiet_from()),
            (Err(OutOfOrder), Moment(0))
        );
        assert_eq!(resume(&mut table, second, 1, &[HELD]), Ok(()));
        assert_eq!(table.all_quiet_from(), LATE);
        assert_eq!(table.phase(second), HELD);
        assert_eq!(table.holder(second).unwrap().link, Link::Connected);
    }

    #[test]
    fn what_a_holder_that_has_ended_was_in_doubt_of_may_still_be_written() {
        for (phase, quiet) in [(Phase::Doubt, LATE), (HELD, Moment(0))] {
            let mut table = Table::default();
            let first = table.one(Mode::Exclusive);
            table.left(first, &[phase], WHEN);
            assert_eq!((table.phase(first), table.all_quiet_from()), (phase, quiet));
        }
        Table::default().left(HolderId(1), &[HELD], WHEN);
    }

    #[test]
    fn who_gives_back_runs_nothing_any_more() {
        let mut table = Table::default();
        let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
        table.set(first, HELD);
        table.guard(first, guarded(7)).unwrap();
        assert_eq!(table.asks(second), "share");
        // It ends while it waits for its turn: there is nothing to prove.
        assert_eq!(table.release(first, 0), Ok(vec![]));
        let left = table.disconnected(first).0;
        assert_eq!(left.map(|holder| &holder.guarded), Some(&None));
        assert_eq!(table.proven_gone(first), []);
        let lver = Some(Lver(7));
        let acquired = table.acquired(second, 0, lver, Left::NOTHING, LATE);
        assert_eq!(acquired, Ok(vec![turn(first, false)]));
        assert!(table.forget(first));

        let leaving = Phase::Leaving(Lver(7));
        let others = [Phase::Idle, leaving, Phase::Releasing, Phase::Doubt];
        for phase in others.into_iter().chain([HELD]) {
            table.set(second, HELD);
            table.guard(second, guarded(8)).unwrap();
            table.await_all();
            let standing = (&[phase][..], &[false][..]);
            table.resume(second, process(1), standing, WHEN).unwrap();
            let left = &table.holder(second).unwrap().guarded;
            assert_eq!(left.is_some(), phase == HELD, "{phase:?}");
        }
    }

    #[test]
    fn a_life_that_is_lost_stays_so_over_a_restart() {
        let mut table = Table::default();
        assert!(!table.is_lost());
        table.lose();
        let kept = serde_json::to_string(&table).unwrap();
        let table: Table = serde_json::from_str(&kept).unwrap();
        assert!(table.is_lost());
    }

    #[test]
    fn the_last_sharer_alone_writes_the_release() {
        let mut table = Table::default();
        let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
        assert_eq!(table.release(first, 0), Err(OutOfOrder), "it holds nothing");
        table.set(first, HELD);
        table.set(second, HELD);
        assert_eq!(table.release(first, 0), Ok(vec![turn(first, false)]));
        assert_eq!(table.phase(first), Phase::Idle);
        let released = table.released(first, 0, Left::NOTHING, LATE);
        assert_eq!(released, Err(OutOfOrder), "it had nothing to write");
        assert_eq!(table.release(second, 0), Ok(vec![turn(second, true)]));
        assert_eq!(table.phase(second), Phase::Releasing);
        // Whoever wants to release meanwhile waits, and has its turn after that.
        table.set(first, HELD);
        assert_eq!(table.release(first, 0), Ok(vec![]));
        let released = table.released(second, 0, Left::NOTHING, LATE);
        assert_eq!(released, Ok(vec![turn(first, true)]));
        let released = table.released(first, 0, DOUBT, LATE);
        assert_eq!((released, table.phase(first)), (Ok(vec![]), Phase::Doubt));
    }

    #[test]
    fn where_anothers_late_write_may_land_over_a_release_that_is_in_doubt() {
        let mut table = Table::default();
        let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
        assert_eq!(table.asks(first), "ballot");
        let acquired = table.acquired(first, 0, Some(Lver(7)), LATE_WRITE, LATE);
        assert_eq!(acquired, Ok(vec![]));
        assert_eq!(table.asks(second), "share");
        let before = Moment(LATE.0 - 1);
        let doubt = |table: &Table, id, now| table.as_left(id, 0, Left::NOTHING, now).doubt;
        assert!(doubt(&table, second, before));
        assert!(!doubt(&table, first, before), "it does not write there");
        assert!(!doubt(&table, second, LATE));
        // So it is if nobody heard of it until lease-join was started again.
        for (now, then) in [(before, Phase::Doubt), (LATE, Phase::Idle)] {
            let mut table = table.clone();
            assert_eq!(table.release(first, 0), Ok(vec![]));
            table.set(second, Phase::Releasing);
            table.await_all();
            let standing = (&[Phase::Idle][..], &[false][..]);
            let mut back = table.clone();
            back.resume(second, process(1), standing, (now, LATE))
                .unwrap();
            table.left(second, &[Phase::Idle], (now, LATE));
            assert_eq!((back.phase(second), table.phase(second)), (then, then));
        }
        let elsewhere = table.new_holder(&[asked(Mode::Shared, &[Some(1)])]);
        assert!(!doubt(&table, elsewhere, before));
        assert_eq!(table.as_left(first, 0, DOUBT, before), DOUBT);
    }

    #[test]
    fn a_release_waits_for_who_acquires_and_goes_on_when_that_one_is_done_or_gone() {
        for ended in [true, false] {
            let mut table = Table::default();
            let (first, second) = (table.one(Mode::Shared), table.one(Mode::Shared));
            table.set(first, HELD);
            assert_eq!(table.asks(second), "share");
            assert_eq!(table.release(first, 0), Ok(vec![]));
            let answers = if ended {
                table.gone(second);
                let (left, answers) = table.disconnected(second);
                assert_eq!(left, None);
                answers
            } else {
                let lver = Some(Lver(7));
                table
                    .acquired(second, 0, lver, Left::NOTHING, LATE)
                    .unwrap()
            };
            assert_eq!(answers, [turn(first, ended)]);
        }
    }

    #[test]
    fn whoever_dies_as_it_joins_a_share_leaves_that_to_the_others() {
        let mut table = Table::default();
        let [first, second] = [(); 2].map(|()| table.one(Mode::Shared));
        table.set(first, HELD);
        assert_eq!(table.asks(second), "share");
        assert_eq!(table.release(first, 0), Ok(vec![]));
        table.disconnected(second);
        assert_eq!(table.proven_gone(second), [turn(first, true)]);
        assert!(table.forget(second));
    }

    #[test]
    fn what_a_holder_leaves_is_released_once_it_is_proven_gone() {
        let leaving = Phase::Leaving(Lver(7));
        let unknown = [Phase::Acquiring, Phase::Releasing, Phase::Doubt];
        for phase in [HELD, leaving].into_iter().chain(unknown) {
            let mut table = Table::default();
            let first = table.one(Mode::Exclusive);
            table.set(first, phase);
            let (left, answers) = table.disconnected(first);
            assert_eq!(left.map(|holder| holder.link), Some(Link::Crashed));
            assert_eq!(answers, []);
            assert!(!table.forget(first), "{phase:?}");
            assert_eq!(table.proven_gone(first), [turn(first, true)], "{phase:?}");
            assert_eq!(table.phase(first), Phase::Releasing);
            table.released(first, 0, Left::NOTHING, LATE).unwrap();
            assert!(table.forget(first));
            assert_eq!(table.holder(first), None);
        }
        assert_eq!(Table::default().proven_gone(HolderId(1)), []);
    }

    #[test]
    fn a_connected_holder_is_not_forgotten_and_one_with_nothing_left_is_gone_at_once() {
        let mut table = Table::default();
        let first = table.one(Mode::Exclusive);
        assert!(!table.forget(first));
        assert_eq!(table.disconnected(first).0, None);
        assert_eq!(table.holders().count(), 0);
        let (left, answers) = table.disconnected(first);
        assert_eq!((left, answers), (None, vec![]));
    }
}
