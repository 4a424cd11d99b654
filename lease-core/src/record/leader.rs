//! The leader record: 200 bytes, first thing in its sector.
//!
//! It stands for two things: in sector 0 of a resource area, who owns the resource ([`Leader`]);
//! in sector N-1 of a lockspace area, host N's heartbeat ([`super::heartbeat::Heartbeat`]).
//! Both are kept as the 200 bytes that they are, so that writing one back changes nothing but
//! the fields that were set.
//!
//! Invariants of a resource's leader: `lver` grows by one at every change of owner, and a version
//! is decided once; `timestamp` 0 means free; it is written (`writer`) by the owner, or by whoever
//! finished the ballot for it.

use super::bytes::{array_at, put, u16_at, u32_at, u64_at};
use super::magic::{MAGIC_CLEARED, MAGIC_LEADER};
use super::{RecordError, check_flags, check_sum, check_version};
use crate::id::{Generation, HostId, Lver, NAME_LEN, Name};
use crate::layout::{ALIGN_FLAGS, Geometry};

/// Bytes of the record.
pub const LEADER_LEN: usize = 200;

const MAGIC: usize = 0;
const VERSION: usize = 4;
const FLAGS: usize = 8;
const SECTOR_SIZE: usize = 12;
const NUM_HOSTS: usize = 16;
const MAX_HOSTS: usize = 24;
const OWNER_ID: usize = 32;
const OWNER_GENERATION: usize = 40;
const LVER: usize = 48;
const SPACE_NAME: usize = 56;
const RESOURCE_NAME: usize = 104;
const TIMESTAMP: usize = 152;
const CHECKSUM: usize = 168;
const IO_TIMEOUT: usize = 174;
const WRITE_ID: usize = 176;
const WRITE_GENERATION: usize = 184;
const WRITE_TIMESTAMP: usize = 192;
const _: () = assert!(WRITE_TIMESTAMP + 8 == LEADER_LEN);

const VERSION_LEADER: u32 = 0x0006_0004;
const NAME: &str = "leader record";

/// Flag: the owner is only passing through on its way to a shared lease.
const SHORT_HOLD: u32 = 0x1;

/// The 200 bytes, verified to be what they claim to be; fields are read and set in place. The
/// checksum is brought up to date when it is encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw(pub(super) [u8; LEADER_LEN]);

impl PartialEq for Raw {
    /// The same record, whether or not its checksum has been brought up to date.
    fn eq(&self, other: &Self) -> bool {
        self.encode() == other.encode()
    }
}

impl Eq for Raw {}

impl Raw {
    /// An empty record of one kind, not yet checksummed.
    pub(super) fn new(magic: u32, version: u32, geometry: Geometry) -> Self {
        let mut raw = Self([0; LEADER_LEN]);
        raw.put_u32(MAGIC, magic);
        raw.put_u32(VERSION, version);
        raw.put_u32(FLAGS, geometry.flags());
        raw.put_u32(SECTOR_SIZE, geometry.sector_bytes() as u32);
        raw.set_max_hosts(geometry.max_hosts());
        raw
    }

    /// Checks magic, version, checksum, and that no flags are set but some area size's and `flags`.
    pub(super) fn decode(
        sector: &[u8],
        record: &'static str,
        (magic, version, flags): (u32, u32, u32),
    ) -> Result<Self, RecordError> {
        let raw = Self(array_at(sector, 0));
        match raw.u32(MAGIC) {
            found if found == magic => {}
            MAGIC_CLEARED => return Err(RecordError::Cleared { record }),
            found => return Err(RecordError::Magic { record, found }),
        }
        check_version(record, raw.u32(VERSION), version)?;
        check_sum(record, raw.u32(CHECKSUM), &raw.0[..CHECKSUM])?;
        check_flags(record, "flags", raw.flags(), flags | ALIGN_FLAGS)?;
        let owner = raw.u64(OWNER_ID);
        if owner != 0 && HostId::new(owner).is_err() {
            return Err(RecordError::Range {
                record,
                field: "owner_id",
                found: owner,
            });
        }
        Ok(raw)
    }

    /// The bytes with their checksum.
    pub(super) fn encode(mut self) -> [u8; LEADER_LEN] {
        let sum = super::checksum(&self.0[..CHECKSUM]);
        self.put_u32(CHECKSUM, sum);
        self.0
    }

    fn u32(&self, at: usize) -> u32 {
        u32_at(&self.0, at)
    }

    fn u64(&self, at: usize) -> u64 {
        u64_at(&self.0, at)
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        put(&mut self.0, at, &value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        put(&mut self.0, at, &value.to_le_bytes());
    }

    pub(super) fn sector_size(&self) -> u32 {
        self.u32(SECTOR_SIZE)
    }

    pub(super) fn flags(&self) -> u32 {
        self.u32(FLAGS)
    }

    pub(super) fn set_max_hosts(&mut self, hosts: u64) {
        self.put_u64(MAX_HOSTS, hosts);
    }

    pub(super) fn owner_id(&self) -> Option<HostId> {
        HostId::new(self.u64(OWNER_ID)).ok()
    }

    pub(super) fn set_owner(&mut self, host: HostId, generation: Generation) {
        self.put_u64(OWNER_ID, host.get());
        self.put_u64(OWNER_GENERATION, generation.0);
    }

    pub(super) fn owner_generation(&self) -> Generation {
        Generation(self.u64(OWNER_GENERATION))
    }

    pub(super) fn space_name(&self) -> &[u8] {
        &self.0[SPACE_NAME..SPACE_NAME + NAME_LEN]
    }

    pub(super) fn set_space_name(&mut self, name: &Name) {
        put(&mut self.0, SPACE_NAME, name.field());
    }

    pub(super) fn resource_name(&self) -> &[u8] {
        &self.0[RESOURCE_NAME..RESOURCE_NAME + NAME_LEN]
    }

    pub(super) fn set_resource_name(&mut self, name: &Name) {
        put(&mut self.0, RESOURCE_NAME, name.field());
    }

    pub(super) fn timestamp(&self) -> u64 {
        self.u64(TIMESTAMP)
    }

    pub(super) fn set_timestamp(&mut self, seconds: u64) {
        self.put_u64(TIMESTAMP, seconds);
    }

    pub(super) fn io_timeout(&self) -> u16 {
        u16_at(&self.0, IO_TIMEOUT)
    }

    pub(super) fn set_io_timeout(&mut self, seconds: u16) {
        put(&mut self.0, IO_TIMEOUT, &seconds.to_le_bytes());
    }

    /// The last three fields; what they mean depends on the kind of record.
    pub(super) fn tail(&self) -> [u64; 3] {
        [
            self.u64(WRITE_ID),
            self.u64(WRITE_GENERATION),
            self.u64(WRITE_TIMESTAMP),
        ]
    }

    pub(super) fn set_tail(&mut self, [id, generation, timestamp]: [u64; 3]) {
        self.put_u64(WRITE_ID, id);
        self.put_u64(WRITE_GENERATION, generation);
        self.put_u64(WRITE_TIMESTAMP, timestamp);
    }

    pub(super) fn geometry(&self, record: &'static str) -> Result<Geometry, RecordError> {
        let range = |field, found| RecordError::Range {
            record,
            field,
            found,
        };
        Geometry::from_record(self.sector_size(), self.flags())
            .map_err(|_| range("sector_size", u64::from(self.sector_size())))
    }
}

/// A host in one of its lives, and the moment (its monotonic seconds) at which it spoke: an
/// owner, a writer, the value of a ballot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The host.
    pub host: HostId,
    /// Which of its lives.
    pub generation: Generation,
    /// Seconds of that host's monotonic clock; not comparable between hosts.
    pub timestamp: u64,
}

impl Stamp {
    /// Whether both speak of the same life of the same host.
    pub fn same_life(&self, host: HostId, generation: Generation) -> bool {
        self.host == host && self.generation == generation
    }
}

/// A resource's leader record: who owns it, since which ballot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    raw: Raw,
    geometry: Geometry,
    lockspace: Name,
    resource: Name,
}

impl Leader {
    /// A free leader, as formatting writes it.
    pub fn new(geometry: Geometry, lockspace: &Name, resource: &Name, num_hosts: u64) -> Self {
        let mut raw = Raw::new(MAGIC_LEADER, VERSION_LEADER, geometry);
        raw.put_u64(NUM_HOSTS, num_hosts);
        raw.set_space_name(lockspace);
        raw.set_resource_name(resource);
        Self {
            raw,
            geometry,
            lockspace: *lockspace,
            resource: *resource,
        }
    }

    /// Reads the first 200 bytes of a sector; the slice must have that many.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let raw = Raw::decode(sector, NAME, (MAGIC_LEADER, VERSION_LEADER, SHORT_HOLD))?;
        let geometry = raw.geometry(NAME)?;
        let range = |field, found| RecordError::Range {
            record: NAME,
            field,
            found,
        };
        let hosts = raw.u64(NUM_HOSTS);
        if hosts == 0 || hosts > geometry.max_hosts() {
            return Err(range("num_hosts", hosts));
        }
        if raw.u64(MAX_HOSTS) != geometry.max_hosts() {
            return Err(range("max_hosts", raw.u64(MAX_HOSTS)));
        }
        if raw.timestamp() != 0 && raw.owner_id().is_none() {
            return Err(range("owner_id", 0));
        }
        let lockspace = name_of(raw.space_name(), "lockspace name")?;
        let resource = name_of(raw.resource_name(), "resource name")?;
        Ok(Self {
            raw,
            geometry,
            lockspace,
            resource,
        })
    }

    /// The record's 200 bytes, checksum included.
    pub fn encode(&self) -> [u8; LEADER_LEN] {
        self.raw.encode()
    }

    /// A whole sector with this record at its start and nothing after it.
    pub fn to_sector(&self) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        put(&mut sector, 0, &self.encode());
        sector
    }

    /// Sector and area size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Name of the lockspace.
    pub fn lockspace(&self) -> &Name {
        &self.lockspace
    }

    /// Name of the resource.
    pub fn resource(&self) -> &Name {
        &self.resource
    }

    /// How many hosts take part in ballots.
    pub fn num_hosts(&self) -> u64 {
        self.raw.u64(NUM_HOSTS)
    }

    /// The version of the lease.
    pub fn lver(&self) -> Lver {
        Lver(self.raw.u64(LVER))
    }

    /// Who owns the lease; `None` while it is free.
    pub fn owner(&self) -> Option<Stamp> {
        if self.raw.timestamp() == 0 {
            None
        } else {
            self.last_owner()
        }
    }

    /// Who owns it or owned it last; `None` if nobody ever did.
    pub fn last_owner(&self) -> Option<Stamp> {
        let generation = self.raw.owner_generation();
        let timestamp = self.raw.timestamp();
        self.raw.owner_id().map(|host| Stamp {
            host,
            generation,
            timestamp,
        })
    }

    /// Who wrote this record: committed what was decided, or released. `None` if never written
    /// since formatting, or by something that is not a host.
    pub fn writer(&self) -> Option<Stamp> {
        let [id, generation, timestamp] = self.raw.tail();
        let host = HostId::new(id).ok()?;
        Some(Stamp {
            host,
            generation: Generation(generation),
            timestamp,
        })
    }

    /// The owner is only passing through on its way to a shared lease.
    pub fn short_hold(&self) -> bool {
        self.raw.flags() & SHORT_HOLD != 0
    }

    /// Area-size bits and all other flags, as they stand.
    pub fn flags(&self) -> u32 {
        self.raw.flags()
    }

    /// Whether the area size is named in the flags; older records leave it out.
    pub fn names_area_size(&self) -> bool {
        self.raw.flags() & ALIGN_FLAGS != 0
    }

    /// This leader as the winner of ballot `lver` leaves it: `value` owns, `writer` wrote. The
    /// short-hold flag is touched only if given.
    pub fn committed(
        mut self,
        lver: Lver,
        value: Stamp,
        writer: Stamp,
        short: Option<bool>,
    ) -> Self {
        self.raw.put_u64(LVER, lver.0);
        self.raw.set_owner(value.host, value.generation);
        self.raw.set_timestamp(value.timestamp);
        self.set_writer(writer);
        if let Some(short) = short {
            self.set_short_hold(short);
        }
        self
    }

    /// This leader freed by `writer`: the lease has no owner, all else stays.
    pub fn released(mut self, writer: Stamp) -> Self {
        self.raw.set_timestamp(0);
        self.set_short_hold(false);
        self.set_writer(writer);
        self
    }

    fn set_writer(&mut self, writer: Stamp) {
        self.raw
            .set_tail([writer.host.get(), writer.generation.0, writer.timestamp]);
    }

    fn set_short_hold(&mut self, short: bool) {
        let flags = self.raw.flags() & !SHORT_HOLD;
        self.raw
            .put_u32(FLAGS, if short { flags | SHORT_HOLD } else { flags });
    }
}

/// What stands where a resource was cleared: deleted, its names still readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// Sector and area size.
    pub geometry: Geometry,
    /// Name of the lockspace.
    pub lockspace: Name,
    /// Name of the resource that was here.
    pub resource: Name,
}

impl Cleared {
    /// A whole sector that says so.
    pub fn to_sector(&self) -> Vec<u8> {
        let mut raw = Raw::new(MAGIC_CLEARED, VERSION_LEADER, self.geometry);
        raw.put_u64(NUM_HOSTS, self.geometry.max_hosts());
        raw.set_space_name(&self.lockspace);
        raw.set_resource_name(&self.resource);
        let mut sector = vec![0; self.geometry.sector_bytes()];
        put(&mut sector, 0, &raw.encode());
        sector
    }

    /// Reads the first 200 bytes of a sector; the slice must have that many.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let raw = Raw::decode(sector, NAME, (MAGIC_CLEARED, VERSION_LEADER, SHORT_HOLD))?;
        Ok(Self {
            geometry: raw.geometry(NAME)?,
            lockspace: name_of(raw.space_name(), "lockspace name")?,
            resource: name_of(raw.resource_name(), "resource name")?,
        })
    }
}

fn name_of(field: &[u8], what: &'static str) -> Result<Name, RecordError> {
    Name::from_field(field).map_err(|_| RecordError::Range {
        record: NAME,
        field: what,
        found: 0,
    })
}

/// What the bytes of a leader or heartbeat record say of the geometry, believed or not: for
/// finding one's way around a damaged area, never for writing.
pub fn claimed_geometry(sector: &[u8]) -> Option<Geometry> {
    Geometry::from_record(u32_at(sector, SECTOR_SIZE), u32_at(sector, FLAGS)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: &[u8] = include_bytes!("../../golden/res_leader_fresh.bin");
    const HELD: &[u8] = include_bytes!("../../golden/res_leader_held_host2_lver2.bin");
    const HELD_4096: &[u8] = include_bytes!("../../golden/k_res_leader_held.bin");
    const RELEASED: &[u8] = include_bytes!("../../golden/res_leader_released_host1_lver1.bin");
    const SHORT: &[u8] = include_bytes!("../../golden/res_leader_short_hold_held.bin");
    const LONG_NAMES: &[u8] = include_bytes!("../../golden/res_leader_name48_used.bin");
    const ONE_HOST: &[u8] = include_bytes!("../../golden/res_leader_fresh_num_hosts1.bin");
    const CLEARED: &[u8] = include_bytes!("../../golden/res_leader_cleared.bin");

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn stamp(host: u64, timestamp: u64) -> Stamp {
        Stamp {
            host: HostId::new(host).unwrap(),
            generation: Generation(1),
            timestamp,
        }
    }

    /// A record that sanlock wrote says what it was told to say, and comes out the same.
    fn decoded(sector: &[u8]) -> Leader {
        let leader = Leader::decode(sector).unwrap();
        assert_eq!(leader.to_sector(), sector);
        leader
    }

    #[test]
    fn golden_fresh() {
        let leader = decoded(FRESH);
        assert_eq!(leader.geometry(), Geometry::ALL[0]);
        assert_eq!(leader.lockspace(), &name("LS"));
        assert_eq!(leader.resource(), &name("R1"));
        assert_eq!((leader.num_hosts(), leader.lver()), (2000, Lver(0)));
        assert_eq!((leader.owner(), leader.last_owner()), (None, None));
        assert_eq!((leader.writer(), leader.short_hold()), (None, false));
        assert_eq!((leader.flags(), leader.names_area_size()), (0x10, true));
        let ours = Leader::new(Geometry::ALL[0], &name("LS"), &name("R1"), 2000);
        assert_eq!(ours.to_sector(), FRESH);
    }

    #[test]
    fn golden_held() {
        let leader = decoded(HELD);
        assert_eq!(leader.owner(), Some(stamp(2, 562)));
        assert_eq!(leader.writer(), Some(stamp(2, 562)));
        assert_eq!((leader.lver(), leader.short_hold()), (Lver(2), false));

        let leader = decoded(HELD_4096);
        assert_eq!(leader.geometry(), Geometry::ALL[4]);
        assert_eq!(leader.lockspace(), &name("LK"));
        assert_eq!(leader.owner(), Some(stamp(1, 565)));
        assert_eq!((leader.flags(), leader.lver()), (0x80, Lver(1)));
    }

    #[test]
    fn golden_released() {
        let leader = decoded(RELEASED);
        assert_eq!(leader.owner(), None);
        assert_eq!(leader.last_owner(), Some(stamp(1, 0)));
        assert_eq!(leader.writer(), Some(stamp(1, 562)));
        assert_eq!(leader.lver(), Lver(1));
    }

    /// From the fresh record to the released one, by our own steps.
    #[test]
    fn golden_life() {
        let fresh = decoded(FRESH);
        let owner = stamp(1, 562);
        let held = fresh.committed(Lver(1), owner, owner, Some(false));
        assert_eq!(held.released(stamp(1, 562)).to_sector(), RELEASED);
    }

    #[test]
    fn golden_short_hold() {
        let leader = decoded(SHORT);
        assert!(leader.short_hold());
        assert_eq!(leader.flags(), 0x11);
        assert_eq!(leader.geometry(), Geometry::ALL[0]);
        assert_eq!(leader.owner(), Some(stamp(1, 931)));
        assert!(!leader.released(stamp(1, 931)).short_hold());
        let owner = stamp(1, 931);
        for (short, flags) in [(Some(true), 0x11), (Some(false), 0x10), (None, 0x11)] {
            let next = leader.committed(Lver(9), owner, owner, short);
            assert_eq!(next.flags(), flags);
        }
        let fresh = decoded(FRESH).committed(Lver(1), owner, owner, Some(true));
        assert_eq!(fresh.flags(), 0x11);
    }

    #[test]
    fn an_older_record_does_not_name_its_area_size() {
        let mut old = decoded(SHORT);
        old.raw.put_u32(FLAGS, SHORT_HOLD);
        let read = Leader::decode(&old.to_sector()).unwrap();
        assert!(!read.names_area_size());
        assert_eq!(read.geometry(), Geometry::ALL[0]);
    }

    #[test]
    fn golden_names_of_48_bytes() {
        let leader = decoded(LONG_NAMES);
        assert_eq!(leader.lockspace(), &name(&"L".repeat(48)));
        assert_eq!(leader.resource(), &name(&"R".repeat(48)));
    }

    #[test]
    fn golden_fewer_hosts() {
        assert_eq!(decoded(ONE_HOST).num_hosts(), 1);
    }

    #[test]
    fn golden_cleared() {
        let error = RecordError::Cleared { record: NAME };
        assert_eq!(Leader::decode(CLEARED), Err(error));
        let cleared = Cleared {
            geometry: Geometry::ALL[0],
            lockspace: name("LS"),
            resource: name("R4"),
        };
        assert_eq!(Cleared::decode(CLEARED), Ok(cleared));
        assert!(Cleared::decode(FRESH).is_err());
    }
}
