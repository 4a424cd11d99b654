//! The command: found before anything else is done, so that a wrong name costs nothing.

use crate::args::TOOL;
use crate::fork;
use lease_core::tool::{Failure, Status, say, show};
use nix::unistd::{AccessFlags, access};
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A command that can be executed, as far as a look can tell.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The file to execute.
    pub(crate) file: CString,
    /// Its arguments, the name it was called by first.
    pub(crate) arguments: Vec<CString>,
    /// The last component of its name, for people.
    pub(crate) name: OsString,
}

impl Command {
    /// Finds the file that `words` name, by PATH if there is no slash in it.
    pub(crate) fn find(words: &[OsString]) -> Result<Self, Failure> {
        let name = words.first().cloned().unwrap_or_default();
        let file = find_file(&name)?;
        let arguments = words
            .iter()
            .map(|w| c_string(w))
            .collect::<Result<_, _>>()?;
        let base = Path::new(&name).file_name().unwrap_or(&name).to_owned();
        Ok(Self {
            file: c_string(file.as_os_str())?,
            arguments,
            name: base,
        })
    }
}

impl Command {
    /// Runs it in place of this program, and says that no lease is held.
    pub(crate) fn run_without(&self) -> anyhow::Result<u8> {
        let shown = show(&self.name);
        say(
            TOOL,
            format!("{shown} writes no disk: it runs without a lease"),
        );
        let executed =
            fork::put_back().and_then(|()| nix::unistd::execv(&self.file, &self.arguments));
        match executed {
            Err(errno) => Err(cannot(Status::CannotExecute, &self.name, errno.desc()).into()),
        }
    }
}

fn find_file(name: &OsStr) -> Result<PathBuf, Failure> {
    if name.as_bytes().contains(&b'/') {
        return check(name, PathBuf::from(name));
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut worst = cannot(
        Status::NoCommand,
        name,
        "there is no such command in PATH; give its path",
    );
    for directory in env::split_paths(&path) {
        match check(name, directory.join(name)) {
            Ok(file) => return Ok(file),
            Err(failure) if failure.status == Status::CannotExecute => worst = failure,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn check(name: &OsStr, file: PathBuf) -> Result<PathBuf, Failure> {
    if name.is_empty() || !file.exists() {
        return Err(cannot(
            Status::NoCommand,
            name,
            "there is no such file; is its path right?",
        ));
    }
    if !file.is_file() || access(&file, AccessFlags::X_OK).is_err() {
        return Err(cannot(
            Status::CannotExecute,
            name,
            "it is not an executable file; chmod +x makes it one",
        ));
    }
    Ok(file)
}

/// The failure to run a command.
pub(crate) fn cannot(status: Status, name: &OsStr, why: &str) -> Failure {
    Failure::new(status, format!("cannot run {}: {why}", show(name)))
}

fn c_string(text: &OsStr) -> Result<CString, Failure> {
    CString::new(text.as_bytes()).map_err(|_| cannot(Status::Usage, text, "it contains a NUL"))
}
