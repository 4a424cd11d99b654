//! Rounds of trouble: on one of three hosts that want the same lease, one process is killed,
//! stopped or told to end at a random moment, while that host's path to the storage is fine, fails
//! or hangs. The journal of what ran under the lease shows never two at once; afterwards every host
//! can take the lease again, and nothing is left.
//!
//! `tests/storm` runs many rounds. `STORM_ROUNDS` and `STORM_FIRST` choose which.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::family::{assert_no_control_group, control_groups};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, now, wait_until};
use support::storage::Storage;

/// W.
const WATCHDOG: u64 = 6;
/// Rounds that run at the same time.
const AT_ONCE: usize = 15;
/// Rounds of a test run.
const ROUNDS: u64 = 30;
/// How long one may wait for a takeover, or for an end, on a busy machine.
const LONG: Duration = Duration::from_secs(90);
/// Two numbers of 36 that have no factor in common: so all cases come, in no plain order.
const STRIDE: u64 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Join,
    Hold,
    Command,
    Child,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Fine,
    Refused,
    Hung,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    victim: Victim,
    signal: Signal,
    trouble: Trouble,
}

impl Case {
    fn of(round: u64) -> Self {
        let number = usize::try_from(round * STRIDE % 36).unwrap();
        let victims = [Victim::Join, Victim::Hold, Victim::Command, Victim::Child];
        let signals = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGTERM];
        let troubles = [Trouble::Fine, Trouble::Refused, Trouble::Hung];
        Self {
            victim: victims[number % 4],
            signal: signals[number / 4 % 3],
            trouble: troubles[number / 12],
        }
    }
}

/// One of three hosts. What it consists of goes in this order.
struct Site {
    hold: Process,
    join: Process,
    host: Host,
    path: StoragePath,
}

impl Site {
    /// All three, joined, each with a lease-hold that wants the lease.
    fn start_all(storage: &Storage, journal: &Path) -> Vec<Self> {
        let joining = [1, 2, 3].map(|id| {
            let path = StoragePath::to(storage);
            let host = Host::new(storage, id).promising(WATCHDOG);
            let host = host.by_way_of(storage, &path.disk());
            (host.start_join(), host, path, id)
        });
        let start = |(join, host, path, id): (Process, Host, StoragePath, u64)| {
            join.wait_for_stdout("joined");
            let (name, disk) = (format!("host{id}"), storage.file());
            let command = [
                env!("CARGO_BIN_EXE_witness"),
                &name,
                journal.to_str().unwrap(),
                disk.to_str().unwrap(),
                &storage.offset(1).to_string(),
                "200000",
            ];
            let resource = host.resource(storage, 1);
            let args = ["-w", "200", &resource];
            Self {
                hold: host.start_hold(&args, &command),
                join,
                host,
                path,
            }
        };
        joining.into_iter().map(start).collect()
    }

    /// The process that trouble comes to; lease-hold, where there is no command.
    fn victim(&self, victim: Victim) -> i32 {
        let witnesses = self.witnesses();
        match victim {
            Victim::Join => self.join.pid(),
            Victim::Hold => self.hold.pid(),
            Victim::Command => witnesses.first().copied().unwrap_or(self.hold.pid()),
            Victim::Child => witnesses.last().copied().unwrap_or(self.hold.pid()),
        }
    }

    /// The command and its child, once they run.
    fn witnesses(&self) -> Vec<i32> {
        let holders = self.host.describe_if_there();
        let command = holders.and_then(|said| said["holders"][0]["guarded"].as_i64());
        let Some(command) = command.and_then(|pid| i32::try_from(pid).ok()) else {
            return Vec::new();
        };
        let path = format!("/proc/{command}/task/{command}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        std::iter::once(command).chain(children).collect()
    }

    /// Ends all that there is, as a patient user would.
    fn end(&self) {
        for process in [&self.hold, &self.join] {
            wait_until("an end", LONG, || {
                let code = process.code();
                if code.is_none() {
                    process.signal(Signal::SIGTERM);
                    // Each time, to whatever is left by then.
                    std::thread::sleep(Duration::from_millis(100));
                }
                code
            });
        }
    }
}

/// The terms in the journal, by lver: who, from when to when.
fn terms(journal: &Path) -> BTreeMap<u64, (String, u64, u64)> {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    let mut terms = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, lver, _, time] = words.as_slice() else {
            panic!("{line:?}");
        };
        let (lver, time): (u64, u64) = (lver.parse().unwrap(), time.parse().unwrap());
        let term = terms
            .entry(lver)
            .or_insert(((*name).to_owned(), time, time));
        assert_eq!(term.0, *name, "two have version {lver}");
        term.1 = term.1.min(time);
        term.2 = term.2.max(time);
    }
    terms
}

fn assert_never_two(journal: &Path) -> usize {
    let terms = terms(journal);
    let all: Vec<_> = terms.iter().collect();
    for pair in all.windows(2) {
        let ((_, one), (_, next)) = (pair[0], pair[1]);
        assert!(one.2 < next.1, "two at once: {:?} {:?}", pair[0], pair[1]);
    }
    terms.len()
}

/// No process has this path among its arguments.
fn users_of(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(path)).collect()
}

/// A host that has been through all this joins, has the lease, and leaves.
fn takes_it_again(host: &Host, join: &Process, storage: &Storage) {
    wait_until("it joins", LONG, || {
        assert_eq!(join.code(), None, "{}", join.stderr());
        join.stdout().contains("joined").then_some(())
    });
    let resource = host.resource(storage, 1);
    let ran = wait_until("an end", LONG, || {
        let hold = host.start_hold(&["-w", "80", &resource], &["true"]);
        // On a busy machine one read may take longer than t.
        Some(hold.finish_within(LONG)).filter(|ran| ran.code != 74)
    });
    assert_eq!(ran.code, 0, "{ran:?} {}", join.stderr());
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish_within(LONG).code, 0, "{}", join.stderr());
}

fn round(round: u64) {
    let case = Case::of(round);
    let mut rng = Rng::with_seed(round);
    let storage = Storage::new(1);
    let journal: PathBuf = storage.path().join("journal");
    let sites = Site::start_all(&storage, &journal);
    wait_until("one has it", LONG, || {
        for site in &sites {
            assert_eq!(site.hold.code(), None, "{}", site.hold.stderr());
        }
        (!terms(&journal).is_empty()).then_some(())
    });
    let holder: usize = terms(&journal)[&1].0["host".len()..].parse().unwrap();
    // Two times of three, whoever has it.
    let unlucky = if rng.u8(0..3) < 2 {
        holder - 1
    } else {
        rng.usize(0..3)
    };
    let [before, between] = [rng.u64(0..2000), rng.u64(0..2500)];
    println!(
        "round {round}: {case:?} on host {}, host {holder} has it, after {before} ms and {between} ms",
        unlucky + 1
    );
    let site = &sites[unlucky];
    std::thread::sleep(Duration::from_millis(before));
    let victim = Pid::from_raw(site.victim(case.victim));
    match case.trouble {
        Trouble::Fine => {}
        Trouble::Refused => site.path.refuse(),
        Trouble::Hung => site.path.hang(),
    }
    std::thread::sleep(Duration::from_millis(between));
    // It may have ended meanwhile.
    let _ = kill(victim, case.signal);

    // Longer than a takeover takes.
    let start = now();
    let taken = |terms: BTreeMap<u64, _>| terms.len() > 1;
    while now().since(start) < Duration::from_secs(24) && !taken(terms(&journal)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let had = assert_never_two(&journal);
    match case.trouble {
        Trouble::Fine => {}
        Trouble::Refused => site.path.heal(),
        Trouble::Hung => site.path.go_on(),
    }
    let _ = kill(victim, Signal::SIGCONT);
    std::thread::scope(|scope| {
        sites
            .iter()
            .for_each(|site| drop(scope.spawn(|| site.end())));
    });
    assert_never_two(&journal);
    println!("round {round}: {had} had it");

    // Both processes are reaped with this: what is left of one would stand for a living one.
    let parts = |site: Site| (site.host, site.path, site.hold.pid());
    let sites: Vec<(Host, StoragePath, i32)> = sites.into_iter().map(parts).collect();
    let joining: Vec<_> = sites.iter().map(|(host, ..)| host.start_join()).collect();
    for ((host, ..), join) in sites.iter().zip(joining) {
        takes_it_again(host, &join, &storage);
    }
    // One that lease-join had not heard of goes with the next lease-hold.
    sites
        .iter()
        .for_each(|(.., hold)| assert_no_control_group(*hold));
    assert_eq!(users_of(&journal), [""; 0]);
}

#[test]
fn whatever_happens_no_two_ever_run_at_once() {
    control_groups();
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let first = number("STORM_FIRST", 0);
    let next = AtomicU64::new(first);
    let end = first + number("STORM_ROUNDS", ROUNDS);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= end {
                    return failed;
                }
                if std::panic::catch_unwind(|| round(number)).is_err() {
                    println!("round {number}: failed");
                    failed.push(number);
                }
            }
        };
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(failed.is_empty(), "rounds {failed:?}");
}
