//! What the two daemons ask of the machine that they run on, beside disks and time: processes, what
//! is guarded, a line for people.
//!
//! The third trait beside [`Disk`](crate::disk::Disk) and [`Clock`], in the same blocking style.
//! What only lease-join or only lease-hold asks for is a trait of its own, which leads here. The
//! real one is [`crate::machine::Machine`]; the simulator has another.

use crate::cgroup::Remains;
use crate::clock::Clock;
use crate::contain::Guarded;
use crate::process::ProcessId;
use crate::storage::Storage;

/// One machine, as one thread of one of its processes sees it.
///
/// Its clock's waits are cut short once the process is told to leave.
pub trait Surroundings: Clock + Storage {
    /// A process, held so that its number, used again by another, is never taken for it.
    type Process: std::fmt::Debug;

    /// One line for people. Whether anybody reads it changes nothing, and nobody is waited for
    /// longer than a moment.
    fn say(&self, text: &str);

    /// The wall clock: whole seconds since 1970, for people. Nothing is decided by it.
    fn wall_clock(&self) -> u64;

    /// Finds a process again. `None`: it is gone, that is, dead and seen dead by its parent; what
    /// has its number now is another.
    fn find(&self, id: ProcessId) -> Option<Self::Process>;

    /// Which process it is.
    fn id_of(&self, process: &Self::Process) -> ProcessId;

    /// Whether all its threads have ended. `true` is a proof; `false` says nothing of the next
    /// moment.
    fn is_dead(&self, process: &Self::Process) -> bool;

    /// Sends it SIGKILL. Nothing happens if it is gone; that it dies is seen by
    /// [`Surroundings::is_dead`] alone.
    fn kill(&self, process: &Self::Process);

    /// Sends SIGKILL to all that descends from a process, and not to itself. Proves nothing: what
    /// is forked meanwhile, and whose parent is dead, may be missed.
    fn kill_descendants(&self, process: &Self::Process);

    /// Whether what a process is contained in can be reached from here: only then can all of it be
    /// killed from here, and be seen to be gone.
    fn is_within_reach(&self, guarded: &Guarded) -> bool;

    /// Kills all of what is guarded, and says what is left of it by then. `process` is its first
    /// one, if that was found. Only [`Remains::Nothing`] is a proof.
    fn strike(&self, guarded: &Guarded, process: Option<&Self::Process>) -> Remains;
}
