//! lease-hold as a process: a thread that does the disk I/O and takes one step after another, and
//! the main thread, which hears lease-join, looks for it again when it is gone, and keeps the
//! deadline. In a PID namespace the init of the command carries the deadline too.

use super::around::{identity_of, path_of};
use super::checker::Run;
use super::clock::Face;
use super::machine::{Cage, Connection, Machine, Membership};
use super::mail::{Group, Letter, Wish};
use super::port::Port;
use super::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset, resource_name};
use lease_core::clock::{Clock, Moment};
use lease_core::deadline::{Act, Deadline, Standing};
use lease_core::delta::Tenure;
use lease_core::id::{Generation, Lver};
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::holder_note::HolderNote;
use lease_core::registry::message::{
    AreaId, Ask, Asked, HolderId, Left, Phase, Tell, Turn, Welcome,
};
use lease_core::resource::{AcquireError, Attempt, Held, Member, Refusal, Resource, Wanted};
use lease_core::spec::{Mode, Place};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// The holder number of one that goes on when all others come to their end.
pub const PROBE: usize = 1000;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Between two questions about a holder on this host: more seldom than the tool, since each is many
/// steps in which nothing happens.
const LOCAL_AGAIN: Duration = Duration::from_millis(500);
const ALONE_AFTER: Duration = Duration::from_secs(3);
const LOOK_AROUND: Duration = Duration::from_millis(200);
const OVERSLEPT: Duration = Duration::from_millis(20);
const CATCH_UP: Duration = Duration::from_millis(100);
const FOR_LONG: Duration = Duration::from_secs(3600);

/// One run of lease-hold.
#[derive(Debug, Clone, Copy)]
pub struct Errand {
    /// Which resource.
    pub resource: usize,
    /// How.
    pub mode: Mode,
    /// For how long the command runs.
    pub hold: Duration,
    /// For how long to wait for the lease.
    pub patience: Duration,
}

impl Errand {
    /// Any.
    pub fn random(rng: &mut fastrand::Rng, machine: &Machine) -> Self {
        let resource = rng.usize(..machine.setup.resources);
        let shared = rng.u64(..100) < machine.setup.shared_percent;
        let mode = if shared {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        let hold = machine.setup.hold.mul_f64(rng.f64());
        let patience = match rng.u8(..4) {
            _ if machine.setup.tight => machine.setup.hold,
            0 => Duration::ZERO,
            1 => Duration::from_secs(2),
            _ => machine.setup.timing.dead_after() * 3,
        };
        Self {
            resource,
            mode,
            hold,
            patience,
        }
    }

    fn asked(&self, machine: &Machine) -> Asked {
        let offset = area_offset(1 + self.resource);
        let area = |disk: usize| {
            let identity = identity_of(disk);
            Some(AreaId { identity, offset })
        };
        let place = |disk: usize| Place {
            path: path_of(disk),
            offset,
        };
        Asked {
            resource: resource_name(self.resource),
            mode: self.mode,
            areas: (0..machine.setup.disks).map(area).collect(),
            places: (0..machine.setup.disks).map(place).collect(),
            spec: String::new(),
        }
    }
}

/// What is left behind: a write to one of several disks may be on its way still, whatever the
/// others say.
pub fn left(resource: &Resource<'_>, doubt: bool) -> Left {
    let late = resource.quorum.settle().is_err();
    Left { doubt, late }
}

/// What a ballot says of its holder.
pub fn wanted(machine: &Machine, mode: Mode) -> Wanted {
    let note = HolderNote {
        host: machine.setup.host,
        generation: Generation(0),
        lver: Lver(0),
        mode,
        pid: 1,
        start: 1,
        host_name: machine.name().as_bytes().to_vec(),
        command: b"command".to_vec(),
    };
    Wanted {
        mode,
        lver: None,
        note,
    }
}

/// Opens the resource and the lockspace, as each process does for itself, in the name of a life
/// as lease-join knows it.
pub fn with_files<T>(
    port: &Port<'_>,
    machine: &Machine,
    resource: usize,
    life: &Membership,
    work: impl FnOnce(&Resource<'_>, &Member<'_>) -> T,
) -> T {
    let Membership {
        generation,
        tenure,
        ballots_from,
        ..
    } = life;
    with_files_of(port, machine, resource, tenure, |resource, member| {
        let member = Member {
            generation: *generation,
            ballots_from: *ballots_from,
            ..*member
        };
        work(resource, &member)
    })
}

fn with_files_of<T>(
    port: &Port<'_>,
    machine: &Machine,
    resource: usize,
    tenure: &Tenure,
    work: impl FnOnce(&Resource<'_>, &Member<'_>) -> T,
) -> T {
    let heartbeats = port.file(machine.new_handle(0));
    let disks: Vec<_> = (0..machine.setup.disks)
        .map(|disk| port.file(machine.new_handle(disk)))
        .collect();
    let replicas = disks.iter().map(|disk| Replica {
        disk,
        offset: area_offset(1 + resource),
    });
    let resource = Resource {
        quorum: Quorum::new(replicas.collect()),
        lockspace: LOCKSPACE.name,
        name: resource_name(resource),
        geometry: RESOURCE_GEOMETRY,
        num_hosts: machine.setup.num_hosts,
    };
    let member = Member {
        clock: port,
        tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &heartbeats,
        host: machine.setup.host,
        generation: Generation(0),
        ballots_from: Moment::default(),
    };
    work(&resource, &member)
}

/// Registers, acquires, runs the command under guard, releases. Whether the lease was had.
pub fn run_errand(port: &Port<'_>, machine: &Rc<Machine>, holder: usize, errand: &Errand) -> bool {
    let pid = machine.begin(holder);
    port.face().go_on();
    let had = match Session::open(port, machine, pid, errand) {
        Some(session) => {
            let had = with_files_of(port, machine, errand.resource, &session.tenure, |r, m| {
                let member = Member {
                    generation: session.generation,
                    ballots_from: session.ballots_from,
                    ..*m
                };
                Worker {
                    port,
                    machine,
                    errand,
                    holder,
                    session: &session,
                    resource: r,
                    member,
                }
                .run()
            });
            session.close();
            had
        }
        None => false,
    };
    machine.ended(pid);
    had
}

/// Whether there is a lease-join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    /// It was asked to go on as before, and has not answered.
    Greeting(u64),
    Up(u64),
}

/// A registration with lease-join, shared by the threads of one lease-hold.
struct Session {
    machine: Rc<Machine>,
    pid: i32,
    /// Mailboxes of the main thread and of the other.
    main: usize,
    worker: usize,
    id: HolderId,
    generation: Generation,
    ballots_from: Moment,
    hosts: Sightings,
    tenure: Tenure,
    link: Cell<Link>,
    phase: Cell<Phase>,
    late: Cell<bool>,
    /// Questions without an answer yet.
    unanswered: RefCell<Vec<Ask>>,
    /// What was said since lease-join was asked to go on as before.
    held_back: RefCell<Vec<Ask>>,
    /// What is guarded.
    tree: Cell<Option<i32>>,
    init: Cell<Option<usize>>,
    /// It was taken on the disk.
    taken: Cell<bool>,
    /// It ends because the lease is lost.
    lost: Cell<bool>,
    /// lease-join leaves, or the host id is lost.
    ending: Cell<bool>,
    over: Cell<bool>,
    worker_face: Rc<Face>,
}

impl Session {
    fn open(port: &Port<'_>, machine: &Rc<Machine>, pid: i32, errand: &Errand) -> Option<Rc<Self>> {
        let shared = &machine.shared;
        let (main, worker) = (shared.mailbox(), shared.mailbox());
        let number = connect(machine, main, pid)?;
        let command = String::new();
        let resources = vec![errand.asked(machine)];
        say(machine, number, Ask::Register { command, resources });
        let give_up = port.now().after(ANSWER_WITHIN);
        let welcome = loop {
            port.listen(main, give_up);
            match shared.take(main) {
                Some(Letter::Tell(Tell::Registered(welcome))) => break welcome,
                Some(Letter::Tell(Tell::Renewed { .. })) => {}
                None if port.now() < give_up => {}
                _ => return None,
            }
        };
        let Welcome {
            holder,
            generation,
            timing,
            renewed,
            ballots_from,
            hosts,
            ..
        } = *welcome;
        let session = Rc::new(Self {
            machine: Rc::clone(machine),
            pid,
            main,
            worker,
            id: holder,
            generation,
            ballots_from,
            hosts,
            tenure: Tenure::new(timing, renewed),
            link: Cell::new(Link::Up(number)),
            phase: Cell::new(Phase::Idle),
            late: Cell::new(false),
            unanswered: RefCell::default(),
            held_back: RefCell::default(),
            tree: Cell::new(None),
            init: Cell::new(None),
            taken: Cell::new(false),
            lost: Cell::new(false),
            ending: Cell::new(false),
            over: Cell::new(false),
            worker_face: port.face(),
        });
        let its = Rc::clone(&session);
        let thread = move |port: &Port<'_>| Main::new(port, its).run();
        let holder = *machine.alive.borrow().get(&pid)?;
        shared.wish(Wish::Spawn(
            machine.index,
            Group::Hold(holder),
            Box::new(thread),
        ));
        Some(session)
    }

    fn close(&self) {
        self.over.set(true);
        self.machine.shared.letters.close(self.worker);
        self.machine.shared.post(self.main, Letter::Gone);
    }

    /// Asks something that is answered.
    fn ask(&self, ask: Ask) {
        self.say(ask.clone());
        self.unanswered.borrow_mut().push(ask);
    }

    fn answered(&self, is_it: impl Fn(&Ask) -> bool) {
        self.unanswered.borrow_mut().retain(|ask| !is_it(ask));
    }

    /// Says something that is not answered. Without a lease-join the phases tell the next one.
    fn say(&self, ask: Ask) {
        match self.link.get() {
            Link::Up(number) => say(&self.machine, number, ask),
            Link::Greeting(_) => self.held_back.borrow_mut().push(ask),
            Link::Down => {}
        }
    }

    fn acquired(&self, lver: Option<Lver>, left: Left) {
        let without = if left.doubt {
            Phase::Doubt
        } else {
            Phase::Idle
        };
        self.phase.set(lver.map_or(without, Phase::Held));
        self.late.set(self.late.get() || left.late);
        self.say(Ask::Acquired {
            index: 0,
            lver,
            left,
        });
    }

    fn released(&self, left: Left) {
        self.phase.set(if left.doubt {
            Phase::Doubt
        } else {
            Phase::Idle
        });
        self.late.set(self.late.get() || left.late);
        self.say(Ask::Released { index: 0, left });
    }

    /// All is gone, and nothing held any more; for the next lease-join, if there is none.
    fn gone(&self) {
        self.say(Ask::Gone);
        if self.link.get() == Link::Down {
            let mark = (self.generation, self.id);
            let mut run = self.machine.run.borrow_mut();
            let left = match (self.phase.get(), self.late.get()) {
                (Phase::Idle, true) => Phase::Doubt,
                (phase, _) => phase,
            };
            run.marks.insert(mark, vec![left]);
        }
    }

    /// Says that the command starts. `false`: it must not, for lease-join may not hear of that.
    fn start(&self) -> bool {
        let Link::Up(number) = self.link.get() else {
            return false;
        };
        let open = self.machine.connections.borrow().contains_key(&number);
        say(&self.machine, number, Ask::Start);
        open
    }

    fn last_moment(&self) -> Moment {
        let timing = self.tenure.timing();
        self.tenure.renewed().after(timing.lapse_after())
    }
}

/// A new connection to the lease-join that listens.
fn connect(machine: &Machine, client: usize, pid: i32) -> Option<u64> {
    let server = machine.run.borrow().socket?;
    let number = machine.shared.number();
    let connection = Connection {
        server,
        client,
        pid,
    };
    machine.connections.borrow_mut().insert(number, connection);
    Some(number)
}

fn say(machine: &Machine, number: u64, ask: Ask) {
    let connection = machine.connections.borrow().get(&number).copied();
    if let Some(connection) = connection {
        machine
            .shared
            .post(connection.server, Letter::Ask(number, ask));
    }
}

// ---- the main thread

struct Main<'p> {
    port: &'p Port<'p>,
    session: Rc<Session>,
    deadline: Deadline,
    overslept: Option<Moment>,
    stop: bool,
    look_at: Moment,
}

impl<'p> Main<'p> {
    fn new(port: &'p Port<'p>, session: Rc<Session>) -> Self {
        Self {
            port,
            session,
            deadline: Deadline::Running,
            overslept: None,
            stop: false,
            look_at: Moment::default(),
        }
    }

    fn run(mut self) {
        let shared = Rc::clone(&self.session.machine.shared);
        let mailbox = self.session.main;
        while !self.session.over.get() {
            let now = self.port.now();
            let mut due = self.look_for_lease_join(now);
            if let Some(tree) = self.session.tree.get() {
                due = due.min(self.keep_the_deadline(now, tree));
            }
            self.port.listen(mailbox, due);
            while let Some(letter) = shared.take(mailbox) {
                self.hear(letter);
            }
        }
        shared.letters.close(mailbox);
    }

    /// When to look again.
    fn look_for_lease_join(&mut self, now: Moment) -> Moment {
        let session = &self.session;
        if session.link.get() != Link::Down || !session.tenure.holds(now) {
            return now.after(FOR_LONG);
        }
        if now >= self.look_at {
            self.look_at = now.after(LOOK_AGAIN);
            if let Some(number) = connect(&session.machine, session.main, session.pid) {
                session.link.set(Link::Greeting(number));
                let ask = Ask::Resume {
                    holder: session.id,
                    generation: session.generation,
                    phases: vec![session.phase.get()],
                    late: vec![session.late.get()],
                };
                say(&session.machine, number, ask);
            }
        }
        self.look_at
    }

    /// When to look at it again.
    fn keep_the_deadline(&mut self, now: Moment, tree: i32) -> Moment {
        let standing = self.standing(now);
        if let Some(until) = self.catching_up(now, standing) {
            return until;
        }
        let act = self.deadline.step(now, standing);
        if self.deadline.lost() && !self.session.lost.replace(true) {
            self.session
                .machine
                .tell(|| "lost: the command is being ended".into());
            self.expect(standing);
        }
        if act == Act::Kill {
            self.session.machine.kill_tree(tree, true);
        }
        self.deadline.due(standing)
    }

    fn standing(&self, now: Moment) -> Standing {
        let tenure = &self.session.tenure;
        let timing = tenure.timing();
        let expires = tenure.renewed().after(timing.lost_after());
        Standing {
            expires,
            grace: timing.grace(),
            taken: self.session.taken.get() || (tenure.is_lost() && now < expires),
            stop: self.stop,
        }
    }

    fn catching_up(&mut self, now: Moment, standing: Standing) -> Option<Moment> {
        let late = now.since(standing.expires);
        if self.deadline != Deadline::Running || standing.taken || now < standing.expires {
            self.overslept = None;
            return None;
        }
        let until = match self.overslept {
            Some(until) => until,
            None if late > OVERSLEPT => now.after(CATCH_UP),
            None => now,
        };
        self.overslept = Some(until);
        (now < until).then_some(until)
    }

    /// Nothing is killed while its lease can still be kept.
    fn expect(&self, standing: Standing) {
        let machine = &self.session.machine;
        let kept = machine.is_kept(self.session.generation);
        if machine.shared.strict.get() && kept && !standing.taken {
            let (index, host) = (machine.index, Some(machine.setup.host));
            let what = || format!("m{index}: ended, though its lease is kept");
            machine.shared.surprise(host, None, what);
        }
    }

    fn hear(&mut self, letter: Letter) {
        let session = Rc::clone(&self.session);
        match letter {
            Letter::Tell(tell) => self.told(tell),
            Letter::Gone if session.link.replace(Link::Down) != Link::Down => {
                session.held_back.borrow_mut().clear();
                session
                    .machine
                    .tell(|| "a lease-hold has no lease-join".into());
            }
            _ => {}
        }
    }

    fn told(&mut self, tell: Tell) {
        let session = &self.session;
        let shared = &session.machine.shared;
        match &tell {
            Tell::Renewed { renewed } => {
                session.tenure.note_renewal(*renewed);
                if let Some(init) = session.init.get() {
                    shared.post(init, Letter::LastMoment(session.last_moment()));
                }
                shared.post(session.worker, Letter::Renewed(*renewed));
            }
            Tell::Resumed { renewed } => {
                session.tenure.note_renewal(*renewed);
                self.go_on();
            }
            Tell::Refused { .. } | Tell::Lost { .. } => {
                session.tenure.note_loss();
                self.end(tell);
            }
            Tell::Stop => {
                self.stop = true;
                self.end(tell);
            }
            Tell::Turn { .. } => {
                session.phase.set(Phase::Acquiring);
                session.answered(|ask| matches!(ask, Ask::Acquire { .. }));
                shared.post(session.worker, Letter::Tell(tell));
            }
            Tell::Busy { .. } => {
                session.answered(|ask| matches!(ask, Ask::Acquire { .. }));
                shared.post(session.worker, Letter::Tell(tell));
            }
            Tell::ReleaseTurn { last, .. } => {
                session
                    .phase
                    .set(if *last { Phase::Releasing } else { Phase::Idle });
                session.answered(|ask| matches!(ask, Ask::Release { .. }));
                shared.post(session.worker, Letter::Tell(tell));
            }
            Tell::Go { .. } | Tell::NotGuarded { .. } => {
                session.answered(|ask| matches!(ask, Ask::Guard { .. }));
                shared.post(session.worker, Letter::Tell(tell));
            }
            Tell::Registered(_) | Tell::Described(_) => {}
        }
    }

    /// lease-join is there again: what the other did not answer is asked again.
    fn go_on(&self) {
        let session = &self.session;
        let Link::Greeting(number) = session.link.get() else {
            return;
        };
        session.link.set(Link::Up(number));
        session.machine.tell(|| "a lease-hold goes on".into());
        let held_back = session.held_back.take();
        let unanswered = session.unanswered.borrow();
        let earlier = unanswered.iter().filter(|ask| !held_back.contains(ask));
        for ask in earlier.chain(&held_back) {
            say(&session.machine, number, ask.clone());
        }
    }

    /// Breaks off what the other thread waits for.
    fn end(&self, tell: Tell) {
        self.session.ending.set(true);
        if self.session.tree.get().is_none() {
            self.session.worker_face.stop();
        }
        let shared = &self.session.machine.shared;
        shared.post(self.session.worker, Letter::Tell(tell));
    }
}

/// The init of a PID namespace.
fn carry_deadline(port: &Port<'_>, session: &Session, tree: i32, mailbox: usize) {
    let (machine, lapse) = (&session.machine, session.tenure.timing().lapse_after());
    let mut last = session.last_moment();
    loop {
        if port.now() >= last {
            let run = machine.run.borrow();
            let life = run.life.as_ref().map(|life| &life.former);
            let same = life.filter(|former| former.generation == session.generation);
            match same.map(|former| former.renewed.after(lapse)) {
                Some(later) if later > port.now() => last = later,
                _ => return machine.kill_tree(tree, true),
            }
        }
        port.listen(mailbox, last);
        while let Some(letter) = machine.shared.take(mailbox) {
            match letter {
                Letter::LastMoment(at) => last = last.max(at),
                _ => return machine.kill_tree(tree, true),
            }
        }
    }
}

// ---- the thread that does the disk I/O, step by step

struct Worker<'a> {
    port: &'a Port<'a>,
    machine: &'a Rc<Machine>,
    errand: &'a Errand,
    holder: usize,
    session: &'a Rc<Session>,
    resource: &'a Resource<'a>,
    member: Member<'a>,
}

/// How one round of acquiring went.
enum Round {
    Held(Box<Held>),
    Again,
    Over,
}

impl Worker<'_> {
    fn run(&self) -> bool {
        let Some(held) = self.acquire() else {
            return false;
        };
        self.tell(|| format!("had, {}, lver {}", held.mode, held.lver));
        match self.session.ending.get() {
            true => self.give_back(&held),
            false => self.guard(&held),
        }
        true
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        let name = self.errand.resource;
        self.machine.tell(|| format!("r{name} {}", text()));
    }

    fn is_closing(&self) -> bool {
        self.session.ending.get() || (self.holder < PROBE && self.machine.closing.get())
    }

    fn is_ours(&self) -> bool {
        self.session.tenure.holds(self.port.now())
    }

    /// Waits for what lease-join says. `None`: everything ends.
    fn answer(&self) -> Option<Tell> {
        while !self.session.ending.get() && self.is_ours() {
            self.port
                .listen(self.session.worker, self.session.tenure.deadline());
            while let Some(letter) = self.machine.shared.take(self.session.worker) {
                if let Letter::Tell(
                    tell @ (Tell::Turn { .. }
                    | Tell::Busy { .. }
                    | Tell::Go { .. }
                    | Tell::NotGuarded { .. }),
                ) = letter
                {
                    return Some(tell);
                }
            }
        }
        None
    }

    // ---- acquire

    fn acquire(&self) -> Option<Box<Held>> {
        let give_up = self.port.now().after(self.errand.patience);
        let mut seen = self.session.hosts.clone();
        loop {
            self.session.ask(Ask::Acquire { index: 0 });
            let round = match self.answer()? {
                Tell::Turn { how, .. } => self.round(how, &mut seen, give_up),
                _ => {
                    let _ = self.port.wait(LOCAL_AGAIN);
                    Round::Again
                }
            };
            match round {
                Round::Held(held) => return Some(held),
                Round::Again if self.port.now() < give_up && !self.is_closing() => {}
                Round::Again | Round::Over => return None,
            }
        }
    }

    fn round(&self, how: Turn, seen: &mut Sightings, give_up: Moment) -> Round {
        let wanted = wanted(self.machine, self.errand.mode);
        let not_before = match how {
            Turn::Share => return self.share(),
            Turn::Ballot { not_before } => not_before,
        };
        let member = Member {
            ballots_from: self.member.ballots_from.max(not_before),
            ..self.member
        };
        let result = self.resource.acquire(&member, &wanted, seen);
        let doubt = match &result {
            Err(AcquireError::InDoubt(_)) => self.resource.resolve(&member, &wanted).is_err(),
            // Perhaps it was not lost, and only not heard of.
            Err(AcquireError::Lost) => true,
            _ => false,
        };
        let left = left(self.resource, doubt);
        let lver = match &result {
            Ok(Attempt::Held(held)) => Some(held.lver),
            _ => None,
        };
        self.session.acquired(lver, left);
        let pause = give_up.since(self.port.now());
        let watch = |snapshot, owner, patience, seen: &mut Sightings| {
            let watched = self
                .resource
                .watch(&member, &snapshot, owner, seen, patience);
            watched.map_or(Round::Over, |()| Round::Again)
        };
        match result {
            Ok(Attempt::Held(held)) => Round::Held(held),
            Ok(Attempt::Refused(why, snapshot)) => {
                self.tell(|| format!("refused: {}", short(&why)));
                match why {
                    Refusal::ShortHold(_) | Refusal::Contended => {
                        let _ = self.port.wait(ASK_AGAIN);
                        Round::Again
                    }
                    _ => {
                        let look = self.machine.setup.timing.io_limit();
                        watch(snapshot, None, pause.min(look), seen)
                    }
                }
            }
            Ok(Attempt::Unknown {
                owner, snapshot, ..
            }) => watch(snapshot, Some(owner), pause, seen),
            Err(AcquireError::TooEarly { until }) => {
                let wait = until.since(self.port.now()).max(ASK_AGAIN);
                let _ = self.port.wait(wait.min(pause.max(ASK_AGAIN)));
                Round::Again
            }
            Err(error) => {
                self.tell(|| format!("not had: {error}"));
                Round::Over
            }
        }
    }

    fn share(&self) -> Round {
        let held = self.resource.join_share(&self.member).ok().flatten();
        let lver = held.as_ref().map(|held| held.lver);
        self.session.acquired(lver, Left::NOTHING);
        held.map_or(Round::Over, |held| Round::Held(Box::new(held)))
    }

    // ---- guard

    fn guard(&self, held: &Held) {
        let (machine, session) = (self.machine, self.session);
        let watchers = vec![session.main, session.worker];
        let tree = machine.fork(session.pid, session.generation, watchers);
        let containment = machine.guarded(tree).containment;
        session.ask(Ask::Guard { containment });
        if !self.may_go() {
            machine.tree_is_gone(tree);
            session.answered(|ask| matches!(ask, Ask::Guard { .. }));
            return self.after(held, !self.is_ours());
        }
        session.tree.set(Some(tree));
        // The gate opens; in between anything may happen.
        self.port.page();
        self.open_gate(held, tree);
        self.watch_over(held, tree);
        self.after(held, session.lost.get());
    }

    /// The gate opens only once lease-join has noted what stands behind it, in the same life, and
    /// while that is not lost.
    fn may_go(&self) -> bool {
        let Some(Tell::Go {
            generation,
            renewed,
        }) = self.answer()
        else {
            return false;
        };
        self.session.tenure.note_renewal(renewed);
        generation == self.session.generation && self.is_ours() && self.session.start()
    }

    fn open_gate(&self, held: &Held, tree: i32) {
        let (machine, session) = (self.machine, self.session);
        session
            .machine
            .shared
            .post(session.main, Letter::LastMoment(session.last_moment()));
        let in_time = self.port.now() < session.last_moment();
        let mut trees = machine.trees.borrow_mut();
        let Some(started) = trees.get_mut(&tree).filter(|tree| !tree.killed) else {
            return;
        };
        if started.cage == Cage::Namespace {
            let init = machine.shared.mailbox();
            (started.init, started.watchers) = (Some(init), started.watchers.clone());
            session.init.set(Some(init));
            let its = Rc::clone(session);
            let thread = move |port: &Port<'_>| carry_deadline(port, &its, tree, init);
            let spawn = Wish::Spawn(machine.index, Group::Init(tree), Box::new(thread));
            machine.shared.wish(spawn);
            // The init looks at the deadline before it starts the command.
            if !in_time {
                return;
            }
        }
        if machine.shared.strict.get() && machine.is_over(session.generation) {
            let what = format!("m{}: started, though its lease is lost", machine.index);
            machine.shared.checker.borrow_mut().accuse(what);
        }
        started.run = Some(machine.shared.checker.borrow_mut().start(Run {
            id: 0,
            resource: self.errand.resource,
            machine: machine.index,
            life: (machine.setup.host.get(), session.generation.0),
            exclusive: self.errand.mode == Mode::Exclusive,
            lver: held.lver.0,
            since: machine.shared.now.get(),
        }));
        machine.shared.wish(Wish::Started(machine.index, tree));
    }

    /// While the command runs: at each renewal, is the lease still ours?
    fn watch_over(&self, held: &Held, tree: i32) {
        let (machine, session) = (self.machine, self.session);
        let over = self.port.now().after(self.errand.hold);
        let is_dead = || {
            machine
                .trees
                .borrow()
                .get(&tree)
                .is_none_or(|tree| tree.dead)
        };
        while !is_dead() {
            let ends = self.port.now() >= over || self.is_closing();
            if ends && !session.lost.get() {
                machine.tree_is_gone(tree);
                return self.tell(|| "command over".into());
            }
            let until = if ends {
                self.port.now().after(FOR_LONG)
            } else {
                over
            };
            self.port.listen(session.worker, until);
            let mut renewed = false;
            while let Some(letter) = machine.shared.take(session.worker) {
                renewed |= matches!(letter, Letter::Renewed(_));
            }
            if renewed && !self.still_held(held) {
                session.taken.set(true);
                machine.shared.post(session.main, Letter::Lost);
            }
        }
        self.tell(|| "lost".into());
        machine.shared.checker.borrow_mut().lost += 1;
    }

    fn still_held(&self, held: &Held) -> bool {
        match self.resource.still_held(&self.member, held) {
            Ok(true) | Err(AcquireError::Disk(_) | AcquireError::Lost) => true,
            Ok(false) => {
                let (m, r) = (self.machine.index, self.errand.resource);
                // Whoever was stopped for long has lost it by time.
                let dead_by = self.machine.dead_by(self.session.generation);
                if self.machine.shared.now.get() < dead_by {
                    let what = || format!("r{r} is not m{m}'s any more");
                    let host = Some(self.machine.setup.host);
                    self.machine.shared.surprise(host, Some(r), what);
                }
                false
            }
            Err(error) => {
                self.tell(|| format!("{error}"));
                false
            }
        }
    }

    // ---- release

    fn after(&self, held: &Held, lost: bool) {
        let session = self.session;
        if lost && self.port.now() >= session.tenure.deadline() {
            return session.gone();
        }
        self.give_back(held);
        // A share that is left because there is no lease-join is for the next one to end.
        let alone = session.link.get() == Link::Down && held.mode == Mode::Exclusive;
        if !lost && alone && session.phase.get() == Phase::Idle {
            session.gone();
        }
    }

    fn give_back(&self, held: &Held) {
        let session = self.session;
        let alone_at = self.port.now().after(ALONE_AFTER);
        session.ask(Ask::Release { index: 0 });
        loop {
            let now = self.port.now();
            if now >= session.tenure.deadline() {
                return self.tell(|| "not released in time".into());
            }
            if now >= alone_at && session.link.get() == Link::Down {
                if held.mode == Mode::Exclusive {
                    session.phase.set(Phase::Releasing);
                    session.answered(|ask| matches!(ask, Ask::Release { .. }));
                    self.release(held);
                }
                return;
            }
            self.port.listen(session.worker, now.after(LOOK_AROUND));
            while let Some(letter) = self.machine.shared.take(session.worker) {
                if let Letter::Tell(Tell::ReleaseTurn { last, .. }) = letter {
                    if last {
                        self.release(held);
                    }
                    return;
                }
            }
        }
    }

    fn release(&self, held: &Held) {
        let result = self.resource.release(&self.member, held);
        match &result {
            Ok(()) => self.tell(|| "released".into()),
            Err(error) => self.tell(|| format!("not released: {error}")),
        }
        let left = left(self.resource, result.is_err());
        self.session.released(left);
    }
}

fn short(why: &Refusal) -> String {
    match why {
        Refusal::Held { owner, .. } => format!("held by {}:{}", owner.host, owner.generation),
        Refusal::Shared(hosts) => format!("shared by {hosts:?}"),
        Refusal::ShortHold(owner) => format!("short hold of {}", owner.host),
        Refusal::Contended => "contended".into(),
        Refusal::Version { found } => format!("lver {found}"),
    }
}
