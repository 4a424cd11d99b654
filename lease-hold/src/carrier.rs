//! Who carries the last deadline: the init of a PID namespace, or the [`Keeper`](crate::keeper).
//! It acts even when lease-hold and lease-join are both stopped.

use crate::alarm::Alarm;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::id::{Generation, Name};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long lease-join's files may take to be read.
const FILES_WITHIN: Duration = Duration::from_millis(50);

/// What lease-hold says to a carrier, again and again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LastMoment {
    /// All is killed then.
    pub(crate) at: Moment,
}

/// What one has to know to carry the last deadline.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Carried {
    /// All is killed then, unless something was renewed meanwhile.
    pub(crate) last_moment: Moment,
    /// The hosts that hold the leases.
    pub(crate) hosts: Vec<CarriedHost>,
}

/// One host that holds leases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CarriedHost {
    /// Of which lockspace.
    pub(crate) lockspace: Name,
    /// The life of it that holds them.
    pub(crate) generation: Generation,
    /// From its last renewal to the last moment.
    pub(crate) lapse: Duration,
}

/// The last deadline, as far as its carrier knows of it.
pub(crate) struct Carrier {
    wire: Wire,
    files: Option<Files>,
    clock: BootClock,
    last: Moment,
}

impl Carrier {
    /// It hears of renewals on `wire`, which must not wait. A lease-hold that is stopped hears of
    /// none; then those count that lease-join's own files in `run_dir` tell of.
    pub(crate) fn new(wire: Wire, run_dir: &Path, carried: &Carried) -> Self {
        Self {
            wire,
            files: Files::open(run_dir, &carried.hosts),
            clock: BootClock::default(),
            last: carried.last_moment,
        }
    }

    /// Whether all has to end: it is the last moment that is known of, or there is no lease-hold
    /// any more.
    pub(crate) fn is_over(&mut self) -> bool {
        // Whatever is learned after this is true of this moment too.
        let now = self.clock.now();
        if !hear(&mut self.wire, &mut self.last) {
            return true;
        }
        if now >= self.last {
            let renewed = self.files.as_ref().and_then(Files::last_moment);
            self.last = self.last.max(renewed.unwrap_or_default());
        }
        now >= self.last
    }

    /// Waits until then. An error if it cannot wait.
    pub(crate) fn carry(&mut self, alarm: &Alarm) -> Result<(), Errno> {
        while !self.is_over() {
            let fds = vec![PollFd::new(self.wire.stream().as_fd(), PollFlags::POLLIN)];
            alarm.wait(fds, Some(self.last))?;
        }
        Ok(())
    }

    /// Whether there still is a lease-hold.
    pub(crate) fn is_needed(&mut self) -> bool {
        hear(&mut self.wire, &mut self.last)
    }
}

/// Takes what lease-hold has said. `false`: it is gone.
fn hear(wire: &mut Wire, last: &mut Moment) -> bool {
    let open = wire.drain().unwrap_or(false);
    while let Ok(Some(LastMoment { at })) = wire.take_message() {
        *last = at.max(*last);
    }
    open
}

/// The files in which the lease-joins note their renewals.
#[derive(Debug, Clone)]
pub(crate) struct Files(Arc<Vec<(Place, CarriedHost)>>);

impl Files {
    /// Of these hosts.
    pub(crate) fn open(run_dir: &Path, hosts: &[CarriedHost]) -> Option<Self> {
        let open = |host: &CarriedHost| {
            let place = Place::open(run_dir, &host.lockspace).ok()?;
            Some((place, host.clone()))
        };
        let all = hosts.iter().map(open).collect::<Option<_>>()?;
        Some(Self(Arc::new(all)))
    }

    /// The last moment by what they say; `None` if one of those lives is over.
    fn last_moment(&self) -> Option<Moment> {
        let renewals = self.renewals()?;
        let hosts = self.0.iter().zip(renewals);
        let of = |((_, host), renewed): (&(Place, CarriedHost), Option<Moment>)| {
            Some(renewed?.after(host.lapse))
        };
        hosts.map(of).min().flatten()
    }

    /// The last renewal of each. Looks on another thread: a file may not answer, and there is no
    /// time to wait for it.
    pub(crate) fn renewals(&self) -> Option<Vec<Option<Moment>>> {
        let (tell, told) = channel();
        let files = self.0.clone();
        let look = move || {
            let renewed = |(place, host): &(Place, CarriedHost)| place.renewed(host.generation);
            // Nobody may be waiting any more.
            let _ = tell.send(files.iter().map(renewed).collect());
        };
        std::thread::Builder::new().spawn(look).ok()?;
        told.recv_timeout(FILES_WITHIN).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// Carries a deadline that is so far away, and returns how long it took to end.
    fn carry_for(far: Duration, stream: UnixStream) -> Duration {
        stream.set_nonblocking(true).unwrap();
        let start = BootClock::boot_time();
        let carried = Carried {
            last_moment: start.after(far),
            hosts: Vec::new(),
        };
        let (alarm, nowhere) = (Alarm::new().unwrap(), Path::new("/proc/self"));
        let mut carrier = Carrier::new(Wire::new(stream), nowhere, &carried);
        carrier.carry(&alarm).unwrap();
        BootClock::boot_time().since(start)
    }

    #[test]
    fn all_ends_at_the_last_moment_that_is_known_of() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let short = Duration::from_millis(50);
        assert!(carry_for(short, theirs.try_clone().unwrap()) >= short);
        // Told of a later one, and then of an earlier one, by somebody who says no more.
        let later = Duration::from_millis(300);
        let at = BootClock::boot_time().after(later);
        let mut wire = Wire::new(ours);
        wire.send(&LastMoment { at }).unwrap();
        let at = Moment::default();
        wire.send(&LastMoment { at }).unwrap();
        let took = carry_for(short, theirs);
        assert!(took > later - short, "{took:?}");
    }

    #[test]
    fn before_anything_starts_it_is_known_whether_it_is_too_late() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let carried = Carried {
            last_moment: BootClock::boot_time(),
            hosts: Vec::new(),
        };
        let mut carrier = Carrier::new(Wire::new(theirs), Path::new("/proc/self"), &carried);
        assert!(carrier.is_over());
        // What lease-hold has said meanwhile counts.
        let at = BootClock::boot_time().after(Duration::from_secs(3600));
        let mut wire = Wire::new(ours);
        wire.send(&LastMoment { at }).unwrap();
        assert!(!carrier.is_over());
        drop(wire);
        assert!(carrier.is_over());
    }

    #[test]
    fn all_ends_at_once_without_a_lease_hold() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(carry_for(Duration::from_secs(3600), theirs) < Duration::from_secs(60));
    }
}
