//! lease-init as a user runs it, beside the real `sanlock direct init`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::files::{
    Daemon, GEOMETRIES, Loop, MIB, Ran, as_nobody, binary, bytes, directory, filled, golden, patch,
    path_in, run, sanlock,
};

/// Runs lease-init with arguments separated by blanks.
fn init(dir: &Path, args: &str) -> Ran {
    let args: Vec<&str> = args.split_whitespace().collect();
    run(dir, "lease-init", &args)
}

/// It must end with `code`, and say why in one line that contains `part`.
fn refused(ran: &Ran, code: i32, part: &str) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert_eq!(ran.stdout, "");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [line] = lines.as_slice() else {
        panic!("{} lines: {ran:?}", lines.len());
    };
    assert!(line.starts_with("lease-init: "), "{line}");
    assert!(line.contains(part), "{part:?} is not in {line:?}");
}

/// It must end well, and silently.
fn silent(ran: &Ran) {
    let nothing = (0, "", "");
    assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), nothing);
}

// ---- the same bytes as sanlock's

/// Formats with both, over a file of zeros each (sanlock over 0xff: it writes every byte), and
/// compares.
fn same_bytes(mebibytes: u64, ours: &str, sanlocks: &str) {
    let dir = directory();
    filled(dir.path().join("ours"), mebibytes, 0);
    filled(dir.path().join("sanlocks"), mebibytes, 0xff);
    silent(&init(
        dir.path(),
        &ours.replace("FILE", &path_in(&dir, "ours")),
    ));
    let theirs = sanlocks.replace("FILE", &path_in(&dir, "sanlocks"));
    sanlock(dir.path(), &theirs.split_whitespace().collect::<Vec<_>>());
    let same = bytes(dir.path().join("ours")) == bytes(dir.path().join("sanlocks"));
    assert!(same, "lease-init {ours} and sanlock {sanlocks} differ");
}

#[test]
fn a_lockspace_is_byte_for_byte_sanlocks_in_every_geometry() {
    for (sector, align, mebibytes) in GEOMETRIES {
        for io_timeout in ["10", "1", "255"] {
            let options = format!("-s LS:0:FILE:0 -Z {sector} -A {align} -o {io_timeout}");
            same_bytes(mebibytes, &options, &format!("direct init {options}"));
        }
    }
    same_bytes(1, "-s LS:0:FILE:0", "direct init -s LS:0:FILE:0");
}

#[test]
fn a_resource_is_byte_for_byte_sanlocks_in_every_geometry() {
    for (sector, align, mebibytes) in GEOMETRIES {
        let options = format!("-r LS:RS:FILE:0 -Z {sector} -A {align}");
        same_bytes(mebibytes, &options, &format!("direct init {options}"));
        for hosts in ["1", "3", "250"] {
            let ours = format!("{options} --max-hosts {hosts}");
            same_bytes(
                mebibytes,
                &ours,
                &format!("direct init {options} -n {hosts}"),
            );
        }
    }
    same_bytes(1, "-r LS:RS:FILE:0", "direct init -r LS:RS:FILE:0");
}

#[test]
fn names_of_48_bytes_and_names_that_are_not_ascii() {
    let long = "n".repeat(48);
    let resource = format!("-r {long}:{long}:FILE:0");
    same_bytes(1, &resource, &format!("direct init {resource}"));
    let lockspace = "-s h\u{e9}te:0:FILE:0";
    same_bytes(1, lockspace, &format!("direct init {lockspace}"));
}

// ---- where it writes, and what it makes

#[test]
fn several_areas_in_one_call_go_each_to_its_place() {
    let dir = directory();
    silent(&init(
        dir.path(),
        "--create -r LS:R1:f:2097152 -s LS:0:f:0 -r LS:R2:f:1048576 -r LS:R3:g:0:h:1048576",
    ));
    let size = |name: &str| dir.path().join(name).metadata().unwrap().len();
    assert_eq!([size("f"), size("g"), size("h")], [3 * MIB, MIB, 2 * MIB]);
    let (one, two) = (path_in(&dir, "s1"), path_in(&dir, "s2"));
    filled(&one, 3, 0);
    filled(&two, 1, 0);
    sanlock(
        dir.path(),
        &["direct", "init", "-s", &format!("LS:0:{one}:0")],
    );
    sanlock(
        dir.path(),
        &["direct", "init", "-r", &format!("LS:R2:{one}:1048576")],
    );
    sanlock(
        dir.path(),
        &["direct", "init", "-r", &format!("LS:R1:{one}:2097152")],
    );
    sanlock(
        dir.path(),
        &["direct", "init", "-r", &format!("LS:R3:{two}:0")],
    );
    assert!(bytes(dir.path().join("f")) == bytes(one));
    assert!(bytes(dir.path().join("g")) == bytes(&two));
    let last = bytes(dir.path().join("h"));
    assert!(last[..MIB as usize].iter().all(|byte| *byte == 0));
    assert!(last[MIB as usize..] == bytes(two));
}

#[test]
fn a_created_file_is_allocated_and_has_the_mode_that_was_asked_for() {
    let dir = directory();
    silent(&init(dir.path(), "--create -s LS:0:a:0"));
    silent(&init(dir.path(), "--create --mode 604 -s LS:0:b:1048576"));
    let of = |name: &str| dir.path().join(name).metadata().unwrap();
    assert_eq!(of("a").permissions().mode() & 0o7777, 0o660);
    assert_eq!(of("b").permissions().mode() & 0o7777, 0o604);
    assert!(
        of("b").blocks() * 512 >= 2 * MIB,
        "{} blocks",
        of("b").blocks()
    );
}

/// Whoever waits for it would take a file without its record for damage, and not look again.
#[test]
fn a_created_file_has_its_name_once_it_is_formatted() {
    let dir = directory();
    let path = dir.path().join("f");
    for _ in 0..20 {
        let looks = std::thread::spawn({
            let path = path.clone();
            move || loop {
                if let Ok(bytes) = fs::read(&path) {
                    return bytes;
                }
            }
        });
        silent(&init(dir.path(), "--create -s LS:0:f:0 -r LS:RS:f:1048576"));
        let seen = looks.join().unwrap();
        assert_eq!(seen, fs::read(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn create_makes_a_short_file_longer_and_keeps_what_is_in_it() {
    let dir = directory();
    silent(&init(dir.path(), "--create -s LS:0:f:0"));
    let before = bytes(dir.path().join("f"));
    refused(
        &init(dir.path(), "-r LS:RS:f:1048576"),
        65,
        "--create makes it longer",
    );
    silent(&init(dir.path(), "--create -r LS:RS:f:3145728"));
    let after = bytes(dir.path().join("f"));
    assert_eq!(after.len() as u64, 4 * MIB);
    assert!(after[..before.len()] == before[..]);
}

#[test]
fn a_block_device_takes_its_own_sector_size() {
    let dir = directory();
    let backing = dir.path().join("disk");
    filled(&backing, 16, 0);
    let device = Loop::over(&backing, "4096");
    let path = &device.path;
    silent(&init(
        dir.path(),
        &format!("-s LS:0:{path}:0 -r LS:RS:{path}:8388608"),
    ));
    let too_small = init(dir.path(), &format!("-r LS:RS:{path}:16777216"));
    refused(&too_small, 65, "ends at 16777216");
    let small_sectors = init(dir.path(), &format!("-Z 512 -r LS:RS:{path}:0"));
    refused(&small_sectors, 64, "use -Z 4096");
    drop(device);
    let theirs = path_in(&dir, "theirs");
    filled(&theirs, 16, 0);
    let geometry = ["-Z", "4096", "-A", "8M"];
    for (kind, spec) in [("-s", "LS:0:FILE:0"), ("-r", "LS:RS:FILE:8388608")] {
        let spec = spec.replace("FILE", &theirs);
        sanlock(
            dir.path(),
            &[&["direct", "init", kind, &spec], &geometry[..]].concat(),
        );
    }
    assert!(bytes(backing) == bytes(theirs));
}

#[test]
fn a_block_device_of_512_byte_sectors_gets_areas_of_one_mebibyte() {
    let dir = directory();
    let backing = dir.path().join("disk");
    filled(&backing, 2, 0);
    let device = Loop::over(&backing, "512");
    silent(&init(
        dir.path(),
        &format!("-r LS:RS:{}:1048576", device.path),
    ));
    drop(device);
    let written = bytes(backing);
    assert_eq!(written[MIB as usize..][..4], 0x0615_2010_u32.to_le_bytes());
}

// ---- what stands there

#[test]
fn without_force_only_zeros_are_overwritten() {
    let dir = directory();
    let prepared: [(&str, &str, &str); 4] = [
        (
            "lockspace",
            "direct init -s OLD:0:FILE:0",
            "a lockspace OLD (512-byte sectors, 1M areas)",
        ),
        (
            "resource",
            "direct init -r OLD:RES:FILE:0",
            "a resource OLD:RES (512-byte sectors",
        ),
        (
            "cleared",
            "direct init -r OLD:RES:FILE:0 -z 1",
            "a cleared resource OLD:RES",
        ),
        (
            "index",
            "direct format -x OLD:FILE:0",
            "a resource index of lockspace OLD",
        ),
    ];
    for (name, command, found) in prepared {
        let path = path_in(&dir, name);
        filled(&path, 2, 0);
        let command = command.replace("FILE", &path);
        sanlock(dir.path(), &command.split_whitespace().collect::<Vec<_>>());
        let before = bytes(&path);
        for wish in ["-s LS:0:FILE:0", "-r LS:RS:FILE:0"] {
            let ran = init(dir.path(), &wish.replace("FILE", &path));
            refused(&ran, 73, found);
            assert!(bytes(&path) == before, "{name} was written to");
        }
    }
    let path = path_in(&dir, "last byte");
    filled(&path, 1, 0);
    patch(&path, MIB - 1, &[1]);
    let ran = run(dir.path(), "lease-init", &["-s", "LS:0:last\\ byte:0"]);
    refused(
        &ran,
        73,
        "data that is no lease (the first at byte 1048575)",
    );
}

#[test]
fn one_place_that_is_taken_costs_the_others_nothing() {
    let dir = directory();
    silent(&init(dir.path(), "--create -r LS:R1:f:1048576"));
    let before = bytes(dir.path().join("f"));
    let ran = init(
        dir.path(),
        "--create -s LS:0:f:0 -r LS:R1:f:1048576 -r LS:R2:new:0",
    );
    refused(&ran, 73, "LS:R1");
    assert!(bytes(dir.path().join("f")) == before);
    assert!(!dir.path().join("new").exists());
}

#[test]
fn zeros_inside_an_area_are_not_free() {
    let dir = directory();
    silent(&init(dir.path(), "--create -Z 4096 -A 8M -r LS:RS:f:0"));
    let before = bytes(dir.path().join("f"));
    for force in ["", "--force"] {
        let ran = init(dir.path(), &format!("{force} -r LS:R2:f:2097152"));
        refused(
            &ran,
            73,
            "inside a resource LS:RS (4096-byte sectors, 8M areas) at offset 0",
        );
    }
    assert!(bytes(dir.path().join("f")) == before);
}

#[test]
fn force_formats_over_what_nobody_uses() {
    let dir = directory();
    silent(&init(
        dir.path(),
        "--create -s OLD:0:f:0 -r OLD:RES:f:1048576",
    ));
    filled(dir.path().join("g"), 1, 0xEE);
    let start = Instant::now();
    silent(&init(
        dir.path(),
        "--force -s LS:0:f:1048576 -r LS:RS:f:0 -r LS:RT:g:0",
    ));
    // That takes 3t.
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "watched a free lockspace"
    );
    let fresh = directory();
    silent(&init(
        fresh.path(),
        "--create -s LS:0:f:1048576 -r LS:RS:f:0 -r LS:RT:g:0",
    ));
    for name in ["f", "g"] {
        assert!(
            bytes(dir.path().join(name)) == bytes(fresh.path().join(name)),
            "{name}"
        );
    }
}

#[test]
fn rule_22_force_leaves_an_owned_or_shared_resource() {
    let dir = directory();
    let table = [
        (
            "owned",
            0,
            golden("res_leader_held_host2_lver2.bin"),
            "is owned by host 2",
        ),
        (
            "shared",
            2 * 512,
            golden("res_dblock1_shared.bin"),
            "is shared by host 1",
        ),
        ("damaged", 60, vec![1], "no readable leader record"),
    ];
    for (name, at, sector, part) in table {
        silent(&init(dir.path(), &format!("--create -r LS:R1:{name}:0")));
        let path = dir.path().join(name);
        patch(&path, at, &sector);
        let before = bytes(&path);
        let ran = init(dir.path(), &format!("--force -s LS:0:{name}:0"));
        refused(&ran, 75, part);
        assert!(ran.stderr.contains("lease-hold"), "{ran:?}");
        assert!(bytes(&path) == before, "{name} was written to");
    }
}

#[test]
fn force_looks_at_every_area_that_a_larger_one_covers() {
    let dir = directory();
    silent(&init(
        dir.path(),
        "--create -r LS:R1:f:0 -r LS:R1:f:7340032",
    ));
    let held = golden("res_leader_held_host2_lver2.bin");
    patch(dir.path().join("f"), 7 * MIB, &held);
    let ran = init(dir.path(), "--force -Z 4096 -s LS:0:f:0");
    refused(
        &ran,
        75,
        "resource LS:R1 (512-byte sectors, 1M areas) is owned by host 2",
    );
}

#[test]
fn rule_22_force_watches_a_lockspace_and_leaves_a_live_one() {
    let dir = directory();
    silent(&init(
        dir.path(),
        "--create -o 1 -s LS:0:dead:0 -s LS:0:alive:0",
    ));
    let first = golden("hb_id2_rejoined_shorter_name_hX.bin");
    for name in ["dead", "alive"] {
        patch(dir.path().join(name), 512, &first);
    }
    let watch = |name: &str| {
        Command::new(binary("lease-init"))
            .args(["--force", "-s", &format!("NEW:0:{name}:0")])
            .current_dir(dir.path())
            .output()
    };
    let start = Instant::now();
    let (dead, alive) = std::thread::scope(|scope| {
        let dead = scope.spawn(|| watch("dead"));
        let alive = scope.spawn(|| watch("alive"));
        // The host renews: another timestamp. (Its checksum no longer fits: a change is a change.)
        let mut timestamp = 0_u8;
        while !alive.is_finished() {
            patch(dir.path().join("alive"), 512 + 152, &[timestamp]);
            timestamp = timestamp.wrapping_add(1);
            sleep(Duration::from_millis(100));
        }
        let dead: Ran = dead.join().unwrap().unwrap().into();
        let alive: Ran = alive.join().unwrap().unwrap().into();
        (dead, alive)
    });
    assert!(start.elapsed() >= Duration::from_secs(3));
    silent(&dead);
    refused(
        &alive,
        75,
        "lockspace LS (512-byte sectors, 1M areas) is alive",
    );
    assert!(alive.stderr.contains("host 2"), "{alive:?}");
    let space_name = |name: &str| bytes(dir.path().join(name))[56..59].to_vec();
    assert_eq!(
        (space_name("dead"), space_name("alive")),
        (b"NEW".into(), b"LS\0".into())
    );
}

#[test]
fn rule_22_force_leaves_what_a_real_sanlock_daemon_uses() {
    let dir = directory();
    silent(&init(
        dir.path(),
        "--create -o 1 -s LS:0:f:0 -r LS:RS:f:1048576",
    ));
    let path = path_in(&dir, "f");
    let daemon = Daemon::start("hostA");
    daemon.client(&["add_lockspace", "-s", &format!("LS:1:{path}:0"), "-o", "1"]);
    let resource = format!("LS:RS:{path}:1048576");
    let mut holder = daemon.command(&["command", "-r", &resource, "-c", "/bin/sleep", "60"]);
    let mut holder = holder.spawn().unwrap();
    let owned = || bytes(&path)[MIB as usize + 152] != 0 || bytes(&path)[MIB as usize + 153] != 0;
    while !owned() {
        assert_eq!(holder.try_wait().unwrap(), None);
        sleep(Duration::from_millis(20));
    }
    refused(
        &init(dir.path(), "--force -s LS:0:f:0"),
        75,
        "the heartbeat of host 1 has changed",
    );
    refused(
        &init(dir.path(), "--force -r LS:RS:f:1048576"),
        75,
        "is owned by host 1",
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
}

// ---- bad input: one line, the exit code, and not a byte written

/// The arguments; the exit code; a part of the message.
type Row = (&'static str, i32, &'static str);

const USAGE: [Row; 33] = [
    ("", 64, "-s <LOCKSPACE>|-r <RESOURCE>"),
    ("-q", 64, "'-q'"),
    ("-s LS:0:f:0 more", 64, "'more'"),
    ("-s LS:0:f", 64, "it has 3 fields"),
    ("-s LS:0:f:0:0", 64, "it has 5 fields"),
    ("-s :0:f:0", 64, "lockspace name: a name cannot be empty"),
    (
        "-s 1234567890123456789012345678901234567890123456789:0:f:0",
        64,
        "at most 48 bytes",
    ),
    ("-s L\\S:0:f:0", 64, "a backslash can only stand before"),
    ("-s LS:0:f\\n:0", 64, "a backslash can only stand before"),
    ("-s LS:1:f:0", 64, "its host id must be 0 here"),
    ("-s LS:2001:f:0", 64, "a host id is a number from 1 to 2000"),
    ("-s LS:x:f:0", 64, "host id \"x\""),
    ("-s LS:0::0", 64, "the path is empty"),
    (
        "-s LS:0:f:512",
        64,
        "offset 512 is not a multiple of the area size, 1048576",
    ),
    ("-s LS:0:f:-1048576", 64, "offset \"-1048576\""),
    (
        "-s LS:0:f:18446744073709551616",
        64,
        "a decimal number of bytes",
    ),
    (
        "-s LS:0:f:18446744073708503040",
        64,
        "beyond what any disk can have",
    ),
    (
        "-s LS:0:f:9223372036853727232",
        64,
        "beyond what any disk can have",
    ),
    ("-r LS:RS:f", 66, "no index of lockspace LS lies there"),
    ("-r LS::f:0", 64, "resource name: a name cannot be empty"),
    (
        "-r LS:RS:f:0:SH",
        64,
        "a version or SH at its end is for lease-hold",
    ),
    (
        "-r LS:RS:f:0:17",
        64,
        "a version or SH at its end is for lease-hold",
    ),
    ("-r LS:RS:f:0:f:0", 64, "the same place stands there twice"),
    ("-r LS:RS:f:0:./f:0", 64, "it overlaps"),
    ("-s LS:0:f:0 -r LS:RS:link:0", 64, "it overlaps LS:0:f:0"),
    (
        "--create -Z 4096 -r LS:A:new:0 -r LS:B:./new:0",
        64,
        "it overlaps",
    ),
    ("-Z 1024 -s LS:0:f:0", 64, "a sector has 512 or 4096 bytes"),
    ("-A 3M -s LS:0:f:0", 64, "an area has 1M, 2M, 4M or 8M"),
    ("-A 2M -s LS:0:f:0", 64, "do not go together"),
    ("-o 0 -s LS:0:f:0", 64, "0 is not in 1..=255"),
    ("-o 256 -s LS:0:f:0", 64, "256 is not in 1..=255"),
    ("--max-hosts 2001 -r LS:RS:f:0", 64, "there can be 2000"),
    (
        "--create --mode 8 -s LS:0:new:0",
        64,
        "permissions are an octal number",
    ),
];

const PLACES: [Row; 14] = [
    (
        "-s LS:0:f:0 -r LS:RS:f:2097152",
        65,
        "would end at byte 3145728, f ends at 2097152",
    ),
    (
        "-s LS:0:missing:0",
        66,
        "no such file or device; --create makes a file",
    ),
    ("-s LS:0:f/x:0", 66, "Not a directory"),
    ("-s LS:0:directory:0", 66, "it is a directory"),
    ("-s LS:0:fifo:0", 66, "it is a FIFO"),
    ("-s LS:0:/dev/null:0", 66, "it is a character device"),
    (
        "--create -s LS:0:/dev/lease:0",
        73,
        "--create makes no file under /dev",
    ),
    (
        "--create -s LS:0:dev/lease:0",
        73,
        "--create makes no file under /dev",
    ),
    (
        "--create -s LS:0:none/f:0",
        73,
        "cannot be created: No such file or directory",
    ),
    (
        "--create -s LS:0:dangling:0",
        73,
        "a symbolic link to nothing",
    ),
    ("--create -s LS:0:odd:0", 65, "no multiple of 4096"),
    ("-s LS:0:new:0 --max-hosts 3", 64, "-r <RESOURCE>"),
    ("--mode 0600 -s LS:0:f:0", 64, "--create"),
    (
        "-s LS:0:taken:0 --create -s LS:0:new:0",
        73,
        "there is a lockspace OLD",
    ),
];

#[test]
fn bad_input_has_its_line_and_exit_code_and_costs_nothing() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    filled(at("f"), 2, 0);
    std::fs::write(at("odd"), b"odd").unwrap();
    silent(&init(dir.path(), "--create -s OLD:0:taken:0"));
    std::fs::create_dir(at("directory")).unwrap();
    std::os::unix::fs::symlink("f", at("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", at("dangling")).unwrap();
    std::os::unix::fs::symlink("/dev", at("dev")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let names = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (names(), bytes(at("taken")));
    for (args, code, part) in USAGE.into_iter().chain(PLACES) {
        refused(&init(dir.path(), args), code, part);
        assert!(bytes(at("f")).iter().all(|byte| *byte == 0), "{args} wrote");
        assert!(
            before == (names(), bytes(at("taken"))),
            "{args} left something"
        );
    }
    let escape = run(dir.path(), "lease-init", &["-s", "L\x1b[2J:0:f:0"]);
    refused(&escape, 64, "control characters");
    assert!(!escape.stderr.contains('\x1b'));
}

#[test]
fn no_permission_is_its_own_exit_code() {
    let dir = directory();
    filled(dir.path().join("f"), 1, 0);
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path().join("f"), mode).unwrap();
    let init_as_nobody = |args: &str| {
        let mut command = as_nobody(dir.path(), "lease-init");
        Ran::from(command.args(args.split_whitespace()).output().unwrap())
    };
    let ran = init_as_nobody("-s LS:0:f:0");
    refused(
        &ran,
        77,
        "Permission denied for uid 65534 (it belongs to uid 0, mode 0755)",
    );
    let ran = init_as_nobody("--create -s LS:0:new:0");
    refused(&ran, 77, "Permission denied");
    assert!(bytes(dir.path().join("f")).iter().all(|byte| *byte == 0));
}

#[test]
fn rule_5_a_file_system_without_direct_io_or_for_reading_only_is_refused() {
    let dir = directory();
    let mounted = |kind: &str, options: &str, args: &str| {
        let at = dir.path().join(kind);
        std::fs::create_dir_all(&at).unwrap();
        let mount = Command::new("mount")
            .args(["-t", kind, kind, "-o", options])
            .arg(&at)
            .status();
        assert!(mount.unwrap().success(), "mounting needs root");
        if kind == "ramfs" {
            filled(at.join("f"), 1, 0);
        }
        let ran = init(&at, args);
        let left = std::fs::read_dir(&at).unwrap().count();
        assert!(Command::new("umount").arg(&at).status().unwrap().success());
        (ran, left)
    };
    let (ran, _) = mounted("ramfs", "rw", "-s LS:0:f:0");
    refused(&ran, 71, "no direct I/O (O_DIRECT)");
    let (ran, left) = mounted("ramfs", "rw", "--create -s LS:0:new:0");
    refused(&ran, 71, "no direct I/O (O_DIRECT)");
    assert_eq!(left, 1, "the new file was left behind");
    let (ran, _) = mounted("tmpfs", "ro", "--create -s LS:0:new:0");
    refused(&ran, 77, "its file system is mounted read-only");
    let (ran, left) = mounted(
        "tmpfs",
        "rw,size=1m",
        "--create -r LS:A:one:0 -r LS:B:two:1048576",
    );
    refused(
        &ran,
        73,
        "(2097152 bytes): no space is left on its file system",
    );
    assert_eq!(left, 0, "files were left behind");
}

#[test]
fn version_and_help_are_on_stdout() {
    let dir = directory();
    let version = init(dir.path(), "--version");
    assert_eq!((version.code, &*version.stderr), (0, ""));
    assert!(version.stdout.starts_with("lease-init 0."), "{version:?}");
    let help = init(dir.path(), "--help");
    assert_eq!((help.code, &*help.stderr), (0, ""));
    assert!(help.stdout.contains("--force"));
}
