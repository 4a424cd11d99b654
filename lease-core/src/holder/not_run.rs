//! Why a command is not run, or a process not guarded.

use super::ended::Ended;
use super::hub::{Ending, Hub};
use super::signal;
use crate::failure::{Failure, Status};

/// Why a lease is lost, if nobody has said more.
pub(super) const NO_RENEWAL: &str = "no renewal in time";

/// The lease was lost while the command stood at its gate.
pub(super) fn too_late<A>(hub: &Hub<A>, why: &str) -> Failure {
    let why = format!("the lease was lost before it was started: {why}");
    cannot_run(hub, Status::Lost, &why)
}

/// Something else came while the command stood at its gate.
pub(super) fn not_started<A>(hub: &Hub<A>) -> Ended {
    Ended::NotRun(match &hub.ending {
        Some(Ending::Signal(number)) => return Ended::Command(signal::exit_code(*number)),
        Some(Ending::Lost(why)) => too_late(hub, why),
        Some(Ending::Gone) => cannot_run(hub, Status::NoPath, "it has ended"),
        _ => {
            let why = "lease-join is leaving the lockspace; start it again first";
            cannot_run(hub, Status::NotJoined, why)
        }
    })
}

pub(super) fn cannot_run<A>(hub: &Hub<A>, status: Status, why: &str) -> Failure {
    Failure::new(status, format!("cannot run {}: {why}", hub.command))
}
