//! lease-join as a process: the host that ships, with the sockets, threads and files of a simulated
//! machine.

use super::around::{Around, Open, path_of};
use super::machine::{Machine, Membership};
use super::mail::{Entry, Group, Letter, Wish};
use super::port::Port;
use super::watchdog::Shares;
use super::{area_offset, lockspace};
use lease_core::clock::{Clock, Moment};
use lease_core::delta::{self, Calls};
use lease_core::failure::Failure;
use lease_core::host;
use lease_core::host::config::Config;
use lease_core::host::giving_back::{Estate, GiveBack, Lease};
use lease_core::host::heart::{Beat, Heart, HeartSurroundings, Told};
use lease_core::host::kept::{Holders, Life};
use lease_core::host::memory::{MachineId, Memory};
use lease_core::host::surroundings::{Beside, Event, HostSurroundings, PeerId};
use lease_core::host::watchdog::Watchdog;
use lease_core::id::{Generation, Name};
use lease_core::record::host_note::BootId;
use lease_core::registry::message::{Ask, HolderId, Phase, Tell};
use lease_core::registry::table::{Changes, Link};
use lease_core::spec::{HostField, LockspaceSpec, Place};
use lease_core::timing::Timing;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Changes that are written behind one page, at most.
const CHANGES_AFTER_PAGE: u32 = 8;

/// lease-join, from its start to its end.
pub fn lease_join(port: &Port<'_>, machine: &Rc<Machine>) {
    if machine.setup.sanlock {
        return super::sanlock::lockspace(port, machine);
    }
    let mut here = Here::new(port, machine);
    if let Err(failure) = host::run(&mut here, &config(machine)) {
        machine.tell(|| format!("lease-join ends: {failure}"));
        if failure.text.contains("may still run") {
            machine.shared.wish(Wish::Admin(machine.index));
        }
    }
    let group = Group::Join(machine.setup.lockspace);
    machine.shared.wish(Wish::End(machine.index, group));
}

fn config(machine: &Machine) -> Config {
    let path = path_of(machine.setup.heartbeats());
    let place = Place {
        path: path.clone(),
        offset: area_offset(0),
    };
    Config {
        lockspace: LockspaceSpec {
            name: lockspace(machine.setup.lockspace).name,
            host: HostField::Id(machine.setup.host),
            place,
        },
        path,
        host: Some(machine.setup.host),
        name: machine.setup.name,
        io_timeout: Some(machine.timing.get().io_timeout()),
        watchdog_timeout: machine.timing.get().watchdog(),
    }
}

/// The surroundings of a host.
struct Here<'p> {
    around: Around<'p>,
    /// The mailboxes of the server, of the thread that renews, and of the one that writes pages.
    inbox: usize,
    heart: Option<usize>,
    scribe: Option<usize>,
    /// Connections that were heard of, and whose each is.
    peers: BTreeMap<PeerId, i32>,
    /// What a connection said first, which is heard after the connection itself.
    held_back: Option<Event<i32>>,
    /// What was said last, by whom, and whether a correct holder may say that out of order.
    last: Option<(PeerId, &'static str, bool)>,
    /// The life that is served.
    life: Option<Rc<Membership>>,
    told_to_leave: bool,
    /// Changes for which there is room after the last page.
    room: u32,
}

impl<'p> Here<'p> {
    fn new(port: &'p Port<'p>, machine: &Rc<Machine>) -> Self {
        Self {
            around: Around {
                port,
                machine: Rc::clone(machine),
            },
            inbox: machine.shared.mailbox(),
            heart: None,
            scribe: None,
            peers: BTreeMap::new(),
            held_back: None,
            last: None,
            life: None,
            told_to_leave: false,
            room: 0,
        }
    }

    fn machine(&self) -> &Rc<Machine> {
        &self.around.machine
    }

    fn is_lost(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.tenure.is_lost())
    }

    fn spawn(&self, body: impl FnOnce(&Port<'_>) + 'static) {
        let machine = self.machine();
        let group = Group::Join(machine.setup.lockspace);
        let wish = Wish::Spawn(machine.index, group, Box::new(body));
        machine.shared.wish(wish);
    }

    fn heard(&mut self, letter: Letter) -> Option<Event<i32>> {
        Some(match letter {
            Letter::Ask(number, ask) => return self.said(PeerId(number), ask),
            Letter::Closed(number) => {
                let (peer, whole) = (PeerId(number), true);
                self.peers.remove(&peer)?;
                Event::Ended { peer, whole }
            }
            Letter::Beat(beat) => {
                if matches!(beat, Beat::Renewed { .. }) && !self.is_lost() {
                    let generation = self.life.as_ref()?.generation;
                    self.machine().note_known(generation);
                }
                Event::Beat(beat)
            }
            Letter::GivenBack(lease, progress) => Event::GivenBack(lease, progress),
            Letter::Written(page) => Event::Written(page),
            Letter::Leave => Event::Leave,
            _ => return None,
        })
    }

    fn said(&mut self, peer: PeerId, ask: Ask) -> Option<Event<i32>> {
        let machine = Rc::clone(self.machine());
        let connection = machine.connections.borrow().get(&peer.0).copied();
        let known = self.peers.get(&peer).copied();
        let pid = known.or(connection.map(|connection| connection.pid))?;
        machine.tell(|| format!("{} asks {}", peer.0, in_short(&ask)));
        // Whoever has left a late write, and then comes back, may not want the lease again.
        let excused = matches!(ask, Ask::Resume { .. } | Ask::Acquire { .. });
        self.last = Some((peer, in_short(&ask), excused));
        let beside = match ask {
            Ask::Register { .. } | Ask::Resume { .. } if machine.lives(pid) => Beside::Process(pid),
            Ask::Register { .. } | Ask::Resume { .. } => Beside::Gone,
            Ask::Guard { .. } => machine.gated(pid).map_or(Beside::Gone, Beside::Process),
            _ => Beside::Nothing,
        };
        let said = Event::Said { peer, ask, beside };
        if known.is_some() {
            return Some(said);
        }
        self.peers.insert(peer, pid);
        self.held_back = Some(said);
        Some(Event::Connected { peer, pid })
    }
}

impl<'p> HostSurroundings for Here<'p> {
    type Around = Around<'p>;
    type Watchdog = Shares;

    /// More seldom than the tool: here nothing is started between two strikes.
    const STRIKE_EVERY: Duration = Duration::from_millis(250);

    fn around(&self) -> &Around<'p> {
        &self.around
    }

    fn boot_id(&self) -> Result<BootId, Failure> {
        Ok(self.machine().boot_id())
    }

    fn pid_namespace(&self) -> Result<u64, Failure> {
        Ok(0)
    }

    fn random_name(&self) -> Result<Name, Failure> {
        Ok(self.machine().name())
    }

    fn watchdog_name(&self) -> Option<String> {
        let device = || "the device".to_owned();
        self.machine().setup.watchdog.then(device)
    }

    fn arm_watchdog(&self, timing: Timing) -> Result<Option<Watchdog<Shares>>, Failure> {
        let shares = self.watchdog_name().map(|_| Shares::of(self.machine()));
        let armed = shares.map(|shares| Watchdog::arm(shares, timing, &self.around));
        armed.transpose()
    }

    fn machine_id(&self) -> MachineId {
        MachineId::default()
    }

    fn remembered(&self) -> Result<Option<Memory>, Failure> {
        Ok(self.machine().memory.borrow().clone())
    }

    fn remember(&self, memory: &Memory) -> Result<(), Failure> {
        *self.machine().memory.borrow_mut() = Some(memory.clone());
        Ok(())
    }

    fn run_dir(&self) -> String {
        String::new()
    }

    fn life(&self) -> Result<Option<Life>, Failure> {
        Ok(self.machine().run.borrow().life.clone())
    }

    fn holders(&self) -> Result<Option<Holders>, Failure> {
        Ok(self.machine().run.borrow().holders.clone())
    }

    fn keep(&self, life: &Life) -> Result<(), String> {
        self.machine().run.borrow_mut().life = Some(life.clone());
        Ok(())
    }

    fn keep_holders(&mut self, page: u64, changes: Changes, all: impl FnOnce() -> Holders) {
        let entry = match self.room.checked_sub(1) {
            Some(left) => {
                self.room = left;
                Entry::Change(changes)
            }
            None => {
                self.room = CHANGES_AFTER_PAGE;
                Entry::Page(all())
            }
        };
        if let Some(scribe) = self.scribe {
            let letter = Letter::Page(page, entry);
            self.machine().shared.post(scribe, letter);
        }
    }

    fn take_mark(&self, generation: Generation, holder: HolderId) -> Option<Vec<Phase>> {
        let mut run = self.machine().run.borrow_mut();
        run.marks.remove(&(generation, holder))
    }

    fn forget(&self) -> Result<(), Failure> {
        let mut run = self.machine().run.borrow_mut();
        (run.life, run.holders) = (None, None);
        Ok(())
    }

    fn listen(&mut self, estate: &Estate) -> Result<(), Failure> {
        let (machine, generation) = (Rc::clone(self.machine()), estate.generation);
        let host = machine.setup.host.get();
        let goes_on = |life: &Life| life.is_joined() && life.former.generation == generation;
        match machine.run.borrow().life.as_ref().is_some_and(goes_on) {
            true => machine.tell(|| format!("goes on as host {host} generation {generation}")),
            false => {
                machine.tell(|| format!("joined as host {host} generation {generation}"));
                let mut checker = machine.shared.checker.borrow_mut();
                checker.joined((machine.setup.lockspace, host), generation.0);
            }
        }
        let life = Rc::new(Membership {
            generation,
            tenure: Arc::clone(&estate.tenure),
            ballots_from: estate.ballots_from,
            seen: RefCell::default(),
            left: Cell::new(false),
        });
        machine.run.borrow_mut().socket = Some(self.inbox);
        *machine.member.borrow_mut() = Some(Rc::clone(&life));
        self.life = Some(life);
        Ok(())
    }

    fn stop_listening(&mut self) -> Result<(), Failure> {
        self.machine().run.borrow_mut().socket = None;
        Ok(())
    }

    fn announce(&mut self, _: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn doing(&mut self, _: impl Display) {}

    fn start_heart(&mut self, heart: Heart<Open<'p>>) -> Result<(), Failure> {
        let (inbox, server) = (self.machine().shared.mailbox(), self.inbox);
        self.heart = Some(inbox);
        let heart = heart.with(Open::hand_over);
        let (machine, life) = (Rc::clone(self.machine()), self.life.clone());
        self.spawn(move |port| {
            let around = Around { port, machine };
            let heart = heart.with(|handle| around.take_over(handle));
            heart.run(&Thread {
                around,
                life,
                inbox,
                server,
            });
        });
        let scribe = self.machine().shared.mailbox();
        self.scribe = Some(scribe);
        let machine = Rc::clone(self.machine());
        self.spawn(move |port| write_pages(port, &machine, scribe, server));
        Ok(())
    }

    fn call(&mut self, calls: Calls) {
        if let Some(heart) = self.heart {
            self.machine().shared.post(heart, Letter::Call(calls));
        }
    }

    fn give_back_host_id(&mut self, quiet_from: Moment) {
        if let Some(heart) = self.heart {
            let letter = Letter::GiveBack(quiet_from);
            self.machine().shared.post(heart, letter);
        }
    }

    fn give_back(&mut self, lease: Lease, task: GiveBack) {
        let (machine, server) = (Rc::clone(self.machine()), self.inbox);
        self.spawn(move |port| {
            let around = Around { port, machine };
            task.run(&around, &mut |progress| {
                let letter = Letter::GivenBack(lease, progress);
                around.machine.shared.post(server, letter);
            });
        });
    }

    fn wait(&mut self, until: Moment) -> Result<(), Failure> {
        if self.told_to_leave || !self.around.port.face().is_stopped() {
            self.around.port.listen(self.inbox, until);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event<i32>> {
        if self.held_back.is_some() {
            return self.held_back.take();
        }
        if self.around.port.face().is_stopped() && !std::mem::replace(&mut self.told_to_leave, true)
        {
            return Some(Event::Leave);
        }
        loop {
            let Some(letter) = self.machine().shared.take(self.inbox) else {
                // What is closed from here on is not closed for what it has said.
                self.last = None;
                return None;
            };
            if let Some(event) = self.heard(letter) {
                return Some(event);
            }
        }
    }

    fn tell(&mut self, peer: PeerId, tell: &Tell) {
        // Whoever is told why the connection ends has said nothing wrong.
        self.last = self.last.filter(|(last, ..)| *last != peer);
        let connection = self.machine().connections.borrow().get(&peer.0).copied();
        if let Some(connection) = connection {
            if !matches!(tell, Tell::Renewed { .. }) {
                let text = || format!("{} is told {}", peer.0, told_in_short(tell));
                self.machine().tell(text);
            }
            let letter = Letter::Tell(tell.clone());
            self.machine().shared.post(connection.client, letter);
        }
    }

    /// No holder here says anything out of order.
    fn close(&mut self, peer: PeerId) {
        let machine = Rc::clone(self.machine());
        let pid = self.peers.remove(&peer);
        if let (Some((last, what, false)), Some(pid)) = (self.last, pid)
            && last == peer
            && machine.lives(pid)
        {
            let accusation = format!("m{}: out of order: {what}", machine.index);
            machine.shared.checker.borrow_mut().accuse(accusation);
        }
        let connection = machine.connections.borrow_mut().remove(&peer.0);
        if let Some(connection) = connection {
            machine.shared.post(connection.client, Letter::Gone);
        }
    }
}

/// The thread that writes the holders' file. Whoever looks there sees what an admin has to see to.
fn write_pages(port: &Port<'_>, machine: &Machine, inbox: usize, server: usize) {
    let mut admin_called = false;
    loop {
        port.listen(inbox, Moment(u64::MAX));
        let (mut holders, mut last) = (machine.run.borrow().holders.clone(), None);
        while let Some(Letter::Page(page, entry)) = machine.shared.take(inbox) {
            match (entry, &mut holders) {
                (Entry::Page(all), _) => holders = Some(all),
                (Entry::Change(changes), Some(holders)) => holders.table.apply(changes),
                (Entry::Change(_), None) => {}
            }
            last = Some(page);
        }
        let Some(last) = last else { continue };
        let unproven = |holders: &Holders| {
            let mut all = holders.table.holders();
            all.any(|(_, holder)| holder.link == Link::Unproven)
        };
        if holders.as_ref().is_some_and(unproven) && !std::mem::replace(&mut admin_called, true) {
            machine.shared.wish(Wish::Admin(machine.index));
        }
        port.page();
        machine.run.borrow_mut().holders = holders;
        machine.shared.post(server, Letter::Written(last));
    }
}

/// The thread that renews.
struct Thread<'p> {
    around: Around<'p>,
    life: Option<Rc<Membership>>,
    inbox: usize,
    server: usize,
}

impl Thread<'_> {
    /// A life that ends in any other way than by time is a surprise, and one by time too early.
    fn expect(&self, lost: &delta::Lost) {
        let (machine, Some(life)) = (&self.around.machine, &self.life) else {
            return;
        };
        let expected = life.ballots_from.max(machine.excused_until.get());
        let wrong = match lost {
            delta::Lost::Expired(_) => {
                machine.shared.strict.get() && machine.is_kept(life.generation)
            }
            _ => self.around.now() >= expected,
        };
        if wrong {
            let host = Some(machine.setup.host);
            let what = || format!("m{}: {lost}", machine.index);
            machine.shared.surprise(host, None, what);
        }
    }
}

impl HeartSurroundings for Thread<'_> {
    fn clock(&self) -> &dyn Clock {
        &self.around
    }

    fn told(&self, until: Moment) -> Told {
        loop {
            self.around.port.listen(self.inbox, until);
            let letter = self.around.machine.shared.take(self.inbox);
            match letter {
                Some(Letter::GiveBack(quiet_from)) => return Told::Leave(quiet_from),
                Some(Letter::Call(calls)) => return Told::Call(calls),
                _ => {}
            }
            if self.around.now() >= until {
                return Told::Renew;
            }
        }
    }

    fn keep(&self, life: &Life) -> Result<(), String> {
        self.around.machine.run.borrow_mut().life = Some(life.clone());
        Ok(())
    }

    fn report(&self, beat: Beat) {
        let machine = &self.around.machine;
        match (&beat, &self.life) {
            (Beat::Lost(lost), _) => {
                machine.tell(|| format!("host id lost: {lost}"));
                self.expect(lost);
            }
            (Beat::Failed(fault), _) => machine.tell(|| format!("cannot renew: {fault}")),
            (Beat::Left(Ok(_)), Some(life)) => life.left.set(true),
            (Beat::Renewed { hosts, .. }, Some(life)) => drop(life.seen.replace(hosts.clone())),
            _ => {}
        }
        machine.shared.post(self.server, Letter::Beat(beat));
    }
}
fn in_short(ask: &Ask) -> &'static str {
    match ask {
        Ask::Register { .. } => "to register",
        Ask::Describe => "what is known",
        Ask::Resume { .. } => "to go on",
        Ask::Acquire { .. } => "to acquire",
        Ask::Order { .. } => "to order",
        Ask::Ordered { .. } => "nothing: it has done as it was told",
        Ask::Claim { .. } => "for one more",
        Ask::Yield { .. } => "to release while its command runs",
        Ask::Acquired { lver: Some(_), .. } => "nothing: it has acquired",
        Ask::Acquired { .. } => "nothing: it has not acquired",
        Ask::Guard { .. } => "to open its gate",
        Ask::Start { .. } => "nothing: it starts",
        Ask::Gone => "nothing: all is gone",
        Ask::Release { .. } => "to release",
        Ask::Released { .. } => "nothing: it has released",
        Ask::SetEvent(_) | Ask::Listen => "for events",
        Ask::Call { .. } => "for a call",
    }
}

fn told_in_short(tell: &Tell) -> &'static str {
    match tell {
        Tell::Registered(_) => "welcome",
        Tell::Described(_) => "what is known",
        Tell::Resumed { .. } => "to go on",
        Tell::Refused { .. } => "no",
        Tell::EventSet(_) | Tell::Event(_) => "of an event",
        Tell::Asked { .. } => "that a host asks",
        Tell::Turn { .. } => "to acquire",
        Tell::Busy { .. } => "that it is busy",
        Tell::Go { .. } => "to go",
        Tell::NotGuarded { .. } => "not to go",
        Tell::ReleaseTurn { .. } => "to release",
        Tell::Renewed { .. } => "of a renewal",
        Tell::Order { .. } => "to change what it holds",
        Tell::Withdrawn { .. } => "that nobody waits",
        Tell::Ordered { .. } => "what came of it",
        Tell::Claimed { .. } => "one more",
        Tell::NotClaimed { .. } => "not one more",
        Tell::Lost { .. } => "that all is lost",
        Tell::Stop => "to stop",
    }
}
