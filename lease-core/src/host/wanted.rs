//! The host id to join with: the one that was named, or one that is free.

use super::config::Config;
use super::found::{Found, numbered};
use super::kept::{Life, Logged, Remains};
use super::memory::Memory;
use super::surroundings::{HostSurroundings, VolumeOf};
use crate::clock::{Clock, Moment};
use crate::delta::{
    Choice, Chooser, Claim, Had, HostLease, JoinError, Predecessor, Trace, Waiting, join_after,
};
use crate::disk::Disk;
use crate::failure::{Failure, Status};
use crate::id::{Generation, HostId, Name};
use crate::spec::LockspaceSpec;
use crate::surroundings::Surroundings;
use std::cell::{Cell, RefCell};

/// The host id to join with.
pub(super) struct Wanted {
    /// The first choice.
    pub(super) choice: Choice,
    /// What is remembered of it, and the other choices; `None`: it has to be that one.
    any: Option<(Had, Chooser)>,
}

impl Wanted {
    /// The one that was named. Else the one that a lease-join before it had in this boot, then what
    /// this machine remembers, then a free one; that can be remembered, or it is a failure.
    pub(super) fn new<S: HostSurroundings>(
        s: &S,
        config: &Config,
        found: &Found<VolumeOf<S>>,
        (name, former): (Name, Option<&Remains>),
    ) -> Result<Self, Failure> {
        if let Some(host) = config.host {
            let predecessor = Predecessor::Any;
            let choice = Choice { host, predecessor };
            return Ok(Self { choice, any: None });
        }
        let remembered = remembered(s)?;
        let chooser = Chooser::new(remembered.clone(), name);
        let before = former.map(|remains| &remains.life);
        let choice = match before {
            Some(life) => Choice {
                host: life.host,
                predecessor: Predecessor::Named(life.host_name),
            },
            None => {
                let choice = chooser.choose(&found.heartbeats);
                choice.ok_or_else(|| none_free(config))?
            }
        };
        let of_this = remembered.filter(|had| had.host == choice.host);
        let had = of_this.unwrap_or_else(|| nothing_of(choice.host));
        let had = before.map_or(had.clone(), |life| had.with(trace(life)));
        remember(s, &had)?;
        let any = Some((had, chooser));
        Ok(Self { choice, any })
    }

    /// Each life that the join may begin is logged before that. `None`: told to leave.
    pub(super) fn join_anew<S: HostSurroundings>(
        self,
        s: &S,
        config: &Config,
        found: &Found<VolumeOf<S>>,
        (first, life_of): (&Claim, &dyn Fn(&Claim) -> Life),
    ) -> Result<Option<HostLease>, Failure> {
        let tried = Cell::new(first.host);
        let join = |choice: &Choice, keep: &dyn Fn(&Life) -> Result<(), String>| {
            tried.set(choice.host);
            let claim = claim_of(choice.host, first);
            let disk = Logged::new(&found.volume, s.around(), &keep, life_of(&claim));
            let shown = numbered(config, choice.host);
            let mut tell = |waiting| s.around().say(&describe_wait(&shown, waiting));
            let claimed = (&claim, choice.predecessor);
            join_after(&found.lockspace, &disk, s.around(), claimed, &mut tell)
        };
        let joined = match self.any {
            None => join(&self.choice, &|life| s.keep(life)),
            Some((had, mut chooser)) => {
                let had = RefCell::new(had);
                let keep = |life: &Life| remember_life(s, &had, life).and_then(|()| s.keep(life));
                let mut attempt = |choice: &Choice| {
                    let joined = join(choice, &keep);
                    if let Err(why @ JoinError::InUse { .. }) = &joined {
                        let shown = numbered(config, choice.host);
                        s.around()
                            .say(&format!("{shown}: {why}; taking another host id"));
                    }
                    joined
                };
                let world: (_, &dyn Disk, &dyn Clock) =
                    (&found.lockspace, &found.volume, s.around());
                chooser.join(world, self.choice, &mut attempt)
            }
        };
        match joined {
            Ok(lease) => Ok(Some(lease)),
            Err(JoinError::Interrupted) => Ok(None),
            Err(JoinError::NoneFree) => Err(none_free(config)),
            Err(error) => {
                let shown = numbered(config, tried.get());
                Err(join_failure(&shown, first.name, &error))
            }
        }
    }
}

/// What this machine remembers; nothing of what another machine has written.
fn remembered<S: HostSurroundings>(s: &S) -> Result<Option<Had>, Failure> {
    let Some(memory) = s.remembered()? else {
        return Ok(None);
    };
    if !memory.is_of_another(&s.machine_id()) {
        return Ok(Some(memory.had));
    }
    s.around().say(&format!(
        "host id {} is what another machine remembers, of which this one is a copy; taking another",
        memory.had.host
    ));
    Ok(None)
}

fn remember<S: HostSurroundings>(s: &S, had: &Had) -> Result<(), Failure> {
    s.remember(&Memory {
        machine: s.machine_id(),
        had: had.clone(),
    })
}

/// Remembers a life that is about to begin, if that is not known yet.
fn remember_life<S: HostSurroundings>(
    s: &S,
    had: &RefCell<Had>,
    life: &Life,
) -> Result<(), String> {
    let known = had.borrow().clone();
    if known.host == life.host && known.traces.contains(&trace(life)) {
        return Ok(());
    }
    let of_this = Some(known).filter(|had| had.host == life.host);
    let new = of_this
        .unwrap_or_else(|| nothing_of(life.host))
        .with(trace(life));
    remember(s, &new).map_err(|failure| failure.text)?;
    had.replace(new);
    Ok(())
}

fn nothing_of(host: HostId) -> Had {
    let traces = Vec::new();
    Had { host, traces }
}

fn trace(life: &Life) -> Trace {
    Trace {
        name: Some(life.host_name),
        generation: life.former.generation,
    }
}

/// The claim to a host id; only of the first this machine may have had lives in this boot.
fn claim_of(host: HostId, first: &Claim) -> Claim {
    match host == first.host {
        true => *first,
        false => Claim {
            host,
            at_least: Generation(0),
            attempted: Generation(0),
            not_before: Moment::default(),
            ..*first
        },
    }
}

fn none_free(config: &Config) -> Failure {
    let (lockspace, error) = (&config.lockspace, JoinError::NoneFree);
    let text = format!(
        "cannot join {lockspace}: {error}; join with the number of a machine that is gone for \
         good, which lease-dump shows, or format a larger lockspace"
    );
    Failure::new(Status::Busy, text)
}

fn describe_wait(lockspace: &LockspaceSpec, waiting: Waiting) -> String {
    match waiting {
        Waiting::Watching { name, at_most } => {
            let name = name.map_or_else(|| "a host without a name".into(), |n| n.to_string());
            let seconds = at_most.as_secs();
            format!(
                "{lockspace}: host id held by {name}; watching for up to {seconds} s whether it is alive"
            )
        }
        Waiting::LateWrite { at_most } => {
            let seconds = at_most.as_secs() + 1;
            format!(
                "{lockspace}: waiting {seconds} s, since a heartbeat that an earlier lease-join \
                 here wrote may still land"
            )
        }
        Waiting::Settling { exactly } => {
            let seconds = exactly.as_secs();
            format!("{lockspace}: waiting {seconds} s to see whether anybody else joins")
        }
    }
}

fn join_failure(lockspace: &LockspaceSpec, ours: Name, error: &JoinError) -> Failure {
    let text = format!("cannot join {lockspace}: {error}");
    match error {
        JoinError::Disk(fault) => Failure::new(Status::of_fault(fault), text).numbered(-202),
        JoinError::TooSlow(_) | JoinError::Lost(_) => Failure::new(Status::Io, text).numbered(-202),
        JoinError::Record(_) => Failure::new(Status::Invalid, text),
        JoinError::InUse { name } => {
            let what_to_do = match *name == Some(ours) {
                true => "that is our own name: a clone? Choose another host id, and another name",
                false => "choose another host id",
            };
            Failure::new(Status::Busy, format!("{text}; {what_to_do}")).numbered(-262)
        }
        JoinError::NoneFree | JoinError::Interrupted => Failure::new(Status::Internal, text),
    }
}
