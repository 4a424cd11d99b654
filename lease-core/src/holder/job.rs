//! What the main thread of a lease-hold gives to the one that does a resource's disk I/O, and what
//! comes of it.

use crate::clock::Moment;
use crate::record::leader::Stamp;
use crate::record::request::{Force, Request};
use crate::registry::message::Left;
use crate::resource::{AcquireError, AskedFor, Attempt, Held, Snapshot, Wanted};
use std::time::Duration;

/// What a worker is asked to do.
#[derive(Debug, Clone)]
pub enum Job {
    /// Try to acquire.
    Acquire {
        /// How.
        wanted: Wanted,
        /// No ballot before a renewal that was issued after this.
        not_before: Moment,
        /// What comes to be in doubt is brought to an end until then.
        patient_until: Moment,
    },
    /// Bring what is in doubt to an end, with no ballot before that moment.
    Resolve(Wanted, Moment),
    /// Take part in this host's share.
    Share,
    /// Wait until another attempt is worth its while.
    Watch(Snapshot, Option<Stamp>, Duration),
    /// Is it still ours on the disk, and the disk still the one that others find?
    Check(Box<Held>),
    /// Is the disk still the one that others find?
    Look,
    /// Ask whoever holds it to let go of it.
    Ask(Force),
    /// Does anybody ask us to?
    LookForRequest(Box<Held>),
    /// Read the value block.
    ReadValue(Box<Held>),
    /// Give it back, after this is written to its value block. One that may still land is not
    /// followed by a release: it would come after what the next holder has written.
    Release(Box<Held>, Option<Vec<u8>>),
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Job::Resolve`]: what is left on the disk.
    Resolved(Left),
    /// To [`Job::Acquire`]; what is left on the disk if it is not held.
    Attempted(Result<Attempt, AcquireError>, Left),
    /// To [`Job::Share`]; `None`: the share is gone.
    Shared(Result<Option<Box<Held>>, AcquireError>),
    /// To [`Job::Watch`].
    Watched(Result<(), AcquireError>),
    /// To [`Job::Acquire`] and [`Job::Share`]: a disk is not the one that others find any more;
    /// nothing was written.
    Replaced(String),
    /// To [`Job::Check`] and [`Job::Look`]: why it is lost, if it is.
    Checked(Result<Option<String>, AcquireError>),
    /// To [`Job::Ask`]; `None`: nobody has it.
    Asked(Result<Option<AskedFor>, AcquireError>),
    /// To [`Job::LookForRequest`].
    RequestSeen(Result<Option<Request>, AcquireError>),
    /// To [`Job::ReadValue`].
    ValueRead(Result<Vec<u8>, AcquireError>),
    /// To [`Job::Release`]; why the value block was not written, if it was to be.
    Released(Result<(), AcquireError>, Left, Option<AcquireError>),
}

/// A lease that is held.
#[derive(Debug)]
pub struct HeldLease {
    /// Which resource.
    pub index: usize,
    /// The lease.
    pub held: Box<Held>,
}
