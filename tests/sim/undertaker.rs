//! Those who give leases back for the dead, each a thread of lease-join.

use super::hold;
use super::machine::{Machine, Membership, Storage};
use super::mail::Letter;
use super::port::Port;
use lease_core::clock::{Clock, Moment};
use lease_core::disk::Fault;
use lease_core::registry::message::{HolderId, Left};
use lease_core::resource::Member;
use lease_core::spec::Mode;
use std::rc::Rc;
use std::time::Duration;

/// After an attempt that failed.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A lease that is to be given back.
pub(crate) struct Task {
    /// Its holder, and which of its leases.
    pub(crate) lease: (HolderId, usize),
    /// The resource.
    pub(crate) resource: usize,
    /// Its holder may have been writing when it died.
    pub(crate) wrote: bool,
    /// Before this moment an earlier write may land.
    pub(crate) quiet_from: Moment,
    /// Who is told.
    pub(crate) server: usize,
}

impl Task {
    /// Gives it back, for as long as it takes; gives up when the host id is lost.
    pub(crate) fn run(mut self, port: &Port<'_>, machine: &Rc<Machine>, life: &Rc<Membership>) {
        let Storage {
            failure_is_final,
            io_ends_with_process,
        } = machine.setup.storage;
        if self.wrote && !(failure_is_final && io_ends_with_process) {
            self.quiet_from = self.quiet_from.max(machine.landed_by());
        }
        while !life.tenure.is_lost() {
            let Some(late) = self.attempt(port, machine, life) else {
                continue;
            };
            machine.tell(|| format!("r{} given back for the dead", self.resource));
            let (holder, index) = self.lease;
            let left = Left { doubt: false, late };
            let letter = Letter::GaveBack(holder, index, left);
            return machine.shared.post(self.server, letter);
        }
    }

    /// Through the same files every time, what one attempt left on its way the next one awaits,
    /// until they take no writes any more. Whether one may still land, once it is given back.
    fn attempt(&mut self, port: &Port<'_>, machine: &Machine, life: &Membership) -> Option<bool> {
        hold::with_files(port, machine, self.resource, life, |opened, member| {
            while !life.tenure.is_lost() {
                let member = Member {
                    ballots_from: member.ballots_from.max(self.quiet_from),
                    ..*member
                };
                let result = opened.resolve(&member, &hold::wanted(machine, Mode::Exclusive));
                let Err(error) = result else {
                    return Some(opened.quorum.settle().is_err());
                };
                machine.tell(|| format!("r{} not given back: {error}", self.resource));
                let unsure = !machine.setup.storage.failure_is_final
                    && opened.quorum.settle() == Err(Fault::Unsure);
                let _ = port.wait(TRY_AGAIN);
                if unsure {
                    self.quiet_from = self.quiet_from.max(machine.landed_by());
                    return None;
                }
            }
            None
        })
    }
}
