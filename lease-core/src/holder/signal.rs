//! Signals that mean something to a lease-hold itself.

use nix::libc;

/// Whether a signal ends the waiting for leases.
pub fn ends_waiting(number: i32) -> bool {
    matches!(
        number,
        libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT
    )
}

/// Whether a signal is one by which a terminal stops a job.
pub fn stops(number: i32) -> bool {
    matches!(number, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
}

/// The exit code of whoever ends by a signal.
pub fn exit_code(number: i32) -> u8 {
    128 + u8::try_from(number).unwrap_or(0)
}
