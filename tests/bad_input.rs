//! Whatever is wrong with what lease-join and lease-hold are given: one clear line, the exit code
//! for it, and nothing written.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::Name;
use lease_core::layout::Geometry;
use lease_core::record::checksum;
use lease_core::record::leader::{LEADER_LEN, Leader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::files::{Ran, binary, bytes, directory, patch, run};
use support::hosts::Host;
use support::process::Process;
use support::storage::Storage;

const NAME_48: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/// It must end with `code`, and say why in one line that contains `part`.
fn refused(args: &[&str], ran: &Ran, code: i32, part: &str) {
    assert_eq!(ran.code, code, "{args:?}: {ran:?}");
    assert_eq!(ran.stdout, "", "{args:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [line] = lines.as_slice() else {
        panic!("{args:?}: {} lines: {ran:?}", lines.len());
    };
    assert!(line.starts_with("lease-"), "{line}");
    assert!(line.contains(part), "{part:?} is not in {line:?}");
    assert!(!line.contains(char::is_control), "{line:?}");
}

/// Sets a byte of the record at byte `at`, whose checksum is made to fit.
fn change(storage: &Storage, at: u64, field: usize, byte: u8) {
    let start = usize::try_from(at).unwrap();
    let mut record = bytes(storage.file())[start..start + LEADER_LEN].to_vec();
    record[field] = byte;
    let sum = checksum(&record[..168]).to_le_bytes();
    record[168..172].copy_from_slice(&sum);
    patch(storage.file(), at, &record);
}

/// Files with everything wrong that a place can be: NAME in an argument stands for their paths.
struct Places {
    storage: Storage,
    /// A lockspace for 250 hosts.
    small: Storage,
}

impl Places {
    /// With resources R1 to R8: R3 has a bad checksum, R4 a newer version, R5 is cleared, R7 and
    /// the heartbeat of host 7 have a flag that is not known, R8 and that of host 8 are of a newer
    /// minor version.
    fn new() -> Self {
        let storage = Storage::new(8);
        let dir = storage.path();
        std::fs::create_dir(dir.join("directory")).unwrap();
        nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let file = |name: &str, len: u64| {
            let file = std::fs::File::create(dir.join(name)).unwrap();
            file.set_len(len).unwrap();
        };
        file("empty", 0);
        file("short", 1000);
        file("zeros", 4 << 20);
        std::fs::copy(storage.file(), dir.join("cut")).unwrap();
        let cut = std::fs::OpenOptions::new()
            .write(true)
            .open(dir.join("cut"));
        cut.unwrap().set_len((1 << 20) + 65536).unwrap();
        std::os::unix::fs::symlink(storage.file(), dir.join("symlink")).unwrap();
        std::fs::hard_link(storage.file(), dir.join("hardlink")).unwrap();
        patch(storage.file(), storage.offset(3) + 20, &[1]);
        patch(storage.file(), storage.offset(4) + 6, &[7]);
        patch(
            storage.file(),
            storage.offset(5),
            &0x1128_2016_u32.to_le_bytes(),
        );
        // R6 says that it is in areas of 8 MiB, at an offset where none can start.
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let other = Leader::new(Geometry::ALL[4], &name("LS"), &name("R6"), 2000);
        patch(storage.file(), storage.offset(6), &other.to_sector());
        for (at, host) in [(storage.offset(7), 7), (storage.offset(8), 8)] {
            let (field, byte) = if host == 7 { (9, 0x02) } else { (4, 0x05) };
            change(&storage, at, field, byte);
            change(&storage, (host - 1) * 512, field, byte);
        }
        let small = Storage::of(Geometry::ALL[1], 0);
        Self { storage, small }
    }

    fn fill(&self, args: &[&str]) -> Vec<String> {
        let dir = self.storage.path().display().to_string();
        let small = self.small.file().display().to_string();
        let pairs = [
            ("DIR", dir.as_str()),
            ("SMALL", &small),
            ("NAME48", NAME_48),
        ];
        let fill = |arg: &&str| {
            pairs.iter().fold((*arg).to_owned(), |arg, (name, value)| {
                arg.replace(name, value)
            })
        };
        args.iter().map(fill).collect()
    }
}

/// Arguments of lease-hold, its exit code, a part of its message.
const HOLD: &[(&str, i32, &str)] = &[
    // RESOURCE strings
    ("LS", 64, "it has 1 fields"),
    ("LS:R1:DIR/disk", 66, "no index of lockspace LS"),
    ("LS:R1", 64, "it has 2 fields"),
    ("LS:R1:DIR/disk:1048576:SH:x", 64, "offset \"x\""),
    (":R1:DIR/disk:1048576", 64, "a name cannot be empty"),
    ("LS::DIR/disk:1048576", 64, "a name cannot be empty"),
    ("NAME48n:R1:DIR/disk:1048576", 64, "at most 48 bytes"),
    ("LS:NAME48n:DIR/disk:1048576", 64, "at most 48 bytes"),
    ("LS:R\u{1}:DIR/disk:1048576", 64, "control characters"),
    (
        "LS:R1:DIR\\disk:1048576",
        64,
        "a backslash can only stand before",
    ),
    ("LS:R1::1048576", 64, "the path is empty"),
    ("LS:R1:DIR/disk:", 64, "offset \"\""),
    ("LS:R1:DIR/disk:x", 64, "offset \"x\""),
    ("LS:R1:DIR/disk:-1048576", 64, "offset \"-1048576\""),
    (
        "LS:R1:DIR/disk:18446744073709551616",
        64,
        "offset \"18446744073709551616\"",
    ),
    ("LS:R1:DIR/disk:1048576:0", 64, "lver \"0\""),
    ("LS:R1:DIR/disk:1048576:-3", 64, "lver \"-3\""),
    (
        "LS:R1:DIR/disk:1048576:DIR/disk:1048576",
        64,
        "the same place stands there twice",
    ),
    (
        "LS:R1:DIR/disk:1048575",
        64,
        "not a multiple of the area size",
    ),
    (
        "LS:R1:DIR/disk:18446744073709551615",
        64,
        "not a multiple of the area size",
    ),
    // the same one twice
    (
        "LS:R1:DIR/disk:1048576 LS:R1:DIR/disk:1048576",
        64,
        "the same resource",
    ),
    (
        "LS:R1:DIR/disk:1048576 LS:R1:DIR/disk:1048576:SH",
        64,
        "the same resource",
    ),
    (
        "LS:R1:DIR/disk:1048576 LS:R1:DIR/symlink:1048576",
        64,
        "the same resource",
    ),
    (
        "LS:R1:DIR/disk:1048576 LS:R1:DIR/hardlink:1048576",
        64,
        "the same resource",
    ),
    // options
    ("", 64, "<RESOURCE>"),
    ("-w x LS:R1:DIR/disk:1048576", 64, "--wait"),
    ("-w nan LS:R1:DIR/disk:1048576", 64, "--wait"),
    ("-w inf LS:R1:DIR/disk:1048576", 64, "--wait"),
    ("--wait=-1 LS:R1:DIR/disk:1048576", 64, "--wait"),
    ("-w 1 -n LS:R1:DIR/disk:1048576", 64, "--nonblock"),
    ("-E 256 LS:R1:DIR/disk:1048576", 64, "--conflict-exit-code"),
    ("-E -1 LS:R1:DIR/disk:1048576", 64, "-1"),
    ("--bogus LS:R1:DIR/disk:1048576", 64, "--bogus"),
    // paths
    ("LS:R1:DIR/none:0", 66, "No such file"),
    ("LS:R1:DIR/disk/none:0", 66, "Not a directory"),
    ("LS:R1:DIR/directory:0", 66, "it is a directory"),
    ("LS:R1:DIR/fifo:0", 66, "it is a FIFO"),
    ("LS:R1:/dev/null:0", 66, "it is a character device"),
    // what is there
    ("LS:R1:DIR/empty:0", 65, "it has only 0 bytes"),
    ("LS:R1:DIR/short:0", 65, "it has only 1000 bytes"),
    ("LS:R1:DIR/cut:1048576", 65, "its area ends after the last"),
    ("LS:R1:DIR/disk:1099511627776", 65, "it has only"),
    (
        "LS:R1:DIR/zeros:0",
        65,
        "there is none, but zeros: nothing was formatted there",
    ),
    (
        "LS:R1:DIR/disk:0",
        65,
        "there is none, but a lockspace: is this the offset",
    ),
    ("LS:R1:DIR/disk:2097152", 65, "is resource R2; are name"),
    (
        "LX:R1:DIR/disk:1048576",
        65,
        "belongs to lockspace LS; are name",
    ),
    ("LS:R3:DIR/disk:3145728", 65, "[-229]"),
    ("LS:R4:DIR/disk:4194304", 65, "[-224]"),
    ("LS:R5:DIR/disk:5242880", 65, "[-223]"),
    ("LS:R6:DIR/disk:6291456", 64, "not a multiple of 8M"),
    (
        "LS:R7:DIR/disk:7340032",
        65,
        "flags have bits that are not known here (0x200;",
    ),
    (
        "LS:R8:DIR/disk:8388608",
        65,
        "it is of version 6.5, which is not known here",
    ),
    (
        "LS:R1:DIR/disk:1048576:DIR/disk:2097152",
        65,
        "is resource R2; are name",
    ),
];

/// Arguments of lease-join, its exit code, a part of its message.
const JOIN: &[(&str, i32, &str)] = &[
    ("LS", 64, "it has 1 fields"),
    ("LS:1:DIR/disk:0:x", 64, "it has 5 fields"),
    (":1:DIR/disk:0", 64, "a name cannot be empty"),
    ("NAME48n:1:DIR/disk:0", 64, "at most 48 bytes"),
    ("L\tS:1:DIR/disk:0", 64, "control characters"),
    ("LS:1:DIR\\disk:0", 64, "a backslash can only stand before"),
    ("LS:0:DIR/disk:0", 64, "host id 0 is for formatting"),
    ("LS:2001:DIR/disk:0", 64, "host id \"2001\""),
    ("LS:-1:DIR/disk:0", 64, "host id \"-1\""),
    ("LS:one:DIR/disk:0", 64, "host id \"one\""),
    ("LS::DIR/disk:0", 64, "host id \"\""),
    ("LS:251:SMALL:0", 64, "host ids go up to 250 there"),
    ("LS:1::0", 64, "the path is empty"),
    ("LS:1:DIR/disk:512", 64, "not a multiple of the area size"),
    ("LS:1:DIR/disk:-1", 64, "offset \"-1\""),
    (
        "LS:1:DIR/disk:18446744073709551616",
        64,
        "offset \"18446744073709551616\"",
    ),
    ("LS:1:DIR/none:0", 66, "No such file"),
    ("LS:1:DIR/directory:0", 66, "it is a directory"),
    ("LS:1:DIR/fifo:0", 66, "it is a FIFO"),
    ("LS:1:/dev/null:0", 66, "it is a character device"),
    ("LS:1:DIR/short:0", 65, "it has only 1000 bytes"),
    ("LS:1:DIR/disk:1099511627776", 65, "it has only"),
    (
        "LS:1:DIR/zeros:0",
        65,
        "there is none, but zeros: nothing was formatted there",
    ),
    (
        "LS:1:DIR/disk:1048576",
        65,
        "there is none, but a resource: is this the offset",
    ),
    (
        "LX:1:DIR/disk:0",
        65,
        "it belongs to lockspace LS; are name",
    ),
    ("-o 0 LS:1:DIR/disk:0", 64, "--io-timeout"),
    ("-o 256 LS:1:DIR/disk:0", 64, "--io-timeout"),
    (
        "--watchdog-timeout 0 LS:1:DIR/disk:0",
        64,
        "--watchdog-timeout",
    ),
    (
        "--watchdog-timeout 61 LS:1:DIR/disk:0",
        64,
        "--watchdog-timeout",
    ),
    ("-e NAME48 LS:1:DIR/disk:0", 64, "at most 47 bytes"),
    ("-e a\nb LS:1:DIR/disk:0", 64, "control characters"),
    ("LS:1:DIR/disk:0 LS:2:DIR/disk:0", 64, "LS:2:"),
    ("", 64, "<LOCKSPACE>"),
    ("--run-dir DIR/disk LS:1:DIR/disk:0", 73, "run directory"),
    ("--run-dir /proc/none LS:1:DIR/disk:0", 73, "run directory"),
];

#[test]
fn what_lease_hold_is_given() {
    let places = Places::new();
    let (host, _join) = Host::joined(&places.storage, 1);
    let before = bytes(places.storage.file());
    for (args, code, part) in HOLD {
        let words: Vec<&str> = args.split(' ').filter(|word| !word.is_empty()).collect();
        let filled = places.fill(&words);
        let filled: Vec<&str> = filled.iter().map(String::as_str).collect();
        let ran = host.hold(&filled, &["echo", "run"]);
        refused(&filled, &ran, *code, part);
    }
    let area = 1 << 20;
    assert!(
        bytes(places.storage.file())[area..] == before[area..],
        "something was written"
    );
    let resource = places.storage.resource(1);
    let ran = Process::start(&mut host.hold_command::<&str>(&[&resource], &[])).finish();
    refused(&[&resource], &ran, 64, "<COMMAND>");
}

#[test]
fn what_lease_join_is_given() {
    let places = Places::new();
    let before = bytes(places.storage.file());
    for (args, code, part) in JOIN {
        let words: Vec<&str> = args.split(' ').filter(|word| !word.is_empty()).collect();
        let filled = places.fill(&words);
        let filled: Vec<&str> = filled.iter().map(String::as_str).collect();
        let mut command = Command::new(binary("lease-join"));
        command
            .env("LEASE_RUN_DIR", places.storage.path().join("run"))
            .args(&filled);
        refused(&filled, &Process::start(&mut command).finish(), *code, part);
        assert!(bytes(places.storage.file()) == before, "{filled:?} wrote");
    }
}

/// Only when it has begun to join does it look at the record of its host id.
#[test]
fn a_host_id_whose_record_is_not_understood() {
    let places = Places::new();
    let before = bytes(places.storage.file());
    for (number, part) in [
        (7, "its flags have bits that are not known here (0x200;"),
        (8, "it is of version 3.5, which is not known here"),
    ] {
        let host = Host::new(&places.storage, number);
        let ran = host.start_join().finish();
        assert_eq!(ran.code, 65, "{ran:?}");
        let last = ran.stderr.lines().last().unwrap();
        let expected = format!("cannot join LS:{number}:");
        assert!(last.contains(&expected) && last.contains(part), "{last}");
        assert!(bytes(places.storage.file()) == before, "{number} wrote");
    }
}

#[test]
fn no_lease_join_for_the_lockspace() {
    let storage = Storage::new(1);
    let host = Host::new(&storage, 1);
    let resource = storage.resource(1);
    let before = storage.area(1);
    let ran = host.hold(&[&resource], &["echo", "run"]);
    refused(
        &[&resource],
        &ran,
        69,
        "no live lease-join for lockspace LS",
    );
    // Nor when one has been there.
    let join = host.join();
    join.kill();
    let ran = host.hold(&[&resource], &["echo", "run"]);
    refused(
        &[&resource],
        &ran,
        69,
        "no live lease-join for lockspace LS",
    );
    assert!(storage.area(1) == before);
}

/// A command as a user who is not root and owns nothing here.
fn as_nobody(tool: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(tool);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(tool);
    command
}

#[test]
fn no_permission() {
    let storage = Storage::new(1);
    // The tools, where anybody can run them.
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    mode(storage.path(), 0o755).unwrap();
    let tool = |name: &str| -> PathBuf {
        let path = storage.path().join(name);
        // See `support::files::as_nobody`: not by this process.
        let copied = std::process::Command::new("cp")
            .arg(binary(name))
            .arg(&path)
            .status();
        assert!(copied.unwrap().success());
        path
    };
    let run_dir = storage.path().join("run");
    std::fs::create_dir(&run_dir).unwrap();
    mode(&run_dir, 0o777).unwrap();
    let (hold, join) = (tool("lease-hold"), tool("lease-join"));
    for file_mode in [0o444, 0o000] {
        mode(&storage.file(), file_mode).unwrap();
        let before = bytes(storage.file());
        let lockspace = storage.lockspace(1);
        let mut command = as_nobody(&join);
        command.arg("--run-dir").arg(&run_dir).arg(&lockspace);
        let ran = Process::start(&mut command).finish();
        refused(&[&lockspace], &ran, 77, &format!("mode 0{file_mode:03o}"));
        let resource = storage.resource(1);
        let mut command = as_nobody(&hold);
        command.args([&resource, "--", "echo", "run"]);
        let ran = Process::start(&mut command).finish();
        refused(&[&resource], &ran, 77, &format!("mode 0{file_mode:03o}"));
        assert!(bytes(storage.file()) == before);
    }
}

#[test]
fn what_is_there_as_a_path_is_that_path_whatever_colons_are_in_it() {
    let dir = directory();
    let escaped = r"pci-0000\:00\:11.5-scsi-0\:0\:0\:1:0";
    let spec = format!("LS:vm1:{escaped}");
    let ran = run(dir.path(), "lease-init", &["--create", "-r", &spec]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for operand in ["pci-0000:00:11.5-scsi-0:0:0:1", escaped] {
        let ran = run(dir.path(), "lease-dump", &[operand]);
        let is_it = ran.stdout.contains(r#""resource":"vm1""#);
        assert!(ran.code == 0 && is_it, "{operand}: {ran:?}");
    }
    let colons = r"a colon in a path is written \:";
    let none = "none-0000:00:11.5-scsi-0";
    refused(&[none], &run(dir.path(), "lease-dump", &[none]), 66, colons);
    for spec in ["0000:00:11.5-scsi-0:0:0:1:0", "0000:00:11.5-scsi-0:0"] {
        let args = ["--create", "-r", &format!("LS:vm2:pci-{spec}")];
        let ran = run(dir.path(), "lease-init", &args);
        assert!(ran.code == 64 && ran.stderr.contains(colons), "{ran:?}");
    }
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "something was created");
}
