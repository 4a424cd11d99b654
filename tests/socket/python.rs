//! python3-sanlock, run against both.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::process::Process;
use support::served::{Served, Server};

/// All of it waits for a join, for two renewals and for a leave.
const LIMIT: Duration = Duration::from_secs(100);

fn start(served: &Served) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("socket/clients.py");
    // The one that Debian's packages are for.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script).arg(served.path());
    command.env("SANLOCK_RUN_DIR", served.path());
    Process::start(&mut command)
}

#[test]
fn python_is_told_what_the_daemon_tells_it() {
    let served = [Server::Daemon, Server::Ours].map(|server| Served::start(server, "HOST1"));
    let started = [start(&served[0]), start(&served[1])];
    let [daemon, ours] = started.map(|process| process.finish_within(LIMIT));
    assert_eq!(daemon.code, 0, "{daemon:?}");
    let lines = daemon.stdout.lines().zip(ours.stdout.lines());
    let differ = lines.filter(|(daemon, ours)| daemon != ours);
    let differ: Vec<_> = differ
        .map(|(daemon, ours)| format!("daemon: {daemon}\nours:   {ours}"))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert_eq!(ours, daemon);
}
