//! lease-join is ended and started again: in time nothing happens to anybody; too late, everything
//! of the former life is ended before the next one begins.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use support::family::{CONTAINMENTS, Family, PROVING, in_each};
use support::hosts::Host;
use support::process::{Process, SOON, now, runs, together, wait_until};
use support::storage::Storage;

/// W: generous, so that a slow machine is not too late for it.
const WATCHDOG: u64 = 10;

/// Ends a lease-join so that another may go on in its place.
fn end(join: &Process, signal: Signal) {
    join.signal(signal);
    let code = join.finish().code;
    let expected = if signal == Signal::SIGKILL { 137 } else { 0 };
    assert_eq!(code, expected, "{}", join.stderr());
}

fn generation(join: &Process) -> u64 {
    let text = join.stdout();
    let number = text.trim().rsplit(' ').next().unwrap();
    number.parse().unwrap()
}

#[test]
fn started_again_in_time_nobody_notices() {
    let ways = [Signal::SIGKILL, Signal::SIGUSR1];
    let all: Vec<(Signal, &str)> = ways
        .iter()
        .flat_map(|way| CONTAINMENTS.iter().map(|contain| (*way, *contain)))
        .collect();
    together(
        &all,
        |case| format!("{case:?}"),
        |(way, contain)| {
            let storage = Storage::new(1);
            let resource = storage.resource(1);
            let a = Host::new(&storage, 1).promising(WATCHDOG);
            let mut join = a.join();
            let (b, _join_b) = Host::joined(&storage, 2);
            let family = Family::start(&a, contain, &[&resource]);
            let taker = b.start_hold(&["-w", "60", &resource], &["echo", "taken"]);
            taker.wait_for_stderr("trying for");
            // Twice: the second one goes on where the first one did.
            for _ in 0..2 {
                end(&join, *way);
                join = a.join();
                assert_eq!(generation(&join), 1);
                let ran = a.hold(&["-n", &resource], &["true"]);
                assert_eq!(ran.code, 75, "{ran:?}");
                assert!(ran.stderr.contains("held on this host"), "{ran:?}");
                wait_until("lease-hold is back", SOON, || {
                    let back = family.hold.stderr().matches("is back").count();
                    (back > 0).then_some(())
                });
            }
            let start = now();
            while a.wait_for_renewal().since(start) < Duration::from_secs(8 + WATCHDOG) {
                assert!(family.runs(), "{}", family.hold.stderr());
            }
            assert!(taker.code().is_none() && taker.stdout().is_empty());
            assert_eq!(storage.owner(1), (Some(1), 1));
            family.kill_daemon();
            family.hold.signal(Signal::SIGTERM);
            assert_eq!(family.hold.finish().code, 143);
            taker.wait_for_stdout("taken");
        },
    );
}

/// Whoever could end it is killed at once: its lease-hold, and who carries its last deadline.
#[test]
fn what_had_come_back_after_a_restart_is_ended_before_another_host_has_its_lease() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let resource = storage.resource(1);
        let a = Host::new(&storage, 1).promising(WATCHDOG);
        let (b, _join_b) = Host::joined(&storage, 2);
        let join = a.join();
        let family = Family::start(&a, contain, &[&resource]);
        end(&join, Signal::SIGKILL);
        let join = a.join();
        family.hold.wait_for_stderr("is back");
        let taker = b.start_hold(&["-w", "90", &resource], &["echo", "taken"]);
        taker.wait_for_stderr("trying for");
        // Stopped, it does not act on the other's end.
        family.hold.signal(Signal::SIGSTOP);
        let mut carriers = family.hold.children();
        carriers.retain(|child| ![family.command, family.daemon].contains(child));
        assert_eq!(carriers.len(), 1, "{contain}: {carriers:?}");
        kill(Pid::from_raw(carriers[0]), Signal::SIGKILL).unwrap();
        family.hold.kill();
        if contain == "tree" {
            join.wait_for_stderr("may still run, so its leases stay owned");
            assert!(taker.stdout().is_empty(), "{}", taker.stderr());
            assert_eq!(storage.owner(1), (Some(1), 1));
        } else {
            taker.wait_for_stdout("taken");
            assert!(!runs(family.command) && !runs(family.daemon), "{contain}");
        }
    });
}

#[test]
fn rule_17_while_it_is_away_the_disk_says_owned_by_this_host_and_nobody_falls_for_that() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let join = a.join();
    let family = Family::start(&a, "cgroup", &[&resource]);
    // The holder cannot say that it is still there.
    family.hold.signal(Signal::SIGSTOP);
    end(&join, Signal::SIGKILL);
    let ran = a.hold(&["-n", &resource], &["true"]);
    assert_eq!(ran.code, 69, "{ran:?}");
    let join = a.join();
    assert_eq!(generation(&join), 1);
    for args in [&["-n"][..], &["-w", "1"]] {
        let args: Vec<&str> = args.iter().copied().chain([resource.as_str()]).collect();
        let ran = a.hold(&args, &["true"]);
        assert_eq!(ran.code, 75, "{ran:?}");
        assert!(ran.stderr.contains("held on this host"), "{ran:?}");
    }
    family.hold.signal(Signal::SIGCONT);
    family.hold.wait_for_stderr("is back");
    assert!(family.runs());
}

#[test]
fn started_again_too_late_the_former_tree_is_ended_first() {
    in_each(&PROVING, |contain| {
        let storage = Storage::new(2);
        let a = Host::new(&storage, 1).promising(4);
        let join = a.join();
        let killed = Family::start(&a, contain, &[&storage.resource(1)]);
        let stopped = Family::start(&a, contain, &[&storage.resource(2)]);
        a.wait_for_renewal();
        end(&join, Signal::SIGKILL);
        let renewed = a.renewed();
        // One of the two holders cannot do it by itself.
        stopped.hold.signal(Signal::SIGSTOP);
        wait_until("the loss", SOON, || {
            (now().since(renewed) > Duration::from_millis(8200)).then_some(())
        });
        let join = a.start_join();
        wait_until(
            "it joins or something dies",
            Duration::from_secs(60),
            || {
                assert_eq!(join.code(), None, "{}", join.stderr());
                let joined = !join.stdout().is_empty();
                assert!(
                    !joined || !(killed.runs() || stopped.runs()),
                    "joined too early"
                );
                joined.then_some(())
            },
        );
        for family in [&killed, &stopped] {
            family.assert_no_trace();
        }
        assert_eq!(generation(&join), 2);
        let ran = killed.hold.finish();
        // Whoever was first to end it: lease-hold itself, or lease-join.
        assert!([124, 137].contains(&ran.code), "{ran:?}");
        assert_eq!(stopped.hold.finish().code, 137);
        let ran = a.start_hold(&["-w", "60", &storage.resource(1)], &["true"]);
        assert_eq!(ran.finish_within(Duration::from_secs(60)).code, 0);
    });
}

/// Waits until a join has written its heartbeat, and is waiting to see whether anybody else does.
fn wait_for_attempt(host: &Host, generation: u64, completed: u64) {
    wait_until("the join's write", SOON, || {
        let life = host.kept_life()?;
        assert!(life["completed"] == completed, "{life}");
        let written = life["generation"] == generation && life["unsure"] == serde_json::json!([]);
        written.then_some(())
    });
}

#[test]
fn what_was_killed_before_it_had_joined_is_not_gone_on_with() {
    let storage = Storage::new(0);
    let a = Host::new(&storage, 1);
    let join = a.start_join();
    wait_for_attempt(&a, 1, 0);
    assert_eq!(storage.heartbeat(1).generation().0, 1);
    end(&join, Signal::SIGKILL);
    // Somebody else may have seen the record free, and be about to write it.
    let again = a.join();
    let said = again.stderr();
    assert!(said.contains("watching for up to 10 s"), "{said}");
    // In between others may have joined, more than once.
    assert_eq!(generation(&again), 1002);
}

#[test]
fn rule_11_what_was_killed_before_it_had_joined_again_is_not_gone_on_with() {
    let storage = Storage::new(0);
    let a = Host::new(&storage, 1);
    let join = a.join();
    end(&join, Signal::SIGKILL);
    let renewed = a.renewed();
    wait_until("the loss", SOON, || {
        (now().since(renewed) > Duration::from_millis(8200)).then_some(())
    });
    let second = a.start_join();
    wait_for_attempt(&a, 2, 1);
    end(&second, Signal::SIGKILL);
    assert_eq!(generation(&a.join()), 1003);
}

#[test]
fn rule_11_under_another_host_id_it_first_ends_what_was_guarded() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let join = a.join();
    let family = Family::start(&a, "cgroup", &[&storage.resource(1)]);
    family.hold.signal(Signal::SIGSTOP);
    end(&join, Signal::SIGKILL);
    let renewed = a.renewed();
    let other = Host::new(&storage, 2).in_place_of(&a);
    // As long as it can be kept it is not ended by a wrong number.
    let ran = other.start_join().finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("runs there under host id 1"), "{ran:?}");
    assert!(family.runs());
    wait_until("the loss", SOON, || {
        (now().since(renewed) > Duration::from_millis(8200)).then_some(())
    });
    let join = other.join();
    assert!(!family.runs(), "{}", join.stderr());
    assert!(join.stderr().contains("is over; ending lease-hold"));
    assert_eq!(family.hold.finish().code, 137);
    family.assert_no_trace();
}

#[test]
fn with_another_name_or_time_it_ends_nothing_that_can_be_kept_and_says_what_has_changed() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let join = a.join();
    let family = Family::start(&a, "cgroup", &[&storage.resource(1)]);
    end(&join, Signal::SIGUSR1);
    let again = || Host::new(&storage, 1).in_place_of(&a).promising(WATCHDOG);
    let mut with_device = a.join_command();
    with_device.args(["--watchdog", "/dev/null"]);
    for (mut command, said) in [
        (
            again().called("other").join_command(),
            "host name (-e) host1, and this would be other",
        ),
        (
            again().promising(2).join_command(),
            "--watchdog-timeout 10, and this would be 2",
        ),
        (
            again().with_io_timeout(3).join_command(),
            "io_timeout (-o) 1, and this would be 3",
        ),
        (with_device, "--watchdog none, and this would be /dev/null"),
    ] {
        let ran = Process::start(&mut command).finish();
        assert_eq!(ran.code, 75, "{ran:?}");
        assert!(ran.stderr.contains(said), "{ran:?}");
        assert!(ran.stderr.contains("lease-hold pid"), "{ran:?}");
    }
    assert!(family.runs());
    let join = a.join();
    assert_eq!(generation(&join), 1);
    family.hold.wait_for_stderr("is back");
    assert!(family.runs());
}

#[test]
fn with_another_name_it_goes_on_where_nothing_is_held() {
    let storage = Storage::new(0);
    let a = Host::new(&storage, 1);
    end(&a.join(), Signal::SIGUSR1);
    let other = Host::new(&storage, 1).in_place_of(&a).promising(3);
    let join = other.start_join();
    join.wait_for_stderr("watching");
    assert_eq!(join.code(), None);
}

#[test]
fn a_file_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let join = a.join();
    let family = Family::start(&a, "cgroup", &[&storage.resource(1)]);
    end(&join, Signal::SIGKILL);
    for file in ["state", "heartbeat"] {
        let path = a.run_dir.join("LS").join(file);
        let kept = std::fs::read(&path).unwrap();
        std::fs::write(&path, "{}").unwrap();
        let ran = a.start_join().finish();
        assert_eq!(ran.code, 75, "{file}: {ran:?}");
        let said = format!(
            "cannot join: {}, which an earlier lease-join has left, cannot be read (it is damaged), \
             and what that one guarded may still run; end what runs, remove this file, and start \
             again",
            path.display()
        );
        assert!(ran.stderr.contains(&said), "{ran:?}");
        std::fs::write(&path, kept).unwrap();
    }
    let _join = a.join();
    family.hold.wait_for_stderr("is back");
    assert!(family.runs());
}

#[test]
fn rule_13_from_another_pid_namespace_nothing_of_the_former_life_is_taken_for_gone() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let join = a.join();
    let family = Family::start(&a, "pidns", &[&storage.resource(1)]);
    end(&join, Signal::SIGKILL);
    let before = storage.area(0);
    let inner = a.join_command();
    let mut elsewhere = std::process::Command::new("unshare");
    elsewhere.args(["--pid", "--fork", "--mount-proc"]);
    elsewhere.arg(inner.get_program()).args(inner.get_args());
    let ran = Process::start(&mut elsewhere).finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(
        ran.stderr.contains("was in another PID namespace"),
        "{ran:?}"
    );
    assert!(storage.area(0) == before && family.runs());
    let _join = a.join();
    family.hold.wait_for_stderr("is back");
    assert!(family.runs());
}

#[test]
fn a_lease_hold_that_was_killed_meanwhile_is_cleared_after() {
    in_each(&PROVING, |contain| {
        let storage = Storage::new(1);
        let resource = storage.resource(1);
        let a = Host::new(&storage, 1).promising(WATCHDOG);
        let join = a.join();
        let (b, _join_b) = Host::joined(&storage, 2);
        let family = Family::start(&a, contain, &[&resource]);
        end(&join, Signal::SIGKILL);
        family.hold.kill();
        assert_eq!(b.hold(&["-n", &resource], &["true"]).code, 75);
        let join = a.join();
        assert_eq!(generation(&join), 1);
        join.wait_for_stderr("its leases are free");
        family.wait_for_end(SOON);
        family.assert_no_trace();
        let ran = b.hold(&["-w", "30", &resource], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    });
}

#[test]
fn what_is_given_back_while_it_is_away_is_free_once_it_is_back() {
    let modes = ["", ":SH"];
    let all: Vec<(&str, &str)> = CONTAINMENTS
        .iter()
        .flat_map(|contain| modes.map(|mode| (*contain, mode)))
        .collect();
    together(
        &all,
        |case| format!("{case:?}"),
        |(contain, mode)| {
            let storage = Storage::new(1);
            let resource = format!("{}{mode}", storage.resource(1));
            let a = Host::new(&storage, 1).promising(WATCHDOG);
            let join = a.join();
            let args = ["--contain", contain, &resource];
            let mut command = a.hold_command(&args, &["sh", "-c", "echo held; read -r x; exit 7"]);
            let mut hold = Process::start_with(&mut command, std::process::Stdio::piped());
            hold.wait_for_stdout("held");
            end(&join, Signal::SIGUSR1);
            hold.say("go on\n");
            let ran = hold.finish();
            assert_eq!(ran.code, 7, "{ran:?}");
            let join = a.join();
            assert_eq!(generation(&join), 1);
            wait_until("it is free", SOON, || {
                let free = storage.owner(1).0.is_none() && storage.sharers(1, 1).is_empty();
                free.then_some(())
            });
            let ran = a.hold(&["-w", "30", &storage.resource(1)], &["true"]);
            assert_eq!(ran.code, 0, "{ran:?}");
            join.signal(Signal::SIGTERM);
            assert_eq!(join.finish().code, 0, "{}", join.stderr());
        },
    );
}

#[test]
fn what_it_is_not_to_hear_of_does_not_make_it_leave() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let tool = a.join_command();
    let words = std::iter::once(tool.get_program()).chain(tool.get_args());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP INT; exec \"$@\"", "sh"]);
    let join = Process::start(shell.args(words));
    join.wait_for_stdout("joined");
    join.signal(Signal::SIGHUP);
    join.signal(Signal::SIGINT);
    a.wait_for_renewal();
    assert_eq!(a.describe()["state"], "serving");
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
}

#[test]
fn a_lease_hold_in_the_middle_of_everything_lives_through_restarts() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let a = Host::new(&storage, 1).promising(WATCHDOG);
    let mut join = a.join();
    // Acquires, runs and releases, again and again, while lease-join comes and goes.
    let tool = a.hold_command(&["-w", "30", &resource], &["true"]);
    let words = std::iter::once(tool.get_program()).chain(tool.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    // 69: it came just when there was no lease-join.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do {}; \
         case $? in 0|69) ;; *) echo failed $?; exit 1;; esac; done",
        words.join(" ")
    );
    let mut shell = std::process::Command::new("sh");
    let shell = Process::start(shell.args(["-c", &script]));
    let mut restarts = 0_u64;
    while shell.code().is_none() {
        std::thread::sleep(Duration::from_millis(40 + 13 * (restarts % 7)));
        end(&join, Signal::SIGKILL);
        join = a.join();
        assert_eq!(generation(&join), 1);
        restarts += 1;
    }
    let ran = shell.finish();
    println!("{restarts} restarts; lver {}", storage.owner(1).1);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = a.hold(&["-w", "30", &resource], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(storage.owner(1).0, None);
}

/// What an admin does when a lease stays owned: ends what is left, ends lease-join, removes its
/// state file, and starts it again when it pleases.
#[test]
fn without_its_state_file_a_former_life_is_over_and_its_leases_are_free() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let a = Host::new(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let join = a.join();
    let args = ["--contain", "tree", &resource];
    let hold = a.start_hold(&args, &["sh", "-c", "echo held; exec sleep 1"]);
    hold.wait_for_stdout("held");
    end(&hold, Signal::SIGKILL);
    join.wait_for_stderr("its leases stay owned by this host");
    assert_eq!(b.hold(&["-n", &resource], &["true"]).code, 75);
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 75);
    std::fs::remove_file(a.run_dir.join("LS/state")).unwrap();
    let join = a.join();
    assert_eq!(generation(&join), 2, "{}", join.stderr());
    let ran = b.hold(&["-n", &resource], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
