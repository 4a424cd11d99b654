//! One lease-hold: registered with the lease-join of each lockspace, it acquires all that it wants
//! or none, runs a command under guard, and gives the leases back.
//!
//! One thread decides, here, and waits for nothing but what happens ([`hub`]). Each resource has a
//! thread that does its disk I/O ([`worker`]). Who carries the last deadline is a process of its
//! own ([`carrier`]). All of it sees the machine through [`surroundings`].

pub mod acquire;
mod asking;
pub mod attempts;
pub mod carrier;
pub mod ended;
mod environment;
pub mod guard;
pub mod hub;
pub mod job;
mod last_look;
mod not_run;
mod order;
mod release;
mod report;
pub mod session;
pub mod signal;
pub mod surroundings;
mod tickets;
mod trouble;
mod value;
pub mod wishes;
pub mod worker;

use crate::failure::{Failure, Status};
use crate::surroundings::Surroundings;
use ended::Ended;
use guard::Manner;
use hub::Hub;
use job::HeldLease;
use surroundings::HolderSurroundings;
use value::Given;

/// Runs the command under the leases that are held, and gives them back. The exit code.
pub fn run<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: Vec<HeldLease>,
    manner: &Manner,
) -> anyhow::Result<u8> {
    let (held, ended, value) = match value::give(hub, &held) {
        Ok(value) => {
            let (held, ended) = guard::run(hub, held, manner)?;
            (held, ended, value)
        }
        Err(ended) => (held, ended, None),
    };
    Ok(after(hub, held, (ended, value))?)
}

/// After the command: hands its value on and releases, unless the host id is lost, and says what
/// the exit code is. What cannot be released is said, and changes nothing about how the command
/// ended.
fn after<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: Vec<HeldLease>,
    (ended, value): (Ended, Option<Given>),
) -> Result<u8, Failure> {
    let now = hub.now();
    // If one lease was taken, and the host id is still ours, the others go back.
    let of_lease = match &ended {
        Ended::Lost(_) => true,
        Ended::NotRun(failure) => failure.status == Status::Lost,
        Ended::Command(_) | Ended::LetGo => false,
    };
    let lost = of_lease && hub.is_overdue(now);
    let value = value.filter(|_| matches!(ended, Ended::Command(_)));
    let (value, mut not_handed_on) = match value.map(|given| value::take(hub, &held, &given)) {
        Some(Ok(block)) => (block, None),
        Some(Err(failure)) => (None, Some(failure)),
        None => (None, None),
    };
    if !lost {
        let undone = release::give_back(hub, held, value);
        not_handed_on = not_handed_on.or(undone.value);
        if let Some(failure) = undone.lease {
            hub.around.machine().say(&failure.to_string());
        }
    }
    hub.say_gone();
    match ended {
        Ended::Command(0) => not_handed_on.map_or(Ok(0), Err),
        Ended::Command(code) => {
            let failure = not_handed_on.iter();
            failure.for_each(|failure| hub.around.machine().say(&failure.to_string()));
            Ok(code)
        }
        Ended::LetGo => Ok(Status::Done.code()),
        Ended::NotRun(failure) => Err(failure),
        Ended::Lost(why) => {
            let text = format!("the lease was lost ({why}); {} was killed", hub.command);
            Err(Failure::new(Status::Lost, text))
        }
    }
}
