//! The command line.

use clap::Parser;
use lease_core::layout::{AlignSize, SectorSize};
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use std::ffi::OsString;

/// The name that messages start with.
pub(crate) const TOOL: &str = "lease-init";

/// Format lockspaces, resources and indexes, in sanlock's on-disk format. Without --force nothing
/// is overwritten but zeros; with it, nothing that is alive
#[derive(Parser)]
#[command(name = TOOL, version)]
#[command(
    override_usage = "lease-init [OPTION]... [-s LOCKSPACE]... [-x INDEX]... [-r RESOURCE]..."
)]
#[command(group(clap::ArgGroup::new("areas").required(true).multiple(true)))]
pub(crate) struct Args {
    /// A lockspace: name:0:path:offset
    #[arg(short = 's', value_name = "LOCKSPACE", group = "areas")]
    pub(crate) lockspaces: Vec<OsString>,

    /// A resource: lockspace:resource:path:offset[:path:offset...]; lockspace:resource:path, the
    /// next free place of an index
    #[arg(short = 'r', value_name = "RESOURCE", group = "areas")]
    pub(crate) resources: Vec<OsString>,

    /// An index, of resources that are known by name: lockspace:path:offset
    #[arg(short = 'x', value_name = "INDEX", group = "areas")]
    pub(crate) indexes: Vec<OsString>,

    /// Delete the resources, which an index knows by name
    #[arg(long, requires = "resources", conflicts_with_all = ["force", "create"])]
    pub(crate) delete: bool,

    /// Make the entries of an index say what its areas are
    #[arg(long, requires = "indexes", conflicts_with_all = ["force", "create", "delete"])]
    pub(crate) rebuild: bool,

    /// Bytes of a sector: 512 or 4096 [default: 512 in a file, a block device's own]
    #[arg(short = 'Z', long, value_name = "BYTES", value_parser = sector_size)]
    pub(crate) sector_size: Option<SectorSize>,

    /// Bytes of an area: 1M, 2M, 4M or 8M [default: 1M for sectors of 512 bytes, 8M for 4096]
    #[arg(short = 'A', long, value_name = "SIZE", value_parser = align_size)]
    pub(crate) align_size: Option<AlignSize>,

    /// Seconds that one I/O of a host in the lockspace may take
    #[arg(short = 'o', long, value_name = "SECONDS", default_value_t = DEFAULT_IO_TIMEOUT)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) io_timeout: u8,

    /// The largest host id that can use a resource; smaller means less I/O [default: the most]
    #[arg(long, value_name = "N", requires = "resources")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_hosts: Option<u64>,

    /// Leave what is left of a resource that was deleted, instead of one to be used
    #[arg(long, requires = "resources", conflicts_with_all = ["delete", "rebuild"])]
    pub(crate) clear: bool,

    /// Make a missing file, and a file longer that is too short
    #[arg(long)]
    pub(crate) create: bool,

    /// Permissions of a file that is made
    #[arg(long, value_name = "MODE", default_value = "0660", requires = "create")]
    #[arg(value_parser = mode)]
    pub(crate) mode: u32,

    /// Format over what stands there, unless it is alive
    #[arg(long)]
    pub(crate) force: bool,
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
