//! Storage that fails while leases are waited for is waited out as a holder is. It is said once
//! when that begins, and once when it is over.

use crate::clock::Moment;
use crate::surroundings::Surroundings;
use std::time::Duration;

/// Between two attempts.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What is wrong at the moment, if anything is.
#[derive(Debug, Default)]
pub(crate) struct Trouble(Option<(Moment, String)>);

impl Trouble {
    /// It has begun, or goes on, with `what`, because of `why`. Returns when it began.
    pub(crate) fn go_on(&mut self, machine: &impl Surroundings, what: &str, why: &str) -> Moment {
        let (since, _) = self.0.get_or_insert_with(|| {
            machine.say(&format!("{what}: {why}; trying again until that is over"));
            (machine.now(), what.to_owned())
        });
        *since
    }

    /// Whether it has gone on for longer than `most`.
    pub(crate) fn is_older(&self, now: Moment, most: Duration) -> bool {
        let since = self.0.as_ref().map(|(since, _)| *since);
        since.is_some_and(|since| now.since(since) > most)
    }

    /// It is over, if there was any.
    pub(crate) fn end(&mut self, machine: &impl Surroundings) {
        if let Some((_, what)) = self.0.take() {
            machine.say(&format!("{what}: the trouble is over; trying as before"));
        }
    }
}

/// How long to wait before another attempt, where one I/O may take `limit`.
pub(crate) fn pause(limit: Duration) -> Duration {
    (limit / 2).min(TRY_AGAIN)
}
