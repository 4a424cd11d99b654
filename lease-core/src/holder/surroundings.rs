//! What a lease-hold asks of the machine that it runs on, beside disks and time.

use super::carrier::{Carried, CarriedHost, Renewals};
use super::job::{Answer, Job};
use crate::clock::Moment;
use crate::contain::Containment;
use crate::delta::Tenure;
use crate::failure::Failure;
use crate::id::{Generation, Name};
use crate::registry::message::{Ask, Asked, HolderId, Phase, Tell, Welcome};
use crate::spec::{ResourceArgument, ResourceSpec};
use crate::surroundings::Surroundings;
use nix::errno::Errno;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A lease-join said something.
    Told(usize, Tell),
    /// The connection to a lease-join has ended.
    Ended(usize),
    /// A lease-join listens again.
    Found(usize),
    /// A signal came; `true`: from the terminal, so the command has it too.
    Signal(i32, bool),
    /// To [`HolderSurroundings::open`]: the resources in their order.
    Opened(Result<Vec<(ResourceSpec, Asked)>, Failure>),
    /// The worker of a resource is done.
    Done(usize, Answer),
    /// The command could not be executed.
    NotExecuted(Errno),
    /// The command ended, with this exit code.
    Exited(u8),
    /// The command was stopped by this signal.
    Stopped(i32),
    /// The command and all that it started are gone.
    TreeGone,
    /// The file of the value is written, or why not.
    ValueGiven(Result<(), Failure>),
    /// What stands in the file of the value, or why that is not known.
    ValueTaken(Result<Vec<u8>, Failure>),
}

/// Why a registration was not answered.
#[derive(Debug)]
pub enum Unanswered {
    /// It is not allowed.
    Forbidden,
    /// There is no live lease-join: why.
    Absent(String),
}

/// The machine, as the main thread of one lease-hold sees it. Lease-joins, one a lockspace, and
/// resources are told apart by their numbers.
///
/// Nothing here waits for a disk, or for a peer that does not answer, but [`register`] and, for as
/// long as is asked, [`wait`].
///
/// [`register`]: HolderSurroundings::register
/// [`wait`]: HolderSurroundings::wait
pub trait HolderSurroundings {
    /// What is asked of any machine.
    type Machine: Surroundings;

    /// How long it is from one question to lease-join about another holder on this host to the
    /// next.
    const ASK_AGAIN: Duration;

    /// Its clock, its processes, and where a line is said.
    fn machine(&self) -> &Self::Machine;

    /// The number of our own process, for people.
    fn pid(&self) -> u32;

    // ---- what happens

    /// Takes all that has happened. Of the end of all that the command has started nothing is said
    /// before all else that it, or a lease-join, had said by then.
    fn gather(&mut self) -> Vec<Event>;

    /// Waits until there may be something to gather, or until `until`; for ever without that. May
    /// return at any time before, and never long after.
    fn wait(&mut self, until: Option<Moment>);

    // ---- lease-joins

    /// Where they are found.
    fn run_dir(&self) -> &Path;

    /// Connects to the lease-join of a lockspace, which has this number from now on; says the first
    /// thing, and waits some seconds for the answer.
    fn register(&mut self, number: usize, lockspace: &Name, ask: &Ask) -> Result<Tell, Unanswered>;

    /// Says something to a lease-join, with the descriptor that belongs to it. `false`: it may not
    /// hear of that; if the connection has ended, [`Event::Ended`] follows.
    fn ask(&mut self, number: usize, ask: &Ask) -> bool;

    /// From now on looks for a lease-join that listens in place of the one that has ended, for as
    /// long as [`super::session::seek`] says. [`Event::Found`] follows once there is one; what is
    /// said after that goes there.
    fn look_for(&mut self, number: usize, lockspace: &Name, tenure: &Arc<Tenure>);

    /// Ends the connection to a lease-join. Nothing is heard of it any more.
    fn hang_up(&mut self, number: usize);

    /// Leaves word for the next lease-join: nothing runs any more, and this is what was done last.
    fn leave_mark(
        &mut self,
        lockspace: &Name,
        generation: Generation,
        holder: HolderId,
        phases: &[Phase],
    );

    /// From now on, [`HolderSurroundings::renewals`] tells of these hosts.
    fn follow(&mut self, hosts: &[CarriedHost]);

    /// What the lease-joins' own files say, as far as they can be read in a moment.
    fn renewals(&mut self) -> Option<Renewals>;

    // ---- workers

    /// Opens the disks of resources that an order names, all or none; [`Event::Opened`] follows.
    /// Their workers are to be started in the same order.
    fn open(&mut self, resources: Vec<ResourceArgument>);

    /// What was opened and has no worker is closed.
    fn close_opened(&mut self);

    /// The worker of a resource ends when it has done what it was given. Another one may have its
    /// number.
    fn end_worker(&mut self, index: usize);

    /// Starts the worker of a resource, in the name of this host.
    fn start_worker(
        &mut self,
        index: usize,
        welcome: &Arc<Welcome>,
        tenure: &Arc<Tenure>,
    ) -> anyhow::Result<()>;

    /// Gives a worker something to do, after what it is at. [`Event::Done`] follows.
    fn give(&mut self, index: usize, job: Job);

    /// Cuts short every wait of the workers, from now on.
    fn interrupt(&mut self);

    // ---- the command

    /// Puts the command's process behind its gate, contained, with these variables in its
    /// environment, and tells who carries the last deadline. From now on [`Ask::Guard`] brings its
    /// descriptor along. How it is contained.
    fn stand_at_gate(
        &mut self,
        variables: Vec<(&'static str, String)>,
        carried: &Carried,
    ) -> anyhow::Result<Containment>;

    /// Opens the gate: the command runs, unless its carrier knows that it is too late.
    fn open_gate(&mut self) -> anyhow::Result<()>;

    /// The gate never opens: the process behind it ends without having run anything.
    fn give_up_gate(&mut self);

    /// Tells who carries the last deadline that nothing need be killed before this moment.
    fn not_before(&mut self, at: Moment);

    /// Tells who carries the last deadline what is held from now on.
    fn carry(&mut self, carried: &Carried);

    /// What was adopted is guarded no more: from now on nobody on our side ends it.
    fn let_go(&mut self);

    /// Sends a signal to the command. `false`: it is gone.
    fn signal(&mut self, number: i32) -> bool;

    /// Sends a signal to all that the command has left behind.
    fn signal_rest(&mut self, number: i32);

    /// Asks the command and all that it started to end, but for what was run aside; a stopped
    /// process is woken to hear it.
    fn terminate(&mut self);

    /// Sends SIGKILL to the command and all that it started, but for what was run aside if that is
    /// to be spared.
    fn kill(&mut self, spare_aside: bool);

    /// Runs the command of --on-request beside the other. `false`: there is none that runs.
    fn run_on_request(&mut self) -> bool;

    /// Whether the value block of the lease is to stand in a file while the command runs: then it
    /// is the only lease.
    fn hands_on_value(&self) -> bool;

    /// Writes this to that file, in place of what is there. [`Event::ValueGiven`] follows.
    fn give_value(&mut self, value: Vec<u8>);

    /// Reads that file; of one that is longer than `most` one byte beyond. [`Event::ValueTaken`]
    /// follows.
    fn take_value(&mut self, most: usize);

    /// What is left of all that the command has started, but for what was run aside, in words;
    /// `None`: nothing that can be found.
    fn rest(&mut self) -> Option<String>;

    /// Runs the command of --on-loss beside the other. `false`: there is none that runs.
    fn run_aside(&mut self) -> bool;

    /// Whether there is a command of --on-loss.
    fn has_aside(&self) -> bool;

    // ---- the terminal

    /// Stops this process, so that the shell notices.
    fn stop(&mut self);

    /// Stops this process if the command was stopped by this signal in the terminal's foreground.
    fn follow_stop(&mut self, signal: i32);

    /// A wall-clock time, seconds since 1970, as people here read it.
    fn local_time(&self, since_1970: u64) -> String;
}
