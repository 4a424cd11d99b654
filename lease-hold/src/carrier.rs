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
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long is waited for lease-join's files to be read.
const FILES_WITHIN: Duration = Duration::from_millis(50);
/// How often they are looked at before the last moment, once lease-hold is silent.
const LOOKS: u32 = 8;

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
    /// From the loss of its lease to the last moment.
    pub(crate) early: Duration,
}

/// The last deadline, as far as its carrier knows of it.
pub(crate) struct Carrier {
    wire: Wire,
    files: Option<Files>,
    clock: BootClock,
    last: Moment,
    /// So long before it the files are looked at for the first time.
    early: Duration,
    /// When they were looked at.
    looked: Moment,
}

impl Carrier {
    /// It hears of renewals on `wire`, which must not wait. A lease-hold that is stopped hears of
    /// none; then those count that lease-join's own files in `run_dir` tell of.
    pub(crate) fn new(wire: Wire, run_dir: &Path, carried: &Carried) -> Self {
        let early = carried.hosts.iter().map(|host| host.early).min();
        Self {
            wire,
            files: Files::open(run_dir, &carried.hosts),
            clock: BootClock::default(),
            last: carried.last_moment,
            early: early.unwrap_or_default(),
            looked: Moment::default(),
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
        if now >= self.looks_at() {
            self.looked = now;
            let renewed = self.files.as_mut().and_then(Files::last_moment);
            self.last = self.last.max(renewed.unwrap_or_default());
        }
        now >= self.last
    }

    /// When the files are looked at: at the last moment, and some times before, since a busy
    /// machine may take long to show them.
    fn looks_at(&self) -> Moment {
        let again = self.looked.after(self.early / LOOKS);
        self.last.before(self.early).max(again).min(self.last)
    }

    /// Waits until then. An error if it cannot wait.
    pub(crate) fn carry(&mut self, alarm: &Alarm) -> Result<(), Errno> {
        while !self.is_over() {
            let fds = vec![PollFd::new(self.wire.stream().as_fd(), PollFlags::POLLIN)];
            alarm.wait(fds, Some(self.looks_at()))?;
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

/// What was last renewed of each host.
type Renewals = Vec<Option<Moment>>;

/// The files in which the lease-joins note their renewals.
#[derive(Debug)]
pub(crate) struct Files {
    places: Arc<Vec<(Place, CarriedHost)>>,
    /// A look at them that has not come to its end.
    look: Option<Receiver<Renewals>>,
}

impl Files {
    /// Of these hosts.
    pub(crate) fn open(run_dir: &Path, hosts: &[CarriedHost]) -> Option<Self> {
        let open = |host: &CarriedHost| {
            let place = Place::open(run_dir, &host.lockspace).ok()?;
            Some((place, host.clone()))
        };
        let all = hosts.iter().map(open).collect::<Option<_>>()?;
        Some(Self {
            places: Arc::new(all),
            look: None,
        })
    }

    /// The last moment by what they say; `None` if one of those lives is over.
    fn last_moment(&mut self) -> Option<Moment> {
        let renewals = self.renewals()?;
        let hosts = self.places.iter().zip(renewals);
        let of = |((_, host), renewed): (&(Place, CarriedHost), Option<Moment>)| {
            Some(renewed?.after(host.lapse))
        };
        hosts.map(of).min().flatten()
    }

    /// The last renewal of each, as far as that can be read in a moment. What takes longer is
    /// asked for once, and told the next time.
    pub(crate) fn renewals(&mut self) -> Option<Renewals> {
        let earlier = self.look.as_ref().and_then(|look| look.try_recv().ok());
        if earlier.is_some() || self.look.is_none() {
            self.look = self.begin_to_look();
        }
        let told = self.look.as_ref()?.recv_timeout(FILES_WITHIN);
        if told != Err(RecvTimeoutError::Timeout) {
            self.look = None;
        }
        told.ok().or(earlier)
    }

    /// Looks on another thread: a file may not answer, and there is no time to wait for it.
    fn begin_to_look(&self) -> Option<Receiver<Renewals>> {
        let (tell, told) = channel();
        let places = Arc::clone(&self.places);
        let look = move || {
            let renewed = |(place, host): &(Place, CarriedHost)| place.renewed(host.generation);
            // Nobody may be waiting any more.
            let _ = tell.send(places.iter().map(renewed).collect());
        };
        std::thread::Builder::new().spawn(look).ok()?;
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::registry::place::Kept;
    use nix::sys::stat::Mode;
    use std::fs::File;
    use std::io::Write;
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

    #[test]
    fn what_is_read_slowly_is_heard_of_before_the_last_moment() {
        let run_dir = std::env::temp_dir().join(format!("lease-carrier-{}", std::process::id()));
        let lockspace = Name::new(b"LS").unwrap();
        let place = Place::create(&run_dir, &lockspace).unwrap();
        let start = BootClock::boot_time();
        let after = move |millis| start.after(Duration::from_millis(millis));
        let life = format!(r#"{{"generation":1,"renewed":{}}}"#, after(500).0);
        place.write(Kept::Holders, life.as_bytes()).unwrap();
        let sealed = std::fs::read(place.shown().join(Kept::Holders.name())).unwrap();
        let file = place.shown().join(Kept::Heartbeat.name());
        nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
        // Whoever reads it waits for half a second; the next one for ever.
        let write = move || {
            let mut file = File::options().write(true).open(file).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            file.write_all(&sealed).unwrap();
        };
        let writer = std::thread::spawn(write);

        let (_ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let host = CarriedHost {
            lockspace,
            generation: Generation(1),
            lapse: Duration::from_millis(3500),
            early: Duration::from_millis(1750),
        };
        let carried = Carried {
            last_moment: after(2000),
            hosts: vec![host],
        };
        let mut carrier = Carrier::new(Wire::new(theirs), &run_dir, &carried);
        carrier.carry(&Alarm::new().unwrap()).unwrap();
        let ended = BootClock::boot_time();
        writer.join().unwrap();
        std::fs::remove_dir_all(run_dir).unwrap();
        assert!(ended >= after(4000), "{:?}", ended.since(start));
    }
}
