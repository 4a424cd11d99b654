//! A schedule by hand: a test says which process makes its next operation, which write hangs and
//! lands when, who loses power. Time passes only where the test, or a wait, lets it.

use super::checker::Run;
use super::clock::{Face, Instant};
use super::disk::Platter;
use super::hold::{self, Errand};
use super::join;
use super::machine::{Machine, Tree};
use super::mail::{Group, Letter, Wish};
use super::port::{Answer, Body, Handle, Op, Port, Process};
use super::setup::{Cage, Setup, Storage};
use super::{Excused, RESOURCE_GEOMETRY, Shared, area_offset, formatted};
use lease_core::disk::Fault;
use lease_core::holder::acquire::Patience;
use lease_core::id::HostId;
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::Leader;
use lease_core::registry::message::Tell;
use lease_core::resource::{Member, Resource};
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

const STEPS_MAX: u32 = 100_000;
/// How long a step of one who waits for a letter takes at most, in nanoseconds.
const SOON: Instant = 50_000_000;

/// Hosts that take part in ballots on a stage.
pub const HOSTS: u64 = 4;

/// A process on the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor(usize);

struct Cast {
    process: Process,
    face: Rc<Face>,
    machine: usize,
    /// With which others it ends.
    group: Option<Group>,
    /// Goes on by itself as time passes.
    extra: bool,
    /// Does not, for the time being.
    stopped: bool,
    hung: BTreeSet<usize>,
    /// Files on which a write has failed that may still land.
    unsure: BTreeSet<usize>,
}

/// A write that has been issued and hangs.
#[derive(Debug, Clone)]
pub struct Late {
    actor: Actor,
    handle: Handle,
    offset: u64,
    bytes: Rc<[u8]>,
}

/// The stage.
pub struct Stage {
    /// What all share.
    pub shared: Rc<Shared>,
    /// The disks.
    pub disks: Vec<Platter>,
    /// What is guarded is dead in time, whatever the tools do.
    pub enforced: bool,
    /// What is sent SIGKILL ends at once.
    pub kills_at_once: bool,
    /// A process that is led by hand stops where it could be stopped without being at the disk.
    pub holds_still: bool,
    machines: Vec<Rc<Machine>>,
    cast: Vec<Cast>,
}

/// A machine with this host id, t = 1 and W = 2, one disk and one resource.
pub fn setup(host: u64) -> Setup {
    Setup {
        sanlock: false,
        lockspace: 0,
        host: HostId::new(host).unwrap(),
        timing: Timing::new(1, 2).unwrap(),
        shorter: None,
        more: Vec::new(),
        name: None,
        cage: Cage::Group,
        watchdog: false,
        storage: Storage::USUAL,
        disks: 1,
        some_late: false,
        resources: 1,
        num_hosts: HOSTS,
        shared_percent: 0,
        pace: Duration::from_secs(1),
        hold: Duration::from_secs(1),
        tight: false,
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
        others: Vec::new(),
        hold: Duration::from_secs(seconds),
        patience: Patience::For(Duration::from_secs(1000)),
        obeys: false,
        request: None,
    }
}

impl Cast {
    fn goes_on(&self) -> bool {
        self.extra && !self.stopped && !self.process.is_over()
    }
}

impl Stage {
    /// Machines as set up, with clocks of different offset; nothing runs yet.
    pub fn new(setups: &[Setup]) -> Self {
        let shared = Rc::new(Shared::new(Excused::everybody(), true));
        let machine = |(index, setup): (usize, &Setup)| {
            let offset = Duration::from_secs(1000 * (index as u64 + 1));
            let face = Rc::new(Face::new(Rc::clone(&shared.now), offset, 0));
            Machine::new(index, Rc::clone(&shared), face, setup.clone())
        };
        let machines = setups.iter().enumerate().map(machine).collect();
        let Setup {
            disks, resources, ..
        } = setups[0];
        let lockspaces = setups[0].lockspaces();
        Self {
            disks: formatted((disks, lockspaces), resources, HOSTS, 1),
            enforced: true,
            kills_at_once: true,
            holds_still: false,
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
        for (machine, setup) in setups.iter().enumerate() {
            for lockspace in 0..setup.lockspaces() {
                stage.join_in(machine, lockspace);
            }
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
        self.enter(machine, None, body, false)
    }

    fn enter(&mut self, machine: usize, group: Option<Group>, body: Body, extra: bool) -> Actor {
        let face = Rc::new(self.machines[machine].face.another());
        self.cast.push(Cast {
            process: Process::start(Rc::clone(&face), body),
            face,
            machine,
            group,
            extra,
            stopped: false,
            hung: BTreeSet::new(),
            unsure: BTreeSet::new(),
        });
        let actor = Actor(self.cast.len() - 1);
        self.settle();
        actor
    }

    /// Starts the lease-join of a lockspace, which goes on by itself.
    pub fn start_join(&mut self, machine: usize, lockspace: usize) -> Actor {
        let host = self.machines[machine].in_lockspace(lockspace);
        let body = move |port: &Port<'_>| join::lease_join(port, &host);
        self.enter(machine, Some(Group::Join(lockspace)), Box::new(body), true)
    }

    /// Starts lease-join and waits until it has joined: the first lockspace.
    pub fn join(&mut self, machine: usize) -> Actor {
        self.join_in(machine, 0)
    }

    /// Starts the lease-join of a lockspace and waits until it has joined.
    pub fn join_in(&mut self, machine: usize, lockspace: usize) -> Actor {
        let host = self.machines[machine].in_lockspace(lockspace);
        let mut actor = self.start_join(machine, lockspace);
        for _ in 0..STEPS_MAX {
            if host.live_member().is_some() {
                return actor;
            }
            if self.is_over(actor) {
                actor = self.start_join(machine, lockspace);
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("machine {machine} does not come to join\n{}", self.story());
    }

    /// Starts a lease-hold on an errand. It is led where it does the disk I/O of its first
    /// resource; all else of it goes on by itself.
    pub fn hold(&mut self, machine: usize, errand: Errand) -> Actor {
        let host = Rc::clone(&self.machines[machine]);
        let holder = self.cast.len();
        let (group, sanlock) = (Some(Group::Hold(holder)), host.setup.sanlock);
        let body = move |port: &Port<'_>| {
            if host.setup.sanlock {
                super::sanlock::run_errand(port, &host, holder, &errand);
            } else {
                hold::run_errand(port, &host, holder, &errand, |_| {});
            }
        };
        let main = self.enter(machine, group, Box::new(body), !sanlock);
        let its = |cast: &Cast| (cast.machine, cast.group) == (machine, group);
        let worker = (holder + 1..self.cast.len()).find(|actor| its(&self.cast[*actor]));
        worker.map_or(main, |worker| {
            self.cast[worker].extra = false;
            Actor(worker)
        })
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
            hold::with_files(port, &host, 0, &life, |resource, member| {
                *slot.borrow_mut() = Some(play(resource, member));
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
            Op::Listen { mailbox, until } => {
                let at = self.machines[machine].face.when(until);
                let soon = self.now() + SOON;
                let stood = self.cast[actor.0].process.pending.clone();
                self.pass_until(at.min(soon));
                if self.pending(actor) != stood.as_ref() {
                    return;
                }
                if self.now() < at && self.shared.letters.next(mailbox).is_none() {
                    return;
                }
                Answer::Done
            }
            // Here one operation comes after another.
            Op::Page | Op::Begin(_) | Op::Await { .. } => Answer::Done,
            Op::Settle { handle, .. } | Op::Read { handle, .. } | Op::Write { handle, .. }
                if self.cast[actor.0].hung.contains(&handle.file) =>
            {
                Answer::Fault(Fault::Outstanding)
            }
            Op::Settle { handle, .. } | Op::Write { handle, .. }
                if self.cast[actor.0].unsure.contains(&handle.file) =>
            {
                Answer::Fault(Fault::Unsure)
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
        self.resume(actor, answer);
    }

    fn resume(&mut self, actor: Actor, answer: Answer) {
        self.cast[actor.0].process.resume(answer);
        self.settle();
    }

    /// What needs neither the disk nor time happens by itself: letters are read, files written,
    /// wishes granted.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            let wishes = self.shared.wishes();
            if !wishes.is_empty() {
                wishes.into_iter().for_each(|wish| self.grant(wish));
                continue;
            }
            let ready = |cast: &Cast| match cast.process.pending {
                _ if cast.stopped => false,
                Some(Op::Listen { mailbox, .. }) => self.shared.letters.next(mailbox).is_some(),
                Some(Op::Page) => cast.extra || !self.holds_still,
                _ => false,
            };
            match self.cast.iter().position(ready) {
                Some(actor) => self.cast[actor].process.resume(Answer::Done),
                None => return,
            }
        }
        panic!("letters without end:\n{}", self.story());
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Spawn(machine, group, body) => {
                self.enter(machine, Some(group), body, true);
            }
            Wish::End(machine, group) => self.end(machine, group),
            Wish::Wake(machine, group) => self.wake(machine, group),
            Wish::TreeEnds(machine, tree) if self.kills_at_once => {
                self.machines[machine].tree_is_gone(tree);
            }
            _ => {}
        }
    }

    /// The waits of a process are cut short.
    fn wake(&mut self, machine: usize, group: Group) {
        let waits = |cast: &Cast| {
            let waits = matches!(cast.process.pending, Some(Op::Wait { .. }));
            (cast.machine, cast.group) == (machine, Some(group)) && cast.face.is_stopped() && waits
        };
        while let Some(actor) = self.cast.iter().position(waits) {
            self.cast[actor].process.resume(Answer::Done);
        }
    }

    /// A process ends, with all its threads.
    fn end(&mut self, machine: usize, group: Group) {
        let of = |cast: &&mut Cast| (cast.machine, cast.group) == (machine, Some(group));
        for cast in self.cast.iter_mut().filter(of) {
            cast.process.kill();
        }
        match group {
            Group::Join(index) => self.machines[machine].in_lockspace(index).join_ended(),
            Group::Hold(holder) => self.machines[machine].holder_ended(holder),
            Group::Carrier(_) | Group::Command(_) => {}
        }
        self.settle();
    }

    /// The lease-join of a lockspace is killed.
    pub fn kill_join_of(&mut self, machine: usize, lockspace: usize) {
        self.shared
            .tell(Some(machine), || "lease-join is killed".into());
        self.end(machine, Group::Join(lockspace));
    }

    /// lease-join is killed: that of the first lockspace.
    pub fn kill_join(&mut self, machine: usize) {
        self.kill_join_of(machine, 0);
    }

    /// lease-join is told to leave.
    pub fn leave(&mut self, machine: usize) {
        let server = self.machines[machine].run.borrow().socket;
        self.shared.post(server.unwrap(), Letter::Leave);
        self.settle();
    }

    /// All threads of a process stop, or go on; also those that are led by hand do not hear.
    pub fn stops(&mut self, machine: usize, group: Group, stopped: bool) {
        let of = |cast: &&mut Cast| (cast.machine, cast.group) == (machine, Some(group));
        for cast in self.cast.iter_mut().filter(of) {
            cast.stopped = stopped;
        }
        self.settle();
    }

    /// Those who carry the last deadlines of what runs on a machine stop, or go on.
    pub fn carriers_stop(&mut self, machine: usize, stopped: bool) {
        let carries = |group| matches!(group, Some(Group::Carrier(_)));
        let of = |cast: &&mut Cast| cast.machine == machine && carries(cast.group);
        for cast in self.cast.iter_mut().filter(of) {
            cast.stopped = stopped;
        }
        self.settle();
    }

    /// The thread of a lease-hold that decides, which is led by hand from now on.
    pub fn decider(&mut self, holder: Actor) -> Actor {
        let group = self.cast[holder.0].group;
        let decider = self.cast.iter().position(|cast| cast.group == group);
        let decider = decider.unwrap();
        self.cast[decider].extra = false;
        Actor(decider)
    }

    /// One thread stops, or goes on.
    pub fn pauses(&mut self, actor: Actor, stopped: bool) {
        self.cast[actor.0].stopped = stopped;
    }

    /// All connections to a machine's lease-join break, and nobody has ended.
    pub fn disconnects(&mut self, machine: usize) {
        let host = Rc::clone(&self.machines[machine]);
        for (number, connection) in host.connections.borrow().iter() {
            self.shared.post(connection.server, Letter::Closed(*number));
        }
        self.settle();
    }

    /// What was started on a machine is gone.
    pub fn trees_end(&mut self, machine: usize) {
        let host = Rc::clone(&self.machines[machine]);
        let trees: Vec<i32> = host.trees.borrow().keys().copied().collect();
        trees.into_iter().for_each(|tree| host.tree_is_gone(tree));
        self.settle();
    }

    /// The process that an actor belongs to.
    pub fn group(&self, actor: Actor) -> Group {
        self.cast[actor.0].group.unwrap()
    }

    fn put(&mut self, machine: usize, handle: Handle, offset: u64, bytes: &[u8]) {
        self.shared.tell(Some(machine), || {
            format!(
                "write {}",
                super::world::describe(handle.disk, offset, bytes)
            )
        });
        self.disks[handle.disk].write(offset, bytes);
        let of_disk = |host: &Rc<Machine>| host.setup.heartbeats() == handle.disk;
        let host = self.machines[machine].in_all().find(of_disk);
        if let (Some(host), Ok(beat)) = (host, Heartbeat::decode(bytes)) {
            host.note_landed(&beat, self.now());
        }
        let resource = (offset >> 20) as usize;
        if resource > 0 && offset.is_multiple_of(area_offset(1)) {
            let mut checker = self.shared.checker.borrow_mut();
            checker.leader_written(resource - 1, bytes);
        }
    }

    /// A process goes on to its end.
    pub fn finish(&mut self, actor: Actor) {
        let ends = !self.comes_to(actor, |_| false, Duration::from_secs(10_000));
        let over = ends && self.is_over(actor);
        assert!(over, "it does not come to an end:\n{}", self.story());
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
        let held = self.comes_to_hold(actor, Duration::from_secs(10_000));
        assert!(held, "never held:\n{}", self.story());
    }

    /// The pending write is issued and hangs; the process is told so.
    pub fn hangs(&mut self, actor: Actor) -> Late {
        let late = self.issued(actor);
        let cast = &mut self.cast[actor.0];
        cast.hung.insert(late.handle.file);
        self.resume(actor, Answer::Fault(Fault::TimedOut(1)));
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

    /// The pending write, which has landed already, comes back.
    pub fn comes_back(&mut self, actor: Actor) {
        self.resume(actor, Answer::Done);
    }

    /// The pending operation ends with an I/O error; a write was done or not.
    pub fn fails(&mut self, actor: Actor, done: bool) {
        if done {
            let late = self.issued(actor);
            self.lands(&late);
        }
        let fault = Fault::Failed("Input/output error".into());
        self.resume(actor, Answer::Fault(fault));
    }

    /// The pending write ends with an I/O error, and may land later. (No heartbeat: those bar no
    /// others.)
    pub fn fails_for_now(&mut self, actor: Actor) -> Late {
        let late = self.issued(actor);
        self.cast[actor.0].unsure.insert(late.handle.file);
        self.fails(actor, false);
        late
    }

    /// A process is told to stop: its waits end.
    pub fn interrupt(&mut self, actor: Actor) {
        self.cast[actor.0].face.stop();
        if let Some(Op::Wait { .. }) = self.pending(actor) {
            self.resume(actor, Answer::Done);
        }
    }

    /// A process is killed.
    pub fn kill(&mut self, actor: Actor) {
        match (self.cast[actor.0].machine, self.cast[actor.0].group) {
            (machine, Some(group)) => self.end(machine, group),
            (_, None) => self.cast[actor.0].process.kill(),
        }
    }

    /// A machine loses power.
    pub fn power_off(&mut self, machine: usize) {
        self.shared.tell(Some(machine), || "loses power".into());
        for cast in self.cast.iter_mut().filter(|cast| cast.machine == machine) {
            cast.process.kill();
        }
        self.machines[machine].power_off();
    }

    /// On a machine nothing goes on by itself any more, as if it were stopped.
    pub fn freeze(&mut self, machine: usize) {
        for cast in self.cast.iter_mut().filter(|cast| cast.machine == machine) {
            cast.stopped = cast.extra;
        }
    }

    /// The thread that renews in the first lockspace.
    pub fn daemon(&self, machine: usize) -> Actor {
        self.daemon_of(machine, 0)
    }

    /// The thread of a lockspace's lease-join that renews. A sanlock daemon has one thread here.
    pub fn daemon_of(&self, machine: usize, lockspace: usize) -> Actor {
        let before = usize::from(!self.machines[machine].setup.sanlock);
        self.thread(machine, Group::Join(lockspace), before)
    }

    /// The thread of the first lockspace's lease-join that writes the holders' file.
    pub fn scribe(&self, machine: usize) -> Actor {
        self.thread(machine, Group::Join(0), 2)
    }

    /// A thread of a process, by the order in which they were started.
    fn thread(&self, machine: usize, group: Group, number: usize) -> Actor {
        let of = |cast: &Cast| (cast.machine, cast.group) == (machine, Some(group));
        let living = |(_, cast): &(usize, &Cast)| of(cast) && !cast.process.is_over();
        let mut threads = self.cast.iter().enumerate().filter(living);
        Actor(threads.nth(number).unwrap().0)
    }

    /// A frozen machine goes on as if no time had passed: what it guarded was not ended either.
    pub fn wakes(&mut self, machine: usize) {
        let host = Rc::clone(&self.machines[machine]);
        let renewed = host.face.now();
        if let Some(life) = &*host.member.borrow() {
            life.tenure.note_renewal(renewed);
        }
        for connection in host.connections.borrow().values() {
            let tell = Tell::Renewed { renewed };
            self.shared.post(connection.client, Letter::Tell(tell));
        }
        for cast in self.cast.iter_mut().filter(|cast| cast.machine == machine) {
            cast.stopped = cast.group == Some(Group::Join(0));
        }
        self.settle();
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
                .filter(|actor| self.cast[*actor].goes_on())
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
        self.end_what_is_guarded(at);
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

    /// By 8t+W, and by the watchdog device.
    fn end_what_is_guarded(&mut self, at: Instant) {
        for machine in self.machines.clone() {
            let trees = machine.trees.borrow();
            let over = |tree: &Tree| self.enforced && machine.tree_dead_by(tree) <= at;
            let over = trees.iter().filter(|(_, tree)| over(tree));
            let over: Vec<i32> = over.map(|(id, _)| *id).collect();
            drop(trees);
            over.into_iter().for_each(|tree| machine.tree_is_gone(tree));
            let reset_at = machine.reset_at.get();
            if reset_at <= at {
                self.shared.now.set(reset_at.max(self.now()));
                self.power_off(machine.index);
            }
        }
        self.settle();
    }

    fn ready_at(&self, actor: usize) -> Instant {
        let cast = &self.cast[actor];
        match cast.process.pending {
            Some(Op::Wait { until }) => {
                let at = self.machines[cast.machine].face.when(until);
                at.max(self.now())
            }
            Some(Op::BackOff { most }) => self.now() + most.as_nanos() as u64 / 2,
            Some(Op::Listen { mailbox, until }) => {
                let at = self.machines[cast.machine].face.when(until);
                let mail = self.shared.letters.next(mailbox);
                mail.unwrap_or(at).min(at).max(self.now())
            }
            _ => self.now(),
        }
    }

    fn answer_extra(&mut self, actor: usize) {
        match self.cast[actor].process.pending {
            Some(Op::Wait { .. } | Op::BackOff { .. } | Op::Listen { .. }) => {
                self.resume(Actor(actor), Answer::Done);
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
