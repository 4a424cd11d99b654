//! JSON on stdout: a line an object, or for reading, where stdout is a terminal.

use lease_core::tool::{Failure, Status};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// Where the objects go.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    pretty: bool,
}

impl Output {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let pretty = stdout.is_terminal();
        Self {
            out: BufWriter::new(stdout),
            pretty,
        }
    }

    /// Prints one object.
    pub(crate) fn print(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        let written = if self.pretty {
            serde_json::to_writer_pretty(&mut self.out, object)
        } else {
            serde_json::to_writer(&mut self.out, object)
        };
        let ended = written
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        ended.map_err(|error| not_written(&error))
    }

    /// All is printed.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| not_written(&error))
    }
}

fn not_written(error: &io::Error) -> Failure {
    Failure::new(Status::Io, format!("cannot write to stdout: {}", error))
}
