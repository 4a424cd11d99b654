//! One device, one lockspace or several: a machine on which time passes as it is told to, and a
//! device that writes down what is asked of it.

use super::*;
use crate::clock::Interrupted;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What the device can do, and what has become of it.
#[derive(Debug, Default)]
struct State {
    now: Cell<u64>,
    /// How long the next pet is held up before it reaches the device.
    stall: Cell<u64>,
    log: RefCell<Vec<(u64, String)>>,
    options: u32,
    rounds_up: bool,
    found_armed: Option<bool>,
    stays_armed: bool,
    /// Published by each lockspace: its share, whom it covers, and whether its process lives.
    shares: RefCell<BTreeMap<&'static str, (Share, Vec<u64>, bool)>>,
    /// Who has the device open.
    keeper: Cell<Option<&'static str>>,
    serial: Cell<u64>,
    said: RefCell<Vec<String>>,
}

/// A machine, as one of its lockspaces sees it.
#[derive(Debug, Clone)]
struct World {
    state: Rc<State>,
    name: &'static str,
}

impl World {
    fn new() -> Self {
        Self::with(State::default())
    }

    fn with(state: State) -> Self {
        let options = match state.options {
            0 => OPTION_SET_TIMEOUT | OPTION_MAGIC_CLOSE,
            other => other,
        };
        Self {
            state: Rc::new(State { options, ..state }),
            name: "LS",
        }
    }

    /// Another lockspace of the same machine.
    fn beside(&self, name: &'static str) -> Self {
        Self {
            state: Rc::clone(&self.state),
            name,
        }
    }

    fn note(&self, what: &str) {
        let entry = (self.state.now.get(), what.to_owned());
        self.state.log.borrow_mut().push(entry);
    }

    /// What was done with the device since the second `from`.
    fn done_since(&self, from: u64) -> Vec<(u64, String)> {
        let log = self.state.log.borrow();
        log.iter().filter(|(at, _)| *at >= from).cloned().collect()
    }

    fn pets(&self) -> Vec<u64> {
        let log = self.state.log.borrow();
        let pets = log.iter().filter(|(_, what)| what == "pet");
        pets.map(|(at, _)| *at).collect()
    }

    fn is_let_go(&self) -> bool {
        self.state.log.borrow().iter().any(|(_, what)| what == "V")
    }

    fn share(&self) -> Option<Share> {
        self.state.shares.borrow().get(self.name).map(|it| it.0)
    }

    /// Its process ends, whatever it was at.
    fn dies(&self) {
        if let Some(share) = self.state.shares.borrow_mut().get_mut(self.name) {
            share.2 = false;
        }
        if self.state.keeper.get() == Some(self.name) {
            self.state.keeper.set(None);
        }
    }

    fn pass(&self, seconds: u64) {
        self.state.now.set(self.state.now.get() + seconds);
    }
}

impl Device for World {
    fn options(&mut self) -> Result<u32, String> {
        self.note("options");
        Ok(self.state.options)
    }
    fn set_timeout(&mut self, seconds: u32) -> Result<u32, String> {
        self.note(&format!("set {seconds}"));
        Ok(seconds + u32::from(self.state.rounds_up))
    }
    fn pet(&mut self) -> Result<(), String> {
        self.pass(self.state.stall.take());
        self.note("pet");
        Ok(())
    }
    fn let_go(self) -> Result<(), String> {
        self.note("V");
        match self.state.stays_armed {
            true => Err("it does not listen".into()),
            false => Ok(()),
        }
    }
    fn found_armed(&self) -> Option<bool> {
        self.state.found_armed
    }
}

impl Sharing for World {
    type Device = Self;

    fn serial(&self) -> u64 {
        self.state.serial.set(self.state.serial.get() + 1);
        self.state.serial.get()
    }
    fn own(&self) -> Result<Option<Share>, String> {
        Ok(self.share())
    }
    fn publish(&mut self, share: &Share, covered: &[u64]) -> Result<(), String> {
        let published = (*share, covered.to_vec(), true);
        self.state.shares.borrow_mut().insert(self.name, published);
        Ok(())
    }
    fn withdraw(&mut self) -> Result<(), String> {
        self.state.shares.borrow_mut().remove(self.name);
        Ok(())
    }
    fn others(&self) -> Result<Vec<Share>, String> {
        let shares = self.state.shares.borrow();
        let others = shares.iter().filter(|(name, _)| **name != self.name);
        Ok(others.map(|(_, share)| share.0).collect())
    }
    fn any_other_lives(&self) -> Result<bool, String> {
        let shares = self.state.shares.borrow();
        Ok(shares
            .iter()
            .any(|(name, share)| *name != self.name && share.2))
    }
    fn keeper_of(&self, share: &Share) -> Result<Option<String>, String> {
        let shares = self.state.shares.borrow();
        let keeper = shares
            .iter()
            .find(|(name, (_, covered, _))| **name != self.name && covered.contains(&share.serial));
        Ok(keeper.map(|(name, _)| (*name).to_owned()))
    }
    fn step_forward(&mut self) -> Result<bool, String> {
        let keeper = self.state.keeper.get().unwrap_or(self.name);
        self.state.keeper.set(Some(keeper));
        Ok(keeper == self.name)
    }
    fn step_back(&mut self) {
        if self.state.keeper.get() == Some(self.name) {
            self.state.keeper.set(None);
        }
    }
    fn open(&self) -> Result<Self, Failure> {
        self.note("open");
        Ok(self.clone())
    }
    fn refused(&self, why: &str) -> Failure {
        Failure::new(Status::Refused, why)
    }
    fn busy(&self, why: &str) -> Failure {
        Failure::new(Status::Busy, why)
    }
    fn say(&self, text: &str) {
        self.state.said.borrow_mut().push(text.into());
    }
}

impl Clock for World {
    fn now(&self) -> Moment {
        at(self.state.now.get())
    }
    fn wait(&self, _: Duration) -> Result<(), Interrupted> {
        Ok(())
    }
    fn back_off(&self, _: Duration) {
        self.pass(1);
    }
}

fn at(second: u64) -> Moment {
    Moment(second * 1_000_000_000)
}

/// t = 1 and W = 10: the device has 8 s, petting ends at 6 s (8t less 1.2 s) after a renewal.
fn timing() -> Timing {
    Timing::new(1, 10).unwrap()
}

fn try_to_arm(world: &World, timing: Timing) -> Result<Watchdog<World>, String> {
    Watchdog::arm(world.clone(), timing, world).map_err(|failure| failure.text)
}

fn armed(world: &World) -> Watchdog<World> {
    try_to_arm(world, timing()).unwrap()
}

/// Tends every second, renewed at 0. Returns when it was petted.
fn pets(world: &World, dog: &mut Watchdog<World>, until: u64, guarding: bool) -> Vec<u64> {
    while world.state.now.get() <= until {
        dog.tend(world, Moment(0), guarding).unwrap();
        world.pass(1);
    }
    world.pets()
}

#[test]
fn it_is_set_to_less_than_was_promised() {
    let world = World::new();
    armed(&world);
    let done = ["open", "options", "set 8"].map(|what| (0, what.to_owned()));
    assert_eq!(world.done_since(0), done);
}

/// What has to be refused, with the timing with which it has to be.
fn refused(found_armed: Option<bool>, stays_armed: bool) -> Vec<(World, Timing)> {
    let world = |options, rounds_up| {
        World::with(State {
            options,
            rounds_up,
            found_armed,
            stays_armed,
            ..State::default()
        })
    };
    vec![
        (world(1, false), timing()),
        (world(OPTION_SET_TIMEOUT, false), timing()),
        (world(OPTION_MAGIC_CLOSE, false), timing()),
        (world(0, true), timing()),
    ]
}

#[test]
fn a_device_that_is_refused_is_disarmed_unless_it_was_found_armed() {
    for found_armed in [None, Some(false), Some(true)] {
        for (world, timing) in refused(found_armed, false) {
            let why = try_to_arm(&world, timing).unwrap_err();
            assert_eq!(world.is_let_go(), found_armed != Some(true), "{why}");
            assert_eq!(why.contains("stays so"), found_armed == Some(true), "{why}");
            assert_eq!((world.share(), world.state.keeper.get()), (None, None));
        }
    }
}

#[test]
fn a_time_that_is_too_short_is_refused_before_anything_is_opened() {
    let world = World::new();
    try_to_arm(&world, Timing::new(1, 2).unwrap()).unwrap_err();
    assert_eq!(world.done_since(0), []);
}

#[test]
fn a_device_that_is_refused_and_stays_armed_is_said_to() {
    for (world, timing) in refused(None, true) {
        let why = try_to_arm(&world, timing).unwrap_err();
        assert!(why.contains("it stays armed: it does not listen"), "{why}");
    }
}

#[test]
fn where_nothing_comes_of_it_a_device_is_left_as_it_was_found() {
    for (found_armed, guarded, let_go) in [
        (Some(false), true, true),
        (Some(true), false, false),
        (None, true, false),
        (None, false, true),
    ] {
        let world = World::with(State {
            found_armed,
            ..State::default()
        });
        armed(&world).leave_as_found(guarded).unwrap();
        assert_eq!(world.is_let_go(), let_go, "{found_armed:?} {guarded}");
        assert_eq!((world.share(), world.state.keeper.get()), (None, None));
    }
}

#[test]
fn petting_stops_before_the_lease_is_lost() {
    let world = World::new();
    let dog = &mut armed(&world);
    assert_eq!(pets(&world, dog, 20, true), [0, 1, 2, 3, 4, 5, 6]);
    // The last pet at 6, and 8 s later the host is reset: before 8t + W = 18.
}

#[test]
fn without_anything_to_guard_it_is_petted_for_ever() {
    let world = World::new();
    assert_eq!(pets(&world, &mut armed(&world), 20, false).len(), 21);
}

#[test]
fn a_pet_that_came_too_late_shortens_the_time() {
    let world = World::new();
    let mut dog = armed(&world);
    world.state.now.set(6);
    world.state.stall.set(9);
    dog.tend(&world, Moment(0), true).unwrap();
    let late = [(15, "pet".to_owned()), (15, "set 1".to_owned())];
    assert_eq!(world.done_since(6), late);
}

#[test]
fn a_clean_end_disarms_it_and_nothing_else_does() {
    let world = World::new();
    drop(armed(&world));
    assert!(!world.is_let_go());
    world.dies();
    armed(&world).disarm().unwrap();
    assert!(world.is_let_go());
}

// ---- several lockspaces

/// Two lockspaces with one device, which the first has open.
fn two() -> (World, Watchdog<World>, World, Watchdog<World>) {
    let (first, mut dog) = {
        let world = World::new();
        let dog = armed(&world);
        (world, dog)
    };
    let second = first.beside("MS");
    let other = armed_beside(&second, timing(), (&first, &mut dog));
    (first, dog, second, other)
}

/// The second arms it while the first tends it.
fn armed_beside(
    second: &World,
    timing: Timing,
    (first, dog): (&World, &mut Watchdog<World>),
) -> Watchdog<World> {
    // What its arm waits for: the first looks at the shares.
    let share = Share {
        serial: second.serial(),
        timeout: timeout(timing).unwrap(),
        pet_until: FOR_EVER,
    };
    second.clone().publish(&share, &[]).unwrap();
    dog.next_pet = Moment::default();
    let renewed = first.now();
    dog.tend(first, renewed, false).unwrap();
    let other = try_to_arm(second, timing).unwrap();
    assert!(other.kept.is_none());
    other
}

#[test]
fn the_second_is_covered_by_the_first_and_says_so() {
    let (world, ..) = two();
    let said = world.state.said.borrow();
    assert_eq!(*said, ["LS has it open, and pets it for both"]);
    let opened = |(_, what): &&(u64, String)| what == "open";
    assert_eq!(world.done_since(0).iter().filter(opened).count(), 1);
}

#[test]
fn it_is_petted_only_while_none_guards_anything_whose_time_is_over() {
    for (guards, alive) in [
        ([true, false], true),
        ([false, true], true),
        ([false, true], false),
        ([true, true], true),
    ] {
        let (world, mut dog, second, mut other) = two();
        for now in 1..=20 {
            world.state.now.set(now);
            // One whose process has died, or is stopped, is seen by what it has published.
            if alive || now == 1 {
                other.tend(&second, at(1), guards[1]).unwrap();
            }
            let renewed = if guards[0] { at(1) } else { at(now) };
            dog.tend(&world, renewed, guards[0]).unwrap();
            let late = world.pets().iter().all(|at| *at <= 1 + 6);
            assert!(late, "{guards:?} {alive}: {:?}", world.pets());
        }
        assert!(world.pets().contains(&7), "{guards:?}: {:?}", world.pets());
    }
}

#[test]
fn the_least_time_of_all_is_what_the_device_has_for_as_long_as_it_is_needed() {
    let world = World::new();
    let mut dog = armed(&world);
    let second = world.beside("MS");
    let short = Timing::new(1, 5).unwrap();
    let other = armed_beside(&second, short, (&world, &mut dog));
    assert_eq!(world.done_since(0).last().unwrap().1, "set 3");
    other.disarm().unwrap();
    world.pass(1);
    dog.tend(&world, world.now(), true).unwrap();
    assert_eq!(world.done_since(1), [(1, "set 8".to_owned())]);
    assert!(!world.is_let_go());
}

#[test]
fn when_the_first_ends_the_second_takes_it_over_however_that_ends() {
    for clean in [true, false] {
        let (world, dog, second, mut other) = two();
        match clean {
            true => dog.disarm().unwrap(),
            false => world.dies(),
        }
        assert!(!world.is_let_go());
        world.pass(1);
        other.tend(&second, second.now(), true).unwrap();
        let taken = ["open", "options", "set 8"].map(|what| (1, what.to_owned()));
        assert_eq!(world.done_since(1), taken);
        world.pass(1);
        other.tend(&second, second.now(), true).unwrap();
        assert_eq!(world.done_since(2), [(2, "pet".to_owned())]);
    }
}

#[test]
fn nobody_takes_over_what_may_not_be_petted() {
    let (world, mut dog, second, mut other) = two();
    dog.tend(&world, Moment(0), true).unwrap();
    world.dies();
    world.state.now.set(7);
    for _ in 0..5 {
        other.tend(&second, second.now(), true).unwrap();
        world.pass(1);
    }
    assert_eq!(world.done_since(7), []);
    // Nor does a third that comes now.
    let third = world.beside("NS");
    let why = try_to_arm(&third, timing()).unwrap_err();
    assert!(
        why.contains("the time of another lockspace is over"),
        "{why}"
    );
    assert_eq!(world.done_since(7), []);
    // The first comes back: what it guarded is seen to its end before anything is opened.
    let again = try_to_arm(&world, timing()).unwrap();
    assert_eq!(world.done_since(7), []);
    again.disarm().unwrap();
    world.pass(1);
    let now = world.state.now.get();
    other.tend(&second, second.now(), true).unwrap();
    assert_eq!(world.done_since(now)[0].1, "open");
}

#[test]
fn a_share_that_began_to_guard_while_the_pet_was_held_up_is_seen_after_it() {
    let (world, mut dog, second, mut other) = two();
    world.pass(1);
    // Both are stopped after this, and go on at 30.
    other.note(at(1), true).unwrap();
    world
        .state
        .shares
        .borrow_mut()
        .get_mut("MS")
        .unwrap()
        .0
        .pet_until = at(25);
    world.state.stall.set(29);
    dog.tend(&world, at(30), true).unwrap();
    let late = [(30, "pet".to_owned()), (30, "set 1".to_owned())];
    assert_eq!(world.done_since(2), late);
    drop(second);
}

#[test]
fn the_last_one_disarms_it_also_if_whoever_had_it_open_has_died() {
    for guards in [false, true] {
        let (world, mut dog, _, other) = two();
        dog.tend(&world, Moment(0), guards).unwrap();
        world.dies();
        other.disarm().unwrap();
        // What the dead one guarded may run.
        assert_eq!(world.is_let_go(), !guards);
    }
}

#[test]
fn whoever_has_it_open_and_does_not_look_covers_nobody() {
    let world = World::new();
    let _dog = armed(&world);
    let second = world.beside("MS");
    let why = try_to_arm(&second, timing()).unwrap_err();
    assert!(why.contains("does not answer"), "{why}");
    assert_eq!(second.share(), None);
}
