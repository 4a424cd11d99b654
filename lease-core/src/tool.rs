//! What the four tools share: one-line messages on stderr, the way out of `main`.

pub use crate::failure::{Failure, Status, show};
use crate::voice;
pub use crate::voice::speak_aside;
use clap::{Arg, ArgAction};
use std::fmt;
use std::process::ExitCode;

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
/// one line) has been printed. Help is one screen, however it is asked for: the page says more.
pub fn parse<Args: clap::Parser>(tool: &str) -> Result<Args, ExitCode> {
    let help = Arg::new("help").short('h').long("help");
    let help = help.help("Print help").action(ArgAction::HelpShort);
    let command = Args::command().disable_help_flag(true).arg(help);
    let matches = command.try_get_matches();
    let parsed = matches.and_then(|matches| Args::from_arg_matches(&matches));
    parsed.map_err(|error| {
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
}
