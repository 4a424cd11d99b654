//! Writes of which nobody is told whether they are over: they have failed, or have not come back.
//! Each may still land, over what was written since (assumption c of lease.7); so nothing is
//! written that this could undo, and nobody is told that it cannot be.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use lease_core::clock::Clock;
use lease_core::delta::{self, Claim, HostLease, Lockspace, RenewError};
use lease_core::device::Device;
use lease_core::disk::{Disk, Fault};
use lease_core::format;
use lease_core::id::{Generation, Name};
use lease_core::layout::Geometry;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::storage::{Access, Volume};
use lease_core::timing::Timing;
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;
use support::files::Loop;
use support::hosts::{Host, STAY};
use support::path::StoragePath;
use support::process::{Process, SOON, is_in_io, now, together, wait_until};
use support::script::{Fate, ScriptClock, ScriptDisk, SlowDisk};
use support::storage::{Storage, host_id};

/// W of the real hosts; with t = 1 nothing that was issued lands later than 14 s after, by any
/// clock 14.14.
const WATCHDOG: u64 = 6;
const LANDED_AFTER: f64 = 14.0;

// ---- the heartbeat, scripted

struct Beat {
    disk: ScriptDisk,
    clock: ScriptClock,
    lease: HostLease,
}

fn timing() -> Timing {
    Timing::new(10, 60).unwrap()
}

impl Beat {
    /// A host id that was just joined.
    fn joined() -> Self {
        let (geometry, name) = (Geometry::ALL[0], Name::new(b"LS").unwrap());
        let formatted = format::Lockspace {
            geometry,
            name,
            io_timeout: 10,
        };
        let disk = ScriptDisk::new(formatted.area());
        let clock = ScriptClock::at(10_000);
        let lockspace = Lockspace {
            name,
            offset: 0,
            geometry,
        };
        let claim = Claim {
            host: host_id(1),
            name: Name::new_host(b"host1").unwrap(),
            timing: timing(),
            boot_id: [7; 16],
            at_least: Generation(0),
            attempted: Generation(0),
            quiet_from: Default::default(),
            not_before: Default::default(),
        };
        let lease = delta::join(&lockspace, &disk, &clock, &claim, &mut |_| {}).unwrap();
        Self { disk, clock, lease }
    }

    fn renew(&mut self) -> Result<(), RenewError> {
        self.clock.pass(Duration::from_secs(20));
        self.lease.renew(&self.disk, &self.clock).map(drop)
    }

    /// A renewal whose write fails, without a trace so far. Returns what it wrote.
    fn fail_to_renew(&mut self) -> Vec<u8> {
        self.disk.next_write(0, Fate::Fails);
        self.disk.log();
        assert!(matches!(self.renew(), Err(RenewError::Disk(_))));
        let log = self.disk.log();
        log.into_iter().find_map(|io| io.written).unwrap()
    }

    /// Leaves. Whether the host id is free then.
    fn leave(&mut self) -> bool {
        self.lease.leave(&self.disk, &self.clock).unwrap();
        let free = Heartbeat::decode(&self.disk.at(0, 512)).unwrap().is_free();
        assert_eq!(free, self.lease.heartbeat().is_free());
        free
    }
}

#[test]
fn a_failed_renewal_that_lands_after_the_next_one_is_still_ours() {
    let mut beat = Beat::joined();
    let late = beat.fail_to_renew();
    for _ in 0..2 {
        assert_eq!(beat.renew(), Ok(()));
    }
    beat.disk.put_at(0, &late);
    for _ in 0..10 {
        assert_eq!(beat.renew(), Ok(()));
    }
    assert!(beat.leave());
}

/// What a read does not show may have landed before it came back.
#[test]
fn a_failed_renewal_that_lands_during_the_last_read_in_which_it_can_is_still_ours() {
    let mut beat = Beat::joined();
    let late = beat.fail_to_renew();
    for _ in 0..6 {
        assert_eq!(beat.renew(), Ok(()));
    }
    // 121 to 142 s after its issue; it lands within 8t + W = 140, and 1 %.
    beat.clock.pass(Duration::from_secs(1));
    let slow = SlowDisk {
        read: Duration::from_secs(21),
        ..SlowDisk::new(&beat.disk, &beat.clock, Duration::ZERO)
    };
    beat.lease.renew(&slow, &beat.clock).unwrap();
    beat.disk.put_at(0, &late);
    assert_eq!(beat.renew(), Ok(()));
}

#[test]
fn what_cannot_have_been_late_is_somebody_elses() {
    let mut beat = Beat::joined();
    let late = beat.fail_to_renew();
    // 8t + W, and 1 %.
    for _ in 0..8 {
        assert_eq!(beat.renew(), Ok(()));
    }
    beat.disk.put_at(0, &late);
    assert!(matches!(beat.renew(), Err(RenewError::Lost(_))));
}

#[test]
fn a_host_id_is_not_free_while_a_renewal_may_land_over_that() {
    let mut beat = Beat::joined();
    beat.fail_to_renew();
    assert_eq!(beat.renew(), Ok(()));
    assert!(!beat.leave());

    let mut beat = Beat::joined();
    beat.fail_to_renew();
    for _ in 0..8 {
        assert_eq!(beat.renew(), Ok(()));
    }
    assert!(beat.leave());
}

/// Another machine that is set up with the same host id may have joined by then.
#[test]
fn what_is_seen_to_be_free_is_not_freed_again() {
    let mut beat = Beat::joined();
    beat.disk.next_write(0, Fate::FailsWritten);
    let failed = beat.lease.leave(&beat.disk, &beat.clock);
    assert!(matches!(failed, Err(RenewError::Disk(_))), "{failed:?}");
    beat.disk.log();
    assert!(beat.leave());
    let mut writes = beat
        .disk
        .log()
        .into_iter()
        .filter(|io| io.written.is_some());
    assert_eq!(writes.next(), None);
}

#[test]
fn a_host_id_is_not_free_while_a_write_may_land_on_a_resource() {
    let mut beat = Beat::joined();
    assert_eq!(beat.renew(), Ok(()));
    let until = beat.clock.now().after(Duration::from_secs(30));
    beat.lease.expect_late_writes(until);
    beat.lease.expect_late_writes(beat.clock.now());
    assert!(!beat.leave());
    for _ in 0..2 {
        assert_eq!(beat.renew(), Ok(()));
    }
    assert!(beat.leave());
}

// ---- a real disk that fails

#[test]
fn a_write_that_failed_bars_all_others_and_no_read() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let open = || Device::open(&path.disk(), Access::Write, Duration::from_secs(10)).unwrap();
    let (careful, mut bold) = (open(), open());
    bold.write_after_failures();
    let at = storage.offset(1) + 4096;
    for device in [&careful, &bold] {
        assert_eq!(device.write(at, &[1; 512]), Ok(()));
        path.refuse();
        assert!(matches!(device.read(at, 512), Err(Fault::Failed(_))));
        assert_eq!(device.settle(), Ok(()));
        assert!(matches!(device.write(at, &[2; 512]), Err(Fault::Failed(_))));
        path.heal();
        assert_eq!(device.read(at, 512), Ok(vec![1; 512]));
    }
    assert_eq!(careful.write(at, &[3; 512]), Err(Fault::Unsure));
    assert_eq!(careful.settle(), Err(Fault::Unsure));
    assert_eq!(bold.settle(), Ok(()));
    assert_eq!(bold.write(at, &[4; 512]), Ok(()));
    assert_eq!(careful.read(at, 512), Ok(vec![4; 512]));
}

#[test]
fn a_release_that_failed_is_made_good_only_when_it_cannot_land_any_more() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1).promising(WATCHDOG);
    let host = host.by_way_of(&storage, &path.disk());
    let join = host.join();
    let resource = host.resource(&storage, 1);
    let hold = host.holding(&[&resource]);
    host.wait_for_renewal();
    path.refuse();
    let failed = now();
    hold.signal(Signal::SIGTERM);
    hold.wait_for_stderr("cannot release LS:R1");
    path.heal();
    hold.finish();
    wait_until("lease-join releases it", SOON, || {
        (storage.owner(1).0.is_none()).then_some(())
    });
    let took = now().since(failed).as_secs_f64();
    println!("free after {took:.1} s");
    assert!(took >= LANDED_AFTER, "{took} s");
    // By then the host id can be given back as well.
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0);
    assert!(storage.heartbeat(1).is_free());
}

#[test]
fn a_tree_that_its_lease_hold_saw_gone_needs_no_other_proof() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1).promising(WATCHDOG);
    let join = host.join();
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let hold = host.holding(&["--contain", "tree", &far.resource(&storage, 1)]);
    path.hang();
    hold.signal(Signal::SIGTERM);
    let releasing = || {
        let said = host.describe();
        (said["holders"][0]["resources"][0]["phase"] == "releasing").then_some(())
    };
    wait_until("it releases", SOON, releasing);
    hold.signal(Signal::SIGKILL);
    path.go_on();
    assert_eq!(hold.finish().code, 137);
    join.wait_for_stderr("its leases are free");
    assert_eq!(storage.owner(1).0, None);
    join.signal(Signal::SIGTERM);
    assert_eq!(join.finish().code, 0, "{}", join.stderr());
}

/// A resource on three disks, the last of which can be made to hang.
struct Three {
    storage: Storage,
    second: Storage,
    third: Storage,
    path: StoragePath,
    resource: String,
}

impl Three {
    fn new() -> Self {
        Self::by(StoragePath::to)
    }

    /// On the third disk each write is on its way for a second, and is not waited for.
    fn half() -> Self {
        Self::by(|third| StoragePath::slow_to_write(third, 1000))
    }

    fn by(to: impl Fn(&Storage) -> StoragePath) -> Self {
        let [storage, second, third] = [(); 3].map(|()| Storage::new(1));
        let path = to(&third);
        let offset = storage.offset(1);
        let resource = format!(
            "{}:{}:{offset}:{}:{offset}",
            storage.resource(1),
            second.file().display(),
            path.disk().display()
        );
        Self {
            storage,
            second,
            third,
            path,
            resource,
        }
    }

    /// Holds it, and releases.
    fn release_half(&self, host: &Host) {
        let hold = host.start_hold(&[&self.resource], &STAY);
        hold.wait_for_stdout("held");
        hold.signal(Signal::SIGTERM);
        assert_eq!(hold.finish().code, 143);
        // Two of three disks have it.
        assert_eq!(self.storage.owner(1).0, None);
    }
}

#[test]
fn what_hangs_on_one_disk_of_three_is_not_forgotten_when_all_else_went_well() {
    let three = Three::half();
    let host = Host::new(&three.storage, 1).promising(WATCHDOG);
    let _join = host.join();
    let start = now();
    three.release_half(&host);
    let again = host.hold(&["-n", &three.resource], &["true"]);
    assert_eq!(again.code, 75, "{again:?}");
    assert!(again.stderr.contains("may still land"), "{again:?}");
    let again = host.start_hold(&["-w", "60", &three.resource], &["true"]);
    assert_eq!(again.finish_within(Duration::from_secs(60)).code, 0);
    let took = now().since(start).as_secs_f64();
    assert!(took >= LANDED_AFTER, "{took} s");
}

#[test]
fn what_hangs_on_one_disk_of_three_is_not_forgotten_without_a_lease_join() {
    let three = Three::half();
    let host = Host::new(&three.storage, 1).promising(WATCHDOG);
    let join = host.join();
    let hold = host.start_hold(&[&three.resource], &STAY);
    hold.wait_for_stdout("held");
    host.wait_for_renewal();
    join.kill();
    let start = now();
    hold.signal(Signal::SIGTERM);
    // It releases alone, and leaves a mark for the next lease-join.
    wait_until("a mark", SOON, || {
        let files = std::fs::read_dir(host.run_dir.join("LS")).unwrap();
        let mut names = files.flatten().map(|file| file.file_name());
        names
            .any(|name| name.to_string_lossy().starts_with("gone-"))
            .then_some(())
    });
    assert_eq!(three.storage.owner(1).0, None);
    assert_eq!(hold.finish().code, 143);
    let join = host.join();
    let again = host.hold(&["-n", &three.resource], &["true"]);
    assert_eq!(again.code, 75, "{again:?} {}", join.stderr());
    let again = host.start_hold(&["-w", "90", &three.resource], &["true"]);
    assert_eq!(again.finish_within(Duration::from_secs(90)).code, 0);
    let took = now().since(start).as_secs_f64();
    assert!(took >= LANDED_AFTER, "{took} s");
}

#[test]
fn a_host_id_is_left_to_expire_while_a_write_may_land() {
    let three = Three::half();
    let host = Host::new(&three.storage, 1).promising(WATCHDOG);
    let join = host.join();
    three.release_half(&host);
    join.signal(Signal::SIGTERM);
    let ran = join.finish();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("left to expire"), "{ran:?}");
    assert!(!three.storage.heartbeat(1).is_free());
    // In time it goes on where it was, and knows what may still land.
    let join = host.join();
    let again = host.hold(&["-n", &three.resource], &["true"]);
    assert_eq!(again.code, 75, "{again:?} {}", join.stderr());
    assert!(again.stderr.contains("may still land"), "{again:?}");
}

#[test]
fn a_disk_of_three_that_hangs_from_the_start_holds_nobody_up_and_is_one_of_them_later() {
    let three = Three::new();
    let (host, _join) = Host::joined(&three.storage, 1);
    three.path.hang();
    let hold = host.start_hold(&[&three.resource], &STAY);
    hold.wait_for_stdout("held");
    // Nothing has been given up yet.
    assert_eq!(hold.stderr(), "");
    assert_eq!(three.third.owner(1), (None, 0));
    let threads = || {
        let path = format!("/proc/{}/task", hold.pid());
        std::fs::read_dir(path).unwrap().count()
    };
    let before = threads();
    three.path.go_on();
    wait_until("the look is over", SOON, || {
        (threads() < before).then_some(())
    });
    hold.signal(Signal::SIGTERM);
    assert_eq!(hold.finish().code, 143, "{}", hold.stderr());
    assert_eq!(hold.stderr(), "");
    let disks = [&three.storage, &three.second, &three.third];
    assert_eq!(disks.map(|disk| disk.owner(1)), [(None, 1); 3]);
}

// ---- a write that lands after its writer was killed

/// Milliseconds from a write's issue to its landing: less than t of that host.
const LANDS_AFTER: u64 = 2500;
/// How long that is waited for until it is known to be a write.
const LONGER_THAN_A_READ: Duration = Duration::from_millis(600);

/// What a lease-hold writes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The first record of its ballot.
    Ballot,
    /// The leader, to acquire.
    Commit,
    /// The leader, to release.
    Release,
    /// The last record of its release.
    Flag,
}

impl Last {
    /// Whether all before it is on the disk, and no more, so that this one is on its way.
    fn is_next(self, storage: &Storage, host: &Host) -> bool {
        let (ballot, said) = (storage.ballot(1, 1).ballot, host.describe());
        let phase = &said["holders"][0]["resources"][0]["phase"];
        match self {
            Self::Ballot => phase == "acquiring" && ballot.value.is_none(),
            Self::Commit => ballot.value.is_some() && storage.owner(1).0.is_none(),
            Self::Release => phase == "releasing" && storage.owner(1).0.is_some(),
            Self::Flag => phase == "releasing" && storage.owner(1) == (None, 1),
        }
    }
}

/// The witness under a name.
fn witness(storage: &Storage, name: &str, milliseconds: &str) -> Vec<String> {
    let (journal, disk) = (storage.path().join("journal"), storage.file());
    let (journal, disk) = (journal.display().to_string(), disk.display().to_string());
    let program = env!("CARGO_BIN_EXE_witness").to_owned();
    let offset = storage.offset(1).to_string();
    vec![
        program,
        name.into(),
        journal,
        disk,
        offset,
        milliseconds.into(),
    ]
}

/// The times at which that one ran.
fn times(storage: &Storage, name: &str) -> Vec<u64> {
    let journal = std::fs::read_to_string(storage.path().join("journal")).unwrap_or_default();
    let lines = journal.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.split_whitespace().last().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn rule_2_a_holder_that_died_while_there_was_no_lease_join_may_have_been_writing() {
    let storage = Storage::new(1);
    let path = StoragePath::to(&storage);
    // Time enough to go on after the 3 s for which a lease-hold waits for a lease-join.
    let host = Host::new(&storage, 1).with_io_timeout(2);
    let host = host.promising(WATCHDOG);
    let first = host.join();
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let hold = host.holding(&["--contain", "pidns", &far.resource(&storage, 1)]);
    host.wait_for_renewal();
    first.kill();
    path.hang();
    hold.signal(Signal::SIGTERM);
    wait_until("its release hangs", SOON, || {
        is_in_io(hold.pid()).then_some(())
    });
    hold.signal(Signal::SIGKILL);
    let killed = now();
    path.go_on();
    assert_eq!(hold.finish().code, 137);
    let second = host.join();
    assert!(second.stdout().ends_with(" generation 1\n"));
    wait_until("it is free", Duration::from_secs(60), || {
        storage.owner(1).0.is_none().then_some(())
    });
    let took = now().since(killed).as_secs_f64();
    println!("free after {took:.1} s");
    // 8t more than for the others.
    assert!(took >= LANDED_AFTER + 8.0, "{took} s");
}

#[test]
fn rule_2_a_holder_that_died_before_it_told_of_a_failed_write_is_awaited_too() {
    let storage = Storage::new(1);
    // What was issued to a device ends with its process; what has failed there may yet land.
    let device = Loop::over(&storage.file(), "512");
    let host = Host::new(&storage, 1).promising(WATCHDOG);
    let _join = host.join();
    let far = Host::new(&storage, 1).by_way_of(&storage, Path::new(&device.path));
    let hold = host.holding(&["--contain", "pidns", &far.resource(&storage, 1)]);
    let page = host.hold_back_page();
    hold.signal(Signal::SIGTERM);
    wait_until("its turn to release", SOON, || {
        let phase = &host.describe()["holders"][0]["resources"][0]["phase"];
        (phase == "releasing").then_some(())
    });
    hold.kill();
    let killed = now();
    let _reader = page.let_go();
    wait_until("it is free", Duration::from_secs(60), || {
        storage.owner(1).0.is_none().then_some(())
    });
    let took = now().since(killed).as_secs_f64();
    println!("free after {took:.1} s");
    assert!(took >= LANDED_AFTER, "{took} s");
}

#[test]
fn rule_19_a_renewal_counts_from_before_its_write_was_issued() {
    let storage = Storage::new(0);
    let path = StoragePath::slow_to_write(&storage, 1200);
    let host = Host::new(&storage, 1).with_io_timeout(4);
    let host = host.by_way_of(&storage, &path.disk());
    let _join = host.join();
    let look = || (now(), host.renewed(), storage.heartbeat(1));
    let mut seen = look();
    wait_until("a renewal that was issued before it landed", SOON, || {
        let (looked, counted, record) = std::mem::replace(&mut seen, look());
        if record == seen.2 {
            return None;
        }
        // It has landed since that look.
        let next = || Some(host.renewed()).filter(|renewed| *renewed > counted);
        let renewed = wait_until("the file's word", SOON, next);
        (renewed < looked).then_some(())
    });
}

/// A lease-hold is killed while it writes; its lease-join too, if told to. Two other hosts want the
/// lease from that moment on, so that what lands late may land on either.
fn play_a_killed_writer(last: Last, and_lease_join: bool) {
    let storage = Storage::new(1);
    let path = StoragePath::slow_to_write(&storage, LANDS_AFTER);
    let host = Host::new(&storage, 1).with_io_timeout(4);
    let host = host.promising(WATCHDOG);
    let join = host.join();
    let (other, _other_join) = Host::joined(&storage, 2);
    let (third, _third_join) = Host::joined(&storage, 3);
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let mut command = far.hold_command(
        &[&far.resource(&storage, 1)],
        &witness(&storage, "a", "300"),
    );
    let hold = Process::start(&mut command);
    // No read takes that long.
    let mut since = None;
    wait_until("its last write is issued", SOON, || {
        if !(is_in_io(hold.pid()) && last.is_next(&storage, &host) && is_in_io(hold.pid())) {
            since = None;
        } else if now().since(*since.get_or_insert_with(now)) > LONGER_THAN_A_READ {
            return Some(());
        }
        None
    });
    let written = || match last {
        Last::Ballot | Last::Flag => (None, Some(storage.ballot(1, 1))),
        Last::Commit | Last::Release => (Some(storage.leader(1)), None),
    };
    let before = written();
    let takers = [(&other, "b"), (&third, "c")].map(|(host, name)| {
        let wants = ["-w", "120", &storage.resource(1)];
        Process::start(&mut host.hold_command(&wants, &witness(&storage, name, "3000")))
    });
    hold.signal(Signal::SIGKILL);
    if and_lease_join {
        join.signal(Signal::SIGKILL);
    }
    let killed = now();
    if last != Last::Commit {
        // So early nobody else writes there; one of the others may run by then.
        wait_until("it lands", SOON, || (written() != before).then_some(()));
        let landed = now().since(killed).as_secs_f64();
        println!("{last:?}, {and_lease_join}: landed {landed:.1} s after the kill");
        assert!(landed < 10.0, "{landed} s");
    }
    for taker in takers {
        let ran = taker.finish_within(Duration::from_secs(120));
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let took = now().since(killed).as_secs_f64();
    println!("{last:?}, {and_lease_join}: the others were done {took:.1} s after the kill");
    let [first, second, third] = ["a ", "b ", "c "].map(|name| times(&storage, name));
    let ran = matches!(last, Last::Release | Last::Flag);
    assert_eq!(first.is_empty(), !ran);
    assert!(!second.is_empty() && !third.is_empty());
    assert!(first.iter().max() < second.iter().chain(&third).min());
    let after = |one: &[u64], other: &[u64]| one.iter().min() > other.iter().max();
    assert!(after(&second, &third) || after(&third, &second));
    let again = other.hold(&["-w", "60", &storage.resource(1)], &["true"]);
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(storage.owner(1).0, None);
}

#[test]
fn what_a_killed_lease_hold_wrote_last_lands_and_never_do_two_run() {
    let lasts = [Last::Ballot, Last::Commit, Last::Release, Last::Flag];
    let all: Vec<_> = lasts
        .iter()
        .flat_map(|last| [false, true].map(|join| (*last, join)))
        .collect();
    together(
        &all,
        |case| format!("{case:?}"),
        |(last, and_lease_join)| play_a_killed_writer(*last, *and_lease_join),
    );
}
