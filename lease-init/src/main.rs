//! lease-init: formats lockspaces, resources and indexes.
//!
//! In the order of execution: everything that was asked for is checked ([`plan`]), every place is
//! looked at ([`look`]), and only then the first byte is written. What an index knows by name is
//! another matter ([`named`]): hosts use it meanwhile.

mod foreign;
mod look;
mod named;
mod plan;

use clap::Parser;
use lease_core::layout::{AlignSize, SectorSize};
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use lease_core::tool::{self, Status};
use std::ffi::OsString;
use std::process::ExitCode;

const TOOL: &str = "lease-init";

/// Format lockspaces, resources and indexes, in sanlock's on-disk format. Without --force nothing
/// is overwritten but zeros; with it, nothing that is alive
#[derive(Parser)]
#[command(name = TOOL, version)]
#[command(
    override_usage = "lease-init [OPTION]... [-s LOCKSPACE]... [-x INDEX]... [-r RESOURCE]..."
)]
#[command(group(clap::ArgGroup::new("areas").required(true).multiple(true)))]
struct Args {
    /// A lockspace: name:0:path:offset
    #[arg(short = 's', value_name = "LOCKSPACE", group = "areas")]
    lockspaces: Vec<OsString>,

    /// A resource: lockspace:resource:path:offset[:path:offset...]; lockspace:resource:path, the
    /// next free place of an index
    #[arg(short = 'r', value_name = "RESOURCE", group = "areas")]
    resources: Vec<OsString>,

    /// An index, of resources that are known by name: lockspace:path:offset
    #[arg(short = 'x', value_name = "INDEX", group = "areas")]
    indexes: Vec<OsString>,

    /// Delete the resources, which an index knows by name
    #[arg(long, requires = "resources", conflicts_with_all = ["force", "create"])]
    delete: bool,

    /// Make the entries of an index say what its areas are
    #[arg(long, requires = "indexes", conflicts_with_all = ["force", "create", "delete"])]
    rebuild: bool,

    /// Bytes of a sector: 512 or 4096 [default: 512 in a file, a block device's own]
    #[arg(short = 'Z', long, value_name = "BYTES", value_parser = sector_size)]
    sector_size: Option<SectorSize>,

    /// Bytes of an area: 1M, 2M, 4M or 8M [default: 1M for sectors of 512 bytes, 8M for 4096]
    #[arg(short = 'A', long, value_name = "SIZE", value_parser = align_size)]
    align_size: Option<AlignSize>,

    /// Seconds that one I/O of a host in the lockspace may take
    #[arg(short = 'o', long, value_name = "SECONDS", default_value_t = DEFAULT_IO_TIMEOUT)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    io_timeout: u8,

    /// The largest host id that can use a resource; smaller means less I/O [default: the most]
    #[arg(long, value_name = "N", requires = "resources")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    max_hosts: Option<u64>,

    /// Make a missing file, and a file longer that is too short
    #[arg(long)]
    create: bool,

    /// Permissions of a file that is made
    #[arg(long, value_name = "MODE", default_value = "0660", requires = "create")]
    #[arg(value_parser = mode)]
    mode: u32,

    /// Format over what stands there, unless it is alive
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    let args: Args = match tool::parse(TOOL) {
        Ok(args) => args,
        Err(code) => return code,
    };
    tool::run(TOOL, || {
        if let Some(job) = named::Job::of(&args)? {
            job.run(&args)?;
            return Ok(Status::Done.code());
        }
        let plan = plan::make(&args)?;
        look::at(&plan, args.force)?;
        plan.carry_out(args.mode)?;
        Ok(Status::Done.code())
    })
}

fn sector_size(text: &str) -> Result<SectorSize, String> {
    let size = text.parse().ok().and_then(SectorSize::from_bytes);
    size.ok_or_else(|| "a sector has 512 or 4096 bytes".into())
}

fn align_size(text: &str) -> Result<AlignSize, String> {
    let mebibytes = text.strip_suffix('M').and_then(|n| n.parse().ok());
    let size = mebibytes.and_then(AlignSize::from_mebibytes);
    size.ok_or_else(|| "an area has 1M, 2M, 4M or 8M".into())
}

fn mode(text: &str) -> Result<u32, String> {
    let octal = !text.is_empty() && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| octal && *mode <= 0o777)
        .ok_or_else(|| "permissions are an octal number up to 0777".into())
}
