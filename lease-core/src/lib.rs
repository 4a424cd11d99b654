//! Leases on shared storage, in sanlock's on-disk format.
//!
//! From the ground up; a module uses only what stands above it:
//! [`id`], [`layout`], [`spec`]: values, places, names. [`record`]: bytes. [`disk`], [`clock`]:
//! what the protocols ask of the world. [`timing`]: every duration. [`deadline`]:
//! when a guarded command is to end. [`delta`]: a host id held by
//! a heartbeat. [`quorum`], [`paxos`]: one ballot. [`liveness`]: is a host dead? [`resource`]: a
//! lease from acquire to release. [`mod@format`], [`survey`]: whole areas, written and read.
//! Then what only the tools use: [`priority`], [`device`], [`process`], [`contain`],
//! [`registry`], [`tool`].

pub mod clock;
pub mod contain;
pub mod deadline;
pub mod delta;
pub mod device;
pub mod disk;
pub mod format;
pub mod id;
pub mod layout;
pub mod liveness;
pub mod paxos;
pub mod priority;
pub mod process;
pub mod quorum;
pub mod record;
pub mod registry;
pub mod resource;
pub mod spec;
pub mod survey;
pub mod timing;
pub mod tool;
mod voice;
