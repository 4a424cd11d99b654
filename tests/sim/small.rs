//! The small world, exhausted: every order of the operations of a few hosts, and every point at
//! which some of them lose power.
//!
//! From each state every step is taken that can be. A state that was seen before is not gone on
//! from: what a host does next follows from the answers that it got, so the bytes on the disk, how
//! far each host has come that goes on, and what the checker has seen are all there is to a state.
//!
//! **Reduced, and why nothing is lost.** Time stands still: no rule of the ballot reads the clock
//! but "is the host id still ours", and hosts here live until they lose power. Waits and pauses are
//! no steps, since the order of all else is already any. Heartbeats are read at once: nobody writes
//! them here. A read of a resource's area is of a moment for the leader and one for the record of
//! each other host; nobody else writes its own. The death of a host becomes known at any later
//! moment; its command lives until then, and its last write, if it was on its way, lands at any
//! moment, or never.
//!
//! **Reduced, and left to the large world.** Ballots that a host loses beyond a bound are not gone
//! on from: without a crash a later one finds what an earlier one would; with a crash the bound is
//! none, and one in the longer scopes. All hosts of a run read in one order, forwards or backwards:
//! with two hosts there is no other. Three hosts run one ballot each, and do not hold or release;
//! in a longer scope they do, where all of a read is of one moment.

mod lives;

use self::lives::{Content, Deed, Lives, Point, Who};
use super::checker::Checker;
use super::disk::SECTOR;
use super::port::Op;
use super::{LOCKSPACE, area_offset, formatted};
use lease_core::id::{Generation, HostId, Name};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::HostNote;
use lease_core::spec::Mode;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// What is exhausted.
#[derive(Debug, Clone)]
pub struct Scope {
    /// How each host wants the lease, from host 1 up.
    pub modes: Vec<Mode>,
    /// How many hosts may lose power.
    pub crashes: usize,
    /// Whether hosts hold and release, after which one more host must get it; otherwise each runs
    /// its ballot up to the commit.
    pub whole: bool,
    /// Ballots that a host may lose in one attempt before its run is cut.
    pub retries: u32,
    /// Of which moments the parts of one read are.
    pub reads: Reads,
}

/// Of which moments the leader and the ballot records of one read are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Of one.
    AtOnce,
    /// Each of its own, in the order in which they lie there.
    Forwards,
    /// Each of its own, in the other order.
    Backwards,
}

impl Reads {
    /// The sectors that `host` (from 0) reads at later moments than the first, in their order.
    /// Nobody else writes its own record.
    fn later(self, host: usize, hosts: usize) -> Vec<usize> {
        let others = (2..2 + hosts).filter(|sector| *sector != 2 + host);
        let all = std::iter::once(0).chain(others);
        match self {
            Self::AtOnce => Vec::new(),
            Self::Forwards => all.skip(1).collect(),
            Self::Backwards => {
                let all: Vec<_> = all.collect();
                all.into_iter().rev().skip(1).collect()
            }
        }
    }
}

/// What exhausting it came to.
#[derive(Debug, Default, Clone)]
pub struct Sum {
    /// Steps that were taken.
    pub steps: u64,
    /// Different states.
    pub states: usize,
    /// States in which all have come to their end, and the lease could be had again.
    pub ends: u64,
    /// Steps after which a host had lost too many ballots.
    pub cut: u64,
    /// The first violation and the steps that lead to it.
    pub violation: Option<(String, Vec<String>)>,
}

/// A step that can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// A host's pending operation happens.
    Go(usize),
    /// A host loses power; its pending write is lost, or on its way.
    Crash(usize, bool),
    /// That write lands.
    Land(usize),
    /// That host is known to be dead, and so is what it guarded.
    Dead(usize),
}

#[derive(Clone)]
struct Host {
    point: Point,
    /// Has come to its end, lost power, or has gone as far as it is followed.
    gone: bool,
    /// A read that is under way, and how many of its moments have been.
    under_way: Option<(Vec<Content>, usize)>,
}

/// How far everybody has come.
#[derive(Clone)]
struct State {
    /// What stands in each sector of the resource.
    sectors: Vec<Content>,
    hosts: Vec<Host>,
    crashed: BTreeSet<usize>,
    known_dead: BTreeSet<usize>,
    /// What those who lost power had on its way: to which sector, and what.
    late: BTreeMap<usize, (usize, Content)>,
    /// Most steps change nothing for it.
    checker: Rc<Checker>,
    cut: bool,
}

impl Hash for Host {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let goes_on = (!self.gone).then_some((self.point, &self.under_way));
        goes_on.hash(hasher);
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.sectors, &self.hosts, &self.checker).hash(hasher);
        (&self.crashed, &self.known_dead, &self.late).hash(hasher);
    }
}

/// A state, and its steps up to the one that is taken next.
struct Fork {
    state: State,
    steps: Vec<Step>,
    next: usize,
}

/// Takes every order of steps.
pub fn exhaust(scope: &Scope) -> Sum {
    let mut small = Small::new(scope);
    let mut sum = Sum::default();
    // With a hash that is the same each time.
    let (mut seen, hashes) = (
        HashSet::new(),
        BuildHasherDefault::<DefaultHasher>::default(),
    );
    let first = small.begin();
    let mut forks = vec![Fork {
        steps: small.steps(&first),
        state: first,
        next: 0,
    }];
    while let Some(fork) = forks.last_mut() {
        let Some(step) = fork.steps.get(fork.next).copied() else {
            forks.pop();
            continue;
        };
        fork.next += 1;
        let mut state = fork.state.clone();
        small.take(&mut state, step);
        sum.steps += 1;
        sum.cut += u64::from(state.cut);
        let is_new = !state.cut && seen.insert(hashes.hash_one(&state));
        let steps = match is_new {
            true => small.steps(&state),
            false => Vec::new(),
        };
        if is_new && steps.is_empty() {
            sum.ends += 1;
            if scope.whole {
                small.probe(&mut state);
            }
        }
        if let Some(what) = state.checker.violation() {
            let taken = forks.iter().map(|fork| fork.steps[fork.next - 1]);
            sum.violation = Some((what.to_owned(), small.retell(taken)));
            return sum;
        }
        if !steps.is_empty() {
            let next = 0;
            forks.push(Fork { state, steps, next });
        }
    }
    sum.states = seen.len();
    sum
}

/// The world: what does not change, and what is known of lives.
struct Small {
    scope: Scope,
    lives: Lives,
    /// The resource as formatted.
    fresh: Vec<Content>,
    /// Each host's heartbeat, and what counts as it once its death is known.
    beats: Vec<[Content; 2]>,
}

impl Small {
    fn new(scope: &Scope) -> Self {
        let mut lives = Lives::new();
        // One more may come in the end.
        let hosts = scope.modes.len() as u64 + 1;
        let disk = formatted((1, 1), 1, hosts, 1).remove(0);
        let area = disk.area(1).chunks(SECTOR);
        let fresh = area.map(|sector| lives.contents.number(sector)).collect();
        let beats = HostId::all(hosts).map(|host| {
            let beat = beat(host);
            [&beat, &beat.stamped(0)].map(|beat| lives.contents.number(&beat.to_sector()))
        });
        Self {
            scope: scope.clone(),
            beats: beats.collect(),
            lives,
            fresh,
        }
    }

    fn begin(&mut self) -> State {
        let mut state = State {
            sectors: self.fresh.clone(),
            hosts: Vec::new(),
            crashed: BTreeSet::new(),
            known_dead: BTreeSet::new(),
            late: BTreeMap::new(),
            checker: Rc::default(),
            cut: false,
        };
        for mode in self.scope.modes.clone() {
            self.enter(&mut state, mode);
        }
        state
    }

    fn enter(&mut self, state: &mut State, mode: Mode) {
        let who = Who {
            host: state.hosts.len() as u64 + 1,
            hosts: self.beats.len() as u64,
            mode,
            whole: self.scope.whole,
        };
        state.hosts.push(Host {
            point: self.lives.begin(who),
            gone: false,
            under_way: None,
        });
        self.settle(state, state.hosts.len() - 1);
    }

    /// Does what is no step of its own.
    fn settle(&mut self, state: &mut State, index: usize) {
        loop {
            let point = state.hosts[index].point;
            self.note(state, index);
            state.cut |= self.lives.retries(point) > self.scope.retries;
            match self.lives.pending(point) {
                Some(Op::Read { offset, .. }) if *offset < area_offset(1) => {
                    let of = *offset as usize / 4096;
                    let beat = self.beats[of][usize::from(state.known_dead.contains(&of))];
                    state.hosts[index].point = self.lives.go_on(point, &[beat]);
                }
                _ if self.lives.is_due(point) => {
                    state.hosts[index].point = self.lives.go_on(point, &[]);
                }
                Some(_) => return,
                None => match self.lives.next_part(point) {
                    Some(next) => state.hosts[index].point = next,
                    None => {
                        state.hosts[index].gone = true;
                        return;
                    }
                },
            }
        }
    }

    /// What a host has done on its way to where it is now.
    fn note(&self, state: &mut State, index: usize) {
        for deed in self.lives.deeds(state.hosts[index].point) {
            match deed {
                Deed::Starts(run) => drop(state.checker().start(run.clone())),
                Deed::Ends => state.ends(index),
                Deed::Accuses(what) => state.checker().accuse(what.clone()),
            }
        }
    }

    fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, host) in state.hosts.iter().enumerate() {
            if host.gone {
                continue;
            }
            if !self.lives.waits_for_death(host.point) || !state.known_dead.is_empty() {
                steps.push(Step::Go(index));
            }
            if state.crashed.len() < self.scope.crashes {
                steps.push(Step::Crash(index, false));
                if matches!(self.lives.pending(host.point), Some(Op::Write { .. })) {
                    steps.push(Step::Crash(index, true));
                }
            }
        }
        steps.extend(state.late.keys().map(|index| Step::Land(*index)));
        let unknown = state.crashed.difference(&state.known_dead);
        steps.extend(unknown.map(|index| Step::Dead(*index)));
        steps
    }

    fn take(&mut self, state: &mut State, step: Step) {
        match step {
            Step::Go(index) => self.go(state, index),
            Step::Crash(index, on_its_way) => {
                if on_its_way && let Some(write) = self.written(state.hosts[index].point) {
                    state.late.insert(index, write);
                }
                state.crashed.insert(index);
                state.hosts[index].gone = true;
            }
            Step::Land(index) => {
                if let Some((sector, content)) = state.late.remove(&index) {
                    self.write(state, sector, content);
                }
            }
            Step::Dead(index) => {
                state.known_dead.insert(index);
                state.ends(index);
            }
        }
    }

    /// To which sector a pending write goes, and what.
    fn written(&mut self, point: Point) -> Option<(usize, Content)> {
        let Some(Op::Write { offset, bytes, .. }) = self.lives.pending(point).cloned() else {
            return None;
        };
        assert_eq!(bytes.len(), SECTOR);
        Some((sector_at(offset), self.lives.contents.number(&bytes)))
    }

    fn go(&mut self, state: &mut State, index: usize) {
        let point = state.hosts[index].point;
        let mut answer = Vec::new();
        match self.lives.pending(point) {
            Some(Op::Read { offset, len, .. }) => {
                let at = sector_at(*offset);
                let Some(read) = self.read(state, index, at..at + len / SECTOR) else {
                    return;
                };
                answer = read;
            }
            Some(Op::Write { .. }) => {
                let Some((sector, content)) = self.written(point) else {
                    return;
                };
                self.write(state, sector, content);
                if sector == 0 && !self.scope.whole {
                    state.hosts[index].gone = true;
                    return;
                }
            }
            _ => {}
        }
        state.hosts[index].point = self.lives.go_on(point, &answer);
        self.settle(state, index);
    }

    /// A read of many sectors is a step for each of its moments.
    fn read(
        &self,
        state: &mut State,
        index: usize,
        sectors: std::ops::Range<usize>,
    ) -> Option<Vec<Content>> {
        let now = state.sectors[sectors].to_vec();
        let later = self.scope.reads.later(index, self.scope.modes.len());
        let later: Vec<_> = later.into_iter().filter(|at| *at < now.len()).collect();
        if now.len() == 1 || later.is_empty() {
            return Some(now);
        }
        let (read, moments) = match state.hosts[index].under_way.take() {
            None => (now, 0),
            Some((mut read, before)) => {
                read[later[before]] = now[later[before]];
                (read, before + 1)
            }
        };
        if moments == later.len() {
            return Some(read);
        }
        state.hosts[index].under_way = Some((read, moments));
        None
    }

    fn write(&self, state: &mut State, sector: usize, content: Content) {
        state.sectors[sector] = content;
        if sector == 0 {
            let bytes = self.lives.contents.bytes(content);
            state.checker().leader_written(0, bytes);
        }
    }

    /// When all have ended, one more host must get the lease.
    fn probe(&mut self, state: &mut State) {
        let before = state.checker.granted();
        let index = state.hosts.len();
        let retries = std::mem::replace(&mut self.scope.retries, u32::MAX);
        self.enter(state, Mode::Exclusive);
        for _ in 0..1000 {
            let host = &state.hosts[index];
            if host.gone || self.lives.waits_for_death(host.point) {
                break;
            }
            self.go(state, index);
        }
        self.scope.retries = retries;
        if state.checker.granted() == before {
            let what = "nobody holds it, and nobody can have it";
            state.checker().accuse(what.into());
        }
    }

    /// The steps of a run in words.
    fn retell(&mut self, steps: impl Iterator<Item = Step>) -> Vec<String> {
        let mut state = self.begin();
        let mut words = Vec::new();
        for step in steps {
            words.push(match step {
                Step::Go(index) => {
                    let what = match self.lives.pending(state.hosts[index].point) {
                        Some(Op::Write { offset, bytes, .. }) => {
                            format!("write {}", super::world::describe(0, *offset, bytes))
                        }
                        Some(Op::Read { offset, len, .. }) => {
                            format!("read {len} at sector {}", sector_at(*offset))
                        }
                        other => format!("{other:?}"),
                    };
                    format!("{}host {}: {what}", " ".repeat(40 * index), index + 1)
                }
                other => format!("{other:?}"),
            });
            self.take(&mut state, step);
        }
        words
    }
}

impl State {
    /// The command of a host has ended.
    fn ends(&mut self, index: usize) {
        let of: Vec<u64> = self.checker.on(index).map(|run| run.id).collect();
        of.into_iter().for_each(|id| self.checker().stop(id));
    }

    fn checker(&mut self) -> &mut Checker {
        Rc::make_mut(&mut self.checker)
    }
}

/// Which sector of the resource lies at `offset`.
fn sector_at(offset: u64) -> usize {
    (offset - area_offset(1)) as usize / SECTOR
}

fn beat(host: HostId) -> Heartbeat {
    let name = Name::new(b"n").unwrap();
    let note = HostNote {
        watchdog: 2,
        host,
        generation: Generation(1),
        boot_id: [host.get() as u8; 16],
        former_over: 1,
    };
    let free = Heartbeat::new(LOCKSPACE.geometry, &LOCKSPACE.name, 1);
    free.joined(&name, 5, 1, note)
}
