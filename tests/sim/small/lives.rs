//! The lives of hosts, as a tree of the answers that they get: each is lived once, by the code
//! under test, and remembered.

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

type Deeds = Rc<RefCell<Vec<Deed>>>;

/// Who lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// A life up to one operation.
struct Stretch {
    who: Who,
    /// The point before, and what it was answered there.
    before: Option<(Point, Box<[Content]>)>,
    after: HashMap<Box<[Content]>, Point>,
    pending: Option<Op>,
    deeds: Vec<Deed>,
    retries: u32,
}

/// All lives, as far as they were lived.
pub(super) struct Lives {
    face: Rc<Face>,
    /// All that is read or written.
    pub(super) contents: Contents,
    first: HashMap<Who, Point>,
    stretches: Vec<Stretch>,
}

impl Lives {
    /// Nobody has lived.
    pub(super) fn new() -> Self {
        let now = Rc::new(Cell::new(0));
        Self {
            face: Rc::new(Face::new(now, Duration::from_secs(100), 0)),
            contents: Contents::default(),
            first: HashMap::new(),
            stretches: Vec::new(),
        }
    }

    /// The beginning of a life.
    pub(super) fn begin(&mut self, who: Who) -> Point {
        match self.first.get(&who) {
            Some(point) => *point,
            None => {
                let point = self.live(who, None);
                self.first.insert(who, point);
                point
            }
        }
    }

    /// What comes after this answer: what was read, or nothing.
    pub(super) fn go_on(&mut self, from: Point, answer: &[Content]) -> Point {
        match self.stretches[from].after.get(answer) {
            Some(point) => *point,
            None => {
                let point = self.live(self.stretches[from].who, Some((from, answer.into())));
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
        &self.stretches[point].deeds
    }

    /// How many ballots it has lost.
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

    /// Lives a life up to an operation that it has not come to yet.
    fn live(&mut self, who: Who, before: Option<(Point, Box<[Content]>)>) -> Point {
        let deeds = Deeds::default();
        let theirs = Rc::clone(&deeds);
        let body = move |port: &Port<'_>| life(port, who, &theirs);
        let mut process = Process::start(Rc::clone(&self.face), Box::new(body));
        for answer in self.answers(before.as_ref()) {
            deeds.take();
            process.resume(answer);
        }
        let lost = |(point, _): &(Point, _)| {
            let again = matches!(self.pending(*point), Some(Op::BackOff { .. }));
            self.retries(*point) + u32::from(again)
        };
        let stretch = Stretch {
            who,
            retries: before.as_ref().map_or(0, lost),
            before,
            after: HashMap::new(),
            pending: process.pending.clone(),
            deeds: deeds.take(),
        };
        self.stretches.push(stretch);
        self.stretches.len() - 1
    }

    /// All answers from the beginning.
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

/// A host's life: acquires once, holds, releases. Where somebody else has it, it tries again once
/// the death of a host is known.
fn life(port: &Port<'_>, who: Who, deeds: &Deeds) {
    let Who { host, mode, .. } = who;
    let disk = port.file(Handle { file: 0, disk: 0 });
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
    for _ in 0..3 {
        match resource.acquire(&member, &wanted, &mut Sightings::default()) {
            Ok(Attempt::Held(held)) => {
                deeds.borrow_mut().push(Deed::Starts(run(&member, &held)));
                if who.whole {
                    let _ = port.wait(WHILE_HELD);
                    give_back(&resource, &member, &held, deeds);
                }
                return;
            }
            Ok(_) => {
                let _ = port.wait(UNTIL_A_DEATH);
            }
            Err(error) => return accuse(deeds, format!("host {host}: {error}")),
        }
    }
}

fn accuse(deeds: &Deeds, what: String) {
    deeds.borrow_mut().push(Deed::Accuses(what));
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

fn give_back(resource: &Resource<'_>, member: &Member<'_>, held: &Held, deeds: &Deeds) {
    let host = member.host;
    if resource.still_held(member, held) != Ok(true) {
        accuse(deeds, format!("host {host} lost it"));
    }
    deeds.borrow_mut().push(Deed::Ends);
    if let Err(error) = resource.release(member, held) {
        accuse(deeds, format!("host {host}: {error}"));
    }
}
