//! The leader record: 200 bytes, first thing in its sector.
//!
//! It stands for two things: in sector 0 of a resource area, who owns the resource ([`Leader`]);
//! in sector N-1 of a lockspace area, host N's heartbeat ([`super::heartbeat::Heartbeat`]).
//! Both are kept as the 200 bytes that they are, so that writing one back changes nothing but
//! the fields that were set.
//!
//! Invariants of a resource's leader: `lver` grows by one at every change of owner and never
//! goes back while the formatting lives; `timestamp` 0 means free; it is written by whoever
//! finished the ballot (`writer`), who need not be the owner.

use super::bytes::{array_at, put, u16_at, u32_at, u64_at};
use super::{RecordError, check_sum, check_version};
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

const MAGIC_LEADER: u32 = 0x0615_2010;
const MAGIC_CLEARED: u32 = 0x1128_2016;
const VERSION_LEADER: u32 = 0x0006_0004;
const NAME: &str = "leader record";

/// Flag: the owner is only passing through on its way to a shared lease.
const SHORT_HOLD: u32 = 0x1;

/// The 200 bytes, verified to be what they claim to be; fields are read and set in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw(pub(super) [u8; LEADER_LEN]);

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

    /// Checks magic, version and checksum.
    pub(super) fn decode(
        sector: &[u8],
        record: &'static str,
        magic: u32,
        version: u32,
    ) -> Result<Self, RecordError> {
        let raw = Self(array_at(sector, 0));
        match raw.u32(MAGIC) {
            found if found == magic => {}
            MAGIC_CLEARED => return Err(RecordError::Cleared { record }),
            found => return Err(RecordError::Magic { record, found }),
        }
        check_version(record, raw.u32(VERSION), version)?;
        check_sum(record, raw.u32(CHECKSUM), &raw.0[..CHECKSUM])?;
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
        let raw = Raw::decode(sector, NAME, MAGIC_LEADER, VERSION_LEADER)?;
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
        let name = |field: &[u8], what| Name::from_field(field).map_err(|_| range(what, 0));
        let lockspace = name(raw.space_name(), "lockspace name")?;
        let resource = name(raw.resource_name(), "resource name")?;
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

    /// Who wrote this record: whoever finished the ballot, or released. `None` if never written
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
