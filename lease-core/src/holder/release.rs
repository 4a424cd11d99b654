//! Leases go back: after the command, or when not all could be had.

use super::hub::Hub;
use super::job::{Answer, HeldLease, Job};
use super::surroundings::{Event, HolderSurroundings};
use super::value::{self, Block};
use crate::clock::Moment;
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

/// Releases all of them, at the same time; the one of a value after that is written to its block.
pub(crate) fn give_back<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: Vec<HeldLease>,
    mut value: Option<Block>,
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
        if let Some(late) = drop_late(hub, &mut waiting, now) {
            let of_value = |value: &Block| !waiting.iter().any(|lease| lease.index == value.index);
            let unsaid = value.take_if(|value| of_value(value));
            let unsaid = unsaid.map(|value| value::too_late(hub, value.index));
            undone.value = undone.value.or(unsaid);
            undone.lease = undone.lease.or(Some(late));
        }
        if now >= alone_at {
            running += release_alone(hub, &mut waiting, &mut value);
        }
        match hub.next_while_releasing(now.after(LOOK_AROUND)) {
            Some(Event::Told(session, Tell::ReleaseTurn { index, last })) => {
                let index = hub.resource_of(session, index);
                let place = waiting.iter().position(|lease| Some(lease.index) == index);
                let lease = place.map(|place| waiting.remove(place));
                if let (Some(lease), true) = (lease, last) {
                    let value = bytes_for(&mut value, lease.index);
                    hub.give(lease.index, Job::Release(lease.held, value));
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
            Some(other) => hub.pass_on_while_releasing(other),
            None => {}
        }
    }
    undone
}

/// Those whose host id is lost by now are released no more: says that of the first.
fn drop_late<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    waiting: &mut Vec<HeldLease>,
    now: Moment,
) -> Option<Failure> {
    let mut late = Vec::new();
    waiting.retain(|lease| {
        let is_late = hub.is_overdue_for(lease.index, now);
        late.extend(is_late.then_some(lease.index));
        !is_late
    });
    late.first().map(|index| too_late(hub, *index))
}

/// Without a lease-join nobody gives turns, and nobody else on this host can have one. A shared
/// lease is left to the next lease-join: whether others share it cannot be known. Returns how many
/// are on their way.
fn release_alone<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    waiting: &mut Vec<HeldLease>,
    value: &mut Option<Block>,
) -> usize {
    let mut running = 0;
    for lease in std::mem::take(waiting) {
        if !hub.is_alone(lease.index) {
            waiting.push(lease);
        } else if lease.held.mode == Mode::Exclusive {
            hub.release_alone(lease.index);
            let value = bytes_for(value, lease.index);
            hub.give(lease.index, Job::Release(lease.held, value));
            running += 1;
        } else {
            let name = hub.name(lease.index);
            let text = format!("{name} stays shared by this host until lease-join is back");
            hub.around.machine().say(&text);
        }
    }
    running
}

/// What is to be written to the block of this resource.
fn bytes_for(value: &mut Option<Block>, index: usize) -> Option<Vec<u8>> {
    let its = value.take_if(|value| value.index == index);
    its.map(|value| value.bytes)
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
