//! What the operands mean: which places to look at, and what should stand there.

use lease_core::id::Name;
use lease_core::spec::{
    LockspaceSpec, NamedSpec, Place, ResourceArgument, SpecError, count_fields, parse_path,
};
use lease_core::survey::{Area, Content};
use std::ffi::OsString;
use std::path::PathBuf;

/// A place to look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) place: At,
    pub(crate) expected: Expected,
}

/// What of a file or device is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// All of it.
    Everywhere,
    /// The area that starts at this byte.
    Offset(u64),
    /// The area that an index says.
    Named(NamedSpec),
}

/// What the operand says that stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    Resource(Name, Name),
    /// `a:7:path:offset`: lockspace a for host 7, or its resource "7". The disk knows which.
    Either(Name, Name),
}

/// The places that an operand speaks of: several for a resource on several disks. What is there as
/// a path is that path, whatever colons are in it.
pub(crate) fn parse(text: &OsString) -> Result<Vec<Target>, SpecError> {
    let path = PathBuf::from(text);
    if text.as_encoded_bytes().contains(&b':') && path.exists() {
        return Ok(vec![Target {
            path,
            place: At::Everywhere,
            expected: Expected::Anything,
        }]);
    }
    if count_fields(text)? <= 2 {
        let (path, offset) = parse_path(text)?;
        return Ok(vec![Target {
            path,
            place: offset.map_or(At::Everywhere, At::Offset),
            expected: Expected::Anything,
        }]);
    }
    let resource = match ResourceArgument::parse(text)? {
        ResourceArgument::Placed(resource) => resource,
        ResourceArgument::Named(named) => {
            return Ok(vec![Target {
                path: named.path.clone(),
                expected: Expected::Resource(named.lockspace, named.name),
                place: At::Named(named),
            }]);
        }
    };
    let (lockspace, name) = (resource.lockspace, resource.name);
    let expected = match LockspaceSpec::parse(text) {
        Ok(_) => Expected::Either(lockspace, name),
        Err(_) => Expected::Resource(lockspace, name),
    };
    let target = |Place { path, offset }| Target {
        path,
        place: At::Offset(offset),
        expected,
    };
    Ok(resource.places.into_iter().map(target).collect())
}

impl Expected {
    /// What is wrong with an area that should be this.
    pub(crate) fn mismatch(self, area: &Area) -> Option<String> {
        match (self, &area.content) {
            (Self::Anything, _) => None,
            (Self::Either(wanted, _), Content::Lockspace(hosts)) => {
                let found = hosts.lockspace?;
                (found != wanted).then(|| format!("it is lockspace {found}, not {wanted}"))
            }
            (Self::Resource(..), Content::Lockspace(_)) => {
                Some("it is a lockspace, not a resource".into())
            }
            (Self::Either(lockspace, name) | Self::Resource(lockspace, name), content) => {
                let Content::Resource(lease) = content else {
                    return Some("it is a resource index".into());
                };
                let (in_lockspace, found) = lease.names?;
                if lease.cleared {
                    return Some(format!(
                        "resource {in_lockspace}:{found} was deleted there; lease-init -r makes one"
                    ));
                }
                let same = (in_lockspace, found) == (lockspace, name);
                (!same).then(|| {
                    format!("it is resource {in_lockspace}:{found}, not {lockspace}:{name}")
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn expected(text: &str) -> Vec<(String, Option<u64>, Expected)> {
        let targets = parse(&OsString::from(text)).unwrap();
        let parts = |target: Target| {
            let path = target.path.display().to_string();
            let offset = match target.place {
                At::Offset(offset) => Some(offset),
                At::Everywhere | At::Named(_) => None,
            };
            (path, offset, target.expected)
        };
        targets.into_iter().map(parts).collect()
    }

    #[test]
    fn the_number_of_fields_tells_operands_apart() {
        let one = |path: &str, offset, expected| vec![(path.to_owned(), offset, expected)];
        let (ls, rs, seven) = (name("LS"), name("RS"), name("7"));
        for (text, targets) in [
            ("/a", one("/a", None, Expected::Anything)),
            ("/a\\:b", one("/a:b", None, Expected::Anything)),
            ("/a:512", one("/a", Some(512), Expected::Anything)),
            ("LS:RS:/a", one("/a", None, Expected::Resource(ls, rs))),
            ("LS:RS:/a:SH", one("/a", None, Expected::Resource(ls, rs))),
            ("LS:7:/a:0", one("/a", Some(0), Expected::Either(ls, seven))),
            ("LS:RS:/a:0", one("/a", Some(0), Expected::Resource(ls, rs))),
            (
                "LS:RS:/a:0:SH",
                one("/a", Some(0), Expected::Resource(ls, rs)),
            ),
            (
                "LS:7:/a:0:/b:8",
                vec![
                    ("/a".into(), Some(0), Expected::Resource(ls, seven)),
                    ("/b".into(), Some(8), Expected::Resource(ls, seven)),
                ],
            ),
        ] {
            assert_eq!(expected(text), targets, "{text}");
        }
        let by_name = parse(&OsString::from("LS:RS:/a")).unwrap();
        assert!(matches!(by_name[0].place, At::Named(_)));
    }
}
