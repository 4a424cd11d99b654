//! From the arguments to leases that are held. All begins anew where the disks are not what others
//! find any more: they are opened, looked at, and asked for again.

use super::acquire::{End, Patience, acquire_all};
use super::guard;
use super::hub::Hub;
use super::job::HeldLease;
use super::surroundings::HolderSurroundings;
use super::trouble::{self, Trouble};
use crate::failure::{Failure, Status};
use crate::spec::ResourceArgument;
use crate::surroundings::Surroundings;
use crate::timing::DEFAULT_IO_TIMEOUT;
use anyhow::Context;
use std::time::Duration;

/// What the first look may take without --wait.
const LOOK_WITHIN: Duration = Duration::from_secs(DEFAULT_IO_TIMEOUT as u64);

/// All that is wanted is held.
pub type Held<'k, A> = (&'k mut Hub<A>, Vec<HeldLease>);

/// Opens the disks and registers, after a pause. The inner failure: a signal that ends the waiting.
pub type Begun<A> = anyhow::Result<Result<Hub<A>, i32>>;

/// Acquires every resource, trying as patiently as asked. `grace` is that of the command. What was
/// begun is in `kept` from then on, whatever comes of it: it has the connections to lease-join, and
/// a process that ends these before it ends itself is killed.
pub fn acquire<'k, A: HolderSurroundings>(
    (machine, specs): (&impl Surroundings, &[ResourceArgument]),
    (patience, grace): (Patience, Option<Duration>),
    kept: &'k mut Option<Hub<A>>,
    mut begin: impl FnMut(Duration) -> Begun<A>,
) -> anyhow::Result<Result<Held<'k, A>, End>> {
    let start = machine.now();
    let give_up = match patience {
        Patience::For(duration) => Some(start.after(duration)),
        Patience::None | Patience::UntilKnown => None,
    };
    let mut trouble = Trouble::default();
    let (mut again, mut pause) = (false, Duration::ZERO);
    let held = loop {
        let hub = match begin(pause) {
            Ok(Ok(hub)) => kept.insert(hub),
            Ok(Err(number)) => return Ok(Err(End::Signal(number))),
            Err(error) => {
                let failure = error.downcast::<Failure>()?;
                if !may_pass(failure.status, again) || patience == Patience::None {
                    return Err(failure.into());
                }
                let since = trouble.go_on(machine, &names_of(specs), &failure.to_string());
                if machine.now() >= give_up.unwrap_or(since.after(LOOK_WITHIN)) {
                    return Err(failure.into());
                }
                pause = trouble::pause(LOOK_WITHIN);
                continue;
            }
        };
        trouble.end(machine);
        guard::check_grace(hub, grace)?;
        match acquire_all(hub, patience, give_up) {
            Ok(held) => break held,
            Err(End::Replaced(why)) if give_up.is_none_or(|end| machine.now() < end) => {
                machine.say(&format!("{why}; going on with what is there now"));
                // It holds nothing: to lease-join it is as if it had never come.
                *kept = None;
                (again, pause) = (true, trouble::pause(LOOK_WITHIN));
            }
            Err(end) => return Ok(Err(end)),
        }
    };
    let hub = kept.as_mut().context("what was acquired is not kept")?;
    Ok(Ok((hub, held)))
}

/// Whether what has failed may be over soon. What was there once may be away, or be made, at this
/// moment; what was never there is wrong.
fn may_pass(status: Status, again: bool) -> bool {
    match status {
        Status::Io => true,
        Status::NoPath | Status::Invalid | Status::System | Status::NotJoined => again,
        _ => false,
    }
}

fn names_of(specs: &[ResourceArgument]) -> String {
    let name = |spec: &ResourceArgument| match spec {
        ResourceArgument::Placed(spec) => format!("{}:{}", spec.lockspace, spec.name),
        ResourceArgument::Named(spec) => format!("{}:{}", spec.lockspace, spec.name),
    };
    let names = specs.iter().map(name);
    names.collect::<Vec<_>>().join(", ")
}
