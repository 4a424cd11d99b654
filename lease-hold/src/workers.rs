//! One thread a resource: it does that resource's disk I/O, and nothing else does.

use crate::args::TOOL;
use crate::outbox::{News, Outbox};
use lease_core::delta::Tenure;
use lease_core::device::{Device, Devices};
use lease_core::holder::job::Job;
use lease_core::holder::worker::Worker;
use lease_core::machine::Machine;
use lease_core::opened::{self, Look, check_distinct};
use lease_core::registry::message::Welcome;
use lease_core::spec::ResourceSpec;
use lease_core::tool::{Failure, Status, say};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// The other disks of a resource have at least so long when a majority has answered.
const OTHERS_WITHIN: Duration = Duration::from_millis(4);

/// A resource whose disks are open.
pub(crate) type Opened = opened::Opened<Device>;

/// Opens every resource's disks, all at the same time, and looks at what is there.
pub(crate) fn open_all(specs: &[ResourceSpec]) -> Result<Vec<Opened>, Failure> {
    let opened = open_each(specs)?;
    check_distinct(&opened)?;
    Ok(opened)
}

fn open_each(specs: &[ResourceSpec]) -> Result<Vec<Opened>, Failure> {
    let Some((first, others)) = specs.split_first() else {
        return Ok(Vec::new());
    };
    std::thread::scope(|scope| {
        let start = |spec| std::thread::Builder::new().spawn_scoped(scope, move || open(spec));
        let threads: Vec<_> = others.iter().map(start).collect();
        let first = open(first);
        let none = |why| Failure::new(Status::System, format!("cannot start a thread: {why}"));
        let lost = || Failure::new(Status::Internal, "a thread ended too early");
        let others = threads
            .into_iter()
            .map(|thread| thread.map_err(none)?.join().map_err(|_| lost())?);
        std::iter::once(first).chain(others).collect()
    })
}

/// Opens one, all its disks at the same time; one that is missing is no reason not to go on. Once
/// it is known how to, those that have not answered yet are not waited for much longer: an answer
/// that comes later is for the worker.
fn open(spec: &ResourceSpec) -> Result<Opened, Failure> {
    let warn = |failure: &Failure| say(TOOL, format!("going on without one disk: {failure}"));
    let disks = spec.places.len();
    if disks == 1 {
        return Opened::open(&Devices, spec, warn);
    }
    let (tell, told) = channel();
    for index in 0..disks {
        let (spec, tell) = (spec.clone(), tell.clone());
        let look = move || {
            // Nobody may be waiting any more.
            let _ = tell.send(Look::at(&Devices, &spec, index));
        };
        let none = |why| Failure::new(Status::System, format!("cannot start a thread: {why}"));
        std::thread::Builder::new().spawn(look).map_err(none)?;
    }
    drop(tell);
    let looks = first_looks(&told, disks);
    Opened::of(spec, (looks, Some(told)), warn)
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

/// Starts the worker of a resource. It ends when nobody can ask it any more.
pub(crate) fn start(
    (index, opened): (usize, Opened),
    host: (Arc<Welcome>, Arc<Tenure>),
    machine: Machine,
    outbox: Outbox,
) -> io::Result<Sender<Job>> {
    let (jobs, inbox) = channel();
    let work = move || {
        let mut worker = Worker::new((&machine, Devices), opened, host);
        while let Ok(job) = inbox.recv() {
            let answer = worker.work(job);
            if outbox.send(News::Done(index, answer)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().spawn(work)?;
    Ok(jobs)
}
