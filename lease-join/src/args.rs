//! The command line.

use crate::sanlock::options::{self, DEFAULT_SOCKET};
use crate::signal::parse;
use clap::Parser;
use lease_core::host::config::Config;
use lease_core::id::Name;
use lease_core::record::host_note::WATCHDOG_MAX;
use lease_core::registry::message::SetEvent;
use lease_core::registry::place::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR};
use lease_core::spec::{HostField, LockspaceSpec};
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use lease_core::tool::{Failure, Status, show};
use std::ffi::OsString;
use std::path::PathBuf;

/// The name that messages start with.
pub(crate) const TOOL: &str = "lease-join";

/// Hold a host id in a lockspace by a heartbeat, in the foreground
#[derive(Debug, Parser)]
#[command(name = "lease-join", version)]
pub(crate) struct Args {
    /// The lockspace and the host id to hold: name:host_id:path:offset; auto: one that is free
    #[arg(value_name = "LOCKSPACE", required_unless_present = "sanlock_socket")]
    lockspace: Option<OsString>,

    /// A name that no other machine has (default: random at each start)
    #[arg(short = 'e', long, value_name = "NAME")]
    host_name: Option<OsString>,

    /// Seconds that one I/O may take: 1..255 (default: what the lockspace was formatted with)
    #[arg(short = 'o', long, value_name = "SECONDS", value_parser = clap::value_parser!(u8).range(1..))]
    io_timeout: Option<u8>,

    /// Promise that this host is dead so many seconds after the loss of its lease: 1..60
    #[arg(long, value_name = "SECONDS", default_value_t = WATCHDOG_MAX,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(WATCHDOG_MAX)))]
    watchdog_timeout: u16,

    /// A watchdog device that resets this host if nothing else ends what is guarded
    #[arg(long, value_name = "DEVICE")]
    pub(crate) watchdog: Option<PathBuf>,

    /// Serve sanlock's clients, and join the lockspaces that they add
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true,
        default_missing_value = DEFAULT_SOCKET, conflicts_with = "lockspace")]
    sanlock_socket: Option<PathBuf>,

    /// Have the lease-join of LOCKSPACE, a name, signal `HOST:NUMBER[:DATA]`; HOST is an id, or all
    #[arg(long, value_name = "EVENT", conflicts_with_all = ["host_name", "io_timeout",
        "watchdog", "sanlock_socket"])]
    signal: Option<OsString>,

    /// Where lease-hold finds this lease-join
    #[arg(long, value_name = "DIR", env = "LEASE_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    pub(crate) run_dir: PathBuf,

    /// Where the host id is remembered that auto has taken
    #[arg(long, value_name = "DIR", env = "LEASE_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

impl Args {
    /// How sanlock's clients are to be served, if that is asked for.
    pub(crate) fn sanlock(&self) -> anyhow::Result<Option<options::Options>> {
        let Some(socket) = &self.sanlock_socket else {
            return Ok(None);
        };
        let host_name = match self.host_name()? {
            Some(name) => name,
            None => options::random_name()?,
        };
        Ok(Some(options::Options {
            socket: socket.clone(),
            run_dir: self.run_dir.clone(),
            host_name,
            io_timeout: self.io_timeout.unwrap_or(DEFAULT_IO_TIMEOUT),
            watchdog_timeout: self.watchdog_timeout,
            watchdog: self.watchdog.clone(),
        }))
    }

    /// What event is to be signalled, and by which lockspace, if that is asked for.
    pub(crate) fn signal(&self) -> Result<Option<(Name, SetEvent)>, Failure> {
        let Some(wanted) = &self.signal else {
            return Ok(None);
        };
        let usage = |why: String| {
            let text = format!("cannot signal {}: {why} (see man lease-join)", show(wanted));
            Failure::new(Status::Usage, text)
        };
        let lockspace = self.lockspace.as_deref().unwrap_or_default();
        let name = Name::new(lockspace.as_encoded_bytes()).map_err(|why| {
            let why = format!("{}: {why}; name the lockspace only", show(lockspace));
            usage(why)
        })?;
        let event = parse(wanted).map_err(|why| usage(why.to_owned()))?;
        Ok(Some((name, event)))
    }

    /// What is asked for, checked.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let text = self.lockspace.clone().unwrap_or_default();
        let usage = |why: String| {
            let what = show(&text);
            Failure::new(
                Status::Usage,
                format!("cannot join {what}: {why} (see man lease-join)"),
            )
        };
        let lockspace = LockspaceSpec::parse(&text).map_err(|e| usage(e.to_string()))?;
        let host = match lockspace.host {
            HostField::Id(host) => Some(host),
            HostField::Auto => None,
            HostField::All => {
                let why = "host id 0 is for formatting; a host joins with 1 to 2000, or auto";
                return Err(usage(why.into()));
            }
        };
        let path = std::path::absolute(&lockspace.place.path).map_err(|why| {
            let text = format!("cannot join {lockspace}: no working directory: {why}");
            Failure::new(Status::System, text)
        })?;
        Ok(Config {
            lockspace,
            path,
            host,
            name: self.host_name()?,
            io_timeout: self.io_timeout,
            watchdog_timeout: self.watchdog_timeout,
        })
    }

    /// The host name that was asked for, checked.
    fn host_name(&self) -> Result<Option<Name>, Failure> {
        let Some(text) = &self.host_name else {
            return Ok(None);
        };
        let name = Name::new_host(text.as_encoded_bytes()).map_err(|why| {
            let text = show(text);
            Failure::new(Status::Usage, format!("cannot join as host {text}: {why}"))
        })?;
        Ok(Some(name))
    }
}
