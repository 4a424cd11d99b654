//! The thread that renews.

use crate::seat;
use crate::signals::Wake;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::delta::Calls;
use lease_core::device::Device;
use lease_core::host::heart::{Beat, Heart, HeartSurroundings, Told};
use lease_core::host::kept::Life;
use lease_core::registry::place::Place;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

/// The other end of the thread.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    tell: Sender<Told>,
    beats: Receiver<Beat>,
}

impl Heartbeat {
    /// Starts to renew. `wake` is woken after each report.
    pub(crate) fn start(heart: Heart<Device>, place: Place, wake: Wake) -> io::Result<Self> {
        let (tell, told) = channel();
        let (report, beats) = channel();
        let thread = Thread {
            clock: BootClock::default(),
            place,
            told,
            report,
            wake,
        };
        std::thread::Builder::new().spawn(move || heart.run(&thread))?;
        Ok(Self { tell, beats })
    }

    /// Asks the thread to give the host id back.
    pub(crate) fn leave(&self, quiet_from: Moment) {
        // A thread that is gone has reported why.
        let _ = self.tell.send(Told::Leave(quiet_from));
    }

    /// Tells the thread whom to call.
    pub(crate) fn call(&self, calls: Calls) {
        let _ = self.tell.send(Told::Call(calls));
    }

    /// The next report, if there is one.
    pub(crate) fn next(&self) -> Option<Beat> {
        self.beats.try_recv().ok()
    }
}

struct Thread {
    clock: BootClock,
    place: Place,
    told: Receiver<Told>,
    report: Sender<Beat>,
    wake: Wake,
}

impl HeartSurroundings for Thread {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn told(&self, until: Moment) -> Told {
        match self.told.recv_timeout(until.since(self.clock.now())) {
            Ok(told) => told,
            Err(RecvTimeoutError::Timeout) => Told::Renew,
            Err(RecvTimeoutError::Disconnected) => Told::End,
        }
    }

    fn keep(&self, life: &Life) -> Result<(), String> {
        seat::keep(&self.place, life)
    }

    fn report(&self, beat: Beat) {
        // Without a server there is nobody to tell.
        let _ = self.report.send(beat);
        self.wake.wake();
    }
}
