//! SIGTERM, SIGINT and SIGHUP: leave. SIGUSR1: end, and leave all as it is. Both cut waits short
//! and wake the server. SIGINT and SIGHUP stay ignored if they were at the start: nohup(1), or a
//! shell that starts this in the background.

use anyhow::Context;
use lease_core::clock::BootClock;
use rustix::event::{EventfdFlags, eventfd};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A descriptor that turns readable when another thread has news.
#[derive(Debug, Clone)]
pub(crate) struct Wake(Arc<OwnedFd>);

impl Wake {
    fn new() -> anyhow::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(
            eventfd(0, flags).context("cannot make an eventfd")?,
        )))
    }

    /// Makes it readable.
    pub(crate) fn wake(&self) {
        // A full counter is readable already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Makes it unreadable until the next [`Wake::wake`].
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether this process was told to leave.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Its waits end with the signal.
    pub(crate) clock: BootClock,
    /// Readable after the signal.
    pub(crate) wake: Wake,
    end: Arc<AtomicBool>,
}

impl Signals {
    /// From now on the signals are heard.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let signals = Self {
            clock: BootClock::default(),
            wake: Wake::new()?,
            end: Arc::default(),
        };
        let told = signals.clone();
        let ignored = ignored();
        let optional = [SIGINT, SIGHUP].into_iter();
        let optional = optional.filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let watched = [SIGTERM, SIGUSR1].into_iter().chain(optional);
        let mut incoming =
            signal_hook::iterator::Signals::new(watched).context("cannot watch for signals")?;
        let hear = move || {
            for signal in incoming.forever() {
                if signal == SIGUSR1 {
                    told.end.store(true, Ordering::SeqCst);
                }
                told.clock.interrupt();
                told.wake.wake();
            }
        };
        let started = std::thread::Builder::new().spawn(hear);
        started.context("cannot start a thread")?;
        Ok(signals)
    }

    /// Whether this process is to end at once, and to leave all as it is.
    pub(crate) fn told_to_end(&self) -> bool {
        self.end.load(Ordering::SeqCst)
    }

    /// Whether a signal has come.
    pub(crate) fn told_to_leave(&self) -> bool {
        self.clock.is_interrupted()
    }
}

/// The signals that this process ignores, as /proc shows them: bit n stands for signal n + 1. None
/// where that cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
