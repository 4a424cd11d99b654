//! The command's environment: ours, and what it holds.

use crate::acquire::HeldLease;
use crate::hub::Hub;
use serde_json::json;
use std::env;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

/// NAME=VALUE strings: our own environment with the LEASE_ variables set.
pub(crate) fn of(hub: &Hub, held: &[HeldLease]) -> Vec<CString> {
    let ours = variables(hub, held);
    let kept = env::vars_os().filter(|(name, _)| !ours.iter().any(|(n, _)| name == n));
    let all = kept.chain(
        ours.iter()
            .map(|(n, v)| (OsString::from(n), OsString::from(v))),
    );
    all.filter_map(|(name, value)| {
        // What came from our own environment and names has no NUL in it.
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    })
    .collect()
}

fn variables(hub: &Hub, held: &[HeldLease]) -> Vec<(&'static str, String)> {
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
