//! The thread that renews. It does the lockspace's disk I/O and nothing else; what happens it
//! reports.

use super::kept::{Life, Logged};
use crate::clock::{Clock, Moment};
use crate::delta::{Calls, HostLease, Lost, RenewError};
use crate::disk::Fault;
use crate::failure::show;
use crate::id::{Generation, HostId};
use crate::liveness::Sightings;
use crate::record::heartbeat::{Event, Heartbeat};
use crate::registry::message::Renewal;
use crate::storage::{Presence, Volume};
use crate::timing::Timing;
use std::path::PathBuf;
use std::time::Duration;

/// What the thread reports.
#[derive(Debug, Clone)]
pub enum Beat {
    /// The heartbeat was renewed.
    Renewed {
        /// The moment before the write was issued.
        renewed: Moment,
        /// What is known of other hosts by now.
        hosts: Sightings,
        /// How it went.
        renewal: Renewal,
        /// The hosts that call us.
        called: Vec<Called>,
    },
    /// A live host has our name under this host id. Reported once.
    Namesake(HostId),
    /// It was not, and will be tried again.
    Failed(Fault),
    /// The host id is lost. The last report.
    Lost(Lost),
    /// Nobody else finds any more what is written here: why. The host id is lost by that. The last
    /// report.
    Replaced(String),
    /// The host id was given back, and whether it is free now; or not: how it was lost. The last
    /// report.
    Left(Result<bool, Lost>),
}

/// A live host calls us by its heartbeat: there is a request for us, or an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    /// Its host id.
    pub by: HostId,
    /// Its present life.
    pub generation: Generation,
    /// The event; its number is 0 if there is none.
    pub event: Event,
}

/// What the thread is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Nothing else: the time has come.
    Renew,
    /// Call these from the next renewal on.
    Call(Calls),
    /// Give the host id back. Until that moment a write of ours may still land on a resource.
    Leave(Moment),
    /// End: there is nobody any more to whom it could report.
    End,
}

/// What the thread asks of its machine.
pub trait HeartSurroundings {
    /// Its time. Nothing cuts waits short.
    fn clock(&self) -> &dyn Clock;

    /// Waits until `until`, or until the server has something to be done before that.
    fn told(&self, until: Moment) -> Told;

    /// Writes the heartbeat's file ([`super::HostSurroundings::keep`]).
    fn keep(&self, life: &Life) -> Result<(), String>;

    /// Reports to the server, in order. Without a server nobody hears it.
    fn report(&self, beat: Beat);
}

/// The heartbeat of a host id, before its thread runs.
#[derive(Debug)]
pub struct Heart<V> {
    /// The host id.
    pub(super) lease: HostLease,
    /// The lockspace's disk.
    pub(super) volume: V,
    /// The path by which it was opened.
    pub(super) path: PathBuf,
    /// What is kept of it.
    pub(super) life: Life,
}

impl<V> Heart<V> {
    /// The same with its disk as another thread has it.
    pub fn with<W>(self, volume: impl FnOnce(V) -> W) -> Heart<W> {
        Heart {
            lease: self.lease,
            volume: volume(self.volume),
            path: self.path,
            life: self.life,
        }
    }
}

impl<V: Volume> Heart<V> {
    /// Renews until the host id is lost or given back.
    pub fn run(self, s: &impl HeartSurroundings) {
        let keep = |life: &Life| s.keep(life);
        Beating {
            timing: self.lease.claim().timing,
            disk: Logged::new(&self.volume, s.clock(), &keep, self.life),
            volume: &self.volume,
            path: self.path,
            lease: self.lease,
            s,
            hosts: Sightings::default(),
            failures: 0,
            namesake: None,
        }
        .run();
    }
}

struct Beating<'a, S, V> {
    s: &'a S,
    lease: HostLease,
    timing: Timing,
    disk: Logged<'a>,
    /// The disk itself, to be looked at.
    volume: &'a V,
    path: PathBuf,
    hosts: Sightings,
    /// Attempts that have failed since the last renewal.
    failures: u32,
    /// The first live host that was seen to have our name.
    namesake: Option<HostId>,
}

impl<S: HeartSurroundings, V: Volume> Beating<'_, S, V> {
    fn run(&mut self) {
        // At once: whoever was restarted may have little time left.
        let mut next = self.s.clock().now();
        loop {
            match self.s.told(next) {
                Told::Renew => {}
                Told::Call(calls) => {
                    *self.lease.calls() = calls;
                    continue;
                }
                Told::Leave(quiet_from) => return self.leave(quiet_from),
                Told::End => return,
            }
            let beat = self.renew();
            next = match beat {
                Beat::Renewed { renewed, .. } => renewed.after(self.timing.renewal_period()),
                _ => self.s.clock().now().after(self.retry_pause()),
            };
            let last = matches!(beat, Beat::Lost(_));
            self.s.report(beat);
            if last {
                return;
            }
            if let Some(why) = self.replaced() {
                return self.s.report(Beat::Replaced(why));
            }
        }
    }

    /// Why nobody else sees what is written here, if that is certain.
    fn replaced(&self) -> Option<String> {
        let (lockspace, host) = (self.lease.lockspace(), self.lease.claim().host);
        let geometry = lockspace.geometry;
        let record = lockspace.offset + geometry.heartbeat_at(host) as u64;
        let end = lockspace.offset + geometry.heartbeats_len() as u64;
        match self.volume.presence(record, &(lockspace.offset..end)) {
            Presence::Replaced(why) => Some(format!("{}: {why}", show(self.path.as_os_str()))),
            Presence::Same | Presence::NotKnown(_) => None,
        }
    }

    fn renew(&mut self) -> Beat {
        match self.lease.renew(&self.disk, self.s.clock()) {
            Ok(scan) => {
                let mut called = Vec::new();
                for (host, record) in scan.area.joined() {
                    self.hosts.look(host, &record, self.timing, scan.read_ended);
                    self.look_for_namesake(host, &record);
                    called.extend(self.call_of(host, &record, scan.read_ended));
                }
                let [read_ms, write_ms] = self.disk.took();
                Beat::Renewed {
                    renewed: self.disk.renewed(),
                    hosts: self.hosts.clone(),
                    renewal: Renewal {
                        timestamp: self.lease.heartbeat().timestamp(),
                        read_ms,
                        write_ms,
                        failures: std::mem::take(&mut self.failures),
                    },
                    called,
                }
            }
            Err(RenewError::Disk(fault)) => {
                self.failures += 1;
                Beat::Failed(fault)
            }
            Err(RenewError::Lost(lost)) => Beat::Lost(lost),
        }
    }

    /// Whether a host calls us, by a renewal that this look has shown. What a host has written that
    /// renews no more calls nobody.
    fn call_of(&self, by: HostId, record: &Heartbeat, looked: Moment) -> Option<Called> {
        let ours = self.lease.claim().host;
        let renewed = self.hosts.of(by)?.changed == Some(looked);
        (by != ours && renewed && !record.is_free() && record.calls(ours)).then(|| Called {
            by,
            generation: record.generation(),
            event: record.event(),
        })
    }

    /// A record that stands there may be our own, of another host id before; one that changes is
    /// not.
    fn look_for_namesake(&mut self, host: HostId, record: &Heartbeat) {
        let ours = self.lease.claim();
        let lives = self
            .hosts
            .of(host)
            .is_some_and(|seen| seen.changed.is_some());
        let same = host != ours.host && record.host_name() == Some(ours.name);
        if same && lives && self.namesake.is_none() {
            self.namesake = Some(host);
            self.s.report(Beat::Namesake(host));
        }
    }

    /// Gives the host id back, again and again until it is done or the time has come at which
    /// nothing may be written any more.
    fn leave(&mut self, quiet_from: Moment) {
        self.lease.expect_late_writes(quiet_from);
        loop {
            match self.lease.leave(&self.disk, self.s.clock()) {
                Ok(()) => {
                    let free = self.lease.heartbeat().is_free();
                    return self.s.report(Beat::Left(Ok(free)));
                }
                Err(RenewError::Lost(lost)) => return self.s.report(Beat::Left(Err(lost))),
                Err(RenewError::Disk(fault)) => {
                    self.s.report(Beat::Failed(fault));
                    let _ = self.s.clock().wait(self.retry_pause());
                }
            }
        }
    }

    /// After a failed attempt: half of what one I/O may take, at most a second.
    fn retry_pause(&self) -> Duration {
        (self.timing.io_limit() / 2).min(Duration::from_secs(1))
    }
}
