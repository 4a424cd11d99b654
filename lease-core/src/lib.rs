//! Leases on shared storage, in sanlock's on-disk format.
//!
//! From the ground up; a module uses only what stands above it:
//! [`id`], [`layout`], [`spec`]: values, places, names. [`record`]: bytes. [`disk`], [`clock`]:
//! what the protocols ask of the world; [`storage`]: how a path becomes a disk. [`failure`]: why a
//! tool ends. [`timing`]: every duration. [`deadline`]:
//! when a guarded command is to end. [`delta`]: a host id held by
//! a heartbeat. [`quorum`], [`paxos`]: one ballot. [`liveness`]: is a host dead? [`resource`]: a
//! lease from acquire to release. [`mod@format`], [`survey`], [`index`]: whole areas, written and
//! read.
//! [`sanlock`]: the messages of sanlock's clients.
//! Then the machine: [`priority`], [`crew`], [`device`], [`process`], [`contain`];
//! [`surroundings`]: what the daemons ask of it. [`registry`]: what they say to each other.
//! [`opened`]: what a string names. [`host`]: what lease-join decides. [`holder`]: what lease-hold
//! decides. [`tool`], [`machine`]: what is the same in all tools.

pub mod cgroup;
pub mod clock;
pub mod contain;
pub mod crew;
pub mod deadline;
pub mod delta;
pub mod device;
pub mod disk;
pub mod failure;
pub mod format;
pub mod holder;
pub mod host;
pub mod id;
pub mod index;
pub mod layout;
pub mod liveness;
pub mod machine;
pub mod opened;
pub mod paxos;
pub mod priority;
pub mod process;
pub mod quorum;
pub mod record;
pub mod registry;
pub mod resource;
pub mod sanlock;
pub mod spec;
pub mod storage;
pub mod surroundings;
pub mod survey;
pub mod timing;
pub mod tool;
mod voice;
