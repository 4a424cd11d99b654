//! The memory of direct I/O.

use memmap2::MmapMut;
use std::io;

/// Bytes of the smallest page there is.
const PAGE: usize = 4096;

/// Memory that direct I/O can use: pages of its own, which the system has again when it is dropped.
/// What an allocator keeps for later would stay locked. It only grows.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pages: Option<MmapMut>,
    len: usize,
}

impl Buffer {
    /// Makes it `len` bytes, of whatever content.
    pub(super) fn resize(&mut self, len: usize) -> io::Result<&mut [u8]> {
        if self.pages.as_ref().is_none_or(|pages| pages.len() < len) {
            self.pages = None;
            self.pages = Some(MmapMut::map_anon(len.max(1))?);
        }
        self.len = len;
        Ok(self.bytes_mut())
    }

    /// How many bytes it can be made without other pages.
    pub(super) fn room(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.len())
    }

    /// As many as was asked for.
    pub(super) fn bytes(&self) -> &[u8] {
        let pages = self.pages.as_ref();
        pages.map_or(&[], |pages| &pages[..self.len])
    }

    /// The same, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let pages = self.pages.as_mut();
        pages.map_or(&mut [], |pages| &mut pages[..self.len])
    }

    /// Has the system find all of its pages now.
    pub(super) fn touch(&mut self) {
        let pages = self.bytes_mut().iter_mut().step_by(PAGE);
        pages.for_each(|byte| *byte = 0);
    }
}
