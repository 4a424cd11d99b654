//! An area's bytes, as far as a disk can read them, and where the defects found in them are noted.

use crate::disk::{Disk, Fault};
use crate::id::{HostId, Lver, Name};
use crate::layout::Geometry;
use crate::quorum::sector;
use crate::record::RecordError;
use thiserror::Error;

/// Every disk can read as few bytes.
pub(super) const BLOCK: usize = 4096;

/// A sector that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which sector of the area, from 0.
    pub sector: usize,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What can be wrong with a sector of an area.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Flaw {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("heartbeat record: it belongs to lockspace {found}")]
    Lockspace { found: Name },
    #[error("heartbeat record: it says {found}")]
    Geometry { found: Geometry },
    #[error("heartbeat record: it is host {found}'s")]
    Owner { found: HostId },
    #[error(
        "ballot record: it decided version {ballot}, the leader (version {leader}) has gone back"
    )]
    Ahead { ballot: Lver, leader: Lver },
    #[error("index entry: it says offset {found} and stands for offset {expected}")]
    Entry { found: u64, expected: u64 },
    #[error("the area size cannot be told from what is left; read as 1M")]
    AreaSize,
    #[error("it cannot be read: {0}")]
    Unreadable(Fault),
    #[error("the file or device ends before it")]
    Missing,
}

/// Bytes of a disk, with what of them could not be read.
pub(super) struct Image {
    /// Zeros stand for what could not be read.
    pub(super) bytes: Vec<u8>,
    /// The blocks that could not be read, by their first byte.
    pub(super) unreadable: Vec<(usize, Fault)>,
    /// Where the disk ends.
    end: usize,
}

impl Image {
    /// Reads `len` bytes in one go, or block by block where the disk is broken. A storage that
    /// gives no answer is an error.
    pub(super) fn read(disk: &dyn Disk, offset: u64, len: usize, size: u64) -> Result<Self, Fault> {
        let left = size.saturating_sub(offset);
        let end = usize::try_from(left).map_or(len, |left| len.min(left / BLOCK * BLOCK));
        let mut image = Self {
            bytes: vec![0; len],
            unreadable: Vec::new(),
            end,
        };
        if end == 0 {
            return Ok(image);
        }
        match disk.read(offset, end) {
            Ok(bytes) => image.bytes[..end].copy_from_slice(&bytes),
            Err(Fault::Failed(_) | Fault::Unfit(_)) => image.read_blocks(disk, offset)?,
            Err(fault) => return Err(fault),
        }
        Ok(image)
    }

    fn read_blocks(&mut self, disk: &dyn Disk, offset: u64) -> Result<(), Fault> {
        for at in (0..self.end).step_by(BLOCK) {
            match disk.read(offset + at as u64, BLOCK) {
                Ok(bytes) => self.bytes[at..at + BLOCK].copy_from_slice(&bytes),
                Err(fault @ (Fault::Failed(_) | Fault::Unfit(_))) => {
                    self.unreadable.push((at, fault));
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// The sector at byte `at` of the area.
    pub(super) fn sector(&self, geometry: Geometry, at: usize) -> Result<&[u8], Flaw> {
        if at + geometry.sector_bytes() > self.end {
            return Err(Flaw::Missing);
        }
        let block = at / BLOCK * BLOCK;
        match self.unreadable.iter().find(|(at, _)| *at == block) {
            Some((_, fault)) => Err(Flaw::Unreadable(fault.clone())),
            None => Ok(sector(&self.bytes, geometry, at)),
        }
    }
}

/// Where the defects of an area are noted.
pub(super) struct Notes {
    pub(super) geometry: Geometry,
    pub(super) damage: Vec<Damage>,
}

impl Notes {
    pub(super) fn new(geometry: Geometry) -> Self {
        let damage = Vec::new();
        Self { geometry, damage }
    }

    /// Notes what is wrong with the sector at byte `at`. Of sectors past the end only the first.
    pub(super) fn note(&mut self, at: usize, flaw: Flaw) {
        let missing = |damage: &Damage| damage.flaw == Flaw::Missing;
        if flaw == Flaw::Missing && self.damage.last().is_some_and(missing) {
            return;
        }
        let sector = at / self.geometry.sector_bytes();
        self.damage.push(Damage { sector, flaw });
    }

    /// The record at byte `at`, or a note of why there is none.
    pub(super) fn decode<T>(
        &mut self,
        image: &Image,
        at: usize,
        decode: impl FnOnce(&[u8]) -> Result<T, RecordError>,
    ) -> Option<T> {
        let decoded = image
            .sector(self.geometry, at)
            .and_then(|sector| Ok(decode(sector)?));
        decoded.map_err(|flaw| self.note(at, flaw)).ok()
    }
}
