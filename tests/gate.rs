//! The gate between what stands ready and what runs, while lease-join comes and goes: a lease-join
//! that says what the test wants, or a real one that is stopped and killed at the right moment.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use lease_core::clock::Moment;
use lease_core::id::{Generation, Lver, Name};
use lease_core::layout::Geometry;
use lease_core::liveness::Sightings;
use lease_core::registry::message::{Ask, HolderId, Left, Phase, Rival, Tell, Turn, Welcome};
use lease_core::registry::place::{Lock, Place};
use lease_core::registry::wire::Wire;
use lease_core::timing::Timing;
use nix::sys::signal::Signal;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::family::{CONTAINMENTS, control_groups, in_each};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, SOON, is_in_io, now, wait_for_end, wait_until};
use support::storage::{Storage, host_id};

// ---- a lease-join that says what the test wants

/// The place of a lease-join of host 1, without one.
struct Stand {
    place: Place,
    lock: Lock,
}

/// One that a lease-hold talks to.
struct Joined {
    wire: Wire,
    /// Whoever comes later waits.
    _listener: UnixListener,
}

const HELD: Phase = Phase::Held(Lver(1));
const HOLDER: HolderId = HolderId(1);
const GENERATION: Generation = Generation(1);

impl Stand {
    fn of(host: &Host) -> Self {
        let place = Place::create(&host.run_dir, &Name::new(b"LS").unwrap()).unwrap();
        let lock = place.lock().unwrap().unwrap();
        Self { place, lock }
    }

    fn listen(&self) -> UnixListener {
        self.place.listen(&self.lock).unwrap()
    }

    /// Nobody is there any more.
    fn leave(&self, joined: Joined) {
        self.place.remove_socket().unwrap();
        drop(joined);
    }
}

impl Joined {
    fn accept(listener: UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let wire = Wire::new(stream);
        Self {
            wire,
            _listener: listener,
        }
    }

    /// Takes in a lease-hold, and how many resources it wants. Nothing has to be renewed for 80 s.
    fn register(listener: UnixListener, storage: &Storage) -> (Self, usize) {
        let mut joined = Self::accept(listener);
        let Ask::Register { resources, .. } = joined.hear() else {
            panic!("it does not register");
        };
        joined.say(&Tell::Registered(Box::new(welcome(storage))));
        (joined, resources.len())
    }

    /// Gives a lease-hold all turns, and hears of its gate.
    fn up_to_the_gate(listener: UnixListener, storage: &Storage) -> Self {
        let (mut joined, resources) = Self::register(listener, storage);
        for _ in 0..resources {
            let Ask::Acquire { index } = joined.hear() else {
                panic!("it does not acquire");
            };
            joined.give_turn(index);
        }
        for _ in 0..resources {
            let Ask::Acquired { lver, .. } = joined.hear() else {
                panic!("it has not acquired");
            };
            assert_eq!(lver, Some(Lver(1)));
        }
        joined.assert_guard();
        joined
    }

    fn give_turn(&mut self, index: usize) {
        let not_before = Moment::default();
        let how = Turn::Ballot { not_before };
        self.say(&Tell::Turn { index, how });
    }

    /// Somebody else on this host has it.
    fn refuse(&mut self, index: usize) {
        let by = Rival {
            pid: 1,
            command: "another".into(),
            passing: false,
            crashed: false,
        };
        self.say(&Tell::Busy { index, by });
    }

    fn assert_acquired(&mut self, index: usize, lver: Option<Lver>) {
        let left = Left::NOTHING;
        assert_eq!(self.hear(), Ask::Acquired { index, lver, left });
    }

    /// It asks for a turn, and acquires.
    fn acquires(&mut self, index: usize, lver: u64) {
        assert_eq!(self.hear(), Ask::Acquire { index });
        self.give_turn(index);
        self.assert_acquired(index, Some(Lver(lver)));
    }

    /// One that comes back, and what it says of its resources. It is told to go on.
    fn resume(listener: UnixListener) -> (Self, Vec<Phase>) {
        let mut joined = Self::accept(listener);
        let Ask::Resume {
            holder,
            generation,
            phases,
            ..
        } = joined.hear()
        else {
            panic!("it does not come back");
        };
        assert_eq!((holder, generation), (HOLDER, GENERATION));
        joined.say(&Tell::Resumed { renewed: now() });
        (joined, phases)
    }

    fn say(&mut self, tell: &Tell) {
        self.wire.send(tell).unwrap();
    }

    fn hear(&mut self) -> Ask {
        self.wire.receive().unwrap()
    }

    fn assert_guard(&mut self) {
        assert!(matches!(self.hear(), Ask::Guard { .. }));
        assert!(self.wire.take_descriptor().is_some());
    }

    fn let_go(&mut self) {
        self.say(&Tell::Go {
            generation: GENERATION,
            renewed: now(),
        });
    }

    /// It wants to release, and does.
    fn release(&mut self, index: usize) {
        assert_eq!(self.hear(), Ask::Release { index });
        self.say(&Tell::ReleaseTurn { index, last: true });
    }

    fn assert_released(&mut self, index: usize) {
        let left = Left::NOTHING;
        assert_eq!(self.hear(), Ask::Released { index, left });
    }

    /// It says goodbye.
    fn assert_gone(&mut self) {
        assert_eq!(self.hear(), Ask::Gone);
        assert!(self.wire.receive::<Ask>().is_err());
    }
}

fn welcome(storage: &Storage) -> Welcome {
    Welcome {
        holder: HOLDER,
        lockspace: Name::new(b"LS").unwrap(),
        host: host_id(1),
        generation: GENERATION,
        host_name: Name::new_host(b"host1").unwrap(),
        path: storage.file(),
        offset: 0,
        geometry: Geometry::ALL[0],
        timing: Timing::new(10, 60).unwrap(),
        renewed: now(),
        ballots_from: Moment::default(),
        hosts: Sightings::default(),
    }
}

/// A lease-hold at its gate, and who it has told so.
fn at_the_gate(storage: &Storage, stand: &Stand, host: &Host, args: &[&str]) -> (Process, Joined) {
    let listener = stand.listen();
    let hold = host.start_hold(args, &["sh", "-c", "echo run; read -r x; exit 3"]);
    (hold, Joined::up_to_the_gate(listener, storage))
}

#[test]
fn rule_14_what_was_not_answered_or_heard_of_opens_the_gate_of_the_next_one_only() {
    for has_answered in [false, true] {
        let storage = Storage::new(1);
        let host = Host::new(&storage, 1);
        let stand = Stand::of(&host);
        let (hold, mut joined) = at_the_gate(&storage, &stand, &host, &[&storage.resource(1)]);
        // Both come to its ears at once.
        hold.signal(Signal::SIGSTOP);
        if has_answered {
            joined.let_go();
        }
        stand.leave(joined);
        hold.signal(Signal::SIGCONT);
        hold.wait_for_stderr("has ended");
        assert_eq!(hold.stdout(), "");
        let (mut joined, phases) = Joined::resume(stand.listen());
        assert_eq!(phases, [HELD]);
        joined.assert_guard();
        assert_eq!(hold.stdout(), "");
        joined.let_go();
        assert_eq!(joined.hear(), Ask::Start { reads: false });
        hold.wait_for_stdout("run\n");
        joined.release(0);
        joined.assert_released(0);
        joined.assert_gone();
        let ran = hold.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (3, "run\n"), "{ran:?}");
        assert_eq!(storage.owner(1), (None, 1));
    }
}

#[test]
fn what_was_given_up_at_the_gate_is_nothing_to_guard_for_the_next_lease_join() {
    let storage = Storage::new(1);
    let host = Host::new(&storage, 1);
    let stand = Stand::of(&host);
    let (hold, joined) = at_the_gate(&storage, &stand, &host, &[&storage.resource(1)]);
    let listener = stand.listen();
    hold.signal(Signal::SIGSTOP);
    hold.signal(Signal::SIGTERM);
    drop(joined);
    hold.signal(Signal::SIGCONT);
    let (mut joined, phases) = Joined::resume(listener);
    assert_eq!(phases, [HELD]);
    joined.release(0);
    joined.assert_released(0);
    joined.assert_gone();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (143, ""), "{ran:?}");
}

#[test]
fn what_is_released_without_a_lease_join_the_next_one_gives_no_turn_for() {
    let storage = Storage::new(2);
    let path = StoragePath::to(&storage);
    let host = Host::new(&storage, 1);
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let resources = [storage.resource(1), far.resource(&storage, 2)];
    let args = [resources[0].as_str(), resources[1].as_str()];
    let stand = Stand::of(&host);
    let (hold, joined) = at_the_gate(&storage, &stand, &host, &args);
    stand.leave(joined);
    hold.wait_for_stderr("has ended");
    path.hang();
    hold.signal(Signal::SIGTERM);
    // It waits for a lease-join, and then goes without.
    wait_until("the first one is released", SOON, || {
        storage.owner(1).0.is_none().then_some(())
    });
    let (mut joined, phases) = Joined::resume(stand.listen());
    path.go_on();
    assert_eq!(phases[1], Phase::Releasing);
    if phases[0] != Phase::Idle {
        joined.assert_released(0);
    }
    joined.assert_released(1);
    joined.assert_gone();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (143, ""), "{ran:?}");
    assert_eq!(storage.owner(2), (None, 1));
}

#[test]
fn rule_14_the_word_of_another_life_of_the_host_opens_no_gate() {
    let storage = Storage::new(1);
    let host = Host::new(&storage, 1);
    let stand = Stand::of(&host);
    let (hold, mut joined) = at_the_gate(&storage, &stand, &host, &[&storage.resource(1)]);
    joined.say(&Tell::Go {
        generation: Generation(2),
        renewed: now(),
    });
    joined.release(0);
    joined.assert_released(0);
    joined.assert_gone();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (124, ""), "{ran:?}");
    let said = "cannot run sh: the lease was lost before it was started";
    assert!(ran.stderr.contains(said), "{ran:?}");
}

#[test]
fn rule_4_what_is_replaced_before_the_gate_opens_is_not_guarded() {
    let storage = Storage::new(1);
    let host = Host::new(&storage, 1);
    let stand = Stand::of(&host);
    let (hold, mut joined) = at_the_gate(&storage, &stand, &host, &[&storage.resource(1)]);
    let new = storage.path().join("new");
    std::fs::copy(storage.file(), &new).unwrap();
    std::fs::rename(&new, storage.file()).unwrap();
    joined.let_go();
    assert_eq!(joined.hear(), Ask::Start { reads: false });
    joined.release(0);
    joined.assert_released(0);
    joined.assert_gone();
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (124, ""), "{ran:?}");
    let said = "cannot run sh: the lease was lost before it was started: LS:R1 was replaced";
    assert!(ran.stderr.contains(said), "{ran:?}");
}

#[test]
fn rule_20_who_cannot_have_one_holds_none_and_asks_again_one_by_one_in_one_order() {
    let storage = Storage::new(2);
    let host = Host::new(&storage, 1);
    let stand = Stand::of(&host);
    // R1 is number 1 here, R2 number 0.
    let args = ["-w", "60", &storage.resource(2), &storage.resource(1)];
    let listener = stand.listen();
    let hold = host.start_hold(&args, &["sh", "-c", "echo run; exit 3"]);
    let (mut joined, _) = Joined::register(listener, &storage);
    // All at once, and R2 is not to be had: R1 is not even tried.
    for index in [1, 0] {
        assert_eq!(joined.hear(), Ask::Acquire { index });
    }
    joined.give_turn(1);
    joined.refuse(0);
    joined.assert_acquired(1, None);
    // One by one: R1, then R2; without R2, R1 goes back.
    for lver in [1, 2] {
        joined.acquires(1, lver);
        assert_eq!(joined.hear(), Ask::Acquire { index: 0 });
        joined.refuse(0);
        joined.release(1);
        joined.assert_released(1);
        assert_eq!(storage.owner(1), (None, lver));
    }
    joined.acquires(1, 3);
    joined.acquires(0, 1);
    joined.assert_guard();
    joined.let_go();
    assert_eq!(joined.hear(), Ask::Start { reads: false });
    for _ in 0..2 {
        let Ask::Release { index } = joined.hear() else {
            panic!("it does not release");
        };
        joined.say(&Tell::ReleaseTurn { index, last: true });
    }
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "run\n"), "{ran:?}");
    assert_eq!([1, 2].map(|n| storage.owner(n)), [(None, 3), (None, 1)]);
}

// ---- a real one

#[test]
fn rule_13_what_lease_join_could_not_see_gone_is_not_started() {
    control_groups();
    let storage = Storage::new(1);
    let (host, join) = Host::joined(&storage, 1);
    // Its control groups are where nobody else has them.
    let place = storage.path().join("groups");
    std::fs::create_dir(&place).unwrap();
    let resource = storage.resource(1);
    let elsewhere = |contain: &str| {
        let tool = host.hold_command(&["--contain", contain, &resource], &["echo", "run"]);
        let script = format!("mount -t cgroup2 none {} && exec \"$@\"", place.display());
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", &script, "sh"]);
        shell.arg(tool.get_program()).args(tool.get_args());
        Process::start(&mut shell).finish()
    };
    for contain in ["cgroup", "auto"] {
        let ran = elsewhere(contain);
        assert_eq!((ran.code, ran.stdout.as_str()), (78, ""), "{ran:?}");
        let said = "cannot run echo: lease-join does not see control group";
        assert!(ran.stderr.contains(said), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert_eq!(storage.owner(1).0, None);
    }
    let ran = elsewhere("pidns");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
    assert!(join.code().is_none() && !join.stderr().contains("without a release"));
}

/// A host whose lease-join is stopped, and what one of its lease-holds has behind its gate
/// meanwhile.
struct Stuck {
    hold: Process,
    join: Process,
    child: i32,
}

impl Stuck {
    /// On a path on which an acquire takes so long that lease-join can be stopped in the middle.
    fn start(host: &Host, storage: &Storage, path: &StoragePath, contain: &str) -> Self {
        let join = host.join();
        let far = Host::new(storage, 1).by_way_of(storage, &path.disk());
        host.wait_for_renewal();
        let resource = far.resource(storage, 1);
        let hold = start_acquiring(host, &["--contain", contain, &resource]);
        join.signal(Signal::SIGSTOP);
        let child = wait_until("what stands at its gate", SOON, || hold.child());
        Self { hold, join, child }
    }
}

/// A lease-hold in the middle of its acquire.
fn start_acquiring(host: &Host, args: &[&str]) -> Process {
    let hold = host.start_hold(args, &["echo", "run"]);
    wait_until("it acquires", SOON, || {
        let said = host.describe();
        let phase = &said["holders"][0]["resources"][0]["phase"];
        (phase == "acquiring").then_some(())
    });
    hold
}

/// Hosts of which nothing is lost too early on a slow machine.
const WATCHDOG: u64 = 10;
/// Milliseconds that an I/O takes on a slow path.
const SLOW: u64 = 150;

/// An acquire on a slow path takes some seconds; lost is what is not renewed for 16.
fn patient(storage: &Storage) -> Host {
    Host::new(storage, 1).promising(WATCHDOG).with_io_timeout(2)
}

/// A case of [`Stuck`] for each containment.
fn for_each_containment(play: impl Fn(&Host, &Storage, Stuck) + Sync) {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let path = StoragePath::slow(&storage, SLOW);
        let host = patient(&storage);
        let stuck = Stuck::start(&host, &storage, &path, contain);
        play(&host, &storage, stuck);
        assert_eq!(storage.owner(1), (None, 1));
    });
}

#[test]
fn killed_between_fork_and_exec_the_command_never_runs() {
    in_each(&CONTAINMENTS, |contain| {
        let storage = Storage::new(1);
        let path = StoragePath::slow(&storage, SLOW);
        let host = patient(&storage);
        let (other, _join) = Host::joined(&storage, 2);
        let stuck = Stuck::start(&host, &storage, &path, contain);
        stuck.hold.kill();
        wait_for_end(stuck.child, SOON);
        stuck.join.signal(Signal::SIGCONT);
        // What a tree has left behind its gate may have been let through, for all that is known.
        let said = wait_until("lease-join's word", SOON, || {
            let said = stuck.join.stderr();
            let over = ["its leases are free", "may still run"];
            over.iter().any(|part| said.contains(part)).then_some(said)
        });
        match said.contains("may still run") {
            true => assert_eq!(contain, "tree"),
            false => {
                let ran = other.hold(&["-w", "30", &storage.resource(1)], &["true"]);
                assert_eq!(ran.code, 0, "{ran:?}");
            }
        }
        assert_eq!(stuck.hold.stdout(), "");
    });
}

#[test]
fn a_gate_that_was_given_up_before_lease_join_heard_of_it_is_no_reason_to_kill() {
    for_each_containment(|_, _, stuck| {
        stuck.hold.signal(Signal::SIGTERM);
        wait_for_end(stuck.child, SOON);
        stuck.join.signal(Signal::SIGCONT);
        let ran = stuck.hold.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (143, ""), "{ran:?}");
        let said = stuck.join.stderr();
        assert!(!said.contains("without a release"), "{said}");
    });
}

#[test]
fn a_gate_that_was_given_up_without_a_lease_join_is_nothing_to_the_next_one() {
    for_each_containment(|host, _, stuck| {
        stuck.join.kill();
        stuck.hold.signal(Signal::SIGTERM);
        wait_for_end(stuck.child, SOON);
        let join = host.join();
        let ran = stuck.hold.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (143, ""), "{ran:?}");
        let said = join.stderr();
        assert!(!said.contains("without a release"), "{said}");
    });
}

#[test]
fn with_lease_join_killed_between_its_word_and_the_gate_the_command_runs_under_the_next_one() {
    for_each_containment(|host, _, stuck| {
        stuck.hold.signal(Signal::SIGSTOP);
        stuck.join.signal(Signal::SIGCONT);
        wait_until("it knows of the gate", SOON, || {
            let guarded = &host.describe()["holders"][0]["guarded"];
            (*guarded == stuck.child).then_some(())
        });
        stuck.join.kill();
        let join = host.join();
        assert_eq!(stuck.hold.stdout(), "");
        stuck.hold.signal(Signal::SIGCONT);
        let ran = stuck.hold.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
        assert!(ran.stderr.contains("is back"), "{ran:?}");
        assert_eq!(join.code(), None);
    });
}

#[test]
fn rule_14_nothing_is_started_before_the_state_file_names_it() {
    let storage = Storage::new(1);
    let path = StoragePath::slow(&storage, SLOW);
    let host = patient(&storage);
    let stuck = Stuck::start(&host, &storage, &path, "pidns");
    let page = host.hold_back_page();
    stuck.join.signal(Signal::SIGCONT);
    wait_until("it knows of the gate", SOON, || {
        let guarded = &host.describe()["holders"][0]["guarded"];
        (*guarded == stuck.child).then_some(())
    });
    host.wait_for_renewal();
    assert_eq!(
        (stuck.hold.stdout().as_str(), stuck.hold.code()),
        ("", None)
    );
    let _reader = page.let_go();
    let ran = stuck.hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
}

#[test]
fn rule_15_lease_join_does_not_leave_before_those_who_acquire_have_gone() {
    let storage = Storage::new(1);
    let path = StoragePath::slow(&storage, SLOW);
    let host = patient(&storage);
    let join = host.join();
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let hold = start_acquiring(&host, &[&far.resource(&storage, 1)]);
    hold.signal(Signal::SIGSTOP);
    join.signal(Signal::SIGTERM);
    wait_until("it is about to leave", SOON, || {
        (host.describe()["state"] == "stopping").then_some(())
    });
    // It stays, and keeps its host id, for as long as that one can wake and go on.
    host.wait_for_renewal();
    assert!(!storage.heartbeat(1).is_free());
    hold.signal(Signal::SIGCONT);
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (69, ""), "{ran:?}");
    assert_eq!(join.finish().code, 0, "{}", join.stderr());
    assert_eq!(storage.owner(1).0, None);
    assert!(storage.heartbeat(1).is_free());
}

/// The first thread of a process, frozen by a control group of its own until this is dropped.
struct Frozen {
    group: PathBuf,
    pid: i32,
}

impl Frozen {
    fn first_thread(pid: i32) -> Self {
        let groups = control_groups();
        let group = groups.join(format!("frozen-{pid}"));
        let first = group.join("first");
        let write = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
        std::fs::create_dir(&group).unwrap();
        write(group.join("cgroup.procs"), &pid.to_string());
        std::fs::create_dir(&first).unwrap();
        write(first.join("cgroup.type"), "threaded");
        write(first.join("cgroup.threads"), &pid.to_string());
        write(first.join("cgroup.freeze"), "1");
        wait_until("it is frozen", SOON, || {
            let events = std::fs::read_to_string(first.join("cgroup.events")).unwrap();
            events.contains("frozen 1").then_some(())
        });
        Self { group, pid }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let first = self.group.join("first");
        let procs = control_groups().join("cgroup.procs");
        for (file, text) in [
            (first.join("cgroup.freeze"), "0".into()),
            (procs, self.pid.to_string()),
        ] {
            std::fs::write(file, text).unwrap();
        }
        for group in [&first, &self.group] {
            wait_until("an empty group", SOON, || std::fs::remove_dir(group).ok());
        }
    }
}

/// The thread that does its I/O goes on first: for all that it knows, the host id is lost. What
/// it had begun is brought to an end before it has another turn.
#[test]
fn whoever_was_stopped_in_its_ballot_for_longer_than_a_lease_lasts_acquires_when_it_goes_on() {
    let storage = Storage::new(1);
    let path = StoragePath::slow(&storage, SLOW);
    let host = Host::new(&storage, 1).promising(WATCHDOG);
    let join = host.join();
    let far = Host::new(&storage, 1).by_way_of(&storage, &path.disk());
    let resource = far.resource(&storage, 1);
    let hold = host.start_hold(&["--contain", "pidns", &resource], &["echo", "run"]);
    wait_until("its ballot", SOON, || {
        (storage.ballot(1, 1).ballot.mbal.0 > 0).then_some(())
    });
    hold.signal(Signal::SIGSTOP);
    let frozen = Frozen::first_thread(hold.pid());
    let stopped = now();
    while now() < stopped.after(Duration::from_secs(9)) {
        host.wait_for_renewal();
    }
    hold.signal(Signal::SIGCONT);
    let mut still = 0;
    wait_until("the end of its I/O", SOON, || {
        still = if is_in_io(hold.pid()) { 0 } else { still + 1 };
        (still == 50).then_some(())
    });
    drop(frozen);
    let ran = hold.finish();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "run\n"), "{ran:?}");
    assert_eq!(ran.stderr, "");
    let said = join.stderr();
    assert!(!said.contains("without a release"), "{said}");
    assert_eq!(storage.owner(1).0, None);
}
