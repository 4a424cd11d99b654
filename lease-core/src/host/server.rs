//! The server: one thread, one loop. It answers holders, hears of renewals, keeps the deadline, and
//! kills what a holder does not. It does no disk I/O and never waits for a peer.

use super::calls::Signals;
use super::dead::Dead;
use super::giving_back::{Estate, GiveBack, Lease, Progress};
use super::heart::{Beat, Heart};
use super::joining::Joined;
use super::kept::{Holders, Life};
use super::names::{leases_of, name_of};
use super::outbox::Outbox;
use super::peers::Peers;
use super::stage::Stage;
use super::surroundings::{Event, HostSurroundings, PeerId, ProcessOf, VolumeOf};
use super::victim::Victim;
use super::watchdog::{Watchdog, leave_as_found};
use crate::cgroup::Remains;
use crate::clock::{Clock, Moment};
use crate::delta::Tenure;
use crate::failure::{Failure, Status};
use crate::id::{Generation, HostId};
use crate::liveness::Sightings;
use crate::registry::message::{Asked, HolderId, Left, Phase, Renewal, Tell};
use crate::registry::table::{Holder, Link, Table};
use crate::storage::Volume;
use crate::surroundings::Surroundings;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How many renewals are remembered: an hour of them at t = 10.
const RENEWALS_KEPT: usize = 180;
/// How often it is looked whether those who are awaited live.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// Without anything to look at.
const FOR_LONG: Duration = Duration::from_secs(3600);

/// How this process ends.
pub(super) type End = Result<Status, Failure>;

/// What was said about missing renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// That one has failed.
    Failed,
    /// That the lease will be lost.
    Warned,
}

/// The registry of one joined host id.
pub(super) struct Server<'s, S: HostSurroundings> {
    pub(super) s: &'s mut S,
    /// For messages: the LOCKSPACE string.
    pub(super) shown: String,
    pub(super) life: Life,
    pub(super) estate: Estate,
    pub(super) hosts: Sightings,
    /// The last renewals, the oldest first.
    pub(super) renewals: VecDeque<Renewal>,
    pub(super) table: Table,
    pub(super) peers: Peers<ProcessOf<S>>,
    pub(super) dead: Dead<ProcessOf<S>>,
    pub(super) outbox: Outbox,
    pub(super) stage: Stage,
    /// This process was told to leave.
    pub(super) told_to_leave: bool,
    /// What was said about missing renewals, since the last one.
    trouble: Option<Trouble>,
    pub(super) watchdog: Option<Watchdog<S::Watchdog>>,
    /// What to end with, once the host id is given back.
    pub(super) failure: Option<Failure>,
    pub(super) signals: Signals,
}

/// Lets holders connect, starts to renew, says that the host id is joined, and serves until it is
/// given back or lost.
pub(super) fn serve<S: HostSurroundings>(s: &mut S, joined: Joined<S>) -> End {
    let Joined {
        shown,
        named,
        path,
        volume,
        mut lease,
        life,
        mut table,
        watchdog,
    } = joined;
    let estate = Estate {
        path,
        lockspace: *lease.lockspace(),
        host: life.host,
        generation: life.former.generation,
        ballots_from: lease.ballots_from(),
        tenure: Arc::new(Tenure::new(life.timing, lease.renewed())),
    };
    let signals = Signals::calling(lease.calls().clone());
    let heart = Heart {
        lease,
        volume,
        path: named,
        life: life.clone(),
    };
    if let Err(failure) = begin(s, &estate, heart, &life) {
        leave_as_found(s.around(), watchdog, table.holders().next().is_some());
        return Err(failure);
    }
    table.await_all();
    let dead = Dead::awaiting(&table, s.around());
    let server = Server {
        s,
        shown,
        life,
        estate,
        hosts: Sightings::default(),
        renewals: VecDeque::new(),
        table,
        peers: Peers::new(),
        dead,
        outbox: Outbox::new(),
        stage: Stage::Serving,
        told_to_leave: false,
        trouble: None,
        watchdog,
        failure: None,
        signals,
    };
    server.run()
}

/// Lets holders connect, and starts to renew.
fn begin<S: HostSurroundings>(
    s: &mut S,
    estate: &Estate,
    mut heart: Heart<VolumeOf<S>>,
    life: &Life,
) -> Result<(), Failure> {
    s.listen(estate)?;
    let why = |why| format!("cannot keep the heartbeat's file: {why}");
    let kept = s.keep(life);
    kept.map_err(|error| Failure::new(Status::System, why(error)))?;
    // A slow renewal is still one: it counts until the lease is lost.
    heart.volume.set_limit(life.timing.lost_after());
    s.start_heart(heart)
}

impl<S: HostSurroundings> Server<'_, S> {
    /// Serves until the host id is given back or lost. Whatever comes of it, a device that guards
    /// nothing any more costs nobody a host; only [`Event::End`] leaves it armed.
    fn run(mut self) -> End {
        self.announce();
        let ended = self.serve();
        if ended.is_err() && !self.may_run() {
            self.disarm_if_possible();
        }
        ended
    }

    /// Says that the host id is joined. Holders of a former lease-join may be waiting already.
    fn announce(&mut self) {
        self.outbox.changed();
        self.hand_over_page();
        let line = format!("joined {} generation {}", self.shown, self.generation());
        if let Err(failure) = self.s.announce(&line) {
            self.leave_because(failure);
        }
    }

    fn serve(&mut self) -> End {
        loop {
            let due = self.due();
            self.s.wait(due)?;
            self.tend_watchdog();
            let mut ended = None;
            while let Some(event) = self.s.next() {
                if matches!(event, Event::End) {
                    return Ok(Status::Done);
                }
                ended = self.hear(event)?.or(ended);
            }
            self.check_deadline();
            self.close_those_who_do_not_register();
            self.strike();
            self.hand_over_page();
            self.publish_share();
            self.send_answers();
            if let Some(end) = ended.or_else(|| self.end()) {
                return end;
            }
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.s.around().now()
    }

    pub(super) fn say(&self, text: &str) {
        self.s.around().say(text);
    }

    pub(super) fn tenure(&self) -> &Tenure {
        &self.estate.tenure
    }

    pub(super) fn generation(&self) -> Generation {
        self.estate.generation
    }

    /// When nothing that has been written up to now can land any more.
    pub(super) fn late_until(&self) -> Moment {
        self.now().after(self.life.timing.takeover_after())
    }

    /// When something has to be done even if nothing is heard.
    fn due(&self) -> Moment {
        let now = self.now();
        let mut pause = match (self.dead.is_striking(), self.dead.is_awaiting()) {
            (true, _) => S::STRIKE_EVERY,
            (false, true) => LOOK_AROUND,
            (false, false) => FOR_LONG,
        };
        if let Some(watchdog) = &self.watchdog {
            pause = pause.min(watchdog.pause());
        }
        // Once that moment has come, striking has its own pace.
        let paced = |strike_at: Moment| strike_at.max(now.after(S::STRIKE_EVERY));
        let tenure = self.tenure();
        let due = match &self.stage {
            Stage::Serving if self.trouble == Some(Trouble::Warned) => tenure.deadline(),
            Stage::Serving => tenure.renewed().after(self.life.timing.warn_after()),
            Stage::Stopping { strike_at, .. } => paced(*strike_at).min(tenure.deadline()),
            Stage::Leaving => now.after(LOOK_AROUND),
            Stage::Lost { strike_at, .. } => paced(*strike_at),
        };
        let strangers = self.peers.next_too_late().unwrap_or(due);
        due.min(strangers).min(now.after(pause))
    }

    /// Pets the device, and says that we live and what we do.
    fn tend_watchdog(&mut self) {
        let guarding = self.is_guarding();
        let renewed = self.estate.tenure.renewed();
        if let Some(watchdog) = &mut self.watchdog
            && let Err(why) = watchdog.tend(self.s.around(), renewed, guarding)
        {
            self.say(&format!("{}: cannot pet the watchdog: {why}", self.shown));
        }
        let (stage, holders) = (self.stage.name(), self.table.holders().count());
        let doing = format_args!("{}: {stage}, {holders} holders", self.shown);
        self.s.doing(doing);
    }

    /// Nothing that is to be guarded starts before whoever has the device open can see that.
    fn publish_share(&mut self) {
        let guarding = self.is_guarding();
        let renewed = self.estate.tenure.renewed();
        let published = self.watchdog.as_mut().map(|it| it.note(renewed, guarding));
        if let Some(Err(why)) = published
            && self.stage == Stage::Serving
        {
            let text = format!("{}: cannot share the watchdog: {why}", self.shown);
            self.leave_because(Failure::new(Status::System, text));
        }
    }

    /// Whether anything may run that a lease of this host allows, or write in its name.
    fn is_guarding(&self) -> bool {
        self.may_run() || !self.dead.giving_back().is_empty()
    }

    /// Whether anything may run that a lease of this host allows. What was left of a holder that is
    /// proven gone does not, though its leases may stay owned.
    fn may_run(&self) -> bool {
        let unproven = |(_, holder): (_, &Holder)| holder.link == Link::Unproven;
        self.is_busy() || self.table.holders().any(unproven)
    }

    /// Whether holders live, or are to be seen dead.
    pub(super) fn is_busy(&self) -> bool {
        self.peers.any_holder() || self.dead.are_to_be_seen()
    }

    // ---- what is heard

    /// How to end, if this says so.
    fn hear(&mut self, event: Event<ProcessOf<S>>) -> Result<Option<End>, Failure> {
        match event {
            Event::Beat(beat) => return self.hear_beat(beat),
            Event::Connected { peer, pid } => self.peers.add(peer, pid, self.now()),
            Event::Said { peer, ask, beside } => {
                // A lease that is lost by now allows nothing.
                self.check_deadline();
                self.hear_peer(peer, ask, beside);
            }
            Event::Ended { peer, whole } => self.hear_the_end_of(peer, whole),
            Event::GivenBack(lease, progress) => self.hear_of_giving_back(lease, progress),
            Event::Written(page) => self.outbox.written(page),
            Event::Leave => {
                self.told_to_leave = true;
                if self.stage == Stage::Serving {
                    self.stop();
                }
            }
            Event::End => {}
        }
        Ok(None)
    }

    // ---- the host id

    fn hear_beat(&mut self, beat: Beat) -> Result<Option<End>, Failure> {
        match beat {
            Beat::Renewed {
                renewed,
                hosts,
                renewal,
                called,
            } => {
                self.note(renewal);
                self.renewed(renewed, hosts);
                self.hear_calls(called);
            }
            Beat::Namesake(host) => self.warn_of(host),
            Beat::Failed(fault) => self.not_renewed(&fault.to_string()),
            Beat::Lost(lost) => self.lose(&lost.to_string()),
            Beat::Replaced(why) => self.lose(&why),
            Beat::Left(Ok(free)) => {
                self.clear(free)?;
                let failure = self.failure.take();
                return Ok(Some(failure.map_or(Ok(Status::Done), Err)));
            }
            Beat::Left(Err(lost)) => {
                let text = format!("cannot give back {}: {lost}", self.shown);
                return Ok(Some(Err(Failure::new(Status::Lost, text))));
            }
        }
        Ok(None)
    }

    /// Whoever has our name may take a record of ours for its own.
    fn warn_of(&self, namesake: HostId) {
        let (shown, name, host) = (&self.shown, self.life.host_name, self.life.host);
        let text = format!(
            "{shown}: host id {namesake} is held by a live host that is called {name}, as this one \
             with host id {host} is; give each a name of its own (--host-name): after a reboot one \
             may take the other's host id for its own"
        );
        self.say(&text);
    }

    fn note(&mut self, renewal: Renewal) {
        if self.renewals.len() == RENEWALS_KEPT {
            self.renewals.pop_front();
        }
        self.renewals.push_back(renewal);
    }

    fn renewed(&mut self, renewed: Moment, hosts: Sightings) {
        if self.stage.is_lost() {
            return;
        }
        if self.trouble.take().is_some() {
            self.say(&format!("{}: renewed again", self.shown));
        }
        self.tenure().note_renewal(renewed);
        self.hosts = hosts;
        // The others read of it: to wake hundreds of them takes longer than the renewal.
        for peer in self.peers.listeners() {
            self.s.tell(peer, &Tell::Renewed { renewed });
        }
    }

    fn not_renewed(&mut self, why: &str) {
        if self.trouble.is_none() && !self.stage.is_lost() {
            self.say(&format!("cannot renew {}: {why}; trying again", self.shown));
            self.trouble = Some(Trouble::Failed);
        }
    }

    /// Warns at 6t without a renewal; at 8t it is lost.
    fn check_deadline(&mut self) {
        let now = self.now();
        let timing = self.life.timing;
        let age = now.since(self.tenure().renewed());
        if !self.tenure().holds(now) && self.stage != Stage::Leaving {
            let seconds = timing.lost_after().as_secs();
            self.lose(&format!("no renewal for {seconds} s"));
        } else if age >= timing.warn_after() && self.trouble != Some(Trouble::Warned) {
            let left = self.tenure().deadline().since(now).as_secs() + 1;
            let (age, shown) = (age.as_secs(), &self.shown);
            let text = format!("{shown}: no renewal for {age} s; lost in {left} s if it stays so");
            self.say(&text);
            self.trouble = Some(Trouble::Warned);
        }
    }

    fn lose(&mut self, why: &str) {
        if self.stage.is_lost() {
            return;
        }
        let stage = Stage::lost(why.to_owned(), self.now(), self.tenure());
        self.tenure().note_loss();
        self.table.lose();
        self.outbox.changed();
        self.say(&format!(
            "lost {}: {why}; what it guards is being ended",
            self.shown
        ));
        let why = why.to_owned();
        self.tell_all(&Tell::Lost { why });
        self.stage = stage;
    }

    // ---- connections

    fn close_those_who_do_not_register(&mut self) {
        for peer in self.peers.too_late(self.now()) {
            self.close(peer);
        }
    }

    pub(super) fn close(&mut self, peer: PeerId) {
        self.s.close(peer);
        self.hear_the_end_of(peer, false);
    }

    /// A lease-hold that ends before it has said that the command starts has not started it: it
    /// opens the gate only after it has said so, on a connection that it knows to be open.
    fn hear_the_end_of(&mut self, peer: PeerId, whole: bool) {
        self.signals.forget(peer);
        let known = self.peers.get_mut(peer);
        let at_gate = known.as_ref().is_some_and(|known| known.at_gate);
        let given = known.and_then(|known| known.order.take());
        let removed = self.peers.remove(peer);
        given.iter().for_each(|given| self.withdraw(given));
        let Some((id, mut victim)) = removed else {
            return;
        };
        if whole && at_gate {
            victim.nothing_runs();
        }
        self.ended(id, victim);
    }

    /// A holder has ended: what it left is to be cleared.
    fn ended(&mut self, id: HolderId, victim: Victim<ProcessOf<S>>) {
        self.end_orders_of(id);
        let (left, answers) = self.table.disconnected(id);
        if let Some(holder) = left {
            let (name, leases) = (name_of(holder), leases_of(holder));
            let ending = match victim.guards() {
                true => ": ending what it started",
                false => "",
            };
            let text = format!("{name} ended without a release{ending} ({leases})");
            self.say(&text);
            self.dead.bury(id, victim);
        }
        self.outbox.put(answers);
    }

    /// Hands over what has changed since the last time.
    fn hand_over_page(&mut self) {
        if let Some(page) = self.outbox.page() {
            let changes = self.table.take_changes();
            let (generation, table) = (self.generation(), &self.table);
            self.s.keep_holders(page, changes, || Holders {
                generation,
                table: table.clone(),
            });
        }
    }

    /// Sends the answers whose page is written. A turn to release of a holder that has ended is
    /// taken here.
    fn send_answers(&mut self) {
        while let Some((id, tell)) = self.outbox.take() {
            if self.table.holder(id).is_some_and(Holder::ended) {
                self.release_for(id, &tell);
            } else if let Some(peer) = self.peers.of(id) {
                self.s.tell(peer, &tell);
            }
        }
        self.hand_over_page();
    }

    /// Tells every holder.
    pub(super) fn tell_all(&mut self, tell: &Tell) {
        for peer in self.peers.holders() {
            self.s.tell(peer, tell);
        }
    }

    // ---- the dead, and those who are to die

    fn strike(&mut self) {
        self.strike_those_who_stay();
        self.bury_those_who_do_not_come_back();
        for (id, remains) in self.dead.strike(self.s.around()) {
            match remains {
                Remains::Nothing => self.proven_gone(id),
                Remains::NotKnown => self.unproven(id),
                Remains::Something => {}
            }
        }
    }

    /// Whoever has not gone by the time at which it had to is killed, with all that it started;
    /// its connection ends by that.
    fn strike_those_who_stay(&mut self) {
        let strike_at = self.stage.strike_at();
        if strike_at.is_some_and(|strike_at| self.now() >= strike_at) {
            self.close_those_without_a_lease();
            for victim in self.peers.victims() {
                victim.strike(self.s.around());
            }
            self.dead.strike_awaited(self.s.around());
        }
    }

    /// What runs without a lease has none to lose.
    fn close_those_without_a_lease(&mut self) {
        let idle = |(_, holder): &(HolderId, &Holder)| holder.guarded.is_some() && holder.is_idle();
        let idle = self.table.holders().filter(idle).map(|(id, _)| id);
        let peers: Vec<PeerId> = idle.filter_map(|id| self.peers.of(id)).collect();
        peers.into_iter().for_each(|peer| self.close(peer));
    }

    fn bury_those_who_do_not_come_back(&mut self) {
        for (id, mut victim) in self.dead.take_lost(self.s.around()) {
            if let Some(phases) = self.s.take_mark(self.generation(), id) {
                self.table.left(id, &phases, self.late_until());
                victim.nothing_runs();
            }
            // Without a lease-join it may have begun to release, and told nobody.
            let writes = |phase| phase != Phase::Idle;
            self.dead.note_writing(&self.table, id, writes);
            self.ended(id, victim);
        }
    }

    fn proven_gone(&mut self, id: HolderId) {
        let writes = |phase| matches!(phase, Phase::Acquiring | Phase::Releasing | Phase::Doubt);
        self.dead.note_writing(&self.table, id, writes);
        let answers = self.table.proven_gone(id);
        self.outbox.put(answers);
        self.forget(id);
    }

    fn unproven(&mut self, id: HolderId) {
        self.table.unproven(id);
        if let Some(holder) = self.table.holder(id) {
            let name = name_of(holder);
            let text = format!(
                "{name} is dead, but what it started may still run, so its leases stay owned by \
                 this host: end what is left of it, then stop lease-join and start it again"
            );
            self.say(&text);
        }
        self.outbox.changed();
    }

    /// The turn of a dead holder to release: taken in its place, unless others on this host share.
    /// Not before it is proven gone.
    fn release_for(&mut self, id: HolderId, tell: &Tell) {
        let Tell::ReleaseTurn { index, last } = tell else {
            return;
        };
        if self.dead.is_buried(id) {
            return;
        }
        let asked = self.table.holder(id).and_then(|h| h.claims.get(*index));
        match asked.map(|claim| claim.asked.clone()) {
            Some(asked) if *last => self.give_back((id, *index), asked),
            _ => self.forget(id),
        }
    }

    fn give_back(&mut self, lease: Lease, asked: Asked) {
        if let Some(wrote) = self.dead.begin_to_give_back(lease) {
            let quiet_from = self.table.quiet_from(&asked.areas);
            let died_writing = wrote.then(|| self.now());
            let task = GiveBack::new(self.estate.clone(), asked, died_writing, quiet_from);
            self.s.give_back(lease, task);
        }
    }

    fn hear_of_giving_back(&mut self, lease: Lease, progress: Progress) {
        let late = match progress {
            Progress::Failed(why) => return self.dead.not_given_back(lease, why),
            Progress::Done { late } => late,
        };
        self.dead.given_back(lease);
        let (id, index) = lease;
        let (doubt, late_until) = (false, self.late_until());
        let left = Left { doubt, late };
        if let Ok(answers) = self.table.released(id, index, left, late_until) {
            self.outbox.put(answers);
            self.forget(id);
        }
    }

    fn forget(&mut self, id: HolderId) {
        let name = self.table.holder(id).map(name_of);
        if self.table.forget(id) {
            let name = name.unwrap_or_default();
            self.say(&format!("{name}: nothing is left; its leases are free"));
            self.outbox.changed();
        }
    }
}
