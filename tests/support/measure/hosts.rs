//! A lease goes from one host to another.

use crate::Bench;
use crate::disks::UNTIL_TOLD;
use crate::table::{Aim, alone, beside};
use crate::watch::{first_byte, let_end, middle, started};
use nix::sys::signal::Signal;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::hosts::Host;
use support::process::Process;
use support::sanlock::Daemon;
use support::storage::Storage;

/// How long hosts take turns.
const TURNS_FOR: Duration = Duration::from_secs(40);
/// Between two tries of a host that is refused at once.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Rounds of a hand-over, each of which a waiter waits for a different while.
const HAND_OVERS: u64 = 15;

/// All of it.
pub(crate) fn hosts(_bench: &Bench) {
    hand_over();
    take_over();
    turns();
}

/// After a release to one that waits.
fn hand_over() {
    let storage = Storage::new(1);
    let hosts = [1, 2].map(|id| Host::joined(&storage, id));
    let resource = storage.resource(1);
    let mut times = Vec::new();
    for round in 0..HAND_OVERS {
        let (_, holder) = started(&mut hosts[0].0.hold_command(&[&resource], &UNTIL_TOLD));
        let mut waiter = hosts[1]
            .0
            .hold_command(&["-w", "60", &resource], &UNTIL_TOLD);
        waiter
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut waiter = waiter.spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(1000 + 130 * round));
        let start = Instant::now();
        let_end(holder);
        first_byte(waiter.stdout.as_mut().expect("a pipe"));
        times.push(start.elapsed());
        let_end(waiter);
    }
    let median = middle(times).as_secs_f64();
    alone(
        "hand-over after a release to a waiter, s",
        median,
        Aim::Most(0.1),
    );
}

/// From a host that is killed with all that it runs, at t = 1 and W = 10.
fn take_over() {
    let storage = Storage::new(1);
    let [dying, other] = [1, 2].map(|id| Host::new(&storage, id).promising(10));
    let joins = [&dying, &other].map(Host::join);
    let resource = storage.resource(1);
    let holder = Process::start(&mut dying.hold_command(&[&resource], &["sleep", "100"]));
    while storage.owner(1).0 != Some(1) {
        assert_eq!(holder.code(), None, "{}", holder.stderr());
    }
    dying.wait_for_renewal();
    let start = Instant::now();
    joins[0].signal(Signal::SIGKILL);
    holder.signal(Signal::SIGKILL);
    let mut hold = other.hold_command(&["-w", "100", &resource], &UNTIL_TOLD);
    let (_, taker) = started(hold.stderr(Stdio::null()));
    let took = start.elapsed().as_secs_f64();
    let_end(taker);
    alone(
        "take-over from a killed host, t=1, W=10, s",
        took,
        Aim::Most(18.6),
    );
}

/// Two hosts of ours that wait, and two of sanlock's that try again and again, for one resource.
fn turns() {
    let storage = Storage::new(1);
    let resource = &storage.resource(1);
    let daemons = [1, 2].map(|id| Daemon::start_with(&format!("host{id}"), &[]));
    std::thread::scope(|scope| {
        for (daemon, id) in daemons.iter().zip([1, 2]) {
            let storage = &storage;
            scope.spawn(move || daemon.join(storage, id));
        }
    });
    let ours = [3, 4].map(|id| Host::joined(&storage, id));
    let until = Instant::now() + TURNS_FOR;
    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = ours.each_ref().map(|(host, _)| {
            scope.spawn(move || {
                let args = ["-w", "60", resource];
                let hold = || host.hold_command(&args, &["/bin/true"]);
                count(until, || succeeds(&mut hold()))
            })
        });
        let theirs = daemons.each_ref().map(|daemon| {
            scope.spawn(move || {
                let args = ["command", "-r", resource, "-c", "/bin/true"];
                count(until, || succeeds(&mut daemon.command(&args)))
            })
        });
        let sum = |all: [std::thread::ScopedJoinHandle<'_, u32>; 2]| -> u32 {
            all.map(|one| one.join().expect("it counts")).iter().sum()
        };
        (sum(ours), sum(theirs))
    });
    let turns = [ours, theirs].map(f64::from);
    beside(
        "turns in 40 s, two of ours and two of sanlock's",
        turns,
        Aim::Least(1.0),
    );
}

/// How often something succeeds until then; after each failure it rests.
fn count(until: Instant, mut attempt: impl FnMut() -> bool) -> u32 {
    let mut turns = 0;
    while Instant::now() < until {
        match attempt() {
            true => turns += 1,
            false => std::thread::sleep(TRY_AGAIN),
        }
    }
    turns
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().expect("it starts").success()
}
