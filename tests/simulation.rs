//! The world by seeds.

use support::sim::world::{self, Kind};

#[test]
fn seeds() {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |n| n.parse().unwrap());
    let first = number("SEED", 0);
    let (mut operations, mut failed) = (0, Vec::new());
    for seed in first..first + number("SEEDS", 500) {
        let kind = [Kind::Plain, Kind::Watchdog][(seed % 2) as usize];
        let report = world::run(kind, seed, false);
        operations += report.operations;
        if let Some(violation) = report.violation {
            failed.push(format!("seed {seed}: {violation}"));
            if std::env::var("KEEP").is_err() {
                let told = world::run(kind, seed, true);
                panic!("{}\n{}", failed.join("\n"), told.story);
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{operations} operations\n{}",
        failed.join("\n")
    );
}
