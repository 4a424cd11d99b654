//! Who carries the last deadline: the init of a PID namespace, or a process of lease-hold's own
//! outside of what the command is in. It acts even when lease-hold and lease-join are both stopped
//! or dead.

use crate::clock::Moment;
use crate::id::{Generation, Name};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often lease-join's files are looked at before the last moment, once lease-hold is silent.
const LOOKS: u32 = 8;
/// Between two rounds of killing.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// What lease-hold says to a carrier, again and again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LastMoment {
    /// All is killed then.
    pub at: Moment,
}

/// What lease-hold says to a carrier.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Said {
    /// What is held has changed.
    Carried(Carried),
    /// Renewals are known of.
    Last(LastMoment),
}

/// What one has to know to carry the last deadline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Carried {
    /// All is killed then, unless something was renewed meanwhile.
    pub last_moment: Moment,
    /// The hosts that hold the leases.
    pub hosts: Vec<CarriedHost>,
}

/// One host that holds leases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CarriedHost {
    /// Of which lockspace.
    pub lockspace: Name,
    /// The life of it that holds them.
    pub generation: Generation,
    /// From its last renewal to the last moment.
    pub lapse: Duration,
    /// From the loss of its lease to the last moment.
    pub early: Duration,
}

/// What was last renewed of each host; `None`: that life is over.
pub type Renewals = Vec<Option<Moment>>;

/// What a carrier asks of its machine.
pub trait CarrierSurroundings {
    /// Now.
    fn now(&self) -> Moment;

    /// All that lease-hold has said since it was asked before; `false`: there is no lease-hold any
    /// more.
    fn hear(&mut self) -> (bool, Vec<Said>);

    /// From now on, [`CarrierSurroundings::renewals`] tells of these hosts.
    fn follow(&mut self, hosts: &[CarriedHost]);

    /// What the lease-joins' own files say, as far as they can be read in a moment.
    fn renewals(&mut self) -> Option<Renewals>;

    /// Waits until lease-hold has said something, or has ended, or until `until`. `false`: it
    /// cannot wait.
    fn wait(&mut self, until: Moment) -> bool;
}

/// The last deadline, as far as its carrier knows of it.
pub struct Carrier<A> {
    around: A,
    hosts: Vec<CarriedHost>,
    last: Moment,
    /// So long before it the files are looked at for the first time.
    early: Duration,
    /// When they were looked at.
    looked: Moment,
}

impl<A: CarrierSurroundings> Carrier<A> {
    /// It hears of renewals from lease-hold. One that is stopped hears of none; then those count
    /// that lease-join's own files tell of.
    pub fn new(around: A, carried: &Carried) -> Self {
        Self {
            around,
            hosts: carried.hosts.clone(),
            last: carried.last_moment,
            early: early(&carried.hosts),
            looked: Moment::default(),
        }
    }

    /// Whether all has to end: it is the last moment that is known of, or there is no lease-hold
    /// any more.
    pub fn is_over(&mut self) -> bool {
        // Whatever is learned after this is true of this moment too.
        let now = self.around.now();
        if !self.is_needed() {
            return true;
        }
        if now >= self.looks_at() {
            self.looked = now;
            let renewed = self.last_by_the_files();
            self.last = self.last.max(renewed.unwrap_or_default());
        }
        now >= self.last
    }

    /// The last moment by what the files say; `None` if one of those lives is over.
    fn last_by_the_files(&mut self) -> Option<Moment> {
        let renewals = self.around.renewals()?;
        let hosts = self.hosts.iter().zip(renewals);
        let of = |(host, renewed): (&CarriedHost, Option<Moment>)| Some(renewed?.after(host.lapse));
        hosts.map(of).min().flatten()
    }

    /// When the files are looked at: at the last moment, and some times before, since a busy
    /// machine may take long to show them.
    fn looks_at(&self) -> Moment {
        let again = self.looked.after(self.early / LOOKS);
        self.last.before(self.early).max(again).min(self.last)
    }

    /// Waits until all has to end. `false`: it cannot wait.
    pub fn carry(&mut self) -> bool {
        while !self.is_over() {
            if !self.around.wait(self.looks_at()) {
                return false;
            }
        }
        true
    }

    /// Waits until all has to end, and kills it, again and again for as long as there is a
    /// lease-hold: it may go on starting something.
    pub fn carry_and_kill(&mut self, mut kill: impl FnMut()) {
        if !self.carry() {
            return;
        }
        loop {
            kill();
            let again = self.around.now().after(KILL_AGAIN);
            if !self.is_needed() || !self.around.wait(again) {
                return;
            }
        }
    }

    /// Whether there still is a lease-hold.
    fn is_needed(&mut self) -> bool {
        let (open, said) = self.around.hear();
        for one in said {
            match one {
                Said::Last(LastMoment { at }) => self.last = at.max(self.last),
                Said::Carried(carried) => self.carry_these(carried),
            }
        }
        open
    }

    /// Other leases are held from now on: what was known of those before says nothing of them.
    fn carry_these(&mut self, carried: Carried) {
        self.around.follow(&carried.hosts);
        self.early = early(&carried.hosts);
        self.hosts = carried.hosts;
        self.last = carried.last_moment;
        self.looked = Moment::default();
    }
}

/// How early the first of them may be lost.
fn early(hosts: &[CarriedHost]) -> Duration {
    let early = hosts.iter().map(|host| host.early).min();
    early.unwrap_or_default()
}
