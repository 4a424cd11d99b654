//! What the four tools share: exit codes, one-line messages, the way out of `main`.
//!
//! A message is one line: tool, what it tried, on what, why not, what to do next. The sanlock
//! error number, where there is one, stands in brackets at its end.

use crate::device::OpenError;
use crate::disk::Fault;
use crate::id::escape;
use crate::voice;
pub use crate::voice::speak_aside;
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

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

    /// A path that could not be opened: `cannot open PATH: why`.
    pub fn of_open(path: &Path, error: &OpenError) -> Self {
        let text = format!("cannot open {}: {error}", show(path.as_os_str()));
        Self::new(Status::of_open(error), text)
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

/// Writes one line on stderr: `tool: text`. A stderr that is gone is no reason to stop.
pub fn say(tool: &str, text: impl fmt::Display) {
    voice::say(format!("{tool}: {}\n", one_line(&text.to_string())));
}

/// Runs a tool to its exit code: prints a failure in one line, turns it into its code. An error
/// that is no [`Failure`] is the tool's own.
pub fn run(tool: &str, work: impl FnOnce() -> anyhow::Result<u8>) -> ExitCode {
    let code = work().unwrap_or_else(|error| {
        say(tool, format!("{error:#}"));
        let failure = error.downcast_ref::<Failure>();
        failure.map_or(Status::Internal, |f| f.status).code()
    });
    voice::finish();
    ExitCode::from(code)
}

/// The arguments of a command line, or the exit code after help, version, or what is wrong (in
/// one line) has been printed.
pub fn parse<Args: clap::Parser>(tool: &str) -> Result<Args, ExitCode> {
    Args::try_parse().map_err(|error| {
        if !error.use_stderr() {
            let shown = error.print();
            return ExitCode::from(
                if shown.is_ok() {
                    Status::Done
                } else {
                    Status::Io
                }
                .code(),
            );
        }
        let text = error.render().to_string();
        let what = text.split("\n\n").next().unwrap_or_default();
        say(
            tool,
            format!("{} (see man {tool})", what.trim_start_matches("error: ")),
        );
        ExitCode::from(Status::Usage.code())
    })
}

/// A path, name or other bytes as they are shown in a message.
pub fn show(text: &OsStr) -> String {
    escape(text.as_bytes())
}

/// One line, whatever an argument or a record brought along: no control character reaches a
/// terminal or a log. The numbers that the standard library adds to errors of the system are
/// left out.
fn one_line(text: &str) -> String {
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let line = without_error_numbers(&line);
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        match c.is_control() {
            true => shown.push_str(&format!("\\x{:02x}", u32::from(c))),
            false => shown.push(c),
        }
    }
    shown
}

fn without_error_numbers(line: &str) -> String {
    let mut parts = line.split(" (os error ");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        shown.push_str(rest.strip_prefix(')').unwrap_or(rest));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_shown_without_its_number() {
        let error = std::io::Error::from_raw_os_error(2);
        let line = one_line(&format!("cannot open x: {error}; and {error}."));
        let expected = "cannot open x: No such file or directory; and No such file or directory.";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_message_is_one_line_that_no_terminal_acts_on() {
        assert_eq!(one_line("a\n  b\r\n"), "a b");
        assert_eq!(one_line("a\x1b[2Jb\u{9b}c"), "a\\x1b[2Jb\\x9bc");
    }

    #[test]
    fn a_failure_ends_with_sanlocks_number() {
        let failure = Failure::of_fault("cannot read x", &Fault::TimedOut(10));
        assert_eq!(failure.status, Status::Io);
        let text = "cannot read x: no answer from the storage within 10 s [-202]";
        assert_eq!(failure.to_string(), text);
    }
}
