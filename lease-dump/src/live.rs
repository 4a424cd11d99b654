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
use lease_core::storage::Volume;
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

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::id::{Generation, Name};
    use lease_core::layout::Geometry;
    use lease_core::record::host_note::HostNote;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn host(number: u64) -> HostId {
        HostId::new(number).unwrap()
    }

    /// Host `number` with this t and timestamp, W = 1.
    fn beat(number: u64, io_timeout: u8, timestamp: u64) -> (HostId, Heartbeat) {
        let name = Name::new(b"n").unwrap();
        let note = HostNote {
            watchdog: 1,
            host: host(number),
            generation: Generation(2),
            boot_id: [0; 16],
            former_over: 1,
        };
        let free = Heartbeat::new(Geometry::ALL[0], &name, 10);
        (
            host(number),
            free.joined(&name, timestamp, io_timeout, note),
        )
    }

    fn hosts(heartbeats: Vec<(HostId, Heartbeat)>) -> Hosts {
        let lockspace = None;
        Hosts {
            lockspace,
            heartbeats,
        }
    }

    #[test]
    fn two_looks_are_as_far_apart_as_the_slowest_host_needs() {
        let looked = |heartbeats| Watched::new(0, &hosts(heartbeats), at(1)).period();
        assert_eq!(looked(vec![]), None);
        assert_eq!(looked(vec![beat(1, 10, 0)]), None);
        let slowest = looked(vec![beat(1, 1, 5), beat(2, 5, 5), beat(3, 255, 0)]);
        assert_eq!(slowest, Some(Duration::from_secs(11)));
    }

    #[test]
    fn what_two_looks_tell() {
        let before = vec![beat(1, 5, 7), beat(2, 5, 7), beat(3, 1, 7), beat(4, 5, 7)];
        let after = vec![beat(1, 5, 9), beat(2, 5, 7), beat(3, 1, 7), beat(4, 5, 0)];
        let mut watched = Watched::new(0, &hosts(before), at(100));
        watched.look(&hosts(after.clone()), at(111));
        let state = |(host, record): &(HostId, Heartbeat)| watched.state(*host, record, at(111));
        let states: Vec<State> = after.iter().map(state).collect();
        // Host 3 is dead: its 8t + W is 9 s.
        assert_eq!(
            states,
            [State::Alive, State::Unknown, State::Dead, State::Free]
        );
    }
}
