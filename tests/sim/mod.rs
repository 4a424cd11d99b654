//! A cluster in one thread: the protocol code that ships, under a simulated world.
//!
//! Hosts are coroutines over the `Disk` and `Clock` traits; one seeded scheduler decides when each
//! operation happens and how it ends. There is no real time, and no randomness but the seed's.
//!
//! **What a correct cluster must survive**, and is put through:
//! - a machine loses power at any operation and comes back (new boot, /run empty);
//! - a process is killed at any operation;
//! - a process stalls at any operation, also between a check and the write that it allows: for up
//!   to W where no watchdog guards the machine, without bound where one does (it then resets the
//!   machine at 8t+W);
//! - an I/O fails, done or not done, and nobody is told which;
//! - an I/O times out, and its write lands later or never: also after its process or machine is
//!   gone, also over a newer write of another host to the same sector; at most 8t+W after its
//!   issue (assumption c of lease.7);
//! - a machine is cut off from the storage for any time;
//! - sectors are atomic, a read of many is not: its parts are of different moments;
//! - clocks of any offset, with rates within 1 % of each other;
//! - commands that live until the last moment which the rules allow (8t+W after the last renewal);
//! - two machines configured with one host id.
//!
//! **What is checked** at each step, on the one true clock, by [`checker`], which shares nothing
//! with the code under test: never two exclusive holders' commands, never exclusive beside shared;
//! a version's owner is decided once; lver and generation never go back; no live holder loses its
//! lease; and when the faults end, every lease can be had within a bound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod checker;
pub mod clock;
pub mod disk;
pub mod host;
pub mod port;
pub mod sanlock;
pub mod small;
pub mod stage;
pub mod story;
pub mod world;

use checker::Checker;
use clock::Instant;
use disk::Platter;
use host::Membership;
use lease_core::delta::Lockspace;
use lease_core::id::{HostId, Name};
use lease_core::layout::Geometry;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::Leader;
use lease_core::record::request::Request;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::LazyLock;

/// Small sectors for resources.
pub const RESOURCE_GEOMETRY: Geometry = Geometry::ALL[0];
/// Few hosts in the lockspace.
pub const LOCKSPACE_GEOMETRY: Geometry = Geometry::ALL[1];

/// The lockspace: area 0 of disk 0.
pub static LOCKSPACE: LazyLock<Lockspace> = LazyLock::new(|| Lockspace {
    name: Name::new(b"LS").unwrap(),
    offset: 0,
    geometry: LOCKSPACE_GEOMETRY,
});

/// Where area `index` of a disk starts; a resource's is one more than its number.
pub fn area_offset(index: usize) -> u64 {
    (index as u64) << 20
}

/// The name of resource `index`.
pub fn resource_name(index: usize) -> Name {
    Name::new(format!("R{index}").as_bytes()).unwrap()
}

/// Freshly formatted disks: a lockspace on the first, each resource on all.
pub fn formatted(disks: usize, resources: usize, num_hosts: u64, io_timeout: u8) -> Vec<Platter> {
    let free = Heartbeat::new(LOCKSPACE_GEOMETRY, &LOCKSPACE.name, io_timeout).to_sector();
    let lockspace: Vec<u8> = HostId::all(num_hosts).flat_map(|_| free.clone()).collect();
    let resource = |index: usize| {
        let geometry = RESOURCE_GEOMETRY;
        let name = resource_name(index);
        let mut area = vec![0; geometry.ballots_len(num_hosts)];
        let leader = Leader::new(geometry, &LOCKSPACE.name, &name, num_hosts).to_sector();
        area[..leader.len()].copy_from_slice(&leader);
        let request = Request::default().encode();
        let at = geometry.request_at();
        area[at..at + request.len()].copy_from_slice(&request);
        area
    };
    let disk = |_| {
        let areas = std::iter::once(lockspace.clone()).chain((0..resources).map(resource));
        Platter::new(areas.collect())
    };
    (0..disks).map(disk).collect()
}

/// What the processes of all machines share with the world.
#[derive(Debug)]
pub struct Shared {
    /// True time.
    pub now: Rc<Cell<Instant>>,
    /// The watcher.
    pub checker: RefCell<Checker>,
    /// Lives that began, for the world to watch over: machine and life.
    pub members: RefCell<Vec<(usize, Rc<Membership>)>>,
    /// Whether a live host may lose what it holds, because an assumption is broken.
    pub losses_expected: bool,
    story: Option<RefCell<Vec<story::Line>>>,
}

impl Shared {
    /// At true time 0; `told`: with a story.
    pub fn new(losses_expected: bool, told: bool) -> Self {
        Self {
            now: Rc::new(Cell::new(0)),
            checker: RefCell::default(),
            members: RefCell::default(),
            losses_expected,
            story: told.then(RefCell::default),
        }
    }

    /// Adds a line to the story, if there is to be one.
    pub fn tell(&self, machine: Option<usize>, text: impl FnOnce() -> String) {
        if let Some(story) = &self.story {
            story.borrow_mut().push(story::Line {
                at: self.now.get(),
                machine,
                text: text(),
            });
        }
    }

    /// A live host lost something: an error, unless an assumption is broken.
    pub fn surprise(&self, what: impl FnOnce() -> String) {
        if !self.losses_expected {
            self.checker.borrow_mut().accuse(what());
        }
    }

    /// The story so far.
    pub fn lines(&self) -> Vec<story::Line> {
        self.story
            .as_ref()
            .map(|story| story.borrow().clone())
            .unwrap_or_default()
    }
}
