//! The entries of an index, as they are.

use super::image::{Flaw, Image, Notes};
use crate::record::index::{ENTRY_LEN, IndexEntry, IndexHeader};

/// The entries of an index; each must be for the area that it stands for.
pub(super) fn read(image: &Image, header: &IndexHeader, notes: &mut Notes) -> Vec<IndexEntry> {
    let sector = header.geometry.sector_bytes();
    let mut entries = Vec::new();
    for slot in 0..header.slots() {
        let at = sector + slot * ENTRY_LEN;
        let start = at - at % sector;
        let found = match image.sector(header.geometry, start) {
            Ok(bytes) => IndexEntry::decode(&bytes[at - start..]),
            // Of several entries in one sector it is noted once.
            Err(flaw) if at == start => {
                notes.note(start, flaw);
                None
            }
            Err(_) => None,
        };
        let Some(entry) = found else { continue };
        let (expected, found) = (header.place(slot), entry.offset);
        if found != expected {
            notes.note(start, Flaw::Entry { found, expected });
        }
        entries.push(entry);
    }
    entries
}
