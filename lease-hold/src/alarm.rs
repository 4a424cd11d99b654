//! A clock to wait on: CLOCK_BOOTTIME itself. It rings at its moment, however long the wait and
//! whatever part of it the machine was suspended for; a time limit of a socket or of poll(2) is
//! late by a share of its length, and stands still in between.

use lease_core::clock::Moment;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::AsFd;
use std::time::Duration;

/// A timer.
#[derive(Debug)]
pub(crate) struct Alarm(TimerFd);

impl Alarm {
    /// One that does not ring yet.
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map(Self)
    }

    /// Waits until one of `fds` has news or it is `until`; for ever without that.
    pub(crate) fn wait<'a>(
        &'a self,
        mut fds: Vec<PollFd<'a>>,
        until: Option<Moment>,
    ) -> Result<(), Errno> {
        match until {
            Some(until) => {
                // Zero would turn it off.
                let at = Duration::from_nanos(until.0.max(1));
                let at = Expiration::OneShot(TimeSpec::from_duration(at));
                self.0.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.0.unset()?,
        }
        fds.push(PollFd::new(self.0.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::clock::BootClock;

    #[test]
    fn it_rings_at_its_moment_and_not_before() {
        let alarm = Alarm::new().unwrap();
        let start = BootClock::boot_time();
        let until = start.after(Duration::from_millis(100));
        alarm.wait(Vec::new(), Some(until)).unwrap();
        assert!(BootClock::boot_time() >= until);
        // What is over rings at once.
        for past in [start, Moment::default()] {
            alarm.wait(Vec::new(), Some(past)).unwrap();
        }
    }

    #[test]
    fn a_long_wait_ends_at_its_moment_too() {
        let alarm = Alarm::new().unwrap();
        let far = Duration::from_secs(8 * 255 + 60);
        let until = BootClock::boot_time().after(far);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(ours);
        let fds = vec![PollFd::new(theirs.as_fd(), PollFlags::POLLIN)];
        alarm.wait(fds, Some(until)).unwrap();
        let Some(Expiration::OneShot(left)) = alarm.0.get().unwrap() else {
            panic!("it is not set");
        };
        let rings = BootClock::boot_time().after(Duration::from(left));
        let late = rings.since(until);
        assert!(late < Duration::from_secs(5), "{late:?}");
        assert!(rings >= until);
    }
}
