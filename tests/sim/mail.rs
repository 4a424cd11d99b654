//! What threads and processes of one machine say to each other, and what they ask of its kernel.
//!
//! A letter takes a random time, whoever sends it; letters to one mailbox arrive in order. What
//! lies in the mailbox of a process that ends is gone.

use super::clock::Instant;
use super::port::Body;
use lease_core::clock::Moment;
use lease_core::host::giving_back::{Lease, Progress};
use lease_core::host::heart::Beat;
use lease_core::host::kept::Holders;
use lease_core::registry::message::{Ask, Tell};
use lease_core::registry::table::Changes;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Threads that end together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// lease-join.
    Join,
    /// The lease-hold of this number.
    Hold(usize),
    /// The init of the PID namespace of this tree.
    Init(i32),
}

/// What is to be written into the holders' file.
#[derive(Debug, Clone)]
pub enum Entry {
    /// All of it.
    Page(Holders),
    /// What has changed since the entry before.
    Change(Changes),
}

/// What one thread hears.
#[derive(Debug, Clone)]
pub enum Letter {
    /// A connection's other end says something to lease-join.
    Ask(u64, Ask),
    /// A connection's other end is gone.
    Closed(u64),
    /// lease-join says something.
    Tell(Tell),
    /// The connection to lease-join has ended.
    Gone,
    /// The thread that renews has news for lease-join.
    Beat(Beat),
    /// To lease-hold's other thread: the heartbeat was renewed at this moment.
    Renewed(Moment),
    /// To lease-hold's main thread: the lease was taken on the disk.
    Lost,
    /// There is news of a lease that is given back.
    GivenBack(Lease, Progress),
    /// To the thread that writes the holders' file: what is to be written.
    Page(u64, Entry),
    /// It is written.
    Written(u64),
    /// To lease-join: leave.
    Leave,
    /// To its heartbeat: give the host id back; until that moment a write of this host may land on
    /// a resource.
    GiveBack(Moment),
    /// To an init: all is killed then.
    LastMoment(Moment),
    /// The command and all that it started are gone.
    TreeGone,
}

/// What a thread wants of its machine, beyond disk and time.
pub enum Wish {
    /// A thread of a process.
    Spawn(usize, Group, Body),
    /// A letter is due in a mailbox.
    Mail(usize, Instant),
    /// A process is to end: machine, which, by a signal or by itself.
    End(usize, Group),
    /// What a lease-hold started was sent SIGKILL: machine, which.
    TreeEnds(usize, i32),
    /// A guarded command runs: machine, which tree.
    Started(usize, i32),
    /// Somebody has to look after this machine.
    Admin(usize),
    /// The watchdog device of this machine was set.
    Watchdog(usize),
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wish")
    }
}

/// All mailboxes.
#[derive(Debug, Default)]
pub struct PostOffice {
    /// By their numbers, which are given once.
    boxes: RefCell<Vec<Option<VecDeque<(Instant, Letter)>>>>,
}

impl PostOffice {
    /// Opens a mailbox.
    pub fn open(&self) -> usize {
        let mut boxes = self.boxes.borrow_mut();
        boxes.push(Some(VecDeque::new()));
        boxes.len() - 1
    }

    /// Closes a mailbox; what lies in it is gone.
    pub fn close(&self, mailbox: usize) {
        self.boxes.borrow_mut()[mailbox] = None;
    }

    /// Sends a letter that would arrive at `due`. Returns when it will; `None`: nobody is there.
    pub fn post(&self, mailbox: usize, letter: Letter, due: Instant) -> Option<Instant> {
        let mut boxes = self.boxes.borrow_mut();
        let letters = boxes[mailbox].as_mut()?;
        let due = letters.back().map_or(due, |(last, _)| due.max(*last));
        letters.push_back((due, letter));
        Some(due)
    }

    /// The next letter that has arrived.
    pub fn take(&self, mailbox: usize, now: Instant) -> Option<Letter> {
        let mut boxes = self.boxes.borrow_mut();
        let letters = boxes[mailbox].as_mut()?;
        if letters.front()?.0 > now {
            return None;
        }
        letters.pop_front().map(|(_, letter)| letter)
    }

    /// When the next letter arrives, or has.
    pub fn next(&self, mailbox: usize) -> Option<Instant> {
        self.boxes
            .borrow()
            .get(mailbox)?
            .as_ref()?
            .front()
            .map(|(due, _)| *due)
    }
}
