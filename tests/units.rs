//! The units for systemd: they are what systemd takes, and what they promise fits the times.

#![allow(clippy::unwrap_used)]

use lease_core::timing::Timing;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::files::{binary, directory};

const JOIN: &str = "lease-join@.service";
const GUARDED: &str = "guarded-example.service";

fn unit(name: &str) -> String {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lease-join/systemd");
    fs::read_to_string(units.join(name)).unwrap()
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
        .args([written(JOIN), written(GUARDED)])
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
    assert_eq!(setting(&unit(JOIN), "KillMode").unwrap(), "process");
    let guarded = unit(GUARDED);
    assert_eq!(setting(&guarded, "Delegate").unwrap(), "yes");
    for tie in ["Requires", "BindsTo", "PartOf"] {
        assert_eq!(setting(&guarded, tie), None);
    }
}
