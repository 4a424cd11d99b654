//! Messages on stderr by a thread of their own: whoever keeps a deadline must not wait for a
//! terminal that is stopped, a pipe that nobody reads, or a log on storage that hangs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long messages are waited for, all together, in each [`SPAN`]: so each stands before all that
/// comes after it, where stderr takes it at once.
const PATIENCE: Duration = Duration::from_millis(100);
const SPAN: Duration = Duration::from_secs(10);
/// How long what is left is waited for at the end of the process.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Messages that wait for stderr. Those that come then are not said.
const LINES_MAX: usize = 1024;

static ASIDE: AtomicBool = AtomicBool::new(false);
static VOICE: OnceLock<Option<Voice>> = OnceLock::new();

/// From now on `say` waits for stderr no longer than a tenth of a second in any ten seconds: where
/// all signals are blocked that other threads wait for. The thread is started for the first line;
/// without one each line is written by whoever says it.
pub fn speak_aside() {
    ASIDE.store(true, Ordering::Relaxed);
}

/// Writes a line. A stderr that is gone is no reason to stop.
pub(crate) fn say(line: String) {
    let start = || Voice::start(io::stderr()).ok();
    let aside = ASIDE.load(Ordering::Relaxed);
    let voice = aside.then(|| VOICE.get_or_init(start)).into_iter();
    match voice.flatten().next() {
        Some(voice) => voice.say(line),
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Waits, but not for long, until all is said.
pub(crate) fn finish() {
    if let Some(Some(voice)) = VOICE.get() {
        voice.finish(LAST_PATIENCE);
    }
}

/// The thread that writes, as seen from the others.
struct Voice {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    lines: VecDeque<String>,
    /// One is being written.
    writing: bool,
    /// What is left of the patience of the span that began then.
    patience: Duration,
    began: Instant,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && !self.writing
    }
}

impl Voice {
    fn start(mut to: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Mutex::new(Queue {
            lines: VecDeque::new(),
            writing: false,
            patience: PATIENCE,
            began: Instant::now(),
        });
        let changed = Condvar::new();
        let shared = Arc::new(Shared { queue, changed });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("voice".into())
            .spawn(move || of_thread.write_all(&mut to))?;
        Ok(Self { shared })
    }

    fn say(&self, line: String) {
        let mut queue = self.shared.lock();
        if queue.lines.len() < LINES_MAX {
            queue.lines.push_back(line);
            self.shared.changed.notify_all();
        }
        let now = Instant::now();
        if now.duration_since(queue.began) >= SPAN {
            (queue.patience, queue.began) = (PATIENCE, now);
        }
        let patience = queue.patience;
        let mut queue = self.shared.wait(queue, patience);
        queue.patience = patience.saturating_sub(now.elapsed());
    }

    /// Until all is said.
    fn finish(&self, patience: Duration) {
        drop(self.shared.wait(self.shared.lock(), patience));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until all is said.
    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, most: Duration) -> MutexGuard<'a, Queue> {
        let busy = |queue: &mut Queue| !queue.is_done();
        let waited = self.changed.wait_timeout_while(queue, most, busy);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn write_all(&self, to: &mut impl Write) {
        loop {
            let line = self.next();
            let _ = to.write_all(line.as_bytes());
            let mut queue = self.lock();
            queue.writing = false;
            drop(queue);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> String {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.writing = true;
                return line;
            }
            let woken = self.changed.wait(queue);
            queue = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_said_is_written_when_say_returns() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        let voice = Voice::start(writer).unwrap();
        let mut buffer = [0; 16];
        for word in ["one\n", "two\n"] {
            voice.say(word.into());
            assert_eq!(reader.read(&mut buffer).unwrap(), 4);
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_the_oldest_words_are_kept() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let voice = Voice::start(writer).unwrap();
        let long = "x".repeat(1 << 13);
        let began = Instant::now();
        for number in 0..2 * LINES_MAX {
            voice.say(format!("{number} {long}\n"));
        }
        assert!(began.elapsed() < SPAN, "waits once, not each time");
        let lines = std::thread::spawn(move || {
            let lines = io::BufRead::lines(io::BufReader::new(reader));
            let lines = lines.map(Result::unwrap);
            lines.take_while(|line| line != "heard again").collect()
        });
        voice.finish(LONG);
        voice.say("heard again\n".into());
        let lines: Vec<String> = lines.join().unwrap();
        let heard: Vec<usize> = lines
            .iter()
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        let oldest: Vec<usize> = (0..heard.len()).collect();
        assert_eq!(heard, oldest);
        assert!((LINES_MAX..2 * LINES_MAX).contains(&heard.len()));
    }
}
