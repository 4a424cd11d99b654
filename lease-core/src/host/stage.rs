//! Where the server is in its life, what follows from that, and until when.

use crate::clock::Moment;
use crate::delta::Tenure;
use crate::registry::message::Tell;
use crate::timing::Timing;
use std::time::Duration;

/// How long holders have to end their commands and release when lease-join leaves, before it does
/// that for them: more than they themselves give the command.
pub(super) const LEAVE_WITHIN: Duration = Duration::from_secs(15);

/// Where the server is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Renewing and answering.
    Serving,
    /// Told to leave: holders stop, release, go; those that do not are killed at `strike_at`. What
    /// cannot be given back by `give_up_at` stays owned.
    Stopping {
        strike_at: Moment,
        give_up_at: Moment,
    },
    /// No holder is left; the host id is being given back.
    Leaving,
    /// The host id is lost: holders kill and go; those that do not are killed at `strike_at`.
    Lost { why: String, strike_at: Moment },
}

impl Stage {
    /// From now on it is left. Before `quiet_from` an earlier write may land on a resource.
    pub(super) fn stopping(now: Moment, quiet_from: Moment, timing: Timing) -> Self {
        let strike_at = now.after(LEAVE_WITHIN);
        // What is given back for the dead may have to wait until nothing of before can land, and
        // what fails then until that cannot.
        let give_up_at = (strike_at.max(quiet_from))
            .after(timing.takeover_after())
            .after(2 * timing.renewal_period());
        Self::Stopping {
            strike_at,
            give_up_at,
        }
    }

    /// It is lost. Holders kill by themselves, half-way to the moment at which another host may
    /// take over; at three quarters we do it for them. Taken on the disk there is no time to wait
    /// for.
    pub(super) fn lost(why: String, now: Moment, tenure: &Tenure) -> Self {
        let (timing, renewed) = (tenure.timing(), tenure.renewed());
        let strike_at = match now >= renewed.after(timing.lost_after()) {
            true => renewed.after(timing.strike_after()),
            false => now.after(timing.strike_within()),
        };
        Self::Lost { why, strike_at }
    }

    /// In a word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Stopping { .. } => "stopping",
            Self::Leaving => "leaving",
            Self::Lost { .. } => "lost",
        }
    }

    /// Whether the host id is lost.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// What everybody is told who wants something new, or comes back; `None`: they go on.
    pub(super) fn farewell(&self) -> Option<Tell> {
        match self {
            Self::Serving => None,
            Self::Stopping { .. } | Self::Leaving => Some(Tell::Stop),
            Self::Lost { why, .. } => Some(Tell::Lost { why: why.clone() }),
        }
    }

    /// When those who have not gone are struck.
    pub(super) fn strike_at(&self) -> Option<Moment> {
        match self {
            Self::Stopping { strike_at, .. } | Self::Lost { strike_at, .. } => Some(*strike_at),
            Self::Serving | Self::Leaving => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn moment(at: u64) -> Moment {
        Moment::default().after(seconds(at))
    }

    /// t = 1: lost at 8 s after a renewal; W = 10.
    fn tenure() -> Tenure {
        Tenure::new(Timing::new(1, 10).unwrap(), moment(100))
    }

    #[test]
    fn what_is_lost_by_time_is_struck_before_another_host_may_take_over() {
        let tenure = tenure();
        let lost = Stage::lost(String::new(), moment(108), &tenure);
        let strike_at = lost.strike_at().unwrap();
        let timing = tenure.timing();
        assert_eq!(strike_at, moment(100).after(timing.strike_after()));
        assert!(strike_at > moment(108) && strike_at < moment(100).after(timing.dead_after()));
    }

    #[test]
    fn what_was_taken_is_struck_without_waiting_for_the_time() {
        let lost = Stage::lost(String::new(), moment(101), &tenure());
        let within = tenure().timing().strike_within();
        assert_eq!(lost.strike_at(), Some(moment(101).after(within)));
    }

    #[test]
    fn whoever_leaves_gives_up_only_when_nothing_of_before_can_land() {
        let timing = tenure().timing();
        for quiet_from in [0, 500] {
            let Stage::Stopping {
                strike_at,
                give_up_at,
            } = Stage::stopping(moment(100), moment(quiet_from), timing)
            else {
                panic!("it stops");
            };
            assert_eq!(strike_at, moment(100).after(LEAVE_WITHIN));
            let from = strike_at.max(moment(quiet_from));
            assert!(give_up_at > from.after(timing.takeover_after()));
        }
    }
}
