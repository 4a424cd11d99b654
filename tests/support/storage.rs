//! The storage that the hosts of one test share: one file, a lockspace in its first area, then
//! resources. Formatted for t = 1, so that all times are short.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use crate::files::{MIB, bytes, directory, patch, run};
use lease_core::id::HostId;
use lease_core::layout::Geometry;
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::leader::Leader;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The lockspace LS and the resources R1, R2 ... in areas 1, 2 ... of a file.
pub struct Storage {
    dir: TempDir,
    geometry: Geometry,
}

/// Host id `number`.
pub fn host_id(number: u64) -> HostId {
    HostId::new(number).expect("a host id")
}

impl Storage {
    /// With `resources` resources, in the geometry of sanlock's files.
    pub fn new(resources: u64) -> Self {
        Self::of(Geometry::ALL[0], resources)
    }

    /// With `resources` resources in any geometry.
    pub fn of(geometry: Geometry, resources: u64) -> Self {
        Self::formatted(geometry, resources, &[])
    }

    /// With `resources` resources of 64 hosts each.
    pub fn small(resources: u64) -> Self {
        Self::formatted(Geometry::ALL[0], resources, &["--max-hosts", "64"])
    }

    fn formatted(geometry: Geometry, resources: u64, options: &[&str]) -> Self {
        let storage = Self {
            dir: directory(),
            geometry,
        };
        let (sector, align) = (geometry.sector_bytes(), geometry.align().mebibytes());
        let mut args: Vec<String> = ["--create", "-o", "1", "-Z", &sector.to_string(), "-A"]
            .map(str::to_owned)
            .into();
        args.extend([format!("{align}M"), "-s".into(), storage.lockspace(0)]);
        for number in 1..=resources {
            args.extend(["-r".into(), storage.resource(number)]);
        }
        args.extend(options.iter().map(|option| (*option).to_owned()));
        let ran = run(storage.path(), "lease-init", &args);
        assert_eq!(ran.code, 0, "{ran:?}");
        storage
    }

    /// The directory that everything of the test is in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.path().join("disk")
    }

    /// The LOCKSPACE string of a host.
    pub fn lockspace(&self, host: u64) -> String {
        format!("LS:{host}:{}:0", self.file().display())
    }

    /// The RESOURCE string of resource `number`.
    pub fn resource(&self, number: u64) -> String {
        let offset = self.offset(number);
        format!("LS:R{number}:{}:{offset}", self.file().display())
    }

    /// The byte at which area `number` starts; 0 is the lockspace.
    pub fn offset(&self, number: u64) -> u64 {
        number * self.geometry.align().mebibytes() * MIB
    }

    /// All bytes of area `number`.
    pub fn area(&self, number: u64) -> Vec<u8> {
        let start = usize::try_from(self.offset(number)).expect("it fits");
        let all = bytes(self.file());
        all[start..start + self.geometry.area_bytes()].to_vec()
    }

    /// The leader of resource `number`.
    pub fn leader(&self, number: u64) -> Leader {
        Leader::decode(&self.area(number)).expect("a leader record")
    }

    /// The host id of the owner of resource `number`, and its lver.
    pub fn owner(&self, number: u64) -> (Option<u64>, u64) {
        let leader = self.leader(number);
        let owner = leader.owner().map(|owner| owner.host.get());
        (owner, leader.lver().0)
    }

    /// A host's ballot record of resource `number`.
    pub fn ballot(&self, number: u64, host: u64) -> BallotSector {
        let at = self.geometry.ballot_at(host_id(host));
        BallotSector::decode(&self.area(number)[at..]).expect("a ballot record")
    }

    /// The hosts, of the first `hosts`, that hold resource `number` shared.
    pub fn sharers(&self, number: u64, hosts: u64) -> Vec<u64> {
        let shares = |host: &u64| self.ballot(number, *host).shared.is_some();
        (1..=hosts).filter(shares).collect()
    }

    /// A host's heartbeat.
    pub fn heartbeat(&self, host: u64) -> Heartbeat {
        let at = self.geometry.heartbeat_at(host_id(host));
        Heartbeat::decode(&self.area(0)[at..]).expect("a heartbeat record")
    }

    /// Writes a leader record over that of resource `number`.
    pub fn put_leader(&self, number: u64, leader: &Leader) {
        patch(self.file(), self.offset(number), &leader.to_sector());
    }

    /// Writes a ballot record over a host's of resource `number`.
    pub fn put_ballot(&self, number: u64, host: u64, ballot: &BallotSector) {
        let at = self.geometry.ballot_at(host_id(host)) as u64;
        let sector = ballot.to_sector(self.geometry.sector());
        patch(self.file(), self.offset(number) + at, &sector);
    }

    /// Writes a heartbeat over a host's.
    pub fn put_heartbeat(&self, host: u64, heartbeat: &Heartbeat) {
        let at = self.geometry.heartbeat_at(host_id(host)) as u64;
        patch(self.file(), at, &heartbeat.to_sector());
    }
}
