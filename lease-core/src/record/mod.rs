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
pub mod leader;
pub mod request;

use thiserror::Error;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum RecordError {
    #[error("{record}: there is none (magic {found:#010x})")]
    Magic { record: &'static str, found: u32 },
    #[error("{record}: written by a version that is not known here ({found:#010x})")]
    Version { record: &'static str, found: u32 },
    #[error("{record}: bad checksum (it says {stored:#010x}, its bytes give {computed:#010x})")]
    Checksum {
        record: &'static str,
        stored: u32,
        computed: u32,
    },
    #[error("{record}: {field} is {found}, out of range")]
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
            Self::Version { .. } => -224,
            Self::Checksum { .. } => -229,
            Self::Range { .. } => -223,
        }
    }
}

/// sanlock's checksum: CRC-32C (Castagnoli, reflected) started from 0xFFFFFFFE, not inverted at
/// the end.
pub fn checksum(bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(1, bytes)
}

/// Fails unless the major halves of two versions are the same.
fn check_version(record: &'static str, found: u32, ours: u32) -> Result<(), RecordError> {
    if found >> 16 == ours >> 16 {
        Ok(())
    } else {
        Err(RecordError::Version { record, found })
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
