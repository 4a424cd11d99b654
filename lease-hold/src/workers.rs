//! One worker a resource: it does that resource's disk I/O, and nothing else does. It has a thread
//! for as long as there is something to do.

use crate::args::TOOL;
use crate::outbox::{News, Outbox};
use lease_core::clock::Moment;
use lease_core::crew::Crew;
use lease_core::delta::Tenure;
use lease_core::device::{Device, DevicesBy};
use lease_core::holder::job::Job;
use lease_core::holder::worker::Worker;
use lease_core::machine::Machine;
use lease_core::opened::{self, Look, check_distinct};
use lease_core::registry::message::Welcome;
use lease_core::spec::ResourceSpec;
use lease_core::tool::{Failure, Status, say};
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The other disks of a resource have at least so long when a majority has answered.
const OTHERS_WITHIN: Duration = Duration::from_millis(4);
/// A worker that has nothing to do for so long keeps no memory for it.
const REST_AFTER: Duration = Duration::from_millis(20);

/// A resource whose disks are open.
pub(crate) type Opened = opened::Opened<Device>;

/// Opens every resource's disks, all at the same time, and looks at what is there.
pub(crate) fn open_all(crew: &Crew, specs: &[ResourceSpec]) -> Result<Vec<Opened>, Failure> {
    let opened = open_each(crew, specs)?;
    check_distinct(&opened)?;
    Ok(opened)
}

fn open_each(crew: &Crew, specs: &[ResourceSpec]) -> Result<Vec<Opened>, Failure> {
    let Some((first, others)) = specs.split_first() else {
        return Ok(Vec::new());
    };
    let start = |spec: &ResourceSpec| {
        let (tell, told) = sync_channel(1);
        let (its, spec) = (crew.clone(), spec.clone());
        // Nobody may be waiting any more.
        let work = move || drop(tell.send(open(&its, &spec)));
        crew.run(work).map_err(no_thread)?;
        Ok::<_, Failure>(told)
    };
    let others: Vec<_> = others.iter().map(start).collect();
    let first = open(crew, first);
    let lost = |_| Failure::new(Status::Internal, "a thread ended too early");
    let others = others.into_iter().map(|told| told?.recv().map_err(lost)?);
    std::iter::once(first).chain(others).collect()
}

fn no_thread(why: io::Error) -> Failure {
    Failure::new(Status::System, format!("cannot start a thread: {why}"))
}

/// Opens one, all its disks at the same time; one that is missing is no reason not to go on. Once
/// it is known how to, those that have not answered yet are not waited for much longer: an answer
/// that comes later is for the worker.
fn open(crew: &Crew, spec: &ResourceSpec) -> Result<Opened, Failure> {
    let storage = DevicesBy(crew.clone());
    let warn = |failure: &Failure| say(TOOL, format!("going on without one disk: {failure}"));
    let disks = spec.places.len();
    if disks == 1 {
        return Opened::open(&storage, spec, warn);
    }
    // With room for what comes late, and no more.
    let (tell, told) = sync_channel(disks);
    for index in 0..disks {
        let (storage, spec, tell) = (storage.clone(), spec.clone(), tell.clone());
        // Nobody may be waiting any more.
        let look = move || drop(tell.send(Look::at(&storage, &spec, index)));
        crew.run(look).map_err(no_thread)?;
    }
    drop(tell);
    let looks = first_looks(&told, disks);
    let late = (looks.len() < disks).then_some(told);
    Opened::of(spec, (looks, late), warn)
}

/// What is told until it is known how to go on, and for as long again.
fn first_looks(told: &Receiver<Look<Device>>, disks: usize) -> Vec<Look<Device>> {
    let start = Instant::now();
    let mut looks = Vec::new();
    while !Look::decide(&looks, disks) {
        let Ok(look) = told.recv() else { break };
        looks.push(look);
    }
    let until = Instant::now() + start.elapsed().max(OTHERS_WITHIN);
    while let Ok(look) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        looks.push(look);
    }
    looks
}

/// The worker of a resource, as the main thread has it.
#[derive(Debug)]
pub(crate) struct Hand {
    desk: Arc<Desk>,
    crew: Crew,
}

/// What it works at.
#[derive(Debug)]
struct Desk {
    index: usize,
    outbox: Outbox,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    jobs: VecDeque<Job>,
    /// While no thread has it.
    worker: Option<Box<Worker<'static, Machine, DevicesBy>>>,
    /// A thread has it, or will.
    busy: bool,
}

impl Hand {
    /// Of a resource that is open, in the name of a host.
    pub(crate) fn new(
        (index, opened): (usize, (Opened, Moment)),
        host: (Arc<Welcome>, Arc<Tenure>),
        (machine, crew): (&'static Machine, Crew),
        outbox: Outbox,
    ) -> Self {
        let worker = Worker::new((machine, DevicesBy(crew.clone())), opened, host);
        let state = State {
            jobs: VecDeque::new(),
            worker: Some(Box::new(worker)),
            busy: false,
        };
        let desk = Arc::new(Desk {
            index,
            outbox,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        Self { desk, crew }
    }

    /// Gives it something to do, after what it is at. `false`: there is no thread for that at the
    /// moment, so [`Hand::go_on`] is to be called.
    pub(crate) fn give(&self, job: Job) -> bool {
        self.desk.lock().jobs.push_back(job);
        self.go_on()
    }

    /// Has it done what there is to do. `false`: there is no thread for that.
    pub(crate) fn go_on(&self) -> bool {
        let mut state = self.desk.lock();
        if state.jobs.is_empty() || state.busy {
            drop(state);
            self.desk.changed.notify_one();
            return true;
        }
        state.busy = true;
        drop(state);
        let desk = Arc::clone(&self.desk);
        let started = self.crew.run(move || desk.work()).is_ok();
        if !started {
            self.desk.lock().busy = false;
        }
        started
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One job after another, until there has been none for some time.
    fn work(&self) {
        let mut state = self.lock();
        let Some(mut worker) = state.worker.take() else {
            return;
        };
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                let answer = worker.work(job);
                if self.outbox.send(News::Done(self.index, answer)).is_err() {
                    return;
                }
                state = self.lock();
                continue;
            }
            let woken = self.changed.wait_timeout(state, REST_AFTER);
            let (again, passed) = woken.unwrap_or_else(PoisonError::into_inner);
            state = again;
            if passed.timed_out() && state.jobs.is_empty() {
                worker.rest();
                (state.worker, state.busy) = (Some(worker), false);
                return;
            }
        }
    }
}
