//! A simulated machine, as one thread of one of its processes sees it: disks by their paths,
//! processes, what is guarded.

use super::machine::Machine;
use super::port::{File, Handle, Port};
use lease_core::cgroup::Remains;
use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::contain::Guarded;
use lease_core::disk::{Disk, Fault};
use lease_core::process::ProcessId;
use lease_core::storage::{Access, Identity, OpenError, Presence, Storage, Volume};
use lease_core::surroundings::Surroundings;
use nix::errno::Errno;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Where a disk is.
pub fn path_of(disk: usize) -> PathBuf {
    format!("/disk{disk}").into()
}

/// What a disk is, whatever path leads to it.
pub fn identity_of(disk: usize) -> Identity {
    Identity {
        device: disk as u64,
        inode: 0,
    }
}

/// The machine, as one thread sees it.
#[derive(Clone)]
pub struct Around<'p> {
    /// The thread's way to the world.
    pub port: &'p Port<'p>,
    /// The machine.
    pub machine: Rc<Machine>,
}

/// An open disk, as one thread has it.
pub struct Open<'p> {
    file: File<'p>,
    machine: Rc<Machine>,
}

impl<'p> Around<'p> {
    /// What another thread has opened.
    pub fn take_over(&self, handle: Handle) -> Open<'p> {
        Open {
            file: self.port.file(handle),
            machine: Rc::clone(&self.machine),
        }
    }
}

impl Open<'_> {
    /// What is handed to another thread.
    pub fn hand_over(self) -> Handle {
        self.file.handle
    }
}

impl Clock for Around<'_> {
    fn now(&self) -> Moment {
        self.port.now()
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.port.wait(duration)
    }

    fn back_off(&self, most: Duration) {
        self.port.back_off(most);
    }
}

impl<'p> Storage for Around<'p> {
    type Volume = Open<'p>;

    fn open(&self, path: &Path, _: Access, limit: Duration) -> Result<Open<'p>, OpenError> {
        let setup = &self.machine.setup;
        let mut disks = 0..setup.disks + setup.more.len();
        let disk = disks.find(|disk| path_of(*disk) == path);
        let disk = disk.filter(|disk| self.machine.unreachable.get() != Some(*disk));
        let disk = disk.ok_or(OpenError::System(Errno::ENOENT))?;
        let handle = self.machine.new_handle(disk);
        Ok(self.take_over(Handle { limit, ..handle }))
    }
}

impl Disk for Open<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.file.read(offset, len)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        self.file.inspect(offset, len, see)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write(offset, bytes)
    }

    fn begin_read(&self, offset: u64, len: usize) -> Result<(), Fault> {
        self.file.begin_read(offset, len)
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.file.begin_write(offset, bytes)
    }

    fn is_answered(&self) -> bool {
        self.file.is_answered()
    }

    fn wait(&self, patience: Duration) -> Duration {
        self.file.wait(patience)
    }

    fn leave(&self) {
        self.file.leave();
    }

    fn settle(&self) -> Result<(), Fault> {
        self.file.settle()
    }

    fn settle_within(&self, patience: Duration) -> Result<(), Fault> {
        self.file.settle_within(patience)
    }
}

impl Volume for Open<'_> {
    fn identity(&self) -> Identity {
        identity_of(self.file.handle.disk)
    }

    /// There is room for whatever is asked for.
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn failure_is_final(&self) -> bool {
        self.machine.setup.storage.failure_is_final
    }

    fn io_ends_with_process(&self) -> bool {
        self.machine.setup.storage.io_ends_with_process
    }

    /// Here no file is replaced.
    fn presence(&self, _: u64, _: &Range<u64>) -> Presence {
        Presence::Same
    }

    fn set_limit(&mut self, limit: Duration) {
        self.file.handle.limit = limit;
    }

    fn shed_memory(&self) {}

    /// Here heartbeats bar no others in any case.
    fn write_after_failures(&mut self) {}
}

impl Surroundings for Around<'_> {
    type Process = i32;

    fn say(&self, text: &str) {
        self.machine.tell(|| text.to_owned());
    }

    fn wall_clock(&self) -> u64 {
        0
    }

    fn find(&self, id: ProcessId) -> Option<i32> {
        Some(id.pid).filter(|pid| !self.is_dead(pid))
    }

    fn id_of(&self, process: &i32) -> ProcessId {
        super::machine::process(*process)
    }

    fn is_dead(&self, process: &i32) -> bool {
        let trees = self.machine.trees.borrow();
        let first = trees.get(process).is_some_and(|tree| !tree.leader_dead);
        !first && !self.machine.lives(*process)
    }

    fn kill(&self, process: &i32) {
        self.machine.kill(*process);
    }

    fn kill_descendants(&self, process: &i32) {
        let trees = self.machine.trees.borrow();
        let its = trees.iter().filter(|(_, tree)| tree.holder == *process);
        let its: Vec<i32> = its.map(|(id, _)| *id).collect();
        drop(trees);
        its.into_iter()
            .for_each(|tree| self.machine.kill_tree(tree, true));
    }

    fn is_within_reach(&self, _: &Guarded) -> bool {
        true
    }

    fn strike(&self, guarded: &Guarded, _: Option<&i32>) -> Remains {
        let tree = guarded.process.pid;
        self.machine.kill_tree(tree, false);
        self.machine.remains(tree)
    }
}
