//! lease-join as a process: how it starts, beside what a former one has left; its heartbeat, and
//! those who give leases back for the dead. What it answers is in [`super::server`].

use super::machine::{Life, Machine, Membership};
use super::mail::{Group, Letter, Wish};
use super::port::{File, Port};
use super::server::{Server, Victim};
use super::watchdog::Watchdog;
use super::{LOCKSPACE, machine};
use lease_core::clock::Clock;
use lease_core::contain::Remains;
use lease_core::delta::{self, Claim, HostLease, RenewError, Tenure};
use lease_core::disk::{Disk, Fault};
use lease_core::id::HostId;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::registry::table::Table;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Between two strikes.
const STRIKE_AGAIN: Duration = Duration::from_millis(50);
/// After a failed renewal.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The machine's device, and how it is petted.
pub(crate) type Dog = Watchdog<machine::KernelDevice>;

/// lease-join, from its start to its end: joins, or goes on where a former one has ended, and
/// renews; a thread of its own serves.
pub fn lease_join(port: &Port<'_>, machine: &Rc<Machine>) {
    if machine.setup.sanlock {
        return super::sanlock::lockspace(port, machine);
    }
    let file = port.file(machine.new_handle(0));
    let (life, table) = remains(machine);
    let claim = claim(machine, life.as_ref());
    let dog = arm(machine);
    let known = table.as_ref().filter(|table| !table.is_lost());
    let resumed = life
        .as_ref()
        .filter(|life| life.is_joined())
        .zip(known)
        .and_then(|(life, table)| Some((resume(&file, port, &claim, life)?, table.clone())));
    let (lease, table, dog) = match resumed {
        Some((lease, table)) => (lease, table, dog),
        None => {
            let table = table.unwrap_or_default();
            if !end_all(port, machine, life.as_ref(), &table) {
                let guarded = table.holders().next().is_some();
                return dog
                    .into_iter()
                    .for_each(|dog| dog.leave_as_found(guarded).unwrap());
            }
            if let Some(dog) = dog {
                dog.disarm().unwrap();
            }
            let disk = Attempt::new(machine, &file, &claim);
            match delta::join(&LOCKSPACE, &disk, port, &claim, &mut |_| {}) {
                Ok(lease) => (lease, Table::default(), arm(machine)),
                Err(error) => return machine.tell(|| format!("cannot join: {error}")),
            }
        }
    };
    serve(port, machine, &file, lease, table, dog);
}

/// What a former lease-join of this boot has left. Without the holders' file nobody goes on with
/// it.
fn remains(machine: &Machine) -> (Option<Life>, Option<Table>) {
    let run = machine.run.borrow();
    let life = run.life.clone();
    let holders = run.holders.clone();
    let of_life = |generation| {
        life.as_ref()
            .is_some_and(|life| life.is_joined() && life.former.generation == generation)
    };
    let table = holders.map(|(generation, table)| match of_life(generation) {
        true => table,
        false => Table::default(),
    });
    (life, table)
}

fn claim(machine: &Machine, life: Option<&Life>) -> Claim {
    let generations = life.map(|life| (life.completed, life.former.generation));
    let (at_least, attempted) = generations.unwrap_or_default();
    // What the former lease-join wrote may still land.
    let quiet_from = life.map(|_| machine.landed_by());
    let timing = machine.setup.timing;
    let not_before = life.map(|life| life.former.quiet_from(timing, machine.face.now()));
    Claim {
        host: machine.setup.host,
        name: life.map_or_else(|| machine.name(), |life| life.name),
        timing,
        boot_id: machine.boot_id(),
        at_least,
        attempted,
        quiet_from: quiet_from.unwrap_or_default(),
        not_before: not_before.unwrap_or_default(),
    }
}

fn arm(machine: &Rc<Machine>) -> Option<Dog> {
    let open = || Watchdog::arm(machine::KernelDevice::open(machine), machine.setup.timing);
    machine.setup.watchdog.then(|| open().unwrap())
}

fn resume(file: &File<'_>, port: &Port<'_>, claim: &Claim, life: &Life) -> Option<HostLease> {
    HostLease::resume(&LOCKSPACE, file, port, claim, &life.former).ok()
}

/// Kills all that a former lease-join knew of and sees it gone. `false`: told to leave before
/// that, or what can never be proven gone is in the way.
fn end_all(port: &Port<'_>, machine: &Rc<Machine>, life: Option<&Life>, table: &Table) -> bool {
    let Some(life) = life else { return true };
    let marked = |id| {
        let mark = (life.former.generation, id);
        machine.run.borrow_mut().marks.remove(&mark).is_some()
    };
    let holders = table.holders().filter(|(id, _)| !marked(*id));
    let mut left: Vec<_> = holders.map(|(_, h)| Victim::of(machine, h)).collect();
    if !left.is_empty() {
        machine.tell(|| format!("the former lease is over: {} holders end", left.len()));
    }
    loop {
        let mut unknown = false;
        left.retain(|victim| {
            let remains = victim.strike(machine);
            unknown |= remains == Remains::NotKnown;
            remains == Remains::Something
        });
        if unknown {
            machine.tell(|| "what is left may still run".into());
            machine.shared.wish(Wish::Admin(machine.index));
            return false;
        }
        if left.is_empty() || port.wait(STRIKE_AGAIN).is_err() {
            return left.is_empty();
        }
    }
}

fn serve(
    port: &Port<'_>,
    machine: &Rc<Machine>,
    file: &File<'_>,
    lease: HostLease,
    table: Table,
    dog: Option<Dog>,
) {
    let generation = lease.generation();
    let host = machine.setup.host.get();
    let resumed = machine
        .run
        .borrow()
        .life
        .as_ref()
        .filter(|life| life.is_joined())
        .map(|life| life.former.generation);
    if resumed == Some(generation) {
        machine.tell(|| format!("goes on as host {host} generation {generation}"));
    } else {
        machine.tell(|| format!("joined as host {host} generation {generation}"));
        let mut checker = machine.shared.checker.borrow_mut();
        checker.joined(host, generation.0);
    }
    machine.run.borrow_mut().life = Some(Life::of(&lease));
    let life = Rc::new(Membership {
        generation,
        tenure: Tenure::new(machine.setup.timing, lease.renewed()),
        ballots_from: lease.ballots_from(),
        seen: RefCell::default(),
        left: Cell::new(false),
    });
    let (inbox, heart) = (machine.shared.mailbox(), machine.shared.mailbox());
    let (of, its) = (Rc::clone(machine), Rc::clone(&life));
    let server =
        move |port: &Port<'_>| Server::new(port, &of, its, table, dog, (inbox, heart)).run();
    machine
        .shared
        .wish(Wish::Spawn(machine.index, Group::Join, Box::new(server)));
    let mut thread = Thread {
        port,
        machine,
        file,
        lease,
        life,
        server: inbox,
    };
    thread.renew_until_the_end(heart);
}

/// The thread that renews. It does the lockspace's disk I/O and nothing else.
struct Thread<'a> {
    port: &'a Port<'a>,
    machine: &'a Rc<Machine>,
    file: &'a File<'a>,
    lease: HostLease,
    life: Rc<Membership>,
    server: usize,
}

impl Thread<'_> {
    fn renew_until_the_end(&mut self, heart: usize) {
        let timing = self.machine.setup.timing;
        let mut next = self.port.now();
        loop {
            self.port.listen(heart, next);
            if let Some(Letter::GiveBack(quiet_from)) = self.machine.shared.take(heart) {
                self.lease.expect_late_writes(quiet_from);
                return self.leave();
            }
            if self.port.now() < next {
                continue;
            }
            let (machine, disk) = (
                self.machine,
                Logged {
                    machine: self.machine,
                    file: self.file,
                },
            );
            match self.lease.renew(&disk, self.port) {
                Ok(scan) => {
                    let renewed = self.lease.renewed();
                    next = renewed.after(timing.renewal_period());
                    let mut seen = self.life.seen.borrow_mut();
                    for host in HostId::all(machine.setup.num_hosts) {
                        if let Ok(record) = scan.area.host(host) {
                            seen.look(host, &record, timing, scan.read_ended);
                        }
                    }
                    self.tell(Letter::Renewed(renewed));
                }
                Err(RenewError::Lost(lost)) => {
                    machine.tell(|| format!("host id lost: {lost}"));
                    self.expect(&lost);
                    return self.tell(Letter::Lost);
                }
                Err(error) => {
                    machine.tell(|| format!("cannot renew: {error}"));
                    next = self.port.now().after(TRY_AGAIN);
                }
            }
        }
    }

    /// A life that ends in any other way than by time is a surprise, and one by time too early.
    fn expect(&self, lost: &delta::Lost) {
        let machine = self.machine;
        let expected = self.life.ballots_from.max(machine.excused_until.get());
        let wrong = match lost {
            delta::Lost::Expired(_) => {
                machine.shared.strict.get() && machine.is_kept(self.life.generation)
            }
            _ => self.port.now() >= expected,
        };
        if wrong {
            let host = Some(machine.setup.host);
            let what = || format!("m{}: {lost}", machine.index);
            machine.shared.surprise(host, None, what);
        }
    }

    /// Gives the host id back, again and again until nothing may be written any more.
    fn leave(&mut self) {
        loop {
            let disk = Logged {
                machine: self.machine,
                file: self.file,
            };
            match self.lease.leave(&disk, self.port) {
                Ok(()) => {
                    self.life.left.set(true);
                    let free = self.lease.heartbeat().is_free();
                    return self.tell(Letter::Left(Some(free)));
                }
                Err(RenewError::Lost(_)) => return self.tell(Letter::Left(None)),
                Err(RenewError::Disk(_)) => self.port.back_off(TRY_AGAIN),
            }
        }
    }

    fn tell(&self, letter: Letter) {
        self.machine.shared.post(self.server, letter);
    }
}

/// The lockspace's disk for a join: each life that it may begin is logged before that.
struct Attempt<'a> {
    machine: &'a Machine,
    file: &'a File<'a>,
    life: RefCell<Life>,
}

impl<'a> Attempt<'a> {
    fn new(machine: &'a Machine, file: &'a File<'a>, claim: &Claim) -> Self {
        let life = RefCell::new(Life::attempt(claim));
        Self {
            machine,
            file,
            life,
        }
    }

    fn log(&self, what: impl FnOnce(&mut delta::Former)) {
        let mut life = self.life.borrow_mut();
        what(&mut life.former);
        self.machine.run.borrow_mut().life = Some(life.clone());
    }
}

impl Disk for Attempt<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.file.read(offset, len)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let record = Heartbeat::decode(bytes).unwrap();
        let (timestamp, timing) = (record.timestamp(), self.machine.setup.timing);
        self.log(|former| {
            former.generation = record.generation();
            former.issue(timestamp, timing);
        });
        let issued = self.machine.face.now();
        self.file.write(offset, bytes)?;
        self.log(|former| former.complete(timestamp, issued));
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        self.file.settle()
    }
}

/// The lockspace's disk: each write is logged before it is issued and after it has completed.
struct Logged<'a> {
    machine: &'a Machine,
    file: &'a File<'a>,
}

impl Logged<'_> {
    fn log(&self, what: impl FnOnce(&mut delta::Former)) {
        if let Some(life) = &mut self.machine.run.borrow_mut().life {
            what(&mut life.former);
        }
    }
}

impl Disk for Logged<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.file.read(offset, len)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        self.file.inspect(offset, len, see)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let timestamp = Heartbeat::decode(bytes).unwrap().timestamp();
        let timing = self.machine.setup.timing;
        self.log(|former| former.issue(timestamp, timing));
        let issued = self.machine.face.now();
        self.file.write(offset, bytes)?;
        self.log(|former| former.complete(timestamp, issued));
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        self.file.settle()
    }
}
