//! Which host id a machine takes that was told none.
//!
//! The one that it had before, if nobody has joined with it since: every join writes a name that no
//! other start of any lease-join has, and what a machine remembers names it. So a machine whose
//! memory was copied from another finds out on the disk: whichever of the two joins first changes
//! what stands there, and the other takes another host id. Else the lowest that was never used;
//! else the lowest whose host has left: whoever was given that by number may come back, and wants
//! it. A host id that was not left, or whose record is damaged, is another's for ever: nobody but
//! its own machine, or an admin, can say that nothing will come back under it.
//!
//! Of several machines that take the same at once one gets it, as with any join. The others choose
//! among four times as many, at random: so a hundred that start together are done in five rounds.

use super::area::{Area, Lockspace};
use super::claim::{JoinError, Predecessor};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::id::{Generation, HostId, Name};
use crate::record::heartbeat::Heartbeat;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many times as many host ids are chosen from after each lost race.
const SPREAD: u32 = 4;
/// How many lives are remembered.
const TRACES_MAX: usize = 4;

/// What tells the lives of a host id apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The host's name; `None`: never joined.
    pub name: Option<Name>,
    /// Which life.
    pub generation: Generation,
}

impl Trace {
    /// Of the life whose record this is.
    pub fn of(record: &Heartbeat) -> Self {
        Self {
            name: record.host_name(),
            generation: record.generation(),
        }
    }
}

/// The host id that a machine had last in a lockspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Had {
    /// The host id.
    pub host: HostId,
    /// The lives that it has begun with it, or was about to: one of them stands in its record,
    /// unless somebody else has joined with it since.
    pub traces: Vec<Trace>,
}

impl Had {
    /// With one life more. What is older than a few of them is written over for certain.
    #[must_use]
    pub fn with(mut self, trace: Trace) -> Self {
        self.traces.retain(|known| *known != trace);
        self.traces.push(trace);
        let old = self.traces.len().saturating_sub(TRACES_MAX);
        self.traces.drain(..old);
        self
    }
}

/// A host id to join with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The host id.
    pub host: HostId,
    /// After whose life.
    pub predecessor: Predecessor,
}

/// The choice of one start of a machine.
#[derive(Debug)]
pub struct Chooser {
    had: Option<Had>,
    /// No other start has it.
    name: Name,
    /// Host ids that another was found to have.
    lost: Vec<HostId>,
    /// How many of them were free before.
    races: u32,
}

impl Chooser {
    /// For a machine that had this host id, or none, and starts under this name.
    pub fn new(had: Option<Had>, name: Name) -> Self {
        Self {
            had,
            name,
            lost: Vec::new(),
            races: 0,
        }
    }

    /// The host id to join with, by what stands in the lockspace; `None`: there is none to be had.
    pub fn choose(&self, area: &Area) -> Option<Choice> {
        self.had_before(area).or_else(|| self.free(area))
    }

    /// The one that this machine had, if nobody has joined with it since.
    fn had_before(&self, area: &Area) -> Option<Choice> {
        let had = self.had.as_ref()?;
        let record = area.host(had.host).ok()?;
        let found = Trace::of(&record);
        let ours = had.traces.contains(&found);
        if self.lost.contains(&had.host) || !(ours || record.owner().is_none()) {
            return None;
        }
        let predecessor = match found.name {
            Some(name) if ours => Predecessor::Named(name),
            _ => Predecessor::Nobody,
        };
        Some(Choice {
            host: had.host,
            predecessor,
        })
    }

    /// One that nobody has.
    fn free(&self, area: &Area) -> Option<Choice> {
        let free = area.hosts().filter_map(|(host, record)| {
            let record = record.ok().filter(Heartbeat::is_free)?;
            (!self.lost.contains(&host)).then_some((host, record))
        });
        let (never_used, left): (Vec<_>, Vec<_>) =
            free.partition(|(_, record)| record.owner().is_none());
        let all = [never_used, left].concat();
        let among = SPREAD
            .saturating_pow(self.races)
            .min(u32::try_from(all.len()).ok()?);
        let (host, _) = all.get(self.at_random().checked_rem(among)? as usize)?;
        Some(Choice {
            host: *host,
            predecessor: Predecessor::Nobody,
        })
    }

    /// A number that is another for each start, and for each of its races.
    fn at_random(&self) -> u32 {
        crc32fast::hash(&[self.name.as_bytes(), &self.races.to_le_bytes()].concat())
    }

    /// Joins with `first`, or, as often as another has taken what was chosen, with the next choice.
    /// `disk` shows the lockspace; `join` tries one host id.
    pub fn join<T>(
        &mut self,
        (lockspace, disk, clock): (&Lockspace, &dyn Disk, &dyn Clock),
        first: Choice,
        join: &mut dyn FnMut(&Choice) -> Result<T, JoinError>,
    ) -> Result<T, JoinError> {
        let mut choice = first;
        loop {
            match join(&choice) {
                Err(JoinError::InUse { .. }) => self.lost.push(choice.host),
                other => return other,
            }
            let was_free = choice.predecessor == Predecessor::Nobody;
            self.races += u32::from(was_free);
            clock.wait(Duration::ZERO)?;
            let area = lockspace.read_all(disk)?;
            choice = self.choose(&area).ok_or(JoinError::NoneFree)?;
        }
    }
}
