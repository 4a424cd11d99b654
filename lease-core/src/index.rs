//! A resource index on a disk: the names of resources and where they lie, so that nobody counts
//! offsets.
//!
//! Invariants. Only the holder of the index's lease, exclusive, writes an entry or formats an area
//! for one; nothing here takes that lease. A resource's area is formatted before its entry is
//! written, and its entry is gone before its area is cleared: whenever power is lost, each entry
//! leads to a resource of its name, and the worst that is left is an area without an entry. A name
//! stands in one entry. An entry is written with its whole sector, so that it is there or not.

use crate::disk::{Disk, Fault, read_as};
use crate::failure::{Failure, Status};
use crate::format::Resource;
use crate::id::{Lver, Name};
use crate::record::RecordError;
use crate::record::index::{ENTRY_LEN, IndexEntry, IndexHeader};
use crate::record::leader::{Cleared, Leader};
use crate::survey::STEP;
use std::fmt;
use thiserror::Error;

/// Bytes that hold the first record of an area of either sector size.
const FIRST_SECTOR: usize = 4096;

/// Why an index does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum IndexError {
    #[error("{0}")]
    Disk(#[from] Fault),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("no index of lockspace {lockspace} lies there; lease-init -x makes one")]
    NoIndex { lockspace: Name },
    #[error("the index at offset {at} says that it lies at offset {found}")]
    Place { at: u64, found: u64 },
    #[error("the index has two entries of that name, for offsets {0} and {1}")]
    Twice(u64, u64),
    #[error("entry {slot} of the index is for offset {found}, where it stands for {expected}")]
    Entry {
        slot: usize,
        found: u64,
        expected: u64,
    },
    #[error("it is there already, at offset {0}")]
    Exists(u64),
    #[error("the index has no entry of that name; lease-dump shows those that it has")]
    Missing,
    #[error("the index has no free entry whose area is free and within the disk")]
    Full,
    #[error("two resources are called {name}: at offsets {first} and {second}")]
    Namesakes { name: Name, first: u64, second: u64 },
}

impl IndexError {
    /// The line and the exit code of a tool that ends with this.
    pub fn failure(&self, tried: impl fmt::Display) -> Failure {
        let status = match self {
            Self::Disk(fault) => return Failure::of_fault(tried, fault),
            Self::Exists(_) | Self::Full => Status::CannotCreate,
            Self::Missing | Self::NoIndex { .. } => Status::NoPath,
            _ => Status::Invalid,
        };
        Failure::new(status, format!("{tried}: {self}"))
    }
}

/// The byte at which a resource lies, by its name in the index of its lockspace on a disk of `size`
/// bytes.
pub fn locate(
    disk: &dyn Disk,
    size: u64,
    lockspace: Name,
    resource: Name,
) -> Result<u64, IndexError> {
    let index = Index::find(disk, size, lockspace)?;
    let found = index.entries(disk)?.find(resource)?;
    found.ok_or(IndexError::Missing)
}

/// An index whose header was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    header: IndexHeader,
}

/// All entries of an index, as they stood at one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    header: IndexHeader,
    bytes: Vec<u8>,
}

impl Index {
    /// The index at byte `offset`.
    pub fn read(disk: &dyn Disk, offset: u64) -> Result<Self, IndexError> {
        let header = read_as(disk, offset, FIRST_SECTOR, IndexHeader::decode)??;
        match header.offset == offset {
            true => Ok(Self { header }),
            false => Err(IndexError::Place {
                at: offset,
                found: header.offset,
            }),
        }
    }

    /// The first index of `lockspace` on a disk of `size` bytes.
    pub fn find(disk: &dyn Disk, size: u64, lockspace: Name) -> Result<Self, IndexError> {
        let ends = |offset: u64| size.saturating_sub(offset) >= FIRST_SECTOR as u64;
        let offsets = (0..size).step_by(STEP as usize).filter(|at| ends(*at));
        for offset in offsets {
            match Self::read(disk, offset) {
                Ok(index) if index.header.lockspace == lockspace => return Ok(index),
                Err(error @ IndexError::Disk(_)) => return Err(error),
                _ => {}
            }
        }
        Err(IndexError::NoIndex { lockspace })
    }

    /// Its header.
    pub fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// Where the area of its lease starts.
    pub fn lease_at(&self) -> u64 {
        self.header.offset + self.header.geometry.align().bytes()
    }

    /// Reads all entries.
    pub fn entries(&self, disk: &dyn Disk) -> Result<Entries, Fault> {
        let header = self.header;
        let sector = header.geometry.sector_bytes();
        let len = (header.slots() * ENTRY_LEN).next_multiple_of(sector);
        let bytes = disk.read(header.offset + sector as u64, len)?;
        Ok(Entries { header, bytes })
    }

    /// The byte after the area of the first free entry; `None`: there is no free entry.
    pub fn next_end(&self, disk: &dyn Disk) -> Result<Option<u64>, Fault> {
        let free = self.entries(disk)?.free_slots().next();
        Ok(free.map(|slot| self.header.place(slot + 1)))
    }

    /// Formats `resource` in the first free area and enters its name. Returns where it lies.
    ///
    /// On failure either nothing has changed, or an area without an entry is left, which the next
    /// try of the same name takes again.
    pub fn create(
        &self,
        disk: &dyn Disk,
        size: u64,
        resource: &Resource,
    ) -> Result<u64, IndexError> {
        let entries = self.entries(disk)?;
        if let Some(slot) = entries.slot_of(resource.name)? {
            return Err(IndexError::Exists(self.header.place(slot)));
        }
        for slot in entries.free_slots() {
            let offset = self.header.place(slot);
            if !self.is_within(offset, size) {
                break;
            }
            if is_free(disk, offset, resource)? {
                resource.write(disk, offset)?;
                let name = resource.name;
                self.put(disk, &entries, slot, Some(IndexEntry { offset, name }))?;
                return Ok(offset);
            }
        }
        Err(IndexError::Full)
    }

    /// Takes `resource` out of the index and clears its area; the caller holds the resource's lease
    /// too, if `held`. Otherwise, as where the area is no such resource, the area is left alone.
    /// Returns where it lies.
    ///
    /// On failure the entry is gone or not; without one, the area may be left as it was.
    pub fn delete(
        &self,
        disk: &dyn Disk,
        resource: &Resource,
        held: bool,
    ) -> Result<u64, IndexError> {
        let entries = self.entries(disk)?;
        let slot = entries.slot_of(resource.name)?;
        let slot = slot.ok_or(IndexError::Missing)?;
        let offset = self.header.place(slot);
        self.put(disk, &entries, slot, None)?;
        if held {
            disk.write(offset, &resource.cleared_area())?;
        }
        Ok(offset)
    }

    /// Makes each entry say what stands in its area, up to the end of the disk. Returns how many
    /// entries have changed.
    ///
    /// On failure some entries are right and the others as they were.
    pub fn rebuild(&self, disk: &dyn Disk, size: u64) -> Result<usize, IndexError> {
        let mut entries = self.entries(disk)?;
        let mut found: Vec<Option<IndexEntry>> = Vec::new();
        for slot in 0..self.header.slots() {
            let offset = self.header.place(slot);
            let entry = match self.is_within(offset, size) {
                true => self.resource_at(disk, offset)?,
                false => None,
            };
            if let Some(entry) = entry
                && let Some(first) = found.iter().flatten().find(|e| e.name == entry.name)
            {
                return Err(IndexError::Namesakes {
                    name: entry.name,
                    first: first.offset,
                    second: offset,
                });
            }
            found.push(entry);
        }
        let mut changed = 0;
        for (slot, entry) in found.into_iter().enumerate() {
            if entries.at(slot) != entry {
                self.put(disk, &entries, slot, entry)?;
                entries.set(slot, entry);
                changed += 1;
            }
        }
        Ok(changed)
    }

    fn is_within(&self, offset: u64, size: u64) -> bool {
        let end = offset.checked_add(self.header.geometry.align().bytes());
        end.is_some_and(|end| end <= size)
    }

    /// The resource of this index's lockspace that lies there.
    fn resource_at(&self, disk: &dyn Disk, offset: u64) -> Result<Option<IndexEntry>, Fault> {
        let leader = read_as(disk, offset, FIRST_SECTOR, Leader::decode)?;
        let ours = |leader: &Leader| {
            (*leader.lockspace(), leader.geometry())
                == (self.header.lockspace, self.header.geometry)
        };
        let name = leader.ok().filter(ours).map(|leader| *leader.resource());
        Ok(name.map(|name| IndexEntry { offset, name }))
    }

    /// Writes the sector that entry `slot` stands in.
    fn put(
        &self,
        disk: &dyn Disk,
        entries: &Entries,
        slot: usize,
        entry: Option<IndexEntry>,
    ) -> Result<(), Fault> {
        let size = self.header.geometry.sector_bytes();
        let start = slot * ENTRY_LEN / size * size;
        let mut changed = entries.clone();
        changed.set(slot, entry);
        let at = self.header.offset + (size + start) as u64;
        disk.write(at, &changed.bytes[start..start + size])
    }
}

impl Entries {
    /// All that are in use.
    pub fn iter(&self) -> impl Iterator<Item = IndexEntry> {
        (0..self.header.slots()).filter_map(|slot| self.at(slot))
    }

    /// Where the resource of this name lies. `None`: there is no entry for it.
    pub fn find(&self, name: Name) -> Result<Option<u64>, IndexError> {
        let slot = self.slot_of(name)?;
        Ok(slot.map(|slot| self.header.place(slot)))
    }

    fn slot_of(&self, name: Name) -> Result<Option<usize>, IndexError> {
        let named = |slot: &usize| self.at(*slot).is_some_and(|entry| entry.name == name);
        let mut found = (0..self.header.slots()).filter(named);
        let Some(slot) = found.next() else {
            return Ok(None);
        };
        let expected = self.header.place(slot);
        if let Some(second) = found.next() {
            return Err(IndexError::Twice(expected, self.header.place(second)));
        }
        match self.at(slot) {
            Some(entry) if entry.offset != expected => Err(IndexError::Entry {
                slot,
                found: entry.offset,
                expected,
            }),
            _ => Ok(Some(slot)),
        }
    }

    fn free_slots(&self) -> impl Iterator<Item = usize> {
        (0..self.header.slots()).filter(|slot| self.at(*slot).is_none())
    }

    fn at(&self, slot: usize) -> Option<IndexEntry> {
        self.header.entry(&self.bytes, slot)
    }

    fn set(&mut self, slot: usize, entry: Option<IndexEntry>) {
        let bytes = entry.map_or([0; ENTRY_LEN], |entry| entry.encode());
        self.bytes[slot * ENTRY_LEN..][..ENTRY_LEN].copy_from_slice(&bytes);
    }
}

/// Whether an area can be had for `resource`: it is zeros, or was cleared, or is this very resource
/// as formatting leaves it, from a try that came to no end.
fn is_free(disk: &dyn Disk, offset: u64, resource: &Resource) -> Result<bool, Fault> {
    read_as(disk, offset, resource.geometry.area_bytes(), |area| {
        let is_cleared = Cleared::decode(area).is_ok();
        is_cleared || area.iter().all(|byte| *byte == 0) || is_unused(area, resource)
    })
}

fn is_unused(area: &[u8], resource: &Resource) -> bool {
    let unused = |leader: Leader| leader.owner().is_none() && leader.lver() == Lver(0);
    Leader::decode(area).is_ok_and(unused) && area == resource.area()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;
    use crate::layout::Geometry;
    use crate::record::index::MAX_RESOURCES;
    use std::cell::{Cell, RefCell};

    /// A disk in memory that loses power before its nth write.
    struct Memory {
        bytes: RefCell<Vec<u8>>,
        writes_left: Cell<usize>,
    }

    impl Disk for Memory {
        fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
            let all = self.bytes.borrow();
            let bytes = all.get(offset as usize..offset as usize + len);
            bytes.map(<[u8]>::to_vec).ok_or(Fault::Outstanding)
        }
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
            let left = self.writes_left.get();
            self.writes_left
                .set(left.checked_sub(1).ok_or(Fault::Outstanding)?);
            self.bytes.borrow_mut()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
        fn settle(&self) -> Result<(), Fault> {
            Ok(())
        }
    }

    const GEOMETRY: Geometry = Geometry::ALL[0];
    const MIB: u64 = 1 << 20;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn resource(text: &str) -> Resource {
        Resource {
            geometry: GEOMETRY,
            lockspace: name("LS"),
            name: name(text),
            num_hosts: 3,
        }
    }

    impl Memory {
        /// A disk of so many MiB, with an empty index of LS at 1 MiB.
        fn with_index(mebibytes: u64) -> (Self, Index) {
            let disk = Self {
                bytes: RefCell::new(vec![0; (mebibytes * MIB) as usize]),
                writes_left: Cell::new(usize::MAX),
            };
            let header = IndexHeader {
                geometry: GEOMETRY,
                max_resources: MAX_RESOURCES,
                offset: MIB,
                lockspace: name("LS"),
            };
            format::Index { header }.write(&disk).unwrap();
            let index = Index::read(&disk, MIB).unwrap();
            (disk, index)
        }

        fn size(&self) -> u64 {
            self.bytes.borrow().len() as u64
        }

        fn create(&self, index: &Index, text: &str) -> Result<u64, IndexError> {
            index.create(self, self.size(), &resource(text))
        }

        /// What is found by name, and where; each entry must lead to a resource of its name.
        fn contents(&self, index: &Index) -> Vec<(String, u64)> {
            let entries = index.entries(self).unwrap();
            let of = |entry: IndexEntry| {
                let leader = Leader::decode(&self.bytes.borrow()[entry.offset as usize..]).unwrap();
                assert_eq!(*leader.resource(), entry.name);
                assert_eq!(entries.find(entry.name), Ok(Some(entry.offset)));
                (entry.name.to_string(), entry.offset / MIB)
            };
            entries.iter().map(of).collect()
        }
    }

    fn listed(of: &[(&str, u64)]) -> Vec<(String, u64)> {
        of.iter().map(|(n, at)| ((*n).to_owned(), *at)).collect()
    }

    #[test]
    fn names_get_the_first_free_areas_and_give_them_back() {
        let (disk, index) = Memory::with_index(6);
        assert_eq!(disk.create(&index, "a"), Ok(3 * MIB));
        assert_eq!(disk.create(&index, "b"), Ok(4 * MIB));
        assert_eq!(
            disk.create(&index, "a"),
            Err(IndexError::Exists(3 * MIB)),
            "one name, one resource"
        );
        assert_eq!(index.delete(&disk, &resource("a"), true), Ok(3 * MIB));
        assert_eq!(disk.contents(&index), listed(&[("b", 4)]));
        assert_eq!(
            index.delete(&disk, &resource("a"), true),
            Err(IndexError::Missing)
        );
        assert_eq!(disk.create(&index, "c"), Ok(3 * MIB));
        assert_eq!(disk.create(&index, "d"), Ok(5 * MIB));
        assert_eq!(disk.create(&index, "e"), Err(IndexError::Full));
    }

    #[test]
    fn an_area_with_anything_in_it_is_left_alone() {
        let (disk, index) = Memory::with_index(7);
        disk.bytes.borrow_mut()[4 * MIB as usize - 1] = 1;
        resource("other").write(&disk, 4 * MIB).unwrap();
        assert_eq!(disk.create(&index, "a"), Ok(5 * MIB));
        // Of its name, but not as formatting leaves it: it may have been in use.
        let (disk, index) = Memory::with_index(7);
        resource("a").write(&disk, 3 * MIB).unwrap();
        disk.bytes.borrow_mut()[3 * MIB as usize + 1024] = 1;
        assert_eq!(disk.create(&index, "a"), Ok(4 * MIB));
    }

    /// Power is lost before each write of a change; then the change is made again.
    fn interrupted(change: impl Fn(&Memory, &Index) -> bool, expected: &[(&str, u64)]) {
        for writes in 0.. {
            let (disk, index) = Memory::with_index(7);
            disk.create(&index, "a").unwrap();
            disk.create(&index, "b").unwrap();
            disk.writes_left.set(writes);
            let whole = change(&disk, &index);
            let then = disk.contents(&index);
            let before = listed(&[("a", 3), ("b", 4)]);
            assert!(then == before || then == listed(expected), "{then:?}");
            if whole {
                assert!(writes > 1, "more than one write");
                return;
            }
            disk.writes_left.set(usize::MAX);
            change(&disk, &index);
            assert_eq!(disk.contents(&index), listed(expected));
        }
    }

    #[test]
    fn a_creation_that_is_cut_short_is_made_whole_by_the_next() {
        interrupted(
            |disk, index| disk.create(index, "c").is_ok(),
            &[("a", 3), ("b", 4), ("c", 5)],
        );
    }

    #[test]
    fn a_deletion_that_is_cut_short_leaves_no_entry_without_its_resource() {
        interrupted(
            |disk, index| {
                let result = index.delete(disk, &resource("a"), true);
                !matches!(result, Err(IndexError::Disk(_)))
            },
            &[("b", 4)],
        );
    }

    #[test]
    fn rebuilding_believes_the_areas() {
        let (disk, index) = Memory::with_index(8);
        for text in ["a", "b", "c"] {
            disk.create(&index, text).unwrap();
        }
        // One entry is lost, one is another's, one area was cleared, one has never had an entry.
        let sector = 1 + MIB as usize / 512;
        disk.bytes.borrow_mut()[sector * 512..][..64].fill(0);
        disk.bytes.borrow_mut()[sector * 512 + 64 + 16] = b'x';
        let cleared = resource("c").cleared_area();
        disk.write(5 * MIB, &cleared).unwrap();
        resource("d").write(&disk, 6 * MIB).unwrap();
        // Of another lockspace.
        let foreign = Resource {
            lockspace: name("LX"),
            ..resource("e")
        };
        foreign.write(&disk, 7 * MIB).unwrap();
        assert_eq!(index.rebuild(&disk, disk.size()), Ok(4));
        let right = listed(&[("a", 3), ("b", 4), ("d", 6)]);
        assert_eq!(disk.contents(&index), right);
        assert_eq!(index.rebuild(&disk, disk.size()), Ok(0));

        resource("a").write(&disk, 6 * MIB).unwrap();
        let (name, first, second) = (name("a"), 3 * MIB, 6 * MIB);
        let namesakes = IndexError::Namesakes {
            name,
            first,
            second,
        };
        assert_eq!(index.rebuild(&disk, disk.size()), Err(namesakes));
    }

    #[test]
    fn what_an_index_says_of_itself_must_be_so() {
        let (disk, index) = Memory::with_index(6);
        assert_eq!(Index::find(&disk, disk.size(), name("LS")), Ok(index));
        let lockspace = name("LX");
        let none = Err(IndexError::NoIndex { lockspace });
        assert_eq!(Index::find(&disk, disk.size(), lockspace), none);
        disk.create(&index, "a").unwrap();
        let start = MIB as usize + 512;
        // The same name in a second entry.
        let entry = disk.bytes.borrow()[start..start + 64].to_vec();
        disk.bytes.borrow_mut()[start + 64..start + 128].copy_from_slice(&entry);
        let entries = index.entries(&disk).unwrap();
        assert_eq!(
            entries.find(name("a")),
            Err(IndexError::Twice(3 * MIB, 4 * MIB))
        );
        // An entry that leads elsewhere than where it stands for.
        disk.bytes.borrow_mut()[start..start + 64].fill(0);
        let entries = index.entries(&disk).unwrap();
        let (slot, found, expected) = (1, 3 * MIB, 4 * MIB);
        let elsewhere = IndexError::Entry {
            slot,
            found,
            expected,
        };
        assert_eq!(entries.find(name("a")), Err(elsewhere));
        // A copy of the whole disk, one area further on.
        let header = disk.bytes.borrow()[MIB as usize..][..512].to_vec();
        disk.bytes.borrow_mut()[2 * MIB as usize..][..512].copy_from_slice(&header);
        let place = IndexError::Place {
            at: 2 * MIB,
            found: MIB,
        };
        assert_eq!(Index::read(&disk, 2 * MIB), Err(place));
    }
}
