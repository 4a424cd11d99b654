//! The units for systemd: they are what systemd takes, what they promise fits the times, and under
//! a systemd of its own they do it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "units/systemd.rs"]
mod systemd;

use lease_core::timing::Timing;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::files::{binary, bytes, directory, filled, patch, run};
use support::process::{SOON, wait_until};
use systemd::Systemd;

const JOIN: &str = "lease-join@.service";
const GUARDED: &str = "guarded-example.service";
const SANLOCK: &str = "lease-sanlock.service";

fn unit(name: &str) -> String {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lease-join/systemd");
    fs::read_to_string(units.join(name)).unwrap()
}

fn manual(page: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../man")
        .join(page)
}

/// The value of a setting.
fn setting(unit: &str, name: &str) -> Option<String> {
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    unit.lines().find_map(value)
}

#[test]
fn systemd_finds_nothing_wrong_with_them() {
    let dir = directory();
    let tools = binary("lease-join").parent().unwrap().to_owned();
    let written = |name: &str| -> PathBuf {
        let here = unit(name)
            .replace("/usr/sbin/", &format!("{}/", tools.display()))
            .replace("/usr/bin/postgres", "/bin/true");
        let path = dir.path().join(name);
        fs::write(&path, here).unwrap();
        path
    };
    let ran = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args([written(JOIN), written(GUARDED), written(SANLOCK)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_lease_join_that_is_stuck_is_replaced_before_its_lease_is_lost() {
    let unit = unit(JOIN);
    let seconds = |name| setting(&unit, name).unwrap().parse::<u64>().unwrap();
    let replaced = seconds("WatchdogSec") + seconds("RestartSec");
    // The last renewal may be one period old when it gets stuck.
    let usual = Timing::new(10, 60).unwrap();
    let since_renewal = usual.renewal_period().as_secs() + replaced;
    assert!(since_renewal < usual.lost_after().as_secs());
    assert!(replaced < u64::from(usual.watchdog()));
    let smallest = Timing::new(5, 60).unwrap();
    let since_renewal = smallest.renewal_period().as_secs() + replaced;
    assert!(since_renewal < smallest.lost_after().as_secs());
    assert_eq!(setting(&unit, "Restart").unwrap(), "always");
}

#[test]
fn nothing_that_is_guarded_ends_with_lease_join() {
    for name in [JOIN, SANLOCK] {
        assert_eq!(setting(&unit(name), "KillMode").unwrap(), "process");
    }
    let guarded = unit(GUARDED);
    assert_eq!(setting(&guarded, "Delegate").unwrap(), "yes");
    // Nor is a lease-join that was stopped started again by what is guarded.
    for tie in ["Requires", "BindsTo", "PartOf", "Wants", "Upholds"] {
        assert_eq!(setting(&guarded, tie), None);
    }
}

const JOINED: &str = "lease-join@LS.service";

/// A host with lease-join for the lockspace LS and the guarded example, both enabled. No storage.
fn installed() -> Systemd {
    let host = Systemd::installed();
    host.unit(JOIN, &unit(JOIN));
    host.enable(JOINED, JOIN);
    joins(&host, "LS", "-e host1");
    guards(&host, GUARDED, "db", "exec sleep 1000");
    fs::create_dir(host.path("/mnt/nfs")).unwrap();
    host
}

/// Says how the instance of lease-join joins the lockspace of its name.
fn joins(host: &Systemd, lockspace: &str, options: &str) {
    let spec = format!("{lockspace}:1:/mnt/nfs/{lockspace}:0");
    let text = format!("LOCKSPACE='{spec}'\nOPTIONS={options} --watchdog-timeout 4\n");
    host.write(&format!("/etc/lease/{lockspace}"), &text);
}

/// Installs and enables the guarded example for another resource, with a script for its command.
fn guards(host: &Systemd, name: &str, resource: &str, script: &str) {
    let command = format!("/mnt/{resource}.command");
    let text = unit(GUARDED)
        .replace("/usr/bin/postgres -D /mnt/nfs/db", &command)
        .replace(
            "LS:db:/mnt/nfs/db:0",
            &format!("LS:{resource}:/mnt/nfs/{resource}:0"),
        );
    host.unit(name, &text);
    host.enable(name, name);
    host.write(
        &command,
        &format!("#!/bin/sh\necho >>/mnt/{resource}.runs\n{script}\n"),
    );
    fs::set_permissions(host.path(&command), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Waits until the command of a resource has been started so often.
fn wait_for_runs(host: &Systemd, resource: &str, times: usize) {
    let runs = host.path(&format!("/mnt/{resource}.runs"));
    wait_until(&format!("run {times} of {resource}"), 3 * SOON, || {
        let text = fs::read_to_string(&runs).unwrap_or_default();
        assert!(text.len() <= times, "{resource} ran too often");
        (text.len() == times).then_some(())
    });
}

/// Makes an area of the storage in a file of its own: `kind` is -s or -r.
fn format(host: &Systemd, kind: &str, area: &str, name: &str) {
    let storage = host.path("/mnt/nfs");
    let spec = format!("{area}:{}/{name}:0", storage.display());
    let ran = run(
        &storage,
        "lease-init",
        &["--create", "-o", "1", kind, &spec],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Makes the storage of the lockspace LS and of resources in it.
fn format_with(host: &Systemd, resources: &[&str]) {
    for name in resources {
        format(host, "-r", &format!("LS:{name}"), name);
    }
    format(host, "-s", "LS:0", "LS");
}

/// What lease-dump says of a file of the storage.
fn dump(host: &Systemd, name: &str) -> serde_json::Value {
    let storage = host.path("/mnt/nfs");
    let ran = run(&storage, "lease-dump", &[name]);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_host_boots_before_its_storage_is_there_and_its_units_start_and_stop_in_order() {
    let mut host = installed();
    // After: systemd forgets no unit that it is told of.
    let quiet = format!("[Unit]\nAllowIsolate=yes\nAfter={JOINED} {GUARDED}\n");
    host.unit("quiet.target", &quiet);
    host.boot();
    for unit in [JOINED, GUARDED] {
        host.wait_for(unit, "ExecMainStatus", "66");
        host.wait_for(unit, "NRestarts", "1");
    }
    format_with(&host, &["db"]);
    wait_for_runs(&host, "db", 1);
    let joined = host.moment(JOINED, "ActiveEnter");
    assert!(host.moment(GUARDED, "ExecMainStart") >= joined);

    // As at shutdown: all in one go.
    host.does(&["isolate", "quiet.target"]);
    for unit in [JOINED, GUARDED] {
        assert_eq!(host.show(unit, "ActiveState"), "inactive");
    }
    assert!(host.moment(GUARDED, "InactiveEnter") <= host.moment(JOINED, "ActiveExit"));
    assert_eq!(host.show(GUARDED, "ExecMainStatus"), "143");
    assert_eq!(dump(&host, "db")["owner"], serde_json::Value::Null);
    assert_eq!(dump(&host, "LS")["hosts"][0]["timestamp"], 0);
}

#[test]
fn restart_of_lease_join_brings_the_commands_back_and_what_was_stopped_stays_so() {
    let mut host = installed();
    let gentle = "trap 'kill %1; exit 0' TERM; sleep 1000 & wait";
    guards(&host, "gentle.service", "gentle", gentle);
    format_with(&host, &["db", "gentle"]);
    host.boot();
    let running = |times| {
        for resource in ["db", "gentle"] {
            wait_for_runs(&host, resource, times);
        }
    };
    running(1);
    host.does(&["restart", JOINED]);
    running(2);

    host.does(&["stop", JOINED]);
    for unit in [GUARDED, "gentle.service"] {
        host.wait_for(unit, "ExecMainStatus", "69");
    }
    assert_eq!(host.show(JOINED, "ActiveState"), "inactive");
    host.does(&["stop", GUARDED]);
    assert_eq!(host.show(GUARDED, "ActiveState"), "inactive");
    host.does(&["start", JOINED]);
    wait_for_runs(&host, "gentle", 3);
    wait_for_runs(&host, "db", 2);
}

#[test]
fn reload_of_lease_join_or_its_death_is_not_noticed_by_the_command() {
    let mut host = installed();
    format_with(&host, &["db"]);
    joins(&host, "LS", "-o 3");
    host.boot();
    wait_for_runs(&host, "db", 1);
    let generation = || dump(&host, "LS")["hosts"][0]["generation"].clone();
    let (before, hold) = (generation(), host.show(GUARDED, "MainPID"));
    for (time, end) in [
        ["reload", JOINED].as_slice(),
        &["kill", "-s", "USR1", JOINED],
        &["kill", "-s", "KILL", JOINED],
    ]
    .into_iter()
    .enumerate()
    {
        let ended = host.moment(JOINED, "ActiveEnter");
        host.does(end);
        host.wait_for(JOINED, "NRestarts", &(time + 1).to_string());
        wait_until("it is back", 2 * SOON, || {
            (host.moment(JOINED, "ActiveEnter") > ended).then_some(())
        });
    }
    assert_eq!(generation(), before);
    assert_eq!(host.show(GUARDED, "MainPID"), hold);
    wait_for_runs(&host, "db", 1);
}

#[test]
fn a_lease_join_that_is_stopped_is_replaced_and_the_command_does_not_notice() {
    let mut host = installed();
    format_with(&host, &["db"]);
    joins(&host, "LS", "-o 5");
    host.boot();
    wait_for_runs(&host, "db", 1);
    host.does(&["kill", "-s", "STOP", JOINED]);
    host.wait_for(JOINED, "NRestarts", "1");
    host.wait_for(JOINED, "ActiveState", "active");
    assert_eq!(host.show(GUARDED, "NRestarts"), "0");
    wait_for_runs(&host, "db", 1);
}

#[test]
fn a_command_whose_lease_hold_was_killed_or_whose_lease_was_lost_is_started_again() {
    let mut host = installed();
    format_with(&host, &["db"]);
    host.boot();
    wait_for_runs(&host, "db", 1);
    host.does(&["kill", "--kill-whom=main", "-s", "KILL", GUARDED]);
    wait_for_runs(&host, "db", 2);
    // Host id 2's sector: free.
    let sector = bytes(host.path("/mnt/nfs/LS"))[512..1024].to_vec();
    wait_until("a loss", SOON, || {
        // A renewal may be under way, and be written over this.
        patch(host.path("/mnt/nfs/LS"), 0, &sector);
        host.log().contains("lost LS:1").then_some(())
    });
    wait_for_runs(&host, "db", 3);
}

#[test]
fn what_no_second_attempt_changes_is_not_tried_again() {
    let mut host = installed();
    format_with(&host, &["db"]);
    filled(host.path("/mnt/nfs/zeros"), 1, 0);
    format(&host, "-s", "device:0", "device");
    joins(&host, "usage", "--bogus");
    joins(&host, "zeros", "");
    joins(&host, "device", "--watchdog /dev/null");
    guards(&host, "usage.service", "us:age", "");
    guards(&host, "zeros.service", "zeros", "");
    let forever = [
        ("lease-join@usage.service", "64"),
        ("lease-join@zeros.service", "65"),
        ("lease-join@device.service", "78"),
        ("usage.service", "64"),
        ("zeros.service", "65"),
    ];
    host.boot();
    for (unit, status) in forever {
        // It may fail before start has said that it runs.
        let _ = host.systemctl(&["start", unit]);
        // Between two attempts it would be activating.
        host.wait_for(unit, "ActiveState", "failed");
        assert_eq!(host.show(unit, "ExecMainStatus"), status, "{unit}");
        assert_eq!(host.show(unit, "NRestarts"), "0", "{unit}");
    }
}

#[test]
fn a_colon_in_a_path_reaches_the_tools_when_it_is_written_as_documented() {
    let mut host = installed();
    let page = fs::read_to_string(manual("lease-join.8")).unwrap();
    let documented = |text: &str| {
        let line = text
            .lines()
            .find_map(|line| line.split_once("LOCKSPACE='LS:1:/dev/disk/by-path/"));
        line.expect("an example").1.to_owned()
    };
    let example = documented(&unit(JOIN));
    assert_eq!(documented(&page.replace("\\e", "\\")), example);
    let name = example.strip_suffix(":0'").unwrap();
    format(&host, "-s", "LS:0", name);
    format(&host, "-r", "LS:db", "pci-0000\\:00\\:11.5-db");
    host.write(
        "/etc/lease/LS",
        &format!("LOCKSPACE='LS:1:/mnt/nfs/{example}\n"),
    );
    // Where it must be written twice, the unit says so.
    assert!(unit(GUARDED).contains("is written \\\\: here"));
    let text = fs::read_to_string(host.path("/mnt/units").join(GUARDED)).unwrap();
    let text = text.replace("/mnt/nfs/db", "/mnt/nfs/pci-0000\\\\:00\\\\:11.5-db");
    host.unit(GUARDED, &text);
    host.boot();
    wait_for_runs(&host, "db", 1);
}
