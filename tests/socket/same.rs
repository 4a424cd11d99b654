//! `sanlock client`, run against both: the same words in the same situation, but for paths, process
//! ids and times.

use std::path::Path;
use support::files::Ran;
use support::process::{SOON, wait_until};
use support::served::{Served, Server};

/// Two hosts that do the same.
struct Pair([Served; 2]);

impl Pair {
    fn new() -> Self {
        let pair =
            Self([Server::Daemon, Server::Ours].map(|server| Served::start(server, "HOST1")));
        for served in &pair.0 {
            for (name, mebibytes) in [("ls", 1), ("res", 8), ("idx", 16)] {
                let file = std::fs::File::create(served.path().join(name)).unwrap();
                file.set_len(mebibytes << 20).unwrap();
            }
        }
        pair
    }

    /// Runs a command on each; `%` stands for a directory of its own.
    fn run(&self, line: &str) -> [Ran; 2] {
        let run = |served: &Served| {
            let dir = served.path().display().to_string();
            let args: Vec<String> = line.split(' ').map(|arg| arg.replace('%', &dir)).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            masked(served.client(&args), served.path())
        };
        let [daemon, ours] = &self.0;
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| run(ours));
            [run(daemon), beside.join().unwrap()]
        })
    }

    /// What differs, of all these commands one after another.
    fn differences(&self, lines: &[&str]) -> Vec<String> {
        let differs = |line: &&str| {
            let [daemon, ours] = self.run(line);
            (ours != daemon).then(|| format!("sanlock client {line}: {ours:?}, daemon: {daemon:?}"))
        };
        lines.iter().filter_map(differs).collect()
    }

    fn same(&self, lines: &[&str]) {
        let found = self.differences(lines);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// Without what differs from one run to another: the directory, and times.
fn masked(ran: Ran, dir: &Path) -> Ran {
    let text = ran.stdout.replace(&dir.display().to_string(), "%");
    let words = text.split_inclusive([' ', '\n']);
    let mut masked = String::new();
    let mut before = "";
    for word in words {
        let bare = word.trim_end();
        let end = &word[bare.len()..];
        let is_time = before == "timestamp";
        match bare.split_once('=') {
            _ if is_time => masked.push_str("TIME"),
            Some((key, _)) if TIMES.contains(&key) => masked.push_str(&format!("{key}=TIME")),
            _ => masked.push_str(bare),
        }
        masked.push_str(end);
        before = bare;
    }
    Ran {
        stdout: masked,
        ..ran
    }
}

const TIMES: [&str; 3] = ["timestamp", "read_ms", "write_ms"];

/// Before anything is joined.
const BEFORE: [&str; 24] = [
    "version",
    "status",
    "gets -h 1",
    "host_status",
    "host_status -s LS",
    "renewal -s LS",
    "init -s LS:0:%/ls:0 -o 1",
    "init -s LS:0:%/missing:0",
    "init -s LS:0:%:0",
    "init -r LS:RA:%/res:0",
    "init -r LS:RB:%/res:1048576",
    "init -r LS:RC:%/missing:0",
    "read -s LS:0:%/ls:0",
    "read -s LS:2:%/ls:0",
    "read -s XX:1:%/ls:0",
    "read -s LS:1:%/res:0",
    "read -r LS:RA:%/res:0",
    "read -r LS:XX:%/res:0",
    "read -r XX:RA:%/res:0",
    "read -r LS:RA:%/missing:0",
    "align -s %/ls",
    "inq_lockspace -s LS:1:%/ls:0",
    "rem_lockspace -s LS:1:%/ls:0",
    "add_lockspace -s LS:1:%/missing:0",
];

/// Attempts that come to nothing.
const REFUSED: [&str; 4] = [
    "add_lockspace -s LS:1:%/idx:0 -o 1",
    "add_lockspace -s XX:1:%/ls:0 -o 1",
    "add_lockspace -s LS:0:%/ls:0 -o 1",
    "add_lockspace -s LS:2001:%/ls:0 -o 1",
];

/// While host 1 is joined.
const JOINED: [&str; 24] = [
    "add_lockspace -s LS:1:%/ls:0 -o 1",
    "add_lockspace -s LS:1:%/ls:0 -o 1",
    "add_lockspace -s LS:2:%/ls:0 -o 1",
    "inq_lockspace -s LS:1:%/ls:0",
    "inq_lockspace -s LS:2:%/ls:0",
    "inq_lockspace -s LS:1:%/res:0",
    "status",
    "status -o s",
    "status -o p",
    "format -x LS:%/idx:0",
    "format -x LS:%/missing:0",
    "lookup -x LS:%/idx:0",
    "create -x LS:%/idx:0 -e RX",
    "create -x LS:%/idx:0 -e RY",
    "create -x LS:%/res:0 -e RX",
    "lookup -x LS:%/idx:0 -e RX",
    "lookup -x LS:%/idx:0 -e RY",
    "lookup -x LS:%/idx:0 -e RZ",
    "delete -x LS:%/idx:0 -e RX",
    "delete -x LS:%/idx:0 -e RX",
    "lookup -x LS:%/idx:0",
    "rebuild -x LS:%/idx:0",
    "lookup -x LS:%/idx:0 -e RY",
    "read -r LS:RY:%/idx:3145728",
];

/// After that.
const AFTER: [&str; 4] = [
    "rem_lockspace -s LS:1:%/ls:0",
    "rem_lockspace -s LS:1:%/ls:0",
    "status",
    "shutdown",
];

#[test]
fn sanlock_client_prints_what_it_prints_where_the_daemon_serves_it() {
    let pair = Pair::new();
    pair.same(&BEFORE);
    pair.same(&REFUSED);
    pair.same(&JOINED);
    // The daemon has to look at its hosts twice first.
    wait_until("both have seen their hosts", SOON, || {
        let seen = pair.run("gets -h 1");
        let live = seen.iter().all(|ran| ran.stdout.contains("LIVE"));
        live.then_some(())
    });
    pair.same(&["gets -h 1", "host_status", "host_status -s LS"]);
    let renewals = pair.run("renewal -s LS");
    let first = renewals.map(|ran| ran.stdout.lines().next().map(str::to_owned));
    assert_eq!(first[0], first[1]);
    pair.same(&AFTER);
    for served in &pair.0 {
        assert_eq!(served.process.finish().code, 0);
    }
}
