//! Every decoder, the strings, the registry's messages and whole areas under mutated bytes, with a
//! fixed seed: no panic, no hang, and what decodes gives the same bytes again.
//!
//! `FUZZ=n`: so many executions of each; `TARGET=name`: of one only. With coverage:
//! `cd tests/fuzz && cargo +nightly fuzz run leader` (or another of its targets).

#![allow(clippy::unwrap_used)]

use fastrand::Rng;
use support::fuzz::{TARGETS, mend};

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
        match rng.u8(..8) {
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

#[test]
fn mutated_bytes_do_no_harm_to_any_decoder() {
    let asked = std::env::var("FUZZ").ok();
    let only = std::env::var("TARGET").ok();
    for (name, good, target) in TARGETS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let few = if name.ends_with("area") {
            2_000
        } else {
            100_000
        };
        let executions = asked.as_ref().map_or(few, |n| n.parse().unwrap());
        let mut rng = Rng::with_seed(7);
        let good = good();
        target(&good);
        for _ in 0..executions {
            let mut bytes = good.clone();
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
