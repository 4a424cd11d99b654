//! What lease-join is asked to do.

use crate::id::{HostId, Name};
use crate::spec::LockspaceSpec;
use std::path::PathBuf;

/// What lease-join is asked to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The lockspace, as it was named.
    pub lockspace: LockspaceSpec,
    /// Its file or device, absolute.
    pub path: PathBuf,
    /// The host id; `None`: one that is free.
    pub host: Option<HostId>,
    /// A name that no other machine has; `None`: any.
    pub name: Option<Name>,
    /// t in seconds; `None`: what the lockspace was formatted with.
    pub io_timeout: Option<u8>,
    /// W in seconds.
    pub watchdog_timeout: u16,
}
