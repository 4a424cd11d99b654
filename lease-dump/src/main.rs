//! lease-dump: what the disk says, as JSON.
//!
//! Operands in their order, areas in the order of the disk, one object each. What cannot be read
//! is said ([`tool::say`]) or stands in the object's `errors`, and the rest is printed all the
//! same.

mod dump;
mod events;
mod live;
mod local;
mod object;
mod operand;
mod output;

use clap::Parser;
use dump::TOOL;
use lease_core::registry::place::DEFAULT_RUN_DIR;
use lease_core::tool::{self, Status};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print lockspaces and resources as JSON, one object an area.
///
/// Sector size and area size are found out. A path alone is searched for areas from its start to
/// its end; a LOCKSPACE or RESOURCE must be what it says. Nothing is written.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Args {
    /// PATH, PATH:OFFSET, name:host_id:path:offset, or lockspace:resource:path:offset
    #[arg(value_name = "AREA", required_unless_present_any = ["local", "events"])]
    operands: Vec<OsString>,

    /// All host ids, those that nobody ever used too
    #[arg(short, long)]
    all: bool,

    /// Look twice, one renewal period apart, and say which hosts are alive
    #[arg(long)]
    live: bool,

    /// Ask the lease-joins of this host what they know; operands are names of lockspaces
    #[arg(long, conflicts_with_all = ["all", "live"])]
    local: bool,

    /// Print what events other hosts signal, one a line, as they come; operands as with --local
    #[arg(long, conflicts_with_all = ["all", "live", "local"])]
    events: bool,

    /// With --local or --events: where the lease-joins are found
    #[arg(long, value_name = "DIR", env = "LEASE_RUN_DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

fn main() -> ExitCode {
    let args: Args = match tool::parse(TOOL) {
        Ok(args) => args,
        Err(code) => return code,
    };
    tool::run(TOOL, || {
        if args.local {
            local::dump(&args.run_dir, &args.operands)?;
            return Ok(Status::Done.code());
        }
        if args.events {
            events::print(&args.run_dir, &args.operands)?;
            return Ok(Status::Done.code());
        }
        let mut dump = dump::Dump::new(args.all, args.live);
        for text in &args.operands {
            dump.operand(text)?;
        }
        Ok(dump.finish()?.code())
    })
}
