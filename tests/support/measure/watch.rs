//! How time, memory and CPU are measured.

use std::fs;
use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a command takes from its start to its end. It must succeed.
pub(crate) fn run(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    timed(|| {
        let status = command.status().expect("it starts");
        assert!(status.success(), "{command:?}: {status}");
    })
}

/// How long it takes to do something.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The median of how long something took in so many rounds.
pub(crate) fn median(rounds: usize, work: impl FnMut() -> Duration) -> Duration {
    middle(std::iter::repeat_with(work).take(rounds).collect())
}

/// The median.
pub(crate) fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// In milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Starts a command, and waits for the first byte that it writes: how long that took, and the
/// command, that goes on.
pub(crate) fn started(command: &mut Command) -> (Duration, Child) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    first_byte(&mut stdout);
    let took = start.elapsed();
    child.stdout = Some(stdout);
    (took, child)
}

/// Waits for a byte.
pub(crate) fn first_byte(stdout: &mut ChildStdout) {
    stdout.read_exact(&mut [0]).expect("a byte");
}

/// Lets a command that reads its standard input come to its end.
pub(crate) fn let_end(mut child: Child) {
    drop(child.stdin.take());
    let status = child.wait().expect("our child");
    assert!(status.success(), "{status}");
}

/// VmRSS in MiB.
pub(crate) fn resident(pid: i32) -> f64 {
    number(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0
}

/// What a process has of memory in MiB: its own, and its share of what it shares with others.
pub(crate) fn proportional(pid: i32) -> f64 {
    number(&format!("/proc/{pid}/smaps_rollup"), "Pss:") / 1024.0
}

/// The number after a label in a file of /proc.
pub(crate) fn number(file: &str, label: &str) -> f64 {
    let text = fs::read_to_string(file).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect("a number")
}

/// How long all threads of a process have run so far.
pub(crate) fn cpu(pid: i32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).expect("it runs");
        let first = text.split(' ').next().expect("a number");
        Duration::from_nanos(first.parse().expect("a number"))
    };
    threads.flatten().map(of).sum()
}
