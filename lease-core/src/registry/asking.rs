//! Asking a lease-join what it knows.

use super::message::{Ask, DescribedHolder, DescribedProcess, Description, Tell};
use super::place::Place;
use super::wire::Wire;
use crate::contain;
use crate::process;
use std::io;
use std::time::Duration;

/// What a lease-join knows, and its process id. It may take `limit` to answer.
pub fn describe(place: &Place, limit: Duration) -> io::Result<(Description, i32)> {
    let stream = place.connect()?;
    stream.set_read_timeout(Some(limit))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    let mut wire = Wire::new(stream).without_limit();
    wire.send(&Ask::Describe)?;
    match wire.receive()? {
        Tell::Described(mut description) => {
            description.holders.iter_mut().for_each(look_up);
            Ok((*description, peer.pid.as_raw_nonzero().get()))
        }
        _ => Err(io::Error::other("it does not speak as expected")),
    }
}

/// The command may have ended long ago, and what it has left may run.
fn look_up(holder: &mut DescribedHolder) {
    let (Some(first), Some(containment)) = (holder.guarded, &holder.containment) else {
        return;
    };
    let guarded = contain::guarded_by(holder.pid, first, containment);
    let named = guarded.into_iter().filter_map(|id| {
        let (pid, command) = (id.pid, process::name_of(id)?);
        Some(DescribedProcess { pid, command })
    });
    holder.processes = named.collect();
}
