//! The registry is nobody's way in: who may talk, what names and links cannot do, and what
//! nonsense, floods and crowds cost the others, which is nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::files::{as_nobody, binary, patch, run};
use support::hosts::Host;
use support::process::{Process, SOON, now, runs, wait_until};
use support::storage::Storage;

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn nobody_else_may_talk_to_lease_join() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1);
    // Whatever the umask.
    let tool = a.join_command();
    let words: Vec<_> = std::iter::once(tool.get_program())
        .chain(tool.get_args())
        .collect();
    let mut shell = Command::new("sh");
    let join = Process::start(shell.args(["-c", "umask 0; exec \"$@\"", "sh"]).args(words));
    join.wait_for_stdout("joined");
    let dir = a.run_dir.join("LS");
    let socket = dir.join("socket");
    assert_eq!(mode(&a.run_dir), 0o755);
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&socket), 0o600);
    assert!(
        std::fs::symlink_metadata(&socket)
            .unwrap()
            .file_type()
            .is_socket()
    );
    for file in ["state", "heartbeat", "lock"] {
        wait_until(file, SOON, || dir.join(file).exists().then_some(()));
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }

    let mut dump = as_nobody(storage.path(), "lease-dump");
    dump.arg("--local").arg("--run-dir").arg(&a.run_dir);
    // 126: another test's child still has the copy open for writing.
    let mut ask = || {
        wait_until("it is run", SOON, || {
            let ran = Process::start(&mut dump).finish();
            (ran.code != 126).then_some(ran)
        })
    };
    let ran = ask();
    let why = "lease-dump: cannot ask lease-join of lockspace LS: permission denied; \
               ask as its user, or as root\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (77, why));
    // Even where the file system would let them: whom it does not answer, lease-join is not there.
    for (path, mode, code) in [
        (&a.run_dir, 0o755, 77),
        (&dir, 0o755, 77),
        (&socket, 0o666, 69),
    ] {
        set_mode(path, mode);
        let ran = ask();
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{ran:?}");
    }
    let dump = run(
        storage.path(),
        "lease-dump",
        &["--local", "--run-dir", a.run_dir.to_str().unwrap()],
    );
    assert_eq!(dump.code, 0, "{dump:?}");
    assert_eq!(join.code(), None);
}

#[test]
fn a_name_cannot_leave_the_run_directory_and_no_link_is_followed() {
    let storage = Storage::new(1);
    for (number, name) in ["../up", "a/b", "..", ".", "/etc"].into_iter().enumerate() {
        let disk = storage
            .path()
            .join(format!("other{number}"))
            .display()
            .to_string();
        let spec = |host: u64| format!("{name}:{host}:{disk}:0");
        let ran = run(
            storage.path(),
            "lease-init",
            &["--create", "-o", "1", "-s", &spec(0)],
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        let run_dir = storage.path().join(format!("run{number}/inner"));
        let mut join = Command::new(binary("lease-join"));
        join.arg("--run-dir")
            .arg(&run_dir)
            .args(["--watchdog-timeout", "2", &spec(1)]);
        let join = Process::start(&mut join);
        join.wait_for_stdout("joined");
        let outer: Vec<_> = std::fs::read_dir(run_dir.parent().unwrap())
            .unwrap()
            .collect();
        let inner: Vec<_> = std::fs::read_dir(&run_dir).unwrap().collect();
        assert_eq!((outer.len(), inner.len()), (1, 1), "{name}");
        assert!(!storage.path().join("up").exists());
    }

    // A directory that somebody else has put there in advance.
    let a = Host::new(&storage, 1);
    let elsewhere = storage.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::create_dir(&a.run_dir).unwrap();
    symlink(&elsewhere, a.run_dir.join("LS")).unwrap();
    let ran = a.start_join().finish();
    assert!([73, 77].contains(&ran.code), "{ran:?}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);

    // A file in it that is a link.
    std::fs::remove_file(a.run_dir.join("LS")).unwrap();
    std::fs::create_dir(a.run_dir.join("LS")).unwrap();
    let precious = elsewhere.join("precious");
    std::fs::write(&precious, "as it was").unwrap();
    for file in ["lock", "heartbeat.new", "state.new"] {
        symlink(&precious, a.run_dir.join("LS").join(file)).unwrap();
        let join = a.start_join();
        let code = wait_until("it fails or joins", SOON, || {
            join.code().or((!join.stdout().is_empty()).then_some(0))
        });
        println!("{file}: {code} {}", join.stderr());
        assert_eq!(
            std::fs::read_to_string(&precious).unwrap(),
            "as it was",
            "{file}"
        );
        std::fs::remove_file(a.run_dir.join("LS").join(file)).ok();
        drop(join);
    }
}

#[test]
fn rule_18_whatever_path_leads_there_it_is_the_same_resource_and_another_place_is_not() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let [hard, soft, copy, dir] = ["hard", "soft", "copy", "dir"].map(|n| storage.path().join(n));
    std::fs::hard_link(storage.file(), &hard).unwrap();
    symlink(storage.file(), &soft).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let through = dir.join("../disk");
    std::fs::copy(storage.file(), &copy).unwrap();
    let by = |path: &Path| {
        let own = storage.file().display().to_string();
        storage
            .resource(1)
            .replace(&own, &path.display().to_string())
    };
    let hold = a.holding(&[&storage.resource(1)]);
    for path in [&hard, &soft, &through] {
        let ran = a.hold(&["-n", &by(path)], &["true"]);
        assert_eq!(ran.code, 75, "{ran:?}");
        assert!(ran.stderr.contains("held on this host"), "{ran:?}");
        // Nor are they two resources of one lease-hold.
        let ran = a.hold(&["-n", &by(path), &storage.resource(1)], &["true"]);
        assert_eq!(ran.code, 64, "{ran:?}");
        assert!(ran.stderr.contains("the same resource"), "{ran:?}");
    }
    // Another file is another resource, whatever it is called there; and so is another offset.
    for other in [by(&copy), storage.resource(2)] {
        let ran = a.hold(&["-n", &other], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    // What it is called is on the disk.
    for (from, to) in [(":R1:", ":R3:"), ("LS:", "LX:")] {
        let ran = a.hold(&["-n", &by(&copy).replace(from, to)], &["true"]);
        assert_eq!(ran.code, 65, "{ran:?}");
    }
    assert_eq!(hold.code(), None);
}

#[test]
fn rule_18_what_has_become_another_resource_is_not_taken_for_the_one_that_was_opened() {
    let storage = Storage::new(2);
    let (a, _join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let _holder = b.holding(&[&storage.resource(1)]);
    let waits = a.start_hold(&["-w", "60", &storage.resource(1)], &["echo", "run"]);
    waits.wait_for_stderr("trying for");
    let other = storage.area(2);
    patch(storage.file(), storage.offset(1), &other);
    let ran = waits.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (65, ""), "{ran:?}");
    assert!(storage.area(1) == other);
}

#[test]
fn nonsense_costs_the_others_nothing() {
    let storage = Storage::new(2);
    let (a, join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&storage.resource(1)]);
    let socket = a.run_dir.join("LS/socket");
    let connect = || {
        let stream = UnixStream::connect(&socket).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    };
    let idle: Vec<UnixStream> = (0..500).map(|_| connect()).collect();
    let mut half = connect();
    half.write_all(b"{\"say\":\"regis").unwrap();

    let deep = "[".repeat(100_000) + "\n";
    let wrong = [
        "\n",
        "hello\n",
        "{}\n",
        "\0\0\0\0\n",
        "{\"say\":\"acquire\",\"index\":0}\n",
        "{\"say\":\"release\",\"index\":18446744073709551615}\n",
        "{\"say\":\"guard\",\"containment\":\"tree\"}\n",
        "{\"say\":\"register\",\"command\":\"x\",\"resources\":[]}\n",
        "{\"say\":\"resume\",\"holder\":1,\"generation\":1,\"phases\":[]}\n",
        &deep,
    ];
    for text in wrong {
        let mut stream = connect();
        // It may be closed before all is written.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("registered"), "{answer}");
    }
    // A line that never ends.
    let mut endless = connect();
    let block = vec![b'x'; 1 << 20];
    let mut written = 0_u64;
    while written < (256 << 20) {
        match endless.write(&block) {
            Ok(len) => written += len as u64,
            Err(_) => break,
        }
    }
    println!("closed after {written} bytes");
    assert!(written < (256 << 20), "an endless line is taken in");

    let ran = a.hold(&[&storage.resource(2)], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let before = now();
    while a.wait_for_renewal().since(before) < Duration::from_secs(10) {}
    assert_eq!((join.code(), hold.code()), (None, None));
    let memory = std::fs::read_to_string(format!("/proc/{}/status", join.pid())).unwrap();
    let resident = memory
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
    println!("{kilobytes} kB");
    assert!(kilobytes < 64 << 10, "{kilobytes} kB");
    drop((idle, half));
}

#[test]
fn an_acquire_beside_many_holders_writes_less_than_a_line_for_each_of_them() {
    const HOLDERS: u64 = 40;
    let storage = Storage::new(HOLDERS + 1);
    let (a, join) = Host::joined(&storage, 1);
    let holds: Vec<Process> = (1..=HOLDERS)
        .map(|number| a.holding(&[&storage.resource(number)]))
        .collect();
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", join.pid())).unwrap();
        let bytes = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        bytes.unwrap().parse::<u64>().unwrap()
    };
    // Now and then all holders are written, in a file that is empty but for them.
    let one_more = || {
        let before = written();
        let ran = a.hold(&[&storage.resource(HOLDERS + 1)], &["true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        written() - before
    };
    let least = std::iter::repeat_with(one_more).take(4).min().unwrap();
    println!("{least} bytes");
    // Each holder has a line of more than this.
    assert!(least < HOLDERS * 300, "{least} bytes");
    assert!(holds.iter().all(|hold| hold.code().is_none()));
}

#[test]
fn a_crowd_of_holders_dies_in_time() {
    let crowd: usize = std::env::var("CROWD").map_or(200, |n| n.parse().unwrap());
    // One of four has its resource alone, the others share one.
    let alone = crowd / 4;
    let storage = Storage::new(alone as u64 + 1);
    let a = Host::new(&storage, 1).promising(10);
    let join = a.join();
    let resource = |number: usize| match number < alone {
        true => storage.resource(number as u64 + 2),
        false => format!("{}:SH", storage.resource(1)),
    };
    let holds: Vec<Process> = (0..crowd)
        .map(|number| {
            let command = ["sh", "-c", "echo held; exec sleep 1000"];
            a.start_hold(&["-w", "120", &resource(number)], &command)
        })
        .collect();
    for hold in &holds {
        wait_until("all hold", Duration::from_secs(120), || {
            assert_eq!(hold.code(), None, "{}", hold.stderr());
            (!hold.stdout().is_empty()).then_some(())
        });
    }
    let said = a.describe();
    let holders = said["holders"].as_array().unwrap();
    assert_eq!(holders.len(), crowd);
    let guarded: Vec<i32> = holders
        .iter()
        .map(|holder| {
            assert_eq!(
                (&holder["link"], &holder["command"]),
                (&"connected".into(), &"sh".into())
            );
            i32::try_from(holder["guarded"].as_i64().unwrap()).unwrap()
        })
        .collect();
    assert!(
        holds.iter().all(|hold| hold.code().is_none()),
        "one was lost meanwhile"
    );
    assert_eq!(storage.sharers(1, 1), [1]);

    a.wait_for_renewal();
    join.kill();
    let renewed = a.renewed();
    let all = || (!guarded.iter().any(|pid| runs(*pid))).then(now);
    let ended = wait_until("the end of all", SOON, all)
        .since(renewed)
        .as_secs_f64();
    println!("{crowd} gone {ended:.1} s after the last renewal");
    assert!((8.0..18.0).contains(&ended), "{ended} s");
    for hold in holds {
        let ran = hold.finish();
        assert_eq!(ran.code, 124, "{ran:?}");
    }
}

#[test]
fn a_lease_join_that_is_leaving_or_has_lost_its_host_id_counts_as_none() {
    let storage = Storage::new(2);
    let (a, first) = Host::joined(&storage, 1);
    let refused = |why: &str| {
        let ran = a.hold(&[&storage.resource(2)], &["true"]);
        let said = format!(
            "lease-hold: lease-join of lockspace LS {why}; start it again when it has ended\n"
        );
        // 69 and not 78: a service manager tries again.
        assert_eq!((ran.code, ran.stderr), (69, said));
    };
    let stage = |name: &str| {
        wait_until(name, SOON, || (a.describe()["state"] == name).then_some(()));
    };
    // Stopped, it takes its 15 s to end.
    let hold = a.holding(&[&storage.resource(1)]);
    hold.signal(Signal::SIGSTOP);
    first.signal(Signal::SIGTERM);
    stage("stopping");
    refused("is leaving");
    hold.signal(Signal::SIGCONT);
    assert_eq!(first.finish().code, 0);

    let a = Host::new(&storage, 1).promising(60);
    let second = a.join();
    let hold = a.holding(&[&storage.resource(1)]);
    // Stopped, it is there for a quarter of W.
    hold.signal(Signal::SIGSTOP);
    storage.put_heartbeat(1, &storage.heartbeat(2));
    stage("lost");
    refused("has lost the host id: our heartbeat was overwritten by somebody");
    hold.signal(Signal::SIGCONT);
    assert_eq!(second.finish().code, 124);
}

/// Under two host ids both live, until one reboots and takes the other's record for its own.
#[test]
fn two_live_hosts_with_one_name_are_told_of_each_other_once() {
    let storage = Storage::new(0);
    let hosts = [1, 2].map(|id| Host::new(&storage, id).called("same"));
    let joins = hosts.each_ref().map(Host::join);
    for (join, (ours, theirs)) in joins.iter().zip([(1, 2), (2, 1)]) {
        join.wait_for_stderr(&format!(
            "host id {theirs} is held by a live host that is called same, as this one with host id \
             {ours} is; give each a name of its own"
        ));
    }
    let [first, _] = &hosts;
    for _ in 0..2 {
        first.wait_for_renewal();
    }
    for join in joins {
        assert_eq!(join.stderr().matches("called same").count(), 1);
    }
}

#[test]
fn a_host_id_that_is_in_use_by_our_own_name_may_be_a_clones() {
    let storage = Storage::new(0);
    let first = Host::new(&storage, 1).called("same");
    let _join = first.join();
    let elsewhere = Host::new(&storage, 3);
    let clone = Host::new(&storage, 1)
        .called("same")
        .in_place_of(&elsewhere);
    let ran = clone.start_join().finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    let said = "in use by same; that is our own name: a clone? Choose another host id";
    assert!(ran.stderr.contains(said), "{ran:?}");
    let other = Host::new(&storage, 1)
        .called("other")
        .in_place_of(&elsewhere);
    let ran = other.start_join().finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(!ran.stderr.contains("a clone?"), "{ran:?}");
}
