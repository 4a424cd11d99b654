//! lease-dump as a user runs it, on what the real sanlock and our own code wrote.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::id::{Generation, HostId, Lver, Name};
use lease_core::layout::{Geometry, SectorSize};
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::holder_note::HolderNote;
use lease_core::record::host_note::HostNote;
use lease_core::spec::Mode;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;
use support::files::{
    Daemon, GEOMETRIES, MIB, Ran, as_nobody, binary, bytes, directory, filled, golden, patch,
    path_in, run, sanlock,
};

/// Runs lease-dump with arguments separated by blanks.
fn dump(dir: &Path, args: &str) -> Ran {
    let args: Vec<&str> = args.split_whitespace().collect();
    run(dir, "lease-dump", &args)
}

/// Formats with lease-init.
fn init(dir: &Path, args: &str) {
    let args: Vec<&str> = args.split_whitespace().collect();
    let ran = run(dir, "lease-init", &args);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// The objects, one a line, of a dump that ended with `code` and said on stderr nothing but, in a
/// line each, which of them are damaged.
fn objects(ran: &Ran, code: i32) -> Vec<Value> {
    assert_eq!(ran.code, code, "{ran:?}");
    let lines = ran.stdout.lines();
    let objects: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let damaged = objects
        .iter()
        .filter(|object| object["errors"] != json!([]));
    let mut said = ran.stderr.lines();
    for object in damaged {
        let line = said.next().unwrap_or_default();
        let path = object["path"].as_str().unwrap();
        let place = format!(" at {path}:{}", object["offset"]);
        let says = |what: &str| line.contains(&format!("{place}{what}: "));
        assert!(says("") || says(" is not what was named"), "{line}");
    }
    assert_eq!(said.next(), None);
    objects
}

/// It must end with `code`, print nothing, and say why in one line that contains `part`.
fn refused(ran: &Ran, code: i32, part: &str) {
    assert_eq!((ran.code, &*ran.stdout), (code, ""), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [line] = lines.as_slice() else {
        panic!("{} lines: {ran:?}", lines.len());
    };
    assert!(line.starts_with("lease-dump: "), "{line}");
    assert!(line.contains(part), "{part:?} is not in {line:?}");
}

fn host(number: u64) -> HostId {
    HostId::new(number).unwrap()
}

fn name(text: &[u8]) -> Name {
    Name::from_field(text).unwrap()
}

/// A heartbeat of one of our hosts, with a note.
fn beat(number: u64, host_name: &[u8], timestamp: u64) -> Vec<u8> {
    let note = HostNote {
        watchdog: 10,
        host: host(number),
        generation: Generation(4),
        boot_id: *b"0123456789abcdef",
        former_over: 1,
    };
    Heartbeat::new(Geometry::ALL[0], &name(b"LS"), 1)
        .joined(&name(host_name), timestamp, 1, note)
        .to_sector()
}

fn note(number: u64, lver: u64, mode: Mode) -> HolderNote {
    HolderNote {
        host: host(number),
        generation: Generation(1),
        lver: Lver(lver),
        mode,
        pid: 4711,
        start: 1_700_000_000,
        host_name: b"host\xff".to_vec(),
        command: b"qemu".to_vec(),
    }
}

/// A golden ballot sector with a note added.
fn noted(golden_name: &str, note: HolderNote) -> Vec<u8> {
    let mut sector = BallotSector::decode(&golden(golden_name)).unwrap();
    sector.note = Some(note);
    sector.to_sector(SectorSize::B512)
}

// ---- the objects

#[test]
fn a_lockspace_field_by_field() {
    let dir = directory();
    init(dir.path(), "--create -o 7 -s LS:0:f:0");
    let file = dir.path().join("f");
    patch(&file, 0, &golden("hb_id1_event_g1_e5_d77_to_host2.bin"));
    patch(&file, 512, &golden("hb_id2_rejoined_shorter_name_hX.bin"));
    patch(&file, 2 * 512, &beat(3, b"ours", 99));
    patch(&file, 3 * 512, &beat(4, b"gone", 0));
    let expected = json!({
        "kind": "lockspace", "path": "f", "offset": 0, "sector_size": 512,
        "align_size": 1_048_576, "max_hosts": 2000, "lockspace": "LS", "io_timeout": 7,
        "hosts": [
            {"host_id": 1, "generation": 1, "name": "hostA", "timestamp": 579, "io_timeout": 1,
             "held": true, "bitmap": [2], "event": {"generation": 1, "number": 5, "data": 77},
             "note": null},
            {"host_id": 2, "generation": 2, "name": "hX", "timestamp": 593, "io_timeout": 1,
             "held": true, "bitmap": [], "event": null, "note": null},
            {"host_id": 3, "generation": 4, "name": "ours", "timestamp": 99, "io_timeout": 1,
             "held": true, "bitmap": [], "event": null,
             "note": {"watchdog": 10, "boot_id": "30313233-3435-3637-3839-616263646566",
                      "former_over": 1}},
            {"host_id": 4, "generation": 4, "name": "gone", "timestamp": 0, "io_timeout": 1,
             "held": false, "bitmap": [], "event": null,
             "note": {"watchdog": 10, "boot_id": "30313233-3435-3637-3839-616263646566",
                      "former_over": 1}},
        ],
        "errors": [],
    });
    for operand in ["f", "f:0", "LS:1:f:0", "LS:0:f:0"] {
        assert_eq!(
            objects(&dump(dir.path(), operand), 0),
            std::slice::from_ref(&expected),
            "{operand}"
        );
    }
    let all = objects(&dump(dir.path(), "-a f"), 0);
    let hosts = all[0]["hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), 2000);
    let never = json!({"host_id": 2000, "generation": 0, "name": null, "timestamp": 0,
        "io_timeout": 7, "held": false, "bitmap": [], "event": null, "note": null});
    assert_eq!(hosts[1999], never);
}

#[test]
fn a_resource_field_by_field() {
    let dir = directory();
    init(dir.path(), "--create -r LS:R1:f:1048576");
    let file = dir.path().join("f");
    patch(&file, MIB, &golden("res_leader_held_host2_lver2.bin"));
    patch(&file, MIB + 512, &golden("res_request_lver2_force2.bin"));
    patch(&file, MIB + 2 * 512, &golden("res_dblock1_released.bin"));
    patch(
        &file,
        MIB + 3 * 512,
        &noted("res_dblock2_held.bin", note(2, 2, Mode::Exclusive)),
    );
    patch(&file, MIB + 2002 * 512, b"step 42\n");
    let expected = json!({
        "kind": "resource", "path": "f", "offset": MIB, "sector_size": 512,
        "align_size": MIB, "max_hosts": 2000, "num_hosts": 2000, "lockspace": "LS",
        "resource": "R1", "cleared": false, "lver": 2,
        "owner": {"host_id": 2, "generation": 1, "timestamp": 562},
        "writer": {"host_id": 2, "generation": 1, "timestamp": 562},
        "short_hold": false, "shared": [], "request": {"lver": 2, "force_mode": 2},
        "ballots": [
            {"host_id": 1, "mbal": 1, "bal": 1, "inp": 1, "inp2": 1, "inp3": 562, "lver": 1,
             "released": true},
            {"host_id": 2, "mbal": 2002, "bal": 2002, "inp": 2, "inp2": 1, "inp3": 562,
             "lver": 2, "released": false},
        ],
        "holder": {"host_id": 2, "generation": 1, "lver": 2, "mode": "exclusive", "pid": 4711,
                   "start": 1_700_000_000, "host_name": "host\\xff", "command": "qemu"},
        "value": {"base64": "c3RlcCA0Mgo=", "text": "step 42\n"},
        "errors": [],
    });
    for operand in ["f", "f:1048576", "LS:R1:f:1048576", "LS:R1:f:1048576:SH"] {
        assert_eq!(
            objects(&dump(dir.path(), operand), 0),
            std::slice::from_ref(&expected),
            "{operand}"
        );
    }
    let all = objects(&dump(dir.path(), "--all f"), 0);
    assert_eq!(all[0]["ballots"].as_array().unwrap().len(), 2000);
    // A note of an older version of the lease is not believed.
    patch(
        &file,
        MIB + 3 * 512,
        &noted("res_dblock2_held.bin", note(2, 1, Mode::Exclusive)),
    );
    assert_eq!(objects(&dump(dir.path(), "f"), 0)[0]["holder"], Value::Null);
}

#[test]
fn a_shared_and_a_short_held_resource() {
    let dir = directory();
    init(dir.path(), "--create -r LS:R2:f:0");
    let file = dir.path().join("f");
    patch(&file, 0, &golden("res_leader_short_hold_held.bin"));
    patch(
        &file,
        2 * 512,
        &noted("res_dblock1_shared.bin", note(1, 1, Mode::Shared)),
    );
    patch(
        &file,
        3 * 512,
        &noted("res_dblock1_shared.bin", note(1, 1, Mode::Shared)),
    );
    let objects = objects(&dump(dir.path(), "f"), 0);
    assert_eq!(objects[0]["short_hold"], true);
    let shared = objects[0]["shared"].as_array().unwrap();
    assert_eq!(
        (&shared[0]["host_id"], &shared[0]["generation"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(shared[0]["holder"]["pid"], 4711);
    // A copy of host 1's note in host 2's sector is not host 2's.
    assert_eq!(
        shared[1],
        json!({"host_id": 2, "generation": 1, "holder": null})
    );
}

#[test]
fn what_was_never_owned_or_asked_for_is_null() {
    let dir = directory();
    init(dir.path(), "--create --max-hosts 3 -r LS:R1:f:0");
    let objects = objects(&dump(dir.path(), "f"), 0);
    for field in ["owner", "writer", "request", "holder", "value"] {
        assert_eq!(objects[0][field], Value::Null, "{field}");
    }
    assert_eq!(
        (&objects[0]["lver"], &objects[0]["num_hosts"]),
        (&json!(0), &json!(3))
    );
}

#[test]
fn an_index_and_a_cleared_resource() {
    let dir = directory();
    let path = path_in(&dir, "f");
    filled(&path, 3, 0);
    sanlock(
        dir.path(),
        &["direct", "format", "-x", &format!("LS:{path}:0")],
    );
    sanlock(
        dir.path(),
        &[
            "direct",
            "init",
            "-r",
            &format!("LS:RS:{path}:2097152"),
            "-z",
            "1",
        ],
    );
    let objects = objects(&dump(dir.path(), "f"), 0);
    let index = json!({"kind": "index", "path": "f", "offset": 0, "sector_size": 512,
        "align_size": MIB, "lockspace": "LS", "max_resources": 4096, "resources": [],
        "errors": []});
    assert_eq!(objects[0], index);
    assert_eq!(objects[1]["resource"], "rindex_lease");
    assert_eq!(
        (&objects[2]["kind"], &objects[2]["resource"]),
        (&json!("resource"), &json!("RS"))
    );
    // It was deleted, and is not damaged. Whoever names it looks for one that is there.
    let cleared = |object: &Value| (object["cleared"].clone(), object["errors"].clone());
    assert_eq!(cleared(&objects[1]), (json!(false), json!([])));
    assert_eq!(cleared(&objects[2]), (json!(true), json!([])));
    let ran = dump(dir.path(), "LS:RS:f:2097152");
    let said = "resource LS:RS was deleted there; lease-init -r makes one";
    assert!(ran.code == 65 && ran.stderr.contains(said), "{ran:?}");
}

// ---- finding

#[test]
fn a_path_is_scanned_whole_in_every_geometry() {
    let dir = directory();
    let mut operands = String::new();
    for (sector, align, mebibytes) in GEOMETRIES {
        let file = format!("{sector}-{align}");
        let areas = format!("-s LS:0:{file}:0 -r LS:RS:{file}:{}", 3 * mebibytes * MIB);
        init(
            dir.path(),
            &format!("--create -Z {sector} -A {align} {areas}"),
        );
        operands += &format!("{file} ");
    }
    let found = objects(&dump(dir.path(), &operands), 0);
    let field = |object: &Value, name: &str| object[name].as_u64().unwrap();
    let mut found = found.iter();
    for (sector, _, mebibytes) in GEOMETRIES {
        for (kind, offset) in [("lockspace", 0), ("resource", 3 * mebibytes * MIB)] {
            let object = found.next().unwrap();
            assert_eq!(object["kind"], kind);
            assert_eq!(field(object, "offset"), offset);
            assert_eq!(field(object, "sector_size").to_string(), sector);
            assert_eq!(field(object, "align_size"), mebibytes * MIB);
        }
    }
    assert_eq!(found.next(), None);
}

#[test]
fn names_and_paths_that_are_not_utf8_come_out_as_escapes() {
    let dir = directory();
    let spec = OsStr::from_bytes(b"-sL\xff\xc3\xa9:0:f\xfe:0");
    let ran = run(dir.path(), "lease-init", &[OsStr::new("--create"), spec]);
    assert_eq!(ran.code, 0, "{ran:?}");
    patch(
        dir.path().join(OsStr::from_bytes(b"f\xfe")),
        512 + 104,
        b"x",
    ); // breaks a checksum
    let ran = run(dir.path(), "lease-dump", &[OsStr::from_bytes(b"f\xfe")]);
    let objects = objects(&ran, 65);
    assert_eq!(objects[0]["lockspace"], "L\\xff\u{e9}");
    assert_eq!(objects[0]["path"], "f\\xfe");
}

#[test]
fn on_a_terminal_it_is_pretty() {
    let dir = directory();
    init(dir.path(), "--create -s LS:0:f:0");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = Command::new(binary("lease-dump"));
    command
        .arg("f")
        .current_dir(dir.path())
        .stdout(Stdio::from(terminal.slave));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut text = Vec::new();
    // Reading the master ends with EIO once the last slave is closed.
    let _ = File::from(terminal.master).read_to_end(&mut text);
    assert!(child.wait().unwrap().success());
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with("{\r\n  \"kind\": \"lockspace\",\r\n"),
        "{text}"
    );
    assert!(serde_json::from_str::<Value>(&text).is_ok());
}

// ---- what does not check

#[test]
fn everything_readable_is_printed_beside_the_errors() {
    let dir = directory();
    init(dir.path(), "--create -s LS:0:f:0 -r LS:R1:f:1048576");
    let file = dir.path().join("f");
    patch(&file, 0, &[0; 4]); // half formatted
    patch(&file, 512, &golden("hb_id2_bitmap_bit_host1.bin"));
    patch(&file, 9 * 512 + 56, b"MS"); // another lockspace's name, under a checksum
    patch(&file, MIB, &golden("res_leader_held_host2_lver2.bin"));
    patch(&file, MIB + 60, b"!");
    patch(&file, MIB + 512, &[0; 4]);
    patch(&file, MIB + 2 * 512, &golden("res_dblock1_released.bin"));
    patch(&file, MIB + 7 * 512, b"!");
    let ran = dump(dir.path(), "f");
    let said: Vec<&str> = ran.stderr.lines().collect();
    let which = "\"errors\" in its object says which";
    assert_eq!(
        said,
        [
            format!(
                "lease-dump: found damage in lockspace LS at f:0: 2 records do not check; {which}"
            ),
            format!(
                "lease-dump: found damage in a resource at f:1048576: 3 records do not check; {which}"
            ),
        ]
    );
    let objects = objects(&ran, 65);
    let errors = |object: &Value| -> Vec<(u64, String)> {
        let errors = object["errors"].as_array().unwrap().iter();
        let text = |error: &Value| error["error"].as_str().unwrap().to_owned();
        errors
            .map(|error| (error["sector"].as_u64().unwrap(), text(error)))
            .collect()
    };
    let lockspace = errors(&objects[0]);
    let none = "heartbeat record: there is none, but zeros: nothing was formatted there, or its \
                beginning was wiped";
    assert_eq!(lockspace[0], (0, none.to_owned()));
    assert_eq!(lockspace[1].0, 9);
    assert!(
        lockspace[1]
            .1
            .starts_with("heartbeat record: it is damaged"),
        "{lockspace:?}"
    );
    assert_eq!(lockspace.len(), 2);
    assert_eq!(objects[0]["lockspace"], "LS");
    assert_eq!(objects[0]["hosts"][0]["name"], "hostB");

    let resource = errors(&objects[1]);
    let sectors: Vec<u64> = resource.iter().map(|(sector, _)| *sector).collect();
    assert_eq!(sectors, [0, 1, 7]);
    assert!(
        resource[0].1.starts_with("leader record: it is damaged"),
        "{resource:?}"
    );
    assert!(
        resource[1].1.starts_with("request record: there is none"),
        "{resource:?}"
    );
    assert!(
        resource[2].1.starts_with("ballot record: it is damaged"),
        "{resource:?}"
    );
    assert_eq!(
        (&objects[1]["lver"], &objects[1]["resource"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(objects[1]["ballots"][0]["inp3"], 562);
}

#[test]
fn a_file_that_ends_inside_an_area_is_shown_up_to_there() {
    let dir = directory();
    init(dir.path(), "--create -s LS:0:f:0");
    let file = OpenOptions::new()
        .write(true)
        .open(dir.path().join("f"))
        .unwrap();
    file.set_len(40_960).unwrap();
    let objects = objects(&dump(dir.path(), "f -a"), 65);
    assert_eq!(objects[0]["hosts"].as_array().unwrap().len(), 80);
    let errors = json!([{"sector": 80, "error": "the file or device ends before it"}]);
    assert_eq!(objects[0]["errors"], errors);
}

#[test]
fn a_leader_behind_its_ballots_is_an_error() {
    let dir = directory();
    init(dir.path(), "--create -r LS:R1:f:0");
    let file = dir.path().join("f");
    patch(&file, 0, &golden("res_leader_fresh.bin"));
    patch(&file, 3 * 512, &golden("res_dblock2_held.bin"));
    let objects = objects(&dump(dir.path(), "f"), 65);
    let errors = json!([{"sector": 3, "error": "ballot record: it decided version 2, \
        the leader (version 0) has gone back"}]);
    assert_eq!(objects[0]["errors"], errors);
}

#[test]
fn a_named_area_must_be_what_it_was_called() {
    let dir = directory();
    init(
        dir.path(),
        "--create -s LS:0:f:0 -r LS:RS:f:1048576 -r LS:7:f:2097152",
    );
    let table = [
        ("OTHER:1:f:0", "it is lockspace LS, not OTHER"),
        ("LS:RS:f:0", "it is a lockspace, not a resource"),
        ("LS:2001:f:0", "it is a lockspace, not a resource"),
        ("LS:R2:f:1048576", "it is resource LS:RS, not LS:R2"),
        ("OTHER:RS:f:1048576", "it is resource LS:RS, not OTHER:RS"),
        ("LS:1:f:1048576", "it is resource LS:RS, not LS:1"),
    ];
    for (operand, error) in table {
        let objects = objects(&dump(dir.path(), operand), 65);
        assert_eq!(
            objects[0]["errors"],
            json!([{"sector": 0, "error": error}]),
            "{operand}"
        );
        assert!(objects[0]["lockspace"] == "LS", "{operand}");
    }
    for operand in ["LS:9:f:0", "LS:RS:f:1048576", "LS:7:f:2097152"] {
        assert_eq!(objects(&dump(dir.path(), operand), 0).len(), 1, "{operand}");
    }
    // A resource on two disks is two areas.
    let both = dump(dir.path(), "LS:RS:f:1048576:f:2097152");
    let names: Vec<Value> = objects(&both, 65)
        .iter()
        .map(|o| o["resource"].clone())
        .collect();
    assert_eq!(names, ["RS", "7"]);
}

// ---- two looks

#[test]
fn live_tells_a_host_that_renews_from_one_that_does_not() {
    let dir = directory();
    init(dir.path(), "--create -o 1 -s LS:0:f:0 -r LS:RS:f:1048576");
    let file = dir.path().join("f");
    patch(&file, 0, &beat(1, b"renews", 100));
    patch(&file, 512, &beat(2, b"silent", 100));
    patch(&file, 1024, &beat(3, b"left", 0));
    let mut command = Command::new(binary("lease-dump"));
    command.args(["--live", "f"]).current_dir(dir.path());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut timestamp = 100;
    while child.try_wait().unwrap().is_none() {
        timestamp += 1;
        patch(&file, 0, &beat(1, b"renews", timestamp));
        sleep(Duration::from_millis(100));
    }
    let ran: Ran = child.wait_with_output().unwrap().into();
    let objects = objects(&ran, 0);
    let hosts = objects[0]["hosts"].as_array().unwrap();
    let seen = |host: &Value| (host["name"].clone(), host["state"].clone());
    let seen: Vec<(Value, Value)> = hosts.iter().map(seen).collect();
    let expected = [("renews", "alive"), ("silent", "unknown"), ("left", "free")];
    assert_eq!(
        seen,
        expected.map(|(name, state)| (json!(name), json!(state)))
    );
    assert!(hosts[0]["timestamp"].as_u64() > Some(101));
    assert_eq!(objects[1]["kind"], "resource");
}

#[test]
fn what_a_real_sanlock_daemon_does_is_seen() {
    let dir = directory();
    let path = path_in(&dir, "f");
    init(dir.path(), "--create -o 1 -s LS:0:f:0 -r LS:RS:f:1048576");
    let daemon = Daemon::start("hostA");
    daemon.client(&["add_lockspace", "-s", &format!("LS:3:{path}:0"), "-o", "1"]);
    let resource = format!("LS:RS:{path}:1048576");
    let mut holder = daemon.command(&["command", "-r", &resource, "-c", "/bin/sleep", "60"]);
    let mut holder = holder.stdout(Stdio::null()).spawn().unwrap();
    let owner = || objects(&dump(dir.path(), "f:1048576"), 0)[0]["owner"].clone();
    while owner().is_null() {
        assert_eq!(holder.try_wait().unwrap(), None);
        sleep(Duration::from_millis(50));
    }
    let objects = objects(&dump(dir.path(), "--live f"), 0);
    let host = &objects[0]["hosts"][0];
    assert_eq!(
        (&host["host_id"], &host["name"]),
        (&json!(3), &json!("hostA"))
    );
    assert_eq!(
        (&host["state"], &host["held"]),
        (&json!("alive"), &json!(true))
    );
    assert_eq!(
        (&objects[1]["owner"]["host_id"], &objects[1]["lver"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(objects[1]["holder"], Value::Null);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

// ---- bad input

#[test]
fn bad_input_has_its_line_and_exit_code() {
    let dir = directory();
    let at = |name: &str| dir.path().join(name);
    init(dir.path(), "--create -s LS:0:f:0");
    filled(at("zeros"), 2, 0);
    filled(at("garbage"), 1, 0x5A);
    std::fs::write(at("short"), b"short").unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let table = [
        ("", 64, "<AREA>"),
        ("--huh f", 64, "'--huh'"),
        ("a:b:c", 66, "cannot dump a:b:c: c: No such file"),
        ("f:x", 64, "offset \"x\""),
        ("f:-512", 64, "offset \"-512\""),
        ("f:18446744073709551616", 64, "a decimal number of bytes"),
        ("f:100", 64, "not a multiple of 512"),
        ("f\\n", 64, "a backslash can only stand before"),
        ("LS:RS:f:0:0", 64, "lver \"0\""),
        (
            "f:1048576",
            65,
            "it ends at byte 1048576; is the offset right? [-223]",
        ),
        (
            "f:512",
            65,
            "that is in the middle of lockspace LS at f:0; is the offset right? [-223]",
        ),
        ("f:18446744073709551104", 65, "it ends at byte 1048576"),
        (
            "zeros",
            65,
            "no lockspace or resource is to be found in its 2097152 bytes",
        ),
        (
            "zeros:1048576",
            65,
            "there are zeros: it was never formatted; lease-init does that [-223]",
        ),
        ("garbage", 65, "no lockspace or resource is to be found"),
        (
            "garbage:0",
            65,
            "there is none, but other data (it begins with 0x5a5a5a5a)",
        ),
        ("short", 65, "in its 5 bytes"),
        ("missing", 66, "No such file or directory"),
        ("f/f", 66, "Not a directory"),
        ("directory", 66, "it is a directory"),
        ("fifo", 66, "it is a FIFO"),
        ("/dev/null", 66, "it is a character device"),
        ("/proc/version", 71, "no direct I/O (O_DIRECT)"),
    ];
    for (args, code, part) in table {
        refused(&dump(dir.path(), args), code, part);
    }
}

#[test]
fn one_bad_operand_does_not_hide_the_others() {
    let dir = directory();
    init(dir.path(), "--create -s LS:0:f:0 -r LS:RS:g:0");
    let ran = dump(dir.path(), "f missing X:RS:g:0");
    assert_eq!(ran.code, 66, "the first failure decides: {ran:?}");
    assert_eq!(
        (ran.stdout.lines().count(), ran.stderr.lines().count()),
        (2, 2)
    );
}

#[test]
fn reading_is_all_that_it_needs_and_does() {
    let dir = directory();
    init(dir.path(), "--create --mode 444 -s LS:0:f:0");
    init(dir.path(), "--create --mode 0 -s LS:0:secret:0");
    let before = bytes(dir.path().join("f"));
    let ran: Ran = as_nobody(dir.path(), "lease-dump")
        .arg("f")
        .output()
        .unwrap()
        .into();
    assert_eq!(objects(&ran, 0).len(), 1);
    assert!(bytes(dir.path().join("f")) == before);
    let ran: Ran = as_nobody(dir.path(), "lease-dump")
        .arg("secret")
        .output()
        .unwrap()
        .into();
    refused(
        &ran,
        77,
        "Permission denied for uid 65534 (it belongs to uid 0, mode 0000)",
    );
}

#[test]
fn a_stdout_that_takes_nothing_is_said() {
    let dir = directory();
    init(dir.path(), "--create -s LS:0:f:0");
    let into = |stdout: Stdio| -> Ran {
        let mut command = Command::new(binary("lease-dump"));
        command
            .arg("f")
            .current_dir(dir.path())
            .stdout(stdout)
            .stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap().into()
    };
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    refused(
        &into(full.into()),
        74,
        "cannot write to stdout: No space left on device",
    );
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    refused(
        &into(writer.into()),
        74,
        "cannot write to stdout: Broken pipe",
    );
}
