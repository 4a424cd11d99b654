//! lease-hold: run a command while this host holds leases on resources.

mod acquire;
mod alarm;
mod args;
mod attempts;
mod cage;
mod carrier;
mod child;
mod command;
mod environment;
mod guard;
mod hub;
mod init;
mod keeper;
mod release;
mod report;
mod session;
mod signals;
mod terminal;
mod tree;
mod trouble;
mod worker;

use anyhow::Context;
use args::Args;
use lease_core::priority;
use lease_core::tool;
use std::process::ExitCode;

/// The name that messages start with.
const TOOL: &str = "lease-hold";

fn main() -> ExitCode {
    if let Some(code) = init::run_if_called() {
        return code;
    }
    match tool::parse::<Args>(TOOL) {
        Ok(args) => tool::run(TOOL, || run(&args)),
        Err(code) => code,
    }
}

fn run(args: &Args) -> anyhow::Result<u8> {
    let specs = args.resources()?;
    let command = command::Command::find(args.command())?;
    tree::check_proc(&command)?;
    let unblocked = signals::block()?;
    let oom_score = priority::raise();
    let (cage, notes) = cage::Cage::build(args.contain)?;
    let orders = guard::Orders {
        keeper: keeper::Keeper::start(&cage, &args.run_dir)?,
        cage,
        signals: unblocked,
        oom_score,
        kill_signal: args.kill_signal,
        grace: args.grace,
        on_loss: args.on_loss.clone(),
        end_rest: args.end_rest,
    };
    // Only now: the keeper is forked while there is one thread.
    tool::speak_aside().context("cannot start a thread")?;
    let notes = notes.iter().filter(|_| args.verbose);
    notes.for_each(|note| tool::say(TOOL, note));
    let (mut hub, held) = match attempts::acquire(args, &specs, &tool::show(&command.name))? {
        Ok(all) => all,
        Err(end) => return end.exit(args.conflict_exit_code),
    };
    let environment = environment::of(&hub, &held);
    let ended = guard::run(&mut hub, &held, &command, &environment, orders)?;
    release::after(&mut hub, held, ended)
}
