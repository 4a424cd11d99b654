//! Two looks at lockspaces, and what the difference tells of their hosts.
//!
//! A host renews its heartbeat every 2t seconds, and needs up to half a second more; so looks
//! that lie 2t + 1 seconds apart see the heartbeat of a live host change.

use crate::object::State;
use lease_core::clock::{BootClock, Moment};
use lease_core::device::Device;
use lease_core::disk::Fault;
use lease_core::id::HostId;
use lease_core::liveness::{Sightings, Verdict};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::WATCHDOG_MAX;
use lease_core::survey::{self, Area, Hosts};
use lease_core::timing::{DEFAULT_IO_TIMEOUT, Timing};
use std::time::Duration;

/// A lockspace that was looked at once.
pub(crate) struct Watched {
    offset: u64,
    seen: Sightings,
    /// 2t + 1 s of its slowest host; `None` if nobody is in it.
    period: Option<Duration>,
}

impl Watched {
    pub(crate) fn new(offset: u64, hosts: &Hosts, read_ended: Moment) -> Self {
        let mut watched = Self {
            offset,
            seen: Sightings::default(),
            period: None,
        };
        watched.look(hosts, read_ended);
        let period = |timing: Timing| timing.renewal_period() + Duration::from_secs(1);
        let periods = watched.seen.iter().map(|(_, seen)| period(seen.timing));
        watched.period = periods.max();
        watched
    }

    /// How long to wait before the second look.
    pub(crate) fn period(&self) -> Option<Duration> {
        self.period
    }

    /// The second look: the area as it is now, with the moment at which its reading began.
    pub(crate) fn again(&mut self, device: &Device) -> Result<Option<(Area, Moment)>, Fault> {
        let read_began = BootClock::boot_time();
        let area = survey::read_area(device, self.offset, device.size())?;
        if let Some(Area {
            content: survey::Content::Lockspace(hosts),
            ..
        }) = &area
        {
            self.look(hosts, BootClock::boot_time());
        }
        Ok(area.map(|area| (area, read_began)))
    }

    /// What both looks tell of a host, by the record that the second one read.
    pub(crate) fn state(&self, host: HostId, record: &Heartbeat, read_began: Moment) -> State {
        match self
            .seen
            .judge(host, record.generation(), record, read_began)
        {
            Verdict::Gone => State::Free,
            Verdict::Alive => State::Alive,
            Verdict::Dead => State::Dead,
            Verdict::Unknown { .. } | Verdict::Unclear => State::Unknown,
        }
    }

    fn look(&mut self, hosts: &Hosts, read_ended: Moment) {
        // For hosts that leave their io_timeout open.
        let Some(ours) = Timing::new(DEFAULT_IO_TIMEOUT, WATCHDOG_MAX) else {
            return;
        };
        for (host, record) in &hosts.heartbeats {
            self.seen.look(*host, record, ours, read_ended);
        }
    }
}
