//! Orders on their way to a holder, and what came of them on its way back.

use super::peers::Given;
use super::server::Server;
use super::surroundings::{HostSurroundings, PeerId};
use crate::registry::message::{Ask, HolderId, Tell};
use crate::registry::order::{OrderId, Outcome};

impl<S: HostSurroundings> Server<'_, S> {
    /// Somebody gives an order: it is handed on to the one holder that it is for.
    pub(super) fn hear_order(&mut self, peer: PeerId, ask: Ask) {
        let Ask::Order { id, to, order } = ask else {
            return;
        };
        let holder = match self.holder_of(to) {
            Ok(holder) => holder,
            Err(outcome) => return self.s.tell(peer, &Tell::Ordered { outcome }),
        };
        if let Some(known) = self.peers.get_mut(peer) {
            known.order = Some(Given { id, holder, order });
            self.hand_on(peer);
        }
    }

    /// The one that guards this process, or is it.
    fn holder_of(&self, to: i32) -> Result<HolderId, Outcome> {
        let lockspace = &self.estate.lockspace.name;
        match self.stage.farewell() {
            None => {}
            Some(Tell::Lost { why }) => return Err(Outcome::not_now(lockspace, Some(&why))),
            Some(_) => return Err(Outcome::not_now(lockspace, None)),
        }
        match self.table.that_guard(to).as_slice() {
            [one] => Ok(*one),
            [] => Err(Outcome::not_guarded(lockspace, to)),
            _ => Err(Outcome::not_clear(to)),
        }
    }

    /// Hands on what this peer has given. To a holder that is awaited it is handed on once that is
    /// back.
    fn hand_on(&mut self, peer: PeerId) {
        let given = self
            .peers
            .get_mut(peer)
            .and_then(|known| known.order.clone());
        let Some(Given { id, holder, order }) = given else {
            return;
        };
        if let Some(to) = self.peers.of(holder) {
            self.s.tell(to, &Tell::Order { id, order });
        }
    }

    /// A holder is back: it has perhaps not heard what it was told before.
    pub(super) fn hand_orders_on(&mut self, holder: HolderId) {
        let given = self.peers.who_order();
        let waiting = given.filter(|(_, given)| given.holder == holder);
        let waiting: Vec<PeerId> = waiting.map(|(peer, _)| peer).collect();
        waiting.into_iter().for_each(|peer| self.hand_on(peer));
    }

    /// What came of an order: whoever waits for it is told.
    pub(super) fn answer_order(&mut self, id: OrderId, outcome: &Outcome) {
        let waiting = self.peers.who_order();
        let waiting = waiting.filter(|(_, given)| given.id == id);
        let waiting: Vec<PeerId> = waiting.map(|(peer, _)| peer).collect();
        for peer in waiting {
            let outcome = outcome.clone();
            self.s.tell(peer, &Tell::Ordered { outcome });
            if let Some(known) = self.peers.get_mut(peer) {
                known.order = None;
            }
        }
    }

    /// A holder has ended: nothing will come of what it was told.
    pub(super) fn end_orders_of(&mut self, holder: HolderId) {
        let waiting = self.peers.who_order();
        let waiting = waiting.filter(|(_, given)| given.holder == holder);
        let waiting: Vec<OrderId> = waiting.map(|(_, given)| given.id).collect();
        let outcome = Outcome::ended();
        waiting
            .into_iter()
            .for_each(|id| self.answer_order(id, &outcome));
    }

    /// Whoever has given an order has ended; unless it has asked again, nobody waits for it.
    pub(super) fn withdraw(&mut self, given: &Given) {
        let asked_again = self
            .peers
            .who_order()
            .any(|(_, other)| other.id == given.id);
        if let Some(to) = self.peers.of(given.holder).filter(|_| !asked_again) {
            self.s.tell(to, &Tell::Withdrawn { id: given.id });
        }
    }
}
