//! Whole areas, read as they are: what stands where, of which geometry, and what of it is broken.
//!
//! Nobody who uses a lease reads like this: the protocols take a record that does not check for an
//! error. Here everything readable is kept, and each defect noted with its sector. Sectors of one
//! area are of different moments: nothing here may decide who owns what.

mod entries;
mod image;

pub use self::image::{Damage, Flaw};

use self::image::{BLOCK, Image, Notes};
use crate::disk::{Disk, Fault};
use crate::id::{Generation, HostId, Lver, Name};
use crate::layout::{AlignSize, Geometry, SectorSize};
use crate::record::RecordError;
use crate::record::ballot::BallotSector;
use crate::record::heartbeat::Heartbeat;
use crate::record::holder_note::HolderNote;
use crate::record::index::{IndexEntry, IndexHeader};
use crate::record::leader::{Cleared, Leader, claimed_geometry};
use crate::record::request::Request;

/// Areas are looked for at multiples of this many bytes: the smallest area.
pub const STEP: u64 = 1 << 20;
/// The second record as well: enough to recognise an area whose first record is damaged.
const LOOK_LEN: usize = 2 * BLOCK;
/// Looks at a resource, before a leader that seems older than its ballots is called damaged.
const LOOKS_MAX: u32 = 3;

/// What the first record of an area says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A lockspace.
    Lockspace {
        /// Its name.
        name: Name,
        /// Sector and area size.
        geometry: Geometry,
    },
    /// A resource.
    Resource {
        /// Its leader, with names, geometry and number of hosts.
        leader: Box<Leader>,
    },
    /// A resource that was deleted.
    Cleared,
    /// The header of a resource index.
    Index,
    /// Zeros.
    Empty,
    /// None of these: the record does not check, or is none at all.
    Unknown(RecordError),
}

/// Reads the 4096 bytes at byte `offset`, where an area may start, and says what they are.
pub fn probe(disk: &dyn Disk, offset: u64) -> Result<Probe, Fault> {
    Ok(Probe::of(&disk.read(offset, BLOCK)?))
}

impl Probe {
    /// `start`: at least the first 512 bytes of an area.
    fn of(start: &[u8]) -> Self {
        if is_zero(start) {
            return Self::Empty;
        }
        match Heartbeat::decode(start) {
            Ok(record) => {
                let (name, geometry) = (*record.lockspace(), record.geometry());
                return Self::Lockspace { name, geometry };
            }
            Err(RecordError::Cleared { .. }) => return Self::Cleared,
            Err(RecordError::Magic { .. }) => {}
            Err(error) => return Self::Unknown(error),
        }
        match Leader::decode(start) {
            Ok(leader) => {
                let leader = Box::new(leader);
                return Self::Resource { leader };
            }
            Err(RecordError::Magic { .. }) => {}
            Err(error) => return Self::Unknown(error),
        }
        match IndexHeader::decode(start) {
            Ok(_) => Self::Index,
            Err(RecordError::Magic { found, .. }) => Self::Unknown(RecordError::Magic {
                record: "lockspace or resource",
                found,
            }),
            Err(error) => Self::Unknown(error),
        }
    }
}

/// One area, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// Where it starts, in bytes from the start of the disk.
    pub offset: u64,
    /// Sector and area size.
    pub geometry: Geometry,
    /// What it holds, as far as that can be read.
    pub content: Content,
    /// What cannot, in the order of the sectors.
    pub damage: Vec<Damage>,
}

/// What an area holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A lockspace.
    Lockspace(Hosts),
    /// A resource, or what is left of one that was cleared.
    Resource(Box<Lease>),
    /// An index: its header, and the entries that are in use.
    Index(IndexHeader, Vec<IndexEntry>),
}

/// A lockspace's heartbeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// The name of the lockspace; `None` if no record says it.
    pub lockspace: Option<Name>,
    /// Every heartbeat that checks, used or not, in the order of the host ids.
    pub heartbeats: Vec<(HostId, Heartbeat)>,
}

/// A resource's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Lockspace and resource name; `None` if the leader does not say them.
    pub names: Option<(Name, Name)>,
    /// It was deleted: its leader says so, and nothing else.
    pub cleared: bool,
    /// The leader.
    pub leader: Option<Leader>,
    /// The request record.
    pub request: Option<Request>,
    /// Every ballot record that checks, used or not, in the order of the host ids.
    pub ballots: Vec<(HostId, BallotSector)>,
    /// The value block, if there is room for one and it can be read.
    pub value_block: Option<Vec<u8>>,
}

/// Reads the area that starts at byte `offset` of a disk of `size` bytes. `None`: nothing there
/// can be recognised as one.
///
/// Blocks that the disk cannot read, and what lies past its end, are noted as damage.
pub fn read_area(disk: &dyn Disk, offset: u64, size: u64) -> Result<Option<Area>, Fault> {
    let start = Image::read(disk, offset, LOOK_LEN, size)?;
    let Some(found) = Found::at(&start.bytes) else {
        return match start.unreadable.into_iter().next() {
            Some((_, fault)) => Err(fault),
            None => Ok(None),
        };
    };
    let geometry = found.geometry;
    let mut notes = Notes::new(geometry);
    let image = || Image::read(disk, offset, geometry.area_bytes(), size);
    let content = match found.kind {
        Kind::Lockspace => Content::Lockspace(read_hosts(&image()?, &mut notes)),
        Kind::Resource { size_known } => {
            if !size_known {
                notes.note(0, Flaw::AreaSize);
            }
            Content::Resource(Box::new(read_settled_lease(&image, &mut notes)?))
        }
        Kind::Index(header) => {
            Content::Index(header, entries::read(&image()?, &header, &mut notes))
        }
    };
    notes.damage.sort_by_key(|damage| damage.sector);
    Ok(Some(Area {
        offset,
        geometry,
        content,
        damage: notes.damage,
    }))
}

/// The first area at or after byte `from` of a disk of `size` bytes. The next one is to be looked
/// for from [`Area::end`] on.
pub fn next_area(disk: &dyn Disk, from: u64, size: u64) -> Result<Option<Area>, Fault> {
    let mut at = from.next_multiple_of(STEP);
    while at < size {
        if let Some(area) = read_area(disk, at, size)? {
            return Ok(Some(area));
        }
        at += STEP;
    }
    Ok(None)
}

/// The area inside of which byte `offset` lies, if it lies in one that starts before it, at a
/// multiple of its own size.
pub fn enclosing_area(disk: &dyn Disk, offset: u64, size: u64) -> Result<Option<Area>, Fault> {
    for align in [AlignSize::M8, AlignSize::M4, AlignSize::M2, AlignSize::M1] {
        let start = offset - offset % align.bytes();
        if start < offset
            && let Some(area) = read_area(disk, start, size)?
            && area.end() > offset
        {
            return Ok(Some(area));
        }
    }
    Ok(None)
}

impl Area {
    /// The byte after its last.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.geometry.align().bytes())
    }
}

impl Hosts {
    /// The io_timeout that the lockspace was formatted with, in seconds: that of a record which
    /// nobody has joined yet.
    pub fn io_timeout(&self) -> Option<u8> {
        let untouched = self.heartbeats.iter().find(|(_, r)| r.owner().is_none());
        untouched.and_then(|(_, record)| record.io_timeout())
    }
}

impl Lease {
    /// What the owner says of itself, if it says it of the present leader.
    pub fn holder(&self) -> Option<&HolderNote> {
        let leader = self.leader.as_ref()?;
        let owner = leader.owner()?;
        let block = self.ballots.iter().find(|(host, _)| *host == owner.host);
        let note = block.and_then(|(_, block)| block.note.as_ref());
        note.filter(|note| note.is_of(leader))
    }

    /// The hosts that share it, each with what it says of itself, if it says it of that share.
    pub fn sharers(&self) -> impl Iterator<Item = (HostId, Generation, Option<&HolderNote>)> {
        self.ballots.iter().filter_map(|(host, block)| {
            let generation = block.shared?;
            let of_share = |note: &&HolderNote| {
                (note.host, note.generation, note.lver) == (*host, generation, block.ballot.lver)
            };
            Some((*host, generation, block.note.as_ref().filter(of_share)))
        })
    }

    /// The first ballot that has accepted an owner for a version after the one that the leader
    /// is about to have: the version between was committed, and the leader has lost it.
    fn ahead(&self) -> Option<(HostId, Flaw)> {
        let leader = self.leader.as_ref()?.lver();
        let ahead = |ballot: Lver| ballot > leader.next();
        let mut accepted = self
            .ballots
            .iter()
            .map(|(host, block)| (*host, block.ballot));
        let (host, ballot) = accepted.find(|(_, b)| b.bal.0 > 0 && ahead(b.lver))?;
        let ballot = ballot.lver;
        Some((host, Flaw::Ahead { ballot, leader }))
    }
}

// ---- recognising

/// What an area is, and how it is laid out.
struct Found {
    kind: Kind,
    geometry: Geometry,
}

enum Kind {
    Lockspace,
    Resource { size_known: bool },
    Index(IndexHeader),
}

impl Found {
    fn lockspace(geometry: Geometry) -> Self {
        let kind = Kind::Lockspace;
        Self { kind, geometry }
    }

    fn resource(geometry: Geometry) -> Self {
        let kind = Kind::Resource { size_known: true };
        Self { kind, geometry }
    }

    /// From the first two blocks of an area; by its first record if that checks, else by what
    /// stands in the sectors after it, else by what the first record claims.
    fn at(start: &[u8]) -> Option<Self> {
        match Probe::of(&start[..BLOCK]) {
            Probe::Lockspace { geometry, .. } => Some(Self::lockspace(geometry)),
            Probe::Resource { leader } => Some(Self::resource(leader.geometry())),
            Probe::Index => Self::index(start),
            Probe::Cleared => Self::second_record(start).or_else(|| Self::claimed(start)),
            Probe::Empty | Probe::Unknown(_) if is_zero(start) => None,
            Probe::Empty | Probe::Unknown(_) => {
                Self::second_record(start).or_else(|| Self::claimed(start))
            }
        }
    }

    fn index(start: &[u8]) -> Option<Self> {
        let header = IndexHeader::decode(start).ok()?;
        Some(Self {
            kind: Kind::Index(header),
            geometry: header.geometry,
        })
    }

    /// The first sector is lost; one after it may tell.
    fn second_record(start: &[u8]) -> Option<Self> {
        [SectorSize::B512, SectorSize::B4096]
            .into_iter()
            .find_map(|size| {
                Self::by_heartbeats(start, size).or_else(|| Self::by_request(start, size))
            })
    }

    fn by_heartbeats(start: &[u8], size: SectorSize) -> Option<Self> {
        let mut sectors = start.chunks_exact(size.bytes()).skip(1);
        let geometry = sectors.find_map(|s| Some(Heartbeat::decode(s).ok()?.geometry()))?;
        (geometry.sector() == size).then(|| Self::lockspace(geometry))
    }

    /// A request record does not name the area size: that must come from the leader, as far as it
    /// can be believed, or from there being only one.
    fn by_request(start: &[u8], size: SectorSize) -> Option<Self> {
        Request::decode(&start[size.bytes()..]).ok()?;
        if let Some(claimed) = claimed_geometry(start).filter(|g| g.sector() == size) {
            return Some(Self::resource(claimed));
        }
        Some(Self {
            kind: Kind::Resource {
                size_known: size == SectorSize::B512,
            },
            geometry: Geometry::new(size, AlignSize::M1).ok()?,
        })
    }

    /// A first record with the right magic, whatever else is wrong with it.
    fn claimed(start: &[u8]) -> Option<Self> {
        let geometry = claimed_geometry(start)?;
        match (Heartbeat::decode(start), Leader::decode(start)) {
            (_, Err(RecordError::Cleared { .. })) => Some(Self::resource(geometry)),
            (Err(RecordError::Magic { .. }), Err(RecordError::Magic { .. })) => None,
            (Err(RecordError::Magic { .. }), _) => Some(Self::resource(geometry)),
            _ => Some(Self::lockspace(geometry)),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

// ---- reading whole

fn read_hosts(image: &Image, notes: &mut Notes) -> Hosts {
    let geometry = notes.geometry;
    let mut hosts = Hosts {
        lockspace: None,
        heartbeats: Vec::new(),
    };
    for host in HostId::all(geometry.max_hosts()) {
        let at = geometry.heartbeat_at(host);
        let Some(record) = notes.decode(image, at, Heartbeat::decode) else {
            continue;
        };
        // The first record that checks names the lockspace; the others must be of the same.
        let name = *hosts.lockspace.get_or_insert(*record.lockspace());
        if *record.lockspace() != name {
            let found = *record.lockspace();
            notes.note(at, Flaw::Lockspace { found });
            continue;
        }
        if record.geometry() != geometry {
            let found = record.geometry();
            notes.note(at, Flaw::Geometry { found });
            continue;
        }
        if let Some(found) = record.owner().filter(|owner| *owner != host) {
            notes.note(at, Flaw::Owner { found });
        }
        hosts.heartbeats.push((host, record));
    }
    hosts
}

/// Reads a resource; again, if its leader seems to have gone back: it may have moved on while the
/// area was read.
fn read_settled_lease(
    image: &impl Fn() -> Result<Image, Fault>,
    notes: &mut Notes,
) -> Result<Lease, Fault> {
    let noted = notes.damage.len();
    let mut lease = read_lease(&image()?, notes);
    for _ in 1..LOOKS_MAX {
        if lease.ahead().is_none() {
            break;
        }
        let leader = lease.leader;
        notes.damage.truncate(noted);
        lease = read_lease(&image()?, notes);
        if lease.leader == leader {
            break;
        }
    }
    if let Some((host, flaw)) = lease.ahead() {
        notes.note(notes.geometry.ballot_at(host), flaw);
    }
    Ok(lease)
}

fn read_lease(image: &Image, notes: &mut Notes) -> Lease {
    let geometry = notes.geometry;
    let cleared = image.sector(geometry, 0).ok();
    let cleared = cleared.and_then(|sector| Cleared::decode(sector).ok());
    let leader = match cleared {
        Some(_) => None,
        None => notes.decode(image, 0, Leader::decode),
    };
    let request = notes.decode(image, geometry.request_at(), Request::decode);
    let names = match &leader {
        Some(leader) => Some((*leader.lockspace(), *leader.resource())),
        None => cleared.map(|cleared| (cleared.lockspace, cleared.resource)),
    };
    // Hosts beyond num_hosts have no ballot record; who knows what their sectors are used for.
    let num_hosts = leader.map_or(geometry.max_hosts(), |leader| leader.num_hosts());
    let ballot = |host: HostId| {
        let at = geometry.ballot_at(host);
        Some((host, notes.decode(image, at, BallotSector::decode)?))
    };
    let ballots = HostId::all(num_hosts).filter_map(ballot).collect();
    let value_block = geometry.value_block_at();
    let value_block =
        value_block.and_then(|at| notes.decode(image, at, |sector| Ok(sector.to_vec())));
    Lease {
        names,
        cleared: cleared.is_some(),
        leader,
        request,
        ballots,
        value_block,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;
    use crate::record::bytes::put;
    use crate::record::leader::Stamp;
    use crate::spec::Mode;

    const MIB: usize = 1 << 20;

    /// A disk of bytes; reads that touch a broken block fail.
    #[derive(Default)]
    struct Memory {
        bytes: Vec<u8>,
        broken: Vec<usize>,
    }

    impl Disk for Memory {
        fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
            let start = offset as usize;
            let blocks = start / BLOCK..(start + len).div_ceil(BLOCK);
            if self.broken.iter().any(|block| blocks.contains(block)) {
                return Err(Fault::Failed("broken".into()));
            }
            let bytes = self.bytes.get(start..start + len);
            bytes.map(<[u8]>::to_vec).ok_or(Fault::Failed("end".into()))
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
            Err(Fault::Outstanding)
        }
        fn settle(&self) -> Result<(), Fault> {
            Ok(())
        }
    }

    impl Memory {
        /// The bytes one after another.
        fn of(parts: &[Vec<u8>]) -> Self {
            Self {
                bytes: parts.concat(),
                broken: Vec::new(),
            }
        }

        fn with(mut self, at: usize, bytes: &[u8]) -> Self {
            put(&mut self.bytes, at, bytes);
            self
        }

        fn area_at(&self, offset: usize) -> Option<Area> {
            read_area(self, offset as u64, self.bytes.len() as u64).unwrap()
        }

        fn all(&self) -> Vec<Area> {
            let (mut areas, mut from) = (Vec::new(), 0);
            while let Some(area) = next_area(self, from, self.bytes.len() as u64).unwrap() {
                from = area.end();
                areas.push(area);
            }
            areas
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn host(number: u64) -> HostId {
        HostId::new(number).unwrap()
    }

    fn lockspace(geometry: Geometry) -> Vec<u8> {
        let name = name("LS");
        let io_timeout = 7;
        format::Lockspace {
            geometry,
            name,
            io_timeout,
        }
        .area()
    }

    fn resource(geometry: Geometry) -> Vec<u8> {
        format::Resource {
            geometry,
            lockspace: name("LS"),
            name: name("RS"),
            num_hosts: geometry.max_hosts(),
        }
        .area()
    }

    fn zeros(mebibytes: usize) -> Vec<u8> {
        vec![0; mebibytes * MIB]
    }

    fn flaws(area: &Area) -> Vec<(usize, &Flaw)> {
        area.damage.iter().map(|d| (d.sector, &d.flaw)).collect()
    }

    fn lease(area: &Area) -> &Lease {
        match &area.content {
            Content::Resource(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    fn hosts(area: &Area) -> &Hosts {
        match &area.content {
            Content::Lockspace(hosts) => hosts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_probe_reads_one_block_and_says_what_it_is() {
        let probed = |bytes: &[u8]| {
            let mut block = bytes.to_vec();
            block.resize(BLOCK, 0);
            probe(&Memory::of(&[block]), 0).unwrap()
        };
        for geometry in Geometry::ALL {
            let name = name("LS");
            let expected = Probe::Lockspace { name, geometry };
            assert_eq!(probed(&lockspace(geometry)), expected);
            let area = resource(geometry);
            let leader = Box::new(Leader::decode(&area).unwrap());
            assert_eq!(probed(&area), Probe::Resource { leader });
        }
        assert_eq!(probed(&[]), Probe::Empty);
        let cleared = include_bytes!("../golden/res_leader_cleared.bin");
        assert_eq!(probed(cleared), Probe::Cleared);
        let index = include_bytes!("../golden/rindex_header.bin");
        assert_eq!(probed(index), Probe::Index);
        let found = u32::from_le_bytes(*b"#!/b");
        let record = "lockspace or resource";
        let expected = Probe::Unknown(RecordError::Magic { record, found });
        assert_eq!(probed(b"#!/bin/sh"), expected);
        for area in [lockspace(Geometry::ALL[0]), resource(Geometry::ALL[0])] {
            let mut area = area;
            area[60] ^= 1;
            let error = probed(&area);
            assert!(
                matches!(error, Probe::Unknown(RecordError::Checksum { .. })),
                "{error:?}"
            );
        }
        assert!(probe(&Memory::of(&[vec![0; 512]]), 0).is_err());
    }

    #[test]
    fn whole_areas_of_every_geometry() {
        for geometry in Geometry::ALL {
            let area = Memory::of(&[lockspace(geometry)]).area_at(0).unwrap();
            assert_eq!((area.geometry, flaws(&area)), (geometry, vec![]));
            assert_eq!(hosts(&area).lockspace, Some(name("LS")));
            assert_eq!(hosts(&area).heartbeats.len() as u64, geometry.max_hosts());
            assert_eq!(hosts(&area).io_timeout(), Some(7));

            let area = Memory::of(&[resource(geometry)]).area_at(0).unwrap();
            assert_eq!((area.geometry, flaws(&area)), (geometry, vec![]));
            assert_eq!(lease(&area).names, Some((name("LS"), name("RS"))));
            assert_eq!(lease(&area).ballots.len() as u64, geometry.max_hosts());
        }
    }

    #[test]
    fn a_damaged_first_sector_does_not_hide_an_area() {
        for geometry in Geometry::ALL {
            for wiped in [4, 200, geometry.sector_bytes()] {
                let disk = Memory::of(&[lockspace(geometry)]).with(0, &vec![0; wiped]);
                let area = disk.area_at(0).unwrap();
                assert_eq!(area.geometry, geometry, "{wiped} bytes wiped");
                let [(0, Flaw::Record(RecordError::Magic { found: 0, .. }))] = flaws(&area)[..]
                else {
                    panic!("{:?}", area.damage);
                };
                assert_eq!(hosts(&area).lockspace, Some(name("LS")));
            }
            // A wrong byte in the leader: its geometry can still be believed.
            let area = Memory::of(&[resource(geometry)]).with(60, b"x").area_at(0);
            let area = area.unwrap();
            assert_eq!(area.geometry, geometry);
            let [(0, Flaw::Record(RecordError::Checksum { .. }))] = flaws(&area)[..] else {
                panic!("{:?}", area.damage);
            };
        }
    }

    #[test]
    fn a_wiped_leader_leaves_only_the_area_size_of_512_byte_sectors_known() {
        let small = Memory::of(&[resource(Geometry::ALL[0])]).with(0, &[0; 512]);
        let small = small.area_at(0).unwrap();
        assert_eq!((small.geometry, small.damage.len()), (Geometry::ALL[0], 1));
        assert_eq!(lease(&small).names, None);
        let large = Memory::of(&[resource(Geometry::ALL[4])]).with(0, &[0; 4096]);
        let large = large.area_at(0).unwrap();
        assert_eq!(large.geometry, Geometry::ALL[1]);
        assert_eq!(flaws(&large)[0], (0, &Flaw::AreaSize));
    }

    #[test]
    fn each_broken_sector_is_named_and_the_rest_is_read() {
        let geometry = Geometry::ALL[0];
        let free = |name: Name| Heartbeat::new(geometry, &name, 7);
        let other_size = Heartbeat::new(Geometry::ALL[1], &name("LS"), 7).to_sector();
        let mut wrong_owner = free(name("LS")).to_sector();
        wrong_owner[32] = 9;
        let sum = crate::record::checksum(&wrong_owner[..168]);
        put(&mut wrong_owner, 168, &sum.to_le_bytes());
        let disk = Memory::of(&[lockspace(geometry)])
            .with(3 * 512, b"?")
            .with(5 * 512, &free(name("other")).to_sector())
            .with(7 * 512, &other_size[..512])
            .with(1999 * 512, &wrong_owner);
        let area = disk.area_at(0).unwrap();
        let found = name("other");
        let odd = Geometry::ALL[1];
        let expected = [
            (5, &Flaw::Lockspace { found }),
            (7, &Flaw::Geometry { found: odd }),
            (1999, &Flaw::Owner { found: host(9) }),
        ];
        assert_eq!(flaws(&area)[1..], expected);
        assert_eq!(area.damage[0].sector, 3);
        assert_eq!(hosts(&area).heartbeats.len(), 1997);

        let disk = Memory::of(&[resource(geometry)])
            .with(512, &[0; 24])
            .with(9 * 512, &[1]);
        let area = disk.area_at(0).unwrap();
        let sectors: Vec<_> = area.damage.iter().map(|damage| damage.sector).collect();
        assert_eq!(sectors, [1, 9]);
        assert_eq!(lease(&area).ballots.len(), 1999);
        assert_eq!(lease(&area).request, None);
    }

    #[test]
    fn a_block_that_cannot_be_read_costs_its_own_sectors_only() {
        let disk = Memory {
            broken: vec![2],
            ..Memory::of(&[lockspace(Geometry::ALL[0])])
        };
        let area = disk.area_at(0).unwrap();
        let sectors: Vec<_> = area.damage.iter().map(|damage| damage.sector).collect();
        assert_eq!(sectors, (16..24).collect::<Vec<_>>());
        assert_eq!(hosts(&area).heartbeats.len(), 1992);
        let nothing_left = Memory {
            broken: vec![0, 1],
            ..Memory::of(&[lockspace(Geometry::ALL[0])])
        };
        assert!(read_area(&nothing_left, 0, MIB as u64).is_err());
    }

    #[test]
    fn an_area_that_the_disk_cuts_off_is_read_up_to_there() {
        let whole = lockspace(Geometry::ALL[0]);
        let area = Memory::of(&[whole[..3 * BLOCK + 512].to_vec()]).area_at(0);
        let area = area.unwrap();
        assert_eq!(flaws(&area), [(24, &Flaw::Missing)]);
        assert_eq!(hosts(&area).heartbeats.len(), 24);
        assert_eq!(Memory::of(&[whole[..512].to_vec()]).area_at(0), None);
    }

    #[test]
    fn a_scan_goes_from_area_to_area_and_over_gaps() {
        let disk = Memory::of(&[
            lockspace(Geometry::ALL[0]),
            zeros(1),
            vec![0xEE; MIB],
            zeros(1),
            resource(Geometry::ALL[3]),
            lockspace(Geometry::ALL[4]),
            resource(Geometry::ALL[1]),
            zeros(1),
        ]);
        let areas = disk.all();
        let found: Vec<_> = areas.iter().map(|a| (a.offset >> 20, a.geometry)).collect();
        let geometry = Geometry::ALL;
        let expected = [
            (0, geometry[0]),
            (4, geometry[3]),
            (8, geometry[4]),
            (16, geometry[1]),
        ];
        assert_eq!(found, expected);
        assert!(areas.iter().all(|area| area.damage.is_empty()));
    }

    #[test]
    fn an_offset_inside_an_area_is_known_to_be_inside() {
        let disk = Memory::of(&[resource(Geometry::ALL[4]), lockspace(Geometry::ALL[0])]);
        let inside = |offset: u64| {
            let area = enclosing_area(&disk, offset, disk.bytes.len() as u64);
            area.unwrap().map(|area| area.offset)
        };
        let all: Vec<_> = (0..9).map(|mebibyte| inside(mebibyte << 20)).collect();
        let mut expected = vec![Some(0); 9];
        (expected[0], expected[8]) = (None, None);
        assert_eq!(all, expected);
        assert_eq!([512, (8 << 20) + 512].map(inside), [Some(0), Some(8 << 20)]);
    }

    fn stamp(number: u64, timestamp: u64) -> Stamp {
        Stamp {
            host: host(number),
            generation: Generation(1),
            timestamp,
        }
    }

    fn ballot(number: u64, lver: u64, note: Option<HolderNote>) -> BallotSector {
        let golden = include_bytes!("../golden/res_dblock2_held.bin");
        let mut sector = BallotSector::decode(golden).unwrap();
        sector.ballot.value = Some(stamp(number, 5));
        sector.ballot.lver = Lver(lver);
        sector.note = note;
        sector
    }

    fn note(number: u64, lver: u64) -> HolderNote {
        HolderNote {
            host: host(number),
            generation: Generation(1),
            lver: Lver(lver),
            mode: Mode::Exclusive,
            pid: 1,
            start: 2,
            host_name: b"h".to_vec(),
            command: b"c".to_vec(),
        }
    }

    /// A resource that host 2 owns by version 3, with these ballot records.
    fn owned(ballots: &[(u64, BallotSector)]) -> Area {
        let geometry = Geometry::ALL[0];
        let mut area = resource(geometry);
        let free = Leader::decode(&area).unwrap();
        let held = free.committed(Lver(3), stamp(2, 5), stamp(2, 5), None);
        put(&mut area, 0, &held.encode());
        for (number, ballot) in ballots {
            let at = geometry.ballot_at(host(*number));
            put(&mut area, at, &ballot.to_sector(geometry.sector()));
        }
        Memory::of(&[area]).area_at(0).unwrap()
    }

    #[test]
    fn a_holder_note_is_believed_only_of_the_present_owner() {
        let right = owned(&[(2, ballot(2, 3, Some(note(2, 3))))]);
        assert_eq!(lease(&right).holder(), Some(&note(2, 3)));
        for (story, ballots) in [
            ("of an older version", [(2, ballot(2, 3, Some(note(2, 2))))]),
            ("of another host", [(2, ballot(2, 3, Some(note(4, 3))))]),
            ("in another's sector", [(4, ballot(2, 3, Some(note(2, 3))))]),
        ] {
            assert_eq!(lease(&owned(&ballots)).holder(), None, "{story}");
        }
    }

    #[test]
    fn a_sharers_note_is_believed_only_of_its_present_share() {
        let sharing = |noted: HolderNote| BallotSector {
            shared: Some(Generation(1)),
            ..ballot(4, 2, Some(noted))
        };
        let area = owned(&[(4, sharing(note(4, 2))), (5, sharing(note(5, 1)))]);
        let sharers: Vec<_> = lease(&area).sharers().collect();
        let expected = [
            (host(4), Generation(1), Some(&note(4, 2))),
            (host(5), Generation(1), None),
        ];
        assert_eq!(sharers, expected);
    }

    #[test]
    fn a_leader_that_has_gone_back_is_damage() {
        let next = owned(&[(2, ballot(2, 4, None))]);
        assert_eq!(flaws(&next), []);
        let ahead = owned(&[(2, ballot(2, 5, None))]);
        let flaw = Flaw::Ahead {
            ballot: Lver(5),
            leader: Lver(3),
        };
        assert_eq!(flaws(&ahead), [(3, &flaw)]);
    }

    #[test]
    fn a_cleared_resource_still_says_its_names_and_is_not_damaged() {
        let cleared = include_bytes!("../golden/res_leader_cleared.bin");
        let disk = Memory::of(&[resource(Geometry::ALL[0])]).with(0, cleared);
        let area = disk.area_at(0).unwrap();
        assert_eq!((flaws(&area), lease(&area).cleared), (vec![], true));
        assert_eq!(lease(&area).names, Some((name("LS"), name("R4"))));
    }

    /// Whatever stands there: an answer, no panic.
    #[test]
    fn garbage_never_panics() {
        let mut random = fastrand::Rng::with_seed(3);
        for geometry in [Geometry::ALL[0], Geometry::ALL[1]] {
            for whole in [lockspace(geometry), resource(geometry)] {
                for _ in 0..20 {
                    let mut disk = Memory::of(std::slice::from_ref(&whole));
                    for _ in 0..200 {
                        let at = random.usize(..3 * BLOCK);
                        disk.bytes[at] = random.u8(..);
                    }
                    disk.area_at(0);
                }
            }
        }
    }
}
