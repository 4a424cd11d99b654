//! A watchdog device: it resets this host unless it is petted, and it is petted only while
//! nothing can go wrong by waiting longer.
//!
//! All lockspaces of this host share the device, each by a lease-join of its own. One of those has
//! it open. It pets it for all, and only while none of them guards anything whose time is over:
//! each publishes, as its share, until when the device may be petted as far as it is concerned. A
//! share outlives its process; so nobody has to live, or to answer, for the host to be reset in
//! time. When whoever has the device open ends, the next takes it over, if it may be petted.
//!
//! The device's time is the least W less a margin, and petting stops at 8t after the last renewal
//! less the same margin: so the host is reset before 8t + W, whoever is stopped, hung or dead. It
//! is disarmed when nothing is guarded any more and the host id is given back or lost, unless
//! another lockspace needs it; a crash of lease-join, its end by SIGUSR1, or what cannot be proven
//! gone leaves it armed, and the share as it is.
//!
//! Opening a device arms it, and starts its time anew. So what can be known is asked before that,
//! of sysfs; none is opened that may not be petted; and a device that is refused after all is
//! disarmed, unless it was found armed: then it guards what an earlier process has left, and stays
//! as it was.

use crate::clock::{Clock, Moment};
use crate::failure::{Failure, Status};
use crate::surroundings::Surroundings;
use crate::timing::Timing;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The device can have its time set (linux/watchdog.h).
const OPTION_SET_TIMEOUT: u32 = 0x80;
/// The device can be disarmed by a magic character before it is closed.
const OPTION_MAGIC_CLOSE: u32 = 0x100;
/// Until when a device may be petted for a lockspace that guards nothing.
const FOR_EVER: Moment = Moment(u64::MAX);
/// How long whoever has the device open is waited for, until it knows of a new share. It looks
/// every second.
const COVERED_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is asked of a device.
pub trait Device: std::fmt::Debug {
    /// What it can do: the option bits of linux/watchdog.h.
    fn options(&mut self) -> Result<u32, String>;
    /// Sets its time, and starts it anew. Returns the time that it then has, in seconds.
    fn set_timeout(&mut self, seconds: u32) -> Result<u32, String>;
    /// Starts its time anew.
    fn pet(&mut self) -> Result<(), String>;
    /// Disarms and closes it. Fails if it is known to be armed after that.
    fn let_go(self) -> Result<(), String>;
    /// Whether it was armed before it was opened; `None`: nobody knows.
    fn found_armed(&self) -> Option<bool>;
}

/// What one lockspace of this host asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Another for each process that begins one.
    pub serial: u64,
    /// The device may have no more time than this, in seconds.
    pub timeout: u32,
    /// From this moment on it may not be petted.
    pub pet_until: Moment,
}

/// The device as one lockspace of this host shares it with the others.
pub trait Sharing: std::fmt::Debug {
    /// The device.
    type Device: Device;

    /// A number that no other process takes for its share.
    fn serial(&self) -> u64;

    /// What this lockspace has published last in this boot, by this process or by one before.
    fn own(&self) -> Result<Option<Share>, String>;

    /// Publishes our share, and, as who has the device open, whose shares are kept with it. All
    /// see that once this returns; on a failure they see what was there before.
    fn publish(&mut self, share: &Share, covered: &[u64]) -> Result<(), String>;

    /// Takes our share back.
    fn withdraw(&mut self) -> Result<(), String>;

    /// The shares of the other lockspaces, also of those whose process is dead. None is missing
    /// that was published before this was called.
    fn others(&self) -> Result<Vec<Share>, String>;

    /// Whether another process that shares the device lives.
    fn any_other_lives(&self) -> Result<bool, String>;

    /// Who keeps this share with the device open, as it has said; `None`: nobody has.
    fn keeper_of(&self, share: &Share) -> Result<Option<String>, String>;

    /// Makes us the one who has the device open; `false`: another process is. Until
    /// [`Sharing::step_back`], or the end of this process.
    fn step_forward(&mut self) -> Result<bool, String>;

    /// Lets another be the one.
    fn step_back(&mut self);

    /// Opens the device, which arms it or starts its time anew.
    fn open(&self) -> Result<Self::Device, Failure>;

    /// That the device cannot be used.
    fn refused(&self, why: &str) -> Failure;

    /// That somebody else is in the way.
    fn busy(&self, why: &str) -> Failure;

    /// A line for whoever watches over this host.
    fn say(&self, text: &str);
}

/// A device in use, and the rules by which it is petted.
#[derive(Debug)]
pub struct Watchdog<S: Sharing> {
    sharing: S,
    timing: Timing,
    share: Share,
    /// Our share as an earlier process has left it.
    found: Option<Share>,
    /// While we have the device open.
    kept: Option<Kept<S::Device>>,
    /// What was said of a device that could not be taken over.
    trouble: Option<String>,
    next_pet: Moment,
}

/// An open device.
#[derive(Debug)]
struct Kept<D> {
    device: D,
    /// In seconds; what it was set to.
    timeout: u32,
    /// Those whose shares are kept.
    covered: Vec<u64>,
}

/// 2 % of W and a second: for the device's own clock, and for us.
fn margin(timing: Timing) -> Duration {
    Duration::from_secs(1) + Duration::from_secs(u64::from(timing.watchdog())) / 50
}

/// The time to which a device is set, in whole seconds.
pub fn timeout(timing: Timing) -> Result<u32, String> {
    let promised = Duration::from_secs(u64::from(timing.watchdog()));
    match promised.saturating_sub(margin(timing)).as_secs() {
        0 => Err("--watchdog-timeout has to be 3 s at least".into()),
        seconds => u32::try_from(seconds).map_err(|why| why.to_string()),
    }
}

/// Whether a device that has these option bits can be used.
pub fn check_options(options: u32) -> Result<(), String> {
    if options & OPTION_SET_TIMEOUT == 0 {
        return Err("its time cannot be set".into());
    }
    if options & OPTION_MAGIC_CLOSE == 0 {
        return Err("it cannot be disarmed (magic close)".into());
    }
    Ok(())
}

/// Sets a device's time.
fn set(device: &mut impl Device, timeout: u32) -> Result<(), String> {
    let set = device.set_timeout(timeout);
    let set = set.map_err(|error| format!("cannot set it to {timeout} s: {error}"))?;
    match set == timeout {
        true => Ok(()),
        false => Err(format!("it takes {set} s instead of {timeout} s")),
    }
}

/// Sets the time of a device that was just opened.
fn set_up(device: &mut impl Device, timeout: u32) -> Result<(), String> {
    let options = device.options();
    check_options(options.map_err(|error| format!("it is no watchdog: {error}"))?)?;
    set(device, timeout)
}

/// Whether the device may be petted, for all of these.
fn may_be_petted(shares: &[Share], now: Moment) -> bool {
    shares.iter().all(|share| now < share.pet_until)
}

impl<S: Sharing> Watchdog<S> {
    /// Shares the device: has it open, or is covered by whoever has. Refuses a device that has
    /// another time than it was told, or cannot be disarmed; what is refused is disarmed, unless it
    /// was armed before.
    ///
    /// What an earlier process of this lockspace has guarded goes on being guarded as it has
    /// published; if its time is over, the device is left alone until that is withdrawn.
    pub fn arm(mut sharing: S, timing: Timing, clock: &dyn Clock) -> Result<Self, Failure> {
        let timeout = timeout(timing).map_err(|why| sharing.refused(&why))?;
        let found = sharing.own().map_err(|why| sharing.refused(&why))?;
        let goes_on = found.filter(|found| found.timeout == timeout);
        let share = Share {
            serial: goes_on.map_or_else(|| sharing.serial(), |found| found.serial),
            timeout,
            pet_until: found.map_or(FOR_EVER, |found| found.pet_until),
        };
        let published = sharing.publish(&share, &[]);
        published.map_err(|why| sharing.refused(&why))?;
        let mut this = Self {
            sharing,
            timing,
            share,
            found,
            kept: None,
            trouble: None,
            next_pet: Moment::default(),
        };
        match this.find_cover(clock) {
            Ok(()) => Ok(this),
            Err(failure) => {
                let restored = match found {
                    Some(found) => this.sharing.publish(&found, &[]),
                    None => this.sharing.withdraw(),
                };
                restored.map_or_else(|why| Err(this.sharing.refused(&why)), |()| Err(failure))
            }
        }
    }

    fn find_cover(&mut self, clock: &dyn Clock) -> Result<(), Failure> {
        let until = clock.now().after(COVERED_WITHIN);
        loop {
            if clock.now() >= self.share.pet_until {
                // It is counting, and what it guards is to be ended first.
                return Ok(());
            }
            let keeper = self.sharing.keeper_of(&self.share);
            if let Some(keeper) = keeper.map_err(|why| self.sharing.refused(&why))? {
                let text = format!("{keeper} has it open, and pets it for both");
                self.sharing.say(&text);
                return Ok(());
            }
            let others = match self.take_over(clock)? {
                Taken::Ours => return Ok(()),
                Taken::Theirs => "the lease-join that has it open does not answer",
                Taken::TooLate => "it may not be petted: the time of another lockspace is over",
            };
            if clock.now() >= until {
                return Err(self.sharing.busy(others));
            }
            clock.back_off(LOOK_AGAIN);
        }
    }

    /// All shares, ours first.
    fn shares(&self) -> Result<Vec<Share>, String> {
        let mut shares = vec![self.share];
        shares.extend(self.sharing.others()?);
        Ok(shares)
    }

    /// Opens the device, unless another process has it open, or it may not be petted.
    fn take_over(&mut self, clock: &dyn Clock) -> Result<Taken, Failure> {
        let ours = self.sharing.step_forward();
        if !ours.map_err(|why| self.sharing.refused(&why))? {
            return Ok(Taken::Theirs);
        }
        let taken = self.open(clock);
        if !matches!(taken, Ok(Taken::Ours)) {
            self.sharing.step_back();
        }
        taken
    }

    fn open(&mut self, clock: &dyn Clock) -> Result<Taken, Failure> {
        let shares = self.shares().map_err(|why| self.sharing.refused(&why))?;
        if !may_be_petted(&shares, clock.now()) {
            return Ok(Taken::TooLate);
        }
        let timeout = least(&shares);
        let mut device = self.sharing.open()?;
        if let Err(why) = set_up(&mut device, timeout) {
            let why = match device.found_armed() {
                Some(true) => format!("{why}; it was armed before, and stays so"),
                _ => match device.let_go() {
                    Ok(()) => why,
                    Err(error) => format!("{why}; and it stays armed: {error}"),
                },
            };
            return Err(self.sharing.refused(&why));
        }
        self.kept = Some(Kept {
            device,
            timeout,
            covered: Vec::new(),
        });
        let settled = self.look_again(clock);
        settled.map_err(|why| self.sharing.refused(&why))?;
        Ok(Taken::Ours)
    }

    /// After a pet: it came too late if somebody was stopped, or has begun to guard, between the
    /// look at the shares and the pet, and his time is over: it gave the host more time than it
    /// has.
    fn look_again(&mut self, clock: &dyn Clock) -> Result<(), String> {
        let shares = self.shares()?;
        let Some(kept) = &mut self.kept else {
            return Ok(());
        };
        if !may_be_petted(&shares, clock.now()) {
            kept.device.set_timeout(1)?;
            kept.timeout = 1;
            return Ok(());
        }
        let covers = |share: &&Share| kept.timeout <= share.timeout;
        let covered: Vec<_> = shares.iter().filter(covers).map(|s| s.serial).collect();
        if covered != kept.covered {
            self.sharing.publish(&self.share, &covered)?;
            kept.covered = covered;
        }
        Ok(())
    }

    /// Publishes until when the device may be petted as far as we are concerned: to be called
    /// before anything starts that is to be guarded.
    pub fn note(&mut self, renewed: Moment, guarding: bool) -> Result<(), String> {
        let pet_until = match guarding {
            true => self.last_pet(renewed),
            false => FOR_EVER,
        };
        if pet_until == self.share.pet_until {
            return Ok(());
        }
        let share = Share {
            pet_until,
            ..self.share
        };
        let covered = self.kept.as_ref().map_or(&[][..], |kept| &kept.covered);
        self.sharing.publish(&share, covered)?;
        self.share = share;
        Ok(())
    }

    /// Pets the device if we have it open, if it is time to, and if it may be: for each lockspace,
    /// nothing is guarded, or the last renewal is young enough. If nobody has it open, takes it
    /// over, on the same conditions.
    pub fn tend(
        &mut self,
        clock: &dyn Clock,
        renewed: Moment,
        guarding: bool,
    ) -> Result<(), String> {
        self.note(renewed, guarding)?;
        let now = clock.now();
        if now < self.next_pet || now >= self.share.pet_until {
            return Ok(());
        }
        let again = now.after(self.pause());
        let next = std::mem::replace(&mut self.next_pet, again);
        let shares = self.shares()?;
        if !may_be_petted(&shares, clock.now()) {
            // As soon as it may be.
            self.next_pet = next;
            return Ok(());
        }
        let Some(kept) = &mut self.kept else {
            return self.take_over_if_nobody_has_it(clock);
        };
        let timeout = least(&shares);
        match kept.timeout == timeout {
            true => kept.device.pet()?,
            false => set(&mut kept.device, timeout)?,
        }
        kept.timeout = timeout;
        self.look_again(clock)
    }

    fn take_over_if_nobody_has_it(&mut self, clock: &dyn Clock) -> Result<(), String> {
        let trouble = match self.take_over(clock) {
            Ok(Taken::Ours) => {
                let text = "whoever had it open has ended; this lease-join pets it from now on";
                self.sharing.say(text);
                None
            }
            Ok(Taken::Theirs | Taken::TooLate) => None,
            Err(failure) => Some(failure.text),
        };
        match std::mem::replace(&mut self.trouble, trouble.clone()) == trouble {
            true => Ok(()),
            false => trouble.map_or(Ok(()), Err),
        }
    }

    /// How often it wants to be tended.
    pub fn pause(&self) -> Duration {
        let timeout = self.kept.as_ref().map_or(self.share.timeout, |k| k.timeout);
        (Duration::from_secs(u64::from(timeout)) / 4).min(Duration::from_secs(1))
    }

    /// Nothing is guarded here any more: disarms the device, unless another lockspace needs it.
    pub fn disarm(mut self) -> Result<(), Failure> {
        let disarmed = self.withdraw().map_err(|why| {
            let text = format!("cannot disarm the watchdog: {why}");
            Failure::new(Status::Internal, text)
        });
        self.sharing.step_back();
        disarmed
    }

    fn withdraw(&mut self) -> Result<(), String> {
        self.sharing.withdraw()?;
        let guards = |share: &Share| share.pet_until != FOR_EVER;
        let is_needed = self.sharing.others()?.iter().any(guards);
        if is_needed || self.sharing.any_other_lives()? {
            // Closed as it is, it goes on counting, and another takes it over.
            self.kept = None;
            return Ok(());
        }
        match self.kept.take() {
            Some(kept) => kept.device.let_go(),
            // Whoever had it open has ended, and left it armed, and we are the last.
            None if self.sharing.step_forward()? => {
                let opened = self.sharing.open().map_err(|failure| failure.text);
                opened?.let_go()
            }
            None => Ok(()),
        }
    }

    /// Leaves the device as it was found, since nothing comes of all this: whatever runs here was
    /// guarded by it before, or not at all. `guarded`: what to believe where nobody knows.
    fn leave_as_found(mut self, guarded: bool) -> Result<(), Failure> {
        let kept = self.kept.as_ref();
        let armed = kept.and_then(|kept| kept.device.found_armed());
        if !armed.unwrap_or(guarded) {
            return self.disarm();
        }
        self.kept = None;
        let left = match self.found {
            Some(_) => Ok(()),
            None => self.sharing.withdraw(),
        };
        self.sharing.step_back();
        left.map_err(|why| self.sharing.refused(&why))
    }

    fn last_pet(&self, renewed: Moment) -> Moment {
        renewed.after(self.timing.lost_after().saturating_sub(margin(self.timing)))
    }
}

/// What came of an attempt to have the device open.
enum Taken {
    /// It is open, and ours.
    Ours,
    /// Another process has it open.
    Theirs,
    /// It may not be petted.
    TooLate,
}

/// The time that a device may have, for all of these.
fn least(shares: &[Share]) -> u32 {
    shares.iter().map(|share| share.timeout).min().unwrap_or(1)
}

/// Leaves a device as it was found, where nothing comes of a join; only that it cannot be is said.
/// `guarded`: whether a former lease-join may have left something that runs.
pub(super) fn leave_as_found<S: Sharing>(
    around: &impl Surroundings,
    watchdog: Option<Watchdog<S>>,
    guarded: bool,
) {
    if let Some(Err(why)) = watchdog.map(|watchdog| watchdog.leave_as_found(guarded)) {
        around.say(&why.to_string());
    }
}

#[cfg(test)]
mod tests;
