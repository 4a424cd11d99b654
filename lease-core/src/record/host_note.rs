//! The host note: what our hosts add to their heartbeat, in bytes 200..256 of its sector, where
//! sanlock keeps nothing.
//!
//! It says in how many seconds a watchdog (or a promise in its place) ends the host once its
//! lease is lost, which boot the host is in, and from when on its earlier lives are over. A note
//! that does not check, or that speaks of another host id or generation than the heartbeat beside
//! it, is as good as absent.

use super::bytes::{array_at, put, u16_at, u32_at, u64_at};
use crate::id::{Generation, HostId};

/// Where in the heartbeat sector the note lies.
pub const HOST_NOTE_AT: usize = 200;
/// Its length.
pub const HOST_NOTE_LEN: usize = 56;
/// The longest promise that a note can make, and what holds for a host without one: seconds.
pub const WATCHDOG_MAX: u16 = 60;

const MAGIC: [u8; 4] = *b"LEAS";
const FORMAT: u16 = 1;
const FORMAT_AT: usize = 4;
const WATCHDOG_AT: usize = 6;
const HOST_ID_AT: usize = 8;
const GENERATION_AT: usize = 16;
const BOOT_ID_AT: usize = 24;
const FORMER_OVER_AT: usize = 40;
const CHECKSUM_AT: usize = HOST_NOTE_LEN - 4;

/// Sixteen bytes that differ at every boot (`/proc/sys/kernel/random/boot_id`).
pub type BootId = [u8; 16];

/// What one of our hosts says of itself beside its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNote {
    /// Seconds after the loss of its lease in which everything on the host that was guarded is
    /// dead; 1..=60.
    pub watchdog: u16,
    /// Whose note it is.
    pub host: HostId,
    /// Of which life.
    pub generation: Generation,
    /// Of which boot.
    pub boot_id: BootId,
    /// Nothing of an earlier life of the host id runs any more when the timestamp is as large as
    /// this; 0: not said, as by a host that does not know of it.
    pub former_over: u64,
}

impl HostNote {
    /// Reads the note's 56 bytes; `None` for anything that is not a valid note.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let sum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        let valid = bytes[..4] == MAGIC
            && u16_at(bytes, FORMAT_AT) == FORMAT
            && u32_at(bytes, CHECKSUM_AT) == sum;
        let watchdog = u16_at(bytes, WATCHDOG_AT);
        if !valid || !(1..=WATCHDOG_MAX).contains(&watchdog) {
            return None;
        }
        Some(Self {
            watchdog,
            host: HostId::new(u64_at(bytes, HOST_ID_AT)).ok()?,
            generation: Generation(u64_at(bytes, GENERATION_AT)),
            boot_id: array_at(bytes, BOOT_ID_AT),
            former_over: u64_at(bytes, FORMER_OVER_AT),
        })
    }

    /// The note's 56 bytes.
    pub fn encode(&self) -> [u8; HOST_NOTE_LEN] {
        let mut bytes = [0; HOST_NOTE_LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, FORMAT_AT, &FORMAT.to_le_bytes());
        put(&mut bytes, WATCHDOG_AT, &self.watchdog.to_le_bytes());
        put(&mut bytes, HOST_ID_AT, &self.host.get().to_le_bytes());
        put(&mut bytes, GENERATION_AT, &self.generation.0.to_le_bytes());
        put(&mut bytes, BOOT_ID_AT, &self.boot_id);
        put(&mut bytes, FORMER_OVER_AT, &self.former_over.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> HostNote {
        HostNote {
            watchdog: 10,
            host: HostId::new(7).unwrap(),
            generation: Generation(3),
            boot_id: [0xAB; 16],
            former_over: 0x0102,
        }
    }

    #[test]
    fn its_bytes() {
        let bytes = note().encode();
        assert_eq!(&bytes[..8], b"LEAS\x01\0\x0a\0");
        assert_eq!(
            &bytes[8..24],
            [7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes[24..40], [0xAB; 16]);
        assert_eq!(bytes[40..52], [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(HostNote::decode(&bytes), Some(note()));
    }

    #[test]
    fn a_note_with_any_byte_changed_is_absent() {
        for at in 0..HOST_NOTE_LEN {
            let mut bytes = note().encode();
            bytes[at] ^= 0x01;
            assert_eq!(HostNote::decode(&bytes), None, "byte {at}");
        }
        assert_eq!(HostNote::decode(&[0; HOST_NOTE_LEN]), None);
        for at in [0, FORMAT_AT] {
            let mut bytes = note().encode();
            bytes[at] += 1;
            let sum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
            put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
            assert_eq!(HostNote::decode(&bytes), None, "byte {at}, checked");
        }
    }

    #[test]
    fn nobody_promises_more_than_sixty_seconds_or_none() {
        for watchdog in [0, 61, u16::MAX] {
            assert_eq!(
                HostNote::decode(&HostNote { watchdog, ..note() }.encode()),
                None
            );
        }
    }
}
