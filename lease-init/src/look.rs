//! What stands where an area is to be formatted, and whether it may go.
//!
//! Without --force only zeros may, and those on a disk that carries nothing else. With it,
//! anything that is not alive: a lockspace in which no heartbeat changes for 3t, a resource that
//! nobody owns or shares. An owner that may be dead counts: only in its own lockspace can that be
//! judged, and the version of a lease that is formatted anew starts at 0 under a holder that still
//! runs.

use crate::args::TOOL;
use crate::foreign;
use crate::plan::{Area, Disk, Plan, cannot};
use lease_core::clock::{BootClock, Clock};
use lease_core::device::Device;
use lease_core::disk::{Disk as _, Fault};
use lease_core::id::HostId;
use lease_core::storage::Volume;
use lease_core::survey::{self, Content, Hosts, Lease, STEP};
use lease_core::timing::{DEFAULT_IO_TIMEOUT, Timing};
use lease_core::tool::{self, Failure, Status};
use std::io::IsTerminal;
use std::time::Duration;

/// Fails if anything stands in the way of the plan.
pub(crate) fn at(plan: &Plan, force: bool) -> Result<(), Failure> {
    let mut watched = Vec::new();
    for disk in &plan.disks {
        let Disk {
            path,
            device: Some(device),
            areas,
            ..
        } = disk
        else {
            continue;
        };
        if let (false, Some(area)) = (force, areas.first()) {
            foreign::refuse(path, &area.text)?;
        }
        for area in areas {
            Look { device, area }.judge(force, &mut watched)?;
        }
    }
    watch(&watched)
}

/// One area of the plan, on a disk that exists.
#[derive(Clone, Copy)]
struct Look<'a> {
    device: &'a Device,
    area: &'a Area,
}

impl<'a> Look<'a> {
    fn judge(self, force: bool, watched: &mut Vec<Watched<'a>>) -> Result<(), Failure> {
        let (offset, size) = (self.area.offset, self.device.size());
        let around = survey::enclosing_area(self.device, offset, size);
        if let Some(around) = around.map_err(|fault| self.unreadable(&fault))? {
            let why = format!(
                "it would lie inside {} at offset {}; choose another offset",
                describe(&around),
                around.offset
            );
            return Err(cannot(Status::CannotCreate, &self.area.text, why));
        }
        let Some(first) = self.first_byte().map_err(|fault| self.unreadable(&fault))? else {
            return Ok(());
        };
        if !force {
            let why = format!(
                "there is {} already; --force formats over it, unless it is alive",
                self.what_is_there(first)?
            );
            return Err(cannot(Status::CannotCreate, &self.area.text, why));
        }
        self.judge_areas(watched)
    }

    /// Every area of any kind that lies where ours is to be.
    fn judge_areas(self, watched: &mut Vec<Watched<'a>>) -> Result<(), Failure> {
        let mut at = self.area.offset;
        while at < self.area.end().min(self.device.size()) {
            let found = survey::read_area(self.device, at, self.device.size());
            let Some(found) = found.map_err(|fault| self.unreadable(&fault))? else {
                at += STEP;
                continue;
            };
            match &found.content {
                Content::Lockspace(hosts) => watched.extend(self.to_watch(&found, hosts)?),
                Content::Resource(lease) => self.judge_lease(&found, lease)?,
                Content::Index(..) => {}
            }
            at = found.end();
        }
        Ok(())
    }

    /// A lockspace that somebody may have joined. Where all records are free, nobody has.
    fn to_watch(self, found: &survey::Area, hosts: &Hosts) -> Result<Option<Watched<'a>>, Failure> {
        let all_free = hosts.heartbeats.iter().all(|(_, record)| record.is_free());
        if all_free && found.damage.is_empty() {
            return Ok(None);
        }
        // A joiner waits by the io_timeout of the record that it found, so free ones count too.
        let named = hosts.heartbeats.iter().filter_map(|(_, r)| r.io_timeout());
        let io_timeout = named.max().unwrap_or(DEFAULT_IO_TIMEOUT);
        let watched = Watched {
            look: self,
            offset: found.offset,
            what: describe(found),
            len: found.geometry.heartbeats_len(),
            sector: found.geometry.sector_bytes(),
            period: Timing::new(io_timeout, 1).map_or(Duration::ZERO, Timing::join_look),
            before: Vec::new(),
        };
        let before = watched.read()?;
        Ok(Some(Watched { before, ..watched }))
    }

    fn judge_lease(self, found: &survey::Area, lease: &Lease) -> Result<(), Failure> {
        let advice = "take it and release it with lease-hold; or, when you are sure that nothing \
                      uses it any more, overwrite the area with zeros (dd)";
        let busy = |why: String| {
            let what = describe(found);
            let why = format!("{what} {why}; {advice}");
            Err(cannot(Status::Busy, &self.area.text, why).numbered(-243))
        };
        if let Some(owner) = lease.leader.and_then(|leader| leader.owner()) {
            return busy(format!("is owned by host {}", owner.host));
        }
        let sharers: Vec<_> = lease.sharers().map(|(host, ..)| host.to_string()).collect();
        if !sharers.is_empty() {
            return busy(format!("is shared by host {}", sharers.join(", ")));
        }
        // A cleared one says so and is nobody's; a damaged one says nothing.
        if lease.leader.is_none() && !lease.cleared {
            return busy("has no readable leader record, so it may be owned".into());
        }
        Ok(())
    }

    /// Where the first byte that is not zero stands, counted from the start of the disk.
    fn first_byte(self) -> Result<Option<u64>, Fault> {
        let end = self.area.end().min(self.device.size());
        let mut at = self.area.offset;
        while at < end {
            let len = STEP.min(end - at);
            let bytes = self.device.read(at, len as usize)?;
            if let Some(first) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + first as u64));
            }
            at += len;
        }
        Ok(None)
    }

    fn what_is_there(self, first: u64) -> Result<String, Failure> {
        let start = first - first % STEP;
        let found = survey::read_area(self.device, start, self.device.size());
        Ok(match found.map_err(|fault| self.unreadable(&fault))? {
            Some(found) => describe(&found),
            None => format!("data that is no lease (the first at byte {first})"),
        })
    }

    fn unreadable(self, fault: &Fault) -> Failure {
        let tried = format!("cannot format {}: reading what is there", self.area.text);
        Failure::of_fault(tried, fault)
    }
}

fn describe(area: &survey::Area) -> String {
    let damaged = if area.damage.is_empty() {
        "a"
    } else {
        "a damaged"
    };
    let geometry = area.geometry;
    match &area.content {
        Content::Lockspace(hosts) => match hosts.lockspace {
            Some(name) => format!("{damaged} lockspace {name} ({geometry})"),
            None => format!("{damaged} lockspace ({geometry})"),
        },
        Content::Resource(lease) => match (lease.names, &lease.leader) {
            (Some((lockspace, name)), Some(_)) => {
                format!("{damaged} resource {lockspace}:{name} ({geometry})")
            }
            (Some((lockspace, name)), None) => format!("a cleared resource {lockspace}:{name}"),
            (None, _) => format!("{damaged} resource ({geometry})"),
        },
        Content::Index(header, _) => format!("a resource index of lockspace {}", header.lockspace),
    }
}

// ---- watching

/// A lockspace that is to go, if no heartbeat in it changes.
struct Watched<'a> {
    look: Look<'a>,
    offset: u64,
    what: String,
    len: usize,
    sector: usize,
    /// 3t.
    period: Duration,
    before: Vec<u8>,
}

/// Waits for the longest 3t, then looks at every lockspace again.
fn watch(watched: &[Watched<'_>]) -> Result<(), Failure> {
    let Some(period) = watched.iter().map(|lockspace| lockspace.period).max() else {
        return Ok(());
    };
    if std::io::stderr().is_terminal() {
        let seconds = period.as_secs();
        tool::say(
            TOOL,
            format!("watching for {seconds} s whether anything there is alive"),
        );
    }
    let interrupted = |_| Failure::new(Status::Internal, "interrupted");
    BootClock::default().wait(period).map_err(interrupted)?;
    watched.iter().try_for_each(Watched::judge)
}

impl Watched<'_> {
    fn read(&self) -> Result<Vec<u8>, Failure> {
        let read = self.look.device.read(self.offset, self.len);
        read.map_err(|fault| self.look.unreadable(&fault))
    }

    fn judge(&self) -> Result<(), Failure> {
        let after = self.read()?;
        let sectors = self
            .before
            .chunks(self.sector)
            .zip(after.chunks(self.sector));
        let changed = sectors
            .zip(HostId::all(u64::MAX))
            .find(|((b, a), _)| b != a);
        let Some((_, host)) = changed else {
            return Ok(());
        };
        let why = format!(
            "{} is alive: the heartbeat of host {host} has changed; stop all its hosts first",
            self.what
        );
        Err(cannot(Status::Busy, &self.look.area.text, why).numbered(-262))
    }
}
