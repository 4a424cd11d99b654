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

use lease_core::clock::{Clock, Moment};
use lease_core::timing::Timing;
use lease_core::tool::{Failure, Status, show};
use nix::sys::stat::{major, minor};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
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
    /// Disarms and closes it. Fails if it is known to be armed after that.
    fn let_go(self) -> io::Result<()>;
    /// Whether it was armed before it was opened; `None`: nobody knows.
    fn found_armed(&self) -> Option<bool>;
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

/// The time to which a device is set, in whole seconds.
fn timeout(timing: Timing) -> Result<u32, String> {
    let promised = Duration::from_secs(u64::from(timing.watchdog()));
    match promised.saturating_sub(margin(timing)).as_secs() {
        0 => Err("--watchdog-timeout has to be 3 s at least".into()),
        seconds => u32::try_from(seconds).map_err(|why| why.to_string()),
    }
}

/// Whether a device that has these option bits can be used.
fn check_options(options: u32) -> Result<(), String> {
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
    pub(crate) fn arm(mut device: D, timing: Timing) -> Result<Self, String> {
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
    pub(crate) fn disarm(self) -> io::Result<()> {
        self.device.let_go()
    }

    /// Leaves the device as it was found, since nothing comes of all this: whatever runs here was
    /// guarded by it before, or not at all. `guarded`: what to believe where nobody knows.
    pub(crate) fn leave_as_found(self, guarded: bool) -> io::Result<()> {
        match self.device.found_armed().unwrap_or(guarded) {
            true => Ok(()),
            false => self.device.let_go(),
        }
    }

    fn last_pet(&self, renewed: Moment) -> Moment {
        renewed.after(self.timing.lost_after().saturating_sub(margin(self.timing)))
    }
}

/// A device of the kernel's.
#[derive(Debug)]
pub(crate) struct KernelDevice {
    file: File,
    shown: Shown,
    found_armed: Option<bool>,
}

impl KernelDevice {
    /// Opens it, which arms it with whatever time it has. What is known to be refused after that is
    /// refused before.
    pub(crate) fn open(path: &Path, timing: Timing) -> Result<Self, Failure> {
        let refused = |why: String| refused(path, &why);
        let timeout = timeout(timing).map_err(refused)?;
        let metadata = std::fs::metadata(path).map_err(|error| cannot_open(path, &error))?;
        let shown = Shown::of(Path::new("/sys"), metadata.rdev());
        match metadata.file_type().is_char_device() {
            true => shown.check(timeout).map_err(refused)?,
            false => return Err(refused("it is no watchdog: not a character device".into())),
        }
        let found_armed = shown.is_armed();
        let flags = nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|error| cannot_open(path, &error))?;
        Ok(Self {
            file,
            shown,
            found_armed,
        })
    }
}

/// A device that cannot be used, and why.
pub(crate) fn refused(path: &Path, why: &str) -> Failure {
    let text = format!("cannot use watchdog {}: {why}", show(path.as_os_str()));
    Failure::new(Status::Refused, text)
}

fn cannot_open(path: &Path, error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::NotFound => Status::NoPath,
        io::ErrorKind::PermissionDenied => Status::Permission,
        _ if error.raw_os_error() == Some(nix::libc::EBUSY) => Status::Busy,
        _ => Status::System,
    };
    let text = format!("cannot open {}: {error}", show(path.as_os_str()));
    Failure::new(status, text)
}

/// The number of /dev/watchdog, which is another name of the first device.
const FIRST: (u64, u64) = (10, 130);

/// What sysfs shows of a device, where it does.
#[derive(Debug)]
struct Shown(PathBuf);

impl Shown {
    /// Of the device with this number.
    fn of(sys: &Path, number: u64) -> Self {
        Self(match (major(number), minor(number)) {
            FIRST => sys.join("class/watchdog/watchdog0"),
            (major, minor) => sys.join(format!("dev/char/{major}:{minor}")),
        })
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn is_armed(&self) -> Option<bool> {
        match self.attribute("state")?.as_str() {
            "active" => Some(true),
            "inactive" => Some(false),
            _ => None,
        }
    }

    /// What would have to be refused once it is open.
    fn check(&self, timeout: u32) -> Result<(), String> {
        let class = std::fs::canonicalize(self.0.join("subsystem"));
        if class.is_ok_and(|class| !class.ends_with("watchdog")) {
            return Err("it is no watchdog".into());
        }
        if self.attribute("nowayout").is_some_and(|it| it == "1") {
            return Err("once armed it cannot be disarmed (nowayout)".into());
        }
        let options = self.attribute("options");
        let options =
            options.and_then(|it| u32::from_str_radix(it.trim_start_matches("0x"), 16).ok());
        options.map_or(Ok(()), check_options)?;
        let least = self.attribute("min_timeout").and_then(|it| it.parse().ok());
        match least {
            Some(least) if timeout < least => Err(format!(
                "it takes {least} s at least, and would have to take {timeout} s"
            )),
            _ => Ok(()),
        }
    }
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
        unsafe { ioctl::get_support(self.file.as_raw_fd(), &raw mut info) }?;
        Ok(info.options)
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<u32> {
        let mut value = i32::try_from(seconds).map_err(io::Error::other)?;
        // SAFETY: both calls read or write one int at the address, which is `value`.
        unsafe {
            ioctl::set_timeout(self.file.as_raw_fd(), &raw mut value)?;
            ioctl::get_timeout(self.file.as_raw_fd(), &raw mut value)?;
        }
        u32::try_from(value).map_err(io::Error::other)
    }

    fn pet(&mut self) -> io::Result<()> {
        self.file.write_all(b"\0")
    }

    fn let_go(self) -> io::Result<()> {
        let Self {
            mut file, shown, ..
        } = self;
        file.write_all(b"V")?;
        drop(file);
        match shown.is_armed() {
            Some(true) => Err(io::Error::other("the kernel says that it is still active")),
            Some(false) | None => Ok(()),
        }
    }

    fn found_armed(&self) -> Option<bool> {
        self.found_armed
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
        fn let_go(self) -> io::Result<()> {
            self.note("V");
            match self.stays_armed {
                true => Err(io::Error::other("it does not listen")),
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

    #[test]
    fn what_would_be_refused_is_known_before_a_device_is_opened() {
        let sys = std::env::temp_dir().join(format!("lease-watchdog-{}", std::process::id()));
        let device = |path: &str, attributes: &str| {
            let class = sys.join("class").join(match path {
                "dev/char/5:1" => "tty",
                _ => "watchdog",
            });
            std::fs::create_dir_all(&class).unwrap();
            std::fs::create_dir_all(sys.join(path)).unwrap();
            std::os::unix::fs::symlink(class, sys.join(path).join("subsystem")).unwrap();
            for (name, value) in attributes.split(' ').filter_map(|it| it.split_once('=')) {
                std::fs::write(sys.join(path).join(name), format!("{value}\n")).unwrap();
            }
        };
        let of = |number: (u64, u64)| Shown::of(&sys, makedev(number.0, number.1));
        let usable = "nowayout=0 options=0x8180 min_timeout=8 state=inactive";
        let nowayout = "nowayout=1 state=active";
        let first = "class/watchdog/watchdog0";
        let table = [
            ((247, 0), "dev/char/247:0", usable, None, Some(false)),
            (
                (247, 1),
                "dev/char/247:1",
                "nowayout=1",
                Some("nowayout"),
                None,
            ),
            (
                (247, 2),
                "dev/char/247:2",
                "options=0x8000",
                Some("be set"),
                None,
            ),
            (
                (247, 3),
                "dev/char/247:3",
                "options=0x8080",
                Some("magic close"),
                None,
            ),
            (
                (247, 4),
                "dev/char/247:4",
                "min_timeout=9",
                Some("9 s at least"),
                None,
            ),
            ((5, 1), "dev/char/5:1", "", Some("no watchdog"), None),
            (FIRST, first, nowayout, Some("nowayout"), Some(true)),
        ];
        for (number, path, attributes, why, armed) in table {
            device(path, attributes);
            let found = of(number).check(8).err();
            let named = |part: &str| found.as_ref().is_some_and(|found| found.contains(part));
            assert!(why.map_or(found.is_none(), named), "{number:?}: {found:?}");
            assert_eq!(of(number).is_armed(), armed, "{number:?}");
        }
        // Where sysfs shows nothing, the device itself is asked.
        assert_eq!(of((247, 9)).check(8), Ok(()));
        std::fs::remove_dir_all(&sys).unwrap();
    }
}
