//! What the service manager hears: that we are ready, what we do, that we live.

use lease_core::clock::Moment;
use sd_notify::NotifyState;
use std::time::Duration;

/// The talk with the service manager. Without one nothing happens.
#[derive(Debug)]
pub(crate) struct Notify {
    /// How often it wants to hear that we live.
    alive_every: Option<Duration>,
    next_alive: Moment,
    status: String,
}

impl Notify {
    /// As the environment says.
    pub(crate) fn new() -> Self {
        let alive_every = sd_notify::watchdog_enabled().map(|limit| limit / 3);
        Self {
            alive_every,
            next_alive: Moment::default(),
            status: String::new(),
        }
    }

    /// Start-up is done.
    pub(crate) fn ready(&self) {
        say(&[NotifyState::Ready]);
    }

    /// What we do, in words; only a change is told.
    pub(crate) fn status(&mut self, text: String) {
        if self.status != text {
            say(&[NotifyState::Status(&text)]);
            self.status = text;
        }
    }

    /// We live.
    pub(crate) fn alive(&mut self, now: Moment) {
        if let Some(every) = self.alive_every
            && now >= self.next_alive
        {
            say(&[NotifyState::Watchdog]);
            self.next_alive = now.after(every);
        }
    }
}

fn say(what: &[NotifyState<'_>]) {
    // A service manager that does not listen changes nothing.
    let _ = sd_notify::notify(what);
}
