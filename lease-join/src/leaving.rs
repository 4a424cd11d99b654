//! How the server ends: the host id is given back, or what cannot be given back is said.

use crate::TOOL;
use crate::peers::describe;
use crate::server::{Server, Stage};
use anyhow::Context;
use lease_core::clock::Clock;
use lease_core::registry::message::Tell;
use lease_core::registry::place::Kept;
use lease_core::registry::table::{Holder, Link};
use lease_core::tool::{Failure, Status, say};
use std::time::Duration;

/// How long holders have to end their commands and release when lease-join leaves, before it does
/// that for them: more than they themselves give the command.
const LEAVE_WITHIN: Duration = Duration::from_secs(15);

impl Server {
    /// Leaves as if told to, and ends with this failure.
    pub(crate) fn leave_because(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.stop();
    }

    pub(crate) fn stop(&mut self) {
        let strike_at = self.clock.now().after(LEAVE_WITHIN);
        // What is given back for the dead may have to wait until nothing of before can land, and
        // what fails then until that cannot.
        let quiet_from = self.table.all_quiet_from().max(self.estate.ballots_from);
        let timing = self.life.timing;
        let give_up_at = (strike_at.max(quiet_from))
            .after(timing.takeover_after())
            .after(2 * timing.renewal_period());
        self.stage = Stage::Stopping {
            strike_at,
            give_up_at,
        };
        self.tell_all(&Tell::Stop);
    }

    /// Nothing is guarded any more. What is `free` leaves no trace.
    pub(crate) fn clear(&mut self, free: bool) -> anyhow::Result<()> {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.disarm().context("cannot disarm the watchdog")?;
        }
        let place = &self.seat.place;
        place.remove_socket().context("cannot remove the socket")?;
        if !free {
            let text = format!(
                "{}: a write of this host may still land; the host id is left to expire, in {} s",
                self.shown,
                self.life.timing.dead_after().as_secs()
            );
            say(TOOL, text);
            return Ok(());
        }
        place
            .remove(Kept::Holders)
            .context("cannot remove the holders' file")?;
        place
            .remove(Kept::Heartbeat)
            .context("cannot remove the heartbeat's file")
    }

    /// The result with which to end, if nothing is left to wait for, or no longer.
    pub(crate) fn end(&mut self) -> Option<Result<u8, Failure>> {
        let now = self.clock.now();
        match &self.stage {
            Stage::Serving | Stage::Leaving => None,
            Stage::Lost { why, strike_at } => {
                // A process in hung I/O cannot even be killed: whoever is told to end does not wait
                // for it.
                let told = self.signals.told_to_leave();
                let given_up = told && now >= strike_at.after(LEAVE_WITHIN);
                let text = format!("lost {}: {why}", self.shown);
                (!self.is_busy() || given_up).then(|| Err(Failure::new(Status::Lost, text)))
            }
            Stage::Stopping { give_up_at, .. } => {
                let unproven = |holder: &Holder| holder.link == Link::Unproven;
                let mut holders = self.table.holders();
                if now >= *give_up_at && self.table.holders().next().is_some() {
                    Some(Err(self.stays_owned()))
                } else if self.is_busy() {
                    None
                } else if self.table.holders().next().is_none() {
                    self.stage = Stage::Leaving;
                    self.heartbeat.leave(self.table.all_quiet_from());
                    None
                } else {
                    let left = holders.all(|(_, holder)| unproven(holder));
                    left.then(|| Err(self.stays_owned()))
                }
            }
        }
    }

    /// What could not be given back, and why: each in a line, the last one the failure.
    fn stays_owned(&self) -> Failure {
        let cannot = format!("cannot give back {}", self.shown);
        let mut lines: Vec<String> = Vec::new();
        for (id, holder) in self.table.holders() {
            let name = describe(holder);
            if self.giving_back.keys().all(|(of, _)| *of != id) {
                lines.push(format!("what {name} started may still run"));
                continue;
            }
            let of_this = self.giving_back.iter().filter(|((of, _), _)| *of == id);
            lines.extend(of_this.filter_map(|((_, index), why)| {
                let spec = &holder.claims.get(*index)?.asked.spec;
                Some(format!("{spec} of {name} stays owned by this host: {why}"))
            }));
        }
        let last = lines.pop().unwrap_or_default();
        for line in lines {
            say(TOOL, format!("{cannot}: {line}"));
        }
        let seconds = self.life.timing.dead_after().as_secs();
        let text = format!("{cannot}: {last}; other hosts can take over {seconds} s after this");
        Failure::new(Status::Busy, text)
    }
}
