//! Who is connected: strangers, and holders with what they have started.

use super::surroundings::PeerId;
use super::victim::Victim;
use crate::clock::Moment;
use crate::registry::message::HolderId;
use crate::registry::order::{Order, OrderId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A connection that has not registered after this long is closed.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

/// It is never too late for who has come then.
const FOREVER: Moment = Moment(u64::MAX);

/// One connection.
#[derive(Debug)]
pub(super) struct Peer<P> {
    /// The process that has connected.
    pub(super) pid: i32,
    since: Moment,
    /// Its registration.
    holder: Option<HolderId>,
    /// Its process, and what it has started.
    pub(super) victim: Victim<P>,
    /// What it is to start stands behind its gate, for all that was said here.
    pub(super) at_gate: bool,
    /// It reads of renewals by itself.
    pub(super) reads: bool,
    /// The order that it has given, and waits for.
    pub(super) order: Option<Given>,
}

/// An order that somebody waits for.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// Its name.
    pub(super) id: OrderId,
    /// Whom it is for.
    pub(super) holder: HolderId,
    /// What is to change.
    pub(super) order: Order,
}

impl<P> Peer<P> {
    /// Its registration.
    pub(super) fn holder(&self) -> Option<HolderId> {
        self.holder
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Peers<P> {
    peers: BTreeMap<PeerId, Peer<P>>,
    /// Those that are registered.
    holders: BTreeMap<HolderId, PeerId>,
}

impl<P> Peers<P> {
    /// Nobody.
    pub(super) fn new() -> Self {
        Self {
            peers: BTreeMap::new(),
            holders: BTreeMap::new(),
        }
    }

    /// Somebody has connected.
    pub(super) fn add(&mut self, peer: PeerId, pid: i32, now: Moment) {
        let stranger = Peer {
            pid,
            since: now,
            holder: None,
            victim: Victim::unknown(),
            at_gate: false,
            reads: false,
            order: None,
        };
        self.peers.insert(peer, stranger);
    }

    /// A connection.
    pub(super) fn get_mut(&mut self, peer: PeerId) -> Option<&mut Peer<P>> {
        self.peers.get_mut(&peer)
    }

    /// It is registered now.
    pub(super) fn register(&mut self, peer: PeerId, id: HolderId, victim: Victim<P>) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.holder = Some(id);
            known.victim = victim;
            self.holders.insert(id, peer);
        }
    }

    /// It stays without a registration.
    pub(super) fn stays(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.since = FOREVER;
        }
    }

    /// Those who wait for what comes of an order.
    pub(super) fn who_order(&self) -> impl Iterator<Item = (PeerId, &Given)> {
        let strangers = self.strangers();
        strangers.filter_map(|(id, peer)| Some((id, peer.order.as_ref()?)))
    }

    /// It is not connected any more. Whose registration it had, and what that holder has started.
    pub(super) fn remove(&mut self, peer: PeerId) -> Option<(HolderId, Victim<P>)> {
        let Peer { holder, victim, .. } = self.peers.remove(&peer)?;
        let id = holder?;
        self.holders.remove(&id);
        Some((id, victim))
    }

    /// A holder's connection.
    pub(super) fn of(&self, id: HolderId) -> Option<PeerId> {
        self.holders.get(&id).copied()
    }

    /// The connections of all holders.
    pub(super) fn holders(&self) -> Vec<PeerId> {
        self.holders.values().copied().collect()
    }

    /// The connections of those that have to be told of renewals.
    pub(super) fn listeners(&self) -> Vec<PeerId> {
        let peers = self.peers.iter();
        let listens = peers.filter(|(_, peer)| peer.holder.is_some() && !peer.reads);
        listens.map(|(id, _)| *id).collect()
    }

    /// Every holder's process, and what it has started.
    pub(super) fn victims(&self) -> impl Iterator<Item = &Victim<P>> {
        let peers = self.peers.values();
        peers
            .filter(|peer| peer.holder.is_some())
            .map(|peer| &peer.victim)
    }

    /// Whether any holder is connected.
    pub(super) fn any_holder(&self) -> bool {
        !self.holders.is_empty()
    }

    /// Who has not registered for too long.
    pub(super) fn too_late(&self, now: Moment) -> Vec<PeerId> {
        let late = |peer: &Peer<P>| peer.order.is_none() && now.since(peer.since) > REGISTER_WITHIN;
        let strangers = self.strangers().filter(|(_, peer)| late(peer));
        strangers.map(|(id, _)| id).collect()
    }

    /// When the next one has not.
    pub(super) fn next_too_late(&self) -> Option<Moment> {
        let idle = self.strangers().filter(|(_, peer)| peer.order.is_none());
        let first = idle.map(|(_, peer)| peer.since).min();
        first.map(|since| since.after(REGISTER_WITHIN))
    }

    fn strangers(&self) -> impl Iterator<Item = (PeerId, &Peer<P>)> {
        let strangers = self.peers.iter().filter(|(_, peer)| peer.holder.is_none());
        // As a rule there is none, and it is not looked for one among all holders.
        let count = self.peers.len() - self.holders.len();
        strangers.take(count).map(|(id, peer)| (*id, peer))
    }
}
