//! Is a host dead? A pure judgement over what was seen of its heartbeat, and when.
//!
//! Two machines' clocks are never compared. A watcher remembers when, on its own clock, it first
//! saw the present timestamp; a timestamp that stays the same for more than 8t + W of that host
//! (and 1 % more, since this clock may run that much faster than that host's) is a dead host's, one
//! that changes is a live one's. In between it is not known.
//!
//! **A newer life.** That a host id was joined again says nothing by itself of the life before: a
//! machine that has rebooted joins anew within 3t, by its name, and a clone has that name too. So
//! the life before is over when the new one says so in its note ([`HostNote::former_over`]), or by
//! our own clock: 8t + W after the first look that showed another life, or after the last change
//! if the life before had been seen to be lost by then.
//!
//! A host without such a note, as one of sanlock's, is treated in the same way. sanlock takes its
//! leases over at once; so do we where it has watched the life before to its end, as it does
//! unless it was given a name of its own: whoever looks every 2t, as lease-join does, has seen
//! that life lost by then. Where it has the name that stands there and joins at once, sanlock does
//! not keep what lease(7) promises, and we do.
//!
//! [`HostNote::former_over`]: crate::record::host_note::HostNote::former_over

use crate::clock::Moment;
use crate::id::{Generation, HostId};
use crate::record::heartbeat::Heartbeat;
use crate::timing::{Timing, by_another_clock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of the life of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// That life is over: its host id is free, or has been joined again since, and long enough ago.
    Gone,
    /// Its heartbeat was seen to change, lately.
    Alive,
    /// Its heartbeat has not changed for longer than everything it guarded can have lived.
    Dead,
    /// Not seen to change, not yet for long enough: dead at `until`, if it does not change. Or
    /// joined again, and something of the earlier life may run until then.
    Unknown {
        /// When it will be known at the latest.
        until: Moment,
    },
    /// The heartbeat is of an *earlier* life than the one asked about: it cannot be told.
    Unclear,
}

/// What one watcher has seen of one host's heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Which life of the host.
    pub generation: Generation,
    /// The timestamp that stands there.
    pub timestamp: u64,
    /// The host's own timing.
    pub timing: Timing,
    /// The end of the read that first showed this timestamp.
    pub since: Moment,
    /// The end of the last read that showed it changed within this life.
    pub changed: Option<Moment>,
    /// The end of the last read that showed this life.
    pub looked: Moment,
    /// It did not change for so long that its host cannot renew it any more: 8t, between the reads.
    pub lost: bool,
    /// By then nothing of an earlier life of the host runs any more.
    pub former_over: Moment,
}

impl Sighting {
    fn first(record: &Heartbeat, timing: Timing, read_ended: Moment) -> Self {
        Self {
            generation: record.generation(),
            timestamp: record.timestamp(),
            timing,
            since: read_ended,
            changed: None,
            looked: read_ended,
            lost: false,
            former_over: read_ended.after(timing.takeover_after()),
        }
    }

    /// When nothing of this life runs any more, nor of one before, as seen by a read that shows the
    /// next one: it may have been renewed until shortly before that.
    fn over(&self, read_ended: Moment) -> Moment {
        let last_sign = if self.lost { self.since } else { read_ended };
        let over = last_sign.after(self.timing.takeover_after());
        over.max(self.former_over)
    }

    fn update(&mut self, record: &Heartbeat, timing: Timing, read_ended: Moment) {
        if record.generation() != self.generation {
            let former_over = self.over(read_ended);
            *self = Self::first(record, timing, read_ended);
            self.former_over = former_over;
        } else if record.timestamp() != self.timestamp {
            self.timestamp = record.timestamp();
            self.since = read_ended;
            self.changed = Some(read_ended);
            self.lost = false;
        } else {
            // The read began after the one before had ended.
            let unchanged = self.looked.since(self.since);
            self.lost |= unchanged > by_another_clock(timing.lost_after());
        }
        self.looked = read_ended;
        self.timing = timing;
    }

    fn judge(&self, now: Moment) -> Verdict {
        let lately = |changed| now.since(changed) <= self.timing.seen_alive();
        if self.changed.is_some_and(lately) {
            return Verdict::Alive;
        }
        let until = self.since.after(self.timing.takeover_after());
        if now > until {
            Verdict::Dead
        } else {
            Verdict::Unknown { until }
        }
    }
}

/// A watcher's memory of all hosts that it looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(HostId, Sighting)>", into = "Vec<(HostId, Sighting)>")]
pub struct Sightings(BTreeMap<HostId, Sighting>);

impl From<Vec<(HostId, Sighting)>> for Sightings {
    fn from(list: Vec<(HostId, Sighting)>) -> Self {
        Self(list.into_iter().collect())
    }
}

impl From<Sightings> for Vec<(HostId, Sighting)> {
    fn from(sightings: Sightings) -> Self {
        sightings.0.into_iter().collect()
    }
}

impl Sightings {
    /// Remembers one look at `host`'s sector. `ours` fills in a timing that its record leaves
    /// open. A record of another host id, or a free one, ends what was known.
    pub fn look(&mut self, host: HostId, record: &Heartbeat, ours: Timing, read_ended: Moment) {
        if record.is_free() || record.owner() != Some(host) {
            self.0.remove(&host);
            return;
        }
        let timing = Timing::of_host(record, ours);
        self.0
            .entry(host)
            .or_insert_with(|| Sighting::first(record, timing, read_ended))
            .update(record, timing, read_ended);
    }

    /// Judges one life of a host after a look at its sector: `record` is what was read, by a read
    /// that began at `read_began`, and has been remembered with [`Sightings::look`].
    pub fn judge(
        &self,
        host: HostId,
        generation: Generation,
        record: &Heartbeat,
        read_began: Moment,
    ) -> Verdict {
        if record.is_free() || record.owner() != Some(host) {
            return Verdict::Gone;
        }
        if record.generation() > generation {
            return self.judge_former(host, record, read_began);
        }
        if record.generation() < generation {
            return Verdict::Unclear;
        }
        match self.0.get(&host) {
            Some(seen) => seen.judge(read_began),
            None => Verdict::Unknown {
                until: read_began.after(Duration::MAX),
            },
        }
    }

    /// Judges a life of a host that has been followed by another, whose record this is.
    fn judge_former(&self, host: HostId, record: &Heartbeat, read_began: Moment) -> Verdict {
        let told = record.former_over_in();
        if told == Some(Duration::ZERO) {
            return Verdict::Gone;
        }
        let seen = self.0.get(&host);
        let by_note = told
            .zip(seen)
            .map(|(left, seen)| seen.since.after(by_another_clock(left)));
        let by_sight = seen.map(|seen| seen.former_over);
        let until = by_note.into_iter().chain(by_sight).min();
        match until.unwrap_or_else(|| read_began.after(Duration::MAX)) {
            until if read_began > until => Verdict::Gone,
            until => Verdict::Unknown { until },
        }
    }

    /// What was seen of `host`, if it was looked at and is not free.
    pub fn of(&self, host: HostId) -> Option<&Sighting> {
        self.0.get(&host)
    }

    /// All hosts that were looked at and are not free.
    pub fn iter(&self) -> impl Iterator<Item = (HostId, &Sighting)> {
        self.0.iter().map(|(host, seen)| (*host, seen))
    }

    /// Takes over what another watcher on this machine has seen, where it knows more: an earlier
    /// first look at the same timestamp, or a change.
    pub fn learn(&mut self, other: &Self) {
        for (host, theirs) in &other.0 {
            let ours = self.0.entry(*host).or_insert(*theirs);
            if ours.generation == theirs.generation {
                ours.former_over = ours.former_over.min(theirs.former_over);
            }
            let same = (ours.generation, ours.timestamp) == (theirs.generation, theirs.timestamp);
            if same {
                ours.since = ours.since.min(theirs.since);
                ours.changed = ours.changed.max(theirs.changed);
                ours.lost |= theirs.lost;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Name;
    use crate::layout::Geometry;
    use crate::record::host_note::HostNote;

    fn ours() -> Timing {
        Timing::new(10, 60).unwrap()
    }

    fn host() -> HostId {
        HostId::new(3).unwrap()
    }

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    /// When a timestamp seen first at `seconds` is old enough: 8t + W, and 1 %.
    fn old(seconds: u64, dead_after: u64) -> Moment {
        Moment((seconds * 1000 + dead_after * 1010) * 1_000_000)
    }

    /// A heartbeat of host 3 with t = 1 and, by its note, W = 2: dead after more than 10.1 s.
    fn beat(generation: u64, timestamp: u64) -> Heartbeat {
        let name = Name::new(b"n").unwrap();
        let note = HostNote {
            watchdog: 2,
            host: host(),
            generation: Generation(generation),
            boot_id: [0; 16],
            former_over: 1,
        };
        Heartbeat::new(Geometry::ALL[0], &name, 1).joined(&name, timestamp, 1, note)
    }

    fn verdicts(looks: &[(u64, Heartbeat)]) -> Vec<Verdict> {
        let mut seen = Sightings::default();
        let judge = |(second, record): &(u64, Heartbeat)| {
            seen.look(host(), record, ours(), at(*second));
            seen.judge(host(), Generation(5), record, at(*second))
        };
        looks.iter().map(judge).collect()
    }

    #[test]
    fn the_verdicts_read_aloud() {
        let unknown = |since| Verdict::Unknown {
            until: old(since, 10),
        };
        type Row = (&'static str, Vec<(u64, Heartbeat)>, Vec<Verdict>);
        let table: Vec<Row> = vec![
            (
                "one look tells nothing",
                vec![(100, beat(5, 7))],
                vec![unknown(100)],
            ),
            (
                "unchanged for exactly 8t+W is not yet dead, longer is",
                vec![(100, beat(5, 7)), (110, beat(5, 7)), (111, beat(5, 7))],
                vec![unknown(100), unknown(100), Verdict::Dead],
            ),
            (
                "a change is life, and its freshness wears off after 4t",
                vec![
                    (100, beat(5, 7)),
                    (101, beat(5, 8)),
                    (105, beat(5, 8)),
                    (106, beat(5, 8)),
                ],
                vec![unknown(100), Verdict::Alive, Verdict::Alive, unknown(101)],
            ),
            (
                "a dead host that speaks again is alive",
                vec![(100, beat(5, 7)), (120, beat(5, 7)), (121, beat(5, 8))],
                vec![unknown(100), Verdict::Dead, Verdict::Alive],
            ),
            (
                "a free heartbeat",
                vec![(100, beat(5, 0))],
                vec![Verdict::Gone],
            ),
            (
                "joined again since",
                vec![(100, beat(6, 7))],
                vec![Verdict::Gone],
            ),
            (
                "an earlier life than the owner's tells nothing, however long",
                vec![(100, beat(4, 7)), (500, beat(4, 7))],
                vec![Verdict::Unclear, Verdict::Unclear],
            ),
        ];
        for (story, looks, expected) in table {
            assert_eq!(verdicts(&looks), expected, "{story}");
        }
    }

    /// Without a note: W = 60, dead after more than 68.68 s.
    fn bare(generation: u64, timestamp: u64) -> Heartbeat {
        let mut sector = beat(generation, timestamp).to_sector();
        sector[200..256].fill(0);
        Heartbeat::decode(&sector).unwrap()
    }

    #[test]
    fn what_a_newer_life_tells_of_the_one_before_read_aloud() {
        let unknown = |since, dead_after| Verdict::Unknown {
            until: old(since, dead_after),
        };
        let newer = |timestamp, from| beat(6, timestamp).after_former(from);
        let gone = Verdict::Gone;
        type Row = (&'static str, Vec<(u64, Heartbeat)>, Vec<Verdict>);
        let table: Vec<Row> = vec![
            (
                "it says when, in timestamps of its own",
                vec![
                    (100, newer(7, 12)),
                    (103, newer(10, 12)),
                    (105, newer(12, 12)),
                ],
                vec![unknown(100, 5), unknown(103, 2), gone],
            ),
            (
                "it says when, and dies",
                vec![
                    (100, newer(7, 12)),
                    (105, newer(7, 12)),
                    (106, newer(7, 12)),
                ],
                vec![unknown(100, 5), unknown(100, 5), gone],
            ),
            (
                "it says that it is over, without a word of when",
                vec![(100, newer(7, 1))],
                vec![gone],
            ),
            (
                "it does not say: 8t+W after the first look that shows it, however it goes on",
                vec![(100, newer(7, 0)), (109, newer(16, 0)), (111, newer(18, 0))],
                vec![unknown(100, 10), unknown(100, 10), gone],
            ),
            (
                "a host without a note is given sixty seconds",
                vec![(100, bare(6, 7)), (168, bare(6, 70)), (169, bare(6, 71))],
                vec![unknown(100, 68), unknown(100, 68), gone],
            ),
            (
                "the life before was seen shortly before, and may have been renewed since",
                vec![(100, bare(5, 7)), (108, bare(5, 7)), (110, bare(6, 8))],
                vec![unknown(100, 68), unknown(100, 68), unknown(110, 68)],
            ),
            (
                "the life before was lost by then: it counts from its last change",
                vec![
                    (100, bare(5, 7)),
                    (109, bare(5, 7)),
                    (110, bare(5, 7)),
                    (120, bare(6, 8)),
                    (169, bare(6, 60)),
                ],
                vec![
                    unknown(100, 68),
                    unknown(100, 68),
                    unknown(100, 68),
                    unknown(100, 68),
                    gone,
                ],
            ),
        ];
        for (story, looks, expected) in table {
            assert_eq!(verdicts(&looks), expected, "{story}");
        }
    }

    #[test]
    fn a_third_life_does_not_make_the_first_any_older() {
        let looks = [
            (100, beat(6, 7).after_former(0)),
            (101, beat(7, 8).after_former(0)),
        ];
        let until = [100, 101].map(|since| old(since, 10));
        let expected = until.map(|until| Verdict::Unknown { until });
        assert_eq!(verdicts(&looks), expected);
    }

    #[test]
    fn what_another_watcher_knows_of_the_life_before_counts_for_all_timestamps() {
        let mut early = Sightings::default();
        early.look(host(), &bare(6, 7), ours(), at(50));
        let mut late = Sightings::default();
        late.look(host(), &bare(6, 9), ours(), at(100));
        late.learn(&early);
        let judge = |now| late.judge(host(), Generation(5), &bare(6, 9), now);
        let until = old(50, 68);
        assert_eq!(judge(until), Verdict::Unknown { until });
        assert_eq!(judge(Moment(until.0 + 1)), Verdict::Gone);
    }

    #[test]
    fn a_host_is_dead_a_nanosecond_after_its_time_and_not_at_its_end() {
        let mut seen = Sightings::default();
        seen.look(host(), &beat(5, 7), ours(), at(100));
        let until = old(100, 10);
        let judge = |now| seen.judge(host(), Generation(5), &beat(5, 7), now);
        assert_eq!(judge(until), Verdict::Unknown { until });
        assert_eq!(judge(Moment(until.0 + 1)), Verdict::Dead);
    }

    #[test]
    fn a_free_heartbeat_or_another_hosts_ends_what_was_known() {
        let elsewhere = HostId::new(4).unwrap();
        for (host, record) in [(host(), beat(5, 0)), (elsewhere, beat(5, 7))] {
            let known = Sighting::first(&beat(5, 7), ours(), at(100));
            let mut seen = Sightings::from(vec![(host, known)]);
            assert_eq!(seen.iter().collect::<Vec<_>>(), [(host, &known)]);
            seen.look(host, &record, ours(), at(101));
            assert_eq!(seen.of(host), None);
            let verdict = seen.judge(host, Generation(5), &record, at(102));
            assert_eq!(verdict, Verdict::Gone);
        }
    }

    #[test]
    fn what_was_seen_is_told_to_others_whole() {
        let mut seen = Sightings::default();
        for (second, timestamp) in [(100, 7), (101, 8)] {
            seen.look(host(), &beat(5, timestamp), ours(), at(second));
        }
        let json = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Sightings>(&json).unwrap(), seen);
        assert_eq!(seen.iter().count(), 1);
    }

    #[test]
    fn a_host_without_a_note_is_given_sixty_seconds() {
        let until = old(100, 68);
        assert_eq!(verdicts(&[(100, bare(5, 7))]), [Verdict::Unknown { until }]);
    }

    #[test]
    fn what_another_watcher_saw_counts_only_for_the_same_timestamp() {
        let mut early = Sightings::default();
        early.look(host(), &beat(5, 7), ours(), at(50));
        let mut late = Sightings::default();
        late.look(host(), &beat(5, 7), ours(), at(100));
        late.learn(&early);
        assert_eq!(late.of(host()).unwrap().since, at(50));
        let mut newer = Sightings::default();
        newer.look(host(), &beat(5, 9), ours(), at(100));
        newer.learn(&early);
        assert_eq!(newer.of(host()).unwrap().since, at(100));
        let mut another_life = Sightings::default();
        another_life.look(host(), &beat(6, 7), ours(), at(100));
        another_life.learn(&early);
        assert_eq!(another_life.of(host()).unwrap().since, at(100));
    }

    #[test]
    fn a_new_life_forgets_the_changes_of_the_old_one() {
        let mut seen = Sightings::default();
        for (second, record) in [(100, beat(5, 7)), (101, beat(5, 8)), (102, beat(6, 9))] {
            seen.look(host(), &record, ours(), at(second));
        }
        assert_eq!(seen.of(host()).unwrap().changed, None);
    }
}
