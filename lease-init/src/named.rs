//! Resources that an index knows by name: created, deleted, and the index made right again.
//!
//! Each change is made by whoever holds the index's lease: this program runs itself under
//! lease-hold for that, unless what started it holds the lease already. A resource that is deleted
//! is held too: so nobody else acquires it meanwhile.

use crate::args::{Args, TOOL};
use crate::plan::{IO_LIMIT, num_hosts, usage};
use lease_core::device::{self, Device};
use lease_core::disk::read_as;
use lease_core::format::Resource;
use lease_core::id::{Generation, HostId, Lver, Name};
use lease_core::index::{Index, IndexError};
use lease_core::record::index::INDEX_LEASE;
use lease_core::record::leader::Leader;
use lease_core::spec::{IndexSpec, Mode, NamedSpec, Place, ResourceArgument, ResourceSpec};
use lease_core::storage::{Access, Volume};
use lease_core::tool::{Failure, Status, show};
use serde::Deserialize;
use std::env;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Seconds that another change of the same index is waited for.
const WAIT: &str = "60";
/// Where lease-hold says what it holds.
const HELD: &str = "LEASE_LEASES";
/// Where that is kept for the program that a second lease-hold starts.
const HELD_AROUND: &str = "LEASE_LEASES_AROUND";
/// Bytes that hold the leader record of either sector size.
const FIRST_SECTOR: usize = 4096;

/// What is to be done with an index.
pub(crate) struct Job {
    what: What,
    /// The argument, for messages.
    text: String,
    lockspace: Name,
    path: PathBuf,
    /// Where it must lie, if that was said.
    offset: Option<u64>,
}

enum What {
    Create(Vec<NamedSpec>),
    Delete(Vec<NamedSpec>),
    Rebuild,
}

impl Job {
    /// The job that the arguments ask for; `None`: they ask for areas at offsets.
    pub(crate) fn of(args: &Args) -> Result<Option<Self>, Failure> {
        if args.rebuild {
            return Self::rebuild(args).map(Some);
        }
        let mut named = Vec::new();
        for text in &args.resources {
            let parsed = ResourceArgument::parse(text);
            match parsed.map_err(|error| usage(&show(text), error))? {
                ResourceArgument::Named(spec) => named.push(spec),
                ResourceArgument::Placed(_) if args.delete => {
                    let why = "only what an index knows by its name can be deleted: \
                               lockspace:resource:path";
                    return Err(usage(&show(text), why));
                }
                ResourceArgument::Placed(_) => {}
            }
        }
        let Some(first) = named.first() else {
            return Ok(None);
        };
        let text = first.to_string();
        if named.len() < args.resources.len() + args.lockspaces.len() + args.indexes.len() {
            let why = "names and offsets cannot be mixed; run lease-init once for each";
            return Err(usage(&text, why));
        }
        if args.clear {
            return Err(usage(&text, "what an index knows is deleted, by --delete"));
        }
        let index = (first.lockspace, first.path.clone());
        for (i, spec) in named.iter().enumerate() {
            check(spec, &index, &named[..i])?;
        }
        let (lockspace, path) = index;
        Ok(Some(Self {
            what: match args.delete {
                true => What::Delete(named),
                false => What::Create(named),
            },
            text,
            lockspace,
            path,
            offset: None,
        }))
    }

    fn rebuild(args: &Args) -> Result<Self, Failure> {
        let [text] = args.indexes.as_slice() else {
            return Err(usage("", "--rebuild takes one index"));
        };
        let spec = IndexSpec::parse(text).map_err(|error| usage(&show(text), error))?;
        if !args.resources.is_empty() || !args.lockspaces.is_empty() {
            return Err(usage(&show(text), "--rebuild formats nothing"));
        }
        Ok(Self {
            what: What::Rebuild,
            text: show(text),
            lockspace: spec.lockspace,
            path: spec.place.path,
            offset: Some(spec.place.offset),
        })
    }

    /// Does it, or becomes a lease-hold that runs this program again with what it needs.
    pub(crate) fn run(&self, args: &Args) -> Result<(), Failure> {
        let device = self.open(Access::Read)?;
        let index = self.index(&device)?;
        self.check_geometry(args, &index)?;
        self.look_ahead(&device, &index)?;
        let missing = self.not_held(&device, &index)?;
        if !missing.is_empty() {
            return Err(self.become_lease_hold(&missing));
        }
        let device = self.open(Access::Write)?;
        match &self.what {
            What::Create(specs) => specs
                .iter()
                .try_for_each(|spec| self.create(args, &device, &index, spec)),
            What::Delete(specs) => specs
                .iter()
                .try_for_each(|spec| self.delete(&device, &index, spec)),
            What::Rebuild => index
                .rebuild(&device, device.size())
                .map(drop)
                .map_err(|error| self.failed(&self.text, &error)),
        }
    }

    fn open(&self, access: Access) -> Result<Device, Failure> {
        Device::open(&self.path, access, IO_LIMIT)
            .map_err(|error| Failure::of_open_by_name(self.tried(&self.text), &self.path, &error))
    }

    fn index(&self, device: &Device) -> Result<Index, Failure> {
        let failed = |error: IndexError| self.failed(&self.text, &error);
        let index = match self.offset {
            Some(offset) => Index::read(device, offset),
            None => Index::find(device, device.size(), self.lockspace),
        }
        .map_err(failed)?;
        if index.header().lockspace != self.lockspace {
            let why = format!("it is an index of lockspace {}", index.header().lockspace);
            return Err(self.cannot(Status::Invalid, &self.text, why));
        }
        Ok(index)
    }

    fn check_geometry(&self, args: &Args, index: &Index) -> Result<(), Failure> {
        let geometry = index.header().geometry;
        let other = args
            .sector_size
            .is_some_and(|size| size != geometry.sector())
            || args.align_size.is_some_and(|size| size != geometry.align());
        match other {
            true => {
                let why = format!("its index is for {geometry}; leave -Z and -A out");
                Err(usage(&self.text, why))
            }
            false => Ok(()),
        }
    }

    /// What cannot be is said before any lease is taken.
    fn look_ahead(&self, device: &Device, index: &Index) -> Result<(), Failure> {
        let entries = index.entries(device);
        let entries = entries.map_err(|fault| self.failed(&self.text, &fault.into()))?;
        let (specs, there) = match &self.what {
            What::Create(specs) => (specs, false),
            What::Delete(specs) => (specs, true),
            What::Rebuild => return Ok(()),
        };
        for spec in specs {
            let found = entries.find(spec.name);
            let error = match found.map_err(|error| self.failed(&spec.to_string(), &error))? {
                Some(offset) if !there => IndexError::Exists(offset),
                None if there => IndexError::Missing,
                _ => continue,
            };
            return Err(self.failed(&spec.to_string(), &error));
        }
        Ok(())
    }

    /// The leases that it takes and that whoever started this program does not hold.
    fn not_held(&self, device: &Device, index: &Index) -> Result<Vec<ResourceSpec>, Failure> {
        let mut wanted = vec![ResourceSpec {
            lockspace: self.lockspace,
            name: INDEX_LEASE,
            places: vec![Place {
                path: self.path.clone(),
                offset: index.lease_at(),
            }],
            mode: Mode::Exclusive,
            lver: None,
        }];
        if let What::Delete(specs) = &self.what {
            for spec in specs {
                wanted.extend(self.resource_of(device, index, spec)?);
            }
        }
        let held = held_leases();
        let is_missing = |spec: &ResourceSpec| !held.iter().any(|lease| lease.is(spec, device));
        wanted.retain(is_missing);
        Ok(wanted)
    }

    /// The resource that an entry leads to, where it is what the entry says.
    fn resource_of(
        &self,
        device: &Device,
        index: &Index,
        spec: &NamedSpec,
    ) -> Result<Option<ResourceSpec>, Failure> {
        let failed = |error: IndexError| self.failed(&spec.to_string(), &error);
        let entries = index
            .entries(device)
            .map_err(|fault| failed(fault.into()))?;
        let Some(offset) = entries.find(spec.name).map_err(failed)? else {
            return Ok(None);
        };
        let found = spec.at(offset);
        Ok(leader_at(device, &found).map(|_| found))
    }

    fn create(
        &self,
        args: &Args,
        device: &Device,
        index: &Index,
        spec: &NamedSpec,
    ) -> Result<(), Failure> {
        let text = spec.to_string();
        let failed = |error: &IndexError| self.failed(&text, error);
        let geometry = index.header().geometry;
        let resource = Resource {
            geometry,
            lockspace: spec.lockspace,
            name: spec.name,
            num_hosts: num_hosts(args, geometry, &text)?,
        };
        let mut size = device.size();
        if args.create && device.is_file() {
            let end = index
                .next_end(device)
                .map_err(|fault| failed(&fault.into()))?;
            if let Some(end) = end.filter(|end| *end > size) {
                device::grow(&self.path, end).map_err(|errno| {
                    let shown = show(self.path.as_os_str());
                    let why = format!("growing {shown}: {}", errno.desc());
                    self.cannot(Status::CannotCreate, &text, why)
                })?;
                size = end;
            }
        }
        let offset = index
            .create(device, size, &resource)
            .map_err(|error| failed(&error))?;
        let line = format!("{}\n", spec.at(offset));
        let mut stdout = std::io::stdout();
        let written = stdout.write_all(line.as_bytes());
        written.and_then(|()| stdout.flush()).map_err(|why| {
            let why = format!("it is made, at offset {offset}, but stdout: {why}");
            self.cannot(Status::Io, &text, why)
        })
    }

    fn delete(&self, device: &Device, index: &Index, spec: &NamedSpec) -> Result<(), Failure> {
        let text = spec.to_string();
        let failed = |error: &IndexError| self.failed(&text, error);
        let there = self.resource_of(device, index, spec)?;
        let leader = there.as_ref().and_then(|found| leader_at(device, found));
        let resource = Resource {
            geometry: index.header().geometry,
            lockspace: spec.lockspace,
            name: spec.name,
            num_hosts: leader.map_or(1, |leader| leader.num_hosts()),
        };
        index
            .delete(device, &resource, leader.is_some())
            .map(drop)
            .map_err(|error| failed(&error))
    }

    fn become_lease_hold(&self, missing: &[ResourceSpec]) -> Failure {
        let ours = env::current_exe().unwrap_or_else(|_| PathBuf::from(TOOL));
        let beside = ours.with_file_name("lease-hold");
        let tool = match beside.exists() {
            true => beside,
            false => PathBuf::from("lease-hold"),
        };
        // Another change of the index is over soon. Who holds a resource is not waited for.
        let (index, resources) = missing.split_at(usize::from(missing[0].name == INDEX_LEASE));
        let mut command = Command::new(&tool);
        match index {
            [] => command
                .arg("-n")
                .args(resources.iter().map(ResourceSpec::to_string)),
            index => command
                .args(["-w", WAIT])
                .args(index.iter().map(ResourceSpec::to_string)),
        };
        command.arg("--").arg(ours).args(env::args_os().skip(1));
        if let Some(held) = env::var_os(HELD) {
            command.env(HELD_AROUND, held);
        }
        let why = command.exec();
        let why = format!(
            "its index can only be changed under a lease, and {} cannot be run: {why}",
            show(tool.as_os_str())
        );
        self.cannot(Status::NoCommand, &self.text, why)
    }

    fn failed(&self, text: &str, error: &IndexError) -> Failure {
        error.failure(self.tried(text))
    }

    fn cannot(&self, status: Status, text: &str, why: String) -> Failure {
        Failure::new(status, format!("{}: {why}", self.tried(text)))
    }

    fn tried(&self, text: &str) -> String {
        let verb = match &self.what {
            What::Create(_) => "format",
            What::Delete(_) => "delete",
            What::Rebuild => "rebuild",
        };
        format!("cannot {verb} {text}")
    }
}

/// One resource after another, all of one index.
fn check(spec: &NamedSpec, index: &(Name, PathBuf), before: &[NamedSpec]) -> Result<(), Failure> {
    let text = spec.to_string();
    if spec.mode == Mode::Shared {
        return Err(usage(
            &text,
            "SH at its end is for lease-hold; leave it out",
        ));
    }
    if spec.name == INDEX_LEASE {
        return Err(usage(&text, "that is the name of the index's own lease"));
    }
    if (spec.lockspace, &spec.path) != (index.0, &index.1) {
        let why = "it is in another index than the first; run lease-init once for each index";
        return Err(usage(&text, why));
    }
    match before.iter().any(|other| other.name == spec.name) {
        true => Err(usage(&text, "it stands there twice")),
        false => Ok(()),
    }
}

/// A lease that whoever started this program says it holds: one of LEASE_LEASES.
#[derive(Deserialize)]
struct HeldLease {
    lockspace: Name,
    resource: Name,
    host_id: HostId,
    generation: Generation,
    lver: Lver,
    mode: Mode,
}

impl HeldLease {
    /// Whether it is this lease, and the disk says so too.
    fn is(&self, spec: &ResourceSpec, device: &Device) -> bool {
        let owned = |leader: Leader| {
            let owner = leader.owner();
            leader.lver() == self.lver
                && owner.is_some_and(|owner| owner.same_life(self.host_id, self.generation))
        };
        (self.lockspace, self.resource, self.mode) == (spec.lockspace, spec.name, spec.mode)
            && leader_at(device, spec).is_some_and(owned)
    }
}

/// What the lease-hold that has started us holds, and the one around that, if there are two.
fn held_leases() -> Vec<HeldLease> {
    let of = |name| {
        let text = env::var(name).unwrap_or_default();
        serde_json::from_str::<Vec<HeldLease>>(&text).unwrap_or_default()
    };
    [HELD, HELD_AROUND].into_iter().flat_map(of).collect()
}

/// The leader of a resource, if it lies where it should.
fn leader_at(device: &Device, spec: &ResourceSpec) -> Option<Leader> {
    let place = spec.places.first()?;
    let leader = read_as(device, place.offset, FIRST_SECTOR, Leader::decode).ok()?;
    let names = |leader: &Leader| (*leader.lockspace(), *leader.resource());
    leader
        .ok()
        .filter(|leader| names(leader) == (spec.lockspace, spec.name))
}
