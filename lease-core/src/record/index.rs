//! A resource index ("rindex"): its header, in sector 0 of its area, and its entries, from sector
//! 1 on.
//!
//! An index names resources and where they lie. Entry i is 64 bytes long and stands for the area
//! that lies i areas behind the index's two; an entry of zeros is free. There is no checksum.

use super::bytes::{array_at, put, u32_at, u64_at};
use super::magic::MAGIC_INDEX;
use super::{RecordError, check_version};
use crate::id::{NAME_LEN, Name};
use crate::layout::{AlignSize, Geometry, SectorSize};

const VERSION_INDEX: u32 = 0x0001_0002;
const NAME: &str = "index header";
const VERSION_AT: usize = 4;
const FLAGS_AT: usize = 8;
const SECTOR_SIZE_AT: usize = 12;
const MAX_RESOURCES_AT: usize = 16;
const OFFSET_AT: usize = 24;
const SPACE_NAME_AT: usize = 32;

/// The name of the resource in an index's second area: whoever changes an entry holds it.
pub const INDEX_LEASE: Name = Name::fixed(b"rindex_lease");
/// Entries that sanlock gives an index, if nothing else is asked for.
pub const MAX_RESOURCES: u32 = 4096;

/// Bytes of an entry.
pub const ENTRY_LEN: usize = 64;
const ENTRY_NAME_AT: usize = 16;

/// The header of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    /// Sector and area size of its resources.
    pub geometry: Geometry,
    /// How many entries it has room for.
    pub max_resources: u32,
    /// Where on the disk it says it is, in bytes.
    pub offset: u64,
    /// Name of the lockspace.
    pub lockspace: Name,
}

impl IndexHeader {
    /// Reads a sector of at least 512 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let found = u32_at(sector, 0);
        if found != MAGIC_INDEX {
            return Err(RecordError::Magic {
                record: NAME,
                found,
            });
        }
        check_version(NAME, u32_at(sector, VERSION_AT), VERSION_INDEX)?;
        let range = |field, found| RecordError::Range {
            record: NAME,
            field,
            found,
        };
        let (sector_size, flags) = (u32_at(sector, SECTOR_SIZE_AT), u32_at(sector, FLAGS_AT));
        let geometry = SectorSize::from_bytes(u64::from(sector_size))
            .zip(AlignSize::from_mebibytes(u64::from(flags)))
            .and_then(|(sector, align)| Geometry::new(sector, align).ok())
            .ok_or_else(|| range("sector_size", u64::from(sector_size)))?;
        let name = array_at::<NAME_LEN>(sector, SPACE_NAME_AT);
        Ok(Self {
            geometry,
            max_resources: u32_at(sector, MAX_RESOURCES_AT),
            offset: u64_at(sector, OFFSET_AT),
            lockspace: Name::from_field(&name).map_err(|_| range("lockspace name", 0))?,
        })
    }

    /// How many entries there are: as many as it says and one area has room for.
    pub fn slots(&self) -> usize {
        let room = (self.geometry.area_bytes() - self.geometry.sector_bytes()) / ENTRY_LEN;
        room.min(self.max_resources as usize)
    }

    /// Where the area of entry `slot` starts, in bytes from the start of the disk.
    pub fn place(&self, slot: usize) -> u64 {
        let align = self.geometry.align().bytes();
        // Believed only where the header lies at its offset, so far within what a disk can have.
        self.offset.saturating_add((2 + slot as u64) * align)
    }

    /// The entry `slot` in the bytes of the area, from sector 1 on. `None`: it is free.
    pub fn entry(&self, entries: &[u8], slot: usize) -> Option<IndexEntry> {
        IndexEntry::decode(&entries[slot * ENTRY_LEN..][..ENTRY_LEN])
    }

    /// The whole sector.
    pub fn to_sector(&self) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        let flags = self.geometry.align().mebibytes() as u32;
        let sector_size = self.geometry.sector_bytes() as u32;
        put(&mut sector, 0, &MAGIC_INDEX.to_le_bytes());
        put(&mut sector, VERSION_AT, &VERSION_INDEX.to_le_bytes());
        put(&mut sector, FLAGS_AT, &flags.to_le_bytes());
        put(&mut sector, SECTOR_SIZE_AT, &sector_size.to_le_bytes());
        let max_resources = self.max_resources.to_le_bytes();
        put(&mut sector, MAX_RESOURCES_AT, &max_resources);
        put(&mut sector, OFFSET_AT, &self.offset.to_le_bytes());
        put(&mut sector, SPACE_NAME_AT, self.lockspace.field());
        sector
    }
}

/// One entry that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Where the resource's area starts, in bytes from the start of the disk.
    pub offset: u64,
    /// The resource's name.
    pub name: Name,
}

impl IndexEntry {
    /// Reads 64 bytes. `None`: the entry is free, as one without a name is.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let name = array_at::<NAME_LEN>(bytes, ENTRY_NAME_AT);
        Some(Self {
            offset: u64_at(bytes, 0),
            name: Name::from_field(&name).ok()?,
        })
    }

    /// The 64 bytes.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        put(&mut bytes, 0, &self.offset.to_le_bytes());
        put(&mut bytes, ENTRY_NAME_AT, self.name.field());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = include_bytes!("../../golden/rindex_header.bin");
    const ENTRIES: &[u8] = include_bytes!("../../golden/rindex_entries.bin");

    #[test]
    fn golden() {
        let header = IndexHeader {
            geometry: Geometry::ALL[0],
            max_resources: 4096,
            offset: 33_554_432,
            lockspace: Name::new(b"LS").unwrap(),
        };
        assert_eq!(IndexHeader::decode(HEADER), Ok(header));
        assert_eq!(header.to_sector(), HEADER);
    }

    /// What the daemon wrote for vm1, vm2 and vm3, and a delete of vm1.
    #[test]
    fn golden_entries() {
        let entry = |name: &[u8], offset| IndexEntry {
            offset,
            name: Name::new(name).unwrap(),
        };
        let expected = [
            None,
            Some(entry(b"vm2", 4_194_304)),
            Some(entry(b"vm3", 5_242_880)),
        ];
        let found = ENTRIES.chunks_exact(ENTRY_LEN).map(IndexEntry::decode);
        assert_eq!(found.take(3).collect::<Vec<_>>(), expected);
        let again = expected.map(|entry| entry.map_or([0; ENTRY_LEN], |entry| entry.encode()));
        assert_eq!(again.concat(), ENTRIES[..3 * ENTRY_LEN]);
    }
}
