//! A lockspace, and a resource on one to three disks, with anything on them.

use super::{host, host_note_of, note};
use crate::sim::disk::Platter;
use crate::sim::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset, formatted, resource_name};
use fastrand::Rng;
use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::delta::Tenure;
use lease_core::disk::{Disk, Fault};
use lease_core::id::{BallotNumber, Generation, HostId, Lver};
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::HostNote;
use lease_core::record::leader::{Leader, Stamp};
use lease_core::record::request::Request;
use lease_core::resource::{Attempt, Held, Member, Resource, Wanted};
use lease_core::spec::Mode;
use lease_core::survey::{self, Content};
use lease_core::timing::Timing;
use std::cell::{Cell, RefCell};
use std::time::Duration;

const HOSTS: usize = 4;
/// The host that acquires, in its first life.
const OWN: u64 = 2;
/// More than any one look or attempt can need.
const OPERATIONS_MAX: u32 = 20_000;
/// How often one that is refused waits and asks again.
const ATTEMPTS: u32 = 3;
const SECTOR: usize = 512;

/// Disks that end a test which does not come to an end, and the clock. The lockspace is on the
/// first; the resource is on the others.
struct Trays {
    platters: Vec<RefCell<Platter>>,
    operations: Cell<u32>,
    now: Cell<u64>,
    /// These hosts renew as time passes, by their bits.
    alive: u8,
    /// This disk answers nothing but errors from this operation on.
    down: (usize, u32),
}

/// One of the disks.
struct Tray<'a> {
    trays: &'a Trays,
    disk: usize,
}

impl Trays {
    fn new(resource_disks: usize) -> Self {
        let platters = formatted((1 + resource_disks, 1), 1, HOSTS as u64, 1);
        Self {
            platters: platters.into_iter().map(RefCell::new).collect(),
            operations: Cell::new(0),
            now: Cell::new(100_000_000_000),
            alive: 0,
            down: (usize::MAX, 0),
        }
    }

    fn put(&self, disk: usize, offset: u64, data: &[u8]) {
        let mut platter = self.platters[disk].borrow_mut();
        let len = platter.real_len(offset, 1 << 20).min(data.len());
        platter.write(offset, &data[..len]);
    }

    fn tray(&self, disk: usize) -> Tray<'_> {
        Tray { trays: self, disk }
    }

    fn count(&self) {
        self.operations.set(self.operations.get() + 1);
        assert!(self.operations.get() < OPERATIONS_MAX, "it comes to no end");
    }

    fn pass(&self, duration: Duration) {
        self.count();
        self.now.set(self.now.get() + duration.as_nanos() as u64);
        let alive = (0..HOSTS).filter(|index| self.alive & (1 << index) != 0);
        for offset in alive.map(|index| index as u64 * 4096) {
            let sector = self.platters[0].borrow().read(offset, 4096);
            if let Ok(beat) = Heartbeat::decode(&sector)
                && !beat.is_free()
            {
                let renewed = beat.stamped(self.now().seconds()).to_sector();
                self.put(0, offset, &renewed);
            }
        }
    }
}

impl Tray<'_> {
    fn operate(&self) -> Result<(), Fault> {
        self.trays.count();
        let (disk, from) = self.trays.down;
        match disk == self.disk && self.trays.operations.get() > from {
            true => Err(Fault::Failed("down".into())),
            false => Ok(()),
        }
    }
}

impl Disk for Tray<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.operate()?;
        if offset + len as u64 > area_offset(2) {
            return Err(Fault::Failed("past the end".into()));
        }
        Ok(self.trays.platters[self.disk].borrow().read(offset, len))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.operate()?;
        let mut platter = self.trays.platters[self.disk].borrow_mut();
        platter.write(offset, bytes);
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
}

impl Clock for Trays {
    fn now(&self) -> Moment {
        Moment(self.now.get())
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.pass(duration);
        Ok(())
    }

    fn back_off(&self, most: Duration) {
        self.pass(most);
    }
}

/// Whether anything is recognised there.
fn survey_all(tray: &Tray<'_>, area: usize) -> bool {
    let size = area_offset(2);
    let _ = survey::probe(tray, area_offset(area));
    let Ok(Some(area)) = survey::read_area(tray, area_offset(area), size) else {
        return false;
    };
    let _ = format!("{:?} {}", area.damage, area.end());
    match area.content {
        Content::Lockspace(hosts) => drop(hosts.io_timeout()),
        Content::Resource(lease) => drop((lease.holder().cloned(), lease.sharers().count())),
        Content::Index(..) => {}
    }
    true
}

// ---- a lockspace

pub(super) fn good_lockspace(_: &mut Rng) -> Vec<u8> {
    let platter = formatted((1, 1), 1, HOSTS as u64, 1).remove(0);
    let mut area = platter.read(0, HOSTS * 4096);
    let joined = [1, 2].map(|number| joined(number, 1, 7)).concat();
    area[..joined.len()].copy_from_slice(&joined);
    area
}

fn joined(number: u64, generation: u64, timestamp: u64) -> Vec<u8> {
    let note = HostNote {
        watchdog: 2,
        generation: Generation(generation),
        ..host_note_of(number)
    };
    Heartbeat::new(LOCKSPACE.geometry, &LOCKSPACE.name, 1)
        .joined(&resource_name(0), timestamp, 1, note)
        .to_sector()
}

/// What is read of all hosts at once is what is read of each.
pub(super) fn lockspace_area(data: &[u8]) -> bool {
    let trays = Trays::new(0);
    trays.put(0, 0, data);
    let tray = trays.tray(0);
    let recognised = survey_all(&tray, 0);
    let area = LOCKSPACE.read_all(&tray).unwrap();
    for host in HostId::all(HOSTS as u64 + 1) {
        assert_eq!(area.host(host), LOCKSPACE.read_host(&tray, host).unwrap());
    }
    let _ = area.formatted_io_timeout(host(1));
    let mut seen = Sightings::default();
    for (host, record) in area.joined().take(HOSTS) {
        let timing = Timing::new(1, 2).unwrap();
        seen.look(host, &record, timing, Moment(5));
        seen.judge(host, Generation(1), &record, Moment(u64::MAX));
    }
    recognised
}

// ---- a resource

/// What a sector of the input is.
pub(super) enum Part {
    /// How many disks, what fails, who is alive, what is wanted.
    Knobs,
    Heartbeat,
    Leader,
    Request,
    Ballot,
}

const AREA_SECTORS: usize = 2 + HOSTS;

/// The input: knobs, the heartbeats, and for each disk the area.
pub(super) fn part(index: usize) -> Part {
    let in_area = index.checked_sub(1 + HOSTS);
    match in_area.map(|index| index % AREA_SECTORS) {
        None if index == 0 => Part::Knobs,
        None => Part::Heartbeat,
        Some(0) => Part::Leader,
        Some(1) => Part::Request,
        Some(_) => Part::Ballot,
    }
}

/// States that a few hosts can leave behind, and disks that have missed some of it.
pub(super) fn good_resource(rng: &mut Rng) -> Vec<u8> {
    let mut input: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(6).collect();
    input.resize(SECTOR, 0);
    for number in 1..=HOSTS as u64 {
        let (generation, timestamp) = (rng.u64(1..3), rng.u64(..3) * 30);
        input.extend(&joined(number, generation, timestamp)[..SECTOR]);
    }
    let leaders = [leader(rng), leader(rng)];
    let ballots = [(); HOSTS].map(|()| [ballot(rng), ballot(rng)]);
    for _ in 0..input[0] % 3 + 1 {
        // Most have the first of two.
        let mut which = || usize::from(rng.u8(..4) == 0);
        input.extend(leaders[which()].to_sector());
        let request = Request::default().encode();
        input.extend(request);
        input.resize(input.len() + SECTOR - request.len(), 0);
        for of_host in &ballots {
            let sector = of_host[which()].to_sector(RESOURCE_GEOMETRY.sector());
            input.extend(sector);
        }
    }
    input
}

fn stamp(rng: &mut Rng) -> Stamp {
    Stamp {
        host: host(rng.u64(1..=HOSTS as u64)),
        generation: Generation(rng.u64(1..3)),
        timestamp: 5,
    }
}

fn leader(rng: &mut Rng) -> Leader {
    let name = resource_name(0);
    let unused = Leader::new(RESOURCE_GEOMETRY, &LOCKSPACE.name, &name, HOSTS as u64);
    let (owner, writer) = (stamp(rng), stamp(rng));
    let short = [None, Some(false), Some(true)][rng.usize(..3)];
    let held = unused.committed(Lver(rng.u64(1..3)), owner, writer, short);
    match rng.u8(..3) {
        0 => unused,
        1 => held,
        _ => held.released(owner),
    }
}

fn ballot(rng: &mut Rng) -> BallotSector {
    let mbal = rng.u64(..3) * 2000 + rng.u64(1..=HOSTS as u64);
    let value = rng.bool().then(|| stamp(rng));
    let ballot = Ballot {
        mbal: BallotNumber(mbal),
        bal: BallotNumber(if value.is_some() { mbal } else { 0 }),
        value,
        lver: Lver(rng.u64(..4)),
    };
    match rng.u8(..3) {
        0 => BallotSector::default(),
        _ => BallotSector {
            ballot,
            released: rng.bool(),
            shared: (rng.u8(..4) == 0).then(|| Generation(rng.u64(1..3))),
            note: rng.bool().then(note),
        },
    }
}

/// What the input says: the disks, and what is wanted.
fn laid_out(data: &[u8]) -> (Trays, Wanted) {
    let knob = |index: usize| data.get(index).copied().unwrap_or(0);
    let disks = usize::from(knob(0) % 3 + 1);
    let mut trays = Trays::new(disks);
    let sectors = data.chunks_exact(SECTOR).enumerate().skip(1);
    for (index, sector) in sectors.take(HOSTS + disks * AREA_SECTORS) {
        match index.checked_sub(1 + HOSTS) {
            None => trays.put(0, (index as u64 - 1) * 4096, sector),
            Some(index) => {
                let (disk, at) = (1 + index / AREA_SECTORS, index % AREA_SECTORS);
                trays.put(disk, area_offset(1) + (at * SECTOR) as u64, sector);
            }
        }
    }
    trays.alive = knob(1);
    trays.down = (usize::from(knob(2) % 8), u32::from(knob(3)));
    let wanted = Wanted {
        mode: [Mode::Exclusive, Mode::Shared][usize::from(knob(4) % 2)],
        lver: (knob(5) > 240).then_some(Lver(u64::from(knob(5) % 4))),
        note: note(),
    };
    (trays, wanted)
}

/// Any attempt on any areas comes to an end; what is had then is ours, and released it is not.
/// Whether it was had.
pub(super) fn resource_area(data: &[u8]) -> bool {
    let (trays, wanted) = laid_out(data);
    let disks = 1..trays.platters.len();
    let disks: Vec<_> = disks.map(|disk| trays.tray(disk)).collect();
    for disk in &disks {
        let _ = survey_all(disk, 1);
    }
    let replicas = disks.iter().map(|disk| Replica {
        disk,
        offset: area_offset(1),
    });
    let resource = Resource {
        quorum: Quorum::new(replicas.collect()),
        lockspace: LOCKSPACE.name,
        name: resource_name(0),
        geometry: RESOURCE_GEOMETRY,
        num_hosts: HOSTS as u64,
    };
    let tenure = Tenure::new(Timing::new(255, 60).unwrap(), trays.now());
    let member = Member {
        clock: &trays,
        tenure: &tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &trays.tray(0),
        host: host(OWN),
        generation: Generation(1),
        ballots_from: Moment(0),
    };
    let healthy = trays.down.0 > disks.len();
    let mut seen = Sightings::default();
    for _ in 0..ATTEMPTS {
        let (snapshot, owner, until) = match resource.acquire(&member, &wanted, &mut seen) {
            Ok(Attempt::Held(held)) => {
                let standing = disks.iter().filter(|disk| stands_on(disk, &held)).count();
                assert!(standing * 2 > disks.len(), "{held:?}");
                let everywhere = standing == disks.len();
                released(&resource, &member, &held, (healthy, everywhere));
                return true;
            }
            Ok(Attempt::Refused(_, snapshot)) => {
                (snapshot, None, trays.now().after(Duration::from_secs(3)))
            }
            Ok(Attempt::Unknown {
                owner,
                until,
                snapshot,
            }) => (snapshot, Some(owner), until),
            Err(_) => {
                let _ = resource.resolve(&member, &wanted);
                return false;
            }
        };
        let patience = until.since(trays.now()).min(Duration::from_secs(80));
        let _ = resource.watch(&member, &snapshot, owner, &mut seen, patience);
    }
    false
}

/// Whether this disk says that we have it.
fn stands_on(tray: &Tray<'_>, held: &Held) -> bool {
    let area = tray.trays.platters[tray.disk].borrow();
    let area = area.read(area_offset(1), AREA_SECTORS * SECTOR);
    let own = RESOURCE_GEOMETRY.ballot_at(host(OWN));
    match held.mode {
        Mode::Exclusive => Leader::decode(&area).is_ok_and(|leader| {
            let ours = |owner: Stamp| owner.same_life(host(OWN), Generation(1));
            leader.lver() == held.lver && leader.owner().is_some_and(ours)
        }),
        Mode::Shared => BallotSector::decode(&area[own..])
            .is_ok_and(|block| block.shared == Some(Generation(1))),
    }
}

/// A share that does not stand on all disks may be seen otherwise in another majority: then it is
/// lost.
fn released(resource: &Resource<'_>, member: &Member<'_>, held: &Held, disks: (bool, bool)) {
    let (healthy, everywhere) = disks;
    let still = resource.still_held(member, held);
    let disputed = held.mode == Mode::Shared && !everywhere;
    let is_expected = still == Ok(true) || still.is_err() && !healthy || disputed;
    assert!(is_expected, "{still:?}");
    let released = resource.release(member, held);
    assert!(released.is_ok() || !healthy, "{released:?}");
    if released.is_ok() {
        assert_ne!(resource.still_held(member, held), Ok(true));
    }
}
