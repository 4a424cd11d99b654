//! A cluster in one thread: the protocol code that ships, under a simulated world.
//!
//! On each machine: for each of one to three lockspaces a lease-join with its heartbeat, its
//! server, a watchdog device, and those who give leases back for the dead; lease-holds, each
//! with one to eight resources in any of these, a thread for the I/O of each, and the one that
//! decides; who carries their last deadline. All that lease-join, lease-hold and that carrier
//! decide is the code that ships, from its start to its end. Sockets, threads, processes and
//! what they start are simulated.
//!
//! Hosts are coroutines over the `Disk` and `Clock` traits; one seeded scheduler decides when each
//! operation happens and how it ends. There is no real time, and no randomness but the seed's.
//!
//! **What a correct cluster must survive**, and is put through:
//! - a machine loses power at any operation and comes back (new boot, /run empty);
//! - a process is killed at any operation, lease-join too, which comes back with what was kept;
//! - a process is stopped at any operation, for any time: without a watchdog one that can kill
//!   goes on (lease-join, lease-hold, or who carries the last deadline), whatever has become of
//!   the two others; with one, any of them;
//! - a thread stalls at any I/O, also between a check and the write that it allows: for up to W
//!   where no watchdog guards the machine, for longer than all that is waited for where one does
//!   (but where two machines have one host id);
//! - a letter from one thread to another takes its time;
//! - an I/O fails, done or not done, and nobody is told which; in some worlds a write that has
//!   failed lands later, as one that has timed out does;
//! - an I/O times out, and its write lands later or never: also after its process or machine is
//!   gone, also over a newer write of another host to the same sector; at most 8t+W after its
//!   issue (assumption c of lease.7);
//! - a machine is cut off from the storage for any time; where resources lie on several disks, one
//!   of these goes out of reach, of some machines or of all, each for its own time;
//! - sectors are atomic, a read of many is not: its parts are of different moments;
//! - clocks of any offset, with rates within 1 % of each other;
//! - commands that, once they are sent SIGKILL, live until the last moment that the rules allow
//!   (8t+W after the last renewal);
//! - commands that nobody but an administrator can find, since nothing contains them;
//! - two machines configured with one host id, or machines of one name, but not both at once: a
//!   copy of a machine, name and all, is taken for that machine (lease-join(8), --host-name); names
//!   that stay over a reboot;
//! - garbage in a sector, and a late write of which only a part lands: its checksum tells.
//!
//! A world is some minutes long; one in five hundred is an hour, or until each host has had
//! hundreds of leases. Some without watchdogs are tight: machines are cut off, what they guard
//! lives for as long as it may, others wait for it, and clocks are as far apart as they may be.
//!
//! **What is checked** at each step, on the one true clock, by [`checker`], which shares nothing
//! with the code under test: never two exclusive holders' commands, never exclusive beside shared;
//! a version's owner is decided once; lver and generation never go back, but the generation on the
//! disk by a write of a machine that lost power since, or of one of two machines that have one host
//! id; most disks of a resource say that whoever runs under it holds it; nothing that is guarded
//! runs later than 8t+W after its host's last renewal that landed; no live holder loses its lease;
//! where no thread is ever late, nothing is ended while its lease is kept, or started once it is
//! lost; and when the faults end, every lease can be had within a bound. Excused from the last
//! three is only whom it concerns: a host id that two machines have, or whose heartbeat is damaged;
//! a resource of which half of the copies are damaged, and one that may be such a host's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod around;
pub mod carrying;
pub mod checker;
pub mod clock;
pub mod disk;
pub mod hold;
pub mod join;
pub mod machine;
pub mod mail;
pub mod port;
pub mod sanlock;
pub mod setup;
pub mod small;
pub mod stage;
pub mod story;
pub mod watchdog;
pub mod world;

use checker::Checker;
use clock::Instant;
use disk::Platter;
use fastrand::Rng;
use lease_core::delta::Lockspace;
use lease_core::id::{HostId, Name};
use lease_core::layout::Geometry;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::Leader;
use lease_core::record::request::Request;
use machine::Membership;
use mail::{Letter, PostOffice, Wish};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::LazyLock;

/// Small sectors for resources.
pub const RESOURCE_GEOMETRY: Geometry = Geometry::ALL[0];
/// Few hosts in the lockspace.
pub const LOCKSPACE_GEOMETRY: Geometry = Geometry::ALL[1];

/// The first lockspace: area 0 of disk 0.
pub static LOCKSPACE: LazyLock<Lockspace> = LazyLock::new(|| lockspace(0));

/// Lockspace `index`; each but the first has a disk of its own, behind those of the resources.
pub fn lockspace(index: usize) -> Lockspace {
    let name = ["LS", "LT", "LU"][index].as_bytes();
    Lockspace {
        name: Name::new(name).unwrap(),
        offset: 0,
        geometry: LOCKSPACE_GEOMETRY,
    }
}

/// Which lockspace has this name.
pub fn lockspace_named(name: &Name) -> usize {
    (0..).find(|index| lockspace(*index).name == *name).unwrap()
}

/// Where area `index` of a disk starts; a resource's is one more than its number.
pub fn area_offset(index: usize) -> u64 {
    (index as u64) << 20
}

/// Which resource's area starts there.
pub fn resource_at(offset: u64) -> usize {
    (offset >> 20) as usize - 1
}

/// The name of resource `index`.
pub fn resource_name(index: usize) -> Name {
    Name::new(format!("R{index}").as_bytes()).unwrap()
}

/// Freshly formatted disks: a lockspace on the first, each resource on all, and a disk for each
/// further lockspace. The resources belong to one lockspace after another.
pub fn formatted(
    (disks, lockspaces): (usize, usize),
    resources: usize,
    num_hosts: u64,
    io_timeout: u8,
) -> Vec<Platter> {
    let heartbeats = |index| {
        let free = Heartbeat::new(LOCKSPACE_GEOMETRY, &lockspace(index).name, io_timeout);
        free.to_sector().repeat(num_hosts as usize)
    };
    let resource = |index: usize| {
        let geometry = RESOURCE_GEOMETRY;
        let (lockspace, name) = (lockspace(index % lockspaces).name, resource_name(index));
        let mut area = vec![0; geometry.ballots_len(num_hosts)];
        let leader = Leader::new(geometry, &lockspace, &name, num_hosts).to_sector();
        area[..leader.len()].copy_from_slice(&leader);
        let request = Request::default().encode();
        let at = geometry.request_at();
        area[at..at + request.len()].copy_from_slice(&request);
        area
    };
    let disk = |_| {
        let areas = std::iter::once(heartbeats(0)).chain((0..resources).map(resource));
        Platter::new(areas.collect())
    };
    let of_others = (1..lockspaces).map(|index| Platter::new(vec![heartbeats(index)]));
    (0..disks).map(disk).chain(of_others).collect()
}

/// Of whom it is no surprise that they lose a lease, or cannot have one.
#[derive(Debug, Default)]
pub struct Excused {
    /// Of anybody: an assumption is broken.
    pub all: bool,
    /// Host ids: two machines have it, or its heartbeat turned into garbage.
    pub hosts: BTreeSet<u64>,
    /// Resources: a sector turned into garbage.
    pub resources: BTreeSet<usize>,
}

impl Excused {
    /// Anybody.
    pub fn everybody() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whether one of them is.
    pub fn has(&self, host: Option<HostId>, resource: Option<usize>) -> bool {
        let of = |host: HostId| self.hosts.contains(&host.get());
        let with = |resource| self.resources.contains(&resource);
        self.all || host.is_some_and(of) || resource.is_some_and(with)
    }
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
    /// Who may lose what it holds although it lives.
    pub excused: RefCell<Excused>,
    /// Whether no thread is ever late: then nothing is ended while its lease is kept.
    pub strict: Cell<bool>,
    /// What lies in mailboxes.
    pub letters: PostOffice,
    /// Longest time that a letter takes, in nanoseconds.
    pub post_takes: Cell<u64>,
    wishes: RefCell<Vec<Wish>>,
    rng: RefCell<Rng>,
    last_number: Cell<u64>,
    story: Option<RefCell<Vec<story::Line>>>,
}

impl Shared {
    /// At true time 0; `told`: with a story.
    pub fn new(excused: Excused, told: bool) -> Self {
        Self {
            now: Rc::new(Cell::new(0)),
            checker: RefCell::default(),
            members: RefCell::default(),
            excused: RefCell::new(excused),
            strict: Cell::new(false),
            letters: PostOffice::default(),
            post_takes: Cell::new(0),
            wishes: RefCell::default(),
            rng: RefCell::new(Rng::with_seed(0)),
            last_number: Cell::new(0),
            story: told.then(RefCell::default),
        }
    }

    /// All that is random in the post comes from this seed.
    pub fn seed(&self, seed: u64) {
        self.rng.replace(Rng::with_seed(seed));
    }

    /// A number that was never given before.
    pub fn number(&self) -> u64 {
        self.last_number.set(self.last_number.get() + 1);
        self.last_number.get()
    }

    /// A new mailbox.
    pub fn mailbox(&self) -> usize {
        self.letters.open()
    }

    /// Sends a letter; to nobody, if nobody has the mailbox any more.
    pub fn post(&self, mailbox: usize, letter: Letter) {
        let most = self.post_takes.get();
        let takes = self.rng.borrow_mut().u64(0..=most);
        let due = self.now.get() + takes;
        if let Some((mailbox, due)) = self.letters.post(mailbox, letter, due) {
            self.wish(Wish::Mail(mailbox, due));
        }
    }

    /// The next letter that has arrived.
    pub fn take(&self, mailbox: usize) -> Option<Letter> {
        self.letters.take(mailbox, self.now.get())
    }

    /// Wants something of the world.
    pub fn wish(&self, wish: Wish) {
        self.wishes.borrow_mut().push(wish);
    }

    /// What was wanted since the last call.
    pub fn wishes(&self) -> Vec<Wish> {
        self.wishes.take()
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

    /// A live host lost something, or cannot have it: an error, unless it is excused.
    pub fn surprise(
        &self,
        host: Option<HostId>,
        resource: Option<usize>,
        what: impl FnOnce() -> String,
    ) {
        if !self.excused.borrow().has(host, resource) {
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
