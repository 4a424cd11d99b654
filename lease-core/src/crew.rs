//! Threads for what may hang: I/O, opening, a look at a path.
//!
//! Whatever hangs holds up nothing but its own thread: each piece of work has one that waits for
//! it, or one is started. A passing crew keeps none that has nothing to do for long; a lasting one
//! has one from the start, which stays, so that work that comes one piece at a time can always be
//! done, also where no other thread is to be had.

use crate::priority;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A thread that need not stay ends when it has had nothing to do for so long.
const IDLE_MAX: Duration = Duration::from_millis(500);
/// Bytes of a thread's stack: so many that the C library keeps few of those who have ended, to be
/// used again. What they have touched would stay in memory.
const STACK: usize = 8 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// Some threads. They end when nobody has the crew any more, and all work is done.
#[derive(Debug, Clone)]
pub struct Crew(Arc<Owner>);

#[derive(Debug)]
struct Owner(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// Threads that have nothing to do, less the work that waits for them.
    idle: usize,
    /// Nobody has it any more.
    ended: bool,
}

impl Crew {
    /// Without threads, as long as there is no work.
    pub fn passing() -> Self {
        Self(Arc::new(Owner(Arc::default())))
    }

    /// With one thread that stays.
    pub fn lasting() -> io::Result<Self> {
        let crew = Self::passing();
        crew.shared().lock().idle += 1;
        crew.shared().start(None)?;
        Ok(crew)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Has it done, at once. Fails if all threads are busy, and no other is to be had.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let shared = self.shared();
        let mut state = shared.lock();
        let Some(idle) = state.idle.checked_sub(1) else {
            drop(state);
            return shared.start(Some(Box::new(work)));
        };
        state.idle = idle;
        state.waiting.push_back(Box::new(work));
        drop(state);
        shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} idle", self.lock().idle)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread: for this, or, without anything to do yet, one that stays.
    fn start(self: &Arc<Self>, first: Option<Work>) -> io::Result<()> {
        let shared = Arc::clone(self);
        let live = move || {
            priority::queue_with_others();
            shared.work(first);
        };
        std::thread::Builder::new().stack_size(STACK).spawn(live)?;
        Ok(())
    }

    /// The life of a thread.
    fn work(&self, first: Option<Work>) {
        let stays = first.is_none();
        let mut next = first.or_else(|| self.next(stays, self.lock()));
        while let Some(work) = next {
            work();
            let mut state = self.lock();
            state.idle += 1;
            next = self.next(stays, state);
        }
    }

    /// What an idle thread has to do next; `None`: it ends.
    fn next(&self, stays: bool, mut state: MutexGuard<'_, State>) -> Option<Work> {
        loop {
            if let Some(work) = state.waiting.pop_front() {
                return Some(work);
            }
            if state.ended {
                return None;
            }
            if stays {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let woken = self.changed.wait_timeout(state, IDLE_MAX);
            let (again, passed) = woken.unwrap_or_else(PoisonError::into_inner);
            state = again;
            if passed.timed_out() && state.waiting.is_empty() {
                state.idle -= 1;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn what_hangs_holds_up_nobody_and_its_thread_is_used_again() {
        for crew in [Crew::passing(), Crew::lasting().unwrap()] {
            let (go_on, hangs) = channel::<()>();
            let (tell, told) = channel();
            let of_first = tell.clone();
            crew.run(move || {
                let _ = hangs.recv();
                of_first.send("first").unwrap();
            })
            .unwrap();
            for _ in 0..3 {
                let tell = tell.clone();
                crew.run(move || tell.send("other").unwrap()).unwrap();
                assert_eq!(told.recv_timeout(SOON), Ok("other"));
            }
            drop(go_on);
            assert_eq!(told.recv_timeout(SOON), Ok("first"));
            // What was handed over is done, also when nobody has the crew any more.
            crew.run(move || tell.send("last").unwrap()).unwrap();
            drop(crew);
            assert_eq!(told.recv_timeout(SOON), Ok("last"));
        }
    }

    #[test]
    fn threads_end_that_have_nothing_to_do_but_for_one_that_stays() {
        let count = |crew: &Crew| Arc::strong_count(crew.shared()) - 1;
        for (crew, stay) in [(Crew::passing(), 0), (Crew::lasting().unwrap(), 1)] {
            let (go_on, hangs) = channel::<()>();
            let hang = move || assert!(hangs.recv().is_err());
            crew.run(hang).unwrap();
            crew.run(|| ()).unwrap();
            assert!(count(&crew) >= 1);
            drop(go_on);
            let until = std::time::Instant::now() + SOON;
            while count(&crew) != stay || crew.shared().lock().idle != stay {
                assert!(std::time::Instant::now() < until);
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
