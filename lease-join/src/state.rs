//! The state file: what a next lease-join on this host must know of this one.

use lease_core::id::{Generation, HostId, Name};
use lease_core::record::host_note::BootId;
use lease_core::registry::place::Place;
use lease_core::registry::table::Table;
use lease_core::timing::Timing;
use serde::{Deserialize, Serialize};

/// One life of this host, and its holders.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// The boot that it belongs to; in another boot it means nothing.
    pub(crate) boot_id: BootId,
    /// The host id.
    pub(crate) host: HostId,
    /// Its name.
    pub(crate) host_name: Name,
    /// Its generation.
    pub(crate) generation: Generation,
    /// Its t and W.
    pub(crate) timing: Timing,
    /// Its holders.
    pub(crate) table: Table,
}

impl State {
    /// What an earlier lease-join of this boot has left; `None` if there is nothing, or nothing
    /// that can be read.
    pub(crate) fn read(place: &Place, boot_id: &BootId) -> Option<Self> {
        let bytes = place.read_state().ok()??;
        let state: Self = serde_json::from_slice(&bytes).ok()?;
        (state.boot_id == *boot_id).then_some(state)
    }
}
