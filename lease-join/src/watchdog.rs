//! The watchdog device of the kernel's. How it is petted is in `lease_core::host::watchdog`, how
//! several lockspaces share it in `shares`.

use lease_core::host::watchdog::{Device, check_options, timeout};
use lease_core::timing::Timing;
use lease_core::tool::{Failure, Status, show};
use nix::sys::stat::{major, minor};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A device of the kernel's.
#[derive(Debug)]
pub(crate) struct KernelDevice {
    file: File,
    shown: Shown,
    found_armed: Option<bool>,
}

impl KernelDevice {
    /// Opens it, which arms it with whatever time it has.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let metadata = std::fs::metadata(path).map_err(|error| cannot_open(path, &error))?;
        let shown = Shown::of(Path::new("/sys"), metadata.rdev());
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

/// Which device a path leads to, as a name that every path to it gives, and no other. What is known
/// to be refused once it is open is refused here.
pub(crate) fn name(path: &Path, timing: Timing) -> Result<String, Failure> {
    let refused = |why: String| refused(path, &why);
    let timeout = timeout(timing).map_err(refused)?;
    let metadata = std::fs::metadata(path).map_err(|error| cannot_open(path, &error))?;
    if !metadata.file_type().is_char_device() {
        return Err(refused(NO_WATCHDOG.into()));
    }
    let number = metadata.rdev();
    let shown = Shown::of(Path::new("/sys"), number);
    shown.check(timeout).map_err(refused)?;
    let shown = shown.attribute("dev");
    Ok(shown.unwrap_or_else(|| format!("{}:{}", major(number), minor(number))))
}

/// Of a path that leads to something else.
const NO_WATCHDOG: &str = "it is no watchdog; their devices are called /dev/watchdog0 and so on";

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
    let hint = match status {
        Status::NoPath => "; is its driver loaded?",
        Status::Permission => "; only root may, as a rule",
        Status::Busy => "; stop what has it open, or use another device",
        _ => "",
    };
    let shown = show(path.as_os_str());
    Failure::new(
        status,
        format!("cannot use watchdog {shown}: {error}{hint}"),
    )
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
            return Err(
                "it is no watchdog; their devices are called /dev/watchdog0 and so on".into(),
            );
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
    fn options(&mut self) -> Result<u32, String> {
        let mut info = ioctl::Info::default();
        // SAFETY: the kernel writes one `struct watchdog_info` at the address, which is `info`.
        let got = unsafe { ioctl::get_support(self.file.as_raw_fd(), &raw mut info) };
        got.map(|_| info.options).map_err(in_words)
    }

    fn set_timeout(&mut self, seconds: u32) -> Result<u32, String> {
        let mut value = i32::try_from(seconds).map_err(|why| why.to_string())?;
        // SAFETY: both calls read or write one int at the address, which is `value`.
        unsafe {
            ioctl::set_timeout(self.file.as_raw_fd(), &raw mut value).map_err(in_words)?;
            ioctl::get_timeout(self.file.as_raw_fd(), &raw mut value).map_err(in_words)?;
        }
        u32::try_from(value).map_err(|why| why.to_string())
    }

    fn pet(&mut self) -> Result<(), String> {
        self.file.write_all(b"\0").map_err(in_words)
    }

    fn let_go(self) -> Result<(), String> {
        let Self {
            mut file, shown, ..
        } = self;
        file.write_all(b"V").map_err(in_words)?;
        drop(file);
        match shown.is_armed() {
            Some(true) => Err("the kernel says that it is still active".into()),
            Some(false) | None => Ok(()),
        }
    }

    fn found_armed(&self) -> Option<bool> {
        self.found_armed
    }
}

fn in_words(error: impl Into<io::Error>) -> String {
    error.into().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::makedev;

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
