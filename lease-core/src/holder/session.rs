//! The talk with the lease-join of one lockspace. When lease-join ends it is looked for again; what
//! was asked and not answered is asked again.

use super::carrier::CarriedHost;
use super::surroundings::{HolderSurroundings, Unanswered};
use crate::clock::{Clock, Moment};
use crate::delta::Tenure;
use crate::failure::{Failure, Status, show};
use crate::id::{HostId, Lver, Name};
use crate::registry::message::{Ask, Asked, Left, Phase, Tell, Welcome};
use crate::registry::order::{OrderId, Outcome};
use crate::surroundings::Surroundings;
use std::sync::Arc;
use std::time::Duration;

/// That part of the time between two renewals after a renewal was due it is read of.
const LATER: u32 = 32;
/// Between two looks for a lease-join that has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether there is a lease-join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    /// It was asked to go on as before, and has not answered yet.
    Resuming,
    Down,
    /// We have left it, holding nothing.
    Left,
}

/// A registration with one lease-join.
#[derive(Debug)]
pub struct Session {
    /// What it said.
    pub welcome: Arc<Welcome>,
    /// What is known of its renewals.
    pub tenure: Arc<Tenure>,
    number: usize,
    link: Link,
    /// What is done with each resource.
    phases: Vec<Phase>,
    /// On which of them a write of ours may still land.
    late: Vec<bool>,
    /// Questions without an answer yet.
    unanswered: Vec<Ask>,
    /// lease-join knows that it need not tell us of renewals.
    reads: bool,
    /// What is guarded may run.
    guards: bool,
}

impl Session {
    /// Registers what is wanted in one lockspace, as session `number`.
    pub fn open(
        around: &mut impl HolderSurroundings,
        (number, lockspace): (usize, &Name),
        command: String,
        resources: Vec<Asked>,
    ) -> Result<Self, Failure> {
        let count = resources.len();
        let ask = Ask::Register { command, resources };
        let welcome = match around.register(number, lockspace, &ask) {
            Ok(Tell::Registered(welcome)) => *welcome,
            Ok(Tell::Refused { why }) => {
                let text = format!("lease-join of lockspace {lockspace} refused: {why}");
                return Err(Failure::new(Status::Refused, text));
            }
            Ok(Tell::Stop) => return Err(ending(lockspace, "is leaving")),
            Ok(Tell::Lost { why }) => {
                return Err(ending(lockspace, &format!("has lost the host id: {why}")));
            }
            Ok(_) => return Err(absent(around, lockspace, "it does not speak as expected")),
            Err(Unanswered::Absent(why)) => return Err(absent(around, lockspace, &why)),
            Err(Unanswered::Forbidden) => {
                let text = format!(
                    "cannot ask lease-join of lockspace {lockspace}: permission denied; ask as its \
                     user, or as root"
                );
                return Err(Failure::new(Status::Permission, text));
            }
        };
        let tenure = Arc::new(Tenure::new(welcome.timing, welcome.renewed));
        Ok(Self {
            welcome: Arc::new(welcome),
            tenure,
            number,
            link: Link::Up,
            phases: vec![Phase::Idle; count],
            late: vec![false; count],
            unanswered: Vec::new(),
            reads: false,
            guards: false,
        })
    }

    /// What a carrier of the last deadline has to know of it.
    pub fn carried(&self) -> CarriedHost {
        let timing = self.tenure.timing();
        CarriedHost {
            lockspace: self.name(),
            generation: self.welcome.generation,
            lapse: timing.lapse_after(),
            early: timing.lapse_after() - timing.lost_after(),
        }
    }

    /// Whether there is a lease-join.
    pub fn is_alive(&self) -> bool {
        matches!(self.link, Link::Up | Link::Resuming)
    }

    /// Whether anything is held here, or was in the middle of being given back.
    pub fn has_any(&self) -> bool {
        self.phases.iter().any(|phase| *phase != Phase::Idle)
    }

    /// Whether what is guarded needs a lease that is held here.
    pub fn is_needed(&self) -> bool {
        let held = |phase: &Phase| matches!(phase, Phase::Held(_));
        self.phases.iter().any(held)
    }

    /// Which number another resource would have: that of one that is not held any more, and that
    /// nothing may land on.
    pub fn free_index(&self, is_used: impl Fn(usize) -> bool) -> usize {
        let all = 0..self.phases.len();
        let idle = |index: &usize| self.phases[*index] == Phase::Idle && !self.late[*index];
        let mut free = all.filter(|index| idle(index) && !is_used(*index));
        free.next().unwrap_or(self.phases.len())
    }

    /// Whether we have left it.
    pub fn is_left(&self) -> bool {
        self.link == Link::Left
    }

    /// No lease-join is asked again for this resource.
    pub fn withdraw_claim(&mut self, index: usize) {
        self.answered(|ask| matches!(ask, Ask::Claim { index: i, .. } if *i == index));
    }

    fn say(&self, around: &mut impl HolderSurroundings, ask: &Ask) -> bool {
        self.is_alive() && around.ask(self.number, ask)
    }

    /// Asks something that is answered.
    pub fn ask(&mut self, around: &mut impl HolderSurroundings, ask: Ask) {
        // What is not answered is asked once lease-join goes on as before.
        if self.link == Link::Up {
            self.say(around, &ask);
        }
        match ask {
            Ask::Guard { .. } => self.guards = true,
            // Whoever gives one back for good has seen the end of what was guarded.
            Ask::Release { .. } => self.guards = false,
            _ => {}
        }
        self.unanswered.push(ask);
    }

    /// No lease-join is asked again to guard what stands behind the gate: it has answered, or that
    /// is given up.
    pub fn withdraw_guard(&mut self) {
        self.answered(|ask| matches!(ask, Ask::Guard { .. }));
        self.guards = false;
    }

    /// Nothing is held here, and nothing will be: lease-join need not care for us.
    pub fn leave(&mut self, around: &mut impl HolderSurroundings) {
        self.link = Link::Left;
        self.unanswered.clear();
        around.hang_up(self.number);
    }

    /// Says what came of an order. Whoever gave it asks again, should this not be heard.
    pub fn ordered(&self, around: &mut impl HolderSurroundings, id: OrderId, outcome: Outcome) {
        self.say(around, &Ask::Ordered { id, outcome });
    }

    /// A resource is released without a lease-join: the next one gives no turn for it.
    pub fn releases_alone(&mut self, index: usize) {
        self.phases[index] = Phase::Releasing;
        self.answered(|ask| is_to_release(ask, index));
    }

    /// Says that the command starts. `false`: it must not, for lease-join may not hear of that.
    pub fn start(&mut self, around: &mut impl HolderSurroundings) -> bool {
        self.reads = false;
        self.link == Link::Up && self.say(around, &Ask::Start { reads: false })
    }

    /// Says whether we read of renewals by ourselves while the command runs, if that is news.
    pub fn reads(&mut self, around: &mut impl HolderSurroundings, reads: bool) {
        let news = self.link == Link::Up && self.reads != reads;
        if news && self.say(around, &Ask::Start { reads }) {
            self.reads = reads;
        }
    }

    /// When the next renewal is to be read of.
    pub fn next_renewal(&self) -> Moment {
        let timing = self.tenure.timing();
        let period = timing.renewal_period();
        self.tenure.renewed().after(period + period / LATER)
    }

    /// Has these hosts called until then.
    pub fn call(&self, around: &mut impl HolderSurroundings, hosts: Vec<HostId>, until: Moment) {
        if self.link == Link::Up {
            self.say(around, &Ask::Call { hosts, until });
        }
    }

    /// Says how an acquire went.
    pub fn acquired(
        &mut self,
        around: &mut impl HolderSurroundings,
        index: usize,
        (lver, left): (Option<Lver>, Left),
    ) {
        self.phases[index] = lver.map_or(without(left), Phase::Held);
        self.late[index] |= left.late;
        self.say(around, &Ask::Acquired { index, lver, left });
    }

    /// Says how a release went.
    pub fn released(&mut self, around: &mut impl HolderSurroundings, (index, left): (usize, Left)) {
        self.phases[index] = without(left);
        self.late[index] |= left.late;
        self.say(around, &Ask::Released { index, left });
    }

    /// Says that all is gone; and to the next lease-join, if there is none, what was not released.
    pub fn gone(&self, around: &mut impl HolderSurroundings) {
        if self.link == Link::Left {
            return;
        }
        if !self.say(around, &Ask::Gone) {
            let Welcome {
                holder, generation, ..
            } = *self.welcome;
            // Without the mark the next lease-join cannot know.
            around.leave_mark(&self.name(), generation, holder, &self.left_behind());
        }
    }

    /// What the next lease-join has to bring to its end: also where a write may still land on what
    /// was released.
    fn left_behind(&self) -> Vec<Phase> {
        let of = |(phase, late): (&Phase, &bool)| match (phase, late) {
            (Phase::Idle, true) => Phase::Doubt,
            (phase, _) => *phase,
        };
        self.phases.iter().zip(&self.late).map(of).collect()
    }

    /// Takes note of what lease-join has said.
    pub fn heard(&mut self, around: &mut impl HolderSurroundings, tell: &Tell) {
        match tell {
            Tell::Renewed { renewed } => self.tenure.note_renewal(*renewed),
            Tell::Resumed { renewed } => {
                self.tenure.note_renewal(*renewed);
                self.resumed(around);
            }
            Tell::Refused { why } => {
                let lockspace = self.name();
                let text = format!("lease-join of lockspace {lockspace} refused: {why}");
                around.machine().say(&text);
                self.tenure.note_loss();
            }
            Tell::Lost { .. } => self.tenure.note_loss(),
            Tell::Turn { index, .. } => {
                self.phases[*index] = Phase::Acquiring;
                self.answered(|ask| matches!(ask, Ask::Acquire { index: i } if i == index));
            }
            Tell::Busy { index, .. } => {
                self.answered(|ask| matches!(ask, Ask::Acquire { index: i } if i == index));
            }
            Tell::ReleaseTurn { index, last } => {
                self.phases[*index] = if *last { Phase::Releasing } else { Phase::Idle };
                self.answered(|ask| is_to_release(ask, *index));
            }
            Tell::Claimed { index, hosts } => {
                // It may be long since this was registered.
                Arc::make_mut(&mut self.welcome).hosts = hosts.clone();
                self.answered(|ask| matches!(ask, Ask::Claim { index: i, .. } if i == index));
                if *index == self.phases.len() {
                    self.phases.push(Phase::Idle);
                    self.late.push(false);
                }
            }
            Tell::NotClaimed { index, .. } => {
                self.answered(|ask| matches!(ask, Ask::Claim { index: i, .. } if i == index));
            }
            Tell::Go { .. } => self.answered(|ask| matches!(ask, Ask::Guard { .. })),
            Tell::NotGuarded { .. } => self.withdraw_guard(),
            Tell::Registered(_)
            | Tell::Described(_)
            | Tell::EventSet(_)
            | Tell::Event(_)
            | Tell::Asked { .. }
            | Tell::Stop => {}
            Tell::Order { .. } | Tell::Withdrawn { .. } | Tell::Ordered { .. } => {}
        }
    }

    fn answered(&mut self, is_it: impl Fn(&Ask) -> bool) {
        self.unanswered.retain(|ask| !is_it(ask));
    }

    /// The connection has ended: without lease-join nothing is renewed. Looks for another one that
    /// goes on in its place, until there is one or it is too late.
    pub fn ended(&mut self, around: &mut impl HolderSurroundings) {
        if self.link == Link::Left {
            return;
        }
        let lockspace = self.name();
        let before = std::mem::replace(&mut self.link, Link::Down);
        if before != Link::Resuming && !self.tenure.is_lost() {
            let seconds = self.tenure.timing().lost_after().as_secs();
            let text = format!(
                "lease-join of lockspace {lockspace} has ended; unless it is started again the \
                 lease is lost {seconds} s after the last renewal"
            );
            around.machine().say(&text);
        }
        around.look_for(self.number, &lockspace, &self.tenure);
    }

    /// A lease-join is there again: asks it to go on as before.
    pub fn resume(&mut self, around: &mut impl HolderSurroundings) {
        let Welcome {
            holder, generation, ..
        } = *self.welcome;
        // A question that was not answered was not acted on by us.
        let ask = Ask::Resume {
            holder,
            generation,
            phases: self.phases.clone(),
            late: self.late.clone(),
            guards: self.guards,
        };
        (self.link, self.reads) = (Link::Resuming, false);
        if !around.ask(self.number, &ask) {
            self.ended(around);
        }
    }

    /// It does: asks again what the other did not answer.
    fn resumed(&mut self, around: &mut impl HolderSurroundings) {
        let lockspace = self.name();
        let text = format!("lease-join of lockspace {lockspace} is back");
        around.machine().say(&text);
        self.link = Link::Up;
        for ask in &self.unanswered {
            around.ask(self.number, ask);
        }
    }

    /// Its lockspace.
    pub fn name(&self) -> Name {
        self.welcome.lockspace
    }
}

fn absent(around: &impl HolderSurroundings, lockspace: &Name, why: &str) -> Failure {
    let shown = show(around.run_dir().as_os_str());
    let text = format!(
        "no live lease-join for lockspace {lockspace} in {shown}: {why}; start lease-join first"
    );
    Failure::new(Status::NotJoined, text)
}

/// Not for long: another one can be there soon.
fn ending(lockspace: &Name, how: &str) -> Failure {
    let text =
        format!("lease-join of lockspace {lockspace} {how}; start it again when it has ended");
    Failure::new(Status::NotJoined, text)
}

/// Whether it is the question for a turn to release this resource.
fn is_to_release(ask: &Ask, index: usize) -> bool {
    match ask {
        Ask::Release { index: i } | Ask::Yield { index: i } => *i == index,
        _ => false,
    }
}

/// What is done with a resource that is not held.
fn without(left: Left) -> Phase {
    match left.doubt {
        true => Phase::Doubt,
        false => Phase::Idle,
    }
}

/// Looks for a lease-join that listens, again and again until `found` or it is too late.
pub fn seek(clock: &impl Clock, tenure: &Tenure, mut found: impl FnMut() -> bool) {
    // For some time in any case: whether it is too late may not be known yet.
    let until = clock.now().after(tenure.timing().lost_after());
    while !tenure.is_lost() && clock.now() < until.max(tenure.deadline()) {
        if clock.wait(LOOK_AGAIN).is_err() || found() {
            return;
        }
    }
}
