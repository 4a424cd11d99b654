//! What any bytes at all must not do to us: each target takes bytes, and panics if a decoder
//! panics, does not come to an end, or gives back something else than it was given.
//!
//! The targets are run by `tests/fuzz.rs` with a seed, and by cargo-fuzz (`tests/fuzz/`).
#![allow(clippy::unwrap_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::sim::disk::Platter;
use crate::sim::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset, formatted, resource_name};
use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::delta::Tenure;
use lease_core::disk::{Disk, Fault};
use lease_core::id::{Generation, HostId, Lver, Name, escape, unescape};
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::holder_note::HolderNote;
use lease_core::record::host_note::HostNote;
use lease_core::record::index::IndexHeader;
use lease_core::record::leader::Leader;
use lease_core::record::request::Request;
use lease_core::registry::message::{Ask, Tell};
use lease_core::resource::{Attempt, Member, Resource, Wanted};
use lease_core::spec::{LockspaceSpec, Mode, ResourceSpec, parse_path};
use lease_core::survey::{self, Content};
use lease_core::timing::Timing;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

/// A target: its name, what a good input looks like, and what is tried.
pub type Target = (&'static str, fn() -> Vec<u8>, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 11] = [
    ("leader", good_leader, leader),
    ("heartbeat", good_heartbeat, heartbeat),
    ("ballot", good_ballot, ballot),
    ("host_note", good_host_note, host_note),
    ("holder_note", good_holder_note, holder_note),
    ("request", good_request, request),
    ("index", good_index, index),
    ("strings", good_string, strings),
    ("messages", good_message, messages),
    ("lockspace_area", good_lockspace, lockspace_area),
    ("resource_area", good_resource, resource_area),
];

/// The bytes, with zeros up to a sector of 4096.
fn sector(data: &[u8]) -> Vec<u8> {
    let mut sector = data.to_vec();
    sector.resize(4096, 0);
    sector
}

fn host(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

// ---- records

fn good_leader() -> Vec<u8> {
    let name = Name::new(b"R").unwrap();
    Leader::new(RESOURCE_GEOMETRY, &LOCKSPACE.name, &name, 8).to_sector()
}

fn leader(data: &[u8]) {
    let sector = sector(data);
    if let Ok(leader) = Leader::decode(&sector) {
        assert_eq!(leader.encode()[..], sector[..200]);
        assert_eq!(Leader::decode(&leader.to_sector()), Ok(leader));
        let _ = format!("{leader:?} {} {}", leader.lockspace(), leader.resource());
    }
}

fn good_heartbeat() -> Vec<u8> {
    let name = Name::new(b"host").unwrap();
    let note = HostNote::decode(&good_host_note()).unwrap();
    Heartbeat::new(RESOURCE_GEOMETRY, &LOCKSPACE.name, 10)
        .joined(&name, 7, 10, note)
        .to_sector()
}

fn heartbeat(data: &[u8]) {
    let sector = sector(data);
    if let Ok(beat) = Heartbeat::decode(&sector) {
        assert_eq!(beat.leader_bytes()[..], sector[..200]);
        assert_eq!(beat.to_sector()[256..512], sector[256..512]);
        assert_eq!(Heartbeat::decode(&beat.to_sector()), Ok(beat));
        let _ = format!("{beat:?} {:?} {:?}", beat.host_name(), beat.bitmap());
    }
}

fn good_ballot() -> Vec<u8> {
    let mut sector = vec![0; 512];
    let numbers = [4001_u64, 4001, 1, 1, 77, 3];
    for (index, number) in numbers.iter().enumerate() {
        sector[8 * index..8 * index + 8].copy_from_slice(&number.to_le_bytes());
    }
    sector[256..].copy_from_slice(&good_holder_note());
    with_sum(sector, 48)
}

fn ballot(data: &[u8]) {
    let sector = sector(data);
    if let Ok(block) = BallotSector::decode(&sector) {
        let again = block.to_sector(RESOURCE_GEOMETRY.sector());
        assert_eq!(BallotSector::decode(&again), Ok(block));
    }
}

fn good_host_note() -> Vec<u8> {
    let note = HostNote {
        watchdog: 10,
        host: host(1),
        generation: Generation(1),
        boot_id: [3; 16],
    };
    note.encode().to_vec()
}

fn host_note(data: &[u8]) {
    let bytes = &sector(data)[..56];
    if let Some(note) = HostNote::decode(bytes) {
        assert_eq!(HostNote::decode(&note.encode()), Some(note));
    }
}

fn good_holder_note() -> Vec<u8> {
    note().encode().to_vec()
}

fn note() -> HolderNote {
    HolderNote {
        host: host(1),
        generation: Generation(1),
        lver: Lver(3),
        mode: Mode::Exclusive,
        pid: 1,
        start: 2,
        host_name: b"host".to_vec(),
        command: b"command".to_vec(),
    }
}

fn holder_note(data: &[u8]) {
    let bytes = &sector(data)[..256];
    if let Some(note) = HolderNote::decode(bytes) {
        // What another program has written may be longer than we write.
        let again = HolderNote::decode(&note.encode()).unwrap();
        assert!(note.host_name.starts_with(&again.host_name));
        assert!(note.command.starts_with(&again.command));
        assert_eq!(HolderNote::decode(&again.encode()), Some(again));
    }
}

fn good_request() -> Vec<u8> {
    Request::default().encode().to_vec()
}

fn request(data: &[u8]) {
    if let Ok(request) = Request::decode(&sector(data)) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
}

fn good_index() -> Vec<u8> {
    let mut header = Vec::new();
    for number in [0x0104_2018_u32, 0x0001_0002, 1, 512, 4096, 0, 0, 0] {
        header.extend(number.to_le_bytes());
    }
    header.extend(b"LS");
    header
}

fn index(data: &[u8]) {
    let _ = IndexHeader::decode(&sector(data)).map(|header| format!("{header:?}"));
}

// ---- text

fn good_string() -> Vec<u8> {
    b"LS:R1:/a\\:b\\ c:0:/d:1048576:SH".to_vec()
}

fn strings(data: &[u8]) {
    let text = OsString::from_vec(data.to_vec());
    // What is not UTF-8 is printed for people only.
    let printable = text.to_str().is_some();
    if let Ok(spec) = LockspaceSpec::parse(&text)
        && printable
    {
        assert_eq!(LockspaceSpec::parse(&spec.to_string().into()), Ok(spec));
    }
    if let Ok(spec) = ResourceSpec::parse(&text)
        && printable
    {
        assert_eq!(ResourceSpec::parse(&spec.to_string().into()), Ok(spec));
    }
    let _ = parse_path(&text);
    assert_eq!(unescape(&escape(data)).as_deref(), Some(data));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = unescape(text);
    }
    if let Ok(name) = Name::from_field(data) {
        assert_eq!(Name::from_field(name.field()), Ok(name));
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name);
    }
}

fn good_message() -> Vec<u8> {
    br#"{"say":"acquired","index":0,"lver":17,"left":"nothing"}"#.to_vec()
}

fn messages(data: &[u8]) {
    if let Ok(ask) = serde_json::from_slice::<Ask>(data) {
        let json = serde_json::to_vec(&ask).unwrap();
        assert_eq!(serde_json::from_slice::<Ask>(&json).unwrap(), ask);
    }
    if let Ok(tell) = serde_json::from_slice::<Tell>(data) {
        let json = serde_json::to_vec(&tell).unwrap();
        assert!(serde_json::from_slice::<Tell>(&json).is_ok());
    }
}

// ---- areas

const HOSTS: u64 = 4;
/// More than any one look or attempt can need.
const OPERATIONS_MAX: u32 = 20_000;

/// A disk of two areas, that ends a test which does not come to an end.
struct Tray {
    platter: RefCell<Platter>,
    operations: Cell<u32>,
    now: Cell<u64>,
}

impl Tray {
    fn new(area: usize, data: &[u8]) -> Self {
        let mut platter = formatted(1, 1, HOSTS, 1).remove(0);
        let len = platter.real_len(area_offset(area), 1 << 20).min(data.len());
        platter.write(area_offset(area), &data[..len]);
        Self {
            platter: RefCell::new(platter),
            operations: Cell::new(0),
            now: Cell::new(100_000_000_000),
        }
    }

    fn count(&self) {
        self.operations.set(self.operations.get() + 1);
        assert!(self.operations.get() < OPERATIONS_MAX, "it comes to no end");
    }
}

impl Disk for Tray {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.count();
        if offset + len as u64 > area_offset(2) {
            return Err(Fault::Failed("past the end".into()));
        }
        Ok(self.platter.borrow().read(offset, len))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.count();
        self.platter.borrow_mut().write(offset, bytes);
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
}

impl Clock for Tray {
    fn now(&self) -> Moment {
        Moment(self.now.get())
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.count();
        self.now.set(self.now.get() + duration.as_nanos() as u64);
        Ok(())
    }

    fn back_off(&self, most: Duration) {
        self.count();
        self.now.set(self.now.get() + most.as_nanos() as u64);
    }
}

fn survey_all(tray: &Tray, area: usize) {
    let size = area_offset(2);
    let _ = survey::probe(tray, area_offset(area));
    if let Ok(Some(area)) = survey::read_area(tray, area_offset(area), size) {
        let _ = format!("{:?} {}", area.damage, area.end());
        match area.content {
            Content::Lockspace(hosts) => drop(hosts.io_timeout()),
            Content::Resource(lease) => drop((lease.holder().cloned(), lease.sharers().count())),
            Content::Index(_) => {}
        }
    }
}

fn good_lockspace() -> Vec<u8> {
    let platter = formatted(1, 1, HOSTS, 1).remove(0);
    let mut area = platter.read(0, HOSTS as usize * 4096);
    let joined = [good_heartbeat_of(1), good_heartbeat_of(2)].concat();
    area[..joined.len()].copy_from_slice(&joined);
    area
}

fn good_heartbeat_of(number: u64) -> Vec<u8> {
    let name = Name::new(b"host").unwrap();
    let note = HostNote {
        watchdog: 10,
        host: host(number),
        generation: Generation(1),
        boot_id: [3; 16],
    };
    Heartbeat::new(LOCKSPACE.geometry, &LOCKSPACE.name, 1)
        .joined(&name, 7, 1, note)
        .to_sector()
}

fn lockspace_area(data: &[u8]) {
    let tray = Tray::new(0, data);
    survey_all(&tray, 0);
    let area = LOCKSPACE.read_all(&tray).unwrap();
    let _ = area.formatted_io_timeout(host(1));
    let mut seen = Sightings::default();
    for (host, record) in area.joined().take(HOSTS as usize) {
        let timing = Timing::new(1, 2).unwrap();
        seen.look(host, &record, timing, Moment(5));
        seen.judge(host, Generation(1), &record, Moment(u64::MAX));
    }
}

fn good_resource() -> Vec<u8> {
    let platter = formatted(1, 1, HOSTS, 1).remove(0);
    let mut area = platter.read(area_offset(1), (2 + HOSTS as usize) * 512);
    area[1024..1536].copy_from_slice(&good_ballot());
    area
}

/// Any attempt on any area comes to an end, and what it leaves there is valid.
fn resource_area(data: &[u8]) {
    let tray = Tray::new(1, data);
    survey_all(&tray, 1);
    let resource = Resource {
        quorum: Quorum::new(vec![Replica {
            disk: &tray,
            offset: area_offset(1),
        }]),
        lockspace: LOCKSPACE.name,
        name: resource_name(0),
        geometry: RESOURCE_GEOMETRY,
        num_hosts: HOSTS,
    };
    let timing = Timing::new(255, 60).unwrap();
    let tenure = Tenure::new(timing, tray.now());
    let member = Member {
        clock: &tray,
        tenure: &tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &tray,
        host: host(2),
        generation: Generation(1),
        ballots_from: Moment(0),
    };
    let mode = if data.len().is_multiple_of(2) {
        Mode::Exclusive
    } else {
        Mode::Shared
    };
    let wanted = Wanted {
        mode,
        lver: None,
        note: note(),
    };
    let mut seen = Sightings::default();
    match resource.acquire(&member, &wanted, &mut seen) {
        Ok(Attempt::Held(held)) => {
            assert_eq!(resource.still_held(&member, &held), Ok(true));
            resource.release(&member, &held).unwrap();
            assert_ne!(resource.still_held(&member, &held), Ok(true));
        }
        Ok(Attempt::Refused(_, snapshot)) => {
            let patience = Duration::from_secs(3);
            let _ = resource.watch(&member, &snapshot, None, &mut seen, patience);
        }
        Ok(Attempt::Unknown { .. }) => {}
        Err(_) => {
            let _ = resource.resolve(&member, &wanted);
        }
    }
}

// ---- checksums

/// Puts sanlock's checksum of all bytes before `at` there.
fn with_sum(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    if bytes.len() >= at + 4 {
        let sum = lease_core::record::checksum(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// Mends the checksums of a mutated input, so that what lies behind them is tried as well.
pub fn mend(target: &str, bytes: Vec<u8>) -> Vec<u8> {
    match target {
        "leader" | "heartbeat" => with_sum(bytes, 168),
        "ballot" => with_sum(bytes, 48),
        "host_note" => with_crc(bytes, 0, 56),
        "holder_note" => with_crc(bytes, 0, 256),
        "lockspace_area" => in_sectors(bytes, 4096, |_, sector| with_sum(sector, 168)),
        "resource_area" => in_sectors(bytes, 512, |index, sector| match index {
            0 => with_sum(sector, 168),
            1 => sector,
            _ => with_sum(sector, 48),
        }),
        _ => bytes,
    }
}

fn in_sectors(bytes: Vec<u8>, size: usize, mend: impl Fn(usize, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let sectors = bytes.chunks(size).enumerate();
    sectors
        .flat_map(|(index, part)| mend(index, part.to_vec()))
        .collect()
}

fn with_crc(mut bytes: Vec<u8>, start: usize, len: usize) -> Vec<u8> {
    if bytes.len() >= start + len {
        let sum = crc32fast::hash(&bytes[start..start + len - 4]);
        bytes[start + len - 4..start + len].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}
