//! Whoever gives an order.

use super::message::{Ask, Tell};
use super::order::{Order, OrderId, Outcome};
use super::place::Place;
use super::wire::Wire;
use crate::failure::{Failure, Status, show};
use crate::id::Name;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long a lease-join that has ended is looked for.
const BACK_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Gives an order to the lease-hold that guards the process `to`, or is that process, through the
/// lease-join of a lockspace, and waits for what comes of it. If that lease-join ends meanwhile it
/// is asked again when it is back: an order is carried out once.
pub fn give(
    run_dir: &Path,
    lockspace: &Name,
    (id, to): (OrderId, i32),
    order: &Order,
) -> Result<Outcome, Failure> {
    let mut waited = Duration::ZERO;
    let mut given = false;
    loop {
        let why = match talk(run_dir, lockspace, (id, to), order, &mut given) {
            Ok(outcome) => return Ok(outcome),
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("lease-join of lockspace {lockspace}: permission denied");
                return Err(Failure::new(Status::Permission, text));
            }
            Err(why) => why,
        };
        if !given || waited >= BACK_WITHIN {
            let shown = show(run_dir.as_os_str());
            let next = match given {
                true => "what came of the order is not known; see lease-dump --local",
                false => "start lease-join first",
            };
            let text =
                format!("no live lease-join for lockspace {lockspace} in {shown}: {why}; {next}");
            return Err(Failure::new(Status::NotJoined, text));
        }
        std::thread::sleep(LOOK_AGAIN);
        waited += LOOK_AGAIN;
    }
}

fn talk(
    run_dir: &Path,
    lockspace: &Name,
    (id, to): (OrderId, i32),
    order: &Order,
    given: &mut bool,
) -> io::Result<Outcome> {
    let place = Place::open(run_dir, lockspace).map_err(io::Error::from)?;
    let mut wire = Wire::new(place.connect()?);
    let order = order.clone();
    wire.send(&Ask::Order { id, to, order })?;
    *given = true;
    loop {
        match wire.receive()? {
            Tell::Ordered { outcome } => return Ok(outcome),
            Tell::Renewed { .. } => {}
            _ => return Err(io::Error::other("it does not speak as expected")),
        }
    }
}
