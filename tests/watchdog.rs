//! One watchdog device, and several lockspaces of a host that share it: each by a lease-join of its
//! own, any of which may end, crash, stop or lose its storage. t = 1 and W = 10: the device has
//! 8 s, and what is guarded has to be dead 18 s after the last renewal.
#![allow(clippy::unwrap_used, clippy::panic)]

use lease_core::clock::Moment;
use lease_core::id::Name;
use lease_core::registry::place::{Kept, Place};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::files::run;
use support::hosts::{Host, STAY};
use support::path::StoragePath;
use support::process::{Process, SOON, now, together, wait_until};
use support::storage::Storage;
use support::watchdog::Watchdog;

const W: u64 = 10;
/// 8t + W.
const DEAD_AFTER: Duration = Duration::from_secs(18);
/// The device's time, and more than a pause of whoever tends it.
const LONG: Duration = Duration::from_secs(10);

/// A host with two lockspaces, LS and MS, on disks of their own, and one device.
struct Both {
    storage: Storage,
    /// LS is seen by way of this.
    path: StoragePath,
    host: Host,
    other: PathBuf,
    watchdog: Watchdog,
}

impl Both {
    fn new() -> Self {
        let storage = Storage::new(1);
        let path = StoragePath::to(&storage);
        let host = Host::new(&storage, 1)
            .promising(W)
            .by_way_of(&storage, &path.disk());
        let other = storage.path().join("other");
        let (lockspace, resource) = (space(&other, 0), resource(&other));
        let args = ["--create", "-o", "1", "-s", &lockspace, "-r", &resource];
        let ran = run(storage.path(), "lease-init", &args);
        assert_eq!(ran.code, 0, "{ran:?}");
        Self {
            storage,
            path,
            host,
            other,
            watchdog: Watchdog::new(),
        }
    }

    /// LS.
    fn first(&self) -> Process {
        let mut command = self.host.join_command();
        self.watchdog.of(&mut command);
        joined(command)
    }

    /// MS, with another W.
    fn promising(&self, watchdog: u64) -> Command {
        let mut command = self.host.tool("lease-join");
        command.args(["-e", "host1", "--watchdog-timeout", &watchdog.to_string()]);
        self.watchdog.of(&mut command);
        command.arg(space(&self.other, 1));
        command
    }

    /// MS.
    fn second(&self) -> Process {
        joined(self.promising(W))
    }

    fn hold_first(&self) -> Process {
        self.host.holding(&[&self.host.resource(&self.storage, 1)])
    }

    fn hold_second(&self) -> Process {
        let hold = self.host.start_hold(&[&resource(&self.other)], &STAY);
        hold.wait_for_stdout("held");
        hold
    }

    /// When the lease-join of a lockspace has renewed last.
    fn renewed(&self, lockspace: &[u8]) -> Moment {
        let place = Place::open(&self.host.run_dir, &Name::new(lockspace).unwrap()).unwrap();
        let life: serde_json::Value = place.parsed(Kept::Heartbeat).unwrap().unwrap();
        Moment(life["renewed"].as_u64().unwrap())
    }

    /// The process that has opened the device last.
    fn opener(&self) -> i32 {
        let log = self.watchdog.log();
        let opened = log.iter().rfind(|done| done.what == "open").unwrap();
        i32::try_from(opened.number).unwrap()
    }

    fn is_taken_over_by(&self, join: &Process) {
        let own = join.pid();
        wait_until("it is taken over", SOON, || {
            (self.opener() == own).then_some(())
        });
    }

    fn is_petted_after(&self, moment: Moment) {
        wait_until("it is petted", SOON, || {
            let log = self.watchdog.log();
            log.iter()
                .any(|done| done.what == "pet" && done.at > moment)
                .then_some(())
        });
    }

    /// Nothing resets the machine for longer than the device has.
    fn all_is_well(&self) {
        let until = now().after(LONG);
        wait_until("time passes", 2 * LONG, || {
            let resets_at = self.watchdog.resets_at().unwrap();
            assert!(now() < resets_at, "{:?}", self.watchdog.log());
            (now() >= until).then_some(())
        });
    }

    /// The machine is reset, in time for what was guarded by whoever renewed last then.
    fn is_reset_in_time(&self, renewed: Moment) {
        wait_until("the reset", 2 * DEAD_AFTER, || {
            (now() >= self.watchdog.resets_at().unwrap()).then_some(())
        });
        let resets_at = self.watchdog.resets_at().unwrap();
        let after = resets_at.since(renewed);
        assert!(after <= DEAD_AFTER, "{after:?} {:?}", self.watchdog.log());
        // For as long as it might have come back it is petted.
        assert!(
            after > Duration::from_secs(8),
            "{after:?} {:?}",
            self.watchdog.log()
        );
    }
}

fn space(disk: &Path, host: u64) -> String {
    format!("MS:{host}:{}:0", disk.display())
}

fn resource(disk: &Path) -> String {
    format!("MS:R1:{}:1048576", disk.display())
}

fn joined(mut command: Command) -> Process {
    let join = Process::start(&mut command);
    join.wait_for_stdout("joined");
    join
}

#[test]
fn the_second_lease_join_is_covered_and_each_survives_the_end_of_the_other() {
    let both = Both::new();
    let first = both.first();
    let second = both.second();
    second.wait_for_stderr("the lease-join of LS on this host has it open, and pets it for both");
    assert_eq!(both.opener(), first.pid());
    let holds = [both.hold_first(), both.hold_second()];

    // Whoever has it open ends, to be started again.
    first.signal(Signal::SIGUSR1);
    assert_eq!(first.finish().code, 0);
    both.is_taken_over_by(&second);
    second.wait_for_stderr("whoever had it open has ended; this lease-join pets it from now on");
    let first = both.first();
    first.wait_for_stderr("the lease-join of MS on this host has it open");

    // It crashes.
    second.kill();
    both.is_taken_over_by(&first);
    let second = both.second();
    both.all_is_well();

    // Whoever has not leaves cleanly, then the other.
    holds.iter().for_each(|hold| assert_eq!(hold.code(), None));
    for (join, hold) in [(second, &holds[1]), (first, &holds[0])] {
        assert!(both.watchdog.resets_at().is_some());
        join.signal(Signal::SIGTERM);
        assert_eq!(join.finish().code, 0);
        hold.finish();
    }
    assert_eq!(both.watchdog.resets_at(), None, "{:?}", both.watchdog.log());
}

#[test]
fn whoever_leaves_first_hands_it_over_and_the_device_has_the_least_time_that_is_asked_for() {
    let both = Both::new();
    let first = both.first();
    let second = joined(both.promising(5));
    let set = |seconds: u64| {
        let log = both.watchdog.log();
        let last = log.iter().rfind(|done| done.what == "set").cloned();
        last.filter(|last| last.number == seconds).map(|_| ())
    };
    assert_eq!(set(3), Some(()), "{:?}", both.watchdog.log());
    second.signal(Signal::SIGTERM);
    assert_eq!(second.finish().code, 0);
    wait_until("the device has its time back", SOON, || set(8));
    let second = both.second();
    let hold = both.hold_second();
    first.signal(Signal::SIGTERM);
    assert_eq!(first.finish().code, 0);
    both.is_taken_over_by(&second);
    both.all_is_well();
    assert_eq!(hold.code(), None);
}

#[test]
fn the_machine_is_reset_in_time_whichever_of_the_two_does_not_renew() {
    let cases: Vec<(&str, fn(&Both))> = vec![
        ("the second stops", the_second_stops),
        ("the second crashes", the_second_crashes),
        ("the first loses its storage", the_first_loses_its_storage),
        ("the second loses its storage", the_second_loses_its_storage),
        (
            "the first crashes and comes back too late",
            the_first_comes_back_too_late,
        ),
    ];
    together(
        &cases,
        |(story, _)| (*story).into(),
        |(_, play)| play(&Both::new()),
    );
}

fn the_second_stops(both: &Both) {
    let _first = both.first();
    let (second, hold) = (both.second(), both.hold_second());
    let _idle = both.hold_first();
    second.signal(Signal::SIGSTOP);
    hold.signal(Signal::SIGSTOP);
    both.is_reset_in_time(both.renewed(b"MS"));
}

fn the_second_crashes(both: &Both) {
    let _first = both.first();
    let (second, _hold) = (both.second(), both.hold_second());
    second.kill();
    both.is_reset_in_time(both.renewed(b"MS"));
}

/// What it guards does not end, so that it has to be.
fn stays_alive(hold: &Process) {
    hold.signal(Signal::SIGSTOP);
    for child in hold.children() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGSTOP);
    }
}

fn the_first_loses_its_storage(both: &Both) {
    let first = both.first();
    let _second = both.second();
    let hold = both.hold_first();
    let _other = both.hold_second();
    both.path.refuse();
    first.wait_for_stderr("cannot renew");
    // It is stopped only once it has petted for its last renewal.
    let renewed = both.renewed(b"LS");
    both.is_petted_after(renewed);
    first.signal(Signal::SIGSTOP);
    stays_alive(&hold);
    both.is_reset_in_time(renewed);
}

fn the_second_loses_its_storage(both: &Both) {
    let _second = both.second();
    let first = both.first();
    first.wait_for_stderr("the lease-join of MS on this host has it open");
    let hold = both.hold_first();
    both.path.refuse();
    first.wait_for_stderr("cannot renew");
    let renewed = both.renewed(b"LS");
    // It ends what it guards, and nothing has to be reset for that.
    hold.finish();
    assert_eq!(first.finish().code, 124);
    both.all_is_well();
    assert!(now() > renewed.after(DEAD_AFTER));
}

fn the_first_comes_back_too_late(both: &Both) {
    let first = both.first();
    let second = both.second();
    let _holds = [both.hold_first(), both.hold_second()];
    let hold = both.renewed(b"LS");
    first.kill();
    both.is_taken_over_by(&second);
    let renewed = both.renewed(b"LS");
    assert!(renewed >= hold);
    both.is_reset_in_time(renewed);
}
