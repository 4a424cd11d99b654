//! lease-hold: run a command while this host holds leases on resources.

mod acquire;
mod args;
mod cage;
mod child;
mod command;
mod environment;
mod guard;
mod hub;
mod release;
mod report;
mod session;
mod tree;
mod worker;

use args::Args;
use lease_core::tool;
use std::process::ExitCode;

/// The name that messages start with.
const TOOL: &str = "lease-hold";

fn main() -> ExitCode {
    match tool::parse::<Args>(TOOL) {
        Ok(args) => tool::run(TOOL, || run(&args)),
        Err(code) => code,
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    let specs = args.resources()?;
    let patience = args.patience()?;
    let command = command::Command::find(args.command())?;
    let opened = worker::open_all(&specs)?;
    let mut hub = hub::Hub::start(&args.run_dir, opened, &command)?;
    let held = match acquire::acquire_all(&mut hub, patience) {
        Ok(held) => held,
        Err(end) => return end.exit(args.conflict_exit_code),
    };
    let environment = environment::of(&hub, &held);
    let ended = guard::run(
        &mut hub,
        &held,
        &command,
        &environment,
        (args.contain, args.verbose),
    )?;
    release::after(&mut hub, held, ended)
}
