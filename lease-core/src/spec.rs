//! LOCKSPACE and RESOURCE strings: parse and print.
//!
//! `LOCKSPACE = name:host_id:path:offset`, `RESOURCE =
//! lockspace:resource:path:offset[:path:offset...][:lver|:SH]`, or, for one that an index on `path`
//! knows by its name, `lockspace:resource:path[:SH]`; `INDEX = lockspace:path:offset`. In a path, a
//! colon or a space may be written with a backslash before it; a colon must. No other backslash is
//! allowed.

use crate::id::{HostId, IdError, Lver, Name, escape};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Longest path, in bytes.
pub const PATH_MAX: usize = 1023;
/// Most disks that one resource can lie on.
pub const DISKS_MAX: usize = 4;

/// What is wrong with a LOCKSPACE or RESOURCE string.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum SpecError {
    #[error(
        "it has {0} fields; a LOCKSPACE is name:host_id:path:offset, and a colon in a path is \
         written \\:"
    )]
    LockspaceFields(usize),
    #[error(
        "it has {0} fields; a RESOURCE is lockspace:resource:path:offset[:path:offset...][:lver|:SH], \
         and a colon in a path is written \\:"
    )]
    ResourceFields(usize),
    #[error("it has {0} fields; an INDEX is lockspace:path:offset")]
    IndexFields(usize),
    #[error("lockspace name: {0}")]
    LockspaceName(IdError),
    #[error("resource name: {0}")]
    ResourceName(IdError),
    #[error(
        "host id {0:?}: a host id is a number from 1 to 2000, or auto (0 is for lease-init only)"
    )]
    HostId(String),
    #[error("the path is empty")]
    EmptyPath,
    #[error("the path is longer than {PATH_MAX} bytes")]
    LongPath,
    #[error("a backslash can only stand before a colon or a space of a path")]
    Backslash,
    #[error(
        "offset {0:?}: an offset is a decimal number of bytes; a colon in a path is written \\:"
    )]
    Offset(String),
    #[error(
        "lver {0:?}: the last field is SH or a version from 1 up; a colon in a path is written \\:"
    )]
    Lver(String),
    #[error("more than {DISKS_MAX} disks; a colon in a path is written \\:")]
    Disks,
    #[error("the same place stands there twice")]
    SamePlace,
}

/// A file or device and the byte at which an area starts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// File or block device.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Bytes from its start; a multiple of the area size.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", escape_path(&self.path), self.offset)
    }
}

/// The host id of a LOCKSPACE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostField {
    /// 0, which only formatting takes.
    All,
    /// Any that is free.
    Auto,
    /// This one.
    Id(HostId),
}

impl fmt::Display for HostField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("0"),
            Self::Auto => f.write_str("auto"),
            Self::Id(host) => host.fmt(f),
        }
    }
}

/// `name:host_id:path:offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockspaceSpec {
    /// Name of the lockspace.
    pub name: Name,
    /// The host id.
    pub host: HostField,
    /// Where its area is.
    pub place: Place,
}

impl LockspaceSpec {
    /// Parses a command-line argument.
    pub fn parse(text: &OsString) -> Result<Self, SpecError> {
        let fields = split(text.as_bytes())?;
        let [name, host, path, offset] = fields.as_slice() else {
            return Err(SpecError::LockspaceFields(fields.len()));
        };
        let name = Name::new(&name.plain()?).map_err(SpecError::LockspaceName)?;
        Ok(Self {
            name,
            host: parse_host(host)?,
            place: parse_place(path, offset)?,
        })
    }
}

impl fmt::Display for LockspaceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.host, self.place)
    }
}

/// How a resource is to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By one holder in the whole lockspace.
    Exclusive,
    /// By any number of holders that all ask for shared.
    Shared,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        })
    }
}

/// `lockspace:resource:path:offset[:path:offset...][:lver|:SH]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSpec {
    /// Name of the lockspace that its hosts have joined.
    pub lockspace: Name,
    /// Name of the resource.
    pub name: Name,
    /// Where its areas are: 1..=4 places.
    pub places: Vec<Place>,
    /// How it is to be held.
    pub mode: Mode,
    /// Only this version of the lease will do.
    pub lver: Option<Lver>,
}

impl ResourceSpec {
    /// Parses a command-line argument.
    pub fn parse(text: &OsString) -> Result<Self, SpecError> {
        let fields = split(text.as_bytes())?;
        let [lockspace, name, rest @ ..] = fields.as_slice() else {
            return Err(SpecError::ResourceFields(fields.len()));
        };
        if rest.len() < 2 {
            return Err(SpecError::ResourceFields(fields.len()));
        }
        let lockspace = Name::new(&lockspace.plain()?).map_err(SpecError::LockspaceName)?;
        let name = Name::new(&name.plain()?).map_err(SpecError::ResourceName)?;
        let pairs = rest.chunks_exact(2);
        let (mode, lver) = match pairs.remainder() {
            [suffix] => parse_suffix(suffix)?,
            _ => (Mode::Exclusive, None),
        };
        let places = pairs
            .map(|p| parse_place(&p[0], &p[1]))
            .collect::<Result<Vec<_>, _>>()?;
        if places.len() > DISKS_MAX {
            return Err(SpecError::Disks);
        }
        if (1..places.len()).any(|i| places[..i].contains(&places[i])) {
            return Err(SpecError::SamePlace);
        }
        Ok(Self {
            lockspace,
            name,
            places,
            mode,
            lver,
        })
    }
}

impl fmt::Display for ResourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lockspace, self.name)?;
        for place in &self.places {
            write!(f, ":{place}")?;
        }
        match (self.mode, self.lver) {
            (Mode::Shared, _) => f.write_str(":SH"),
            (Mode::Exclusive, Some(lver)) => write!(f, ":{lver}"),
            (Mode::Exclusive, None) => Ok(()),
        }
    }
}

/// `lockspace:resource:path[:SH]`: where it lies, an index on `path` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSpec {
    /// Name of the lockspace that its hosts have joined.
    pub lockspace: Name,
    /// Name of the resource.
    pub name: Name,
    /// File or block device.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// How it is to be held.
    pub mode: Mode,
}

impl NamedSpec {
    /// The resource, once its index has said at which byte it lies.
    pub fn at(&self, offset: u64) -> ResourceSpec {
        let path = self.path.clone();
        ResourceSpec {
            lockspace: self.lockspace,
            name: self.name,
            places: vec![Place { path, offset }],
            mode: self.mode,
            lver: None,
        }
    }
}

impl fmt::Display for NamedSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escape_path(&self.path);
        write!(f, "{}:{}:{path}", self.lockspace, self.name)?;
        match self.mode {
            Mode::Shared => f.write_str(":SH"),
            Mode::Exclusive => Ok(()),
        }
    }
}

/// A RESOURCE as it is given: with its places, or by its name in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceArgument {
    /// With its places.
    Placed(ResourceSpec),
    /// By its name.
    Named(NamedSpec),
}

impl ResourceArgument {
    /// Its lockspace.
    pub fn lockspace(&self) -> Name {
        match self {
            Self::Placed(spec) => spec.lockspace,
            Self::Named(spec) => spec.lockspace,
        }
    }

    /// Parses a command-line argument.
    pub fn parse(text: &OsString) -> Result<Self, SpecError> {
        let fields = split(text.as_bytes())?;
        let (names, mode) = match fields.as_slice() {
            [names @ .., suffix] if names.len() == 3 && suffix.bytes == b"SH" => {
                (names, Mode::Shared)
            }
            names => (names, Mode::Exclusive),
        };
        let [lockspace, name, path] = names else {
            return ResourceSpec::parse(text).map(Self::Placed);
        };
        Ok(Self::Named(NamedSpec {
            lockspace: Name::new(&lockspace.plain()?).map_err(SpecError::LockspaceName)?,
            name: Name::new(&name.plain()?).map_err(SpecError::ResourceName)?,
            path: parse_place(path, &Field::zero())?.path,
            mode,
        }))
    }
}

/// `lockspace:path:offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSpec {
    /// Name of the lockspace that the hosts of its resources have joined.
    pub lockspace: Name,
    /// Where its areas are.
    pub place: Place,
}

impl IndexSpec {
    /// Parses a command-line argument.
    pub fn parse(text: &OsString) -> Result<Self, SpecError> {
        let fields = split(text.as_bytes())?;
        let [lockspace, path, offset] = fields.as_slice() else {
            return Err(SpecError::IndexFields(fields.len()));
        };
        Ok(Self {
            lockspace: Name::new(&lockspace.plain()?).map_err(SpecError::LockspaceName)?,
            place: parse_place(path, offset)?,
        })
    }
}

impl fmt::Display for IndexSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lockspace, self.place)
    }
}

/// How many fields a string has: 1 or 2 are a path and perhaps an offset, 4 a LOCKSPACE or a
/// The first two fields of a RESOURCE, and how many follow.
pub fn fields_of(text: &OsString) -> Result<(Name, Name, usize), SpecError> {
    let fields = split(text.as_bytes())?;
    let [lockspace, name, rest @ ..] = fields.as_slice() else {
        return Err(SpecError::ResourceFields(fields.len()));
    };
    Ok((
        Name::new(&lockspace.plain()?).map_err(SpecError::LockspaceName)?,
        Name::new(&name.plain()?).map_err(SpecError::ResourceName)?,
        rest.len(),
    ))
}

/// RESOURCE, more a RESOURCE.
pub fn count_fields(text: &OsString) -> Result<usize, SpecError> {
    Ok(split(text.as_bytes())?.len())
}

/// Parses `path[:offset]`, as lease-dump takes it.
pub fn parse_path(text: &OsString) -> Result<(PathBuf, Option<u64>), SpecError> {
    match split(text.as_bytes())?.as_slice() {
        [path] => Ok((parse_place(path, &Field::zero())?.path, None)),
        [path, offset] => {
            let place = parse_place(path, offset)?;
            Ok((place.path, Some(place.offset)))
        }
        fields => Err(SpecError::ResourceFields(fields.len())),
    }
}

/// One field between colons, escapes resolved.
struct Field {
    bytes: Vec<u8>,
    escaped: bool,
}

impl Field {
    fn zero() -> Self {
        Self {
            bytes: b"0".to_vec(),
            escaped: false,
        }
    }

    /// The bytes of a field in which no backslash may stand.
    fn plain(&self) -> Result<Vec<u8>, SpecError> {
        if self.escaped {
            Err(SpecError::Backslash)
        } else {
            Ok(self.bytes.clone())
        }
    }

    fn text(&self) -> String {
        escape(&self.bytes)
    }

    /// A decimal number: digits only, no sign, no overflow.
    fn number(&self) -> Option<u64> {
        let text = std::str::from_utf8(&self.bytes).ok()?;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if digits && !self.escaped {
            text.parse().ok()
        } else {
            None
        }
    }
}

fn split(text: &[u8]) -> Result<Vec<Field>, SpecError> {
    let mut fields = vec![Field {
        bytes: Vec::new(),
        escaped: false,
    }];
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let last = fields.len() - 1;
        match byte {
            b':' => fields.push(Field {
                bytes: Vec::new(),
                escaped: false,
            }),
            b'\\' => match bytes.next() {
                Some(c @ (b':' | b' ')) => {
                    fields[last].bytes.push(*c);
                    fields[last].escaped = true;
                }
                _ => return Err(SpecError::Backslash),
            },
            _ => fields[last].bytes.push(*byte),
        }
    }
    Ok(fields)
}

fn parse_host(field: &Field) -> Result<HostField, SpecError> {
    match field.number() {
        Some(0) => Ok(HostField::All),
        Some(n) => HostId::new(n)
            .map(HostField::Id)
            .map_err(|_| SpecError::HostId(field.text())),
        None if field.bytes == b"auto" && !field.escaped => Ok(HostField::Auto),
        None => Err(SpecError::HostId(field.text())),
    }
}

fn parse_place(path: &Field, offset: &Field) -> Result<Place, SpecError> {
    if path.bytes.is_empty() {
        return Err(SpecError::EmptyPath);
    }
    if path.bytes.len() > PATH_MAX {
        return Err(SpecError::LongPath);
    }
    // A part of a path between two colons that were not escaped: pci-0000:00:1f.2.
    let led_by_zero = offset.bytes.len() > 1 && offset.bytes.starts_with(b"0");
    let offset = offset
        .number()
        .filter(|_| !led_by_zero)
        .ok_or_else(|| SpecError::Offset(offset.text()))?;
    Ok(Place {
        path: OsString::from_vec(path.bytes.clone()).into(),
        offset,
    })
}

fn parse_suffix(field: &Field) -> Result<(Mode, Option<Lver>), SpecError> {
    match (field.bytes.as_slice(), field.number()) {
        (b"SH", _) => Ok((Mode::Shared, None)),
        (_, Some(lver)) if lver > 0 => Ok((Mode::Exclusive, Some(Lver(lver)))),
        _ => Err(SpecError::Lver(field.text())),
    }
}

/// A path as it is written in these strings.
fn escape_path(path: &Path) -> String {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b' ') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A path in JSON: as text that all its bytes come back from, UTF-8 or not.
pub mod path_text {
    use crate::id::{escape, unescape};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    /// As [`escape`] shows it.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(path.as_os_str().as_bytes()))
    }

    /// What [`serialize`] has made of a path.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text).ok_or_else(|| D::Error::custom("bad escape"))?;
        Ok(OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(text: &str) -> Result<ResourceSpec, SpecError> {
        ResourceSpec::parse(&OsString::from(text))
    }

    fn lockspace(text: &str) -> Result<LockspaceSpec, SpecError> {
        LockspaceSpec::parse(&OsString::from(text))
    }

    #[test]
    fn what_is_parsed_prints_as_it_was() {
        for text in [
            "LS:1:/mnt/nfs/LS:0",
            "LS:0:rel:1048576",
            "a:2000:/a\\ b\\:c:0",
        ] {
            assert_eq!(lockspace(text).unwrap().to_string(), text);
        }
        for text in [
            "LS:RS:/p:0",
            "LS:RS:/p:0:SH",
            "LS:RS:/p:0:17",
            "LS:RS:/p:0:/q:1048576:/r:0:SH",
        ] {
            assert_eq!(resource(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn each_defect_has_its_own_error() {
        assert_eq!(lockspace("LS:1:/p"), Err(SpecError::LockspaceFields(3)));
        assert_eq!(lockspace("LS:1:/p:0:0"), Err(SpecError::LockspaceFields(5)));
        assert_eq!(
            lockspace(":1:/p:0"),
            Err(SpecError::LockspaceName(IdError::Empty))
        );
        for id in ["2001", "-1", "x", "", "+1", "99999999999999999999"] {
            assert_eq!(
                lockspace(&format!("LS:{id}:/p:0")),
                Err(SpecError::HostId(id.into()))
            );
        }
        assert_eq!(lockspace("LS:1::0"), Err(SpecError::EmptyPath));
        assert_eq!(
            lockspace(&format!("LS:1:{}:0", "p".repeat(1024))),
            Err(SpecError::LongPath)
        );
        for offset in ["-1", "", "1M", "0x0", "00", "18446744073709551616"] {
            assert_eq!(
                lockspace(&format!("LS:1:/p:{offset}")),
                Err(SpecError::Offset(offset.into()))
            );
        }
        for text in ["LS:1:/p\\n:0", "LS:1:/p:0\\", "L\\:S:1:/p:0"] {
            assert_eq!(lockspace(text), Err(SpecError::Backslash), "{text}");
        }
        assert_eq!(resource("LS:RS:/p"), Err(SpecError::ResourceFields(3)));
        assert_eq!(resource("LS"), Err(SpecError::ResourceFields(1)));
        for lver in ["0", "sh", "-1", ""] {
            assert_eq!(
                resource(&format!("LS:RS:/p:0:{lver}")),
                Err(SpecError::Lver(lver.into()))
            );
        }
        assert_eq!(
            resource("L:R:/a:0:/b:0:/c:0:/d:0:/e:0"),
            Err(SpecError::Disks)
        );
        assert_eq!(resource("L:R:/a:0:/a:0"), Err(SpecError::SamePlace));
        let long = "n".repeat(49);
        assert_eq!(
            resource(&format!("L:{long}:/p:0")),
            Err(SpecError::ResourceName(IdError::TooLong(48)))
        );
    }

    #[test]
    fn the_largest_that_is_taken() {
        let path = "p".repeat(1023);
        let longest = lockspace(&format!("LS:1:{path}:0")).unwrap();
        assert_eq!(longest.place.path.as_os_str().len(), PATH_MAX);
        let four = resource("L:R:/a:0:/b:0:/c:0:/d:0").unwrap();
        assert_eq!(four.places.len(), DISKS_MAX);
        assert_eq!(four.mode.to_string(), "exclusive");
        let shared = resource("L:R:/a:0:SH").unwrap();
        assert_eq!(shared.mode.to_string(), "shared");
    }

    #[test]
    fn a_path_of_any_bytes_comes_back_from_json() {
        let place = Place {
            path: OsString::from_vec(b"/a\xffb\\c".to_vec()).into(),
            offset: 7,
        };
        let json = serde_json::to_string(&place).unwrap();
        assert_eq!(json, r#"{"path":"/a\\xffb\\x5cc","offset":7}"#);
        assert_eq!(serde_json::from_str::<Place>(&json).unwrap(), place);
        let bad = r#"{"path":"/a\\","offset":7}"#;
        assert!(serde_json::from_str::<Place>(bad).is_err());
    }

    #[test]
    fn fields_are_counted_between_colons_that_are_not_escaped() {
        for (text, fields) in [("", 1), ("/a", 1), ("/a\\:b:0", 2), ("L:R:/a:0:SH", 5)] {
            assert_eq!(count_fields(&text.into()), Ok(fields), "{text}");
        }
    }

    #[test]
    fn a_path_alone_or_with_an_offset() {
        let parse = |text: &str| parse_path(&OsString::from(text));
        assert_eq!(parse("/a"), Ok(("/a".into(), None)));
        assert_eq!(parse("/a\\:b:512"), Ok(("/a:b".into(), Some(512))));
        assert_eq!(parse("/a:x"), Err(SpecError::Offset("x".into())));
    }
}
