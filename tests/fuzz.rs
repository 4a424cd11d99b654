//! Every decoder, the strings, the registry's messages and whole areas under mutated bytes, with a
//! fixed seed: no panic, no hang, and what decodes gives the same bytes again. And the other way
//! round: a message is heard as it was said.
//!
//! `FUZZ=n`: so many executions of each; `TARGET=name`: of one only. With coverage:
//! `cd tests/fuzz && cargo +nightly fuzz run leader` (or another of its targets). It starts from
//! what `cargo test -p lease-tests --test fuzz -- --ignored` has put there.

#![allow(clippy::unwrap_used)]

use fastrand::Rng;
use lease_core::registry::message::{Ask, Tell};
use std::path::Path;
use support::fuzz::{TARGETS, mend};
use support::messages;

/// Numbers at which things break.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    2000,
    2001,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    u64::MAX - 1,
    u64::MAX,
];

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..9) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 | 3 => overwrite(
                bytes,
                at / 8 * 8,
                &EDGES[rng.usize(..EDGES.len())].to_le_bytes(),
            ),
            4 => overwrite(bytes, at / 4 * 4, &(rng.u32(..8)).to_le_bytes()),
            5 if !bytes.is_empty() => {
                let from = rng.usize(..bytes.len());
                let part = bytes[from..bytes.len().min(from + rng.usize(1..64))].to_vec();
                overwrite(bytes, at, &part);
            }
            6 => rewrite_number(bytes, at, EDGES[rng.usize(..EDGES.len())]),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            _ => {}
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(there) = bytes.get_mut(at..at + part.len()) {
        there.copy_from_slice(part);
    }
}

/// The first number in digits from `at` on becomes another.
fn rewrite_number(bytes: &mut Vec<u8>, at: usize, number: u64) {
    let rest = &bytes[at..];
    if let Some(start) = rest.iter().position(u8::is_ascii_digit) {
        let digits = rest[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let (start, len) = (at + start, digits.count());
        bytes.splice(start..start + len, number.to_string().into_bytes());
    }
}

#[test]
fn mutated_bytes_do_no_harm_to_any_decoder() {
    run_all(|name| !name.ends_with("area"));
}

#[test]
fn whatever_is_on_an_area_an_attempt_comes_to_an_end() {
    run_all(|name| name.ends_with("area"));
}

fn run_all(which: fn(&str) -> bool) {
    let only = std::env::var("TARGET").ok();
    for (name, good, target) in TARGETS {
        if !which(name) || only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let few = match name {
            "lockspace_area" | "wire" => 1_000,
            "resource_area" | "kept_files" => 2_000,
            "holders" => 10_000,
            _ => 100_000,
        };
        let mut rng = Rng::with_seed(7);
        // What is never taken is never compared. Not every resource can be had.
        let least = if name == "resource_area" { 50 } else { 100 };
        let taken = (0..100).filter(|_| target(&good(&mut rng))).count();
        assert!(taken >= least, "{name}: it takes {taken} good ones of 100");
        for _ in 0..executions(few) {
            let mut bytes = good(&mut rng);
            mutate(&mut rng, &mut bytes);
            if rng.bool() {
                bytes = mend(name, bytes);
            }
            let start = std::time::Instant::now();
            target(&bytes);
            assert!(start.elapsed().as_secs() < 10, "{name} takes too long");
        }
    }
}

#[test]
#[ignore = "writes good inputs for cargo-fuzz to start from"]
fn good_inputs_are_there_to_start_from() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut rng = Rng::with_seed(7);
    for (name, good, _) in TARGETS {
        std::fs::create_dir_all(corpus.join(name)).unwrap();
        for number in 0..100 {
            let file = corpus.join(name).join(format!("good-{number}"));
            std::fs::write(file, good(&mut rng)).unwrap();
        }
    }
}

fn executions(few: u32) -> u32 {
    std::env::var("FUZZ").map_or(few, |n| n.parse().unwrap())
}

/// One line each, and the same at the other end.
#[test]
fn every_message_is_heard_as_it_was_said() {
    let mut rng = Rng::with_seed(7);
    for _ in 0..executions(20_000) {
        let ask = messages::ask(&mut rng);
        let line = serde_json::to_string(&ask).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Ask>(&line).unwrap(), ask, "{line}");
        let tell = messages::tell(&mut rng);
        let line = serde_json::to_string(&tell).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Tell>(&line).unwrap(), tell, "{line}");
    }
}
