//! What hosts tell each other, the real daemon on one of them and ours on the other: requests for a
//! lease, and events.

use super::held::{STAY, acquire, acquire_in_time, join, registered};
use std::process::Command;
use support::process::{Process, SOON, wait_until};
use support::served::{Served, Server};
use support::storage::Storage;

/// Two hosts that see each other alive.
fn hosts(storage: &Storage) -> [Served; 2] {
    let hosts = [Server::Daemon, Server::Ours].map(|server| Served::start(server, "HOST"));
    for (served, id) in hosts.iter().zip(1..) {
        join(served, storage, id);
    }
    for (served, other) in hosts.iter().zip([2, 1]) {
        let start = format!("h {other} ");
        wait_until("it sees the other alive", SOON, || {
            let seen = served.client(&["gets", "-h", "1"]).stdout;
            let mut lines = seen.lines();
            let live = lines.any(|line| line.starts_with(&start) && line.ends_with("LIVE"));
            live.then_some(())
        });
    }
    hosts
}

#[test]
fn a_request_ends_the_owner_on_the_other_host_and_then_the_lease_is_to_be_had() {
    let storage = Storage::new(1);
    let hosts = hosts(&storage);
    let resource = storage.resource(1);
    let stubborn = "trap 'echo asked' TERM; echo started; while :; do sleep 0.1; done";
    for (owner, asker) in [(0, 1), (1, 0)] {
        let holds = registered(&hosts[owner], "", stubborn);
        acquire_in_time(&hosts[owner], &resource, &holds);
        let waits = registered(&hosts[asker], "", STAY);
        let next = format!("{resource}:{}", storage.owner(1).1 + 1);
        let request = |mode| {
            let ran = hosts[asker].client(&["request", "-r", &next, "-f", mode]);
            assert!(ran.stdout.contains("done 0"), "{ran:?}");
        };
        request("2");
        holds.wait_for_stdout("asked");
        assert_eq!(holds.code(), None);
        // A daemon heeds no further request of the same host for 6t.
        let ended = wait_until("it is killed", SOON, || {
            request("1");
            holds.code()
        });
        assert_eq!(ended, 137);
        acquire_in_time(&hosts[asker], &resource, &waits);
        let said = acquire(&hosts[asker], &resource, &waits);
        assert!(said.contains("done -17"), "{said}");
    }
}

fn python(served: &Served, script: &str) -> Process {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]);
    command.env("SANLOCK_RUN_DIR", served.path());
    Process::start(&mut command)
}

const LISTEN: &str = "
import sanlock, select
fd = sanlock.reg_event(b'LS')
print('listens', flush=True)
select.select([fd], [], [])
for event in sanlock.get_event(fd):
    print(sorted(event.items()), flush=True)
sanlock.end_event(fd, b'LS')
print('ended', flush=True)
";

#[test]
fn an_event_reaches_the_listeners_on_the_other_host() {
    let storage = Storage::new(0);
    let hosts = hosts(&storage);
    for (from, to) in [(0, 1), (1, 0)] {
        let listeners = [python(&hosts[to], LISTEN), python(&hosts[to], LISTEN)];
        for listener in &listeners {
            listener.wait_for_stdout("listens");
        }
        let set = format!(
            "import sanlock; sanlock.set_event(b'LS', {}, 1, 7, data=8)",
            to + 1
        );
        let ran = python(&hosts[from], &set).finish();
        assert_eq!(ran.code, 0, "{ran:?}");
        for listener in &listeners {
            let ran = listener.finish();
            assert_eq!(ran.code, 0, "{ran:?}");
            let from = from + 1;
            let expected = format!(
                "[('data', 8), ('event', 7), ('from_generation', 1), ('from_host_id', {from}), \
                 ('generation', 1), ('host_id', {})]",
                to + 1
            );
            assert!(ran.stdout.contains(&expected), "{ran:?}");
            assert!(ran.stdout.contains("ended"), "{ran:?}");
        }
    }
}
