//! Who carries the last deadline of what a lease-hold guards: the code that ships.

use super::around::Around;
use super::lockspace_named;
use super::machine::Machine;
use super::mail::Letter;
use super::port::Port;
use lease_core::clock::{Clock, Moment};
use lease_core::holder::carrier::{
    Carried, CarriedHost, Carrier, CarrierSurroundings, LastMoment, Renewals, Said,
};
use std::rc::Rc;

struct Carrying<'p> {
    here: Around<'p>,
    mailbox: usize,
    hosts: Vec<CarriedHost>,
    open: bool,
}

impl CarrierSurroundings for Carrying<'_> {
    fn now(&self) -> Moment {
        self.here.now()
    }

    fn hear(&mut self) -> (bool, Vec<Said>) {
        let mut all = Vec::new();
        while let Some(letter) = self.here.machine.shared.take(self.mailbox) {
            match letter {
                Letter::LastMoment(at) => all.push(Said::Last(LastMoment { at })),
                Letter::Carried(carried) => all.push(Said::Carried(*carried)),
                _ => self.open = false,
            }
        }
        (self.open, all)
    }

    fn follow(&mut self, hosts: &[CarriedHost]) {
        self.hosts = hosts.to_vec();
    }

    fn renewals(&mut self) -> Option<Renewals> {
        Some(renewals(&self.here.machine, &self.hosts))
    }

    fn wait(&mut self, until: Moment) -> bool {
        self.here.port.listen(self.mailbox, until);
        true
    }
}

/// What lease-join's file says.
pub fn renewals(machine: &Machine, hosts: &[CarriedHost]) -> Renewals {
    let of = |host: &CarriedHost| {
        let machine = machine_of(machine, host);
        let run = machine.run.borrow();
        let former = run.life.as_ref().map(|life| &life.former);
        let former = former.filter(|former| former.generation == host.generation);
        former.map(|former| former.renewed)
    };
    hosts.iter().map(of).collect()
}

/// The machine in the lockspace of a host id of its own.
pub fn machine_of(machine: &Machine, host: &CarriedHost) -> Rc<Machine> {
    machine.in_lockspace(lockspace_named(&host.lockspace))
}

fn carrier<'p>(
    port: &'p Port<'p>,
    machine: &Rc<Machine>,
    carried: &Carried,
    mailbox: usize,
) -> Carrier<Carrying<'p>> {
    let here = Around {
        port,
        machine: Rc::clone(machine),
    };
    let around = Carrying {
        here,
        mailbox,
        hosts: carried.hosts.clone(),
        open: true,
    };
    Carrier::new(around, carried)
}

/// The init of a PID namespace: it starts the command, and with it all ends.
pub fn run_init(
    port: &Port<'_>,
    (machine, carried): (&Rc<Machine>, &Carried),
    (tree, mailbox): (i32, usize),
    start: impl FnOnce(),
) {
    let mut carrier = carrier(port, machine, carried, mailbox);
    if carrier.is_over() {
        return machine.tree_is_gone(tree);
    }
    start();
    carrier.carry();
    machine.kill_tree(tree, true);
}

/// A process of lease-hold's own.
pub fn run_keeper(
    port: &Port<'_>,
    (machine, carried): (&Rc<Machine>, &Carried),
    (tree, holder): (i32, i32),
    mailbox: usize,
) {
    // Whose number its lease-hold has is another's once that is dead.
    carrier(port, machine, carried, mailbox)
        .carry_and_kill(|| machine.kill_tree(tree, machine.lives(holder)));
}
