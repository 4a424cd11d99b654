//! Open what a string names, and check what stands there: the one place where it is done, for
//! those who join a lockspace, who want a resource, and who give one back for the dead.

mod misfit;

use self::misfit::Misfit;
use crate::delta::Lockspace;
use crate::disk::{Absent, Disk, Fault};
use crate::failure::{Failure, Status, show};
use crate::id::{HostId, Name};
use crate::layout::{Geometry, SectorSize};
use crate::quorum::{Quorum, Replica};
use crate::record::RecordError;
use crate::record::heartbeat::Heartbeat;
use crate::record::leader::Leader;
use crate::registry::message::{AreaId, Asked};
use crate::resource::Resource;
use crate::spec::{LockspaceSpec, Place, ResourceSpec};
use crate::storage::{Access, Presence, Storage, Volume};
use crate::timing::DEFAULT_IO_TIMEOUT;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Bytes that hold the first record of an area of either sector size.
const FIRST_SECTOR: usize = 4096;
/// How long one I/O may take while t is not known yet.
const LIMIT: Duration = Duration::from_secs(DEFAULT_IO_TIMEOUT as u64);

/// The names of a lockspace, and of a resource in it.
type Names = (Name, Option<Name>);

/// A record that an area starts with.
trait First: Sized {
    fn of(sector: &[u8]) -> Result<Self, RecordError>;
    fn names(&self) -> Names;
    fn shape(&self) -> Geometry;
}

impl First for Heartbeat {
    fn of(sector: &[u8]) -> Result<Self, RecordError> {
        Self::decode(sector)
    }

    fn names(&self) -> Names {
        (*self.lockspace(), None)
    }

    fn shape(&self) -> Geometry {
        self.geometry()
    }
}

impl First for Leader {
    fn of(sector: &[u8]) -> Result<Self, RecordError> {
        Self::decode(sector)
    }

    fn names(&self) -> Names {
        (*self.lockspace(), Some(*self.resource()))
    }

    fn shape(&self) -> Geometry {
        self.geometry()
    }
}

/// What stands first at a place, if that is what was named. Records of small sectors are read by
/// themselves: that fails where the disk has larger ones, so that not one of the area could be
/// written.
fn first<R: First>(disk: &dyn Disk, place: &Place, named: Names) -> Result<R, Misfit> {
    let small = disk.read(place.offset, SectorSize::B512.bytes());
    let (sector, too_small) = match small {
        Err(why @ Fault::Unfit(_)) => (disk.read(place.offset, FIRST_SECTOR)?, Some(why)),
        sector => (sector?, None),
    };
    let record = R::of(&sector).map_err(Misfit::Record)?;
    match (record.names(), too_small) {
        ((lockspace, _), _) if lockspace != named.0 => Err(Misfit::Lockspace(lockspace)),
        ((_, Some(resource)), _) if named.1 != Some(resource) => Err(Misfit::Resource(resource)),
        (_, Some(why)) if record.shape().sector() == SectorSize::B512 => Err(why.into()),
        _ => Ok(record),
    }
}

/// Opens a place; what stands first there must be what was named.
fn open<S: Storage, R: First>(
    storage: &S,
    place: &Place,
    named: Names,
) -> Result<(S::Volume, R), Misfit> {
    let volume = storage.open(&place.path, Access::Write, LIMIT);
    let volume = volume.map_err(Misfit::Open)?;
    if !place.offset.is_multiple_of(FIRST_SECTOR as u64) {
        return Err(Misfit::Offset);
    }
    if !reaches(&volume, place, FIRST_SECTOR as u64) {
        return Err(Misfit::Size(volume.size()));
    }
    let record: R = first(&volume, place, named)?;
    let geometry = record.shape();
    match place.offset.is_multiple_of(geometry.align().bytes()) {
        true => Ok((volume, record)),
        false => Err(Misfit::Align(geometry)),
    }
}

/// Whether there are `bytes` from a place on.
fn reaches(volume: &impl Volume, place: &Place, bytes: u64) -> bool {
    let end = place.offset.checked_add(bytes);
    end.is_some_and(|end| end <= volume.size())
}

/// Opens the disk of a lockspace that is to be joined.
pub fn open_lockspace<S: Storage>(
    storage: &S,
    named: &LockspaceSpec,
) -> Result<(S::Volume, Lockspace), Failure> {
    let opened = open::<S, Heartbeat>(storage, &named.place, (named.name, None));
    let (volume, record) = opened.map_err(|why| why.of_lockspace(named))?;
    let lockspace = Lockspace {
        name: named.name,
        offset: named.place.offset,
        geometry: record.geometry(),
    };
    Ok((volume, lockspace))
}

/// A resource whose disks are open.
#[derive(Debug)]
pub struct Opened<V> {
    /// The argument.
    pub spec: ResourceSpec,
    /// Its disks, in the order of the argument; `None`: it could not be opened, or not yet.
    volumes: Vec<Option<V>>,
    /// Looks at others of them that had not come to an end.
    late: Option<Receiver<Look<V>>>,
    geometry: Geometry,
    num_hosts: u64,
    /// Which of them are not what others find at their paths.
    replaced: Vec<bool>,
}

impl<V: Volume> Opened<V> {
    /// Opens all disks of a resource, one after another. A minority may be missing, as it may fail
    /// later, and is `warned` of; what is there must be what was named.
    pub fn open<S: Storage<Volume = V>>(
        storage: &S,
        spec: &ResourceSpec,
        warn: impl FnOnce(&Failure),
    ) -> Result<Self, Failure> {
        let looks = 0..spec.places.len();
        let looks = looks.map(|index| Look::at(storage, spec, index));
        Self::of(spec, (looks.collect(), None), warn)
    }

    /// Opens all disks of a resource with the looks that have come to an end; `late` are those that
    /// have not. As [`Opened::open`] does, which waits for all of them.
    pub fn of(
        spec: &ResourceSpec,
        (mut looks, late): (Vec<Look<V>>, Option<Receiver<Look<V>>>),
        warn: impl FnOnce(&Failure),
    ) -> Result<Self, Failure> {
        looks.sort_by_key(|look| look.index);
        let mut volumes: Vec<Option<V>> = spec.places.iter().map(|_| None).collect();
        let mut leaders: Vec<Leader> = Vec::new();
        let mut first_failure = None;
        for Look { index, found } in looks {
            match found {
                Ok((volume, leader)) => {
                    volumes[index] = Some(volume);
                    leaders.push(leader);
                }
                Err(failure) if is_missing(failure.status) => {
                    first_failure = first_failure.or(Some(failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        let enough = leaders.len() > spec.places.len() / 2;
        match (first_failure, enough) {
            (Some(failure), false) => return Err(failure),
            (Some(failure), true) => warn(&failure),
            (None, _) => {}
        }
        match leaders.as_slice() {
            [leader, rest @ ..] if rest.iter().all(|other| shape(other) == shape(leader)) => {
                Ok(Self {
                    spec: spec.clone(),
                    replaced: vec![false; volumes.len()],
                    volumes,
                    late,
                    geometry: leader.geometry(),
                    num_hosts: leader.num_hosts(),
                })
            }
            _ => Err(differ(spec)),
        }
    }

    /// Takes in the disks that have answered since, for I/O of at most `limit`: they are as one
    /// that was down for a while. One that is not there is `warned` of; why, if one is not what was
    /// named.
    pub fn take_late(
        &mut self,
        limit: Duration,
        mut warn: impl FnMut(&Failure),
    ) -> Option<Failure> {
        let mut wrong = None;
        for Look { index, found } in self.late.iter().flat_map(Receiver::try_iter) {
            match found {
                Ok((mut volume, leader)) if shape(&leader) == (self.geometry, self.num_hosts) => {
                    volume.set_limit(limit);
                    self.volumes[index] = Some(volume);
                }
                Ok(_) => wrong = Some(differ(&self.spec)),
                Err(failure) if is_missing(failure.status) => warn(&failure),
                Err(failure) => wrong = Some(failure),
            }
        }
        wrong
    }

    /// Whether its areas have room for a value block.
    pub fn has_value_block(&self) -> bool {
        self.geometry.value_block_at().is_some()
    }

    /// How the registry is asked for it.
    pub fn asked(&self) -> Asked {
        let area = |(volume, place): (&Option<V>, &Place)| {
            let identity = volume.as_ref()?.identity();
            Some(AreaId {
                identity,
                offset: place.offset,
            })
        };
        let absolute = |place: &Place| Place {
            path: absolute(&place.path),
            ..place.clone()
        };
        let spec = &self.spec;
        Asked {
            resource: spec.name,
            mode: spec.mode,
            areas: self.volumes.iter().zip(&spec.places).map(area).collect(),
            places: spec.places.iter().map(absolute).collect(),
            spec: spec.to_string(),
        }
    }

    /// All of it is about to be read.
    pub fn expect_to_be_read(&self) {
        let len = self.geometry.ballots_len(self.num_hosts);
        let volumes = self.volumes.iter().flatten();
        volumes.for_each(|volume| volume.expect_read(len));
    }

    /// Lets each I/O from now on take at most `limit`.
    pub fn set_limit(&mut self, limit: Duration) {
        let volumes = self.volumes.iter_mut().flatten();
        volumes.for_each(|volume| volume.set_limit(limit));
    }

    /// A disk that others do not find at its path any more is left out of every majority: nobody
    /// sees what is written there. Why the lease is lost, if too few are left; the others are
    /// `warned` of.
    pub fn look(&mut self, host: HostId, warn: impl FnOnce(&str)) -> Option<String> {
        let mut first = None;
        let places = self.spec.places.iter().zip(&mut self.replaced);
        for (volume, (place, replaced)) in self.volumes.iter().zip(places) {
            let record = place.offset + self.geometry.ballot_at(host) as u64;
            let end = place.offset + self.geometry.ballots_len(self.num_hosts) as u64;
            let look = |volume: &V| volume.presence(record, &(place.offset..end));
            let seen = volume.as_ref().filter(|_| !*replaced).map(look);
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
        warn(&format!(
            "{lockspace}:{name} {why}; going on without this disk"
        ));
        None
    }

    /// Why one of its disks, while nothing is held there, is not the one that others find.
    pub fn changed(&self) -> Option<String> {
        let end = self.geometry.ballots_len(self.num_hosts) as u64;
        for (volume, place) in self.volumes.iter().zip(&self.spec.places) {
            let look = |volume: &V| {
                let area = place.offset..place.offset + end;
                volume.presence(place.offset, &area)
            };
            if let Some(Presence::Replaced(why)) = volume.as_ref().map(look) {
                return Some(elsewhere(&place.path, &why));
            }
        }
        None
    }

    /// Whether too many of its disks are not what others find.
    pub fn is_replaced(&self) -> bool {
        let disks = self.volumes.len();
        let replaced = self.replaced.iter().filter(|replaced| **replaced).count();
        disks - replaced <= disks / 2
    }

    /// Opens its disks anew, but for those on which an I/O is outstanding: what is open may be of
    /// no more use, as after a server was restarted. Why all has to begin anew, if a path leads
    /// elsewhere by now.
    pub fn refresh<S: Storage<Volume = V>>(
        &mut self,
        storage: &S,
        limit: Duration,
    ) -> Option<String> {
        for (volume, place) in self.volumes.iter_mut().zip(&self.spec.places) {
            let Some(volume) = volume else { continue };
            if volume.settle_within(Duration::ZERO) == Err(Fault::Outstanding) {
                continue;
            }
            match storage.open(&place.path, Access::Write, limit) {
                Ok(new) if new.identity() == volume.identity() => *volume = new,
                Ok(_) => return Some(elsewhere(&place.path, "its path leads elsewhere now")),
                Err(_) => {}
            }
        }
        None
    }

    /// Its disks, without those that are not what others find; all of them where that is true of
    /// too many: then nothing is lost by a release, and what is known under another name is freed.
    pub fn disks(&self) -> impl Iterator<Item = &dyn Disk> {
        let abandoned = self.is_replaced();
        let volumes = self.volumes.iter().zip(&self.replaced);
        volumes.map(move |(volume, replaced)| -> &dyn Disk {
            match volume {
                Some(volume) if abandoned || !replaced => volume,
                _ => &Absent,
            }
        })
    }

    /// Gives back the memory that its I/O has taken.
    pub fn shed_memory(&self) {
        let volumes = self.volumes.iter().flatten();
        volumes.for_each(Volume::shed_memory);
    }

    /// The resource on these disks, each as [`Opened::disks`] names it or wrapped.
    pub fn resource<'a>(&self, disks: impl Iterator<Item = &'a dyn Disk>) -> Resource<'a> {
        let replicas = disks.zip(&self.spec.places).map(|(disk, place)| Replica {
            disk,
            offset: place.offset,
        });
        Resource {
            quorum: Quorum::new(replicas.collect()),
            lockspace: self.spec.lockspace,
            name: self.spec.name,
            geometry: self.geometry,
            num_hosts: self.num_hosts,
        }
    }
}

/// What a look at one disk of a resource has found.
#[derive(Debug)]
pub struct Look<V> {
    /// Which one, in the order of the argument.
    index: usize,
    found: Result<(V, Leader), Failure>,
}

impl<V: Volume> Look<V> {
    /// Opens that disk, and looks at what is there: takes as long as an I/O may, or thrice that.
    pub fn at<S: Storage<Volume = V>>(storage: &S, spec: &ResourceSpec, index: usize) -> Self {
        let found = open_one(storage, spec, &spec.places[index]);
        Self { index, found }
    }

    /// Whether these looks at a resource of so many disks say what is to be done: a majority is
    /// there, or cannot be, or one is not what was named.
    pub fn decide(looks: &[Self], disks: usize) -> bool {
        let count = |is: fn(&Self) -> bool| looks.iter().filter(|look| is(look)).count();
        let there = count(|look| look.found.is_ok());
        let missing = count(|look| matches!(&look.found, Err(why) if is_missing(why.status)));
        there > disks / 2 || disks - missing <= disks / 2 || there + missing < looks.len()
    }
}

fn open_one<S: Storage>(
    storage: &S,
    spec: &ResourceSpec,
    place: &Place,
) -> Result<(S::Volume, Leader), Failure> {
    let cannot = |why: Misfit| why.of_resource(spec, place);
    let named = (spec.lockspace, Some(spec.name));
    let (volume, leader): (_, Leader) = open(storage, place, named).map_err(cannot)?;
    let geometry = leader.geometry();
    if !reaches(&volume, place, geometry.align().bytes()) {
        return Err(cannot(Misfit::End(volume.size())));
    }
    Ok((volume, leader))
}

/// Whether a disk that could not be opened for this reason may be one that has failed.
fn is_missing(status: Status) -> bool {
    matches!(status, Status::Io | Status::NoPath | Status::System)
}

/// What is the same on all disks of a resource.
fn shape(leader: &Leader) -> (Geometry, u64) {
    (leader.geometry(), leader.num_hosts())
}

fn differ(spec: &ResourceSpec) -> Failure {
    let text = format!(
        "cannot acquire {spec}: its disks differ in geometry; is each of them one of its disks? \
         lease-dump shows what lies on them"
    );
    Failure::new(Status::Invalid, text)
}

fn elsewhere(path: &Path, why: &str) -> String {
    format!("was replaced: {}: {why}", show(path.as_os_str()))
}

/// A path that means the same in another process. Without a working directory it stays as it is.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Fails if two of the resources are one.
pub fn check_distinct<V: Volume>(opened: &[Opened<V>]) -> Result<(), Failure> {
    let areas: Vec<_> = opened.iter().map(|one| one.asked().areas).collect();
    for (i, one) in opened.iter().enumerate() {
        let same = |area: &Option<AreaId>| area.is_some() && areas[i].contains(area);
        let overlaps = |other: &Vec<Option<AreaId>>| other.iter().any(same);
        if let Some(other) = areas[..i].iter().position(overlaps) {
            let (one, other) = (&one.spec, &opened[other].spec);
            let text =
                format!("cannot acquire {one}: it is the same resource as {other}; name it once");
            return Err(Failure::new(Status::Usage, text));
        }
    }
    Ok(())
}

/// The disks of a resource that a holder has left, opened again.
#[derive(Debug)]
pub struct Reopened<V> {
    lockspace: Name,
    asked: Asked,
    volumes: Vec<Option<V>>,
}

impl<V: Volume> Reopened<V> {
    /// Opens them. A place where the holder found a disk must lead to that one. In words if there
    /// is none at all, or another.
    pub fn open<S: Storage<Volume = V>>(
        storage: &S,
        (lockspace, asked): (Name, &Asked),
        limit: Duration,
    ) -> Result<Self, String> {
        let mut volumes = Vec::new();
        let mut first_failure = None;
        for (place, area) in asked.places.iter().zip(&asked.areas) {
            match storage.open(&place.path, Access::Write, limit) {
                Ok(volume) if area.is_none_or(|area| area.identity == volume.identity()) => {
                    volumes.push(Some(volume));
                }
                Ok(_) => return Err(format!("{place} is another file now")),
                Err(why) => {
                    volumes.push(None);
                    first_failure = first_failure.or(Some(why.to_string()));
                }
            }
        }
        match first_failure {
            Some(why) if volumes.iter().all(Option::is_none) => Err(why),
            _ => Ok(Self {
                lockspace,
                asked: asked.clone(),
                volumes,
            }),
        }
    }

    /// The disks that were opened.
    pub fn volumes(&self) -> impl Iterator<Item = &V> {
        self.volumes.iter().flatten()
    }

    /// Whether all its disks were opened, and are like this.
    pub fn all_are(&self, like: impl Fn(&V) -> bool) -> bool {
        let volumes = self.volumes.iter();
        volumes
            .map(Option::as_ref)
            .all(|volume| volume.is_some_and(&like))
    }

    /// The resource on them. A disk that the holder had not seen may be anything: it counts only if
    /// it is one of this resource now.
    pub fn resource(&self) -> Result<Resource<'_>, String> {
        let leader = self.leader()?;
        let replicas = self.disks().map(|(volume, place, seen)| Replica {
            disk: match volume {
                Some(volume) if seen || self.is_of(volume, place, &leader) => volume,
                _ => &Absent,
            },
            offset: place.offset,
        });
        Ok(Resource {
            quorum: Quorum::new(replicas.collect()),
            lockspace: self.lockspace,
            name: self.asked.resource,
            geometry: leader.geometry(),
            num_hosts: leader.num_hosts(),
        })
    }

    /// Each disk, where the resource lies on it, and whether its holder has seen it there.
    fn disks(&self) -> impl Iterator<Item = (Option<&V>, &Place, bool)> {
        let volumes = self.volumes.iter().map(Option::as_ref);
        let places = volumes.zip(&self.asked.places).zip(&self.asked.areas);
        places.map(|((volume, place), area)| (volume, place, area.is_some()))
    }

    /// What the first disk says that its holder has seen, and that can be read.
    fn leader(&self) -> Result<Leader, String> {
        let mut first_failure = None;
        for (volume, place, seen) in self.disks() {
            let Some(volume) = volume.filter(|_| seen) else {
                continue;
            };
            match self.leader_on(volume, place) {
                Ok(leader) => return Ok(leader),
                Err(why) => first_failure = first_failure.or(Some(why)),
            }
        }
        Err(first_failure.unwrap_or_else(|| "none of its disks can be opened".to_owned()))
    }

    /// The leader on one disk, if that holds this resource.
    fn leader_on(&self, volume: &V, place: &Place) -> Result<Leader, String> {
        let named = (self.lockspace, Some(self.asked.resource));
        first(volume, place, named).map_err(|why| match why {
            Misfit::Lockspace(_) | Misfit::Resource(_) => {
                format!("{place} is another resource now")
            }
            other => other.describe("it"),
        })
    }

    /// Whether a disk that its holder has not seen is one of this resource.
    fn is_of(&self, volume: &V, place: &Place, leader: &Leader) -> bool {
        let found = self.leader_on(volume, place);
        found.is_ok_and(|found| shape(&found) == shape(leader))
    }
}

/// The lockspace's disk, opened when it is first looked at: who meets nobody does not need it.
#[derive(Debug)]
pub struct Heartbeats<S: Storage> {
    storage: S,
    path: PathBuf,
    limit: Duration,
    volume: OnceCell<S::Volume>,
}

impl<S: Storage> Heartbeats<S> {
    /// At `path`, each I/O of at most `limit`.
    pub fn new(storage: S, path: PathBuf, limit: Duration) -> Self {
        let volume = OnceCell::new();
        Self {
            storage,
            path,
            limit,
            volume,
        }
    }

    /// It is opened anew when it is looked at again.
    pub fn close(&mut self) {
        self.volume.take();
    }

    fn volume(&self) -> Result<&S::Volume, Fault> {
        if let Some(volume) = self.volume.get() {
            return Ok(volume);
        }
        let opened = self.storage.open(&self.path, Access::Read, self.limit);
        let volume =
            opened.map_err(|why| Fault::Failed(format!("{}: {why}", self.path.display())))?;
        Ok(self.volume.get_or_init(|| volume))
    }
}

impl<S: Storage> Disk for Heartbeats<S> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.volume()?.read(offset, len)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        self.volume()?.inspect(offset, len, see)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.volume()?.write(offset, bytes)
    }

    fn settle(&self) -> Result<(), Fault> {
        self.volume.get().map_or(Ok(()), Disk::settle)
    }

    fn settle_within(&self, patience: Duration) -> Result<(), Fault> {
        let volume = self.volume.get();
        volume.map_or(Ok(()), |volume| volume.settle_within(patience))
    }
}
