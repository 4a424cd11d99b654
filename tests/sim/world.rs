//! The large world: machines, disks and faults under one seeded scheduler with true time.

mod damage;
mod end;
mod io;
mod numbered;
mod queue;
mod troubles;
mod weather;

pub use io::describe;
pub use weather::{Broken, Kind};

use io::{Dark, Io};
use numbered::Numbered;
use queue::Queue;
use weather::Weather;

use super::clock::{Face, Instant};
use super::disk::Platter;
use super::hold::{self, PROBE};
use super::join;
use super::machine::{self, Machine, Membership};
use super::mail::{Group, Letter, Wish};
use super::port::{Answer, Body, Handle, Op, Port, Process};
use super::setup::{Cage, Setup, Storage};
use super::{Excused, Shared, formatted, story};
use fastrand::Rng;
use lease_core::clock::Clock;
use lease_core::disk::Fault;
use lease_core::id::{HostId, Name};
use lease_core::timing::Timing;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;
const LARGEST_SECTOR: usize = 4096;
/// Of each machine, in a long world.
const LEASES_IN_LONG: u64 = 200;
/// Machines that have one host id, in some worlds.
const TWINS: [usize; 2] = [0, 1];

/// What a run of the world came to.
#[derive(Debug)]
pub struct Report {
    /// What went wrong, if anything did.
    pub violation: Option<String>,
    /// How many machines there were.
    pub machines: u64,
    /// Whether it was one of the long ones.
    pub long: bool,
    /// How often an exclusive lease was had.
    pub exclusive: u64,
    /// How often a shared lease was had.
    pub shared: u64,
    /// How many commands were lost.
    pub lost: u64,
    /// Operations of processes.
    pub operations: u64,
    /// The story, if one was asked for.
    pub story: String,
}

type ProcessId = usize;
type IoId = usize;

struct Running {
    process: Process,
    machine: usize,
    group: Group,
    /// The number of its pending operation.
    asked: u64,
    /// Until when each file has an I/O outstanding.
    outstanding: BTreeMap<usize, Instant>,
    /// Files on which a write has failed that may still land, and from when on that is known.
    unsure: BTreeMap<usize, Instant>,
}

#[derive(Debug)]
enum Event {
    Power(usize),
    /// The pending operation of a process is issued, after a stall.
    Issue(ProcessId),
    Fill(IoId, Range<usize>),
    Land(IoId),
    /// It has come back: whatever has not landed of it never does.
    Over(IoId),
    Return(ProcessId, IoId, Option<Fault>),
    /// The same for one that was begun on a file.
    Back(ProcessId, Handle, IoId, Option<Fault>),
    /// The answer to one operation (by its number) that was no I/O.
    Answer(ProcessId, u64, Option<Fault>),
    /// A sanlock host's life is over.
    Deadline(usize, Rc<Membership>),
    /// A letter is due.
    Mail(usize),
    /// Threads of a process end.
    End(usize, Group, Vec<ProcessId>),
    /// What was sent SIGKILL is gone.
    TreeEnds(usize, i32),
    /// What was guarded must be gone.
    Overdue(usize, i32),
    /// The watchdog device's time may be over.
    Reset(usize),
    /// Somebody ends what is left, and starts anew.
    Admin(usize, u64),
    Crash(usize),
    Kill(usize),
    Cut(usize),
    Stop(usize),
    Die(usize),
    Halt(usize),
    /// A disk goes out of the reach of some machines.
    Dark(usize),
    JoinAgain(usize, usize),
    Heal,
    /// A sector turns into garbage.
    Spoil,
    Close,
    Probe,
    GiveUp,
}

/// The world.
pub struct World {
    kind: Kind,
    rng: Rng,
    weather: Weather,
    shared: Rc<Shared>,
    disks: Vec<Platter>,
    old_disks: Vec<Platter>,
    machines: Vec<Rc<Machine>>,
    /// Of a machine and a lockspace.
    join_faces: BTreeMap<(usize, usize), Rc<Face>>,
    up: Vec<bool>,
    cut_until: Vec<Instant>,
    /// Of a machine and a lockspace: until when the heartbeats are out of reach.
    silent_until: BTreeMap<(usize, usize), Instant>,
    /// Of a machine and a disk: until when resources on it are out of reach, and how that shows.
    dark: BTreeMap<(usize, usize), (Instant, Dark)>,
    holders: usize,
    /// Two machines have one host id.
    has_twins: bool,
    /// Sectors turn into garbage.
    spoilt: bool,
    /// Areas, each on one disk, of which a sector did.
    damaged: BTreeSet<(usize, usize)>,
    /// Resources of which a leader did: until it is formatted, nobody can have them.
    refused: BTreeSet<usize>,
    /// Draws what is seldom, so that it changes nothing where it is not.
    odd: Rng,
    /// Draws what there is only where there are several lockspaces.
    several: Rng,
    processes: Numbered<Running>,
    /// Who waits for letters in which mailbox.
    listening: BTreeMap<usize, ProcessId>,
    /// Processes that are stopped, and until when.
    halted: BTreeMap<(usize, Group), Instant>,
    ios: Numbered<Io>,
    queue: Queue<Event>,
    /// Operations that were asked for.
    asked: u64,
    operations: u64,
    probes: Vec<(usize, Rc<Cell<bool>>)>,
    long: bool,
    faults_end: Instant,
    healed: bool,
    over: bool,
}

/// Of some worlds an hour is seen, or until each host has had hundreds of leases.
fn is_long(kind: Kind, seed: u64) -> bool {
    matches!(kind, Kind::Plain | Kind::Watchdog) && seed % 500 == 499
}

/// Runs one world by its seed.
pub fn run(kind: Kind, seed: u64, told: bool) -> Report {
    // A lockspace is read a megabyte at a time. Freeing a larger block once keeps the allocator
    // from asking the system for each of them.
    static WARM: std::sync::Once = std::sync::Once::new();
    WARM.call_once(|| drop(std::hint::black_box(vec![0_u8; 31 << 20])));
    let world = World::new(kind, seed, told);
    let shared = Rc::downgrade(&world.shared);
    let report = world.run();
    assert_eq!(
        shared.strong_count(),
        0,
        "something keeps a world that is over"
    );
    report
}

impl World {
    #[allow(clippy::too_many_lines)] // One draw after another.
    fn new(kind: Kind, seed: u64, told: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(3..=8);
        let (disks, few) = (1 + rng.usize(..3), 1 + rng.usize(..2));
        let resources = match rng.u8(..8) {
            0 => rng.usize(3..=8),
            _ => few,
        };
        let watchdog = match kind {
            Kind::Watchdog => rng.u16(3..=8),
            _ => rng.u16(2..=8),
        };
        let num_hosts = 8;
        let clones = kind == Kind::Broken(Broken::Names);
        let twins = clones || rng.u8(..8) == 0 && !kind.has_sanlock();
        let mut odd = Rng::with_seed(!seed);
        let spoilt = odd.u8(..16) == 0 && !kind.has_sanlock();
        let namesakes = odd.u8(..8) == 0 && !twins && !kind.has_sanlock();
        let usual = spoilt || !matches!(kind, Kind::Plain | Kind::Watchdog);
        let long = is_long(kind, seed);
        let tight = kind == Kind::Plain && !usual && !twins && !long && odd.u8(..8) == 0;
        let storm = kind == Kind::Broken(Broken::LateWrites);
        let watchdog = if tight || storm { 2 } else { watchdog };
        let timing = Timing::new(1, watchdog).unwrap();
        let (disks, resources) = if tight { (1, 1) } else { (disks, resources) };
        let storage = match if usual { 2 } else { odd.u8(..6) } {
            0 => Storage::DEVICE,
            1 => Storage::NETWORK,
            _ => Storage::USUAL,
        };
        let excused = Excused {
            all: matches!(kind, Kind::Broken(_)) || kind.has_sanlock(),
            // The one that joins late may end the other's life.
            hosts: twins.then_some(1).into_iter().collect(),
            resources: BTreeSet::new(),
        };
        let shared = Rc::new(Shared::new(excused, told));
        let disks = if kind.has_sanlock() { 1 } else { disks };
        let (disks, resources) = if storm { (1, 1) } else { (disks, resources) };
        let pace = [100, 400, 2000, 10_000][rng.usize(..if long { 2 } else { 4 })];
        // Where little else is to happen, much of it has to.
        let pace = if storm { 100 } else { pace };
        let shared_percent = [0, 20, 60][rng.usize(..3)];
        let fastest = if kind == Kind::Broken(Broken::Clocks) {
            500_000
        } else {
            10_000
        };
        let mut several = Rng::with_seed(seed.rotate_left(32));
        let alone = usual || tight || storm || several.u8(..4) > 0;
        let lockspaces = if alone { 1 } else { several.usize(2..=3) };
        let resources = resources.max(lockspaces);
        let further = |_| several.u16(if kind == Kind::Watchdog { 3 } else { 2 }..=8);
        let watchdogs: Vec<u16> = (1..lockspaces).map(further).collect();
        let least = watchdogs.iter().copied().min().unwrap_or(watchdog);
        let shorter = if kind == Kind::Watchdog { 3 } else { 2 };
        let changes = !usual && !tight && !storm && !twins && several.u8(..4) == 0;
        let shorter = changes.then_some(shorter);
        let least = shorter.unwrap_or(watchdog.min(least));
        let watchdog_least = u64::from(least) * SECOND;
        let shorter = shorter.and_then(|watchdog| Timing::new(1, watchdog));
        let setup = Setup {
            sanlock: false,
            lockspace: 0,
            host: HostId::new(1).unwrap(),
            timing,
            shorter,
            more: Vec::new(),
            name: namesakes.then(|| Name::new_host(b"host").unwrap()),
            cage: Cage::Group,
            watchdog: kind == Kind::Watchdog,
            storage,
            disks,
            some_late: disks > 2 && several.bool(),
            resources,
            num_hosts,
            shared_percent: if tight { 0 } else { shared_percent },
            pace: Duration::from_millis(pace),
            hold: Duration::from_millis(if tight { 40_000 } else { pace }),
            tight,
        };
        let machine = |index: usize| {
            let offset = Duration::from_secs(rng.u64(1..100_000));
            let fast = match tight {
                true => fastest * rng.u64(0..=1),
                false => rng.u64(0..=fastest),
            };
            let face = Rc::new(Face::new(Rc::clone(&shared.now), offset, fast));
            let is_twin = twins && TWINS.contains(&index);
            let host = |index| HostId::new(if is_twin { 1 } else { index as u64 + 1 }).unwrap();
            // In each lockspace it has another host id.
            let further = |(by, watchdog): (usize, &u16)| {
                let id = host((index + if twins { 0 } else { by }) % count);
                (id, Timing::new(1, *watchdog).unwrap())
            };
            let sanlock = match kind {
                Kind::Mixed => rng.bool(),
                kind => kind == Kind::Sanlock,
            };
            let promised = Timing::new(1, 60).filter(|_| sanlock);
            let cage = match rng.u8(..8) {
                0 => Cage::Tree,
                1..=3 => Cage::Namespace,
                _ => Cage::Group,
            };
            let setup = Setup {
                sanlock,
                host: host(index),
                timing: promised.unwrap_or(timing),
                more: (1..).zip(&watchdogs).map(further).collect(),
                name: match is_twin && clones {
                    true => Name::new_host(b"clone").ok(),
                    false => setup.name,
                },
                cage,
                ..setup.clone()
            };
            Machine::new(index, Rc::clone(&shared), face, setup)
        };
        let machines: Vec<_> = (0..count).map(machine).collect();
        let mut weather = Weather::random(&mut rng, kind, watchdog_least);
        if long {
            weather = weather.milder();
        }
        if tight {
            weather = weather.tight(&mut odd);
        }
        if storm {
            // A late write does harm only between a ballot's last write and the leader's.
            weather.stall = 50;
            weather.time_out = 20;
            weather.lands = 1000;
            weather.kill_every = 10 * SECOND;
        }
        if kind == Kind::Broken(Broken::Freezes) {
            weather.halt_every = 20 * SECOND;
        }
        if twins {
            // A lease-join that wakes later may write over the other machine's heartbeat.
            weather.stall_most = weather.stall_most.min(watchdog_least * 98 / 100);
        }
        if !storage.failure_is_final {
            weather.fail = odd.u64(1..=50);
        }
        if disks > 1 && !usual && odd.bool() {
            weather.dark_every = odd.u64(5..100) * SECOND;
        }
        shared.seed(seed);
        shared.post_takes.set(weather.post);
        let calm = weather.stall == 0 && weather.halt_every == 0;
        shared.strict.set(calm && !kind.has_sanlock());
        let platters = formatted((disks, lockspaces), resources, num_hosts, 1);
        let holders = 1 + rng.usize(..2);
        let faults_end = rng.u64(if long { 2000..4000 } else { 20..120 }) * SECOND;
        Self {
            kind,
            long,
            faults_end,
            weather,
            shared,
            old_disks: platters.clone(),
            disks: platters,
            join_faces: BTreeMap::new(),
            up: vec![false; count],
            cut_until: vec![0; count],
            silent_until: BTreeMap::new(),
            several,
            dark: BTreeMap::new(),
            machines,
            holders,
            has_twins: twins,
            spoilt,
            damaged: BTreeSet::new(),
            refused: BTreeSet::new(),
            odd,
            rng,
            processes: Numbered::new(),
            listening: BTreeMap::new(),
            halted: BTreeMap::new(),
            ios: Numbered::new(),
            queue: Queue::new(),
            asked: 0,
            operations: 0,
            probes: Vec::new(),
            healed: false,
            over: false,
        }
    }

    fn run(mut self) -> Report {
        for machine in 0..self.machines.len() {
            let at = self.rng.u64(0..5 * SECOND);
            self.at(at, Event::Power(machine));
            self.plan_troubles(machine);
        }
        for disk in 0..self.machines[0].setup.disks {
            self.again(self.weather.dark_every, Event::Dark(disk));
        }
        let faults_end = self.faults_end;
        self.at(faults_end, Event::Heal);
        for _ in 0..if self.spoilt { self.odd.u8(1..4) } else { 0 } {
            let at = self.odd.u64(0..faults_end);
            self.at(at, Event::Spoil);
        }
        while !self.over && self.shared.checker.borrow().violation().is_none() {
            let Some((at, event)) = self.queue.next() else {
                break;
            };
            self.shared.now.set(at);
            self.handle(event);
            let leases = self.shared.checker.borrow().granted();
            if self.long && !self.healed && leases >= LEASES_IN_LONG * self.up.len() as u64 {
                self.heal();
            }
        }
        let title = |m: &Rc<Machine>| format!("m{} (host {})", m.index, m.setup.host);
        let names: Vec<_> = self.machines.iter().map(title).collect();
        let checker = self.shared.checker.borrow();
        Report {
            violation: checker.violation().map(str::to_owned),
            machines: self.machines.len() as u64,
            long: self.long,
            exclusive: checker.exclusive,
            shared: checker.shared,
            lost: checker.lost,
            operations: self.operations,
            story: story::tell(&self.shared.lines(), &names),
        }
    }

    fn now(&self) -> Instant {
        self.shared.now.get()
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.queue.plan(at, event);
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now().saturating_add(delay), event);
    }

    fn below(&mut self, most: u64) -> u64 {
        self.rng.u64(0..=most)
    }

    fn chance(&mut self, permille: u64) -> bool {
        self.rng.u64(..1000) < permille
    }

    /// In the lockspace where that takes longest.
    fn dead_after(&self, machine: usize) -> u64 {
        let all = self.machines[machine].in_all();
        let longest = all.map(|machine| machine.setup.dead_after()).max();
        longest.unwrap_or_default().as_nanos() as u64
    }

    fn io_limit(&self, machine: usize) -> u64 {
        self.machines[machine].setup.timing.io_limit().as_nanos() as u64
    }

    fn plan_troubles(&mut self, machine: usize) {
        let Weather {
            crash_every,
            kill_every,
            cut_every,
            stop_every,
            die_every,
            halt_every,
            ..
        } = self.weather;
        let troubles = [
            (crash_every, Event::Crash(machine)),
            (kill_every, Event::Kill(machine)),
            (cut_every, Event::Cut(machine)),
            (stop_every, Event::Stop(machine)),
            (die_every, Event::Die(machine)),
            (halt_every, Event::Halt(machine)),
        ];
        for (every, event) in troubles {
            if every > 0 {
                let delay = self.below(2 * every);
                self.after(delay, event);
            }
        }
    }

    // ---- events

    fn handle(&mut self, event: Event) {
        match event {
            Event::Issue(id)
            | Event::Return(id, ..)
            | Event::Back(id, ..)
            | Event::Answer(id, ..)
                if self.is_halted(id) =>
            {
                let until = self.halted_until(id);
                self.at(until, event);
            }
            Event::Power(machine) => self.power(machine),
            Event::Issue(id) => self.issue(id),
            Event::Fill(io, range) => self.fill(io, range),
            Event::Land(io) => self.land(io),
            Event::Over(io) => drop(self.ios.remove(io)),
            Event::Return(id, io, fault) => self.give_back(id, io, fault),
            Event::Back(id, handle, io, fault) => self.comes_back(id, handle, io, fault),
            Event::Answer(id, asked, fault) => {
                if self
                    .processes
                    .get(id)
                    .is_some_and(|running| running.asked == asked)
                {
                    self.resume(id, fault.map_or(Answer::Done, Answer::Fault));
                }
            }
            Event::Deadline(machine, life) => self.deadline(machine, life),
            Event::Mail(mailbox) => self.mail(mailbox),
            Event::End(machine, group, ids) => self.end(machine, group, &ids),
            Event::TreeEnds(machine, tree) => self.machines[machine].tree_is_gone(tree),
            Event::Overdue(machine, tree) => self.overdue(machine, tree),
            Event::Reset(machine) => self.reset(machine),
            Event::Admin(machine, boot) => self.admin(machine, boot),
            Event::JoinAgain(machine, lockspace) => self.join_again(machine, lockspace),
            Event::Heal if self.healed => {}
            Event::Heal => self.heal(),
            Event::Spoil => self.spoil(),
            Event::Close => self.close(),
            Event::Probe => self.probe(),
            Event::GiveUp => self.give_up(),
            _ if self.healed || self.is_spared(&event) => {}
            fault => self.trouble(fault),
        }
        self.grant_wishes();
    }

    /// The rules of a sanlock host survive a loss of power, or that it is told to leave.
    fn is_spared(&self, event: &Event) -> bool {
        match event {
            Event::Kill(machine) | Event::Die(machine) | Event::Halt(machine) => {
                self.machines[*machine].setup.sanlock
            }
            _ => false,
        }
    }

    fn trouble(&mut self, event: Event) {
        let weather = &self.weather;
        let (machine, every) = match event {
            Event::Crash(machine) => (machine, weather.crash_every),
            Event::Kill(machine) => (machine, weather.kill_every),
            Event::Cut(machine) => (machine, weather.cut_every),
            Event::Stop(machine) => (machine, weather.stop_every),
            Event::Die(machine) => (machine, weather.die_every),
            Event::Halt(machine) => (machine, weather.halt_every),
            Event::Dark(disk) => (disk, weather.dark_every),
            _ => return,
        };
        match event {
            Event::Crash(_) => self.crash(machine),
            Event::Kill(_) => self.kill(machine),
            Event::Cut(_) => self.cut(machine),
            Event::Stop(_) => self.stop(machine),
            Event::Die(_) => self.die(machine),
            Event::Dark(disk) => self.darken(disk),
            _ => self.halt(machine),
        }
        self.again(every, event);
    }

    fn again(&mut self, every: u64, event: Event) {
        if every > 0 {
            let delay = self.below(2 * every);
            self.after(delay, event);
        }
    }

    fn power(&mut self, machine: usize) {
        if self.up[machine] {
            return;
        }
        self.up[machine] = true;
        self.shared.tell(Some(machine), || "power on".into());
        for lockspace in 0..self.machines[machine].setup.lockspaces() {
            self.start_join(machine, lockspace);
        }
        for holder in 0..self.holders {
            self.start_holder(machine, holder, 0);
        }
    }

    fn start_join(&mut self, machine: usize, lockspace: usize) {
        let host = self.machines[machine].in_lockspace(lockspace);
        if let Some(shorter) = host.setup.shorter {
            let timings = [host.setup.timing, shorter];
            host.timing.set(timings[self.several.usize(..2)]);
        }
        let face = Rc::new(host.face.another());
        let known = Rc::clone(&face);
        self.join_faces.insert((machine, lockspace), known);
        let body = Box::new(move |port: &Port<'_>| join::lease_join(port, &host));
        self.start(machine, Group::Join(lockspace), face, body);
    }

    /// lease-join is told to leave; it comes back later.
    fn stop(&mut self, machine: usize) {
        let lockspace = self.one_of_several(machine).unwrap_or(0);
        let host = self.machines[machine].in_lockspace(lockspace);
        if !self.up[machine] || (host.setup.sanlock && host.leaving.replace(true)) {
            return;
        }
        self.shared
            .tell(Some(machine), || "lease-join is told to stop".into());
        let server = host.run.borrow().socket;
        if let Some(server) = server {
            return self.shared.post(server, Letter::Leave);
        }
        let face = self.join_faces.get(&(machine, lockspace));
        face.iter().for_each(|face| face.stop());
        let waiting = |(_, running): &(ProcessId, &Running)| {
            (running.machine, running.group) == (machine, Group::Join(lockspace))
                && matches!(running.process.pending, Some(Op::Wait { .. }))
        };
        let found = self.processes.iter().find(waiting).map(|(id, _)| id);
        if let Some(id) = found.filter(|id| !self.is_halted(*id)) {
            self.resume(id, Answer::Done);
        }
    }

    fn join_again(&mut self, machine: usize, lockspace: usize) {
        let group = Group::Join(lockspace);
        if self.up[machine] && self.threads(machine, group).is_empty() {
            self.machines[machine].leaving.set(false);
            self.start_join(machine, lockspace);
        }
    }

    /// The threads of a process.
    fn threads(&self, machine: usize, group: Group) -> Vec<ProcessId> {
        let of = |running: &Running| (running.machine, running.group) == (machine, group);
        let found = self.processes.iter().filter(|(_, running)| of(running));
        found.map(|(id, _)| id).collect()
    }

    fn start_holder(&mut self, machine: usize, holder: usize, delay: u64) {
        let host = Rc::clone(&self.machines[machine]);
        let seed = self.rng.u64(..);
        let body = move |port: &Port<'_>| {
            let _ = port.wait(Duration::from_nanos(delay));
            hold::lease_hold(port, &host, holder, seed);
        };
        let face = Rc::new(self.machines[machine].face.another());
        self.start(machine, Group::Hold(holder), face, Box::new(body));
    }

    fn start(&mut self, machine: usize, group: Group, face: Rc<Face>, body: Body) {
        let running = Running {
            process: Process::start_at_once(face, body),
            machine,
            group,
            asked: 0,
            outstanding: BTreeMap::new(),
            unsure: BTreeMap::new(),
        };
        let id = self.processes.add(running);
        self.submit(id);
    }

    fn resume(&mut self, id: ProcessId, answer: Answer) {
        let Some(running) = self.processes.get_mut(id) else {
            return;
        };
        self.operations += 1;
        let granted = || self.shared.checker.borrow().granted();
        let before = granted();
        running.process.resume(answer);
        if granted() != before {
            (0..self.machines[0].setup.resources).for_each(|resource| self.compare(resource));
        }
        let Some(running) = self.processes.get_mut(id) else {
            return;
        };
        if running.process.is_over() {
            let (machine, group) = (running.machine, running.group);
            self.processes.remove(id);
            if let Group::Join(lockspace) = group
                && self.threads(machine, group).is_empty()
            {
                self.join_is_over(machine, lockspace);
            }
        } else {
            self.submit(id);
        }
        let members = self.shared.members.take();
        for (machine, life) in members {
            self.expect_deadline(machine, life);
        }
    }

    fn join_is_over(&mut self, machine: usize, lockspace: usize) {
        self.machines[machine].in_lockspace(lockspace).join_ended();
        let delay = self.below(10 * SECOND);
        self.after(delay, Event::JoinAgain(machine, lockspace));
    }

    // ---- what processes want of their machine

    fn grant_wishes(&mut self) {
        loop {
            let wishes = self.shared.wishes();
            if wishes.is_empty() {
                return;
            }
            wishes.into_iter().for_each(|wish| self.grant(wish));
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Spawn(machine, group, body) => {
                let face = Rc::new(self.machines[machine].face.another());
                self.start(machine, group, face, body);
            }
            Wish::Mail(mailbox, at) => self.at(at, Event::Mail(mailbox)),
            Wish::End(machine, group @ Group::Join(_)) => {
                let ids = self.threads(machine, group);
                self.end(machine, group, &ids);
            }
            Wish::End(machine, group) => {
                let ids = self.threads(machine, group);
                let delay = self.below(20 * MILLI);
                self.after(delay, Event::End(machine, group, ids));
            }
            Wish::TreeEnds(machine, tree) => self.tree_ends(machine, tree),
            Wish::Wake(machine, group) => self.wake(machine, group),
            Wish::Started(machine, tree) => {
                let at = self.must_be_dead(machine, tree);
                self.at(at, Event::Overdue(machine, tree));
            }
            Wish::Admin(machine) => {
                let delay = self.below(20 * SECOND);
                let at = (self.now() + delay).min(self.orphans_must_be_dead(machine));
                let boot = self.machines[machine].boot.get();
                self.at(at.max(self.now()), Event::Admin(machine, boot));
            }
            Wish::Watchdog(machine) => {
                let at = self.reset_at(machine);
                self.at(at, Event::Reset(machine));
            }
        }
    }

    fn mail(&mut self, mailbox: usize) {
        let Some(id) = self.listening.get(&mailbox).copied() else {
            return;
        };
        let waits = |running: &&Running| match running.process.pending {
            Some(Op::Listen { mailbox: of, .. }) => of == mailbox,
            _ => false,
        };
        if let Some(asked) = self.processes.get(id).filter(waits).map(|r| r.asked) {
            let jitter = self.below(MILLI / 10);
            self.after(jitter, Event::Answer(id, asked, None));
        }
    }

    /// The waits of a process are cut short.
    fn wake(&mut self, machine: usize, group: Group) {
        for id in self.threads(machine, group) {
            let Some(running) = self.processes.get(id) else {
                continue;
            };
            let waits = matches!(running.process.pending, Some(Op::Wait { .. }));
            if waits && running.process.face.is_stopped() {
                let asked = running.asked;
                self.after(0, Event::Answer(id, asked, None));
            }
        }
    }

    /// A process ends: those of its threads that live still.
    fn end(&mut self, machine: usize, group: Group, ids: &[ProcessId]) {
        let mut lived = false;
        for id in ids {
            lived |= self.processes.get(*id).is_some();
            self.kill_process(*id, false);
        }
        if !lived {
            return;
        }
        self.halted.remove(&(machine, group));
        match group {
            Group::Join(lockspace) => self.join_is_over(machine, lockspace),
            Group::Carrier(_) | Group::Command(_) => {}
            Group::Hold(holder) => {
                self.machines[machine].holder_ended(holder);
                let delay = self.below(3 * SECOND);
                if holder < PROBE {
                    return self.start_holder(machine, holder, delay);
                }
                self.over |= self.probes.iter().all(|probe| probe.1.get());
                self.after(SECOND, Event::Probe);
            }
        }
    }

    /// What was sent SIGKILL takes its time, often all the time that there is.
    fn tree_ends(&mut self, machine: usize, tree: i32) {
        let limit = self.must_be_dead(machine, tree).max(self.now());
        let soon = self.now() + self.below(3 * SECOND);
        let in_time = limit - self.now() < self.dead_after(machine);
        let last = in_time && (self.machines[machine].setup.tight || self.rng.bool());
        let at = match self.kind {
            Kind::Broken(Broken::Guard) => limit,
            _ if last => limit,
            _ => soon.min(limit),
        };
        self.at(at, Event::TreeEnds(machine, tree));
    }

    /// When the last of what one lease-hold has started must be dead.
    fn must_be_dead(&self, machine: usize, tree: i32) -> Instant {
        let host = &self.machines[machine];
        let trees = host.trees.borrow();
        let limit = trees.get(&tree).map_or(0, |tree| host.tree_dead_by(tree));
        match self.kind {
            Kind::Broken(Broken::Guard) => limit + self.dead_after(machine),
            _ => limit,
        }
    }

    /// Those that nobody but an administrator can find.
    fn orphans_must_be_dead(&self, machine: usize) -> Instant {
        let host = &self.machines[machine];
        let trees = host.trees.borrow();
        let orphans = trees.values().filter(|tree| tree.leader_dead && !tree.dead);
        let limits = orphans.map(|tree| host.tree_dead_by(tree));
        limits.min().unwrap_or(Instant::MAX)
    }

    fn overdue(&mut self, machine: usize, tree: i32) {
        let limit = self.must_be_dead(machine, tree);
        let host = Rc::clone(&self.machines[machine]);
        let runs = |tree: &machine::Tree| !tree.dead;
        if !host.trees.borrow().get(&tree).is_some_and(runs) {
            return;
        }
        if limit + MILLI > self.now() {
            return self.at(limit + MILLI, Event::Overdue(machine, tree));
        }
        if self.kind != Kind::Broken(Broken::Freezes) {
            let accusation = format!("m{machine}: what is guarded runs later than 8t+W");
            self.shared.checker.borrow_mut().accuse(accusation);
        }
    }

    fn reset(&mut self, machine: usize) {
        if self.reset_at(machine) <= self.now() && self.up[machine] {
            self.shared
                .tell(Some(machine), || "the watchdog resets it".into());
            self.crash(machine);
        }
    }

    fn reset_at(&self, machine: usize) -> Instant {
        self.machines[machine].reset_at.get()
    }

    /// Ends what is left, and all else, removes the holders' file, and starts anew.
    fn admin(&mut self, machine: usize, boot: u64) {
        let host = Rc::clone(&self.machines[machine]);
        if host.boot.get() != boot {
            return;
        }
        self.shared
            .tell(Some(machine), || "all is ended and started anew".into());
        let of = |running: &&Running| running.machine == machine;
        let groups: BTreeSet<Group> = self
            .processes
            .iter()
            .map(|(_, running)| running)
            .filter(of)
            .map(|r| r.group)
            .collect();
        let trees: Vec<i32> = host.trees.borrow().keys().copied().collect();
        trees.into_iter().for_each(|tree| host.tree_is_gone(tree));
        for group in groups {
            let ids = self.threads(machine, group);
            self.end(machine, group, &ids);
        }
        host.in_all()
            .for_each(|host| host.run.borrow_mut().holders = None);
    }

    // ---- lives and deaths

    fn expect_deadline(&mut self, machine: usize, life: Rc<Membership>) {
        let at = self.dead_at(machine, &life);
        self.at(at, Event::Deadline(machine, life));
    }

    /// When the last that was guarded by a life of a sanlock host must be dead.
    fn dead_at(&self, machine: usize, life: &Membership) -> Instant {
        let host = &self.machines[machine];
        let limit = host.setup.dead_after();
        host.face.when(life.tenure.renewed().after(limit))
    }

    /// 8t+W after the last renewal of a sanlock host: whatever is left of that life ends.
    fn deadline(&mut self, machine: usize, life: Rc<Membership>) {
        if life.left.get() {
            return;
        }
        let at = self.dead_at(machine, &life);
        if at > self.now() {
            self.at(at, Event::Deadline(machine, life));
            return;
        }
        let host = Rc::clone(&self.machines[machine]);
        let mine = |id: usize| {
            let working = host.working.borrow();
            working
                .get(&id)
                .is_some_and(|work| Rc::ptr_eq(&work.life, &life))
        };
        let holders: Vec<_> = (0..self.holders).filter(|holder| mine(*holder)).collect();
        let ended = host.end_life(&life);
        if ended + holders.len() == 0 {
            return;
        }
        self.shared.tell(Some(machine), || {
            "8t+W: all that was guarded is dead".into()
        });
        for holder in holders {
            let ids = self.threads(machine, Group::Hold(holder));
            self.end(machine, Group::Hold(holder), &ids);
        }
    }

    /// `powerless`: so is its machine's kernel.
    fn kill_process(&mut self, id: ProcessId, powerless: bool) {
        let killed = self.processes.remove(id);
        if let Some(Op::Listen { mailbox, .. }) = killed.and_then(|r| r.process.pending.clone()) {
            self.listening.remove(&mailbox);
            self.shared.letters.close(mailbox);
        }
        self.orphan_all(id, powerless);
    }
}
