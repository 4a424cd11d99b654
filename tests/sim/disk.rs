//! A disk's bytes, kept only where hosts ever write: the first sectors of each area.

use std::ops::Range;

/// Bytes of a sector: all simulated areas are of the 512/1M geometry.
pub const SECTOR: usize = 512;
const AREA: u64 = 1 << 20;

/// One disk of areas of 1 MiB; of each, the first bytes are real and the rest is zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Platter {
    areas: Vec<Vec<u8>>,
}

impl Platter {
    /// A disk whose areas start with these bytes.
    pub fn new(areas: Vec<Vec<u8>>) -> Self {
        Self { areas }
    }

    /// Copies the part of `offset..` that falls into `range` of `buffer`; ranges are whole
    /// sectors.
    pub fn read_into(&self, buffer: &mut [u8], offset: u64, range: Range<usize>) {
        let area = &self.areas[(offset / AREA) as usize];
        let start = (offset % AREA) as usize + range.start;
        let end = area.len().min((offset % AREA) as usize + range.end);
        if start < end {
            let len = end - start;
            buffer[range.start..range.start + len].copy_from_slice(&area[start..end]);
        }
    }

    /// How many bytes of a read at `offset` can be other than zero.
    pub fn real_len(&self, offset: u64, len: usize) -> usize {
        let area = self.areas[(offset / AREA) as usize].len();
        area.saturating_sub((offset % AREA) as usize).min(len)
    }

    /// What is real of an area, as it stands.
    pub fn area(&self, index: usize) -> &[u8] {
        &self.areas[index]
    }

    /// A whole read at one moment.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        self.read_into(&mut buffer, offset, 0..len);
        buffer
    }

    /// Writes sectors.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = (offset % AREA) as usize;
        let area = &mut self.areas[(offset / AREA) as usize];
        area[start..start + bytes.len()].copy_from_slice(bytes);
    }
}
