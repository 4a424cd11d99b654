//! The lockspace that is to be joined, as it is found.

use super::config::Config;
use super::surroundings::{HostSurroundings, VolumeOf};
use crate::delta::{Area, Lockspace};
use crate::disk::Fault;
use crate::failure::{Failure, Status};
use crate::id::HostId;
use crate::opened::open_lockspace;
use crate::registry::message::AreaId;
use crate::spec::{HostField, LockspaceSpec};
use crate::storage::Volume;

/// The lockspace's disk, and what was found there.
pub(super) struct Found<V> {
    pub(super) volume: V,
    pub(super) lockspace: Lockspace,
    /// The same, by what it is on this machine.
    pub(super) area: AreaId,
    /// Every heartbeat.
    pub(super) heartbeats: Area,
}

/// The LOCKSPACE with the host id that is joined.
pub(super) fn numbered(config: &Config, host: HostId) -> LockspaceSpec {
    LockspaceSpec {
        host: HostField::Id(host),
        ..config.lockspace.clone()
    }
}

/// Opens the lockspace's disk and reads what it is.
pub(super) fn open<S: HostSurroundings>(
    s: &S,
    config: &Config,
) -> Result<Found<VolumeOf<S>>, Failure> {
    let (mut volume, lockspace) = open_lockspace(s.around(), &config.lockspace)?;
    volume.write_after_failures();
    let cannot = |status, why: String| {
        Failure::new(status, format!("cannot join {}: {why}", config.lockspace))
    };
    let most = lockspace.geometry.max_hosts();
    if config.host.is_some_and(|host| host.get() > most) {
        let why = format!("host ids go up to {most} there ({})", lockspace.geometry);
        return Err(cannot(Status::Usage, why));
    }
    let failed = |fault: Fault| cannot(Status::of_fault(&fault), fault.to_string());
    let heartbeats = lockspace.read_all(&volume).map_err(failed)?;
    let area = AreaId {
        identity: volume.identity(),
        offset: lockspace.offset,
    };
    Ok(Found {
        volume,
        lockspace,
        area,
        heartbeats,
    })
}
