//! The last look at what is held, before anything rests on it.

use super::hub::Hub;
use super::job::{Answer, HeldLease, Job};
use super::surroundings::{Event, HolderSurroundings};

/// Why one of these leases stands where others do not look any more. `None` as well if something
/// ends all.
pub(super) fn find_replaced<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: &[HeldLease],
) -> Option<String> {
    held.iter()
        .for_each(|lease| hub.give(lease.index, Job::Look));
    let mut found = None;
    for _ in held {
        let (index, result) = hub.wait_for(None, true, |_, event| match event {
            // What is guarded may be looked at as well.
            Event::Done(index, Answer::Checked(result))
                if held.iter().any(|lease| lease.index == index) =>
            {
                Ok((index, result))
            }
            other => Err(other),
        })?;
        if let Ok(Some(why)) = result {
            found.get_or_insert(format!("{} {why}", hub.name(index)));
        }
    }
    found
}
