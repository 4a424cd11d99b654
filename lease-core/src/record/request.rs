//! The request record: sector 1 of a resource area. A host that wants the lease asks its holder
//! here to give it up; it is never cleared after use.

use super::bytes::{put, u32_at, u64_at};
use super::{RecordError, check_version};
use crate::id::Lver;

/// Bytes of the record.
pub const REQUEST_LEN: usize = 24;

const MAGIC_REQUEST: u32 = 0x0829_2011;
const VERSION_REQUEST: u32 = 0x0001_0001;
const NAME: &str = "request record";
const VERSION_AT: usize = 4;
const LVER_AT: usize = 8;
const FORCE_MODE_AT: usize = 16;

/// How a holder is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// It is killed.
    Kill = 1,
    /// It is asked to stop.
    Stop = 2,
}

/// What is asked of the holder of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// The version that the asker wants to own.
    pub lver: Lver,
    /// 0 nothing, 1 kill the holder, 2 ask it to stop.
    pub force_mode: u32,
}

impl Request {
    /// That this version is wanted.
    pub fn new(lver: Lver, force: Force) -> Self {
        let force_mode = force as u32;
        Self { lver, force_mode }
    }

    /// How the holder is asked; `None`: it is not, or in a way that is not known here.
    pub fn force(&self) -> Option<Force> {
        let of = |force: &Force| *force as u32 == self.force_mode;
        [Force::Kill, Force::Stop].into_iter().find(of)
    }

    /// Reads the first 24 bytes of a sector; there is no checksum.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let found = u32_at(sector, 0);
        if found != MAGIC_REQUEST {
            return Err(RecordError::Magic {
                record: NAME,
                found,
            });
        }
        check_version(NAME, u32_at(sector, VERSION_AT), VERSION_REQUEST)?;
        Ok(Self {
            lver: Lver(u64_at(sector, LVER_AT)),
            force_mode: u32_at(sector, FORCE_MODE_AT),
        })
    }

    /// The record's 24 bytes.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        put(&mut bytes, 0, &MAGIC_REQUEST.to_le_bytes());
        put(&mut bytes, VERSION_AT, &VERSION_REQUEST.to_le_bytes());
        put(&mut bytes, LVER_AT, &self.lver.0.to_le_bytes());
        put(&mut bytes, FORCE_MODE_AT, &self.force_mode.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: &[u8] = include_bytes!("../../golden/res_request_fresh.bin");
    const ASKED: &[u8] = include_bytes!("../../golden/res_request_lver2_force2.bin");

    #[test]
    fn golden() {
        let asked = Request {
            lver: Lver(2),
            force_mode: 2,
        };
        for (sector, request) in [(FRESH, Request::default()), (ASKED, asked)] {
            assert_eq!(Request::decode(sector), Ok(request));
            assert_eq!(request.encode(), sector[..REQUEST_LEN]);
            assert!(sector[REQUEST_LEN..].iter().all(|b| *b == 0));
        }
    }
}
