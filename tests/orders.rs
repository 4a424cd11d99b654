//! Leases change while what is guarded runs on: by orders, which are carried out once, whoever is
//! killed, restarted or goes away meanwhile.
#![allow(clippy::unwrap_used, clippy::panic)]

use nix::sys::signal::Signal;
use std::process::Command;
use support::files::Ran;
use support::hosts::Host;
use support::process::{Process, SOON, runs, wait_until};
use support::storage::Storage;

/// An order to who guards a process, on its way.
fn start_order(host: &Host, to: i32, words: &[&str]) -> Process {
    let to = to.to_string();
    Process::start(host.tool("lease-hold").args(["--to", &to]).args(words))
}

/// An order, carried out.
fn order(host: &Host, to: i32, words: &[&str]) -> Ran {
    start_order(host, to, words).finish()
}

fn done(ran: &Ran) {
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
}

fn refused(ran: &Ran, code: i32, part: &str) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert!(ran.stderr.contains(part), "{part:?}: {ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
}

/// The leases of a lease-hold, by the names of their resources.
fn leases(host: &Host, hold: i32) -> Vec<String> {
    let told = host.describe();
    let holders = told["holders"].as_array().unwrap().iter();
    let its = holders.filter(|holder| holder["pid"] == hold);
    let claims = its.flat_map(|holder| holder["resources"].as_array().unwrap());
    let held = claims.filter(|claim| claim["phase"]["held"].is_u64());
    held.map(|claim| claim["resource"].as_str().unwrap().to_owned())
        .collect()
}

/// A process that is adopted, without any lease; and its lease-hold.
fn guarded(host: &Host) -> (Process, Process) {
    let process = Process::start(Command::new("sleep").arg("1000"));
    let pid = process.pid().to_string();
    let hold = Process::start(host.tool("lease-hold").args(["--pid", &pid]));
    wait_until("it is guarded", SOON, || {
        let told = host.describe();
        let mut holders = told["holders"].as_array().unwrap().iter();
        holders.find(|holder| holder["guarded"] == process.pid())?;
        Some(())
    });
    (process, hold)
}

fn is_free(host: &Host, resource: &str) -> bool {
    host.hold(&["-n", resource], &["true"]).code == 0
}

#[test]
fn leases_come_and_go_under_a_command_and_under_a_process() {
    let storage = Storage::new(3);
    let (a, _join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let r = [1, 2, 3].map(|n| storage.resource(n));
    let command = a.holding(&[&r[0]]);
    let started = wait_until("the command", SOON, || command.child());
    // By the number of the command, and of its lease-hold.
    done(&order(&a, started, &["--acquire", &r[1]]));
    assert_eq!(leases(&a, command.pid()), ["R1", "R2"]);
    done(&order(&a, command.pid(), &["--release", "LS:R1"]));
    assert_eq!(leases(&a, command.pid()), ["R2"]);
    assert!(is_free(&b, &r[0]) && !is_free(&b, &r[1]));
    let (process, hold) = guarded(&a);
    done(&order(&a, process.pid(), &["--acquire", &r[0], &r[2]]));
    done(&order(&a, process.pid(), &["--release", &r[0], "LS:R3"]));
    assert_eq!(leases(&a, hold.pid()), [""; 0]);
    // All or none.
    let both = order(&a, process.pid(), &["--acquire", &r[0], &r[1]]);
    refused(&both, 75, "held on this host by lease-hold");
    assert!(both.stderr.contains("[-17]"));
    assert_eq!(leases(&a, hold.pid()), [""; 0]);
    let own = order(&a, process.pid(), &["-E", "9", "--acquire", &r[1]]);
    assert_eq!(own.code, 9, "{own:?}");
    // What ends has given up what it was given by orders too.
    done(&order(&a, process.pid(), &["--acquire", &r[0]]));
    process.kill();
    assert_eq!(hold.finish().code, 0);
    command.signal(Signal::SIGTERM);
    command.finish();
    assert!(r.iter().all(|resource| is_free(&b, resource)));
}

#[test]
fn an_order_for_nobody_or_of_nothing_is_refused_in_one_line() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let r = [1, 2].map(|n| storage.resource(n));
    let (process, _hold) = guarded(&a);
    let pid = process.pid();
    refused(
        &order(&a, 1, &["--acquire", &r[0]]),
        69,
        "guards process 1;",
    );
    refused(&order(&a, pid, &["--release", "LS:R1"]), 66, "[-1]");
    refused(&order(&a, pid, &["--release", "LS"]), 64, "1 fields");
    refused(&order(&a, pid, &["--acquire", "LS:R1"]), 64, "2 fields");
    refused(&order(&a, pid, &["--acquire"]), 64, "required");
    refused(&order(&a, pid, &[&r[0]]), 64, "--acquire");
    refused(
        &order(&a, pid, &["--acquire", "--release", &r[0]]),
        64,
        "--release",
    );
    let absent = "LX:R1:/tmp/x:0";
    refused(
        &order(&a, pid, &["--acquire", absent]),
        69,
        "no live lease-join",
    );
    let nowhere = format!("{}x", r[0].split(':').take(3).collect::<Vec<_>>().join(":")) + ":0";
    refused(
        &order(&a, pid, &["--acquire", &nowhere]),
        66,
        "No such file",
    );
    done(&order(&a, pid, &["--acquire", &r[0]]));
    refused(
        &order(&a, pid, &["--acquire", &r[0]]),
        75,
        "holds it already",
    );
    let twice = order(&a, pid, &["--acquire", &r[1], &r[1]]);
    refused(&twice, 64, "the same resource");
    let both = order(&a, pid, &["--release", "LS:R1", "LS:R2"]);
    refused(&both, 66, "LS:R2");
    assert_eq!(leases(&a, _hold.pid()), ["R1"]);
    // A second one who guards it: by its own number only.
    let args = ["--pid", &pid.to_string(), &r[1]];
    let second = Process::start(a.tool("lease-hold").args(args));
    wait_until("a second guard", SOON, || {
        (leases(&a, second.pid()) == ["R2"]).then_some(())
    });
    let unclear = order(&a, pid, &["--release", "LS:R2"]);
    refused(&unclear, 64, "several lease-holds");
    done(&order(&a, second.pid(), &["--release", "LS:R2"]));
}

#[test]
fn one_order_at_a_time_and_who_goes_away_withdraws_it() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let r = [1, 2].map(|n| storage.resource(n));
    let (process, hold) = guarded(&a);
    let other = a.holding(&[&r[0]]);
    let waits = start_order(&a, process.pid(), &["-w", "1000", "--acquire", &r[0]]);
    hold.wait_for_stderr("trying for");
    refused(
        &order(&a, process.pid(), &["--acquire", &r[1]]),
        75,
        "another order",
    );
    waits.kill();
    wait_until("it is withdrawn", SOON, || {
        (order(&a, process.pid(), &["--acquire", &r[1]]).code == 0).then_some(())
    });
    other.signal(Signal::SIGTERM);
    other.finish();
    assert_eq!(leases(&a, hold.pid()), ["R2"]);
    assert!(is_free(&a, &r[0]) && runs(process.pid()));
}

#[test]
fn an_order_outlives_a_restart_of_lease_join() {
    let storage = Storage::new(2);
    let (a, mut join) = Host::joined(&storage, 1);
    let r = [1, 2].map(|n| storage.resource(n));
    let (process, hold) = guarded(&a);
    let other = a.holding(&[&r[0]]);
    let waits = start_order(&a, process.pid(), &["-w", "1000", "--acquire", &r[0]]);
    hold.wait_for_stderr("trying for");
    for restarts in 1..=2 {
        join.kill();
        join = a.join();
        wait_until("all are back", SOON, || {
            let back = [&hold, &other].map(|one| one.stderr().matches("is back").count());
            (back == [restarts; 2]).then_some(())
        });
    }
    other.signal(Signal::SIGTERM);
    done(&waits.finish());
    assert_eq!(leases(&a, hold.pid()), ["R1"]);
    done(&order(&a, process.pid(), &["--release", "LS:R1"]));
    assert!(is_free(&a, &r[0]) && runs(process.pid()));
    drop(join);
}

#[test]
fn what_holds_nothing_is_not_ended_when_its_host_leaves() {
    let storage = Storage::new(1);
    let (a, join) = Host::joined(&storage, 1);
    let (process, hold) = guarded(&a);
    let resource = storage.resource(1);
    done(&order(&a, process.pid(), &["--acquire", &resource]));
    done(&order(&a, process.pid(), &["--release", "LS:R1"]));
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0, "{}", join.stderr());
    assert!(runs(process.pid()) && hold.code().is_none());
    process.kill();
    assert_eq!(hold.finish().code, 0);
}

#[test]
fn who_has_released_one_of_its_leases_is_guarded_for_the_other() {
    let storage = Storage::new(2);
    let (a, mut join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let r = [1, 2].map(|n| storage.resource(n));
    for restarted in [false, true] {
        let (process, hold) = guarded(&a);
        done(&order(&a, process.pid(), &["--acquire", &r[0], &r[1]]));
        done(&order(&a, process.pid(), &["--release", "LS:R1"]));
        if restarted {
            join.kill();
            join = a.join();
            hold.wait_for_stderr("is back");
            // What it has released it can have again.
            done(&order(&a, process.pid(), &["--acquire", &r[0]]));
            done(&order(&a, process.pid(), &["--release", "LS:R1"]));
        }
        // It would not end by itself.
        process.signal(Signal::SIGSTOP);
        hold.kill();
        let ran = b.hold(&["-w", "9", &r[1]], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!runs(process.pid()), "{restarted}");
        assert!(is_free(&a, &r[0]), "{restarted}");
    }
}
