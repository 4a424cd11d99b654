//! The machine that this process runs on, as its main thread sees it.

use crate::alarm::Alarm;
use crate::carrier::Files;
use crate::guardee::Guardee;
use crate::joins::Joins;
use crate::named;
use crate::outbox::{self, Inbox, News, Outbox};
use crate::signals::Signals;
use crate::terminal;
use crate::value::ValueFile;
use crate::workers::{Hand, Opened, open_all};
use anyhow::Context;
use chrono::{DateTime, Local};
use lease_core::clock::{Clock, Moment};
use lease_core::contain::Containment;
use lease_core::crew::Crew;
use lease_core::delta::Tenure;
use lease_core::holder::carrier::{Carried, CarriedHost, Renewals};
use lease_core::holder::job::Job;
use lease_core::holder::surroundings::{Event, HolderSurroundings, Unanswered};
use lease_core::id::{Generation, Name};
use lease_core::machine::Machine;
use lease_core::process::Process;
use lease_core::registry::message::{Ask, Asked, HolderId, Phase, Tell, Welcome};
use lease_core::registry::place::Place;
use lease_core::spec::{ResourceArgument, ResourceSpec};
use lease_core::tool::{Failure, Status};
use nix::poll::{PollFd, PollFlags};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks when waiting is impossible.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Between two attempts to have a thread where there was none.
const GO_ON_AFTER: Duration = Duration::from_millis(100);

/// This machine.
#[derive(Debug)]
pub(crate) struct Here {
    machine: Machine,
    joins: Joins,
    /// The resources that have no worker yet, the next one last.
    opened: Vec<Opened>,
    /// When they were opened.
    found: Moment,
    hands: Vec<Option<Hand>>,
    /// One of them has no thread for what it is to do.
    starved: bool,
    crew: Crew,
    outbox: Outbox,
    inbox: Inbox,
    signals: Signals,
    alarm: Alarm,
    /// The lease-joins' own files.
    files: Option<Files>,
    guarded: Option<Guardee>,
    value: Option<ValueFile>,
    /// A lease is being given back: perhaps nothing is left that was guarded.
    releases: bool,
    /// What is to be adopted once all is held, for as long as it has not ended.
    expected: Option<Arc<Process>>,
}

impl Here {
    /// With the resources that are to be held, opened, in the order of the arguments.
    pub(crate) fn new(
        machine: Machine,
        run_dir: &Path,
        (crew, mut opened): (Crew, Vec<Opened>),
        value: Option<ValueFile>,
        expected: Option<Arc<Process>>,
    ) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let alarm = Alarm::new().context("cannot make a timer")?;
        let (outbox, inbox) = outbox::open()?;
        opened.reverse();
        Ok(Self {
            found: machine.now(),
            machine,
            joins: Joins::new(run_dir, outbox.clone())?,
            opened,
            hands: Vec::new(),
            starved: false,
            crew,
            outbox,
            inbox,
            signals,
            alarm,
            files: None,
            guarded: None,
            value,
            releases: false,
            expected,
        })
    }

    /// What is to be guarded; taken away, it is no more.
    pub(crate) fn set_guarded(&mut self, guarded: Option<Guardee>) {
        self.expected = None;
        self.guarded = guarded;
    }

    /// From a thread of its own: the file may be on storage that hangs.
    fn with_value(&self, work: impl FnOnce(&ValueFile) -> Event + Send + 'static) {
        let (value, outbox) = (self.value.clone(), self.outbox.clone());
        let work = move || {
            let done = value.as_ref().map(work);
            // Nobody may be waiting any more.
            done.into_iter()
                .for_each(|event| drop(outbox.send(News::Value(event))));
        };
        // Without a thread it is not done in time.
        let _ = std::thread::Builder::new().spawn(work);
    }

    /// What an order wants: its workers are to be started in this order.
    fn take_in(&mut self, mut opened: Vec<Opened>) -> Vec<(ResourceSpec, Asked)> {
        let wanted = opened.iter().map(|one| (one.spec.clone(), one.asked()));
        let wanted = wanted.collect();
        opened.reverse();
        (self.opened, self.found) = (opened, self.machine.now());
        wanted
    }

    fn guarded(&mut self) -> anyhow::Result<&mut Guardee> {
        self.guarded.as_mut().context("nothing is to be guarded")
    }
}

impl HolderSurroundings for Here {
    type Machine = Machine;

    const ASK_AGAIN: Duration = Duration::from_millis(50);

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn pid(&self) -> u32 {
        let adopted = self.guarded.as_ref().and_then(Guardee::pid);
        let expected = self.expected.as_ref().map(|it| it.id().pid.cast_unsigned());
        adopted.or(expected).unwrap_or_else(std::process::id)
    }

    fn gather(&mut self) -> Vec<Event> {
        let news = self.inbox.take();
        let mut events = self.joins.hear();
        for one in news {
            events.push(match one {
                News::Found(number, stream) => {
                    self.joins.found(number, stream);
                    Event::Found(number)
                }
                News::Opened(opened) => Event::Opened(opened.map(|opened| self.take_in(opened))),
                News::Done(index, answer) => Event::Done(index, answer),
                News::Value(event) => event,
            });
        }
        // Before the child is looked at: the signal that says that it has ended comes once.
        while let Some((number, from_terminal)) = self.signals.next() {
            events.push(Event::Signal(number, from_terminal));
        }
        let guarded = self.guarded.iter_mut();
        events.extend(guarded.flat_map(Guardee::hear));
        if self.expected.take_if(|process| process.is_dead()).is_some() {
            events.push(Event::TreeGone);
        }
        events
    }

    fn wait(&mut self, until: Option<Moment>) {
        if std::mem::take(&mut self.releases) {
            self.guarded.iter_mut().for_each(Guardee::tidy);
        }
        let mut until = until;
        if self.starved {
            self.starved = !self.hands.iter().flatten().all(Hand::go_on);
            let again = self.machine.now().after(GO_ON_AFTER);
            until = until.map_or(Some(again), |until| Some(until.min(again)));
        }
        let mut fds = vec![
            PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.joins.news());
        fds.extend(self.guarded.iter().flat_map(Guardee::news));
        let expected = self.expected.iter();
        fds.extend(expected.map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
        if self.alarm.wait(fds, until).is_err() {
            // Without memory for it: looking again and again is better than not to look.
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn run_dir(&self) -> &Path {
        &self.joins.run_dir
    }

    fn register(&mut self, _: usize, lockspace: &Name, ask: &Ask) -> Result<Tell, Unanswered> {
        self.joins.register(lockspace, ask)
    }

    fn ask(&mut self, number: usize, ask: &Ask) -> bool {
        let guards = matches!(ask, Ask::Guard { .. });
        let pidfd = self.guarded.as_ref().filter(|_| guards);
        let pidfd = pidfd.and_then(Guardee::pidfd);
        if guards && pidfd.is_none() {
            return false;
        }
        self.joins.ask(number, ask, pidfd.as_ref().map(AsFd::as_fd))
    }

    fn hang_up(&mut self, number: usize) {
        self.joins.hang_up(number);
    }

    fn look_for(&mut self, number: usize, lockspace: &Name, tenure: &Arc<Tenure>) {
        self.joins.look_for(number, *lockspace, Arc::clone(tenure));
    }

    fn leave_mark(
        &mut self,
        lockspace: &Name,
        generation: Generation,
        holder: HolderId,
        phases: &[Phase],
    ) {
        if let Ok(place) = Place::open(&self.joins.run_dir, lockspace) {
            // Without the mark the next lease-join cannot know.
            let _ = place.mark_gone(generation, holder, phases);
        }
    }

    fn follow(&mut self, hosts: &[CarriedHost]) {
        self.files = Files::open(&self.joins.run_dir, hosts);
    }

    fn renewals(&mut self) -> Option<Renewals> {
        self.files.as_mut().and_then(Files::renewals)
    }

    fn start_worker(
        &mut self,
        index: usize,
        welcome: &Arc<Welcome>,
        tenure: &Arc<Tenure>,
    ) -> anyhow::Result<()> {
        let opened = self.opened.pop().context("nothing is opened")?;
        let host = (Arc::clone(welcome), Arc::clone(tenure));
        // A worker may outlive all but this process.
        let machine: &Machine = Box::leak(Box::new(self.machine.clone()));
        let hand = (machine, self.crew.clone());
        let hand = Hand::new(
            (index, (opened, self.found)),
            host,
            hand,
            self.outbox.clone(),
        );
        self.hands
            .resize_with(self.hands.len().max(index + 1), || None);
        self.hands[index] = Some(hand);
        Ok(())
    }

    fn open(&mut self, resources: Vec<ResourceArgument>) {
        let (outbox, crew) = (self.outbox.clone(), self.crew.clone());
        let open = move || {
            let opened = named::with_places(&resources);
            let opened = opened.and_then(|specs| open_all(&crew, &specs));
            // Without a main thread there is nobody to tell.
            let _ = outbox.send(News::Opened(opened));
        };
        if let Err(why) = self.crew.run(open) {
            let failure = Failure::new(Status::System, format!("cannot start a thread: {why}"));
            // It is heard as if it came from there.
            let _ = self.outbox.send(News::Opened(Err(failure)));
        }
    }

    fn close_opened(&mut self) {
        self.opened.clear();
    }

    fn end_worker(&mut self, index: usize) {
        self.hands[index] = None;
    }

    fn give(&mut self, index: usize, job: Job) {
        self.releases |= matches!(job, Job::Release(..));
        if let Some(hand) = &self.hands[index] {
            self.starved |= !hand.give(job);
        }
    }

    fn interrupt(&mut self) {
        self.machine.clock.interrupt();
    }

    fn stand_at_gate(
        &mut self,
        variables: Vec<(&'static str, String)>,
        carried: &Carried,
    ) -> anyhow::Result<Containment> {
        let run_dir = self.joins.run_dir.clone();
        self.guarded()?.stand_at_gate(&run_dir, variables, carried)
    }

    fn open_gate(&mut self) -> anyhow::Result<()> {
        self.guarded()?.open_gate()
    }

    fn give_up_gate(&mut self) {
        self.guarded.iter_mut().for_each(Guardee::give_up_gate);
    }

    fn carry(&mut self, carried: &Carried) {
        let guarded = self.guarded.iter_mut();
        guarded.for_each(|guarded| guarded.carry(carried));
    }

    fn let_go(&mut self) {
        self.guarded.iter_mut().for_each(Guardee::let_go);
    }

    fn not_before(&mut self, at: Moment) {
        let guarded = self.guarded.iter_mut();
        guarded.for_each(|guarded| guarded.not_before(at));
    }

    fn signal(&mut self, number: i32) -> bool {
        let guarded = self.guarded.as_mut();
        guarded.is_some_and(|guarded| guarded.signal(number))
    }

    fn signal_rest(&mut self, number: i32) {
        let guarded = self.guarded.iter();
        guarded.for_each(|guarded| guarded.signal_rest(number));
    }

    fn terminate(&mut self) {
        self.guarded.iter().for_each(Guardee::terminate);
    }

    fn kill(&mut self, spare_aside: bool) {
        let guarded = self.guarded.iter();
        guarded.for_each(|guarded| guarded.kill(spare_aside));
    }

    fn run_on_request(&mut self) -> bool {
        self.guarded.as_mut().is_some_and(Guardee::run_on_request)
    }

    fn hands_on_value(&self) -> bool {
        self.value.is_some()
    }

    fn give_value(&mut self, value: Vec<u8>) {
        self.with_value(move |file| Event::ValueGiven(file.write(&value)));
    }

    fn take_value(&mut self, most: usize) {
        self.with_value(move |file| Event::ValueTaken(file.read(most)));
    }

    fn rest(&mut self) -> Option<String> {
        self.guarded.as_ref().and_then(Guardee::rest)
    }

    fn run_aside(&mut self) -> bool {
        self.guarded.as_mut().is_some_and(Guardee::run_aside)
    }

    fn has_aside(&self) -> bool {
        self.guarded.as_ref().is_some_and(Guardee::has_aside)
    }

    fn stop(&mut self) {
        terminal::stop();
    }

    fn follow_stop(&mut self, signal: i32) {
        let guarded = self.guarded.iter();
        guarded.for_each(|guarded| guarded.follow_stop(signal));
    }

    /// With the date if that is not today.
    fn local_time(&self, since_1970: u64) -> String {
        let then = i64::try_from(since_1970)
            .ok()
            .and_then(|s| DateTime::from_timestamp(s, 0));
        let Some(then) = then.map(|utc| utc.with_timezone(&Local)) else {
            return "an unknown time".to_owned();
        };
        if then.date_naive() == Local::now().date_naive() {
            then.format("%H:%M:%S").to_string()
        } else {
            then.format("%Y-%m-%d %H:%M:%S").to_string()
        }
    }
}
