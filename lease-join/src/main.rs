//! lease-join: hold a host id in a lockspace by a heartbeat, in the foreground.

mod args;
mod describe;
mod heartbeat;
mod host;
mod leaving;
mod membership;
mod notify;
mod peers;
mod scribe;
mod server;
mod signals;
mod state;
mod undertaker;
mod watchdog;

use anyhow::Context;
use args::Args;
use lease_core::priority;
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
    // No command is started from here.
    let _ = priority::raise();
    tool::speak_aside().context("cannot start a thread")?;
    let seat = membership::take_seat(args, &spec)?;
    let found = membership::open(&spec)?;
    let signals = signals::Signals::watch()?;
    let remains = state::Remains::read(&seat.place, &host::boot_id()?)?;
    match membership::join(args, &spec, found, &signals, (&seat.place, remains))? {
        Some(joined) => server::Server::start(seat, joined, signals)?.run(),
        None => Ok(Status::Done.code()),
    }
}
