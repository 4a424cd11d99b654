//! What happens when a process, a host or its lease is lost: who is killed, when, and who may take
//! over. t = 1 and W = 2: lost 8 s after the last renewal, everything dead by 10 s; by 14 s where
//! that is looked at, with W = 6.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "loss/reading.rs"]
mod reading;

use lease_core::id::{Generation, Lver, Name};
use lease_core::record::ballot::BallotSector;
use lease_core::record::leader::{Leader, Stamp};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::Duration;
use support::files::{Ran, run};
use support::hosts::{Host, STAY, WATCHDOG};
use support::process::{Process, SOON, now, runs, wait_until};
use support::storage::{Storage, host_id};

/// After a loss that is seen on the disk: a renewal period, and some more for a slow machine, but
/// less than a lease lasts.
const AT_ONCE: Duration = Duration::from_secs(7);

/// A command that leaves a daemon behind and stays itself. Prints the pids of both.
const DAEMONIC: &str = "sh -c 'setsid sh -c \"echo daemon \\$\\$; exec sleep 100\" & exit'
    echo command $$; exec sleep 100";

/// Starts a command that has a daemon, and returns the pids of both.
fn with_daemon(host: &Host, args: &[&str]) -> (Process, [i32; 2]) {
    let hold = host.start_hold(args, &["sh", "-c", DAEMONIC]);
    let pids = wait_until("two pids", SOON, || {
        let text = hold.stdout();
        let of = |who: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(who)?.trim().parse().ok())
        };
        Some([of("command")?, of("daemon")?])
    });
    assert!(pids.iter().all(|pid| runs(*pid)));
    (hold, pids)
}

fn lost(ran: &Ran, part: &str) {
    assert_eq!(ran.code, 124, "{ran:?}");
    assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
}

/// Seconds on the tools' clock, with fractions.
fn seconds() -> f64 {
    Duration::from_nanos(now().0).as_secs_f64()
}

/// The second in which host `host` renewed last.
#[allow(clippy::cast_precision_loss)]
fn renewed(storage: &Storage, host: u64) -> f64 {
    storage.heartbeat(host).timestamp() as f64
}

/// A joined host on which a lease-hold has time to end what it guards, W/4, before lease-join does
/// it, on a busy machine too.
fn patient(storage: &Storage) -> (Host, Process) {
    let host = Host::new(storage, 1).promising(60);
    let join = host.join();
    (host, join)
}

#[test]
fn an_overwritten_heartbeat_is_a_loss_at_once() {
    let storage = Storage::new(2);
    let (a, join) = patient(&storage);
    let shared = format!("{}:SH", storage.resource(2));
    let (hold, pids) = with_daemon(&a, &[&storage.resource(1), &shared]);
    let before = [1, 2].map(|n| storage.area(n));

    let ours = storage.heartbeat(1);
    let note = *ours.note().unwrap();
    let theirs = ours.joined(&Name::new(b"thief").unwrap(), 77, 1, note);
    storage.put_heartbeat(1, &theirs);
    lost(&join.finish_within(AT_ONCE), "overwritten by thief");
    lost(&hold.finish_within(AT_ONCE), "was killed");
    assert!(!pids.iter().any(|pid| runs(*pid)));
    // After a loss nothing is written any more.
    assert_eq!(storage.heartbeat(1), theirs);
    assert!([1, 2].map(|n| storage.area(n)) == before);
}

#[test]
fn a_damaged_heartbeat_is_a_loss_at_once() {
    let storage = Storage::new(1);
    let (a, join) = patient(&storage);
    let hold = a.holding(&[&storage.resource(1)]);
    support::files::patch(storage.file(), 60, b"damage");
    lost(&join.finish_within(AT_ONCE), "our heartbeat is damaged");
    lost(&hold.finish_within(AT_ONCE), "was killed");
}

/// A resource w in a file of its own.
fn lone(storage: &Storage) -> (PathBuf, String) {
    let file = storage.path().join("w");
    let resource = format!("LS:w:{}:0", file.display());
    init(storage, &resource);
    (file, resource)
}

fn init(storage: &Storage, resource: &str) {
    let ran = run(storage.path(), "lease-init", &["--create", "-r", resource]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_lease_whose_file_was_replaced_is_lost_at_once_and_the_new_one_is_free() {
    let moved = "its path leads to another file now";
    for (how, part) in [
        ("moved", moved),
        ("removed", "it was removed"),
        ("cut", "it was cut"),
    ] {
        let storage = Storage::new(1);
        let (file, resource) = lone(&storage);
        let (a, join) = Host::joined(&storage, 1);
        let (b, _join_b) = Host::joined(&storage, 2);
        let (hold, pids) = with_daemon(&a, &[&resource]);
        let new = format!("{}.new", file.display());
        match how {
            "removed" => std::fs::remove_file(&file).unwrap(),
            "cut" => std::fs::write(&file, "").unwrap(),
            _ => {
                init(&storage, &resource.replace("/w:", "/w.new:"));
                std::fs::rename(&new, &file).unwrap();
            }
        }
        let ran = hold.finish_within(AT_ONCE);
        let why = format!("LS:w was replaced: {}: {part}", file.display());
        lost(&ran, &why);
        // When it is lost, and at the end.
        assert_eq!(ran.stderr.lines().count(), 2, "{ran:?}");
        assert!(!pids.iter().any(|pid| runs(*pid)));
        if how != "moved" {
            let _ = std::fs::remove_file(&file);
            init(&storage, &resource);
        }
        for host in [&b, &a] {
            let ran = host.hold(&["-n", &resource], &["true"]);
            assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{how}");
        }
        assert!(
            !join.stderr().contains("without a release"),
            "{}",
            join.stderr()
        );
    }
}

#[test]
fn who_waits_for_a_lease_whose_file_is_replaced_goes_on_with_the_new_one() {
    for how in ["moved", "removed"] {
        let storage = Storage::new(1);
        let (file, resource) = lone(&storage);
        let (a, _join) = Host::joined(&storage, 1);
        let (b, _join_b) = Host::joined(&storage, 2);
        let hold = a.holding(&[&resource]);
        let waits = [&a, &b].map(|host| {
            let waits = host.start_hold(&["-w", "100", &resource], &["echo", "mine"]);
            waits.wait_for_stderr("held");
            waits
        });
        let before = std::fs::File::open(&file).unwrap();
        match how {
            "removed" => {
                std::fs::remove_file(&file).unwrap();
                init(&storage, &resource);
            }
            _ => {
                init(&storage, &resource.replace("/w:", "/new:"));
                std::fs::rename(storage.path().join("new"), &file).unwrap();
            }
        }
        lost(&hold.finish_within(AT_ONCE), "LS:w was replaced");
        for waits in waits {
            let ran = waits.finish();
            assert_eq!((ran.code, ran.stdout.as_str()), (0, "mine\n"), "{ran:?}");
            assert_eq!(
                ran.stderr
                    .matches("going on with what is there now")
                    .count(),
                1
            );
        }
        // Nobody has acquired the old one.
        let mut sector = [0; 512];
        std::os::unix::fs::FileExt::read_exact_at(&before, &mut sector, 0).unwrap();
        assert_eq!(Leader::decode(&sector).unwrap().lver(), Lver(1));
        assert_eq!(
            Leader::decode(&support::files::bytes(&file))
                .unwrap()
                .lver(),
            Lver(2)
        );
    }
}

#[test]
fn a_lease_whose_file_is_away_for_a_moment_is_kept_and_released_where_it_is() {
    let storage = Storage::new(1);
    let (file, resource) = lone(&storage);
    let (a, _join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&resource]);
    let aside = storage.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    for _ in 0..3 {
        a.wait_for_renewal();
    }
    hold.signal(Signal::SIGTERM);
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (143, ""));
    std::fs::rename(&aside, &file).unwrap();
    let ran = a.hold(&["-n", &resource], &["true"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn of_three_disks_one_may_be_replaced_and_not_two() {
    let storage = Storage::new(1);
    let files = ["x", "y", "z"].map(|name| storage.path().join(name));
    let of = |part: &[PathBuf]| {
        let places: Vec<String> = part.iter().map(|f| format!("{}:0", f.display())).collect();
        format!("LS:w:{}", places.join(":"))
    };
    init(&storage, &of(&files));
    let (a, _join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&of(&files)]);
    let replace = |file: &PathBuf| {
        std::fs::remove_file(file).unwrap();
        init(&storage, &of(std::slice::from_ref(file)));
    };
    replace(&files[1]);
    hold.wait_for_stderr("; going on without this disk");
    for _ in 0..2 {
        a.wait_for_renewal();
    }
    assert_eq!(hold.code(), None);
    replace(&files[2]);
    lost(&hold.finish_within(AT_ONCE), "LS:w was replaced");
}

#[test]
fn a_lockspace_that_was_replaced_is_a_loss_at_once() {
    for how in ["copied over", "removed"] {
        let storage = Storage::new(1);
        let (a, join) = Host::joined(&storage, 1);
        let hold = a.holding(&[&storage.resource(1)]);
        let (disk, new) = (storage.file(), storage.path().join("new"));
        std::fs::copy(&disk, &new).unwrap();
        let (heartbeat, part) = match how {
            "removed" => {
                std::fs::remove_file(&disk).unwrap();
                (None, "it was removed")
            }
            _ => {
                std::fs::rename(&new, &disk).unwrap();
                (
                    Some(storage.heartbeat(1)),
                    "its path leads to another file now",
                )
            }
        };
        lost(&join.finish_within(AT_ONCE), part);
        lost(&hold.finish_within(AT_ONCE), "was killed");
        // Of what the host has written since, nobody else has seen anything.
        assert!(heartbeat.is_none_or(|heartbeat| heartbeat == storage.heartbeat(1)));
    }
}

#[test]
fn a_lockspace_that_is_away_for_a_moment_is_kept() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&storage.resource(1)]);
    let (disk, aside) = (storage.file(), storage.path().join("aside"));
    std::fs::rename(&disk, &aside).unwrap();
    for _ in 0..3 {
        a.wait_for_renewal();
    }
    std::fs::rename(&aside, &disk).unwrap();
    hold.signal(Signal::SIGTERM);
    assert_eq!(hold.finish().code, 143);
    assert_eq!(storage.owner(1).0, None);
}

/// R1's lease becomes another host's.
fn stolen(storage: &Storage) -> Leader {
    let thief = Stamp {
        host: host_id(2),
        generation: Generation(1),
        timestamp: 77,
    };
    let taken = storage.leader(1).committed(Lver(2), thief, thief, None);
    storage.put_leader(1, &taken);
    taken
}

#[test]
fn a_lease_that_was_taken_on_the_disk_kills_its_command_alone() {
    let storage = Storage::new(2);
    let (a, join) = Host::joined(&storage, 1);
    let (hold, pids) = with_daemon(&a, &[&storage.resource(1)]);
    let other = a.holding(&[&storage.resource(2)]);

    let taken = stolen(&storage);
    lost(&hold.finish_within(AT_ONCE), "LS:R1 is owned by another");
    assert!(!pids.iter().any(|pid| runs(*pid)));
    assert_eq!(storage.leader(1), taken);
    assert_eq!((join.code(), other.code()), (None, None));
}

#[test]
fn a_share_that_was_ended_on_the_disk_kills_its_command() {
    let storage = Storage::new(1);
    let (a, _join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&format!("{}:SH", storage.resource(1))]);
    storage.put_ballot(1, 1, &BallotSector::default());
    lost(&hold.finish_within(AT_ONCE), "LS:R1");
}

/// Whatever becomes of what its holders held, whoever is told to leave does.
#[test]
fn a_lease_that_was_wiped_does_not_keep_lease_join_from_leaving() {
    let storage = Storage::new(2);
    let (a, join) = Host::joined(&storage, 1);
    let hold = a.holding(&[&storage.resource(1)]);
    // It hears of the death only once the lease is wiped.
    join.signal(Signal::SIGSTOP);
    hold.kill();
    let zeros = vec![0; storage.area(1).len()];
    support::files::patch(storage.file(), storage.offset(1), &zeros);
    join.signal(Signal::SIGCONT);
    join.wait_for_stderr("cannot give back LS:R1:");
    join.signal(Signal::SIGTERM);
    // 15 s, 8t+W and 1 % more, and 4t.
    let ran = join.finish_within(Duration::from_secs(30) + SOON);
    assert_eq!(ran.code, 75, "{ran:?}");
    let said = ran.stderr.lines().last().unwrap();
    assert!(
        said.contains("LS:R1:") && said.contains("stays owned by this host: "),
        "{ran:?}"
    );
    assert!(
        said.contains("other hosts can take over 10 s after this"),
        "{ran:?}"
    );
    assert!(!storage.heartbeat(1).is_free());
    assert!(storage.area(1) == zeros);
}

/// Whether commands can be contained in this way here.
fn can_contain(host: &Host, contain: &str, resource: &str) -> bool {
    let ran = host.hold(&["--contain", contain, resource], &["true"]);
    assert!([0, 78].contains(&ran.code), "{ran:?}");
    ran.code == 0
}

#[test]
fn rule_13_a_killed_lease_hold_takes_its_command_along_and_leaves_the_lease_owned() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let command = ["sh", "-c", "echo $$; exec sleep 100"];
    let hold = a.start_hold(&["--contain", "tree", &resource], &command);
    let pid: i32 = wait_until("its pid", SOON, || hold.stdout().trim().parse().ok());
    hold.kill();
    wait_until("the command's end", SOON, || (!runs(pid)).then_some(()));

    // Nobody can tell what else it may have started.
    join_a.wait_for_stderr("its leases stay owned by this host");
    assert_eq!(storage.owner(1), (Some(1), 1));
    let ran = a.hold(&[&resource], &["true"]);
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(
        ran.stderr.contains("left on this host by lease-hold pid"),
        "{ran:?}"
    );
    let ran = b.hold(&[&resource], &["true"]);
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("held by host 1 (host1)"), "{ran:?}");

    // Its host cannot leave cleanly; others wait until it is dead.
    join_a.signal(Signal::SIGTERM);
    let ran = join_a.finish();
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(ran.stderr.contains("cannot give back"), "{ran:?}");
    assert!(!storage.heartbeat(1).is_free());
    let ran = b.start_hold(&["-w", "60", &resource], &["true"]);
    assert_eq!(ran.finish_within(Duration::from_secs(60)).code, 0);
    assert_eq!(storage.owner(1), (None, 2));
}

/// How many processes are `tail -f PATH`, in whatever namespace.
fn tails(path: &str) -> usize {
    let line = format!("tail\0-f\0{path}\0");
    let processes = std::fs::read_dir("/proc").unwrap();
    let command = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()
    };
    processes
        .filter_map(command)
        .filter(|found| *found == line)
        .count()
}

/// What a killed lease-hold leaves is contained: it is ended and given back.
fn given_back(contain: &str) {
    let storage = Storage::new(2);
    let (exclusive, shared) = (storage.resource(1), format!("{}:SH", storage.resource(2)));
    let (a, join) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    if !can_contain(&a, contain, &exclusive) {
        return;
    }
    let marker = storage.path().join("marker");
    std::fs::write(&marker, "").unwrap();
    let marker = marker.to_str().unwrap();
    let script = format!("setsid tail -f {marker} & echo held; exec tail -f {marker}");
    let options = ["--contain", contain, &exclusive, &shared];
    let hold = a.start_hold(&options, &["sh", "-c", &script]);
    hold.wait_for_stdout("held");
    wait_until("both tails", SOON, || (tails(marker) == 2).then_some(()));
    let lver = storage.owner(1).1;
    hold.kill();
    join.wait_for_stderr("nothing is left; its leases are free");
    assert_eq!(tails(marker), 0);
    assert_eq!(storage.owner(1), (None, lver));
    assert_eq!(storage.sharers(2, 1), [] as [u64; 0]);
    assert_eq!(
        b.hold(&[&exclusive, &storage.resource(2)], &["true"]).code,
        0
    );
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
}

#[test]
fn what_a_killed_lease_hold_leaves_in_a_control_group_is_given_back() {
    given_back("cgroup");
}

#[test]
fn what_a_killed_lease_hold_leaves_in_a_pid_namespace_is_given_back() {
    given_back("pidns");
}

/// R1 on the first disk and on two other files.
fn on_three(first: &Storage, others: [(PathBuf, u64); 2]) -> String {
    let more = others.map(|(path, offset)| format!(":{}:{offset}", path.display()));
    first.resource(1) + &more.concat()
}

/// One of three disks was not there when it was acquired; another resource is there later.
#[test]
fn what_a_killed_lease_hold_has_not_seen_is_written_only_if_it_is_that_resource() {
    let [first, second, other] = [1, 1, 2].map(Storage::new);
    let (a, join) = Host::joined(&first, 1);
    let third = first.path().join("third");
    let others = [
        (second.file(), second.offset(1)),
        (third.clone(), other.offset(2)),
    ];
    let resource = on_three(&first, others);
    let hold = a.start_hold(&[&resource], &STAY);
    hold.wait_for_stdout("held");
    let before = other.area(2);
    std::os::unix::fs::symlink(other.file(), &third).unwrap();
    hold.kill();
    join.wait_for_stderr("its leases are free");
    assert!(other.area(2) == before);
    assert_eq!([&first, &second].map(|disk| disk.owner(1).0), [None; 2]);
    // A disk that answers after the others have is not waited for.
    wait_until("it is seen in time", SOON, || {
        let ran = a.hold(&[&resource], &["true"]);
        let seen = ran.stderr.contains("is resource R2");
        (ran.code == 65 && seen).then_some(())
    });
    assert!(other.area(2) == before);
}

#[test]
fn what_a_killed_lease_hold_leaves_on_three_disks_goes_back_though_the_first_is_damaged() {
    let [first, second, third] = [1; 3].map(Storage::new);
    let (a, join) = Host::joined(&first, 1);
    let others = [&second, &third].map(|disk| (disk.file(), disk.offset(1)));
    let hold = a.start_hold(&[&on_three(&first, others)], &STAY);
    hold.wait_for_stdout("held");
    support::files::patch(first.file(), first.offset(1) + 60, b"damage");
    hold.kill();
    join.wait_for_stderr("its leases are free");
    assert_eq!([&second, &third].map(|disk| disk.owner(1).0), [None; 2]);
}

#[test]
fn a_lease_join_that_is_started_again_in_time_goes_on() {
    let storage = Storage::new(2);
    let (exclusive, shared) = (storage.resource(1), format!("{}:SH", storage.resource(2)));
    let (a, join) = Host::joined(&storage, 1);
    let (hold, pids) = with_daemon(&a, &[&exclusive, &shared]);
    join.kill();
    hold.wait_for_stderr("has ended");
    let join = a.join();
    assert!(
        join.stdout().ends_with(" generation 1\n"),
        "{}",
        join.stdout()
    );
    hold.wait_for_stderr("is back");
    // It knows what is held, and renews: longer than the lease would have lasted.
    let ran = a.hold(&["-w", "9", &exclusive], &["true"]);
    assert_eq!(ran.code, 75, "{ran:?}");
    assert!(
        ran.stderr.contains("held on this host by lease-hold pid"),
        "{ran:?}"
    );
    assert!(pids.iter().all(|pid| runs(*pid)));
    assert_eq!(storage.owner(1), (Some(1), 1));

    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
    assert_eq!(hold.finish().code, 143);
    assert!(!pids.iter().any(|pid| runs(*pid)));
    assert_eq!(storage.owner(1), (None, 1));
    assert_eq!(storage.sharers(2, 1), [] as [u64; 0]);
    assert!(storage.heartbeat(1).is_free());
}

#[test]
fn without_its_lease_join_a_command_is_killed_in_time() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(6);
    let join = a.join();
    let (hold, pids) = with_daemon(&a, &[&storage.resource(1)]);
    let stubborn = "trap '' TERM; echo held; while :; do sleep 0.05; done";
    let stubborn = ["sh", "-c", stubborn];
    let other = Storage::new(1);
    let c = Host::new(&other, 1).promising(6);
    let join_c = c.join();
    let stubborn = c.start_hold(&[&other.resource(1)], &stubborn);
    stubborn.wait_for_stdout("held");
    let before = storage.area(1);

    join.kill();
    join_c.kill();
    let renewals = [renewed(&storage, 1), renewed(&other, 1)];
    hold.wait_for_stderr("has ended; unless it is started again the lease is lost 8 s after");
    for (hold, renewed) in [&hold, &stubborn].into_iter().zip(renewals) {
        lost(&hold.finish(), "no renewal in time");
        let age = seconds() - renewed;
        assert!((8.0..14.0).contains(&age), "{age} s after the last renewal");
    }
    assert!(!pids.iter().any(|pid| runs(*pid)));
    assert!(storage.area(1) == before);
}

#[test]
fn rule_19_the_deadline_counts_from_the_renewal_and_not_from_when_that_is_heard() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(20);
    let join = a.join();
    let hold = a.holding(&[&storage.resource(1)]);
    hold.signal(Signal::SIGSTOP);
    // What it hears when it goes on is old by then.
    a.wait_for_renewal();
    join.kill();
    let deadline = a.renewed().after(Duration::from_secs(8));
    wait_until("a second before its deadline", SOON, || {
        (now().after(Duration::from_secs(1)) >= deadline).then_some(())
    });
    let woken = now();
    hold.signal(Signal::SIGCONT);
    lost(&hold.finish(), "no renewal in time");
    let late = now().since(woken.max(deadline));
    assert!(late < Duration::from_secs(5), "{late:?} after its deadline");
}

#[test]
fn a_lease_join_that_stands_still_is_not_waited_for() {
    let storage = Storage::new(1);
    let a = Host::new(&storage, 1).promising(6);
    let join = a.join();
    let (hold, pids) = with_daemon(&a, &[&storage.resource(1)]);
    join.signal(Signal::SIGSTOP);
    let renewed = renewed(&storage, 1);
    lost(&hold.finish(), "no renewal in time");
    let age = seconds() - renewed;
    assert!((8.0..14.0).contains(&age), "{age} s after the last renewal");
    assert!(!pids.iter().any(|pid| runs(*pid)));
    // When it goes on, it is lost, and writes nothing.
    let before = storage.heartbeat(1);
    join.signal(Signal::SIGCONT);
    lost(&join.finish_within(AT_ONCE), "no renewal for");
    assert_eq!(storage.heartbeat(1), before);
}

/// A host is killed, all of it; another wants what it had: with `waiting`, it already waits.
fn takeover(suffix: &str, waiting: bool) {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, join_a) = Host::joined(&storage, 1);
    let (b, _join_b) = Host::joined(&storage, 2);
    let hold = a.holding(&[&format!("{resource}{suffix}")]);
    let lver = storage.owner(1).1;
    let start = || b.start_hold(&["-w", "60", &resource], &["echo", "taken"]);
    let early = waiting.then(start);
    if let Some(wait) = &early {
        wait.wait_for_stderr("trying for");
    }
    join_a.kill();
    hold.kill();
    let renewed = renewed(&storage, 1);

    let wait = early.unwrap_or_else(start);
    wait.wait_for_stdout("taken");
    let age = seconds() - renewed;
    // Others see a renewal when they look: every 2 s.
    assert!(
        (10.0..25.0).contains(&age),
        "{age} s after the last renewal"
    );
    assert_eq!(wait.finish().code, 0);
    assert_eq!(storage.owner(1), (None, lver + 1));
    // From now on nobody waits for it.
    assert_eq!(b.hold(&["-n", &resource], &["true"]).code, 0);
}

#[test]
fn a_dead_hosts_lease_is_taken_over_when_it_must_be_dead_and_not_before() {
    takeover("", false);
}

#[test]
fn a_dead_hosts_share_bars_nobody_when_it_must_be_dead_and_not_before() {
    takeover(":SH", false);
}

#[test]
fn who_waits_already_when_a_host_dies_takes_over_no_later() {
    std::thread::scope(|scope| {
        scope.spawn(|| takeover("", true));
        takeover(":SH", true);
    });
}

#[test]
fn a_host_that_comes_back_waits_for_the_end_of_its_former_life() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let (a, join) = Host::joined(&storage, 1);
    if !can_contain(&a, "cgroup", &resource) {
        return;
    }
    let hold = a.holding(&["--contain", "cgroup", &resource]);
    let lver = storage.owner(1).1;
    join.kill();
    let renewed = renewed(&storage, 1);
    lost(&hold.finish(), "no renewal in time");

    let join = a.join();
    let age = seconds() - renewed;
    #[allow(clippy::cast_precision_loss)]
    let dead_after = 8.0 + WATCHDOG as f64;
    assert!(age > dead_after, "joined {age} s after the last renewal");
    assert!(join.stdout().ends_with(" generation 2\n"));
    let again = a.start_hold(&["-w", "60", &resource], &["true"]);
    again.wait_for_stderr("earlier writes of this host may still land; waiting ");
    assert_eq!(again.finish_within(Duration::from_secs(60)).code, 0);
    assert_eq!(storage.owner(1), (None, lver + 1));
}

#[test]
fn storage_that_refuses_a_write_is_exit_74_and_nothing_is_run() {
    let storage = Storage::new(1);
    let (a, join) = Host::joined(&storage, 1);
    let before = storage.area(1);
    // No write to any file is allowed; to pipes it is.
    let script = "(ulimit -f 0; \"$@\"; echo code $?) 2>&1 | cat";
    let hold = a.hold_command(&[&storage.resource(1)], &["echo", "run"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, "sh"]).arg(hold.get_program());
    let ran = Process::start(command.args(hold.get_args())).finish();
    assert!(ran.stdout.ends_with("code 74\n"), "{ran:?}");
    assert!(ran.stdout.contains("cannot acquire LS:R1: "), "{ran:?}");
    assert!(!ran.stdout.contains("run\n"), "{ran:?}");
    assert!(storage.area(1) == before);
    assert_eq!(a.hold(&[&storage.resource(1)], &["true"]).code, 0);
    drop(join);
}
