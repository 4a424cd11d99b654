//! Resources that an index knows by name: beside the real sanlock, with two hosts at once, and with
//! what cannot be.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::process::Command;
use support::files::{GEOMETRIES, MIB, Ran, binary, bytes, directory, path_in, run, sanlock};
use support::hosts::{Host, STAY};
use support::process::Process;
use support::sanlock::Daemon;
use support::storage::Storage;

/// A file with a lockspace at 0 and an index of it at 1 MiB.
fn with_index() -> (Storage, PathBuf) {
    let storage = Storage::new(0);
    let file = storage.file();
    let index = format!("LS:{}:{MIB}", file.display());
    let ran = run(storage.path(), "lease-init", &["--create", "-x", &index]);
    assert_eq!(ran.code, 0, "{ran:?}");
    (storage, file)
}

/// lease-init on a host, for resources by name.
fn start_init(host: &Host, args: &[&str]) -> Process {
    let mut command = Command::new(binary("lease-init"));
    command.env("LEASE_RUN_DIR", &host.run_dir).args(args);
    Process::start(&mut command)
}

fn init(host: &Host, args: &[&str]) -> Ran {
    start_init(host, args).finish()
}

fn named(file: &std::path::Path, name: &str) -> String {
    format!("LS:{name}:{}", file.display())
}

/// Names and offsets, as lease-dump shows the index.
fn listed(file: &std::path::Path) -> Vec<(String, u64)> {
    let at = format!("{}:{MIB}", file.display());
    let ran = run(file.parent().unwrap(), "lease-dump", &[at]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let index: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let entries = index["resources"].as_array().unwrap().iter();
    let entry = |entry: &serde_json::Value| {
        let name = entry["resource"].as_str().unwrap().to_owned();
        (name, entry["offset"].as_u64().unwrap())
    };
    entries.map(entry).collect()
}

#[test]
fn what_is_formatted_is_what_sanlock_formats() {
    let dir = directory();
    for (sector, align, mebibytes) in GEOMETRIES {
        let (ours, theirs) = (path_in(&dir, "ours"), path_in(&dir, "theirs"));
        let len = 3 * mebibytes * MIB;
        for path in [&ours, &theirs] {
            std::fs::write(path, vec![0; usize::try_from(len).unwrap()]).unwrap();
        }
        let offset = mebibytes * MIB;
        let (x, y) = (
            format!("LS:{ours}:{offset}"),
            format!("LS:{theirs}:{offset}"),
        );
        let ran = run(
            dir.path(),
            "lease-init",
            &["-Z", sector, "-A", align, "-x", &x],
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        let format = ["direct", "format", "-x", &y, "-Z", sector, "-A", align];
        sanlock(dir.path(), &format);
        let (mut ours, mut theirs) = (bytes(ours), bytes(theirs));
        // Of the request record sanlock writes eight bytes that it has never set.
        let request = usize::try_from(2 * offset).unwrap() + sector.parse::<usize>().unwrap();
        for area in [&mut ours, &mut theirs] {
            area[request + 16..request + 24].fill(0);
        }
        assert!(ours == theirs, "{sector}/{align}");
    }
}

#[test]
fn sanlock_and_we_find_what_the_other_creates_and_miss_what_it_deletes() {
    let (storage, file) = with_index();
    let daemon = Daemon::joined(&storage, 2);
    let (host, _join) = Host::joined(&storage, 1);
    let index = format!("LS:{}:{MIB}", file.display());
    let client = |action: &str, entry: &str| daemon.client(&[action, "-x", &index, "-e", entry]);
    let room = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    room.set_len(8 * MIB).unwrap();

    assert_eq!(client("create", "theirs").code, 0);
    let ran = init(&host, &["-r", &named(&file, "ours")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let at = 4 * MIB;
    assert_eq!(ran.stdout, format!("{}:{at}\n", named(&file, "ours")));
    let both = [("theirs".to_owned(), 3 * MIB), ("ours".to_owned(), at)];
    assert_eq!(listed(&file), both);
    let found = client("lookup", "ours");
    assert!(found.stdout.contains(&format!("offset {at}")), "{found:?}");

    // Each holds what the other has created, by name where that can be.
    let ran = host.hold(&[&named(&file, "theirs")], &["true"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let process = daemon.register();
    let resource = format!("{}:{at}", named(&file, "ours"));
    assert_eq!(daemon.acquire(&resource, &process), 0);
    let ran = init(&host, &["--delete", "-r", &named(&file, "ours")]);
    assert_eq!(ran.code, 75, "held by a sanlock host: {ran:?}");
    daemon.release(&resource, &process);

    assert_eq!(client("delete", "ours").code, 0);
    let ran = init(&host, &["--delete", "-r", &named(&file, "theirs")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(listed(&file), []);
    assert!(!client("lookup", "theirs").stdout.contains("offset"));
    for name in ["ours", "theirs"] {
        let ran = host.hold(&[&named(&file, name)], &["true"]);
        assert_eq!(ran.code, 66, "{ran:?}");
    }
    // Their places are free again, for both.
    assert_eq!(client("create", "again").code, 0);
    let ran = init(&host, &["-r", &named(&file, "more")]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let again = [("again".to_owned(), 3 * MIB), ("more".to_owned(), at)];
    assert_eq!(listed(&file), again);
}

#[test]
fn two_hosts_that_create_at_once_get_a_place_each() {
    let (storage, file) = with_index();
    let hosts = [1, 2].map(|id| Host::joined(&storage, id));
    let room = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    room.set_len(16 * MIB).unwrap();
    let names = ["a", "b", "c", "d", "e", "f"];
    let start = |(i, name): (usize, &&str)| {
        let (host, _) = &hosts[i % 2];
        start_init(host, &["-r", &named(&file, name)])
    };
    let started: Vec<Process> = names.iter().enumerate().map(start).collect();
    for process in started {
        let ran = process.finish();
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let mut found = listed(&file);
    let offsets: Vec<u64> = found.iter().map(|(_, offset)| *offset / MIB).collect();
    assert_eq!(offsets, [3, 4, 5, 6, 7, 8]);
    found.sort();
    let sorted: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    assert_eq!(sorted, names);
    // Of one name that both want at once, one gets it.
    let same = [0, 1].map(|i| start_init(&hosts[i].0, &["-r", &named(&file, "same")]));
    let mut codes = same.map(|process| process.finish().code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 73]);
}

#[test]
fn what_is_held_is_not_deleted_and_who_has_the_index_already_takes_it_once() {
    let (storage, file) = with_index();
    let (host, _join) = Host::joined(&storage, 1);
    let vm = named(&file, "vm");
    // Under a lease of its own on the index, a script creates as many as it likes.
    let lease = format!("LS:rindex_lease:{}:{}", file.display(), 2 * MIB);
    let tool = binary("lease-init");
    let second = named(&file, "second");
    let script = format!(
        "{0} --create -r {vm} && {0} --create -r {second}",
        tool.display()
    );
    let ran = host.hold(&[&lease], &["sh", "-c", &script]);
    let said = format!("{vm}:{}\n{second}:{}\n", 3 * MIB, 4 * MIB);
    assert_eq!((ran.code, &ran.stdout), (0, &said), "{ran:?}");
    assert_eq!(storage.leader(2).lver().0, 1, "its lease was taken once");

    let holder = host.start_hold(&[&vm], &STAY);
    holder.wait_for_stdout("held");
    let ran = init(&host, &["--delete", "-r", &vm]);
    assert_eq!(ran.code, 75, "{ran:?}");
    assert_eq!(listed(&file).len(), 2);
    holder.signal(nix::sys::signal::Signal::SIGTERM);
    holder.finish();
    let ran = init(&host, &["--delete", "-r", &vm]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(listed(&file), [("second".to_owned(), 4 * MIB)]);
}

#[test]
fn what_cannot_be_costs_nothing_and_is_said() {
    let (storage, file) = with_index();
    let other = storage.path().join("other");
    std::fs::write(&other, vec![0; 1 << 20]).unwrap();
    let before = bytes(&file);
    let (vm, shared) = (named(&file, "vm"), format!("{}:SH", named(&file, "vm")));
    let placed = format!("LS:x:{}:0", other.display());
    let (elsewhere, own) = (named(&other, "vm"), named(&file, "rindex_lease"));
    let foreign = format!("LX:vm:{}", file.display());
    let index = format!("LX:{}:{MIB}", file.display());
    let no_index = format!("LS:{}:0", other.display());
    let table: [(&[&str], i32, &str); 11] = [
        (&["-r", &vm], 69, "no live lease-join"),
        (&["-r", &shared], 64, "SH at its end is for lease-hold"),
        (&["-r", &vm, "-r", &placed], 64, "cannot be mixed"),
        (&["-r", &vm, "-r", &vm], 64, "twice"),
        (&["-r", &vm, "-r", &elsewhere], 64, "another index"),
        (&["-r", &own], 64, "the index's own lease"),
        (&["-r", &elsewhere], 66, "no index of lockspace LS"),
        (&["-r", &foreign], 66, "no index of lockspace LX"),
        (&["--delete", "-r", &placed], 64, "knows by its name"),
        (&["--rebuild", "-x", &index], 65, "an index of lockspace LS"),
        (&["--rebuild", "-x", &no_index], 65, "index header"),
    ];
    for (args, code, why) in table {
        let run_dir = storage.path().join("nobody");
        let mut command = Command::new(binary("lease-init"));
        command.env("LEASE_RUN_DIR", run_dir).args(args);
        let ran = Process::start(&mut command).finish();
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(why), "{args:?}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
    assert!(bytes(&file) == before, "nothing was written");
}
