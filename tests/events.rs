//! Events that hosts signal to each other: between hosts of ours, and between ours and the real
//! daemon. t = 1, W = 2.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use support::hosts::Host;
use support::process::{Process, SOON, now, wait_until};
use support::sanlock::Daemon;
use support::storage::Storage;

/// A listener is sure to hear what is signalled from now on.
fn listening(host: &Host) -> Process {
    let listener = Process::start(host.tool("lease-dump").args(["--events", "LS"]));
    // It has connected once its lease-join has one connection more, which is asked after it.
    wait_until("it listens", SOON, || {
        let sockets = std::fs::read_dir(format!("/proc/{}/fd", listener.pid())).ok()?;
        let links = sockets
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let mut links = links.map(|link| link.display().to_string());
        links.any(|link| link.starts_with("socket:")).then_some(())
    });
    host.describe();
    listener
}

fn signal(host: &Host, what: &str) -> support::files::Ran {
    Process::start(host.tool("lease-join").args(["--signal", what, "LS"])).finish()
}

fn lines(listener: &Process) -> Vec<Value> {
    let text = listener.stdout();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn wait_for_lines(listener: &Process, count: usize) -> Vec<Value> {
    wait_until("events", SOON, || {
        Some(lines(listener)).filter(|lines| lines.len() >= count)
    })
}

fn event(from: u64, to: u64, number: u64, data: u64) -> Value {
    json!({"kind": "event", "lockspace": "LS", "from_host_id": from, "from_generation": 1,
        "host_id": to, "generation": 1, "event": number, "data": data})
}

#[test]
fn an_event_is_heard_once_by_each_who_listens_and_shown_by_local() {
    let storage = Storage::new(0);
    let [(one, _first), (two, _second), (three, _third)] =
        [1, 2, 3].map(|id| Host::joined(&storage, id));
    let [at_one, at_two, also, at_three] = [&one, &two, &two, &three].map(listening);
    // Whose generation it is, is known once it was seen.
    one.wait_for_renewal();
    assert_eq!(signal(&one, "2:5:77").code, 0);
    for listener in [&at_two, &also] {
        assert_eq!(wait_for_lines(listener, 1), [event(1, 2, 5, 77)]);
    }
    let ran = signal(&one, "2:6");
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("another event is being signalled"));
    let said = two.describe()["events"].clone();
    let known = &said.as_array().unwrap()[0];
    assert_eq!((&known["event"], &known["data"]), (&json!(5), &json!(77)));
    assert!(known["heard"].as_f64().unwrap() < 60.0);
    // To all others, once the first is over.
    wait_until("it is over", SOON, || {
        (signal(&one, "all:9").code == 0).then_some(())
    });
    let all = |to| json!({"from_host_id": 1, "event": 9, "data": 0, "host_id": to});
    let part = |line: &Value| {
        json!({"from_host_id": line["from_host_id"], "event": line["event"],
            "data": line["data"], "host_id": line["host_id"]})
    };
    assert_eq!(part(&wait_for_lines(&at_two, 2)[1]), all(2));
    assert_eq!(part(&wait_for_lines(&at_three, 1)[0]), all(3));
    wait_until("no bit", SOON, || {
        storage.heartbeat(1).bitmap().is_empty().then_some(())
    });
    // Each once, though it was heard at several renewals; and the one that signals hears nothing.
    let counts = [&at_one, &at_two, &also, &at_three].map(|listener| lines(listener).len());
    assert_eq!(counts, [0, 2, 2, 1]);
}

#[test]
fn whoever_listens_ends_with_who_reads_it_and_with_its_lease_join() {
    let storage = Storage::new(0);
    let (host, join) = Host::joined(&storage, 1);
    let script = format!(
        "{} --run-dir {} --events LS | true",
        support::files::binary("lease-dump").display(),
        host.run_dir.display()
    );
    let mut shell = std::process::Command::new("sh");
    let ran = Process::start(shell.args(["-c", &script])).finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let listener = listening(&host);
    join.kill();
    let ran = listener.finish();
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(ran.stderr.contains("has ended"), "{ran:?}");
}

/// Strangers are sent away after 10 s.
#[test]
fn who_listens_is_not_sent_away() {
    let storage = Storage::new(0);
    let (host, _join) = Host::joined(&storage, 1);
    let listener = listening(&host);
    let until = now().after(Duration::from_secs(12));
    while now() < until {
        host.wait_for_renewal();
    }
    assert_eq!(listener.code(), None, "{}", listener.stderr());
}

#[test]
fn what_cannot_be_signalled_is_refused() {
    let storage = Storage::new(0);
    let (host, _join) = Host::joined(&storage, 1);
    for (what, lockspace, code, part) in [
        ("2", "LS", 64, "it is HOST:NUMBER"),
        ("2:0", "LS", 64, "event 0 is none"),
        ("0:1", "LS", 64, "there is no such host id"),
        ("2001:1", "LS", 64, "there is no such host id"),
        ("2:1", "LS:1:/x:0", 64, "name the lockspace only"),
        ("2:1", "other", 69, "start lease-join first"),
    ] {
        let mut join = host.tool("lease-join");
        let ran = Process::start(join.args(["--signal", what, lockspace])).finish();
        assert_eq!(ran.code, code, "{what} {lockspace}: {ran:?}");
        assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
    }
    let mut dump = host.tool("lease-dump");
    let ran = Process::start(dump.args(["--events", "other"])).finish();
    assert_eq!(ran.code, 69, "{ran:?}");
    assert!(storage.heartbeat(1).bitmap().is_empty());
}

#[test]
fn events_go_to_the_daemon_and_come_from_it() {
    let storage = Storage::new(0);
    let daemon = Daemon::joined(&storage, 1);
    let (ours, _join) = Host::joined(&storage, 2);
    let script = "import sanlock, select, time\n\
        fd = sanlock.reg_event(b'LS')\n\
        print('listening')\n\
        end = time.time() + 25\n\
        while time.time() < end:\n\
        \x20 if select.select([fd], [], [], 0.2)[0]:\n\
        \x20   for e in sanlock.get_event(fd):\n\
        \x20     keys = ('from_host_id', 'host_id', 'event', 'data', 'generation')\n\
        \x20     print(*[e[k] for k in keys])\n";
    let theirs = Process::start(daemon.python(script).stdin(Stdio::null()));
    theirs.wait_for_stdout("listening");
    let listener = listening(&ours);
    ours.wait_for_renewal();
    assert_eq!(signal(&ours, "1:5:77").code, 0);
    // Again at each renewal, as it does itself.
    wait_until("the daemon hears it twice", Duration::from_secs(20), || {
        (theirs.stdout().matches("2 1 5 77 1\n").count() >= 2).then_some(())
    });
    let set = "import sanlock\nsanlock.set_event(b'LS', 2, 1, 6, 78)";
    assert_eq!(Process::start(&mut daemon.python(set)).finish().code, 0);
    assert_eq!(wait_for_lines(&listener, 1), [event(1, 2, 6, 78)]);
    // What stands in its heartbeat when that is over calls nobody.
    wait_until("its bit is gone", SOON, || {
        storage.heartbeat(1).bitmap().is_empty().then_some(())
    });
    assert_eq!(storage.heartbeat(1).event().number, 6);
    ours.wait_for_renewal();
    assert_eq!(lines(&listener).len(), 1);
}
