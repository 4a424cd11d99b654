//! One thread a resource: it does that resource's disk I/O, and nothing else does.

use crate::TOOL;
use crate::hub::{Event, Outbox};
use crate::trouble;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::delta::{Lockspace, Tenure};
use lease_core::device::{Access, Device, OpenError, Presence};
use lease_core::disk::{Absent, Disk, Fault};
use lease_core::id::HostId;
use lease_core::layout::Geometry;
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::leader::{Leader, Stamp};
use lease_core::registry::message::{AreaId, Asked, Left, Welcome};
use lease_core::resource::{AcquireError, Attempt, Held, Member, Resource, Snapshot, Wanted};
use lease_core::spec::{Place, ResourceSpec};
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use lease_core::tool::{Failure, Status, say, show};
use std::cell::{Cell, OnceCell};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Bytes that hold the leader record of either sector size.
const FIRST_SECTOR: usize = 4096;

/// A resource whose disks are open.
pub(crate) struct Opened {
    /// The argument.
    pub(crate) spec: ResourceSpec,
    /// Its disks, in the order of the argument.
    devices: Vec<Option<Device>>,
    geometry: Geometry,
    num_hosts: u64,
    /// Which of them are not what others find at their paths.
    replaced: Vec<bool>,
}

/// What a worker is asked to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Try to acquire; no ballot before a renewal that was issued after `not_before`. What comes to
    /// be in doubt is brought to an end until `patient_until`.
    Acquire {
        wanted: Wanted,
        not_before: Moment,
        patient_until: Moment,
    },
    /// Bring what is in doubt to an end.
    Resolve(Wanted, Moment),
    /// Take part in this host's share.
    Share,
    /// Wait until another attempt is worth its while.
    Watch(Snapshot, Option<Stamp>, Duration),
    /// Is it still ours on the disk, and the disk still the one that others find?
    Check(Box<Held>),
    /// Is the disk still the one that others find?
    Look,
    /// Give it back.
    Release(Box<Held>),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To [`Job::Resolve`]: what is left on the disk.
    Resolved(Left),
    /// To [`Job::Acquire`]; what is left on the disk if it is not held.
    Attempted(Result<Attempt, AcquireError>, Left),
    /// To [`Job::Share`]; `None`: the share is gone.
    Shared(Result<Option<Box<Held>>, AcquireError>),
    /// To [`Job::Watch`].
    Watched(Result<(), AcquireError>),
    /// To [`Job::Acquire`] and [`Job::Share`]: a disk is not the one that others find any more;
    /// nothing was written.
    Replaced(String),
    /// To [`Job::Check`] and [`Job::Look`]: why it is lost, if it is.
    Checked(Result<Option<String>, AcquireError>),
    /// To [`Job::Release`].
    Released(Result<(), AcquireError>, Left),
}

/// Opens every resource's disks, all at the same time, and looks at what is there.
pub(crate) fn open_all(specs: &[ResourceSpec]) -> Result<Vec<Opened>, Failure> {
    let opened = open_each(specs)?;
    let areas: Vec<_> = opened.iter().map(|one| one.asked().areas).collect();
    for (i, one) in opened.iter().enumerate() {
        let same = |area: &Option<AreaId>| area.is_some() && areas[i].contains(area);
        let overlaps = |other: &Vec<Option<AreaId>>| other.iter().any(same);
        if let Some(other) = areas[..i].iter().position(overlaps) {
            let (one, other) = (&one.spec, &opened[other].spec);
            let text = format!("cannot acquire {one}: it is the same resource as {other}");
            return Err(Failure::new(Status::Usage, text));
        }
    }
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

/// Opens all disks of a resource. A minority may be missing, as it may fail later; what is there
/// must be what was named.
fn open(spec: &ResourceSpec) -> Result<Opened, Failure> {
    let mut devices = Vec::new();
    let mut leaders: Vec<Leader> = Vec::new();
    let mut first_failure = None;
    for place in &spec.places {
        match open_one(spec, place) {
            Ok((device, leader)) => {
                devices.push(Some(device));
                leaders.push(leader);
            }
            Err(failure) if is_missing(failure.status) => {
                devices.push(None);
                first_failure = first_failure.or(Some(failure));
            }
            Err(failure) => return Err(failure),
        }
    }
    let enough = leaders.len() > spec.places.len() / 2;
    match (first_failure, enough) {
        (Some(failure), false) => return Err(failure),
        (Some(failure), true) => say(TOOL, format!("going on without one disk: {failure}")),
        (None, _) => {}
    }
    let shape = |leader: &Leader| (leader.geometry(), leader.num_hosts());
    let shapes: Vec<_> = leaders.iter().map(shape).collect();
    match shapes.as_slice() {
        [(geometry, num_hosts), rest @ ..] if rest.iter().all(|s| *s == shapes[0]) => Ok(Opened {
            spec: spec.clone(),
            replaced: vec![false; devices.len()],
            devices,
            geometry: *geometry,
            num_hosts: *num_hosts,
        }),
        _ => {
            let text = format!("cannot acquire {spec}: its disks differ in geometry");
            Err(Failure::new(Status::Invalid, text))
        }
    }
}

/// Whether a disk that could not be opened for this reason may be one that has failed.
fn is_missing(status: Status) -> bool {
    matches!(status, Status::Io | Status::NoPath | Status::System)
}

fn open_one(spec: &ResourceSpec, place: &Place) -> Result<(Device, Leader), Failure> {
    let cannot = |status, why: String| {
        Failure::new(
            status,
            format!("cannot acquire {}:{}: {why}", spec.lockspace, spec.name),
        )
    };
    let limit = Duration::from_secs(u64::from(DEFAULT_IO_TIMEOUT));
    let device = Device::open(&place.path, Access::Write, limit)
        .map_err(|error: OpenError| Failure::of_open(&place.path, &error))?;
    if !place.offset.is_multiple_of(FIRST_SECTOR as u64) {
        let why = format!("{place}: the offset is not a multiple of the area size");
        return Err(cannot(Status::Usage, why));
    }
    if place
        .offset
        .checked_add(FIRST_SECTOR as u64)
        .is_none_or(|end| end > device.size())
    {
        let why = format!("{place}: it has only {} bytes", device.size());
        return Err(cannot(Status::Invalid, why));
    }
    let failed = |fault: Fault| {
        let failure = cannot(Status::of_fault(&fault), format!("{place}: {fault}"));
        failure.numbered(-202)
    };
    let sector = device.read(place.offset, FIRST_SECTOR).map_err(failed)?;
    let leader = Leader::decode(&sector).map_err(|error| {
        cannot(Status::Invalid, format!("{place}: {error}")).numbered(error.sanlock_number())
    })?;
    if *leader.lockspace() != spec.lockspace {
        let why = format!("{place} belongs to lockspace {}", leader.lockspace());
        return Err(cannot(Status::Invalid, why).numbered(-226));
    }
    if *leader.resource() != spec.name {
        let why = format!("{place} is resource {}", leader.resource());
        return Err(cannot(Status::Invalid, why).numbered(-227));
    }
    let align = leader.geometry().align();
    if !place.offset.is_multiple_of(align.bytes()) {
        let why = format!(
            "{place}: the offset is not a multiple of {}M",
            align.mebibytes()
        );
        return Err(cannot(Status::Usage, why));
    }
    if place
        .offset
        .checked_add(align.bytes())
        .is_none_or(|end| end > device.size())
    {
        let why = format!(
            "{place}: its area ends after the last of {} bytes",
            device.size()
        );
        return Err(cannot(Status::Invalid, why));
    }
    device
        .try_sector(place.offset, leader.geometry())
        .map_err(failed)?;
    Ok((device, leader))
}

impl Opened {
    /// How the registry is asked for it.
    pub(crate) fn asked(&self) -> Asked {
        let area = |(device, place): (&Option<Device>, &Place)| {
            let identity = device.as_ref()?.identity();
            Some(AreaId {
                identity,
                offset: place.offset,
            })
        };
        let absolute = |place: &Place| Place {
            path: absolute(&place.path),
            ..place.clone()
        };
        Asked {
            resource: self.spec.name,
            mode: self.spec.mode,
            areas: self
                .devices
                .iter()
                .zip(&self.spec.places)
                .map(area)
                .collect(),
            places: self.spec.places.iter().map(absolute).collect(),
            spec: self.spec.to_string(),
        }
    }

    /// A disk that others do not find at its path any more is left out of every majority: nobody
    /// sees what is written there. Why the lease is lost, if too few are left.
    fn look(&mut self, host: HostId) -> Option<String> {
        let mut first = None;
        let places = self.spec.places.iter().zip(&mut self.replaced);
        for (device, (place, replaced)) in self.devices.iter().zip(places) {
            let record = place.offset + self.geometry.ballot_at(host) as u64;
            let end = place.offset + self.geometry.ballots_len(self.num_hosts) as u64;
            let look = |device: &Device| device.presence(record, &(place.offset..end));
            let seen = device.as_ref().filter(|_| !*replaced).map(look);
            if let Some(Presence::Replaced(why)) = seen {
                *replaced = true;
                let why = elsewhere(&place.path, &why);
                first = first.or(Some(why));
            }
        }
        let why = first?;
        if self.is_replaced() {
            return Some(why);
        }
        let (lockspace, name) = (self.spec.lockspace, self.spec.name);
        say(
            TOOL,
            format!("{lockspace}:{name} {why}; going on without this disk"),
        );
        None
    }

    /// Its disks, without those that are not what others find; all of them where that is true of
    /// too many: then nothing is lost by a release, and what is known under another name is freed.
    fn disks(&self) -> impl Iterator<Item = &dyn Disk> {
        let abandoned = self.is_replaced();
        let devices = self.devices.iter().zip(&self.replaced);
        devices.map(move |(device, replaced)| -> &dyn Disk {
            match device {
                Some(device) if abandoned || !replaced => device,
                _ => &Absent,
            }
        })
    }

    /// Why one of its disks, while nothing is held there, is not the one that others find.
    fn changed(&self) -> Option<String> {
        let end = self.geometry.ballots_len(self.num_hosts) as u64;
        for (device, place) in self.devices.iter().zip(&self.spec.places) {
            let look = |device: &Device| {
                let area = place.offset..place.offset + end;
                device.presence(place.offset, &area)
            };
            if let Some(Presence::Replaced(why)) = device.as_ref().map(look) {
                return Some(elsewhere(&place.path, &why));
            }
        }
        None
    }

    /// Whether too many of its disks are not what others find.
    fn is_replaced(&self) -> bool {
        let disks = self.devices.len();
        let replaced = self.replaced.iter().filter(|replaced| **replaced).count();
        disks - replaced <= disks / 2
    }

    /// Starts the worker. It ends when nobody can ask it any more.
    pub(crate) fn start(
        mut self,
        index: usize,
        welcome: Arc<Welcome>,
        tenure: Arc<Tenure>,
        clock: BootClock,
        events: Outbox,
    ) -> io::Result<Sender<Job>> {
        let (jobs, inbox) = channel();
        let limit = tenure.timing().io_limit();
        let devices = self.devices.iter_mut().flatten();
        devices.for_each(|device| device.set_limit(limit));
        let work = move || {
            let seen = welcome.hosts.clone();
            let heartbeats = Heartbeats {
                path: welcome.path.clone(),
                limit,
                device: OnceCell::new(),
            };
            let mut worker = Worker {
                opened: self,
                welcome,
                tenure,
                clock,
                seen,
                heartbeats,
                failed: false,
                wrote: Cell::new(false),
            };
            worker.serve(&inbox, |answer| {
                events.send(Event::Done(index, answer)).is_ok()
            });
        };
        std::thread::Builder::new().spawn(work)?;
        Ok(jobs)
    }
}

fn elsewhere(path: &Path, why: &str) -> String {
    format!("was replaced: {}: {why}", show(path.as_os_str()))
}

/// A path that means the same in another process. Without a working directory it stays as it is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

struct Worker {
    opened: Opened,
    welcome: Arc<Welcome>,
    tenure: Arc<Tenure>,
    clock: BootClock,
    seen: Sightings,
    heartbeats: Heartbeats,
    /// The last job failed, or left a write behind.
    failed: bool,
    /// Something was written of which it is not known that it has landed.
    wrote: Cell<bool>,
}

impl Worker {
    fn serve(&mut self, jobs: &Receiver<Job>, tell: impl Fn(Answer) -> bool) {
        while let Ok(job) = jobs.recv() {
            if !tell(self.work(job)) {
                return;
            }
        }
    }

    fn work(&mut self, job: Job) -> Answer {
        if matches!(job, Job::Check(_) | Job::Look)
            && let Some(why) = self.opened.look(self.welcome.host)
        {
            return Answer::Checked(Ok(Some(why)));
        }
        if matches!(job, Job::Acquire { .. } | Job::Share)
            && let Some(why) = self.refresh().or_else(|| self.opened.changed())
        {
            return Answer::Replaced(why);
        }
        let answer = match job {
            Job::Acquire {
                wanted,
                not_before,
                patient_until,
            } => self.acquire(wanted, not_before, patient_until),
            job => self.do_work(job),
        };
        if let Answer::Attempted(..) = answer {
            let devices = self.opened.devices.iter().flatten();
            devices.for_each(Device::shed_memory);
        }
        self.failed = match &answer {
            Answer::Attempted(Err(_), _) | Answer::Shared(Err(_)) | Answer::Watched(Err(_)) => true,
            Answer::Attempted(Ok(_), left) => left.late,
            _ => self.failed,
        };
        answer
    }

    /// One attempt. As long as it is in doubt whether the lease is ours nobody on this host has
    /// another turn: who is patient sees that through; else it is left to lease-join.
    fn acquire(&mut self, wanted: Wanted, not_before: Moment, patient_until: Moment) -> Answer {
        let (limit, mut quiet_from) = (self.tenure.timing().io_limit(), not_before);
        let mut answer = self.do_work(Job::Acquire {
            wanted: wanted.clone(),
            not_before,
            patient_until,
        });
        while let Answer::Attempted(Err(error), left) = &answer
            && left.doubt
            && self.clock.now() < patient_until
        {
            if left.late {
                // On what is opened anew nothing is written before that.
                let landed = self
                    .clock
                    .now()
                    .after(self.tenure.timing().takeover_after());
                quiet_from = quiet_from.max(landed);
            }
            self.failed = true;
            if self.clock.wait(trouble::pause(limit)).is_err() || self.refresh().is_some() {
                break;
            }
            let settled = self.do_work(Job::Resolve(wanted.clone(), quiet_from));
            let Answer::Resolved(left) = settled else {
                break;
            };
            answer = Answer::Attempted(Err(error.clone()), left);
        }
        answer
    }

    /// After an I/O has failed the disks are opened anew: what is open may be of no more use, as
    /// after a server was restarted. Whatever may still land, lease-join lets us write only later.
    /// One on which an I/O is outstanding is left as it is. Why it has to begin anew, if a path
    /// leads elsewhere by now.
    fn refresh(&mut self) -> Option<String> {
        if !self.failed {
            return None;
        }
        let limit = self.tenure.timing().io_limit();
        self.heartbeats.device.take();
        let devices = self.opened.devices.iter_mut().flatten();
        for device in devices {
            if device.settle() == Err(Fault::Outstanding) {
                continue;
            }
            match Device::open(device.path(), Access::Write, limit) {
                Ok(new) if new.identity() == device.identity() => *device = new,
                Ok(new) => return Some(elsewhere(new.path(), "its path leads elsewhere now")),
                Err(_) => {}
            }
        }
        None
    }

    fn do_work(&mut self, job: Job) -> Answer {
        let Self {
            opened,
            welcome,
            tenure,
            clock,
            seen,
            heartbeats,
            wrote,
            ..
        } = self;
        let wrote = &*wrote;
        let abandoned = opened.is_replaced();
        let noted: Vec<Noted<'_>> = opened.disks().map(|disk| Noted { disk, wrote }).collect();
        let replicas = noted.iter().zip(&opened.spec.places);
        let replicas = replicas.map(|(disk, place)| Replica {
            disk,
            offset: place.offset,
        });
        let resource = Resource {
            quorum: Quorum::new(replicas.collect()),
            lockspace: opened.spec.lockspace,
            name: opened.spec.name,
            geometry: opened.geometry,
            num_hosts: opened.num_hosts,
        };
        let lockspace = Lockspace {
            name: opened.spec.lockspace,
            offset: welcome.offset,
            geometry: welcome.geometry,
        };
        let member = Member {
            clock,
            tenure,
            lockspace,
            heartbeats,
            host: welcome.host,
            generation: welcome.generation,
            ballots_from: match &job {
                Job::Acquire { not_before, .. } | Job::Resolve(_, not_before) => {
                    welcome.ballots_from.max(*not_before)
                }
                _ => welcome.ballots_from,
            },
        };
        match job {
            Job::Resolve(wanted, _) => {
                let doubt = resource.resolve(&member, &wanted).is_err();
                let left = left(&resource, doubt, wrote);
                Answer::Resolved(left)
            }
            Job::Acquire { wanted, .. } => acquire(&resource, &member, &wanted, (seen, wrote)),
            Job::Share => Answer::Shared(resource.join_share(&member).map(|h| h.map(Box::new))),
            Job::Watch(snapshot, owner, patience) => {
                Answer::Watched(resource.watch(&member, &snapshot, owner, seen, patience))
            }
            Job::Check(held) => {
                let ours = resource.still_held(&member, &held);
                Answer::Checked(ours.map(|ours| (!ours).then(|| "is owned by another".to_owned())))
            }
            Job::Look => Answer::Checked(Ok(None)),
            Job::Release(held) => {
                let result = resource.release(&member, &held);
                if abandoned {
                    return Answer::Released(Ok(()), Left::NOTHING);
                }
                let left = left(&resource, result.is_err(), wrote);
                Answer::Released(result, left)
            }
        }
    }
}

/// The lockspace's disk, opened when it is first looked at: who meets nobody does not need it.
struct Heartbeats {
    path: PathBuf,
    limit: Duration,
    device: OnceCell<Device>,
}

impl Heartbeats {
    fn device(&self) -> Result<&Device, Fault> {
        if let Some(device) = self.device.get() {
            return Ok(device);
        }
        let device = Device::open(&self.path, Access::Read, self.limit)
            .map_err(|why| Fault::Failed(format!("{}: {why}", self.path.display())))?;
        Ok(self.device.get_or_init(|| device))
    }
}

impl Disk for Heartbeats {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.device()?.read(offset, len)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.device()?.write(offset, bytes)
    }

    fn settle(&self) -> Result<(), Fault> {
        self.device.get().map_or(Ok(()), Device::settle)
    }
}

/// One attempt, with what is in doubt after it brought to an end where the storage lets us.
fn acquire(
    resource: &Resource<'_>,
    member: &Member<'_>,
    wanted: &Wanted,
    (seen, wrote): (&mut Sightings, &Cell<bool>),
) -> Answer {
    let result = resource.acquire(member, wanted, seen);
    let doubt = match &result {
        Err(AcquireError::InDoubt(_)) => resource.resolve(member, wanted).is_err(),
        // Perhaps the host id is not lost: whoever was stopped has not heard of its renewals yet.
        Err(AcquireError::Lost) => true,
        _ => false,
    };
    Answer::Attempted(result, left(resource, doubt, wrote))
}

/// What is left behind after the disk was written to: on a minority of the disks a write may still
/// land even if all went well. Of a read that hangs nothing lands.
fn left(resource: &Resource<'_>, doubt: bool, wrote: &Cell<bool>) -> Left {
    let late = resource.quorum.settle().is_err();
    wrote.set(late && wrote.get());
    let late = wrote.get();
    Left { doubt, late }
}

/// A disk on which it is noted that something was written.
struct Noted<'a> {
    disk: &'a dyn Disk,
    wrote: &'a Cell<bool>,
}

impl Disk for Noted<'_> {
    fn begin_read(&self, offset: u64, len: usize) {
        self.disk.begin_read(offset, len);
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) {
        self.wrote.set(true);
        self.disk.begin_write(offset, bytes);
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.disk.read(offset, len)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        self.disk.inspect(offset, len, see)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.wrote.set(true);
        self.disk.write(offset, bytes)
    }

    fn settle(&self) -> Result<(), Fault> {
        self.disk.settle()
    }
}
