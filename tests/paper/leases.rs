//! Light-weight leases: the lease of one register, which is a host's heartbeat.

use lease_core::clock::Clock;
use lease_core::delta::{self, Claim, JoinError};
use lease_core::id::{Generation, Name};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use support::sim::LOCKSPACE;
use support::sim::port::{Handle, Port};
use support::sim::stage::{Actor, Stage, setup, writes_heartbeat};

// ---- Light-weight leases, the lease of one register: acquire

fn claim(stage: &Stage, machine: usize) -> Claim {
    let setup = &stage.machine(machine).setup;
    Claim {
        host: setup.host,
        name: Name::new_host(format!("m{machine}").as_bytes()).unwrap(),
        timing: setup.timing,
        boot_id: [machine as u8 + 1; 16],
        at_least: Generation(0),
        attempted: Generation(0),
        quiet_from: lease_core::clock::Moment(0),
        not_before: lease_core::clock::Moment(0),
    }
}

type Said = Rc<RefCell<Vec<String>>>;

/// Joins, and renews as often as asked; says how each went.
fn contends(stage: &mut Stage, machine: usize, renewals: usize) -> (Actor, Said) {
    let claim = claim(stage, machine);
    contends_as(stage, machine, claim, renewals)
}

fn contends_as(stage: &mut Stage, machine: usize, claim: Claim, renewals: usize) -> (Actor, Said) {
    let said = Said::default();
    let heard = Rc::clone(&said);
    let body = move |port: &Port<'_>| {
        let file = port.file(Handle {
            file: 1,
            disk: 0,
            limit: Duration::from_secs(1),
        });
        let say = |what: &str| heard.borrow_mut().push(what.into());
        let mut lease = match delta::join(&LOCKSPACE, &file, port, &claim, &mut |_| {}) {
            Ok(lease) => lease,
            Err(JoinError::InUse { .. }) => return say("in use"),
            Err(error) => return say(&error.to_string()),
        };
        say("joined");
        for _ in 0..renewals {
            port.wait(claim.timing.renewal_period()).unwrap();
            match lease.renew(&file, port) {
                Ok(_) => say("renewed"),
                Err(error) => return say(&error.to_string()),
            }
        }
    };
    (stage.start(machine, Box::new(body)), said)
}

#[test]
fn who_writes_waits_and_reads_back_its_own_has_the_lease() {
    let mut stage = Stage::new(&[setup(1)]);
    let (actor, said) = contends(&mut stage, 0, 0);
    stage.finish(actor);
    assert_eq!(*said.borrow(), ["joined"]);
    assert!(stage.now() >= 2_000_000_000, "2t passed before the read");
}

#[test]
fn of_several_that_write_at_once_the_last_alone_has_it() {
    let mut stage = Stage::new(&[setup(1), setup(1), setup(1)]);
    let all: Vec<_> = (0..3).map(|m| contends(&mut stage, m, 0)).collect();
    for (actor, _) in &all {
        stage.until(*actor, writes_heartbeat(1));
    }
    for (actor, _) in &all {
        stage.step(*actor);
    }
    for (actor, _) in &all {
        stage.finish(*actor);
    }
    let said: Vec<_> = all
        .iter()
        .map(|(_, said)| said.borrow()[0].clone())
        .collect();
    assert_eq!(said, ["in use", "in use", "joined"]);
}

// ---- Light-weight leases, the lease of one register: renew

#[test]
fn a_lease_that_is_renewed_stays() {
    let mut stage = Stage::new(&[setup(1), setup(1)]);
    let (first, said) = contends(&mut stage, 0, 20);
    let (second, other) = contends(&mut stage, 1, 0);
    stage.until(first, writes_heartbeat(1));
    stage.step(first);
    stage.step(first); // It has joined: 2t have passed.
    stage.step(first);
    // The second looks once a second, the first renews every two. The paper's contenders wait until
    // the lease is to be had; that two machines have one host id is a mistake to be told of.
    while !stage.is_over(second) {
        assert!(!stage.pending(second).is_some_and(writes_heartbeat(1)));
        stage.step(second);
        if !stage.is_over(first) {
            stage.step(first);
        }
    }
    stage.finish(first);
    assert_eq!(*other.borrow(), ["in use"]);
    assert_eq!(said.borrow().len(), 21, "{:?}", said.borrow());
}

// ---- Light-weight leases, the lease of one register: it runs out, and another takes it

#[test]
fn a_lease_that_is_not_renewed_can_be_taken_after_its_time_and_not_before() {
    let mut stage = Stage::new(&[setup(1), setup(1)]);
    let (first, _) = contends(&mut stage, 0, 0);
    stage.finish(first);
    let start = stage.now();
    let (second, said) = contends(&mut stage, 1, 0);
    stage.finish(second);
    assert_eq!(*said.borrow(), ["joined"]);
    let took = stage.now() - start;
    assert!(took > 10_100_000_000 + 2_000_000_000, "{took}");
    assert_eq!(stage.heartbeat(1).generation(), Generation(2));
}

#[test]
fn who_was_replaced_finds_out_at_its_next_renewal() {
    let mut stage = Stage::new(&[setup(1), setup(1)]);
    let (first, said) = contends(&mut stage, 0, 1);
    stage.until(first, writes_heartbeat(1));
    stage.step(first);
    stage.step(first);
    stage.step(first);
    let mut other = stage.heartbeat(1);
    other = other.stamped(other.timestamp() + 7);
    stage.disks[0].write(0, &other.to_sector());
    stage.finish(first);
    assert_eq!(said.borrow().len(), 2);
    assert!(
        said.borrow()[1].contains("overwritten"),
        "{:?}",
        said.borrow()
    );
}

// ---- Departures, each on the safe side

#[test]
fn who_stalls_between_its_read_and_its_write_begins_anew() {
    // The paper's steps take a bounded time. Here anybody may stall before a write, for longer than
    // all others wait: they may have joined and gone since, and have used the same generation.
    let mut stage = Stage::new(&[setup(1)]);
    let (actor, said) = contends(&mut stage, 0, 0);
    stage.until(actor, writes_heartbeat(1));
    stage.pass(Duration::from_secs(2));
    stage.finish(actor);
    assert_eq!(*said.borrow(), ["joined"]);
    assert!(stage.heartbeat(1).generation() > Generation(1000));
}

#[test]
fn a_machine_that_comes_back_is_another_life_and_waits_for_less() {
    // The paper's lease is a process's, and runs out. A machine that has been started again knows
    // that all of its former life is gone, but for others it must not be that life.
    let mut stage = Stage::new(&[setup(1)]);
    let (first, _) = contends(&mut stage, 0, 0);
    stage.finish(first);
    let start = stage.now();
    let again = Claim {
        boot_id: [9; 16],
        ..claim(&stage, 0)
    };
    let (second, said) = contends_as(&mut stage, 0, again, 0);
    stage.finish(second);
    assert_eq!(*said.borrow(), ["joined"]);
    let took = Duration::from_nanos(stage.now() - start).as_secs();
    assert!((3 + 2..8).contains(&took), "{took}");
    assert_eq!(stage.heartbeat(1).generation(), Generation(2));
}
