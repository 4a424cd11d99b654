//! One joined host id: what lease-join decides, from its start to its end.
//!
//! It goes on where a former lease-join of this boot has ended, or brings what that one guarded to
//! its end and joins anew (`joining`). Then a thread of its own renews (`heart`), and one loop
//! answers holders, keeps the deadline, and kills what a holder does not (`server`,
//! `holders`). What the dead have left goes back on the disk (`dead`, `giving_back`). What a
//! next lease-join must know is in two files (`kept`).
//!
//! It sees the world through [`Storage`](crate::storage::Storage), [`Clock`](crate::clock::Clock),
//! [`Surroundings`](crate::surroundings::Surroundings) and [`HostSurroundings`] alone, in the
//! blocking style: what runs in the shipped tool runs in the simulator.

mod answers;
mod calls;
pub mod config;
mod dead;
mod describe;
mod found;
pub mod giving_back;
pub mod heart;
mod holders;
mod joining;
pub mod kept;
mod leaving;
pub mod memory;
mod names;
mod orders;
mod outbox;
mod peers;
mod server;
mod signalling;
mod stage;
pub mod surroundings;
mod victim;
mod wanted;
pub mod watchdog;

use crate::failure::{Failure, Status};
use config::Config;
use surroundings::HostSurroundings;

/// Joins, and serves until the host id is given back or lost. What to end with.
pub fn run<S: HostSurroundings>(s: &mut S, config: &Config) -> Result<Status, Failure> {
    match joining::join(s, config)? {
        Some(joined) => server::serve(s, joined),
        None => Ok(Status::Done),
    }
}
