//! The messages, one JSON object a line.

use super::order::{Order, OrderId, Outcome};
use crate::clock::Moment;
use crate::contain::Containment;
use crate::id::{Generation, HostId, Lver, Name};
use crate::layout::Geometry;
use crate::liveness::Sightings;
use crate::spec::{Mode, Place, path_text};
use crate::storage::Identity;
use crate::timing::Timing;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a holder does with one of its resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing.
    Idle,
    /// It writes to the disk to acquire it.
    Acquiring,
    /// It holds this version.
    Held(Lver),
    /// It waits for its turn to release.
    Leaving(Lver),
    /// It writes to the disk to release it.
    Releasing,
    /// It has ended, and it is not known whether the lease is ours.
    Doubt,
}

/// Where an area is, whatever path leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AreaId {
    /// The file or device.
    #[serde(flatten)]
    pub identity: Identity,
    /// Bytes from its start.
    pub offset: u64,
}

/// A resource that a holder wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name.
    pub resource: Name,
    /// How it is to be held.
    pub mode: Mode,
    /// Where its areas are; `None` for a place that could not be opened.
    pub areas: Vec<Option<AreaId>>,
    /// The places that they were found at, paths absolute, in the same order.
    pub places: Vec<Place>,
    /// The RESOURCE string as it was given.
    pub spec: String,
}

/// Names one registration for as long as it lives, also across a restart of lease-join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HolderId(pub u64);

/// What lease-hold says. `index` counts the resources of its registration from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Ask {
    /// First of all: who asks, for what. A pidfd of the asker comes with this message.
    Register {
        /// The command's name, for people.
        command: String,
        /// What is wanted.
        resources: Vec<Asked>,
    },
    /// What do you know? By anybody, instead of [`Ask::Register`].
    Describe,
    /// Signal an event to other hosts. By anybody.
    SetEvent(SetEvent),
    /// What events do other hosts signal? By anybody, instead of [`Ask::Register`].
    Listen,
    /// Instead of [`Ask::Register`], after lease-join was restarted: go on as before. A pidfd of
    /// the asker comes with this message.
    Resume {
        /// The registration.
        holder: HolderId,
        /// The generation that it belongs to.
        generation: Generation,
        /// What is done with each resource at this moment.
        phases: Vec<Phase>,
        /// On which of them a write may still land.
        late: Vec<bool>,
        /// What it guards may run: so it is, if nothing is said of that.
        #[serde(default = "may_run")]
        guards: bool,
    },
    /// Instead of [`Ask::Register`], by anybody: an order for a holder. Asked again after
    /// lease-join was restarted, it is the same one.
    Order {
        /// Its name.
        id: OrderId,
        /// The guarded process, or the lease-hold that guards it.
        to: i32,
        /// What is to change.
        order: Order,
    },
    /// What came of an order.
    Ordered {
        /// Its name.
        id: OrderId,
        /// What.
        outcome: Outcome,
    },
    /// One resource more is wanted, under this number: the next one, or that of one that is not
    /// held any more.
    Claim {
        /// Its number.
        index: usize,
        /// What is wanted.
        resource: Asked,
    },
    /// May the disk be written to acquire this resource?
    Acquire {
        /// Which resource.
        index: usize,
    },
    /// These hosts have what was asked for in its request record: call them. By anybody.
    Call {
        /// Who.
        hosts: Vec<HostId>,
        /// Until then, or for as long as anybody is called.
        until: Moment,
    },
    /// How that went.
    Acquired {
        /// Which resource.
        index: usize,
        /// The version that is held; `None`: not held.
        lver: Option<Lver>,
        /// What is left behind on the disk.
        left: Left,
    },
    /// The command's process stands behind its gate; its pidfd comes with this message.
    Guard {
        /// How it is contained.
        containment: Containment,
    },
    /// The gate is about to open: from now on the command runs. Until this was heard, it did not.
    /// Later on, only whether it `reads`.
    Start {
        /// It need not be told of renewals: it reads of them in lease-join's file.
        #[serde(default)]
        reads: bool,
    },
    /// The command and all that it started are gone; what was held is lost, or released as far as
    /// it could be.
    Gone,
    /// May the disk be written to release this resource?
    Release {
        /// Which resource.
        index: usize,
    },
    /// As [`Ask::Release`], but what is guarded runs on, and has no need of this any more.
    Yield {
        /// Which resource.
        index: usize,
    },
    /// How that went.
    Released {
        /// Which resource.
        index: usize,
        /// What is left behind on the disk.
        left: Left,
    },
}

fn may_run() -> bool {
    true
}

/// What an acquire or a release leaves behind on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// It is not known whether the lease is ours.
    pub doubt: bool,
    /// A write of ours may still land.
    pub late: bool,
}

impl Left {
    /// Nothing that anyone will ever see.
    pub const NOTHING: Self = Self {
        doubt: false,
        late: false,
    };
}

/// What lease-join says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Tell {
    /// The answer to [`Ask::Register`].
    Registered(Box<Welcome>),
    /// The answer to [`Ask::Describe`]; the connection ends.
    Described(Box<Description>),
    /// The answer to [`Ask::Resume`].
    Resumed {
        /// The moment before the last renewal was issued.
        renewed: Moment,
    },
    /// The answer to [`Ask::SetEvent`].
    EventSet(Result<(), EventRefused>),
    /// To who listens: a host signals an event, again at each of its renewals while it does.
    Event(HeardEvent),
    /// A host has asked for something that this one holds: look at the request records.
    Asked {
        /// Which host.
        by: HostId,
    },
    /// The answer to anything that cannot be: the connection ends.
    Refused {
        /// Why, for people.
        why: String,
    },
    /// The answer to [`Ask::Acquire`]: go on.
    Turn {
        /// Which resource.
        index: usize,
        /// How.
        how: Turn,
    },
    /// The answer to [`Ask::Acquire`]: somebody on this host has it.
    Busy {
        /// Which resource.
        index: usize,
        /// Who.
        by: Rival,
    },
    /// The answer to [`Ask::Guard`]: the gate may open.
    Go {
        /// The generation that the host id still has.
        generation: Generation,
        /// The moment before the last renewal was issued.
        renewed: Moment,
    },
    /// The answer to [`Ask::Guard`]: the gate stays shut.
    NotGuarded {
        /// Why, for people.
        why: String,
    },
    /// An order for this holder.
    Order {
        /// Its name.
        id: OrderId,
        /// What is to change.
        order: Order,
    },
    /// Nobody waits any more for what comes of this order.
    Withdrawn {
        /// Its name.
        id: OrderId,
    },
    /// The answer to [`Ask::Order`]: what came of it. The connection ends.
    Ordered {
        /// What.
        outcome: Outcome,
    },
    /// The answer to [`Ask::Claim`].
    Claimed {
        /// Its number.
        index: usize,
        /// What is known of other hosts by now.
        hosts: Sightings,
    },
    /// The answer to [`Ask::Claim`]: it cannot be.
    NotClaimed {
        /// Its number.
        index: usize,
        /// Why, for people.
        why: String,
    },
    /// The answer to [`Ask::Release`] and [`Ask::Yield`].
    ReleaseTurn {
        /// Which resource.
        index: usize,
        /// Nobody else on this host shares it: the disk is to be written.
        last: bool,
    },
    /// The heartbeat was renewed.
    Renewed {
        /// The moment before the renewal was issued.
        renewed: Moment,
    },
    /// The host id is lost: everything that is guarded has to die.
    Lost {
        /// Why, for people.
        why: String,
    },
    /// lease-join wants to leave: end the command, release.
    Stop,
}

/// An event that is to be signalled, as sanlock's set_event takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetEvent {
    /// To which host; to any, if it is for all.
    pub host_id: u64,
    /// Of which generation, for whoever reads it.
    pub generation: u64,
    /// A number of the application's own.
    pub event: u64,
    /// Data of the application's own.
    pub data: u64,
    /// [`crate::delta::EventFlags`].
    pub flags: u32,
}

/// Why an event is not signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventRefused {
    /// There is no such host id in this lockspace.
    NoHost,
    /// Another event is being signalled.
    Busy,
    /// lease-join leaves, or has lost the host id.
    Leaving,
}

/// An event that another host signals to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardEvent {
    /// The host that signals it.
    pub from_host_id: HostId,
    /// Its present life.
    pub from_generation: Generation,
    /// Our host id.
    pub host_id: HostId,
    /// The generation that it is meant for, as the other host says it.
    pub generation: u64,
    /// The number.
    pub event: u64,
    /// The data.
    pub data: u64,
    /// It was heard by the host's renewal before, too.
    #[serde(default, skip_serializing_if = "is_new")]
    pub again: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde asks for it.
fn is_new(again: &bool) -> bool {
    !again
}

/// Everything that a holder has to know of its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The registration.
    pub holder: HolderId,
    /// Name of the lockspace.
    pub lockspace: Name,
    /// Our host id.
    pub host: HostId,
    /// Its present life.
    pub generation: Generation,
    /// Our host name.
    pub host_name: Name,
    /// File or device of the lockspace, absolute.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Bytes from its start.
    pub offset: u64,
    /// Its sector and area size.
    pub geometry: Geometry,
    /// t and W.
    pub timing: Timing,
    /// The moment before the last renewal was issued.
    pub renewed: Moment,
    /// No ballot before this moment.
    pub ballots_from: Moment,
    /// What is known of other hosts.
    pub hosts: Sightings,
}

/// What a lease-join knows, for people: `lease-dump --local` prints it as it is. Ages and times to
/// come are in seconds from now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Always "local".
    pub kind: String,
    /// Name of the lockspace.
    pub lockspace: Name,
    /// Our host id.
    pub host_id: HostId,
    /// Its present life.
    pub generation: Generation,
    /// Our host name.
    pub host_name: Name,
    /// File or device of the lockspace.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Bytes from its start.
    pub offset: u64,
    /// t.
    pub io_timeout: u8,
    /// W.
    pub watchdog: u16,
    /// "serving", "stopping", "leaving" or "lost".
    pub state: String,
    /// Age of the last renewal.
    pub renewed: f64,
    /// When the lease is lost, unless it is renewed.
    pub expires: f64,
    /// Every registered lease-hold.
    pub holders: Vec<DescribedHolder>,
    /// Every other host that holds a host id.
    pub hosts: Vec<DescribedHost>,
    /// The last renewals, the oldest first.
    pub renewals: Vec<Renewal>,
    /// The last events that other hosts have signalled, the oldest first.
    #[serde(default)]
    pub events: Vec<DescribedEvent>,
}

/// An event that was heard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedEvent {
    /// How long ago it was heard first.
    pub heard: f64,
    /// What it was.
    #[serde(flatten)]
    pub event: HeardEvent,
}

/// One lease-hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedHolder {
    /// Its process id.
    pub pid: i32,
    /// Its command's name.
    pub command: String,
    /// Wall clock, seconds since 1970, when it registered.
    pub since: u64,
    /// "connected", "awaited", "crashed" or "unproven".
    pub link: String,
    /// Process id of what it guards.
    pub guarded: Option<i32>,
    /// How that is contained.
    pub containment: Option<Containment>,
    /// What runs of it and of all that it started: whoever prints this looks.
    #[serde(default)]
    pub processes: Vec<DescribedProcess>,
    /// What it wants or has.
    pub resources: Vec<DescribedClaim>,
}

/// One process that is guarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedProcess {
    /// Its process id.
    pub pid: i32,
    /// What it is called.
    pub command: String,
}

/// One resource of a lease-hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedClaim {
    /// Its name.
    pub resource: Name,
    /// The RESOURCE string.
    pub spec: String,
    /// Exclusive or shared.
    pub mode: Mode,
    /// What is done with it.
    pub phase: Phase,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DescribedHost {
    /// Its host id.
    pub host_id: HostId,
    /// Its present life.
    pub generation: Generation,
    /// The timestamp that stands there.
    pub timestamp: u64,
    /// How long ago that was first seen.
    pub unchanged: f64,
    /// When it counts as dead, if it stays so; 0 if it does already.
    pub dead_in: f64,
}

/// One renewal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Renewal {
    /// The timestamp that was written: seconds since boot.
    pub timestamp: u64,
    /// Milliseconds that the read of all heartbeats took.
    pub read_ms: f64,
    /// Milliseconds that the write took.
    pub write_ms: f64,
    /// Attempts that had failed since the one before.
    pub failures: u32,
}

/// How a resource may be acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// By a ballot on the disk, but not before this moment.
    Ballot {
        /// A late write of ours may land until then.
        not_before: Moment,
    },
    /// This host shares it already: take part in that.
    Share,
}

/// Who on this host has a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rival {
    /// Process id of that lease-hold.
    pub pid: i32,
    /// Its command's name.
    pub command: String,
    /// It only acquires or releases at this moment: asking again soon makes sense.
    pub passing: bool,
    /// It ended without a release, and what it started is not proven gone.
    pub crashed: bool,
}
