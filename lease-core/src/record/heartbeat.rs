//! Host N's heartbeat ("delta lease"): sector N-1 of a lockspace area.
//!
//! A leader record (200 bytes), our host note (56), and a bitmap of host ids (256), bit N-1 set
//! for "host N, look: a request or an event for you". Invariants: only host N writes the sector,
//! but for a joiner that found it free or dead; `generation` grows by one at every join;
//! `timestamp` 0 means free and frees all that the host owned, at once.

use super::bytes::put;
use super::host_note::{HOST_NOTE_AT, HOST_NOTE_LEN, HostNote};
use super::leader::{LEADER_LEN, Raw};
use super::{RecordError, leader};
use crate::id::{Generation, HostId, Name};
use crate::layout::Geometry;

const MAGIC_HEARTBEAT: u32 = 0x1221_2010;
const VERSION_HEARTBEAT: u32 = 0x0003_0004;
const NAME: &str = "heartbeat record";
const BITMAP_AT: usize = 256;
const BITMAP_LEN: usize = 256;
const _: () = assert!(HOST_NOTE_AT == LEADER_LEN && HOST_NOTE_AT + HOST_NOTE_LEN == BITMAP_AT);

/// An event that one host sets for another: delivered while the bit in the bitmap is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Event {
    /// Generation of the host that it is meant for.
    pub generation: u64,
    /// A number of the application's own.
    pub number: u64,
    /// Data of the application's own.
    pub data: u64,
}

/// A heartbeat sector, verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    raw: Raw,
    geometry: Geometry,
    lockspace: Name,
    note: Option<HostNote>,
    bitmap: [u8; BITMAP_LEN],
}

impl Heartbeat {
    /// A free record, as formatting writes it.
    pub fn new(geometry: Geometry, lockspace: &Name, io_timeout: u8) -> Self {
        let mut raw = Raw::new(MAGIC_HEARTBEAT, VERSION_HEARTBEAT, geometry);
        raw.set_max_hosts(1);
        raw.set_space_name(lockspace);
        raw.set_io_timeout(u16::from(io_timeout));
        Self {
            raw,
            geometry,
            lockspace: *lockspace,
            note: None,
            bitmap: [0; BITMAP_LEN],
        }
    }

    /// Reads a sector of at least 512 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let raw = Raw::decode(sector, NAME, MAGIC_HEARTBEAT, VERSION_HEARTBEAT)?;
        let geometry = raw.geometry(NAME)?;
        let range = |field, found| RecordError::Range {
            record: NAME,
            field,
            found,
        };
        let lockspace =
            Name::from_field(raw.space_name()).map_err(|_| range("lockspace name", 0))?;
        if raw.timestamp() != 0 && raw.owner_id().is_none() {
            return Err(range("owner_id", 0));
        }
        if raw.io_timeout() > 255 {
            return Err(range("io_timeout", u64::from(raw.io_timeout())));
        }
        let note = HostNote::decode(&sector[HOST_NOTE_AT..HOST_NOTE_AT + HOST_NOTE_LEN])
            .filter(|n| raw.owner_id() == Some(n.host) && raw.owner_generation() == n.generation);
        let mut bitmap = [0; BITMAP_LEN];
        bitmap.copy_from_slice(&sector[BITMAP_AT..BITMAP_AT + BITMAP_LEN]);
        Ok(Self {
            raw,
            geometry,
            lockspace,
            note,
            bitmap,
        })
    }

    /// The whole sector.
    pub fn to_sector(&self) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        put(&mut sector, 0, &self.leader_bytes());
        if let Some(note) = &self.note {
            put(&mut sector, HOST_NOTE_AT, &note.encode());
        }
        put(&mut sector, BITMAP_AT, &self.bitmap);
        sector
    }

    /// The 200 bytes that sanlock's rules compare.
    pub fn leader_bytes(&self) -> [u8; leader::LEADER_LEN] {
        self.raw.encode()
    }

    /// Sector and area size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Name of the lockspace.
    pub fn lockspace(&self) -> &Name {
        &self.lockspace
    }

    /// Whose heartbeat it is; `None` if it was never joined.
    pub fn owner(&self) -> Option<HostId> {
        self.raw.owner_id()
    }

    /// Which life of the host: how often it was joined.
    pub fn generation(&self) -> Generation {
        self.raw.owner_generation()
    }

    /// The host's unique name; `None` if it never had one. After the NUL that ends it there may
    /// be the tail of an older name, which does not count.
    pub fn host_name(&self) -> Option<Name> {
        Name::from_field(self.raw.resource_name()).ok()
    }

    /// The host's monotonic seconds at its last renewal; 0 = free.
    pub fn timestamp(&self) -> u64 {
        self.raw.timestamp()
    }

    /// Nobody holds this host id.
    pub fn is_free(&self) -> bool {
        self.raw.timestamp() == 0
    }

    /// The host's io_timeout in seconds; `None` = the reader takes its own.
    pub fn io_timeout(&self) -> Option<u8> {
        u8::try_from(self.raw.io_timeout()).ok().filter(|t| *t > 0)
    }

    /// The note beside the record, if it is one and speaks of this very record.
    pub fn note(&self) -> Option<&HostNote> {
        self.note.as_ref()
    }

    /// The event fields.
    pub fn event(&self) -> Event {
        let [generation, number, data] = self.raw.tail();
        Event {
            generation,
            number,
            data,
        }
    }

    /// The host ids whose bit is set.
    pub fn bitmap(&self) -> Vec<HostId> {
        let set = |host: &HostId| self.bitmap[host.index() / 8] & (1 << (host.index() % 8)) != 0;
        HostId::all(self.geometry.max_hosts()).filter(set).collect()
    }

    /// This record joined by a host: its name, one more life, a first timestamp; no event, no bit
    /// set.
    pub fn joined(mut self, name: &Name, timestamp: u64, io_timeout: u8, note: HostNote) -> Self {
        self.raw.set_owner(note.host, note.generation);
        self.raw.set_resource_name(name);
        self.raw.set_timestamp(timestamp);
        self.raw.set_io_timeout(u16::from(io_timeout));
        self.raw.set_tail([0; 3]);
        self.note = Some(note);
        self.bitmap = [0; BITMAP_LEN];
        self
    }

    /// This record with another io_timeout, in seconds.
    pub fn timed(mut self, io_timeout: u8) -> Self {
        self.raw.set_io_timeout(u16::from(io_timeout));
        self
    }

    /// This record with a new timestamp; 0 frees it.
    pub fn stamped(mut self, timestamp: u64) -> Self {
        self.raw.set_timestamp(timestamp);
        self
    }
}
