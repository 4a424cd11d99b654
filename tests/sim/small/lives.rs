//! The lives of hosts, as trees of the answers that they get: each is lived once, by the code
//! under test, and remembered. A life has parts, its attempts and what it holds: all that a host
//! takes along from one to the next is a [`Part`], so whatever led to it, it goes on from there
//! alike.

use super::super::checker::Run;
use super::super::clock::Face;
use super::super::port::{Answer, Handle, Op, Port, Process};
use super::super::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset, resource_name};
use lease_core::clock::{Clock, Moment};
use lease_core::delta::Tenure;
use lease_core::id::{Generation, HostId, Lver};
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::holder_note::HolderNote;
use lease_core::resource::{Attempt, Held, Member, Resource, Wanted};
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// How often a host tries.
const ATTEMPTS: u32 = 3;

/// Waits that are steps of their own, by their length.
const WHILE_HELD: Duration = Duration::from_secs(1000);
const UNTIL_A_DEATH: Duration = Duration::from_secs(2000);

/// What stands in a sector, by a number.
pub(super) type Content = u32;
/// How far a host has come, by a number.
pub(super) type Point = usize;

/// Everything that ever stood in a sector.
#[derive(Default)]
pub(super) struct Contents {
    numbers: HashMap<Rc<[u8]>, Content>,
    all: Vec<Rc<[u8]>>,
}

impl Contents {
    /// The number of these bytes.
    pub(super) fn number(&mut self, bytes: &[u8]) -> Content {
        if let Some(number) = self.numbers.get(bytes) {
            return *number;
        }
        let (number, bytes) = (self.all.len() as Content, Rc::from(bytes));
        self.numbers.insert(Rc::clone(&bytes), number);
        self.all.push(bytes);
        number
    }

    /// The bytes of this number.
    pub(super) fn bytes(&self, content: Content) -> &[u8] {
        &self.all[content as usize]
    }
}

/// What a host does that is no operation on the disk.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    /// Starts its command.
    Starts(Run),
    /// Its command has ended.
    Ends,
    /// Something is wrong.
    Accuses(String),
}

/// A part of a life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// An attempt, and how many more may follow.
    Tries { more: u32 },
    /// It has the lease.
    Holds(Box<Held>),
}

/// What comes of a stretch of life.
#[derive(Debug, Default)]
struct Outcome {
    deeds: Vec<Deed>,
    /// The part that follows, at the end of one.
    next: Option<Part>,
}

/// What a life has told since it was last asked.
#[derive(Default, Clone)]
struct Told(Rc<RefCell<Outcome>>);

/// Who lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    /// Its host id.
    pub(super) host: u64,
    /// How many take part in ballots.
    pub(super) hosts: u64,
    /// How it wants the lease.
    pub(super) mode: Mode,
    /// Whether it holds and releases what it gets.
    pub(super) whole: bool,
}

/// A part of a life up to one operation.
struct Stretch {
    who: Who,
    part: Part,
    /// The point before, and what it was answered there.
    before: Option<(Point, Box<[Content]>)>,
    after: HashMap<Box<[Content]>, Point>,
    pending: Option<Op>,
    outcome: Outcome,
    retries: u32,
}

/// All lives, as far as they were lived.
pub(super) struct Lives {
    face: Rc<Face>,
    /// All that is read or written.
    pub(super) contents: Contents,
    /// Where the parts begin.
    firsts: Vec<Point>,
    stretches: Vec<Stretch>,
}

impl Lives {
    /// Nobody has lived.
    pub(super) fn new() -> Self {
        let now = Rc::new(Cell::new(0));
        Self {
            face: Rc::new(Face::new(now, Duration::from_secs(100), 0)),
            contents: Contents::default(),
            firsts: Vec::new(),
            stretches: Vec::new(),
        }
    }

    /// The beginning of a life.
    pub(super) fn begin(&mut self, who: Who) -> Point {
        self.first(who, Part::Tries { more: ATTEMPTS - 1 })
    }

    /// The beginning of the part that follows on the one that has ended there, if one does.
    pub(super) fn next_part(&mut self, point: Point) -> Option<Point> {
        let stretch = &self.stretches[point];
        let (who, next) = (stretch.who, stretch.outcome.next.clone());
        next.map(|part| self.first(who, part))
    }

    fn first(&mut self, who: Who, part: Part) -> Point {
        let is_it = |point: &Point| {
            let stretch = &self.stretches[*point];
            stretch.who == who && stretch.part == part
        };
        let known = self.firsts.iter().copied().find(is_it);
        known.unwrap_or_else(|| {
            let point = self.live(who, part, None);
            self.firsts.push(point);
            point
        })
    }

    /// What comes after this answer: what was read, or nothing.
    pub(super) fn go_on(&mut self, from: Point, answer: &[Content]) -> Point {
        match self.stretches[from].after.get(answer) {
            Some(point) => *point,
            None => {
                let Stretch { who, part, .. } = &self.stretches[from];
                let point = self.live(*who, part.clone(), Some((from, answer.into())));
                self.stretches[from].after.insert(answer.into(), point);
                point
            }
        }
    }

    /// The operation that it stands at; none at its end.
    pub(super) fn pending(&self, point: Point) -> Option<&Op> {
        self.stretches[point].pending.as_ref()
    }

    /// What it has done since the point before.
    pub(super) fn deeds(&self, point: Point) -> &[Deed] {
        &self.stretches[point].outcome.deeds
    }

    /// How many ballots it has lost in this part.
    pub(super) fn retries(&self, point: Point) -> u32 {
        self.stretches[point].retries
    }

    /// Whether it waits until somebody is known to be dead.
    pub(super) fn waits_for_death(&self, point: Point) -> bool {
        let now = self.face.now();
        matches!(self.pending(point), Some(Op::Wait { until }) if *until > now.after(WHILE_HELD))
    }

    /// Whether it waits for something that is there at once, since time stands still.
    pub(super) fn is_due(&self, point: Point) -> bool {
        match self.pending(point) {
            Some(Op::Wait { until }) => *until <= self.face.now(),
            Some(Op::BackOff { .. } | Op::Settle { .. }) => true,
            _ => false,
        }
    }

    /// Lives up to an operation that nobody has come to yet.
    fn live(&mut self, who: Who, part: Part, before: Option<(Point, Box<[Content]>)>) -> Point {
        let told = Told::default();
        let (theirs, lived) = (told.clone(), part.clone());
        let body = move |port: &Port<'_>| life(port, who, lived, &theirs);
        let mut process = Process::start(Rc::clone(&self.face), Box::new(body));
        for answer in self.answers(before.as_ref()) {
            told.0.take();
            process.resume(answer);
        }
        let lost = |(point, _): &(Point, _)| {
            let again = matches!(self.pending(*point), Some(Op::BackOff { .. }));
            self.retries(*point) + u32::from(again)
        };
        let stretch = Stretch {
            who,
            part,
            retries: before.as_ref().map_or(0, lost),
            before,
            after: HashMap::new(),
            pending: process.pending.clone(),
            outcome: told.0.take(),
        };
        self.stretches.push(stretch);
        self.stretches.len() - 1
    }

    /// All answers from the beginning of the part.
    fn answers<'a>(&'a self, mut last: Option<&'a (Point, Box<[Content]>)>) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some((before, contents)) = last {
            answers.push(match self.pending(*before) {
                Some(Op::Read { .. }) => {
                    let read = contents.iter().map(|content| self.contents.bytes(*content));
                    Answer::Bytes(read.collect::<Vec<_>>().concat())
                }
                _ => Answer::Done,
            });
            last = self.stretches[*before].before.as_ref();
        }
        answers.reverse();
        answers
    }
}

fn first_file() -> Handle {
    Handle {
        file: 0,
        disk: 0,
        limit: Duration::from_secs(1),
    }
}

/// A part of a host's life: it acquires once, holds, releases. Where somebody else has it, it tries
/// again once the death of a host is known.
fn life(port: &Port<'_>, who: Who, part: Part, told: &Told) {
    let Who { host, mode, .. } = who;
    let disk = port.file(first_file());
    let replica = Replica {
        disk: &disk,
        offset: area_offset(1),
    };
    let resource = Resource {
        quorum: Quorum::new(vec![replica]),
        lockspace: LOCKSPACE.name,
        name: resource_name(0),
        geometry: RESOURCE_GEOMETRY,
        num_hosts: who.hosts,
    };
    let tenure = Tenure::new(Timing::new(1, 2).unwrap(), port.now());
    let member = Member {
        clock: port,
        tenure: &tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &disk,
        host: HostId::new(host).unwrap(),
        generation: Generation(1),
        ballots_from: Moment(0),
    };
    let wanted = Wanted {
        mode,
        lver: None,
        note: HolderNote {
            host: member.host,
            generation: Generation(1),
            lver: Lver(0),
            mode,
            pid: 1,
            start: 1,
            host_name: Vec::new(),
            command: Vec::new(),
        },
    };
    match part {
        Part::Tries { more } => {
            if more + 1 < ATTEMPTS {
                let _ = port.wait(UNTIL_A_DEATH);
            }
            let next = match resource.acquire(&member, &wanted, &mut Sightings::default()) {
                Ok(Attempt::Held(held)) => Some(Part::Holds(held)),
                Ok(_) => more.checked_sub(1).map(|more| Part::Tries { more }),
                Err(error) => return told.accuse(format!("host {host}: {error}")),
            };
            told.0.borrow_mut().next = next;
        }
        Part::Holds(held) => {
            told.did(Deed::Starts(run(&member, &held)));
            if who.whole {
                let _ = port.wait(WHILE_HELD);
                give_back(&resource, &member, &held, told);
            }
        }
    }
}

impl Told {
    fn did(&self, deed: Deed) {
        self.0.borrow_mut().deeds.push(deed);
    }

    fn accuse(&self, what: String) {
        self.did(Deed::Accuses(what));
    }
}

fn run(member: &Member<'_>, held: &Held) -> Run {
    Run {
        id: 0,
        resource: 0,
        machine: member.host.index(),
        life: (member.host.get(), 1),
        exclusive: held.mode == Mode::Exclusive,
        lver: held.lver.0,
        since: 0,
    }
}

fn give_back(resource: &Resource<'_>, member: &Member<'_>, held: &Held, told: &Told) {
    let host = member.host;
    if resource.still_held(member, held) != Ok(true) {
        told.accuse(format!("host {host} lost it"));
    }
    told.did(Deed::Ends);
    if let Err(error) = resource.release(member, held) {
        told.accuse(format!("host {host}: {error}"));
    }
}
