//! Registered processes and their leases: who guards them when whoever serves is gone, what ends
//! with a life line, what happens on a loss.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, SOON, now, runs, wait_until};
use support::served::{Served, Server};
use support::storage::Storage;

/// W of these hosts, in seconds.
const WATCHDOG: u64 = 8;

/// A host that has joined, and its storage.
fn joined(storage: &Storage) -> Served {
    joined_at(&storage.lockspace(1))
}

fn joined_at(lockspace: &str) -> Served {
    let served = Served::promising(Server::Ours, "HOST1", WATCHDOG);
    let ran = served.client(&["add_lockspace", "-s", lockspace, "-o", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    served
}

/// A process that has registered and then runs a command; more may be said on its connection
/// before.
pub(super) fn registered(served: &Served, before: &str, command: &str) -> Process {
    let script = format!(
        "import os, sanlock
fd = sanlock.register()
os.set_inheritable(fd, True)
{before}
os.execvp('sh', ['sh', '-c', {command:?}])
"
    );
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", &script]);
    python.env("SANLOCK_RUN_DIR", served.path());
    let process = Process::start_with(&mut python, Stdio::null());
    process.wait_for_stdout("started");
    process
}

pub(super) fn acquire(served: &Served, resource: &str, process: &Process) -> String {
    let pid = process.pid().to_string();
    served
        .client(&["acquire", "-r", resource, "-p", &pid])
        .stdout
}

pub(super) fn release(served: &Served, resource: &str, process: &Process) -> String {
    let pid = process.pid().to_string();
    served
        .client(&["release", "-r", resource, "-p", &pid])
        .stdout
}

/// Joins a lockspace.
pub(super) fn join(served: &Served, storage: &Storage, id: u64) {
    let lockspace = storage.lockspace(id);
    let ran = served.client(&["add_lockspace", "-s", &lockspace, "-o", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Tries until it has it: after a join, the daemon does not know for some time who is alive.
pub(super) fn acquire_in_time(served: &Served, resource: &str, process: &Process) {
    wait_until("it gets the lease", SOON, || {
        let said = acquire(served, resource, process);
        said.contains("done 0").then_some(())
    });
}

fn inquire(served: &Served, process: &Process) -> String {
    served
        .client(&["inquire", "-p", &process.pid().to_string()])
        .stdout
}

pub(super) const STAY: &str = "echo started; exec sleep 100";

#[test]
fn leases_stay_and_can_be_changed_after_whoever_serves_was_killed() {
    let storage = Storage::new(3);
    let mut served = joined(&storage);
    let [first, second, third] = [1, 2, 3].map(|n| storage.resource(n));
    let process = registered(&served, "", STAY);
    assert!(acquire(&served, &first, &process).contains("done 0"));
    served.process.kill();
    assert!(runs(process.pid()));
    assert_eq!(storage.owner(1).0, Some(1));
    served.start_again();
    let held = format!("\"{first}:1\"");
    assert!(inquire(&served, &process).contains(&held));
    assert!(acquire(&served, &second, &process).contains("done 0"));
    assert!(release(&served, &first, &process).contains("done 0"));
    assert_eq!([1, 2].map(|n| storage.owner(n).0), [None, Some(1)]);
    // Its end is seen by whoever guards it.
    assert!(acquire(&served, &third, &process).contains("done 0"));
    process.kill();
    wait_until("all is given back", SOON, || {
        [1, 2, 3]
            .iter()
            .all(|n| storage.owner(*n).0.is_none())
            .then_some(())
    });
    let ran = served.client(&["inquire", "-p", &process.pid().to_string()]);
    assert!(ran.stdout.contains("done -3"), "{ran:?}");
}

#[test]
fn a_process_whose_life_line_ends_keeps_nothing_and_runs_on() {
    let storage = Storage::new(1);
    let served = joined(&storage);
    let close = "echo started; read line; exec 3>&- 4>&- 5>&-; echo closed; exec sleep 100";
    let mut command = Command::new("/usr/bin/python3");
    let script = format!(
        "import os, sanlock
fd = sanlock.register()
os.dup2(fd, 4)
os.close(fd) if fd != 4 else None
os.set_inheritable(4, True)
os.execvp('sh', ['sh', '-c', {close:?}])
"
    );
    command.args(["-c", &script]);
    command.env("SANLOCK_RUN_DIR", served.path());
    let mut process = Process::start_with(&mut command, Stdio::piped());
    process.wait_for_stdout("started");
    let resource = storage.resource(1);
    assert!(acquire(&served, &resource, &process).contains("done 0"));
    process.say("go\n");
    wait_until("it is given back", SOON, || {
        storage.owner(1).0.is_none().then_some(())
    });
    assert!(runs(process.pid()));
    let ran = served.client(&["inquire", "-p", &process.pid().to_string()]);
    assert!(ran.stdout.contains("done -3"), "{ran:?}");
}

/// A host on storage that is about to fail.
struct Failing {
    storage: Storage,
    path: StoragePath,
    served: Served,
}

impl Failing {
    fn new() -> Self {
        let storage = Storage::new(2);
        let path = StoragePath::to(&storage);
        let lockspace = format!("LS:1:{}:0", path.disk().display());
        let served = joined_at(&lockspace);
        Self {
            storage,
            path,
            served,
        }
    }

    fn resource(&self, number: u64) -> String {
        let offset = number << 20;
        format!("LS:R{number}:{}:{offset}", self.path.disk().display())
    }
}

#[test]
fn on_a_loss_the_killpath_comes_first_and_all_are_dead_in_time() {
    let failing = Failing::new();
    let served = &failing.served;
    let mark = served.path().join("fenced");
    let fence = format!(
        "sanlock.killpath('/bin/sh', ['-c', 'echo $0 $1 >> {}', 'fence', 'a b'], slkfd=fd)",
        mark.display()
    );
    // They do not end of themselves.
    let stubborn = "trap 'echo asked' TERM; echo started; while :; do sleep 0.1; done";
    let fenced = registered(served, &fence, stubborn);
    let asked = registered(served, "", stubborn);
    let idle = registered(served, "", STAY);
    for (process, number) in [(&fenced, 1), (&asked, 2)] {
        let said = acquire(served, &failing.resource(number), process);
        assert!(said.contains("done 0"), "{said}");
    }
    failing.path.refuse();
    let failed = now();
    wait_until("the killpath runs", SOON, || mark.exists().then_some(()));
    // The last renewal is at most 2t older, and a moment.
    assert!(now().since(failed) >= Duration::from_secs(5));
    asked.wait_for_stdout("asked");
    let dead = Duration::from_secs(8 + WATCHDOG);
    for process in [&fenced, &asked] {
        assert_eq!(process.finish().code, 137);
    }
    assert!(now().since(failed) <= dead, "{:?}", now().since(failed));
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "fence a b\n");
    assert!(!fenced.stdout().contains("asked"));
    // Without a lease nobody is signalled.
    assert_eq!(idle.code(), None);
    assert_eq!(failing.storage.owner(1).0, Some(1));
    wait_until("the lockspace is gone", SOON, || {
        let status = served.client(&["status"]).stdout;
        (!status.contains("s LS:")).then_some(())
    });
}

#[test]
fn what_names_nothing_changes_nothing_and_minus_one_means_who_has_registered_here() {
    let storage = Storage::new(1);
    let served = joined(&storage);
    let process = registered(&served, "", STAY);
    let header = |command: u32, data: i32, pid: i32| {
        let fields = [0x0428_2010_u32, 1, command, 0, 32, 0];
        let fields = fields.iter().flat_map(|field| field.to_ne_bytes());
        let data = [data, pid].into_iter().flat_map(i32::to_ne_bytes);
        fields.chain(data).collect::<Vec<u8>>()
    };
    let mut other: UnixStream = served.connect();
    other.write_all(&header(9, 0, -1)).unwrap();
    let mut reply = [0; 32];
    other.read_exact(&mut reply).unwrap();
    assert_eq!(reply[24..28], (-16_i32).to_ne_bytes());
    assert!(acquire(&served, &storage.resource(1), &process).contains("done 0"));
    for (command, rest) in [(8, 0), (7, 56)] {
        let bytes = [header(command, 0, process.pid()), vec![0; rest]].concat();
        other.write_all(&bytes).unwrap();
        other.read_exact(&mut reply).unwrap();
        assert_eq!(reply[24..28], 0_i32.to_ne_bytes());
        assert_eq!(storage.owner(1).0, Some(1));
    }
}

#[test]
fn while_a_dead_owner_is_waited_for_its_process_is_busy_and_nobody_else_is() {
    let storage = Storage::new(2);
    let served = joined(&storage);
    let [waits, other] = [(); 2].map(|()| registered(&served, "", STAY));
    let (host, join) = Host::joined(&storage, 2);
    let resource = storage.resource(1);
    let hold = host.holding(&[&resource]);
    join.kill();
    hold.kill();
    let pid = waits.pid().to_string();
    let acquiring = ["acquire", "-r", &resource, "-p", &pid];
    // As long as the owner was seen alive lately it is refused at once.
    let acquiring = wait_until("it waits", SOON, || {
        let started = Process::start(&mut served.command(&acquiring));
        wait_until("another command is told so, or it has ended", SOON, || {
            let busy = inquire(&served, &waits).contains("done -16");
            (busy || started.code().is_some()).then_some(())
        });
        std::thread::sleep(Duration::from_millis(500));
        started.code().is_none().then_some(started)
    });
    assert!(inquire(&served, &waits).contains("done -16"));
    assert!(acquire(&served, &storage.resource(2), &other).contains("done 0"));
    assert_eq!(acquiring.code(), None);
    let ran = acquiring.finish_within(SOON * 2);
    assert!(ran.stdout.contains("done 0"), "{ran:?}");
    assert_eq!(storage.owner(1).0, Some(1));
}

#[test]
fn who_holds_nothing_any_more_is_ended_when_nobody_serves_for_long_and_nobody_else_is() {
    let storage = Storage::new(2);
    let mut served = joined(&storage);
    let [suspended, guest, idle] = [(); 3].map(|()| registered(&served, "", STAY));
    assert!(acquire(&served, &storage.resource(1), &suspended).contains("done 0"));
    assert!(acquire(&served, &storage.resource(2), &guest).contains("done 0"));
    assert!(release(&served, &storage.resource(1), &suspended).contains("done 0"));
    // Away for less than 8t.
    served.process.kill();
    std::thread::sleep(Duration::from_secs(3));
    served.start_again();
    assert!(acquire(&served, &storage.resource(1), &suspended).contains("done 0"));
    assert!(release(&served, &storage.resource(1), &suspended).contains("done 0"));
    served.process.kill();
    let away = now();
    assert_eq!(suspended.finish().code, 137);
    let ended = now().since(away);
    assert!(ended >= Duration::from_secs(8), "{ended:?}");
    assert_eq!([&guest, &idle].map(Process::code), [None, None]);
    assert_eq!(storage.owner(2).0, Some(1));
    served.start_again();
    assert!(release(&served, &storage.resource(2), &guest).contains("done 0"));
}
