//! The machine that a tool runs on: the real [`Surroundings`].

use crate::cgroup::Remains;
use crate::clock::{BootClock, Clock, Interrupted, Moment};
use crate::contain::Guarded;
use crate::device::{Device, Devices};
use crate::process::{self, Process, ProcessId};
use crate::storage::{Access, OpenError, Storage};
use crate::surroundings::Surroundings;
use crate::tool;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Sweeps of what a process has started: what is forked during one is found by the next.
const SWEEPS_MAX: usize = 16;

/// This machine, as one thread of a tool sees it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The tool's name, with which its messages begin.
    pub tool: &'static str,
    /// Its time.
    pub clock: BootClock,
}

impl Clock for Machine {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.clock.wait(duration)
    }

    fn back_off(&self, most: Duration) {
        self.clock.back_off(most);
    }
}

impl Storage for Machine {
    type Volume = Device;

    fn open(&self, path: &Path, access: Access, limit: Duration) -> Result<Device, OpenError> {
        Devices.open(path, access, limit)
    }
}

impl Surroundings for Machine {
    type Process = Process;

    fn say(&self, text: &str) {
        tool::say(self.tool, text);
    }

    fn wall_clock(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    fn find(&self, id: ProcessId) -> Option<Process> {
        id.open()
    }

    fn id_of(&self, process: &Process) -> ProcessId {
        process.id()
    }

    fn is_dead(&self, process: &Process) -> bool {
        process.is_dead()
    }

    fn kill(&self, process: &Process) {
        process.kill();
    }

    fn kill_descendants(&self, process: &Process) {
        for _ in 0..SWEEPS_MAX {
            let found = process::descendants(process.id().pid, &[]);
            let alive = found.into_iter().filter_map(ProcessId::open);
            let alive: Vec<Process> = alive.filter(|process| !process.is_dead()).collect();
            if alive.is_empty() {
                return;
            }
            alive.iter().for_each(Process::kill);
        }
    }

    fn is_within_reach(&self, guarded: &Guarded) -> bool {
        guarded.is_within_reach()
    }

    fn strike(&self, guarded: &Guarded, process: Option<&Process>) -> Remains {
        guarded.kill(process)
    }
}
