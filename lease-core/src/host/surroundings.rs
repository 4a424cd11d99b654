//! What a host asks of its machine beyond what all tools do, and what it hears.

use super::giving_back::{Estate, GiveBack, Lease, Progress};
use super::heart::{Beat, Heart};
use super::kept::{Holders, Life};
use super::memory::{MachineId, Memory};
use super::watchdog::{Sharing, Watchdog};
use crate::clock::Moment;
use crate::delta::Calls;
use crate::failure::Failure;
use crate::id::{Generation, Name};
use crate::record::host_note::BootId;
use crate::registry::message::{Ask, HolderId, Phase, Tell};
use crate::registry::table::Changes;
use crate::storage::Storage;
use crate::surroundings::Surroundings;
use crate::timing::Timing;
use std::fmt::Display;
use std::time::Duration;

/// An open file or device of a host's machine.
pub type VolumeOf<S> = <<S as HostSurroundings>::Around as Storage>::Volume;
/// A process on it.
pub type ProcessOf<S> = <<S as HostSurroundings>::Around as Surroundings>::Process;

/// Names one connection for as long as this process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

/// What came along with a message: a descriptor of a process.
#[derive(Debug)]
pub enum Beside<P> {
    /// Nothing.
    Nothing,
    /// One of a process that is gone, or no such descriptor.
    Gone,
    /// One of this process, which lives.
    Process(P),
}

/// What the server hears.
#[derive(Debug)]
pub enum Event<P> {
    /// The thread that renews has news. What it says is heard before all that peers have said up to
    /// then.
    Beat(Beat),
    /// Somebody whom we trust has connected: a process of our own user, or of root.
    Connected {
        /// The connection.
        peer: PeerId,
        /// The process that has connected.
        pid: i32,
    },
    /// A peer says something.
    Said {
        /// The connection.
        peer: PeerId,
        /// What it says.
        ask: Ask,
        /// What came with it, with an [`Ask::Register`], [`Ask::Resume`] or [`Ask::Guard`].
        beside: Beside<P>,
    },
    /// A connection has ended. All that it has said has been heard before.
    Ended {
        /// The connection.
        peer: PeerId,
        /// To its last word: nothing that it has said was lost.
        whole: bool,
    },
    /// There is news of a lease that is given back.
    GivenBack(Lease, Progress),
    /// A page of the holders' file is written, and so is all that was on those before it.
    Written(u64),
    /// This process is told to leave.
    Leave,
    /// This process is told to end at once, and to leave all as it is.
    End,
}

/// What a lease-join asks of its machine beyond what all tools do.
///
/// All of it is called by the one thread that serves. Nothing here waits for a peer, or for the
/// storage.
pub trait HostSurroundings {
    /// The machine, as this thread sees it.
    type Around: Surroundings;
    /// Its watchdog device, as this lockspace shares it.
    type Watchdog: Sharing;

    /// How long it is from one strike at those who are to die to the next.
    const STRIKE_EVERY: Duration;

    /// The machine, as this thread sees it. Its waits are cut short once this process is told to
    /// leave.
    fn around(&self) -> &Self::Around;

    /// Sixteen bytes that differ at every boot.
    fn boot_id(&self) -> Result<BootId, Failure>;

    /// The PID namespace that we are in: processes of another are not seen from here.
    fn pid_namespace(&self) -> Result<u64, Failure>;

    /// A host name that no other start of any lease-join has.
    fn random_name(&self) -> Result<Name, Failure>;

    /// The watchdog device as messages show it, if there is to be one.
    fn watchdog_name(&self) -> Option<String>;

    /// Arms the watchdog device ([`Watchdog::arm`]), if there is to be one. On failure it is as it
    /// was found, or the failure says that it is not.
    fn arm_watchdog(&self, timing: Timing) -> Result<Option<Watchdog<Self::Watchdog>>, Failure>;

    // ---- what outlives a boot; asked for by whoever takes a host id by itself

    /// Which machine this is.
    fn machine_id(&self) -> MachineId;

    /// What is remembered of the lockspace; `None`: nothing. What cannot be read is a failure.
    fn remembered(&self) -> Result<Option<Memory>, Failure>;

    /// Remembers that instead. Once this returns it is remembered, whatever happens to this
    /// machine; on a failure the one before is.
    fn remember(&self, memory: &Memory) -> Result<(), Failure>;

    // ---- the run directory

    /// The run directory, for messages.
    fn run_dir(&self) -> String;

    /// The heartbeat's file; `None` if there is none. What cannot be read is a failure.
    fn life(&self) -> Result<Option<Life>, Failure>;

    /// The holders' file; `None` if there is none. What cannot be read is a failure.
    fn holders(&self) -> Result<Option<Holders>, Failure>;

    /// Writes the heartbeat's file, as a whole or not at all. It outlives this process, not this
    /// boot.
    fn keep(&self, life: &Life) -> Result<(), String>;

    /// Writes what has changed behind what stands in the holders' file, or `all` of it anew, some
    /// time, and as often as it takes: what is written then may be a later page already. The first
    /// page of this process is all of it. [`Event::Written`] tells of it, and nothing else does.
    fn keep_holders(&mut self, page: u64, changes: Changes, all: impl FnOnce() -> Holders);

    /// Takes the mark away by which a holder, without a lease-join, has said that it has seen the
    /// end of all that it started; what it had left of each resource by then, if there was one. On
    /// one that cannot be read stands nothing.
    fn take_mark(&self, generation: Generation, holder: HolderId) -> Option<Vec<Phase>>;

    /// Removes both files: they hold nothing that a next lease-join would have to know.
    fn forget(&self) -> Result<(), Failure>;

    // ---- the server

    /// From now on holders may connect, and [`HostSurroundings::wait`] hears them.
    fn listen(&mut self, estate: &Estate) -> Result<(), Failure>;

    /// From now on nobody finds us any more.
    fn stop_listening(&mut self) -> Result<(), Failure>;

    /// Says, on stdout and to the service manager, that the host id is joined. Whoever does not
    /// listen is not waited for; that it cannot be said is a failure.
    fn announce(&mut self, line: &str) -> Result<(), Failure>;

    /// What we do, for the service manager, and that we live. Called in each round.
    fn doing(&mut self, what: impl Display);

    /// Starts the thread that renews. It runs [`Heart::run`].
    fn start_heart(&mut self, heart: Heart<VolumeOf<Self>>) -> Result<(), Failure>;

    /// Tells that thread whom to call from its next renewal on.
    fn call(&mut self, calls: Calls);

    /// Tells that thread to give the host id back. Before `quiet_from` a write of ours may still
    /// land on a resource.
    fn give_back_host_id(&mut self, quiet_from: Moment);

    /// Lets a thread of its own run [`GiveBack::run`], now or as soon as there can be one: the
    /// storage of any may hang. [`Event::GivenBack`] tells how it goes.
    fn give_back(&mut self, lease: Lease, task: GiveBack);

    /// Waits until there is something to hear, but not beyond `until`. May return for no reason.
    fn wait(&mut self, until: Moment) -> Result<(), Failure>;

    /// The next thing that is there to be heard. Never waits.
    fn next(&mut self) -> Option<Event<ProcessOf<Self>>>;

    /// Tells a peer something. One that cannot be told, since its connection is broken or it does
    /// not read, is heard to have ended soon.
    fn tell(&mut self, peer: PeerId, tell: &Tell);

    /// Ends a connection. Nothing is heard of it any more.
    fn close(&mut self, peer: PeerId);
}
