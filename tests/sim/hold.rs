//! lease-hold as a process of this world: the code that ships, over simulated surroundings. A
//! thread decides; one a resource does its disk I/O; beside them stand who carries the last
//! deadline, and the command.

use super::around::{Around, Open, path_of};
use super::carrying::{machine_of, renewals, run_init, run_keeper};
use super::checker::Run;
use super::clock::Face;
use super::machine::{Connection, Machine, Membership};
use super::mail::{Group, Letter, Wish};
use super::port::Port;
use super::setup::Cage;
use super::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset, resource_at, resource_name};
use super::{lockspace, lockspace_named};
use lease_core::clock::{Clock, Moment};
use lease_core::contain::Containment;
use lease_core::delta::Tenure;
use lease_core::failure::Failure;
use lease_core::holder::acquire::Patience;
use lease_core::holder::attempts;
use lease_core::holder::carrier::{Carried, CarriedHost, Renewals};
use lease_core::holder::hub::Hub;
use lease_core::holder::job::{Answer, Job};
use lease_core::holder::session;
use lease_core::holder::surroundings::{Event, HolderSurroundings, Unanswered};
use lease_core::holder::wishes::Wishes;
use lease_core::holder::worker::Worker;
use lease_core::holder::{self, guard::Manner};
use lease_core::id::{Generation, Lver, Name};
use lease_core::opened::{Look, Opened};
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::request::Force;
use lease_core::registry::message::{Ask, Asked, HolderId, Phase, Tell, Welcome};
use lease_core::resource::{Member, Resource};
use lease_core::spec::{Mode, Place, ResourceArgument, ResourceSpec};
use lease_core::surroundings::Surroundings;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// The holder number of one that goes on when all others come to their end.
pub const PROBE: usize = 1000;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const FOR_LONG: Duration = Duration::from_secs(3600);
const SIGTERM: i32 = 15;
/// Exit codes.
const CONFLICT: u8 = 75;
const LOST: u8 = 124;

/// One run of lease-hold.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Which resource.
    pub resource: usize,
    /// How.
    pub mode: Mode,
    /// What else is wanted, all or none.
    pub others: Vec<(usize, Mode)>,
    /// For how long the command runs.
    pub hold: Duration,
    /// For how long to wait for the lease.
    pub patience: Patience,
    /// The command ends when it is asked to.
    pub obeys: bool,
    /// How whoever holds it is asked to let go.
    pub request: Option<Force>,
}

impl Errand {
    /// Any.
    pub fn random(rng: &mut fastrand::Rng, machine: &Machine) -> Self {
        let setup = &machine.setup;
        let mode = |rng: &mut fastrand::Rng| match rng.u64(..100) < setup.shared_percent {
            true => Mode::Shared,
            false => Mode::Exclusive,
        };
        let mut resources: Vec<usize> = (0..setup.resources).collect();
        rng.shuffle(&mut resources);
        let several = if setup.more.is_empty() { 1 } else { 3 };
        let count = match rng.u8(..4) {
            draw if draw < several => rng.usize(1..=resources.len()),
            _ => 1,
        };
        resources.truncate(count);
        let mut wants = resources.into_iter().map(|resource| (resource, mode(rng)));
        let (resource, mode) = wants.next().unwrap();
        let others = wants.collect();
        let patience = match rng.u8(..5) {
            _ if setup.tight => Patience::For(setup.hold),
            0 => Patience::None,
            1 => Patience::UntilKnown,
            2 => Patience::For(Duration::from_secs(2)),
            _ => Patience::For(setup.timing.dead_after() * 3),
        };
        Self {
            resource,
            mode,
            others,
            hold: setup.hold.mul_f64(rng.f64()),
            patience,
            obeys: rng.bool(),
            request: match rng.u8(..8) {
                0 => Some(Force::Kill),
                1 | 2 => Some(Force::Stop),
                _ => None,
            },
        }
    }

    /// For how long it waits, whoever holds it.
    pub fn waits_for(&self) -> Duration {
        match self.patience {
            Patience::For(duration) => duration,
            Patience::None | Patience::UntilKnown => Duration::ZERO,
        }
    }

    fn specs(&self, machine: &Machine) -> Vec<ResourceSpec> {
        let place = |disk, resource| Place {
            path: path_of(disk),
            offset: area_offset(1 + resource),
        };
        let first = std::iter::once((self.resource, self.mode));
        let all = first.chain(self.others.iter().copied());
        let spec = |(resource, mode)| ResourceSpec {
            lockspace: lockspace(resource % machine.setup.lockspaces()).name,
            name: resource_name(resource),
            places: (0..machine.setup.disks)
                .map(|disk| place(disk, resource))
                .collect(),
            mode,
            lver: None,
        };
        all.map(spec).collect()
    }
}

/// Which resource it is.
fn resource_of(spec: &ResourceSpec) -> usize {
    resource_at(spec.places[0].offset)
}

/// A lease-hold, after a pause; of sanlock's, one after another for as long as the machine is up.
pub fn lease_hold(port: &Port<'_>, machine: &Rc<Machine>, holder: usize, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    while !machine.closing.get() {
        while machine.leaving.get() {
            port.back_off(Duration::from_secs(1));
        }
        let _ = port.wait(machine.setup.pace.mul_f64(rng.f64()));
        let errand = Errand::random(&mut rng, machine);
        if machine.setup.sanlock {
            super::sanlock::run_errand(port, machine, holder, &errand);
        } else if !machine.closing.get() {
            return run_errand(port, machine, holder, &errand, |_| {});
        }
    }
}

/// From its start to its end; `tell_had` is told whether the leases were had.
pub fn run_errand(
    port: &Port<'_>,
    machine: &Rc<Machine>,
    holder: usize,
    errand: &Errand,
    tell_had: impl FnOnce(bool),
) {
    let pid = machine.begin(holder);
    let here = Around {
        port,
        machine: Rc::clone(machine),
    };
    let had = match hold(&here, (holder, pid), errand) {
        Ok((had, code)) => {
            machine.tell(|| format!("lease-hold ends: {code}"));
            had
        }
        Err(why) => {
            machine.tell(|| format!("lease-hold ends: {why}"));
            false
        }
    };
    tell_had(had);
    let end = Wish::End(machine.index, Group::Hold(holder));
    machine.shared.wish(end);
    loop {
        port.back_off(FOR_LONG);
    }
}

/// Whether the leases were had, and the exit code.
fn hold(here: &Around<'_>, who: (usize, i32), errand: &Errand) -> anyhow::Result<(bool, u8)> {
    let specs = errand.specs(&here.machine);
    let wanted = (errand.patience, None);
    let arguments = specs.iter().cloned().map(ResourceArgument::Placed);
    let arguments: Vec<ResourceArgument> = arguments.collect();
    let mut kept = None;
    let held = attempts::acquire((here, &arguments), wanted, &mut kept, |pause| {
        if !pause.is_zero() {
            here.wait(pause)?;
        }
        let mut process = Process::start(here.clone(), who, (&specs, errand));
        let resources = process.open()?;
        let mut hub = Hub::start(process, &[], resources, "command".into())?;
        hub.asking = Wishes::by(errand.request);
        Ok(Ok(hub))
    })?;
    let (hub, held) = match held {
        Ok(held) => held,
        Err(end) => return Ok((false, end.exit(here, CONFLICT)?)),
    };
    let manner = Manner {
        kill_signal: SIGTERM,
        grace: None,
        end_rest: false,
        adopted: false,
    };
    let code = holder::run(hub, held, &manner);
    if let Err(why) = &code {
        here.say(&why.to_string());
    }
    Ok((true, code.unwrap_or(LOST)))
}

/// One lease-hold, as its thread that decides sees it.
struct Process<'p> {
    here: Around<'p>,
    holder: usize,
    pid: i32,
    specs: Vec<ResourceSpec>,
    hold: Duration,
    obeys: bool,
    inbox: usize,
    /// What came while an answer was waited for.
    early: VecDeque<Letter>,
    /// Of each session: the way into the inbox, and the connection.
    lines: Vec<(usize, Option<u64>)>,
    workers: Vec<usize>,
    /// Workers that have opened their disks, or are about to, and have no number yet.
    opened: VecDeque<usize>,
    /// What an order wants, and what was said of each.
    ordered: Vec<(ResourceSpec, Option<Result<Asked, Failure>>)>,
    /// The clocks of the workers.
    faces: Rc<RefCell<Vec<Rc<Face>>>>,
    /// Whose lives the leases are held in.
    hosts: Vec<CarriedHost>,
    carried: Option<Carried>,
    tree: Option<i32>,
    /// The versions that are held, in the order of the resources.
    lvers: Vec<Lver>,
}

impl<'p> Process<'p> {
    /// Its workers begin to open their disks.
    fn start(
        here: Around<'p>,
        (holder, pid): (usize, i32),
        (specs, errand): (&[ResourceSpec], &Errand),
    ) -> Self {
        let machine = &here.machine;
        let inbox = machine.shared.mailbox();
        machine.inboxes.borrow_mut().insert(pid, inbox);
        let mut process = Self {
            holder,
            pid,
            specs: specs.to_vec(),
            hold: errand.hold,
            obeys: errand.obeys,
            inbox,
            early: VecDeque::new(),
            lines: Vec::new(),
            workers: Vec::new(),
            opened: VecDeque::new(),
            ordered: Vec::new(),
            faces: Rc::default(),
            hosts: Vec::new(),
            carried: None,
            tree: None,
            lvers: Vec::new(),
            here,
        };
        specs.iter().for_each(|spec| process.start_to_open(spec));
        process
    }

    /// A worker begins to open its disks.
    fn start_to_open(&mut self, spec: &ResourceSpec) {
        let machine = self.machine();
        let mailbox = machine.shared.mailbox();
        let (of, spec, faces) = (Rc::clone(machine), spec.clone(), Rc::clone(&self.faces));
        let (ticket, inbox) = (self.opened.len(), self.inbox);
        let thread = move |port: &Port<'_>| {
            faces.borrow_mut().push(port.face());
            let here = Around { port, machine: of };
            work(&here, (ticket, &spec), (mailbox, inbox));
        };
        self.spawn(Group::Hold(self.holder), thread);
        self.opened.push_back(mailbox);
    }

    /// One of the disks that an order wants is open, or cannot be.
    fn opened(&mut self, ticket: usize, result: Result<Asked, Failure>) -> Option<Event> {
        self.ordered[ticket].1 = Some(result);
        if self.ordered.iter().any(|(_, result)| result.is_none()) {
            return None;
        }
        let all = std::mem::take(&mut self.ordered).into_iter();
        let all = all.map(|(spec, result)| Some((spec, result?)));
        let all = all
            .flatten()
            .map(|(spec, result)| result.map(|asked| (spec, asked)));
        let all: Result<Vec<_>, Failure> = all.collect();
        if all.is_err() {
            self.close_opened();
        }
        Some(Event::Opened(all))
    }

    fn post_to_carrier(&self, letter: Letter) {
        let machine = self.machine();
        let trees = machine.trees.borrow();
        let tree = self.tree.and_then(|tree| trees.get(&tree));
        if let Some(carrier) = tree.and_then(|tree| tree.carrier) {
            machine.shared.post(carrier, letter);
        }
    }

    /// Waits until all disks are open.
    fn open(&mut self) -> Result<Vec<(ResourceSpec, Asked)>, Failure> {
        let mut opened: Vec<Option<Result<Asked, Failure>>> = vec![None; self.specs.len()];
        while opened.iter().any(Option::is_none) {
            match self.next(self.here.now().after(FOR_LONG)) {
                Some(Letter::Opened(index, result)) => opened[index] = Some(*result),
                Some(other) => self.early.push_back(other),
                None => {}
            }
        }
        let asked: Result<Vec<Asked>, Failure> = opened.into_iter().flatten().collect();
        let asked = asked.inspect_err(|_| {
            let shared = &self.here.machine.shared;
            let workers = self.opened.iter();
            workers.for_each(|worker| shared.post(*worker, Letter::Gone));
        })?;
        Ok(self.specs.iter().cloned().zip(asked).collect())
    }

    /// The next letter that was not there before; `None`: it is `until`.
    fn next(&self, until: Moment) -> Option<Letter> {
        loop {
            if let Some(letter) = self.here.machine.shared.take(self.inbox) {
                return Some(letter);
            }
            if self.here.now() >= until {
                return None;
            }
            self.here.port.listen(self.inbox, until);
        }
    }

    fn event(&mut self, letter: Letter) -> Option<Event> {
        match letter {
            Letter::Via(session, letter) => match *letter {
                Letter::Tell(tell) => Some(Event::Told(session, tell)),
                Letter::Gone => {
                    self.lines[session].1 = None;
                    Some(Event::Ended(session))
                }
                _ => None,
            },
            Letter::Found(session, number) => {
                self.lines[session].1 = Some(number);
                Some(Event::Found(session))
            }
            Letter::Opened(ticket, result) => self.opened(ticket, *result),
            Letter::Done(index, answer) => Some(Event::Done(index, *answer)),
            Letter::Signal(number) => Some(Event::Signal(number, false)),
            Letter::Exited(code) => Some(Event::Exited(code)),
            Letter::TreeGone => Some(Event::TreeGone),
            _ => None,
        }
    }

    fn machine(&self) -> &Rc<Machine> {
        &self.here.machine
    }

    /// Nothing is ended while its lease can still be kept.
    fn expect_a_loss(&self) {
        let machine = self.machine();
        let kept = |host: &CarriedHost| machine_of(machine, host).is_kept(host.generation);
        if machine.shared.strict.get() && self.hosts.iter().all(kept) {
            let (index, host) = (machine.index, Some(machine.setup.host));
            let what = || format!("m{index}: ended, though its lease is kept");
            machine.shared.surprise(host, None, what);
        }
    }

    /// A thread of its own, or a process that it starts.
    fn spawn(&self, group: Group, body: impl FnOnce(&Port<'_>) + 'static) {
        let machine = self.machine();
        let spawn = Wish::Spawn(machine.index, group, Box::new(body));
        machine.shared.wish(spawn);
    }

    /// The command runs, under what it has been told of its leases.
    fn start_command(start: &Start) {
        let machine = &start.machine;
        let shared = &machine.shared;
        let mut trees = machine.trees.borrow_mut();
        let Some(tree) = trees
            .get_mut(&start.tree)
            .filter(|tree| !tree.killed && !tree.dead)
        else {
            return;
        };
        let over = |(index, life): &(usize, _)| machine.in_lockspace(*index).is_over(*life);
        if shared.strict.get() && tree.lives.iter().any(over) {
            let what = format!("m{}: started, though its lease is lost", machine.index);
            shared.checker.borrow_mut().accuse(what);
        }
        for (spec, lver) in start.specs.iter().zip(&start.lvers) {
            let in_one = lockspace_named(&spec.lockspace);
            let mut lives = tree.lives.iter();
            let life = lives.find_map(|(index, life)| (*index == in_one).then_some(life.0));
            let host = machine.in_lockspace(in_one).setup.host.get();
            let run = shared.checker.borrow_mut().start(Run {
                id: 0,
                resource: resource_of(spec),
                machine: machine.index,
                life: (host, life.unwrap_or(0)),
                exclusive: spec.mode == Mode::Exclusive,
                lver: lver.0,
                since: shared.now.get(),
            });
            tree.runs.push(run);
        }
        let mailbox = shared.mailbox();
        tree.command = Some(mailbox);
        shared.wish(Wish::Started(machine.index, start.tree));
        let its = start.clone();
        let command = move |port: &Port<'_>| run_command(port, &its, mailbox);
        let group = Group::Command(start.tree);
        shared.wish(Wish::Spawn(machine.index, group, Box::new(command)));
    }
}

/// What a command is started with.
#[derive(Clone)]
struct Start {
    machine: Rc<Machine>,
    tree: i32,
    specs: Vec<ResourceSpec>,
    lvers: Vec<Lver>,
    hold: Duration,
    obeys: bool,
}

/// The command: for its time, or until it is asked to end, if it does as it is asked.
fn run_command(port: &Port<'_>, start: &Start, mailbox: usize) {
    let Start { machine, tree, .. } = start;
    let over = port.now().after(start.hold);
    while port.now() < over {
        port.listen(mailbox, over);
        if machine.shared.take(mailbox).is_some() && (start.obeys || machine.closing.get()) {
            let _ = port.wait(Duration::from_secs(1));
            break;
        }
    }
    machine.command_ends(*tree);
}

// ---- the thread that does a resource's disk I/O

fn work(
    here: &Around<'_>,
    (ticket, spec): (usize, &ResourceSpec),
    (mailbox, main): (usize, usize),
) {
    let shared = &here.machine.shared;
    let (opened, mut late) = open(here, spec);
    let asked = opened.as_ref().map(Opened::asked).map_err(Clone::clone);
    shared.post(main, Letter::Opened(ticket, Box::new(asked)));
    let Ok(opened) = opened else { return };
    let mut opened: Option<(Opened<Open<'_>>, Moment)> = Some((opened, here.now()));
    let mut worker = None;
    let mut number = ticket;
    loop {
        here.port.listen(mailbox, here.now().after(FOR_LONG));
        while let Some(letter) = shared.take(mailbox) {
            match letter {
                Letter::Host(index, welcome, tenure) => {
                    number = index;
                    let host = (welcome, tenure);
                    let opened = opened.take();
                    worker = opened.map(|opened| Worker::new((here, here.clone()), opened, host));
                }
                Letter::Job(job) => {
                    let Some(worker) = &mut worker else { return };
                    late();
                    let answer: Answer = worker.work(*job);
                    expect(here, spec, &answer);
                    shared.post(main, Letter::Done(number, Box::new(answer)));
                }
                _ => return,
            }
        }
    }
}

/// Opens the disks of a resource, and those that have not answered yet later: one a call.
fn open<'p>(
    here: &Around<'p>,
    spec: &ResourceSpec,
) -> (Result<Opened<Open<'p>>, Failure>, impl FnMut() + use<'p>) {
    let disks = spec.places.len();
    let mut left: VecDeque<usize> = (0..disks).collect();
    left.rotate_left(here.machine.shared.number() as usize % disks);
    let (sender, late) = mpsc::channel();
    let mut looks = Vec::new();
    while !(here.machine.setup.some_late && Look::decide(&looks, disks))
        && let Some(index) = left.pop_front()
    {
        looks.push(Look::at(here, spec, index));
    }
    let opened = Opened::of(spec, (looks, Some(late)), |why| here.say(&why.to_string()));
    let (here, spec) = (here.clone(), spec.clone());
    let next = move || {
        let look = |index| sender.send(Look::at(&here, &spec, index));
        left.pop_front().map(look);
    };
    (opened, next)
}

/// Nobody loses what it holds while it lives.
fn expect(here: &Around<'_>, spec: &ResourceSpec, answer: &Answer) {
    let machine = here.machine.in_lockspace(lockspace_named(&spec.lockspace));
    let (m, r) = (machine.index, resource_of(spec));
    machine.tell(|| format!("r{r} {}", in_short(answer)));
    let generation = machine.member.borrow().as_ref().map(|life| life.generation);
    // Whoever was stopped for long has lost it by time.
    let alive = generation.is_some_and(|of| machine.shared.now.get() < machine.dead_by(of));
    if matches!(answer, Answer::Checked(Ok(Some(_)))) && alive {
        let what = || format!("r{r} is not m{m}'s any more");
        let host = Some(machine.setup.host);
        machine.shared.surprise(host, Some(r), what);
    }
}

fn in_short(answer: &Answer) -> String {
    match answer {
        Answer::Attempted(result, left) => format!("attempted: {result:?}, {left:?}"),
        Answer::Shared(result) => format!("shared: {result:?}"),
        Answer::Watched(result) => format!("watched: {result:?}"),
        Answer::Replaced(why) => why.clone(),
        Answer::Resolved(left) => format!("resolved: {left:?}"),
        Answer::Checked(result) => format!("checked: {result:?}"),
        Answer::Asked(result) => format!("asked: {result:?}"),
        Answer::RequestSeen(result) => format!("request: {result:?}"),
        Answer::ValueRead(result) => format!("value: {result:?}"),
        Answer::Released(result, left, unwritten) => {
            format!("released: {result:?}, {left:?}, {unwritten:?}")
        }
    }
}

// ---- the surroundings

impl<'p> HolderSurroundings for Process<'p> {
    type Machine = Around<'p>;

    /// More seldom than the tool: in between nothing happens.
    const ASK_AGAIN: Duration = Duration::from_millis(250);

    fn machine(&self) -> &Around<'p> {
        &self.here
    }

    fn pid(&self) -> u32 {
        1
    }

    fn gather(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let early = self.early.pop_front();
            let shared = &self.here.machine.shared;
            match early.or_else(|| shared.take(self.inbox)) {
                Some(letter) => events.extend(self.event(letter)),
                None => return events,
            }
        }
    }

    fn wait(&mut self, until: Option<Moment>) {
        let until = until.unwrap_or_else(|| self.here.now().after(FOR_LONG));
        self.here.port.listen(self.inbox, until);
    }

    fn run_dir(&self) -> &Path {
        Path::new("/run")
    }

    fn register(&mut self, number: usize, name: &Name, ask: &Ask) -> Result<Tell, Unanswered> {
        let shared = Rc::clone(&self.here.machine.shared);
        let way = shared.letters.open_via(self.inbox, number);
        let machine = self.machine().in_lockspace(lockspace_named(name));
        let line = connect(&machine, way, self.pid);
        self.lines.push((way, line));
        if line.is_none() {
            return Err(Unanswered::Absent("nobody listens".into()));
        }
        self.ask(number, ask);
        let give_up = self.here.now().after(ANSWER_WITHIN);
        loop {
            match self.next(give_up) {
                Some(Letter::Via(of, letter)) if of == number => match *letter {
                    Letter::Tell(Tell::Renewed { .. }) => {}
                    Letter::Tell(tell) => return Ok(tell),
                    _ => return Err(Unanswered::Absent("it has ended".into())),
                },
                Some(other) => self.early.push_back(other),
                None => return Err(Unanswered::Absent("no answer".into())),
            }
        }
    }

    fn ask(&mut self, number: usize, ask: &Ask) -> bool {
        let (_, line) = self.lines[number];
        line.is_some_and(|line| say(&self.here.machine, line, ask.clone()))
    }

    fn look_for(&mut self, number: usize, name: &Name, tenure: &Arc<Tenure>) {
        let (way, _) = self.lines[number];
        let machine = self.machine().in_lockspace(lockspace_named(name));
        let (pid, inbox) = (self.pid, self.inbox);
        let tenure = Arc::clone(tenure);
        self.spawn(Group::Hold(self.holder), move |port| {
            session::seek(port, &tenure, || {
                let line = connect(&machine, way, pid);
                let found = line.map(|line| Letter::Found(number, line));
                let found = found.map(|letter| machine.shared.post(inbox, letter));
                found.is_some()
            });
        });
    }

    fn hang_up(&mut self, number: usize) {
        if let Some(line) = self.lines[number].1.take() {
            hang_up(&self.here.machine, line);
        }
    }

    fn leave_mark(&mut self, name: &Name, life: Generation, holder: HolderId, phases: &[Phase]) {
        let machine = self.machine().in_lockspace(lockspace_named(name));
        let mut run = machine.run.borrow_mut();
        run.marks.insert((life, holder), phases.to_vec());
    }

    fn follow(&mut self, hosts: &[CarriedHost]) {
        self.hosts = hosts.to_vec();
    }

    fn renewals(&mut self) -> Option<Renewals> {
        Some(renewals(&self.here.machine, &self.hosts))
    }

    fn start_worker(
        &mut self,
        index: usize,
        welcome: &Arc<Welcome>,
        tenure: &Arc<Tenure>,
    ) -> anyhow::Result<()> {
        let host = Letter::Host(index, Arc::clone(welcome), Arc::clone(tenure));
        let worker = self.opened.pop_front();
        let worker = worker.ok_or_else(|| anyhow::anyhow!("nothing is opened"))?;
        self.workers
            .resize(self.workers.len().max(index + 1), worker);
        self.workers[index] = worker;
        self.here.machine.shared.post(worker, host);
        Ok(())
    }

    fn open(&mut self, resources: Vec<ResourceArgument>) {
        for resource in resources {
            if let ResourceArgument::Placed(spec) = resource {
                self.start_to_open(&spec);
                self.ordered.push((spec, None));
            }
        }
    }

    fn close_opened(&mut self) {
        let left = self.opened.drain(..);
        let shared = &self.here.machine.shared;
        left.for_each(|worker| shared.post(worker, Letter::Gone));
    }

    fn end_worker(&mut self, index: usize) {
        let worker = self.workers[index];
        self.here.machine.shared.post(worker, Letter::Gone);
    }

    fn give(&mut self, index: usize, job: Job) {
        let job = Letter::Job(Box::new(job));
        self.here.machine.shared.post(self.workers[index], job);
    }

    fn interrupt(&mut self) {
        self.faces.borrow().iter().for_each(|face| face.stop());
        let machine = self.machine();
        let wake = Wish::Wake(machine.index, Group::Hold(self.holder));
        machine.shared.wish(wake);
    }

    fn stand_at_gate(
        &mut self,
        variables: Vec<(&'static str, String)>,
        carried: &Carried,
    ) -> anyhow::Result<Containment> {
        self.lvers = lvers(&variables);
        self.carried = Some(carried.clone());
        let machine = Rc::clone(self.machine());
        let life = |host: &CarriedHost| (lockspace_named(&host.lockspace), host.generation);
        let lives = carried.hosts.iter().map(life).collect();
        let tree = machine.fork(self.pid, lives, vec![self.inbox]);
        self.tree = Some(tree);
        let mailbox = machine.shared.mailbox();
        let mut trees = machine.trees.borrow_mut();
        if let Some(tree) = trees.get_mut(&tree) {
            tree.carrier = Some(mailbox);
        }
        if machine.setup.cage != Cage::Namespace {
            let (of, carried, whom) = (Rc::clone(&machine), carried.clone(), (tree, self.pid));
            self.spawn(Group::Carrier(tree), move |port| {
                run_keeper(port, (&of, &carried), whom, mailbox);
            });
        }
        Ok(machine.guarded(tree).containment)
    }

    fn open_gate(&mut self) -> anyhow::Result<()> {
        // In between anything may happen.
        self.here.port.page();
        let machine = Rc::clone(self.machine());
        let (Some(tree), Some(carried)) = (self.tree, self.carried.clone()) else {
            return Ok(());
        };
        let start = Start {
            machine: Rc::clone(&machine),
            tree,
            specs: self.specs.clone(),
            lvers: self.lvers.clone(),
            hold: self.hold,
            obeys: self.obeys,
        };
        let carrier = machine
            .trees
            .borrow()
            .get(&tree)
            .and_then(|tree| tree.carrier);
        match (machine.setup.cage, carrier) {
            (Cage::Namespace, Some(mailbox)) => self.spawn(Group::Carrier(tree), move |port| {
                let whose = (&start.machine, &carried);
                run_init(port, whose, (tree, mailbox), || Self::start_command(&start));
            }),
            _ => Self::start_command(&start),
        }
        Ok(())
    }

    fn give_up_gate(&mut self) {
        let machine = self.machine();
        self.tree
            .iter()
            .for_each(|tree| machine.tree_is_gone(*tree));
    }

    fn not_before(&mut self, at: Moment) {
        self.post_to_carrier(Letter::LastMoment(at));
    }

    fn carry(&mut self, carried: &Carried) {
        self.post_to_carrier(Letter::Carried(Box::new(carried.clone())));
    }

    fn let_go(&mut self) {}

    fn signal(&mut self, number: i32) -> bool {
        let machine = self.machine();
        self.tree.is_some_and(|tree| machine.signal(tree, number))
    }

    fn signal_rest(&mut self, _: i32) {}

    fn terminate(&mut self) {
        self.signal(SIGTERM);
    }

    fn kill(&mut self, _: bool) {
        let machine = self.machine();
        self.tree
            .iter()
            .for_each(|tree| machine.kill_tree(*tree, true));
    }

    fn run_on_request(&mut self) -> bool {
        false
    }

    fn hands_on_value(&self) -> bool {
        false
    }

    fn give_value(&mut self, _: Vec<u8>) {}

    fn take_value(&mut self, _: usize) {}

    fn rest(&mut self) -> Option<String> {
        None
    }

    fn run_aside(&mut self) -> bool {
        self.expect_a_loss();
        false
    }

    /// It is run when nobody has said that the lease was taken.
    fn has_aside(&self) -> bool {
        true
    }

    fn stop(&mut self) {}

    fn follow_stop(&mut self, _: i32) {}

    fn local_time(&self, since_1970: u64) -> String {
        since_1970.to_string()
    }
}

/// The versions, in the order of the resources, by what the command is told.
fn lvers(variables: &[(&'static str, String)]) -> Vec<Lver> {
    let leases = variables.iter().find(|(name, _)| *name == "LEASE_LEASES");
    let leases: Value = serde_json::from_str(&leases.unwrap().1).unwrap();
    let lver = |lease: &Value| Lver(lease["lver"].as_u64().unwrap());
    leases.as_array().unwrap().iter().map(lver).collect()
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

/// The connection ends on this side.
fn hang_up(machine: &Machine, number: u64) {
    let connection = machine.connections.borrow_mut().remove(&number);
    if let Some(connection) = connection {
        machine
            .shared
            .post(connection.server, Letter::Closed(number));
    }
}

/// `false`: nobody is there any more.
fn say(machine: &Machine, number: u64, ask: Ask) -> bool {
    let connection = machine.connections.borrow().get(&number).copied();
    if let Some(connection) = connection {
        let letter = Letter::Ask(number, ask);
        machine.shared.post(connection.server, letter);
    }
    connection.is_some()
}

// ---- for a test that plays a part of it by hand

/// Opens the resource and the lockspace, as each process does for itself, in the name of a life
/// as lease-join knows it.
pub fn with_files<T>(
    port: &Port<'_>,
    machine: &Machine,
    resource: usize,
    life: &Membership,
    work: impl FnOnce(&Resource<'_>, &Member<'_>) -> T,
) -> T {
    let heartbeats = port.file(machine.new_handle(0));
    let disks = (0..machine.setup.disks).map(|disk| port.file(machine.new_handle(disk)));
    let disks: Vec<_> = disks.collect();
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
        tenure: &life.tenure,
        lockspace: *LOCKSPACE,
        heartbeats: &heartbeats,
        host: machine.setup.host,
        generation: life.generation,
        ballots_from: life.ballots_from,
    };
    work(&resource, &member)
}
