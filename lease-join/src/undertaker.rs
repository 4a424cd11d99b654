//! The threads that give leases back, one each.

use crate::args::TOOL;
use crate::signals::Wake;
use lease_core::clock::BootClock;
use lease_core::host::giving_back::{GiveBack, Lease, Progress};
use lease_core::machine::Machine;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The threads, and what they report.
#[derive(Debug)]
pub(crate) struct Undertaker {
    /// What no thread has begun yet.
    tasks: Arc<Mutex<VecDeque<(Lease, GiveBack)>>>,
    /// Threads that are to be started.
    missing: usize,
    report: Sender<(Lease, Progress)>,
    told: Receiver<(Lease, Progress)>,
    wake: Wake,
}

impl Undertaker {
    /// Without anything to do; `wake` is woken after each report.
    pub(crate) fn new(wake: Wake) -> Self {
        let (report, told) = channel();
        Self {
            tasks: Arc::default(),
            missing: 0,
            report,
            told,
            wake,
        }
    }

    /// Gives one lease back, for as long as it takes.
    pub(crate) fn give_back(&mut self, lease: Lease, task: GiveBack) {
        queue(&self.tasks).push_back((lease, task));
        self.missing += 1;
        self.start_threads();
    }

    /// Where no more threads can be had, those that are missing are started later.
    fn start_threads(&mut self) {
        while self.missing > 0 {
            let (report, wake) = (self.report.clone(), self.wake.clone());
            let tasks = Arc::clone(&self.tasks);
            let work = move || {
                let Some((lease, task)) = queue(&tasks).pop_front() else {
                    return;
                };
                let (tool, clock) = (TOOL, BootClock::default());
                task.run(&Machine { tool, clock }, &mut |progress| {
                    // Without a server there is nobody to tell.
                    let _ = report.send((lease, progress));
                    wake.wake();
                });
            };
            if std::thread::Builder::new().spawn(work).is_err() {
                return;
            }
            self.missing -= 1;
        }
    }

    /// A lease of which there is news since the last call.
    pub(crate) fn next(&mut self) -> Option<(Lease, Progress)> {
        self.start_threads();
        self.told.try_recv().ok()
    }
}

fn queue(
    tasks: &Mutex<VecDeque<(Lease, GiveBack)>>,
) -> MutexGuard<'_, VecDeque<(Lease, GiveBack)>> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}
