//! When the guarded command is asked to end, and when it is killed. A machine without clock,
//! process or disk: `now` and what is known of the leases go in, what is to be done comes out.

use crate::clock::Moment;
use std::time::Duration;

/// From asking the command to end to killing it, when its host leaves the lockspace.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Between two rounds of killing.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// What the machine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Nothing,
    /// SIGTERM to all.
    Terminate,
    /// SIGKILL to all.
    Kill,
}

/// What is known of the leases at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// 8t after the last renewal that is known of.
    pub expires: Moment,
    /// From there to SIGKILL.
    pub grace: Duration,
    /// The lease was taken from us: not by time, but on the disk.
    pub taken: bool,
    /// lease-join wants to leave.
    pub stop: bool,
}

/// When to end the command: never, unless a lease is lost or lease-join leaves.
///
/// Lost by time: SIGTERM at 8t after the last renewal, SIGKILL after the grace. Taken on the disk:
/// another host may have it already, SIGKILL at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Nothing is amiss.
    Running,
    /// It was asked to end.
    Ending {
        /// When it is killed.
        kill_at: Moment,
        /// Whether a lease is lost.
        lost: bool,
    },
    /// It is being killed.
    Killing {
        /// When it is killed once more.
        again_at: Moment,
        /// Whether a lease is lost.
        lost: bool,
    },
}

impl Deadline {
    /// What is to be done at `now`.
    pub fn step(&mut self, now: Moment, standing: Standing) -> Act {
        let lost = standing.taken || now >= standing.expires;
        let lost_kill = match standing.taken {
            true => now,
            false => standing.expires.after(standing.grace),
        };
        match *self {
            Self::Running if lost && now >= lost_kill => self.kill(now, true),
            Self::Running if lost => {
                *self = Self::Ending {
                    kill_at: lost_kill,
                    lost,
                };
                Act::Terminate
            }
            Self::Running if standing.stop => {
                *self = Self::Ending {
                    kill_at: now.after(STOP_GRACE),
                    lost: false,
                };
                Act::Terminate
            }
            Self::Running => Act::Nothing,
            Self::Ending { kill_at, lost: was } => {
                let lost = lost || was;
                let kill_at = if lost {
                    kill_at.min(lost_kill)
                } else {
                    kill_at
                };
                if now >= kill_at {
                    return self.kill(now, lost);
                }
                *self = Self::Ending { kill_at, lost };
                Act::Nothing
            }
            Self::Killing {
                again_at,
                lost: was,
            } if now >= again_at => self.kill(now, lost || was),
            Self::Killing { .. } => Act::Nothing,
        }
    }

    fn kill(&mut self, now: Moment, lost: bool) -> Act {
        *self = Self::Killing {
            again_at: now.after(KILL_AGAIN),
            lost,
        };
        Act::Kill
    }

    /// When the next step is due, if nothing happens before.
    pub fn due(&self, standing: Standing) -> Moment {
        match *self {
            Self::Running => standing.expires,
            Self::Ending { kill_at, lost } if !lost => kill_at.min(standing.expires),
            Self::Ending { kill_at, .. } => kill_at,
            Self::Killing { again_at, .. } => again_at,
        }
    }

    /// Whether it ends because a lease is lost.
    pub fn lost(&self) -> bool {
        matches!(
            self,
            Self::Ending { lost: true, .. } | Self::Killing { lost: true, .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    /// t = 1, W = 10, renewed at 92: lost at 100, dead by 110; five seconds of grace.
    fn standing() -> Standing {
        Standing {
            expires: at(100),
            grace: Duration::from_secs(5),
            taken: false,
            stop: false,
        }
    }

    fn acts(steps: &[(u64, Standing)]) -> Vec<Act> {
        let mut deadline = Deadline::Running;
        steps
            .iter()
            .map(|(second, standing)| deadline.step(at(*second), *standing))
            .collect()
    }

    #[test]
    fn a_loss_stays_one_though_a_renewal_is_heard_of_after_it() {
        let renewed = Standing {
            expires: at(120),
            ..standing()
        };
        let mut deadline = Deadline::Running;
        assert_eq!(deadline.step(at(100), standing()), Act::Terminate);
        assert_eq!(deadline.step(at(101), renewed), Act::Nothing);
        assert!(deadline.lost());
        assert_eq!(deadline.step(at(105), renewed), Act::Kill);
        assert!(deadline.lost());
    }

    #[test]
    fn what_is_done_and_when() {
        let fine = standing();
        let renewed = Standing {
            expires: at(102),
            ..fine
        };
        let taken = Standing {
            taken: true,
            ..fine
        };
        let stop = Standing { stop: true, ..fine };
        use Act::{Kill, Nothing, Terminate};
        let table: [(&str, Vec<(u64, Standing)>, Vec<Act>); 8] = [
            (
                "nothing while it is renewed",
                vec![(99, fine), (100, renewed)],
                vec![Nothing, Nothing],
            ),
            (
                "SIGTERM at 8t",
                vec![(99, fine), (100, fine)],
                vec![Nothing, Terminate],
            ),
            (
                "SIGKILL half-way to the end, again and again",
                vec![(100, fine), (104, fine), (105, fine), (106, fine)],
                vec![Terminate, Nothing, Kill, Kill],
            ),
            (
                "late on the scene: SIGKILL at once",
                vec![(106, fine)],
                vec![Kill],
            ),
            (
                "taken on the disk: SIGKILL at once",
                vec![(95, taken)],
                vec![Kill],
            ),
            (
                "a renewal after the loss saves nobody",
                vec![(100, fine), (105, renewed)],
                vec![Terminate, Kill],
            ),
            (
                "lease-join leaves: SIGTERM, ten seconds, SIGKILL",
                vec![(80, stop), (89, stop), (90, stop)],
                vec![Terminate, Nothing, Kill],
            ),
            (
                "lost while stopping: the earlier end counts",
                vec![(99, stop), (105, stop)],
                vec![Terminate, Kill],
            ),
        ];
        for (story, steps, expected) in table {
            assert_eq!(acts(&steps), expected, "{story}");
        }
    }

    /// After these steps: when the next one is due, and whether a lease is lost.
    fn after(steps: &[(Moment, Standing)]) -> (Moment, bool) {
        let mut deadline = Deadline::Running;
        let mut last = standing();
        for (now, standing) in steps {
            deadline.step(*now, *standing);
            last = *standing;
        }
        (deadline.due(last), deadline.lost())
    }

    #[test]
    fn when_the_next_step_is_due_and_whether_a_lease_is_lost() {
        let fine = standing();
        let stop = Standing { stop: true, ..fine };
        let taken = Standing {
            taken: true,
            ..fine
        };
        let (kill, again) = (at(105), at(105).after(KILL_AGAIN));
        let stopped = (at(89), stop);
        let table: [(&str, Vec<(Moment, Standing)>, Moment, bool); 9] = [
            ("running: at 8t", vec![], at(100), false),
            ("lost: after the grace", vec![(at(100), fine)], kill, true),
            ("stopping: after ten seconds", vec![stopped], at(99), false),
            (
                "stopping: at 8t, if that is sooner",
                vec![(at(95), stop)],
                at(100),
                false,
            ),
            (
                "lost while stopping: at the earlier end",
                vec![(at(97), stop), (at(100), stop)],
                kill,
                true,
            ),
            (
                "killed for the loss: soon again",
                vec![(kill, fine)],
                again,
                true,
            ),
            (
                "killed after a stop",
                vec![stopped, (at(99), stop)],
                at(99).after(KILL_AGAIN),
                false,
            ),
            (
                "killed after a stop, and then lost",
                vec![stopped, (at(99), stop), (at(101), stop)],
                at(101).after(KILL_AGAIN),
                true,
            ),
            (
                "taken on the disk",
                vec![(at(90), taken)],
                at(90).after(KILL_AGAIN),
                true,
            ),
        ];
        for (story, steps, due, lost) in table {
            assert_eq!(after(&steps), (due, lost), "{story}");
        }
    }

    #[test]
    fn between_two_rounds_of_killing_there_is_a_pause() {
        let mut deadline = Deadline::Running;
        let again = at(105).after(KILL_AGAIN);
        assert_eq!(deadline.step(at(105), standing()), Act::Kill);
        let early = Moment(again.0 - 1);
        assert_eq!(deadline.step(early, standing()), Act::Nothing);
        assert_eq!(deadline.step(again, standing()), Act::Kill);
        // What is lost stays lost, whatever is heard later.
        let renewed = Standing {
            expires: at(200),
            ..standing()
        };
        assert_eq!(deadline.step(at(106), renewed), Act::Kill);
        assert!(deadline.lost());
    }
}
