//! Measures ours, beside the real sanlock where it has the thing; see tests/bench.
#![allow(clippy::expect_used, clippy::print_stdout)]

mod crowd;
mod disks;
mod hosts;
mod names;
mod pair;
mod socket;
mod table;
mod watch;

use lease_core::process::{Process, ProcessId, descendants};
use pair::Pair;
use std::cell::LazyCell;
use std::{env, panic, process};

/// What a section needs: how many rounds there are, and the two hosts that several measure.
struct Bench {
    rounds: usize,
    pair: LazyCell<Pair>,
}

/// What can be measured, by name, in the order in which it is.
const SECTIONS: [(&str, fn(&Bench)); 9] = [
    ("one", pair::one),
    ("eight", pair::eight),
    ("shared", pair::shared),
    ("reads", pair::reads),
    ("names", names::names),
    ("socket", socket::socket),
    ("crowd", crowd::crowd),
    ("disks", disks::disks),
    ("hosts", hosts::hosts),
];
/// Rounds of what is repeated, if nothing else is asked for.
const ROUNDS: usize = 30;

fn main() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        told(panic);
        end_all();
    }));
    let mut wanted: Vec<String> = env::args().skip(1).collect();
    let rounds = wanted.first().and_then(|first| first.parse().ok());
    if rounds.is_some() {
        wanted.remove(0);
    }
    let known = |name: &String| SECTIONS.iter().any(|(section, _)| section == name);
    assert!(wanted.iter().all(known), "there is no such row: {wanted:?}");
    let bench = Bench {
        rounds: rounds.unwrap_or(ROUNDS),
        pair: LazyCell::new(Pair::join),
    };
    table::head();
    for (name, measure) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wish| wish == name) {
            measure(&bench);
        }
    }
    table::foot(bench.rounds);
}

/// What panics here ends at once, and drops nothing: all that was started is ended before.
fn end_all() {
    let own = process::id().cast_signed();
    let all = descendants(own, &[])
        .into_iter()
        .filter_map(ProcessId::open);
    all.for_each(|process: Process| process.kill());
}
