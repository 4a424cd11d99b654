//! Resources that are given by name: an index on the disk says where they lie.

use lease_core::device::Device;
use lease_core::index;
use lease_core::spec::{NamedSpec, ResourceArgument, ResourceSpec};
use lease_core::storage::{Access, Volume};
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use lease_core::tool::Failure;
use std::time::Duration;

/// All with their places. What an index says is true until the resource is acquired: if it is
/// deleted meanwhile, and another made there, the disk names that one.
pub(crate) fn with_places(arguments: &[ResourceArgument]) -> Result<Vec<ResourceSpec>, Failure> {
    let place = |argument: &ResourceArgument| match argument {
        ResourceArgument::Placed(spec) => Ok(spec.clone()),
        ResourceArgument::Named(spec) => locate(spec),
    };
    arguments.iter().map(place).collect()
}

fn locate(spec: &NamedSpec) -> Result<ResourceSpec, Failure> {
    let limit = Duration::from_secs(u64::from(DEFAULT_IO_TIMEOUT));
    let tried = format!("cannot acquire {spec}");
    let device = Device::open(&spec.path, Access::Read, limit)
        .map_err(|error| Failure::of_open_by_name(&tried, &spec.path, &error))?;
    let offset = index::locate(&device, device.size(), spec.lockspace, spec.name);
    let offset = offset.map_err(|why| why.failure(tried))?;
    Ok(spec.at(offset))
}
