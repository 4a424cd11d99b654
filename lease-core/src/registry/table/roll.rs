//! The holders by their numbers. Whatever way leads to one that lets it be changed notes that it
//! may be another from then on: what is written of the changes is whole.

use super::Holder;
use crate::registry::message::HolderId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// All holders.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Roll {
    holders: BTreeMap<HolderId, Holder>,
    #[serde(skip)]
    changed: BTreeSet<HolderId>,
}

impl PartialEq for Roll {
    /// The same holders, whenever they became what they are.
    fn eq(&self, other: &Self) -> bool {
        self.holders == other.holders
    }
}

impl Eq for Roll {}

impl Roll {
    pub(super) fn get(&self, id: HolderId) -> Option<&Holder> {
        self.holders.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (HolderId, &Holder)> {
        self.holders.iter().map(|(id, holder)| (*id, holder))
    }

    pub(super) fn last(&self) -> Option<HolderId> {
        self.holders.keys().next_back().copied()
    }

    pub(super) fn get_mut(&mut self, id: HolderId) -> Option<&mut Holder> {
        let found = self.holders.get_mut(&id)?;
        self.changed.insert(id);
        Some(found)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Holder> {
        self.changed.extend(self.holders.keys());
        self.holders.values_mut()
    }

    pub(super) fn put(&mut self, id: HolderId, holder: Holder) {
        self.changed.insert(id);
        self.holders.insert(id, holder);
    }

    pub(super) fn remove(&mut self, id: HolderId) {
        self.changed.insert(id);
        self.holders.remove(&id);
    }

    /// Those that may have changed since the last time that this was asked, as they are now; `None`
    /// stands for one that is not there any more.
    pub(super) fn take_changes(&mut self) -> BTreeMap<HolderId, Option<Holder>> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let now = |id| (id, self.holders.get(&id).cloned());
        changed.map(now).collect()
    }
}
