//! The header of a resource index ("rindex"): sector 0 of its area.
//!
//! An index names resources and where they lie. Only sanlock writes one; we read enough of it to
//! say that it is there and not to write over it. There is no checksum.

use super::bytes::{array_at, u32_at, u64_at};
use super::{RecordError, check_version};
use crate::id::{NAME_LEN, Name};
use crate::layout::{AlignSize, Geometry, SectorSize};

pub(super) const MAGIC_INDEX: u32 = 0x0104_2018;
const VERSION_INDEX: u32 = 0x0001_0002;
const NAME: &str = "index header";
const VERSION_AT: usize = 4;
const FLAGS_AT: usize = 8;
const SECTOR_SIZE_AT: usize = 12;
const MAX_RESOURCES_AT: usize = 16;
const OFFSET_AT: usize = 24;
const SPACE_NAME_AT: usize = 32;

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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let header = IndexHeader {
            geometry: Geometry::ALL[0],
            max_resources: 4096,
            offset: 33_554_432,
            lockspace: Name::new(b"LS").unwrap(),
        };
        let sector = include_bytes!("../../golden/rindex_header.bin");
        assert_eq!(IndexHeader::decode(sector), Ok(header));
    }
}
