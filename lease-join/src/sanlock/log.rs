//! The last lines that were said, for `sanlock client log_dump`.

use crate::args::TOOL;
use lease_core::tool;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Lines that are kept.
const LINES_MAX: usize = 512;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Says a line, and keeps it for those who ask for the log.
pub(super) fn say(text: &str) {
    tool::say(TOOL, text);
    keep(text);
}

fn keep(line: &str) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == LINES_MAX {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
}

/// All of them, each with a line end, and a NUL.
pub(super) fn dump() -> Vec<u8> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    text.push('\0');
    text.into_bytes()
}
