//! A process that runs already is guarded: its leases go back when it has ended, it is ended when
//! they are lost, and it is left alone where nothing has to end it.
#![allow(clippy::unwrap_used, clippy::panic)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;
use support::family::control_groups;
use support::files::Ran;
use support::hosts::Host;
use support::process::{Process, SOON, now, runs, state, wait_for_end, wait_until};
use support::storage::Storage;

/// A process that nobody guards, of nothing but itself.
fn sleeper() -> Process {
    Process::start(Command::new("sleep").arg("1000"))
}

/// lease-hold adopts a process; waits until it is guarded.
fn adopt(host: &Host, pid: i32, args: &[&str]) -> Process {
    let hold = start_to_adopt(host, pid, args);
    wait_until("it is guarded", SOON, || {
        assert_eq!(hold.code(), None, "{}", hold.stderr());
        (guarded(host, &hold)? == pid).then_some(())
    });
    hold
}

fn start_to_adopt(host: &Host, pid: i32, args: &[&str]) -> Process {
    let pid = pid.to_string();
    Process::start(host.tool("lease-hold").args(["--pid", &pid]).args(args))
}

/// Which process this lease-hold guards.
fn guarded(host: &Host, hold: &Process) -> Option<i32> {
    let holder = holder(host, hold.pid())?;
    holder["guarded"].as_i64()?.try_into().ok()
}

fn holder(host: &Host, pid: i32) -> Option<serde_json::Value> {
    let told = host.describe();
    let mut holders = told["holders"].as_array().unwrap().iter();
    let its = |holder: &&serde_json::Value| holder["pid"] == pid;
    holders.rfind(its).cloned()
}

/// Whether another can have it at once.
fn is_free(host: &Host, resource: &str) -> bool {
    host.hold(&["-n", resource], &["true"]).code == 0
}

/// Another has it within a time that is not enough to see a host dead.
fn becomes_free(host: &Host, resource: &str) {
    let ran = host.hold(&["-w", "9", resource], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn the_end_of_what_was_adopted_releases_and_nothing_ends_it() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let resources = [storage.resource(1), storage.resource(2)];
    let of = |process: &Process| {
        let args: Vec<&str> = resources.iter().map(String::as_str).collect();
        adopt(&a, process.pid(), &args)
    };
    let process = sleeper();
    let hold = of(&process);
    let told = holder(&a, hold.pid()).unwrap();
    assert_eq!(told["processes"][0]["pid"], process.pid(), "{told}");
    assert!(resources.iter().all(|resource| !is_free(&b, resource)));
    process.kill();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(resources.iter().all(|resource| is_free(&b, resource)));
    // Asked to end, it lets go of what it guards.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let process = sleeper();
        let hold = of(&process);
        hold.signal(signal);
        let ran = hold.finish();
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{signal}");
        assert!(resources.iter().all(|resource| is_free(&b, resource)));
        assert!(runs(process.pid()), "{signal}");
    }
}

#[test]
fn a_service_manager_is_told_once_all_is_held() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let holder = a.holding(&[&storage.resource(2)]);
    let path = storage.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let process = sleeper();
    let pid = process.pid().to_string();
    let both = [storage.resource(1), storage.resource(2)];
    let args = ["-w", "100", "--pid", &pid, &both[0], &both[1]];
    let mut command = a.tool("lease-hold");
    let hold = Process::start(command.args(args).env("NOTIFY_SOCKET", &path));
    hold.wait_for_stderr("held on this host by");
    socket.set_nonblocking(true).unwrap();
    let mut word = [0; 100];
    assert!(socket.recv(&mut word).is_err(), "nothing is held yet");
    socket.set_nonblocking(false).unwrap();
    holder.signal(Signal::SIGTERM);
    let length = socket.recv(&mut word).unwrap();
    assert_eq!(word[..length].trim_ascii_end(), b"READY=1");
    assert_eq!(guarded(&a, &hold), Some(process.pid()));
}

#[test]
fn refused_it_leaves_the_process_alone() {
    let storage = Storage::new(2);
    let (a, _join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let _holder = b.holding(&[&storage.resource(2)]);
    b.wait_for_renewal();
    a.wait_for_renewal();
    let process = sleeper();
    let both = [storage.resource(1), storage.resource(2)];
    let ran = start_to_adopt(&a, process.pid(), &["-w", "0.1", &both[0], &both[1]]).finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("[-243]"), "{ran:?}");
    assert!(runs(process.pid()) && is_free(&a, &both[0]));
    // It ends while its leases are waited for.
    let hold = start_to_adopt(&a, process.pid(), &["-w", "100", &both[1]]);
    hold.wait_for_stderr("held by host 2");
    process.kill();
    let ran = hold.finish();
    assert!(ran.stderr.contains("has ended"), "{ran:?}");
    assert_eq!(ran.code, 66, "{ran:?}");
}

#[test]
fn a_lost_lease_ends_it_in_time() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(10);
    let join = a.join();
    let process = sleeper();
    let told = storage.path().join("told");
    let on_loss = format!("echo lost > {}", told.display());
    let resource = storage.resource(1);
    let args = ["--on-loss", &on_loss, "--kill-signal", "INT", &resource];
    let hold = adopt(&a, process.pid(), &args);
    a.wait_for_renewal();
    join.signal(Signal::SIGSTOP);
    let renewed = a.renewed();
    let ran = hold.finish_within(Duration::from_secs(60));
    let age = now().since(renewed).as_secs_f64();
    assert_eq!(ran.code, 124, "{ran:?}");
    assert!(ran.stderr.contains("sleep was killed"), "{ran:?}");
    assert_eq!(process.finish().code, 128 + 2);
    assert!((8.0..18.0).contains(&age), "{age}");
    assert_eq!(std::fs::read_to_string(told).unwrap(), "lost\n");
}

#[test]
fn a_lease_hold_that_is_killed_takes_it_along_before_anybody_has_its_lease() {
    let storage = Storage::new(1);
    let (a, join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let process = sleeper();
    let hold = adopt(&a, process.pid(), &[&storage.resource(1)]);
    // Deaf to all but SIGKILL, and it cannot end before it is woken.
    process.signal(Signal::SIGSTOP);
    hold.kill();
    becomes_free(&b, &storage.resource(1));
    assert!(!runs(process.pid()));
    assert!(join.stderr().contains("its leases are free"));
}

#[test]
fn what_has_a_control_group_of_its_own_is_proven_gone_as_a_whole() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let resource = storage.resource(1);
    for killed in [true, false] {
        let group = control_groups().join(format!("adopt-{}-{killed}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        // What it has started has another parent by the time that it is to be ended.
        let script = format!(
            "echo $$ > {}/cgroup.procs; (setsid sleep 1000 & echo daemon $! &); exec sleep 1000",
            group.display()
        );
        let process = Process::start(Command::new("sh").args(["-c", &script]));
        process.wait_for_stdout("daemon ");
        let daemon: i32 = wait_until("a pid", SOON, || {
            let said = process.stdout();
            said.trim().strip_prefix("daemon ")?.parse().ok()
        });
        // Not its descendant, it keeps the group from being its own.
        let hold = adopt(&a, process.pid(), &["-v", &resource]);
        assert!(hold.stderr().contains("no control group of its own"));
        hold.signal(Signal::SIGTERM);
        assert_eq!(hold.finish().code, 0);
        kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        wait_for_end(daemon, SOON);
        let hold = adopt(&a, process.pid(), &["-v", &resource]);
        assert!(hold.stderr().contains("of its own"), "{}", hold.stderr());
        // From now on whoever is born there is guarded.
        let later = Process::start(Command::new("sleep").arg("1000"));
        std::fs::write(group.join("cgroup.procs"), later.pid().to_string()).unwrap();
        if killed {
            hold.kill();
        } else {
            process.kill();
            hold.wait_for_stderr("has ended (0); waiting for");
            assert!(!is_free(&b, &resource), "{killed}");
            later.kill();
            assert_eq!(hold.finish().code, 0);
        }
        becomes_free(&b, &resource);
        assert!(!runs(process.pid()) && !runs(later.pid()), "{killed}");
        // It is not ours to remove.
        wait_until("it is empty", SOON, || std::fs::remove_dir(&group).ok());
    }
}

#[test]
fn what_cannot_be_adopted_is_refused_in_one_line() {
    let storage = Storage::new(1);
    let (a, join) = Host::joined(&storage, 1);
    let resource = storage.resource(1);
    let before = std::fs::read(storage.file()).unwrap();
    let area = before.len() - (1 << 20)..;
    let refused = |pid: &str, code: i32, part: &str| {
        let args = ["--pid", pid, &resource];
        let ran = Process::start(a.tool("lease-hold").args(args)).finish();
        assert_eq!(ran.code, code, "{pid}: {ran:?}");
        assert!(ran.stderr.contains(part), "{pid}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{pid}: {ran:?}");
    };
    refused("0", 64, "0");
    refused("-1", 64, "-1");
    refused("x", 64, "x");
    refused("1", 64, "all others end with it");
    refused("2147483647", 66, "there is none");
    refused(&join.pid().to_string(), 64, "it is a lease-join");
    // It has ended, and nobody has waited for it.
    let zombie = Process::start(&mut Command::new("true"));
    wait_until("a zombie", SOON, || {
        (state(zombie.pid()) == Some('Z')).then_some(())
    });
    refused(&zombie.pid().to_string(), 66, "has ended");
    let thread = std::fs::read_dir(format!("/proc/{}/task", join.pid())).unwrap();
    let threads = thread
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut others = threads.filter(|number| *number != join.pid().to_string());
    refused(&others.next().unwrap(), 66, "thread");
    let kernel = (2..100).find(|pid| {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline"));
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        cmdline.is_ok_and(|text| text.is_empty()) && exe.is_err() && runs(*pid)
    });
    // In a container there is none to be seen.
    if let Some(kernel) = kernel {
        refused(&kernel.to_string(), 64, "a thread of the kernel");
    }
    let after = std::fs::read(storage.file()).unwrap();
    assert!(before[area.clone()] == after[area], "something was written");
}

#[test]
fn who_starts_lease_join_or_is_another_users_is_refused() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1);
    let join = a.join_command();
    let words: Vec<String> = std::iter::once(join.get_program())
        .chain(join.get_args())
        .map(|word| word.to_str().unwrap().to_owned())
        .collect();
    let script = format!("{} & wait", words.join(" "));
    let shell = Process::start(Command::new("sh").args(["-c", &script]));
    shell.wait_for_stdout("joined");
    let pid = shell.pid().to_string();
    let hold = |pid: &str| -> Ran {
        let args = ["--pid", pid, &storage.resource(1)];
        Process::start(a.tool("lease-hold").args(args)).finish()
    };
    let ran = hold(&pid);
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(ran.stderr.contains("descends from it"), "{ran:?}");
    // As another user, of this process.
    let own = std::process::id().to_string();
    let program = a.tool("lease-hold").get_program().to_owned();
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--clear-groups"]).arg(program);
    other.args(["--pid", &own, &storage.resource(1)]);
    let ran = Process::start(&mut other).finish();
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ran.stderr.contains("another user's"), "{ran:?}");
}
