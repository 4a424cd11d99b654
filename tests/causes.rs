//! What is wrong with a storage is said as its cause, not as the kernel's word for it; and where no
//! other attempt would do better, the exit code is not the one for trouble that may pass.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::record::checksum;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::files::{Loop, MIB, Ran, bytes, directory, filled, golden, patch, run};
use support::hosts::Host;
use support::process::Process;
use support::storage::Storage;

/// Runs a program that a test needs; it must succeed.
fn command(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// It must end with `code`, and its last line must contain `part`.
fn refused(ran: &Ran, code: i32, part: &str) {
    assert_eq!(ran.code, code, "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(part), "{part:?} is not in {last:?}");
}

/// What lease-join and lease-hold say of the lockspace and a resource on `disk`. A lease-join on
/// the storage's own path is there for lease-hold.
fn both(storage: &Storage, disk: &Path) -> [Ran; 2] {
    let there = Host::new(storage, 1).by_way_of(storage, disk);
    let join = there.start_join().finish();
    let host = Host::new(storage, 2);
    let _join = host.join();
    let resource = there.resource(storage, 1);
    [join, host.hold(&[&resource], &["true"])]
}

#[test]
fn a_device_for_reading_only() {
    let storage = Storage::new(1);
    let device = Loop::read_only(&storage.file());
    for ran in both(&storage, Path::new(&device.path)) {
        refused(&ran, 77, "the device is read-only; make it writable");
    }
    let spec = format!("LS:0:{}:0", device.path);
    let ran = run(storage.path(), "lease-init", &["--force", "-s", &spec]);
    refused(&ran, 77, "the device is read-only; make it writable");
    let ran = run(storage.path(), "lease-dump", &[&device.path]);
    assert_eq!((ran.code, &*ran.stderr), (0, ""), "reading is allowed");
}

#[test]
fn a_device_of_larger_sectors_than_the_records() {
    let storage = Storage::new(1);
    let device = Loop::over(&storage.file(), "4096");
    let before = storage.area(1);
    for ran in both(&storage, Path::new(&device.path)) {
        refused(&ran, 65, "it takes no I/O of 512 bytes: its sectors are");
    }
    assert!(storage.area(1) == before);
    assert_eq!(storage.heartbeat(1).owner(), None, "it was joined");
}

#[test]
fn a_file_on_a_disk_of_larger_sectors_than_are_asked_for() {
    let dir = directory();
    let backing = dir.path().join("backing");
    filled(&backing, 64, 0);
    let device = Loop::over(&backing, "4096");
    command("mkfs.ext4", &["-q", &device.path]);
    let mounted = Mount::new(&device.path, dir.path());
    let create = |options: &str| {
        let args = format!("--create {options} -s LS:0:f:0");
        let args: Vec<&str> = args.split_whitespace().collect();
        run(&mounted.0, "lease-init", &args)
    };
    refused(&create(""), 65, "it takes no I/O of 512 bytes");
    assert!(
        !mounted.0.join("f").exists(),
        "the new file was left behind"
    );
    assert_eq!(create("-Z 4096").code, 0);
}

#[test]
fn a_file_that_may_not_be_changed() {
    let dir = directory();
    let backing = dir.path().join("backing");
    filled(&backing, 64, 0);
    let device = Loop::over(&backing, "512");
    command("mkfs.ext4", &["-q", &device.path]);
    let mounted = Mount::new(&device.path, dir.path());
    let file = mounted.0.join("f").display().to_string();
    let storage = Storage::new(1);
    std::fs::copy(storage.file(), &file).unwrap();
    command("chattr", &["+i", &file]);
    for ran in both(&storage, Path::new(&file)) {
        refused(
            &ran,
            77,
            "is it immutable (lsattr), or forbidden by a security",
        );
    }
    command("chattr", &["-i", &file]);
    command(
        "mount",
        &["-o", "remount,ro", &mounted.0.display().to_string()],
    );
    for ran in both(&storage, Path::new(&file)) {
        refused(&ran, 77, "its file system is mounted read-only");
    }
}

/// A held lease whose file is cut short underneath.
#[test]
fn a_file_that_was_cut_short() {
    let storage = Storage::new(2);
    let (host, _join) = Host::joined(&storage, 1);
    let first = storage.resource(1);
    let mut waits = host.hold_command(&[&first], &["sh", "-c", "echo held; read line"]);
    let mut holds = Process::start_with(&mut waits, std::process::Stdio::piped());
    holds.wait_for_stdout("held");
    let file = std::fs::OpenOptions::new().write(true).open(storage.file());
    file.unwrap().set_len(storage.offset(1)).unwrap();
    holds.say("\n");
    let ran = holds.finish();
    assert!(ran.stderr.contains("it ends before byte"), "{ran:?}");
    let ran = host.hold(&[&first], &["true"]);
    refused(&ran, 65, "it has only 1048576 bytes");
}

#[test]
fn what_a_newer_version_wrote_is_shown_as_that() {
    let dir = directory();
    let args = ["--create", "-s", "LS:0:f:0", "-r", "LS:R1:f:1048576"];
    assert_eq!(run(dir.path(), "lease-init", &args).code, 0);
    let file = dir.path().join("f");
    let changed = |at: u64, field: usize, byte: u8, sum_at: usize| {
        let start = usize::try_from(at).unwrap();
        let mut record = bytes(&file)[start..start + 512].to_vec();
        record[field] = byte;
        let sum = checksum(&record[..sum_at]).to_le_bytes();
        record[sum_at..sum_at + 4].copy_from_slice(&sum);
        patch(&file, at, &record);
    };
    changed(2 * 512, 4, 5, 168);
    changed(3 * 512, 8, 0x11, 168);
    changed(MIB, 9, 2, 168);
    patch(&file, MIB + 3 * 512, &golden("res_dblock1_shared.bin"));
    changed(MIB + 3 * 512, 128, 3, 48);
    let ran = run(dir.path(), "lease-dump", &["f"]);
    assert_eq!(ran.code, 65, "{ran:?}");
    let objects = ran.stdout.lines().map(serde_json::from_str);
    let objects: Vec<Value> = objects.map(Result::unwrap).collect();
    let errors = |object: usize| objects[object]["errors"].clone();
    let newer = "(a newer sanlock's?); nothing is written over it";
    let flags = |record: &str, bits: &str| {
        format!(
            "{record} have bits that are not known here ({bits}; a newer sanlock's?); nothing is \
             written over it"
        )
    };
    assert_eq!(
        errors(0),
        json!([
            {"sector": 2, "error": format!("heartbeat record: it is of version 3.5, which is not \
                known here {newer}")},
            {"sector": 3, "error": flags("heartbeat record: its flags", "0x1")},
        ])
    );
    assert_eq!(
        errors(1),
        json!([
            {"sector": 0, "error": flags("leader record: its flags", "0x200")},
            {"sector": 3, "error": flags("ballot record: its mode flags", "0x2")},
        ])
    );
}

/// A file system, mounted on a directory for as long as this lives.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(device: &str, dir: &Path) -> Self {
        let at = dir.join("mounted");
        std::fs::create_dir(&at).unwrap();
        command("mount", &[device, &at.display().to_string()]);
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
