//! The gate between what stands ready and what runs, while lease-join comes and goes: a lease-join
//! that says what the test wants, or a real one that is stopped and killed at the right moment.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use lease_core::clock::Moment;
use lease_core::id::{Generation, Lver, Name};
use lease_core::layout::Geometry;
use lease_core::liveness::Sightings;
use lease_core::registry::message::{Ask, HolderId, Left, Phase, Tell, Turn, Welcome};
use lease_core::registry::place::{Lock, Place};
use lease_core::registry::wire::Wire;
use lease_core::timing::Timing;
use nix::sys::signal::Signal;
use std::os::unix::net::UnixListener;
use std::process::Command;
use support::family::{CONTAINMENTS, control_groups};
use support::hosts::Host;
use support::path::StoragePath;
use support::process::{Process, SOON, now, together, wait_for_end, wait_until};
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

    /// Gives a lease-hold all turns, and hears of its gate. Nothing has to be renewed for 80 s.
    fn up_to_the_gate(listener: UnixListener, storage: &Storage) -> Self {
        let mut joined = Self::accept(listener);
        let Ask::Register { resources, .. } = joined.hear() else {
            panic!("it does not register");
        };
        joined.say(&Tell::Registered(Box::new(welcome(storage))));
        for _ in &resources {
            let Ask::Acquire { index } = joined.hear() else {
                panic!("it does not acquire");
            };
            let not_before = Moment::default();
            let how = Turn::Ballot { not_before };
            joined.say(&Tell::Turn { index, how });
        }
        for _ in &resources {
            let Ask::Acquired { lver, .. } = joined.hear() else {
                panic!("it has not acquired");
            };
            assert_eq!(lver, Some(Lver(1)));
        }
        joined.assert_guard();
        joined
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
fn what_a_lease_join_has_not_answered_or_not_heard_of_opens_the_gate_of_the_next_one_only() {
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
        assert_eq!(joined.hear(), Ask::Start);
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

// ---- a real one

#[test]
fn what_lease_join_could_not_see_gone_is_not_started() {
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
        let hold = host.start_hold(&["--contain", contain, &resource], &["echo", "run"]);
        wait_until("it acquires", SOON, || {
            let said = host.describe();
            let phase = &said["holders"][0]["resources"][0]["phase"];
            (phase == "acquiring").then_some(())
        });
        join.signal(Signal::SIGSTOP);
        let child = wait_until("what stands at its gate", SOON, || hold.child());
        Self { hold, join, child }
    }
}

/// Hosts of which nothing is lost too early on a slow machine.
const WATCHDOG: u64 = 10;
/// Milliseconds that an I/O takes on a slow path.
const SLOW: u64 = 150;

/// A case of [`Stuck`] for each containment.
fn for_each_containment(play: impl Fn(&Host, &Storage, Stuck) + Sync) {
    control_groups();
    together(
        &CONTAINMENTS,
        |c| (*c).to_owned(),
        |contain| {
            let storage = Storage::new(1);
            let path = StoragePath::slow(&storage, SLOW);
            let host = Host::new(&storage, 1).promising(WATCHDOG);
            let stuck = Stuck::start(&host, &storage, &path, contain);
            play(&host, &storage, stuck);
            assert_eq!(storage.owner(1), (None, 1));
        },
    );
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
