//! What a next lease-join on this host must know of this one: two files in the run directory.
//!
//! The heartbeat's file is written before each renewal and after it, by the thread that renews;
//! the holders' file before each answer that rests on it. In another boot they mean nothing.

use crate::clock::{Clock, Moment};
use crate::delta::{Claim, Former, HostLease};
use crate::disk::{Disk, Fault};
use crate::failure::Failure;
use crate::id::{Generation, HostId, Name};
use crate::record::heartbeat::Heartbeat;
use crate::record::host_note::BootId;
use crate::registry::message::AreaId;
use crate::registry::table::{Holder, Table};
use crate::timing::Timing;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// One life of this host, and its heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The boot that it belongs to.
    pub boot_id: BootId,
    /// The PID namespace in which the holders' numbers mean something.
    pub pid_namespace: u64,
    /// Where the lockspace is.
    pub area: AreaId,
    /// The host id.
    pub host: HostId,
    /// The host's name.
    pub host_name: Name,
    /// Its t and W.
    pub timing: Timing,
    /// The watchdog device that was armed for it, as messages show its path.
    #[serde(default)]
    pub watchdog: Option<String>,
    /// The last generation for which a join was completed here; on a larger one nobody has relied.
    pub completed: Generation,
    /// Its generation, and its heartbeat.
    #[serde(flatten)]
    pub former: Former,
}

/// The holders, with the life that they belong to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Holders {
    /// The generation of that life.
    pub generation: Generation,
    /// The holders.
    pub table: Table,
}

/// Everything that an earlier lease-join of this boot has left.
#[derive(Debug)]
pub struct Remains {
    /// Its host id.
    pub life: Life,
    /// Its holders. `None`: their file was removed, which is how an admin says that nothing is left
    /// of them. Then nobody goes on with that life.
    pub table: Option<Table>,
}

impl Holders {
    /// As they were written down first, and then changed, record by record.
    pub fn parse(records: &[Vec<u8>]) -> serde_json::Result<Self> {
        let page = records.first().map_or(&[][..], |page| page);
        let mut holders: Self = serde_json::from_slice(page)?;
        for record in records.iter().skip(1) {
            holders.table.apply(serde_json::from_slice(record)?);
        }
        Ok(holders)
    }
}

impl Life {
    /// Of a host id that is about to be joined.
    pub(super) fn attempt(claim: &Claim, area: AreaId, pid_namespace: u64) -> Self {
        let Claim {
            host,
            name,
            timing,
            boot_id,
            at_least,
            ..
        } = *claim;
        Self {
            boot_id,
            pid_namespace,
            area,
            host,
            host_name: name,
            timing,
            watchdog: None,
            completed: at_least,
            former: Former::default(),
        }
    }

    /// Now that it was joined, or is gone on with.
    pub(super) fn joined(self, lease: &HostLease) -> Self {
        Self {
            completed: lease.generation(),
            former: lease.former(),
            ..self
        }
    }

    /// What of `other` would be another life than this one: what it is, and how it is here and
    /// there.
    pub(super) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let device = |life: &Self| life.watchdog.clone().unwrap_or_else(|| "none".into());
        let place = |life: &Self| {
            let AreaId { identity, offset } = life.area;
            let (device, inode) = (identity.device, identity.inode);
            format!("device {device} inode {inode} byte {offset}")
        };
        let of = |life: &Self| {
            [
                ("host id", life.host.to_string()),
                ("the lockspace on", place(life)),
                ("host name (-e)", life.host_name.to_string()),
                ("io_timeout (-o)", life.timing.io_timeout().to_string()),
                ("--watchdog-timeout", life.timing.watchdog().to_string()),
                ("--watchdog", device(life)),
            ]
        };
        let mut pairs = of(self).into_iter().zip(of(other));
        let (was, is) = pairs.find(|(was, is)| was != is)?;
        Some((was.0, was.1, is.1))
    }

    /// Whether it was joined, and not only tried to be.
    pub fn is_joined(&self) -> bool {
        self.former.generation == self.completed
    }

    /// When it is lost, unless somebody goes on with it before.
    pub fn expires(&self) -> Moment {
        self.former.renewed.after(self.timing.lost_after())
    }
}

impl Remains {
    /// The holders that are known.
    pub(super) fn holders(&self) -> impl Iterator<Item = &Holder> {
        let holders = self.table.iter().flat_map(Table::holders);
        holders.map(|(_, holder)| holder)
    }

    /// Whether its holders were told that the host id is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.table.as_ref().is_some_and(Table::is_lost)
    }

    /// What an earlier lease-join of the boot `boot_id` has left, as the two files say; `None` if
    /// there is nothing. Fails if there is something that cannot be read: whom it guarded is not
    /// known then.
    pub fn read(
        boot_id: &BootId,
        life: Result<Option<Life>, Failure>,
        holders: impl FnOnce() -> Result<Option<Holders>, Failure>,
    ) -> Result<Option<Self>, Failure> {
        let Some(life) = life?.filter(|life| life.boot_id == *boot_id) else {
            return Ok(None);
        };
        let of_this_life = |h: &Holders| life.is_joined() && h.generation == life.former.generation;
        let table = holders()?.map(|h| match of_this_life(&h) {
            true => h.table,
            false => Table::default(),
        });
        Ok(Some(Self { life, table }))
    }
}

/// The lockspace's disk, logged in the heartbeat's file: it says of each write that it is about to
/// be issued, and that it has completed. What cannot be said there is not written.
pub(super) struct Logged<'a> {
    disk: &'a dyn Disk,
    clock: &'a dyn Clock,
    keep: &'a dyn Fn(&Life) -> Result<(), String>,
    life: RefCell<Life>,
    /// How long the last read and the last write took.
    took: Cell<[Duration; 2]>,
}

impl<'a> Logged<'a> {
    /// The disk of a life that is about to begin, or that goes on.
    pub(super) fn new(
        disk: &'a dyn Disk,
        clock: &'a dyn Clock,
        keep: &'a dyn Fn(&Life) -> Result<(), String>,
        life: Life,
    ) -> Self {
        Self {
            disk,
            clock,
            keep,
            life: RefCell::new(life),
            took: Cell::default(),
        }
    }

    /// The moment before the last completed renewal was issued: what the file says, all are told.
    pub(super) fn renewed(&self) -> Moment {
        self.life.borrow().former.renewed
    }

    /// Milliseconds that the last read and the last write took.
    pub(super) fn took(&self) -> [f64; 2] {
        self.took
            .get()
            .map(|duration| duration.as_secs_f64() * 1000.0)
    }

    fn note(&self, change: impl FnOnce(&mut Life)) -> Result<(), Fault> {
        let mut life = self.life.borrow_mut();
        change(&mut life);
        let failed = |why| Fault::Failed(format!("cannot keep the heartbeat's file: {why}"));
        (self.keep)(&life).map_err(failed)
    }

    fn note_time(&self, which: usize, issued: Moment) {
        let mut took = self.took.get();
        took[which] = self.clock.now().since(issued);
        self.took.set(took);
    }
}

impl Disk for Logged<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let issued = self.clock.now();
        let bytes = self.disk.read(offset, len)?;
        self.note_time(0, issued);
        Ok(bytes)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let issued = self.clock.now();
        self.disk.inspect(offset, len, &mut |bytes| {
            self.note_time(0, issued);
            see(bytes);
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let record = Heartbeat::decode(bytes).map_err(|why| Fault::Failed(why.to_string()))?;
        self.note(|life| {
            life.former.generation = record.generation();
            life.former.issue(record.timestamp(), life.timing);
        })?;
        let issued = self.clock.now();
        self.disk.write(offset, bytes)?;
        self.note(|life| life.former.complete(record.timestamp(), issued))?;
        self.note_time(1, issued);
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        self.disk.settle()
    }
}
