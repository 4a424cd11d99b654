//! What the command is told of its leases.

use super::hub::Hub;
use super::job::HeldLease;
use super::surroundings::HolderSurroundings;
use serde_json::json;

/// The LEASE_ variables of the command: their names and values.
pub(crate) fn variables<A: HolderSurroundings>(
    hub: &Hub<A>,
    held: &[HeldLease],
) -> Vec<(&'static str, String)> {
    let leases: Vec<serde_json::Value> = held
        .iter()
        .map(|lease| {
            let (spec, welcome) = hub.of_resource(lease.index);
            json!({
                "lockspace": spec.lockspace,
                "resource": spec.name,
                "host_id": welcome.host,
                "generation": welcome.generation,
                "lver": lease.held.lver,
                "mode": spec.mode,
            })
        })
        .collect();
    let Some(first) = leases.first() else {
        return Vec::new();
    };
    let text = |key: &str| match &first[key] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    vec![
        ("LEASE_LOCKSPACE", text("lockspace")),
        ("LEASE_RESOURCE", text("resource")),
        ("LEASE_HOST_ID", text("host_id")),
        ("LEASE_GENERATION", text("generation")),
        ("LEASE_LVER", text("lver")),
        ("LEASE_MODE", text("mode")),
        ("LEASE_LEASES", serde_json::Value::Array(leases).to_string()),
    ]
}
