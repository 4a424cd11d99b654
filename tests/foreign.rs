//! lease-init formats nothing among other people's data.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;
use support::files::{Loop, Ran, as_nobody, binary, bytes, directory, filled, run};

/// Runs a program that a test needs; it must succeed.
fn command(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// It must end with `code`, and say why in one line that contains `part`.
fn refused(ran: &Ran, code: i32, part: &str) {
    assert_eq!((ran.code, &*ran.stdout), (code, ""), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
}

/// lease-init of an area far from everything.
fn init(dir: &Path, options: &[&str], disk: &str) -> Ran {
    let spec = format!("LS:0:{disk}:33554432");
    let args = [options, &["-s", &spec]].concat();
    run(dir, "lease-init", &args)
}

/// How to make a disk of 64 MiB carry something, and what that is called.
type Kind = (&'static str, fn(&str));

const KINDS: [Kind; 6] = [
    ("ext4 data (at byte 1080)", |disk| {
        command("mkfs.ext4", &["-q", disk]);
    }),
    ("swap space (at byte 4086)", |disk| {
        command("mkswap", &[disk]);
    }),
    ("a partition table (dos) (at byte 510)", |disk| {
        put(
            disk,
            446,
            &[0, 0, 2, 0, 0x83, 0, 10, 0, 0, 8, 0, 0, 0, 8, 0, 0],
        );
        put(disk, 510, &[0x55, 0xaa]);
    }),
    ("a physical volume of LVM (at byte 536)", |disk| {
        put(disk, 512, b"LABELONE\x01\0\0\0\0\0\0\0");
        put(disk, 528, &[0x0d, 0x1d, 0x36, 0xbe, 32, 0, 0, 0]);
        put(disk, 536, b"LVM2 001");
        put(disk, 544, &[b'a'; 32]);
    }),
    // Of version 1.0, which lies 8 KiB before the end.
    ("a member of a RAID (at byte 67100672)", |disk| {
        let at = (64 << 20) - 8192;
        put(disk, at, &0xa92b_4efc_u32.to_le_bytes());
        put(disk, at + 4, &1_u32.to_le_bytes());
        put(disk, at + 128 + 16, &(at / 512).to_le_bytes());
        put(disk, at + 216, &raid_sum(at / 512).to_le_bytes());
    }),
    ("an encrypted volume (LUKS) (at byte 0)", |disk| {
        put(disk, 0, b"LUKS\xba\xbe\0\x01");
    }),
];

/// The checksum of that record: the sum of its 64 words of 32 bits.
fn raid_sum(place: u64) -> u32 {
    let sum = 0xa92b_4efc + 1 + place;
    (sum & 0xffff_ffff) as u32 + (sum >> 32) as u32
}

fn put(disk: &str, at: u64, bytes: &[u8]) {
    support::files::patch(disk, at, bytes);
}

#[test]
fn nothing_is_formatted_on_a_disk_that_carries_other_data() {
    for (name, make) in KINDS {
        let dir = directory();
        let backing = dir.path().join("disk");
        filled(&backing, 64, 0);
        let file = backing.display().to_string();
        make(&file);
        let before = bytes(&backing);
        let device = Loop::over(&backing, "512");
        for disk in [&device.path, &file] {
            let ran = init(dir.path(), &[], disk);
            refused(&ran, 73, &format!("{disk} carries {name}, whose users"));
        }
        assert!(bytes(&backing) == before, "{name}: something was written");
        let ran = init(dir.path(), &["--force"], &device.path);
        assert_eq!(ran.code, 0, "{name}, --force: {ran:?}");
    }
}

#[test]
fn leases_and_zeros_are_no_other_data() {
    let dir = directory();
    let backing = dir.path().join("disk");
    filled(&backing, 64, 0);
    let device = Loop::over(&backing, "512");
    for offset in [0, 1 << 20, 63 << 20] {
        let spec = format!("LS:R:{}:{offset}", device.path);
        let ran = run(dir.path(), "lease-init", &["-r", &spec]);
        assert_eq!((ran.code, &*ran.stderr), (0, ""), "{offset}");
    }
    let other = dir.path().join("other").display().to_string();
    filled(&other, 34, 0);
    command("chmod", &["0666", &other]);
    let mut command = as_nobody(dir.path(), "lease-init");
    let spec = format!("LS:R:{other}:33554432");
    let ran = Ran::from(command.args(["-r", &spec]).output().unwrap());
    assert_eq!(ran.code, 0, "asking needs no root: {ran:?}");
}

#[test]
fn who_cannot_be_asked_is_no_reason_to_format() {
    let dir = directory();
    let file = dir.path().join("disk").display().to_string();
    filled(&file, 34, 0);
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let init = |options: &[&str]| {
        let mut command = Command::new(binary("lease-init"));
        let spec = format!("LS:0:{file}:33554432");
        command.env("PATH", &bin).args(options).args(["-s", &spec]);
        Ran::from(command.output().unwrap())
    };
    let wipefs = bin.join("wipefs").display().to_string();
    std::fs::write(&wipefs, "#!/bin/sh\necho 'wipefs: it fails' >&2\nexit 1\n").unwrap();
    command("chmod", &["0755", &wipefs]);
    let part = "carries a file system or the like cannot be told: wipefs: it fails; --force";
    refused(&init(&[]), 71, part);
    assert!(bytes(&file).iter().all(|byte| *byte == 0), "it wrote");
    assert_eq!(init(&["--force"]).code, 0);
}

#[test]
fn a_device_in_use_is_refused_with_force_too() {
    let dir = directory();
    let backing = dir.path().join("disk");
    filled(&backing, 64, 0);
    let device = Loop::over(&backing, "512");
    command("mkfs.ext4", &["-q", &device.path]);
    let at = dir.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    let at = at.display().to_string();
    command("mount", &[&device.path, &at]);
    let ran = init(dir.path(), &["--force"], &device.path);
    command("umount", &[&at]);
    refused(&ran, 75, "the device is in use");
}
