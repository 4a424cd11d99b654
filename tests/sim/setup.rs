//! How a machine is set up.

use super::checker::times;
use lease_core::id::{HostId, Name};
use lease_core::timing::Timing;
use std::time::Duration;

/// How a machine is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whether it runs the sanlock daemon instead of our tools.
    pub sanlock: bool,
    /// Which lockspace this is about.
    pub lockspace: usize,
    /// Its host id there; two machines may have the same.
    pub host: HostId,
    /// t and W there.
    pub timing: Timing,
    /// A shorter W, with which lease-join is started now and then.
    pub shorter: Option<Timing>,
    /// Its host ids, t and W in further lockspaces.
    pub more: Vec<(HostId, Timing)>,
    /// The same name at each boot, rather than a random one.
    pub name: Option<Name>,
    /// How commands are contained.
    pub cage: Cage,
    /// Whether there is a watchdog device.
    pub watchdog: bool,
    /// What its kernel says of I/O to the disks.
    pub storage: Storage,
    /// Disks that each resource lies on.
    pub disks: usize,
    /// Of the disks of a resource some may answer only when a majority has.
    pub some_late: bool,
    /// Resources in the lockspace.
    pub resources: usize,
    /// Highest host id that takes part in ballots.
    pub num_hosts: u64,
    /// Of a hundred acquires, how many are shared.
    pub shared_percent: u64,
    /// Longest time that a holder thinks before it wants a lease.
    pub pace: Duration,
    /// Longest time that a lease is held.
    pub hold: Duration,
    /// Whether all that happens is that leases are lost, and taken over at the first moment.
    pub tight: bool,
}

impl Setup {
    /// In how many lockspaces it has a host id.
    pub fn lockspaces(&self) -> usize {
        1 + self.more.len()
    }

    /// The disk of its lockspace.
    pub fn heartbeats(&self) -> usize {
        match self.lockspace {
            0 => 0,
            index => self.disks + index - 1,
        }
    }

    /// By lease.7.
    pub fn lost_after(&self) -> Duration {
        times::lost_after(self.timing.io_timeout().into())
    }

    /// Nothing that was issued lands later (assumption c of lease.7, by the shortest W).
    pub fn lands_within(&self) -> Duration {
        let timing = self.shorter.unwrap_or(self.timing);
        times::dead_after(timing.io_timeout().into(), timing.watchdog().into())
    }

    /// By lease.7, by the longest W.
    pub fn dead_after(&self) -> Duration {
        let (t, w) = (self.timing.io_timeout(), self.timing.watchdog());
        times::dead_after(t.into(), w.into())
    }
}

/// When an I/O is over, by the kind of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// A write that has failed is on the disk or not, and stays so.
    pub failure_is_final: bool,
    /// A process is dead only when all its I/O is over.
    pub io_ends_with_process: bool,
}

impl Storage {
    /// Failed writes are over, and those of the dead are not.
    pub const USUAL: Self = Self {
        failure_is_final: true,
        io_ends_with_process: false,
    };
    /// A block device: those of the dead are over, and failed ones are not.
    pub const DEVICE: Self = Self {
        failure_is_final: false,
        io_ends_with_process: true,
    };
    /// A file of a file system of this machine: both are.
    pub const LOCAL: Self = Self {
        failure_is_final: true,
        io_ends_with_process: true,
    };
    /// A file on a network: neither is.
    pub const NETWORK: Self = Self {
        failure_is_final: false,
        io_ends_with_process: false,
    };
}

/// A kind of containment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cage {
    /// A control group.
    Group,
    /// A PID namespace.
    Namespace,
    /// Nothing but the tree of processes.
    Tree,
}
