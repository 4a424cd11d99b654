//! What users do with the tools, and what they see: two hosts of ours on one machine.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::{Generation, Lver};
use lease_core::layout::Geometry;
use lease_core::record::leader::Stamp;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use support::files::{Ran, bytes};
use support::hosts::{Host, STAY};
use support::process::{Process, SOON, now};
use support::storage::{Storage, host_id};

/// It must end with `code`, and say why in a last line that contains `part`. Hosts that have just
/// joined have to look at each other first, and say so.
fn refused(ran: &Ran, code: i32, part: &str) {
    assert_eq!(ran.code, code, "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [looks @ .., last] = lines.as_slice() else {
        panic!("it does not say why: {ran:?}");
    };
    assert!(last.starts_with("lease-"), "{last}");
    assert!(last.contains(part), "{part:?} is not in {last:?}");
    let other = looks.iter().find(|l| !l.contains("waiting up to"));
    assert_eq!(other, None, "one line: {ran:?}");
}

/// It must end with `code`, and have said nothing.
fn quiet(ran: &Ran, code: i32) {
    assert_eq!((ran.code, ran.stderr.as_str()), (code, ""), "{ran:?}");
}

/// Ends a lease-hold as a user would, and sees its lease released.
fn end(hold: &Process) {
    hold.signal(Signal::SIGTERM);
    quiet(&hold.finish(), 143);
}

#[test]
fn what_a_user_does_at_the_end() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let line = format!("joined {} generation 1\n", storage.lockspace(1));
    assert_eq!(join_a.stdout(), line);

    let hold = a.holding(&[&resource]);
    assert_eq!(storage.owner(1), (Some(1), 1));
    let ran = b.hold(&[&resource], &["true"]);
    refused(
        &ran,
        75,
        "cannot acquire LS:R1: held by host 1 (host1) since ",
    );
    let end_of_line = format!(", pid {} sh; --wait waits for it [-243]\n", hold.pid());
    assert!(ran.stderr.ends_with(&end_of_line), "{}", ran.stderr);

    end(&hold);
    assert_eq!(storage.owner(1), (None, 1));
    quiet(&b.hold(&[&resource], &["true"]), 0);
    assert_eq!(storage.owner(1), (None, 2));
}

#[test]
fn every_geometry_is_joined_and_held() {
    for geometry in Geometry::ALL {
        let storage = Storage::of(geometry, 2);
        let (a, _join_a) = Host::joined(&storage, 1);
        let hold = a.holding(&[&storage.resource(1), &format!("{}:SH", storage.resource(2))]);
        assert_eq!(storage.owner(1), (Some(1), 1), "{geometry}");
        assert_eq!(storage.sharers(2, 2), [1], "{geometry}");
        end(&hold);
        assert_eq!(storage.owner(1), (None, 1), "{geometry}");
        assert_eq!(storage.sharers(2, 2), [] as [u64; 0], "{geometry}");
    }
}

#[test]
fn the_exit_status_is_the_commands() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let table = [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 75", 75),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ];
    for (script, code) in table {
        let ran = a.hold(&[&storage.resource(1)], &["sh", "-c", script]);
        quiet(&ran, code);
        assert_eq!(storage.owner(1).0, None, "{script}");
    }
}

#[test]
fn a_command_that_cannot_be_run_costs_nothing() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let text = storage.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    let executable = storage.path().join("executable");
    std::fs::write(&executable, "no program").unwrap();
    std::fs::set_permissions(&executable, PermissionsExt::from_mode(0o755)).unwrap();
    let before = storage.area(1);
    let table = [
        ("no-such-command", 127),
        ("/no/such/command", 127),
        ("", 127),
        (text.to_str().unwrap(), 126),
        ("/", 126),
    ];
    for (command, code) in table {
        refused(
            &a.hold(&[&storage.resource(1)], &[command]),
            code,
            "cannot run",
        );
        assert!(storage.area(1) == before, "{command}");
    }
    // What only the kernel can tell is told after the lease was had, and given back.
    let command = [executable.to_str().unwrap()];
    for contain in ["auto", "cgroup", "pidns", "tree"] {
        for _ in 0..5 {
            let ran = a.hold(&["--contain", contain, &storage.resource(1)], &command);
            if ran.code == 78 {
                break; // This machine cannot.
            }
            refused(&ran, 126, "cannot run");
            assert_eq!(storage.owner(1).0, None);
        }
    }
}

#[test]
fn the_command_finds_its_leases_in_the_environment() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 7);
    let (one, two) = (storage.resource(1), format!("{}:SH", storage.resource(2)));
    quiet(&a.hold(&[&storage.resource(1)], &["true"]), 0);
    let mut command = a.hold_command(&[&one, &two], &["env"]);
    command.env("LEASE_LVER", "stale").env("OTHER", "kept");
    let ran = Process::start(&mut command).finish();
    quiet(&ran, 0);
    let of = |name: &str| {
        let start = format!("{name}=");
        let mut found = ran.stdout.lines().filter_map(|l| l.strip_prefix(&*start));
        let value = found.next().unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(found.next(), None, "{name} twice");
        value.to_owned()
    };
    let expected = [
        ("LEASE_LOCKSPACE", "LS"),
        ("LEASE_RESOURCE", "R1"),
        ("LEASE_HOST_ID", "7"),
        ("LEASE_GENERATION", "1"),
        ("LEASE_LVER", "2"),
        ("LEASE_MODE", "exclusive"),
        ("OTHER", "kept"),
    ];
    for (name, value) in expected {
        assert_eq!(of(name), value, "{name}");
    }
    let leases: Value = serde_json::from_str(&of("LEASE_LEASES")).unwrap();
    let lease = |resource: &str, lver: u64, mode: &str| {
        serde_json::json!({"lockspace": "LS", "resource": resource, "host_id": 7,
            "generation": 1, "lver": lver, "mode": mode})
    };
    let both = serde_json::json!([lease("R1", 2, "exclusive"), lease("R2", 1, "shared")]);
    assert_eq!(leases, both);
}

#[test]
fn how_long_it_tries() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, _join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let hold = a.holding(&[&resource]);
    for who in [&a, &b] {
        refused(&who.hold(&["-n", &resource], &["true"]), 75, "held ");
        refused(&who.hold(&["-E", "0", &resource], &["true"]), 0, "held ");
        refused(
            &who.hold(&["-E", "255", "-n", &resource], &["true"]),
            255,
            "held ",
        );
        let start = now();
        let ran = who.hold(&["-w", "1.5", "-E", "9", &resource], &["true"]);
        assert_eq!(ran.code, 9, "{ran:?}");
        assert!(ran.stderr.contains("held "), "{ran:?}");
        assert!(now().since(start) >= Duration::from_millis(1500));
    }

    let waiting = [&a, &b].map(|who| who.start_hold(&["-w", "60", &resource], &["echo", "got"]));
    waiting
        .iter()
        .for_each(|hold| hold.wait_for_stderr("trying for"));
    end(&hold);
    let released = now();
    for hold in waiting {
        let ran = hold.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "got\n"), "{ran:?}");
    }
    // Within a second each; some more for a slow machine.
    let both = now().since(released);
    assert!(both < Duration::from_secs(20), "{both:?}");
}

/// On its way to sharing it owns the lease for a moment, in which its lease-hold was stopped.
#[test]
fn whoever_is_stopped_while_it_passes_through_is_not_waited_for_without_an_end() {
    let storage = Storage::new(1);
    let (a, _join_a) = Host::joined(&storage, 1);
    let (_b, _join_b) = Host::joined(&storage, 2);
    let owner = Stamp {
        host: host_id(2),
        generation: Generation(1),
        timestamp: 5,
    };
    let passing = storage
        .leader(1)
        .committed(Lver(1), owner, owner, Some(true));
    storage.put_leader(1, &passing);
    a.wait_for_renewal();
    let resource = storage.resource(1);
    for args in [vec!["-n"], vec![], vec!["-w", "12"]] {
        let ran = a.hold(&[&args[..], &[&resource]].concat(), &["true"]);
        assert_eq!(ran.code, 75, "{args:?}: {ran:?}");
        let why = "cannot acquire LS:R1: host 2 is acquiring it shared";
        assert!(ran.stderr.contains(why), "{args:?}: {ran:?}");
        assert_eq!(storage.leader(1), passing);
    }
}

#[test]
fn only_the_version_that_was_asked_for() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    quiet(&a.hold(&[&resource], &["true"]), 0);
    let before = storage.area(1);
    let ran = a.hold(&["-w", "60", &format!("{resource}:17")], &["true"]);
    refused(
        &ran,
        75,
        "its lver is 1, not the one asked for; without it in the argument any version will do [-240]",
    );
    assert!(storage.area(1) == before);
    quiet(&a.hold(&[&format!("{resource}:1")], &["true"]), 0);
    assert_eq!(storage.owner(1), (None, 2));
}

#[test]
fn rule_20_all_or_none() {
    let storage = Storage::new(3);
    let [one, two, three] = [1, 2, 3].map(|n| storage.resource(n));
    let (a, _join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);

    let hold = a.holding(&[&one, &two, &three]);
    assert_eq!([1, 2, 3].map(|n| storage.owner(n).0), [Some(1); 3]);
    end(&hold);
    assert_eq!([1, 2, 3].map(|n| storage.owner(n).0), [None; 3]);

    let hold = b.holding(&[&two]);
    let ran = a.hold(&[&one, &two, &three], &["true"]);
    refused(&ran, 75, "cannot acquire LS:R2: held by host 2");
    assert_eq!([1, 2, 3].map(|n| storage.owner(n).0), [None, Some(2), None]);

    // While it waits for one it holds none of the others.
    let waiting = a.start_hold(&["-w", "60", &one, &two, &three], &["true"]);
    waiting.wait_for_stderr("trying for");
    quiet(&b.hold(&["-w", "10", &one, &three], &["true"]), 0);
    end(&hold);
    assert_eq!(waiting.finish().code, 0);
    assert_eq!([1, 2, 3].map(|n| storage.owner(n).0), [None; 3]);
}

#[test]
fn rule_20_two_who_want_the_same_two_get_them_one_after_the_other() {
    let storage = Storage::new(2);
    let [one, two] = [1, 2].map(|n| storage.resource(n));
    let (a, _join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let command = ["sleep", "0.2"];
    let start = |who: &Host, first: &str, second: &str| {
        who.start_hold(&["-w", "60", first, second], &command)
    };
    let holds: Vec<_> = (0..4)
        .flat_map(|_| [start(&a, &one, &two), start(&b, &two, &one)])
        .collect();
    for hold in holds {
        let ran = hold.finish_within(Duration::from_secs(60));
        assert_eq!(ran.code, 0, "{ran:?}");
    }
}

#[test]
fn leases_in_two_lockspaces_for_one_command() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let other = storage.path().join("other");
    let [lockspace, resource] = [("LX:0", 0), ("LX:RX", 1 << 20)]
        .map(|(name, offset)| format!("{name}:{}:{offset}", other.display()));
    let init = ["--create", "-o", "1", "-s", &lockspace, "-r", &resource];
    assert_eq!(
        support::files::run(storage.path(), "lease-init", &init).code,
        0
    );

    let both = [storage.resource(1), resource];
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    refused(&a.hold(&both, &["true"]), 69, "lockspace LX");
    let mut command = std::process::Command::new(support::files::binary("lease-join"));
    command
        .arg("--run-dir")
        .arg(&a.run_dir)
        .arg(lockspace.replace(":0:", ":9:"));
    let join = Process::start(&mut command);
    join.wait_for_stdout("joined LX:9:");

    let script = "echo \"$LEASE_LEASES\"";
    let ran = a.hold(&both, &["sh", "-c", script]);
    let leases: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        [&leases[0]["host_id"], &leases[1]["host_id"]],
        [1, 9],
        "{ran:?}"
    );
    assert_eq!(
        [&leases[0]["lockspace"], &leases[1]["lockspace"]],
        ["LS", "LX"]
    );
}

#[test]
fn sharers_share_and_only_the_last_on_a_host_ends_its_share() {
    let storage = Storage::new(1);
    let (exclusive, shared) = (storage.resource(1), format!("{}:SH", storage.resource(1)));
    let (a, _join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let (c, _join_c) = Host::joined(&storage, 3);

    let on_a = [a.holding(&[&shared]), a.holding(&[&shared])];
    let on_b = b.holding(&[&shared]);
    assert_eq!(storage.sharers(1, 3), [1, 2]);
    assert_eq!(storage.owner(1).0, None);
    refused(
        &c.hold(&[&exclusive], &["true"]),
        75,
        "held shared by hosts 1, 2; --wait waits for it [-11]",
    );
    refused(
        &a.hold(&[&exclusive], &["true"]),
        75,
        "held on this host by lease-hold pid",
    );

    end(&on_a[0]);
    assert_eq!(storage.sharers(1, 3), [1, 2]);
    refused(
        &c.hold(&[&exclusive], &["true"]),
        75,
        "held shared by hosts 1, 2; --wait waits for it [-11]",
    );
    end(&on_b);
    assert_eq!(storage.sharers(1, 3), [1]);
    refused(
        &c.hold(&[&exclusive], &["true"]),
        75,
        "held shared by host 1; --wait waits for it [-11]",
    );
    let waiting = c.start_hold(&["-w", "60", &exclusive], &["true"]);
    waiting.wait_for_stderr("held shared by host 1");
    end(&on_a[1]);
    assert_eq!(storage.sharers(1, 3), [] as [u64; 0]);
    assert_eq!(waiting.finish().code, 0);

    let hold = a.holding(&[&exclusive]);
    refused(&b.hold(&[&shared], &["true"]), 75, "held by host 1 (host1)");
    refused(&a.hold(&[&shared], &["true"]), 75, "held on this host by");
    end(&hold);
}

#[test]
fn sharers_that_come_at_the_same_time_all_get_in() {
    let storage = Storage::new(1);
    let shared = format!("{}:SH", storage.resource(1));
    let hosts = [1, 2, 3].map(|id| Host::joined(&storage, id));
    let start = |(host, _): &(Host, Process)| host.start_hold(&[&shared], &STAY);
    let holds: Vec<_> = (0..3).flat_map(|_| hosts.iter().map(start)).collect();
    holds.iter().for_each(|hold| hold.wait_for_stdout("held"));
    assert_eq!(storage.sharers(1, 3), [1, 2, 3]);
    holds.iter().for_each(|hold| hold.signal(Signal::SIGTERM));
    holds
        .iter()
        .for_each(|hold| assert_eq!(hold.finish().code, 143));
    assert_eq!(storage.sharers(1, 3), [] as [u64; 0]);
}

#[test]
fn a_wait_that_is_ended_leaves_nothing_on_the_disk() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let hold = a.holding(&[&resource]);
    let before = storage.area(1);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let waiting = b.start_hold(&["-w", "60", &resource], &["true"]);
        waiting.wait_for_stderr("trying for");
        waiting.signal(signal);
        assert_eq!(waiting.finish().code, code);
    }
    assert!(storage.area(1) == before);

    // Also while it is not known whether the owner lives.
    join_a.kill();
    hold.kill();
    let before = storage.area(1);
    let waiting = b.start_hold(&["-w", "60", &resource], &["true"]);
    waiting.wait_for_stderr("host 1");
    waiting.signal(Signal::SIGTERM);
    assert_eq!(waiting.finish().code, 143);
    assert!(storage.area(1) == before);
}

#[test]
fn signals_are_handed_on_to_the_command() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let script = "for s in HUP INT USR1 USR2 TERM; do trap \"echo got $s\" $s; done
        echo held; while :; do sleep 0.05; done";
    let hold = a.start_hold(&[&storage.resource(1)], &["sh", "-c", script]);
    hold.wait_for_stdout("held");
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTERM,
    ];
    for signal in signals {
        hold.signal(signal);
        hold.wait_for_stdout(&format!("got {}", &signal.as_str()[3..]));
    }
    assert_eq!(storage.owner(1), (Some(1), 1));
}

#[test]
fn a_daemon_that_the_command_left_behind_keeps_the_lease_until_it_is_gone() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, _join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let go = storage.path().join("go");
    let script = format!(
        "setsid sh -c 'echo daemon $$; until [ -e {} ]; do sleep 0.05; done' & exit 5",
        go.display()
    );
    let hold = a.start_hold(&[&resource], &["sh", "-c", &script]);
    hold.wait_for_stdout("daemon");
    refused(&b.hold(&[&resource], &["true"]), 75, "held by host 1");
    assert_eq!(hold.code(), None);
    let said = "lease-hold: sh has ended (5); waiting for pid";
    hold.wait_for_stderr(said);
    std::fs::write(&go, "").unwrap();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stderr.lines().count()), (5, 1), "{ran:?}");
    quiet(&b.hold(&[&resource], &["true"]), 0);
}

#[test]
fn leaving_ends_the_commands_and_frees_everything() {
    let storage = Storage::new(3);
    let (a, join) = Host::joined(&storage, 1);
    let note = storage.path().join("note");
    let script = format!(
        "trap 'echo term >{}; exit 7' TERM; echo held; while :; do sleep 0.05; done",
        note.display()
    );
    let shared = format!("{}:SH", storage.resource(2));
    let hold = a.start_hold(&[&storage.resource(1), &shared], &["sh", "-c", &script]);
    hold.wait_for_stdout("held");
    // One that does not end by itself is killed.
    let stubborn = [
        "sh",
        "-c",
        "trap '' TERM; echo held; while :; do sleep 0.05; done",
    ];
    let stubborn = a.start_hold(&[&storage.resource(3)], &stubborn);
    stubborn.wait_for_stdout("held");

    join.signal(Signal::SIGTERM);
    let ran = join.finish();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hold.finish().code, 7);
    assert_eq!(stubborn.finish().code, 137);
    assert_eq!(bytes(&note), b"term\n");
    assert_eq!([1, 2, 3].map(|n| storage.owner(n).0), [None; 3]);
    assert_eq!(storage.sharers(2, 1), [] as [u64; 0]);
    assert!(storage.heartbeat(1).is_free());

    // The next life starts at once, with the next generation.
    let again = a.join();
    assert!(
        again.stdout().ends_with(" generation 2\n"),
        "{}",
        again.stdout()
    );
    quiet(&a.hold(&[&storage.resource(1)], &["true"]), 0);
}

#[test]
fn one_lease_join_for_a_lockspace_and_one_host_for_a_host_id() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    refused(
        &a.start_join().finish(),
        75,
        "another lease-join of this lockspace runs here",
    );

    let mut other = Host::new(&storage, 1);
    other.run_dir = storage.path().join("elsewhere");
    let ran = other.start_join().finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    let last = ran.stderr.lines().last().unwrap();
    assert!(
        last.contains("in use by host1; that is our own name: a clone?"),
        "{last}"
    );
    assert_eq!(storage.heartbeat(1).generation().0, 1);
    quiet(&a.hold(&[&storage.resource(1)], &["true"]), 0);
}

#[test]
fn a_join_that_is_called_off_leaves_the_host_id_free() {
    let storage = Storage::new(1);
    let host = Host::new(&storage, 1);
    let join = host.start_join();
    join.wait_for_stderr("waiting 2 s");
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
    assert!(storage.heartbeat(1).is_free());
}

#[test]
fn the_name_is_random_unless_it_is_given() {
    let storage = Storage::new(1);
    let names: Vec<_> = [3, 4]
        .map(|id| {
            let mut command = std::process::Command::new(support::files::binary("lease-join"));
            command
                .arg("--run-dir")
                .arg(storage.path().join(format!("r{id}")));
            let join = Process::start(command.arg(storage.lockspace(id)));
            join.wait_for_stdout("joined");
            storage.heartbeat(id).host_name().unwrap()
        })
        .into();
    assert_ne!(names[0], names[1]);
    // Without a watchdog time that was asked for it promises what sanlock does.
    assert_eq!(storage.heartbeat(3).note().unwrap().watchdog, 60);
    assert_eq!(storage.heartbeat(3).io_timeout(), Some(1));
}

#[test]
fn rule_12_what_no_watchdog_backs_is_said_at_the_start_and_less_must_be_asked_for() {
    let storage = Storage::new(0);
    for (asked, promised) in [(None, 60), (Some("2"), 2)] {
        let a = Host::new(&storage, 1);
        let mut command = a.tool("lease-join");
        command.args(asked.map(|seconds| format!("--watchdog-timeout={seconds}")));
        let join = Process::start(command.arg(storage.lockspace(1)));
        join.wait_for_stdout("joined");
        let said = format!(
            "promised to be dead {promised} s after a loss; without a watchdog device nothing ends"
        );
        assert!(join.stderr().contains(&said), "{}", join.stderr());
        let record = storage.heartbeat(1);
        assert_eq!(record.note().unwrap().watchdog, promised);
        join.signal(Signal::SIGTERM);
        assert_eq!(join.finish().code, 0);
    }
}

#[test]
fn the_service_manager_is_told_when_it_has_joined() {
    let storage = Storage::new(1);
    let path = storage.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut command = Host::new(&storage, 1).join_command();
    let join = Process::start(command.env("NOTIFY_SOCKET", &path));
    let mut message = [0; 64];
    let len = socket.recv(&mut message).unwrap();
    assert_eq!(message[..len].trim_ascii_end(), b"READY=1");
    assert!(join.stdout().starts_with("joined"));
}

#[test]
fn what_the_command_leaves_behind_gets_the_next_signal() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let left = "trap \"echo got; exit\" USR1; echo left; while :; do sleep 0.05; done";
    let script = format!("setsid sh -c '{left}' & exit 5");
    let hold = a.start_hold(&[&storage.resource(1)], &["sh", "-c", &script]);
    hold.wait_for_stdout("left");
    hold.wait_for_stderr("sh has ended (5)");
    hold.signal(Signal::SIGUSR1);
    let ran = hold.finish();
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (5, "left\ngot\n"),
        "{ran:?}"
    );
}
