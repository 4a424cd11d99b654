//! A lockspace's area: every host's heartbeat.

use crate::disk::{Disk, Fault, read_as};
use crate::id::{HostId, Name};
use crate::layout::Geometry;
use crate::record::RecordError;
use crate::record::heartbeat::{Heartbeat, RECORD_LEN};
use thiserror::Error;

/// A lockspace on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockspace {
    /// Its name.
    pub name: Name,
    /// Byte of the disk at which its area starts.
    pub offset: u64,
    /// Sector and area size.
    pub geometry: Geometry,
}

impl Lockspace {
    /// Reads host `host`'s heartbeat: the outer failure is the storage's, the inner one the
    /// record's.
    pub fn read_host(
        &self,
        disk: &dyn Disk,
        host: HostId,
    ) -> Result<Result<Heartbeat, HeartbeatError>, Fault> {
        let at = self.offset + self.geometry.heartbeat_at(host) as u64;
        read_as(disk, at, self.geometry.sector_bytes(), |sector| {
            self.decode(sector)
        })
    }

    /// Reads every heartbeat.
    pub fn read_all(&self, disk: &dyn Disk) -> Result<Area, Fault> {
        let len = self.geometry.heartbeats_len();
        read_as(disk, self.offset, len, |bytes| Area::of(*self, bytes))
    }

    pub(super) fn write_host(
        &self,
        disk: &dyn Disk,
        host: HostId,
        record: &Heartbeat,
    ) -> Result<(), Fault> {
        let at = self.offset + self.geometry.heartbeat_at(host) as u64;
        disk.write(at, &record.to_sector())
    }

    fn decode(&self, sector: &[u8]) -> Result<Heartbeat, HeartbeatError> {
        let record = Heartbeat::decode(sector)?;
        if *record.lockspace() != self.name {
            return Err(HeartbeatError::Lockspace {
                found: *record.lockspace(),
            });
        }
        if record.geometry() != self.geometry {
            return Err(HeartbeatError::Geometry {
                found: record.geometry(),
            });
        }
        Ok(record)
    }
}

/// The heartbeats of a whole lockspace, as they were read. Sectors are of different moments.
#[derive(Debug, Clone)]
pub struct Area {
    lockspace: Lockspace,
    /// The record at the start of each sector. Of those at the end that are all the same, as
    /// formatting leaves them, only the first.
    records: Vec<u8>,
}

impl Area {
    fn of(lockspace: Lockspace, bytes: &[u8]) -> Self {
        let sectors = bytes.chunks(lockspace.geometry.sector_bytes());
        let records = sectors.map(|sector| &sector[..RECORD_LEN]);
        let last = records.clone().next_back().unwrap_or_default();
        let same = records.clone().rev().take_while(|record| *record == last);
        let kept = records.len() - same.count().saturating_sub(1);
        Self {
            lockspace,
            records: records.take(kept).collect::<Vec<_>>().concat(),
        }
    }

    /// Host `host`'s heartbeat.
    pub fn host(&self, host: HostId) -> Result<Heartbeat, HeartbeatError> {
        self.lockspace.decode(self.record(host))
    }

    /// What stands in the sector of every host.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, Result<Heartbeat, HeartbeatError>)> + '_ {
        let hosts = HostId::all(self.lockspace.geometry.max_hosts());
        hosts.map(|host| (host, self.host(host)))
    }

    /// Every record that checks, of hosts that were ever joined.
    pub fn joined(&self) -> impl Iterator<Item = (HostId, Heartbeat)> + '_ {
        let joined = |host| {
            let record = self.host(host).ok()?;
            record.owner().map(|_| (host, record))
        };
        // All that are not kept are as the last one, which as a rule nobody has ever joined.
        let hosts = || HostId::all(self.lockspace.geometry.max_hosts());
        let last = hosts().last().and_then(joined);
        let most = match last {
            Some(_) => usize::MAX,
            None => self.records.len() / RECORD_LEN,
        };
        hosts().take(most).filter_map(joined)
    }

    /// The io_timeout that the lockspace was formatted with, in seconds: that of a record which
    /// nobody has joined yet; of `host`'s own where all have been.
    pub fn formatted_io_timeout(&self, host: HostId) -> Option<u8> {
        let untouched = self
            .hosts()
            .filter_map(|(_, record)| record.ok())
            .find(|record| record.owner().is_none());
        untouched
            .or_else(|| self.host(host).ok())
            .and_then(|record| record.io_timeout())
    }

    fn record(&self, host: HostId) -> &[u8] {
        let at = host.index() * RECORD_LEN;
        let at = at.min(self.records.len() - RECORD_LEN);
        &self.records[at..at + RECORD_LEN]
    }
}

/// Why a sector is not a heartbeat of this lockspace.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum HeartbeatError {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("it belongs to lockspace {found}")]
    Lockspace { found: Name },
    #[error("its record says {found}")]
    Geometry { found: Geometry },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Answers nothing, and keeps what was asked of it: where, and how many bytes.
    #[derive(Default)]
    struct Asked(RefCell<Vec<(u64, usize)>>);

    impl Disk for Asked {
        fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
            self.0.borrow_mut().push((offset, len));
            Err(Fault::Outstanding)
        }
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
            self.read(offset, bytes.len()).map(|_| ())
        }
        fn settle(&self) -> Result<(), Fault> {
            Ok(())
        }
    }

    #[test]
    fn every_record_is_found_from_where_the_lockspace_starts_on_its_disk() {
        let (name, host) = (Name::new(b"LS").unwrap(), HostId::new(3).unwrap());
        let offset = 3 << 20;
        for geometry in Geometry::ALL {
            let lockspace = Lockspace {
                name,
                offset,
                geometry,
            };
            let record = Heartbeat::new(geometry, &name, 10);
            let disk = Asked::default();
            lockspace.read_host(&disk, host).unwrap_err();
            lockspace.read_all(&disk).unwrap_err();
            lockspace.write_host(&disk, host, &record).unwrap_err();
            let (sector, all) = (geometry.sector_bytes(), geometry.heartbeats_len());
            let third = (offset + 2 * sector as u64, sector);
            assert_eq!(disk.0.take(), [third, (offset, all), third]);
        }
    }

    /// Of the records at the end that are all the same only one is kept.
    #[test]
    fn each_host_is_found_in_what_was_read_of_all() {
        let (name, geometry) = (Name::new(b"LS").unwrap(), Geometry::ALL[0]);
        let offset = 0;
        let lockspace = Lockspace {
            name,
            offset,
            geometry,
        };
        let free = Heartbeat::new(geometry, &name, 10);
        let other = free.timed(7);
        for host in [1, 2, 1999, 2000].map(|number| HostId::new(number).unwrap()) {
            let mut bytes = free.to_sector().repeat(2000);
            let at = geometry.heartbeat_at(host);
            bytes[at..at + RECORD_LEN].copy_from_slice(&other.to_sector());
            let area = Area::of(lockspace, &bytes);
            let found = HostId::all(2000).filter(|host| area.host(*host) == Ok(other));
            assert_eq!(found.collect::<Vec<_>>(), [host]);
        }
    }
}
