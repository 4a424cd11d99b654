//! What must never happen, watched on the one true clock by code that shares nothing with the
//! code under test: it reads the sectors' bytes by offsets of its own.

use super::clock::Instant;
use std::collections::BTreeMap;

/// A guarded command that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which one.
    pub id: u64,
    /// The resource that it holds.
    pub resource: usize,
    /// The machine that it runs on.
    pub machine: usize,
    /// Of which host id and generation.
    pub life: (u64, u64),
    /// Exclusive rather than shared.
    pub exclusive: bool,
    /// By which version of the lease.
    pub lver: u64,
    /// Since when.
    pub since: Instant,
}

/// The watcher.
#[derive(Debug, Default)]
pub struct Checker {
    running: Vec<Run>,
    started: u64,
    decided: BTreeMap<(usize, u64), (u64, u64)>,
    granted: BTreeMap<usize, u64>,
    generations: BTreeMap<u64, u64>,
    violation: Option<String>,
    /// How often an exclusive lease was had.
    pub exclusive: u64,
    /// How often a shared lease was had.
    pub shared: u64,
    /// How many commands were killed because their lease was lost.
    pub lost: u64,
}

impl Checker {
    /// The first thing that went wrong.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Notes that something is wrong.
    pub fn accuse(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A command starts under a lease that its host believes to hold.
    pub fn start(&mut self, run: Run) -> u64 {
        let conflict =
            |other: &&Run| other.resource == run.resource && (other.exclusive || run.exclusive);
        if let Some(other) = self.running.iter().find(conflict) {
            let what = format!("two at once: {run:?} beside {other:?}");
            self.accuse(what);
        }
        if run.exclusive {
            self.exclusive += 1;
            let last = self.granted.insert(run.resource, run.lver).unwrap_or(0);
            if run.lver <= last {
                self.accuse(format!("lver went back: {run:?} after lver {last}"));
            }
        } else {
            self.shared += 1;
        }
        self.started += 1;
        let id = self.started;
        self.running.push(Run { id, ..run });
        id
    }

    /// A command has ended.
    pub fn stop(&mut self, id: u64) {
        self.running.retain(|run| run.id != id);
    }

    /// The commands that run on a machine.
    pub fn on(&self, machine: usize) -> impl Iterator<Item = &Run> {
        self.running
            .iter()
            .filter(move |run| run.machine == machine)
    }

    /// How many leases were had so far.
    pub fn granted(&self) -> u64 {
        self.started
    }

    /// All commands that run.
    pub fn running(&self) -> &[Run] {
        &self.running
    }

    /// A host id was joined.
    pub fn joined(&mut self, host: u64, generation: u64) {
        let last = self.generations.insert(host, generation).unwrap_or(0);
        if generation <= last {
            self.accuse(format!(
                "generation went back: host {host} joined as {generation} after {last}"
            ));
        }
    }

    /// Bytes came to be in a resource's first sector.
    pub fn leader_written(&mut self, resource: usize, sector: &[u8]) {
        let [owner, generation, lver, timestamp] = [32, 40, 48, 152].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&sector[at..at + 8]);
            u64::from_le_bytes(word)
        });
        if timestamp == 0 {
            return;
        }
        let now = (owner, generation);
        let before = *self.decided.entry((resource, lver)).or_insert(now);
        if before != now {
            self.accuse(format!(
                "resource {resource} lver {lver} decided twice: for {before:?} and {now:?} (host, generation)"
            ));
        }
    }
}
