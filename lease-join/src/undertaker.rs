//! What a holder leaves that ended without a release: first the holder and all that it started
//! are killed and proven gone, then its leases go back on the disk.

use crate::TOOL;
use crate::peers::describe;
use crate::signals::{Signals, Wake};
use crate::state::Remains;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::contain::{Guarded, Remains as Left};
use lease_core::delta::{Lockspace, Tenure};
use lease_core::device::{Access, Device};
use lease_core::disk::{Absent, Disk};
use lease_core::id::{Generation, HostId, Lver};
use lease_core::process::Process;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::holder_note::HolderNote;
use lease_core::record::leader::Leader;
use lease_core::registry::message::{Asked, HolderId, Left as LeftBehind};
use lease_core::registry::place::Place;
use lease_core::registry::table::Holder;
use lease_core::resource::{AcquireError, Member, Resource, Wanted};
use lease_core::spec::Mode;
use lease_core::tool::{Failure, Status, say};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Between two attempts to give a lease back.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Between two strikes.
const STRIKE_AGAIN: Duration = Duration::from_millis(50);
/// Bytes that hold the leader record of either sector size.
const FIRST_SECTOR: usize = 4096;

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

    /// Kills, and looks what is left. The lease-hold itself comes first: a stopped one could wake
    /// and go on. Without a guarded process nothing was ever run.
    pub(crate) fn strike(&self) -> Left {
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
        .holders()
        .filter(|(id, _)| !place.take_mark(generation, *id))
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
            let text = format!(
                "cannot join {}: what {name} started under the former lease-join may still run; end \
                 it, remove the state file in the run directory, and start again",
                place.shown().display()
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

/// A resource of a holder, by number, and what is left behind on the disk.
pub(crate) type GivenBack = (HolderId, usize, LeftBehind);

/// The threads that give leases back, and what they report.
#[derive(Debug)]
pub(crate) struct Undertaker {
    estate: Estate,
    report: Sender<GivenBack>,
    done: Receiver<GivenBack>,
    wake: Wake,
}

impl Undertaker {
    /// In the name of one life of this host; `wake` is woken after each report.
    pub(crate) fn new(estate: Estate, wake: Wake) -> Self {
        let (report, done) = channel();
        Self {
            estate,
            report,
            done,
            wake,
        }
    }

    /// Gives one lease back, for as long as it takes; gives up when the host id is lost. `wrote`:
    /// its holder was writing when it died.
    pub(crate) fn give_back(&self, holder: HolderId, index: usize, asked: Asked, wrote: bool) {
        let (estate, report, wake) = (self.estate.clone(), self.report.clone(), self.wake.clone());
        let died = BootClock::boot_time();
        std::thread::spawn(move || {
            let clock = BootClock::default();
            let mut said = false;
            while !estate.tenure.is_lost() {
                match give_back(&estate, &clock, &asked, wrote.then_some(died)) {
                    Ok(left) => {
                        // Without a server there is nobody to tell.
                        let _ = report.send((holder, index, left));
                        return wake.wake();
                    }
                    Err(why) if !said => {
                        say(TOOL, format!("cannot give back {} yet: {why}", asked.spec));
                        said = true;
                    }
                    Err(_) => {}
                }
                std::thread::sleep(TRY_AGAIN);
            }
        });
    }

    /// A lease that was given back since the last call.
    pub(crate) fn next(&self) -> Option<GivenBack> {
        self.done.try_recv().ok()
    }
}

/// Runs what was left to a known owner and releases it if that is us.
fn give_back(
    estate: &Estate,
    clock: &BootClock,
    asked: &Asked,
    died_writing: Option<Moment>,
) -> Result<LeftBehind, String> {
    let limit = estate.tenure.timing().io_limit();
    let open = |path: &Path, access| Device::open(path, access, limit).map_err(|e| e.to_string());
    let mut devices = Vec::new();
    let mut first_failure = None;
    for (place, area) in asked.places.iter().zip(&asked.areas) {
        match open(&place.path, Access::Write) {
            Ok(device) if area.is_none_or(|area| area.identity == device.identity()) => {
                devices.push(Some(device));
            }
            Ok(_) => return Err(format!("{place} is another file now")),
            Err(why) => {
                devices.push(None);
                first_failure = first_failure.or(Some(why));
            }
        }
    }
    let there = devices
        .iter()
        .zip(&asked.places)
        .find_map(|(d, place)| Some((d.as_ref()?, place)));
    let Some((first, place)) = there else {
        return Err(first_failure.unwrap_or_else(|| "it lies nowhere".into()));
    };
    let sector = first
        .read(place.offset, FIRST_SECTOR)
        .map_err(|e| e.to_string())?;
    let leader = Leader::decode(&sector).map_err(|e| e.to_string())?;
    let replicas = devices
        .iter()
        .zip(&asked.places)
        .map(|(device, place)| Replica {
            disk: device
                .as_ref()
                .map_or(&Absent as &dyn Disk, |device| device),
            offset: place.offset,
        });
    let resource = Resource {
        quorum: Quorum::new(replicas.collect()),
        lockspace: estate.lockspace.name,
        name: asked.resource,
        geometry: leader.geometry(),
        num_hosts: leader.num_hosts(),
    };
    let heartbeats = open(&estate.path, Access::Read)?;
    let member = Member {
        clock,
        tenure: &estate.tenure,
        lockspace: estate.lockspace,
        heartbeats: &heartbeats,
        host: estate.host,
        generation: estate.generation,
        ballots_from: quiet_from(estate, &devices, died_writing),
    };
    resource
        .resolve(&member, &nobody(estate))
        .map_err(|error: AcquireError| error.to_string())?;
    // On one of several disks a write may be on its way still.
    Ok(match resource.quorum.settle() {
        Ok(()) => LeftBehind::Nothing,
        Err(_) => LeftBehind::LateWrite,
    })
}

/// Where a dead process's write may still land, no ballot starts until it cannot: 8t + W.
fn quiet_from(estate: &Estate, devices: &[Option<Device>], died_writing: Option<Moment>) -> Moment {
    let over = devices.iter().flatten().all(Device::io_ends_with_process);
    match died_writing {
        Some(died) if !over => estate
            .ballots_from
            .max(died.after(estate.tenure.timing().dead_after())),
        _ => estate.ballots_from,
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
