//! The value block of a lease is handed to the command as a file, and what the command has made of
//! it to whoever holds the lease next.
//!
//! Nothing of that is a reason to lose a lease. What cannot be handed to the command ends all
//! before it runs. What cannot be handed on is said, and is the exit code of a command that has
//! succeeded. Only a write that may still land keeps the lease from being released.

use super::ended::Ended;
use super::hub::Hub;
use super::job::{Answer, HeldLease, Job};
use super::not_run;
use super::surroundings::{Event, HolderSurroundings};
use crate::failure::{Failure, Status};
use crate::id::Lver;
use crate::registry::message::Left;
use crate::resource::AcquireError;
use crate::spec::Mode;
use std::time::Duration;

/// How long the command's file may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What the command was given.
#[derive(Debug)]
pub(super) struct Given {
    /// Without the zeros at its end.
    value: Vec<u8>,
    /// Bytes of a value block.
    most: usize,
    /// Of which lease, and of which version of that.
    lease: (String, Lver),
}

/// What is to be written to a value block.
#[derive(Debug)]
pub(crate) struct Block {
    /// Of which resource.
    pub(crate) index: usize,
    /// All of it.
    pub(crate) bytes: Vec<u8>,
}

/// Reads the value block, and writes the file. `None`: nothing of the kind is asked for.
pub(super) fn give<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
) -> Result<Option<Given>, Ended> {
    let Some(lease) = held.first().filter(|_| hub.around.hands_on_value()) else {
        return Ok(None);
    };
    let index = lease.index;
    hub.give(index, Job::ReadValue(lease.held.clone()));
    let read = hub.wait_for(None, true, |_, event| match event {
        Event::Done(_, Answer::ValueRead(result)) => Ok(result),
        other => Err(other),
    });
    let block = match read {
        Some(Ok(block)) => block,
        Some(Err(error)) => return Err(Ended::NotRun(unread(hub, index, &error))),
        None => return Err(not_run::not_started(hub)),
    };
    let value = without_zeros(&block).to_vec();
    hub.around.give_value(value.clone());
    let given = hub.wait_for(None, true, |_, event| match event {
        Event::ValueGiven(result) => Ok(result),
        other => Err(other),
    });
    let (most, lease) = (block.len(), (hub.name(index), lease.held.lver));
    match given {
        Some(Ok(())) => Ok(Some(Given { value, most, lease })),
        Some(Err(failure)) => Err(Ended::NotRun(failure)),
        None => Err(not_run::not_started(hub)),
    }
}

/// Reads the file after the command: the block that is to be written, if it is another than before.
/// Of a shared lease it is only read; of one that was released meanwhile it stays what it was.
pub(super) fn take<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
    given: &Given,
) -> Result<Option<Block>, Failure> {
    let exclusive = |lease: &&HeldLease| lease.held.mode == Mode::Exclusive;
    let same = |lease: &&HeldLease| given.lease == (hub.name(lease.index), lease.held.lver);
    let Some(lease) = held.iter().filter(same).find(exclusive) else {
        return Ok(None);
    };
    let (index, name, most) = (lease.index, hub.name(lease.index), given.most);
    let taken = read_file(hub, most);
    let mut value = taken.map_err(|why| not_handed_on(&name, why.status, &why.text))?;
    if without_zeros(&value) == given.value {
        return Ok(None);
    }
    if value.len() > most {
        let why = format!("its file has more than {most} bytes");
        return Err(not_handed_on(&name, Status::Invalid, &why));
    }
    value.resize(most, 0);
    Ok(Some(Block {
        index,
        bytes: value,
    }))
}

/// What stands in the file. No signal cuts this short: whoever ends the command sends some.
fn read_file<A: HolderSurroundings>(hub: &mut Hub<A>, most: usize) -> Result<Vec<u8>, Failure> {
    hub.around.take_value(most);
    let until = hub.now().after(READ_WITHIN);
    loop {
        match hub.next(Some(until)) {
            Some(Event::ValueTaken(result)) => return result,
            Some(_) => {}
            None => {
                return Err(Failure::new(
                    Status::Io,
                    "its file could not be read in time",
                ));
            }
        }
    }
}

fn without_zeros(block: &[u8]) -> &[u8] {
    let used = block.iter().rposition(|byte| *byte != 0);
    &block[..used.map_or(0, |last| last + 1)]
}

/// The value stays what it was.
fn not_handed_on(name: &str, status: Status, why: &str) -> Failure {
    let text = format!("cannot hand on the value of {name}: {why}; it stays what it was");
    Failure::new(status, text)
}

/// The host id was lost before it was written.
pub(super) fn too_late<A: HolderSurroundings>(hub: &Hub<A>, index: usize) -> Failure {
    not_handed_on(&hub.name(index), Status::Io, "no renewal in time")
}

/// It could not be written; this was left behind.
pub(super) fn unwritten<A: HolderSurroundings>(
    hub: &Hub<A>,
    index: usize,
    error: &AcquireError,
    left: Left,
) -> Failure {
    let rest = match left.late {
        true => "that write may still land",
        false => "it stays what it was",
    };
    let name = hub.name(index);
    let text = format!("cannot hand on the value of {name}: {error}; {rest}");
    Failure::new(status_of(error), text)
}

fn unread<A: HolderSurroundings>(hub: &Hub<A>, index: usize, error: &AcquireError) -> Failure {
    let what_next = match error {
        AcquireError::ValueBlocksDiffer => "",
        _ => "; try again when the storage works",
    };
    let name = hub.name(index);
    let text = format!("cannot read the value of {name}: {error}{what_next}");
    Failure::new(status_of(error), text)
}

fn status_of(error: &AcquireError) -> Status {
    match error {
        AcquireError::Disk(fault) => Status::of_fault(fault),
        AcquireError::Lost => Status::Lost,
        _ => Status::Io,
    }
}
