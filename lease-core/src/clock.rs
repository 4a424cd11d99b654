//! What the protocols ask of time, and the real clock.
//!
//! Time is CLOCK_BOOTTIME: it never jumps and goes on while the machine is suspended. Two
//! machines' clocks are never compared; they are assumed to run at rates within 1 % of each other.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// A point of this host's time: nanoseconds since boot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Whole seconds since boot.
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// How long it is since `earlier`; zero if that is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `later` after this one.
    pub fn after(self, later: Duration) -> Self {
        let nanos = u64::try_from(later.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// The moment `earlier` before this one; the boot, if that was later.
    pub fn before(self, earlier: Duration) -> Self {
        let nanos = u64::try_from(earlier.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

/// A wait was cut short because the caller is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("interrupted")]
pub struct Interrupted;

/// One host's clock.
pub trait Clock {
    /// Now. Never goes back.
    fn now(&self) -> Moment;

    /// Lets `duration` pass. Returns early, with an error, once the caller is told to stop.
    fn wait(&self, duration: Duration) -> Result<(), Interrupted>;

    /// Lets a random time below `most` pass, whether or not the caller is told to stop: for a
    /// step that must be brought to its end.
    fn back_off(&self, most: Duration);
}

/// CLOCK_BOOTTIME, and a way to cut waits short from another thread.
#[derive(Debug, Clone, Default)]
pub struct BootClock {
    stop: Arc<(Mutex<bool>, Condvar)>,
}

impl BootClock {
    /// Cuts short every wait on this clock and its clones, from now on.
    pub fn interrupt(&self) {
        let (stopped, wake) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
    }

    /// Whether [`BootClock::interrupt`] was called.
    pub fn is_interrupted(&self) -> bool {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current moment of CLOCK_BOOTTIME.
    pub fn boot_time() -> Moment {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        // It cannot fail on a kernel that has the clock, and every kernel with pidfds has it.
        let now = now.map(Duration::from).unwrap_or_default();
        Moment::default().after(now)
    }
}

impl Clock for BootClock {
    fn now(&self) -> Moment {
        Self::boot_time()
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        let (stopped, wake) = &*self.stop;
        let until = self.now().after(duration);
        let mut stop = stopped.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.since(self.now());
            if *stop {
                return Err(Interrupted);
            }
            if left.is_zero() {
                return Ok(());
            }
            stop = wake
                .wait_timeout(stop, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn back_off(&self, most: Duration) {
        std::thread::sleep(most.mul_f64(fastrand::f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_far_away_is_the_last_moment() {
        let last = Moment(u64::MAX);
        for (from, later) in [(5, Duration::MAX), (u64::MAX - 5, Duration::from_nanos(6))] {
            assert_eq!(Moment(from).after(later), last);
        }
    }

    #[test]
    fn an_interrupt_ends_a_wait_from_another_thread_and_bars_the_next() {
        let clock = BootClock::default();
        let other = clock.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(600)));
        clock.interrupt();
        assert_eq!(waiter.join().unwrap(), Err(Interrupted));
        assert_eq!(clock.wait(Duration::ZERO), Err(Interrupted));
    }

    #[test]
    fn a_wait_lasts_as_long_as_asked() {
        let clock = BootClock::default();
        let start = clock.now();
        clock.wait(Duration::from_millis(20)).unwrap();
        assert!(clock.now().since(start) >= Duration::from_millis(20));
    }
}
