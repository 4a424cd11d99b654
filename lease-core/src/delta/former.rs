//! What is kept of a host id for the next lease-join of the same boot.

use crate::clock::Moment;
use crate::id::Generation;
use crate::timing::Timing;
use serde::{Deserialize, Serialize};

/// What an earlier process of the same boot knew of its host id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Which life of the host it was.
    pub generation: Generation,
    /// The timestamp of its last completed write.
    pub written: u64,
    /// The timestamps of writes that have not completed, and may still land.
    #[serde(default)]
    pub unsure: Vec<u64>,
    /// The moment before the last completed renewal was issued.
    pub renewed: Moment,
    /// Its [`ballots_from`](super::HostLease::ballots_from).
    pub ballots_from: Moment,
}

impl Former {
    /// A write with this timestamp is about to be issued: to be kept before it is.
    pub fn issue(&mut self, timestamp: u64, timing: Timing) {
        // Twice as long as a write can be on its way: timestamps may run ahead of the clock.
        let long = 2 * timing.takeover_after().as_secs();
        self.unsure
            .retain(|earlier| earlier.saturating_add(long) >= timestamp);
        self.unsure.push(timestamp);
    }

    /// The write with this timestamp has completed; `issued` is the moment before it was issued.
    pub fn complete(&mut self, timestamp: u64, issued: Moment) {
        (self.written, self.renewed) = (timestamp, issued);
        self.unsure.retain(|unsure| *unsure != timestamp);
    }

    /// From when on, as it looks at `now`, none of its writes can land any more. Nobody knows when
    /// the last of them was issued, but it was before.
    pub fn quiet_from(&self, timing: Timing, now: Moment) -> Moment {
        match self.unsure.is_empty() {
            true => Moment::default(),
            false => now.after(timing.takeover_after()),
        }
    }
}
