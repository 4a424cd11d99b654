//! One host of ours and one of sanlock's on the same file: whole commands, one after another.

use crate::Bench;
use crate::table::{Aim, alone, beside};
use crate::watch::{middle, milliseconds, number, resident, run, timed};
use std::time::Duration;
use support::hosts::Host;
use support::process::{Process, SOON, wait_until};
use support::sanlock::Daemon;
use support::storage::Storage;
use tempfile::TempDir;

/// Resources of each of them: while one is being released, another is acquired.
const RESOURCES: u64 = 8;

/// The two hosts.
pub(crate) struct Pair {
    storage: Storage,
    daemon: Daemon,
    host: Host,
    join: Process,
    _run_dir: TempDir,
}

impl Pair {
    /// Joins both, and says how long that took and what they weigh.
    pub(crate) fn join() -> Self {
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
        let seconds = [join_ours, join_sanlock].map(|d| d.as_secs_f64());
        beside("join at t=1, s", seconds, Aim::Any);
        let memory = [join.pid(), daemon.process.pid()].map(resident);
        beside("lease-join: resident memory, MiB", memory, Aim::Most(0.25));
        Self {
            storage,
            daemon,
            host,
            join,
            _run_dir: run_dir,
        }
    }

    fn ours(&self) -> Vec<String> {
        (1..=RESOURCES).map(|n| self.storage.resource(n)).collect()
    }

    fn theirs(&self) -> Vec<String> {
        let numbers = RESOURCES + 1..=2 * RESOURCES;
        numbers.map(|n| self.storage.resource(n)).collect()
    }

    /// One command of ours that has these resources, from its start to its end.
    fn hold(&self, options: &[&str], resources: &[String]) -> Duration {
        let resources = resources.iter().map(String::as_str);
        let args: Vec<&str> = options.iter().copied().chain(resources).collect();
        run(&mut self.host.hold_command(&args, &["/bin/true"]))
    }

    /// The same of sanlock's.
    fn sanlock(&self, resources: &[String]) -> Duration {
        self.released();
        let mut args = vec!["command"];
        resources.iter().for_each(|r| args.extend(["-r", r]));
        args.extend(["-c", "/bin/true"]);
        run(&mut self.daemon.command(&args))
    }

    /// Waits until all of the daemon's leases are free on the disk: until then it refuses them.
    fn released(&self) {
        wait_until("the daemon releases", SOON, || {
            let free = |n| {
                let owner = self.storage.owner(n).0;
                owner.is_none() && self.storage.sharers(n, 2).is_empty()
            };
            (RESOURCES + 1..=2 * RESOURCES).all(free).then_some(())
        });
        // The leader is written before the daemon has forgotten the lease.
        std::thread::sleep(Duration::from_millis(20));
    }

    /// The medians of both, in milliseconds, in turns.
    fn compare(&self, rounds: usize, options: &[&str], sets: [Vec<Vec<String>>; 2]) -> [f64; 2] {
        let [ours, theirs] = &sets;
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            times[0].push(self.hold(options, &ours[round % ours.len()]));
            times[1].push(self.sanlock(&theirs[round % theirs.len()]));
        }
        times.map(|times| milliseconds(middle(times)))
    }
}

fn each(resources: Vec<String>) -> Vec<Vec<String>> {
    resources.into_iter().map(|one| vec![one]).collect()
}

/// One resource.
pub(crate) fn one(bench: &Bench) {
    let (rounds, pair) = (bench.rounds, &bench.pair);
    let times = pair.compare(rounds, &[], [each(pair.ours()), each(pair.theirs())]);
    beside("one resource, ms", times, Aim::Most(0.6));
    let tree = ["--contain", "tree"];
    let without = (0..rounds).map(|_| pair.hold(&tree, &pair.ours()[..1]));
    let without = milliseconds(middle(without.collect()));
    beside(
        "  without a control group, ms",
        [without, times[1]],
        Aim::Any,
    );
}

/// Eight of them at once.
pub(crate) fn eight(bench: &Bench) {
    let (rounds, pair) = (bench.rounds, &bench.pair);
    let times = pair.compare(rounds, &[], [vec![pair.ours()], vec![pair.theirs()]]);
    beside("eight at once, ms", times, Aim::Most(0.35));
}

/// One resource, shared.
pub(crate) fn shared(bench: &Bench) {
    let (rounds, pair) = (bench.rounds, &bench.pair);
    let share = |all: Vec<String>| each(all.iter().map(|one| format!("{one}:SH")).collect());
    let times = pair.compare(rounds, &[], [share(pair.ours()), share(pair.theirs())]);
    beside("shared, one, ms", times, Aim::Most(0.6));
}

/// Read from the storage to acquire one resource.
pub(crate) fn reads(bench: &Bench) {
    const MIB: f64 = 1048576.0;
    let pair = &bench.pair;
    let script = ["sh", "-c", "cat /proc/$PPID/io"];
    let ran = pair.host.hold(&[&pair.storage.resource(1)], &script);
    let mut lines = ran.stdout.lines();
    let line = lines.find_map(|line| line.strip_prefix("read_bytes: "));
    let ours: f64 = line.and_then(|l| l.trim().parse().ok()).expect("a number");

    let process = pair.daemon.register();
    let resource = &pair.theirs()[0];
    let file = format!("/proc/{}/io", pair.daemon.process.pid());
    // Its renewals read as well: the least of several is without one.
    let acquire = || {
        pair.released();
        let before = number(&file, "read_bytes:");
        assert_eq!(pair.daemon.acquire(resource, &process), 0);
        let read = number(&file, "read_bytes:") - before;
        pair.daemon.release(resource, &process);
        read
    };
    let all = std::iter::repeat_with(acquire).take(8);
    let theirs = all.fold(f64::INFINITY, f64::min);
    alone(
        "read for an acquire, 2000 hosts, MiB",
        ours / MIB,
        Aim::Most(2.1),
    );
    beside(
        "  beside sanlock's",
        [ours, theirs].map(|bytes| bytes / MIB),
        Aim::Any,
    );
    assert_eq!(pair.join.code(), None, "it has renewed all the time");
}
