//! The thread that renews. It does the disk I/O and nothing else; what happens it reports.

use crate::signals::Wake;
use crate::state::Logged;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::delta::{HostLease, RenewError};
use lease_core::id::HostId;
use lease_core::liveness::Sightings;
use lease_core::record::heartbeat::Heartbeat as Record;
use lease_core::registry::message::Renewal;
use lease_core::storage::{Presence, Volume};
use lease_core::timing::Timing;
use lease_core::tool::show;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// What the thread reports.
#[derive(Debug)]
pub(crate) enum Beat {
    /// The heartbeat was renewed.
    Renewed {
        /// The moment before the write was issued.
        renewed: Moment,
        /// What is known of other hosts by now.
        hosts: Sightings,
        /// How it went.
        renewal: Renewal,
    },
    /// A live host has our name under this host id. Reported once.
    Namesake(HostId),
    /// It was not, and will be tried again.
    Failed(String),
    /// The host id is lost. The last report.
    Lost(String),
    /// The host id was given back, and whether it is free now; or not: why. The last report.
    Left(Result<bool, String>),
}

/// The other end of the thread.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    leave: Sender<Moment>,
    beats: Receiver<Beat>,
}

impl Heartbeat {
    /// Starts to renew. `wake` is woken after each report.
    pub(crate) fn start(lease: HostLease, disk: Logged, wake: Wake) -> io::Result<Self> {
        let (leave, told) = channel();
        let (report, beats) = channel();
        let mut thread = Thread {
            lease,
            disk,
            clock: BootClock::default(),
            report,
            wake,
            failures: 0,
            namesake: None,
        };
        std::thread::Builder::new().spawn(move || thread.run(&told))?;
        Ok(Self { leave, beats })
    }

    /// Asks the thread to give the host id back; it reports [`Beat::Left`]. Before `quiet_from` a
    /// write of ours may still land on a resource.
    pub(crate) fn leave(&self, quiet_from: Moment) {
        // A thread that is gone has reported why.
        let _ = self.leave.send(quiet_from);
    }

    /// The next report, if there is one.
    pub(crate) fn next(&self) -> Option<Beat> {
        self.beats.try_recv().ok()
    }
}

struct Thread {
    lease: HostLease,
    disk: Logged,
    clock: BootClock,
    report: Sender<Beat>,
    wake: Wake,
    /// Attempts that have failed since the last renewal.
    failures: u32,
    /// The first live host that was seen to have our name.
    namesake: Option<HostId>,
}

impl Thread {
    fn run(&mut self, told: &Receiver<Moment>) {
        let mut hosts = Sightings::default();
        let timing = self.lease.claim().timing;
        // At once: whoever was restarted may have little time left.
        let mut next = self.clock.now();
        loop {
            let pause = next.since(self.clock.now());
            match told.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(quiet_from) => return self.leave(timing, quiet_from),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let beat = self.renew(timing, &mut hosts);
            next = match beat {
                Beat::Renewed { renewed, .. } => renewed.after(timing.renewal_period()),
                _ => self.clock.now().after(retry_pause(timing)),
            };
            let last = matches!(beat, Beat::Lost(_));
            self.tell(beat);
            if last {
                return;
            }
            if let Some(why) = self.replaced() {
                return self.tell(Beat::Lost(why));
            }
        }
    }

    /// Why nobody else sees what is written here, if that is certain.
    fn replaced(&self) -> Option<String> {
        let (lockspace, host) = (self.lease.lockspace(), self.lease.claim().host);
        let geometry = lockspace.geometry;
        let record = lockspace.offset + geometry.heartbeat_at(host) as u64;
        let end = lockspace.offset + geometry.heartbeats_len() as u64;
        let device = self.disk.device();
        match device.presence(record, &(lockspace.offset..end)) {
            Presence::Replaced(why) => Some(format!("{}: {why}", show(device.path().as_os_str()))),
            Presence::Same | Presence::NotKnown(_) => None,
        }
    }

    fn renew(&mut self, timing: Timing, hosts: &mut Sightings) -> Beat {
        match self.lease.renew(&self.disk, &self.clock) {
            Ok(scan) => {
                for (host, record) in scan.area.joined() {
                    hosts.look(host, &record, timing, scan.read_ended);
                    self.look_for_namesake(host, &record, hosts);
                }
                let [read_ms, write_ms] = self.disk.took();
                Beat::Renewed {
                    renewed: self.disk.renewed(),
                    hosts: hosts.clone(),
                    renewal: Renewal {
                        timestamp: self.lease.heartbeat().timestamp(),
                        read_ms,
                        write_ms,
                        failures: std::mem::take(&mut self.failures),
                    },
                }
            }
            Err(RenewError::Disk(fault)) => {
                self.failures += 1;
                Beat::Failed(fault.to_string())
            }
            Err(RenewError::Lost(lost)) => Beat::Lost(lost.to_string()),
        }
    }

    /// A record that stands there may be our own, of another host id before; one that changes is
    /// not.
    fn look_for_namesake(&mut self, host: HostId, record: &Record, hosts: &Sightings) {
        let ours = self.lease.claim();
        let lives = hosts.of(host).is_some_and(|seen| seen.changed.is_some());
        let same = host != ours.host && record.host_name() == Some(ours.name);
        if same && lives && self.namesake.is_none() {
            self.namesake = Some(host);
            self.tell(Beat::Namesake(host));
        }
    }

    /// Gives the host id back, again and again until it is done or the time has come at which
    /// nothing may be written any more.
    fn leave(&mut self, timing: Timing, quiet_from: Moment) {
        self.lease.expect_late_writes(quiet_from);
        loop {
            match self.lease.leave(&self.disk, &self.clock) {
                Ok(()) => {
                    let free = self.lease.heartbeat().is_free();
                    return self.tell(Beat::Left(Ok(free)));
                }
                Err(RenewError::Lost(lost)) => {
                    return self.tell(Beat::Left(Err(lost.to_string())));
                }
                Err(RenewError::Disk(fault)) => {
                    self.tell(Beat::Failed(fault.to_string()));
                    std::thread::sleep(retry_pause(timing));
                }
            }
        }
    }

    fn tell(&self, beat: Beat) {
        // Without a server there is nobody to tell.
        let _ = self.report.send(beat);
        self.wake.wake();
    }
}

/// After a failed renewal: half of what one I/O may take, at most a second.
fn retry_pause(timing: Timing) -> Duration {
    (timing.io_limit() / 2).min(Duration::from_secs(1))
}
