//! lease-init: formats lockspaces, resources and indexes.
//!
//! In the order of execution: everything that was asked for is checked ([`plan`]), every place is
//! looked at ([`look`]), and only then the first byte is written. What an index knows by name is
//! another matter ([`named`]): hosts use it meanwhile.

mod args;
mod foreign;
mod look;
mod named;
mod plan;

use args::{Args, TOOL};
use lease_core::tool::{self, Status};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Args = match tool::parse(TOOL) {
        Ok(args) => args,
        Err(code) => return code,
    };
    tool::run(TOOL, || {
        if let Some(job) = named::Job::of(&args)? {
            job.run(&args)?;
            return Ok(Status::Done.code());
        }
        let plan = plan::make(&args)?;
        look::at(&plan, args.force)?;
        plan.carry_out(args.mode)?;
        Ok(Status::Done.code())
    })
}
