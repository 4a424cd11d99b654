//! What clients ask of a resource index. Who changes one holds its lease: lease-init does that.

use super::known::Known;
use super::peer::errno;
use super::storage::{self, text};
use super::tools;
use lease_core::device::Device;
use lease_core::id::Name;
use lease_core::index::{Entries, Index, IndexError};
use lease_core::sanlock::number;
use lease_core::sanlock::part::{self, INDEX_ENTRY_LEN, IndexEntry};
use lease_core::sanlock::reply::Reply;
use lease_core::spec::{IndexSpec, Mode, NamedSpec, ResourceArgument};
use lease_core::storage::{Access, Volume};
use lease_core::survey::{self, Probe};
use nix::errno::Errno;
use std::ffi::OsString;
use std::path::Path;

/// 36: an entry is to be added.
const ADD: u32 = 0x1_0000;
/// 36: an entry is to be removed.
const REMOVE: u32 = 0x2_0000;

/// 35.
pub(super) fn format(asked: &part::Index) -> Reply {
    let device = match storage::open(&asked.place.path, Access::Read, Errno::ENOENT) {
        Ok(device) => device,
        Err(number) => return Reply::of(number),
    };
    match spec_of(asked) {
        Some(spec) => storage::format(&device, vec!["-x".into(), text(&spec)], asked.flags),
        None => errno(Errno::EINVAL),
    }
}

/// 37.
pub(super) fn look_up(asked: &part::Index, entry: &IndexEntry) -> Reply {
    answer(Open::at(asked).and_then(|open| open.find(entry)))
}

/// 38.
pub(super) fn create(run_dir: &Path, asked: &part::Index, entry: &IndexEntry) -> Reply {
    answer(make(run_dir, asked, entry))
}

fn make(run_dir: &Path, asked: &part::Index, entry: &IndexEntry) -> Result<IndexEntry, i32> {
    let spec = changeable(run_dir, asked, entry)?;
    if Open::at(asked)?.offset_of(spec.name)?.is_some() {
        return Err(-(Errno::EEXIST as i32));
    }
    let args: [OsString; 3] = ["--create".into(), "-r".into(), text(&spec)];
    ended(tools::run_in(run_dir, "lease-init", &args))?;
    let made = Open::at(asked)?.offset_of(spec.name)?;
    let offset = made.ok_or(-(Errno::EIO as i32))?;
    Ok(IndexEntry { name: None, offset })
}

/// 39.
pub(super) fn delete(run_dir: &Path, asked: &part::Index, entry: &IndexEntry) -> Reply {
    answer(unmake(run_dir, asked, entry))
}

fn unmake(run_dir: &Path, asked: &part::Index, entry: &IndexEntry) -> Result<IndexEntry, i32> {
    let spec = changeable(run_dir, asked, entry)?;
    if Open::at(asked)?.offset_of(spec.name)?.is_none() {
        return Err(-(Errno::ENOENT as i32));
    }
    let args: [OsString; 3] = ["--delete".into(), "-r".into(), text(&spec)];
    ended(tools::run_in(run_dir, "lease-init", &args))?;
    Ok(IndexEntry::default())
}

/// 36. What is entered must be there, and what is taken out must not: a rebuild does no more.
pub(super) fn update(run_dir: &Path, asked: &part::Index, entry: &IndexEntry, flags: u32) -> Reply {
    answer(correct(run_dir, asked, entry, flags))
}

fn correct(
    run_dir: &Path,
    asked: &part::Index,
    entry: &IndexEntry,
    flags: u32,
) -> Result<IndexEntry, i32> {
    let invalid = -(Errno::EINVAL as i32);
    let name = entry.name.ok_or(invalid)?;
    let open = Open::at(asked)?;
    let offset = match (flags & ADD != 0, flags & REMOVE != 0) {
        (true, false) if entry.offset == 0 => return Err(invalid),
        (true, false) => entry.offset,
        (false, true) => open.offset_of(name)?.ok_or(-(Errno::ENOENT as i32))?,
        _ => return Err(invalid),
    };
    let is_there = open.resource_at(offset)? == Some(name);
    match (flags & ADD != 0, is_there) {
        (true, false) => return Err(number::NO_LEASE),
        (false, true) => return Err(-(Errno::EBUSY as i32)),
        _ => {}
    }
    ended(put_right(run_dir, asked))?;
    Ok(match flags & ADD != 0 {
        true => IndexEntry {
            name: Some(name),
            offset,
        },
        false => IndexEntry::default(),
    })
}

/// 40.
pub(super) fn rebuild(run_dir: &Path, asked: &part::Index) -> Reply {
    if let Err(number) = Open::at(asked) {
        return Reply::of(number);
    }
    Reply::of(put_right(run_dir, asked))
}

fn put_right(run_dir: &Path, asked: &part::Index) -> i32 {
    let Some(spec) = spec_of(asked) else {
        return -(Errno::EINVAL as i32);
    };
    let args: [OsString; 3] = ["--rebuild".into(), "-x".into(), text(&spec)];
    tools::run_in(run_dir, "lease-init", &args)
}

/// What an answer is that is followed by an entry, whatever it says.
fn answer(found: Result<IndexEntry, i32>) -> Reply {
    match found {
        Ok(entry) => Reply::of(0).with(entry.encode().to_vec()),
        Err(number) => Reply::of(number).with(vec![0; INDEX_ENTRY_LEN]),
    }
}

fn ended(number: i32) -> Result<(), i32> {
    match number {
        0 => Ok(()),
        number => Err(number),
    }
}

fn spec_of(asked: &part::Index) -> Option<IndexSpec> {
    let spec = IndexSpec {
        lockspace: asked.lockspace?,
        place: asked.place.clone(),
    };
    (IndexSpec::parse(&text(&spec)).as_ref() == Ok(&spec)).then_some(spec)
}

/// The resource by its name in the index, where a change of it can be asked for.
fn changeable(run_dir: &Path, asked: &part::Index, entry: &IndexEntry) -> Result<NamedSpec, i32> {
    let named = entry
        .name
        .zip(asked.lockspace)
        .map(|(name, lockspace)| NamedSpec {
            lockspace,
            name,
            path: asked.place.path.clone(),
            mode: Mode::Exclusive,
        });
    let known = |spec: &NamedSpec| {
        let parsed = ResourceArgument::parse(&text(spec));
        parsed == Ok(ResourceArgument::Named(spec.clone()))
    };
    let spec = named.filter(known).ok_or(-(Errno::EINVAL as i32))?;
    if Known::look(run_dir, &spec.lockspace).is_none() {
        return Err(-(Errno::ENOENT as i32));
    }
    Ok(spec)
}

/// An index, read.
struct Open {
    device: Device,
    index: Index,
    entries: Entries,
}

impl Open {
    /// The one that is named, which must be the first of its lockspace on that disk: others are
    /// not found by a name.
    fn at(asked: &part::Index) -> Result<Self, i32> {
        let device = storage::open(&asked.place.path, Access::Read, Errno::ENOENT)?;
        let lockspace = asked.lockspace.ok_or(-(Errno::EINVAL as i32))?;
        let index = Index::find(&device, device.size(), lockspace).map_err(|error| of(&error))?;
        if index.header().offset != asked.place.offset {
            return Err(number::NO_INDEX);
        }
        let entries = index.entries(&device);
        let entries = entries.map_err(|fault| storage::of_fault(&fault))?;
        Ok(Self {
            device,
            index,
            entries,
        })
    }

    fn offset_of(&self, name: Name) -> Result<Option<u64>, i32> {
        self.entries.find(name).map_err(|error| of(&error))
    }

    fn resource_at(&self, offset: u64) -> Result<Option<Name>, i32> {
        let probed = survey::probe(&self.device, offset);
        Ok(match probed.map_err(|fault| storage::of_fault(&fault))? {
            Probe::Resource { leader } => Some(*leader.resource()),
            _ => None,
        })
    }

    /// By a name, by an offset, by both, or the first that is free.
    fn find(&self, asked: &IndexEntry) -> Result<IndexEntry, i32> {
        let missing = -(Errno::ENOENT as i32);
        let Some(name) = asked.name else {
            return match asked.offset {
                0 => self.first_free(),
                offset => {
                    let mut entries = self.entries.iter();
                    let found = entries.find(|entry| entry.offset == offset);
                    let name = found.map(|entry| entry.name).ok_or(missing)?;
                    Ok(IndexEntry {
                        name: Some(name),
                        offset,
                    })
                }
            };
        };
        let offset = self.offset_of(name)?.ok_or(missing)?;
        match asked.offset {
            0 => {}
            other if other != offset => return Err(number::INDEX_DIFFERS),
            _ => {}
        }
        Ok(IndexEntry {
            name: Some(name),
            offset,
        })
    }

    fn first_free(&self) -> Result<IndexEntry, i32> {
        let end = self.index.next_end(&self.device);
        let end = end.map_err(|fault| storage::of_fault(&fault))?;
        let end = end.ok_or(-(Errno::ENOSPC as i32))?;
        let offset = end - self.index.header().geometry.align().bytes();
        Ok(IndexEntry { name: None, offset })
    }
}

fn of(error: &IndexError) -> i32 {
    match error {
        IndexError::Disk(fault) => storage::of_fault(fault),
        _ => number::NO_INDEX,
    }
}
