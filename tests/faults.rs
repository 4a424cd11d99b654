//! Storage that misbehaves on one host's path to it: errors, hangs, slowness. What is transient
//! loses nothing; what stays kills in time; and nothing that hangs keeps anybody from acting.
//! t = 1, W = 10: lost 8 s after the last renewal, everything dead by 18 s.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;
use support::family::{CONTAINMENTS, Family, OWN_PID, PROVING, in_each};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{
    Process, SOON, is_in_io, now, runs, state, together, wait_for_end, wait_until,
};
use support::storage::Storage;

const WATCHDOG: u64 = 10;
const LOST_AFTER: f64 = 8.0;
const DEAD_AFTER: f64 = 18.0;

/// A host with its own path to a storage, joined.
struct Site {
    // In the order in which they have to go.
    join: Process,
    host: Host,
    path: StoragePath,
    storage: Storage,
}

impl Site {
    fn new(resources: u64) -> Self {
        Self::slow(resources, 0)
    }

    fn slow(resources: u64, milliseconds: u64) -> Self {
        let storage = Storage::new(resources);
        let path = StoragePath::slow(&storage, milliseconds);
        let host = Host::new(&storage, 1).promising(WATCHDOG);
        let host = host.by_way_of(&storage, &path.disk());
        Self {
            join: host.join(),
            host,
            path,
            storage,
        }
    }

    fn resource(&self, number: u64) -> String {
        self.host.resource(&self.storage, number)
    }

    /// Seconds since the last renewal.
    fn age(&self) -> f64 {
        now().since(self.host.renewed()).as_secs_f64()
    }

    /// Waits for a moment so many seconds after the last renewal.
    fn wait_for_age(&self, seconds: f64) {
        wait_until("time goes by", SOON, || {
            (self.age() >= seconds).then_some(())
        });
    }
}

#[test]
fn an_error_that_passes_loses_nothing() {
    let site = Site::new(1);
    let family = Family::start(&site.host, "cgroup", &[&site.resource(1)]);
    for _ in 0..2 {
        site.host.wait_for_renewal();
        site.path.refuse();
        site.wait_for_age(5.5);
        site.path.heal();
        site.host.wait_for_renewal();
        assert!(family.runs(), "{}", family.hold.stderr());
    }
    let said = site.join.stderr();
    assert!(said.contains("cannot renew LS:1:"), "{said}");
    assert_eq!(said.matches("renewed again").count(), 2, "{said}");
}

#[test]
fn a_hang_that_passes_loses_nothing() {
    let site = Site::new(1);
    let family = Family::start(&site.host, "cgroup", &[&site.resource(1)]);
    site.host.wait_for_renewal();
    site.path.hang();
    site.wait_for_age(5.5);
    site.path.go_on();
    site.host.wait_for_renewal();
    assert!(family.runs(), "{}", family.hold.stderr());
    assert_eq!(family.hold.code(), None);
}

#[test]
fn errors_that_stay_kill_in_time() {
    in_each(&CONTAINMENTS, |contain| {
        let site = Site::new(1);
        let family = Family::start(&site.host, contain, &[&site.resource(1)]);
        site.host.wait_for_renewal();
        site.path.refuse();
        site.join.wait_for_stderr("no renewal for 6 s; lost in");
        let ended = family.wait_for_end(SOON);
        let renewed = site.host.renewed();
        let age = ended.since(renewed).as_secs_f64();
        println!("{contain}: ended {age:.1} s after the last renewal");
        assert!((LOST_AFTER..DEAD_AFTER).contains(&age), "{age} s");
        assert_eq!(family.hold.finish().code, 124);
        assert_eq!(site.join.finish().code, 124);
        family.assert_no_trace();
        // Nothing was given back after the loss.
        assert_eq!(site.storage.owner(1), (Some(1), 1));
        assert!(!site.storage.heartbeat(1).is_free());
    });
}

#[test]
fn a_hang_that_stays_kills_in_time() {
    in_each(&CONTAINMENTS, |contain| {
        let site = Site::new(1);
        let family = Family::start(&site.host, contain, &[&site.resource(1)]);
        site.host.wait_for_renewal();
        site.path.hang();
        let ended = family.wait_for_end(SOON);
        let renewed = site.host.renewed();
        let age = ended.since(renewed).as_secs_f64();
        println!("{contain}: ended {age:.1} s after the last renewal");
        assert!((LOST_AFTER..DEAD_AFTER).contains(&age), "{age} s");
        // Their own ends have to wait for the kernel.
        site.path.go_on();
        assert_eq!(family.hold.finish().code, 124);
        assert_eq!(site.join.finish().code, 124);
        assert_eq!(site.storage.owner(1), (Some(1), 1));
    });
}

#[test]
fn signals_are_acted_on_while_io_hangs() {
    let to_hold = || {
        let site = Site::new(1);
        let hold = site.host.start_hold(
            &[&site.resource(1)],
            &[
                "sh",
                "-c",
                &format!("{}; echo $pid; exec sleep 1000", support::family::OWN_PID),
            ],
        );
        let pid = wait_until("its pid", SOON, || hold.stdout().trim().parse().ok());
        site.host.wait_for_renewal();
        site.path.hang();
        site.wait_for_age(3.0);
        hold.signal(Signal::SIGTERM);
        wait_for_end(pid, Duration::from_secs(4));
        // It cannot release.
        let said = || hold.stderr().contains("cannot release LS:R1").then_some(());
        wait_until("it says so", SOON, said);
        site.path.go_on();
        // The command's own end, whatever became of the lease.
        assert_eq!(hold.finish().code, 143);
        let free = || site.storage.owner(1).0.is_none().then_some(());
        wait_until("lease-join does", SOON, free);
    };
    let to_join = || {
        let site = Site::new(1);
        let family = Family::start(&site.host, "cgroup", &[&site.resource(1)]);
        site.host.wait_for_renewal();
        site.path.hang();
        site.wait_for_age(3.0);
        site.join.signal(Signal::SIGTERM);
        wait_for_end(family.command, Duration::from_secs(4));
        let ended = family.wait_for_end(SOON);
        assert!(ended.since(site.host.renewed()).as_secs_f64() < DEAD_AFTER);
        site.path.go_on();
        assert_eq!(site.join.finish().code, 124);
    };
    std::thread::scope(|scope| {
        scope.spawn(to_hold);
        scope.spawn(to_join);
    });
}

#[test]
fn a_loss_during_a_stop_is_announced() {
    let site = Site::new(1);
    let resource = site.resource(1);
    let command = "trap '' TERM; echo held; while :; do sleep 0.05; done";
    let args = ["--on-loss", "echo lost", &resource];
    let hold = site.host.start_hold(&args, &["sh", "-c", command]);
    hold.wait_for_stdout("held");
    site.host.wait_for_renewal();
    site.path.refuse();
    site.join.signal(Signal::SIGTERM);
    let ran = hold.finish();
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (124, "held\nlost\n"),
        "{ran:?}"
    );
    assert_eq!(site.join.finish().code, 124);
}

#[test]
fn slow_io_keeps_the_lease() {
    let site = Site::new(1);
    let family = Family::start(&site.host, "cgroup", &[&site.resource(1)]);
    for _ in 0..6 {
        // Each renewal takes up to 3t.
        site.path.hang();
        std::thread::sleep(Duration::from_millis(2900));
        let before = site.host.renewed();
        site.path.go_on();
        let renewed = || (site.host.renewed() > before).then_some(());
        wait_until("a renewal", SOON, renewed);
    }
    let said = site.join.stderr();
    assert!(
        !said.contains("lost in") && site.join.code().is_none(),
        "{said}"
    );
    assert!(family.runs(), "{}", family.hold.stderr());
}

#[test]
fn a_join_whose_write_failed_may_land_yet_and_the_next_one_waits_for_that() {
    let storage = Storage::new(0);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    path.refuse_writes();
    let before = now();
    let ran = host.start_join().finish();
    assert_eq!(ran.code, 74, "{ran:?}");
    assert!(storage.heartbeat(1).is_free());
    path.heal();
    let join = host.join();
    let said = join.stderr();
    assert!(said.contains("may still land"), "{said}");
    // W = 2, and 2t to settle; its renewals count from its own write.
    let took = now().since(before);
    assert!(took >= Duration::from_secs(12), "{took:?}");
    assert_eq!(storage.heartbeat(1).generation().0, 2);
}

#[test]
fn an_acquire_whose_io_fails_is_exit_74_and_its_lease_ends_up_free() {
    let moments: Vec<u64> = (0..8).collect();
    together(
        &moments,
        |moment| moment.to_string(),
        |moment| {
            let site = Site::slow(1, 40);
            let resource = site.resource(1);
            // Without -n it would wait trouble out, and lease-join not survive that.
            let hold = site.host.start_hold(&["-vn", &resource], &["echo", "run"]);
            // Of the acquire's I/O, each taking 40 ms, another one is the first to fail.
            std::thread::sleep(Duration::from_millis(40 + 70 * moment));
            site.path.refuse();
            let ran = hold.finish_within(Duration::from_secs(20));
            site.path.heal();
            site.host.wait_for_renewal();
            println!("{moment}: {} {:?}", ran.code, site.storage.owner(1));
            match ran.code {
                74 => {}
                // All was over before.
                0 => assert_eq!(ran.stdout, "run\n"),
                code => panic!("{code}: {ran:?}"),
            }
            let ran = site.host.hold(&["-w", "25", &resource], &["true"]);
            assert_eq!(ran.code, 0, "{ran:?}");
            assert_eq!(site.storage.owner(1).0, None);
        },
    );
}

#[test]
fn a_standby_waits_trouble_out_as_it_waits_for_a_holder() {
    let trouble: [(&str, fn(&StoragePath), fn(&StoragePath)); 2] = [
        ("errors", StoragePath::refuse, StoragePath::heal),
        ("a hang", StoragePath::hang, StoragePath::go_on),
    ];
    for (what, begin, end) in trouble {
        let site = Site::new(1);
        let (b, _join_b) = Host::joined(&site.storage, 2);
        let holder = b.holding(&[&site.storage.resource(1)]);
        let waits = ["-w", "100", &site.resource(1)];
        let waits = site.host.start_hold(&waits, &["echo", "mine"]);
        waits.wait_for_stderr("held by host 2");
        begin(&site.path);
        waits.wait_for_stderr("trying again until that is over");
        site.wait_for_age(5.0);
        end(&site.path);
        waits.wait_for_stderr("the trouble is over");
        holder.signal(Signal::SIGTERM);
        let ran = waits.finish();
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (0, "mine\n"),
            "{what}: {ran:?}"
        );
        for part in ["trying again until", "trouble is over"] {
            assert_eq!(ran.stderr.matches(part).count(), 1, "{what}: {ran:?}");
        }
        assert_eq!(site.storage.owner(1).0, None);
    }
}

#[test]
fn who_is_patient_has_the_lease_in_the_end_at_whatever_moment_the_storage_fails() {
    let moments: Vec<u64> = (0..8).collect();
    together(
        &moments,
        |moment| moment.to_string(),
        |moment| {
            let site = Site::slow(1, 40);
            let hold = ["-w", "100", &site.resource(1)];
            let hold = site.host.start_hold(&hold, &["echo", "run"]);
            // Of the acquire's I/O, each taking 40 ms, another one is the first to fail.
            std::thread::sleep(Duration::from_millis(40 + 70 * moment));
            site.path.refuse();
            site.wait_for_age(4.0);
            site.path.heal();
            let ran = hold.finish_within(Duration::from_secs(100));
            println!("{moment}: {} {}", ran.code, ran.stderr);
            assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
            wait_until("it is free", SOON, || {
                site.storage.owner(1).0.is_none().then_some(())
            });
        },
    );
}

#[test]
fn a_first_look_that_fails_is_tried_again_unless_nothing_is_to_be_waited_for() {
    let site = Site::new(1);
    let resource = site.resource(1);
    site.path.refuse();
    let ran = site.host.hold(&["-n", &resource], &["echo", "run"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (74, ""), "{ran:?}");
    let hold = site.host.start_hold(&[&resource], &["echo", "run"]);
    hold.wait_for_stderr("trying again until that is over");
    site.path.heal();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
}

#[test]
fn what_was_killed_in_the_middle_of_its_io_is_released_only_when_no_write_can_land() {
    let site = Site::slow(1, 100);
    let resource = site.resource(1);
    let (b, _join_b) = Host::joined(&site.storage, 2);
    let hold = site.host.start_hold(&[&resource], &["echo", "run"]);
    // Its ballot is under way.
    wait_until("the first write", SOON, || {
        (site.storage.ballot(1, 1) != Default::default()).then_some(())
    });
    let killed = now();
    hold.kill();
    wait_until("it is free", Duration::from_secs(60), || {
        let ran = site.host.hold(&["-n", &resource], &["true"]);
        (ran.code == 0).then_some(())
    });
    // FUSE may be a network behind.
    let took = now().since(killed).as_secs_f64();
    println!("free after {took:.1} s");
    assert!(took >= DEAD_AFTER, "free after {took} s");
    assert_eq!(
        b.hold(&["-w", "30", &site.storage.resource(1)], &["true"])
            .code,
        0
    );
}

#[test]
fn who_waited_goes_on_with_the_new_one_though_it_had_the_old_one_meanwhile() {
    let site = Site::slow(1, 100);
    let place = |name: &str| site.storage.path().join(name);
    std::fs::copy(site.storage.file(), place("new")).unwrap();
    std::os::unix::fs::symlink(site.path.disk(), place("link")).unwrap();
    std::os::unix::fs::symlink(place("new"), place("other")).unwrap();
    let (b, _join_b) = Host::joined(&site.storage, 2);
    let holds = b.holding(&[&site.storage.resource(1)]);
    let resource = format!(
        "LS:R1:{}:{}",
        place("link").display(),
        site.storage.offset(1)
    );
    let waits = site
        .host
        .start_hold(&["-w", "100", &resource], &["echo", "mine"]);
    waits.wait_for_stderr("held");
    holds.signal(Signal::SIGTERM);
    wait_until("its ballot", SOON, || {
        (site.storage.ballot(1, 1) != Default::default()).then_some(())
    });
    std::fs::rename(place("other"), place("link")).unwrap();
    let ran = waits.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "mine\n"), "{ran:?}");
    let said = "another file now; going on with what is there now";
    assert_eq!(ran.stderr.matches(said).count(), 1, "{ran:?}");
    assert_eq!(site.storage.owner(1), (None, 2));
}

// ---- what cannot die while the kernel waits for storage

#[test]
fn rule_13_a_lease_goes_back_when_all_is_proven_gone_and_not_when_all_is_killed() {
    in_each(&PROVING, |contain| {
        let storage = Storage::new(1);
        let path = StoragePath::to(&storage);
        let host = Host::new(&storage, 1).promising(WATCHDOG);
        let join = host.join();
        let (hold, pid) = hanging(&host, &storage, &path, contain);
        hold.kill();
        join.wait_for_stderr("ended without a release: ending what it started");
        assert_not_cleared(&storage, &host, &join);
        assert!(runs(pid));
        path.go_on();
        join.wait_for_stderr("its leases are free");
        assert!(!runs(pid));
        assert_eq!(storage.owner(1), (None, 1));
    });
}

/// A lease-hold whose command hangs in a read, and that command's pid.
fn hanging(host: &Host, storage: &Storage, path: &StoragePath, contain: &str) -> (Process, i32) {
    let read = format!("dd if={} iflag=direct count=1", path.disk().display());
    let script = format!("{OWN_PID}; echo $pid; read -r go; exec {read} of=/dev/null");
    let args = ["--contain", contain, &storage.resource(1)];
    let mut command = host.hold_command(&args, &["sh", "-c", &script]);
    let mut hold = Process::start_with(&mut command, Stdio::piped());
    let pid = wait_until("its pid", SOON, || hold.stdout().trim().parse().ok());
    path.hang();
    hold.say("go\n");
    wait_until("it hangs", SOON, || is_in_io(pid).then_some(()));
    // As long as the file system has not taken it up, SIGKILL would still end it.
    host.wait_for_renewal();
    (hold, pid)
}

/// Some time later nothing has been given back: longer than that takes.
fn assert_not_cleared(storage: &Storage, host: &Host, join: &Process) {
    for _ in 0..2 {
        host.wait_for_renewal();
    }
    assert_eq!(storage.owner(1), (Some(1), 1), "{}", join.stderr());
    assert!(!join.stderr().contains("its leases are free"));
}

#[test]
fn rule_11_a_new_life_begins_when_all_of_the_old_one_is_proven_gone() {
    in_each(&PROVING, |contain| {
        let storage = Storage::new(1);
        let path = StoragePath::to(&storage);
        let host = Host::new(&storage, 1);
        let former = host.join();
        let (hold, pid) = hanging(&host, &storage, &path, contain);
        former.kill();
        hold.kill();
        let renewed = host.renewed();
        wait_until("the loss", SOON, || {
            (now().since(renewed) > Duration::from_millis(8200)).then_some(())
        });
        let join = Host::new(&storage, 2).in_place_of(&host).start_join();
        join.wait_for_stderr("is over; ending lease-hold");
        // A join takes 2 s.
        let start = now();
        while now().since(start) < Duration::from_secs(6) {
            assert_eq!(join.stdout(), "", "joined too early");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(runs(pid));
        path.go_on();
        join.wait_for_stdout("joined");
        assert!(!runs(pid));
    });
}

#[test]
fn rule_16_a_lease_hold_is_seen_dead_before_its_leases_go_back() {
    let storage = Storage::new(2);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1).promising(WATCHDOG);
    let join = host.join();
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let resources = [storage.resource(1), far.resource(&storage, 2)];
    let family = Family::start(&host, "pidns", &[&resources[0], &resources[1]]);
    path.hang();
    wait_until("its look at the second one hangs", SOON, || {
        is_in_io(family.hold.pid()).then_some(())
    });
    // It is stopped, could wake and go on; and lease-join hears no more of it.
    family.hold.signal(Signal::SIGSTOP);
    wait_until("it stops", SOON, || {
        (state(family.hold.pid()) == Some('T')).then_some(())
    });
    cut_off(&family.hold, &join);
    join.wait_for_stderr("ended without a release: ending what it started");
    family.wait_for_end(SOON);
    assert_not_cleared(&storage, &host, &join);
    path.go_on();
    assert_eq!(family.hold.finish().code, 137);
    join.wait_for_stderr("its leases are free");
    assert_eq!([1, 2].map(|n| storage.owner(n)), [(None, 1); 2]);
}

#[test]
fn whoever_is_told_to_leave_and_has_to_wait_waits_without_haste() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1).promising(WATCHDOG);
    let join = host.join();
    let (hold, pid) = hanging(&host, &storage, &path, "cgroup");
    join.signal(Signal::SIGTERM);
    // Of what has not gone 15 s later only the command cannot be killed.
    assert_eq!(hold.finish().code, 137);
    let (before, woken) = (now(), wakeups(join.pid()));
    wait_until("two seconds", SOON, || {
        (now().since(before) > Duration::from_secs(2)).then_some(())
    });
    let woken = wakeups(join.pid()) - woken;
    let pace = woken as f64 / now().since(before).as_secs_f64();
    assert!(runs(pid) && join.code().is_none());
    // It looks every 50 ms.
    assert!(pace < 100.0, "woken {pace} times a second");
    path.go_on();
    assert_eq!(join.finish().code, 0);
    assert_eq!(storage.owner(1), (None, 1));
}

/// How often a process has waited for something.
fn wakeups(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let counted = |line: &str| {
        line.strip_prefix("voluntary_ctxt_switches:")?
            .trim()
            .parse()
            .ok()
    };
    status.lines().find_map(counted).unwrap()
}

/// Ends the connection of a lease-hold with its lease-join, and neither of them.
fn cut_off(hold: &Process, join: &Process) {
    let process = pidfd_open(Pid::from_raw(hold.pid()).unwrap(), PidfdFlags::empty()).unwrap();
    let files = std::fs::read_dir(format!("/proc/{}/fd", hold.pid())).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let copies = files.map(|number| {
        let number = number.parse().unwrap();
        pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap()
    });
    let is_it = |copy: &_| {
        let peer = getsockopt(copy, PeerCredentials);
        peer.is_ok_and(|peer| peer.pid() == join.pid())
    };
    let mut found = copies.filter(is_it);
    let connection = UnixStream::from(found.next().unwrap());
    connection.shutdown(Shutdown::Both).unwrap();
}
