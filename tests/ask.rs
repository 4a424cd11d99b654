//! One host asks another for a lease: between hosts of ours, and between ours and the real daemon.
//! t = 1, W = 2.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::Lver;
use lease_core::record::heartbeat::Event;
use lease_core::record::request::{Force, Request};
use nix::sys::signal::Signal;
use std::time::Duration;
use support::files::patch;
use support::hosts::{Host, STAY};
use support::process::{Process, SOON, now, wait_until};
use support::sanlock::Daemon;
use support::storage::{Storage, host_id};

/// A command that ends by itself when it is asked to, and says so.
const OBEYS: [&str; 3] = [
    "sh",
    "-c",
    "trap 'echo asked; exit 7' TERM; echo held; while :; do sleep 0.1; done",
];
/// One that does not.
const STUBBORN: [&str; 3] = [
    "sh",
    "-c",
    "trap '' TERM; echo held; while :; do sleep 0.1; done",
];

fn holding(host: &Host, args: &[&str], command: &[&str]) -> Process {
    let hold = host.start_hold(args, command);
    hold.wait_for_stdout("held");
    hold
}

fn request(storage: &Storage) -> Request {
    Request::decode(&storage.area(1)[512..1024]).unwrap()
}

#[test]
fn whoever_is_asked_to_stop_does_as_it_wishes_and_the_lease_goes_to_who_asked() {
    let storage = Storage::new(1);
    let [(one, _first), (other, _second)] = [1, 2].map(|id| Host::joined(&storage, id));
    let resource = storage.resource(1);
    let hold = holding(&one, &[&resource], &OBEYS);
    let asks = other.start_hold(&["-w", "60", "--request", &resource], &["echo", "got it"]);
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "held\nasked\n"));
    let said = "lease-hold: LS:R1 is asked for by host 2: asking sh to stop\n";
    assert_eq!(ran.stderr, said);
    let ran = asks.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "got it\n"), "{ran:?}");
    assert_eq!(request(&storage), Request::new(Lver(2), Force::Stop));
    assert!(
        storage.area(1)[512 + 24..1024]
            .iter()
            .all(|byte| *byte == 0)
    );
    // What stands there asks nothing of who holds it now, whoever is called.
    let hold = holding(&one, &[&resource], &OBEYS);
    let shares = format!("{}:SH", storage.resource(1));
    let waits = other.start_hold(&["-w", "60", "--request=stop", &shares], &["true"]);
    assert_eq!(hold.finish().code, 7, "this one is new");
    assert_eq!(waits.finish().code, 0);
}

#[test]
fn an_older_request_does_nothing_and_the_bit_is_there_for_6t() {
    let storage = Storage::new(2);
    let [(one, _first), (other, _second)] = [1, 2].map(|id| Host::joined(&storage, id));
    let [asked_for, kept] = [1, 2].map(|number| storage.resource(number));
    // Both are held by one host; the request that stands at one of them is met already.
    for _ in 0..2 {
        assert_eq!(one.hold(&[&kept], &["true"]).code, 0);
    }
    let met = Request::new(Lver(3), Force::Kill);
    patch(storage.file(), storage.offset(2) + 512, &met.encode());
    let keeps = one.holding(&[&kept]);
    let stubborn = holding(&one, &[&asked_for], &STUBBORN);
    let asks = other.start_hold(&["-w", "60", "--request", &asked_for], &["true"]);
    let bit = || storage.heartbeat(2).bitmap();
    wait_until("the bit", SOON, || (!bit().is_empty()).then_some(()));
    let since = now();
    stubborn.wait_for_stderr("is asked for by host 2: asking sh to stop");
    wait_until("no bit", Duration::from_secs(20), || {
        bit().is_empty().then_some(())
    });
    let lasted = now().since(since).as_secs_f64();
    assert!((3.5..12.0).contains(&lasted), "{lasted} s");
    // Who does not stop goes on.
    assert_eq!(stubborn.code(), None);
    assert_eq!((keeps.code(), keeps.stderr()), (None, String::new()));
    asks.signal(Signal::SIGTERM);
    assert_eq!(asks.finish().code, 143);
    // By force it is killed, though it was asked for more gently before.
    let ran = other.hold(&["-w", "60", "--request=kill", &asked_for], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = stubborn.finish();
    assert_eq!(ran.code, 137, "{ran:?}");
    assert!(ran.stderr.ends_with("by host 2: killing sh\n"), "{ran:?}");
    assert_eq!(request(&storage), Request::new(Lver(2), Force::Kill));
    assert_eq!(keeps.code(), None);
}

#[test]
fn who_renews_no_more_calls_nobody() {
    let storage = Storage::new(1);
    let [(one, _first), (other, second)] = [1, 2].map(|id| Host::joined(&storage, id));
    let hold = holding(&one, &[&storage.resource(1)], &OBEYS);
    second.kill();
    // By then its last renewal has been seen.
    one.wait_for_renewal();
    one.wait_for_renewal();
    let next = Request::new(Lver(2), Force::Kill).encode();
    patch(storage.file(), storage.offset(1) + 512, &next);
    // What stands there was seen to change before: now it does not.
    let called = storage
        .heartbeat(2)
        .calling([1].map(host_id), Event::default());
    storage.put_heartbeat(2, &called);
    for _ in 0..3 {
        one.wait_for_renewal();
    }
    assert_eq!((hold.code(), hold.stderr()), (None, String::new()));
    // Once it does, by whoever has it now, it calls.
    let _second = other.join();
    let asks = other.start_hold(&["-w", "60", "--request", &storage.resource(1)], &["true"]);
    assert_eq!(hold.finish().code, 137);
    assert_eq!(asks.finish().code, 0);
}

#[test]
fn all_who_share_are_asked_and_a_command_of_ones_own_is_run_instead_of_a_signal() {
    let storage = Storage::new(1);
    let hosts = [1, 2, 3].map(|id| Host::joined(&storage, id));
    let [one, two, three] = hosts.each_ref().map(|(host, _)| host);
    let (resource, shared) = (storage.resource(1), storage.resource(1) + ":SH");
    let first = holding(one, &[&shared], &OBEYS);
    let also = holding(one, &[&shared], &OBEYS);
    let told = storage.path().join("told");
    let script = format!(
        "echo $LEASE_RESOURCE >{}; sleep 1; kill $PPID",
        told.display()
    );
    let wishes = ["--on-request", &script, &shared];
    let second = holding(two, &wishes, &STAY);
    // Its parent is lease-hold, by which the command is asked to end.
    let ran = three.hold(&["-w", "60", "--request", &resource], &["echo", "got it"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "got it\n"), "{ran:?}");
    for hold in [first, also] {
        assert_eq!(hold.finish().code, 7);
    }
    assert_eq!(second.finish().code, 143, "{}", second.stderr());
    assert_eq!(std::fs::read_to_string(told).unwrap(), "R1\n");
}

#[test]
fn another_holder_on_the_same_host_is_asked_too() {
    let storage = Storage::new(1);
    let (host, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let hold = holding(&host, &[&resource], &OBEYS);
    let ran = host.hold(&["-w", "60", "--request", &resource], &["echo", "got it"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "got it\n"), "{ran:?}");
    assert_eq!(hold.finish().code, 7);
}

#[test]
fn a_lease_join_that_is_restarted_on_either_side_loses_no_request() {
    let storage = Storage::new(1);
    let hosts = [1, 2].map(|id| Host::joined(&storage, id));
    let [(one, first), (other, second)] = hosts;
    let resource = storage.resource(1);
    let hold = holding(&one, &[&resource], &OBEYS);
    one.wait_for_renewal();
    first.signal(Signal::SIGSTOP);
    let asks = other.start_hold(&["-w", "60", "--request", &resource], &["echo", "got it"]);
    wait_until("the bit", SOON, || {
        (!storage.heartbeat(2).bitmap().is_empty()).then_some(())
    });
    second.kill();
    first.kill();
    assert_eq!(hold.code(), None, "it was not asked yet");
    let (_first, _second) = (one.join(), other.join());
    assert_eq!(hold.finish().code, 7, "{}", hold.stderr());
    let ran = asks.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "got it\n"), "{ran:?}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let storage = Storage::new(1);
    let (host, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    for args in [
        ["--request", &resource].as_slice(),
        &["-w", "1", "--request=please", &resource],
        &["-n", "--request", &resource],
    ] {
        let ran = host.hold(args, &["true"]);
        assert_eq!(ran.code, 64, "{ran:?}");
    }
    // A record that is none is written over by nobody.
    let (other, _second) = Host::joined(&storage, 2);
    let hold = host.holding(&[&resource]);
    patch(storage.file(), storage.offset(1) + 512, b"garbage");
    let ran = other.hold(&["-w", "60", "--request", &resource], &["true"]);
    assert_eq!(ran.code, 65, "{ran:?}");
    assert!(ran.stderr.contains("request record"), "{ran:?}");
    assert_eq!(&storage.area(1)[512..519], b"garbage");
    assert_eq!(hold.code(), None);
}

// ---- with the real daemon

#[test]
fn the_daemon_asks_us() {
    let storage = Storage::new(1);
    let daemon = Daemon::joined(&storage, 1);
    let (ours, _join) = Host::joined(&storage, 2);
    let resource = storage.resource(1);
    let ask = |mode: &str| {
        let next = format!("{resource}:{}", storage.owner(1).1 + 1);
        let ran = daemon.client(&["request", "-r", &next, "-f", mode]);
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    let hold = holding(&ours, &[&resource], &OBEYS);
    ask("2");
    assert_eq!(hold.finish().code, 7, "{}", hold.stderr());
    let said = "is asked for by host 1: asking sh to stop";
    assert!(hold.stderr().contains(said));
    // Of one that is met it is silent; a host is asked again only some time later.
    let hold = holding(&ours, &[&resource], &STUBBORN);
    wait_until("it is over", Duration::from_secs(20), || {
        storage.heartbeat(1).bitmap().is_empty().then_some(())
    });
    assert_eq!(hold.code(), None);
    ask("1");
    assert_eq!(hold.finish().code, 137, "{}", hold.stderr());
    assert!(hold.stderr().ends_with("by host 1: killing sh\n"));
}

#[test]
fn we_ask_the_daemon() {
    let storage = Storage::new(1);
    let daemon = Daemon::joined(&storage, 1);
    let (ours, _join) = Host::joined(&storage, 2);
    let resource = storage.resource(1);
    // The daemon signals a process that it has given a lease.
    let command = ["command", "-r", &resource, "-c", "/bin/sh", "-c"];
    for (how, script, code) in [("stop", OBEYS[2], Some(7)), ("kill", STUBBORN[2], None)] {
        let mut start = daemon.command(&command);
        let holder = Process::start(start.arg(script));
        holder.wait_for_stdout("held");
        let request = format!("--request={how}");
        let ran = ours.hold(&["-w", "60", &request, &resource], &["echo", "got it"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "got it\n"), "{ran:?}");
        let ran = holder.finish();
        assert!(code.is_none_or(|code| ran.code == code), "{how}: {ran:?}");
        // It takes no second request of the same host for 6t.
        wait_until("it is over", Duration::from_secs(20), || {
            storage.heartbeat(2).bitmap().is_empty().then_some(())
        });
    }
}
