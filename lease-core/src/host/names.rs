//! Holders in words.

use crate::id::escape;
use crate::registry::message::Phase;
use crate::registry::table::Holder;

/// `lease-hold pid 4711 (qemu-system-x86_64)`.
pub(super) fn name_of(holder: &Holder) -> String {
    format!(
        "lease-hold pid {} ({})",
        holder.process.pid,
        escape(holder.command.as_bytes())
    )
}

/// The RESOURCE strings of all that a holder has, or may have.
pub(super) fn leases_of(holder: &Holder) -> String {
    let held = holder
        .claims
        .iter()
        .filter(|claim| claim.phase != Phase::Idle);
    held.map(|claim| claim.asked.spec.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
