//! Time: one true clock, and every machine's own view of it.

use lease_core::clock::Moment;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A point of true time, in nanoseconds; only the world and the checker know it.
pub type Instant = u64;

/// One machine's clock: another offset, a rate up to 1 % faster than the true one.
#[derive(Debug)]
pub struct Face {
    true_now: Rc<Cell<Instant>>,
    offset: u64,
    /// Millionths that it runs fast.
    fast_ppm: u64,
    stopped: Cell<bool>,
}

impl Face {
    /// A clock that shows `offset` at true time 0 and gains `fast_ppm` millionths.
    pub fn new(true_now: Rc<Cell<Instant>>, offset: Duration, fast_ppm: u64) -> Self {
        Self {
            true_now,
            offset: u64::try_from(offset.as_nanos()).unwrap_or(0),
            fast_ppm,
            stopped: Cell::new(false),
        }
    }

    /// What it shows.
    pub fn now(&self) -> Moment {
        self.at(self.true_now.get())
    }

    /// When it will show `moment`, or shows something later.
    pub fn when(&self, moment: Moment) -> Instant {
        let elapsed = u128::from(moment.0.saturating_sub(self.offset)) * 1_000_000;
        let rate = u128::from(1_000_000 + self.fast_ppm);
        u64::try_from(elapsed.div_ceil(rate)).unwrap_or(u64::MAX)
    }

    /// The same clock, as another process sees it.
    pub fn another(&self) -> Self {
        Self {
            true_now: Rc::clone(&self.true_now),
            stopped: Cell::new(false),
            ..*self
        }
    }

    /// Cuts every wait short from now on: the process is told to stop.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Lets waits pass again: the next process of the same thread.
    pub fn go_on(&self) {
        self.stopped.set(false);
    }

    /// What it shows at a point of true time.
    pub fn at(&self, instant: Instant) -> Moment {
        let elapsed = u128::from(instant) * u128::from(1_000_000 + self.fast_ppm);
        Moment(self.offset + u64::try_from(elapsed / 1_000_000).unwrap_or(u64::MAX / 2))
    }

    /// Whether waits are cut short.
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }
}
