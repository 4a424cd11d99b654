//! What must never happen, watched on the one true clock by code that shares nothing with the
//! code under test: it reads the sectors' bytes by offsets of its own.

use super::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// A lockspace, and a host id there.
pub type HostOf = (usize, u64);

/// A guarded command that runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// The times of lease.7 for a host with io_timeout t and watchdog time W, all in seconds: written
/// down once more, and not asked of the code under test.
pub mod times {
    use std::time::Duration;

    /// Without a renewal for so long a lease is lost.
    pub fn lost_after(t: u64) -> Duration {
        Duration::from_secs(8 * t)
    }

    /// All that was guarded is dead then, and no write is on its way any more.
    pub fn dead_after(t: u64, w: u64) -> Duration {
        Duration::from_secs(8 * t + w)
    }
}

/// The watcher.
#[derive(Debug, Default, Clone, Hash)]
pub struct Checker {
    running: Vec<Run>,
    started: u64,
    decided: BTreeMap<(usize, u64), (u64, u64)>,
    /// Of each resource, the largest lver by which a command has run, and an exclusive one.
    granted: BTreeMap<usize, (u64, u64)>,
    /// The last generation that each host id was joined with.
    joined: BTreeMap<HostOf, u64>,
    /// The generation in each host's sector.
    beats: BTreeMap<HostOf, u64>,
    /// The t and W of each life.
    lives: BTreeMap<(HostOf, u64), [u16; 2]>,
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
        let (any, exclusive) = self.granted.entry(run.resource).or_default();
        let last = if run.exclusive { *any } else { *exclusive };
        *any = run.lver.max(*any);
        if run.exclusive {
            *exclusive = *any;
            self.exclusive += 1;
        } else {
            self.shared += 1;
        }
        if run.lver <= last {
            self.accuse(format!("lver went back: {run:?} after lver {last}"));
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
    pub fn joined(&mut self, host: HostOf, generation: u64) {
        let last = self.joined.insert(host, generation).unwrap_or(0);
        if generation <= last {
            self.accuse(format!(
                "generation went back: host {host:?} joined as {generation} after {last}"
            ));
        }
    }

    /// Bytes came to be in a host's sector. `forgotten`: whoever writes under that id now cannot
    /// know that they were on their way; then they may take the generation back, and lives go on
    /// from there.
    pub fn heartbeat_written(&mut self, host: HostOf, sector: &[u8], forgotten: bool) {
        let generation = word(sector, LEADER[1]);
        let before = self.beats.insert(host, generation).unwrap_or(0);
        if generation >= before {
            return;
        }
        // They may be those with which a life begins.
        self.joined.insert(host, generation.saturating_sub(1));
        if !forgotten {
            self.accuse(format!(
                "generation went back: host {host:?} has {generation} on the disk after {before}"
            ));
        }
    }

    /// The same of a whole record: others count by the t and W that they have read of a life.
    pub fn life_written(&mut self, host: HostOf, sector: &[u8]) {
        let [_, generation, _, timestamp] = LEADER.map(|at| word(sector, at));
        let times = TIMES.map(|at| u16::from_le_bytes([sector[at], sector[at + 1]]));
        let known = *self.lives.entry((host, generation)).or_insert(times);
        if known != times && timestamp != 0 {
            self.accuse(format!(
                "t and W of host {host:?} generation {generation} are {times:?}, and were {known:?}"
            ));
        }
    }

    /// Bytes came to be in a resource's first sector.
    pub fn leader_written(&mut self, resource: usize, sector: &[u8]) {
        let [owner, generation, lver, timestamp] = LEADER.map(|at| word(sector, at));
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

    /// What runs under a resource is allowed by the disks: on most of them stands that it owns or
    /// shares, in the leader or, where an older one has landed over that, in a ballot that was
    /// accepted; and on none a later version. `areas`: what is real of the resource on each disk;
    /// `but`: host ids that are not looked at.
    pub fn compare(&mut self, resource: usize, areas: &[&[u8]], but: &BTreeSet<u64>) {
        let looked_at = |run: &&Run| run.resource == resource && !but.contains(&run.life.0);
        let under_it = self.running.iter().filter(looked_at);
        let mut denied = under_it.filter(|run| {
            let agree = areas.iter().filter(|area| says(area, run)).count();
            let later = |area: &&[u8]| run.exclusive && word(area, LEADER[2]) > run.lver;
            agree * 2 <= areas.len() || areas.iter().any(later)
        });
        if let Some(run) = denied.next().cloned() {
            self.accuse(format!("the disks say otherwise: {run:?}"));
        }
    }
}

/// Where a leader record has its owner's host id and generation, its lver, and its timestamp.
const LEADER: [usize; 4] = [32, 40, 48, 152];
/// Where a heartbeat has its host's t and W.
const TIMES: [usize; 2] = [174, 206];
/// Where a ballot record has the value's host id and generation, and the lver. A value that is not
/// accepted is not written.
const BALLOT: [usize; 3] = [16, 24, 40];
/// Bytes of a sector.
const SECTOR: usize = 512;
/// Where a ballot record has the flags of a sharer, and the sharer's generation.
const SHARES: [usize; 2] = [128, 136];

fn word(sector: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&sector[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Whether one disk of a resource has it that it is, or may be, a host's.
pub fn names(area: &[u8], host: u64) -> bool {
    let [owner, _, lver, timestamp] = LEADER.map(|at| word(area, at));
    let blocks = || area.chunks_exact(SECTOR).skip(2);
    let accepted = |block: &[u8]| {
        let [of, _, later] = BALLOT.map(|at| word(block, at));
        of == host && later > lver
    };
    let shares = |block: &[u8]| word(block, SHARES[0]) & 1 == 1;
    let leads = owner == host && timestamp != 0;
    leads || blocks().any(accepted) || blocks().nth(host as usize - 1).is_some_and(shares)
}

/// Whether a disk says that it holds what it runs under.
fn says(area: &[u8], run: &Run) -> bool {
    let (host, generation) = run.life;
    let mut blocks = area.chunks_exact(SECTOR).skip(2);
    if !run.exclusive {
        let block = blocks.nth(host as usize - 1);
        return block.is_some_and(|block| {
            let [flags, of] = SHARES.map(|at| word(block, at));
            flags & 1 == 1 && of == generation
        });
    }
    let [owner, of, lver, timestamp] = LEADER.map(|at| word(area, at));
    let accepted = |block: &[u8]| BALLOT.map(|at| word(block, at)) == [host, generation, run.lver];
    let leads = (owner, of, lver) == (host, generation, run.lver) && timestamp != 0;
    leads || (lver < run.lver && blocks.any(accepted))
}
