//! Orders: what is held is to change while what is guarded runs on. Who gives one says it to the
//! lease-join of the lockspace, that one to the lease-hold, and the answer goes the same way back.

use crate::failure::{Failure, Status};
use crate::id::Name;
use crate::spec::ResourceArgument;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// For how long to try to acquire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Patience {
    /// Not at all.
    None,
    /// Until it is known whether an owner is alive.
    UntilKnown,
    /// For this long, whoever holds it.
    For(Duration),
}

/// Names one order, whatever becomes of the connection that it came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub u64);

/// A lease of a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseName {
    /// Its lockspace.
    pub lockspace: Name,
    /// Its resource.
    pub resource: Name,
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lockspace, self.resource)
    }
}

/// What is to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Acquire these too, all or none.
    Acquire {
        /// What, with absolute paths.
        resources: Vec<ResourceArgument>,
        /// For how long to try.
        patience: Patience,
    },
    /// Release these.
    Release {
        /// Which.
        leases: Vec<LeaseName>,
    },
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The exit status.
    pub status: u8,
    /// What sanlock calls it.
    pub sanlock: Option<i32>,
    /// One line without the tool's name; nothing if all went well.
    pub text: String,
}

impl Outcome {
    /// What is to be said of it, without the tool's name; nothing if all went well.
    pub fn line(&self) -> Option<String> {
        let number = self.sanlock.map(|number| format!(" [{number}]"));
        let text = format!("{}{}", self.text, number.unwrap_or_default());
        (!self.text.is_empty()).then_some(text)
    }

    /// It was done.
    pub fn done() -> Self {
        Self {
            status: Status::Done.code(),
            sanlock: None,
            text: String::new(),
        }
    }
}

/// What a lease-join has to say of an order that it hands on to nobody.
impl Outcome {
    /// It leaves the lockspace, or has lost the host id.
    pub fn not_now(lockspace: &Name, lost: Option<&str>) -> Self {
        let (why, number) = match lost {
            Some(why) => (format!("has lost the host id: {why}"), Some(-28)),
            None => ("is leaving".to_owned(), None),
        };
        let text = format!("lease-join of lockspace {lockspace} {why}; it takes no orders");
        Self {
            sanlock: number,
            ..Failure::new(Status::NotJoined, text).into()
        }
    }

    /// Nobody guards that process.
    pub fn not_guarded(lockspace: &Name, pid: i32) -> Self {
        let text = format!(
            "no lease-hold that is registered in lockspace {lockspace} guards process {pid}; \
             lease-dump --local shows which are guarded"
        );
        Failure::new(Status::NotJoined, text).numbered(-3).into()
    }

    /// Several guard it.
    pub fn not_clear(pid: i32) -> Self {
        let text = format!(
            "process {pid} is guarded by several lease-holds; name one of them by its own process \
             id, as lease-dump --local shows it"
        );
        Failure::new(Status::Usage, text).into()
    }

    /// Who was to carry it out has ended.
    pub fn ended() -> Self {
        let text = "the lease-hold that was to carry the order out has ended; lease-dump --local \
                    shows what is held";
        Failure::new(Status::NotJoined, text).into()
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self {
            status: failure.status.code(),
            sanlock: failure.sanlock,
            text: failure.text,
        }
    }
}

/// A number that no other order has.
pub fn new_id() -> OrderId {
    OrderId(fastrand::u64(..))
}
