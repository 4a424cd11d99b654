//! How long a host id is still ours, as far as anybody on this host knows.

use crate::clock::Moment;
use crate::timing::Timing;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What every user of a host id knows of its renewals, shared between threads. Whoever writes to
/// the disk in the name of the host asks it first.
#[derive(Debug)]
pub struct Tenure {
    timing: Timing,
    renewed: AtomicU64,
    lost: AtomicBool,
}

impl Tenure {
    /// Of a host id that was last renewed at `renewed`.
    pub fn new(timing: Timing, renewed: Moment) -> Self {
        Self {
            timing,
            renewed: AtomicU64::new(renewed.0),
            lost: AtomicBool::new(false),
        }
    }

    /// Its t and W.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Notes a renewal that was issued at `renewed`; an older one changes nothing.
    pub fn note_renewal(&self, renewed: Moment) {
        self.renewed.fetch_max(renewed.0, Ordering::SeqCst);
    }

    /// Notes that the host id is lost. There is no way back.
    pub fn note_loss(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// The moment before the last known renewal was issued.
    pub fn renewed(&self) -> Moment {
        Moment(self.renewed.load(Ordering::SeqCst))
    }

    /// When the lease is lost, unless it is renewed before: 8t after the last renewal; at once
    /// after a loss.
    pub fn deadline(&self) -> Moment {
        if self.is_lost() {
            return Moment::default();
        }
        self.renewed().after(self.timing.lost_after())
    }

    /// Whether a loss was noted.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// Whether the host id is still ours at `now`.
    pub fn holds(&self, now: Moment) -> bool {
        now < self.deadline()
    }
}
