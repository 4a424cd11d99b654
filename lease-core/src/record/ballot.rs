//! Host N's ballot record ("dblock"): sector 2+(N-1) of a resource area, written by host N alone.
//!
//! In the terms of Disk Paxos (Gafni and Lamport, section 3): `mbal` is the largest ballot that
//! the host has started, `bal` the one in which it last accepted a value, `inp` that value.
//! Invariants: `bal <= mbal`; within one `lver` neither goes back. The same sector holds the
//! host's shared mode and our holder note.

use super::bytes::{put, u32_at, u64_at};
use super::holder_note::{HOLDER_NOTE_AT, HOLDER_NOTE_LEN, HolderNote};
use super::leader::Stamp;
use super::{RecordError, check_flags, check_sum};
use crate::id::{BallotNumber, Generation, HostId, Lver};
use crate::layout::SectorSize;

const MBAL: usize = 0;
const BAL: usize = 8;
const INP: usize = 16;
const INP2: usize = 24;
const INP3: usize = 32;
const LVER: usize = 40;
const CHECKSUM: usize = 48;
const FLAGS: usize = 52;
const MODE_FLAGS: usize = 128;
const MODE_GENERATION: usize = 136;
const NAME: &str = "ballot record";

const RELEASED: u32 = 0x1;
const SHARED: u32 = 0x1;

/// A ballot sector, verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BallotSector {
    /// The ballot proper.
    pub ballot: Ballot,
    /// The host has released what `ballot.lver` gave it. Not under the checksum.
    pub released: bool,
    /// The host holds the resource shared, in this life.
    pub shared: Option<Generation>,
    /// Who holds it, for people.
    pub note: Option<HolderNote>,
}

/// The part under the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ballot {
    /// Largest ballot started.
    pub mbal: BallotNumber,
    /// Ballot in which `value` was accepted; 0 = none.
    pub bal: BallotNumber,
    /// What was accepted: the owner to be.
    pub value: Option<Stamp>,
    /// The version of the lease that this ballot decides.
    pub lver: Lver,
}

impl BallotSector {
    /// What stands in a sector of zeros: its host has never taken part in a ballot.
    pub const UNUSED: Self = Self {
        ballot: Ballot {
            mbal: BallotNumber(0),
            bal: BallotNumber(0),
            value: None,
            lver: Lver(0),
        },
        released: false,
        shared: None,
        note: None,
    };

    /// Whether these are the bytes of [`BallotSector::UNUSED`], as formatting leaves them: seen
    /// with one comparison, since almost all of the sectors that are ever read are.
    pub fn is_unused(sector: &[u8]) -> bool {
        static ZEROS: [u8; SectorSize::B4096.bytes()] = [0; SectorSize::B4096.bytes()];
        ZEROS.starts_with(sector)
    }

    /// Reads a sector of at least 512 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let ballot = Ballot::decode(sector)?;
        let (flags, mode) = (u32_at(sector, FLAGS), u32_at(sector, MODE_FLAGS));
        check_flags(NAME, "flags", flags, RELEASED)?;
        check_flags(NAME, "mode flags", mode, SHARED)?;
        let shared = mode & SHARED != 0;
        Ok(Self {
            ballot,
            released: flags & RELEASED != 0,
            shared: shared.then(|| Generation(u64_at(sector, MODE_GENERATION))),
            note: HolderNote::decode(&sector[HOLDER_NOTE_AT..HOLDER_NOTE_AT + HOLDER_NOTE_LEN]),
        })
    }

    /// The whole sector.
    pub fn to_sector(&self, size: SectorSize) -> Vec<u8> {
        let mut sector = vec![0; size.bytes()];
        self.ballot.encode(&mut sector);
        put(&mut sector, FLAGS, &u32::from(self.released).to_le_bytes());
        if let Some(generation) = self.shared {
            put(&mut sector, MODE_FLAGS, &SHARED.to_le_bytes());
            put(&mut sector, MODE_GENERATION, &generation.0.to_le_bytes());
        }
        if let Some(note) = &self.note {
            put(&mut sector, HOLDER_NOTE_AT, &note.encode());
        }
        sector
    }
}

impl Ballot {
    fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let inp = u64_at(sector, INP);
        let ballot = Self {
            mbal: BallotNumber(u64_at(sector, MBAL)),
            bal: BallotNumber(u64_at(sector, BAL)),
            value: HostId::new(inp).ok().map(|host| Stamp {
                host,
                generation: Generation(u64_at(sector, INP2)),
                timestamp: u64_at(sector, INP3),
            }),
            lver: Lver(u64_at(sector, LVER)),
        };
        let stored = u32_at(sector, CHECKSUM);
        if stored == 0 && inp == 0 && ballot == Self::default() {
            return Ok(Self::default());
        }
        check_sum(NAME, stored, &sector[..CHECKSUM])?;
        if inp != 0 && ballot.value.is_none() {
            return Err(RecordError::Range {
                record: NAME,
                field: "inp",
                found: inp,
            });
        }
        Ok(ballot)
    }

    fn encode(&self, sector: &mut [u8]) {
        if *self == Self::default() {
            return;
        }
        put(sector, MBAL, &self.mbal.0.to_le_bytes());
        put(sector, BAL, &self.bal.0.to_le_bytes());
        if let Some(value) = self.value {
            put(sector, INP, &value.host.get().to_le_bytes());
            put(sector, INP2, &value.generation.0.to_le_bytes());
            put(sector, INP3, &value.timestamp.to_le_bytes());
        }
        put(sector, LVER, &self.lver.0.to_le_bytes());
        let sum = super::checksum(&sector[..CHECKSUM]);
        put(sector, CHECKSUM, &sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Mode;

    const NEVER_USED: &[u8] = include_bytes!("../../golden/res_dblock1_never_used.bin");
    const PHASE_1: &[u8] = include_bytes!("../../golden/res_dblock1_phase1.bin");
    const HELD: &[u8] = include_bytes!("../../golden/res_dblock2_held.bin");
    const GIVEN_BACK: &[u8] = include_bytes!("../../golden/res_dblock1_released.bin");
    const SHARING: &[u8] = include_bytes!("../../golden/res_dblock1_shared.bin");
    const SHARING_4096: &[u8] = include_bytes!("../../golden/k_res_dblock1_shared.bin");

    fn accepted(number: u64, host: u64, timestamp: u64, lver: u64) -> Ballot {
        Ballot {
            mbal: BallotNumber(number),
            bal: BallotNumber(number),
            value: Some(Stamp {
                host: HostId::new(host).unwrap(),
                generation: Generation(1),
                timestamp,
            }),
            lver: Lver(lver),
        }
    }

    fn golden_sectors() -> Vec<(&'static str, &'static [u8], SectorSize, BallotSector)> {
        let phase_1 = Ballot {
            mbal: BallotNumber(1),
            lver: Lver(1),
            ..Ballot::default()
        };
        let of = |ballot, released, shared: Option<u64>| BallotSector {
            ballot,
            released,
            shared: shared.map(Generation),
            note: None,
        };
        let first = accepted(1, 1, 562, 1);
        let small = SectorSize::B512;
        vec![
            ("never used", NEVER_USED, small, BallotSector::default()),
            ("phase 1", PHASE_1, small, of(phase_1, false, None)),
            (
                "held",
                HELD,
                small,
                of(accepted(2002, 2, 562, 2), false, None),
            ),
            ("released", GIVEN_BACK, small, of(first, true, None)),
            ("shared", SHARING, small, of(first, true, Some(1))),
            (
                "shared, 4096",
                SHARING_4096,
                SectorSize::B4096,
                of(accepted(2001, 1, 573, 2), true, Some(1)),
            ),
        ]
    }

    #[test]
    fn golden() {
        for (story, sector, size, expected) in golden_sectors() {
            assert_eq!(
                BallotSector::decode(sector).as_ref(),
                Ok(&expected),
                "{story}"
            );
            assert_eq!(expected.to_sector(size), sector, "{story}");
        }
    }

    /// One path of the daemon leaves whatever was in its memory beside the records.
    #[test]
    fn stale_memory_beside_the_records_is_not_looked_at() {
        let mut sector = SHARING.to_vec();
        sector[56..128].fill(0xA5);
        sector[132..136].fill(0xA5);
        sector[144..].fill(0xA5);
        assert_eq!(BallotSector::decode(&sector), BallotSector::decode(SHARING));
    }

    #[test]
    fn a_holder_note_is_kept_beside_the_ballot() {
        let noted = BallotSector {
            note: Some(HolderNote {
                host: HostId::new(2).unwrap(),
                generation: Generation(1),
                lver: Lver(2),
                mode: Mode::Exclusive,
                pid: 7,
                start: 8,
                host_name: b"h".to_vec(),
                command: b"c".to_vec(),
            }),
            ..BallotSector::decode(HELD).unwrap()
        };
        let sector = noted.to_sector(SectorSize::B512);
        assert_eq!(sector[..HOLDER_NOTE_AT], HELD[..HOLDER_NOTE_AT]);
        assert_eq!(BallotSector::decode(&sector), Ok(noted));
    }
}
