//! The thread that does one resource's disk I/O, and nothing else does: one job after another.

use super::job::{Answer, Job};
use super::trouble;
use crate::clock::Moment;
use crate::delta::{Lockspace, Tenure};
use crate::disk::{Disk, Fault};
use crate::failure::Failure;
use crate::liveness::Sightings;
use crate::opened::{Heartbeats, Opened};
use crate::registry::message::{Left, Welcome};
use crate::resource::{AcquireError, Attempt, Member, Resource, Wanted};
use crate::storage::Storage;
use crate::surroundings::Surroundings;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// A write that is on its way when all else went well has this part of the limit of an I/O to come
/// back: a disk that is only slow is not to keep this host from its next lease there, and one that
/// hangs is not to keep anybody waiting.
const LATE_PART: u32 = 32;

/// For so long after it was opened a disk is not looked for again.
const FRESH: Duration = Duration::from_millis(100);

/// A resource with its disks, for as long as its lease-hold lives.
#[derive(Debug)]
pub struct Worker<'a, M, S: Storage> {
    machine: &'a M,
    storage: S,
    opened: Opened<S::Volume>,
    welcome: Arc<Welcome>,
    tenure: Arc<Tenure>,
    seen: Sightings,
    heartbeats: Heartbeats<S>,
    /// The last job failed, or left a write behind.
    failed: bool,
    /// When its disks were opened: others found them at their paths then.
    found: Moment,
    /// Of each of its disks: something was written of which it is not known that it has landed.
    wrote: Vec<Cell<bool>>,
}

impl<'a, M: Surroundings, S: Storage + Clone> Worker<'a, M, S> {
    /// Of a resource whose disks were found and opened at some moment, in the name of the host that
    /// `welcome` speaks of. The machine's waits are cut short when an
    /// acquire is to be broken off.
    pub fn new(
        (machine, storage): (&'a M, S),
        (mut opened, found): (Opened<S::Volume>, Moment),
        (welcome, tenure): (Arc<Welcome>, Arc<Tenure>),
    ) -> Self {
        let limit = tenure.timing().io_limit();
        opened.set_limit(limit);
        Self {
            machine,
            wrote: vec![Cell::new(false); opened.spec.places.len()],
            opened,
            seen: welcome.hosts.clone(),
            heartbeats: Heartbeats::new(storage.clone(), welcome.path.clone(), limit),
            storage,
            welcome,
            tenure,
            failed: false,
            found,
        }
    }

    /// Does one job, to its end.
    pub fn work(&mut self, job: Job) -> Answer {
        let (machine, host) = (self.machine, self.welcome.host);
        if let Some(answer) = self.take_late(&job) {
            return answer;
        }
        if matches!(job, Job::Check(_) | Job::Look)
            && let Some(why) = self.opened.look(host, |text| machine.say(text))
        {
            return Answer::Checked(Ok(Some(why)));
        }
        if matches!(job, Job::Acquire { .. } | Job::Share)
            && let Some(why) = self.refresh().or_else(|| self.changed())
        {
            return Answer::Replaced(why);
        }
        let answer = match job {
            Job::Acquire {
                wanted,
                not_before,
                patient_until,
            } => self.acquire(wanted, not_before, patient_until),
            job => self.do_work(job),
        };
        self.failed = match &answer {
            Answer::Attempted(Err(_), _) | Answer::Shared(Err(_)) | Answer::Watched(Err(_)) => true,
            Answer::Attempted(Ok(_), left) => left.late,
            _ => self.failed,
        };
        answer
    }

    /// Gives back the memory that its I/O has taken: most of the time there is nothing to do.
    pub fn rest(&self) {
        self.opened.shed_memory();
    }

    /// A disk that has answered only now is one of them from here on. If it is not what was named,
    /// what is still to be acquired begins anew.
    fn take_late(&mut self, job: &Job) -> Option<Answer> {
        let (machine, limit) = (self.machine, self.tenure.timing().io_limit());
        let warn = |why: &Failure| machine.say(&format!("going on without one disk: {why}"));
        let wrong = self.opened.take_late(limit, warn)?;
        if matches!(job, Job::Acquire { .. } | Job::Share) {
            return Some(Answer::Replaced(format!("is not what was named: {wrong}")));
        }
        warn(&wrong);
        None
    }

    /// One attempt. As long as it is in doubt whether the lease is ours nobody on this host has
    /// another turn: who is patient sees that through; else it is left to lease-join.
    fn acquire(&mut self, wanted: Wanted, not_before: Moment, patient_until: Moment) -> Answer {
        let (timing, machine) = (self.tenure.timing(), self.machine);
        let mut quiet_from = not_before;
        let mut answer = self.do_work(Job::Acquire {
            wanted: wanted.clone(),
            not_before,
            patient_until,
        });
        while let Answer::Attempted(Err(error), left) = &answer
            && left.doubt
            && machine.now() < patient_until
        {
            if left.late {
                // On what is opened anew nothing is written before that.
                let landed = machine.now().after(timing.takeover_after());
                quiet_from = quiet_from.max(landed);
            }
            self.failed = true;
            let pause = trouble::pause(timing.io_limit());
            if machine.wait(pause).is_err() || self.refresh().is_some() {
                break;
            }
            let settled = self.do_work(Job::Resolve(wanted.clone(), quiet_from));
            let Answer::Resolved(left) = settled else {
                break;
            };
            answer = Answer::Attempted(Err(error.clone()), left);
        }
        answer
    }

    /// After an I/O has failed the disks are opened anew. Whatever may still land, lease-join lets
    /// us write only later.
    fn refresh(&mut self) -> Option<String> {
        if !self.failed {
            return None;
        }
        self.heartbeats.close();
        let limit = self.tenure.timing().io_limit();
        self.opened.refresh(&self.storage, limit)
    }

    /// Why its disks are not what others find. What was opened just now is.
    fn changed(&self) -> Option<String> {
        let fresh = self.machine.now().since(self.found) < FRESH;
        (!fresh).then(|| self.opened.changed()).flatten()
    }

    fn do_work(&mut self, job: Job) -> Answer {
        let Self {
            machine,
            opened,
            welcome,
            tenure,
            seen,
            heartbeats,
            wrote,
            ..
        } = self;
        let abandoned = opened.is_replaced();
        let noted = opened.disks().zip(&*wrote);
        let noted: Vec<_> = noted.map(|(disk, wrote)| Noted { disk, wrote }).collect();
        let resource = opened.resource(noted.iter().map(|disk| disk as &dyn Disk));
        let limit = tenure.timing().io_limit();
        let lockspace = Lockspace {
            name: opened.spec.lockspace,
            offset: welcome.offset,
            geometry: welcome.geometry,
        };
        let member = Member {
            clock: *machine,
            tenure,
            lockspace,
            heartbeats,
            host: welcome.host,
            generation: welcome.generation,
            ballots_from: match &job {
                Job::Acquire { not_before, .. } | Job::Resolve(_, not_before) => {
                    welcome.ballots_from.max(*not_before)
                }
                _ => welcome.ballots_from,
            },
        };
        match job {
            Job::Resolve(wanted, _) => {
                let doubt = resource.resolve(&member, &wanted).is_err();
                Answer::Resolved(left(&noted, doubt, limit))
            }
            Job::Acquire { wanted, .. } => {
                let (result, doubt) = acquire(&resource, &member, &wanted, seen);
                let left = left(&noted, doubt, patience(&result, limit));
                Answer::Attempted(result, left)
            }
            Job::Share => Answer::Shared(resource.join_share(&member).map(|h| h.map(Box::new))),
            Job::Watch(snapshot, owner, patience) => {
                Answer::Watched(resource.watch(&member, &snapshot, owner, seen, patience))
            }
            Job::Check(held) => {
                let ours = resource.still_held(&member, &held);
                Answer::Checked(ours.map(|ours| (!ours).then(|| "is owned by another".to_owned())))
            }
            Job::Look => Answer::Checked(Ok(None)),
            Job::Ask(force) => Answer::Asked(resource.ask(&member, force)),
            Job::LookForRequest(held) => Answer::RequestSeen(resource.asked(&held)),
            Job::ReadValue(held) => Answer::ValueRead(resource.read_value_block(&member, &held)),
            Job::Release(held, value) => {
                let write = |block: Vec<u8>| resource.write_value_block(&member, &block).err();
                let unwritten = value.and_then(write);
                let release = || resource.release(&member, &held);
                released((release, unwritten), &noted, (limit, abandoned))
            }
        }
    }
}

/// One attempt, with what is in doubt after it brought to an end where the storage lets us; and
/// whether it still is.
fn acquire(
    resource: &Resource<'_>,
    member: &Member<'_>,
    wanted: &Wanted,
    seen: &mut Sightings,
) -> (Result<Attempt, AcquireError>, bool) {
    let result = resource.acquire(member, wanted, seen);
    let doubt = match &result {
        Err(AcquireError::InDoubt(_)) => resource.resolve(member, wanted).is_err(),
        // Perhaps the host id is not lost: whoever was stopped has not heard of its renewals yet.
        Err(AcquireError::Lost) => true,
        _ => false,
    };
    (result, doubt)
}

/// A release, after its value block was written, or was not: why.
fn released(
    (release, unwritten): (
        impl FnOnce() -> Result<(), AcquireError>,
        Option<AcquireError>,
    ),
    noted: &[Noted<'_>],
    (limit, abandoned): (Duration, bool),
) -> Answer {
    if let Some(error) = &unwritten {
        let left = left(noted, true, limit);
        if left.late && !abandoned {
            return Answer::Released(Err(error.clone()), left, unwritten);
        }
    }
    let result = release();
    if abandoned {
        return Answer::Released(Ok(()), Left::NOTHING, unwritten);
    }
    let left = left(noted, result.is_err(), patience(&result, limit));
    Answer::Released(result, left, unwritten)
}

/// How long what is still on its way is waited for.
fn patience<T, E>(result: &Result<T, E>, limit: Duration) -> Duration {
    match result {
        Ok(_) => limit / LATE_PART,
        Err(_) => limit,
    }
}

/// What is left behind after the disks were written to: on a minority of them a write may still
/// land even if all went well. Each is waited for as long as `patience`. Of a read that hangs
/// nothing lands.
fn left(disks: &[Noted<'_>], doubt: bool, patience: Duration) -> Left {
    for disk in disks.iter().filter(|disk| disk.wrote.get()) {
        disk.wrote.set(disk.settle_within(patience).is_err());
    }
    let late = disks.iter().any(|disk| disk.wrote.get());
    Left { doubt, late }
}

/// A disk on which it is noted that something was written.
struct Noted<'a> {
    disk: &'a dyn Disk,
    wrote: &'a Cell<bool>,
}

impl Noted<'_> {
    /// Notes that something was written, unless nothing was.
    fn note(&self, result: Result<(), Fault>) -> Result<(), Fault> {
        if !matches!(result, Err(Fault::Outstanding | Fault::Unsure)) {
            self.wrote.set(true);
        }
        result
    }
}

impl Disk for Noted<'_> {
    fn begin_read(&self, offset: u64, len: usize) -> Result<(), Fault> {
        self.disk.begin_read(offset, len)
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.note(self.disk.begin_write(offset, bytes))
    }

    fn is_answered(&self) -> bool {
        self.disk.is_answered()
    }

    fn wait(&self, patience: Duration) -> Duration {
        self.disk.wait(patience)
    }

    fn leave(&self) {
        self.disk.leave();
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.disk.read(offset, len)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        self.disk.inspect(offset, len, see)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.note(self.disk.write(offset, bytes))
    }

    fn settle(&self) -> Result<(), Fault> {
        self.disk.settle()
    }

    fn settle_within(&self, patience: Duration) -> Result<(), Fault> {
        self.disk.settle_within(patience)
    }
}
