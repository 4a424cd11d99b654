//! What is guarded: a command that we start, or a process that runs already.

use crate::adopted::Adopted;
use crate::aside::Aside;
use crate::fork::Start;
use crate::guarded::Guarded;
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::holder::carrier::Carried;
use lease_core::holder::surroundings::Event;
use nix::poll::PollFd;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Either of them.
#[derive(Debug)]
pub(crate) enum Guardee {
    /// A command.
    Started(Guarded),
    /// A process.
    Adopted(Adopted),
}

impl Guardee {
    /// Puts it behind its gate, and tells who carries the last deadline.
    pub(crate) fn stand_at_gate(
        &mut self,
        run_dir: &Path,
        variables: Vec<(&'static str, String)>,
        carried: &Carried,
    ) -> anyhow::Result<Containment> {
        match self {
            Self::Started(guarded) => guarded.stand_at_gate(run_dir, variables, carried),
            Self::Adopted(adopted) => adopted.stand_at_gate(&variables, carried),
        }
    }

    /// What stands behind the gate, for whoever else is to watch it.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        match self {
            Self::Started(guarded) => guarded.pidfd(),
            Self::Adopted(adopted) => adopted.process().try_clone().ok(),
        }
    }

    /// Its number, if it ran before us.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Started(_) => None,
            Self::Adopted(adopted) => Some(adopted.process().id().pid.cast_unsigned()),
        }
    }

    /// Opens the gate.
    pub(crate) fn open_gate(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Started(guarded) => guarded.open_gate(),
            Self::Adopted(adopted) => {
                adopted.open_gate();
                Ok(())
            }
        }
    }

    /// The gate never opens.
    pub(crate) fn give_up_gate(&mut self) {
        match self {
            Self::Started(guarded) => guarded.give_up_gate(),
            Self::Adopted(adopted) => adopted.let_go(),
        }
    }

    /// It is guarded no more, and runs on.
    pub(crate) fn let_go(&mut self) {
        if let Self::Adopted(adopted) = self {
            adopted.let_go();
        }
    }

    /// What tells of it.
    pub(crate) fn news(&self) -> Vec<PollFd<'_>> {
        match self {
            Self::Started(guarded) => guarded.news().collect(),
            Self::Adopted(adopted) => adopted.news().collect(),
        }
    }

    /// What has become of it.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        match self {
            Self::Started(guarded) => guarded.hear(),
            Self::Adopted(adopted) => adopted.hear(),
        }
    }

    /// Whoever carries the last deadline need not act before this moment.
    pub(crate) fn not_before(&mut self, at: Moment) {
        match self {
            Self::Started(guarded) => guarded.not_before(at),
            Self::Adopted(adopted) => adopted.not_before(at),
        }
    }

    /// Whoever carries the last deadline hears what is held from now on.
    pub(crate) fn carry(&mut self, carried: &Carried) {
        match self {
            Self::Started(guarded) => guarded.carry(carried),
            Self::Adopted(adopted) => adopted.carry(carried),
        }
    }

    /// Sends it a signal. `false`: it is gone.
    pub(crate) fn signal(&mut self, number: i32) -> bool {
        match self {
            Self::Started(guarded) => guarded.signal(number),
            Self::Adopted(adopted) => adopted.signal(number),
        }
    }

    /// Sends a signal to what a command left behind.
    pub(crate) fn signal_rest(&self, number: i32) {
        if let Self::Started(guarded) = self {
            guarded.signal_rest(number);
        }
    }

    /// Asks everything to end; a stopped process is woken to hear it.
    pub(crate) fn terminate(&self) {
        match self {
            Self::Started(guarded) => guarded.terminate(),
            Self::Adopted(adopted) => adopted.terminate(),
        }
    }

    /// Kills everything.
    pub(crate) fn kill(&self, spare_aside: bool) {
        match self {
            Self::Started(guarded) => guarded.kill(spare_aside),
            Self::Adopted(adopted) => adopted.kill(spare_aside),
        }
    }

    /// What is left when it has ended, in words.
    pub(crate) fn rest(&self) -> Option<String> {
        match self {
            Self::Started(guarded) => guarded.rest(),
            Self::Adopted(adopted) => adopted.rest(),
        }
    }

    /// Puts away what nothing is in any more.
    pub(crate) fn tidy(&mut self) {
        if let Self::Started(guarded) = self {
            guarded.tidy();
        }
    }

    fn aside(&mut self) -> (&mut Aside, &Start) {
        match self {
            Self::Started(guarded) => (&mut guarded.aside, &guarded.start),
            Self::Adopted(adopted) => (&mut adopted.aside, &adopted.start),
        }
    }

    /// Runs the command of --on-request. `false`: there is none that runs.
    pub(crate) fn run_on_request(&mut self) -> bool {
        let (aside, start) = self.aside();
        aside.run_on_request(start)
    }

    /// Runs the command of --on-loss. `false`: there is none that runs.
    pub(crate) fn run_aside(&mut self) -> bool {
        let (aside, start) = self.aside();
        aside.run_on_loss(start)
    }

    /// Whether there is a command of --on-loss.
    pub(crate) fn has_aside(&self) -> bool {
        match self {
            Self::Started(guarded) => guarded.aside.on_loss.is_some(),
            Self::Adopted(adopted) => adopted.aside.on_loss.is_some(),
        }
    }

    /// The command was stopped.
    pub(crate) fn follow_stop(&self, signal: i32) {
        if let Self::Started(guarded) = self {
            guarded.follow_stop(signal);
        }
    }
}
