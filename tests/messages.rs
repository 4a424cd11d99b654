//! What the tools say, read aloud: the commonest refusals word by word, and for all others rules
//! that a look at the sources can check.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use support::files::{binary, patch};
use support::hosts::Host;
use support::process::{Process, SOON, wait_until};
use support::storage::Storage;

// ---- read aloud

/// A tool with its arguments, its exit code, and its line: tool, verb, object, cause, what to do.
/// DIR stands for the directory of the test.
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
        "lease-init: cannot format LS:0:DIR/none/LS:0: DIR/none/LS cannot be created: No such file or directory",
    ),
    (
        "lease-init --force -r LS:R2:DIR/disk:2097152",
        75,
        "lease-init: cannot format LS:R2:DIR/disk:2097152: a resource LS:R2 (512-byte sectors, 1M areas) is owned by host 1; take it and release it with lease-hold; or, when you are sure that nothing uses it any more, overwrite the area with zeros (dd) [-243]",
    ),
    (
        "lease-join LS:1:DIR/none:0",
        66,
        "lease-join: cannot open DIR/none: No such file or directory",
    ),
    (
        "lease-join LS:2001:DIR/disk:0",
        64,
        "lease-join: cannot join LS:2001:DIR/disk:0: host id \"2001\": a host id is a number from 1 to 2000 (0 is for lease-init only) (see man lease-join)",
    ),
    (
        "lease-join LS:2:DIR/disk:1048576",
        65,
        "lease-join: cannot join LS:2:DIR/disk:1048576: no lockspace there: heartbeat record: there is none, but a resource: is this the offset of another area? [-223]",
    ),
    (
        "lease-join LS:2:DIR/zeros:0",
        65,
        "lease-join: cannot join LS:2:DIR/zeros:0: no lockspace there: heartbeat record: there is none, but zeros: nothing was formatted there, or its beginning was wiped [-223]",
    ),
    (
        "lease-join MS:2:DIR/disk:0",
        65,
        "lease-join: cannot join MS:2:DIR/disk:0: it belongs to lockspace LS [-226]",
    ),
    (
        "lease-join LS:2:DIR/short:0",
        65,
        "lease-join: cannot join LS:2:DIR/short:0: it has only 1000 bytes",
    ),
    (
        "lease-hold LS:R1:DIR/none:0 -- true",
        66,
        "lease-hold: cannot open DIR/none: No such file or directory",
    ),
    (
        "lease-hold LS:R9:DIR/disk:1048576 -- true",
        65,
        "lease-hold: cannot acquire LS:R9: DIR/disk:1048576 is resource R1 [-227]",
    ),
    (
        "lease-hold LS:R1:DIR/disk:0 -- true",
        65,
        "lease-hold: cannot acquire LS:R1: DIR/disk:0: leader record: there is none, but a lockspace: is this the offset of another area? [-223]",
    ),
    (
        "lease-hold LS:R3:DIR/disk:3145728 -- true",
        65,
        "lease-hold: cannot acquire LS:R3: DIR/disk:3145728: leader record: it is damaged: its checksum is 0x2c529508, that of its bytes 0xe3713e18 [-229]",
    ),
    (
        "lease-hold -n LS:R2:DIR/disk:2097152 -- true",
        75,
        "lease-hold: cannot acquire LS:R2: held on this host by lease-hold pid PID (sleep) [-17]",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576 -- DIR/none",
        127,
        "lease-hold: cannot run DIR/none: there is no such file",
    ),
    (
        "lease-hold LS:R1:DIR/disk:1048576 -- DIR/zeros",
        126,
        "lease-hold: cannot run DIR/zeros: it is not an executable file",
    ),
    (
        "lease-dump DIR/none",
        66,
        "lease-dump: cannot dump DIR/none: No such file or directory",
    ),
    (
        "lease-dump DIR/zeros",
        65,
        "lease-dump: cannot dump DIR/zeros: no lockspace or resource is to be found in its 2097152 bytes [-223]",
    ),
    (
        "lease-dump DIR/zeros:0",
        65,
        "lease-dump: cannot dump DIR/zeros:0: there are zeros: it was never formatted [-223]",
    ),
    (
        "lease-dump DIR/disk:3145728",
        65,
        "lease-dump: found damage in a resource at DIR/disk:3145728: 1 record does not check; \"errors\" in its object says which",
    ),
    (
        "lease-dump LS:R2:DIR/disk:1048576",
        65,
        "lease-dump: found damage in resource LS:R1 at DIR/disk:1048576: it is resource LS:R1, not LS:R2; \"errors\" in its object says which",
    ),
    (
        "lease-dump --local MS",
        69,
        "lease-dump: no live lease-join for lockspace MS in DIR/host1: No such file or directory; start lease-join first",
    ),
];

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
    let pid = holds.pid().to_string();
    let mut wrong = Vec::new();
    for (line, code, expected) in ALOUD {
        let mut words = line.split(' ');
        let mut command = Command::new(binary(words.next().unwrap()));
        // Another run directory for a lease-join, that is: for another host.
        let run_dir = match line.starts_with("lease-join") {
            true => storage.path().join("other"),
            false => host.run_dir.clone(),
        };
        command.env("LEASE_RUN_DIR", run_dir);
        command.args(words.map(|word| word.replace("DIR", &dir)));
        let ran = Process::start(&mut command).finish();
        let said = ran.stderr.replace(&dir, "DIR").replace(&pid, "PID");
        if (ran.code, said.trim_end()) != (*code, *expected) {
            wrong.push(format!("{line}\n  {} {said}", ran.code));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join(""));
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
