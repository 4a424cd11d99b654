//! Why a tool ends without having done what it was asked to: exit codes and one-line messages.
//!
//! A message is one line: what was tried, on what, why not, what to do next. The sanlock error
//! number, where there is one, stands in brackets at its end.

use crate::disk::Fault;
use crate::id::escape;
use crate::storage::OpenError;
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Exit codes, the same in all four tools. After `sysexits.h` where that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// All went well.
    Done = 0,
    /// Wrong usage: options, operands, strings.
    Usage = 64,
    /// What is on the disk is not valid, or not what was named.
    Invalid = 65,
    /// No such file or device.
    NoPath = 66,
    /// No live lease-join for the lockspace.
    NotJoined = 69,
    /// An error of the tool itself.
    Internal = 70,
    /// A system call failed.
    System = 71,
    /// A file could not be created.
    CannotCreate = 73,
    /// The storage failed or did not answer in time.
    Io = 74,
    /// Held by another, or not had in time.
    Busy = 75,
    /// No permission.
    Permission = 77,
    /// The configuration does not allow it.
    Refused = 78,
    /// The lease was lost and the command was killed.
    Lost = 124,
    /// The command could not be executed.
    CannotExecute = 126,
    /// There is no such command.
    NoCommand = 127,
}

impl Status {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// For a path that cannot be used as a disk.
    pub fn of_open(error: &OpenError) -> Self {
        match error {
            OpenError::Kind(_) => Self::NoPath,
            OpenError::NoDirectIo => Self::System,
            OpenError::Permission(_) => Self::Permission,
            OpenError::TimedOut(_) => Self::Io,
            OpenError::System(errno) => Self::of_errno(*errno),
        }
    }

    /// For an I/O that failed.
    pub fn of_fault(fault: &Fault) -> Self {
        match fault {
            Fault::Unfit(_) => Self::Invalid,
            Fault::Refused(_) => Self::Permission,
            Fault::Failed(_) | Fault::TimedOut(_) | Fault::Outstanding | Fault::Unsure => Self::Io,
        }
    }

    /// For a system call on a path.
    pub fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG => Self::NoPath,
            Errno::ENXIO | Errno::ENODEV | Errno::ENOMEDIUM | Errno::ESTALE => Self::NoPath,
            Errno::EACCES | Errno::EPERM | Errno::EROFS => Self::Permission,
            Errno::EIO | Errno::ENOSPC | Errno::EDQUOT => Self::Io,
            _ => Self::System,
        }
    }
}

/// Why a tool ends without having done what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its exit code.
    pub status: Status,
    /// One line without the tool's name.
    pub text: String,
    /// What sanlock calls it.
    pub sanlock: Option<i32>,
}

impl Failure {
    /// A failure with its line.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            sanlock: None,
        }
    }

    /// The path of a resource that is given by name could not be opened. Of a path with colons in
    /// it that is only the end.
    pub fn of_open_by_name(tried: impl fmt::Display, path: &Path, error: &OpenError) -> Self {
        let status = Status::of_open(error);
        let hint = match status {
            Status::NoPath => "; a colon in a path is written \\:",
            _ => "",
        };
        let shown = show(path.as_os_str());
        Self::new(status, format!("{tried}: {shown}: {error}{hint}"))
    }

    /// The storage failed: what was tried, and how it ended.
    pub fn of_fault(tried: impl fmt::Display, fault: &Fault) -> Self {
        let failure = Self::new(Status::of_fault(fault), format!("{tried}: {fault}"));
        match fault {
            Fault::TimedOut(_) => failure.numbered(-202),
            _ => failure,
        }
    }

    /// The same with sanlock's number for it.
    pub fn numbered(self, sanlock: i32) -> Self {
        Self {
            sanlock: Some(sanlock),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.sanlock {
            Some(number) => write!(f, " [{number}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// A path, name or other bytes as they are shown in a message.
pub fn show(text: &OsStr) -> String {
    escape(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_ends_with_sanlocks_number() {
        let failure = Failure::of_fault("cannot read x", &Fault::TimedOut(10));
        assert_eq!(failure.status, Status::Io);
        let text = "cannot read x: no answer from the storage within 10 s [-202]";
        assert_eq!(failure.to_string(), text);
    }
}
