//! What threads and processes of one machine say to each other, and what they ask of its kernel.
//!
//! A letter takes a random time, whoever sends it; letters to one mailbox arrive in order. What
//! lies in the mailbox of a process that ends is gone.

use super::clock::Instant;
use super::port::Body;
use lease_core::clock::Moment;
use lease_core::delta::{Calls, Tenure};
use lease_core::failure::Failure;
use lease_core::holder::carrier::Carried;
use lease_core::holder::job::{Answer as JobAnswer, Job};
use lease_core::host::giving_back::{Lease, Progress};
use lease_core::host::heart::Beat;
use lease_core::host::kept::Holders;
use lease_core::registry::message::{Ask, Asked, Tell, Welcome};
use lease_core::registry::table::Changes;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Threads that end together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The lease-join of this lockspace.
    Join(usize),
    /// The lease-hold of this number.
    Hold(usize),
    /// Who carries the last deadline of this tree: the init of its PID namespace, or a process of
    /// its lease-hold's.
    Carrier(i32),
    /// The command of this tree.
    Command(i32),
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
    /// To its heartbeat: whom to call.
    Call(Calls),
    /// To a carrier: all is killed then.
    LastMoment(Moment),
    /// To a carrier: what is held has changed.
    Carried(Box<Carried>),
    /// To a lease-hold or its command: a signal.
    Signal(i32),
    /// The command has ended, with this exit code.
    Exited(u8),
    /// The command and all that it started are gone.
    TreeGone,
    /// From the lease-join of the session of this number.
    Via(usize, Box<Letter>),
    /// A lease-join listens again: the session, and the connection.
    Found(usize, u64),
    /// The disks of a resource are open, or cannot be opened.
    Opened(usize, Box<Result<Asked, Failure>>),
    /// To a worker: its number, and in whose name.
    Host(usize, Arc<Welcome>, Arc<Tenure>),
    /// To a worker: something to do.
    Job(Box<Job>),
    /// A worker is done.
    Done(usize, Box<JobAnswer>),
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
    /// The waits of the threads of a process are cut short: machine, which.
    Wake(usize, Group),
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

/// A mailbox.
#[derive(Debug)]
enum Mailbox {
    /// With what lies in it, and when each arrives.
    Open(VecDeque<(Instant, Letter)>),
    /// All goes to another, with a number that says by which way it came.
    Via(usize, usize),
    Closed,
}

/// All mailboxes.
#[derive(Debug, Default)]
pub struct PostOffice {
    /// By their numbers, which are given once.
    boxes: RefCell<Vec<Mailbox>>,
}

impl PostOffice {
    /// Opens a mailbox.
    pub fn open(&self) -> usize {
        self.add(Mailbox::Open(VecDeque::new()))
    }

    /// Opens another way into a mailbox.
    pub fn open_via(&self, mailbox: usize, way: usize) -> usize {
        self.add(Mailbox::Via(mailbox, way))
    }

    fn add(&self, mailbox: Mailbox) -> usize {
        let mut boxes = self.boxes.borrow_mut();
        boxes.push(mailbox);
        boxes.len() - 1
    }

    /// Closes a mailbox; what lies in it is gone.
    pub fn close(&self, mailbox: usize) {
        self.boxes.borrow_mut()[mailbox] = Mailbox::Closed;
    }

    /// Sends a letter that would arrive at `due`. Returns where it goes, and when it will be there;
    /// `None`: nobody is there.
    pub fn post(&self, mailbox: usize, letter: Letter, due: Instant) -> Option<(usize, Instant)> {
        let mut boxes = self.boxes.borrow_mut();
        let (mailbox, letter) = match boxes[mailbox] {
            Mailbox::Via(to, way) => (to, Letter::Via(way, Box::new(letter))),
            _ => (mailbox, letter),
        };
        let Mailbox::Open(letters) = &mut boxes[mailbox] else {
            return None;
        };
        let due = letters.back().map_or(due, |(last, _)| due.max(*last));
        letters.push_back((due, letter));
        Some((mailbox, due))
    }

    /// The next letter that has arrived.
    pub fn take(&self, mailbox: usize, now: Instant) -> Option<Letter> {
        match &mut self.boxes.borrow_mut()[mailbox] {
            Mailbox::Open(letters) if letters.front()?.0 <= now => {
                letters.pop_front().map(|(_, letter)| letter)
            }
            _ => None,
        }
    }

    /// When the next letter arrives, or has.
    pub fn next(&self, mailbox: usize) -> Option<Instant> {
        match self.boxes.borrow().get(mailbox)? {
            Mailbox::Open(letters) => letters.front().map(|(due, _)| *due),
            _ => None,
        }
    }
}
