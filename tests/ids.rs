//! lease-join with a host id that it takes by itself. Machines are directories here: what one
//! remembers is in its state directory, and what ends with a boot in its run directory.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::{Generation, Name};
use lease_core::layout::Geometry;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::HostNote;
use lease_core::registry::place::{Kept, Place};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::files::{Small, bytes};
use support::hosts::Host;
use support::process::{Process, SOON, together, wait_until};
use support::sanlock::Daemon;
use support::storage::{Storage, host_id};

/// A machine with a run directory and a state directory of its own.
struct Machine {
    host: Host,
    state_dir: PathBuf,
}

impl Machine {
    fn new(storage: &Storage, number: u64) -> Self {
        let host = Host::new(storage, number);
        let state_dir = storage.path().join(format!("state{number}"));
        Self { host, state_dir }
    }

    /// A copy of another, as that is now: of all but what ends with a boot.
    fn copy_of(other: &Self, storage: &Storage, number: u64) -> Self {
        let copy = Self::new(storage, number);
        std::fs::create_dir_all(copy.state_dir.join("LS")).unwrap();
        for name in ["host-id", "host-id.new"] {
            let from = other.state_dir.join("LS").join(name);
            if from.exists() {
                std::fs::copy(from, copy.state_dir.join("LS").join(name)).unwrap();
            }
        }
        copy
    }

    fn command(&self, storage: &Storage) -> Command {
        let mut command = self.host.tool("lease-join");
        let lockspace = storage.lockspace(0).replacen(":0:", ":auto:", 1);
        command.arg("--state-dir").arg(&self.state_dir);
        command.args(["--watchdog-timeout", "2", &lockspace]);
        command
    }

    fn start(&self, storage: &Storage) -> Process {
        Process::start(&mut self.command(storage))
    }

    /// Its lease-join, and the host id that it has joined with.
    fn join(&self, storage: &Storage) -> (Process, u64) {
        let process = self.start(storage);
        process.wait_for_stdout("joined");
        let host = host_of(&process);
        (process, host)
    }

    /// Only what outlives a boot is left.
    fn reboots(&self) {
        std::fs::remove_dir_all(&self.host.run_dir).unwrap();
    }

    fn memory(&self) -> Place {
        Place::open(&self.state_dir, &Name::new(b"LS").unwrap()).unwrap()
    }
}

#[test]
fn host_ids_of_the_real_daemon_are_left_alone_whether_it_lives_has_died_or_has_left() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let daemon = Daemon::joined(&storage, 1);
    let left = Daemon::joined(&storage, 2);
    left.client(&["rem_lockspace", "-s", &storage.lockspace(2)]);
    wait_until("host id 2 is free", SOON, || {
        storage.heartbeat(2).is_free().then_some(())
    });
    let process = daemon.register();
    let machine = Machine::new(&storage, 3);
    let (join, host) = machine.join(&storage);
    // 2 is free, but whoever was given that by number may come back.
    assert_eq!(host, 3);
    wait_until("the daemon sees us", SOON, || {
        (daemon.opinion(3) == "LIVE").then_some(())
    });
    let hold = machine.host.holding(&[&resource]);
    assert_eq!(storage.owner(1), (Some(3), 1));
    assert_ne!(daemon.acquire(&resource, &process), 0);
    hold.signal(Signal::SIGTERM);
    hold.finish();
    leaves(&join);
    // The daemon dies: nobody can tell that from its being away.
    drop(daemon);
    let dead = storage.heartbeat(1);
    assert!(!dead.is_free());
    let (_second, host) = machine.join(&storage);
    let (_third, other) = Machine::new(&storage, 4).join(&storage);
    assert_eq!((host, other), (3, 4));
    assert_eq!(storage.heartbeat(1), dead);
}

/// The host id of a line such as `joined LS:3:/path:0 generation 1`.
fn host_of(join: &Process) -> u64 {
    let line = join.stdout();
    line.split(':').nth(1).unwrap().parse().unwrap()
}

fn leaves(join: &Process) {
    join.signal(Signal::SIGTERM);
    let ran = join.finish();
    assert_eq!(ran.code, 0, "{ran:?}");
}

fn refused(storage: &Storage, machine: &Machine, code: i32, parts: &[&str]) {
    let before = bytes(storage.file());
    let ran = machine.start(storage).finish();
    assert_eq!(ran.code, code, "{ran:?}");
    let said = ran.stderr.lines().last().unwrap();
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {ran:?}");
    }
    assert!(bytes(storage.file()) == before, "something was written");
}

#[test]
fn a_machine_has_the_same_host_id_after_a_leave_a_crash_and_a_loss_of_power() {
    let storage = Storage::new(1);
    let (other, machine) = (Machine::new(&storage, 1), Machine::new(&storage, 2));
    let (join, host) = other.join(&storage);
    assert_eq!(host, 1);
    let (second, host) = machine.join(&storage);
    assert_eq!(host, 2);
    assert!(second.stderr().contains("LS:2:"), "{}", second.stderr());
    leaves(&join);
    leaves(&second);
    // The lower one is free as well, by now.
    let (join, host) = machine.join(&storage);
    assert_eq!(
        (host, storage.heartbeat(2).generation()),
        (2, Generation(2))
    );
    let hold = machine.host.holding(&[&storage.resource(1)]);
    assert_eq!(storage.owner(1), (Some(2), 1));
    join.kill();
    let (join, host) = machine.join(&storage);
    assert_eq!(
        (host, storage.heartbeat(2).generation()),
        (2, Generation(2))
    );
    assert_eq!(hold.code(), None, "what it guards has not noticed");
    join.kill();
    hold.kill();
    machine.reboots();
    let (join, host) = machine.join(&storage);
    assert_eq!(host, 2);
    assert!(storage.heartbeat(2).generation() > Generation(2));
    assert!(
        join.stderr().contains("watching for up to 10 s"),
        "{}",
        join.stderr()
    );
}

#[test]
fn a_copy_of_a_machine_that_runs_takes_another_host_id_and_nobody_notices() {
    let storage = Storage::new(1);
    let machine = Machine::new(&storage, 1);
    let (join, host) = machine.join(&storage);
    let hold = machine.host.holding(&[&storage.resource(1)]);
    let copy = Machine::copy_of(&machine, &storage, 2);
    let (second, of_copy) = copy.join(&storage);
    assert_eq!((host, of_copy), (1, 2));
    let said = second.stderr();
    assert!(
        said.contains("in use by") && said.contains("taking another host id"),
        "{said}"
    );
    machine.host.wait_for_renewal();
    assert_eq!((join.code(), hold.code()), (None, None));
    // From now on it remembers its own.
    leaves(&second);
    assert_eq!(copy.join(&storage).1, 2);
}

#[test]
fn a_copy_that_starts_while_the_machine_is_down_leaves_it_to_take_another() {
    let storage = Storage::new(0);
    let machine = Machine::new(&storage, 1);
    let (join, _) = machine.join(&storage);
    leaves(&join);
    let copy = Machine::copy_of(&machine, &storage, 2);
    let (first, of_copy) = copy.join(&storage);
    // Also once it has left: what stands there is not what the machine remembers.
    leaves(&first);
    let (second, host) = machine.join(&storage);
    let (third, again) = copy.join(&storage);
    assert_eq!((of_copy, host, again), (1, 2, 1));
    assert_eq!((second.code(), third.code()), (None, None));
}

#[test]
fn machines_that_start_at_once_have_one_each() {
    let storage = Storage::new(0);
    let machines: Vec<_> = (1..=4)
        .map(|number| Machine::new(&storage, number))
        .collect();
    let joins: Vec<_> = machines
        .iter()
        .map(|machine| machine.start(&storage))
        .collect();
    joins.iter().for_each(|join| join.wait_for_stdout("joined"));
    let mut hosts: Vec<_> = joins.iter().map(host_of).collect();
    hosts.sort_unstable();
    assert!(hosts.windows(2).all(|pair| pair[0] != pair[1]), "{hosts:?}");
    machines
        .iter()
        .for_each(|machine| _ = machine.host.wait_for_renewal());
    assert!(joins.iter().all(|join| join.code().is_none()));
}

#[test]
fn what_another_machine_remembers_is_not_this_one_s() {
    let storage = Storage::new(0);
    let machine = Machine::new(&storage, 1);
    let (join, _) = machine.join(&storage);
    leaves(&join);
    let mut memory: serde_json::Value = machine.memory().parsed(Kept::HostId).unwrap().unwrap();
    memory["machine"]["system"] = "of another".into();
    let text = memory.to_string();
    machine
        .memory()
        .write_for_good(Kept::HostId, text.as_bytes())
        .unwrap();
    let (join, host) = machine.join(&storage);
    assert_eq!(host, 2, "the other may come back");
    let said = join.stderr();
    assert!(
        said.contains("host id 1 is what another machine remembers"),
        "{said}"
    );
}

#[test]
fn a_host_id_that_cannot_be_remembered_is_not_taken() {
    let cases: Vec<(&str, Box<dyn Fn(&Storage) + Sync>)> = vec![
        ("damaged", Box::new(damaged)),
        ("in the way", Box::new(in_the_way)),
        ("full", Box::new(full)),
        ("served", Box::new(served)),
    ];
    together(
        &cases,
        |(story, _)| (*story).into(),
        |(_, play)| play(&Storage::new(0)),
    );
}

fn damaged(storage: &Storage) {
    let machine = Machine::new(storage, 1);
    let (join, _) = machine.join(storage);
    leaves(&join);
    let file = machine.state_dir.join("LS/host-id");
    std::fs::write(&file, "{\"host\":1}").unwrap();
    let parts = [
        "host-id, where the host id of this machine is remembered: it is damaged",
        "remove it",
    ];
    refused(storage, &machine, 65, &parts);
    assert_eq!(bytes(&file), b"{\"host\":1}", "it is the admin's to remove");
    std::fs::remove_file(&file).unwrap();
    // Nobody has it, but somebody had.
    assert_eq!(machine.join(storage).1, 2);
}

fn in_the_way(storage: &Storage) {
    let machine = Machine::new(storage, 1);
    std::fs::write(&machine.state_dir, "a file").unwrap();
    refused(storage, &machine, 73, &["state directory", "File exists"]);
}

fn full(storage: &Storage) {
    let small = Small::new();
    let mut machine = Machine::new(storage, 1);
    machine.state_dir = small.path().join("state");
    let (join, _) = machine.join(storage);
    leaves(&join);
    small.fill();
    // There is room for what was remembered before.
    let (join, host) = machine.join(storage);
    assert_eq!(host, 1);
    leaves(&join);
    std::fs::remove_dir_all(machine.state_dir.join("LS")).unwrap();
    let more = std::fs::write(small.path().join("more"), [0; 64 << 10]);
    assert!(more.is_err(), "it is full");
    let parts = [
        "cannot remember host id 2 in",
        "No space left",
        "is not taken",
    ];
    refused(storage, &machine, 73, &parts);
}

fn served(storage: &Storage) {
    let machine = Machine::new(storage, 1);
    let (_join, _) = machine.join(storage);
    let mut other = Machine::new(storage, 2);
    other.state_dir.clone_from(&machine.state_dir);
    let ran = other.start(storage).finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("--state-dir of its own"), "{ran:?}");
}

#[test]
fn where_every_host_id_is_somebody_s_none_is_taken() {
    let geometry = Geometry::ALL[1];
    let storage = Storage::of(geometry, 0);
    let hosts = geometry.max_hosts();
    for number in 1..=hosts {
        storage.put_heartbeat(number, &held(geometry, number));
    }
    let machine = Machine::new(&storage, 1);
    let parts = [
        "LS:auto:",
        "none of its host ids is free",
        "is gone for good",
    ];
    refused(&storage, &machine, 75, &parts);
    assert!(!Path::new(&machine.state_dir.join("LS/host-id")).exists());
    // One is left.
    let left = held(geometry, 77).stamped(0);
    storage.put_heartbeat(77, &left);
    let (_join, host) = machine.join(&storage);
    assert_eq!(
        (host, storage.heartbeat(77).generation()),
        (77, Generation(2))
    );
}

fn held(geometry: Geometry, number: u64) -> Heartbeat {
    let note = HostNote {
        watchdog: 2,
        host: host_id(number),
        generation: Generation(1),
        boot_id: [9; 16],
        former_over: 1,
    };
    let name = |text: &str| Name::new(text.as_bytes()).unwrap();
    let free = Heartbeat::new(geometry, &name("LS"), 1);
    free.joined(&name(&format!("host {number}")), 77, 1, note)
}
