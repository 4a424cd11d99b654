//! Four hosts want one lease for a minute: two with the real sanlock daemon, two of ours. What each
//! runs under it stamps a journal; no two may ever have run at once.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::hosts::Host;
use support::process::{Process, now};
use support::sanlock::Daemon;
use support::storage::Storage;

const CONTEND_FOR: Duration = Duration::from_secs(60);
/// How long each holds it, in milliseconds.
const HOLD: &str = "80";
/// After having had it, a host lets the others try.
const REST: Duration = Duration::from_millis(400);
/// Between two tries of a host that is refused at once.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How often each has to win.
const WINS: usize = 10;

/// The witness with its arguments.
fn witness(name: &str, storage: &Storage, journal: &Path) -> Vec<String> {
    let disk = storage.file();
    let words = [
        env!("CARGO_BIN_EXE_witness"),
        name,
        journal.to_str().unwrap(),
        disk.to_str().unwrap(),
        &storage.offset(1).to_string(),
        HOLD,
    ];
    words.map(str::to_owned).into()
}

/// Runs `attempt` again and again until the time is over. It says whether it has had the lease.
fn contend(over: &AtomicBool, mut attempt: impl FnMut() -> bool) {
    while !over.load(Ordering::SeqCst) {
        let pause = if attempt() { REST } else { TRY_AGAIN };
        std::thread::sleep(pause);
    }
}

fn contend_as_daemon(daemon: &Daemon, resource: &str, command: &[String], over: &AtomicBool) {
    let mut args = vec!["command", "-r", resource, "-c"];
    args.extend(command.iter().map(String::as_str));
    contend(over, || match daemon.client(&args) {
        ran if ran.code == 0 => true,
        // Held by another host; by this one, which is still releasing; lost a ballot.
        ran => {
            let refusals = [
                "done -243",
                "done -17",
                "done -11",
                "done -244",
                "done -245",
            ];
            let known = refusals.iter().any(|line| ran.stdout.contains(line));
            assert!(known, "{ran:?}");
            false
        }
    });
}

fn contend_as_ours(host: &Host, resource: &str, command: &[String], over: &AtomicBool) {
    contend(over, || {
        let mut command = host.hold_command(&["-w", "3", resource], command);
        let ran = Process::start(&mut command).finish();
        assert!([0, 75].contains(&ran.code), "{ran:?}");
        ran.code == 0
    });
}

/// One time that a host had the lease, as its journal lines show it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    name: String,
    lver: u64,
    first: u64,
    last: u64,
    /// Lines by the command itself and by its child.
    lines: [usize; 2],
}

/// The terms in the order of time.
fn terms(journal: &str) -> Vec<Term> {
    let mut terms: BTreeMap<(u64, String), Term> = BTreeMap::new();
    for line in journal.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, lver, who, time] = words.as_slice() else {
            panic!("{line:?}");
        };
        let (lver, time) = (lver.parse().unwrap(), time.parse().unwrap());
        let term = terms.entry((lver, (*name).to_owned())).or_insert(Term {
            name: (*name).to_owned(),
            lver,
            first: time,
            last: time,
            lines: [0, 0],
        });
        term.first = term.first.min(time);
        term.last = term.last.max(time);
        term.lines[usize::from(*who == "child")] += 1;
    }
    let mut terms: Vec<Term> = terms.into_values().collect();
    terms.sort_by_key(|term| term.first);
    terms
}

/// Two that overlap, or come in another order than their lvers.
fn clash(terms: &[Term]) -> Option<(&Term, &Term)> {
    let pairs = terms.windows(2).map(|pair| (&pair[0], &pair[1]));
    let mut clashes = pairs.filter(|(one, next)| next.first <= one.last || next.lver <= one.lver);
    clashes.next()
}

#[test]
fn no_two_of_four_hosts_ever_run_at_once_and_each_gets_its_share() {
    let storage = Storage::new(1);
    let resource = storage.resource(1);
    let journal: PathBuf = storage.path().join("journal");
    let (daemons, ours) = std::thread::scope(|scope| {
        let daemons = [1, 2].map(|id| {
            scope.spawn({
                let storage = &storage;
                move || Daemon::joined(storage, id)
            })
        });
        let ours = [3, 4].map(|id| Host::joined(&storage, id));
        (daemons.map(|daemon| daemon.join().unwrap()), ours)
    });

    let over = AtomicBool::new(false);
    let began = now();
    std::thread::scope(|scope| {
        for (daemon, name) in daemons.iter().zip(["daemon1", "daemon2"]) {
            let command = witness(name, &storage, &journal);
            let (resource, over) = (&resource, &over);
            scope.spawn(move || contend_as_daemon(daemon, resource, &command, over));
        }
        for ((host, _), name) in ours.iter().zip(["ours3", "ours4"]) {
            let command = witness(name, &storage, &journal);
            let (resource, over) = (&resource, &over);
            scope.spawn(move || contend_as_ours(host, resource, &command, over));
        }
        std::thread::sleep(CONTEND_FOR);
        over.store(true, Ordering::SeqCst);
    });

    let terms = terms(&std::fs::read_to_string(&journal).unwrap());
    assert_eq!(clash(&terms), None);
    assert!(
        terms
            .iter()
            .all(|term| term.lines.iter().all(|lines| *lines > 1))
    );
    assert!(terms.iter().all(|term| term.first > began.0));
    let mut wins: BTreeMap<&str, usize> = BTreeMap::new();
    terms
        .iter()
        .for_each(|term| *wins.entry(&term.name).or_default() += 1);
    assert_eq!(wins.len(), 4, "{wins:?}");
    assert!(wins.values().all(|count| *count >= WINS), "{wins:?}");
}

#[test]
fn the_checker_sees_what_it_looks_for() {
    let term = |lver, first, last| Term {
        name: "a".to_owned(),
        lver,
        first,
        last,
        lines: [1, 1],
    };
    let table = [
        (
            "one after the other",
            [term(1, 10, 20), term(2, 21, 30)],
            true,
        ),
        (
            "at the same time",
            [term(1, 10, 20), term(2, 20, 30)],
            false,
        ),
        (
            "one within the other",
            [term(1, 10, 40), term(2, 20, 30)],
            false,
        ),
        ("an lver twice", [term(1, 10, 20), term(1, 21, 30)], false),
        (
            "an lver that goes back",
            [term(2, 10, 20), term(1, 21, 30)],
            false,
        ),
    ];
    for (story, terms, fine) in table {
        assert_eq!(clash(&terms).is_none(), fine, "{story}");
    }
    let journal = "b 2 itself 30\na 1 itself 10\na 1 child 12\n";
    let found = terms(journal);
    assert_eq!([found[0].lines, found[1].lines], [[1, 1], [1, 0]]);
    assert_eq!((found[0].first, found[0].last), (10, 12));
}

#[test]
fn the_witness_stamps_from_itself_and_from_a_session_of_its_own() {
    let storage = Storage::new(1);
    let journal = storage.path().join("journal");
    let words = witness("w", &storage, &journal);
    assert_eq!(
        Process::start(Command::new(&words[0]).args(&words[1..]))
            .finish()
            .code,
        0
    );
    let terms = terms(&std::fs::read_to_string(&journal).unwrap());
    let [term] = terms.as_slice() else {
        panic!("{terms:?}");
    };
    assert_eq!((term.name.as_str(), term.lver), ("w", 0));
    assert!(term.lines.iter().all(|lines| *lines > 3), "{term:?}");
}
