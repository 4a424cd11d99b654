//! A machine that runs our tools: lease-join and some lease-hold, as processes over the very
//! functions that ship, and what the two say to each other on the machine.

use super::checker::Run;
use super::clock::Face;
use super::port::{Handle, Port};
use super::{LOCKSPACE, RESOURCE_GEOMETRY, Shared, area_offset, resource_name};
use lease_core::clock::{Clock, Moment};
use lease_core::delta::{self, Claim, HostLease, RenewError, Tenure};
use lease_core::disk::Disk;
use lease_core::id::{Generation, HostId, Lver, Name};
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::holder_note::HolderNote;
use lease_core::resource::{AcquireError, Attempt, Held, Member, Refusal, Resource, Wanted};
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// The holder number of one that goes on when all others come to their end.
pub const PROBE: usize = 1000;
const CLEANER: usize = 2000;

/// How a machine is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whether it runs the sanlock daemon instead of our tools.
    pub sanlock: bool,
    /// Its host id; two machines may have the same.
    pub host: HostId,
    /// t and W.
    pub timing: Timing,
    /// The same name at each boot, rather than a random one.
    pub name: Option<Name>,
    /// Disks that each resource lies on.
    pub disks: usize,
    /// Resources in the lockspace.
    pub resources: usize,
    /// Highest host id that takes part in ballots.
    pub num_hosts: u64,
    /// Of a hundred acquires, how many are shared.
    pub shared_percent: u64,
    /// Longest time that a lease is held, and that a holder thinks before it wants one.
    pub pace: Duration,
}

/// One life of the machine's host id, as lease-join tells its holders of it.
#[derive(Debug)]
pub struct Membership {
    /// Which life.
    pub generation: Generation,
    /// Its renewals.
    pub tenure: Tenure,
    /// Before this moment no ballot.
    pub ballots_from: Moment,
    /// What lease-join has seen of other hosts.
    pub seen: RefCell<Sightings>,
    /// It ended with a leave.
    pub left: Cell<bool>,
}

/// What lease-join knows of the holders of one resource.
#[derive(Debug, Clone, Copy)]
struct Registered {
    life: Generation,
    mode: Mode,
    holders: u32,
    /// One of them is at the disk.
    busy: bool,
}

/// What a holder is at.
#[derive(Debug, Clone)]
pub struct Work {
    /// Under which life of the host.
    pub life: Rc<Membership>,
    /// With which resource.
    pub resource: usize,
}

/// A guarded command.
#[derive(Debug, Clone)]
pub struct Command {
    /// The checker's number.
    pub id: u64,
    /// Its lease-hold.
    pub holder: usize,
    /// Under which life of the host.
    pub life: Rc<Membership>,
}

/// A machine.
pub struct Machine {
    /// Its column.
    pub index: usize,
    /// The world.
    pub shared: Rc<Shared>,
    /// Its clock.
    pub face: Rc<Face>,
    /// How it is set up.
    pub setup: Setup,
    /// How often it was started.
    pub boot: Cell<u64>,
    /// The life that its lease-join has now.
    pub member: RefCell<Option<Rc<Membership>>>,
    /// The last generation in the state file.
    pub known: Cell<Generation>,
    registry: RefCell<BTreeMap<usize, Registered>>,
    /// Until when a write of a dead process may still land, by resource (the state file).
    intents: RefCell<BTreeMap<usize, Moment>>,
    /// The commands that run.
    pub commands: RefCell<Vec<Command>>,
    /// What each holder is at, by its number.
    pub working: RefCell<BTreeMap<usize, Work>>,
    /// Whether holders are to come to an end.
    pub closing: Cell<bool>,
    /// Whether lease-join was told to leave.
    pub leaving: Cell<bool>,
    /// Until when a heartbeat of an ended lease-join may still land (the state file).
    heartbeats_from: Cell<Moment>,
    /// Power was lost while a join's write was on its way; nobody can know that afterwards, and if
    /// it lands late, over the next join, that life is lost. No second owner comes of it.
    pub excused_until: Cell<Moment>,
    files: Cell<usize>,
}

impl Machine {
    /// A machine that has never been started.
    pub fn new(index: usize, shared: Rc<Shared>, face: Rc<Face>, setup: Setup) -> Self {
        Self {
            index,
            shared,
            face,
            setup,
            boot: Cell::new(0),
            member: RefCell::default(),
            known: Cell::default(),
            registry: RefCell::default(),
            intents: RefCell::default(),
            commands: RefCell::default(),
            working: RefCell::default(),
            closing: Cell::new(false),
            leaving: Cell::new(false),
            heartbeats_from: Cell::default(),
            excused_until: Cell::default(),
            files: Cell::new(0),
        }
    }

    /// Forgets what only memory and /run knew.
    pub fn power_off(&self) {
        self.boot.set(self.boot.get() + 1);
        self.member.take();
        self.known.set(Generation(0));
        self.registry.take();
        self.intents.take();
        self.heartbeats_from.take();
        self.leaving.set(false);
        self.working.take();
        for command in self.commands.take() {
            self.shared.checker.borrow_mut().stop(command.id);
        }
    }

    /// A holder process was killed. What it was at stays reserved until its command is dead.
    pub fn holder_killed(&self, holder: usize) -> Option<usize> {
        let work = self.working.borrow_mut().remove(&holder)?;
        note_intent(self, work.resource);
        Some(work.resource)
    }

    /// The command of a holder that was killed is dead as well. Whether what it held is now
    /// lease-join's to clear: nobody else on this machine shares it.
    pub fn holder_gone(&self, resource: usize) -> bool {
        let mut registry = self.registry.borrow_mut();
        let Some(known) = registry.get_mut(&resource) else {
            return false;
        };
        if known.holders > 1 {
            known.holders -= 1;
            known.busy = false;
            return false;
        }
        known.busy = true;
        true
    }

    /// Ends every command of one life and forgets its holders.
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
        let mut registry = self.registry.borrow_mut();
        registry.retain(|_, known| known.life != life.generation);
        ended
    }

    /// Adds a line to the machine's column.
    pub fn tell(&self, text: impl FnOnce() -> String) {
        self.shared.tell(Some(self.index), text);
    }

    /// What holders had reserved is forgotten.
    pub fn forget_holders(&self) {
        self.registry.take();
        self.working.take();
    }

    /// The life that it has now, if that is not lost.
    pub fn live_member(&self) -> Option<Rc<Membership>> {
        let member = self.member.borrow().clone()?;
        member.tenure.holds(self.face.now()).then_some(member)
    }

    /// Whether anything that was guarded lives, or a holder is at work.
    pub fn is_busy(&self) -> bool {
        !(self.commands.borrow().is_empty() && self.working.borrow().is_empty())
    }

    /// Nothing that a dead process wrote can land any more.
    fn quiet(&self) -> bool {
        let now = self.face.now();
        self.intents.borrow().values().all(|until| *until <= now)
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
        }
    }

    fn boot_id(&self) -> [u8; 16] {
        let mut id = [self.index as u8 + 1; 16];
        id[8..].copy_from_slice(&self.boot.get().to_le_bytes());
        id
    }
}

// ---- lease-join

/// lease-join, for as long as the machine is up: join, renew, and join again after a loss.
pub fn lease_join(port: &Port<'_>, machine: &Rc<Machine>) {
    if machine.setup.sanlock {
        return super::sanlock::lockspace(port, machine);
    }
    let file = port.file(machine.new_handle(0));
    loop {
        let claim = Claim {
            host: machine.setup.host,
            name: machine.name(),
            timing: machine.setup.timing,
            boot_id: machine.boot_id(),
            at_least: machine.known.get(),
            quiet_from: machine.heartbeats_from.get(),
        };
        match delta::join(&LOCKSPACE, &file, port, &claim, &mut |_| {}) {
            Ok(lease) => renew_until_the_end(port, machine, &file, lease),
            Err(error) => machine.tell(|| format!("cannot join: {error}")),
        }
        if file.settle().is_err() {
            machine.heartbeats_from.set(landed_by(machine));
        }
        if machine.leaving.get() {
            return;
        }
        let _ = port.wait(Duration::from_secs(1));
        while machine.is_busy() {
            port.back_off(Duration::from_secs(1));
        }
    }
}

fn renew_until_the_end(
    port: &Port<'_>,
    machine: &Rc<Machine>,
    file: &super::port::File<'_>,
    mut lease: HostLease,
) {
    let timing = machine.setup.timing;
    machine.known.set(lease.generation());
    let host = machine.setup.host.get();
    let generation = lease.generation();
    machine.tell(|| format!("joined as host {host} generation {generation}"));
    machine
        .shared
        .checker
        .borrow_mut()
        .joined(host, generation.0);
    let member = Rc::new(Membership {
        generation,
        tenure: Tenure::new(timing, lease.renewed()),
        ballots_from: lease.ballots_from(),
        seen: RefCell::default(),
        left: Cell::new(false),
    });
    *machine.member.borrow_mut() = Some(Rc::clone(&member));
    machine
        .shared
        .members
        .borrow_mut()
        .push((machine.index, Rc::clone(&member)));
    let mut next = lease.renewed().after(timing.renewal_period());
    loop {
        if port.wait(next.since(port.now())).is_err() {
            if !machine.is_busy() && machine.quiet() {
                return leave(port, machine, file, lease, &member);
            }
            port.back_off(Duration::from_millis(500));
            if port.now() < next {
                continue;
            }
        }
        match lease.renew(file, port) {
            Ok(scan) => {
                member.tenure.note_renewal(lease.renewed());
                next = lease.renewed().after(timing.renewal_period());
                for host in HostId::all(machine.setup.num_hosts) {
                    if let Ok(record) = scan.area.host(host) {
                        member
                            .seen
                            .borrow_mut()
                            .look(host, &record, timing, scan.read_ended);
                    }
                }
            }
            Err(RenewError::Lost(lost)) => {
                machine.tell(|| format!("host id lost: {lost}"));
                let expected = member.ballots_from.max(machine.excused_until.get());
                if !matches!(lost, delta::Lost::Expired(_)) && port.now() >= expected {
                    machine
                        .shared
                        .surprise(|| format!("m{}: {lost}", machine.index));
                }
                member.tenure.note_loss();
                return;
            }
            Err(error) => {
                machine.tell(|| format!("cannot renew: {error}"));
                next = port.now().after(Duration::from_millis(200));
            }
        }
    }
}

fn leave(
    port: &Port<'_>,
    machine: &Rc<Machine>,
    file: &super::port::File<'_>,
    mut lease: HostLease,
    member: &Rc<Membership>,
) {
    machine.tell(|| "leaves".into());
    machine.member.take();
    match lease.leave(file, port) {
        Ok(()) => member.left.set(true),
        Err(error) => machine.tell(|| format!("cannot leave: {error}")),
    }
    member.tenure.note_loss();
}

// ---- lease-hold

/// One lease-hold after another, for as long as the machine is up.
pub fn lease_hold(port: &Port<'_>, machine: &Rc<Machine>, holder: usize, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    while !machine.closing.get() {
        while machine.leaving.get() {
            port.back_off(Duration::from_secs(1));
        }
        let _ = port.wait(machine.setup.pace.mul_f64(rng.f64()));
        let resource = rng.usize(..machine.setup.resources);
        let shared = rng.u64(..100) < machine.setup.shared_percent;
        let mode = if shared {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        let hold = machine.setup.pace.mul_f64(rng.f64());
        let patience = match rng.u8(..4) {
            0 => Duration::ZERO,
            1 => Duration::from_secs(2),
            _ => machine.setup.timing.dead_after() * 3,
        };
        let errand = Errand {
            resource,
            mode,
            hold,
            patience,
        };
        match machine.setup.sanlock {
            true => super::sanlock::run_errand(port, machine, holder, &errand),
            false => run_errand(port, machine, holder, &errand),
        };
    }
}

/// One run of lease-hold.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// Which resource.
    pub resource: usize,
    /// How.
    pub mode: Mode,
    /// For how long the command runs.
    pub hold: Duration,
    /// For how long to wait for the lease.
    pub patience: Duration,
}

/// Registers, acquires, runs the command, releases. Whether the lease was had.
pub fn run_errand(port: &Port<'_>, machine: &Rc<Machine>, holder: usize, errand: &Errand) -> bool {
    let Some(life) = machine.live_member().filter(|_| !machine.leaving.get()) else {
        return false;
    };
    let Some(join) = register(machine, errand, life.generation) else {
        return false;
    };
    let work = Work {
        life: Rc::clone(&life),
        resource: errand.resource,
    };
    machine.working.borrow_mut().insert(holder, work);
    let had = with_files(port, machine, errand.resource, &life, |resource, member| {
        let at = Lease {
            port,
            machine,
            errand,
            holder,
            resource,
            member,
            life: &life,
        };
        let held = if join {
            resource.join_share(member).ok().flatten()
        } else {
            at.acquire()
        };
        match &held {
            Some(held) => at.hold(held),
            None => at.unregister_or_clear(join),
        }
        held.is_some()
    });
    machine.working.borrow_mut().remove(&holder);
    had
}

/// What a lease-hold that was killed left behind is cleared by lease-join: not before its writes
/// have landed.
pub fn clean_up(port: &Port<'_>, machine: &Rc<Machine>, resource: usize) {
    let Some(life) = machine.live_member() else {
        return;
    };
    let until = machine.intents.borrow().get(&resource).copied();
    let _ = port.wait(until.unwrap_or_default().since(port.now()));
    let errand = Errand {
        resource,
        mode: Mode::Exclusive,
        hold: Duration::ZERO,
        patience: Duration::ZERO,
    };
    with_files(port, machine, resource, &life, |resource, member| {
        let at = Lease {
            port,
            machine,
            errand: &errand,
            holder: CLEANER,
            resource,
            member,
            life: &life,
        };
        at.settle_doubt();
        note_outcome(machine, at.resource, errand.resource);
        false
    });
    unregister(machine, resource, false);
}

/// A process of this machine that had to do with `resource` ended without proof that its writes
/// have landed.
fn note_intent(machine: &Machine, resource: usize) {
    let until = landed_by(machine);
    machine.intents.borrow_mut().insert(resource, until);
}

/// By when all that was issued up to now has landed, if it ever does.
pub fn landed_by(machine: &Machine) -> Moment {
    let bound = machine.setup.timing.takeover_after();
    machine.face.now().after(bound)
}

/// Whether others on this machine share it already; `None`: not now.
fn register(machine: &Machine, errand: &Errand, life: Generation) -> Option<bool> {
    let mut registry = machine.registry.borrow_mut();
    let Some(known) = registry.get_mut(&errand.resource) else {
        let fresh = Registered {
            life,
            mode: errand.mode,
            holders: 1,
            busy: true,
        };
        registry.insert(errand.resource, fresh);
        return Some(false);
    };
    let both_share = known.mode == Mode::Shared && errand.mode == Mode::Shared;
    if !both_share || known.busy {
        return None;
    }
    known.busy = true;
    known.holders += 1;
    Some(true)
}

/// Rule 2: what may still land is noted before anybody else on this machine can come.
fn note_outcome(machine: &Machine, resource: &Resource<'_>, index: usize) {
    if resource.quorum.settle().is_err() {
        note_intent(machine, index);
    }
}

/// Takes one holder off; `joined`: others on this machine still share.
fn unregister(machine: &Machine, resource: usize, joined: bool) {
    let mut registry = machine.registry.borrow_mut();
    if let Some(known) = registry.get_mut(&resource) {
        known.holders -= 1;
        known.busy = false;
        if known.holders == 0 || !joined {
            registry.remove(&resource);
        }
    }
}

fn set_busy(machine: &Machine, resource: usize, busy: bool) {
    if let Some(known) = machine.registry.borrow_mut().get_mut(&resource) {
        known.busy = busy;
    }
}

/// The command is over.
pub fn stop_command(machine: &Machine, id: u64) {
    machine.shared.checker.borrow_mut().stop(id);
    machine
        .commands
        .borrow_mut()
        .retain(|command| command.id != id);
}

/// Opens the resource and the lockspace, as each process does for itself.
pub fn with_files(
    port: &Port<'_>,
    machine: &Rc<Machine>,
    resource: usize,
    life: &Rc<Membership>,
    work: impl FnOnce(&Resource<'_>, &Member<'_>) -> bool,
) -> bool {
    let intent = machine.intents.borrow().get(&resource).copied();
    let heartbeats = port.file(machine.new_handle(0));
    let disks: Vec<_> = (0..machine.setup.disks)
        .map(|disk| port.file(machine.new_handle(disk)))
        .collect();
    let replicas = disks.iter().map(|disk| Replica {
        disk,
        offset: area_offset(1 + resource),
    });
    let resource = Resource {
        quorum: Quorum::new(replicas.collect()),
        lockspace: LOCKSPACE.name,
        name: resource_name(resource),
        geometry: RESOURCE_GEOMETRY,
        num_hosts: machine.setup.num_hosts,
    };
    let member = Member {
        clock: port,
        tenure: &life.tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &heartbeats,
        host: machine.setup.host,
        generation: life.generation,
        ballots_from: life.ballots_from.max(intent.unwrap_or_default()),
    };
    work(&resource, &member)
}

/// One lease-hold at one resource.
struct Lease<'a> {
    port: &'a Port<'a>,
    machine: &'a Rc<Machine>,
    errand: &'a Errand,
    holder: usize,
    resource: &'a Resource<'a>,
    member: &'a Member<'a>,
    life: &'a Rc<Membership>,
}

impl Lease<'_> {
    fn tell(&self, text: impl FnOnce() -> String) {
        let name = self.errand.resource;
        self.machine.tell(|| format!("r{name} {}", text()));
    }

    fn is_closing(&self) -> bool {
        let machine = self.machine;
        self.holder < PROBE && (machine.closing.get() || machine.leaving.get())
    }

    fn is_ours(&self) -> bool {
        self.life.tenure.holds(self.port.now())
    }

    fn wanted(&self) -> Wanted {
        let note = HolderNote {
            host: self.machine.setup.host,
            generation: Generation(0),
            lver: Lver(0),
            mode: self.errand.mode,
            pid: 1,
            start: 1,
            host_name: self.machine.name().as_bytes().to_vec(),
            command: b"command".to_vec(),
        };
        Wanted {
            mode: self.errand.mode,
            lver: None,
            note,
        }
    }

    fn acquire(&self) -> Option<Held> {
        let give_up = self.port.now().after(self.errand.patience);
        if !self.wait_for_quiet(give_up) {
            return None;
        }
        let wanted = self.wanted();
        let mut seen = self.life.seen.borrow().clone();
        loop {
            let (snapshot, owner) = match self.resource.acquire(self.member, &wanted, &mut seen) {
                Ok(Attempt::Held(held)) => {
                    self.tell(|| format!("had, {}, lver {}", held.mode, held.lver));
                    return Some(*held);
                }
                Ok(Attempt::Refused(why, snapshot)) => {
                    self.tell(|| format!("refused: {}", short(&why)));
                    let owner = match why {
                        Refusal::Held { owner, .. } | Refusal::ShortHold(owner) => Some(owner),
                        _ => None,
                    };
                    (snapshot, owner)
                }
                Ok(Attempt::Unknown {
                    owner, snapshot, ..
                }) => (snapshot, Some(owner)),
                Err(error) => {
                    self.tell(|| format!("not had: {error}"));
                    if matches!(error, AcquireError::InDoubt(_)) {
                        self.settle_doubt();
                    }
                    return None;
                }
            };
            let left = give_up.since(self.port.now());
            if left.is_zero() || self.is_closing() {
                return None;
            }
            seen.learn(&self.life.seen.borrow());
            if let Err(error) = self
                .resource
                .watch(self.member, &snapshot, owner, &mut seen, left)
            {
                self.tell(|| format!("watch: {error}"));
                return None;
            }
        }
    }

    /// Rule 2: no ballot while a write of an earlier life, or of a dead process, may land.
    fn wait_for_quiet(&self, give_up: Moment) -> bool {
        while self.life.tenure.renewed() < self.member.ballots_from {
            if self.port.now() >= give_up || !self.is_ours() || self.is_closing() {
                return false;
            }
            let _ = self.port.wait(Duration::from_secs(1));
        }
        true
    }

    /// Until it is known who owns it, or we are lost.
    fn settle_doubt(&self) {
        while self.is_ours() {
            match self.resource.resolve(self.member, &self.wanted()) {
                Ok(()) => return self.tell(|| "resolved".into()),
                Err(error) => self.tell(|| format!("unresolved: {error}")),
            }
            let _ = self.port.wait(Duration::from_secs(1));
        }
    }

    /// The command's life. A lost lease leaves it to run until the last allowed moment.
    fn hold(&self, held: &Held) {
        if self.is_ours() {
            let id = self.start_command(held);
            set_busy(self.machine, self.errand.resource, false);
            if !self.watch_over(held) {
                self.tell(|| "lost".into());
                self.machine.shared.checker.borrow_mut().lost += 1;
                return;
            }
            stop_command(self.machine, id);
            self.tell(|| "command over".into());
        }
        self.give_back(held);
    }

    fn start_command(&self, held: &Held) -> u64 {
        let machine = self.machine;
        let run = Run {
            id: 0,
            resource: self.errand.resource,
            machine: machine.index,
            life: (machine.setup.host.get(), self.life.generation.0),
            exclusive: self.errand.mode == Mode::Exclusive,
            lver: held.lver.0,
            since: machine.shared.now.get(),
        };
        let id = machine.shared.checker.borrow_mut().start(run);
        machine.commands.borrow_mut().push(Command {
            id,
            holder: self.holder,
            life: Rc::clone(self.life),
        });
        id
    }

    /// While the command runs: at each renewal, is the lease still ours? False: lost.
    fn watch_over(&self, held: &Held) -> bool {
        let over = self.port.now().after(self.errand.hold);
        let mut renewed = self.life.tenure.renewed();
        loop {
            let left = over.since(self.port.now());
            if left.is_zero() || self.is_closing() {
                return true;
            }
            let _ = self.port.wait(left.min(Duration::from_millis(500)));
            if !self.is_ours() {
                return false;
            }
            if self.life.tenure.renewed() > renewed {
                renewed = self.life.tenure.renewed();
                match self.resource.still_held(self.member, held) {
                    Ok(true) => {}
                    Ok(false) => {
                        let (m, r) = (self.machine.index, self.errand.resource);
                        let what = || format!("r{r} is not m{m}'s any more");
                        self.machine.shared.surprise(what);
                        return false;
                    }
                    Err(error) => self.tell(|| format!("not seen: {error}")),
                }
            }
        }
    }

    fn give_back(&self, held: &Held) {
        let resource = self.errand.resource;
        loop {
            let known = self.machine.registry.borrow().get(&resource).copied();
            match known {
                // Only the last sharer clears the share.
                Some(known) if known.holders > 1 => {
                    unregister(self.machine, resource, true);
                    return set_busy(self.machine, resource, known.busy);
                }
                // One at a time at the disk.
                Some(known) if known.busy && self.errand.mode == Mode::Shared => {
                    let _ = self.port.wait(Duration::from_millis(50));
                    if !self.is_ours() {
                        return;
                    }
                }
                _ => break,
            }
        }
        set_busy(self.machine, resource, true);
        match self.resource.release(self.member, held) {
            Ok(()) => self.tell(|| "released".into()),
            Err(error) => {
                self.tell(|| format!("not released: {error}"));
                self.settle_doubt();
            }
        }
        note_outcome(self.machine, self.resource, resource);
        unregister(self.machine, resource, false);
    }

    /// Nothing was had. A share that was counted on us for its end is ended.
    fn unregister_or_clear(&self, joined: bool) {
        let registry = self.machine.registry.borrow();
        let known = registry.get(&self.errand.resource).copied();
        drop(registry);
        if joined && known.is_some_and(|known| known.holders == 1) {
            self.settle_doubt();
        }
        if !joined {
            note_outcome(self.machine, self.resource, self.errand.resource);
        }
        unregister(self.machine, self.errand.resource, joined);
    }
}

fn short(why: &Refusal) -> String {
    match why {
        Refusal::Held { owner, .. } => format!("held by {}:{}", owner.host, owner.generation),
        Refusal::Shared(hosts) => format!("shared by {hosts:?}"),
        Refusal::ShortHold(owner) => format!("short hold of {}", owner.host),
        Refusal::Contended => "contended".into(),
        Refusal::Version { found } => format!("lver {found}"),
    }
}
