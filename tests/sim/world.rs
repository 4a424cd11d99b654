//! The large world: machines, disks and faults under one seeded scheduler with true time.

use super::clock::{Face, Instant};
use super::disk::Platter;
use super::host::{self, Errand, Machine, Membership, PROBE, Setup};
use super::port::{Answer, Body, Handle, Op, Port, Process};
use super::{Shared, formatted, story};
use fastrand::Rng;
use lease_core::clock::Clock;
use lease_core::disk::Fault;
use lease_core::id::HostId;
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

/// An assumption of lease.7 that does not hold in a world; there the checker must find what it
/// is there to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// a: a completed write is what every later read returns.
    StaleReads,
    /// b: clocks run at rates within 1 % of each other.
    Clocks,
    /// c: a write lands within 8t+W of its issue, or never.
    LateWrites,
    /// d: nothing guarded is alive after 8t+W.
    Guard,
}

/// What kind of world it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without watchdogs: stalls are bounded.
    Plain,
    /// With watchdogs: stalls are not, but end with a reset.
    Watchdog,
    /// One assumption is broken.
    Broken(Broken),
    /// Some machines run the sanlock daemon, in a world without what that does not survive.
    Mixed,
    /// All do.
    Sanlock,
}

impl Kind {
    fn has_sanlock(self) -> bool {
        matches!(self, Self::Mixed | Self::Sanlock)
    }
}

/// How things go wrong, and how often; shares are of a thousand.
#[derive(Debug, Clone)]
struct Weather {
    /// Usual time of an I/O.
    latency: u64,
    slow: u64,
    stall: u64,
    stall_most: u64,
    fail: u64,
    time_out: u64,
    /// Of the timed-out writes, how many land.
    lands: u64,
    /// Mean time between two of these, per machine; 0 = none.
    crash_every: u64,
    kill_every: u64,
    cut_every: u64,
    stop_every: u64,
}

impl Weather {
    fn calm() -> Self {
        Self {
            latency: 2 * MILLI,
            slow: 0,
            stall: 0,
            stall_most: 0,
            fail: 0,
            time_out: 0,
            lands: 0,
            crash_every: 0,
            kill_every: 0,
            cut_every: 0,
            stop_every: 0,
        }
    }

    fn random(rng: &mut Rng, kind: Kind, watchdog: u64, dead: u64) -> Self {
        let mut rare = |most: u64| if rng.bool() { rng.u64(0..=most) } else { 0 };
        let (slow, stall, fail) = (rare(100), rare(100), rare(30));
        let (time_out, crash, kill, cut) = (rare(40), rare(100), rare(100), rare(100));
        let stop = rare(100);
        let every = |often: u64| (2000 * SECOND).checked_div(often).unwrap_or(0);
        if kind.has_sanlock() {
            // Its rules are safe while no I/O fails, reads are of one moment, and nobody loses
            // power or stalls.
            return Self {
                latency: [100_000, 2 * MILLI, 50 * MILLI][rng.usize(..3)],
                stop_every: every(stop),
                ..Self::calm()
            };
        }
        let stall_most = match kind {
            Kind::Watchdog => dead * 3,
            _ => watchdog * 98 / 100,
        };
        Self {
            latency: [100_000, 2 * MILLI, 50 * MILLI][rng.usize(..3)],
            slow,
            stall,
            stall_most,
            fail,
            time_out,
            lands: rng.u64(0..=1000),
            crash_every: every(crash),
            kill_every: every(kill),
            cut_every: every(cut),
            stop_every: every(stop),
        }
    }
}

/// What a run of the world came to.
#[derive(Debug)]
pub struct Report {
    /// What went wrong, if anything did.
    pub violation: Option<String>,
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

type ProcessId = u64;

struct Running {
    process: Process,
    machine: usize,
    role: Role,
    /// The number of its pending operation.
    asked: u64,
    /// Until when each file has an I/O outstanding.
    outstanding: BTreeMap<usize, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Join,
    Hold(usize),
    CleanUp(usize),
    Probe,
}

/// An I/O on its way.
struct Io {
    process: ProcessId,
    machine: usize,
    handle: Handle,
    offset: u64,
    issued: Instant,
    what: Transfer,
    landed: bool,
}

enum Transfer {
    Read(Vec<u8>),
    Write(Vec<u8>),
}

#[derive(Debug)]
enum Event {
    Power(usize),
    /// The pending operation of a process is issued, after a stall.
    Issue(ProcessId),
    Fill(u64, Range<usize>),
    Land(u64),
    Return(ProcessId, u64, Option<Fault>),
    /// The answer to one operation (by its number) that was no I/O.
    Answer(ProcessId, u64, Option<Fault>),
    Deadline(usize, Rc<Membership>),
    Crash(usize),
    Kill(usize),
    /// What a killed holder guarded is killed, and what it held is cleared.
    KilledHolder(usize, usize, usize, Rc<Membership>),
    Cut(usize),
    Stop(usize),
    JoinAgain(usize),
    Heal,
    Close,
    Probe,
    GiveUp,
}

struct Entry(Instant, u64, Event);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
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
    join_faces: Vec<Rc<Face>>,
    up: Vec<bool>,
    cut_until: Vec<Instant>,
    holders: usize,
    processes: BTreeMap<ProcessId, Running>,
    ios: BTreeMap<u64, Io>,
    queue: BinaryHeap<Reverse<Entry>>,
    counter: u64,
    operations: u64,
    probes: Vec<(usize, Rc<Cell<bool>>)>,
    healed: bool,
    over: bool,
}

/// Runs one world by its seed.
pub fn run(kind: Kind, seed: u64, told: bool) -> Report {
    // A lockspace is read a megabyte at a time. Freeing a larger block once keeps the allocator
    // from asking the system for each of them.
    static WARM: std::sync::Once = std::sync::Once::new();
    WARM.call_once(|| drop(std::hint::black_box(vec![0_u8; 31 << 20])));
    World::new(kind, seed, told).run()
}

impl World {
    #[allow(clippy::too_many_lines)] // One draw after another.
    fn new(kind: Kind, seed: u64, told: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(3..=8);
        let (disks, resources) = (1 + rng.usize(..3), 1 + rng.usize(..2));
        let watchdog = rng.u16(2..=8);
        let timing = Timing::new(1, watchdog).unwrap();
        let num_hosts = 8;
        let twins = rng.u8(..8) == 0 && !kind.has_sanlock();
        // Of two machines with one host id, the one that joins late may end the other's life.
        let losses_expected = twins || matches!(kind, Kind::Broken(_)) || kind.has_sanlock();
        let shared = Rc::new(Shared::new(losses_expected, told));
        let storm = kind == Kind::Broken(Broken::LateWrites);
        let disks = if kind.has_sanlock() { 1 } else { disks };
        let (disks, resources) = if storm { (1, 1) } else { (disks, resources) };
        let pace = [200, 1000, 5000, 20_000][rng.usize(..4)];
        let shared_percent = [0, 20, 60][rng.usize(..3)];
        let fastest = if kind == Kind::Broken(Broken::Clocks) {
            500_000
        } else {
            10_000
        };
        let setup = Setup {
            sanlock: false,
            host: HostId::new(1).unwrap(),
            timing,
            name: None,
            disks,
            resources,
            num_hosts,
            shared_percent,
            pace: Duration::from_millis(pace),
        };
        let machine = |index: usize| {
            let offset = Duration::from_secs(rng.u64(1..100_000));
            let fast = rng.u64(0..=fastest);
            let face = Rc::new(Face::new(Rc::clone(&shared.now), offset, fast));
            let id = if twins && index == 1 { 0 } else { index as u64 };
            let host = HostId::new(id + 1).unwrap();
            let sanlock = match kind {
                Kind::Mixed => rng.bool(),
                kind => kind == Kind::Sanlock,
            };
            let promised = Timing::new(1, 60).filter(|_| sanlock);
            let setup = Setup {
                sanlock,
                host,
                timing: promised.unwrap_or(timing),
                ..setup.clone()
            };
            Rc::new(Machine::new(index, Rc::clone(&shared), face, setup))
        };
        let machines: Vec<_> = (0..count).map(machine).collect();
        let dead = timing.dead_after().as_nanos() as u64;
        let mut weather = Weather::random(&mut rng, kind, u64::from(watchdog) * SECOND, dead);
        if storm {
            // A late write does harm only between a ballot's last write and the leader's.
            weather.stall = 200;
            weather.time_out = 50;
            weather.lands = 1000;
            weather.kill_every = 5 * SECOND;
        }
        let platters = formatted(disks, resources, num_hosts, 1);
        let holders = 1 + rng.usize(..2);
        Self {
            kind,
            weather,
            shared,
            old_disks: platters.clone(),
            disks: platters,
            join_faces: machines.iter().map(|m| Rc::clone(&m.face)).collect(),
            up: vec![false; count],
            cut_until: vec![0; count],
            machines,
            holders,
            rng,
            processes: BTreeMap::new(),
            ios: BTreeMap::new(),
            queue: BinaryHeap::new(),
            counter: 0,
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
        let faults_end = self.rng.u64(20..150) * SECOND;
        self.at(faults_end, Event::Heal);
        while !self.over && self.shared.checker.borrow().violation().is_none() {
            let Some(Reverse(Entry(at, _, event))) = self.queue.pop() else {
                break;
            };
            self.shared.now.set(at);
            self.handle(event);
        }
        let names: Vec<_> = self.machines.iter().map(|m| self.title(m)).collect();
        let checker = self.shared.checker.borrow();
        Report {
            violation: checker.violation().map(str::to_owned),
            exclusive: checker.exclusive,
            shared: checker.shared,
            lost: checker.lost,
            operations: self.operations,
            story: story::tell(&self.shared.lines(), &names),
        }
    }

    fn title(&self, machine: &Machine) -> String {
        format!("m{} (host {})", machine.index, machine.setup.host)
    }

    fn now(&self) -> Instant {
        self.shared.now.get()
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.counter += 1;
        self.queue.push(Reverse(Entry(at, self.counter, event)));
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

    fn dead_after(&self, machine: usize) -> u64 {
        self.machines[machine].setup.timing.dead_after().as_nanos() as u64
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
            ..
        } = self.weather;
        let troubles = [
            (crash_every, Event::Crash(machine)),
            (kill_every, Event::Kill(machine)),
            (cut_every, Event::Cut(machine)),
            (stop_every, Event::Stop(machine)),
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
            Event::Power(machine) => self.power(machine),
            Event::Issue(id) => self.issue(id),
            Event::Fill(io, range) => self.fill(io, range),
            Event::Land(io) => self.land(io),
            Event::Return(id, io, fault) => self.give_back(id, io, fault),
            Event::Answer(id, asked, fault) => {
                if self
                    .processes
                    .get(&id)
                    .is_some_and(|running| running.asked == asked)
                {
                    self.resume(id, fault.map_or(Answer::Done, Answer::Fault));
                }
            }
            Event::Deadline(machine, life) => self.deadline(machine, life),
            Event::Crash(_) | Event::Kill(_) | Event::Cut(_) | Event::Stop(_) if self.healed => {}
            Event::Crash(machine) => {
                self.crash(machine);
                self.again(self.weather.crash_every, Event::Crash(machine));
            }
            Event::Kill(machine) => {
                self.kill(machine);
                self.again(self.weather.kill_every, Event::Kill(machine));
            }
            Event::KilledHolder(machine, holder, resource, life) => {
                self.clear(machine, holder, resource, &life);
            }
            Event::Cut(machine) => {
                let most = 2 * self.dead_after(machine);
                self.cut_until[machine] = self.now() + self.below(most);
                self.shared
                    .tell(Some(machine), || "cut off from the storage".into());
                self.again(self.weather.cut_every, Event::Cut(machine));
            }
            Event::Stop(machine) => {
                self.stop(machine);
                self.again(self.weather.stop_every, Event::Stop(machine));
            }
            Event::JoinAgain(machine) => self.join_again(machine),
            Event::Heal => self.heal(),
            Event::Close => self.close(),
            Event::Probe => self.probe(),
            Event::GiveUp => self.give_up(),
        }
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
        self.start_join(machine);
        for holder in 0..self.holders {
            self.start_holder(machine, holder);
        }
    }

    fn start_join(&mut self, machine: usize) {
        let host = Rc::clone(&self.machines[machine]);
        self.join_faces[machine] = Rc::new(host.face.another());
        let body = Box::new(move |port: &Port<'_>| host::lease_join(port, &host));
        self.start(machine, Role::Join, body);
    }

    /// lease-join is told to leave; it comes back later.
    fn stop(&mut self, machine: usize) {
        if !self.up[machine] || self.machines[machine].leaving.replace(true) {
            return;
        }
        self.shared
            .tell(Some(machine), || "lease-join is told to stop".into());
        self.join_faces[machine].stop();
        let waiting = |(_, running): &(&ProcessId, &Running)| {
            running.machine == machine
                && running.role == Role::Join
                && matches!(running.process.pending, Some(Op::Wait { .. }))
        };
        let found = self.processes.iter().find(waiting).map(|(id, _)| *id);
        if let Some(id) = found {
            self.resume(id, Answer::Done);
        }
    }

    fn join_again(&mut self, machine: usize) {
        let joins = |running: &Running| running.machine == machine && running.role == Role::Join;
        if self.up[machine] && !self.processes.values().any(joins) {
            self.machines[machine].leaving.set(false);
            self.start_join(machine);
        }
    }

    fn start_holder(&mut self, machine: usize, holder: usize) {
        let host = Rc::clone(&self.machines[machine]);
        let seed = self.rng.u64(..);
        let body = move |port: &Port<'_>| host::lease_hold(port, &host, holder, seed);
        self.start(machine, Role::Hold(holder), Box::new(body));
    }

    fn start(&mut self, machine: usize, role: Role, body: Body) {
        self.counter += 1;
        let id = self.counter;
        let face = match role {
            Role::Join => Rc::clone(&self.join_faces[machine]),
            _ => Rc::clone(&self.machines[machine].face),
        };
        let running = Running {
            process: Process::start(face, body),
            machine,
            role,
            asked: 0,
            outstanding: BTreeMap::new(),
        };
        self.processes.insert(id, running);
        self.submit(id);
    }

    fn resume(&mut self, id: ProcessId, answer: Answer) {
        let Some(running) = self.processes.get_mut(&id) else {
            return;
        };
        self.operations += 1;
        running.process.resume(answer);
        if running.process.is_over() {
            let ended = self.processes.remove(&id);
            if let Some(Running {
                machine,
                role: Role::Join,
                ..
            }) = ended
            {
                let delay = self.below(10 * SECOND);
                self.after(delay, Event::JoinAgain(machine));
            }
            self.over =
                self.over || !self.probes.is_empty() && self.probes.iter().all(|p| p.1.get());
        } else {
            self.submit(id);
        }
        let members = self.shared.members.take();
        for (machine, life) in members {
            self.expect_deadline(machine, life);
        }
    }

    /// Takes the next operation of a process.
    fn submit(&mut self, id: ProcessId) {
        self.counter += 1;
        let asked = self.counter;
        self.processes.get_mut(&id).unwrap().asked = asked;
        let running = &self.processes[&id];
        let machine = running.machine;
        let Some(op) = running.process.pending.clone() else {
            return;
        };
        match op {
            Op::Wait { until } => {
                let jitter = self.below(MILLI) + self.stall();
                let at = self.machines[machine].face.when(until).max(self.now());
                self.at(at + jitter, Event::Answer(id, asked, None));
            }
            Op::BackOff { most } => {
                let delay = self.below(most.as_nanos() as u64);
                self.after(delay, Event::Answer(id, asked, None));
            }
            Op::Settle { handle } => {
                let back = running.outstanding.get(&handle.file).copied().unwrap_or(0);
                let limit = self.now() + self.io_limit(machine);
                if back <= limit {
                    self.at(back.max(self.now()) + 1000, Event::Answer(id, asked, None));
                } else {
                    self.at(limit, Event::Answer(id, asked, Some(Fault::Outstanding)));
                }
            }
            Op::Read { handle, .. } | Op::Write { handle, .. } => {
                let back = running.outstanding.get(&handle.file).copied().unwrap_or(0);
                if back > self.now() {
                    self.after(1000, Event::Answer(id, asked, Some(Fault::Outstanding)));
                } else {
                    let stall = self.stall();
                    self.after(stall, Event::Issue(id));
                }
            }
        }
    }

    fn stall(&mut self) -> u64 {
        if self.chance(self.weather.stall) {
            let most = if self.rng.bool() {
                self.weather.stall_most
            } else {
                SECOND
            };
            let most = most.min(self.weather.stall_most);
            self.below(most)
        } else {
            0
        }
    }

    /// The operation reaches the kernel: what becomes of it?
    fn issue(&mut self, id: ProcessId) {
        let Some(running) = self.processes.get(&id) else {
            return;
        };
        let machine = running.machine;
        let (handle, offset, what) = match running.process.pending.clone() {
            Some(Op::Read {
                handle,
                offset,
                len,
            }) => (handle, offset, Transfer::Read(vec![0; len])),
            Some(Op::Write {
                handle,
                offset,
                bytes,
            }) => (handle, offset, Transfer::Write(bytes)),
            _ => return,
        };
        self.counter += 1;
        let io = self.counter;
        let reads = matches!(what, Transfer::Read(_));
        self.tell_io(machine, handle, offset, &what);
        let issued = self.now();
        self.ios.insert(
            io,
            Io {
                process: id,
                machine,
                handle,
                offset,
                issued,
                what,
                landed: false,
            },
        );
        let cut = self.now() < self.cut_until[machine];
        if cut || self.chance(self.weather.time_out) {
            self.time_out(id, io, cut);
        } else if self.chance(self.weather.fail) {
            self.fail(id, io);
        } else if reads {
            self.serve_read(id, io);
        } else {
            let (first, second) = (self.latency(machine), self.latency(machine));
            self.after(first.min(second), Event::Land(io));
            self.after(first.max(second), Event::Return(id, io, None));
        }
    }

    fn tell_io(&self, machine: usize, handle: Handle, offset: u64, what: &Transfer) {
        if let Transfer::Write(bytes) = what {
            self.shared.tell(Some(machine), || {
                format!("write {}", describe(handle.disk, offset, bytes))
            });
        }
    }

    fn latency(&mut self, machine: usize) -> u64 {
        if self.chance(self.weather.slow) {
            let limit = self.io_limit(machine);
            self.below(limit * 99 / 100)
        } else {
            let most = self.weather.latency;
            1000 + self.below(most)
        }
    }

    fn time_out(&mut self, id: ProcessId, io: u64, cut: bool) {
        let machine = self.ios[&io].machine;
        let limit = self.io_limit(machine);
        let bound = self.late_bound(machine);
        let lands = !matches!(self.ios[&io].what, Transfer::Read(_)) && {
            let share = self.weather.lands;
            self.chance(share)
        };
        let back = self.now() + limit + self.below(bound.saturating_sub(limit));
        let comes_back = lands || cut || self.rng.u8(..4) > 0;
        if lands {
            self.at(back, Event::Land(io));
        }
        let handle = self.ios[&io].handle;
        let until = if comes_back { back + 1 } else { Instant::MAX };
        self.processes
            .get_mut(&id)
            .unwrap()
            .outstanding
            .insert(handle.file, until);
        let seconds = limit / SECOND;
        self.after(limit, Event::Return(id, io, Some(Fault::TimedOut(seconds))));
    }

    /// Assumption c: how long a write may be on its way.
    fn late_bound(&self, machine: usize) -> u64 {
        match self.kind {
            Kind::Broken(Broken::LateWrites) => 4 * self.dead_after(machine),
            _ => self.dead_after(machine),
        }
    }

    fn fail(&mut self, id: ProcessId, io: u64) {
        let machine = self.ios[&io].machine;
        let (first, second) = (self.latency(machine), self.latency(machine));
        if !matches!(self.ios[&io].what, Transfer::Read(_)) && self.rng.bool() {
            self.after(first.min(second), Event::Land(io));
        }
        let fault = Fault::Failed("Input/output error".into());
        self.after(first.max(second), Event::Return(id, io, Some(fault)));
    }

    /// A read of many sectors is of up to three moments, in any order.
    fn serve_read(&mut self, id: ProcessId, io: u64) {
        let Io {
            machine,
            handle,
            offset,
            ref what,
            ..
        } = self.ios[&io];
        let Transfer::Read(buffer) = what else {
            return;
        };
        let sector = if offset < super::area_offset(1) {
            4096
        } else {
            512
        };
        let len = self.disks[handle.disk].real_len(offset, buffer.len());
        let sectors = len / sector;
        let mut cuts = [0, 0, sectors];
        if sectors > 1 && !self.kind.has_sanlock() {
            cuts[0] = self.rng.usize(0..=sectors);
            cuts[1] = self.rng.usize(0..=sectors);
            cuts[..2].sort_unstable();
        }
        let mut last = 0;
        let mut start = 0;
        for cut in cuts {
            if cut > start {
                let latency = self.latency(machine);
                last = last.max(latency);
                self.after(latency, Event::Fill(io, start * sector..cut * sector));
                start = cut;
            }
        }
        let more = self.rng.u64(1..1000);
        self.after(last + more, Event::Return(id, io, None));
    }

    fn fill(&mut self, io: u64, range: Range<usize>) {
        if let Some(io) = self.ios.get_mut(&io)
            && let Transfer::Read(buffer) = &mut io.what
        {
            let stale = self.kind == Kind::Broken(Broken::StaleReads) && self.rng.u8(..4) == 0;
            let disks = if stale { &self.old_disks } else { &self.disks };
            disks[io.handle.disk].read_into(buffer, io.offset, range);
        }
    }

    fn land(&mut self, io: u64) {
        let Some(io) = self.ios.get_mut(&io).filter(|io| !io.landed) else {
            return;
        };
        io.landed = true;
        let Transfer::Write(bytes) = &io.what else {
            return;
        };
        if self.kind == Kind::Broken(Broken::StaleReads) && self.rng.u8(..16) == 0 {
            self.old_disks = self.disks.clone();
        }
        let late = self.shared.now.get() - io.issued;
        if late > SECOND {
            self.shared.tell(None, || {
                let what = describe(io.handle.disk, io.offset, bytes);
                format!(
                    "m{}'s write lands, {} ms late: {what}",
                    io.machine,
                    late / MILLI
                )
            });
        }
        self.disks[io.handle.disk].write(io.offset, bytes);
        let resource = (io.offset >> 20) as usize;
        if resource > 0 && io.offset % super::area_offset(1) == 0 {
            self.shared
                .checker
                .borrow_mut()
                .leader_written(resource - 1, bytes);
        }
    }

    fn give_back(&mut self, id: ProcessId, io: u64, fault: Option<Fault>) {
        let answer = match fault {
            Some(fault) => {
                let machine = self.ios.get(&io).map(|io| io.machine);
                if !matches!(fault, Fault::TimedOut(_)) {
                    // It is over, and lands no more.
                    self.ios.remove(&io);
                }
                self.shared.tell(machine, || format!("I/O: {fault}"));
                Answer::Fault(fault)
            }
            None => match self.ios.remove(&io).map(|io| io.what) {
                Some(Transfer::Read(buffer)) => Answer::Bytes(buffer),
                _ => Answer::Done,
            },
        };
        self.resume(id, answer);
    }

    // ---- lives and deaths

    fn expect_deadline(&mut self, machine: usize, life: Rc<Membership>) {
        let at = self.dead_at(machine, &life);
        self.at(at, Event::Deadline(machine, life));
    }

    /// When the last that was guarded by a life must be dead, by the machine's own clock.
    fn dead_at(&self, machine: usize, life: &Membership) -> Instant {
        let host = &self.machines[machine];
        let mut limit = host.setup.timing.dead_after();
        if self.kind == Kind::Broken(Broken::Guard) {
            limit *= 2;
        }
        host.face.when(life.tenure.renewed().after(limit))
    }

    /// 8t+W after the last renewal: whatever is left of that life ends.
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
        // What clears up after the holders of a later life is none of this one's.
        let later = host
            .live_member()
            .is_some_and(|now| !Rc::ptr_eq(&now, &life));
        let holders: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, running)| running.machine == machine)
            .filter_map(|(id, running)| match running.role {
                Role::Hold(holder) if mine(holder) => Some((*id, Some(holder))),
                Role::CleanUp(_) | Role::Probe if !later => Some((*id, None)),
                _ => None,
            })
            .collect();
        let ended = host.end_life(&life);
        // A renewal that was permitted and has stalled since: not even that may be issued any more.
        let stalled = |running: &Running| {
            running.machine == machine
                && running.role == Role::Join
                && matches!(running.process.pending, Some(Op::Write { .. }))
        };
        let stalled = self.processes.values().any(stalled);
        if ended + holders.len() == 0 && !stalled {
            return;
        }
        self.shared.tell(Some(machine), || {
            "8t+W: all that was guarded is dead".into()
        });
        if self.kind == Kind::Watchdog {
            self.crash(machine);
            return;
        }
        for (id, holder) in holders {
            self.kill_process(id);
            if let Some(holder) = holder {
                self.start_holder(machine, holder);
            }
        }
    }

    fn kill_process(&mut self, id: ProcessId) {
        self.processes.remove(&id);
        let mine: Vec<u64> = self
            .ios
            .iter()
            .filter(|(_, io)| io.process == id)
            .map(|(io, _)| *io)
            .collect();
        for io in mine {
            self.orphan(io);
        }
    }

    /// The process of an I/O is gone: it lands as it would have, late, or never.
    fn orphan(&mut self, io: u64) {
        match self.rng.u8(..3) {
            _ if self.ios[&io].landed => {}
            0 => {}
            1 => {
                self.ios.remove(&io);
            }
            _ => {
                let machine = self.ios[&io].machine;
                let until = self.ios[&io].issued + self.late_bound(machine);
                let at = self.rng.u64(self.now()..=until.max(self.now()));
                if at < until {
                    // Under another number: the event that was to land it finds nothing.
                    let orphan = self.ios.remove(&io).unwrap();
                    self.counter += 1;
                    self.ios.insert(self.counter, orphan);
                    self.at(at, Event::Land(self.counter));
                }
            }
        }
    }

    fn crash(&mut self, machine: usize) {
        if !self.up[machine] {
            return;
        }
        self.shared.tell(Some(machine), || "loses power".into());
        self.up[machine] = false;
        let heartbeat =
            |io: &Io| io.machine == machine && io.offset < super::area_offset(1) && !io.landed;
        if self.ios.values().any(heartbeat) {
            let host = &self.machines[machine];
            let noticed = host.setup.timing.warn_after();
            host.excused_until.set(host::landed_by(host).after(noticed));
        }
        let mine: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, running)| running.machine == machine)
            .map(|(id, _)| *id)
            .collect();
        for id in mine {
            self.kill_process(id);
        }
        self.machines[machine].power_off();
        let delay = self.below(3 * self.dead_after(machine));
        self.after(delay, Event::Power(machine));
    }

    fn kill(&mut self, machine: usize) {
        let holder = self.rng.usize(..self.holders);
        let found = self
            .processes
            .iter()
            .find(|(_, running)| running.machine == machine && running.role == Role::Hold(holder))
            .map(|(id, _)| *id);
        let Some(id) = found else {
            return;
        };
        self.shared
            .tell(Some(machine), || format!("lease-hold {holder} is killed"));
        self.kill_process(id);
        let delay = self.below(3 * SECOND);
        let resource = self.machines[machine].holder_killed(holder);
        let life = self.machines[machine].live_member();
        if let (Some(resource), Some(life)) = (resource, life) {
            self.after(delay, Event::KilledHolder(machine, holder, resource, life));
        }
        self.start_holder_later(machine, holder, delay + 2);
    }

    fn start_holder_later(&mut self, machine: usize, holder: usize, delay: u64) {
        let host = Rc::clone(&self.machines[machine]);
        let seed = self.rng.u64(..);
        let body = move |port: &Port<'_>| {
            let _ = port.wait(Duration::from_nanos(delay));
            host::lease_hold(port, &host, holder, seed);
        };
        self.start(machine, Role::Hold(holder), Box::new(body));
    }

    fn clear(&mut self, machine: usize, holder: usize, resource: usize, life: &Rc<Membership>) {
        let host = Rc::clone(&self.machines[machine]);
        if !host.live_member().is_some_and(|now| Rc::ptr_eq(&now, life)) {
            return;
        }
        let commands = host.commands.borrow().clone();
        for command in commands.iter().filter(|command| command.holder == holder) {
            host::stop_command(&host, command.id);
        }
        if host.holder_gone(resource) {
            let body = move |port: &Port<'_>| host::clean_up(port, &host, resource);
            self.start(machine, Role::CleanUp(resource), Box::new(body));
        }
    }

    // ---- the end: no more faults; every lease must be there for the taking

    fn heal(&mut self) {
        self.shared.tell(None, || "no more faults".into());
        self.healed = true;
        self.weather = Weather::calm();
        let soon = self.now() + SECOND;
        for running in self.processes.values_mut() {
            for back in running
                .outstanding
                .values_mut()
                .filter(|back| **back == Instant::MAX)
            {
                *back = soon;
            }
        }
        self.cut_until.fill(0);
        for machine in 0..self.machines.len() {
            self.power(machine);
        }
        self.after(2 * SECOND, Event::Close);
    }

    fn close(&mut self) {
        self.shared.tell(None, || "holders come to an end".into());
        for machine in &self.machines {
            machine.closing.set(true);
        }
        if self.kind.has_sanlock() {
            // Its hosts forget what they are in doubt of: safe, but perhaps nobody's any more.
            self.over = true;
        }
        // No later write can land after that.
        let dead = self.dead_after(0);
        self.after(dead, Event::Probe);
        self.after(12 * dead, Event::GiveUp);
    }

    fn probe(&mut self) {
        let start = self.rng.usize(..self.machines.len());
        let live = |index: &usize| self.machines[*index].live_member().is_some();
        let found = (0..self.machines.len())
            .map(|index| (start + index) % self.machines.len())
            .find(live);
        let Some(machine) = found else {
            return self.after(SECOND, Event::Probe);
        };
        let dead = self.dead_after(0);
        for resource in 0..self.machines[0].setup.resources {
            let host = Rc::clone(&self.machines[machine]);
            let had = Rc::new(Cell::new(false));
            self.probes.push((resource, Rc::clone(&had)));
            let body = move |port: &Port<'_>| {
                let errand = Errand {
                    resource,
                    mode: Mode::Exclusive,
                    hold: Duration::from_secs(1),
                    patience: Duration::from_nanos(10 * dead),
                };
                while !host::run_errand(port, &host, PROBE + resource, &errand) {
                    let _ = port.wait(Duration::from_secs(1));
                }
                had.set(true);
            };
            self.start(machine, Role::Probe, Box::new(body));
        }
    }

    fn give_up(&mut self) {
        self.over = true;
        if self.probes.is_empty() {
            self.shared.surprise(|| "no host could join".into());
        }
        for (resource, had) in &self.probes {
            if !had.get() {
                self.shared
                    .surprise(|| format!("nobody holds r{resource}, and nobody can have it"));
            }
        }
    }
}

/// A write in words.
pub fn describe(disk: usize, offset: u64, bytes: &[u8]) -> String {
    use lease_core::record::{ballot::BallotSector, heartbeat::Heartbeat, leader::Leader};
    let (area, at) = (offset >> 20, (offset % super::area_offset(1)) as usize);
    let name = format!("r{}{}", area.saturating_sub(1), ["", "'", "''"][disk]);
    if area == 0 {
        return match Heartbeat::decode(bytes) {
            Ok(beat) => format!("heartbeat g{} at {}", beat.generation(), beat.timestamp()),
            Err(error) => format!("heartbeat {error}"),
        };
    }
    let owner = |stamp: Option<lease_core::record::leader::Stamp>| match stamp {
        Some(stamp) => format!("{}:{}", stamp.host, stamp.generation),
        None => "free".into(),
    };
    if at == 0 {
        return match Leader::decode(bytes) {
            Ok(leader) => format!(
                "{name} leader lver {} {}",
                leader.lver(),
                owner(leader.owner())
            ),
            Err(error) => format!("{name} leader {error}"),
        };
    }
    match BallotSector::decode(bytes) {
        Ok(BallotSector {
            ballot,
            released,
            shared,
            ..
        }) => format!(
            "{name} block {} lver {} mbal {} bal {} {}{}{}",
            at / 512 - 1,
            ballot.lver,
            ballot.mbal,
            ballot.bal,
            owner(ballot.value),
            if released { " released" } else { "" },
            if shared.is_some() { " shared" } else { "" },
        ),
        Err(error) => format!("{name} block {error}"),
    }
}
