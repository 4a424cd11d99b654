//! A watchdog device: it resets this host unless it is petted, and it is petted only while
//! nothing can go wrong by waiting longer.
//!
//! The device's time is W less a margin, and petting stops at 8t after the last renewal less the
//! same margin: so the host is reset before 8t + W, whoever is stopped, hung or dead. It is
//! disarmed when nothing is guarded any more and the host id is given back or lost; a crash of
//! lease-join, its end by SIGUSR1, or what cannot be proven gone leaves it armed.
//!
//! Opening a device arms it. So what can be known is asked before that, of sysfs; and a device that
//! is refused after all is disarmed, unless it was found armed: then it guards what an earlier
//! process has left, and stays as it was.

use crate::clock::{Clock, Moment};
use crate::failure::{Failure, Status};
use crate::surroundings::Surroundings;
use crate::timing::Timing;
use std::time::Duration;

/// The device can have its time set (linux/watchdog.h).
const OPTION_SET_TIMEOUT: u32 = 0x80;
/// The device can be disarmed by a magic character before it is closed.
const OPTION_MAGIC_CLOSE: u32 = 0x100;

/// What is asked of a device.
pub trait Device: std::fmt::Debug {
    /// What it can do: the option bits of linux/watchdog.h.
    fn options(&mut self) -> Result<u32, String>;
    /// Sets its time. Returns the time that it then has, in seconds.
    fn set_timeout(&mut self, seconds: u32) -> Result<u32, String>;
    /// Starts its time anew.
    fn pet(&mut self) -> Result<(), String>;
    /// Disarms and closes it. Fails if it is known to be armed after that.
    fn let_go(self) -> Result<(), String>;
    /// Whether it was armed before it was opened; `None`: nobody knows.
    fn found_armed(&self) -> Option<bool>;
}

/// An armed device, and the rules by which it is petted.
#[derive(Debug)]
pub struct Watchdog<D> {
    device: D,
    timing: Timing,
    /// In seconds; what the device was set to.
    timeout: u32,
    next_pet: Moment,
}

/// 2 % of W and a second: for the device's own clock, and for us.
fn margin(timing: Timing) -> Duration {
    Duration::from_secs(1) + Duration::from_secs(u64::from(timing.watchdog())) / 50
}

/// The time to which a device is set, in whole seconds.
pub fn timeout(timing: Timing) -> Result<u32, String> {
    let promised = Duration::from_secs(u64::from(timing.watchdog()));
    match promised.saturating_sub(margin(timing)).as_secs() {
        0 => Err("--watchdog-timeout has to be 3 s at least".into()),
        seconds => u32::try_from(seconds).map_err(|why| why.to_string()),
    }
}

/// Whether a device that has these option bits can be used.
pub fn check_options(options: u32) -> Result<(), String> {
    if options & OPTION_SET_TIMEOUT == 0 {
        return Err("its time cannot be set".into());
    }
    if options & OPTION_MAGIC_CLOSE == 0 {
        return Err("it cannot be disarmed (magic close)".into());
    }
    Ok(())
}

/// Sets the device's time. Returns it.
fn set_up(device: &mut impl Device, timing: Timing) -> Result<u32, String> {
    let timeout = timeout(timing)?;
    let options = device.options();
    check_options(options.map_err(|error| format!("it is no watchdog: {error}"))?)?;
    let set = device.set_timeout(timeout);
    let set = set.map_err(|error| format!("cannot set it to {timeout} s: {error}"))?;
    match set == timeout {
        true => Ok(timeout),
        false => Err(format!("it takes {set} s instead of {timeout} s")),
    }
}

impl<D: Device> Watchdog<D> {
    /// Sets the device's time, and so arms it. Refuses a device that has another time then, or
    /// cannot be disarmed; what is refused is disarmed, unless it was armed before.
    pub fn arm(mut device: D, timing: Timing) -> Result<Self, String> {
        match set_up(&mut device, timing) {
            Ok(timeout) => Ok(Self {
                device,
                timing,
                timeout,
                next_pet: Moment::default(),
            }),
            Err(why) if device.found_armed() == Some(true) => {
                Err(format!("{why}; it was armed before, and stays so"))
            }
            Err(why) => Err(match device.let_go() {
                Ok(()) => why,
                Err(error) => format!("{why}; and it stays armed: {error}"),
            }),
        }
    }

    /// Pets the device if it is time to, and if it may be: nothing is guarded, or the last renewal
    /// is young enough.
    pub fn tend(
        &mut self,
        clock: &dyn Clock,
        renewed: Moment,
        guarding: bool,
    ) -> Result<(), String> {
        let now = clock.now();
        if now < self.next_pet || (guarding && now >= self.last_pet(renewed)) {
            return Ok(());
        }
        self.device.pet()?;
        self.next_pet = now.after(self.pause());
        if guarding && clock.now() >= self.last_pet(renewed) {
            // We were stopped between the look at the clock and the pet: it came too late, and
            // gave the host more time than it has.
            self.device.set_timeout(1)?;
        }
        Ok(())
    }

    /// How often it wants to be tended.
    pub fn pause(&self) -> Duration {
        (Duration::from_secs(u64::from(self.timeout)) / 4).min(Duration::from_secs(1))
    }

    /// Disarms the device: nothing is guarded any more.
    pub fn disarm(self) -> Result<(), Failure> {
        self.device.let_go().map_err(|why| {
            let text = format!("cannot disarm the watchdog: {why}");
            Failure::new(Status::Internal, text)
        })
    }

    /// Leaves the device as it was found, since nothing comes of all this: whatever runs here was
    /// guarded by it before, or not at all. `guarded`: what to believe where nobody knows.
    fn leave_as_found(self, guarded: bool) -> Result<(), Failure> {
        match self.device.found_armed().unwrap_or(guarded) {
            true => Ok(()),
            false => self.disarm(),
        }
    }

    fn last_pet(&self, renewed: Moment) -> Moment {
        renewed.after(self.timing.lost_after().saturating_sub(margin(self.timing)))
    }
}

/// Leaves a device as it was found, where nothing comes of a join; only that it cannot be is said.
/// `guarded`: whether a former lease-join may have left something that runs.
pub(super) fn leave_as_found<D: Device>(
    around: &impl Surroundings,
    watchdog: Option<Watchdog<D>>,
    guarded: bool,
) {
    if let Some(Err(why)) = watchdog.map(|watchdog| watchdog.leave_as_found(guarded)) {
        around.say(&why.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Interrupted;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    /// A clock that goes when it is told to, and a device that writes down what is asked of it.
    #[derive(Debug, Default, Clone)]
    struct World {
        now: Rc<Cell<u64>>,
        /// How long the next pet is held up before it reaches the device.
        stall: Rc<Cell<u64>>,
        log: Rc<RefCell<Vec<(u64, String)>>>,
        options: u32,
        rounds_up: bool,
        found_armed: Option<bool>,
        stays_armed: bool,
    }

    impl World {
        fn new() -> Self {
            Self {
                options: OPTION_SET_TIMEOUT | OPTION_MAGIC_CLOSE,
                ..Self::default()
            }
        }

        fn note(&self, what: &str) {
            self.log
                .borrow_mut()
                .push((self.now.get(), what.to_owned()));
        }
    }

    impl Device for World {
        fn options(&mut self) -> Result<u32, String> {
            self.note("options");
            Ok(self.options)
        }
        fn set_timeout(&mut self, seconds: u32) -> Result<u32, String> {
            self.note(&format!("set {seconds}"));
            Ok(if self.rounds_up { seconds + 1 } else { seconds })
        }
        fn pet(&mut self) -> Result<(), String> {
            self.now.set(self.now.get() + self.stall.take());
            self.note("pet");
            Ok(())
        }
        fn let_go(self) -> Result<(), String> {
            self.note("V");
            match self.stays_armed {
                true => Err("it does not listen".into()),
                false => Ok(()),
            }
        }
        fn found_armed(&self) -> Option<bool> {
            self.found_armed
        }
    }

    impl Clock for World {
        fn now(&self) -> Moment {
            Moment(self.now.get() * 1_000_000_000)
        }
        fn wait(&self, _: Duration) -> Result<(), Interrupted> {
            Ok(())
        }
        fn back_off(&self, _: Duration) {}
    }

    /// t = 1 and W = 10: the device has 8 s, petting ends at 6 s (8t less 1.2 s) after a renewal.
    fn timing() -> Timing {
        Timing::new(1, 10).unwrap()
    }

    fn armed(world: &World) -> Watchdog<World> {
        Watchdog::arm(world.clone(), timing()).unwrap()
    }

    /// Tends every second, renewed at 0. Returns when it was petted.
    fn pets(world: &World, dog: &mut Watchdog<World>, until: u64, guarding: bool) -> Vec<u64> {
        while world.now.get() <= until {
            dog.tend(world, Moment(0), guarding).unwrap();
            world.now.set(world.now.get() + 1);
        }
        let log = world.log.borrow();
        log.iter()
            .filter(|(_, what)| what == "pet")
            .map(|(at, _)| *at)
            .collect()
    }

    #[test]
    fn it_is_set_to_less_than_was_promised() {
        let world = World::new();
        armed(&world);
        assert_eq!(
            *world.log.borrow(),
            [(0, "options".to_owned()), (0, "set 8".to_owned())]
        );
    }

    /// What has to be refused, with the timing with which it has to be.
    fn refused() -> Vec<(World, Timing)> {
        let without = |options| World {
            options,
            ..World::new()
        };
        let rounds_up = World {
            rounds_up: true,
            ..World::new()
        };
        vec![
            (without(0), timing()),
            (without(OPTION_SET_TIMEOUT), timing()),
            (without(OPTION_MAGIC_CLOSE), timing()),
            (rounds_up, timing()),
            (World::new(), Timing::new(1, 2).unwrap()),
        ]
    }

    fn is_let_go(world: &World) -> bool {
        world.log.borrow().iter().any(|(_, what)| what == "V")
    }

    #[test]
    fn a_device_that_is_refused_is_disarmed_unless_it_was_found_armed() {
        for found_armed in [None, Some(false), Some(true)] {
            for (world, timing) in refused() {
                let world = World {
                    found_armed,
                    ..world
                };
                let why = Watchdog::arm(world.clone(), timing).unwrap_err();
                assert_eq!(is_let_go(&world), found_armed != Some(true), "{why}");
                assert_eq!(why.contains("stays so"), found_armed == Some(true), "{why}");
            }
        }
    }

    #[test]
    fn a_device_that_is_refused_and_stays_armed_is_said_to() {
        for (world, timing) in refused() {
            let stays_armed = World {
                stays_armed: true,
                ..world
            };
            let why = Watchdog::arm(stays_armed, timing).unwrap_err();
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
            let world = World {
                found_armed,
                ..World::new()
            };
            armed(&world).leave_as_found(guarded).unwrap();
            assert_eq!(is_let_go(&world), let_go, "{found_armed:?} {guarded}");
        }
    }

    #[test]
    fn petting_stops_before_the_lease_is_lost() {
        let world = World::new();
        assert_eq!(
            pets(&world, &mut armed(&world), 20, true),
            [0, 1, 2, 3, 4, 5, 6]
        );
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
        world.now.set(6);
        world.stall.set(9);
        dog.tend(&world, Moment(0), true).unwrap();
        let log = world.log.borrow();
        assert_eq!(log[2..], [(15, "pet".to_owned()), (15, "set 1".to_owned())]);
    }

    #[test]
    fn a_clean_end_disarms_it_and_nothing_else_does() {
        let world = World::new();
        drop(armed(&world));
        assert!(!is_let_go(&world));
        armed(&world).disarm().unwrap();
        assert!(is_let_go(&world));
    }
}
