//! Sectors that turn into garbage, or are written in part; and who is excused by that.

use super::super::area_offset;
use super::super::checker;
use super::super::disk::{Platter, SECTOR};
use super::{LARGEST_SECTOR, World};
use lease_core::record::heartbeat::Heartbeat;

/// All records of a sector but what they say for people lie in its first bytes.
const RECORDS: usize = 256;

impl World {
    /// Garbage in one sector that matters, on one disk.
    pub(super) fn spoil(&mut self) {
        let (disks, odd) = (self.disks.len(), &mut self.odd);
        let resources = self.machines[0].setup.resources;
        let (area, host) = (odd.usize(..=resources), odd.usize(..8));
        // The lockspace lies on the first.
        let disk = odd.usize(..if area == 0 { 1 } else { disks });
        let (sector, bytes) = match area {
            0 => (host, LARGEST_SECTOR),
            // The leader as often as all ballots together.
            _ if odd.bool() => (0, SECTOR),
            _ => (2 + host, SECTOR),
        };
        let offset = area_offset(area) + (sector * bytes) as u64;
        let garbage: Vec<u8> = (0..bytes).map(|_| odd.u8(..)).collect();
        self.shared
            .tell(None, || format!("garbage on disk {disk} at byte {offset}"));
        self.disks[disk].write(offset, &garbage);
        self.note_damage(disk, offset);
    }

    /// How much of a write lands that whoever issued it does not wait for any more: where sectors
    /// are spoilt, now and then a part of what hosts read there.
    pub(super) fn part(&mut self, disk: usize, offset: u64, len: usize) -> usize {
        if !self.spoilt || self.healed || self.odd.u8(..4) > 0 {
            return len;
        }
        let landed = self.odd.usize(1..RECORDS / 64) * 64;
        self.shared.tell(None, || {
            format!("{landed} bytes of a write land, on disk {disk}")
        });
        self.note_damage(disk, offset);
        landed
    }

    fn note_damage(&mut self, disk: usize, offset: u64) {
        let area = (offset >> 20) as usize;
        self.damaged.insert((area, disk));
        if area > 0 && offset == area_offset(area) {
            // lease-hold takes it for another disk.
            self.refused.insert(area - 1);
        }
        let copies = self.damaged.iter().filter(|(of, _)| *of == area).count();
        let mut excused = self.shared.excused.borrow_mut();
        if area == 0 {
            let host = offset / LARGEST_SECTOR as u64 + 1;
            excused.hosts.insert(host);
        } else if copies * 2 >= self.disks.len() {
            excused.resources.insert(area - 1);
        }
    }

    pub(super) fn is_damaged(&self, resource: usize) -> bool {
        self.damaged.iter().any(|(area, _)| *area == 1 + resource)
    }

    /// Whether what stands first in the lockspace says what it is: else nobody can join it.
    pub(super) fn is_a_lockspace(&self) -> bool {
        Heartbeat::decode(&self.disks[0].read(area_offset(0), LARGEST_SECTOR)).is_ok()
    }

    /// A lease-join that was told to leave waits, and serves nobody, while one of its leases cannot
    /// be given back for the damage: somebody has to see to that.
    pub(super) fn start_anew_beside_damage(&mut self) {
        if self.damaged.is_empty() {
            return;
        }
        for machine in 0..self.machines.len() {
            let boot = self.machines[machine].boot.get();
            self.admin(machine, boot);
        }
    }

    /// Whether it may be that of a host whose death nobody can see.
    pub(super) fn is_an_excused_hosts(&self, resource: usize) -> bool {
        let excused = self.shared.excused.borrow();
        let area = |disk: &Platter, host| checker::names(disk.area(1 + resource), host);
        let on_a_disk = |host: &u64| self.disks.iter().any(|disk| area(disk, *host));
        excused.hosts.iter().any(on_a_disk)
    }
}
