#![allow(missing_docs, clippy::print_stderr)]
use lease_core::spec::Mode::{Exclusive, Shared};
use support::sim::small::{self, Scope};
fn main() {
    for (modes, crash, retries) in [
        (vec![Exclusive, Exclusive], false, 0),
        (vec![Exclusive, Shared], false, 0),
        (vec![Shared, Shared], false, 0),
        (vec![Exclusive, Exclusive], true, 0),
        (vec![Exclusive, Exclusive], false, 1),
    ] {
        let scope = Scope {
            modes,
            crash,
            retries,
            records_first: false,
        };
        let start = std::time::Instant::now();
        let sum = small::exhaust(&scope);
        eprintln!("{scope:?} {sum:?} {:?}", start.elapsed());
    }
}
