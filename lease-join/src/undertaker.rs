//! What a holder leaves that ended without a release: first the holder and all that it started
//! are killed and proven gone, then its leases go back on the disk.

use crate::TOOL;
use crate::peers::describe;
use crate::signals::{Signals, Wake};
use crate::state::Remains;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::contain::{Containment, Guarded, Remains as Left};
use lease_core::delta::{Lockspace, Tenure};
use lease_core::device::{Device, Devices};
use lease_core::disk::{Disk, Fault};
use lease_core::id::{Generation, HostId, Lver};
use lease_core::opened::{Heartbeats, Reopened};
use lease_core::process::{self, Process, ProcessId};
use lease_core::record::holder_note::HolderNote;
use lease_core::registry::message::{Asked, HolderId};
use lease_core::registry::place::{Kept, Place};
use lease_core::registry::table::{Holder, Table};
use lease_core::resource::{AcquireError, Member, Wanted};
use lease_core::spec::Mode;
use lease_core::storage::Volume;
use lease_core::tool::{Failure, Status, say};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two attempts to give a lease back.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Between two strikes.
const STRIKE_AGAIN: Duration = Duration::from_millis(50);
/// Sweeps of what a lease-hold has started: what is forked during one is found by the next.
const SWEEPS_MAX: usize = 16;

/// A holder that is to die, with what it started.
#[derive(Debug)]
pub(crate) struct Victim {
    /// The lease-hold, if it was alive when it was last seen.
    pub(crate) holder: Option<Process>,
    /// What it started.
    pub(crate) guarded: Option<Guarded>,
    /// A descriptor for that.
    pub(crate) guarded_process: Option<Process>,
}

impl Victim {
    /// A holder that a former lease-join knew, found again by numbers and starting times.
    pub(crate) fn of(holder: &Holder) -> Self {
        let guarded = holder.guarded.clone();
        let guarded_process = guarded.as_ref().and_then(|guarded| guarded.process.open());
        Self {
            holder: holder.process.open(),
            guarded,
            guarded_process,
        }
    }

    /// It is proven that nothing that was guarded runs, or ever ran.
    pub(crate) fn nothing_runs(&mut self) {
        self.guarded = None;
        self.guarded_process = None;
    }

    /// Kills, and looks what is left. The lease-hold itself comes first: a stopped one could wake
    /// and go on. Without a guarded process nothing runs.
    pub(crate) fn strike(&self) -> Left {
        self.sweep_tree();
        self.holder.iter().for_each(Process::kill);
        let of_tree = match &self.guarded {
            Some(guarded) => guarded.kill(self.guarded_process.as_ref()),
            None => Left::Nothing,
        };
        match self.holder.as_ref().is_none_or(Process::is_dead) {
            true => of_tree,
            false => Left::Something,
        }
    }

    /// What is held together by nothing but its lease-hold can be found only while that lives: its
    /// orphans are that one's children.
    fn sweep_tree(&self) {
        let tree = |guarded: &Guarded| guarded.containment == Containment::Tree;
        let Some(holder) = self.holder.as_ref().filter(|holder| !holder.is_dead()) else {
            return;
        };
        if !self.guarded.as_ref().is_some_and(tree) {
            return;
        }
        for _ in 0..SWEEPS_MAX {
            let found = process::descendants(holder.id().pid, &[]);
            let alive = found.into_iter().filter_map(ProcessId::open);
            let alive: Vec<Process> = alive.filter(|process| !process.is_dead()).collect();
            if alive.is_empty() {
                return;
            }
            alive.iter().for_each(Process::kill);
        }
    }
}

/// Kills all holders of a former lease-join and all that they started, and sees them gone. `false`:
/// told to leave before that. A holder that can never be proven gone is a failure.
pub(crate) fn end_all(
    place: &Place,
    remains: &Remains,
    signals: &Signals,
) -> Result<bool, Failure> {
    let generation = remains.life.former.generation;
    let mut left: Vec<_> = remains
        .table
        .iter()
        .flat_map(Table::holders)
        .filter(|(id, _)| place.take_mark(generation, *id).is_none())
        .map(|(_, holder)| (holder, Victim::of(holder)))
        .collect();
    if let Some((holder, _)) = left.first() {
        let name = describe(holder);
        say(
            TOOL,
            format!("the former lease-join's lease is over; ending {name} and all others"),
        );
    }
    loop {
        let mut unknown = None;
        left.retain(|(holder, victim)| match victim.strike() {
            Left::Nothing => false,
            Left::Something => true,
            Left::NotKnown => {
                unknown = Some(describe(holder));
                false
            }
        });
        if let Some(name) = unknown {
            let shown = place.shown().display();
            let text = format!(
                "cannot join {shown}: what {name} started under the former lease-join may still \
                 run; end it, remove {shown}/{}, and start lease-join again",
                Kept::Heartbeat.name()
            );
            return Err(Failure::new(Status::Busy, text));
        }
        if left.is_empty() || signals.clock.wait(STRIKE_AGAIN).is_err() {
            return Ok(left.is_empty());
        }
    }
}

/// In whose name leases go back.
#[derive(Debug, Clone)]
pub(crate) struct Estate {
    /// The lockspace's file or device.
    pub(crate) path: PathBuf,
    /// The lockspace on it.
    pub(crate) lockspace: Lockspace,
    /// Our host id.
    pub(crate) host: HostId,
    /// Its life.
    pub(crate) generation: Generation,
    /// No ballot before this moment.
    pub(crate) ballots_from: Moment,
    /// Its renewals.
    pub(crate) tenure: Arc<Tenure>,
}

/// A lease of a holder: which one of its resources.
pub(crate) type Lease = (HolderId, usize);

/// The threads that give leases back, and what they report.
#[derive(Debug)]
pub(crate) struct Undertaker {
    estate: Estate,
    /// What no thread has begun yet.
    tasks: Arc<Mutex<VecDeque<(Lease, Task)>>>,
    /// Threads that are to be started: one a task, since the storage of any may hang.
    missing: usize,
    report: Sender<(Lease, Progress)>,
    told: Receiver<(Lease, Progress)>,
    wake: Wake,
}

/// What a thread reports of a lease.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It could not be given back, and will be tried again: why, for people.
    Failed(String),
    /// It was given back.
    Done {
        /// A write may still land on it.
        late: bool,
    },
}

impl Undertaker {
    /// In the name of one life of this host; `wake` is woken after each report.
    pub(crate) fn new(estate: Estate, wake: Wake) -> Self {
        let (report, told) = channel();
        Self {
            estate,
            tasks: Arc::default(),
            missing: 0,
            report,
            told,
            wake,
        }
    }

    /// Gives one lease back, for as long as it takes; gives up when the host id is lost. `wrote`:
    /// its holder was writing when it died. Before `quiet_from` an earlier write may land.
    pub(crate) fn give_back(
        &mut self,
        lease: Lease,
        asked: Asked,
        wrote: bool,
        quiet_from: Moment,
    ) {
        let clock = BootClock::default();
        let task = Task {
            quiet_from: quiet_from.max(self.estate.ballots_from),
            died_writing: wrote.then(|| clock.now()),
            estate: self.estate.clone(),
            clock,
            asked,
            opened: None,
        };
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
                let Some((lease, mut task)) = queue(&tasks).pop_front() else {
                    return;
                };
                let tell = |progress| {
                    // Without a server there is nobody to tell.
                    let _ = report.send((lease, progress));
                    wake.wake();
                };
                if let Some(late) = task.work(&mut |why| tell(Progress::Failed(why))) {
                    tell(Progress::Done { late });
                }
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

fn queue(tasks: &Mutex<VecDeque<(Lease, Task)>>) -> MutexGuard<'_, VecDeque<(Lease, Task)>> {
    tasks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lease that is to be given back.
#[derive(Debug)]
struct Task {
    estate: Estate,
    clock: BootClock,
    asked: Asked,
    /// When its holder died, if it was writing then.
    died_writing: Option<Moment>,
    /// No ballot before this moment.
    quiet_from: Moment,
    /// Its disks. They are kept as long as one of them has an I/O outstanding.
    opened: Option<Reopened<Device>>,
}

impl Task {
    /// Until it is given back, and whether a write may still land on it; or the host id is lost.
    /// `tell` hears each new reason why it is not given back yet.
    fn work(&mut self, tell: &mut dyn FnMut(String)) -> Option<bool> {
        let mut said = None;
        while !self.estate.tenure.is_lost() {
            let result = self.attempt();
            let late = self.settle();
            let Err(why) = result else {
                return Some(late);
            };
            if said.is_none() {
                let text = format!("cannot give back {} yet: {why}", self.asked.spec);
                say(TOOL, text);
            }
            if said.as_ref() != Some(&why) {
                tell(why.clone());
                said = Some(why);
            }
            std::thread::sleep(TRY_AGAIN);
        }
        None
    }

    /// Brings what was left to a known owner, and releases it if that is us.
    fn attempt(&mut self) -> Result<(), String> {
        let limit = self.estate.tenure.timing().io_limit();
        if self.opened.is_none() {
            let of = (self.estate.lockspace.name, &self.asked);
            let opened = Reopened::open(&Devices, of, limit)?;
            self.wait_for_the_dead(&opened);
            self.opened = Some(opened);
        }
        let (estate, opened) = (&self.estate, self.opened.as_ref());
        let opened = opened.ok_or_else(|| "its disks are closed".to_owned())?;
        let member = Member {
            clock: &self.clock,
            tenure: &estate.tenure,
            lockspace: estate.lockspace,
            heartbeats: &Heartbeats::new(Devices, estate.path.clone(), limit),
            host: estate.host,
            generation: estate.generation,
            ballots_from: self.quiet_from,
        };
        opened
            .resource()?
            .resolve(&member, &nobody(estate))
            .map_err(|error: AcquireError| error.to_string())
    }

    /// Where a dead process's write may still land, no ballot starts until it cannot. Whether its
    /// last one had failed nobody can say.
    fn wait_for_the_dead(&mut self, opened: &Reopened<Device>) {
        let over = opened.volumes().all(Volume::failure_is_final);
        if let Some(died) = self.died_writing.filter(|_| !over) {
            self.quiet_from = self.quiet_from.max(self.landed_by(died));
        }
    }

    /// When nothing that was issued before can land any more.
    fn landed_by(&self, issued: Moment) -> Moment {
        issued.after(self.estate.tenure.timing().takeover_after())
    }

    /// What the last attempt wrote and was not told of is not forgotten: an I/O that is outstanding
    /// is waited for; a write that has failed may still land. Whether one may.
    fn settle(&mut self) -> bool {
        let opened = self.opened.iter().flat_map(Reopened::volumes);
        let settled = opened.map(Disk::settle);
        let faults: Vec<Fault> = settled.filter_map(Result::err).collect();
        if faults.contains(&Fault::Unsure) {
            self.quiet_from = self.quiet_from.max(self.landed_by(self.clock.now()));
        }
        if !faults.contains(&Fault::Outstanding) {
            self.opened = None;
        }
        !faults.is_empty()
    }
}

/// What a ballot says of its holder while it is only brought to its end.
fn nobody(estate: &Estate) -> Wanted {
    let note = HolderNote {
        host: estate.host,
        generation: estate.generation,
        lver: Lver(0),
        mode: Mode::Exclusive,
        pid: std::process::id(),
        start: 0,
        host_name: Vec::new(),
        command: TOOL.as_bytes().to_vec(),
    };
    Wanted {
        mode: Mode::Exclusive,
        lver: None,
        note,
    }
}
