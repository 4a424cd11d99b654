//! A command that stamps that it runs: a line every few milliseconds, from itself and from a child
//! in a session of its own, for as long as it is told to.
//!
//! usage: witness NAME JOURNAL DISK OFFSET MILLISECONDS
//!
//! A line is `NAME LVER WHO NANOSECONDS`: lver as the leader at OFFSET of DISK says, the time of
//! CLOCK_BOOTTIME. The journal is appended to, one line a write, and all lines have one length:
//! none crosses a page, where a write can be seen in part, or ended by a kill.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use lease_core::clock::BootClock;
use lease_core::record::leader::Leader;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

/// Bytes of a line: a part of a page.
const LINE: usize = 128;
/// Between two lines.
const EVERY: Duration = Duration::from_millis(3);
/// Set for the child: the lver.
const CHILD: &str = "WITNESS_LVER";

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let [name, journal, disk, offset, milliseconds] = args.as_slice() else {
        panic!("usage: witness NAME JOURNAL DISK OFFSET MILLISECONDS");
    };
    let until = Duration::from_millis(milliseconds.parse().expect("a number"));
    let journal = OpenOptions::new().append(true).create(true).open(journal);
    let journal = journal.expect("the journal");
    if let Ok(lver) = env::var(CHILD) {
        nix::unistd::setsid().expect("a session");
        return stamp(&journal, &format!("{name} {lver} child"), until);
    }
    let lver = lver(disk, offset.parse().expect("an offset"));
    let mut child = Command::new(env::current_exe().expect("this program"));
    child.args(&args).env(CHILD, lver.to_string());
    let mut child = child.spawn().expect("the child starts");
    stamp(&journal, &format!("{name} {lver} itself"), until);
    child.wait().expect("the child ends");
}

fn stamp(mut journal: &File, who: &str, duration: Duration) {
    let end = BootClock::boot_time().after(duration);
    loop {
        let now = BootClock::boot_time();
        let text = format!("{who} {}", now.0);
        let line = format!("{text:<width$}\n", width = LINE - 1);
        assert_eq!(line.len(), LINE, "{line:?}");
        journal
            .write_all(line.as_bytes())
            .expect("a line is written");
        if now > end {
            return;
        }
        std::thread::sleep(EVERY);
    }
}

fn lver(disk: &str, offset: u64) -> u64 {
    let mut sector = [0; 512];
    let disk = File::open(disk).expect("the disk");
    disk.read_exact_at(&mut sector, offset).expect("the leader");
    Leader::decode(&sector).expect("a leader record").lver().0
}
