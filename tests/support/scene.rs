//! One lockspace and one resource on one scripted disk: states put there by hand, and what the
//! protocol makes of them.
#![allow(clippy::unwrap_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::script::{ScriptClock, ScriptDisk};
use crate::storage::host_id;
use lease_core::clock::{Clock, Moment};
use lease_core::delta::{self, Claim, HostLease, Lockspace, Tenure};
use lease_core::format;
use lease_core::id::{BallotNumber, Generation, HostId, Lver, Name};
use lease_core::layout::Geometry;
use lease_core::liveness::Sightings;
use lease_core::quorum::{Quorum, Replica};
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::holder_note::HolderNote;
use lease_core::record::host_note::HostNote;
use lease_core::record::leader::{Leader, Stamp};
use lease_core::resource::{AcquireError, Attempt, Held, Member, Resource, Wanted};
use lease_core::spec::Mode;
use lease_core::timing::Timing;
use std::rc::Rc;

/// Hosts that take part in its ballots.
pub const HOSTS: u64 = 3;
/// Where the resource is on the disk.
pub const AREA: u64 = 1 << 20;

/// Of both areas.
pub fn geometry() -> Geometry {
    Geometry::ALL[0]
}

/// A name.
pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// t = 10, W = 60.
pub fn timing() -> Timing {
    Timing::new(10, 60).unwrap()
}

/// Where a host's ballot record is on the disk.
pub fn ballot_at(host: u64) -> u64 {
    AREA + geometry().ballot_at(host_id(host)) as u64
}

/// The lockspace LS.
pub fn lockspace() -> Lockspace {
    Lockspace {
        name: name("LS"),
        offset: 0,
        geometry: geometry(),
    }
}

fn note(host: HostId) -> HolderNote {
    HolderNote {
        host,
        generation: Generation(0),
        lver: Lver(0),
        mode: Mode::Exclusive,
        pid: 1,
        start: 1,
        host_name: Vec::new(),
        command: Vec::new(),
    }
}

/// One life of a host.
pub fn stamp(host: u64, generation: u64) -> Stamp {
    Stamp {
        host: host_id(host),
        generation: Generation(generation),
        timestamp: 5,
    }
}

/// A ballot record; its value, if it has one, was accepted.
pub fn block(lver: u64, number: u64, value: Option<Stamp>) -> BallotSector {
    BallotSector {
        ballot: Ballot {
            mbal: BallotNumber(number),
            bal: BallotNumber(if value.is_some() { number } else { 0 }),
            value,
            lver: Lver(lver),
        },
        ..BallotSector::default()
    }
}

/// A lockspace and a resource on one disk, and a clock.
pub struct World {
    /// The disk.
    pub disk: Rc<ScriptDisk>,
    /// Every host's clock.
    pub clock: ScriptClock,
}

impl World {
    /// As formatted; it is the second 10000.
    pub fn formatted() -> Self {
        let lockspace = format::Lockspace {
            geometry: geometry(),
            name: name("LS"),
            io_timeout: 10,
        };
        let resource = format::Resource {
            geometry: geometry(),
            lockspace: name("LS"),
            name: name("RS"),
            num_hosts: HOSTS,
        };
        let mut bytes = lockspace.area();
        bytes.extend(resource.area());
        let clock = ScriptClock::at(10_000);
        let disk = Rc::new(ScriptDisk::new(bytes));
        Self { disk, clock }
    }

    /// The resource's leader.
    pub fn leader(&self) -> Leader {
        Leader::decode(&self.disk.at(AREA, 512)).unwrap()
    }

    /// A host's ballot record.
    pub fn ballot(&self, host: u64) -> BallotSector {
        BallotSector::decode(&self.disk.at(ballot_at(host), 512)).unwrap()
    }

    /// Puts a ballot record on the disk, past the log.
    pub fn put_ballot(&self, host: u64, ballot: &BallotSector) {
        let sector = ballot.to_sector(geometry().sector());
        self.disk.put_at(ballot_at(host), &sector);
    }

    /// A host's heartbeat, as if it had been renewed at `timestamp`.
    pub fn put_heartbeat(&self, host: u64, timestamp: u64) -> Heartbeat {
        let note = HostNote {
            watchdog: 60,
            host: host_id(host),
            generation: Generation(1),
            boot_id: [0; 16],
            former_over: 1,
        };
        let free = Heartbeat::new(geometry(), &name("LS"), 10);
        let joined = free.joined(&name("other"), timestamp, 10, note);
        let at = geometry().heartbeat_at(host_id(host)) as u64;
        self.disk.put_at(at, &joined.to_sector());
        joined
    }

    /// Does something as a host in its first life, with its lease renewed just now.
    pub fn with<T>(
        &self,
        host: u64,
        act: impl FnOnce(&Resource<'_>, &Member<'_>, &Wanted) -> T,
    ) -> T {
        let tenure = Tenure::new(timing(), self.clock.now());
        let member = Member {
            clock: &self.clock,
            tenure: &tenure,
            lockspace: lockspace(),
            heartbeats: &*self.disk,
            host: host_id(host),
            generation: Generation(1),
            ballots_from: Moment::default(),
        };
        let replica = Replica {
            disk: &*self.disk,
            offset: AREA,
        };
        let resource = Resource {
            quorum: Quorum::new(vec![replica]),
            lockspace: name("LS"),
            name: name("RS"),
            geometry: geometry(),
            num_hosts: HOSTS,
        };
        let wanted = Wanted {
            mode: Mode::Exclusive,
            lver: None,
            note: note(host_id(host)),
        };
        act(&resource, &member, &wanted)
    }

    /// One attempt to have it exclusively.
    pub fn acquire(&self, host: u64, seen: &mut Sightings) -> Result<Attempt, AcquireError> {
        self.with(host, |resource, member, wanted| {
            resource.acquire(member, wanted, seen)
        })
    }

    /// An attempt that succeeds.
    pub fn acquired(&self, host: u64) -> Held {
        match self.acquire(host, &mut Sightings::default()) {
            Ok(Attempt::Held(held)) => *held,
            other => panic!("{other:?}"),
        }
    }

    /// A release.
    pub fn release(&self, host: u64, held: &Held) -> Result<(), AcquireError> {
        self.with(host, |resource, member, _| resource.release(member, held))
    }

    /// The end of a doubt.
    pub fn resolve(&self, host: u64) -> Result<(), AcquireError> {
        self.with(host, |resource, member, wanted| {
            resource.resolve(member, wanted)
        })
    }

    /// Joins as host 1.
    pub fn join(&self) -> HostLease {
        let claim = Claim {
            host: host_id(1),
            name: name("host1"),
            timing: timing(),
            boot_id: [1; 16],
            at_least: Generation(0),
            attempted: Generation(0),
            quiet_from: Moment::default(),
            not_before: Moment::default(),
        };
        delta::join(&lockspace(), &*self.disk, &self.clock, &claim, &mut |_| {}).unwrap()
    }
}
