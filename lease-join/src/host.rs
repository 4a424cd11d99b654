//! What this machine says of itself: its boot, which machine it is, a name at random.

use lease_core::host::memory::MachineId;
use lease_core::id::Name;
use lease_core::record::host_note::BootId;
use lease_core::tool::{Failure, Status};
use std::os::unix::fs::MetadataExt;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const PID_NAMESPACE: &str = "/proc/self/ns/pid";
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";

const SYSTEM_ID: &str = "/etc/machine-id";
const HARDWARE_ID: &str = "/sys/class/dmi/id/product_uuid";

/// Which machine this is, as far as it says. A container shows its host's hardware.
pub(crate) fn machine_id() -> MachineId {
    let known = |path| Some(read(path).ok()?.trim().to_owned()).filter(|id| !id.is_empty());
    MachineId {
        system: known(SYSTEM_ID),
        hardware: known(HARDWARE_ID),
    }
}

/// Sixteen bytes that differ at every boot.
pub(crate) fn boot_id() -> Result<BootId, Failure> {
    let text = read(BOOT_ID)?;
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Failure::new(Status::System, format!("{BOOT_ID} holds no boot id")))
}

/// The PID namespace that we are in: processes of another are not seen from here.
pub(crate) fn pid_namespace() -> Result<u64, Failure> {
    let found = std::fs::metadata(PID_NAMESPACE).map(|found| found.ino());
    found.map_err(|why| {
        Failure::new(
            Status::System,
            format!("cannot find {PID_NAMESPACE}: {why}"),
        )
    })
}

/// A host name that no other start of any lease-join has.
pub(crate) fn random_name() -> Result<Name, Failure> {
    Name::new_host(read(RANDOM_UUID)?.trim().as_bytes())
        .map_err(|why| Failure::new(Status::System, format!("{RANDOM_UUID}: {why}")))
}

fn read(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|why| Failure::new(Status::System, format!("cannot read {path}: {why}")))
}
