//! What else a disk carries: a file system, a partition table, a volume, a member of an array,
//! swap. Its users would write over a lease, wherever it lies between their data.
//!
//! libblkid knows all of these; wipefs(8) of util-linux, told to do nothing, says what it finds at
//! the beginning and at the end. Where that cannot be asked nothing is taken for granted.

use crate::plan::cannot;
use lease_core::tool::{Failure, Status, show};
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long wipefs may take: a disk that answers does so at once.
const LIMIT: Duration = Duration::from_secs(30);

/// Fails if the disk at `path`, on which `text` asks for an area, carries anything of these.
pub(crate) fn refuse(path: &Path, text: &str) -> Result<(), Failure> {
    let shown = show(path.as_os_str());
    let unknown = |why: String| {
        let why = format!(
            "whether {shown} carries a file system or the like cannot be told: {why}; --force \
             formats without asking"
        );
        cannot(Status::System, text, why)
    };
    let output = ask(path).map_err(unknown)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(unknown(said.trim().to_owned()));
    }
    let found = found(&String::from_utf8_lossy(&output.stdout));
    if found.is_empty() {
        return Ok(());
    }
    let why = format!(
        "{shown} carries {}, whose users and the lease would destroy each other; choose another \
         disk or, if nothing needs that any more, remove it (wipefs --all) or give --force",
        found.join(", ")
    );
    Err(cannot(Status::CannotCreate, text, why))
}

/// Runs wipefs, which root and others may not have in their search path.
fn ask(path: &Path) -> Result<Output, String> {
    let mut search = env::var_os("PATH").unwrap_or_default();
    search.push(OsString::from(":/usr/sbin:/sbin"));
    let mut command = Command::new("wipefs");
    command
        .args(["--no-act", "--noheadings", "--output", "TYPE,OFFSET", "--"])
        .arg(path)
        .env("PATH", search)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command
        .spawn()
        .map_err(|why| format!("wipefs (util-linux) cannot be run: {why}"))?;
    let (tell, told) = channel();
    // Where the disk hangs this thread does too, and ends with the process.
    let wait = move || drop(tell.send(child.wait_with_output()));
    let started = std::thread::Builder::new().spawn(wait);
    started.map_err(|why| format!("no thread: {why}"))?;
    let output = told.recv_timeout(LIMIT).map_err(|_| {
        let seconds = LIMIT.as_secs();
        format!("wipefs got no answer from it within {seconds} s")
    })?;
    output.map_err(|why| format!("wipefs: {why}"))
}

/// `TYPE OFFSET` a line, as wipefs prints it: what is there, and where. Each kind once.
fn found(lines: &str) -> Vec<String> {
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    for line in lines.lines() {
        let mut words = line.split_whitespace();
        let (Some(kind), offset) = (words.next(), words.next().unwrap_or_default()) else {
            continue;
        };
        let offset = offset.strip_prefix("0x").unwrap_or_default();
        if kinds.iter().all(|(known, _)| *known != kind) {
            kinds.push((kind, u64::from_str_radix(offset, 16).unwrap_or_default()));
        }
    }
    let say = |(kind, offset): (&str, u64)| format!("{} (at byte {offset})", name(kind));
    kinds.into_iter().map(say).collect()
}

/// What people call it.
fn name(kind: &str) -> String {
    match kind {
        "gpt" | "dos" | "PMBR" => format!("a partition table ({kind})"),
        "LVM2_member" => "a physical volume of LVM".to_owned(),
        "linux_raid_member" => "a member of a RAID".to_owned(),
        "swap" => "swap space".to_owned(),
        "crypto_LUKS" => "an encrypted volume (LUKS)".to_owned(),
        file_system => format!("{file_system} data"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_named_once_with_its_first_place() {
        let lines = "ext4  0x438\ngpt 0x200\ngpt 0x1ffffe00\nPMBR  0x1fe\nlinux_raid_member 0x10\n";
        assert_eq!(
            found(lines),
            [
                "ext4 data (at byte 1080)",
                "a partition table (gpt) (at byte 512)",
                "a partition table (PMBR) (at byte 510)",
                "a member of a RAID (at byte 16)",
            ]
        );
        assert_eq!(found(""), [""; 0]);
    }
}
