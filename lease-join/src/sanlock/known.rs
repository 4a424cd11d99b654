//! What the lease-joins of this host know, whoever has started them.

use lease_core::clock::{BootClock, Moment};
use lease_core::id::Name;
use lease_core::registry::asking;
use lease_core::registry::message::{DescribedClaim, DescribedHolder, Description, Phase};
use lease_core::registry::place::Place;
use std::path::Path;
use std::time::Duration;

/// How long one may take to answer: one that is stopped does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What one of them knows.
#[derive(Debug)]
pub(super) struct Known {
    /// It was asked after this moment.
    pub(super) asked_at: Moment,
    /// Its process id.
    pub(super) pid: i32,
    /// All that it knows.
    pub(super) says: Description,
}

impl Known {
    /// That of one lockspace; `None`: none answers.
    pub(super) fn look(run_dir: &Path, name: &Name) -> Option<Self> {
        let place = Place::open(run_dir, name).ok()?;
        let asked_at = BootClock::boot_time();
        let (says, pid) = asking::describe(&place, ANSWER_WITHIN).ok()?;
        Some(Self {
            asked_at,
            pid,
            says,
        })
    }

    /// All that answer.
    pub(super) fn all(run_dir: &Path) -> Vec<Self> {
        let names = Place::all(run_dir).unwrap_or_default();
        let look = |name: &Name| Self::look(run_dir, name);
        names.iter().filter_map(look).collect()
    }

    /// Whether the host id is held.
    pub(super) fn is_alive(&self) -> bool {
        self.says.state == "serving"
    }

    /// Every lease that somebody here holds or wants, with the holder.
    pub(super) fn claims(&self) -> impl Iterator<Item = (&DescribedHolder, &DescribedClaim)> {
        let holders = self.says.holders.iter();
        holders.flat_map(|holder| holder.resources.iter().map(move |claim| (holder, claim)))
    }
}

/// Whether a phase is that of a lease that is held.
pub(super) fn is_held(phase: Phase) -> bool {
    matches!(phase, Phase::Held(_))
}
