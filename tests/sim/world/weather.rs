//! What goes wrong in a world, and how often.

use super::{MILLI, SECOND};
use fastrand::Rng;

/// An assumption of lease.7 that does not hold in a world; there the checker must find what it
/// is there to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// a: a completed write is what every later read returns.
    StaleReads,
    /// b: clocks run at rates within 1 % of each other.
    Clocks,
    /// c: a write lands within 8t+W of its issue, or never.
    LateWrites,
    /// d: without a watchdog device a host is not frozen for longer than its guards can stand.
    Freezes,
    /// e: commands end when they are killed.
    Guard,
    /// A host name is one machine's: a copy of a machine, name and all, joins as that machine.
    Names,
}

/// What kind of world it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without watchdogs: stalls are bounded.
    Plain,
    /// With watchdogs: stalls are not, but end with a reset.
    Watchdog,
    /// One assumption is broken.
    Broken(Broken),
    /// Some machines run the sanlock daemon, in a world without what that does not survive.
    Mixed,
    /// All do.
    Sanlock,
}

impl Kind {
    pub(super) fn has_sanlock(self) -> bool {
        matches!(self, Self::Mixed | Self::Sanlock)
    }
}

/// How things go wrong, and how often; shares are of a thousand.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    /// Usual time of an I/O.
    pub(super) latency: u64,
    pub(super) slow: u64,
    pub(super) stall: u64,
    pub(super) stall_most: u64,
    pub(super) fail: u64,
    pub(super) time_out: u64,
    /// Of the timed-out writes, how many land.
    pub(super) lands: u64,
    /// Mean time between two of these, per machine; 0 = none.
    pub(super) crash_every: u64,
    pub(super) kill_every: u64,
    pub(super) cut_every: u64,
    pub(super) stop_every: u64,
    /// lease-join is killed.
    pub(super) die_every: u64,
    /// A process is sent SIGSTOP, and SIGCONT later.
    pub(super) halt_every: u64,
    /// Per disk: it goes out of reach.
    pub(super) dark_every: u64,
    /// Longest time that a letter takes on a machine.
    pub(super) post: u64,
}

impl Weather {
    pub(super) fn calm() -> Self {
        Self {
            latency: 2 * MILLI,
            slow: 0,
            stall: 0,
            stall_most: 0,
            fail: 0,
            time_out: 0,
            lands: 0,
            crash_every: 0,
            kill_every: 0,
            cut_every: 0,
            stop_every: 0,
            die_every: 0,
            halt_every: 0,
            dark_every: 0,
            post: MILLI,
        }
    }

    /// The same things go wrong, but seldom.
    pub(super) fn milder(self) -> Self {
        const BY: u64 = 5;
        Self {
            stall: self.stall.div_ceil(BY),
            fail: self.fail.div_ceil(BY),
            time_out: self.time_out.div_ceil(BY),
            crash_every: self.crash_every * BY,
            kill_every: self.kill_every * BY,
            cut_every: self.cut_every * BY,
            stop_every: self.stop_every * BY,
            die_every: self.die_every * BY,
            halt_every: self.halt_every * BY,
            ..self
        }
    }

    /// Nothing but that machines are cut off and processes stopped, often, and that I/O may be
    /// slow.
    pub(super) fn tight(self, rng: &mut Rng) -> Self {
        Self {
            latency: self.latency,
            slow: if rng.bool() { 300 } else { 0 },
            cut_every: 20 * SECOND,
            halt_every: 10 * SECOND,
            ..Self::calm()
        }
    }

    pub(super) fn random(rng: &mut Rng, kind: Kind, watchdog: u64) -> Self {
        let mut rare = |most: u64| if rng.bool() { rng.u64(0..=most) } else { 0 };
        let (slow, stall, fail) = (rare(100), rare(100), rare(30));
        let (time_out, crash, kill, cut) = (rare(40), rare(100), rare(100), rare(100));
        let (stop, die, halt) = (rare(100), rare(200), rare(200));
        let every = |often: u64| (2000 * SECOND).checked_div(often).unwrap_or(0);
        if kind.has_sanlock() {
            // Its rules are safe while no I/O fails, reads are of one moment, and nobody stalls.
            // Processes of its machines are not killed or stopped: see `World::is_spared`.
            return Self {
                latency: [100_000, 2 * MILLI, 50 * MILLI][rng.usize(..3)],
                crash_every: every(crash),
                kill_every: every(kill),
                stop_every: every(stop),
                die_every: every(die),
                halt_every: every(halt),
                ..Self::calm()
            };
        }
        let stall_most = match kind {
            // Longer than all that is waited for.
            Kind::Watchdog => 3 * (8 * SECOND + watchdog),
            // One thread; whole processes stop for longer.
            _ => watchdog * 98 / 100,
        };
        Self {
            latency: [100_000, 2 * MILLI, 50 * MILLI][rng.usize(..3)],
            slow,
            stall,
            stall_most,
            fail,
            time_out,
            lands: rng.u64(0..=1000),
            crash_every: every(crash),
            kill_every: every(kill),
            cut_every: every(cut),
            stop_every: every(stop),
            die_every: every(die),
            halt_every: every(halt),
            dark_every: 0,
            post: [0, MILLI, 20 * MILLI][rng.usize(..3)],
        }
    }
}
