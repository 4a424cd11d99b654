//! The small world, exhausted: see `support::sim::small` for what was reduced and why that loses
//! nothing. The larger scopes take minutes: `cargo test -p lease-tests --test small_world --
//! --ignored`.

#![allow(clippy::panic)]

use lease_core::spec::Mode::{self, Exclusive, Shared};
use support::sim::small::{self, Reads, Scope};

fn every_order_is_safe(modes: &[Mode], crashes: usize, retries: u32) {
    let scope = |reads| Scope {
        modes: modes.to_vec(),
        crashes,
        whole: true,
        retries,
        reads,
    };
    std::thread::scope(|threads| {
        threads.spawn(|| must_be_safe(&scope(Reads::Forwards)));
        threads.spawn(|| must_be_safe(&scope(Reads::Backwards)));
    });
}

fn must_be_safe(scope: &Scope) {
    let sum = small::exhaust(scope);
    if let Some((what, steps)) = sum.violation {
        panic!("{what}\n{}", steps.join("\n"));
    }
    assert!(sum.ends > 0, "{sum:?}");
}

#[test]
fn two_hosts_acquire_and_release_in_every_order() {
    every_order_is_safe(&[Exclusive, Exclusive], 0, 1);
}

#[test]
fn one_exclusive_and_one_shared_in_every_order() {
    every_order_is_safe(&[Exclusive, Shared], 0, 1);
}

#[test]
fn two_hosts_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Exclusive, Exclusive], 1, 0);
}

#[test]
fn one_exclusive_and_one_shared_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Exclusive, Shared], 1, 0);
}

#[test]
fn two_that_share_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Shared, Shared], 1, 0);
}

#[test]
fn two_hosts_and_every_two_moments_at_which_both_lose_power() {
    every_order_is_safe(&[Exclusive, Exclusive], 2, 0);
}

#[test]
fn one_exclusive_and_one_shared_and_every_two_moments_at_which_both_lose_power() {
    every_order_is_safe(&[Exclusive, Shared], 2, 0);
}

#[test]
fn three_hosts_with_one_ballot_each_in_every_order() {
    let scope = |reads| Scope {
        modes: vec![Exclusive; 3],
        crashes: 0,
        whole: false,
        retries: 0,
        reads,
    };
    for reads in [Reads::AtOnce, Reads::Forwards, Reads::Backwards] {
        must_be_safe(&scope(reads));
    }
}

#[test]
#[ignore = "three minutes, and two gigabytes"]
fn three_hosts_acquire_and_release_in_every_order() {
    must_be_safe(&Scope {
        modes: vec![Exclusive; 3],
        crashes: 0,
        whole: true,
        retries: 0,
        reads: Reads::AtOnce,
    });
}

#[test]
#[ignore = "a minute"]
fn two_hosts_that_lose_two_ballots_in_every_order() {
    every_order_is_safe(&[Exclusive, Exclusive], 0, 2);
}

#[test]
#[ignore = "ten seconds"]
fn two_hosts_with_retries_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Exclusive, Exclusive], 1, 1);
}

#[test]
#[ignore = "a minute"]
fn one_exclusive_and_one_shared_with_retries_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Exclusive, Shared], 1, 1);
}

#[test]
#[ignore = "a minute, and a gigabyte"]
fn two_that_share_with_retries_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Shared, Shared], 1, 1);
}
