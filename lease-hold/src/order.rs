//! An order: leases change under a command or process that runs on.

use lease_core::id::Name;
use lease_core::registry::client;
use lease_core::registry::order::{self, LeaseName, Order, Outcome};
use lease_core::spec::{ResourceArgument, fields_of};
use lease_core::tool::{Failure, Status, show};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Gives the order to who guards this process. What came of it.
pub(crate) fn give(run_dir: &Path, to: i32, order: &Order) -> Result<Outcome, Failure> {
    let lockspaces = lockspaces(order);
    let Some(first) = lockspaces.first() else {
        let text = "an order needs a RESOURCE; see man lease-hold";
        return Err(Failure::new(Status::Usage, text));
    };
    client::give(run_dir, first, (order::new_id(), to), order)
}

/// The lockspaces that an order names.
fn lockspaces(order: &Order) -> Vec<Name> {
    match order {
        Order::Acquire { resources, .. } => {
            resources.iter().map(ResourceArgument::lockspace).collect()
        }
        Order::Release { leases } => leases.iter().map(|lease| lease.lockspace).collect(),
    }
}

/// Whoever opens it is in another directory.
pub(crate) fn make_absolute(argument: &mut ResourceArgument) {
    let make = |path: &mut PathBuf| {
        if let Ok(absolute) = std::path::absolute(Path::new(path)) {
            *path = absolute;
        }
    };
    match argument {
        ResourceArgument::Placed(spec) => spec
            .places
            .iter_mut()
            .for_each(|place| make(&mut place.path)),
        ResourceArgument::Named(spec) => make(&mut spec.path),
    }
}

/// A lease, by `lockspace:resource` or by a whole RESOURCE.
pub(crate) fn lease_name(text: &OsString) -> Result<LeaseName, Failure> {
    let wrong = |why: &str| {
        let what = show(text);
        let text = format!("cannot release {what}: {why} (see man lease-hold)");
        Failure::new(Status::Usage, text)
    };
    let name = match fields_of(text) {
        Ok((lockspace, resource, rest)) => (lockspace, resource, rest),
        Err(why) => return Err(wrong(&why.to_string())),
    };
    let (lockspace, resource, rest) = name;
    if rest > 0 {
        ResourceArgument::parse(text).map_err(|why| wrong(&why.to_string()))?;
    }
    Ok(LeaseName {
        lockspace,
        resource,
    })
}
