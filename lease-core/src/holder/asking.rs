//! Asking whoever holds a lease to let go of it, and being asked.
//!
//! What is asked for stands in the request record. The hosts that have the lease are called by our
//! lease-join, in the heartbeat; theirs tells its holders, and each looks at its own records. A
//! word that is lost is no harm: it is said again, for 6t, and who is asked twice acts once.

use super::hub::Hub;
use super::job::{Answer, Job};
use super::report::Block;
use super::surroundings::{Event, HolderSurroundings};
use crate::id::{HostId, Lver};
use crate::record::request::{Force, Request};
use crate::resource::{AcquireError, Refusal};
use crate::surroundings::Surroundings;
use std::collections::BTreeSet;

/// Asks who is in the way, if anybody is to be asked. Each version is asked for once; the hosts are
/// called for 6t, whatever becomes of a lease-join meanwhile.
pub(super) fn ask<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    index: usize,
    block: &Block,
) -> Result<(), AcquireError> {
    let held = match block {
        Block::Refused(Refusal::Held { .. } | Refusal::Shared(_), _) => true,
        Block::Local(rival) => !rival.passing && !rival.crashed,
        _ => false,
    };
    let Some(force) = hub.asking.force.filter(|_| held) else {
        return Ok(());
    };
    let now = hub.now();
    let lver = match block {
        Block::Refused(_, snapshot) => Some(snapshot.lver().next()),
        // What stands on the disk of it is not known.
        _ => None,
    };
    if let Some((hosts, until)) = hub.asking.known((index, lver), now) {
        if now < until {
            hub.say_call(index, hosts, until);
        }
        return Ok(());
    }
    hub.give(index, Job::Ask(force));
    let asked = hub.wait_for(None, false, |_, event| match event {
        Event::Done(_, Answer::Asked(result)) => Ok(result),
        other => Err(other),
    });
    match asked {
        Some(Ok(Some(asked))) => {
            let until = now.after(hub.of_resource(index).1.timing.call_for());
            hub.say_call(index, asked.hosts.clone(), until);
            hub.asking.note(index, asked, until);
            Ok(())
        }
        // The next attempt finds out what has become of the storage, and of the host id.
        Some(Err(AcquireError::Disk(_) | AcquireError::Lost)) | Some(Ok(None)) | None => Ok(()),
        Some(Err(error)) => Err(error),
    }
}

/// What is asked of us while we hold leases.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Who has called us last.
    by: Option<HostId>,
    /// Resources whose record is being looked at.
    looking: BTreeSet<usize>,
    /// What was acted upon: each version once in each way.
    acted: BTreeSet<(usize, Lver, u32)>,
}

impl Requests {
    /// A host calls us: the records of all that is held in that session are looked at.
    pub(super) fn called<A: HolderSurroundings>(
        &mut self,
        hub: &mut Hub<A>,
        (session, by): (usize, HostId),
    ) {
        self.by = Some(by);
        let held = hub.held.iter();
        let held = held.map(|lease| (lease.index, lease.held.clone()));
        for (index, held) in held.collect::<Vec<_>>() {
            if hub.session_of_resource(index) == session && self.looking.insert(index) {
                hub.give(index, Job::LookForRequest(held));
            }
        }
    }

    /// What stands in a record: how what is held has to go, if this is new. Says so.
    pub(super) fn seen<A: HolderSurroundings>(
        &mut self,
        hub: &Hub<A>,
        index: usize,
        result: &Result<Option<Request>, AcquireError>,
    ) -> Option<Force> {
        self.looking.remove(&index);
        // What is not held any more is nothing that could be let go.
        if !hub.held.iter().any(|lease| lease.index == index) {
            return None;
        }
        let request = (*result).as_ref().ok().copied().flatten()?;
        let force = request.force()?;
        let new = (index, request.lver, request.force_mode);
        self.acted.insert(new).then(|| {
            let (name, command) = (hub.name(index), &hub.command);
            let what = match force {
                Force::Kill => format!("killing {command}"),
                Force::Stop => format!("asking {command} to stop"),
            };
            let by = self
                .by
                .map_or_else(String::new, |by| format!(" by host {by}"));
            let text = format!("{name} is asked for{by}: {what}");
            hub.around.machine().say(&text);
            force
        })
    }
}
