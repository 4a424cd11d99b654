//! A schedule by hand: a test says which process makes its next operation, which write hangs and
//! lands when, who loses power. Time passes only where the test, or a wait, lets it.

use super::checker::Run;
use super::clock::{Face, Instant};
use super::disk::Platter;
use super::host::{self, Errand, Machine, Setup};
use super::port::{Answer, Body, Handle, Op, Port, Process};
use super::{RESOURCE_GEOMETRY, Shared, area_offset, formatted};
use lease_core::disk::Fault;
use lease_core::id::HostId;
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::Leader;
use lease_core::resource::{Member, Resource};
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const STEPS_MAX: u32 = 100_000;

/// Hosts that take part in ballots on a stage.
pub const HOSTS: u64 = 4;

/// A process on the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor(usize);

struct Cast {
    process: Process,
    face: Rc<Face>,
    machine: usize,
    /// Goes on by itself as time passes.
    extra: bool,
    hung: BTreeSet<usize>,
}

/// A write that has been issued and hangs.
#[derive(Debug, Clone)]
pub struct Late {
    actor: Actor,
    handle: Handle,
    offset: u64,
    bytes: Vec<u8>,
}

/// The stage.
pub struct Stage {
    /// What all share.
    pub shared: Rc<Shared>,
    /// The disks.
    pub disks: Vec<Platter>,
    machines: Vec<Rc<Machine>>,
    cast: Vec<Cast>,
}

/// A machine with this host id, t = 1 and W = 2, one disk and one resource.
pub fn setup(host: u64) -> Setup {
    Setup {
        sanlock: false,
        host: HostId::new(host).unwrap(),
        timing: Timing::new(1, 2).unwrap(),
        name: None,
        disks: 1,
        resources: 1,
        num_hosts: HOSTS,
        shared_percent: 0,
        pace: Duration::from_secs(1),
    }
}

/// The same machine with the sanlock daemon.
pub fn sanlock(host: u64) -> Setup {
    Setup {
        sanlock: true,
        timing: Timing::new(1, 60).unwrap(),
        ..setup(host)
    }
}

/// An errand to resource 0 that is held for `seconds` and waited for as long as it takes.
pub fn errand(mode: Mode, seconds: u64) -> Errand {
    Errand {
        resource: 0,
        mode,
        hold: Duration::from_secs(seconds),
        patience: Duration::from_secs(1000),
    }
}

impl Stage {
    /// Machines as set up, with clocks of different offset; nothing runs yet.
    pub fn new(setups: &[Setup]) -> Self {
        let shared = Rc::new(Shared::new(true, true));
        let machine = |(index, setup): (usize, &Setup)| {
            let offset = Duration::from_secs(1000 * (index as u64 + 1));
            let face = Rc::new(Face::new(Rc::clone(&shared.now), offset, 0));
            Rc::new(Machine::new(index, Rc::clone(&shared), face, setup.clone()))
        };
        let machines = setups.iter().enumerate().map(machine).collect();
        let Setup {
            disks, resources, ..
        } = setups[0];
        Self {
            disks: formatted(disks, resources, HOSTS, 1),
            machines,
            cast: Vec::new(),
            shared,
        }
    }

    /// Machines with host ids from 1 up, all joined.
    pub fn joined(count: u64) -> Self {
        let setups: Vec<_> = (1..=count).map(setup).collect();
        Self::of(&setups)
    }

    /// Machines as set up, all joined.
    pub fn of(setups: &[Setup]) -> Self {
        let mut stage = Self::new(setups);
        for machine in 0..setups.len() {
            stage.join(machine);
        }
        stage
    }

    /// A machine.
    pub fn machine(&self, machine: usize) -> &Rc<Machine> {
        &self.machines[machine]
    }

    /// True time.
    pub fn now(&self) -> Instant {
        self.shared.now.get()
    }

    /// The commands that run.
    pub fn running(&self) -> Vec<Run> {
        self.shared.checker.borrow().running().to_vec()
    }

    /// What the checker has to say.
    pub fn violation(&self) -> Option<String> {
        self.shared.checker.borrow().violation().map(str::to_owned)
    }

    /// The leader of a resource as it stands on the first disk.
    pub fn leader(&self, resource: usize) -> Leader {
        Leader::decode(&self.disks[0].read(area_offset(1 + resource), 512)).unwrap()
    }

    /// A host's ballot record as it stands on the first disk.
    pub fn block(&self, resource: usize, host: u64) -> BallotSector {
        let at = RESOURCE_GEOMETRY.ballot_at(HostId::new(host).unwrap());
        let offset = area_offset(1 + resource) + at as u64;
        BallotSector::decode(&self.disks[0].read(offset, 512)).unwrap()
    }

    /// A host's heartbeat as it stands on the disk.
    pub fn heartbeat(&self, host: u64) -> Heartbeat {
        Heartbeat::decode(&self.disks[0].read((host - 1) * 4096, 4096)).unwrap()
    }

    // ---- who plays

    /// Starts a process; it stands at its first operation.
    pub fn start(&mut self, machine: usize, body: Body) -> Actor {
        self.enter(machine, body, false)
    }

    fn enter(&mut self, machine: usize, body: Body, extra: bool) -> Actor {
        let face = Rc::new(self.machines[machine].face.another());
        self.cast.push(Cast {
            process: Process::start(Rc::clone(&face), body),
            face,
            machine,
            extra,
            hung: BTreeSet::new(),
        });
        Actor(self.cast.len() - 1)
    }

    /// Starts lease-join, which goes on by itself, and waits until it has joined.
    pub fn join(&mut self, machine: usize) -> Actor {
        let host = Rc::clone(&self.machines[machine]);
        let body = move |port: &Port<'_>| host::lease_join(port, &host);
        let actor = self.enter(machine, Box::new(body), true);
        for _ in 0..STEPS_MAX {
            if self.machines[machine].live_member().is_some() {
                return actor;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("machine {machine} does not come to join");
    }

    /// Starts a lease-hold on an errand.
    pub fn hold(&mut self, machine: usize, errand: Errand) -> Actor {
        let host = Rc::clone(&self.machines[machine]);
        let holder = self.cast.len();
        let body = move |port: &Port<'_>| {
            match host.setup.sanlock {
                true => super::sanlock::run_errand(port, &host, holder, &errand),
                false => host::run_errand(port, &host, holder, &errand),
            };
        };
        self.start(machine, Box::new(body))
    }

    /// Starts a process that does anything with resource 0; what it comes to is in the cell.
    pub fn act<T: 'static>(
        &mut self,
        machine: usize,
        play: impl FnOnce(&Resource<'_>, &Member<'_>) -> T + 'static,
    ) -> (Actor, Rc<RefCell<Option<T>>>) {
        let host = Rc::clone(&self.machines[machine]);
        let outcome = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&outcome);
        let body = move |port: &Port<'_>| {
            let life = host.live_member().unwrap();
            host::with_files(port, &host, 0, &life, |resource, member| {
                *slot.borrow_mut() = Some(play(resource, member));
                true
            });
        };
        (self.start(machine, Box::new(body)), outcome)
    }

    // ---- what happens

    /// The operation that a process stands at.
    pub fn pending(&self, actor: Actor) -> Option<&Op> {
        self.cast[actor.0].process.pending.as_ref()
    }

    /// Whether a process has come to its end.
    pub fn is_over(&self, actor: Actor) -> bool {
        self.cast[actor.0].process.is_over()
    }

    /// The pending operation happens, and the process goes on to its next.
    pub fn step(&mut self, actor: Actor) {
        let machine = self.cast[actor.0].machine;
        let Some(op) = self.cast[actor.0].process.pending.clone() else {
            return;
        };
        let answer = match op {
            Op::Wait { until } => {
                let at = self.machines[machine].face.when(until);
                self.pass_until(at);
                Answer::Done
            }
            Op::BackOff { most } => {
                self.pass(most / 2);
                Answer::Done
            }
            Op::Settle { handle } | Op::Read { handle, .. } | Op::Write { handle, .. }
                if self.cast[actor.0].hung.contains(&handle.file) =>
            {
                Answer::Fault(Fault::Outstanding)
            }
            Op::Settle { .. } => Answer::Done,
            Op::Read {
                handle,
                offset,
                len,
            } => Answer::Bytes(self.disks[handle.disk].read(offset, len)),
            Op::Write {
                handle,
                offset,
                bytes,
            } => {
                self.put(machine, handle, offset, &bytes);
                Answer::Done
            }
        };
        self.cast[actor.0].process.resume(answer);
    }

    fn put(&mut self, machine: usize, handle: Handle, offset: u64, bytes: &[u8]) {
        self.shared.tell(Some(machine), || {
            format!(
                "write {}",
                super::world::describe(handle.disk, offset, bytes)
            )
        });
        self.disks[handle.disk].write(offset, bytes);
        let resource = (offset >> 20) as usize;
        if resource > 0 && offset.is_multiple_of(area_offset(1)) {
            let mut checker = self.shared.checker.borrow_mut();
            checker.leader_written(resource - 1, bytes);
        }
    }

    /// A process goes on to its end.
    pub fn finish(&mut self, actor: Actor) {
        for _ in 0..STEPS_MAX {
            if self.is_over(actor) {
                return;
            }
            self.step(actor);
        }
        panic!("it does not come to an end:\n{}", self.story());
    }

    /// A process goes on until it stands at an operation like this, which has not happened yet.
    pub fn until(&mut self, actor: Actor, like: impl Fn(&Op) -> bool) {
        for _ in 0..STEPS_MAX {
            match self.pending(actor) {
                Some(op) if like(op) => return,
                Some(_) => self.step(actor),
                None => panic!("it ended before that:\n{}", self.story()),
            }
        }
        panic!("it never comes to that:\n{}", self.story());
    }

    /// A process goes on until it stands at an operation like this, or ends, or the time is over.
    /// Whether it came to that.
    pub fn comes_to(&mut self, actor: Actor, like: impl Fn(&Op) -> bool, within: Duration) -> bool {
        let until = self.now() + u64::try_from(within.as_nanos()).unwrap();
        for _ in 0..STEPS_MAX {
            match self.pending(actor) {
                Some(op) if like(op) => return true,
                Some(_) if self.now() < until => self.step(actor),
                _ => return false,
            }
        }
        false
    }

    /// A process goes on until its command runs, or it ends, or the time is over. Whether it runs.
    pub fn comes_to_hold(&mut self, actor: Actor, within: Duration) -> bool {
        let before = self.shared.checker.borrow().granted();
        let until = self.now() + u64::try_from(within.as_nanos()).unwrap();
        while !self.is_over(actor) && self.now() < until {
            if self.shared.checker.borrow().granted() > before {
                return true;
            }
            self.step(actor);
        }
        false
    }

    /// A process goes on until it stands at its wait for the next renewal or a shorter one.
    pub fn goes_on_for(&mut self, actor: Actor, within: Duration) {
        self.comes_to(actor, |_| false, within);
    }

    /// A process goes on until its command runs.
    pub fn until_held(&mut self, actor: Actor) {
        let before = self.shared.checker.borrow().granted();
        for _ in 0..STEPS_MAX {
            if self.shared.checker.borrow().granted() > before {
                return;
            }
            assert!(!self.is_over(actor), "never held:\n{}", self.story());
            self.step(actor);
        }
        panic!("never held:\n{}", self.story());
    }

    /// The pending write is issued and hangs; the process is told so.
    pub fn hangs(&mut self, actor: Actor) -> Late {
        let late = self.issued(actor);
        let cast = &mut self.cast[actor.0];
        cast.hung.insert(late.handle.file);
        cast.process.resume(Answer::Fault(Fault::TimedOut(1)));
        late
    }

    /// The pending write is issued and hangs, and the process never hears of it.
    pub fn issued(&mut self, actor: Actor) -> Late {
        match self.pending(actor) {
            Some(Op::Write {
                handle,
                offset,
                bytes,
            }) => Late {
                actor,
                handle: *handle,
                offset: *offset,
                bytes: bytes.clone(),
            },
            other => panic!("no write is pending but {other:?}"),
        }
    }

    /// A write that hung lands.
    pub fn lands(&mut self, late: &Late) {
        let machine = self.cast[late.actor.0].machine;
        self.cast[late.actor.0].hung.remove(&late.handle.file);
        self.put(machine, late.handle, late.offset, &late.bytes);
    }

    /// The pending operation ends with an I/O error; a write was done or not.
    pub fn fails(&mut self, actor: Actor, done: bool) {
        if done {
            let late = self.issued(actor);
            self.lands(&late);
        }
        let fault = Fault::Failed("Input/output error".into());
        self.cast[actor.0].process.resume(Answer::Fault(fault));
    }

    /// A process is told to stop: its waits end.
    pub fn interrupt(&mut self, actor: Actor) {
        self.cast[actor.0].face.stop();
        if let Some(Op::Wait { .. }) = self.pending(actor) {
            self.cast[actor.0].process.resume(Answer::Done);
        }
    }

    /// A process is killed.
    pub fn kill(&mut self, actor: Actor) {
        self.cast[actor.0].process.kill();
    }

    /// A machine loses power.
    pub fn power_off(&mut self, machine: usize) {
        self.shared.tell(Some(machine), || "loses power".into());
        for cast in self.cast.iter_mut().filter(|cast| cast.machine == machine) {
            cast.process.kill();
        }
        self.machines[machine].power_off();
    }

    /// A machine's lease-join goes on no more by itself, as if cut off or stopped.
    pub fn freeze(&mut self, machine: usize) {
        for cast in self.cast.iter_mut().filter(|cast| cast.machine == machine) {
            cast.extra = false;
        }
    }

    /// The process that was frozen or is lease-join on a machine.
    pub fn daemon(&self, machine: usize) -> Actor {
        let of = |cast: &Cast| cast.machine == machine && cast.extra;
        Actor(self.cast.iter().rposition(of).unwrap())
    }

    /// A frozen machine goes on as if no time had passed: what it guarded was not ended either.
    pub fn wakes(&mut self, machine: usize) {
        if let Some(life) = &*self.machines[machine].member.borrow() {
            life.tenure.note_renewal(self.machines[machine].face.now());
        }
    }

    /// What a killed holder had reserved on its machine is forgotten.
    pub fn forget_holders(&mut self, machine: usize) {
        self.machines[machine].forget_holders();
    }

    /// Time passes; lease-joins go on, and what a lost life guarded is dead in time.
    pub fn pass(&mut self, duration: Duration) {
        let until = self.now() + u64::try_from(duration.as_nanos()).unwrap();
        self.pass_until(until);
    }

    fn pass_until(&mut self, until: Instant) {
        for _ in 0..STEPS_MAX {
            let next = (0..self.cast.len())
                .filter(|actor| self.cast[*actor].extra && !self.cast[*actor].process.is_over())
                .map(|actor| (self.ready_at(actor), actor))
                .min();
            match next {
                Some((at, actor)) if at <= until => {
                    self.clock_to(at);
                    self.answer_extra(actor);
                }
                _ => return self.clock_to(until),
            }
        }
        panic!("time does not pass:\n{}", self.story());
    }

    fn clock_to(&mut self, at: Instant) {
        let members = self.shared.members.borrow().clone();
        for (machine, life) in members {
            let host = &self.machines[machine];
            let limit = host.setup.timing.dead_after();
            let dead = host.face.when(life.tenure.renewed().after(limit));
            if dead <= at && !life.left.get() {
                self.shared.now.set(dead.max(self.now()));
                host.end_life(&life);
            }
        }
        self.shared.now.set(at.max(self.now()));
    }

    fn ready_at(&self, actor: usize) -> Instant {
        let cast = &self.cast[actor];
        match cast.process.pending {
            Some(Op::Wait { until }) => {
                let at = self.machines[cast.machine].face.when(until);
                at.max(self.now())
            }
            Some(Op::BackOff { most }) => self.now() + most.as_nanos() as u64 / 2,
            _ => self.now(),
        }
    }

    fn answer_extra(&mut self, actor: usize) {
        match self.cast[actor].process.pending {
            Some(Op::Wait { .. } | Op::BackOff { .. }) => {
                self.cast[actor].process.resume(Answer::Done);
            }
            _ => self.step(Actor(actor)),
        }
    }

    /// The story so far.
    pub fn story(&self) -> String {
        let names: Vec<_> = self
            .machines
            .iter()
            .map(|m| format!("m{} (host {})", m.index, m.setup.host))
            .collect();
        super::story::tell(&self.shared.lines(), &names)
    }
}

/// A write of resource 0's leader.
pub fn writes_leader(op: &Op) -> bool {
    matches!(op, Op::Write { offset, .. } if *offset == area_offset(1))
}

/// A write of one host's ballot record for resource 0.
pub fn writes_block(host: u64) -> impl Fn(&Op) -> bool {
    let at = RESOURCE_GEOMETRY.ballot_at(HostId::new(host).unwrap()) as u64;
    move |op| matches!(op, Op::Write { offset, .. } if *offset == area_offset(1) + at)
}

/// A write of one host's ballot record that accepts a value (phase 2).
pub fn accepts(host: u64) -> impl Fn(&Op) -> bool {
    let writes = writes_block(host);
    move |op| match op {
        Op::Write { bytes, .. } if writes(op) => {
            BallotSector::decode(bytes).unwrap().ballot.bal.0 > 0
        }
        _ => false,
    }
}

/// A read of resource 0's leader alone.
pub fn reads_leader(op: &Op) -> bool {
    matches!(op, Op::Read { offset, len: 512, .. } if *offset == area_offset(1))
}

/// A write of one host's heartbeat.
pub fn writes_heartbeat(host: u64) -> impl Fn(&Op) -> bool {
    move |op| matches!(op, Op::Write { offset, .. } if *offset == (host - 1) * 4096)
}
