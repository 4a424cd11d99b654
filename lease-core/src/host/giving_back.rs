//! What a holder leaves that ended without a release goes back on the disk, once the holder and all
//! that it started are proven gone: each lease by a thread of its own.

use crate::clock::{Clock, Moment};
use crate::delta::{Lockspace, Tenure};
use crate::disk::{Disk, Fault};
use crate::id::{Generation, HostId, Lver};
use crate::opened::{Heartbeats, Reopened};
use crate::record::holder_note::HolderNote;
use crate::registry::message::{Asked, HolderId};
use crate::resource::{AcquireError, Member, Wanted};
use crate::spec::Mode;
use crate::storage::Volume;
use crate::surroundings::Surroundings;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to give a lease back.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// In whose name leases go back.
#[derive(Debug, Clone)]
pub struct Estate {
    /// The lockspace's file or device.
    pub path: PathBuf,
    /// The lockspace on it.
    pub lockspace: Lockspace,
    /// Our host id.
    pub host: HostId,
    /// Its life.
    pub generation: Generation,
    /// No ballot before this moment.
    pub ballots_from: Moment,
    /// Its renewals.
    pub tenure: Arc<Tenure>,
}

/// A lease of a holder: which one of its resources.
pub type Lease = (HolderId, usize);

/// What is reported of a lease.
#[derive(Debug, Clone)]
pub enum Progress {
    /// It could not be given back, and will be tried again: why, for people.
    Failed(String),
    /// It was given back.
    Done {
        /// A write may still land on it.
        late: bool,
    },
}

/// One lease that is to be given back.
#[derive(Debug)]
pub struct GiveBack {
    estate: Estate,
    asked: Asked,
    /// When its holder died, if it was writing then.
    died_writing: Option<Moment>,
    /// No ballot before this moment.
    quiet_from: Moment,
}

impl GiveBack {
    /// In the name of one life of this host. Before `quiet_from` an earlier write may land.
    pub(super) fn new(
        estate: Estate,
        asked: Asked,
        died_writing: Option<Moment>,
        quiet_from: Moment,
    ) -> Self {
        Self {
            quiet_from: quiet_from.max(estate.ballots_from),
            estate,
            asked,
            died_writing,
        }
    }

    /// Gives it back, for as long as it takes; gives up when the host id is lost. `tell` hears each
    /// new reason why it is not given back yet, and the end.
    pub fn run<A>(mut self, around: &A, tell: &mut dyn FnMut(Progress))
    where
        A: Surroundings,
    {
        // Its disks are kept as long as one of them has an I/O outstanding.
        let mut opened = None;
        let mut said = None;
        while !self.estate.tenure.is_lost() {
            let result = self.attempt(around, &mut opened);
            let late = self.settle(around, &mut opened);
            let Err(why) = result else {
                return tell(Progress::Done { late });
            };
            if said.is_none() {
                around.say(&format!("cannot give back {} yet: {why}", self.asked.spec));
            }
            if said.as_ref() != Some(&why) {
                tell(Progress::Failed(why.clone()));
                said = Some(why);
            }
            // Nothing cuts this short: it ends with the process.
            let _ = around.wait(TRY_AGAIN);
        }
    }

    /// Brings what was left to a known owner, and releases it if that is us.
    fn attempt<A: Surroundings>(
        &mut self,
        around: &A,
        disks: &mut Option<Reopened<A::Volume>>,
    ) -> Result<(), String> {
        let limit = self.estate.tenure.timing().io_limit();
        let opened = match disks {
            Some(opened) => opened,
            None => {
                let of = (self.estate.lockspace.name, &self.asked);
                let opened = Reopened::open(around, of, limit)?;
                self.wait_for_the_dead(&opened);
                disks.insert(opened)
            }
        };
        let estate = &self.estate;
        let member = Member {
            clock: around,
            tenure: &estate.tenure,
            lockspace: estate.lockspace,
            heartbeats: &Heartbeats::new(around, estate.path.clone(), limit),
            host: estate.host,
            generation: estate.generation,
            ballots_from: self.quiet_from,
        };
        opened
            .resource()?
            .resolve(&member, &nobody(estate))
            .map_err(|error: AcquireError| error.to_string())
    }

    /// Where a dead process's write may still land, no ballot starts until it cannot. Whether its
    /// last one was over, or had failed, nobody can say; nor what a disk is that cannot be opened.
    fn wait_for_the_dead<V: Volume>(&mut self, opened: &Reopened<V>) {
        let is_over = |disk: &V| disk.io_ends_with_process() && disk.failure_is_final();
        let over = opened.all_are(is_over);
        if let Some(died) = self.died_writing.filter(|_| !over) {
            self.quiet_from = self.quiet_from.max(self.landed_by(died));
        }
    }

    /// When nothing that was issued before can land any more.
    fn landed_by(&self, issued: Moment) -> Moment {
        issued.after(self.estate.tenure.timing().takeover_after())
    }

    /// What the last attempt wrote and was not told of is not forgotten: an I/O that is outstanding
    /// is waited for; a write that has failed may still land. Whether one may.
    fn settle<V: Volume>(&mut self, clock: &impl Clock, opened: &mut Option<Reopened<V>>) -> bool {
        let volumes = opened.iter().flat_map(Reopened::volumes);
        let settled = volumes.map(Disk::settle);
        let faults: Vec<Fault> = settled.filter_map(Result::err).collect();
        if faults.contains(&Fault::Unsure) {
            self.quiet_from = self.quiet_from.max(self.landed_by(clock.now()));
        }
        if !faults.contains(&Fault::Outstanding) {
            *opened = None;
        }
        !faults.is_empty()
    }
}

/// What a ballot says of its holder while it is only brought to its end.
fn nobody(estate: &Estate) -> Wanted {
    let note = HolderNote {
        host: estate.host,
        generation: estate.generation,
        lver: Lver(0),
        mode: Mode::Exclusive,
        pid: std::process::id(),
        start: 0,
        host_name: Vec::new(),
        command: b"lease-join".to_vec(),
    };
    Wanted {
        mode: Mode::Exclusive,
        lver: None,
        note,
    }
}
