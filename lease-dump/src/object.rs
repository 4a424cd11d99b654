//! The JSON objects: one kind an area. Their fields are what scripts rely on; lease-dump.8 and
//! lease-disk.5 explain them.

use base64::prelude::{BASE64_STANDARD, Engine};
use lease_core::id::{HostId, Lver, Name, escape};
use lease_core::record::ballot::BallotSector;
use lease_core::record::heartbeat::{self, Heartbeat};
use lease_core::record::holder_note::HolderNote;
use lease_core::record::host_note::HostNote;
use lease_core::record::index::{IndexEntry, IndexHeader};
use lease_core::record::leader::Stamp;
use lease_core::spec::Mode;
use lease_core::survey::{Area, Content, Damage, Hosts, Lease};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is printed of one area.
#[derive(Serialize)]
pub(crate) struct Object {
    #[serde(flatten)]
    of: Kind,
    /// What does not check, sector by sector.
    errors: Vec<Error>,
    /// That it is not what it was called: one of the errors.
    #[serde(skip)]
    mistake: Option<String>,
    /// What it is, and where.
    #[serde(skip)]
    shown: String,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Kind {
    Lockspace(Lockspace),
    Resource(Box<Resource>),
    Index(Index),
}

/// A sector of the area, counted from 0, and what is wrong with it.
#[derive(Serialize)]
pub(crate) struct Error {
    sector: usize,
    error: String,
}

#[derive(Serialize)]
struct At {
    path: String,
    offset: u64,
    sector_size: usize,
    align_size: usize,
}

#[derive(Serialize)]
struct Lockspace {
    #[serde(flatten)]
    at: At,
    max_hosts: u64,
    lockspace: Option<Name>,
    io_timeout: Option<u8>,
    hosts: Vec<Host>,
}

#[derive(Serialize)]
struct Host {
    host_id: HostId,
    generation: u64,
    name: Option<Name>,
    timestamp: u64,
    io_timeout: Option<u8>,
    held: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    bitmap: Vec<HostId>,
    event: Option<Event>,
    note: Option<Note>,
}

/// What two looks tell of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Alive,
    Dead,
    Unknown,
    /// Nobody holds the host id.
    Free,
}

#[derive(Serialize)]
struct Event {
    generation: u64,
    number: u64,
    data: u64,
}

#[derive(Serialize)]
struct Note {
    watchdog: u16,
    boot_id: String,
    former_over: u64,
}

#[derive(Serialize)]
struct Resource {
    #[serde(flatten)]
    at: At,
    max_hosts: u64,
    num_hosts: Option<u64>,
    lockspace: Option<Name>,
    resource: Option<Name>,
    cleared: bool,
    lver: Option<Lver>,
    owner: Option<Life>,
    writer: Option<Life>,
    short_hold: bool,
    shared: Vec<Share>,
    request: Option<Request>,
    ballots: Vec<Ballot>,
    holder: Option<Holder>,
    value: Option<Value>,
}

#[derive(Serialize)]
struct Life {
    host_id: HostId,
    generation: u64,
    timestamp: u64,
}

#[derive(Serialize)]
struct Share {
    host_id: HostId,
    generation: u64,
    holder: Option<Holder>,
}

#[derive(Serialize)]
struct Request {
    lver: Lver,
    force_mode: u32,
}

#[derive(Serialize)]
struct Ballot {
    host_id: HostId,
    mbal: u64,
    bal: u64,
    inp: u64,
    inp2: u64,
    inp3: u64,
    lver: Lver,
    released: bool,
}

#[derive(Serialize)]
struct Holder {
    host_id: HostId,
    generation: u64,
    lver: Lver,
    mode: Mode,
    pid: u32,
    start: u64,
    host_name: String,
    command: String,
}

#[derive(Serialize)]
struct Index {
    #[serde(flatten)]
    at: At,
    lockspace: Name,
    max_resources: u32,
    resources: Vec<Entry>,
}

/// An entry of an index that is in use.
#[derive(Serialize)]
struct Entry {
    resource: Name,
    offset: u64,
}

/// The bytes of a value block without the zeros at its end.
#[derive(Serialize)]
struct Value {
    base64: String,
    /// If it is text.
    text: Option<String>,
}

/// What is known of a host, by its id and the record that was read.
pub(crate) type StateOf<'a> = dyn Fn(HostId, &Heartbeat) -> State + 'a;

/// How an area is shown.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// Records that nobody ever used, too.
    pub(crate) all: bool,
    /// What is known of each host, if that was asked for.
    pub(crate) states: Option<&'a StateOf<'a>>,
}

impl Object {
    pub(crate) fn new(path: &Path, area: &Area, view: View<'_>) -> Self {
        let at = At {
            path: escape(path.as_os_str().as_bytes()),
            offset: area.offset,
            sector_size: area.geometry.sector_bytes(),
            align_size: area.geometry.area_bytes(),
        };
        let max_hosts = area.geometry.max_hosts();
        let of = match &area.content {
            Content::Lockspace(hosts) => {
                Kind::Lockspace(Lockspace::new(at, max_hosts, hosts, view))
            }
            Content::Resource(lease) => {
                Kind::Resource(Box::new(Resource::new(at, max_hosts, lease, view)))
            }
            Content::Index(header, entries) => Kind::Index(Index::new(at, header, entries)),
        };
        let errors = area.damage.iter().map(Error::of).collect();
        let (mistake, shown) = (None, describe(area, path));
        Self {
            of,
            errors,
            mistake,
            shown,
        }
    }

    /// Notes that the area is not what it was called.
    pub(crate) fn mistaken(&mut self, mistake: String) {
        let error = mistake.clone();
        self.errors.insert(0, Error { sector: 0, error });
        self.mistake = Some(mistake);
    }

    /// One line for people: what is wrong with it, if anything is.
    pub(crate) fn damage(&self) -> Option<String> {
        let shown = &self.shown;
        let records = self.errors.len() - usize::from(self.mistake.is_some());
        let damage = match records {
            0 => None,
            1 => Some("1 record does not check".to_owned()),
            count => Some(format!("{count} records do not check")),
        };
        let damage = damage.map(|damage| {
            format!("found damage in {shown}: {damage}; \"errors\" in its object says which")
        });
        let mistake = self.mistake.as_ref();
        let mistake = mistake.map(|mistake| format!("{shown} is not what was named: {mistake}"));
        let all: Vec<String> = mistake.into_iter().chain(damage).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// `lockspace LS at PATH:OFFSET`.
pub(crate) fn describe(area: &Area, path: &Path) -> String {
    let what = match &area.content {
        Content::Lockspace(Hosts { lockspace, .. }) => match lockspace {
            Some(name) => format!("lockspace {name}"),
            None => "a lockspace".to_owned(),
        },
        Content::Resource(lease) => match lease.names {
            Some((lockspace, name)) => format!("resource {lockspace}:{name}"),
            None => "a resource".to_owned(),
        },
        Content::Index(header, _) => format!("the resource index of {}", header.lockspace),
    };
    let path = escape(path.as_os_str().as_bytes());
    format!("{what} at {path}:{}", area.offset)
}

impl Error {
    fn of(damage: &Damage) -> Self {
        Self {
            sector: damage.sector,
            error: damage.flaw.to_string(),
        }
    }
}

impl Lockspace {
    fn new(at: At, max_hosts: u64, hosts: &Hosts, view: View<'_>) -> Self {
        let shown = hosts.heartbeats.iter();
        let shown = shown.filter(|(_, record)| view.all || record.owner().is_some());
        let host = |(host, record): &(HostId, Heartbeat)| {
            let state = view.states.map(|of| of(*host, record));
            Host::new(*host, record, state)
        };
        Self {
            at,
            max_hosts,
            lockspace: hosts.lockspace,
            io_timeout: hosts.io_timeout(),
            hosts: shown.map(host).collect(),
        }
    }
}

impl Host {
    fn new(host_id: HostId, record: &Heartbeat, state: Option<State>) -> Self {
        let event = record.event();
        Self {
            host_id,
            generation: record.generation().0,
            name: record.host_name(),
            timestamp: record.timestamp(),
            io_timeout: record.io_timeout(),
            held: !record.is_free(),
            state,
            bitmap: record.bitmap(),
            event: (event != heartbeat::Event::default()).then_some(Event {
                generation: event.generation,
                number: event.number,
                data: event.data,
            }),
            note: record.note().map(Note::new),
        }
    }
}

impl Note {
    fn new(note: &HostNote) -> Self {
        let hex: String = note
            .boot_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        // As in /proc/sys/kernel/random/boot_id.
        let groups = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        Self {
            watchdog: note.watchdog,
            boot_id: groups.join("-"),
            former_over: note.former_over,
        }
    }
}

impl Resource {
    fn new(at: At, max_hosts: u64, lease: &Lease, view: View<'_>) -> Self {
        let leader = lease.leader.as_ref();
        let asked = lease
            .request
            .filter(|r| (r.lver, r.force_mode) != (Lver(0), 0));
        let used = |block: &BallotSector| *block != BallotSector::default();
        let shown = lease.ballots.iter();
        let shown = shown.filter(|(_, block)| view.all || used(block));
        let share =
            |(host_id, generation, note): (HostId, lease_core::id::Generation, Option<_>)| {
                let generation = generation.0;
                let holder = note.map(Holder::new);
                Share {
                    host_id,
                    generation,
                    holder,
                }
            };
        Self {
            at,
            max_hosts,
            num_hosts: leader.map(|leader| leader.num_hosts()),
            lockspace: lease.names.map(|(lockspace, _)| lockspace),
            resource: lease.names.map(|(_, resource)| resource),
            cleared: lease.cleared,
            lver: leader.map(|leader| leader.lver()),
            owner: leader.and_then(|leader| leader.owner()).map(Life::new),
            writer: leader.and_then(|leader| leader.writer()).map(Life::new),
            short_hold: leader.is_some_and(|leader| leader.short_hold()),
            shared: lease.sharers().map(share).collect(),
            request: asked.map(|request| Request {
                lver: request.lver,
                force_mode: request.force_mode,
            }),
            ballots: shown
                .map(|(host, block)| Ballot::new(*host, block))
                .collect(),
            holder: lease.holder().map(Holder::new),
            value: lease.value_block.as_deref().and_then(Value::new),
        }
    }
}

impl Value {
    /// `None`: it is empty.
    fn new(block: &[u8]) -> Option<Self> {
        let last = block.iter().rposition(|byte| *byte != 0)?;
        let used = &block[..=last];
        let text = std::str::from_utf8(used).ok();
        let is_text = |text: &&str| !text.contains('\0');
        Some(Self {
            base64: BASE64_STANDARD.encode(used),
            text: text.filter(is_text).map(str::to_owned),
        })
    }
}

impl Life {
    fn new(stamp: Stamp) -> Self {
        Self {
            host_id: stamp.host,
            generation: stamp.generation.0,
            timestamp: stamp.timestamp,
        }
    }
}

impl Ballot {
    fn new(host_id: HostId, block: &BallotSector) -> Self {
        let ballot = &block.ballot;
        let value = |of: fn(Stamp) -> u64| ballot.value.map_or(0, of);
        Self {
            host_id,
            mbal: ballot.mbal.0,
            bal: ballot.bal.0,
            inp: value(|stamp| stamp.host.get()),
            inp2: value(|stamp| stamp.generation.0),
            inp3: value(|stamp| stamp.timestamp),
            lver: ballot.lver,
            released: block.released,
        }
    }
}

impl Holder {
    fn new(note: &HolderNote) -> Self {
        Self {
            host_id: note.host,
            generation: note.generation.0,
            lver: note.lver,
            mode: note.mode,
            pid: note.pid,
            start: note.start,
            host_name: escape(&note.host_name),
            command: escape(&note.command),
        }
    }
}

impl Index {
    fn new(at: At, header: &IndexHeader, entries: &[IndexEntry]) -> Self {
        let entry = |entry: &IndexEntry| Entry {
            resource: entry.name,
            offset: entry.offset,
        };
        Self {
            at,
            lockspace: header.lockspace,
            max_resources: header.max_resources,
            resources: entries.iter().map(entry).collect(),
        }
    }
}
