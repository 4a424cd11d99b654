//! The records on disk: one file each, `decode` beside `encode`.
//!
//! All integers are little-endian. A record that decodes has been checked: magic, version,
//! checksum, ranges. Bytes that a record does not name are kept as they are when it is written
//! again.

pub mod ballot;
pub mod bytes;
pub mod heartbeat;
pub mod holder_note;
pub mod host_note;
pub mod index;
pub mod leader;
mod magic;
pub mod request;

use thiserror::Error;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum RecordError {
    #[error("{record}: there is none, but {}", stands_there(*.found))]
    Magic { record: &'static str, found: u32 },
    #[error(
        "{record}: it is of version {}.{}, which is not known here (a newer sanlock's?); \
         nothing is written over it",
        .found >> 16, .found & 0xFFFF
    )]
    Version { record: &'static str, found: u32 },
    #[error(
        "{record}: its {field} have bits that are not known here ({found:#x}; a newer sanlock's?); \
         nothing is written over it"
    )]
    Flags {
        record: &'static str,
        field: &'static str,
        found: u32,
    },
    #[error(
        "{record}: it is damaged: its checksum is {stored:#010x}, that of its bytes \
         {computed:#010x}"
    )]
    Checksum {
        record: &'static str,
        stored: u32,
        computed: u32,
    },
    #[error("{record}: it is damaged: its {field} is {found}, which is out of range")]
    Range {
        record: &'static str,
        field: &'static str,
        found: u64,
    },
    #[error("{record}: the lease was cleared; format it again to use it")]
    Cleared { record: &'static str },
}

impl RecordError {
    /// The number that sanlock has for this error.
    pub fn sanlock_number(&self) -> i32 {
        match self {
            Self::Magic { .. } | Self::Cleared { .. } => -223,
            Self::Version { .. } | Self::Flags { .. } => -224,
            Self::Checksum { .. } => -229,
            Self::Range { .. } => -223,
        }
    }

    /// What to do next, behind the cause; nothing where that says it.
    pub fn what_next(&self) -> &'static str {
        match self {
            Self::Magic { found: 0, .. } => "; lease-init formats it",
            Self::Magic { .. } | Self::Cleared { .. } => "",
            Self::Version { .. } | Self::Flags { .. } => "; use what wrote it",
            Self::Checksum { .. } | Self::Range { .. } => {
                "; lease-dump shows more; when nothing uses it any more, lease-init --force formats \
                 it again"
            }
        }
    }
}

/// What begins with such a magic number, for people.
fn stands_there(magic: u32) -> String {
    match magic {
        0 => "zeros: nothing was formatted there, or its beginning was wiped".to_owned(),
        magic::MAGIC_HEARTBEAT => "a lockspace: is this the offset of another area?".to_owned(),
        magic::MAGIC_LEADER => "a resource: is this the offset of another area?".to_owned(),
        magic::MAGIC_CLEARED => "a resource that was cleared".to_owned(),
        magic::MAGIC_INDEX => "a resource index: is this the offset of another area?".to_owned(),
        other => format!("other data (it begins with {other:#010x}): are path and offset right?"),
    }
}

/// sanlock's checksum: CRC-32C (Castagnoli, reflected) started from 0xFFFFFFFE, not inverted at
/// the end.
pub fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(1, bytes)
}

/// Fails unless a version is understood: the same major half, and no later minor half.
fn check_version(record: &'static str, found: u32, ours: u32) -> Result<(), RecordError> {
    if found >> 16 == ours >> 16 && found <= ours {
        Ok(())
    } else {
        Err(RecordError::Version { record, found })
    }
}

/// Fails if a record has flags that mean we do not know what.
fn check_flags(
    record: &'static str,
    field: &'static str,
    found: u32,
    known: u32,
) -> Result<(), RecordError> {
    match found & !known {
        0 => Ok(()),
        found => Err(RecordError::Flags {
            record,
            field,
            found,
        }),
    }
}

/// Fails unless `stored` is the checksum of `bytes`.
fn check_sum(record: &'static str, stored: u32, bytes: &[u8]) -> Result<(), RecordError> {
    let computed = checksum(bytes);
    if stored == computed {
        Ok(())
    } else {
        Err(RecordError::Checksum {
            record,
            stored,
            computed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ballot::BallotSector;
    use super::bytes::put;
    use super::heartbeat::Heartbeat;
    use super::index::IndexHeader;
    use super::leader::{Cleared, Leader};
    use super::request::Request;
    use super::*;

    const HEARTBEAT: &[u8] = include_bytes!("../../golden/hb_id1_held_hostA_o1.bin");
    const LEADER: &[u8] = include_bytes!("../../golden/res_leader_held_host2_lver2.bin");
    const CLEARED: &[u8] = include_bytes!("../../golden/res_leader_cleared.bin");
    const BALLOT: &[u8] = include_bytes!("../../golden/res_dblock2_held.bin");
    const UNUSED_BALLOT: &[u8] = include_bytes!("../../golden/res_dblock1_never_used.bin");
    const REQUEST: &[u8] = include_bytes!("../../golden/res_request_lver2_force2.bin");
    const INDEX: &[u8] = include_bytes!("../../golden/rindex_header.bin");
    const ALL: [&[u8]; 7] = [
        HEARTBEAT,
        LEADER,
        CLEARED,
        BALLOT,
        UNUSED_BALLOT,
        REQUEST,
        INDEX,
    ];

    /// What `decode` says of a golden sector with some bytes changed, its checksum (if it has one,
    /// at `sum_at`) made to fit again.
    fn damaged<T>(
        golden: &[u8],
        (at, bytes): (usize, &[u8]),
        sum_at: Option<usize>,
        decode: fn(&[u8]) -> Result<T, RecordError>,
    ) -> RecordError {
        let mut sector = golden.to_vec();
        put(&mut sector, at, bytes);
        if let Some(sum_at) = sum_at {
            let sum = checksum(&sector[..sum_at]);
            put(&mut sector, sum_at, &sum.to_le_bytes());
        }
        match decode(&sector) {
            Err(error) => error,
            Ok(_) => panic!("bytes {bytes:?} at {at} were accepted"),
        }
    }

    /// A story, the bytes put where, and what they make of the record.
    type Row = (&'static str, (usize, &'static [u8]), RecordError);

    fn range(record: &'static str, field: &'static str, found: u64) -> RecordError {
        RecordError::Range {
            record,
            field,
            found,
        }
    }

    #[test]
    fn sanlocks_numbers() {
        let record = "";
        let (stored, computed) = (0, 0);
        let sum = RecordError::Checksum {
            record,
            stored,
            computed,
        };
        let table = [
            (magic(record, 0), -223),
            (RecordError::Cleared { record }, -223),
            (version(record, 0), -224),
            (flags(record, "", 0), -224),
            (sum, -229),
            (range(record, "", 0), -223),
        ];
        for (error, number) in table {
            assert_eq!(error.sanlock_number(), number, "{error}");
        }
    }

    fn magic(record: &'static str, found: u32) -> RecordError {
        RecordError::Magic { record, found }
    }

    fn version(record: &'static str, found: u32) -> RecordError {
        RecordError::Version { record, found }
    }

    fn flags(record: &'static str, field: &'static str, found: u32) -> RecordError {
        RecordError::Flags {
            record,
            field,
            found,
        }
    }

    #[test]
    fn each_defect_of_a_leader_has_its_own_error() {
        const R: &str = "leader record";
        let table: [Row; 17] = [
            ("no magic", (0, &[0; 4]), magic(R, 0)),
            (
                "a heartbeat",
                (0, &[0x10, 0x20, 0x21, 0x12]),
                magic(R, 0x1221_2010),
            ),
            (
                "a cleared one",
                (0, &[0x16, 0x20, 0x28, 0x11]),
                RecordError::Cleared { record: R },
            ),
            ("newer", (4, &[4, 0, 7, 0]), version(R, 0x0007_0004)),
            ("a bit newer", (4, &[5, 0]), version(R, 0x0006_0005)),
            ("a new flag", (8, &[0x12]), flags(R, "flags", 2)),
            ("the last flag", (11, &[0x80]), flags(R, "flags", 1 << 31)),
            ("older", (4, &[4, 0, 5, 0]), version(R, 0x0005_0004)),
            (
                "odd sectors",
                (12, &[0, 4, 0, 0]),
                range(R, "sector_size", 1024),
            ),
            ("512/2M", (8, &[0x20]), range(R, "sector_size", 512)),
            ("two area sizes", (8, &[0x30]), range(R, "sector_size", 512)),
            ("no hosts", (16, &[0; 8]), range(R, "num_hosts", 0)),
            (
                "too many hosts",
                (16, &[0xD1, 7]),
                range(R, "num_hosts", 2001),
            ),
            ("odd max_hosts", (24, &[1, 0]), range(R, "max_hosts", 1)),
            ("owner 2001", (32, &[0xD1, 7]), range(R, "owner_id", 2001)),
            ("held by nobody", (32, &[0; 8]), range(R, "owner_id", 0)),
            ("nameless", (104, &[0]), range(R, "resource name", 0)),
        ];
        for (story, change, expected) in table {
            let error = damaged(LEADER, change, Some(168), Leader::decode);
            assert_eq!(error, expected, "{story}");
        }
        let error = damaged(LEADER, (56, &[0]), Some(168), Leader::decode);
        assert_eq!(error, range(R, "lockspace name", 0));
    }

    #[test]
    fn each_defect_of_a_heartbeat_has_its_own_error() {
        const R: &str = "heartbeat record";
        let table: [Row; 12] = [
            ("half formatted", (0, &[0; 4]), magic(R, 0)),
            (
                "a leader",
                (0, &[0x10, 0x20, 0x15, 0x06]),
                magic(R, 0x0615_2010),
            ),
            ("newer", (4, &[4, 0, 4, 0]), version(R, 0x0004_0004)),
            ("a bit newer", (4, &[5, 0]), version(R, 0x0003_0005)),
            ("short hold", (8, &[0x11]), flags(R, "flags", 1)),
            ("older", (4, &[4, 0, 2, 0]), version(R, 0x0002_0004)),
            ("odd sectors", (12, &[1]), range(R, "sector_size", 513)),
            ("4096 in 512", (8, &[0x80]), range(R, "sector_size", 512)),
            (
                "nameless lockspace",
                (56, &[0]),
                range(R, "lockspace name", 0),
            ),
            ("owner 2001", (32, &[0xD1, 7]), range(R, "owner_id", 2001)),
            ("held by nobody", (32, &[0]), range(R, "owner_id", 0)),
            (
                "io_timeout 256",
                (174, &[0, 1]),
                range(R, "io_timeout", 256),
            ),
        ];
        for (story, change, expected) in table {
            // The io_timeout is not under the checksum.
            let error = damaged(HEARTBEAT, change, Some(168), Heartbeat::decode);
            assert_eq!(error, expected, "{story}");
        }
    }

    #[test]
    fn each_defect_of_the_others_has_its_own_error() {
        const Q: &str = "request record";
        assert_eq!(
            damaged(REQUEST, (0, &[0]), None, Request::decode),
            magic(Q, 0x0829_2000)
        );
        let newer = damaged(REQUEST, (6, &[2]), None, Request::decode);
        assert_eq!(newer, version(Q, 0x0002_0001));

        const B: &str = "ballot record";
        let owner = damaged(BALLOT, (16, &[0xD1, 7]), Some(48), BallotSector::decode);
        assert_eq!(owner, range(B, "inp", 2001));
        let flag = damaged(BALLOT, (52, &[3]), None, BallotSector::decode);
        assert_eq!(flag, flags(B, "flags", 2));
        let mode = damaged(BALLOT, (128, &[5]), None, BallotSector::decode);
        assert_eq!(mode, flags(B, "mode flags", 4));

        const X: &str = "index header";
        assert_eq!(
            damaged(INDEX, (3, &[2]), None, IndexHeader::decode),
            magic(X, 0x0204_2018)
        );
        let newer = damaged(INDEX, (6, &[2]), None, IndexHeader::decode);
        assert_eq!(newer, version(X, 0x0002_0002));
        for (at, bytes, found) in [(8, [3, 0], 512), (8, [0, 0], 512), (12, [1, 2], 513)] {
            let error = damaged(INDEX, (at, &bytes), None, IndexHeader::decode);
            assert_eq!(error, range(X, "sector_size", found));
        }
        let nameless = damaged(INDEX, (32, &[0]), None, IndexHeader::decode);
        assert_eq!(nameless, range(X, "lockspace name", 0));

        let error = damaged(CLEARED, (104, &[0]), Some(168), Cleared::decode);
        assert_eq!(error, range("leader record", "resource name", 0));
    }

    /// Every single bit under a checksum, and the checksum's own.
    #[test]
    fn a_flipped_bit_never_passes_a_checksum() {
        for at in 8..172 {
            for bit in 0..8 {
                let flip = |golden: &[u8]| {
                    let mut sector = golden.to_vec();
                    sector[at] ^= 1 << bit;
                    sector
                };
                let leader = Leader::decode(&flip(LEADER));
                assert!(matches!(leader, Err(RecordError::Checksum { .. })), "{at}");
                let beat = Heartbeat::decode(&flip(HEARTBEAT));
                assert!(matches!(beat, Err(RecordError::Checksum { .. })), "{at}");
                if at < 52 {
                    let ballot = BallotSector::decode(&flip(BALLOT));
                    assert!(matches!(ballot, Err(RecordError::Checksum { .. })), "{at}");
                }
            }
        }
        // A never used ballot record is known by its zeros; any number in it needs a checksum.
        for at in (0..8).chain(8..24).chain(40..52) {
            let mut sector = UNUSED_BALLOT.to_vec();
            sector[at] = 1;
            assert!(BallotSector::decode(&sector).is_err(), "byte {at}");
        }
    }

    fn decode_as_everything(sector: &[u8]) {
        let _ = Leader::decode(sector);
        let _ = Cleared::decode(sector);
        let _ = Heartbeat::decode(sector).map(|record| (record.bitmap(), record.to_sector()));
        let _ = BallotSector::decode(sector);
        let _ = Request::decode(sector);
        let _ = IndexHeader::decode(sector);
        let _ = leader::claimed_geometry(sector);
        let _ = host_note::HostNote::decode(&sector[200..256]);
        let _ = holder_note::HolderNote::decode(&sector[256..512]);
    }

    /// Random sectors, and golden ones with random bytes, their checksums made to fit: decoding
    /// may fail, never panic. What decodes, encodes to something that decodes to the same.
    #[test]
    fn garbage_never_panics() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..20_000_usize {
            let mut sector = vec![0; 512];
            random.fill(&mut sector);
            decode_as_everything(&sector);
            sector.copy_from_slice(ALL[round % ALL.len()]);
            for _ in 0..random.usize(1..4) {
                let at = random.usize(0..200);
                sector[at] = random.u8(..);
            }
            for (sum_at, end) in [(48, 52), (168, 172)] {
                if random.bool() {
                    let sum = checksum(&sector[..sum_at]);
                    sector[sum_at..end].copy_from_slice(&sum.to_le_bytes());
                }
            }
            decode_as_everything(&sector);
            if let Ok(record) = Heartbeat::decode(&sector) {
                assert_eq!(Heartbeat::decode(&record.to_sector()), Ok(record));
            }
            if let Ok(record) = Leader::decode(&sector) {
                assert_eq!(Leader::decode(&record.encode()), Ok(record));
            }
            if let Ok(record) = BallotSector::decode(&sector) {
                let again = record.to_sector(crate::layout::SectorSize::B512);
                assert_eq!(BallotSector::decode(&again), Ok(record));
            }
        }
    }
}
