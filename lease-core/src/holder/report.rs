//! What is said to the user: why not, and how long it takes.

use super::hub::Hub;
use super::surroundings::HolderSurroundings;
use crate::clock::Moment;
use crate::failure::{Failure, Status};
use crate::id::escape;
use crate::record::holder_note::HolderNote;
use crate::record::leader::Stamp;
use crate::registry::message::Rival;
use crate::resource::{AcquireError, Refusal, Snapshot};

/// What is in the way.
#[derive(Debug)]
pub(crate) enum Block {
    /// Somebody on this host.
    Local(Rival),
    /// A late write of this host may land until then.
    Late(Moment),
    /// We were stopped, and for a moment it seemed that the host id is lost; with `in_doubt`,
    /// whether this host owns it now is to be found out by lease-join.
    Stopped { in_doubt: bool },
    /// Somebody on another host.
    Refused(Refusal, Snapshot),
    /// A host of which it is not known whether it is alive.
    Unknown {
        owner: Stamp,
        until: Moment,
        snapshot: Snapshot,
    },
    /// The storage has failed; with `late`, in the middle of a write.
    Trouble { error: AcquireError, late: bool },
}

impl Block {
    /// Whoever is in the way lets go at once: what stands on the disk of it.
    pub(crate) fn passing(&self) -> Option<&Snapshot> {
        match self {
            Self::Refused(Refusal::ShortHold(_) | Refusal::Contended, snapshot) => Some(snapshot),
            _ => None,
        }
    }
}

/// Somebody has it: who.
pub(crate) fn refusal<A: HolderSurroundings>(
    hub: &Hub<A>,
    index: usize,
    block: &Block,
    has_waited: bool,
) -> Failure {
    let (why, number) = describe(hub, block);
    let what_next = match (block, has_waited) {
        (Block::Stopped { .. } | Block::Trouble { .. }, _) => "",
        (Block::Refused(Refusal::Version { .. }, _), _) => {
            "; without it in the argument any version will do"
        }
        (Block::Local(rival), _) if rival.crashed && !rival.passing => {
            "; end what is left of it, then stop lease-join and start it again"
        }
        (_, true) => "; it was not to be had in the time of --wait",
        (_, false) => "; --wait waits for it",
    };
    let failure = Failure::new(
        Status::Busy,
        format!("cannot acquire {}: {why}{what_next}", hub.name(index)),
    );
    match number {
        Some(number) => failure.numbered(number),
        None => failure,
    }
}

/// What is waited for, and how long that takes, if it can take long enough to be worth saying.
pub(crate) fn notice<A: HolderSurroundings>(
    hub: &Hub<A>,
    index: usize,
    block: &Block,
    give_up: Option<Moment>,
) -> Option<(String, String)> {
    let left = |until: Moment| {
        let until = give_up.map_or(until, |moment| moment.min(until));
        until.since(hub.now()).as_secs() + 1
    };
    let name = hub.name(index);
    let (what, how_long) = match block {
        Block::Unknown { owner, until, .. } => {
            let seconds = left(*until);
            (
                format!("held by host {}", owner.host),
                format!("waiting up to {seconds} s to see whether it is alive"),
            )
        }
        Block::Late(until) => (
            "earlier writes of this host may still land".to_owned(),
            format!("waiting {} s until none can", left(*until)),
        ),
        Block::Local(rival) if rival.passing && rival.crashed => (
            describe(hub, block).0,
            "waiting until lease-join has given it back".to_owned(),
        ),
        Block::Local(rival) if rival.passing => return None,
        Block::Stopped { .. } | Block::Trouble { .. } => return None,
        Block::Local(_) | Block::Refused(..) => (
            describe(hub, block).0,
            format!("trying for {} s more", left(give_up?)),
        ),
    };
    Some((format!("{name}: {what}"), how_long))
}

/// The storage or what is on it failed.
pub(crate) fn failure<A: HolderSurroundings>(
    hub: &Hub<A>,
    index: usize,
    error: &AcquireError,
) -> Failure {
    let status = match error {
        AcquireError::Disk(fault) => Status::of_fault(fault),
        AcquireError::InDoubt(_) => Status::Io,
        AcquireError::Lost => Status::Lost,
        AcquireError::Interrupted => Status::Internal,
        _ => Status::Invalid,
    };
    let number = match error {
        AcquireError::Disk(_) | AcquireError::InDoubt(_) => Some(-202),
        AcquireError::Record(error) => Some(error.sanlock_number()),
        AcquireError::Lockspace { .. } => Some(-226),
        AcquireError::Resource { .. } => Some(-227),
        AcquireError::NumHosts { .. } => Some(-228),
        _ => None,
    };
    let what_next = match (error, status) {
        (AcquireError::Record(error), _) => error.what_next(),
        (AcquireError::Lockspace { .. } | AcquireError::Resource { .. }, _) => {
            "; are name, path and offset right? lease-dump shows what lies where"
        }
        (AcquireError::Lost, _) => "; join again, then try again",
        (_, Status::Io) => "; try again when the storage works",
        _ => "",
    };
    let text = format!("cannot acquire {}: {error}{what_next}", hub.name(index));
    Failure {
        status,
        text,
        sanlock: number,
    }
}

/// Who is in the way, and sanlock's number for it.
fn describe<A: HolderSurroundings>(hub: &Hub<A>, block: &Block) -> (String, Option<i32>) {
    match block {
        Block::Local(rival) => {
            let command = escape(rival.command.as_bytes());
            let how = if rival.crashed {
                "left on this host by"
            } else {
                "held on this host by"
            };
            (
                format!("{how} lease-hold pid {} ({command})", rival.pid),
                Some(-17),
            )
        }
        Block::Late(until) => {
            let seconds = until.since(hub.now()).as_secs() + 1;
            (
                format!("earlier writes of this host may still land, for another {seconds} s"),
                None,
            )
        }
        Block::Stopped { in_doubt } => {
            let rest = match in_doubt {
                true => {
                    "; whether this host owns it now is in doubt until lease-join has found out"
                }
                false => "",
            };
            let text = format!("this process was stopped in the middle of it{rest}; try again");
            (text, None)
        }
        Block::Trouble { error, .. } => (error.to_string(), Some(-202)),
        Block::Refused(Refusal::Held { owner, note }, _) => (
            format!(
                "held by host {}",
                describe_owner(hub, *owner, note.as_ref())
            ),
            Some(-243),
        ),
        Block::Refused(Refusal::Shared(hosts), _) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            let word = if hosts.len() == 1 { "host" } else { "hosts" };
            (
                format!("held shared by {word} {}", hosts.join(", ")),
                Some(-11),
            )
        }
        Block::Refused(Refusal::ShortHold(owner), _) => (
            format!("host {} is acquiring it shared", owner.host),
            Some(-246),
        ),
        Block::Refused(Refusal::Contended, _) => {
            ("other hosts won every ballot".to_owned(), Some(-245))
        }
        Block::Refused(Refusal::Version { found }, _) => (
            format!("its lver is {found}, not the one asked for"),
            Some(-240),
        ),
        Block::Unknown { owner, .. } => (
            format!("held by host {}, not known to be alive or dead", owner.host),
            Some(-247),
        ),
    }
}

/// `1 (hostA) since 14:02:11, pid 4711 qemu-system-x86_64`.
fn describe_owner<A: HolderSurroundings>(
    hub: &Hub<A>,
    owner: Stamp,
    note: Option<&HolderNote>,
) -> String {
    let Some(note) = note else {
        return owner.host.to_string();
    };
    format!(
        "{} ({}) since {}, pid {} {}",
        owner.host,
        escape(&note.host_name),
        hub.around.local_time(note.start),
        note.pid,
        escape(&note.command)
    )
}
