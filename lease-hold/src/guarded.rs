//! What is guarded: the command, what contains it, who carries its last deadline, and what is run
//! aside when its lease is lost.

use crate::aside::Aside;
use crate::cage::Cage;
use crate::child::{self, Child, Waiting};
use crate::command::Command;
use crate::fork::{self, Start};
use crate::keeper::Keeper;
use crate::terminal;
use crate::tree;
use anyhow::Context;
use lease_core::clock::Moment;
use lease_core::contain::Containment;
use lease_core::holder::carrier::Carried;
use lease_core::holder::surroundings::Event;
use lease_core::priority;
use lease_core::process::ProcessId;
use nix::libc;
use nix::poll::PollFd;
use nix::sys::signal::Signal;
use std::env;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// All that belongs to the command.
#[derive(Debug)]
pub(crate) struct Guarded {
    /// Who ends it if nobody else does.
    pub(crate) keeper: Option<Keeper>,
    /// What it is in.
    pub(crate) cage: Cage,
    /// What is to be run.
    pub(crate) command: Command,
    /// How it starts.
    pub(crate) start: Start,
    /// What asks it to end.
    pub(crate) kill_signal: Signal,
    /// What is run beside it.
    pub(crate) aside: Aside,
    waiting: Option<Waiting>,
    child: Option<Child>,
    /// Nothing is left of the command and of all that it started.
    is_gone: bool,
}

impl Guarded {
    /// Nothing is started yet.
    pub(crate) fn new(
        (keeper, cage): (Option<Keeper>, Cage),
        (command, start): (Command, Start),
        kill_signal: Signal,
        aside: Aside,
    ) -> Self {
        Self {
            keeper,
            cage,
            command,
            start,
            kill_signal,
            aside,
            waiting: None,
            child: None,
            is_gone: false,
        }
    }

    /// Puts the command behind its gate, and tells who carries the last deadline.
    pub(crate) fn stand_at_gate(
        &mut self,
        run_dir: &Path,
        variables: Vec<(&'static str, String)>,
        carried: &Carried,
    ) -> anyhow::Result<Containment> {
        tree::adopt_orphans().context("cannot become a child subreaper")?;
        self.aside.environment = environment(&variables);
        let how = (&self.cage, &self.start);
        let told = (run_dir, carried);
        let waiting = child::fork_gated(&self.command, &self.aside.environment, how, told)?;
        if let Some(keeper) = &mut self.keeper {
            let group = self.cage.killer().map(AsFd::as_fd);
            keeper.begin(carried, (waiting.pidfd()?.as_fd(), group, false))?;
        }
        self.waiting = Some(waiting);
        Ok(self.cage.containment())
    }

    /// What stands behind the gate, for whoever else is to watch it.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        self.waiting.as_ref()?.pidfd().ok()
    }

    /// Opens the gate.
    pub(crate) fn open_gate(&mut self) -> anyhow::Result<()> {
        let waiting = self.waiting.take().context("nothing is at the gate")?;
        self.child = Some(waiting.open()?);
        // From now on there is a deadline to be kept, and not much else to do.
        fork::trim_heap();
        priority::lock_memory();
        Ok(())
    }

    /// The gate never opens.
    pub(crate) fn give_up_gate(&mut self) {
        self.waiting = None;
    }

    /// What tells of the command.
    pub(crate) fn news(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.child.iter().flat_map(Child::news)
    }

    /// What has become of it.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        let events = self.child.as_mut().map(Child::hear).unwrap_or_default();
        if events.iter().any(|event| matches!(event, Event::TreeGone)) {
            self.is_gone = true;
            self.keeper.iter().for_each(Keeper::end);
        }
        events
    }

    /// Puts away what nothing is in any more.
    pub(crate) fn tidy(&mut self) {
        // A lease may be given back while the command runs on.
        if self.is_gone {
            self.cage.remove();
        }
    }

    /// Whoever carries the last deadline need not act before this moment.
    pub(crate) fn not_before(&mut self, at: Moment) {
        let child = self.child.iter_mut();
        child.for_each(|child| child.not_before(at));
        let keeper = self.keeper.iter_mut();
        keeper.for_each(|keeper| keeper.not_before(at));
    }

    /// Whoever carries the last deadline hears what is held from now on.
    pub(crate) fn carry(&mut self, carried: &Carried) {
        let child = self.child.iter_mut();
        child.for_each(|child| child.carry(carried));
        let keeper = self.keeper.iter_mut();
        keeper.for_each(|keeper| keeper.carry(carried));
    }

    /// Sends the command a signal. `false`: it is gone.
    pub(crate) fn signal(&mut self, number: i32) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.signal(number))
    }

    /// Sends a signal to what it left behind.
    pub(crate) fn signal_rest(&self, number: i32) {
        tree::signal_all(number, &self.spared(false), None);
    }

    /// Asks everything to end; a stopped process is woken to hear it.
    pub(crate) fn terminate(&self) {
        let spared = self.spared(true);
        if let Some(child) = &self.child {
            child.signal_all(self.kill_signal as i32, &spared);
            child.signal_all(libc::SIGCONT, &spared);
        }
    }

    /// Kills everything.
    pub(crate) fn kill(&self, spare_aside: bool) {
        self.cage.kill();
        if let Some(child) = &self.child {
            child.kill_all(&self.spared(spare_aside));
        }
    }

    fn spared(&self, aside: bool) -> Vec<ProcessId> {
        let aside = self.aside.running.filter(|_| aside);
        let keeper = self.keeper.as_ref().and_then(Keeper::id);
        aside.into_iter().chain(keeper).collect()
    }

    /// What is left of all that the command has started, in words.
    pub(crate) fn rest(&self) -> Option<String> {
        let child = self.child.as_ref()?;
        tree::describe(&child.rest(&self.spared(true)))
    }

    /// The command was stopped.
    pub(crate) fn follow_stop(&self, signal: i32) {
        let group = self.child.as_ref().and_then(Child::group);
        terminal::follow(signal, group);
    }
}

/// NAME=VALUE strings: our own environment with these variables set.
pub(crate) fn environment(ours: &[(&'static str, String)]) -> Vec<CString> {
    let kept = env::vars_os().filter(|(name, _)| !ours.iter().any(|(n, _)| name == n));
    let all = kept.chain(
        ours.iter()
            .map(|(n, v)| (OsString::from(n), OsString::from(v))),
    );
    all.filter_map(|(name, value)| {
        // What came from our own environment and names has no NUL in it.
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    })
    .collect()
}
