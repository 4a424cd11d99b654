//! What any bytes at all must not do to us: each target takes bytes, and panics if a decoder
//! panics, does not come to an end, or gives back something else than it was given. It says whether
//! there was anything in them that it took.
//!
//! The targets are run by `tests/fuzz.rs` with a seed, and by cargo-fuzz (`tests/fuzz/`).
#![allow(clippy::unwrap_used, clippy::panic)] // A test's helper fails the test by panicking.

mod areas;
mod registry;

use self::areas::Part;
use crate::files::golden;
use crate::messages::{ask, tell};
use crate::sim::{LOCKSPACE, RESOURCE_GEOMETRY};
use crate::storage::host_id as host;
use fastrand::Rng;
use lease_core::id::{Generation, HOST_NAME_MAX, Lver, Name, escape, unescape};
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::holder_note::{COMMAND_MAX, HolderNote};
use lease_core::record::host_note::HostNote;
use lease_core::record::index::IndexHeader;
use lease_core::record::leader::{Cleared, Leader};
use lease_core::record::request::Request;
use lease_core::registry::message::{Ask, Tell};
use lease_core::spec::{LockspaceSpec, Mode, ResourceSpec, parse_path};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// A target: its name, a good input, and what is tried.
pub type Target = (&'static str, fn(&mut Rng) -> Vec<u8>, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("leader", good_leader, leader),
    ("heartbeat", good_heartbeat, heartbeat),
    ("ballot", good_ballot, ballot),
    ("host_note", good_host_note, host_note),
    ("holder_note", good_holder_note, holder_note),
    ("request", good_request, request),
    ("index", good_index, index),
    ("strings", good_string, strings),
    ("messages", good_message, messages),
    ("wire", registry::good_lines, registry::wire),
    ("kept_files", registry::good_files, registry::kept_files),
    ("holders", registry::good_sequence, registry::holders),
    (
        "lockspace_area",
        areas::good_lockspace,
        areas::lockspace_area,
    ),
    ("resource_area", areas::good_resource, areas::resource_area),
];

/// The bytes, with zeros up to a sector of 4096.
fn sector(data: &[u8]) -> Vec<u8> {
    let mut sector = data.to_vec();
    sector.resize(4096, 0);
    sector
}

// ---- records

/// One of these sectors that sanlock has written: what is good whatever our encoders do.
fn sanlocks(rng: &mut Rng, names: &[&str]) -> Vec<u8> {
    golden(names[rng.usize(..names.len())])
}

fn good_leader(rng: &mut Rng) -> Vec<u8> {
    const SANLOCKS: [&str; 4] = [
        "res_leader_cleared.bin",
        "res_leader_held_host2_lver2.bin",
        "res_leader_released_host1_lver1.bin",
        "res_leader_short_hold_held.bin",
    ];
    if rng.bool() {
        return sanlocks(rng, &SANLOCKS);
    }
    let name = Name::new(b"R").unwrap();
    Leader::new(RESOURCE_GEOMETRY, &LOCKSPACE.name, &name, 8).to_sector()
}

fn leader(data: &[u8]) -> bool {
    let sector = sector(data);
    if let Ok(cleared) = Cleared::decode(&sector) {
        return is_cleared(&sector, &cleared);
    }
    let Ok(leader) = Leader::decode(&sector) else {
        return false;
    };
    assert_eq!(leader.encode()[..], sector[..200]);
    assert_eq!(Leader::decode(&leader.to_sector()), Ok(leader));
    let _ = format!("{leader:?} {} {}", leader.lockspace(), leader.resource());
    true
}

/// Nobody writes one again: there is no encoder to compare with.
fn is_cleared(sector: &[u8], cleared: &Cleared) -> bool {
    assert!(Leader::decode(sector).is_err());
    assert_eq!(cleared.lockspace.as_bytes(), text_at(sector, 56));
    assert_eq!(cleared.resource.as_bytes(), text_at(sector, 104));
    assert_eq!(
        number_at(sector, 12),
        cleared.geometry.sector_bytes() as u32
    );
    true
}

/// A name: at most 48 bytes, up to the first NUL.
fn text_at(sector: &[u8], at: usize) -> &[u8] {
    let field = &sector[at..at + 48];
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(48)]
}

fn number_at(sector: &[u8], at: usize) -> u32 {
    sector[at..at + 4]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn good_heartbeat(rng: &mut Rng) -> Vec<u8> {
    if rng.bool() {
        let mut sector = golden("hb_id1_held_hostA_o1.bin");
        sector[200..256].copy_from_slice(&host_note_of(1).encode());
        return sector;
    }
    let name = Name::new(b"host").unwrap();
    Heartbeat::new(RESOURCE_GEOMETRY, &LOCKSPACE.name, 10)
        .joined(&name, 7, 10, host_note_of(1))
        .to_sector()
}

fn host_note_of(number: u64) -> HostNote {
    HostNote {
        watchdog: 10,
        host: host(number),
        generation: Generation(1),
        boot_id: [3; 16],
        former_over: 1,
    }
}

fn heartbeat(data: &[u8]) -> bool {
    let sector = sector(data);
    let Ok(beat) = Heartbeat::decode(&sector) else {
        return false;
    };
    assert_eq!(beat.leader_bytes()[..], sector[..200]);
    assert_eq!(beat.to_sector()[256..512], sector[256..512]);
    if let Some(note) = beat.note() {
        assert_eq!(
            beat.to_sector()[200..256],
            defined_of_host_note(&sector[200..256])
        );
        let of = (Some(note.host), note.generation);
        assert_eq!(of, (beat.owner(), beat.generation()));
    }
    assert_eq!(Heartbeat::decode(&beat.to_sector()), Ok(beat));
    let _ = format!("{beat:?} {:?} {:?}", beat.host_name(), beat.bitmap());
    true
}

fn good_ballot(rng: &mut Rng) -> Vec<u8> {
    const SANLOCKS: [&str; 3] = [
        "res_dblock1_never_used.bin",
        "res_dblock1_released.bin",
        "res_dblock1_shared.bin",
    ];
    if rng.bool() {
        return sanlocks(rng, &SANLOCKS);
    }
    let mut sector = vec![0; 512];
    let numbers = [4001_u64, 4001, 1, 1, 77, 3];
    for (index, number) in numbers.iter().enumerate() {
        sector[8 * index..8 * index + 8].copy_from_slice(&number.to_le_bytes());
    }
    sector[256..].copy_from_slice(&note().encode());
    with_sum(sector, 48)
}

fn ballot(data: &[u8]) -> bool {
    let sector = sector(data);
    let Ok(block) = BallotSector::decode(&sector) else {
        return false;
    };
    let again = block.to_sector(RESOURCE_GEOMETRY.sector());
    assert_eq!(again, defined_of_ballot(&sector));
    assert_eq!(BallotSector::decode(&again), Ok(block));
    true
}

/// What the format defines of a ballot sector. Nothing is said of the generation and the time of a
/// value that is not there, of the generation beside a mode that is not held, and of all that
/// stands between the records. Never used: with a checksum or without.
fn defined_of_ballot(sector: &[u8]) -> Vec<u8> {
    let mut defined = vec![0; 512];
    defined[..48].copy_from_slice(&sector[..48]);
    if sector[16..24] == [0; 8] {
        defined[24..40].fill(0);
    }
    let mut sums = vec![with_sum(sector.to_vec(), 48)[48..52].to_vec()];
    match defined[..48] == [0; 48] {
        true => sums.push(vec![0; 4]),
        false => defined = with_sum(defined, 48),
    }
    assert!(sums.contains(&sector[48..52].to_vec()), "{sums:?}");
    defined[52..56].copy_from_slice(&sector[52..56]);
    defined[128..132].copy_from_slice(&sector[128..132]);
    if sector[128] == 1 {
        defined[136..144].copy_from_slice(&sector[136..144]);
    }
    if HolderNote::decode(&sector[256..512]).is_some() {
        defined[256..].copy_from_slice(&defined_of_holder_note(&sector[256..512]));
    }
    defined
}

fn good_host_note(_: &mut Rng) -> Vec<u8> {
    host_note_of(1).encode().to_vec()
}

fn host_note(data: &[u8]) -> bool {
    let bytes = &sector(data)[..56];
    let Some(note) = HostNote::decode(bytes) else {
        return false;
    };
    assert_eq!(note.encode()[..], defined_of_host_note(bytes));
    assert_eq!(HostNote::decode(&note.encode()), Some(note));
    true
}

/// Nothing is said of what stands between former_over and the checksum.
fn defined_of_host_note(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(with_crc(bytes.to_vec(), 0, 56), bytes);
    let mut defined = bytes[..48].to_vec();
    defined.resize(56, 0);
    with_crc(defined, 0, 56)
}

fn good_holder_note(_: &mut Rng) -> Vec<u8> {
    note().encode().to_vec()
}

/// Of host 1.
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

fn holder_note(data: &[u8]) -> bool {
    let bytes = &sector(data)[..256];
    let Some(note) = HolderNote::decode(bytes) else {
        return false;
    };
    let again = note.encode();
    assert_eq!(again[..], defined_of_holder_note(bytes));
    let cut = HolderNote::decode(&again).unwrap();
    assert!(note.host_name.starts_with(&cut.host_name));
    assert!(note.command.starts_with(&cut.command));
    let whole = HolderNote {
        host_name: note.host_name.clone(),
        command: note.command.clone(),
        ..cut
    };
    assert_eq!(whole, note);
    true
}

/// Any kind but 0 is shared; nothing is said of what stands after the texts. What another program
/// has written may be longer than we write.
fn defined_of_holder_note(bytes: &[u8]) -> Vec<u8> {
    assert_eq!(with_crc(bytes.to_vec(), 0, 256), bytes);
    let host_name = 46..46 + usize::from(bytes[44]);
    let command = host_name.end..host_name.end + usize::from(bytes[45]);
    assert!(command.end <= 252, "the checksum is no text");
    let (host_name, command) = (&bytes[host_name], &bytes[command]);
    let host_name = &host_name[..host_name.len().min(HOST_NAME_MAX)];
    let command = &command[..command.len().min(COMMAND_MAX)];
    let mut defined = bytes[..44].to_vec();
    let shared = bytes[6..8] != [0, 0];
    defined[6..8].copy_from_slice(&u16::from(shared).to_le_bytes());
    defined.extend([host_name.len() as u8, command.len() as u8]);
    defined.extend([host_name, command].concat());
    defined.resize(256, 0);
    with_crc(defined, 0, 256)
}

fn good_request(_: &mut Rng) -> Vec<u8> {
    Request::default().encode().to_vec()
}

fn request(data: &[u8]) -> bool {
    let sector = sector(data);
    let Ok(request) = Request::decode(&sector) else {
        return false;
    };
    // Any minor version is read, and ours is written; the last four bytes are padding.
    let mut defined = sector[..20].to_vec();
    defined[4..6].copy_from_slice(&[1, 0]);
    defined.extend([0; 4]);
    assert_eq!(request.encode()[..], defined);
    true
}

fn good_index(_: &mut Rng) -> Vec<u8> {
    let mut header = Vec::new();
    for number in [0x0104_2018_u32, 0x0001_0002, 1, 512, 4096, 0, 0, 0] {
        header.extend(number.to_le_bytes());
    }
    header.extend(b"LS");
    header
}

fn index(data: &[u8]) -> bool {
    let sector = sector(data);
    let Ok(header) = IndexHeader::decode(&sector) else {
        return false;
    };
    let sizes = [12, 16].map(|at| number_at(&sector, at));
    let of_header = [header.geometry.sector_bytes() as u32, header.max_resources];
    assert_eq!(sizes, of_header);
    let halves = [24, 28].map(|at| u64::from(number_at(&sector, at)));
    assert_eq!(halves[0] | halves[1] << 32, header.offset);
    assert_eq!(header.lockspace.as_bytes(), text_at(&sector, 32));
    assert_eq!(IndexHeader::decode(&header.to_sector()), Ok(header));
    for slot in [0, header.slots().saturating_sub(1)] {
        assert!(header.place(slot) >= header.offset);
    }
    true
}

// ---- text

fn good_string(rng: &mut Rng) -> Vec<u8> {
    const GOOD: [&[u8]; 3] = [
        b"LS:R1:/a\\:b\\ c:0:/d:1048576:SH",
        b"LS:R1:/a:0:7",
        b"LS:17:/a\\:b\\ c:1048576",
    ];
    GOOD[rng.usize(..GOOD.len())].to_vec()
}

fn strings(data: &[u8]) -> bool {
    let text = OsString::from_vec(data.to_vec());
    let lockspace = LockspaceSpec::parse(&text);
    let resource = ResourceSpec::parse(&text);
    let taken = lockspace.is_ok() || resource.is_ok();
    // What is not UTF-8 is printed for people only.
    if text.to_str().is_some() {
        if let Ok(spec) = lockspace {
            assert_eq!(LockspaceSpec::parse(&spec.to_string().into()), Ok(spec));
        }
        if let Ok(spec) = resource {
            assert_eq!(ResourceSpec::parse(&spec.to_string().into()), Ok(spec));
        }
    }
    let _ = parse_path(&text);
    let escaped = escape(data);
    assert!(!escaped.contains(char::is_control), "{escaped:?}");
    assert_eq!(unescape(&escaped).as_deref(), Some(data));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = unescape(text);
    }
    if let Ok(name) = Name::from_field(data) {
        assert_eq!(Name::from_field(name.field()), Ok(name));
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name);
    }
    taken
}

fn good_message(rng: &mut Rng) -> Vec<u8> {
    let message = match rng.bool() {
        true => serde_json::to_vec(&ask(rng)),
        false => serde_json::to_vec(&tell(rng)),
    };
    message.unwrap()
}

fn messages(data: &[u8]) -> bool {
    let ask = serde_json::from_slice::<Ask>(data);
    let tell = serde_json::from_slice::<Tell>(data);
    let taken = ask.is_ok() || tell.is_ok();
    if let Ok(ask) = ask {
        let json = serde_json::to_vec(&ask).unwrap();
        assert_eq!(serde_json::from_slice::<Ask>(&json).unwrap(), ask);
    }
    if let Ok(tell) = tell {
        let json = serde_json::to_vec(&tell).unwrap();
        assert_eq!(serde_json::from_slice::<Tell>(&json).unwrap(), tell);
    }
    taken
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
        "resource_area" => in_sectors(bytes, 512, |index, sector| match areas::part(index) {
            Part::Heartbeat | Part::Leader => with_sum(sector, 168),
            Part::Ballot => with_sum(sector, 48),
            Part::Knobs | Part::Request => sector,
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
