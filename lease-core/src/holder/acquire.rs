//! All resources or none.
//!
//! Nothing is held while something is waited for. The first round asks for all at once; later
//! ones go one by one in one global order, so that two who want the same cannot keep each other
//! from both for ever.

use super::hub::{Ending, Hub};
use super::job::{Answer, HeldLease, Job};
use super::report::{self, Block};
use super::surroundings::{Event, HolderSurroundings};
use super::trouble::{self, Trouble};
use super::{asking, last_look, release, signal};
use crate::clock::Moment;
use crate::failure::{Failure, Status};
use crate::id::{Generation, Lver};
use crate::record::holder_note::HolderNote;
use crate::registry::message::{Left, Rival, Tell, Turn};
pub use crate::registry::order::Patience;
use crate::resource::{AcquireError, Attempt, Held, Refusal, Snapshot, Wanted};
use crate::surroundings::Surroundings;
use std::time::Duration;

/// Whoever lets go at once is waited for in any case, but one and the same no longer than this: it
/// may have been stopped.
const PASSING_MAX: Duration = Duration::from_secs(10);

/// Why nothing was acquired.
#[derive(Debug)]
pub enum End {
    /// Somebody has it, or it was not had in time.
    Refused(Failure),
    /// It failed.
    Failed(Failure),
    /// What is open is not what others find any more: why.
    Replaced(String),
    /// A signal came.
    Signal(i32),
}

impl End {
    /// The exit code; says why. `conflict`: that of a refusal.
    pub fn exit(self, machine: &impl Surroundings, conflict: u8) -> Result<u8, Failure> {
        match self {
            Self::Refused(failure) => {
                machine.say(&failure.to_string());
                Ok(conflict)
            }
            Self::Failed(failure) => Err(failure),
            Self::Replaced(why) => {
                let text = format!("cannot acquire {why}; start again with what is there now");
                machine.say(&text);
                Ok(conflict)
            }
            Self::Signal(number) => Ok(signal::exit_code(number)),
        }
    }
}

/// How it went with one resource.
enum Progress {
    Held(Box<Held>),
    Blocked(Block),
    Failed(AcquireError),
    Replaced(String),
}

/// Acquires every resource that is wanted, waiting as patiently as asked: with --wait until
/// `give_up`.
pub fn acquire_all<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    patience: Patience,
    give_up: Option<Moment>,
) -> Result<Vec<HeldLease>, End> {
    let mut first = true;
    let mut trouble = Trouble::default();
    let mut said = None;
    let mut passing: Option<(Snapshot, Moment)> = None;
    loop {
        let (index, block) = match round(hub, first, give_up)? {
            Ok(held) => {
                trouble.end(hub.around.machine());
                return match first {
                    true => Ok(held),
                    false => still_there(hub, held),
                };
            }
            Err(blocked) => blocked,
        };
        first = false;
        let now = hub.now();
        if let Block::Trouble { error, late } = &block {
            let may_go_on = match patience {
                Patience::For(_) => give_up.is_none_or(|moment| now < moment),
                // A read that has failed leaves nothing behind.
                Patience::UntilKnown => !late && !trouble.is_older(now, trouble_max(hub, index)),
                Patience::None => false,
            };
            if !may_go_on {
                return Err(End::Failed(report::failure(hub, index, error)));
            }
            trouble.go_on(hub.around.machine(), &hub.name(index), &error.to_string());
            wait(hub, index, block, give_up)?;
            continue;
        }
        // After a write that has failed, it is over only when the next one succeeds.
        if !matches!(block, Block::Late(_) | Block::Local(_)) {
            trouble.end(hub.around.machine());
        }
        let out_of_time = give_up.is_some_and(|moment| now >= moment);
        passing = block.passing().map(|snapshot| {
            let same = passing.take().filter(|(before, _)| before == snapshot);
            same.unwrap_or_else(|| (snapshot.clone(), now))
        });
        let since = passing.as_ref().map(|(_, since)| *since);
        let moments = since.is_some_and(|since| now.since(since) <= PASSING_MAX);
        if out_of_time || !(moments || worth_waiting(&block, patience)) {
            let has_waited = matches!(patience, Patience::For(_));
            let failure = report::refusal(hub, index, &block, has_waited);
            return Err(End::Refused(failure));
        }
        if !moments
            && let Some((what, how_long)) = report::notice(hub, index, &block, give_up)
            && said.as_ref() != Some(&what)
        {
            hub.around.machine().say(&format!("{what}; {how_long}"));
            said = Some(what);
        }
        if let Err(error) = asking::ask(hub, index, &block) {
            return Err(End::Failed(report::failure(hub, index, &error)));
        }
        wait(hub, index, block, give_up)?;
    }
}

/// Whoever has waited may have had what others did not find any more by then.
fn still_there<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    held: Vec<HeldLease>,
) -> Result<Vec<HeldLease>, End> {
    let Some(why) = last_look::find_replaced(hub, &held) else {
        return Ok(held);
    };
    if let Some(failure) = release::give_back(hub, held, None).lease {
        hub.around.machine().say(&failure.to_string());
    }
    Err(End::Replaced(why))
}

/// How long the storage may fail without --wait.
fn trouble_max<A: HolderSurroundings>(hub: &Hub<A>, index: usize) -> Duration {
    hub.of_resource(index).1.timing.io_limit() * 4
}

/// Whether a block goes away, if waited for as patiently as asked.
fn worth_waiting(block: &Block, patience: Patience) -> bool {
    match block {
        Block::Stopped { in_doubt } => !in_doubt,
        Block::Trouble { .. } => true,
        Block::Refused(Refusal::Version { .. }, _) => false,
        Block::Local(rival) if rival.passing => patience != Patience::None,
        Block::Late(_) | Block::Unknown { .. } => patience != Patience::None,
        Block::Local(_) | Block::Refused(..) => matches!(patience, Patience::For(_)),
    }
}

/// Waits until another round is worth its while.
fn wait<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    index: usize,
    block: Block,
    give_up: Option<Moment>,
) -> Result<(), End> {
    let now = hub.now();
    let forever = now.after(Duration::from_secs(3600));
    let left = give_up.unwrap_or(forever).since(now);
    let pause = match block {
        Block::Refused(Refusal::ShortHold(_) | Refusal::Contended, _)
        | Block::Local(_)
        | Block::Stopped { .. } => A::ASK_AGAIN,
        Block::Trouble { .. } => trouble::pause(hub.of_resource(index).1.timing.io_limit()),
        // A renewal has to come after that moment.
        Block::Late(until) => until.since(now).max(A::ASK_AGAIN),
        Block::Refused(_, snapshot) => {
            // Whoever holds it may die as well as release: look at its heartbeat again before long.
            let pause = hub.of_resource(index).1.timing.io_limit();
            hub.give(index, Job::Watch(snapshot, None, left.min(pause)));
            return watched(hub, index);
        }
        Block::Unknown {
            owner, snapshot, ..
        } => {
            // Whether the disk is still the one that others find is looked at again before long.
            let pause = hub.of_resource(index).1.timing.io_limit();
            hub.give(index, Job::Watch(snapshot, Some(owner), left.min(pause)));
            return watched(hub, index);
        }
    };
    let until = now.after(pause.min(left));
    let none: Option<()> = hub.wait_for(Some(until), true, |_, event| Err(event));
    debug_assert!(none.is_none(), "nothing is picked");
    check_ending(hub)
}

fn watched<A: HolderSurroundings>(hub: &mut Hub<A>, index: usize) -> Result<(), End> {
    let result = hub.wait_for(None, false, |_, event| match event {
        Event::Done(_, Answer::Watched(result)) => Ok(result),
        other => Err(other),
    });
    check_ending(hub)?;
    match result {
        Some(Err(AcquireError::Lost)) if hub.holds_for(index) => Ok(()),
        // The next attempt finds out whether that is over.
        Some(Err(AcquireError::Disk(_))) => Ok(()),
        Some(Err(error)) => Err(End::Failed(report::failure(hub, index, &error))),
        _ => Ok(()),
    }
}

fn check_ending<A: HolderSurroundings>(hub: &Hub<A>) -> Result<(), End> {
    let failed = |status, why: &str| {
        let names: Vec<String> = hub.wanted.iter().map(|index| hub.name(*index)).collect();
        let text = format!("cannot acquire {}: {why}", names.join(", "));
        Err(End::Failed(Failure::new(status, text)))
    };
    match &hub.ending {
        None => Ok(()),
        Some(Ending::Signal(number)) => Err(End::Signal(*number)),
        Some(Ending::Lost(why)) => {
            let why = format!("this host has lost its host id: {why}; join again, then try again");
            failed(Status::Lost, &why)
        }
        Some(Ending::NotJoined) => {
            let why = "lease-join is leaving the lockspace; start it again first";
            failed(Status::NotJoined, why)
        }
        Some(Ending::Gone) => failed(Status::NoPath, &format!("{} has ended", hub.command)),
        Some(Ending::Withdrawn) => failed(Status::Busy, "nobody waits for it any more"),
    }
}

/// One round: all that can be had, and if that is not all, back with it. The outer failure ends
/// everything; the inner one says what is in the way.
fn round<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    all_at_once: bool,
    give_up: Option<Moment>,
) -> Result<Result<Vec<HeldLease>, (usize, Block)>, End> {
    let mut order = hub.wanted.clone();
    order.sort_by_key(|index| {
        let (spec, _) = hub.of_resource(*index);
        (spec.lockspace, spec.name)
    });
    let batches: Vec<Vec<usize>> = match all_at_once {
        true => vec![order],
        false => order.into_iter().map(|index| vec![index]).collect(),
    };
    let mut held = Vec::new();
    let mut stopped = None;
    for batch in batches {
        for (index, progress) in attempt(hub, &batch, give_up) {
            match progress {
                Progress::Held(lease) => held.push(HeldLease { index, held: lease }),
                other if stopped.is_none() => stopped = Some((index, other)),
                _ => {}
            }
        }
        if stopped.is_some() || hub.ending.is_some() {
            break;
        }
    }
    if stopped.is_none() && hub.ending.is_none() {
        held.sort_by_key(|lease| lease.index);
        return Ok(Ok(held));
    }
    let undone = release::give_back(hub, held, None);
    check_ending(hub)?;
    undone.lease.map_or(Ok(()), Err).map_err(End::Failed)?;
    match stopped {
        Some((index, Progress::Blocked(block))) => Ok(Err((index, block))),
        Some((index, Progress::Failed(error))) => {
            Err(End::Failed(report::failure(hub, index, &error)))
        }
        Some((index, Progress::Replaced(why))) => {
            Err(End::Replaced(format!("{} {why}", hub.name(index))))
        }
        Some((_, Progress::Held(_))) | None => Err(End::Failed(Failure::new(
            Status::Internal,
            "a round ended without a reason",
        ))),
    }
}

/// Tries a batch of resources at the same time. Each that lease-join gives no turn for, or that
/// must wait, is blocked before anything is written.
fn attempt<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    batch: &[usize],
    give_up: Option<Moment>,
) -> Vec<(usize, Progress)> {
    let turns = ask_for_turns(hub, batch);
    let mut results = Vec::new();
    let mut running = Vec::new();
    let blocked = turns.len() < batch.len() || turns.iter().any(|(_, turn)| turn.is_err());
    for (index, turn) in turns {
        match turn {
            Err(rival) => results.push((index, Progress::Blocked(Block::Local(rival)))),
            Ok(_) if blocked => hub.say_acquired(index, None, Left::NOTHING),
            Ok(Turn::Share) => {
                hub.give(index, Job::Share);
                running.push((index, Moment::default()));
            }
            Ok(Turn::Ballot { not_before }) => {
                let wanted = wanted(hub, index);
                let job = Job::Acquire {
                    wanted,
                    not_before,
                    patient_until: give_up.unwrap_or_default(),
                };
                hub.give(index, job);
                running.push((index, not_before));
            }
        }
    }
    while !running.is_empty() {
        let done = hub.wait_for(None, false, |_, event| match event {
            // What is guarded is looked at meanwhile.
            Event::Done(index, answer) if running.iter().any(|(running, _)| *running == index) => {
                Ok((index, answer))
            }
            other => Err(other),
        });
        let Some((index, answer)) = done else {
            continue;
        };
        let Some(place) = running.iter().position(|(running, _)| *running == index) else {
            continue;
        };
        if was_stopped_in_doubt(hub, index, &answer) {
            let wanted = wanted(hub, index);
            hub.give(index, Job::Resolve(wanted, running[place].1));
        } else {
            running.swap_remove(place);
            results.push((index, conclude(hub, index, answer)));
        }
    }
    results
}

/// Whoever was stopped in the middle of its attempt, and believed that the host id is lost until it
/// heard of the renewals, can bring it to an end: there is no other turn before that.
fn was_stopped_in_doubt<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    index: usize,
    answer: &Answer,
) -> bool {
    let stopped = matches!(
        answer,
        Answer::Attempted(Err(AcquireError::Lost), left) if left.doubt && !left.late
    );
    stopped && hub.ending.is_none() && hub.holds_for(index)
}

/// Asks lease-join for a turn on each. What is missing in the answer was not answered, because
/// everything ends.
fn ask_for_turns<A: HolderSurroundings>(
    hub: &mut Hub<A>,
    batch: &[usize],
) -> Vec<(usize, Result<Turn, Rival>)> {
    for index in batch {
        hub.ask_to_acquire(*index);
    }
    let mut turns = Vec::new();
    while turns.len() < batch.len() {
        let answer = hub.wait_for(None, true, |hub, event| match event {
            Event::Told(session, Tell::Turn { index, how }) => {
                Ok((hub.resource_of(session, index), Ok(how)))
            }
            Event::Told(session, Tell::Busy { index, by }) => {
                Ok((hub.resource_of(session, index), Err(by)))
            }
            other => Err(other),
        });
        match answer {
            Some((Some(index), turn)) => turns.push((index, turn)),
            Some((None, _)) => {}
            None => break,
        }
    }
    turns
}

fn conclude<A: HolderSurroundings>(hub: &mut Hub<A>, index: usize, answer: Answer) -> Progress {
    let (progress, left) = match answer {
        Answer::Attempted(Ok(Attempt::Held(held)), left) => (Progress::Held(held), left),
        Answer::Attempted(Ok(Attempt::Refused(why, snapshot)), left) => {
            (Progress::Blocked(Block::Refused(why, snapshot)), left)
        }
        Answer::Attempted(
            Ok(Attempt::Unknown {
                owner,
                until,
                snapshot,
            }),
            left,
        ) => (
            Progress::Blocked(Block::Unknown {
                owner,
                until,
                snapshot,
            }),
            left,
        ),
        Answer::Attempted(Err(AcquireError::TooEarly { until }), left) => {
            (Progress::Blocked(Block::Late(until)), left)
        }
        Answer::Attempted(Err(AcquireError::Lost), left) | Answer::Resolved(left)
            if hub.holds_for(index) =>
        {
            let in_doubt = left.doubt;
            (Progress::Blocked(Block::Stopped { in_doubt }), left)
        }
        Answer::Resolved(left) => (Progress::Failed(AcquireError::Lost), left),
        Answer::Attempted(Err(error @ AcquireError::Disk(_)), left) if !left.doubt => {
            let late = left.late;
            (Progress::Blocked(Block::Trouble { error, late }), left)
        }
        // It was in doubt, and is not any more.
        Answer::Attempted(Err(AcquireError::InDoubt(error)), left)
            if !left.doubt && matches!(*error, AcquireError::Disk(_)) =>
        {
            let error = AcquireError::InDoubt(error);
            (
                Progress::Blocked(Block::Trouble { error, late: true }),
                left,
            )
        }
        Answer::Attempted(Err(error), left) => (Progress::Failed(error), left),
        Answer::Replaced(why) => (Progress::Replaced(why), Left::NOTHING),
        Answer::Shared(Ok(Some(held))) => (Progress::Held(held), Left::NOTHING),
        Answer::Shared(Err(error @ AcquireError::Disk(_))) => {
            let late = false;
            let block = Block::Trouble { error, late };
            (Progress::Blocked(block), Left::NOTHING)
        }
        Answer::Shared(Err(AcquireError::Lost)) if hub.holds_for(index) => {
            let in_doubt = false;
            (
                Progress::Blocked(Block::Stopped { in_doubt }),
                Left::NOTHING,
            )
        }
        Answer::Shared(Err(error)) => (Progress::Failed(error), Left::NOTHING),
        // The share on the disk is not ours any more: whoever holds it finds out in time.
        _ => (Progress::Failed(AcquireError::Lost), Left::NOTHING),
    };
    let lver = match &progress {
        Progress::Held(held) => Some(held.lver),
        Progress::Blocked(_) | Progress::Failed(_) | Progress::Replaced(_) => None,
    };
    hub.say_acquired(index, lver, left);
    progress
}

fn wanted<A: HolderSurroundings>(hub: &Hub<A>, index: usize) -> Wanted {
    let (spec, welcome) = hub.of_resource(index);
    let note = HolderNote {
        host: welcome.host,
        generation: Generation(0),
        lver: Lver(0),
        mode: spec.mode,
        pid: hub.around.pid(),
        start: hub.around.machine().wall_clock(),
        host_name: welcome.host_name.as_bytes().to_vec(),
        command: hub.command.as_bytes().to_vec(),
    };
    Wanted {
        mode: spec.mode,
        lver: spec.lver,
        note,
    }
}
