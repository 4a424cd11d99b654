//! lease-join: hold a host id in a lockspace by a heartbeat, in the foreground.

mod args;
mod heartbeat;
mod host;
mod membership;
mod scribe;
mod server;
mod signals;
mod state;

use args::Args;
use lease_core::tool::{self, Status};
use std::process::ExitCode;

/// The name that messages start with.
const TOOL: &str = "lease-join";

fn main() -> ExitCode {
    match tool::parse::<Args>(TOOL) {
        Ok(args) => tool::run(TOOL, || run(&args)),
        Err(code) => code,
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    let spec = args.lockspace()?;
    let seat = membership::take_seat(args, &spec)?;
    let disk = membership::open(&spec)?;
    let signals = signals::Signals::watch()?;
    let former = state::State::read(&seat.place, &host::boot_id()?);
    let Some(lease) = membership::join(args, &spec, &disk, &signals, former.as_ref())? else {
        return Ok(Status::Done.code());
    };
    server::Server::start(seat, &spec, disk, lease, signals)?.run()
}
