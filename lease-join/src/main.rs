//! lease-join: hold a host id in a lockspace by a heartbeat, in the foreground. What it decides is
//! in `lease_core::host`; here are its arguments, and the real surroundings.

mod args;
mod heart;
mod here;
mod host;
mod memory;
mod notify;
mod peers;
mod sanlock;
mod scribe;
mod seat;
mod shares;
mod signal;
mod signals;
mod undertaker;
mod watchdog;

use args::{Args, TOOL};
use lease_core::priority;
use lease_core::tool::{self, Status};
use std::process::ExitCode;

fn main() -> ExitCode {
    match tool::parse::<Args>(TOOL) {
        Ok(args) => tool::run(TOOL, || run(&args)),
        Err(code) => code,
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    if let Some((name, event)) = args.signal()? {
        signal::send(&args.run_dir, &name, event)?;
        return Ok(Status::Done.code());
    }
    if let Some(options) = args.sanlock()? {
        tool::speak_aside();
        return Ok(sanlock::serve(options)?.code());
    }
    let config = args.config()?;
    // No command is started from here.
    let _ = priority::raise();
    tool::speak_aside();
    let name = &config.lockspace.name;
    let seat = seat::take(&args.run_dir, name)?;
    let memory = match config.host {
        Some(_) => None,
        None => Some(memory::Book::open(&args.state_dir, name)?),
    };
    let mut here = here::Here::new(seat, memory, args.watchdog.clone())?;
    let ended = lease_core::host::run(&mut here, &config)?;
    Ok(ended.code())
}
