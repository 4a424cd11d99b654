//! What messages are made of: the header, and the structs of the bodies.

use crate::id::{NAME_LEN, Name};
use crate::layout::{AlignSize, Geometry, SectorSize};
use crate::spec::{PATH_MAX, Place};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// First in every message.
pub const MAGIC: u32 = 0x0428_2010;
/// The version of the messages; only its high half counts.
pub const VERSION: u32 = 1;
/// Bytes of a header.
pub const HEADER_LEN: usize = 32;
/// Bytes of a place on a disk.
pub const DISK_LEN: usize = 1040;
/// Bytes of a resource without its disks.
pub const RESOURCE_LEN: usize = 128;
/// Bytes of a lockspace.
pub const LOCKSPACE_LEN: usize = 1104;
/// Bytes of the options of an acquire.
pub const OPTIONS_LEN: usize = 56;
/// Bytes of a host.
pub const HOST_LEN: usize = 32;
/// Bytes of an event that a host sends.
pub const HOST_EVENT_LEN: usize = 32;
/// Bytes of an event as it is delivered, without a header.
pub const EVENT_LEN: usize = 48;
/// Bytes of an index.
pub const INDEX_LEN: usize = 1104;
/// Bytes of an entry of an index.
pub const INDEX_ENTRY_LEN: usize = 64;
/// Bytes of a path that is run, and of its arguments.
pub const KILLPATH_LEN: usize = 128;

/// The lease's version is given.
pub const WITH_LVER: u32 = 1;
/// The lease is shared.
pub const SHARED: u32 = 4;
/// The lease stays when its owner goes.
pub const PERSISTENT: u32 = 8;

/// The first 32 bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`].
    pub version: u32,
    /// What is asked, or was asked.
    pub command: u32,
    /// How.
    pub flags: u32,
    /// Bytes of the whole message, if the sender says so rightly.
    pub length: u32,
    /// A number of the sender's.
    pub sequence: u32,
    /// A count, a size, or a result.
    pub data: i32,
    /// A process, a count, or a number.
    pub data2: i32,
}

impl Header {
    /// From its bytes.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let at = |index: usize| u32_at(bytes, index * 4);
        Self {
            magic: at(0),
            version: at(1),
            command: at(2),
            flags: at(3),
            length: at(4),
            sequence: at(5),
            data: at(6).cast_signed(),
            data2: at(7).cast_signed(),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let fields = [
            self.magic,
            self.version,
            self.command,
            self.flags,
            self.length,
            self.sequence,
            self.data.cast_unsigned(),
            self.data2.cast_unsigned(),
        ];
        let mut bytes = [0; HEADER_LEN];
        for (field, chunk) in fields.iter().zip(bytes.chunks_exact_mut(4)) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    /// Whether it starts a message of this protocol.
    pub fn is_known(&self) -> bool {
        self.magic == MAGIC && self.version >> 16 == VERSION >> 16
    }
}

/// A resource as a message names it. Its names may be missing, where no lease is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resource {
    /// Name of its lockspace.
    pub lockspace: Option<Name>,
    /// Its name.
    pub name: Option<Name>,
    /// The version of its lease; counts with [`WITH_LVER`].
    pub lver: u64,
    /// [`WITH_LVER`], [`SHARED`], [`PERSISTENT`], and the sizes of [`flags_of`].
    pub flags: u32,
    /// How many disks it says it has.
    pub num_disks: u32,
    /// Those that came with it.
    pub places: Vec<Place>,
}

impl Resource {
    /// Without its disks.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            lockspace: name_at(bytes, 0),
            name: name_at(bytes, 48),
            lver: u64_at(bytes, 96),
            flags: u32_at(bytes, 120),
            num_disks: u32_at(bytes, 124),
            places: Vec::new(),
        }
    }

    /// Without its disks.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; RESOURCE_LEN];
        put_name(&mut bytes, 0, self.lockspace.as_ref());
        put_name(&mut bytes, 48, self.name.as_ref());
        put(&mut bytes, 96, &self.lver.to_ne_bytes());
        put(&mut bytes, 120, &self.flags.to_ne_bytes());
        put(&mut bytes, 124, &self.num_disks.to_ne_bytes());
        bytes
    }

    /// Whether it is to be shared.
    pub fn is_shared(&self) -> bool {
        self.flags & SHARED != 0
    }

    /// Whether it is to stay when its owner goes.
    pub fn is_persistent(&self) -> bool {
        self.flags & PERSISTENT != 0
    }
}

/// A lockspace as a message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lockspace {
    /// Its name, if there is one.
    pub name: Option<Name>,
    /// The host id, which may be none that a host can have.
    pub host_id: u64,
    /// The sizes of [`flags_of`], or what becomes of it.
    pub flags: u32,
    /// Where it lies.
    pub place: Place,
}

impl Lockspace {
    /// From its bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            name: name_at(bytes, 0),
            host_id: u64_at(bytes, 48),
            flags: u32_at(bytes, 56),
            place: decode_place(&bytes[64..]),
        }
    }

    /// Its bytes, with a sector size beside its place; 0: none.
    pub fn encode(&self, sector_size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        put_name(&mut bytes, 0, self.name.as_ref());
        put(&mut bytes, 48, &self.host_id.to_ne_bytes());
        put(&mut bytes, 56, &self.flags.to_ne_bytes());
        bytes.extend(encode_place(&self.place, sector_size));
        bytes
    }
}

/// A host as a message shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Its host id.
    pub host_id: u64,
    /// Its present life.
    pub generation: u64,
    /// When it renewed last, on its own clock.
    pub timestamp: u64,
    /// t, in seconds.
    pub io_timeout: u32,
    /// One of the states of [`host_state`].
    pub state: u32,
}

/// What the state of a [`Host`] can be.
pub mod host_state {
    /// Nothing is known.
    pub const UNKNOWN: u32 = 1;
    /// Nobody has the host id.
    pub const FREE: u32 = 2;
    /// It renews.
    pub const LIVE: u32 = 3;
    /// It has not renewed for long.
    pub const FAIL: u32 = 4;
    /// It is dead.
    pub const DEAD: u32 = 5;
}

impl Host {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HOST_LEN] {
        let mut bytes = [0; HOST_LEN];
        put(&mut bytes, 0, &self.host_id.to_ne_bytes());
        put(&mut bytes, 8, &self.generation.to_ne_bytes());
        put(&mut bytes, 16, &self.timestamp.to_ne_bytes());
        put(&mut bytes, 24, &self.io_timeout.to_ne_bytes());
        put(&mut bytes, 28, &self.state.to_ne_bytes());
        bytes
    }
}

/// An event that is to be sent to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostEvent {
    /// To whom.
    pub host_id: u64,
    /// In which life; 0: in any.
    pub generation: u64,
    /// A number of the sender's.
    pub event: u64,
    /// Another.
    pub data: u64,
}

impl HostEvent {
    /// From its bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            host_id: u64_at(bytes, 0),
            generation: u64_at(bytes, 8),
            event: u64_at(bytes, 16),
            data: u64_at(bytes, 24),
        }
    }
}

/// A resource index as a message names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The sizes of [`flags_of`].
    pub flags: u32,
    /// Name of the lockspace.
    pub lockspace: Option<Name>,
    /// Where it lies.
    pub place: Place,
}

impl Index {
    /// From its bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            flags: u32_at(bytes, 0),
            lockspace: name_at(bytes, 16),
            place: decode_place(&bytes[64..]),
        }
    }
}

/// An entry of an index as a message names or shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexEntry {
    /// Name of the resource.
    pub name: Option<Name>,
    /// Where it lies; 0: not said.
    pub offset: u64,
}

impl IndexEntry {
    /// From its bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            name: name_at(bytes, 0),
            offset: u64_at(bytes, 48),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; INDEX_ENTRY_LEN] {
        let mut bytes = [0; INDEX_ENTRY_LEN];
        put_name(&mut bytes, 0, self.name.as_ref());
        put(&mut bytes, 48, &self.offset.to_ne_bytes());
        bytes
    }
}

/// The place in the 1040 bytes of a disk. Its sector size and descriptor are not looked at.
pub fn decode_place(bytes: &[u8]) -> Place {
    let path = OsString::from_vec(text(&bytes[..PATH_MAX + 1]).to_vec());
    Place {
        path: path.into(),
        offset: u64_at(bytes, PATH_MAX + 1),
    }
}

/// The 1040 bytes of a disk, with its sector size; 0: not said.
pub fn encode_place(place: &Place, sector_size: u32) -> Vec<u8> {
    let mut bytes = vec![0; DISK_LEN];
    let path = place.path.as_os_str().as_bytes();
    put(&mut bytes, 0, &path[..path.len().min(PATH_MAX)]);
    put(&mut bytes, PATH_MAX + 1, &place.offset.to_ne_bytes());
    put(&mut bytes, PATH_MAX + 9, &sector_size.to_ne_bytes());
    bytes
}

/// A string, without what stands behind its NUL.
pub fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// The bits that name sector and area size.
const SECTOR_FLAGS: [(u32, SectorSize); 2] =
    [(0x100, SectorSize::B512), (0x200, SectorSize::B4096)];
const AREA_FLAGS: [(u32, AlignSize); 4] = [
    (0x10, AlignSize::M1),
    (0x20, AlignSize::M2),
    (0x40, AlignSize::M4),
    (0x80, AlignSize::M8),
];

/// How sector and area size stand in flags.
pub fn flags_of(geometry: Geometry) -> u32 {
    let sector = SECTOR_FLAGS.iter().find(|(_, it)| *it == geometry.sector());
    let area = AREA_FLAGS.iter().find(|(_, it)| *it == geometry.align());
    sector.map_or(0, |(flag, _)| *flag) | area.map_or(0, |(flag, _)| *flag)
}

/// The sector size that flags ask for.
pub fn sector_of(flags: u32) -> Option<SectorSize> {
    let found = SECTOR_FLAGS.iter().find(|(flag, _)| flags & flag != 0);
    found.map(|(_, size)| *size)
}

/// The area size that flags ask for.
pub fn area_of(flags: u32) -> Option<AlignSize> {
    let found = AREA_FLAGS.iter().find(|(flag, _)| flags & flag != 0);
    found.map(|(_, size)| *size)
}

fn name_at(bytes: &[u8], at: usize) -> Option<Name> {
    Name::from_field(&bytes[at..at + NAME_LEN]).ok()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(field)
}

pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

pub(super) fn put_name(bytes: &mut [u8], at: usize, name: Option<&Name>) {
    if let Some(name) = name {
        put(bytes, at, name.field());
    }
}
