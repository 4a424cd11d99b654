//! lease-dump: what the disk says, as JSON.
//!
//! Operands in their order, areas in the order of the disk, one object each. What cannot be read
//! is said ([`tool::say`]) or stands in the object's `errors`, and the rest is printed all the same.

mod dump;
mod live;
mod object;
mod operand;

use clap::Parser;
use lease_core::tool;
use std::ffi::OsString;
use std::process::ExitCode;

const TOOL: &str = "lease-dump";

/// Print lockspaces and resources as JSON, one object an area.
///
/// Sector size and area size are found out. A path alone is searched for areas from its start to
/// its end; a LOCKSPACE or RESOURCE must be what it says. Nothing is written.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Args {
    /// PATH, PATH:OFFSET, name:host_id:path:offset, or lockspace:resource:path:offset
    #[arg(value_name = "AREA", required = true)]
    operands: Vec<OsString>,

    /// All host ids, those that nobody ever used too
    #[arg(short, long)]
    all: bool,

    /// Look twice, one renewal period apart, and say which hosts are alive
    #[arg(long)]
    live: bool,
}

fn main() -> ExitCode {
    let args: Args = match tool::parse(TOOL) {
        Ok(args) => args,
        Err(code) => return code,
    };
    tool::run(TOOL, || {
        let mut dump = dump::Dump::new(args.all, args.live);
        for text in &args.operands {
            dump.operand(text)?;
        }
        Ok(dump.finish()?.code())
    })
}
