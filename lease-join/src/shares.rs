//! The watchdog device as the lockspaces of one run directory share it: each has a file there that
//! says until when it may be petted, and whoever has it open a lock.

use crate::args::TOOL;
use crate::watchdog::{KernelDevice, name, refused};
use lease_core::clock::BootClock;
use lease_core::host::watchdog::{Share, Sharing};
use lease_core::id::Name;
use lease_core::record::host_note::BootId;
use lease_core::registry::place::{Kept, Lock, Place};
use lease_core::timing::Timing;
use lease_core::tool::{Failure, Status, say, show};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a lock is tried for that others hold for a moment, to see whether anybody has it.
const TRIES: u32 = 100;
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// What stands in a lockspace's file.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    /// The boot that it belongs to.
    boot_id: BootId,
    /// The device.
    device: String,
    #[serde(flatten)]
    share: Share,
    /// Whose shares are kept by this process, which has the device open.
    covered: Vec<u64>,
}

/// A device, as one lockspace shares it.
#[derive(Debug)]
pub(crate) struct Shares {
    run_dir: PathBuf,
    lockspace: Name,
    place: Place,
    path: PathBuf,
    device: String,
    boot_id: BootId,
    /// Says that this process lives.
    _lives: Lock,
    /// While we have the device open.
    open: Option<Lock>,
}

impl Shares {
    /// Of the device at `path`, for a lockspace of this run directory.
    pub(crate) fn of(
        path: &Path,
        (run_dir, lockspace): (&Path, Name),
        boot_id: BootId,
        timing: Timing,
    ) -> Result<Self, Failure> {
        let device = name(path, timing)?;
        let failed = |errno: Errno| refused(path, errno.desc());
        let place = Place::open(run_dir, &lockspace).map_err(failed)?;
        let lives = (0..TRIES).find_map(|_| {
            let lock = place.lock_share().transpose();
            if lock.is_none() {
                std::thread::sleep(TRY_AGAIN);
            }
            lock
        });
        let lives = lives.unwrap_or(Err(Errno::EWOULDBLOCK)).map_err(failed)?;
        Ok(Self {
            run_dir: run_dir.to_owned(),
            lockspace,
            place,
            path: path.to_owned(),
            device,
            boot_id,
            _lives: lives,
            open: None,
        })
    }

    /// What stands in the file of this place, of this boot and for this device.
    fn read(&self, place: &Place) -> Result<Option<Published>, String> {
        let published: Option<Published> = place.parsed(Kept::Watchdog).map_err(|why| {
            let (shown, file) = (place.shown().display(), Kept::Watchdog.name());
            format!("cannot read {shown}/{file}: {why}")
        })?;
        Ok(published.filter(|it| it.boot_id == self.boot_id && it.device == self.device))
    }

    /// The other lockspaces that share the device.
    fn beside(&self) -> Result<Vec<(Name, Place, Published)>, String> {
        let failed = |why: &dyn std::fmt::Display| {
            format!("cannot read {}: {why}", show(self.run_dir.as_os_str()))
        };
        let mut found = Vec::new();
        for name in Place::all(&self.run_dir).map_err(|why| failed(&why))? {
            if name == self.lockspace {
                continue;
            }
            let place = match Place::open(&self.run_dir, &name) {
                Ok(place) => place,
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                Err(errno) => return Err(failed(&errno.desc())),
            };
            if let Some(published) = self.read(&place)? {
                found.push((name, place, published));
            }
        }
        Ok(found)
    }
}

impl Sharing for Shares {
    type Device = KernelDevice;

    fn serial(&self) -> u64 {
        // Two processes that start in the same nanosecond have two numbers.
        BootClock::boot_time().0 ^ (u64::from(std::process::id()) << 40)
    }

    fn own(&self) -> Result<Option<Share>, String> {
        Ok(self.read(&self.place)?.map(|published| published.share))
    }

    fn publish(&mut self, share: &Share, covered: &[u64]) -> Result<(), String> {
        let published = Published {
            boot_id: self.boot_id,
            device: self.device.clone(),
            share: *share,
            covered: covered.to_vec(),
        };
        let bytes = serde_json::to_vec(&published).map_err(|why| why.to_string())?;
        let written = self.place.write(Kept::Watchdog, &bytes);
        written.map_err(|why| {
            let (shown, file) = (self.place.shown().display(), Kept::Watchdog.name());
            format!("cannot write {shown}/{file}: {why}")
        })
    }

    fn withdraw(&mut self) -> Result<(), String> {
        let removed = self.place.remove(Kept::Watchdog);
        removed.map_err(|why| why.to_string())
    }

    fn others(&self) -> Result<Vec<Share>, String> {
        let beside = self.beside()?.into_iter();
        Ok(beside.map(|(_, _, published)| published.share).collect())
    }

    fn any_other_lives(&self) -> Result<bool, String> {
        for (_, place, _) in self.beside()? {
            let free = place
                .lock_share()
                .map_err(|errno| errno.desc().to_owned())?;
            if free.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn keeper_of(&self, share: &Share) -> Result<Option<String>, String> {
        let beside = self.beside()?.into_iter();
        let keeper = beside.map(|(name, _, published)| (name, published.covered));
        let mut keeper = keeper.filter(|(_, covered)| covered.contains(&share.serial));
        Ok(keeper
            .next()
            .map(|(name, _)| format!("the lease-join of {name} on this host")))
    }

    fn step_forward(&mut self) -> Result<bool, String> {
        if self.open.is_none() {
            let file_name = self.device.replace([':', '/'], "-");
            let lock = Place::lock_device(&self.run_dir, &file_name);
            self.open = lock.map_err(|errno| errno.desc().to_owned())?;
        }
        Ok(self.open.is_some())
    }

    fn step_back(&mut self) {
        self.open = None;
    }

    fn open(&self) -> Result<KernelDevice, Failure> {
        KernelDevice::open(&self.path)
    }

    fn refused(&self, why: &str) -> Failure {
        refused(&self.path, why)
    }

    fn busy(&self, why: &str) -> Failure {
        let text = format!("cannot use watchdog {}: {why}", show(self.path.as_os_str()));
        Failure::new(Status::Busy, text)
    }

    fn say(&self, text: &str) {
        let path = show(self.path.as_os_str());
        say(TOOL, format!("{}: watchdog {path}: {text}", self.lockspace));
    }
}
