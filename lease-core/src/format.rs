//! Whole areas as they are before anyone used them: lockspaces, resources, indexes.
//!
//! Invariants: an area is written from its first byte to its last, so nothing of what stood there
//! survives; the bytes are those that `sanlock direct init` and `format` write. A lockspace and an
//! index exist from the moment on at which their first record carries its magic, and that is one
//! sector, written last.

use crate::disk::{Disk, Fault};
use crate::id::{HostId, Name};
use crate::layout::Geometry;
use crate::record::bytes::put;
use crate::record::heartbeat::Heartbeat;
use crate::record::index::{INDEX_LEASE, IndexHeader};
use crate::record::leader::{Cleared, Leader};
use crate::record::request::Request;

/// Bytes of a magic number, at the start of every record that has one.
const MAGIC_LEN: usize = 4;

/// A lockspace to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockspace {
    /// Sector and area size.
    pub geometry: Geometry,
    /// Its name.
    pub name: Name,
    /// t for the hosts that join it: seconds, 1..=255.
    pub io_timeout: u8,
}

/// A resource to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// Sector and area size.
    pub geometry: Geometry,
    /// Name of its lockspace.
    pub lockspace: Name,
    /// Its name.
    pub name: Name,
    /// How many hosts take part in its ballots: 1..=max_hosts of the geometry.
    pub num_hosts: u64,
}

/// A resource index to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// Its header, with the place of the index.
    pub header: IndexHeader,
}

impl Lockspace {
    /// The whole area: a free heartbeat for every host, then zeros.
    pub fn area(&self) -> Vec<u8> {
        let mut area = vec![0; self.geometry.area_bytes()];
        let free = Heartbeat::new(self.geometry, &self.name, self.io_timeout).to_sector();
        for host in HostId::all(self.geometry.max_hosts()) {
            put(&mut area, self.geometry.heartbeat_at(host), &free);
        }
        area
    }

    /// Writes the area at byte `offset`: everything but the first record's magic, then that.
    ///
    /// On failure there is no lockspace, unless its last write may have landed
    /// ([`Fault::TimedOut`]); what stood there before may be gone.
    pub fn write(&self, disk: &dyn Disk, offset: u64) -> Result<(), Fault> {
        write_magic_last(disk, offset, self.area(), self.geometry)
    }
}

impl Resource {
    /// The whole area: a free leader, no request, no ballots.
    pub fn area(&self) -> Vec<u8> {
        let mut area = vec![0; self.geometry.area_bytes()];
        let leader = Leader::new(self.geometry, &self.lockspace, &self.name, self.num_hosts);
        put(&mut area, 0, &leader.encode());
        let request_at = self.geometry.request_at();
        put(&mut area, request_at, &Request::default().encode());
        area
    }

    /// Writes the area at byte `offset`, in one write.
    ///
    /// On failure nothing is known of what stands there.
    pub fn write(&self, disk: &dyn Disk, offset: u64) -> Result<(), Fault> {
        disk.write(offset, &self.area())
    }

    /// What is left where the resource was deleted: a record that says so, no request, no ballots.
    pub fn cleared_area(&self) -> Vec<u8> {
        let cleared = Cleared {
            geometry: self.geometry,
            lockspace: self.lockspace,
            resource: self.name,
        };
        let mut area = self.area();
        put(&mut area, 0, &cleared.to_sector());
        area
    }
}

impl Index {
    /// The two areas: the header and no entry, then the resource that whoever changes an entry
    /// holds.
    pub fn areas(&self) -> Vec<u8> {
        let geometry = self.header.geometry;
        let mut areas = vec![0; geometry.area_bytes()];
        put(&mut areas, 0, &self.header.to_sector());
        areas.extend(self.lease().area());
        areas
    }

    /// The resource in its second area.
    fn lease(&self) -> Resource {
        Resource {
            geometry: self.header.geometry,
            lockspace: self.header.lockspace,
            name: INDEX_LEASE,
            num_hosts: self.header.geometry.max_hosts(),
        }
    }

    /// Writes both areas where the header says that they lie: everything but the header's magic,
    /// then that.
    ///
    /// On failure there is no index, unless its last write may have landed
    /// ([`Fault::TimedOut`]); what stood there before may be gone.
    pub fn write(&self, disk: &dyn Disk) -> Result<(), Fault> {
        write_magic_last(disk, self.header.offset, self.areas(), self.header.geometry)
    }
}

/// Writes `area` at byte `offset`, its first record's magic last.
fn write_magic_last(
    disk: &dyn Disk,
    offset: u64,
    mut area: Vec<u8>,
    geometry: Geometry,
) -> Result<(), Fault> {
    let first = area[..geometry.sector_bytes()].to_vec();
    area[..MAGIC_LEN].fill(0);
    disk.write(offset, &area)?;
    disk.write(offset, &first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Keeps every write, and fails the one whose number is `broken`.
    #[derive(Default)]
    struct Journal {
        writes: RefCell<Vec<(u64, Vec<u8>)>>,
        broken: Option<usize>,
    }

    impl Disk for Journal {
        fn read(&self, _: u64, _: usize) -> Result<Vec<u8>, Fault> {
            Err(Fault::Outstanding)
        }
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
            let mut writes = self.writes.borrow_mut();
            if self.broken == Some(writes.len()) {
                return Err(Fault::Failed("broken".into()));
            }
            writes.push((offset, bytes.to_vec()));
            Ok(())
        }
        fn settle(&self) -> Result<(), Fault> {
            Ok(())
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn lockspace(geometry: Geometry) -> Lockspace {
        Lockspace {
            geometry,
            name: name("LS"),
            io_timeout: 10,
        }
    }

    #[test]
    fn a_lockspace_exists_from_its_last_sector_write_on() {
        for geometry in Geometry::ALL {
            let journal = Journal::default();
            lockspace(geometry).write(&journal, 8 << 20).unwrap();
            let writes = journal.writes.into_inner();
            let [(at, area), (first_at, first)] = writes.as_slice() else {
                panic!("{} writes", writes.len());
            };
            assert_eq!((*at, *first_at), (8 << 20, 8 << 20));
            assert_eq!(area.len(), geometry.area_bytes());
            assert_eq!(first.len(), geometry.sector_bytes());
            assert!(Heartbeat::decode(area).is_err());
            assert!(Heartbeat::decode(first).is_ok());
            let whole = lockspace(geometry).area();
            assert_eq!(
                (first.as_slice(), &area[first.len()..]),
                whole.split_at(first.len())
            );
        }
    }

    #[test]
    fn a_broken_first_write_is_followed_by_no_second() {
        let journal = Journal {
            broken: Some(0),
            ..Journal::default()
        };
        assert!(lockspace(Geometry::ALL[0]).write(&journal, 0).is_err());
        assert_eq!(journal.writes.into_inner(), []);
    }

    #[test]
    fn every_host_has_a_free_heartbeat_and_nothing_follows() {
        for geometry in Geometry::ALL {
            let area = lockspace(geometry).area();
            for host in HostId::all(geometry.max_hosts()) {
                let record = Heartbeat::decode(&area[geometry.heartbeat_at(host)..]).unwrap();
                assert!(record.is_free() && record.geometry() == geometry);
            }
            let rest = &area[geometry.heartbeats_len()..];
            assert!(rest.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_resource_is_a_leader_a_request_and_zeros() {
        for geometry in Geometry::ALL {
            let resource = Resource {
                geometry,
                lockspace: name("LS"),
                name: name("RS"),
                num_hosts: 3,
            };
            let area = resource.area();
            assert_eq!(area.len(), geometry.area_bytes());
            let leader = Leader::decode(&area).unwrap();
            assert_eq!((leader.num_hosts(), leader.geometry()), (3, geometry));
            let request = Request::decode(&area[geometry.request_at()..]);
            assert_eq!(request, Ok(Request::default()));
            let ballots = &area[2 * geometry.sector_bytes()..];
            assert!(ballots.iter().all(|byte| *byte == 0));
        }
    }
}
