//! The small world, exhausted: every order of the operations of a few hosts, and every point at
//! which some of them lose power.
//!
//! A run is a list of choices; the next run goes on where the last can still be varied. A state
//! that was seen before is not gone on from: what a host does next follows from the answers that
//! it got, so the bytes on the disk and the answers of each host are all there is to a state.
//!
//! **Reduced, and why nothing is lost.** Time stands still: no rule of the ballot reads the clock
//! but "is the host id still ours", and hosts here live until they lose power. Waits and pauses are
//! no steps, since the order of all else is already any. Heartbeats are read at once: nobody writes
//! them here. A read of a resource's area is of a moment for the leader and one for the record of
//! each other host; nobody else writes its own. The death of a host becomes known at any later
//! moment; its command lives until then, and its last write, if it was on its way, lands at any
//! moment, or never.
//!
//! **Reduced, and left to the large world.** In the short scopes one host at most loses power, in
//! two of the longer ones both do, and one more must get what they leave. Ballots beyond a bound
//! are not gone on from: without a crash a later one finds what an earlier one would; with a crash
//! the bound is none in the short scopes, and one in one of the longer ones. All hosts of a run
//! read in one order, forwards or backwards: with two hosts there is no other. Three hosts run one
//! ballot each, and do not hold or release.

use super::checker::{Checker, Run};
use super::clock::Face;
use super::disk::{Platter, SECTOR};
use super::port::{Answer, Handle, Op, Port, Process};
use super::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset, formatted, resource_name};
use lease_core::clock::{Clock, Moment};
use lease_core::delta::Tenure;
use lease_core::id::{Generation, HostId, Lver, Name};
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::holder_note::HolderNote;
use lease_core::record::host_note::HostNote;
use lease_core::resource::{Attempt, Held, Member, Resource, Wanted};
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

/// Waits that are steps of their own, by their length.
const WHILE_HELD: Duration = Duration::from_secs(1000);
const UNTIL_A_DEATH: Duration = Duration::from_secs(2000);

/// What is exhausted.
#[derive(Debug, Clone)]
pub struct Scope {
    /// How each host wants the lease, from host 1 up.
    pub modes: Vec<Mode>,
    /// How many hosts may lose power.
    pub crashes: usize,
    /// Whether hosts hold and release, after which one more host must get it; otherwise each runs
    /// its ballot up to the commit.
    pub whole: bool,
    /// Ballots that a host may lose before its run is cut.
    pub retries: u32,
    /// Of which moments the parts of one read are.
    pub reads: Reads,
}

/// Of which moments the leader and the ballot records of one read are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Of one.
    AtOnce,
    /// Each of its own, in the order in which they lie there.
    Forwards,
    /// Each of its own, in the other order.
    Backwards,
}

impl Reads {
    /// The sectors that `host` (from 0) reads at later moments than the first, in their order.
    /// Nobody else writes its own record.
    fn later(self, host: usize, hosts: usize) -> Vec<usize> {
        let others = (2..2 + hosts).filter(|sector| *sector != 2 + host);
        let all = std::iter::once(0).chain(others);
        match self {
            Self::AtOnce => Vec::new(),
            Self::Forwards => all.skip(1).collect(),
            Self::Backwards => {
                let all: Vec<_> = all.collect();
                all.into_iter().rev().skip(1).collect()
            }
        }
    }
}

/// What exhausting it came to.
#[derive(Debug, Default, Clone)]
pub struct Sum {
    /// Runs.
    pub runs: u64,
    /// Different states.
    pub states: usize,
    /// Runs in which all came to their end, and the lease could be had again.
    pub ends: u64,
    /// Runs that were cut because a host lost too many ballots.
    pub cut: u64,
    /// The first violation and the steps that lead to it.
    pub violation: Option<(String, Vec<String>)>,
}

/// A step that can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// A host's pending operation happens.
    Go(usize),
    /// A host loses power; its pending write is lost, or on its way.
    Crash(usize, bool),
    /// That write lands.
    Land(usize),
    /// That host is known to be dead, and so is what it guarded.
    Dead(usize),
}

struct Host {
    process: Process,
    answers: DefaultHasher,
    /// A read that is under way, and how many of its moments have been.
    under_way: Option<(Vec<u8>, usize)>,
    retries: u32,
    waits_for_death: bool,
}

struct Small {
    scope: Scope,
    face: Rc<Face>,
    disk: Platter,
    /// What stands in each sector of the resource that was written.
    sectors: BTreeMap<u64, u64>,
    hosts: Vec<Host>,
    checker: Rc<RefCell<Checker>>,
    crashed: BTreeSet<usize>,
    known_dead: BTreeSet<usize>,
    /// What those who lost power had on its way.
    late: BTreeMap<usize, (u64, Rc<[u8]>)>,
    cut: bool,
}

/// Takes every order of steps.
pub fn exhaust(scope: &Scope) -> Sum {
    let mut sum = Sum::default();
    let mut seen = HashSet::new();
    // For each step of the present run: which of how many.
    let mut path: Vec<(usize, usize)> = Vec::new();
    let fresh = fresh(scope);
    loop {
        sum.runs += 1;
        run(scope, &fresh, &mut path, &mut seen, &mut sum);
        sum.states = seen.len();
        if sum.violation.is_some() {
            return sum;
        }
        while path.last().is_some_and(|(at, of)| at + 1 == *of) {
            path.pop();
        }
        match path.last_mut() {
            Some((at, _)) => *at += 1,
            None => return sum,
        }
    }
}

fn fresh(scope: &Scope) -> Platter {
    let hosts = scope.modes.len() as u64 + 1;
    let mut disk = formatted(1, 1, hosts, 1).remove(0);
    for host in HostId::all(hosts) {
        disk.write(LOCKSPACE.geometry.heartbeat_at(host) as u64, &beat(host));
    }
    disk
}

fn run(
    scope: &Scope,
    fresh: &Platter,
    path: &mut Vec<(usize, usize)>,
    seen: &mut HashSet<u64>,
    sum: &mut Sum,
) {
    let mut world = Small::new(scope, fresh);
    let mut taken = Vec::new();
    for depth in 0.. {
        let steps = world.steps();
        if steps.is_empty() {
            sum.ends += 1;
            if scope.whole {
                world.probe();
            }
        } else {
            let fresh = depth >= path.len();
            if fresh {
                path.push((0, steps.len()));
            }
            let step = steps[path[depth].0];
            taken.push(step);
            world.take(step);
        }
        if let Some(what) = world.checker.borrow().violation() {
            sum.violation = Some((what.to_owned(), retell(scope, fresh, &taken)));
            return;
        }
        if world.cut {
            sum.cut += 1;
        }
        let last = depth + 1 >= path.len();
        if steps.is_empty() || world.cut || (last && !seen.insert(world.state())) {
            return;
        }
    }
}

/// The steps of a run in words.
fn retell(scope: &Scope, fresh: &Platter, steps: &[Step]) -> Vec<String> {
    let mut world = Small::new(scope, fresh);
    let mut words = Vec::new();
    for step in steps {
        words.push(match step {
            Step::Go(index) => {
                let what = match &world.hosts[*index].process.pending {
                    Some(Op::Write { offset, bytes, .. }) => {
                        format!("write {}", super::world::describe(0, *offset, bytes))
                    }
                    Some(Op::Read { offset, len, .. }) => {
                        format!("read {len} at sector {}", (offset - area_offset(1)) / 512)
                    }
                    other => format!("{other:?}"),
                };
                format!("{}host {}: {what}", " ".repeat(40 * index), index + 1)
            }
            other => format!("{other:?}"),
        });
        world.take(*step);
    }
    words
}

impl Small {
    fn new(scope: &Scope, fresh: &Platter) -> Self {
        let now = Rc::new(Cell::new(0));
        let face = Rc::new(Face::new(now, Duration::from_secs(100), 0));
        let mut small = Self {
            scope: scope.clone(),
            face,
            disk: fresh.clone(),
            sectors: BTreeMap::new(),
            hosts: Vec::new(),
            checker: Rc::default(),
            crashed: BTreeSet::new(),
            known_dead: BTreeSet::new(),
            late: BTreeMap::new(),
            cut: false,
        };
        for index in 0..scope.modes.len() {
            small.enter(index as u64 + 1, scope.modes[index]);
        }
        small
    }

    fn enter(&mut self, host: u64, mode: Mode) {
        let checker = Rc::clone(&self.checker);
        let hosts = self.scope.modes.len() as u64 + 1;
        let whole = self.scope.whole;
        let body = move |port: &Port<'_>| live(port, (host, hosts), mode, whole, &checker);
        let body = Box::new(body);
        self.hosts.push(Host {
            process: Process::start(Rc::clone(&self.face), body),
            answers: DefaultHasher::new(),
            under_way: None,
            retries: 0,
            waits_for_death: false,
        });
        self.settle(self.hosts.len() - 1);
    }

    /// Does what is no step of its own.
    fn settle(&mut self, index: usize) {
        let now = self.face.now();
        while let Some(op) = self.hosts[index].process.pending.clone() {
            let answer = match op {
                Op::Wait { until } if until <= now => Answer::Done,
                Op::Wait { until } => {
                    self.hosts[index].waits_for_death = until > now.after(WHILE_HELD);
                    return;
                }
                Op::BackOff { .. } => {
                    self.hosts[index].retries += 1;
                    self.cut |= self.hosts[index].retries > self.scope.retries;
                    Answer::Done
                }
                Op::Read { offset, len, .. } if offset < area_offset(1) => {
                    Answer::Bytes(self.disk.read(offset, len))
                }
                Op::Settle { .. } => Answer::Done,
                _ => return,
            };
            self.answer(index, answer);
            if self.cut {
                return;
            }
        }
    }

    fn answer(&mut self, index: usize, answer: Answer) {
        let host = &mut self.hosts[index];
        if let Answer::Bytes(bytes) = &answer {
            host.answers.write(bytes);
        }
        1_u8.hash(&mut host.answers);
        host.process.resume(answer);
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            if host.process.is_over() {
                continue;
            }
            if !host.waits_for_death || !self.known_dead.is_empty() {
                steps.push(Step::Go(index));
            }
            if self.crashed.len() < self.scope.crashes {
                steps.push(Step::Crash(index, false));
                if matches!(host.process.pending, Some(Op::Write { .. })) {
                    steps.push(Step::Crash(index, true));
                }
            }
        }
        steps.extend(self.late.keys().map(|index| Step::Land(*index)));
        let unknown = self.crashed.difference(&self.known_dead);
        steps.extend(unknown.map(|index| Step::Dead(*index)));
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Go(index) => self.go(index),
            Step::Crash(index, on_its_way) => {
                let pending = self.hosts[index].process.pending.clone();
                if let (true, Some(Op::Write { offset, bytes, .. })) = (on_its_way, pending) {
                    self.late.insert(index, (offset, bytes));
                }
                self.crashed.insert(index);
                self.hosts[index].process.kill();
            }
            Step::Land(index) => {
                if let Some((offset, bytes)) = self.late.remove(&index) {
                    self.write(offset, &bytes);
                }
            }
            Step::Dead(index) => self.bury(index),
        }
    }

    fn go(&mut self, index: usize) {
        let Some(op) = self.hosts[index].process.pending.clone() else {
            return;
        };
        let answer = match op {
            Op::Read { offset, len, .. } => match self.read(index, offset, len) {
                Some(bytes) => Answer::Bytes(bytes),
                None => return,
            },
            Op::Write { offset, bytes, .. } => {
                self.write(offset, &bytes);
                if offset == area_offset(1) && !self.scope.whole {
                    self.hosts[index].process.kill();
                    return;
                }
                Answer::Done
            }
            _ => Answer::Done,
        };
        self.hosts[index].waits_for_death = false;
        self.answer(index, answer);
        self.settle(index);
    }

    /// A read of many sectors is a step for each of its moments.
    fn read(&mut self, index: usize, offset: u64, len: usize) -> Option<Vec<u8>> {
        let now = self.disk.read(offset, len);
        let later = self.scope.reads.later(index, self.scope.modes.len());
        if len <= SECTOR || later.is_empty() {
            return Some(now);
        }
        let (bytes, moments) = match self.hosts[index].under_way.take() {
            None => (now, 0),
            Some((mut bytes, before)) => {
                let sector = later[before] * SECTOR..(later[before] + 1) * SECTOR;
                bytes[sector.clone()].copy_from_slice(&now[sector]);
                (bytes, before + 1)
            }
        };
        if moments == later.len() {
            return Some(bytes);
        }
        self.hosts[index].under_way = Some((bytes, moments));
        None
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.disk.write(offset, bytes);
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        self.sectors.insert(offset, hasher.finish());
        if offset == area_offset(1) {
            self.checker.borrow_mut().leader_written(0, bytes);
        }
    }

    /// The death of a crashed host is known: its heartbeat is as good as free.
    fn bury(&mut self, index: usize) {
        self.known_dead.insert(index);
        let mut checker = self.checker.borrow_mut();
        let left: Vec<u64> = checker.on(index).map(|run| run.id).collect();
        left.into_iter().for_each(|id| checker.stop(id));
        let host = HostId::new(index as u64 + 1).unwrap();
        let at = LOCKSPACE.geometry.heartbeat_at(host) as u64;
        let sector = self.disk.read(at, 4096);
        let free = Heartbeat::decode(&sector).unwrap().stamped(0);
        self.disk.write(at, &free.to_sector());
    }

    /// When all have ended, one more host must get the lease.
    fn probe(&mut self) {
        let before = self.checker.borrow().granted();
        let index = self.hosts.len();
        self.enter(index as u64 + 1, Mode::Exclusive);
        self.scope.retries = u32::MAX;
        for _ in 0..1000 {
            if self.hosts[index].process.is_over() || self.hosts[index].waits_for_death {
                break;
            }
            self.go(index);
        }
        if self.checker.borrow().granted() == before {
            self.checker
                .borrow_mut()
                .accuse("nobody holds it, and nobody can have it".into());
        }
    }

    fn state(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.sectors.hash(&mut hasher);
        for host in &self.hosts {
            host.answers.finish().hash(&mut hasher);
            host.under_way.hash(&mut hasher);
            host.process.is_over().hash(&mut hasher);
        }
        (&self.crashed, &self.known_dead, &self.late).hash(&mut hasher);
        hasher.finish()
    }
}

fn beat(host: HostId) -> Vec<u8> {
    let name = Name::new(b"n").unwrap();
    let note = HostNote {
        watchdog: 2,
        host,
        generation: Generation(1),
        boot_id: [host.get() as u8; 16],
    };
    let free = Heartbeat::new(LOCKSPACE.geometry, &LOCKSPACE.name, 1);
    free.joined(&name, 5, 1, note).to_sector()
}

/// A host's life: acquires once, holds, releases. Where somebody else has it, it tries again once
/// the death of a host is known.
fn live(
    port: &Port<'_>,
    (host, hosts): (u64, u64),
    mode: Mode,
    whole: bool,
    checker: &RefCell<Checker>,
) {
    let disk = port.file(Handle { file: 0, disk: 0 });
    let replica = Replica {
        disk: &disk,
        offset: area_offset(1),
    };
    let resource = Resource {
        quorum: Quorum::new(vec![replica]),
        lockspace: LOCKSPACE.name,
        name: resource_name(0),
        geometry: RESOURCE_GEOMETRY,
        num_hosts: hosts,
    };
    let tenure = Tenure::new(Timing::new(1, 2).unwrap(), port.now());
    let member = Member {
        clock: port,
        tenure: &tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &disk,
        host: HostId::new(host).unwrap(),
        generation: Generation(1),
        ballots_from: Moment(0),
    };
    let wanted = Wanted {
        mode,
        lver: None,
        note: HolderNote {
            host: member.host,
            generation: Generation(1),
            lver: Lver(0),
            mode,
            pid: 1,
            start: 1,
            host_name: Vec::new(),
            command: Vec::new(),
        },
    };
    for _ in 0..3 {
        match resource.acquire(&member, &wanted, &mut Sightings::default()) {
            Ok(Attempt::Held(held)) => {
                let id = start(&member, &held, checker);
                if whole {
                    let _ = port.wait(WHILE_HELD);
                    give_back(&resource, &member, &held, checker, id);
                }
                return;
            }
            Ok(_) => {
                let _ = port.wait(UNTIL_A_DEATH);
            }
            Err(error) => return checker.borrow_mut().accuse(format!("host {host}: {error}")),
        }
    }
}

fn start(member: &Member<'_>, held: &Held, checker: &RefCell<Checker>) -> u64 {
    checker.borrow_mut().start(Run {
        id: 0,
        resource: 0,
        machine: member.host.index(),
        life: (member.host.get(), 1),
        exclusive: held.mode == Mode::Exclusive,
        lver: held.lver.0,
        since: 0,
    })
}

fn give_back(
    resource: &Resource<'_>,
    member: &Member<'_>,
    held: &Held,
    checker: &RefCell<Checker>,
    id: u64,
) {
    let host = member.host;
    if resource.still_held(member, held) != Ok(true) {
        checker.borrow_mut().accuse(format!("host {host} lost it"));
    }
    checker.borrow_mut().stop(id);
    if let Err(error) = resource.release(member, held) {
        checker.borrow_mut().accuse(format!("host {host}: {error}"));
    }
}
