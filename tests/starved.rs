//! What the host itself lacks: somebody who reads stderr, a service manager that listens,
//! descriptors, room in the run directory. Nothing is killed for it, and nobody is kept from
//! killing. t = 1 and W = 6: lost 8 s after the last renewal, everything dead by 14 s.
#![allow(clippy::unwrap_used, clippy::panic)]

use nix::sys::signal::Signal;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::time::Duration;
use support::files::Small;
use support::hosts::{Host, STAY};
use support::process::{Process, SOON, now, runs, wait_until};
use support::storage::Storage;

/// 8t + W.
const DEAD_AFTER: Duration = Duration::from_secs(14);

fn host(storage: &Storage, id: u64) -> Host {
    Host::new(storage, id).promising(6)
}

/// What a shell does before it becomes `command`.
fn after(setting: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setting} && exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

#[test]
fn a_stderr_that_nobody_reads_keeps_lease_hold_from_nothing() {
    let storage = Storage::new(2);
    let a = host(&storage, 1);
    let join = a.join();
    let command = ["sh", "-c", "echo $$; exec sleep 100"];
    let start = |number: u64| {
        let resource = storage.resource(number);
        let hold = Process::start_unread(&mut a.hold_command(&["-v", &resource], &command));
        let pid: i32 = wait_until("its pid", SOON, || hold.stdout().trim().parse().ok());
        (hold, pid)
    };
    let (told, _) = start(1);
    let (lost, pid) = start(2);
    told.signal(Signal::SIGTERM);
    assert_eq!(told.finish().code, 143);

    let renewed = a.wait_for_renewal();
    join.kill();
    let ended = support::process::wait_for_end(pid, SOON);
    assert!(ended <= renewed.after(DEAD_AFTER), "{ended:?} {renewed:?}");
    assert_eq!(lost.finish().code, 124);
}

#[test]
fn a_stderr_that_nobody_reads_keeps_lease_join_from_nothing() {
    let storage = Storage::new(2);
    let a = host(&storage, 1);
    let join = Process::start_unread(&mut a.join_command());
    join.wait_for_stdout("joined");
    let resource = storage.resource(1);
    for _ in 0..3 {
        let hold = a.holding(&[&resource]);
        let pid = hold.child().unwrap();
        hold.kill();
        let ran = a.hold(&["--wait", "20", &resource], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(!runs(pid));
    }
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
}

#[test]
fn a_stdout_that_nobody_reads_keeps_lease_join_from_nothing() {
    let storage = Storage::new(1);
    let a = host(&storage, 1);
    let mut full = after("exec 1>&2", &a.join_command());
    let join = Process::start_unread(&mut full);
    wait_until("it serves", SOON, || a.describe_if_there());
    let ran = a.hold(&[&storage.resource(1)], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
}

#[test]
fn a_service_manager_that_does_not_listen_keeps_lease_join_from_nothing() {
    let storage = Storage::new(1);
    let a = host(&storage, 1);
    let path = storage.path().join("notify");
    let _unheard = UnixDatagram::bind(&path).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"STATUS=x", &path).is_ok() {}

    let mut command = a.join_command();
    command.env("NOTIFY_SOCKET", &path);
    command
        .env("WATCHDOG_USEC", "300000")
        .env_remove("WATCHDOG_PID");
    let join = Process::start(&mut command);
    join.wait_for_stdout("joined");
    for _ in 0..2 {
        a.wait_for_renewal();
        let ran = a.hold(&[&storage.resource(1)], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
}

#[test]
fn lease_join_takes_the_descriptors_that_it_may_have() {
    const HOLDERS: u64 = 20;
    let storage = Storage::new(HOLDERS);
    let a = host(&storage, 1);
    let join = Process::start(&mut after("ulimit -S -n 50", &a.join_command()));
    join.wait_for_stdout("joined");
    let holds: Vec<_> = (1..=HOLDERS)
        .map(|number| a.start_hold(&[&storage.resource(number)], &STAY))
        .collect();
    holds.iter().for_each(|hold| hold.wait_for_stdout("held"));
    a.wait_for_renewal();
    assert!(holds.iter().all(|hold| hold.code().is_none()));
}

#[test]
fn connections_take_no_descriptor_that_a_renewal_needs() {
    let storage = Storage::new(2);
    let a = host(&storage, 1);
    let join = Process::start(&mut after("ulimit -n 160", &a.join_command()));
    join.wait_for_stdout("joined");
    let hold = a.holding(&[&storage.resource(1)]);
    let began = now();
    let socket = a.run_dir.join("LS/socket");
    let idle: Vec<_> = std::iter::repeat_with(|| UnixStream::connect(&socket).unwrap())
        .take(180)
        .collect();
    // Longer than a lease lasts without a renewal.
    while now() < began.after(Duration::from_secs(9)) {
        a.wait_for_renewal_unasked();
    }
    assert_eq!((join.code(), hold.code()), (None, None));
    drop(idle);
    let ran = wait_until("it is heard again", SOON, || {
        let ran = a.hold(&[&storage.resource(2)], &["true"]);
        (ran.code != 69).then_some(ran)
    });
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_full_run_directory_kills_nobody_and_is_waited_for() {
    const OTHERS: u64 = 20;
    let storage = Storage::new(OTHERS);
    let small = Small::new();
    let mut a = host(&storage, 1);
    a.run_dir = small.path().join("run");
    let join = a.join();
    let hold = a.holding(&[&storage.resource(1)]);
    a.wait_for_renewal();
    let fill = small.fill();
    let began = now();
    // Longer than a lease lasts without a renewal.
    while now() < began.after(Duration::from_secs(9)) {
        a.wait_for_renewal();
    }
    // They stay, so that in the end the page is longer than the one before, however slowly they
    // come.
    let others: Vec<_> = (2..=OTHERS)
        .map(|number| a.start_hold(&[&storage.resource(number)], &STAY))
        .collect();
    join.wait_for_stderr("cannot write the holders' file: No space left on device; trying again");
    std::fs::remove_file(fill).unwrap();
    others.iter().for_each(|hold| hold.wait_for_stdout("held"));
    assert_eq!((join.code(), hold.code()), (None, None));
}
