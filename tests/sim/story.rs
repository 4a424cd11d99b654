//! A schedule as a story: one line an event, one column a machine.

use super::clock::Instant;
use std::fmt::Write;

/// What happened, when, and on which machine (none: on a disk, or to all).
#[derive(Debug, Clone)]
pub struct Line {
    /// True time.
    pub at: Instant,
    /// The machine's column.
    pub machine: Option<usize>,
    /// In words.
    pub text: String,
}

const WIDTH: usize = 44;

/// The table, with a column for each of `machines`.
pub fn tell(lines: &[Line], machines: &[String]) -> String {
    let mut text = format!("{:>12}  ", "seconds");
    for name in machines {
        let _ = write!(text, "{name:<WIDTH$}");
    }
    text.push('\n');
    for line in lines {
        let seconds = line.at as f64 / 1e9;
        let _ = write!(text, "{seconds:>12.6}  ");
        match line.machine {
            Some(machine) => {
                let _ = writeln!(text, "{}{}", " ".repeat(WIDTH * machine), line.text);
            }
            None => {
                let _ = writeln!(text, "-- {}", line.text);
            }
        }
    }
    text
}
