//! Messages on stderr by a thread of their own: whoever keeps a deadline must not wait for a
//! terminal that is stopped, a pipe that nobody reads, or a log on storage that hangs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How long a message is waited for: so it stands before all that comes after it, where stderr
/// takes it at once.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long what is left is waited for at the end of the process.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Messages that wait for stderr. Those that come then are not said.
const LINES_MAX: usize = 64;

static VOICE: OnceLock<Voice> = OnceLock::new();

/// From now on `say` waits for stderr no longer than a tenth of a second, and then only once
/// until stderr takes something again. To be called where all signals are blocked that other
/// threads wait for. Fails if there is no thread to be had.
pub fn speak_aside() -> io::Result<()> {
    let voice = Voice::start(io::stderr())?;
    // If there is one already its thread goes on, and this one ends.
    let _ = VOICE.set(voice);
    Ok(())
}

/// Writes a line. A stderr that is gone is no reason to stop.
pub(crate) fn say(line: String) {
    match VOICE.get() {
        Some(voice) => voice.say(line),
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Waits, but not for long, until all is said.
pub(crate) fn finish() {
    if let Some(voice) = VOICE.get() {
        voice.wait(LAST_PATIENCE);
    }
}

/// The thread that writes, as seen from the others.
struct Voice {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    /// One is being written.
    writing: bool,
    /// It took too long, and nothing has been written since.
    stuck: bool,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && !self.writing
    }
}

impl Voice {
    fn start(mut to: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
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
        let stuck = queue.stuck;
        drop(queue);
        if !stuck {
            self.wait(PATIENCE);
        }
    }

    fn wait(&self, patience: Duration) {
        let queue = self.shared.lock();
        let busy = |queue: &mut Queue| !queue.is_done();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(queue, patience, busy);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.stuck = !queue.is_done();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, to: &mut impl Write) {
        loop {
            let line = self.next();
            let _ = to.write_all(line.as_bytes());
            let mut queue = self.lock();
            queue.writing = false;
            queue.stuck = false;
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
    use std::time::Instant;

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
        let long = "x".repeat(1 << 20);
        let began = Instant::now();
        for number in 0..1000 {
            voice.say(format!("{number} {long}\n"));
        }
        assert!(began.elapsed() < LONG, "waits once, not a thousand times");
        reader.set_read_timeout(Some(LONG)).unwrap();
        let mut lines = io::BufRead::lines(io::BufReader::new(reader));
        let numbers = (0..=LINES_MAX).map(|_| {
            let line = lines.next().unwrap().unwrap();
            line.split(' ').next().unwrap().parse().unwrap()
        });
        let expected: Vec<usize> = (0..=LINES_MAX).collect();
        assert_eq!(numbers.collect::<Vec<usize>>(), expected);
        voice.wait(LONG);
        voice.say("heard again\n".into());
        assert_eq!(lines.next().unwrap().unwrap(), "heard again");
    }
}
