//! What the service manager hears: that we are ready, what we do, that we live. By a thread of its
//! own: one that does not listen delays nobody.

use lease_core::clock::Moment;
use sd_notify::NotifyState;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// What may wait to be told. What comes then is not told.
const WAITING_MAX: usize = 8;

/// The talk with the service manager. Without one nothing happens.
#[derive(Debug)]
pub(crate) struct Notify {
    words: SyncSender<Word>,
    /// How often it wants to hear that we live.
    alive_every: Option<Duration>,
    next_alive: Moment,
    status: String,
}

#[derive(Debug)]
enum Word {
    Ready,
    Status(String),
    Alive,
}

impl Notify {
    /// As the environment says.
    pub(crate) fn new() -> io::Result<Self> {
        let (words, inbox) = sync_channel::<Word>(WAITING_MAX);
        let tell = move || inbox.iter().for_each(|word| word.tell());
        std::thread::Builder::new().spawn(tell)?;
        Ok(Self {
            words,
            alive_every: sd_notify::watchdog_enabled().map(|limit| limit / 3),
            next_alive: Moment::default(),
            status: String::new(),
        })
    }

    /// Start-up is done.
    pub(crate) fn ready(&mut self) {
        self.say(Word::Ready);
    }

    /// What we do, in words; only a change is told.
    pub(crate) fn status(&mut self, text: String) {
        if self.status != text && self.say(Word::Status(text.clone())) {
            self.status = text;
        }
    }

    /// We live.
    pub(crate) fn alive(&mut self, now: Moment) {
        if let Some(every) = self.alive_every
            && now >= self.next_alive
        {
            self.say(Word::Alive);
            self.next_alive = now.after(every);
        }
    }

    fn say(&self, word: Word) -> bool {
        self.words.try_send(word).is_ok()
    }
}

impl Word {
    fn tell(&self) {
        let state = match self {
            Self::Ready => NotifyState::Ready,
            Self::Status(text) => NotifyState::Status(text),
            Self::Alive => NotifyState::Watchdog,
        };
        // A service manager that does not listen changes nothing.
        let _ = sd_notify::notify(&[state]);
    }
}
