//! The small world, exhausted: see `support::sim::small` for what was reduced and why that loses
//! nothing.

#![allow(clippy::panic)]

use lease_core::spec::Mode::{self, Exclusive, Shared};
use support::sim::small::{self, Scope};

fn every_order_is_safe(modes: &[Mode], crash: bool, retries: u32) {
    for records_first in [false, true] {
        let scope = Scope {
            modes: modes.to_vec(),
            crash,
            retries,
            records_first,
        };
        let start = std::time::Instant::now();
        let sum = small::exhaust(&scope);
        if let Some((what, steps)) = sum.violation {
            panic!("{what}\n{}", steps.join("\n"));
        }
        assert!(sum.ends > 0, "{sum:?}");
        if std::env::var("TELL").is_ok() {
            panic!("{:?} {sum:?} {:?}", scope, start.elapsed());
        }
    }
}

#[test]
fn two_hosts_acquire_hold_and_release_in_every_order() {
    every_order_is_safe(&[Exclusive, Exclusive], false, 2);
}

#[test]
fn two_hosts_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Exclusive, Exclusive], true, 1);
}

#[test]
fn one_exclusive_and_one_shared_and_every_moment_at_which_one_loses_power() {
    every_order_is_safe(&[Exclusive, Shared], true, 1);
}

#[test]
fn two_that_share_in_every_order() {
    every_order_is_safe(&[Shared, Shared], false, 2);
}

#[test]
fn three_hosts_with_one_ballot_each_in_every_order() {
    every_order_is_safe(&[Exclusive, Exclusive, Exclusive], false, 0);
}
