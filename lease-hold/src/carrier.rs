//! What a carrier of the last deadline hears of its lease-hold, and reads of the lease-joins.

use crate::alarm::Alarm;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::holder::carrier::{
    Carried, CarriedHost, CarrierSurroundings, LastMoment, Renewals, Said,
};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long is waited for lease-join's files to be read.
const FILES_WITHIN: Duration = Duration::from_millis(50);

/// The machine, as a carrier sees it.
pub(crate) struct Control {
    wire: Wire,
    run_dir: PathBuf,
    files: Option<Files>,
    clock: BootClock,
    alarm: Alarm,
}

impl Control {
    /// It hears its lease-hold on `wire`, which must not wait, and finds lease-joins' files in
    /// `run_dir`.
    pub(crate) fn new(wire: Wire, run_dir: &Path, carried: &Carried) -> Result<Self, Errno> {
        Ok(Self {
            wire,
            run_dir: run_dir.to_owned(),
            files: Files::open(run_dir, &carried.hosts),
            clock: BootClock::default(),
            alarm: Alarm::new()?,
        })
    }
}

/// Says to a carrier what is held from now on. What it was told of before, and has not heard yet,
/// says nothing of that.
pub(crate) fn say_carried(wire: &mut Wire, carried: &Carried) {
    // One that is gone is not missed while two others are there.
    let _ = wire.send(carried);
    let _ = wire.send_newest(&LastMoment {
        at: carried.last_moment,
    });
}

impl CarrierSurroundings for Control {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn hear(&mut self) -> (bool, Vec<Said>) {
        let open = self.wire.drain().unwrap_or(false);
        let mut all = Vec::new();
        while let Ok(Some(said)) = self.wire.take_message() {
            all.push(said);
        }
        (open, all)
    }

    fn follow(&mut self, hosts: &[CarriedHost]) {
        self.files = Files::open(&self.run_dir, hosts);
    }

    fn renewals(&mut self) -> Option<Renewals> {
        self.files.as_mut().and_then(Files::renewals)
    }

    fn wait(&mut self, until: Moment) -> bool {
        let fds = vec![PollFd::new(self.wire.stream().as_fd(), PollFlags::POLLIN)];
        self.alarm.wait(fds, Some(until)).is_ok()
    }
}

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
    use lease_core::holder::carrier::Carrier;
    use lease_core::id::{Generation, Name};
    use lease_core::registry::place::Kept;
    use nix::sys::stat::Mode;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn carrier(stream: UnixStream, run_dir: &Path, carried: &Carried) -> Carrier<Control> {
        let control = Control::new(Wire::new(stream), run_dir, carried).unwrap();
        Carrier::new(control, carried)
    }

    /// Carries a deadline that is so far away, and returns how long it took to end.
    fn carry_for(far: Duration, stream: UnixStream) -> Duration {
        stream.set_nonblocking(true).unwrap();
        let start = BootClock::boot_time();
        let carried = Carried {
            last_moment: start.after(far),
            hosts: Vec::new(),
        };
        assert!(carrier(stream, Path::new("/proc/self"), &carried).carry());
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
        let mut carrier = carrier(theirs, Path::new("/proc/self"), &carried);
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
        assert!(carrier(theirs, &run_dir, &carried).carry());
        let ended = BootClock::boot_time();
        writer.join().unwrap();
        std::fs::remove_dir_all(run_dir).unwrap();
        assert!(ended >= after(4000), "{:?}", ended.since(start));
    }
}
