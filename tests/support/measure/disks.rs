//! A resource on three disks.

use crate::Bench;
use crate::table::{Aim, beside};
use crate::watch::{let_end, middle, milliseconds, started};
use support::hosts::Host;
use support::path::StoragePath;
use support::storage::Storage;

/// Says that it runs, and ends with its standard input.
pub(crate) const UNTIL_TOLD: [&str; 3] = ["sh", "-c", "echo; read _ || :"];

/// On one, on three, and on three of which one hangs: from the start of lease-hold to that of its
/// command. What hangs keeps lease-hold from its end, so that is not timed.
pub(crate) fn disks(bench: &Bench) {
    let rounds = bench.rounds;
    let storages = [(); 3].map(|()| Storage::new(2));
    let (host, _join) = Host::joined(&storages[0], 1);
    let slow = StoragePath::to(&storages[2]);
    let place = |file: &std::path::Path, number| {
        format!("{}:{}", file.display(), storages[0].offset(number))
    };
    let of = |number: u64, third: &std::path::Path| {
        let (first, second) = (storages[0].file(), storages[1].file());
        let places = [
            place(&first, number),
            place(&second, number),
            place(third, number),
        ];
        format!("LS:R{number}:{}", places.join(":"))
    };
    let (one, three) = (storages[0].resource(1), of(1, &storages[2].file()));
    let hanging = of(2, &slow.disk());
    let hold = |resource: &str| started(&mut host.hold_command(&[resource], &UNTIL_TOLD));

    let mut times = [const { Vec::new() }; 4];
    for round in 0..rounds {
        for (resource, times) in [&one, &three, &hanging].into_iter().zip(&mut times) {
            let (took, child) = hold(resource);
            let_end(child);
            times.push(took);
        }
        // What hangs takes a whole limit of time as things were.
        if round % 10 == 0 {
            slow.hang();
            let (took, mut child) = hold(&hanging);
            times[3].push(took);
            drop(child.stdin.take());
            slow.go_on();
            let_end(child);
        }
    }
    let [one, three, slow, hung] = times.map(|times| milliseconds(middle(times)));
    beside("three disks / one, ms", [three, one], Aim::Most(1.3));
    let what = "three disks of which one hangs / three, ms";
    beside(what, [hung, slow], Aim::Most(1.3));
}
