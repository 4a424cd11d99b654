//! The small values that the protocols speak of, each checked when it is made.
//!
//! Invariants: a [`HostId`] is 1..=2000; a [`Name`] is 1..=48 bytes without NUL; a
//! [`Generation`] grows by one at every join of its host id; an [`Lver`] grows by one at every
//! change of owner; a [`BallotNumber`] of host N is N modulo the geometry's host count.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// The largest host id of any geometry.
pub const MAX_HOST_ID: u16 = 2000;
/// Bytes of a name field on disk.
pub const NAME_LEN: usize = 48;
/// Longest host name: its field always ends in a NUL.
pub const HOST_NAME_MAX: usize = NAME_LEN - 1;

/// Why a value cannot be an id or a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdError {
    /// Outside 1..=2000.
    #[error("a host id is a number from 1 to 2000")]
    HostId,
    /// No bytes at all.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than the field on disk.
    #[error("a name can have at most {0} bytes")]
    TooLong(usize),
    /// A control character, a backslash, or a colon.
    #[error("a name cannot contain control characters, colons or backslashes")]
    Character,
}

/// A host's number in a lockspace, 1..=2000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct HostId(u16);

impl HostId {
    /// Checks the range 1..=2000.
    pub fn new(number: u64) -> Result<Self, IdError> {
        match u16::try_from(number) {
            Ok(id) if (1..=MAX_HOST_ID).contains(&id) => Ok(Self(id)),
            _ => Err(IdError::HostId),
        }
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        u64::from(self.0)
    }

    /// Position among the hosts, counted from zero: host 1 is first.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    /// Every host id up to and including `count`, in order.
    pub fn all(count: u64) -> impl Iterator<Item = Self> {
        let last = u16::try_from(count).map_or(MAX_HOST_ID, |c| c.min(MAX_HOST_ID));
        (1..=last).map(Self)
    }
}

impl TryFrom<u64> for HostId {
    type Error = IdError;
    fn try_from(number: u64) -> Result<Self, IdError> {
        Self::new(number)
    }
}

impl From<HostId> for u64 {
    fn from(id: HostId) -> u64 {
        id.get()
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this; stays at the largest.
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// How often a host id has been joined. Host id and generation together name one life of a
    /// host.
    Generation
}
counter! {
    /// "Lease version": grows by one at every change of owner. A fencing token within the life of
    /// one formatting.
    Lver
}
counter! {
    /// The number of a ballot (`mbal`, `bal` in Disk Paxos, section 3). Zero is "none".
    BallotNumber
}

/// A lockspace's, a resource's or a host's name: 1..=48 bytes, ended by the first NUL on disk.
/// Not always UTF-8: what other hosts wrote is kept as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; NAME_LEN]);

impl Name {
    /// A name that a user gives: no control characters, colons, backslashes.
    pub fn new(text: &[u8]) -> Result<Self, IdError> {
        let forbidden = |c: char| c.is_control() || c == ':' || c == '\\';
        if text
            .utf8_chunks()
            .any(|chunk| chunk.valid().contains(forbidden))
        {
            return Err(IdError::Character);
        }
        Self::from_field(text)
    }

    /// A name that the code knows: shorter than a name may be, and without a NUL.
    pub const fn fixed<const LEN: usize>(text: &[u8; LEN]) -> Self {
        let mut bytes = [0; NAME_LEN];
        let mut at = 0;
        while at < LEN {
            bytes[at] = text[at];
            at += 1;
        }
        Self(bytes)
    }

    /// A host's name as a user gives it: one byte shorter than other names.
    pub fn new_host(text: &[u8]) -> Result<Self, IdError> {
        if text.len() > HOST_NAME_MAX {
            return Err(IdError::TooLong(HOST_NAME_MAX));
        }
        Self::new(text)
    }

    /// A name field as it stands on disk: ends at the first NUL or after 48 bytes; what follows
    /// the NUL is not looked at.
    pub fn from_field(field: &[u8]) -> Result<Self, IdError> {
        let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        if len == 0 {
            return Err(IdError::Empty);
        }
        if len > NAME_LEN {
            return Err(IdError::TooLong(NAME_LEN));
        }
        let mut bytes = [0; NAME_LEN];
        bytes[..len].copy_from_slice(&field[..len]);
        Ok(Self(bytes))
    }

    /// The bytes without padding.
    pub fn as_bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
        &self.0[..len]
    }

    /// The field as it is written: padded with NULs.
    pub fn field(&self) -> &[u8; NAME_LEN] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.as_bytes()))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", escape(self.as_bytes()))
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text).ok_or_else(|| serde::de::Error::custom("bad escape"))?;
        Self::from_field(&bytes).map_err(serde::de::Error::custom)
    }
}

/// Bytes as text that can be shown on one line and read back with [`unescape`]: what is not
/// printable UTF-8, and the backslash itself, becomes `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut utf8 = [0; 4];
                push_hex(&mut text, c.encode_utf8(&mut utf8).as_bytes());
            } else {
                text.push(c);
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        text.push_str(&format!("\\x{byte:02x}"));
    }
}

/// The bytes that [`escape`] showed; `None` for text that it cannot have made.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let hex = rest[at..].strip_prefix("\\x")?.get(..2)?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ids_end_at_the_last_sector() {
        assert_eq!(HostId::new(0), Err(IdError::HostId));
        assert_eq!(HostId::new(2001), Err(IdError::HostId));
        assert_eq!(HostId::new(u64::MAX), Err(IdError::HostId));
        assert_eq!(HostId::new(2000).unwrap().index(), 1999);
    }

    #[test]
    fn names_are_checked_when_a_user_gives_them() {
        assert_eq!(Name::new(b""), Err(IdError::Empty));
        assert_eq!(Name::new(&[b'a'; 49]), Err(IdError::TooLong(48)));
        assert!(Name::new(&[b'a'; 48]).is_ok());
        assert_eq!(Name::new_host(&[b'a'; 48]), Err(IdError::TooLong(47)));
        assert!(Name::new_host(&[b'a'; 47]).is_ok());
        for bad in [
            &b"a\nb"[..],
            b"a:b",
            b"a\\b",
            b"a\x7f",
            b"\0",
            b"a\xc2\x8e",
            b"\xff:",
        ] {
            assert_eq!(Name::new(bad), Err(IdError::Character), "{bad:?}");
        }
    }

    #[test]
    fn ids_and_names_are_shown_as_they_are_given() {
        let host = HostId::new(17).unwrap();
        assert_eq!(host.to_string(), "17");
        assert_eq!(serde_json::to_string(&host).unwrap(), "17");
        assert!(serde_json::from_str::<HostId>("0").is_err());
        let name = Name::from_field(b"a\xff").unwrap();
        assert_eq!(format!("{name} {name:?}"), r#"a\xff "a\\xff""#);
    }

    #[test]
    fn a_field_ends_at_its_first_nul_whatever_follows() {
        let name = Name::from_field(b"new\0older-tail").unwrap();
        assert_eq!(name.as_bytes(), b"new");
        assert_eq!(name, Name::new(b"new").unwrap());
    }

    #[test]
    fn escapes_survive_a_round_trip() {
        for bytes in [
            &b"plain"[..],
            b"\xff\xfe",
            "h\u{e9}te".as_bytes(),
            b"a\x1bb\\x41",
            b"\xc3",
        ] {
            assert_eq!(unescape(&escape(bytes)).as_deref(), Some(bytes));
        }
        assert_eq!(escape(b"a\xffb"), "a\\xffb");
        for bad in ["\\", "\\x", "\\xg0", "\\n", "\\x\u{e9}"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
