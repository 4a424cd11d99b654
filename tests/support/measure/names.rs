//! A resource by its name, in an index of two thousand, where it is the last.

use crate::Bench;
use crate::table::{Aim, beside};
use crate::watch::{middle, milliseconds, run, timed};
use lease_core::id::Name;
use lease_core::record::index::IndexEntry;
use std::fs::OpenOptions;
use std::process::Command;
use support::files::{MIB, binary, patch};
use support::hosts::Host;
use support::sanlock::Daemon;
use support::storage::Storage;

const RESOURCES: u64 = 2000;
/// Where the index is, behind the lockspace.
const INDEX: u64 = MIB;

/// Where entry `slot` is, and its resource.
fn places(slot: u64) -> (u64, u64) {
    (INDEX + 512 + slot * 64, INDEX + (2 + slot) * MIB)
}

/// By its name, beside by its offset; and where it lies, beside what sanlock takes to say that.
pub(crate) fn names(bench: &Bench) {
    let storage = Storage::new(0);
    let disk = storage.file();
    let file = OpenOptions::new()
        .write(true)
        .open(&disk)
        .expect("the file");
    let end = places(RESOURCES).1;
    file.set_len(end).expect("holes take no room");
    let run_dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let mut host = Host::new(&storage, 1);
    host.run_dir = run_dir.path().join("run");
    let _join = host.join();
    let init = |args: [&str; 2]| {
        let mut command = Command::new(binary("lease-init"));
        command.env("LEASE_RUN_DIR", &host.run_dir).args(args);
        run(&mut command);
    };
    let path = disk.display();
    init(["-x", &format!("LS:{path}:{INDEX}")]);
    for slot in 0..RESOURCES - 1 {
        let name = Name::new(format!("vm{slot}").as_bytes()).expect("a name");
        let (at, offset) = places(slot);
        patch(&disk, at, &IndexEntry { offset, name }.encode());
    }
    let (last, offset) = (RESOURCES - 1, places(RESOURCES - 1).1);
    let name = format!("LS:vm{last}:{path}");
    init(["-r", &name]);

    let by_offset = format!("{name}:{offset}");
    let hold = |resource: &str| run(&mut host.hold_command(&[resource], &["/bin/true"]));
    compare(
        "by name among 2,000, ms",
        bench.rounds,
        Aim::Most(1.1),
        [&|| hold(&name), &|| hold(&by_offset)],
    );
    let daemon = Daemon::joined(&storage, 2);
    let (index, entry) = (format!("LS:{path}:{INDEX}"), format!("vm{last}"));
    let lookup = ["lookup", "-x", &index, "-e", &entry];
    // It says where, and ends with 1.
    let found = || {
        let mut ran = None;
        let took = timed(|| ran = Some(daemon.client(&lookup)));
        let said = ran.expect("it has ended").stdout;
        assert!(said.contains(&format!("offset {offset}")), "{said}");
        took
    };
    compare(
        "  dumped, beside a lookup, ms",
        bench.rounds,
        Aim::Any,
        [
            &|| run(Command::new(binary("lease-dump")).arg(&name)),
            &found,
        ],
    );
}

/// The medians of both, in turns.
fn compare(what: &str, rounds: usize, aim: Aim, both: [&dyn Fn() -> std::time::Duration; 2]) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (times, one) in times.iter_mut().zip(both) {
            times.push(one());
        }
    }
    beside(what, times.map(|times| milliseconds(middle(times))), aim);
}
