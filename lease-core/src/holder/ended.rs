//! How it ended.

use crate::failure::Failure;

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The command and all that it started are gone; its exit code.
    Command(u8),
    /// They are gone, and the lease was lost: why.
    Lost(String),
    /// What was adopted runs on, and is guarded no more.
    LetGo,
    /// The command was never run.
    NotRun(Failure),
}
