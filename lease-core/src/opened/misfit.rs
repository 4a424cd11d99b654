//! Why a place is not what was named, and what to do about that.

use crate::disk::Fault;
use crate::failure::{Failure, Status, show};
use crate::id::Name;
use crate::layout::Geometry;
use crate::record::RecordError;
use crate::spec::{LockspaceSpec, Place, ResourceSpec};
use crate::storage::OpenError;

/// What to do where nothing stands at a path.
const NO_PATH: &str = "; is the path right, and its disk there?";

/// Why a place is not what was named.
pub(super) enum Misfit {
    Open(OpenError),
    /// The offset is no multiple of the smallest area size.
    Offset,
    /// There are only so many bytes.
    Size(u64),
    Fault(Fault),
    Record(RecordError),
    /// It belongs to this lockspace.
    Lockspace(Name),
    /// It is this resource.
    Resource(Name),
    /// The offset is no multiple of the area size that was found.
    Align(Geometry),
    /// The area ends after the last of so many bytes.
    End(u64),
}

impl From<Fault> for Misfit {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Misfit {
    fn status(&self) -> Status {
        match self {
            Self::Open(error) => Status::of_open(error),
            Self::Offset | Self::Align(_) => Status::Usage,
            Self::Fault(fault) => Status::of_fault(fault),
            _ => Status::Invalid,
        }
    }

    fn sanlock_number(&self) -> Option<i32> {
        match self {
            Self::Fault(_) => Some(-202),
            Self::Record(error) => Some(error.sanlock_number()),
            Self::Lockspace(_) => Some(-226),
            Self::Resource(_) => Some(-227),
            _ => None,
        }
    }

    /// Why; `it`: what the place is called in a sentence that begins with that.
    pub(super) fn describe(&self, it: &str) -> String {
        match self {
            Self::Open(error) => error.to_string(),
            Self::Offset => "the offset is not a multiple of the area size".to_owned(),
            Self::Size(bytes) => format!("it has only {bytes} bytes"),
            Self::Fault(fault) => fault.to_string(),
            Self::Record(error) => error.to_string(),
            Self::Lockspace(name) => format!("{it} belongs to lockspace {name}"),
            Self::Resource(name) => format!("{it} is resource {name}"),
            Self::Align(geometry) => {
                let size = geometry.align().mebibytes();
                format!("the offset is not a multiple of {size}M")
            }
            Self::End(bytes) => format!("its area ends after the last of {bytes} bytes"),
        }
    }

    /// What to do next, behind the cause; nothing where that says it.
    fn what_next(&self) -> &'static str {
        match self {
            Self::Open(error) if Status::of_open(error) == Status::NoPath => NO_PATH,
            Self::Offset | Self::Align(_) => "; lease-dump shows what lies at which offset of it",
            Self::Size(_) | Self::End(_) => {
                "; are path and offset right, or was it cut short? lease-dump shows what lies there"
            }
            Self::Lockspace(_) | Self::Resource(_) => {
                "; are name, path and offset right? lease-dump shows what lies where"
            }
            Self::Record(error) => error.what_next(),
            Self::Fault(fault) if Status::of_fault(fault) == Status::Io => {
                "; try again when the storage works"
            }
            Self::Open(_) | Self::Fault(_) => "",
        }
    }

    pub(super) fn of_lockspace(&self, named: &LockspaceSpec) -> Failure {
        let why = match self {
            Self::Open(error) => format!("{}: {error}", show(named.place.path.as_os_str())),
            Self::Record(error) => format!("no lockspace there: {error}"),
            other => other.describe("it"),
        };
        let sanlock = match self {
            Self::Fault(_) => None,
            other => other.sanlock_number(),
        };
        Failure {
            status: self.status(),
            text: format!("cannot join {named}: {why}{}", self.what_next()),
            sanlock,
        }
    }

    pub(super) fn of_resource(&self, spec: &ResourceSpec, place: &Place) -> Failure {
        let place = match self {
            Self::Open(error) => format!("{}: {error}", show(place.path.as_os_str())),
            Self::Lockspace(_) | Self::Resource(_) => self.describe(&place.to_string()),
            other => format!("{place}: {}", other.describe("it")),
        };
        Failure {
            status: self.status(),
            text: format!(
                "cannot acquire {}:{}: {place}{}",
                spec.lockspace,
                spec.name,
                self.what_next()
            ),
            sanlock: self.sanlock_number(),
        }
    }
}
