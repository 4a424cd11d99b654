//! A process that runs on though it holds nothing, as a virtual machine that is suspended: it is
//! ended if whoever would give it leases again stays away.

use crate::args::TOOL;
use lease_core::clock::{BootClock, Moment};
use lease_core::holder::carrier::Carried;
use lease_core::process::Process;
use lease_core::tool;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks at the lock.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the thread that looks has to know.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    holds: AtomicBool,
    /// How often that has changed.
    changes: AtomicU64,
    /// 8t of what was held, in milliseconds; 0: nothing ever was.
    patience: AtomicU64,
}

impl Kept {
    /// What is held has changed.
    pub(crate) fn note(&self, carried: &Carried) {
        let lost_after = carried.hosts.iter().map(|host| host.lapse - host.early);
        if let Some(most) = lost_after.max() {
            let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
            self.patience.store(most, Ordering::SeqCst);
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.holds
            .store(!carried.hosts.is_empty(), Ordering::SeqCst);
    }

    /// Ends the process if it has held something, holds nothing, and nobody has locked this file,
    /// for 8t.
    pub(crate) fn watch(self: &Arc<Self>, lock: PathBuf, process: Arc<Process>) {
        let kept = Arc::clone(self);
        // Without a thread the process is not ended, as without this option.
        let _ = std::thread::Builder::new().spawn(move || kept.look(&lock, &process));
    }

    fn look(&self, lock: &Path, process: &Process) {
        let mut alone_since: Option<Moment> = None;
        let mut seen = 0;
        while !process.is_dead() {
            let now = BootClock::boot_time();
            let patience = Duration::from_millis(self.patience.load(Ordering::SeqCst));
            let is_kept = self.holds.load(Ordering::SeqCst) || patience.is_zero();
            let changes = self.changes.load(Ordering::SeqCst);
            let has_changed = std::mem::replace(&mut seen, changes) != changes;
            alone_since = match is_kept || has_changed || is_locked(lock) {
                true => None,
                false => Some(alone_since.unwrap_or(now)),
            };
            if alone_since.is_some_and(|since| now.since(since) > patience) {
                let text = format!(
                    "process {} is ended: it holds nothing, and for {} s nobody has locked {}",
                    process.id().pid,
                    patience.as_secs(),
                    tool::show(lock.as_os_str())
                );
                tool::say(TOOL, text);
                process.kill_family();
                process.kill();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Whether a process has locked the file as a whole. Looking takes no lock.
fn is_locked(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else {
        return false;
    };
    let mut wanted = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let asked = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut wanted));
    asked.is_ok() && i32::from(wanted.l_type) != libc::F_UNLCK
}
