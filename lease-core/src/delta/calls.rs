//! Whom a host calls by its heartbeat: the bits that say "look", and the event beside them.
//!
//! A bit stays for 6t, so that each host that renews sees it. For a request it says no more than
//! that; for an event the event is what it speaks of. There is one event at a time.

use crate::clock::Moment;
use crate::id::{Generation, HostId};
use crate::record::heartbeat::{Event, Heartbeat};
use std::collections::BTreeMap;
use thiserror::Error;

/// Whose bit is set until when, and for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    for_requests: BTreeMap<HostId, Moment>,
    for_event: BTreeMap<HostId, Moment>,
    event: Event,
}

/// What is to become of the event, beyond being set: sanlock's flags of set_event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventFlags(pub u32);

impl EventFlags {
    /// A generation of 0 stands for the present one of that host.
    pub const CURRENT_GENERATION: u32 = 1;
    /// The host is called no more.
    pub const CLEAR_HOST: u32 = 2;
    /// There is no event any more.
    pub const CLEAR_EVENT: u32 = 4;
    /// It takes the place of another event.
    pub const REPLACE: u32 = 8;
    /// It is for all hosts.
    pub const ALL_HOSTS: u32 = 16;

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// Why an event cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("another event is being signalled; wait until that is over, or replace it")]
pub struct Busy;

impl Calls {
    /// What a record says, until then.
    pub fn found_on(record: &Heartbeat, until: Moment) -> Self {
        let bits = || record.bitmap().into_iter().map(|host| (host, until));
        match record.event() {
            event if event.number == 0 => Self {
                for_requests: bits().collect(),
                ..Self::default()
            },
            event => Self {
                for_requests: BTreeMap::new(),
                for_event: bits().collect(),
                event,
            },
        }
    }

    /// A host is called until then: there is a request for it.
    pub fn request(&mut self, host: HostId, until: Moment) {
        self.for_requests.insert(host, until);
    }

    /// An event for a host, or with [`EventFlags::ALL_HOSTS`] for all of `hosts`, as sanlock's
    /// set_event does it. `current`: the present generation of that host.
    pub fn set_event(
        &mut self,
        (host, event, flags): (HostId, Event, EventFlags),
        (hosts, current): (impl Iterator<Item = HostId>, Generation),
        (now, until): (Moment, Moment),
    ) -> Result<(), Busy> {
        self.for_event.retain(|_, until| *until > now);
        if flags.has(EventFlags::CLEAR_EVENT) {
            self.event = Event::default();
        }
        if flags.has(EventFlags::CLEAR_HOST) {
            self.for_event.remove(&host);
        }
        if flags.has(EventFlags::CLEAR_EVENT) || flags.has(EventFlags::CLEAR_HOST) {
            return Ok(());
        }
        let generation = match event.generation {
            0 if flags.has(EventFlags::CURRENT_GENERATION) => current.0,
            given => given,
        };
        let event = Event {
            generation,
            ..event
        };
        let same = |other: &Event| (other.number, other.data) == (event.number, event.data);
        let is_free = self.for_event.is_empty() || same(&self.event);
        if !is_free && !flags.has(EventFlags::REPLACE) {
            return Err(Busy);
        }
        self.event = event;
        let all = flags.has(EventFlags::ALL_HOSTS);
        let called = hosts.filter(|other| all || *other == host);
        self.for_event.extend(called.map(|host| (host, until)));
        Ok(())
    }

    /// A record that says so at `now`. Without a bit there is no event.
    pub fn on(&self, record: Heartbeat, now: Moment) -> Heartbeat {
        let at = |calls: &BTreeMap<HostId, Moment>| -> Vec<HostId> {
            let called = calls.iter().filter(|(_, until)| **until > now);
            called.map(|(host, _)| *host).collect()
        };
        let for_event = at(&self.for_event);
        let event = match for_event.is_empty() {
            true => Event::default(),
            false => self.event,
        };
        record.calling(at(&self.for_requests).into_iter().chain(for_event), event)
    }
}
