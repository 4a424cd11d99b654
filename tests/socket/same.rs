//! `sanlock client`, run against both: the same words in the same situation, but for paths, process
//! ids and times.

use support::files::Ran;
use support::process::{Process, SOON, wait_until};
use support::served::{Served, Server};

/// Two hosts that do the same.
struct Pair {
    hosts: [Served; 2],
    /// On each, a process that has registered.
    registered: Option<[Process; 2]>,
}

impl Pair {
    fn new() -> Self {
        let hosts = [Server::Daemon, Server::Ours].map(|server| Served::start(server, "HOST1"));
        let pair = Self {
            hosts,
            registered: None,
        };
        for served in &pair.hosts {
            for (name, mebibytes) in [("ls", 1), ("res", 8), ("idx", 16)] {
                let file = std::fs::File::create(served.path().join(name)).unwrap();
                file.set_len(mebibytes << 20).unwrap();
            }
        }
        pair
    }

    /// Registers a process on each.
    fn register(&mut self) {
        let start = |served: &Served| {
            let mut command = served.command(&["command", "-c", "/bin/sleep", "300"]);
            Process::start(&mut command)
        };
        let started = [start(&self.hosts[0]), start(&self.hosts[1])];
        for (served, process) in self.hosts.iter().zip(&started) {
            let line = format!("p {} ", process.pid());
            wait_until("the process is registered", SOON, || {
                let status = served.client(&["status"]).stdout;
                status.contains(&line).then_some(())
            });
        }
        self.registered = Some(started);
    }

    /// Runs a command on each; `%` stands for a directory of its own, `@` for the process that has
    /// registered there.
    fn run(&self, line: &str) -> [Ran; 2] {
        let run = |host: usize| {
            let dir = self.hosts[host].path().display().to_string();
            let registered = self.registered.as_ref().map(|it| it[host].pid());
            let pid = registered.map_or_else(String::new, |pid| pid.to_string());
            let put = |arg: &str| arg.replace('%', &dir).replace('@', &pid);
            let args: Vec<String> = line.split(' ').map(put).collect();
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            masked(self.hosts[host].client(&args), &dir, &pid)
        };
        let run = &run;
        std::thread::scope(|scope| {
            let beside = scope.spawn(move || run(1));
            [run(0), beside.join().unwrap()]
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

/// Without what differs from one run to another: the directory, the process, and times.
fn masked(ran: Ran, dir: &str, pid: &str) -> Ran {
    let text = ran.stdout.replace(dir, "%");
    let words = text.split_inclusive([' ', '\n']);
    let mut masked = String::new();
    let mut before = "";
    for word in words {
        let bare = word.trim_end();
        let end = &word[bare.len()..];
        let is_time = before == "timestamp";
        match bare.split_once('=') {
            _ if is_time => masked.push_str("TIME"),
            _ if !pid.is_empty() && bare == pid => masked.push('@'),
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
    for served in &pair.hosts {
        assert_eq!(served.process.finish().code, 0);
    }
}

/// What a registered process gets, holds and gives back.
const HELD: [&str; 33] = [
    "inquire -p @",
    "inquire -p 1",
    "acquire -r LS:RA:%/res:0 -p 1",
    "acquire -r LS:RA:%/res:0 -p @",
    "acquire -r LS:RA:%/res:0 -p @",
    "acquire -r LS:RA:%/res:0:SH -p @",
    "acquire -r XX:RA:%/res:0 -p @",
    "acquire -r LS:RB:%/res:2097152 -p @",
    "acquire -r LS:RB:%/res:0 -p @",
    "acquire -r LS:RB:%/missing:0 -p @",
    "acquire -r LS:RB:%/res:83886080 -p @",
    "acquire -r LS:RB:%/res:1048576:5 -p @",
    "acquire -r LS:RB:%/res:1048576:SH -p @",
    "acquire -r LS:RC:%/res:2097152 -r LS:RD:%/res:3145728 -p @",
    "inquire -p @",
    "status",
    "status -o p",
    "status -o s",
    "read -r LS:RA:%/res:0",
    "acquire -r LS:RE:%/res:4194304 -r LS:RA:%/res:0 -p @",
    "inquire -p @",
    "release -r LS:RE:%/res:4194304 -p @",
    "release -r LS:RC:%/res:2097152 -p @",
    "release -r LS:RC:%/res:2097152 -p @",
    "release -r LS:RC:%/res:2097152 -r LS:RD:%/res:3145728 -p @",
    "inquire -p @",
    "release -r LS:RB:%/res:1048576 -p 1",
    "release -r LS:RB:%/res:1048576 -p @",
    "status",
    "acquire -r LS:RB:%/res:1048576:2 -p @",
    "read -r LS:RB:%/res:1048576",
    "inquire -p @",
    "shutdown",
];

#[test]
fn leases_are_had_and_given_back_in_the_daemons_words() {
    let mut pair = Pair::new();
    let formatted: Vec<String> = "ABCDE"
        .chars()
        .zip(0..)
        .map(|(name, area)| format!("init -r LS:R{name}:%/res:{}", area << 20))
        .collect();
    pair.same(&["init -s LS:0:%/ls:0 -o 1"]);
    pair.same(&formatted.iter().map(String::as_str).collect::<Vec<_>>());
    pair.same(&["add_lockspace -s LS:1:%/ls:0 -o 1"]);
    pair.register();
    pair.same(&HELD);
    // All that holds a lease is killed.
    pair.same(&["rem_lockspace -s LS:1:%/ls:0"]);
    for process in pair.registered.iter().flatten() {
        assert_eq!(process.finish().code, 137);
    }
    pair.same(&["status"]);
}
