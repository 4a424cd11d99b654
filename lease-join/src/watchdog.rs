//! A watchdog device: it resets this host unless it is petted, and it is petted only while
//! nothing can go wrong by waiting longer.
//!
//! The device's time is W less a margin, and petting stops at 8t after the last renewal less the
//! same margin: so the host is reset before 8t + W, whoever is stopped, hung or dead. It is
//! disarmed when nothing is guarded any more and the host id is given back or lost; a crash of
//! lease-join, its end by SIGUSR1, or what cannot be proven gone leaves it armed.

use lease_core::clock::{Clock, Moment};
use lease_core::timing::Timing;
use lease_core::tool::{Failure, Status, show};
use nix::sys::stat::{major, minor};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// The device can have its time set (linux/watchdog.h).
const OPTION_SET_TIMEOUT: u32 = 0x80;
/// The device can be disarmed by a magic character before it is closed.
const OPTION_MAGIC_CLOSE: u32 = 0x100;

/// What is asked of a device.
pub(crate) trait Device: std::fmt::Debug {
    /// What it can do: the option bits of linux/watchdog.h.
    fn options(&mut self) -> io::Result<u32>;
    /// Sets its time. Returns the time that it then has, in seconds.
    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32>;
    /// Starts its time anew.
    fn pet(&mut self) -> io::Result<()>;
    /// Disarms it when it is closed next.
    fn let_go(&mut self) -> io::Result<()>;
}

/// An armed device, and the rules by which it is petted.
#[derive(Debug)]
pub(crate) struct Watchdog<D> {
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

impl<D: Device> Watchdog<D> {
    /// Sets the device's time, and so arms it. Refuses a device that has another time then, or
    /// cannot be disarmed.
    pub(crate) fn arm(mut device: D, timing: Timing) -> Result<Self, String> {
        let options = device
            .options()
            .map_err(|error| format!("it is no watchdog: {}", error))?;
        if options & OPTION_SET_TIMEOUT == 0 {
            return Err("its time cannot be set".into());
        }
        if options & OPTION_MAGIC_CLOSE == 0 {
            return Err("it cannot be disarmed (magic close)".into());
        }
        let promised = Duration::from_secs(u64::from(timing.watchdog()));
        let timeout = u32::try_from(promised.saturating_sub(margin(timing)).as_secs()).unwrap_or(0);
        if timeout == 0 {
            return Err("--watchdog-timeout has to be 3 s at least".into());
        }
        let set = device
            .set_timeout(timeout)
            .map_err(|error| format!("cannot set it: {}", error))?;
        if set != timeout {
            return Err(format!("it takes {set} s instead of {timeout} s"));
        }
        Ok(Self {
            device,
            timing,
            timeout,
            next_pet: Moment::default(),
        })
    }

    /// Pets the device if it is time to, and if it may be: nothing is guarded, or the last renewal
    /// is young enough.
    pub(crate) fn tend(
        &mut self,
        clock: &dyn Clock,
        renewed: Moment,
        guarding: bool,
    ) -> io::Result<()> {
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
    pub(crate) fn pause(&self) -> Duration {
        (Duration::from_secs(u64::from(self.timeout)) / 4).min(Duration::from_secs(1))
    }

    /// Disarms the device: nothing is guarded any more.
    pub(crate) fn disarm(mut self) -> io::Result<()> {
        self.device.let_go()
    }

    fn last_pet(&self, renewed: Moment) -> Moment {
        renewed.after(self.timing.lost_after().saturating_sub(margin(self.timing)))
    }
}

/// A device of the kernel's.
#[derive(Debug)]
pub(crate) struct KernelDevice(File);

impl KernelDevice {
    /// Opens it, which arms it with whatever time it has. If it could not be disarmed after that,
    /// it is refused before.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let number = std::fs::metadata(path).map_or(0, |metadata| metadata.rdev());
        if stays_armed(Path::new("/sys"), number) {
            let text = format!(
                "cannot use watchdog {}: once armed it cannot be disarmed (nowayout)",
                show(path.as_os_str())
            );
            return Err(Failure::new(Status::Refused, text));
        }
        let flags = nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| {
                let status = match error.kind() {
                    io::ErrorKind::NotFound => Status::NoPath,
                    io::ErrorKind::PermissionDenied => Status::Permission,
                    _ if error.raw_os_error() == Some(nix::libc::EBUSY) => Status::Busy,
                    _ => Status::System,
                };
                Failure::new(
                    status,
                    format!("cannot open {}: {}", show(path.as_os_str()), error),
                )
            })?;
        Ok(Self(file))
    }
}

/// The number of /dev/watchdog, which is another name of the first device.
const FIRST: (u64, u64) = (10, 130);

/// Whether the kernel lets nobody disarm this device: it says so where sysfs shows it, and else not
/// at all.
fn stays_armed(sys: &Path, number: u64) -> bool {
    let shown = match (major(number), minor(number)) {
        FIRST => sys.join("class/watchdog/watchdog0"),
        (major, minor) => sys.join(format!("dev/char/{major}:{minor}")),
    };
    std::fs::read_to_string(shown.join("nowayout")).is_ok_and(|it| it.trim() == "1")
}

mod ioctl {
    //! The calls of linux/watchdog.h.
    #![allow(missing_docs)]

    /// `struct watchdog_info`.
    #[repr(C)]
    #[derive(Default)]
    pub(super) struct Info {
        pub(super) options: u32,
        pub(super) firmware_version: u32,
        pub(super) identity: [u8; 32],
    }

    nix::ioctl_read!(get_support, b'W', 0, Info);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, nix::libc::c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, nix::libc::c_int);
}

#[allow(unsafe_code)]
impl Device for KernelDevice {
    fn options(&mut self) -> io::Result<u32> {
        let mut info = ioctl::Info::default();
        // SAFETY: the kernel writes one `struct watchdog_info` at the address, which is `info`.
        unsafe { ioctl::get_support(self.0.as_raw_fd(), &raw mut info) }?;
        Ok(info.options)
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
        let mut value = i32::try_from(seconds).map_err(io::Error::other)?;
        // SAFETY: both calls read or write one int at the address, which is `value`.
        unsafe {
            ioctl::set_timeout(self.0.as_raw_fd(), &raw mut value)?;
            ioctl::get_timeout(self.0.as_raw_fd(), &raw mut value)?;
        }
        u32::try_from(value).map_err(io::Error::other)
    }

    fn pet(&mut self) -> io::Result<()> {
        self.0.write_all(b"\0")
    }

    fn let_go(&mut self) -> io::Result<()> {
        self.0.write_all(b"V")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::clock::Interrupted;
    use nix::sys::stat::makedev;
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
        fn options(&mut self) -> io::Result<u32> {
            self.note("options");
            Ok(self.options)
        }
        fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
            self.note(&format!("set {seconds}"));
            Ok(if self.rounds_up { seconds + 1 } else { seconds })
        }
        fn pet(&mut self) -> io::Result<()> {
            self.now.set(self.now.get() + self.stall.take());
            self.note("pet");
            Ok(())
        }
        fn let_go(&mut self) -> io::Result<()> {
            self.note("V");
            Ok(())
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

    #[test]
    fn a_device_that_cannot_do_what_is_needed_is_refused() {
        for options in [0, OPTION_SET_TIMEOUT, OPTION_MAGIC_CLOSE] {
            let world = World {
                options,
                ..World::new()
            };
            assert!(Watchdog::arm(world.clone(), timing()).is_err());
            assert_eq!(world.log.borrow().len(), 1, "nothing is set");
        }
        let world = World {
            rounds_up: true,
            ..World::new()
        };
        assert!(Watchdog::arm(world, timing()).is_err());
        assert!(Watchdog::arm(World::new(), Timing::new(1, 2).unwrap()).is_err());
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
        assert!(!world.log.borrow().iter().any(|(_, what)| what == "V"));
        armed(&world).disarm().unwrap();
        assert!(world.log.borrow().iter().any(|(_, what)| what == "V"));
    }

    #[test]
    fn a_device_that_stays_armed_is_known_by_its_number() {
        let sys = std::env::temp_dir().join(format!("lease-watchdog-{}", std::process::id()));
        let device = |path: &str, nowayout: &str| {
            std::fs::create_dir_all(sys.join(path)).unwrap();
            std::fs::write(sys.join(path).join("nowayout"), nowayout).unwrap();
        };
        device("dev/char/247:0", "0\n");
        device("dev/char/247:1", "1\n");
        device("class/watchdog/watchdog0", "1\n");
        let armed = [(247, 0), (247, 1), (247, 2), (10, 130)];
        let armed = armed.map(|(major, minor)| stays_armed(&sys, makedev(major, minor)));
        std::fs::remove_dir_all(&sys).unwrap();
        assert_eq!(armed, [false, true, false, true]);
    }
}
