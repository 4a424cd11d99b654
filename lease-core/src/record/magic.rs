//! The numbers by which records are told apart.

/// A heartbeat.
pub(super) const MAGIC_HEARTBEAT: u32 = 0x1221_2010;
/// A resource's leader.
pub(super) const MAGIC_LEADER: u32 = 0x0615_2010;
/// The leader of a resource that was cleared.
pub(super) const MAGIC_CLEARED: u32 = 0x1128_2016;
/// A resource index.
pub(super) const MAGIC_INDEX: u32 = 0x0104_2018;
