//! How the server ends: the host id is given back, or what cannot be given back is said.

use super::names::name_of;
use super::server::{End, Server};
use super::stage::{LEAVE_WITHIN, Stage};
use super::surroundings::HostSurroundings;
use super::watchdog::Watchdog;
use crate::failure::{Failure, Status};
use crate::registry::message::Tell;
use crate::registry::table::{Holder, Link};

impl<S: HostSurroundings> Server<'_, S> {
    /// Leaves as if told to, and ends with this failure.
    pub(super) fn leave_because(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.stop();
    }

    pub(super) fn stop(&mut self) {
        let quiet_from = self.table.all_quiet_from().max(self.estate.ballots_from);
        self.stage = Stage::stopping(self.now(), quiet_from, self.life.timing);
        self.tell_all(&Tell::Stop);
    }

    /// Nothing is guarded any more. What is `free` leaves no trace.
    pub(super) fn clear(&mut self, free: bool) -> Result<(), Failure> {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.disarm()?;
        }
        self.s.stop_listening()?;
        if free {
            return self.s.forget();
        }
        let text = format!(
            "{}: a write of this host may still land; the host id is left to expire, in {} s",
            self.shown,
            self.life.timing.dead_after().as_secs()
        );
        self.say(&text);
        Ok(())
    }

    /// Nothing is guarded any more, and something else is to be said first.
    pub(super) fn disarm_if_possible(&mut self) {
        if let Some(Err(why)) = self.watchdog.take().map(Watchdog::disarm) {
            self.say(&format!("{}: {why}", self.shown));
        }
    }

    /// The result with which to end, if nothing is left to wait for, or no longer.
    pub(super) fn end(&mut self) -> Option<End> {
        let now = self.now();
        match &self.stage {
            Stage::Serving | Stage::Leaving => None,
            Stage::Lost { why, strike_at } => {
                // A process in hung I/O cannot even be killed: whoever is told to end does not wait
                // for it.
                let given_up = self.told_to_leave && now >= strike_at.after(LEAVE_WITHIN);
                let text = format!("lost {}: {why}", self.shown);
                (!self.is_busy() || given_up).then(|| Err(Failure::new(Status::Lost, text)))
            }
            Stage::Stopping { give_up_at, .. } => {
                let unproven = |(_, holder): (_, &Holder)| holder.link == Link::Unproven;
                let any_left = self.table.holders().next().is_some();
                if now >= *give_up_at && any_left {
                    return Some(Err(self.stays_owned()));
                }
                if self.is_busy() {
                    return None;
                }
                if !any_left {
                    self.stage = Stage::Leaving;
                    self.s.give_back_host_id(self.table.all_quiet_from());
                    return None;
                }
                let left = self.table.holders().all(unproven);
                left.then(|| Err(self.stays_owned()))
            }
        }
    }

    /// What could not be given back, and why: each in a line, the last one the failure.
    fn stays_owned(&self) -> Failure {
        let cannot = format!("cannot give back {}", self.shown);
        let giving_back = self.dead.giving_back();
        let mut lines: Vec<String> = Vec::new();
        for (id, holder) in self.table.holders() {
            let name = name_of(holder);
            if giving_back.keys().all(|(of, _)| *of != id) {
                lines.push(format!("what {name} started may still run"));
                continue;
            }
            let of_this = giving_back.iter().filter(|((of, _), _)| *of == id);
            lines.extend(of_this.filter_map(|((_, index), why)| {
                let spec = &holder.claims.get(*index)?.asked.spec;
                Some(format!("{spec} of {name} stays owned by this host: {why}"))
            }));
        }
        let last = lines.pop().unwrap_or_default();
        for line in lines {
            self.say(&format!("{cannot}: {line}"));
        }
        let seconds = self.life.timing.dead_after().as_secs();
        let text = format!("{cannot}: {last}; other hosts can take over {seconds} s after this");
        Failure::new(Status::Busy, text)
    }
}
