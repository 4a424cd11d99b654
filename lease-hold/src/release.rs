//! Leases go back: after the command, or when not all could be had.

use crate::TOOL;
use crate::acquire::HeldLease;
use crate::guard::Ended;
use crate::hub::{Event, Hub};
use crate::report;
use crate::session::Session;
use crate::worker::{Answer, Job};
use lease_core::clock::Clock;
use lease_core::registry::message::{Ask, Left, Tell};
use lease_core::spec::Mode;
use lease_core::tool::{Failure, Status, say};
use std::time::Duration;

/// How long a lease-join that has ended is waited for before leases are released without it.
const ALONE_AFTER: Duration = Duration::from_secs(3);
/// The loop looks around at least this often.
const LOOK_AROUND: Duration = Duration::from_millis(200);

/// After the command: releases, unless the host id is lost, and says what the exit code is. What
/// cannot be released is said, and changes nothing about how the command ended.
pub(crate) fn after(hub: &mut Hub, held: Vec<HeldLease>, ended: Ended) -> anyhow::Result<u8> {
    let now = hub.clock.now();
    // If one lease was taken, and the host id is still ours, the others go back.
    let of_lease = match &ended {
        Ended::Lost(_) => true,
        Ended::NotRun(failure) => failure.status == Status::Lost,
        Ended::Command(_) => false,
    };
    let lost = of_lease && hub.is_overdue(now);
    if !lost && let Err(failure) = give_back(hub, held) {
        say(TOOL, failure);
    }
    hub.sessions().iter_mut().for_each(Session::gone);
    match ended {
        Ended::Command(code) => Ok(code),
        Ended::NotRun(failure) => Err(failure.into()),
        Ended::Lost(why) => {
            let text = format!("the lease was lost ({why}); {} was killed", hub.command);
            Err(Failure::new(Status::Lost, text).into())
        }
    }
}

/// Releases all of them, at the same time. Fails with the first that could not be.
pub(crate) fn give_back(hub: &mut Hub, held: Vec<HeldLease>) -> Result<(), Failure> {
    let alone_at = hub.clock.now().after(ALONE_AFTER);
    let mut waiting = held;
    for lease in &waiting {
        let (session, number) = hub.session_of(lease.index);
        session.ask(Ask::Release { index: number }, None);
    }
    let mut running = 0;
    let mut first_failure = None;
    while running > 0 || !waiting.is_empty() {
        let now = hub.clock.now();
        if hub.is_overdue(now) {
            let late = waiting
                .drain(..)
                .next()
                .map(|lease| too_late(hub, lease.index));
            first_failure = first_failure.or(late);
        }
        if now >= alone_at {
            running += release_alone(hub, &mut waiting);
        }
        match hub.next(Some(now.after(LOOK_AROUND))) {
            Some(Event::Told(session, Tell::ReleaseTurn { index, last })) => {
                let index = hub.resource_of(session, index);
                let place = waiting.iter().position(|lease| Some(lease.index) == index);
                let lease = place.map(|place| waiting.remove(place));
                if let (Some(lease), true) = (lease, last) {
                    hub.give(lease.index, Job::Release(lease.held));
                    running += 1;
                }
            }
            Some(Event::Done(index, Answer::Released(result, left))) => {
                running -= 1;
                let failure = released(hub, index, result.map_err(|e| e.to_string()), left);
                first_failure = first_failure.or(failure);
            }
            _ => {}
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Without a lease-join nobody gives turns, and nobody else on this host can have one. A shared
/// lease is left to the next lease-join: whether others share it cannot be known. Returns how many
/// are on their way.
fn release_alone(hub: &mut Hub, waiting: &mut Vec<HeldLease>) -> usize {
    let mut running = 0;
    for lease in std::mem::take(waiting) {
        let (session, number) = hub.session_of(lease.index);
        if session.is_alive() {
            waiting.push(lease);
        } else if lease.held.mode == Mode::Exclusive {
            session.releases_alone(number);
            hub.give(lease.index, Job::Release(lease.held));
            running += 1;
        } else {
            let name = report::name(hub, lease.index);
            say(
                TOOL,
                format!("{name} stays shared by this host until lease-join is back"),
            );
        }
    }
    running
}

fn too_late(hub: &Hub, index: usize) -> Failure {
    let name = report::name(hub, index);
    let text = format!("cannot release {name}: no renewal in time; it stays owned by this host");
    Failure::new(Status::Io, text)
}

fn released(
    hub: &mut Hub,
    index: usize,
    result: Result<(), String>,
    left: Left,
) -> Option<Failure> {
    let (session, number) = hub.session_of(index);
    session.released(number, left);
    let why = result.err()?;
    let name = report::name(hub, index);
    let text = format!(
        "cannot release {name}: {why}; it stays owned by this host until lease-join has released it"
    );
    Some(Failure::new(Status::Io, text).numbered(-202))
}
