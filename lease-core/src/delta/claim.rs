//! What a host wants to join as, and what can come of it.

use super::area::HeartbeatError;
use crate::clock::{Interrupted, Moment};
use crate::disk::Fault;
use crate::id::{Generation, HostId, Name};
use crate::record::host_note::BootId;
use crate::timing::Timing;
use std::time::Duration;
use thiserror::Error;

/// What a host wants to join as.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The host id.
    pub host: HostId,
    /// A name that no other machine has.
    pub name: Name,
    /// Our t and W.
    pub timing: Timing,
    /// Our present boot.
    pub boot_id: BootId,
    /// The last generation that this machine is known to have joined with; the next is larger.
    pub at_least: Generation,
    /// The last generation that a join of this machine began with, completed or not.
    pub attempted: Generation,
    /// Before this moment, a heartbeat that an earlier process of this machine wrote may still land
    /// (it ended without proof that its I/O had completed): 8t+W after its end.
    pub quiet_from: Moment,
    /// Before this moment a heartbeat that an earlier process of this machine **did** issue, and of
    /// which nobody knows how it ended, may still land: the record is not taken before. 0 if there
    /// is none.
    pub not_before: Moment,
}

/// Why a host id could not be joined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum JoinError {
    #[error("{0}")]
    Disk(#[from] Fault),
    #[error("{0}")]
    Record(#[from] HeartbeatError),
    #[error("in use by {}", .name.map_or_else(|| "a host without a name".into(), |n| n.to_string()))]
    InUse { name: Option<Name> },
    #[error("the storage is too slow: three attempts took longer than {0} s from read to write")]
    TooSlow(u64),
    #[error("{0}")]
    Lost(#[from] Lost),
    #[error("none of its host ids is free: each is in use, or was not left")]
    NoneFree,
    #[error("interrupted")]
    Interrupted,
}

impl From<Interrupted> for JoinError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

/// What a joiner waits for, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Whether the host whose record stands there is alive.
    Watching {
        /// Its name.
        name: Option<Name>,
        /// For at most this long.
        at_most: Duration,
    },
    /// Whether a write of an earlier process of this machine lands.
    LateWrite {
        /// For at most this long.
        at_most: Duration,
    },
    /// Whether anybody else joins at the same time.
    Settling {
        /// For this long.
        exactly: Duration,
    },
}

/// After whose life a host id may be taken that was not left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// After any life, once its host must be dead.
    Any,
    /// After one under that name, once its host must be dead.
    Named(Name),
    /// After none.
    Nobody,
}

impl Predecessor {
    /// Whether a record that is not free may be watched until its host must be dead.
    pub(super) fn is(self, name: Option<Name>) -> bool {
        match self {
            Self::Any => true,
            Self::Named(known) => name == Some(known),
            Self::Nobody => false,
        }
    }
}

/// How a host id was lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum Lost {
    #[error("no renewal for {0} s")]
    Expired(u64),
    #[error("our heartbeat was overwritten by {}", .0.map_or_else(|| "somebody".into(), |n| n.to_string()))]
    Overwritten(Option<Name>),
    #[error("it is being given back: that write may land at any moment")]
    Leaving,
    #[error("our heartbeat is damaged: {0}")]
    Damaged(HeartbeatError),
}
