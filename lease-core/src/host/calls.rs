//! Whom this host calls by its heartbeat, and what it has heard from others by theirs.

use super::surroundings::PeerId;
use crate::clock::Moment;
use crate::delta::Calls;
use crate::registry::message::{DescribedEvent, HeardEvent};
use std::collections::{BTreeSet, VecDeque};

/// How many events are remembered.
const EVENTS_KEPT: usize = 32;

/// What is heard and said by the heartbeats.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Whom we call.
    pub(super) calls: Calls,
    /// Who wants to hear of events.
    pub(super) listeners: BTreeSet<PeerId>,
    /// The last events, each with the moments when it was heard first and last.
    events: VecDeque<(HeardEvent, Moment, Moment)>,
}

impl Signals {
    /// With what a former lease-join calls.
    pub(super) fn calling(calls: Calls) -> Self {
        Self {
            calls,
            ..Self::default()
        }
    }

    /// This peer wants to hear of events from now on.
    pub(super) fn listen(&mut self, peer: PeerId) {
        self.listeners.insert(peer);
    }

    /// It is not connected any more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.listeners.remove(&peer);
    }

    /// The last events.
    pub(super) fn describe(&self, now: Moment) -> Vec<DescribedEvent> {
        let describe = |(event, first, _): &(HeardEvent, Moment, Moment)| DescribedEvent {
            heard: now.since(*first).as_secs_f64(),
            event: *event,
        };
        self.events.iter().map(describe).collect()
    }

    /// Whether the same was heard since `then`.
    pub(super) fn note(&mut self, heard: HeardEvent, now: Moment, then: Moment) -> bool {
        let mut known = self.events.iter_mut();
        if let Some((_, _, last)) = known.find(|(event, _, last)| *event == heard && *last >= then)
        {
            *last = now;
            return true;
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back((heard, now, now));
        false
    }
}
