//! Shell commands that are run beside what is guarded: of --on-loss and of --on-request.

use crate::fork::{self, Start};
use lease_core::process::ProcessId;
use std::ffi::{CString, OsString};

/// What is to be run, and what runs.
#[derive(Debug)]
pub(crate) struct Aside {
    /// When the lease is lost.
    pub(crate) on_loss: Option<OsString>,
    /// When another host asks for the lease.
    pub(crate) on_request: Option<OsString>,
    /// Their environment: known once all is acquired.
    pub(crate) environment: Vec<CString>,
    /// The command of --on-loss, once it was started.
    pub(crate) running: Option<ProcessId>,
}

impl Aside {
    /// Runs the command of --on-loss. Whether there is one.
    pub(crate) fn run_on_loss(&mut self, start: &Start) -> bool {
        self.running = self.run(self.on_loss.as_ref(), start);
        self.running.is_some()
    }

    /// Runs the command of --on-request. Whether there is one.
    pub(crate) fn run_on_request(&self, start: &Start) -> bool {
        self.run(self.on_request.as_ref(), start).is_some()
    }

    fn run(&self, command: Option<&OsString>, start: &Start) -> Option<ProcessId> {
        fork::run_aside(command?, &self.environment, start)
    }
}
