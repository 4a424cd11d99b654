//! What the tools say, read aloud: the commonest refusals word by word, and for all others rules
//! that a look at the sources can check.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use support::files::{as_nobody, binary, patch, run};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, SOON, wait_until};
use support::storage::Storage;

// ---- read aloud

/// A tool with its arguments, its exit code, and its last line: tool, verb, object, cause, what to
/// do. DIR stands for the directory of the test. It is run on host 1 (lease-join: on a third one),
/// unless another number stands first.
const ALOUD: &[(&str, i32, &str)] = &[
    (
        "lease-init -s LS:0:DIR/none:0",
        66,
        "lease-init: cannot format LS:0:DIR/none:0: DIR/none: no such file or device; --create makes a file",
    ),
    (
        "lease-init -s LS:0:DIR/disk:0",
        73,
        "lease-init: cannot format LS:0:DIR/disk:0: there is a lockspace LS (512-byte sectors, 1M areas) already; --force formats over it, unless it is alive",
    ),
    (
        "lease-init -s LS:0:DIR/disk:4194304",
        65,
        "lease-init: cannot format LS:0:DIR/disk:4194304: the area would end at byte 5242880, DIR/disk ends at 4194304; --create makes it longer",
    ),
    (
        "lease-init -r LS:R9:DIR/disk:512",
        64,
        "lease-init: cannot format LS:R9:DIR/disk:512: offset 512 is not a multiple of the area size, 1048576",
    ),
    (
        "lease-init -r LS:R:DIR/pci-0000:00:11.5:0",
        64,
        "lease-init: cannot format LS:R:DIR/pci-0000:00:11.5:0: offset \"00\": an offset is a decimal number of bytes; a colon in a path is written \\:",
    ),
    (
        "lease-init --create -s LS:0:DIR/none/LS:0",
        73,
        "lease-init: cannot format LS:0:DIR/none/LS:0: DIR/none/LS cannot be created: No such file or directory; make its directory first",
    ),
    (
        "lease-init --force -r LS:R2:DIR/disk:2097152",
        75,
        "lease-init: cannot format LS:R2:DIR/disk:2097152: a resource LS:R2 (512-byte sectors, 1M areas) is owned by host 1; take it and release it with lease-hold; or, when you are sure that nothing uses it any more, overwrite the area with zeros (dd) [-243]",
    ),
    (
        "lease-join LS:1:DIR/none:0",
        66,
        "lease-join: cannot join LS:1:DIR/none:0: DIR/none: No such file or directory; is the path right, and its disk there?",
    ),
    (
        "lease-join LS:2001:DIR/disk:0",
        64,
        "lease-join: cannot join LS:2001:DIR/disk:0: host id \"2001\": a host id is a number from 1 to 2000, or auto (0 is for lease-init only) (see man lease-join)",
    ),
    (
        "lease-join LS:2:DIR/disk:1048576",
        65,
        "lease-join: cannot join LS:2:DIR/disk:1048576: no lockspace there: heartbeat record: there is none, but a resource: is this the offset of another area? [-223]",
    ),
    (
        "lease-join LS:2:DIR/zeros:0",
        65,
        "lease-join: cannot join LS:2:DIR/zeros:0: no lockspace there: heartbeat record: there is none, but zeros: nothing was formatted there, or its beginning was wiped; lease-init formats it [-223]",
    ),
    (
        "lease-join MS:2:DIR/disk:0",
        65,
        "lease-join: cannot join MS:2:DIR/disk:0: it belongs to lockspace LS; are name, path and offset right? lease-dump shows what lies where [-226]",
    ),
    (
        "lease-join LS:2:DIR/short:0",
        65,
        "lease-join: cannot join LS:2:DIR/short:0: it has only 1000 bytes; are path and offset right, or was it cut short? lease-dump shows what lies there",
    ),
    (
        "lease-hold LS:R1:DIR/none:0 -- true",
        66,
        "lease-hold: cannot acquire LS:R1: DIR/none: No such file or directory; is the path right, and its disk there?",
    ),
    (
        "lease-hold LS:R9:DIR/disk:1048576 -- true",
        65,
        "lease-hold: cannot acquire LS:R9: DIR/disk:1048576 is resource R1; are name, path and offset right? lease-dump shows what lies where [-227]",
    ),
    (
        "lease-hold LS:R1:DIR/disk:0 -- true",
        65,
        "lease-hold: cannot acquire LS:R1: DIR/disk:0: leader record: there is none, but a lockspace: is this the offset of another area? [-223]",
    ),
    (
        "lease-hold LS:R3:DIR/disk:3145728 -- true",
        65,
        "lease-hold: cannot acquire LS:R3: DIR/disk:3145728: leader record: it is damaged: its checksum is 0x2c529508, that of its bytes 0xe3713e18; lease-dump shows more; when nothing uses it any more, lease-init --force formats it again [-229]",
    ),
    (
        "lease-hold -n LS:R2:DIR/disk:2097152 -- true",
        75,
        "lease-hold: cannot acquire LS:R2: held on this host by lease-hold pid PID (sleep); --wait waits for it [-17]",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576 -- DIR/none",
        127,
        "lease-hold: cannot run DIR/none: there is no such file; is its path right?",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576 -- DIR/zeros",
        126,
        "lease-hold: cannot run DIR/zeros: it is not an executable file; chmod +x makes it one",
    ),
    (
        "lease-dump DIR/none",
        66,
        "lease-dump: cannot dump DIR/none: No such file or directory; is the path right, and its disk there?",
    ),
    (
        "lease-dump DIR/zeros",
        65,
        "lease-dump: cannot dump DIR/zeros: no lockspace or resource is to be found in its 2097152 bytes; lease-init formats one [-223]",
    ),
    (
        "lease-dump DIR/zeros:0",
        65,
        "lease-dump: cannot dump DIR/zeros:0: there are zeros: it was never formatted; lease-init does that [-223]",
    ),
    (
        "lease-dump DIR/disk:3145728",
        65,
        "lease-dump: found damage in a resource at DIR/disk:3145728: 1 record does not check; \"errors\" in its object says which",
    ),
    (
        "lease-dump LS:R2:DIR/disk:1048576",
        65,
        "lease-dump: resource LS:R1 at DIR/disk:1048576 is not what was named: it is resource LS:R1, not LS:R2",
    ),
    (
        "lease-dump --local MS",
        69,
        "lease-dump: no live lease-join for lockspace MS in DIR/host1: No such file or directory; start lease-join first",
    ),
    (
        "lease-init",
        64,
        "lease-init: the following required arguments were not provided: <-s <LOCKSPACE>|-r <RESOURCE>|-x <INDEX>> (see man lease-init)",
    ),
    (
        "lease-init -s LS:1:DIR/disk:0",
        64,
        "lease-init: cannot format LS:1:DIR/disk:0: its host id must be 0 here: a lockspace is formatted for all its hosts",
    ),
    (
        "lease-init -s LS:0:DIR:0",
        66,
        "lease-init: cannot format LS:0:DIR:0: DIR: it is a directory, not a file or block device",
    ),
    (
        "lease-init -s LS:0:/dev/null:0",
        66,
        "lease-init: cannot format LS:0:/dev/null:0: /dev/null: it is a character device, not a file or block device",
    ),
    (
        "lease-init -r LS:R9:DIR/disk",
        66,
        "lease-init: cannot format LS:R9:DIR/disk: no index of lockspace LS lies there; lease-init -x makes one",
    ),
    (
        "lease-init -Z 1024 -s LS:0:DIR/zeros:0",
        64,
        "lease-init: invalid value '1024' for '--sector-size <BYTES>': a sector has 512 or 4096 bytes (see man lease-init)",
    ),
    (
        "lease-init -A 3M -s LS:0:DIR/zeros:0",
        64,
        "lease-init: invalid value '3M' for '--align-size <SIZE>': an area has 1M, 2M, 4M or 8M (see man lease-init)",
    ),
    (
        "lease-init -Z 512 -A 8M -s LS:0:DIR/zeros:0",
        64,
        "lease-init: cannot format LS:0:DIR/zeros:0: sector size and area size do not go together (512/1M, 4096/1M, 4096/2M, 4096/4M or 4096/8M do); sectors here have 512",
    ),
    (
        "lease-init -s LS:0:DIR/zeros:0 -r LS:R:DIR/zeros:0",
        64,
        "lease-init: cannot format LS:R:DIR/zeros:0: it overlaps LS:0:DIR/zeros:0; choose another offset",
    ),
    (
        "lease-init -r LS:R:DIR/zeros:0:SH",
        64,
        "lease-init: cannot format LS:R:DIR/zeros:0:SH: a version or SH at its end is for lease-hold; leave it out",
    ),
    (
        "lease-init --max-hosts 3000 -r LS:R:DIR/zeros:0",
        64,
        "lease-init: cannot format LS:R:DIR/zeros:0: --max-hosts 3000: with 512-byte sectors, 1M areas there can be 2000",
    ),
    (
        "lease-init --create -s LS:0:/dev/none:0",
        73,
        "lease-init: cannot format LS:0:/dev/none:0: /dev/none: --create makes no file under /dev; is that the name of the device?",
    ),
    (
        "lease-init --force -s LS:0:DIR/disk:0",
        75,
        "lease-init: cannot format LS:0:DIR/disk:0: a lockspace LS (512-byte sectors, 1M areas) is alive: the heartbeat of host 1 has changed; stop all its hosts first [-262]",
    ),
    (
        "lease-join",
        64,
        "lease-join: the following required arguments were not provided: <LOCKSPACE> (see man lease-join)",
    ),
    (
        "lease-join LS:1",
        64,
        "lease-join: cannot join LS:1: it has 2 fields; a LOCKSPACE is name:host_id:path:offset, and a colon in a path is written \\: (see man lease-join)",
    ),
    (
        "lease-join LS:0:DIR/disk:0",
        64,
        "lease-join: cannot join LS:0:DIR/disk:0: host id 0 is for formatting; a host joins with 1 to 2000, or auto (see man lease-join)",
    ),
    (
        "lease-join LS:Auto:DIR/disk:0",
        64,
        "lease-join: cannot join LS:Auto:DIR/disk:0: host id \"Auto\": a host id is a number from 1 to 2000, or auto (0 is for lease-init only) (see man lease-join)",
    ),
    (
        "lease-join --state-dir DIR/zeros LS:auto:DIR/disk:0",
        73,
        "lease-join: cannot join LS: state directory DIR/zeros: File exists",
    ),
    (
        "lease-join LS:2:DIR:0",
        66,
        "lease-join: cannot join LS:2:DIR:0: DIR: it is a directory, not a file or block device; is the path right, and its disk there?",
    ),
    (
        "lease-join LS:2:DIR/disk:512",
        64,
        "lease-join: cannot join LS:2:DIR/disk:512: the offset is not a multiple of the area size; lease-dump shows what lies at which offset of it",
    ),
    (
        "lease-join -o 0 LS:3:DIR/disk:0",
        64,
        "lease-join: invalid value '0' for '--io-timeout <SECONDS>': 0 is not in 1..=255 (see man lease-join)",
    ),
    (
        "lease-join --watchdog-timeout 99 LS:3:DIR/disk:0",
        64,
        "lease-join: invalid value '99' for '--watchdog-timeout <SECONDS>': 99 is not in 1..=60 (see man lease-join)",
    ),
    (
        "lease-join --watchdog DIR/none LS:3:DIR/disk:0",
        66,
        "lease-join: cannot use watchdog DIR/none: No such file or directory; is its driver loaded?",
    ),
    (
        "lease-join --watchdog DIR/zeros LS:3:DIR/disk:0",
        78,
        "lease-join: cannot use watchdog DIR/zeros: it is no watchdog; their devices are called /dev/watchdog0 and so on",
    ),
    (
        "lease-join --watchdog /dev/null LS:3:DIR/disk:0",
        78,
        "lease-join: cannot use watchdog /dev/null: it is no watchdog; their devices are called /dev/watchdog0 and so on",
    ),
    (
        "lease-join -e a:b LS:3:DIR/disk:0",
        64,
        "lease-join: cannot join as host a:b: a name cannot contain control characters, colons or backslashes",
    ),
    (
        "lease-join -e other LS:1:DIR/disk:0",
        75,
        "lease-join: cannot join LS:1:DIR/disk:0: in use by host1; choose another host id [-262]",
    ),
    (
        "1 lease-join LS:1:DIR/disk:0",
        75,
        "lease-join: cannot join LS: run directory DIR/host1: another lease-join of this lockspace runs here; stop that one first",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576",
        64,
        "lease-hold: the following required arguments were not provided: <COMMAND>... (see man lease-hold)",
    ),
    (
        "lease-hold MS:R1:DIR/disk:1048576 -- true",
        65,
        "lease-hold: cannot acquire MS:R1: DIR/disk:1048576 belongs to lockspace LS; are name, path and offset right? lease-dump shows what lies where [-226]",
    ),
    (
        "lease-hold LS:R1:DIR/disk -- true",
        66,
        "lease-hold: cannot acquire LS:R1:DIR/disk: no index of lockspace LS lies there; lease-init -x makes one",
    ),
    (
        "lease-hold LS:R1:DIR/disk:512 -- true",
        64,
        "lease-hold: cannot acquire LS:R1: DIR/disk:512: the offset is not a multiple of the area size; lease-dump shows what lies at which offset of it",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576:7 -- true",
        75,
        "lease-hold: cannot acquire LS:R1: its lver is 0, not the one asked for; without it in the argument any version will do [-240]",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576 LS:R1:DIR/disk:1048576 -- true",
        64,
        "lease-hold: cannot acquire LS:R1:DIR/disk:1048576: it is the same resource as LS:R1:DIR/disk:1048576; name it once",
    ),
    (
        "lease-hold LS:R1:DIR/zeros:0 -- true",
        65,
        "lease-hold: cannot acquire LS:R1: DIR/zeros:0: leader record: there is none, but zeros: nothing was formatted there, or its beginning was wiped; lease-init formats it [-223]",
    ),
    (
        "lease-hold LS:R1:DIR/disk:104857600 -- true",
        65,
        "lease-hold: cannot acquire LS:R1: DIR/disk:104857600: it has only 4194304 bytes; are path and offset right, or was it cut short? lease-dump shows what lies there",
    ),
    (
        "lease-hold --grace 500 LS:R1:DIR/disk:1048576 -- true",
        64,
        "lease-hold: a grace of more than 1.5 s does not fit the 2 s after which this host is promised to be dead (--watchdog-timeout of lease-join); give a shorter --grace",
    ),
    (
        "lease-hold --wait soon LS:R1:DIR/disk:1048576 -- true",
        64,
        "lease-hold: invalid value 'soon' for '--wait <SECONDS>': not a number of seconds (see man lease-hold)",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576 -- no-such-command",
        127,
        "lease-hold: cannot run no-such-command: there is no such command in PATH; give its path",
    ),
    (
        "lease-hold --wait 1 LS:R2:DIR/disk:2097152 -- true",
        75,
        "lease-hold: cannot acquire LS:R2: held on this host by lease-hold pid PID (sleep); it was not to be had in the time of --wait [-17]",
    ),
    (
        "2 lease-hold LS:R2:DIR/disk:2097152 -- true",
        75,
        "lease-hold: cannot acquire LS:R2: held by host 1 (host1) since TIME, pid PID sleep; --wait waits for it [-243]",
    ),
    (
        "2 lease-hold LS:R2:DIR/disk:2097152:SH -- true",
        75,
        "lease-hold: cannot acquire LS:R2: held by host 1 (host1) since TIME, pid PID sleep; --wait waits for it [-243]",
    ),
    (
        "lease-dump",
        64,
        "lease-dump: the following required arguments were not provided: <AREA>... (see man lease-dump)",
    ),
    (
        "lease-dump DIR",
        66,
        "lease-dump: cannot dump DIR: it is a directory, not a file or block device; is the path right, and its disk there?",
    ),
    (
        "lease-dump DIR/disk:512",
        65,
        "lease-dump: cannot dump DIR/disk:512: that is in the middle of lockspace LS at DIR/disk:0; is the offset right? [-223]",
    ),
    (
        "lease-dump DIR/disk:104857600",
        65,
        "lease-dump: cannot dump DIR/disk:104857600: it ends at byte 4194304; is the offset right? [-223]",
    ),
    (
        "lease-dump DIR/short:0",
        65,
        "lease-dump: cannot dump DIR/short:0: there is no lockspace or resource; without an offset all are shown [-223]",
    ),
    (
        "lease-dump MS:R9:DIR/disk",
        66,
        "lease-dump: cannot dump MS:R9:DIR/disk: no index of lockspace MS lies there; lease-init -x makes one",
    ),
    (
        "nobody lease-init --create -s LS:0:DIR/new:0",
        77,
        "lease-init: cannot format LS:0:DIR/new:0: DIR/new cannot be created: Permission denied; run this as a user who may write to its directory",
    ),
    (
        "nobody lease-join LS:3:DIR/disk:0",
        77,
        "lease-join: cannot join LS: run directory DIR/none: Permission denied; run lease-join as the user whose it is, or as root, or choose another (--run-dir)",
    ),
    (
        "nobody lease-hold LS:R1:DIR/disk:1048576 -- true",
        77,
        "lease-hold: cannot acquire LS:R1: DIR/disk: Permission denied for uid 65534 (it belongs to uid 0, mode 0660)",
    ),
    (
        "nobody lease-dump DIR/disk",
        77,
        "lease-dump: cannot dump DIR/disk: Permission denied for uid 65534 (it belongs to uid 0, mode 0660)",
    ),
    (
        "nobody lease-dump --local",
        77,
        "lease-dump: cannot ask lease-join of lockspace LS: permission denied; ask as its user, or as root",
    ),
    (
        "lease-join --run-dir DIR/disk LS:3:DIR/disk:0",
        73,
        "lease-join: cannot join LS: run directory DIR/disk: there is something that is no directory; choose another (--run-dir)",
    ),
    (
        "lease-join --run-dir /proc/none LS:3:DIR/disk:0",
        73,
        "lease-join: cannot join LS: run directory /proc/none: No such file or directory; choose another (--run-dir)",
    ),
    (
        "lease-init -x LS:DIR/index:0",
        73,
        "lease-init: cannot format LS:DIR/index:0: there is a resource index of lockspace LS already; --force formats over it, unless it is alive",
    ),
    (
        "lease-init -x LS:DIR/index",
        64,
        "lease-init: cannot format LS:DIR/index: it has 2 fields; an INDEX is lockspace:path:offset",
    ),
    (
        "3 lease-init -r LS:R9:DIR/index",
        69,
        "lease-hold: no live lease-join for lockspace LS in DIR/other: No such file or directory; start lease-join first",
    ),
    (
        "lease-init --delete -r LS:R9:DIR/index",
        66,
        "lease-init: cannot delete LS:R9:DIR/index: the index has no entry of that name; lease-dump shows those that it has",
    ),
    (
        "lease-init --delete -r LS:R1:DIR/disk",
        66,
        "lease-init: cannot delete LS:R1:DIR/disk: no index of lockspace LS lies there; lease-init -x makes one",
    ),
    (
        "lease-init --rebuild -x LS:DIR/disk:0",
        65,
        "lease-init: cannot rebuild LS:DIR/disk:0: index header: there is none, but a lockspace: is this the offset of another area?",
    ),
    (
        "lease-hold LS:R9:DIR/index -- true",
        66,
        "lease-hold: cannot acquire LS:R9:DIR/index: the index has no entry of that name; lease-dump shows those that it has",
    ),
    (
        "lease-dump LS:R9:DIR/index",
        66,
        "lease-dump: cannot dump LS:R9:DIR/index: the index has no entry of that name; lease-dump shows those that it has",
    ),
    (
        "lease-dump LS:R9:DIR/index:1048576",
        65,
        "lease-dump: resource LS:rindex_lease at DIR/index:1048576 is not what was named: it is resource LS:rindex_lease, not LS:R9",
    ),
    (
        "3 lease-dump --local",
        69,
        "lease-dump: no live lease-join in DIR/other; start lease-join first",
    ),
];

/// TIME stands for the time of day since when a lease is held.
fn without_time(said: &str) -> String {
    let time = said.split_once(" since ").and_then(|(before, rest)| {
        let (_, after) = rest.split_once(", pid")?;
        Some(format!("{before} since TIME, pid{after}"))
    });
    time.unwrap_or_else(|| said.to_owned())
}

#[test]
fn the_commonest_refusals_are_these_lines() {
    let storage = Storage::new(3);
    let dir = storage.path().display().to_string();
    let file = |name: &str, len: u64| {
        let file = std::fs::File::create(storage.path().join(name)).unwrap();
        file.set_len(len).unwrap();
    };
    file("zeros", 2 << 20);
    file("short", 1000);
    patch(storage.file(), storage.offset(3) + 20, &[1]);
    let (host, _join) = Host::joined(&storage, 1);
    let resource = storage.resource(2);
    let holds = Process::start(&mut host.hold_command(&[&resource], &["sleep", "100"]));
    wait_until("the lease", SOON, || {
        (storage.owner(2).0 == Some(1)).then_some(())
    });
    let (second, _join_too) = Host::joined(&storage, 2);
    let pid = format!(" pid {}", holds.pid());
    let tools = storage.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(storage.path(), everybody).unwrap();
    let made = run(
        storage.path(),
        "lease-init",
        &["--create", "-x", &format!("LS:{dir}/index:0")],
    );
    assert_eq!(made.code, 0, "{made:?}");
    let mut wrong = Vec::new();
    for (shown, code, expected) in ALOUD {
        // Another run directory for a lease-join, that is: for another host.
        let (run_dir, line) = match shown.split_once(' ') {
            Some(("1", line)) => (host.run_dir.clone(), line),
            Some(("2", line)) => (second.run_dir.clone(), line),
            Some(("3", line)) => (storage.path().join("other"), line),
            Some(("nobody", line)) if line.starts_with("lease-join") => {
                (storage.path().join("none"), line)
            }
            Some(("nobody", line)) => (host.run_dir.clone(), line),
            _ if shown.starts_with("lease-join") => (storage.path().join("other"), *shown),
            _ => (host.run_dir.clone(), *shown),
        };
        let mut words = line.split(' ');
        let tool = words.next().unwrap();
        let mut command = match shown.starts_with("nobody") {
            true => as_nobody(&tools, tool),
            false => Command::new(binary(tool)),
        };
        command.env("LEASE_RUN_DIR", run_dir);
        command.args(words.map(|word| word.replace("DIR", &dir)));
        let ran = Process::start(&mut command).finish();
        let said = ran.stderr.replace(&dir, "DIR").replace(&pid, " pid PID");
        // What it says while it looks comes first.
        let last = without_time(said.lines().last().unwrap_or_default());
        if (ran.code, last.as_str()) != (*code, *expected) {
            wrong.push(format!("{shown}\n  {} {last}\n", ran.code));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join(""));
}

#[test]
fn lost_storage_is_told_line_by_line() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1).promising(10);
    let host = host.by_way_of(&storage, &path.disk());
    let join = host.join();
    let resource = host.resource(&storage, 1);
    let hold = Process::start(&mut host.hold_command(&[&resource], &["sleep", "1000"]));
    wait_until("the lease", SOON, || {
        (storage.owner(1).0 == Some(1)).then_some(())
    });
    let before = join.stderr();
    path.refuse();
    let (join, hold) = (join.finish(), hold.finish());
    assert_eq!((join.code, hold.code), (124, 124));
    let lockspace = format!("LS:1:{}:0", path.disk().display());
    let said = join.stderr.replace(&lockspace, "LOCKSPACE");
    let said: Vec<&str> = said.lines().skip(before.lines().count()).collect();
    let expected = [
        "lease-join: cannot renew LOCKSPACE: I/O error (the kernel's log may say more); trying again",
        "lease-join: LOCKSPACE: no renewal for 6 s; lost in 2 s if it stays so",
        "lease-join: lost LOCKSPACE: no renewal for 8 s; what it guards is being ended",
        "lease-join: lost LOCKSPACE: no renewal for 8 s",
    ];
    assert_eq!(said, expected);
    // It may hear of the loss before it knows by itself.
    let said = hold
        .stderr
        .replace("no renewal in time", "no renewal for 8 s");
    let expected = "lease-hold: the lease is lost (no renewal for 8 s): ending sleep\n\
                    lease-hold: the lease was lost (no renewal for 8 s); sleep was killed\n";
    assert_eq!(said, expected);
}

// ---- the rules

/// What no message says, and why not.
const NEVER: &[(&str, &str)] = &[
    (":?}", "it shows a value as a programmer sees it"),
    ("os error", "a number of the system is no cause"),
    ("errno", "a number of the system is no cause"),
    ("our own ballot record", "whose?"),
    ("ballot record of", "an error names its record itself"),
    ("lies nowhere", "what is missing?"),
    ("everything ends", "what ends, and why?"),
    ("then this lease-join", "which, and how?"),
    ("the state file", "which file? It has a path"),
];

/// Where such a word is in place: operands are shown in quotes, names of no message at all, and the
/// numbers of the system are taken away.
const IN_PLACE: [(&str, &str); 3] = [
    ("lease-core/src/spec.rs", ":?}"),
    ("lease-core/src/id.rs", ":?}"),
    ("lease-core/src/tool.rs", "os error"),
];

/// The texts that stand in the shipped part of a source file, each with its line.
fn texts(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(source.lines()) {
        if line == "#[cfg(test)]" {
            break;
        }
        let mut chars = line.trim_start().chars().peekable();
        if open.is_none() && line.trim_start().starts_with("//") {
            continue;
        }
        let mut before = ' ';
        while let Some(c) = chars.next() {
            match (&mut open, c) {
                (None, '"') if before != '\'' => open = Some((number, String::new())),
                (None, _) => {}
                (Some(_), '"') => found.extend(open.take()),
                (Some((_, text)), '\\') => text.extend(chars.next()),
                (Some((_, text)), c) => text.push(c),
            }
            before = c;
        }
    }
    found
}

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn what_is_never_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for part in ["core", "init", "join", "hold", "dump"] {
        sources(&root.join(format!("lease-{part}/src")), &mut files);
    }
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in files {
        let shown = file.strip_prefix(root).unwrap().display().to_string();
        if shown.ends_with("tests.rs") {
            continue;
        }
        for (line, text) in texts(&std::fs::read_to_string(&file).unwrap()) {
            seen += 1;
            for (word, why) in NEVER {
                if text.contains(word) && !IN_PLACE.contains(&(&shown, word)) {
                    wrong.push(format!("{shown}:{line}: {text:?}: {why}"));
                }
            }
        }
    }
    assert!(seen > 300, "only {seen} texts were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
