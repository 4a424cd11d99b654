//! The large world by seeds, on all cores: nothing forbidden happens while the assumptions of
//! lease.7 hold, and the checker finds what is forbidden once one of them does not.
//!
//! `SEED=n` and `SEEDS=n` choose the first seed and how many; a failure prints the command that
//! replays it, and its story.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicU64, Ordering};
use support::sim::world::{self, Broken, Kind};

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |n| n.parse().unwrap())
}

/// What happened in many worlds.
#[derive(Debug, Default)]
struct Totals {
    /// Leases that were had.
    granted: AtomicU64,
    /// In long worlds.
    granted_in_long: AtomicU64,
    /// Machines of long worlds.
    machines_of_long: AtomicU64,
}

/// Runs `count` seeds on every core; the smallest one that fails, with its violation.
fn first_failure(kind: Kind, first: u64, count: u64, fails: fn(&str) -> bool) -> Option<u64> {
    run_all(kind, first, count, fails, &Totals::default())
}

fn run_all(
    kind: Kind,
    first: u64,
    count: u64,
    fails: fn(&str) -> bool,
    totals: &Totals,
) -> Option<u64> {
    let (next, failed) = (AtomicU64::new(first), AtomicU64::new(u64::MAX));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= first + count || failed.load(Ordering::Relaxed) < seed {
            return;
        }
        let report = world::run(kind, seed, false);
        let granted = report.exclusive + report.shared;
        totals.granted.fetch_add(granted, Ordering::Relaxed);
        if report.long {
            let machines = &totals.machines_of_long;
            totals.granted_in_long.fetch_add(granted, Ordering::Relaxed);
            machines.fetch_add(report.machines, Ordering::Relaxed);
        }
        if report.violation.is_some_and(|what| fails(&what)) {
            failed.fetch_min(seed, Ordering::Relaxed);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    Some(failed.into_inner()).filter(|seed| *seed < u64::MAX)
}

fn must_survive(kind: Kind, test: &str) {
    must_survive_some(kind, test, 10_000);
}

fn must_survive_some(kind: Kind, test: &str, seeds: u64) {
    let (first, count) = (number("SEED", 0), number("SEEDS", seeds));
    let totals = Totals::default();
    if let Some(seed) = run_all(kind, first, count, |_| true, &totals) {
        let report = world::run(kind, seed, true);
        panic!(
            "seed {seed}: {}\nreplay: SEED={seed} SEEDS=1 cargo test -p lease-tests --test simulation {test}\n{}",
            report.violation.unwrap(),
            report.story
        );
    }
    // Of few worlds the mean says nothing.
    let enough = totals.granted.into_inner() >= 5 * count;
    assert!(count < 1000 || enough, "too little happens in these worlds");
    let machines = totals.machines_of_long.into_inner();
    let enough = totals.granted_in_long.into_inner() >= 100 * machines;
    assert!(
        count < 10_000 || enough,
        "too little happens in the long worlds"
    );
}

#[test]
fn without_watchdogs_no_lease_is_held_twice_and_none_is_lost_or_leaked() {
    must_survive(Kind::Plain, "without_watchdogs");
}

#[test]
fn with_watchdogs_stalls_of_any_length_are_survived() {
    must_survive(Kind::Watchdog, "with_watchdogs");
}

#[test]
fn beside_sanlock_no_lease_is_held_twice_where_sanlock_alone_is_safe() {
    must_survive_some(Kind::Sanlock, "beside_sanlock", 300);
    must_survive_some(Kind::Mixed, "beside_sanlock", 1_200);
}

fn two_hold_it(what: &str) -> bool {
    what.starts_with("two at once") || what.contains("decided twice")
}

/// A world in which nothing can go wrong shows nothing.
fn must_be_found(broken: Broken) {
    let found = first_failure(Kind::Broken(broken), 0, 20_000, two_hold_it);
    assert!(found.is_some(), "{broken:?}: no seed shows two holders");
}

#[test]
fn if_reads_may_return_old_bytes_two_hold_it() {
    must_be_found(Broken::StaleReads);
}

#[test]
fn if_clocks_run_at_any_rate_two_hold_it() {
    must_be_found(Broken::Clocks);
}

#[test]
fn if_writes_land_at_any_time_two_hold_it() {
    must_be_found(Broken::LateWrites);
}

#[test]
fn if_a_host_without_a_watchdog_freezes_and_goes_on_two_hold_it() {
    must_be_found(Broken::Freezes);
}

/// Lives end by that, and no two hold it: whoever joins with the name that stands there, and those
/// who see that, wait as long as for any other life.
#[test]
fn if_two_machines_have_one_host_id_and_one_name_no_two_hold_it() {
    let names = Kind::Broken(Broken::Names);
    let found = first_failure(
        names,
        number("SEED", 0),
        number("SEEDS", 2_000),
        two_hold_it,
    );
    assert_eq!(found, None, "the first seed that shows two holders");
}

#[test]
fn if_commands_outlive_the_watchdog_two_hold_it() {
    must_be_found(Broken::Guard);
}
