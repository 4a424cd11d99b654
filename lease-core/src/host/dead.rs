//! Holders that are not connected: those of a former lease-join that may come back, those that have
//! ended until all that they started is proven gone, and what of theirs is given back.

use super::giving_back::Lease;
use super::victim::Victim;
use crate::cgroup::Remains;
use crate::registry::message::{HolderId, Phase};
use crate::registry::table::Table;
use crate::surroundings::Surroundings;
use std::collections::{BTreeMap, BTreeSet};

/// All of them.
#[derive(Debug)]
pub(super) struct Dead<P> {
    /// Holders of a former lease-join that have not come back yet.
    awaited: BTreeMap<HolderId, Victim<P>>,
    /// Holders that have ended, until all that they started is proven gone.
    graves: BTreeMap<HolderId, Victim<P>>,
    /// Resources whose holder may have been writing to the disk when it died.
    died_writing: BTreeSet<Lease>,
    /// Resources that are being given back for a holder that has ended, and why they are not yet.
    giving_back: BTreeMap<Lease, String>,
}

impl<P: std::fmt::Debug> Dead<P> {
    /// The holders of a former lease-join are awaited.
    pub(super) fn awaiting(table: &Table, around: &impl Surroundings<Process = P>) -> Self {
        let holders = table.holders();
        let awaited = holders.map(|(id, holder)| (id, Victim::of(around, holder)));
        Self {
            awaited: awaited.collect(),
            graves: BTreeMap::new(),
            died_writing: BTreeSet::new(),
            giving_back: BTreeMap::new(),
        }
    }

    /// Whether any holder is awaited, or is to be seen dead with all that it started.
    pub(super) fn are_to_be_seen(&self) -> bool {
        self.is_awaiting() || self.is_striking()
    }

    /// Whether any holder is awaited.
    pub(super) fn is_awaiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Whether any holder is to be seen dead with all that it started.
    pub(super) fn is_striking(&self) -> bool {
        !self.graves.is_empty()
    }

    // ---- those who may come back

    /// An awaited holder is back, with what it has started.
    pub(super) fn comes_back(&mut self, id: HolderId) -> Option<Victim<P>> {
        self.awaited.remove(&id)
    }

    /// Takes out those who are dead, and will not come back.
    pub(super) fn take_lost(
        &mut self,
        around: &impl Surroundings<Process = P>,
    ) -> Vec<(HolderId, Victim<P>)> {
        let dead = self
            .awaited
            .iter()
            .filter(|(_, victim)| victim.is_dead(around));
        let dead: Vec<HolderId> = dead.map(|(id, _)| *id).collect();
        let taken = dead.into_iter().map(|id| (id, self.awaited.remove(&id)));
        taken
            .filter_map(|(id, victim)| Some((id, victim?)))
            .collect()
    }

    /// Kills those who have not come back, and what they started.
    pub(super) fn strike_awaited(&self, around: &impl Surroundings<Process = P>) {
        self.awaited.values().for_each(|victim| {
            victim.strike(around);
        });
    }

    // ---- those who have ended

    /// This holder has ended and has left something.
    pub(super) fn bury(&mut self, id: HolderId, victim: Victim<P>) {
        self.graves.insert(id, victim);
    }

    /// Kills those who have ended and all that they started. Takes out those of whom no more is to
    /// be known, with what that is.
    pub(super) fn strike(
        &mut self,
        around: &impl Surroundings<Process = P>,
    ) -> Vec<(HolderId, Remains)> {
        let struck = self.graves.iter();
        let struck = struck.map(|(id, victim)| (*id, victim.strike(around)));
        let known = struck.filter(|(_, remains)| *remains != Remains::Something);
        let known: Vec<_> = known.collect();
        for (id, _) in &known {
            self.graves.remove(id);
        }
        known
    }

    /// Whether this one is still to be seen dead with all that it started.
    pub(super) fn is_buried(&self, id: HolderId) -> bool {
        self.graves.contains_key(&id)
    }

    // ---- what they have left

    /// Notes of which of its resources a holder may have been writing to the disk when it died.
    pub(super) fn note_writing(&mut self, table: &Table, id: HolderId, writes: fn(Phase) -> bool) {
        let claims = table
            .holder(id)
            .into_iter()
            .flat_map(|holder| &holder.claims);
        let wrote = claims.enumerate().filter(|(_, claim)| writes(claim.phase));
        let wrote = wrote.map(|(index, _)| (id, index));
        self.died_writing.extend(wrote);
    }

    /// This lease is to be given back; `Some`: whether its holder may have been writing to the disk
    /// when it died. Once: a turn that it had asked for itself may be on its way when it dies, and
    /// then there are two.
    pub(super) fn begin_to_give_back(&mut self, lease: Lease) -> Option<bool> {
        if self.giving_back.contains_key(&lease) {
            return None;
        }
        self.not_given_back(lease, "its storage has not answered".to_owned());
        Some(self.died_writing.remove(&lease))
    }

    /// It is not given back yet, and why.
    pub(super) fn not_given_back(&mut self, lease: Lease, why: String) {
        self.giving_back.insert(lease, why);
    }

    /// It is given back.
    pub(super) fn given_back(&mut self, lease: Lease) {
        self.giving_back.remove(&lease);
    }

    /// All that is being given back, and why it is not yet.
    pub(super) fn giving_back(&self) -> &BTreeMap<Lease, String> {
        &self.giving_back
    }
}
