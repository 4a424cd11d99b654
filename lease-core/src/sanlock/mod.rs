//! The messages that sanlock's clients and its daemon send each other over the daemon's socket:
//! bytes to values and back, nothing else.
//!
//! A message is a header of 32 bytes and a body whose size the command decides, never the header's
//! length field. Numbers are in the byte order of the machine. What stands behind the NUL of a
//! string, and in fields that nobody reads, may be anything, and is not looked at; what is sent
//! has zeros there.

pub mod part;
pub mod reply;
pub mod request;
pub mod status;

/// sanlock's numbers for errors. Those of the system stand there as negative errnos.
pub mod number {
    /// The place holds no lease.
    pub const NO_LEASE: i32 = -223;
    /// The record is of another version of the format.
    pub const VERSION: i32 = -224;
    /// The lease is of another lockspace.
    pub const LOCKSPACE_NAME: i32 = -226;
    /// The lease has another name.
    pub const RESOURCE_NAME: i32 = -227;
    /// The host takes no part in the ballots of the lease.
    pub const NUM_HOSTS: i32 = -228;
    /// The checksum is wrong.
    pub const CHECKSUM: i32 = -229;
    /// The lockspace has no such host id.
    pub const NO_HOST_ID: i32 = -231;
    /// The storage did not answer in time.
    pub const IO_TIMEOUT: i32 = -202;
    /// The lease has another version than the one asked for.
    pub const LVER: i32 = -240;
    /// Another live host holds the lease.
    pub const HELD: i32 = -243;
    /// A host that may be dead holds the lease.
    pub const OWNED: i32 = -247;
    /// The host id is in use by another.
    pub const HOST_ID: i32 = -262;
    /// There stands a request for a newer version of the lease.
    pub const OLD_REQUEST: i32 = -272;
    /// There is no valid index.
    pub const NO_INDEX: i32 = -274;
    /// A name and an offset that do not belong together.
    pub const INDEX_DIFFERS: i32 = -278;
}
