//! The command line.

use crate::aside::Aside;
use crate::auto::Auto;
use crate::cage::Wish;
use crate::order;
use crate::value::ValueFile;
use clap::Parser;
use lease_core::holder::acquire::Patience;
use lease_core::record::request::Force;
use lease_core::registry::order::Order;
use lease_core::registry::place::DEFAULT_RUN_DIR;
use lease_core::spec::ResourceArgument;
use lease_core::tool::{Failure, Status, show};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name that messages start with.
pub(crate) const TOOL: &str = "lease-hold";

/// The lockspace of libvirt's `auto_disk_leases`.
const LIBVIRT: &str = "__LIBVIRT__DISKS__";

/// Run a command while this host holds leases on resources
#[derive(Debug, Parser)]
#[command(
    name = "lease-hold",
    version,
    override_usage = "lease-hold [OPTIONS] RESOURCE... -- COMMAND [ARG]...\n       \
                      lease-hold [OPTIONS] --pid PID [RESOURCE...]\n       \
                      lease-hold [OPTIONS] --to PID --acquire|--release RESOURCE...",
    group = clap::ArgGroup::new("order").args(["acquire", "release"])
)]
pub(crate) struct Args {
    /// What to hold: `lockspace:resource:path:offset[:path:offset...][:lver|:SH]`; by its name in
    /// an index, `lockspace:resource:path[:SH]`; `@FILE`: those in a file, one a line
    #[arg(value_name = "RESOURCE", required_unless_present_any = ["auto_disks", "pid"])]
    resources: Vec<OsString>,

    /// The command to run, with its arguments
    #[arg(value_name = "COMMAND", last = true, required_unless_present_any = ["pid", "to"])]
    command: Vec<OsString>,

    /// Also hold the lease of each disk that COMMAND, a QEMU, writes: DIR/MD5, as libvirt does
    #[arg(long, value_name = "DIR")]
    pub(crate) auto_disks: Option<PathBuf>,

    /// The lockspace of those
    #[arg(long, value_name = "NAME", default_value = LIBVIRT, requires = "auto_disks")]
    pub(crate) lockspace: OsString,
    /// Guard this process, which runs already, instead of a command
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    #[arg(conflicts_with_all = ["command", "to", "end_rest", "contain", "value", "auto_disks"])]
    pid: Option<i32>,

    /// Change what the lease-hold holds that guards this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    #[arg(conflicts_with_all = ["command", "on_loss", "kill_signal", "grace", "end_rest"])]
    #[arg(conflicts_with_all = ["contain", "value", "auto_disks"], requires = "order")]
    to: Option<i32>,

    /// With --to: acquire these too
    #[arg(long, requires = "to")]
    acquire: bool,

    /// With --to: release these, `lockspace:resource` each
    #[arg(long, requires = "to")]
    release: bool,

    /// Never wait, not even to find out whether an owner is alive
    #[arg(short, long, conflicts_with = "wait")]
    nonblock: bool,

    /// Keep trying for so many seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = parse_seconds)]
    wait: Option<Duration>,

    /// Exit code when somebody else holds it, or it was not had in time
    #[arg(short = 'E', long, value_name = "N", default_value_t = Status::Busy.code())]
    pub(crate) conflict_exit_code: u8,

    /// A file that gets the lease's value, and whose content is handed to the next holder
    #[arg(long, value_name = "FILE")]
    value: Option<PathBuf>,

    /// A shell command to run when the lease is lost
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_loss: Option<OsString>,

    /// With --wait: ask whoever holds it to stop, or kill it
    #[arg(long, value_name = "HOW", value_enum, num_args = 0..=1, require_equals = true,
        default_missing_value = "stop", requires = "wait",
        conflicts_with = "nonblock")]
    request: Option<How>,

    /// A shell command to run instead of a signal when another host asks for the lease
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_request: Option<OsString>,

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

    /// With --pid: end the process when it holds nothing any more and nobody locks this file for 8t
    #[arg(long, value_name = "FILE", requires = "pid")]
    pub(crate) kept_by: Option<PathBuf>,

    /// Say more on stderr
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Where the lease-join of the lockspace is found
    #[arg(long, value_name = "DIR", env = "LEASE_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    pub(crate) run_dir: PathBuf,
}

/// How a holder is asked to let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// As it wishes
    Stop,
    /// At once, by SIGKILL
    Kill,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Run this command.
    Run(Vec<OsString>, Vec<ResourceArgument>),
    /// Adopt this process.
    Adopt(i32, Vec<ResourceArgument>),
    /// Give this order to who guards this process.
    Order(i32, Order),
}

impl Args {
    /// The RESOURCE arguments, checked.
    pub(crate) fn resources(&self) -> Result<Vec<ResourceArgument>, Failure> {
        let mut resources = Vec::new();
        for text in &self.resources {
            match text.as_bytes().strip_prefix(b"@") {
                Some(file) => resources.extend(in_file(Path::new(OsStr::from_bytes(file)))?),
                None => resources.push(parse(text, String::new())?),
            }
        }
        Ok(resources)
    }

    /// The leases of the disks of COMMAND, if they are asked for.
    pub(crate) fn auto(&self) -> Result<Auto, Failure> {
        match &self.auto_disks {
            Some(directory) => Auto::of(&self.command, directory, &self.lockspace),
            None => Ok(Auto::default()),
        }
    }

    /// The file of --value, if there is one, which can be written; beside so many resources.
    pub(crate) fn value(&self, resources: usize) -> Result<Option<ValueFile>, Failure> {
        match (&self.value, resources) {
            (Some(path), 1) => ValueFile::check(path).map(Some),
            (Some(_), _) => {
                let text = "--value is of one RESOURCE; for another, let COMMAND be a lease-hold";
                Err(Failure::new(Status::Usage, text))
            }
            (None, _) => Ok(None),
        }
    }

    /// How whoever holds it is asked to let go of it, if that is wanted.
    pub(crate) fn request(&self) -> Option<Force> {
        self.request.map(|how| match how {
            How::Stop => Force::Stop,
            How::Kill => Force::Kill,
        })
    }

    /// What is to be done.
    pub(crate) fn task(&self) -> Result<Task, Failure> {
        match (self.pid, self.to) {
            (Some(pid), _) => Ok(Task::Adopt(pid, self.resources()?)),
            (None, Some(to)) => Ok(Task::Order(to, self.order()?)),
            (None, None) => Ok(Task::Run(self.command.clone(), self.resources()?)),
        }
    }

    /// With what to end for what came of an order.
    pub(crate) fn exit_code(&self, status: u8) -> u8 {
        match status == Status::Busy.code() {
            true => self.conflict_exit_code,
            false => status,
        }
    }

    fn order(&self) -> Result<Order, Failure> {
        if self.acquire {
            let mut resources = self.resources()?;
            resources.iter_mut().for_each(order::make_absolute);
            let patience = self.patience();
            return Ok(Order::Acquire {
                resources,
                patience,
            });
        }
        let leases = self.resources.iter().map(order::lease_name);
        let leases = leases.collect::<Result<_, _>>()?;
        Ok(Order::Release { leases })
    }

    /// What is run aside when the lease is lost, and when another host asks for it.
    pub(crate) fn aside(&self) -> Aside {
        Aside {
            on_loss: self.on_loss.clone(),
            on_request: self.on_request.clone(),
            environment: Vec::new(),
            running: None,
        }
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

/// A RESOURCE, and where it stands.
fn parse(text: &OsString, place: String) -> Result<ResourceArgument, Failure> {
    ResourceArgument::parse(text).map_err(|why| {
        let what = show(text);
        let text = format!("cannot acquire {what}{place}: {why} (see man lease-hold)");
        Failure::new(Status::Usage, text)
    })
}

/// Those in a file, one a line. Empty lines and those that start with # are nothing.
fn in_file(file: &Path) -> Result<Vec<ResourceArgument>, Failure> {
    let shown = show(file.as_os_str());
    let content = std::fs::read(file).map_err(|why| {
        let status = why.raw_os_error().map(Errno::from_raw);
        let status = status.map_or(Status::System, Status::of_errno);
        Failure::new(status, format!("cannot read @{shown}: {why}"))
    })?;
    let mut resources = Vec::new();
    for (number, line) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if !line.is_empty() && !line.starts_with(b"#") {
            let place = format!(" in line {number} of {shown}");
            resources.push(parse(&OsStr::from_bytes(line).to_owned(), place)?);
        }
    }
    if resources.is_empty() {
        let text = format!("cannot acquire anything: there is no RESOURCE in @{shown}");
        return Err(Failure::new(Status::Usage, text));
    }
    Ok(resources)
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
