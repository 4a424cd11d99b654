//! A machine: what outlives its processes, as its kernel and its run directory do. Who is alive,
//! what was started and how it is contained, what was written to /run, the watchdog device.

use super::Shared;
use super::checker::times;
use super::clock::{Face, Instant};
use super::mail::{Group, Letter, Wish};
use super::port::Handle;
use super::setup::{Cage, Setup};
use lease_core::cgroup::Remains;
use lease_core::clock::Moment;
use lease_core::contain::{Containment, Guarded};
use lease_core::delta::Tenure;
use lease_core::host::kept::{Holders, Life};
use lease_core::host::memory::Memory;
use lease_core::host::watchdog::Share;
use lease_core::id::{Generation, HostId, Name};
use lease_core::liveness::Sightings;
use lease_core::process::ProcessId;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::registry::message::{HolderId, Phase};
use lease_core::timing::Timing;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// By then all have heard of a renewal, where none is late.
const HEARD_WITHIN: Duration = Duration::from_millis(200);
/// From the moment before a renewal to its issue, where none is late.
const LAST_MOMENTS: Duration = Duration::from_millis(10);

/// One life of the machine's host id, as lease-join knows it.
#[derive(Debug)]
pub struct Membership {
    /// Which life.
    pub generation: Generation,
    /// Its renewals.
    pub tenure: Arc<Tenure>,
    /// Before this moment no ballot.
    pub ballots_from: Moment,
    /// What lease-join has seen of other hosts.
    pub seen: RefCell<Sightings>,
    /// It ended with a leave.
    pub left: Cell<bool>,
}

/// What a holder of a sanlock host is at.
#[derive(Debug, Clone)]
pub struct Work {
    /// Under which life of the host.
    pub life: Rc<Membership>,
    /// With which resource.
    pub resource: usize,
}

/// A command of a sanlock host.
#[derive(Debug, Clone)]
pub struct Command {
    /// The checker's number.
    pub id: u64,
    /// Its client.
    pub holder: usize,
    /// Under which life of the host.
    pub life: Rc<Membership>,
}

/// The run directory.
#[derive(Debug, Default)]
pub struct RunDir {
    /// The heartbeat's file.
    pub life: Option<Life>,
    /// The holders' file.
    pub holders: Option<Holders>,
    /// Marks of holders that have seen the end of all that they started, and what each has left.
    pub marks: BTreeMap<(Generation, HolderId), Vec<Phase>>,
    /// The mailbox of the lease-join that listens.
    pub socket: Option<usize>,
}

/// A connection: lease-join's mailbox, the holder's, and the holder's process.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// lease-join's mailbox.
    pub server: usize,
    /// The holder's mailbox.
    pub client: usize,
    /// The holder.
    pub pid: i32,
}

/// What a lease-hold has started.
#[derive(Debug)]
pub struct Tree {
    /// How it is contained.
    pub cage: Cage,
    /// Its lease-hold.
    pub holder: i32,
    /// Under which life of the host in each lockspace.
    pub lives: Vec<(usize, Generation)>,
    /// The checker's numbers, one a lease, once the gate was opened.
    pub runs: Vec<u64>,
    /// It was sent SIGKILL.
    pub killed: bool,
    /// The process that lease-join has a descriptor for is dead.
    pub leader_dead: bool,
    /// All of it is.
    pub dead: bool,
    /// The mailboxes of those who wait for its end: its lease-hold's threads.
    pub watchers: Vec<usize>,
    /// The mailbox of who carries its last deadline.
    pub carrier: Option<usize>,
    /// The command's.
    pub command: Option<usize>,
}

/// A machine, as it is in one lockspace: its host id there, and what its lease-join knows.
pub struct Machine {
    /// What it is in all of them.
    kernel: Rc<Kernel>,
    /// In the first one: what it is in the others.
    more: Vec<Rc<Self>>,
    /// How it is set up.
    pub setup: Setup,
    /// With which t and W its lease-join is started.
    pub timing: Cell<Timing>,
    /// The life that its lease-join has now.
    pub member: RefCell<Option<Rc<Membership>>>,
    /// The run directory.
    pub run: RefCell<RunDir>,
    /// The host id that it remembers over reboots.
    pub memory: RefCell<Option<Memory>>,
    /// When the last renewal that has landed was issued, by life, true time; and its times.
    pub landed: RefCell<BTreeMap<Generation, (Instant, Timing)>>,
    /// The last renewal that lease-join has heard of: of which life, when it was issued, and since
    /// when it is known; true times.
    pub renewal_known: Cell<(Generation, Instant, Instant)>,
    /// What it asks of the watchdog device, and whose shares it keeps if it has that open.
    pub share: RefCell<Option<(Share, Vec<u64>)>>,
    /// Whether the process lives that has published that last.
    pub share_lives: Cell<bool>,
}

/// What a machine is in all lockspaces.
pub struct Kernel {
    /// When the watchdog device resets it.
    pub reset_at: Cell<Instant>,
    /// The lockspace whose lease-join has the device open.
    pub opener: Cell<Option<usize>>,
    /// Its column.
    pub index: usize,
    /// The world.
    pub shared: Rc<Shared>,
    /// Its clock.
    pub face: Rc<Face>,
    /// How often it was started.
    pub boot: Cell<u64>,
    /// Processes that live, and which lease-hold each is.
    pub alive: RefCell<BTreeMap<i32, usize>>,
    /// Where a lease-hold hears of signals, by its process.
    pub inboxes: RefCell<BTreeMap<i32, usize>>,
    /// Connections of holders to lease-join.
    pub connections: RefCell<BTreeMap<u64, Connection>>,
    /// What lease-holds have started, by the process that lease-join has a descriptor for.
    pub trees: RefCell<BTreeMap<i32, Tree>>,
    /// The commands of a sanlock host.
    pub commands: RefCell<Vec<Command>>,
    /// What each holder of a sanlock host is at, by its number.
    pub working: RefCell<BTreeMap<usize, Work>>,
    /// Whether holders are to come to an end.
    pub closing: Cell<bool>,
    /// Whether a sanlock daemon was told to leave.
    pub leaving: Cell<bool>,
    /// Power was lost while a join's write was on its way; nobody can know that afterwards, and if
    /// it lands late, over the next join, that life is lost. No second owner comes of it.
    pub excused_until: Cell<Moment>,
    /// The disk that nobody there can open.
    pub unreachable: Cell<Option<usize>>,
    files: Cell<usize>,
    /// The machine in its first lockspace.
    first: OnceCell<Weak<Machine>>,
}

impl Deref for Machine {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        &self.kernel
    }
}

impl Machine {
    /// A machine that has never been started, as it is in its first lockspace.
    pub fn new(index: usize, shared: Rc<Shared>, face: Rc<Face>, setup: Setup) -> Rc<Self> {
        let kernel = Rc::new(Kernel {
            reset_at: Cell::new(Instant::MAX),
            opener: Cell::new(None),
            index,
            shared,
            face,
            boot: Cell::new(0),
            alive: RefCell::default(),
            inboxes: RefCell::default(),
            connections: RefCell::default(),
            trees: RefCell::default(),
            commands: RefCell::default(),
            working: RefCell::default(),
            closing: Cell::new(false),
            leaving: Cell::new(false),
            excused_until: Cell::default(),
            unreachable: Cell::default(),
            files: Cell::new(0),
            first: OnceCell::new(),
        });
        let in_one = |setup: Setup, more| Self {
            kernel: Rc::clone(&kernel),
            more,
            timing: Cell::new(setup.timing),
            setup,
            member: RefCell::default(),
            run: RefCell::default(),
            memory: RefCell::default(),
            landed: RefCell::default(),
            renewal_known: Cell::default(),
            share: RefCell::default(),
            share_lives: Cell::new(false),
        };
        let further = |(lockspace, (host, timing)): (usize, &(HostId, Timing))| Setup {
            lockspace,
            host: *host,
            timing: *timing,
            ..setup.clone()
        };
        let others = (1..).zip(&setup.more).map(further);
        let others = others.map(|setup| Rc::new(in_one(setup, Vec::new())));
        let others = others.collect();
        let first = Rc::new(in_one(setup, others));
        let _ = first.kernel.first.set(Rc::downgrade(&first));
        first
    }

    /// The same machine in another lockspace.
    pub fn in_lockspace(&self, index: usize) -> Rc<Self> {
        let first = self.first.get().and_then(Weak::upgrade).unwrap();
        match index {
            0 => first,
            index => Rc::clone(&first.more[index - 1]),
        }
    }

    /// The same machine in each lockspace.
    pub fn in_all(&self) -> impl Iterator<Item = Rc<Self>> {
        (0..self.setup.lockspaces()).map(|index| self.in_lockspace(index))
    }

    /// The process that shares the watchdog device ends; its share stays as it is.
    fn share_ends(&self) {
        self.share_lives.set(false);
        if self.opener.get() == Some(self.setup.lockspace) {
            self.opener.set(None);
        }
    }

    /// Forgets what only memory and /run knew.
    pub fn power_off(&self) {
        self.boot.set(self.boot.get() + 1);
        for machine in self.in_all() {
            machine.member.take();
            machine.run.take();
            machine.share.take();
            machine.share_ends();
        }
        self.reset_at.set(Instant::MAX);
        self.alive.take();
        self.inboxes.take();
        self.connections.take();
        self.leaving.set(false);
        self.working.take();
        for command in self.commands.take() {
            self.shared.checker.borrow_mut().stop(command.id);
        }
        for run in self.trees.take().into_values().flat_map(|tree| tree.runs) {
            self.shared.checker.borrow_mut().stop(run);
        }
    }

    /// Adds a line to the machine's column.
    pub fn tell(&self, text: impl FnOnce() -> String) {
        self.shared.tell(Some(self.index), text);
    }

    /// The life that it has now, if that is not lost.
    pub fn live_member(&self) -> Option<Rc<Membership>> {
        let member = self.member.borrow().clone()?;
        member.tenure.holds(self.face.now()).then_some(member)
    }

    /// Its host name, of this boot.
    pub fn name(&self) -> Name {
        let random = || format!("m{}-{}", self.index, self.boot.get());
        let made = || Name::new_host(random().as_bytes()).unwrap();
        self.setup.name.unwrap_or_else(made)
    }

    /// A file that nobody has used before.
    pub fn new_handle(&self, disk: usize) -> Handle {
        self.files.set(self.files.get() + 1);
        Handle {
            file: self.files.get(),
            disk,
            limit: self.setup.timing.io_limit(),
        }
    }

    /// Sixteen bytes that differ at every boot.
    pub fn boot_id(&self) -> [u8; 16] {
        let mut id = [self.index as u8 + 1; 16];
        id[8..].copy_from_slice(&self.boot.get().to_le_bytes());
        id
    }

    /// By when all that was issued up to now has landed, if it ever does.
    pub fn landed_by(&self) -> Moment {
        let bound = self.setup.timing.takeover_after();
        self.face.now().after(bound)
    }

    // ---- processes

    /// A process begins.
    pub fn begin(&self, holder: usize) -> i32 {
        let pid = self.shared.number() as i32;
        self.alive.borrow_mut().insert(pid, holder);
        pid
    }

    /// Whether a process lives.
    pub fn lives(&self, pid: i32) -> bool {
        self.alive.borrow().contains_key(&pid)
    }

    /// Sends a process SIGKILL.
    pub fn kill(&self, pid: i32) {
        if let Some(holder) = self.alive.borrow().get(&pid) {
            self.shared
                .wish(Wish::End(self.index, Group::Hold(*holder)));
        }
    }

    /// A lease-hold's process is over: its connections are closed, and what waits behind its gate
    /// ends.
    pub fn ended(&self, pid: i32) {
        self.alive.borrow_mut().remove(&pid);
        self.inboxes.borrow_mut().remove(&pid);
        let mut connections = self.connections.borrow_mut();
        connections.retain(|number, connection| {
            let its = connection.pid == pid;
            if its {
                self.shared.post(connection.server, Letter::Closed(*number));
                self.shared.letters.close(connection.client);
            }
            !its
        });
        let mut gated = Vec::new();
        for (id, tree) in self.trees.borrow().iter() {
            if tree.holder == pid {
                let carrier = tree.carrier.iter();
                carrier.for_each(|carrier| self.shared.post(*carrier, Letter::Gone));
            }
            if tree.holder == pid && tree.runs.is_empty() {
                gated.push(*id);
            }
        }
        gated.into_iter().for_each(|tree| self.tree_is_gone(tree));
        let over = |tree: &Tree| tree.dead && tree.holder == pid;
        self.trees.borrow_mut().retain(|_, tree| !over(tree));
    }

    /// What stands behind the gate of a lease-hold, or runs.
    pub fn gated(&self, holder: i32) -> Option<i32> {
        let trees = self.trees.borrow();
        let mut its = trees.iter().filter(|(_, tree)| tree.holder == holder);
        its.find(|(_, tree)| !tree.leader_dead).map(|(id, _)| *id)
    }

    /// All of one lease-hold are over.
    pub fn holder_ended(&self, holder: usize) {
        let mine = |(pid, of): (&i32, &usize)| (*of == holder).then_some(*pid);
        let pids: Vec<i32> = self.alive.borrow().iter().filter_map(mine).collect();
        pids.into_iter().for_each(|pid| self.ended(pid));
    }

    /// lease-join is over.
    pub fn join_ended(&self) {
        self.member.take();
        self.share_ends();
        let (.., known) = self.renewal_known.get();
        if self.shared.now.get() < known + HEARD_WITHIN.as_nanos() as u64 {
            // Perhaps nobody has heard of it.
            self.renewal_known.take();
        }
        let Some(server) = self.run.borrow_mut().socket.take() else {
            return;
        };
        self.shared.letters.close(server);
        self.connections.borrow_mut().retain(|_, connection| {
            let its = connection.server == server;
            if its {
                self.shared.post(connection.client, Letter::Gone);
            }
            !its
        });
    }

    // ---- what was started

    /// A process stands behind its gate.
    pub fn fork(&self, holder: i32, lives: Vec<(usize, Generation)>, watchers: Vec<usize>) -> i32 {
        let id = self.shared.number() as i32;
        let tree = Tree {
            cage: self.setup.cage,
            holder,
            lives,
            runs: Vec::new(),
            killed: false,
            leader_dead: false,
            dead: false,
            watchers,
            carrier: None,
            command: None,
        };
        self.trees.borrow_mut().insert(id, tree);
        id
    }

    /// How lease-join is told of it.
    pub fn guarded(&self, tree: i32) -> Guarded {
        let containment = match self.setup.cage {
            Cage::Group => Containment::Cgroup(PathBuf::new()),
            Cage::Namespace => Containment::PidNamespace,
            Cage::Tree => Containment::Tree,
        };
        Guarded {
            process: process(tree),
            containment,
        }
    }

    /// Sends SIGKILL to all of it. Of a mere tree only its own lease-hold finds more than the one
    /// process that has a descriptor.
    pub fn kill_tree(&self, id: i32, by_holder: bool) {
        let mut trees = self.trees.borrow_mut();
        let Some(tree) = trees.get_mut(&id).filter(|tree| !tree.dead) else {
            return;
        };
        if tree.cage == Cage::Tree && !by_holder {
            if !std::mem::replace(&mut tree.leader_dead, true) {
                self.shared.wish(Wish::Admin(self.index));
            }
            return;
        }
        if !std::mem::replace(&mut tree.killed, true) {
            self.shared.wish(Wish::TreeEnds(self.index, id));
        }
    }

    /// Sends the command a signal. `false`: it is gone, or never ran.
    pub fn signal(&self, id: i32, number: i32) -> bool {
        let trees = self.trees.borrow();
        let tree = trees.get(&id).filter(|tree| !tree.dead);
        let command = tree.and_then(|tree| tree.command);
        let tell = |command| self.shared.post(command, Letter::Signal(number));
        command.map(tell).is_some()
    }

    /// The command ends by itself, and leaves nothing behind.
    pub fn command_ends(&self, id: i32) {
        let trees = self.trees.borrow();
        let tree = trees.get(&id).filter(|tree| !tree.dead);
        let watchers = tree.map(|tree| tree.watchers.clone());
        drop(trees);
        for watcher in watchers.into_iter().flatten() {
            self.shared.post(watcher, Letter::Exited(0));
        }
        self.tree_is_gone(id);
    }

    /// All of it is gone.
    pub fn tree_is_gone(&self, id: i32) {
        let mut trees = self.trees.borrow_mut();
        let Some(tree) = trees.get_mut(&id).filter(|tree| !tree.dead) else {
            return;
        };
        (tree.dead, tree.leader_dead) = (true, true);
        for run in &tree.runs {
            self.shared.checker.borrow_mut().stop(*run);
        }
        for watcher in &tree.watchers {
            self.shared.post(*watcher, Letter::TreeGone);
        }
        for group in [Group::Carrier(id), Group::Command(id)] {
            self.shared.wish(Wish::End(self.index, group));
        }
        if !self.lives(tree.holder) {
            trees.remove(&id);
        }
    }

    /// What a round of killing would find.
    pub fn remains(&self, id: i32) -> Remains {
        let trees = self.trees.borrow();
        match trees.get(&id) {
            Some(tree) if tree.cage == Cage::Tree && tree.leader_dead => Remains::NotKnown,
            Some(tree) if !tree.dead => Remains::Something,
            // Of a tree that is gone nothing is remembered but how it was contained.
            _ if self.setup.cage == Cage::Tree => Remains::NotKnown,
            _ => Remains::Nothing,
        }
    }

    /// When all that was started in the name of some lives must be dead, true time.
    pub fn tree_dead_by(&self, tree: &Tree) -> Instant {
        let lives = tree.lives.iter();
        let limits = lives.map(|(index, life)| self.in_lockspace(*index).dead_by(*life));
        limits.min().unwrap_or(0)
    }

    /// When all that one life guards must be dead, true time: 8t+W after the last renewal that has
    /// landed was issued.
    pub fn dead_by(&self, generation: Generation) -> Instant {
        let landed = self.landed.borrow().get(&generation).copied();
        let (issued, timing) = landed.unwrap_or((0, self.setup.timing));
        let dead = times::dead_after(timing.io_timeout().into(), timing.watchdog().into());
        self.face.when(self.face.at(issued).after(dead))
    }

    /// lease-join hears that a renewal is done: the last one that has landed.
    pub fn note_known(&self, generation: Generation) {
        let now = self.shared.now.get();
        let known = (generation, self.landed_at(generation), now);
        self.renewal_known.set(known);
    }

    /// Whether the lease of one life is kept by a renewal that all have heard of. Not in the last
    /// moments: what is issued is a little younger than its time.
    pub fn is_kept(&self, of: Generation) -> bool {
        let (generation, issued, known) = self.renewal_known.get();
        let now = self.face.now();
        let heard = now.since(self.face.at(known)) > HEARD_WITHIN;
        let left = self.setup.lost_after().saturating_sub(LAST_MOMENTS);
        generation == of && heard && now < self.face.at(issued).after(left)
    }

    /// Whether the lease of one life is lost by time, whatever anybody knows.
    pub fn is_over(&self, of: Generation) -> bool {
        let issued = self.landed_at(of);
        let lost = self.setup.lost_after() + LAST_MOMENTS;
        self.face.now() > self.face.at(issued).after(lost)
    }

    fn landed_at(&self, of: Generation) -> Instant {
        let landed = self.landed.borrow();
        landed.get(&of).map_or(0, |(issued, _)| *issued)
    }

    /// A heartbeat has landed that was issued at `issued`.
    pub fn note_landed(&self, beat: &Heartbeat, issued: Instant) {
        let timing = Timing::of_host(beat, self.setup.timing);
        let mut landed = self.landed.borrow_mut();
        let last = landed.entry(beat.generation()).or_insert((0, timing));
        last.0 = issued.max(last.0);
    }

    // ---- sanlock

    /// Whether anything of a sanlock host lives, or a holder is at work.
    pub fn is_busy(&self) -> bool {
        !(self.commands.borrow().is_empty() && self.working.borrow().is_empty())
    }

    /// Ends every command of one life of a sanlock host and forgets its holders.
    pub fn end_life(&self, life: &Rc<Membership>) -> usize {
        let mut ended = 0;
        self.commands.borrow_mut().retain(|command| {
            let over = Rc::ptr_eq(&command.life, life);
            if over {
                self.shared.checker.borrow_mut().stop(command.id);
                ended += 1;
            }
            !over
        });
        self.working
            .borrow_mut()
            .retain(|_, work| !Rc::ptr_eq(&work.life, life));
        ended
    }

    /// A command of a sanlock host is over.
    pub fn stop_command(&self, id: u64) {
        self.shared.checker.borrow_mut().stop(id);
        let mut commands = self.commands.borrow_mut();
        commands.retain(|command| command.id != id);
    }

    /// What a holder of a sanlock host had reserved is forgotten.
    pub fn forget_holders(&self) {
        self.working.take();
    }
}

/// A process by its number, which is never used again here.
pub fn process(pid: i32) -> ProcessId {
    ProcessId { pid, started: 0 }
}
