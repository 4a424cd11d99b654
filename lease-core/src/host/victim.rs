//! A holder that is to die, with what it started.

use crate::cgroup::Remains;
use crate::contain::{Containment, Guarded};
use crate::registry::table::Holder;
use crate::surroundings::Surroundings;

/// A lease-hold and what it has started, as far as it is known.
#[derive(Debug)]
pub(super) struct Victim<P> {
    /// The lease-hold, if it was alive when it was last seen.
    pub(super) holder: Option<P>,
    /// What it started.
    guarded: Option<Guarded>,
    /// The first process of that, if it was found.
    first: Option<P>,
}

impl<P> Victim<P> {
    /// A lease-hold of which nothing is known yet.
    pub(super) fn unknown() -> Self {
        Self {
            holder: None,
            guarded: None,
            first: None,
        }
    }

    /// What it is to start, with the first process of that.
    pub(super) fn starts(&mut self, guarded: Guarded, first: P) {
        self.guarded = Some(guarded);
        self.first = Some(first);
    }

    /// It is proven that nothing that was guarded runs, or ever ran.
    pub(super) fn nothing_runs(&mut self) {
        self.guarded = None;
        self.first = None;
    }

    /// Whether it has started anything that may run.
    pub(super) fn guards(&self) -> bool {
        self.guarded.is_some()
    }
}

impl<P: std::fmt::Debug> Victim<P> {
    /// A holder that a former lease-join knew, found again by numbers and starting times.
    pub(super) fn of(around: &impl Surroundings<Process = P>, holder: &Holder) -> Self {
        let guarded = holder.guarded.clone();
        let first = guarded.as_ref();
        Self {
            holder: around.find(holder.process),
            first: first.and_then(|guarded| around.find(guarded.process)),
            guarded,
        }
    }

    /// Whether the lease-hold is dead. What it started may live.
    pub(super) fn is_dead(&self, around: &impl Surroundings<Process = P>) -> bool {
        let dead = |holder| around.is_dead(holder);
        self.holder.as_ref().is_none_or(dead)
    }

    /// Kills, and looks what is left. The lease-hold itself comes first: a stopped one could wake
    /// and go on. Without a guarded process nothing runs.
    pub(super) fn strike(&self, around: &impl Surroundings<Process = P>) -> Remains {
        self.sweep_tree(around);
        self.holder.iter().for_each(|holder| around.kill(holder));
        let of_tree = match &self.guarded {
            Some(guarded) => around.strike(guarded, self.first.as_ref()),
            None => Remains::Nothing,
        };
        match self.is_dead(around) {
            true => of_tree,
            false => Remains::Something,
        }
    }

    /// What is held together by nothing but its lease-hold can be found only while that lives: its
    /// orphans are that one's children.
    fn sweep_tree(&self, around: &impl Surroundings<Process = P>) {
        let tree = |guarded: &Guarded| guarded.containment == Containment::Tree;
        if self.guarded.as_ref().is_some_and(tree)
            && let Some(holder) = self
                .holder
                .as_ref()
                .filter(|holder| !around.is_dead(holder))
        {
            around.kill_descendants(holder);
        }
    }
}
