//! PID namespaces around lease-hold, and a /proc that shows little: what cannot be guarded is not
//! run, and who is guarded is ended whatever /proc shows. t = 1 and W = 10.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use nix::sys::signal::Signal;
use std::process::Command;
use support::family::{CONTAINMENTS, OWN_PID, control_groups};
use support::hosts::{Host, STAY};
use support::process::{Process, SOON, together, wait_for_end, wait_until};
use support::storage::Storage;

/// A lease-hold that a shell executes as `"$@"`.
fn by_way_of(script: &str, hold: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]);
    shell.arg(hold.get_program()).args(hold.get_args());
    shell
}

#[test]
fn where_proc_is_not_of_its_own_pid_namespace_nothing_is_run() {
    control_groups();
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let elsewhere = [
        "unshare --pid --fork \"$@\"",
        "unshare --mount sh -c 'mount -t tmpfs none /proc && \"$@\"' sh \"$@\"",
        "unshare --mount sh -c 'umount -l /proc && \"$@\"' sh \"$@\"",
    ];
    for contain in CONTAINMENTS.iter().chain(&["auto"]) {
        let hold = a.hold_command(&["--contain", contain, &resource], &["echo", "run"]);
        let before = storage.area(1);
        let words = std::iter::once(hold.get_program()).chain(hold.get_args());
        let words: Vec<_> = words.collect();
        let other = storage.resource(2);
        let inside_another = a.hold_command(&["--contain", "pidns", &other], &words);
        let ways = elsewhere.map(|script| by_way_of(script, &hold));
        for mut command in ways.into_iter().chain([inside_another]) {
            let ran = Process::start(&mut command).finish();
            assert_eq!((ran.code, ran.stdout.as_str()), (78, ""), "{ran:?}");
            assert!(ran.stderr.contains("cannot guard echo: /proc"), "{ran:?}");
            assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
            assert!(storage.area(1) == before);
        }
        let mounted = "unshare --pid --fork --mount-proc \"$@\"";
        let ran = Process::start(&mut by_way_of(mounted, &hold)).finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
    }
}

/// A command that nobody finds in /proc any more: it covers it, for itself and its lease-hold.
fn out_of_sight(host: &Host, contain: &str, resource: &str) -> (Process, i32) {
    let script = format!(
        "trap 'echo asked' TERM; {OWN_PID}; mount -t tmpfs none /proc && echo pid $pid.; \
         while :; do sleep 0.1; done"
    );
    let hold = host.hold_command(&["--contain", contain, resource], &["sh", "-c", &script]);
    let hold = Process::start(&mut by_way_of("exec unshare --mount \"$@\"", &hold));
    let pid = wait_until("its pid", SOON, || {
        let text = hold.stdout();
        text.strip_prefix("pid ")?.split_once('.')?.0.parse().ok()
    });
    (hold, pid)
}

#[test]
fn a_command_that_proc_does_not_show_is_asked_to_end_and_killed() {
    control_groups();
    // Stopped or not: whoever is beside lease-hold knows the command too.
    let all: Vec<_> = CONTAINMENTS
        .iter()
        .flat_map(|contain| [false, true].map(|stopped| (*contain, stopped)))
        .collect();
    together(
        &all,
        |case| format!("{case:?}"),
        |(contain, stopped)| {
            let storage = Storage::new(1);
            let a = Host::new(&storage, 1).promising(10);
            let join = a.join();
            let (hold, pid) = out_of_sight(&a, contain, &storage.resource(1));
            a.wait_for_renewal();
            if *stopped {
                hold.signal(Signal::SIGSTOP);
            }
            join.kill();
            let age = wait_for_end(pid, SOON).since(a.renewed()).as_secs_f64();
            println!("{contain}: ended {age:.1} s after the last renewal");
            let by_lease_hold = age < 8.0 + 10.0 * 7.0 / 8.0;
            assert!((8.0..18.0).contains(&age), "{age} s");
            assert!(*stopped || by_lease_hold, "{age} s");
            hold.signal(Signal::SIGCONT);
            let ran = hold.finish();
            assert_eq!(ran.code, 124, "{ran:?}");
            let asked = ran.stdout.matches("asked").count();
            assert_eq!(asked, usize::from(!stopped), "{ran:?}");
        },
    );
}

#[test]
fn two_with_the_same_pid_in_two_namespaces_have_a_control_group_each() {
    let groups = control_groups();
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let held = [1, 2].map(|number| {
        let args = ["--contain", "cgroup", "-v", &storage.resource(number)];
        let hold = a.hold_command(&args, &STAY);
        let mounted = "exec unshare --pid --fork --kill-child --mount-proc \"$@\"";
        Process::start(&mut by_way_of(mounted, &hold))
    });
    let said = |hold: &Process| {
        hold.wait_for_stdout("held");
        let stderr = hold.stderr();
        let (_, group) = stderr.split_once("control group ").unwrap();
        group.lines().next().unwrap().to_owned()
    };
    let [one, other] = held.each_ref().map(said);
    let group = groups.join("lease-hold-1-").display().to_string();
    assert!(
        one.starts_with(&group) && other.starts_with(&group),
        "{one} {other}"
    );
    assert_ne!(one, other);
}
