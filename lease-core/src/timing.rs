//! Every duration of the protocol, from a host's `io_timeout` t and its watchdog promise W.
//!
//! | what | seconds | t=10, W=60 |
//! | --- | --- | --- |
//! | one I/O may take | t | 10 |
//! | renew every | 2t | 20 |
//! | warn after no renewal for | 6t | 60 |
//! | the lease is lost, what is guarded is asked to end, after | 8t | 80 |
//! | lease-hold kills it, if no other grace is asked for, after | 8t + W/2 | 110 |
//! | lease-join kills what a lease-hold has not, after | 8t + 3W/4 | 125 |
//! | whoever carries the last deadline beside lease-hold kills all after | 8t + 7W/8 | 132.5 |
//! | everything that was guarded is dead by | 8t + W | 140 |
//! | another host may take over after more than | 8t + W | 140 |
//!
//! A host counts from **before** it issued its last successful renewal; others count from the
//! last change of the timestamp that they saw, on their own clock, which may run 1 % faster: so
//! they wait 1 % longer.

use crate::record::heartbeat::Heartbeat;
use crate::record::host_note::WATCHDOG_MAX;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The io_timeout of a lockspace that was formatted without one: seconds.
pub const DEFAULT_IO_TIMEOUT: u8 = 10;

/// A host's timing: all its durations follow from these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Timing {
    /// t, seconds, 1..=255.
    io_timeout: u8,
    /// W, seconds, 1..=60.
    watchdog: u16,
}

/// As it is read back.
#[derive(Deserialize)]
struct Unchecked {
    io_timeout: u8,
    watchdog: u16,
}

impl TryFrom<Unchecked> for Timing {
    type Error = &'static str;

    fn try_from(read: Unchecked) -> Result<Self, Self::Error> {
        Self::new(read.io_timeout, read.watchdog).ok_or("t is 1 to 255, W is 1 to 60")
    }
}

impl Timing {
    /// `None` unless t is 1..=255 and W is 1..=60.
    pub fn new(io_timeout: u8, watchdog: u16) -> Option<Self> {
        let valid = io_timeout > 0 && (1..=WATCHDOG_MAX).contains(&watchdog);
        valid.then_some(Self {
            io_timeout,
            watchdog,
        })
    }

    /// What holds for the host of a heartbeat: its own t (or `ours` where it leaves that open),
    /// the W of its note, 60 without a note.
    pub fn of_host(heartbeat: &Heartbeat, ours: Timing) -> Self {
        Self {
            io_timeout: heartbeat.io_timeout().unwrap_or(ours.io_timeout),
            watchdog: heartbeat.note().map_or(WATCHDOG_MAX, |n| n.watchdog),
        }
    }

    /// The one of these with the larger t.
    pub fn slower(self, other: Self) -> Self {
        match self.io_timeout < other.io_timeout {
            true => other,
            false => self,
        }
    }

    /// t in seconds.
    pub fn io_timeout(self) -> u8 {
        self.io_timeout
    }

    /// W in seconds.
    pub fn watchdog(self) -> u16 {
        self.watchdog
    }

    fn times(self, factor: u64) -> Duration {
        Duration::from_secs(factor * u64::from(self.io_timeout))
    }

    /// How long one I/O may take: t.
    pub fn io_limit(self) -> Duration {
        self.times(1)
    }

    /// From one renewal to the next: 2t.
    pub fn renewal_period(self) -> Duration {
        self.times(2)
    }

    /// Without a renewal for this long: warn. 6t.
    pub fn warn_after(self) -> Duration {
        self.times(6)
    }

    /// For so long a host is called by a bit in our heartbeat: each that renews sees it. 6t.
    pub fn call_for(self) -> Duration {
        self.times(6)
    }

    /// Without a renewal for this long the lease is lost: 8t.
    pub fn lost_after(self) -> Duration {
        self.times(8)
    }

    /// Without a renewal for this long everything that was guarded is dead, and for longer,
    /// another host may take over: 8t + W.
    pub fn dead_after(self) -> Duration {
        self.lost_after() + Duration::from_secs(u64::from(self.watchdog))
    }

    /// From the loss of a lease to the moment at which another host may take over: W.
    fn margin(self) -> Duration {
        self.dead_after() - self.lost_after()
    }

    /// From the loss of a lease to SIGKILL by lease-hold, unless another grace is asked for: half
    /// of what there is. W/2.
    pub fn grace(self) -> Duration {
        self.margin() / 2
    }

    /// The longest grace: from then on lease-join kills what a lease-hold has not. 3W/4.
    pub fn grace_most(self) -> Duration {
        self.margin() * 3 / 4
    }

    /// Without a renewal for this long lease-join kills what a lease-hold has not: 8t + 3W/4.
    pub fn strike_after(self) -> Duration {
        self.lost_after() + self.grace_most()
    }

    /// How long after it was taken on the disk lease-join kills what a lease-hold has not: W/4.
    pub fn strike_within(self) -> Duration {
        self.margin() / 4
    }

    /// Without a renewal for this long the init of a PID namespace, or the process beside
    /// lease-hold that stands for it, kills all that is guarded, if nobody else has: 8t + 7W/8.
    pub fn lapse_after(self) -> Duration {
        self.lost_after() + self.margin() * 7 / 8
    }

    /// By the clock of another machine, which may run 1 % faster: what that machine waits for more
    /// than [`Timing::dead_after`] of ours. (8t + W) * 1.01.
    pub fn takeover_after(self) -> Duration {
        by_another_clock(self.dead_after())
    }

    /// How long a joiner looks at a record of its own name: longer than a renewal period. 3t.
    pub fn join_look(self) -> Duration {
        self.times(3)
    }

    /// From writing a joined record to reading it back: 2t.
    pub fn join_settle(self) -> Duration {
        self.times(2)
    }

    /// From reading a free or dead heartbeat to the end of writing ours: 2t less 2 %, so that it
    /// is over before anybody who wrote in the meantime reads back, whichever clock runs faster.
    pub fn join_window(self) -> Duration {
        self.times(2) - self.times(2) / 50
    }

    /// A host whose timestamp was seen to change this recently counts as alive: two renewal
    /// periods, its own and that of the scan which saw it. 4t.
    pub fn seen_alive(self) -> Duration {
        self.times(4)
    }
}

/// How long to wait for what takes this long by the clock of another machine, which may run 1 %
/// slower than ours.
pub fn by_another_clock(theirs: Duration) -> Duration {
    theirs.saturating_add(theirs / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Generation, HostId, Name};
    use crate::layout::Geometry;
    use crate::record::host_note::HostNote;

    #[test]
    fn the_table() {
        let t10 = Timing::new(10, 60).unwrap();
        let seconds = [
            t10.io_limit(),
            t10.renewal_period(),
            t10.warn_after(),
            t10.lost_after(),
            t10.lost_after() + t10.grace(),
            t10.strike_after(),
            t10.lapse_after(),
            t10.dead_after(),
        ]
        .map(|d| d.as_secs_f32());
        assert_eq!(
            seconds,
            [10.0, 20.0, 60.0, 80.0, 110.0, 125.0, 132.5, 140.0]
        );
        let t1 = Timing::new(1, 2).unwrap();
        assert_eq!(t1.dead_after(), Duration::from_secs(10));
        assert_eq!((t1.io_timeout(), t1.watchdog()), (1, 2));
    }

    #[test]
    fn what_is_read_back_is_checked_as_well() {
        let read = |t: u64, w: u64| {
            let json = format!(r#"{{"io_timeout":{t},"watchdog":{w}}}"#);
            serde_json::from_str::<Timing>(&json).ok()
        };
        assert_eq!(read(10, 60), Timing::new(10, 60));
        for (t, w) in [(0, 60), (256, 60), (10, 0), (10, 61)] {
            assert_eq!(read(t, w), None, "{t} {w}");
        }
    }

    #[test]
    fn the_times_beside_the_table() {
        let t10 = Timing::new(10, 60).unwrap();
        let seconds = [
            t10.grace_most(),
            t10.strike_within(),
            t10.join_look(),
            t10.join_settle(),
            t10.seen_alive(),
        ]
        .map(|d| d.as_secs());
        assert_eq!(seconds, [45, 15, 30, 20, 40]);
    }

    #[test]
    fn what_two_clocks_measure_leaves_room_for_one_percent() {
        let t10 = Timing::new(10, 60).unwrap();
        assert_eq!(t10.takeover_after(), Duration::from_millis(141_400));
        assert_eq!(t10.join_window(), Duration::from_millis(19_600));
        assert!(t10.join_window().mul_f64(1.01) < t10.join_settle());
    }

    #[test]
    fn rule_12_what_a_watcher_promises_itself_says_nothing_of_others() {
        let name = Name::new(b"n").unwrap();
        let note = HostNote {
            watchdog: 2,
            host: HostId::new(3).unwrap(),
            generation: Generation(5),
            boot_id: [0; 16],
            former_over: 1,
        };
        let with = Heartbeat::new(Geometry::ALL[0], &name, 1).joined(&name, 7, 1, note);
        let mut sector = with.to_sector();
        sector[200..256].fill(0);
        let without = Heartbeat::decode(&sector).unwrap();
        for ours in [1, 60].map(|watchdog| Timing::new(10, watchdog).unwrap()) {
            for (record, watchdog) in [(with, 2), (without, WATCHDOG_MAX)] {
                let timing = Timing::of_host(&record, ours);
                assert_eq!(timing, Timing::new(1, watchdog).unwrap());
            }
        }
    }

    #[test]
    fn rule_12_nobody_promises_more_than_sixty_seconds_or_none_at_all() {
        assert_eq!(Timing::new(10, 61), None);
        assert_eq!(Timing::new(10, 0), None);
        assert_eq!(Timing::new(0, 60), None);
    }
}
