//! What a next lease-join on this host must know of this one: two files in the run directory.
//!
//! The heartbeat's file is written before each renewal and after it, by the thread that renews;
//! the holders' file before each answer that rests on it. In another boot they mean nothing.

use lease_core::clock::{BootClock, Moment};
use lease_core::delta::{Claim, Former, HostLease};
use lease_core::device::Device;
use lease_core::disk::{Disk, Fault};
use lease_core::id::{Generation, HostId, Name};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::BootId;
use lease_core::registry::journal;
use lease_core::registry::message::AreaId;
use lease_core::registry::place::{Kept, Place};
use lease_core::registry::table::{Holder, Table};
use lease_core::timing::Timing;
use lease_core::tool::{Failure, Status};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One life of this host, and its heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// The boot that it belongs to.
    pub(crate) boot_id: BootId,
    /// The PID namespace in which the holders' numbers mean something.
    pub(crate) pid_namespace: u64,
    /// Where the lockspace is.
    pub(crate) area: AreaId,
    /// The host id.
    pub(crate) host: HostId,
    /// The host's name.
    pub(crate) host_name: Name,
    /// Its t and W.
    pub(crate) timing: Timing,
    /// The watchdog device that was armed for it, as messages show its path.
    #[serde(default)]
    pub(crate) watchdog: Option<String>,
    /// The last generation for which a join was completed here; on a larger one nobody has relied.
    pub(crate) completed: Generation,
    /// Its generation, and its heartbeat.
    #[serde(flatten)]
    pub(crate) former: Former,
}

/// Everything that an earlier lease-join of this boot has left.
#[derive(Debug)]
pub(crate) struct Remains {
    /// Its host id.
    pub(crate) life: Life,
    /// Its holders. `None`: their file was removed, which is how an admin says that nothing is left
    /// of them. Then nobody goes on with that life.
    pub(crate) table: Option<Table>,
}

/// The holders, with the life that they belong to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Holders {
    /// The generation of that life.
    pub(crate) generation: Generation,
    /// The holders.
    pub(crate) table: Table,
}

impl Life {
    /// Of a host id that is about to be joined.
    pub(crate) fn attempt(claim: &Claim, area: AreaId, pid_namespace: u64) -> Self {
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
    pub(crate) fn joined(self, lease: &HostLease) -> Self {
        Self {
            completed: lease.generation(),
            former: Former::of(lease),
            ..self
        }
    }

    /// What of `other` would be another life than this one: what it is, and how it is here and
    /// there.
    pub(crate) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
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
    pub(crate) fn is_joined(&self) -> bool {
        self.former.generation == self.completed
    }

    /// When it is lost, unless somebody goes on with it before.
    pub(crate) fn expires(&self) -> Moment {
        self.former.renewed.after(self.timing.lost_after())
    }

    fn save(&self, place: &Place) -> Result<(), Fault> {
        let failed =
            |why: String| Fault::Failed(format!("cannot keep the heartbeat's file: {why}"));
        let bytes = serde_json::to_vec(self).map_err(|why| failed(why.to_string()))?;
        place
            .write(Kept::Heartbeat, &bytes)
            .map_err(|why| failed(why.to_string()))
    }
}

impl Remains {
    /// The holders that are known.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Holder> {
        let holders = self.table.iter().flat_map(Table::holders);
        holders.map(|(_, holder)| holder)
    }

    /// Whether its holders were told that the host id is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.table.as_ref().is_some_and(Table::is_lost)
    }

    /// What an earlier lease-join of this boot has left; `None` if there is nothing. Fails if there
    /// is something that cannot be read: whom it guarded is not known then.
    pub(crate) fn read(place: &Place, boot_id: &BootId) -> Result<Option<Self>, Failure> {
        let life: Option<Life> = read_file(place, Kept::Heartbeat)?;
        let Some(life) = life.filter(|life| life.boot_id == *boot_id) else {
            return Ok(None);
        };
        let holders = read_holders(place)?;
        let of_this_life = |h: &Holders| life.is_joined() && h.generation == life.former.generation;
        let table = holders.map(|h| match of_this_life(&h) {
            true => h.table,
            false => Table::default(),
        });
        Ok(Some(Self { life, table }))
    }
}

fn read_file<T: DeserializeOwned>(place: &Place, file: Kept) -> Result<Option<T>, Failure> {
    let bytes = place
        .read(file)
        .map_err(|why| unreadable(place, file, &why))?;
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
    let parsed = bytes.map(parse).transpose();
    parsed.map_err(|why| unreadable(place, file, &why))
}

/// The holders as they were written down, and then changed.
fn read_holders(place: &Place) -> Result<Option<Holders>, Failure> {
    let records = journal::read(place).map_err(|why| unreadable(place, Kept::Holders, &why))?;
    let parse = |records: Vec<Vec<u8>>| {
        let mut records = records.into_iter();
        let page = records.next().unwrap_or_default();
        let mut holders: Holders = serde_json::from_slice(&page)?;
        for record in records {
            holders.table.apply(serde_json::from_slice(&record)?);
        }
        Ok::<_, serde_json::Error>(holders)
    };
    let parsed = records.map(parse).transpose();
    parsed.map_err(|why| unreadable(place, Kept::Holders, &why))
}

fn unreadable(place: &Place, file: Kept, why: &dyn Display) -> Failure {
    let text = format!(
        "cannot join {}: the file {} of an earlier lease-join cannot be read ({why}), and what \
         that one guarded may still run; end it, remove the file, and start again",
        place.shown().display(),
        file.name()
    );
    Failure::new(Status::Busy, text)
}

/// The heartbeat's file. It says of each write that it is about to be issued, and that it has
/// completed; what cannot be said there is not written.
#[derive(Debug)]
struct Ledger {
    place: Place,
    life: Mutex<Life>,
}

impl Ledger {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a heartbeat. Returns the moment before it was issued.
    fn write(&self, device: &Device, offset: u64, bytes: &[u8]) -> Result<Moment, Fault> {
        let record = Heartbeat::decode(bytes).map_err(|why| Fault::Failed(why.to_string()))?;
        let mut life = self.life();
        let timing = life.timing;
        life.former.generation = record.generation();
        life.former.issue(record.timestamp(), timing);
        life.save(&self.place)?;
        let issued = BootClock::boot_time();
        device.write(offset, bytes)?;
        life.former.complete(record.timestamp(), issued);
        life.save(&self.place)?;
        Ok(issued)
    }
}

/// The lockspace's disk for a join: each life that it may begin is logged before that.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    device: &'a Device,
    ledger: Ledger,
}

impl<'a> Attempt<'a> {
    /// At a life that is about to begin.
    pub(crate) fn new(device: &'a Device, place: Place, life: Life) -> Self {
        let life = Mutex::new(life);
        Self {
            device,
            ledger: Ledger { place, life },
        }
    }
}

impl Disk for Attempt<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.device.read(offset, len)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.ledger.write(self.device, offset, bytes)?;
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        self.device.settle()
    }
}

/// The lockspace's disk for the thread that renews: each write is logged before it is issued and
/// after it has completed.
#[derive(Debug)]
pub(crate) struct Logged {
    device: Device,
    ledger: Ledger,
    /// How long the last read and the last write took.
    took: Mutex<[Duration; 2]>,
}

impl Logged {
    /// Over the disk of a host id that was just joined. Logs it as it stands.
    pub(crate) fn new(device: Device, place: Place, life: Life) -> Result<Self, Fault> {
        life.save(&place)?;
        let life = Mutex::new(life);
        Ok(Self {
            device,
            ledger: Ledger { place, life },
            took: Mutex::default(),
        })
    }
}

impl Logged {
    /// The disk itself, to be looked at.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The moment before the last completed renewal was issued: what the file says, all are told.
    pub(crate) fn renewed(&self) -> Moment {
        self.ledger.life().former.renewed
    }

    /// Milliseconds that the last read and the last write took.
    pub(crate) fn took(&self) -> [f64; 2] {
        let took = *self.took.lock().unwrap_or_else(PoisonError::into_inner);
        took.map(|duration| duration.as_secs_f64() * 1000.0)
    }

    fn note(&self, which: usize, issued: Moment) {
        let took = BootClock::boot_time().since(issued);
        self.took.lock().unwrap_or_else(PoisonError::into_inner)[which] = took;
    }
}

impl Disk for Logged {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let issued = BootClock::boot_time();
        let bytes = self.device.read(offset, len)?;
        self.note(0, issued);
        Ok(bytes)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let issued = BootClock::boot_time();
        self.device.inspect(offset, len, &mut |bytes| {
            self.note(0, issued);
            see(bytes);
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let issued = self.ledger.write(&self.device, offset, bytes)?;
        self.note(1, issued);
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        self.device.settle()
    }
}
