//! The guard around a command: what it starts is held together and ended as a whole, whoever of
//! lease-hold, lease-join and the command is killed or stopped. t = 1 and, where time matters,
//! W = 10: lost 8 s after the last renewal, everything dead by 18 s.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use lease_core::clock::Moment;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::time::Duration;
use support::family::{CONTAINMENTS, Family, OWN_PID, PROVING, assert_no_control_group, in_each};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, SOON, now, runs, state, together, wait_for_end, wait_until};
use support::storage::Storage;

/// W where time matters.
const WATCHDOG: u64 = 10;
/// The lease is lost so many seconds after the last renewal.
const LOST_AFTER: f64 = 8.0;
/// And everything is dead.
const DEAD_AFTER: f64 = 18.0;

fn host(storage: &Storage, id: u64) -> Host {
    Host::new(storage, id).promising(WATCHDOG)
}

/// Seconds from one moment to another.
fn seconds(from: Moment, to: Moment) -> f64 {
    to.since(from).as_secs_f64()
}

/// It ended after the lease was lost, and before another host may take over.
fn assert_in_time(what: &str, renewed: Moment, ended: Moment) {
    let age = seconds(renewed, ended);
    println!("{what}: ended {age:.1} s after the last renewal");
    assert!((LOST_AFTER..DEAD_AFTER).contains(&age), "{what}: {age} s");
}

/// Waits until another host can have the resource at once.
fn wait_until_free(other: &Host, resource: &str) {
    let ran = other.hold(&["-w", "30", resource], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

// ---- lease-hold is killed

#[test]
fn a_killed_lease_hold_takes_all_along_and_its_lease_is_free_in_seconds() {
    let storage = Storage::new(3);
    let a = Host::new(&storage, 1).promising(20);
    let join = a.join();
    let (b, _join_b) = Host::joined(&storage, 2);
    together(
        &[1, 2],
        |n| PROVING[n - 1].to_owned(),
        |n| {
            let resource = storage.resource(*n as u64);
            let family = Family::start(&a, PROVING[n - 1], &[&resource]);
            let third = third_of(&family.hold);
            let killed = now();
            family.hold.kill();
            family.wait_for_end(SOON);
            if let Some(third) = third {
                wait_for_end(third, SOON);
            }
            wait_until_free(&b, &resource);
            let took = seconds(killed, now());
            // A dead host's lease would be free after 28 s.
            assert!(took < 20.0, "free only after {took} s");
            family.assert_no_trace();
        },
    );
    assert_eq!(join.stderr().matches("its leases are free").count(), 2);
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_behind() {
    const MOMENTS: u64 = 24;
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(MOMENTS + 1);
        let (a, join) = Host::joined(&storage, 1);
        let (b, _join_b) = Host::joined(&storage, 2);
        let script = format!("{OWN_PID}; echo $pid; setsid sleep 1000 & exec sleep 1000");
        let mut unproven = 0;
        let mut pids = Vec::new();
        for moment in 1..=MOMENTS {
            let resource = storage.resource(moment);
            let hold = a.start_hold(&["--contain", contain, &resource], &["sh", "-c", &script]);
            std::thread::sleep(Duration::from_millis(5 * moment));
            hold.kill();
            wait_until("the registry's word", SOON, || {
                (!known(&a, &hold)).then_some(())
            });
            if let Ok(pid) = hold.stdout().trim().parse() {
                wait_for_end(pid, SOON);
            }
            pids.push(hold.pid());
            match left_unproven(&join, &hold) {
                true => {
                    assert_eq!(contain, "tree");
                    let ran = a.hold(&["-n", &resource], &["true"]);
                    assert_eq!(ran.code, 75, "{ran:?}");
                    let part = "left on this host by lease-hold pid";
                    assert!(ran.stderr.contains(part), "{ran:?}");
                    unproven += 1;
                }
                false => wait_until_free(&b, &resource),
            }
        }
        println!("{contain}: {unproven} of {MOMENTS} not proven gone");
        assert_tidy(&a, &storage.resource(MOMENTS + 1), &pids);
    });
}

/// No control group of these lease-holds is left. One that nobody knew of yet, and so is empty, may
/// be, until the next lease-hold makes its own.
fn assert_tidy(host: &Host, resource: &str, holds: &[i32]) {
    let ran = host.hold(&["--contain", "cgroup", resource], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    holds.iter().for_each(|pid| assert_no_control_group(*pid));
}

/// Whether lease-join still has to do with a dead lease-hold.
fn known(host: &Host, hold: &Process) -> bool {
    let holders = holders(host);
    let ours = holders.iter().find(|holder| holder["pid"] == hold.pid());
    ours.is_some_and(|holder| holder["link"] != "unproven")
}

fn holders(host: &Host) -> Vec<serde_json::Value> {
    let said = host.describe();
    said["holders"].as_array().unwrap().clone()
}

fn left_unproven(join: &Process, hold: &Process) -> bool {
    let start = format!("lease-hold pid {} ", hold.pid());
    let is_it = |line: &str| line.contains(&start) && line.contains("may still run");
    join.stderr().lines().any(is_it)
}

#[test]
fn killed_while_it_waits_it_is_forgotten() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&resource]);
    let waits = a.start_hold(&["-w", "60", &resource], &["echo", "run"]);
    waits.wait_for_stderr("trying for");
    waits.kill();
    wait_until("it is forgotten", SOON, || {
        (holders(&a).len() == 1).then_some(())
    });
    hold.signal(Signal::SIGTERM);
    assert_eq!(hold.finish().code, 143);
    assert_eq!(a.hold(&["-n", &resource], &["true"]).code, 0);
    assert!(
        !join.stderr().contains("without a release"),
        "{}",
        join.stderr()
    );
}

// ---- what the command leaves behind

#[test]
fn rule_13_a_daemon_keeps_the_lease_until_it_is_gone() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let family = Family::ending_with(&a, contain, &[&storage.resource(1)], "exit 7");
        wait_for_end(family.command, SOON);
        // Two renewals later nothing has changed.
        a.wait_for_renewal();
        a.wait_for_renewal();
        assert!(runs(family.daemon) && family.hold.code().is_none());
        assert_eq!(storage.owner(1), (Some(1), 1));
        kill(Pid::from_raw(family.daemon), Signal::SIGKILL).unwrap();
        assert_eq!(family.hold.finish().code, 7);
        assert_eq!(storage.owner(1), (None, 1));
        family.assert_no_trace();
    });
}

#[test]
fn daemons_die_when_the_lease_is_lost() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = host(&storage, 1);
        let join = a.join();
        let family = Family::start(&a, contain, &[&storage.resource(1)]);
        a.wait_for_renewal();
        join.kill();
        let renewed = a.renewed();
        let ended = family.wait_for_end(SOON);
        assert_in_time(contain, renewed, ended);
        let ran = family.hold.finish();
        assert_eq!(ran.code, 124, "{ran:?}");
        family.assert_no_trace();
        assert_eq!(storage.owner(1), (Some(1), 1));
    });
}

// ---- somebody is stopped

#[test]
fn rule_19_a_stopped_lease_hold_is_not_waited_for() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let path = StoragePath::to(&storage);
        let a = host(&storage, 1).by_way_of(&storage, &path.disk());
        let join = a.join();
        let family = Family::start(&a, contain, &[&a.resource(&storage, 1)]);
        family.hold.signal(Signal::SIGSTOP);
        a.wait_for_renewal();
        path.refuse();
        let ended = family.wait_for_end(SOON);
        // Nothing was renewed from then on; what was under way may have been.
        assert_in_time(contain, a.renewed(), ended);
        let ran = join.finish();
        assert_eq!(ran.code, 124, "{ran:?}");
        family.assert_no_trace();
    });
}

#[test]
fn a_stopped_lease_join_is_not_waited_for() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = host(&storage, 1);
        let join = a.join();
        let family = Family::start(&a, contain, &[&storage.resource(1)]);
        a.wait_for_renewal();
        join.signal(Signal::SIGSTOP);
        let ended = family.wait_for_end(SOON);
        assert_in_time(contain, a.renewed(), ended);
        assert_eq!(family.hold.finish().code, 124);
        family.assert_no_trace();
        // It wakes up, sees what time it is, and is lost.
        join.signal(Signal::SIGCONT);
        assert_eq!(join.finish().code, 124);
        assert_eq!(storage.owner(1), (Some(1), 1));
    });
}

#[test]
fn rule_19_with_both_stopped_or_dead_a_third_one_acts() {
    // The lease-hold alone, or its whole group with the command.
    let ways = [
        (false, Signal::SIGSTOP),
        (false, Signal::SIGKILL),
        (true, Signal::SIGSTOP),
    ];
    let all: Vec<_> = CONTAINMENTS
        .iter()
        .flat_map(|contain| ways.map(|way| (*contain, way)))
        .collect();
    together(
        &all,
        |case| format!("{case:?}"),
        |(contain, (whole_group, to_join))| {
            let storage = Storage::new(1);
            let a = host(&storage, 1);
            let join = a.join();
            let family = Family::start(&a, contain, &[&storage.resource(1)]);
            let third = third_of(&family.hold);
            assert_eq!(third.is_none(), *contain == "pidns");
            a.wait_for_renewal();
            let pid = Pid::from_raw(family.hold.pid());
            match whole_group {
                true => killpg(pid, Signal::SIGSTOP).unwrap(),
                false => kill(pid, Signal::SIGSTOP).unwrap(),
            }
            join.signal(*to_join);
            let ended = family.wait_for_end(SOON);
            assert_in_time(contain, a.renewed(), ended);
            family.hold.signal(Signal::SIGCONT);
            assert_eq!(family.hold.finish().code, 124);
            family.assert_no_trace();
            if let Some(third) = third {
                wait_for_end(third, SOON);
            }
        },
    );
}

/// The process that a lease-hold has for itself: a child in a session of its own.
#[test]
fn the_third_one_is_forked_before_there_is_any_other_thread() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let hold = a.holding(&["-v", "--contain", "tree", &storage.resource(1)]);
    let third = third_of(&hold).unwrap();
    let threads = std::fs::read_dir(format!("/proc/{}/task", hold.pid())).unwrap();
    let threads = threads.map(|entry| entry.unwrap().file_name());
    let threads = threads.map(|number| number.to_str().unwrap().parse().unwrap());
    let others: Vec<i32> = threads.filter(|number| *number != hold.pid()).collect();
    // Numbers are given in order, and then from the start again.
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let most: i32 = most.trim().parse().unwrap();
    let later = |number: &i32| (number - third).rem_euclid(most) < most / 2;
    assert!(
        others.len() > 1 && others.iter().all(later),
        "{third}: {others:?}"
    );
}

fn third_of(hold: &Process) -> Option<i32> {
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let mut children = hold.children().into_iter();
    children.find(|pid| name(*pid).as_deref() == Some("lease-hold-last\n"))
}

#[test]
fn killed_while_lease_join_is_stopped_it_takes_all_along() {
    in_each(&PROVING, |contain| {
        let storage = Storage::new(1);
        let (a, join) = Host::joined(&storage, 1);
        let family = Family::start(&a, contain, &[&storage.resource(1)]);
        join.signal(Signal::SIGSTOP);
        family.hold.kill();
        family.wait_for_end(SOON);
    });
}

#[test]
fn what_was_told_while_it_was_stopped_counts_and_so_does_what_nobody_could_tell() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = host(&storage, 1);
        let join = a.join();
        let family = Family::start(&a, contain, &[&storage.resource(1)]);
        family.hold.signal(Signal::SIGSTOP);
        // Its connection ends, and the next lease-join is one that it has never heard of.
        join.signal(Signal::SIGUSR1);
        assert_eq!(join.finish().code, 0);
        let join = a.join();
        outlast(&a);
        family.hold.signal(Signal::SIGCONT);
        family.hold.wait_for_stderr("is back");
        outlast(&a);
        assert!(family.runs() && join.code().is_none());
        assert_eq!(family.hold.code(), None, "{}", family.hold.stderr());
    });
}

#[test]
fn rule_19_a_stopped_lease_hold_alone_loses_nothing() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let a = host(&storage, 1);
        let join = a.join();
        let family = Family::start(&a, contain, &[&storage.resource(1)]);
        family.hold.signal(Signal::SIGSTOP);
        outlast(&a);
        assert!(
            family.runs(),
            "it was killed although the lease was renewed"
        );
        family.hold.signal(Signal::SIGCONT);
        outlast(&a);
        assert!(family.runs() && join.code().is_none());
        assert_eq!(family.hold.code(), None);
    });
}

#[test]
fn a_stopped_command_loses_nothing() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let family = Family::start(&a, contain, &[&storage.resource(1)]);
        let command = Pid::from_raw(family.command);
        kill(command, Signal::SIGTSTP).unwrap();
        // So that a shell notices.
        wait_until("lease-hold stops as well", SOON, || {
            (state(family.hold.pid()) == Some('T')).then_some(())
        });
        outlast(&a);
        assert!(
            family.runs(),
            "it was killed although the lease was renewed"
        );
        assert_eq!(state(family.command), Some('T'));
        family.hold.signal(Signal::SIGCONT);
        wait_until("the command goes on", SOON, || {
            (state(family.command) != Some('T')).then_some(())
        });
        outlast(&a);
        assert!(family.runs());
    });
}

/// Waits until a lease that nobody had renewed since now would be over: 8t + W and some more.
fn outlast(host: &Host) {
    let start = now();
    while host.wait_for_renewal().since(start) < host.dead_after() {}
}

/// A shell at a terminal of its own, and how a lease-hold with `script` is called there.
fn at_a_terminal(host: &Host, storage: &Storage, contain: &str, script: &str) -> (Process, String) {
    let mut terminal = std::process::Command::new("script");
    terminal
        .args(["-qfec", "sh -i", "/dev/null"])
        .env("PS1", "$ ");
    let terminal = Process::start_with(&mut terminal, std::process::Stdio::piped());
    let command = ["sh", "-c", &format!("'{script}'")];
    let hold = host.hold_command(&["--contain", contain, &storage.resource(1)], &command);
    let words = std::iter::once(hold.get_program()).chain(hold.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    (terminal, words.join(" "))
}

#[test]
fn the_terminals_keys_do_what_they_do_to_any_command() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let script = format!("{OWN_PID}; echo \"now\" runs $pid; exec sleep 1000");
        let (mut terminal, line) = at_a_terminal(&a, &storage, contain, &script);
        terminal.say(&format!("{line}\n"));
        let pid = pid_after("now runs ", &terminal);

        suspends(&mut terminal, pid);
        outlast(&a);
        assert_eq!(state(pid), Some('T'), "{}", terminal.stdout());
        assert_eq!(storage.owner(1), (Some(1), 1));
        resumes(&mut terminal, pid);
        terminal.say("\x03");
        wait_for_end(pid, SOON);
        wait_until("the lease is free", SOON, || {
            storage.owner(1).0.is_none().then_some(())
        });
        terminal.say("echo code $?\n");
        terminal.wait_for_stdout("code 130");
        terminal.say("exit\n");
        terminal.finish();
    });
}

/// ^Z stops the command, and the shell has its terminal back.
fn suspends(terminal: &mut Process, pid: i32) {
    terminal.say("\x1a");
    wait_for_state(pid, 'T');
    terminal.say("echo the shell is $((40 + 2))\n");
    terminal.wait_for_stdout("the shell is 42");
}

fn resumes(terminal: &mut Process, pid: i32) {
    terminal.say("fg\n");
    wait_for_state(pid, 'S');
}

fn wait_for_state(pid: i32, wanted: char) {
    wait_until(&format!("{pid} is {wanted}"), SOON, || {
        (state(pid) == Some(wanted)).then_some(())
    });
}

/// A pid that was written after `word` to a terminal.
fn pid_after(word: &str, terminal: &Process) -> i32 {
    wait_until(&format!("the pid after {word}"), SOON, || {
        let text = terminal.stdout();
        let rest = text.rsplit_once(word)?.1;
        rest.split_once(['\r', '\n'])?.0.trim().parse().ok()
    })
}

#[test]
fn a_command_that_stops_itself_in_the_foreground_gives_the_terminal_back() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        // As su does it when the terminal stops what it has started.
        let script = format!(
            "trap \"kill -STOP $$\" TSTP; {OWN_PID}; echo \"now\" runs $pid; \
                 while :; do read -r x && echo \"it reads\" $x; done"
        );
        let (mut terminal, line) = at_a_terminal(&a, &storage, contain, &script);
        terminal.say(&format!("{line}\n"));
        let pid = pid_after("now runs ", &terminal);
        suspends(&mut terminal, pid);
        resumes(&mut terminal, pid);
        terminal.say("a line\n");
        terminal.wait_for_stdout("it reads a line");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_for_end(pid, SOON);
        terminal.say("echo code $?\n");
        terminal.wait_for_stdout("code 137");
        terminal.say("exit\n");
        terminal.finish();
    });
}

#[test]
fn a_shell_that_suspends_itself_has_its_terminal_back_in_the_foreground() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        // The one takes the terminal again when it goes on, the other does not.
        for (shell, suspend) in [("bash --norc", "suspend"), ("sh", "kill -STOP $$")] {
            let script = format!("exec {shell} -i");
            let (mut terminal, line) = at_a_terminal(&a, &storage, contain, &script);
            terminal.say(&format!("{line}\n"));
            terminal.say("echo in-the-$LEASE_RESOURCE\n");
            terminal.wait_for_stdout("in-the-R1");
            terminal.say(&format!("{suspend}\n"));
            terminal.say("echo out-of-it-$((40 + 2))\n");
            terminal.wait_for_stdout("out-of-it-42");
            terminal.say("fg\n");
            terminal.say("echo back-in-the-$LEASE_RESOURCE\n");
            terminal.wait_for_stdout("back-in-the-R1");
            terminal.say("exit\n");
            terminal.say("echo over-$((40 + 2))\n");
            terminal.wait_for_stdout("over-42");
            terminal.say("exit\n");
            terminal.finish();
            assert_eq!(storage.owner(1).0, None);
        }
    });
}

#[test]
fn a_command_that_is_stopped_behind_no_terminal_is_stopped_alone() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(2);
        let (a, _join) = Host::joined(&storage, 1);
        let family = Family::start(&a, contain, &[&storage.resource(2)]);
        let script = format!("{OWN_PID}; echo \"now\" runs $pid; exec sleep 1000");
        let (mut terminal, line) = at_a_terminal(&a, &storage, contain, &script);
        terminal.say(&format!("{line} &\n"));
        terminal.say("echo the job is $!.\n");
        let pid = pid_after("now runs ", &terminal);
        let hold: i32 = wait_until("its pid", SOON, || {
            let text = terminal.stdout();
            text.rsplit_once("the job is ")?
                .1
                .split_once('.')?
                .0
                .parse()
                .ok()
        });
        for (command, hold) in [(family.command, family.hold.pid()), (pid, hold)] {
            kill(Pid::from_raw(command), Signal::SIGSTOP).unwrap();
            wait_for_state(command, 'T');
            // lease-hold has seen that long before the second renewal.
            a.wait_for_renewal();
            a.wait_for_renewal();
            assert_ne!(state(hold), Some('T'));
            kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
            wait_for_end(command, SOON);
        }
        terminal.say("exit\n");
    });
}

#[test]
fn in_the_background_of_a_terminal_that_wants_that_it_stops_when_it_writes() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let (a, _join) = Host::joined(&storage, 1);
        let script = "echo \"it\" writes; exit 5";
        let (mut terminal, line) = at_a_terminal(&a, &storage, contain, script);
        terminal.say(&format!("stty tostop\n{line} &\n"));
        wait_until("the job stops", SOON, || {
            terminal.say("jobs\n");
            terminal.stdout().contains("Stopped").then_some(())
        });
        assert!(!terminal.stdout().contains("it writes"));
        assert_eq!(storage.owner(1), (Some(1), 1));
        terminal.say("fg\n");
        terminal.wait_for_stdout("it writes");
        terminal.say("echo code $?\n");
        terminal.wait_for_stdout("code 5");
        terminal.say("exit\n");
        terminal.finish();
        assert_eq!(storage.owner(1), (None, 1));
    });
}
