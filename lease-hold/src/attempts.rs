//! From the arguments to leases that are held. All begins anew where the disks are not what others
//! find any more: they are opened, looked at, and asked for again.

use crate::TOOL;
use crate::acquire::{self, End, HeldLease};
use crate::args::{Args, Patience};
use crate::hub::Hub;
use crate::trouble::{self, Trouble};
use crate::{guard, signals, worker};
use lease_core::clock::BootClock;
use lease_core::spec::ResourceSpec;
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use lease_core::tool::{Failure, Status, say};
use std::mem::ManuallyDrop;
use std::time::Duration;

/// What the first look may take without --wait.
const LOOK_WITHIN: Duration = Duration::from_secs(DEFAULT_IO_TIMEOUT as u64);

/// All that is wanted is held. The connections to lease-join end with this process and not before:
/// whoever ends them is ended.
pub(crate) type Held = (ManuallyDrop<Hub>, Vec<HeldLease>);

/// Acquires every resource for the command `name`, trying as patiently as asked.
pub(crate) fn acquire(
    args: &Args,
    specs: &[ResourceSpec],
    name: &str,
) -> anyhow::Result<Result<Held, End>> {
    let patience = args.patience();
    let start = BootClock::boot_time();
    let give_up = match patience {
        Patience::For(duration) => Some(start.after(duration)),
        Patience::None | Patience::UntilKnown => None,
    };
    let mut trouble = Trouble::default();
    let (mut again, mut pause) = (false, Duration::ZERO);
    loop {
        let mut hub = match begin(args, specs, name, pause) {
            Ok(Ok(hub)) => ManuallyDrop::new(hub),
            Ok(Err(number)) => return Ok(Err(End::Signal(number))),
            Err(error) => {
                let failure = error.downcast::<Failure>()?;
                let now = BootClock::boot_time();
                if !may_pass(failure.status, again) || patience == Patience::None {
                    return Err(failure.into());
                }
                let since = trouble.go_on(now, &specs_of(specs), &failure.to_string());
                if now >= give_up.unwrap_or(since.after(LOOK_WITHIN)) {
                    return Err(failure.into());
                }
                pause = trouble::pause(LOOK_WITHIN);
                continue;
            }
        };
        trouble.end();
        guard::check_grace(&mut hub, args.grace)?;
        match acquire::acquire_all(&mut hub, patience, give_up) {
            Ok(held) => return Ok(Ok((hub, held))),
            Err(End::Replaced(why)) if give_up.is_none_or(|end| BootClock::boot_time() < end) => {
                say(TOOL, format!("{why}; going on with what is there now"));
                // It holds nothing: to lease-join it is as if it had never come.
                drop(ManuallyDrop::into_inner(hub));
                (again, pause) = (true, trouble::pause(LOOK_WITHIN));
            }
            Err(end) => return Ok(Err(end)),
        }
    }
}

/// Opens the disks and registers. The inner failure: a signal that ends the waiting.
fn begin(
    args: &Args,
    specs: &[ResourceSpec],
    name: &str,
    pause: Duration,
) -> anyhow::Result<Result<Hub, i32>> {
    let (run_dir, specs, name) = (args.run_dir.clone(), specs.to_vec(), name.to_owned());
    signals::unless_ended(move || {
        std::thread::sleep(pause);
        Hub::start(&run_dir, worker::open_all(&specs)?, name)
    })
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

fn specs_of(specs: &[ResourceSpec]) -> String {
    let names = specs
        .iter()
        .map(|spec| format!("{}:{}", spec.lockspace, spec.name));
    names.collect::<Vec<_>>().join(", ")
}
