//! Hosts call each other by their heartbeats: for a request, which holders look at, and with
//! events, which whoever listens is told.

use super::heart::Called;
use super::server::Server;
use super::surroundings::HostSurroundings;
use crate::clock::Moment;
use crate::delta::EventFlags;
use crate::id::{Generation, HostId};
use crate::record::heartbeat::Event;
use crate::registry::message::{EventRefused, HeardEvent, SetEvent, Tell};

impl<S: HostSurroundings> Server<'_, S> {
    /// Other hosts call us: holders look what is asked for, and who listens hears of events.
    pub(super) fn hear_calls(&mut self, called: Vec<Called>) {
        for Called {
            by,
            generation,
            event,
        } in called
        {
            self.tell_all(&Tell::Asked { by });
            if event.number != 0 {
                self.hear_event(by, generation, event);
            }
        }
    }

    fn hear_event(&mut self, by: HostId, generation: Generation, event: Event) {
        let now = self.now();
        let heard = HeardEvent {
            from_host_id: by,
            from_generation: generation,
            host_id: self.estate.host,
            generation: event.generation,
            event: event.number,
            data: event.data,
            again: false,
        };
        // By each renewal of the slower of the two; one may be missed.
        let theirs = self.hosts.of(by).map(|seen| seen.timing);
        let slower = theirs.map_or(self.life.timing, |theirs| theirs.slower(self.life.timing));
        let then = now.before(slower.call_for());
        let again = self.signals.note(heard, now, then);
        let heard = Tell::Event(HeardEvent { again, ..heard });
        for peer in self.signals.listeners.clone() {
            self.s.tell(peer, &heard);
        }
    }

    /// A holder has asked for what these hosts have.
    pub(super) fn call(&mut self, hosts: &[HostId], until: Moment) {
        let until = until.min(self.now().after(self.life.timing.call_for()));
        let ours = self.estate.host;
        for host in hosts.iter().filter(|host| **host != ours) {
            self.signals.calls.request(*host, until);
        }
        self.s.call(self.signals.calls.clone());
        if hosts.contains(&ours) {
            self.tell_all(&Tell::Asked { by: ours });
        }
    }

    /// Signals an event, or ends one.
    pub(super) fn set_event(&mut self, wanted: SetEvent) -> Result<(), EventRefused> {
        if self.stage.farewell().is_some() {
            return Err(EventRefused::Leaving);
        }
        let SetEvent {
            host_id,
            generation,
            event: number,
            data,
            flags,
        } = wanted;
        let (ours, most) = (self.estate.host, self.estate.lockspace.geometry.max_hosts());
        let host = HostId::new(host_id).ok().filter(|host| host.get() <= most);
        let host = host.ok_or(EventRefused::NoHost)?;
        let current = self.hosts.of(host).map(|seen| seen.generation);
        let current = match host == ours {
            true => self.generation(),
            false => current.unwrap_or_default(),
        };
        let event = Event {
            generation,
            number,
            data,
        };
        let now = self.now();
        let until = now.after(self.life.timing.call_for());
        let others = HostId::all(most).filter(|host| *host != ours);
        let wanted = (host, event, EventFlags(flags));
        let set = self
            .signals
            .calls
            .set_event(wanted, (others, current), (now, until));
        set.map_err(|_| EventRefused::Busy)?;
        self.s.call(self.signals.calls.clone());
        Ok(())
    }
}
