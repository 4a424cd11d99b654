//! Orders: what is held changes while what is guarded runs on. One at a time; whoever gives another
//! meanwhile is told so. What is guarded is cared for in every wait of this.

use super::acquire::{self, End};
use super::hub::{Ending, Hub};
use super::job::HeldLease;
use super::release;
use super::surroundings::{Event, HolderSurroundings};
use super::tickets::{Taken, Ticket};
use crate::failure::{Failure, Status};
use crate::registry::message::{Ask, Asked, Tell};
use crate::registry::order::{LeaseName, Order, OrderId, Outcome, Patience};
use crate::spec::{ResourceArgument, ResourceSpec};

/// One was given: it waits for its turn, or it is said why not.
pub(super) fn hear<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    (session, id): (usize, OrderId),
    order: Order,
) {
    let outcome = match hub.tickets.take(session, id, order) {
        Taken::In => return,
        Taken::Before(outcome) => outcome,
        Taken::NotNow => {
            let text = format!(
                "cannot change what {} holds: another order is being carried out; try again",
                hub.command
            );
            Failure::new(Status::Busy, text).into()
        }
    };
    tell(hub, (session, id), outcome);
}

fn tell<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    (session, id): (usize, OrderId),
    outcome: Outcome,
) {
    let (session, around) = hub.session(session);
    session.ordered(around, id, outcome);
}

/// Carries an order out, and says what came of it.
pub(super) fn carry_out<A: HolderSurroundings>(hub: &mut Hub<A>, ticket: &Ticket) {
    hub.ending = None;
    let result = match &ticket.order {
        Order::Acquire {
            resources,
            patience,
        } => acquire(hub, resources, *patience),
        Order::Release { leases } => give_back(hub, leases),
    };
    hub.wanted.clear();
    let outcome = match result {
        Ok(()) => Outcome::done(),
        Err(failure) => failure.into(),
    };
    if let Some(whom) = hub.tickets.end(&outcome) {
        tell(hub, whom, outcome);
    }
}

// ---- acquiring

fn acquire<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    resources: &[ResourceArgument],
    patience: Patience,
) -> Result<(), Failure> {
    let give_up = match patience {
        Patience::For(duration) => Some(hub.now().after(duration)),
        Patience::None | Patience::UntilKnown => None,
    };
    hub.around.open(resources.to_vec());
    let opened = hub.wait_for(None, false, |_, event| match event {
        Event::Opened(result) => Ok(result),
        other => Err(other),
    });
    let opened = opened.ok_or_else(nothing_heard)??;
    let mut added = Vec::new();
    let held = match add_all(hub, opened, &mut added) {
        Ok(()) => {
            hub.wanted.clone_from(&added);
            acquire::acquire_all(hub, patience, give_up).map_err(failure_of)
        }
        Err(failure) => Err(failure),
    };
    match held {
        Ok(held) => {
            hub.held.extend(held);
            hub.carry();
            Ok(())
        }
        Err(failure) => {
            added.iter().for_each(|index| hub.remove(*index));
            hub.around.close_opened();
            Err(failure)
        }
    }
}

/// What is wanted is known to the lease-joins, and has its workers.
fn add_all<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    opened: Vec<(ResourceSpec, Asked)>,
    added: &mut Vec<usize>,
) -> Result<(), Failure> {
    for (spec, asked) in opened {
        let lease = LeaseName {
            lockspace: spec.lockspace,
            resource: spec.name,
        };
        let name = lease.to_string();
        if hub.place_held(&lease).is_some() {
            let text = format!("cannot acquire {name}: {} holds it already", hub.command);
            return Err(Failure::new(Status::Busy, text).numbered(-17));
        }
        let session = hub.session_for(&spec.lockspace).ok_or_else(|| {
            let text = format!(
                "cannot acquire {name}: what guards {} is not registered with the lease-join of \
                 that lockspace; start it before lease-hold",
                hub.command
            );
            Failure::new(Status::NotJoined, text)
        })?;
        let number = claim(hub, session, asked).map_err(|why| {
            Failure::new(Status::Refused, format!("cannot acquire {name}: {why}"))
        })?;
        let index = hub
            .add(spec, (session, number))
            .map_err(|why| Failure::new(Status::System, format!("cannot acquire {name}: {why}")))?;
        added.push(index);
    }
    Ok(())
}

/// Asks the lease-join for one resource more; its number there.
fn claim<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    number: usize,
    resource: Asked,
) -> Result<usize, String> {
    let index = hub.free_index(number);
    let (session, around) = hub.session(number);
    session.ask(around, Ask::Claim { index, resource });
    let answer = hub.wait_for(None, true, |_, event| match event {
        Event::Told(of, Tell::Claimed { index: i, .. }) if (of, i) == (number, index) => Ok(Ok(i)),
        Event::Told(of, Tell::NotClaimed { index: i, why }) if (of, i) == (number, index) => {
            Ok(Err(why))
        }
        other => Err(other),
    });
    answer.unwrap_or_else(|| {
        hub.session(number).0.withdraw_claim(index);
        Err(match &hub.ending {
            Some(Ending::Lost(why)) => format!("this host has lost its host id: {why}"),
            Some(Ending::NotJoined) => "lease-join is leaving the lockspace".to_owned(),
            _ => "what is guarded has ended, or nobody waits for it any more".to_owned(),
        })
    })
}

fn nothing_heard() -> Failure {
    Failure::new(Status::Internal, "a wait has ended without a reason")
}

fn failure_of(end: End) -> Failure {
    match end {
        End::Refused(failure) | End::Failed(failure) => failure,
        End::Replaced(why) => {
            let text = format!("cannot acquire {why}; try again with what is there now");
            Failure::new(Status::Busy, text)
        }
        End::Signal(_) => Failure::new(Status::Internal, "an order ended by a signal"),
    }
}

// ---- releasing

fn give_back<A: HolderSurroundings>(hub: &mut Hub<A>, leases: &[LeaseName]) -> Result<(), Failure> {
    let mut given: Vec<HeldLease> = Vec::new();
    for name in leases {
        let Some(place) = hub.place_held(name) else {
            hub.held.extend(given);
            let text = format!(
                "cannot release {name}: {} does not hold it; lease-dump --local shows what it holds",
                hub.command
            );
            return Err(Failure::new(Status::NoPath, text).numbered(-1));
        };
        given.push(hub.held.remove(place));
    }
    let indices: Vec<usize> = given.iter().map(|lease| lease.index).collect();
    let undone = release::give_back(hub, given, None);
    indices.into_iter().for_each(|index| hub.remove(index));
    hub.carry();
    undone.lease.map_or(Ok(()), Err)
}

impl<A: HolderSurroundings> Hub<A> {
    /// Where in what is held this lease is.
    fn place_held(&self, name: &LeaseName) -> Option<usize> {
        let is_it = |lease: &HeldLease| {
            let (spec, _) = self.of_resource(lease.index);
            (spec.lockspace, spec.name) == (name.lockspace, name.resource)
        };
        self.held.iter().position(is_it)
    }
}
