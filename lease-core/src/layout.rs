//! Where each record lies on disk: the only place that turns a host id into an offset.
//!
//! An area is one lockspace or one resource, `align_size` bytes long, and starts at a multiple
//! of that. A sector is the unit of an atomic write. Only five combinations of the two exist.

use crate::id::HostId;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Bytes of one sector: 512 or 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectorSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl SectorSize {
    /// Bytes of a sector.
    pub const fn bytes(self) -> usize {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// The size that has this many bytes.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        [Self::B512, Self::B4096]
            .into_iter()
            .find(|s| s.bytes() as u64 == bytes)
    }
}

/// Bytes of one area ("align size"): 1, 2, 4 or 8 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlignSize {
    /// 1 MiB.
    M1,
    /// 2 MiB.
    M2,
    /// 4 MiB.
    M4,
    /// 8 MiB.
    M8,
}

impl AlignSize {
    const ALL: [Self; 4] = [Self::M1, Self::M2, Self::M4, Self::M8];

    /// Mebibytes of an area.
    pub fn mebibytes(self) -> u64 {
        match self {
            Self::M1 => 1,
            Self::M2 => 2,
            Self::M4 => 4,
            Self::M8 => 8,
        }
    }

    /// Bytes of an area.
    pub fn bytes(self) -> u64 {
        self.mebibytes() << 20
    }

    /// The size that has this many mebibytes.
    pub fn from_mebibytes(mebibytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.mebibytes() == mebibytes)
    }

    /// The bit in a leader record's flags that names this size.
    fn flag(self) -> u32 {
        (self.mebibytes() as u32) << 4
    }
}

/// How many hosts the largest areas have room for.
const HOSTS_MAX: u64 = 2000;

/// The bits of a leader record's flags that name the area size.
pub const ALIGN_FLAGS: u32 = 0xF0;

/// Why sector and area size do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "sector size and area size do not go together (512/1M, 4096/1M, 4096/2M, 4096/4M or 4096/8M do)"
)]
pub struct GeometryError;

/// One of the five combinations of sector size and area size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u64; 2]", into = "[u64; 2]")]
pub struct Geometry {
    sector: SectorSize,
    align: AlignSize,
}

impl Geometry {
    /// All five, the default of files first.
    pub const ALL: [Self; 5] = [
        Self {
            sector: SectorSize::B512,
            align: AlignSize::M1,
        },
        Self {
            sector: SectorSize::B4096,
            align: AlignSize::M1,
        },
        Self {
            sector: SectorSize::B4096,
            align: AlignSize::M2,
        },
        Self {
            sector: SectorSize::B4096,
            align: AlignSize::M4,
        },
        Self {
            sector: SectorSize::B4096,
            align: AlignSize::M8,
        },
    ];

    /// Checks the combination.
    pub fn new(sector: SectorSize, align: AlignSize) -> Result<Self, GeometryError> {
        let wanted = Self { sector, align };
        if Self::ALL.contains(&wanted) {
            Ok(wanted)
        } else {
            Err(GeometryError)
        }
    }

    /// What is used where nothing else is asked for: 1 MiB areas of 512-byte sectors, 8 MiB areas
    /// of 4096-byte sectors.
    pub fn default_for(sector: SectorSize) -> Self {
        let align = match sector {
            SectorSize::B512 => AlignSize::M1,
            SectorSize::B4096 => AlignSize::M8,
        };
        Self { sector, align }
    }

    /// From a leader record's sector size and flags; no area flag at all is the default for that
    /// sector size (records older than the flag).
    pub fn from_record(sector_size: u32, flags: u32) -> Result<Self, GeometryError> {
        let sector = SectorSize::from_bytes(u64::from(sector_size)).ok_or(GeometryError)?;
        match flags & ALIGN_FLAGS {
            0 => Ok(Self::default_for(sector)),
            bits => {
                let named = AlignSize::ALL.into_iter().find(|a| a.flag() == bits);
                Self::new(sector, named.ok_or(GeometryError)?)
            }
        }
    }

    /// The area-size bit for a leader record's flags.
    pub fn flags(self) -> u32 {
        self.align.flag()
    }

    /// Size of a sector.
    pub fn sector(self) -> SectorSize {
        self.sector
    }

    /// Bytes of a sector.
    pub fn sector_bytes(self) -> usize {
        self.sector.bytes()
    }

    /// Size of an area.
    pub fn align(self) -> AlignSize {
        self.align
    }

    /// Bytes of an area.
    pub fn area_bytes(self) -> usize {
        self.align.bytes() as usize
    }

    /// How many hosts an area has room for; also the largest host id.
    pub fn max_hosts(self) -> u64 {
        match (self.sector, self.align) {
            (SectorSize::B512, _) => HOSTS_MAX,
            (SectorSize::B4096, align) => 250 * align.mebibytes(),
        }
    }

    /// Where host N's heartbeat lies in a lockspace area: sector N-1. Bytes from the area's start.
    pub fn heartbeat_at(self, host: HostId) -> usize {
        host.index() * self.sector_bytes()
    }

    /// Bytes at the start of a lockspace area that hold heartbeats.
    pub fn heartbeats_len(self) -> usize {
        self.max_hosts() as usize * self.sector_bytes()
    }

    /// Where a resource area's request record lies: sector 1.
    pub fn request_at(self) -> usize {
        self.sector_bytes()
    }

    /// Where host N's ballot record lies in a resource area: sector 2+(N-1).
    pub fn ballot_at(self, host: HostId) -> usize {
        (2 + host.index()) * self.sector_bytes()
    }

    /// Bytes at the start of a resource area that hold the leader, the request and the ballots of
    /// `num_hosts` hosts.
    pub fn ballots_len(self, num_hosts: u64) -> usize {
        (2 + num_hosts as usize) * self.sector_bytes()
    }

    /// Where a resource area's value block lies: sector 2002, behind the ballot records of as many
    /// hosts as any area has room for. `None`: the area ends before.
    pub fn value_block_at(self) -> Option<usize> {
        let at = self.ballots_len(HOSTS_MAX);
        (at + self.sector_bytes() <= self.area_bytes()).then_some(at)
    }
}

/// Sector bytes and area mebibytes.
impl From<Geometry> for [u64; 2] {
    fn from(geometry: Geometry) -> Self {
        [geometry.sector.bytes() as u64, geometry.align.mebibytes()]
    }
}

impl TryFrom<[u64; 2]> for Geometry {
    type Error = GeometryError;
    fn try_from([sector, align]: [u64; 2]) -> Result<Self, GeometryError> {
        let sector = SectorSize::from_bytes(sector).ok_or(GeometryError)?;
        Self::new(
            sector,
            AlignSize::from_mebibytes(align).ok_or(GeometryError)?,
        )
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}-byte sectors, {}M areas",
            self.sector_bytes(),
            self.align.mebibytes()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_five() {
        let table: Vec<_> = Geometry::ALL
            .iter()
            .map(|g| {
                (
                    g.sector_bytes(),
                    g.align().mebibytes(),
                    g.max_hosts(),
                    g.flags(),
                )
            })
            .collect();
        assert_eq!(
            table,
            [
                (512, 1, 2000, 0x10),
                (4096, 1, 250, 0x10),
                (4096, 2, 500, 0x20),
                (4096, 4, 1000, 0x40),
                (4096, 8, 2000, 0x80),
            ]
        );
        assert_eq!(
            Geometry::new(SectorSize::B512, AlignSize::M8),
            Err(GeometryError)
        );
    }

    #[test]
    fn a_geometry_is_told_and_shown_by_its_sizes() {
        let large = Geometry::ALL[4];
        assert_eq!(large.to_string(), "4096-byte sectors, 8M areas");
        for geometry in Geometry::ALL {
            let told = <[u64; 2]>::from(geometry);
            assert_eq!(Geometry::try_from(told), Ok(geometry));
        }
        assert_eq!(<[u64; 2]>::from(large), [4096, 8]);
    }

    #[test]
    fn every_record_fits_its_area() {
        for g in Geometry::ALL {
            let last = HostId::new(g.max_hosts()).unwrap();
            assert!(g.heartbeat_at(last) + g.sector_bytes() <= g.heartbeats_len());
            assert!(g.ballot_at(last) + g.sector_bytes() <= g.area_bytes());
            assert_eq!(
                g.ballots_len(g.max_hosts()),
                g.ballot_at(last) + g.sector_bytes()
            );
        }
    }

    #[test]
    fn only_areas_of_2000_hosts_have_room_for_a_value_block() {
        let at = Geometry::ALL.map(Geometry::value_block_at);
        let expected = [Some(2002 * 512), None, None, None, Some(2002 * 4096)];
        assert_eq!(at, expected);
    }

    #[test]
    fn a_record_without_area_flag_is_of_the_old_default() {
        assert_eq!(Geometry::from_record(512, 0), Ok(Geometry::ALL[0]));
        assert_eq!(Geometry::from_record(4096, 0x1), Ok(Geometry::ALL[4]));
        assert_eq!(Geometry::from_record(4096, 0x20), Ok(Geometry::ALL[2]));
        for (sector, flags) in [(1024, 0x10), (512, 0x20), (4096, 0x30)] {
            assert_eq!(Geometry::from_record(sector, flags), Err(GeometryError));
        }
    }
}
