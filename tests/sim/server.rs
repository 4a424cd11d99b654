//! lease-join's server: it answers holders by the registry that ships, hears of renewals, keeps the
//! deadline, and kills what a holder does not; in the order of its loop.

use super::join::Dog;
use super::machine::{Machine, Membership};
use super::mail::{Group, Letter, Wish};
use super::port::Port;
use super::undertaker::Task;
use super::{LOCKSPACE, LOCKSPACE_GEOMETRY};
use lease_core::clock::{Clock, Moment};
use lease_core::contain::Remains;
use lease_core::registry::message::{Ask, HolderId, Phase, Tell, Welcome};
use lease_core::registry::table::{Answer, Holder, Link, OutOfOrder, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

const LOOK_AROUND: Duration = Duration::from_millis(500);
/// More seldom than the tool: here nothing is started between two strikes.
const STRIKE_EVERY: Duration = Duration::from_millis(250);
const LEAVE_WITHIN: Duration = Duration::from_secs(15);
/// Without anything to look at.
const FOR_LONG: Duration = Duration::from_secs(3600);

/// A holder that is to die, with what it started.
#[derive(Debug, Clone, Default)]
pub struct Victim {
    holder: Option<i32>,
    tree: Option<i32>,
}

impl Victim {
    /// A holder that a former lease-join knew.
    pub fn of(machine: &Machine, holder: &Holder) -> Self {
        let pid = holder.process.pid;
        Self {
            holder: machine.lives(pid).then_some(pid),
            tree: holder.guarded.as_ref().map(|guarded| guarded.process.pid),
        }
    }

    /// Kills, the lease-hold first, and looks what is left.
    pub fn strike(&self, machine: &Machine) -> Remains {
        self.holder.iter().for_each(|pid| machine.kill(*pid));
        let of_tree = match self.tree {
            Some(tree) => {
                machine.kill_tree(tree, false);
                machine.remains(tree)
            }
            None => Remains::Nothing,
        };
        match self.is_dead(machine) {
            true => of_tree,
            false => Remains::Something,
        }
    }

    fn is_dead(&self, machine: &Machine) -> bool {
        self.holder.is_none_or(|pid| !machine.lives(pid))
    }
}

/// One connection.
struct Peer {
    client: usize,
    pid: i32,
    holder: Option<HolderId>,
    victim: Victim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    Stopping {
        strike_at: Moment,
        give_up_at: Moment,
    },
    Leaving,
    Lost {
        strike_at: Moment,
    },
}

/// What comes of a message.
enum Heard {
    /// Sent once the holders' file is written.
    Answers(Vec<Answer>),
    /// Sent at once.
    Now(Tell),
    /// Sent, and goodbye.
    Last(Tell),
}

/// The registry of one joined host id.
pub struct Server<'p> {
    port: &'p Port<'p>,
    machine: Rc<Machine>,
    life: Rc<Membership>,
    table: Table,
    dog: Option<Dog>,
    inbox: usize,
    heart: usize,
    peers: BTreeMap<u64, Peer>,
    awaited: BTreeMap<HolderId, Victim>,
    graves: BTreeMap<HolderId, Victim>,
    died_writing: BTreeSet<(HolderId, usize)>,
    giving_back: BTreeSet<(HolderId, usize)>,
    unsent: Vec<Answer>,
    changed: bool,
    stage: Stage,
    over: bool,
}

impl<'p> Server<'p> {
    /// Of a host id that was joined, or is gone on with.
    pub(crate) fn new(
        port: &'p Port<'p>,
        machine: &Rc<Machine>,
        life: Rc<Membership>,
        mut table: Table,
        dog: Option<Dog>,
        (inbox, heart): (usize, usize),
    ) -> Self {
        table.await_all();
        let awaited = table.holders();
        let awaited = awaited.map(|(id, holder)| (id, Victim::of(machine, holder)));
        Self {
            port,
            machine: Rc::clone(machine),
            awaited: awaited.collect(),
            life,
            table,
            dog,
            inbox,
            heart,
            peers: BTreeMap::new(),
            graves: BTreeMap::new(),
            died_writing: BTreeSet::new(),
            giving_back: BTreeSet::new(),
            unsent: Vec::new(),
            changed: true,
            stage: Stage::Serving,
            over: false,
        }
    }

    /// Serves until the host id is given back or lost, and ends the process.
    pub fn run(mut self) {
        self.write_page();
        let machine = Rc::clone(&self.machine);
        machine.run.borrow_mut().socket = Some(self.inbox);
        *machine.member.borrow_mut() = Some(Rc::clone(&self.life));
        while !self.over {
            self.port.listen(self.inbox, self.due());
            self.tend_watchdog();
            while let Some(letter) = machine.shared.take(self.inbox) {
                self.hear(letter);
            }
            self.check_deadline();
            self.strike();
            self.write_page();
            self.send_answers();
            self.end();
        }
        machine.shared.wish(Wish::End(machine.index, Group::Join));
    }

    fn now(&self) -> Moment {
        self.port.now()
    }

    fn due(&self) -> Moment {
        let now = self.now();
        let mut pause = match (self.graves.is_empty(), self.awaited.is_empty()) {
            (false, _) => STRIKE_EVERY,
            (true, false) => LOOK_AROUND,
            (true, true) => FOR_LONG,
        };
        if let Some(dog) = &self.dog {
            pause = pause.min(dog.pause());
        }
        let paced = |strike_at: Moment| strike_at.max(now.after(STRIKE_EVERY));
        let deadline = match self.stage {
            Stage::Serving => self.life.tenure.deadline(),
            Stage::Stopping { strike_at, .. } => paced(strike_at).min(self.life.tenure.deadline()),
            Stage::Leaving => now.after(LOOK_AROUND),
            Stage::Lost { strike_at } => paced(strike_at),
        };
        deadline.min(now.after(pause))
    }

    fn tend_watchdog(&mut self) {
        let guarding = self.is_guarding();
        if let Some(dog) = &mut self.dog {
            dog.tend(self.port, self.life.tenure.renewed(), guarding)
                .unwrap();
        }
    }

    fn is_guarding(&self) -> bool {
        self.may_run() || !self.giving_back.is_empty()
    }

    fn may_run(&self) -> bool {
        let unproven = |(_, holder): (_, &Holder)| holder.link == Link::Unproven;
        self.is_busy() || self.table.holders().any(unproven)
    }

    fn is_busy(&self) -> bool {
        let connected = self.peers.values().any(|peer| peer.holder.is_some());
        connected || !self.graves.is_empty() || !self.awaited.is_empty()
    }

    // ---- the host id

    fn hear(&mut self, letter: Letter) {
        match letter {
            Letter::Ask(number, ask) => self.hear_peer(number, ask),
            Letter::Closed(number) => self.close(number),
            Letter::Renewed(renewed) if !matches!(self.stage, Stage::Lost { .. }) => {
                self.life.tenure.note_renewal(renewed);
                self.machine.note_known(self.life.generation);
                self.tell_all(&Tell::Renewed { renewed });
            }
            Letter::Lost => self.lose(),
            Letter::Leave if self.stage == Stage::Serving => {
                let strike_at = self.now().after(LEAVE_WITHIN);
                let quiet_from = self.table.all_quiet_from().max(self.life.ballots_from);
                let timing = self.machine.setup.timing;
                let give_up_at = (strike_at.max(quiet_from))
                    .after(timing.takeover_after())
                    .after(2 * timing.renewal_period());
                self.stage = Stage::Stopping {
                    strike_at,
                    give_up_at,
                };
                self.tell_all(&Tell::Stop);
            }
            Letter::Left(free) => {
                if let Some(free) = free {
                    self.disarm();
                    if free {
                        self.machine.run.take();
                    }
                }
                self.over = true;
            }
            Letter::GaveBack(id, index, left) => {
                self.giving_back.remove(&(id, index));
                let late_until = self.machine.landed_by();
                if let Ok(answers) = self.table.released(id, index, left, late_until) {
                    self.answer(answers);
                    self.forget(id);
                }
            }
            _ => {}
        }
    }

    fn check_deadline(&mut self) {
        if !self.life.tenure.holds(self.now()) && self.stage != Stage::Leaving {
            self.lose();
        }
    }

    fn lose(&mut self) {
        if matches!(self.stage, Stage::Lost { .. }) {
            return;
        }
        let (timing, renewed) = (self.machine.setup.timing, self.life.tenure.renewed());
        let now = self.now();
        let strike_at = match now >= renewed.after(timing.lost_after()) {
            true => renewed.after(timing.strike_after()),
            false => now.after(timing.strike_within()),
        };
        self.life.tenure.note_loss();
        self.table.lose();
        self.changed = true;
        self.machine
            .tell(|| "lost; what is guarded is being ended".into());
        self.tell_all(&Tell::Lost { why: String::new() });
        self.stage = Stage::Lost { strike_at };
    }

    fn disarm(&mut self) {
        if let Some(dog) = self.dog.take() {
            dog.disarm().unwrap();
        }
    }

    fn end(&mut self) {
        let now = self.now();
        match self.stage {
            Stage::Serving | Stage::Leaving => {}
            Stage::Lost { .. } => self.over = !self.is_busy(),
            Stage::Stopping { give_up_at, .. } => {
                let left = self.table.holders().next().is_some();
                let unproven = |(_, holder): (_, &Holder)| holder.link == Link::Unproven;
                if now >= give_up_at && left {
                    self.over = true;
                } else if !self.is_busy() && !left {
                    self.stage = Stage::Leaving;
                    let letter = Letter::GiveBack(self.table.all_quiet_from());
                    self.machine.shared.post(self.heart, letter);
                } else if !self.is_busy() {
                    self.over = self.table.holders().all(unproven);
                }
            }
        }
        if self.over && !self.may_run() {
            self.disarm();
        }
    }

    // ---- holders

    fn hear_peer(&mut self, number: u64, ask: Ask) {
        let connection = self.machine.connections.borrow().get(&number).copied();
        if let (false, Some(connection)) = (self.peers.contains_key(&number), connection) {
            let peer = Peer {
                client: connection.client,
                pid: connection.pid,
                holder: None,
                victim: Victim::default(),
            };
            self.peers.insert(number, peer);
        }
        // Whoever has left a late write, and then comes back, may not want the lease again.
        let excused = matches!(ask, Ask::Resume { .. } | Ask::Acquire { .. });
        self.machine
            .tell(|| format!("{number} asks {}", in_short(&ask)));
        let what = in_short(&ask);
        match self.judge(number, ask) {
            Ok(Heard::Answers(answers)) => self.answer(answers),
            Ok(Heard::Now(tell)) => self.tell(number, &tell),
            Ok(Heard::Last(tell)) => {
                self.tell(number, &tell);
                self.close(number);
            }
            Err(OutOfOrder) => {
                let peer = self.peers.get(&number);
                if !excused && peer.is_some_and(|peer| self.machine.lives(peer.pid)) {
                    let index = self.machine.index;
                    let accuse = || format!("m{index}: out of order: {what}");
                    let mut checker = self.machine.shared.checker.borrow_mut();
                    checker.accuse(accuse());
                }
                self.close(number);
            }
        }
    }

    fn judge(&mut self, number: u64, ask: Ask) -> Result<Heard, OutOfOrder> {
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        let now = self.port.now();
        let late_until = self.machine.landed_by();
        let id = match (peer.holder, &ask) {
            (Some(id), _) => id,
            (None, Ask::Register { .. } | Ask::Resume { .. }) => HolderId(0),
            (None, _) => return Err(OutOfOrder),
        };
        let answers = match ask {
            Ask::Register { command, resources } => {
                if self.stage != Stage::Serving {
                    return Ok(Heard::Last(self.farewell()));
                }
                let process = super::machine::process(peer.pid);
                let id = self.table.register(process, command, 0, resources);
                let id = id.map_err(|_| OutOfOrder)?;
                (peer.holder, peer.victim.holder) = (Some(id), Some(peer.pid));
                vec![(id, Tell::Registered(Box::new(self.welcome(id))))]
            }
            Ask::Resume {
                holder,
                generation,
                phases,
                late,
            } => {
                if generation != self.life.generation {
                    let why = String::new();
                    return Ok(Heard::Last(Tell::Refused { why }));
                }
                self.resume(number, holder, (&phases, &late))?;
                let renewed = self.life.tenure.renewed();
                vec![(holder, Tell::Resumed { renewed })]
            }
            Ask::Acquire { .. } | Ask::Guard { .. } if self.stage != Stage::Serving => {
                vec![(id, self.farewell())]
            }
            Ask::Acquire { index } => match self.table.acquire(id, index, now)? {
                (_, busy @ Tell::Busy { .. }) => return Ok(Heard::Now(busy)),
                turn => vec![turn],
            },
            Ask::Acquired { index, lver, left } => {
                self.table.acquired(id, index, lver, left, late_until)?
            }
            Ask::Gone => {
                if matches!(self.stage, Stage::Lost { .. }) {
                    self.table.gone(id);
                }
                Vec::new()
            }
            Ask::Release { index } => {
                let answers = self.table.release(id, index)?;
                peer.victim.tree = None;
                answers
            }
            Ask::Released { index, left } => {
                let left = self.table.as_left(id, index, left, now);
                self.table.released(id, index, left, late_until)?
            }
            Ask::Guard { .. } => self.guard(number, id)?,
            // Here nobody counts on that: whoever ends at its gate is taken for one that ran.
            Ask::Start => Vec::new(),
            Ask::Describe => return Err(OutOfOrder),
        };
        Ok(Heard::Answers(answers))
    }

    /// A holder of the former lease-join comes back.
    fn resume(
        &mut self,
        number: u64,
        holder: HolderId,
        standing: (&[Phase], &[bool]),
    ) -> Result<(), OutOfOrder> {
        let when = (self.port.now(), self.machine.landed_by());
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        let process = super::machine::process(peer.pid);
        self.table.resume(holder, process, standing, when)?;
        peer.victim = self.awaited.remove(&holder).ok_or(OutOfOrder)?;
        peer.victim.holder = Some(peer.pid);
        let known = self.table.holder(holder).ok_or(OutOfOrder)?;
        if known.guarded.is_none() {
            peer.victim.tree = None;
        }
        peer.holder = Some(holder);
        if self.stage != Stage::Serving {
            let farewell = self.farewell();
            self.tell(number, &farewell);
        }
        Ok(())
    }

    /// The descriptor that comes with the message is that of the tree whose holder asks.
    fn guard(&mut self, number: u64, id: HolderId) -> Result<Vec<Answer>, OutOfOrder> {
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        let trees = self.machine.trees.borrow();
        let its = trees
            .iter()
            .find(|(_, tree)| tree.holder == peer.pid && !tree.dead);
        let tree = *its.ok_or(OutOfOrder)?.0;
        self.table.guard(id, self.machine.guarded(tree))?;
        peer.victim.tree = Some(tree);
        let (generation, renewed) = (self.life.generation, self.life.tenure.renewed());
        Ok(vec![(
            id,
            Tell::Go {
                generation,
                renewed,
            },
        )])
    }

    fn farewell(&self) -> Tell {
        match self.stage {
            Stage::Lost { .. } => Tell::Lost { why: String::new() },
            _ => Tell::Stop,
        }
    }

    fn welcome(&self, holder: HolderId) -> Welcome {
        Welcome {
            holder,
            lockspace: LOCKSPACE.name,
            host: self.machine.setup.host,
            generation: self.life.generation,
            host_name: LOCKSPACE.name,
            path: PathBuf::new(),
            offset: 0,
            geometry: LOCKSPACE_GEOMETRY,
            timing: self.machine.setup.timing,
            renewed: self.life.tenure.renewed(),
            ballots_from: self.life.ballots_from,
            hosts: self.life.seen.borrow().clone(),
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(connection) = self.machine.connections.borrow_mut().remove(&number) {
            self.machine.shared.post(connection.client, Letter::Gone);
        }
        if let Some(peer) = self.peers.remove(&number)
            && let Some(id) = peer.holder
        {
            self.ended(id, peer.victim);
        }
    }

    fn ended(&mut self, id: HolderId, victim: Victim) {
        let (left, answers) = self.table.disconnected(id);
        if left.is_some() {
            self.machine
                .tell(|| "a lease-hold ended without a release".into());
            self.graves.insert(id, victim);
        }
        self.answer(answers);
    }

    fn answer(&mut self, answers: Vec<Answer>) {
        self.changed = true;
        self.unsent.extend(answers);
    }

    /// Answers leave when what they allow is in the holders' file.
    fn write_page(&mut self) {
        if std::mem::take(&mut self.changed) {
            let page = (self.life.generation, self.table.clone());
            self.port.page();
            self.machine.run.borrow_mut().holders = Some(page);
        }
    }

    fn send_answers(&mut self) {
        for (id, tell) in std::mem::take(&mut self.unsent) {
            let connected = self.peers.iter().find(|(_, peer)| peer.holder == Some(id));
            let number = connected.map(|(number, _)| *number);
            if self.table.holder(id).is_some_and(Holder::ended) {
                self.release_for(id, &tell);
            } else if let Some(number) = number {
                self.tell(number, &tell);
            }
        }
    }

    fn tell(&self, number: u64, tell: &Tell) {
        if let Some(peer) = self.peers.get(&number) {
            if !matches!(tell, Tell::Renewed { .. }) {
                self.machine
                    .tell(|| format!("{number} is told {}", told_in_short(tell)));
            }
            self.machine
                .shared
                .post(peer.client, Letter::Tell(tell.clone()));
        }
    }

    fn tell_all(&self, tell: &Tell) {
        let holders = self.peers.iter().filter(|(_, peer)| peer.holder.is_some());
        holders.for_each(|(number, _)| self.tell(*number, tell));
    }

    // ---- the dead, and those who are to die

    fn strike(&mut self) {
        self.strike_those_who_stay();
        self.bury_those_who_do_not_come_back();
        for id in self.graves.keys().copied().collect::<Vec<_>>() {
            match self.graves[&id].strike(&self.machine) {
                Remains::Nothing => self.proven_gone(id),
                Remains::NotKnown => self.unproven(id),
                Remains::Something => {}
            }
        }
    }

    fn strike_those_who_stay(&self) {
        let (Stage::Stopping { strike_at, .. } | Stage::Lost { strike_at }) = self.stage else {
            return;
        };
        if self.now() < strike_at {
            return;
        }
        let connected = self.peers.values().filter(|peer| peer.holder.is_some());
        let connected = connected.map(|peer| &peer.victim);
        for victim in connected.chain(self.awaited.values()) {
            victim.strike(&self.machine);
        }
    }

    fn bury_those_who_do_not_come_back(&mut self) {
        let gone = |(_, victim): &(&HolderId, &Victim)| victim.is_dead(&self.machine);
        let ids: Vec<HolderId> = self
            .awaited
            .iter()
            .filter(gone)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(victim) = self.awaited.remove(&id) {
                let mark = (self.life.generation, id);
                let marked = self.machine.run.borrow_mut().marks.remove(&mark);
                if let Some(phase) = marked {
                    let when = (self.port.now(), self.machine.landed_by());
                    self.table.left(id, &[phase], when);
                }
                // What it was doing when it died nobody was told.
                self.note_writing(id, |phase| phase != Phase::Idle);
                self.ended(id, victim);
            }
        }
    }

    /// Notes of which of its resources it may have been writing to the disk.
    fn note_writing(&mut self, id: HolderId, writes: fn(Phase) -> bool) {
        let claims = self.table.holder(id).into_iter().flat_map(|h| &h.claims);
        let wrote = claims.enumerate().filter(|(_, claim)| writes(claim.phase));
        self.died_writing
            .extend(wrote.map(|(index, _)| (id, index)));
    }

    fn proven_gone(&mut self, id: HolderId) {
        self.graves.remove(&id);
        self.note_writing(id, |phase| {
            matches!(phase, Phase::Acquiring | Phase::Releasing | Phase::Doubt)
        });
        let answers = self.table.proven_gone(id);
        self.answer(answers);
        self.forget(id);
    }

    fn unproven(&mut self, id: HolderId) {
        self.graves.remove(&id);
        self.table.unproven(id);
        self.machine.shared.wish(Wish::Admin(self.machine.index));
        self.machine
            .tell(|| "what is left may still run: its lease stays owned".into());
        self.answer(Vec::new());
    }

    /// The turn of a dead holder to release: not before it is proven gone, and once.
    fn release_for(&mut self, id: HolderId, tell: &Tell) {
        let Tell::ReleaseTurn { index, last } = tell else {
            return;
        };
        if self.graves.contains_key(&id) {
            return;
        }
        let claims = self.table.holder(id).map(|holder| &holder.claims);
        let asked = claims.and_then(|claims| Some(&claims.get(*index)?.asked));
        let Some(area) = asked.and_then(|asked| asked.areas[0]).filter(|_| *last) else {
            return self.forget(id);
        };
        if !self.giving_back.insert((id, *index)) {
            return;
        }
        let task = Task {
            lease: (id, *index),
            resource: area.identity.inode as usize,
            wrote: self.died_writing.remove(&(id, *index)),
            quiet_from: self.table.quiet_from(&[Some(area)]),
            server: self.inbox,
        };
        let (machine, life) = (Rc::clone(&self.machine), Rc::clone(&self.life));
        let undertaker = move |port: &Port<'_>| task.run(port, &machine, &life);
        let index = self.machine.index;
        self.machine
            .shared
            .wish(Wish::Spawn(index, Group::Join, Box::new(undertaker)));
    }

    fn forget(&mut self, id: HolderId) {
        self.changed |= self.table.forget(id);
    }
}

fn in_short(ask: &Ask) -> &'static str {
    match ask {
        Ask::Register { .. } => "to register",
        Ask::Describe => "what is known",
        Ask::Resume { .. } => "to go on",
        Ask::Acquire { .. } => "to acquire",
        Ask::Acquired { lver: Some(_), .. } => "nothing: it has acquired",
        Ask::Acquired { .. } => "nothing: it has not acquired",
        Ask::Guard { .. } => "to open its gate",
        Ask::Start => "nothing: it starts",
        Ask::Gone => "nothing: all is gone",
        Ask::Release { .. } => "to release",
        Ask::Released { .. } => "nothing: it has released",
    }
}

fn told_in_short(tell: &Tell) -> &'static str {
    match tell {
        Tell::Registered(_) => "welcome",
        Tell::Described(_) => "what is known",
        Tell::Resumed { .. } => "to go on",
        Tell::Refused { .. } => "no",
        Tell::Turn { .. } => "to acquire",
        Tell::Busy { .. } => "that it is busy",
        Tell::Go { .. } => "to go",
        Tell::NotGuarded { .. } => "not to go",
        Tell::ReleaseTurn { .. } => "to release",
        Tell::Renewed { .. } => "of a renewal",
        Tell::Lost { .. } => "that all is lost",
        Tell::Stop => "to stop",
    }
}
