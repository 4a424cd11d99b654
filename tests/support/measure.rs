//! Measures ours beside the real sanlock; see tests/bench.
#![allow(clippy::expect_used, clippy::print_stdout)]

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::hosts::Host;
use support::process::{Process, SOON, wait_until};
use support::sanlock::Daemon;
use support::storage::Storage;

/// Resources of each kind of host: while one is being released, another is acquired.
const RESOURCES: u64 = 8;

fn main() {
    let rounds = env::args()
        .nth(1)
        .map_or(40, |n| n.parse().expect("ROUNDS"));
    let storage = Storage::new(2 * RESOURCES);
    let daemon = Daemon::start_with("sanlock", &[]);
    let join_sanlock = timed(|| daemon.join(&storage, 1));
    // In memory, as /run is.
    let run_dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let mut host = Host::new(&storage, 2);
    host.run_dir = run_dir.path().join("run");
    let mut join = None;
    let join_ours = timed(|| join = Some(host.join()));
    let join = join.expect("joined");

    println!(
        "{:34}{:>12}{:>12}{:>8}{:>7}",
        "", "ours", "sanlock", "ratio", "aim"
    );
    row(
        "join at t=1, s",
        [join_ours, join_sanlock].map(|d| d.as_secs_f64()),
        None,
    );
    acquire(&storage, &host, &daemon, rounds);
    memory(&storage, (&host, &join), &daemon);
    bytes_read(&storage, &host, &daemon);
    let alone = median(rounds, || run(&mut Command::new("/bin/true")));
    println!(
        "\n/bin/true alone: {:.1} ms. Times are medians of {rounds} rounds, load {}.",
        milliseconds(alone),
        load()
    );
    println!(
        "sanlock's times are without its release, which comes after the command's end; ours are \
         with it.\nBoth have their real-time priority; our run directory is in memory, as /run is."
    );
}

fn row(what: &str, [ours, theirs]: [f64; 2], aim: Option<f64>) {
    let aim = aim.map_or(String::new(), |aim| aim.to_string());
    let ratio = ours / theirs;
    println!("{what:34}{ours:>12.1}{theirs:>12.1}{ratio:>8.2}{aim:>7}");
}

// ---- time

fn acquire(storage: &Storage, host: &Host, daemon: &Daemon, rounds: usize) {
    let ours: Vec<String> = (1..=RESOURCES).map(|n| storage.resource(n)).collect();
    let theirs: Vec<String> = (1..=RESOURCES)
        .map(|n| storage.resource(RESOURCES + n))
        .collect();
    let hold = |options: &[&str], resources: &[String]| {
        let resources = resources.iter().map(String::as_str);
        let args: Vec<&str> = options.iter().copied().chain(resources).collect();
        run(&mut host.hold_command(&args, &["/bin/true"]))
    };
    let sanlock = |resources: &[String]| {
        released(storage);
        let mut args = vec!["command"];
        resources.iter().for_each(|r| args.extend(["-r", r]));
        args.extend(["-c", "/bin/true"]);
        run(&mut daemon.command(&args))
    };
    let [
        mut one,
        mut tree,
        mut one_sanlock,
        mut all,
        mut all_tree,
        mut all_sanlock,
    ] = [const { Vec::new() }; 6];
    for round in 0..rounds {
        let single = round % ours.len()..round % ours.len() + 1;
        one.push(hold(&[], &ours[single.clone()]));
        tree.push(hold(&["--contain", "tree"], &ours[single.clone()]));
        one_sanlock.push(sanlock(&theirs[single]));
        all.push(hold(&[], &ours));
        all_tree.push(hold(&["--contain", "tree"], &ours));
        all_sanlock.push(sanlock(&theirs));
    }
    let pair =
        |ours: &[Duration], theirs: &[Duration]| [ours, theirs].map(|t| milliseconds(middle(t)));
    row("one resource, ms", pair(&one, &one_sanlock), Some(0.6));
    row("  without a control group", pair(&tree, &one_sanlock), None);
    row("eight at once, ms", pair(&all, &all_sanlock), Some(0.35));
    row(
        "  without a control group",
        pair(&all_tree, &all_sanlock),
        None,
    );
}

/// Waits until all of the daemon's leases are free on the disk: until then it refuses them.
fn released(storage: &Storage) {
    wait_until("the daemon releases", SOON, || {
        let free = |n| storage.owner(n).0.is_none();
        (RESOURCES + 1..=2 * RESOURCES).all(free).then_some(())
    });
    // The leader is written before the daemon has forgotten the lease.
    std::thread::sleep(Duration::from_millis(20));
}

fn run(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    timed(|| {
        let status = command.status().expect("it starts");
        assert!(status.success(), "{command:?}: {status}");
    })
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(rounds: usize, mut work: impl FnMut() -> Duration) -> Duration {
    let times: Vec<Duration> = (0..rounds).map(|_| work()).collect();
    middle(&times)
}

fn middle(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What the machine had to do in the last minute: the first number of /proc/loadavg.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").expect("the load");
    text.split(' ').next().expect("a number").to_owned()
}

// ---- memory

fn memory(storage: &Storage, (host, join): (&Host, &Process), daemon: &Daemon) {
    let theirs = resident(daemon.process.pid());
    let mut pair = [resident(join.pid()), theirs];
    row("resident memory, MiB", pair, Some(0.25));
    let hold = host.holding(&[&storage.resource(1)]);
    pair[0] += resident(hold.pid());
    row("  with one lease-hold", pair, None);
}

/// VmRSS in MiB.
fn resident(pid: i32) -> f64 {
    number(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0
}

/// The number after a label in a file of /proc.
fn number(file: &str, label: &str) -> f64 {
    let text = fs::read_to_string(file).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect("a number")
}

// ---- bytes

/// Read from the storage to acquire one resource.
fn bytes_read(storage: &Storage, host: &Host, daemon: &Daemon) {
    let script = ["sh", "-c", "cat /proc/$PPID/io"];
    let ran = host.hold(&[&storage.resource(1)], &script);
    let line = ran
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    let ours: f64 = line.and_then(|l| l.trim().parse().ok()).expect("a number");

    let process = daemon.register();
    let resource = storage.resource(RESOURCES + 1);
    let file = format!("/proc/{}/io", daemon.process.pid());
    // Its renewals read as well: the least of several is without one.
    let acquire = || {
        released(storage);
        let before = number(&file, "read_bytes:");
        assert_eq!(daemon.acquire(&resource, &process), 0);
        let read = number(&file, "read_bytes:") - before;
        daemon.release(&resource, &process);
        read
    };
    let theirs = std::iter::repeat_with(acquire)
        .take(8)
        .fold(f64::INFINITY, f64::min);
    row(
        "read for an acquire, MiB",
        [ours, theirs].map(|bytes| bytes / 1048576.0),
        None,
    );
}
