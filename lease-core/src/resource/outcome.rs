//! What is wanted of a resource, and what came of it.

use crate::clock::{Interrupted, Moment};
use crate::delta::HeartbeatError;
use crate::disk::Fault;
use crate::id::{Generation, HostId, Lver, Name};
use crate::layout::Geometry;
use crate::paxos::BallotError;
use crate::record::RecordError;
use crate::record::ballot::BallotSector;
use crate::record::holder_note::HolderNote;
use crate::record::leader::{Leader, Stamp};
use crate::spec::Mode;
use thiserror::Error;

/// What is wanted of a resource.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Exclusive or shared.
    pub mode: Mode,
    /// Only this version will do.
    pub lver: Option<Lver>,
    /// Who asks, in words for people; host, generation, lver and mode are filled in.
    pub note: HolderNote,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its version: the fencing token.
    pub lver: Lver,
    /// Exclusive or shared.
    pub mode: Mode,
    /// Our ballot record as it stands on the disk.
    pub(super) own: BallotSector,
    /// The leader as it was committed.
    pub(super) leader: Leader,
}

/// What came of an attempt to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is ours.
    Held(Box<Held>),
    /// Somebody has it, or it is not what was asked for.
    Refused(Refusal, Snapshot),
    /// Its owner, or a sharer, is not known to be alive or dead.
    Unknown {
        /// Which life of which host.
        owner: Stamp,
        /// When it will be known at the latest.
        until: Moment,
        /// What stood on the disk.
        snapshot: Snapshot,
    },
}

/// What a waiter watches: when any of it changes, another attempt is worth its while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) leader: Leader,
    /// The hosts in the way, each with its released flag and its share.
    pub(super) marks: Vec<(HostId, bool, Option<Generation>)>,
}

impl Snapshot {
    /// The version that the leader says.
    pub fn lver(&self) -> Lver {
        self.leader.lver()
    }
}

/// What was asked for, and of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedFor {
    /// The version that is wanted.
    pub lver: Lver,
    /// The hosts that are to be called: the owner, or all that share.
    pub hosts: Vec<HostId>,
}

/// Why a lease was refused: who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A live host owns it.
    Held {
        /// The owner.
        owner: Stamp,
        /// What it says of itself.
        note: Option<HolderNote>,
    },
    /// These hosts share it: one of them lives, and none is known to be over.
    Shared(Vec<HostId>),
    /// A live host is passing through on its way to sharing it.
    ShortHold(Stamp),
    /// Other hosts won every ballot.
    Contended,
    /// The lease is of another version than asked for.
    Version {
        /// Which one it is of.
        found: Lver,
    },
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum AcquireError {
    #[error("{0}")]
    Disk(#[from] Fault),
    #[error("{0}; whether this host owns it now is in doubt until lease-join has found out")]
    InDoubt(Box<Self>),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Ballot(BallotError),
    #[error("it belongs to lockspace {found}")]
    Lockspace { found: Name },
    #[error("it is resource {found}")]
    Resource { found: Name },
    #[error("its record says {found}, but did not when it was opened: was it formatted meanwhile?")]
    Geometry { found: Geometry },
    #[error(
        "it takes host ids up to {num_hosts} only; join with a smaller one, or format it again \
         with a larger --max-hosts"
    )]
    NumHosts { num_hosts: u64 },
    #[error("heartbeat of host {host}: {error}")]
    Heartbeat { host: HostId, error: HeartbeatError },
    #[error(
        "the heartbeat of host {} is older than its lease (generation {}): was the lockspace \
         formatted again? then format this, too",
        .owner.host, .owner.generation
    )]
    Unclear { owner: Stamp },
    #[error("other hosts try at the same time and keep winning; try again")]
    Undecided,
    #[error("earlier writes of this host may still land")]
    TooEarly { until: Moment },
    #[error(
        "its disks have different value blocks, and those that can be read do not tell which is \
         the newest; try again when all its disks work"
    )]
    ValueBlocksDiffer,
    #[error("the host id was lost")]
    Lost,
    #[error("interrupted")]
    Interrupted,
}

impl From<Interrupted> for AcquireError {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl From<BallotError> for AcquireError {
    fn from(error: BallotError) -> Self {
        match error {
            BallotError::Disk(fault) => Self::Disk(fault),
            BallotError::Lost => Self::Lost,
            other => Self::Ballot(other),
        }
    }
}

impl AcquireError {
    /// A failure after our value may have been accepted leaves it in doubt who owns.
    pub(super) fn doubtful(self, at_stake: bool) -> Self {
        match self {
            sure @ (Self::Lost | Self::Interrupted | Self::InDoubt(_)) => sure,
            error if at_stake => Self::InDoubt(Box::new(error)),
            error => error,
        }
    }
}
