//! Leases go back: after the command, or when not all could be had.

use crate::TOOL;
use crate::acquire::HeldLease;
use crate::guard::Ended;
use crate::hub::{Event, Hub};
use crate::report;
use crate::worker::{Answer, Job};
use lease_core::clock::Clock;
use lease_core::registry::message::{Ask, Left, Tell};
use lease_core::spec::Mode;
use lease_core::tool::{Failure, Status, say};

/// After the command: releases, unless the host id is lost, and says what the exit code is.
pub(crate) fn after(hub: &mut Hub, held: Vec<HeldLease>, ended: Ended) -> anyhow::Result<u8> {
    match ended {
        Ended::Lost(why) => {
            let text = format!("the lease was lost ({why}); {} was killed", hub.command);
            Err(Failure::new(Status::Lost, text).into())
        }
        Ended::Command(code) => {
            give_back(hub, held)?;
            Ok(code)
        }
        Ended::NotRun(failure) => {
            give_back(hub, held)?;
            Err(failure.into())
        }
    }
}

/// Releases all of them, at the same time. Fails with the first that could not be.
pub(crate) fn give_back(hub: &mut Hub, held: Vec<HeldLease>) -> Result<(), Failure> {
    let mut waiting: Vec<Option<HeldLease>> = held.into_iter().map(Some).collect();
    for lease in waiting.iter().flatten() {
        let (session, number) = hub.session_of(lease.index);
        session.say(&Ask::Release { index: number });
    }
    let mut running = 0;
    let mut first_failure = None;
    while running > 0 || waiting.iter().any(Option::is_some) {
        start_orphans(hub, &mut waiting, &mut running);
        if hub.clock.now() >= hub.deadline() {
            waiting.clear();
        }
        if running == 0 && waiting.iter().all(Option::is_none) {
            break;
        }
        let deadline = hub.deadline();
        let until = (running == 0).then_some(deadline);
        match hub.next(until) {
            Some(Event::Told(session, Tell::ReleaseTurn { index, last })) => {
                let lease = hub
                    .resource_of(session, index)
                    .and_then(|i| take(&mut waiting, i));
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

fn take(waiting: &mut [Option<HeldLease>], index: usize) -> Option<HeldLease> {
    waiting
        .iter_mut()
        .find(|lease| lease.as_ref().is_some_and(|l| l.index == index))
        .and_then(Option::take)
}

/// Without a lease-join nobody gives turns, and nobody else on this host can have one. A shared
/// lease is left: whether others share it cannot be known.
fn start_orphans(hub: &mut Hub, waiting: &mut [Option<HeldLease>], running: &mut usize) {
    for slot in waiting {
        let Some(index) = slot.as_ref().map(|lease| lease.index) else {
            continue;
        };
        if hub.session_of(index).0.alive {
            continue;
        }
        let Some(lease) = slot.take() else { continue };
        match lease.held.mode {
            Mode::Exclusive => {
                hub.give(index, Job::Release(lease.held));
                *running += 1;
            }
            Mode::Shared => {
                let name = report::name(hub, index);
                say(
                    TOOL,
                    format!("{name} stays shared by this host: lease-join has ended"),
                );
            }
        }
    }
}

fn released(
    hub: &mut Hub,
    index: usize,
    result: Result<(), String>,
    left: Left,
) -> Option<Failure> {
    let (session, number) = hub.session_of(index);
    session.say(&Ask::Released {
        index: number,
        left,
    });
    let why = result.err()?;
    let name = report::name(hub, index);
    let text = format!("cannot release {name}: {why}; it stays owned by this host");
    Some(Failure::new(Status::Io, text).numbered(-202))
}
