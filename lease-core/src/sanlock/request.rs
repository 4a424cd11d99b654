//! What clients ask: one message after another from a stream.
//!
//! Nothing that a client says makes this take more memory than one command can need, and a message
//! that does not come to its end holds up nobody but its sender.

use super::part::{
    DISK_LEN, HEADER_LEN, HOST_EVENT_LEN, Header, HostEvent, INDEX_ENTRY_LEN, INDEX_LEN, Index,
    IndexEntry, KILLPATH_LEN, LOCKSPACE_LEN, Lockspace, OPTIONS_LEN, RESOURCE_LEN, Resource,
    decode_place, text,
};
use crate::id::{NAME_LEN, Name};
use crate::spec::{DISKS_MAX, Place};
use std::io::{self, Read};

/// Most resources of one command.
pub const RESOURCES_MAX: usize = 8;
/// Longest value block that is taken from a client, in bytes: one sector.
pub const VALUE_MAX: usize = 4096;

/// Whose leases a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Those of the process that registered on this connection.
    Connection,
    /// Those of this process.
    Process(i32),
}

/// What is asked, by the number of the command. Fields are called as sanlock calls them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request {
    /// 1: this connection's process may hold leases from now on.
    Register,
    /// 2: join a lockspace.
    AddLockspace {
        lockspace: Lockspace,
        no_wait: bool,
        io_timeout: i32,
    },
    /// 3: leave it.
    RemLockspace {
        lockspace: Lockspace,
        no_wait: bool,
        unused: bool,
    },
    /// 4: end.
    Shutdown { force: bool },
    /// 5: what do you know?
    Status { level: i32 },
    /// 6: what did you say?
    LogDump,
    /// 7: take leases.
    Acquire(Acquire),
    /// 8: give leases back.
    Release(Release),
    /// 9: which leases are held?
    Inquire(Target),
    /// 10: this connection may do less from now on.
    Restrict { bits: u32 },
    /// 11: ask the owner of a lease for it.
    Ask {
        resource: Resource,
        next: bool,
        force_mode: i32,
    },
    /// 12: how large is an area there?
    Align(Place),
    /// 13, 14: look at requests now.
    Examine,
    /// 15: what is known of the hosts of a lockspace, in words?
    HostStatus(Option<Name>),
    /// 16: is a lockspace joined?
    InqLockspace { lockspace: Lockspace, wait: bool },
    /// 17: run this when the lease is lost.
    Killpath { path: Vec<u8>, arguments: Vec<u8> },
    /// 18: format a lockspace.
    WriteLockspace {
        lockspace: Lockspace,
        max_hosts: i32,
        io_timeout: i32,
    },
    /// 19: format or clear a resource.
    WriteResource {
        resource: Resource,
        max_hosts: i32,
        num_hosts: i32,
        clear: bool,
    },
    /// 20: what lockspace is there?
    ReadLockspace(Lockspace),
    /// 21: what resource is there?
    ReadResource(Resource),
    /// 22: which lockspaces are joined?
    GetLockspaces,
    /// 23: which hosts are seen in one?
    GetHosts(Lockspace),
    /// 24: who has a resource?
    ReadOwners(Resource),
    /// 25: set its value block. `None`: it was too long to be read.
    SetValue {
        resource: Resource,
        value: Option<Vec<u8>>,
    },
    /// 26: what is in its value block? So many bytes; 0: a sector.
    GetValue { resource: Resource, size: i32 },
    /// 27: hold a lease shared instead of exclusive, or the other way round.
    Convert { resource: Resource, target: Target },
    /// 28: who are you?
    Version,
    /// 29: end, and say so.
    ShutdownWait { force: bool },
    /// 30: send events here.
    RegEvent(Option<Name>),
    /// 31: no more events.
    EndEvent(Option<Name>),
    /// 32: send an event to a host.
    SetEvent {
        lockspace: Option<Name>,
        event: HostEvent,
        flags: u32,
    },
    /// 33: a lockspace is in use.
    SetConfig { lockspace: Option<Name>, bits: i32 },
    /// 34: how did the last renewals go?
    Renewal(Option<Name>),
    /// 35: format an index.
    FormatIndex(Index),
    /// 36: change an entry.
    UpdateIndex {
        index: Index,
        entry: IndexEntry,
        flags: u32,
    },
    /// 37: find an entry.
    LookupIndex { index: Index, entry: IndexEntry },
    /// 38: make a resource of this name.
    CreateResource { index: Index, entry: IndexEntry },
    /// 39: delete it.
    DeleteResource { index: Index, entry: IndexEntry },
    /// 40: make the index say what is there.
    RebuildIndex(Index),
}

/// An acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// For whom.
    pub target: Target,
    /// What; no more than [`RESOURCES_MAX`] are kept.
    pub resources: Vec<Resource>,
    /// How many were named.
    pub named: u32,
    /// What the owner is called.
    pub owner: Option<Name>,
    /// Read the value block.
    pub with_value: bool,
    /// Take over what an owner that is gone has left.
    pub orphan: bool,
    /// Do not wait for an owner to be dead.
    pub no_wait: bool,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// For whom.
    pub target: Target,
    /// What.
    pub what: Released,
}

/// What is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// These.
    Named(Vec<Resource>),
    /// All that the process holds.
    All,
    /// The first, and the leader gets the name of the second.
    Renamed(Vec<Resource>),
    /// What an owner that is gone has left; without a name all of the lockspace.
    Orphans(Vec<Resource>),
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its header: the answer's is made of it.
    pub header: Header,
    /// What it asks.
    pub request: Request,
}

/// The next message that is to be answered. What is none of this protocol, and what no command is,
/// is passed over as the daemon does: 32 bytes at a time. Ends with an error when the stream does.
pub fn read(from: &mut impl Read) -> io::Result<Message> {
    loop {
        let header = Header::decode(&take(from)?);
        if header.is_known()
            && let Some(request) = body(from, &header)?
        {
            return Ok(Message { header, request });
        }
    }
}

/// The body of a command; `None`: there is no such command.
fn body(from: &mut impl Read, header: &Header) -> io::Result<Option<Request>> {
    let flag = |bit: u32| header.flags & bit != 0;
    let (data, data2) = (header.data, header.data2);
    Ok(Some(match header.command {
        1 => Request::Register,
        2 => Request::AddLockspace {
            lockspace: lockspace(from)?,
            no_wait: flag(1),
            io_timeout: data,
        },
        3 => Request::RemLockspace {
            lockspace: lockspace(from)?,
            no_wait: flag(1),
            unused: flag(2),
        },
        4 => Request::Shutdown { force: data != 0 },
        5 => Request::Status { level: data },
        6 => Request::LogDump,
        7 => Request::Acquire(acquire(from, header)?),
        8 => Request::Release(release(from, header)?),
        9 => Request::Inquire(target(data2)),
        10 => Request::Restrict { bits: header.flags },
        11 => Request::Ask {
            resource: resource(from)?,
            next: flag(1),
            force_mode: data,
        },
        12 => Request::Align(decode_place(&take::<DISK_LEN>(from)?)),
        13 => {
            lockspace(from)?;
            Request::Examine
        }
        14 => {
            bare_resource(from)?;
            Request::Examine
        }
        15 => Request::HostStatus(lockspace(from)?.name),
        16 => Request::InqLockspace {
            lockspace: lockspace(from)?,
            wait: flag(1),
        },
        17 => Request::Killpath {
            path: text(&take::<KILLPATH_LEN>(from)?).to_vec(),
            arguments: text(&take::<KILLPATH_LEN>(from)?).to_vec(),
        },
        _ => return body_of_storage(from, header),
    }))
}

/// The commands from 18 on.
fn body_of_storage(from: &mut impl Read, header: &Header) -> io::Result<Option<Request>> {
    let (data, data2) = (header.data, header.data2);
    Ok(Some(match header.command {
        18 => Request::WriteLockspace {
            lockspace: lockspace(from)?,
            max_hosts: data,
            io_timeout: data2,
        },
        19 => Request::WriteResource {
            resource: resource(from)?,
            max_hosts: data,
            num_hosts: data2,
            clear: header.flags & 1 != 0,
        },
        20 => Request::ReadLockspace(lockspace(from)?),
        21 => Request::ReadResource(resource(from)?),
        22 => Request::GetLockspaces,
        23 => Request::GetHosts(lockspace(from)?),
        24 => Request::ReadOwners(resource(from)?),
        25 => set_value(from, header)?,
        26 => Request::GetValue {
            resource: bare_resource(from)?,
            size: data2,
        },
        27 => Request::Convert {
            resource: bare_resource(from)?,
            target: target(data2),
        },
        28 => Request::Version,
        29 => Request::ShutdownWait { force: data != 0 },
        30 | 32 => {
            let lockspace = lockspace(from)?.name;
            let event = HostEvent::decode(&take::<HOST_EVENT_LEN>(from)?);
            let flags = header.flags;
            match header.command {
                30 => Request::RegEvent(lockspace),
                _ => Request::SetEvent {
                    lockspace,
                    event,
                    flags,
                },
            }
        }
        31 => Request::EndEvent(lockspace(from)?.name),
        33 => Request::SetConfig {
            lockspace: lockspace(from)?.name,
            bits: data,
        },
        34 => Request::Renewal(lockspace(from)?.name),
        35 => Request::FormatIndex(index(from)?),
        36 => Request::UpdateIndex {
            index: index(from)?,
            entry: entry(from)?,
            flags: header.flags,
        },
        37 => Request::LookupIndex {
            index: index(from)?,
            entry: entry(from)?,
        },
        38 => Request::CreateResource {
            index: index(from)?,
            entry: entry(from)?,
        },
        39 => Request::DeleteResource {
            index: index(from)?,
            entry: entry(from)?,
        },
        40 => Request::RebuildIndex(index(from)?),
        _ => return Ok(None),
    }))
}

fn acquire(from: &mut impl Read, header: &Header) -> io::Result<Acquire> {
    let named = header.data.cast_unsigned();
    let mut resources = Vec::new();
    for _ in 0..named {
        let resource = resource(from)?;
        if resources.len() < RESOURCES_MAX {
            resources.push(resource);
        }
    }
    let options = take::<OPTIONS_LEN>(from)?;
    Ok(Acquire {
        target: target(header.data2),
        resources,
        named,
        owner: Name::from_field(&options[..NAME_LEN]).ok(),
        with_value: header.flags & 1 != 0,
        orphan: header.flags & 2 != 0,
        no_wait: header.flags & 8 != 0,
    })
}

fn release(from: &mut impl Read, header: &Header) -> io::Result<Release> {
    let flag = |bit: u32| header.flags & bit != 0;
    let named = match flag(2) {
        // The new name comes as a second one.
        true => 2,
        false => header.data.cast_unsigned(),
    };
    let mut resources = Vec::new();
    for _ in 0..named {
        let resource = bare_resource(from)?;
        if resources.len() < RELEASED_MAX {
            resources.push(resource);
        }
    }
    let what = match () {
        () if flag(1) => Released::All,
        () if flag(2) => Released::Renamed(resources),
        () if flag(4) => Released::Orphans(resources),
        () => Released::Named(resources),
    };
    let target = target(header.data2);
    Ok(Release { target, what })
}

/// Most names of one release that are kept: more than any process can hold.
const RELEASED_MAX: usize = 1024;

/// Here alone the header's length counts.
fn set_value(from: &mut impl Read, header: &Header) -> io::Result<Request> {
    let resource = bare_resource(from)?;
    let before = HEADER_LEN + RESOURCE_LEN;
    let len = (header.length as usize).saturating_sub(before);
    let value = match len <= VALUE_MAX {
        true => {
            let mut value = vec![0; len];
            from.read_exact(&mut value)?;
            Some(value)
        }
        false => {
            pass_over(from, len as u64)?;
            None
        }
    };
    Ok(Request::SetValue { resource, value })
}

fn target(data2: i32) -> Target {
    match data2 {
        -1 => Target::Connection,
        pid => Target::Process(pid),
    }
}

fn lockspace(from: &mut impl Read) -> io::Result<Lockspace> {
    Ok(Lockspace::decode(&take::<LOCKSPACE_LEN>(from)?))
}

fn index(from: &mut impl Read) -> io::Result<Index> {
    Ok(Index::decode(&take::<INDEX_LEN>(from)?))
}

fn entry(from: &mut impl Read) -> io::Result<IndexEntry> {
    Ok(IndexEntry::decode(&take::<INDEX_ENTRY_LEN>(from)?))
}

/// A resource without disks, whatever it says of them.
fn bare_resource(from: &mut impl Read) -> io::Result<Resource> {
    Ok(Resource::decode(&take::<RESOURCE_LEN>(from)?))
}

/// A resource with its disks. Of more than a resource can have none are kept.
fn resource(from: &mut impl Read) -> io::Result<Resource> {
    let mut resource = bare_resource(from)?;
    if resource.num_disks as usize > DISKS_MAX {
        pass_over(from, u64::from(resource.num_disks) * DISK_LEN as u64)?;
        return Ok(resource);
    }
    for _ in 0..resource.num_disks {
        let place = decode_place(&take::<DISK_LEN>(from)?);
        resource.places.push(place);
    }
    Ok(resource)
}

fn take<const LEN: usize>(from: &mut impl Read) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn pass_over(from: &mut impl Read, len: u64) -> io::Result<()> {
    let passed = io::copy(&mut from.take(len), &mut io::sink())?;
    match passed == len {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
