//! The command line.

use crate::cage::Wish;
use clap::Parser;
use lease_core::holder::acquire::Patience;
use lease_core::registry::place::DEFAULT_RUN_DIR;
use lease_core::spec::ResourceArgument;
use lease_core::tool::{Failure, Status, show};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The name that messages start with.
pub(crate) const TOOL: &str = "lease-hold";

/// Run a command while this host holds leases on resources
#[derive(Debug, Parser)]
#[command(
    name = "lease-hold",
    version,
    override_usage = "lease-hold [OPTIONS] RESOURCE... -- COMMAND [ARG]..."
)]
pub(crate) struct Args {
    /// What to hold: `lockspace:resource:path:offset[:path:offset...][:lver|:SH]`; by its name in
    /// an index, `lockspace:resource:path[:SH]`
    #[arg(value_name = "RESOURCE", required = true)]
    resources: Vec<OsString>,

    /// The command to run, with its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    command: Vec<OsString>,

    /// Never wait, not even to find out whether an owner is alive
    #[arg(short, long, conflicts_with = "wait")]
    nonblock: bool,

    /// Keep trying for so many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = parse_seconds)]
    wait: Option<Duration>,

    /// Exit code when somebody else holds it, or it was not had in time
    #[arg(short = 'E', long, value_name = "N", default_value_t = Status::Busy.code())]
    pub(crate) conflict_exit_code: u8,

    /// A shell command to run when the lease is lost
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_loss: Option<OsString>,

    /// What asks the command to end when the lease is lost
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", value_parser = parse_signal)]
    pub(crate) kill_signal: Signal,

    /// From there to SIGKILL (default: half of lease-join's --watchdog-timeout)
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,

    /// When the command ends, end what it has left behind too, and do not wait for it
    #[arg(long)]
    pub(crate) end_rest: bool,

    /// How to hold the command and all that it starts together
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Wish::Auto)]
    pub(crate) contain: Wish,

    /// Say more on stderr
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Where the lease-join of the lockspace is found
    #[arg(long, value_name = "DIR", env = "LEASE_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    pub(crate) run_dir: PathBuf,
}

impl Args {
    /// The RESOURCE arguments, checked.
    pub(crate) fn resources(&self) -> Result<Vec<ResourceArgument>, Failure> {
        let parse = |text: &OsString| {
            ResourceArgument::parse(text).map_err(|why| {
                let what = show(text);
                let text = format!("cannot acquire {what}: {why} (see man lease-hold)");
                Failure::new(Status::Usage, text)
            })
        };
        self.resources.iter().map(parse).collect()
    }

    /// COMMAND and its arguments.
    pub(crate) fn command(&self) -> &[OsString] {
        &self.command
    }

    /// For how long to try.
    pub(crate) fn patience(&self) -> Patience {
        match self.wait {
            None if self.nonblock => Patience::None,
            None => Patience::UntilKnown,
            Some(duration) => Patience::For(duration),
        }
    }
}

/// A signal by its name, with SIG or without, or by its number.
fn parse_signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    let number = text
        .parse()
        .ok()
        .and_then(|number: i32| Signal::try_from(number).ok());
    number
        .or_else(|| name.parse().ok())
        .ok_or_else(|| "there is no such signal".to_owned())
}

/// A number of seconds, perhaps with a fraction.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a number of seconds".to_owned())
}
