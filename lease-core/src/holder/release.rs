//! Leases go back: after the command, or when not all could be had.

use super::hub::Hub;
use super::job::{Answer, HeldLease, Job};
use super::surroundings::{Event, HolderSurroundings};
use super::value;
use crate::failure::{Failure, Status};
use crate::registry::message::{Left, Tell};
use crate::spec::Mode;
use crate::surroundings::Surroundings;
use std::time::Duration;

/// How long a lease-join that has ended is waited for before leases are released without it.
const ALONE_AFTER: Duration = Duration::from_secs(3);
/// The loop looks around at least this often.
const LOOK_AROUND: Duration = Duration::from_millis(200);

/// What could not be done, and why.
#[derive(Debug, Default)]
pub(crate) struct Undone {
    /// The first lease that could not be released.
    pub(crate) lease: Option<Failure>,
    /// The value that could not be handed on.
    pub(crate) value: Option<Failure>,
}

/// Releases all of them, at the same time; of a single one, after this is written to its value
/// block.
pub(crate) fn give_back<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: Vec<HeldLease>,
    mut value: Option<Vec<u8>>,
) -> Undone {
    let alone_at = hub.now().after(ALONE_AFTER);
    let mut waiting = held;
    for lease in &waiting {
        hub.ask_to_release(lease.index);
    }
    let mut running = 0;
    let mut undone = Undone::default();
    while running > 0 || !waiting.is_empty() {
        let now = hub.now();
        if hub.is_overdue(now) {
            let first = waiting.drain(..).next().map(|lease| lease.index);
            let value = value.take().and(first);
            undone.value = value
                .map(|index| value::too_late(hub, index))
                .or(undone.value);
            let late = first.map(|index| too_late(hub, index));
            undone.lease = undone.lease.or(late);
        }
        if now >= alone_at {
            running += release_alone(hub, &mut waiting, &mut value);
        }
        match hub.next(Some(now.after(LOOK_AROUND))) {
            Some(Event::Told(session, Tell::ReleaseTurn { index, last })) => {
                let index = hub.resource_of(session, index);
                let place = waiting.iter().position(|lease| Some(lease.index) == index);
                let lease = place.map(|place| waiting.remove(place));
                if let (Some(lease), true) = (lease, last) {
                    hub.give(lease.index, Job::Release(lease.held, value.take()));
                    running += 1;
                }
            }
            Some(Event::Done(index, Answer::Released(result, left, unwritten))) => {
                running -= 1;
                let unwritten = unwritten.map(|error| value::unwritten(hub, index, &error, left));
                undone.value = undone.value.or(unwritten);
                let failure = released(hub, index, result.map_err(|e| e.to_string()), left);
                undone.lease = undone.lease.or(failure);
            }
            _ => {}
        }
    }
    undone
}

/// Without a lease-join nobody gives turns, and nobody else on this host can have one. A shared
/// lease is left to the next lease-join: whether others share it cannot be known. Returns how many
/// are on their way.
fn release_alone<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    waiting: &mut Vec<HeldLease>,
    value: &mut Option<Vec<u8>>,
) -> usize {
    let mut running = 0;
    for lease in std::mem::take(waiting) {
        if !hub.is_alone(lease.index) {
            waiting.push(lease);
        } else if lease.held.mode == Mode::Exclusive {
            hub.release_alone(lease.index);
            hub.give(lease.index, Job::Release(lease.held, value.take()));
            running += 1;
        } else {
            let name = hub.name(lease.index);
            let text = format!("{name} stays shared by this host until lease-join is back");
            hub.around.machine().say(&text);
        }
    }
    running
}

fn too_late<A: HolderSurroundings>(hub: &Hub<A>, index: usize) -> Failure {
    let name = hub.name(index);
    let text = format!("cannot release {name}: no renewal in time; it stays owned by this host");
    Failure::new(Status::Io, text)
}

fn released<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    index: usize,
    result: Result<(), String>,
    left: Left,
) -> Option<Failure> {
    hub.say_released(index, left);
    let why = result.err()?;
    let name = hub.name(index);
    let text = format!(
        "cannot release {name}: {why}; it stays owned by this host until lease-join has released it"
    );
    Some(Failure::new(Status::Io, text).numbered(-202))
}
