//! The holder note: what our hosts add to their ballot record when they win, in bytes 256..512
//! of its sector, where sanlock keeps nothing: who holds the lease, in words for people.
//!
//! It is written in the same sector write that phase 2 of the ballot makes anyway, and cleared
//! by the release. It is believed only if it names the host, generation and lver of the leader.

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::leader::Leader;
use crate::id::{Generation, HOST_NAME_MAX, HostId, Lver};
use crate::spec::Mode;

/// Where in the ballot sector the note lies.
pub const HOLDER_NOTE_AT: usize = 256;
/// Its length.
pub const HOLDER_NOTE_LEN: usize = 256;

const MAGIC: [u8; 4] = *b"HOLD";
const FORMAT: u16 = 1;
const FORMAT_AT: usize = 4;
const KIND_AT: usize = 6;
const HOST_ID_AT: usize = 8;
const GENERATION_AT: usize = 16;
const LVER_AT: usize = 24;
const START_AT: usize = 32;
const PID_AT: usize = 40;
const HOST_NAME_LEN_AT: usize = 44;
const COMMAND_LEN_AT: usize = 45;
const TEXT_AT: usize = 46;
const CHECKSUM_AT: usize = HOLDER_NOTE_LEN - 4;
/// Longest command name that fits beside the longest host name.
pub const COMMAND_MAX: usize = CHECKSUM_AT - TEXT_AT - HOST_NAME_MAX;

/// Who holds a lease, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderNote {
    /// The host that holds it.
    pub host: HostId,
    /// In which life.
    pub generation: Generation,
    /// By which version of the lease.
    pub lver: Lver,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Process id of the holder (lease-hold) on that host.
    pub pid: u32,
    /// Wall clock, seconds since 1970, when it asked for the lease.
    pub start: u64,
    /// The host's name, cut to 47 bytes.
    pub host_name: Vec<u8>,
    /// The command's name, cut to what fits.
    pub command: Vec<u8>,
}

impl HolderNote {
    /// Reads the note's 256 bytes; `None` for anything that is not a valid note.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let valid = bytes[..4] == MAGIC
            && u16_at(bytes, FORMAT_AT) == FORMAT
            && u32_at(bytes, CHECKSUM_AT) == crc32fast::hash(&bytes[..CHECKSUM_AT]);
        if !valid {
            return None;
        }
        let name_end = TEXT_AT + usize::from(bytes[HOST_NAME_LEN_AT]);
        let command_end = name_end + usize::from(bytes[COMMAND_LEN_AT]);
        Some(Self {
            host: HostId::new(u64_at(bytes, HOST_ID_AT)).ok()?,
            generation: Generation(u64_at(bytes, GENERATION_AT)),
            lver: Lver(u64_at(bytes, LVER_AT)),
            mode: if u16_at(bytes, KIND_AT) == 0 {
                Mode::Exclusive
            } else {
                Mode::Shared
            },
            pid: u32_at(bytes, PID_AT),
            start: u64_at(bytes, START_AT),
            host_name: bytes.get(TEXT_AT..name_end)?.to_vec(),
            command: bytes[..CHECKSUM_AT].get(name_end..command_end)?.to_vec(),
        })
    }

    /// The note's 256 bytes; texts are cut to what fits.
    pub fn encode(&self) -> [u8; HOLDER_NOTE_LEN] {
        let host_name = &self.host_name[..self.host_name.len().min(HOST_NAME_MAX)];
        let command = &self.command[..self.command.len().min(COMMAND_MAX)];
        let mut bytes = [0; HOLDER_NOTE_LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, FORMAT_AT, &FORMAT.to_le_bytes());
        put(
            &mut bytes,
            KIND_AT,
            &u16::from(self.mode == Mode::Shared).to_le_bytes(),
        );
        put(&mut bytes, HOST_ID_AT, &self.host.get().to_le_bytes());
        put(&mut bytes, GENERATION_AT, &self.generation.0.to_le_bytes());
        put(&mut bytes, LVER_AT, &self.lver.0.to_le_bytes());
        put(&mut bytes, START_AT, &self.start.to_le_bytes());
        put(&mut bytes, PID_AT, &self.pid.to_le_bytes());
        bytes[HOST_NAME_LEN_AT] = host_name.len() as u8;
        bytes[COMMAND_LEN_AT] = command.len() as u8;
        put(&mut bytes, TEXT_AT, host_name);
        put(&mut bytes, TEXT_AT + host_name.len(), command);
        let sum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
        bytes
    }

    /// Whether the note speaks of the owner that `leader` names.
    pub fn is_of(&self, leader: &Leader) -> bool {
        leader.lver() == self.lver
            && leader
                .owner()
                .is_some_and(|o| o.same_life(self.host, self.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> HolderNote {
        HolderNote {
            host: HostId::new(2).unwrap(),
            generation: Generation(5),
            lver: Lver(9),
            mode: Mode::Exclusive,
            pid: 4711,
            start: 1_700_000_000,
            host_name: b"hostB".to_vec(),
            command: b"qemu-system-x86_64".to_vec(),
        }
    }

    #[test]
    fn its_bytes() {
        let bytes = note().encode();
        assert_eq!(&bytes[..8], b"HOLD\x01\0\0\0");
        let numbers = [2_u64, 5, 9, 1_700_000_000].map(u64::to_le_bytes);
        assert_eq!(bytes[8..40], numbers.concat());
        assert_eq!(bytes[40..46], [0x67, 0x12, 0, 0, 5, 18]);
        assert_eq!(&bytes[46..69], b"hostBqemu-system-x86_64");
        assert_eq!(HolderNote::decode(&bytes), Some(note()));
    }

    #[test]
    fn long_texts_are_cut() {
        let note = HolderNote {
            host_name: vec![b'h'; 100],
            command: vec![b'c'; 1000],
            ..note()
        };
        let read = HolderNote::decode(&note.encode()).unwrap();
        assert_eq!(
            (read.host_name.len(), read.command.len()),
            (HOST_NAME_MAX, COMMAND_MAX)
        );
    }

    #[test]
    fn a_note_with_any_byte_changed_is_absent() {
        for at in 0..HOLDER_NOTE_LEN {
            let mut bytes = note().encode();
            bytes[at] ^= 0x80;
            assert_eq!(HolderNote::decode(&bytes), None, "byte {at}");
        }
        for at in [0, FORMAT_AT] {
            let mut bytes = note().encode();
            bytes[at] += 1;
            let sum = crc32fast::hash(&bytes[..CHECKSUM_AT]);
            put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
            assert_eq!(HolderNote::decode(&bytes), None, "byte {at}, checked");
        }
    }
}
