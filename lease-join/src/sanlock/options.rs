//! How sanlock's clients are to be served.

use anyhow::Context;
use lease_core::id::Name;
use std::path::PathBuf;

/// The daemon's own place for its socket.
pub(crate) const DEFAULT_SOCKET: &str = "/run/sanlock/sanlock.sock";

/// How sanlock's clients are to be served.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where its clients connect.
    pub(crate) socket: PathBuf,
    /// Where lease-hold finds lease-joins.
    pub(crate) run_dir: PathBuf,
    /// What this host is called in each lockspace.
    pub(crate) host_name: Name,
    /// t where a client asks for none.
    pub(crate) io_timeout: u8,
    /// W.
    pub(crate) watchdog_timeout: u16,
    /// The watchdog device.
    pub(crate) watchdog: Option<PathBuf>,
}

/// A name that no other start has, as sanlock makes one: random, and what this machine is called.
pub(crate) fn random_name() -> anyhow::Result<Name> {
    let random = crate::host::random_name()?;
    let machine = nix::unistd::gethostname().context("cannot find the name of this machine")?;
    let machine = machine.to_string_lossy().into_owned();
    let mut name = format!("{random}.{machine}").into_bytes();
    name.truncate(lease_core::id::HOST_NAME_MAX);
    Ok(Name::new_host(&name).unwrap_or(random))
}
