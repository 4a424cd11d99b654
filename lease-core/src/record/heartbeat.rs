//! Host N's heartbeat ("delta lease"): sector N-1 of a lockspace area.
//!
//! A leader record (200 bytes), our host note (56), and a bitmap of host ids (256), bit N-1 set
//! for "host N, look: a request or an event for you". Invariants: only host N writes the sector,
//! but for a joiner that found it free or dead; `generation` grows by one at every join;
//! `timestamp` 0 means free and frees all that the host owned, at once.

use super::bytes::put;
use super::host_note::{HOST_NOTE_AT, HOST_NOTE_LEN, HostNote};
use super::leader::{LEADER_LEN, Raw};
use super::magic::MAGIC_HEARTBEAT;
use super::{RecordError, leader};
use crate::id::{Generation, HostId, Name};
use crate::layout::Geometry;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes at the start of a sector that say anything; in a larger one zeros follow.
pub const RECORD_LEN: usize = BITMAP_AT + BITMAP_LEN;

const VERSION_HEARTBEAT: u32 = 0x0003_0004;
const NAME: &str = "heartbeat record";
const BITMAP_AT: usize = 256;
const BITMAP_LEN: usize = 256;
/// Where the event is: behind all that says who renews, and when.
const EVENT_AT: usize = 176;
const _: () = assert!(HOST_NOTE_AT == LEADER_LEN && HOST_NOTE_AT + HOST_NOTE_LEN == BITMAP_AT);

/// An event that one host sets for others: delivered while a bit in the bitmap is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Event {
    /// Generation of the host that it is meant for, if that is said.
    pub generation: u64,
    /// A number of the application's own.
    pub number: u64,
    /// Data of the application's own.
    pub data: u64,
}

/// A heartbeat sector, verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    raw: Raw,
    geometry: Geometry,
    lockspace: Name,
    note: Option<HostNote>,
    bitmap: [u8; BITMAP_LEN],
}

impl Heartbeat {
    /// A free record, as formatting writes it.
    pub fn new(geometry: Geometry, lockspace: &Name, io_timeout: u8) -> Self {
        let mut raw = Raw::new(MAGIC_HEARTBEAT, VERSION_HEARTBEAT, geometry);
        raw.set_max_hosts(1);
        raw.set_space_name(lockspace);
        raw.set_io_timeout(u16::from(io_timeout));
        Self {
            raw,
            geometry,
            lockspace: *lockspace,
            note: None,
            bitmap: [0; BITMAP_LEN],
        }
    }

    /// Reads a sector of at least 512 bytes.
    pub fn decode(sector: &[u8]) -> Result<Self, RecordError> {
        let raw = Raw::decode(sector, NAME, (MAGIC_HEARTBEAT, VERSION_HEARTBEAT, 0))?;
        let geometry = raw.geometry(NAME)?;
        let range = |field, found| RecordError::Range {
            record: NAME,
            field,
            found,
        };
        let lockspace =
            Name::from_field(raw.space_name()).map_err(|_| range("lockspace name", 0))?;
        if raw.timestamp() != 0 && raw.owner_id().is_none() {
            return Err(range("owner_id", 0));
        }
        if raw.io_timeout() > 255 {
            return Err(range("io_timeout", u64::from(raw.io_timeout())));
        }
        let note = HostNote::decode(&sector[HOST_NOTE_AT..HOST_NOTE_AT + HOST_NOTE_LEN])
            .filter(|n| raw.owner_id() == Some(n.host) && raw.owner_generation() == n.generation);
        let mut bitmap = [0; BITMAP_LEN];
        bitmap.copy_from_slice(&sector[BITMAP_AT..BITMAP_AT + BITMAP_LEN]);
        Ok(Self {
            raw,
            geometry,
            lockspace,
            note,
            bitmap,
        })
    }

    /// The whole sector.
    pub fn to_sector(&self) -> Vec<u8> {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        put(&mut sector, 0, &self.leader_bytes());
        if let Some(note) = &self.note {
            put(&mut sector, HOST_NOTE_AT, &note.encode());
        }
        put(&mut sector, BITMAP_AT, &self.bitmap);
        sector
    }

    /// The 200 bytes that sanlock's rules compare.
    pub fn leader_bytes(&self) -> [u8; leader::LEADER_LEN] {
        self.raw.encode()
    }

    /// What tells two renewals apart: all of it but the event.
    pub fn renewal_bytes(&self) -> [u8; EVENT_AT] {
        let mut bytes = [0; EVENT_AT];
        bytes.copy_from_slice(&self.leader_bytes()[..EVENT_AT]);
        bytes
    }

    /// Sector and area size.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Name of the lockspace.
    pub fn lockspace(&self) -> &Name {
        &self.lockspace
    }

    /// Whose heartbeat it is; `None` if it was never joined.
    pub fn owner(&self) -> Option<HostId> {
        self.raw.owner_id()
    }

    /// Which life of the host: how often it was joined.
    pub fn generation(&self) -> Generation {
        self.raw.owner_generation()
    }

    /// The host's unique name; `None` if it never had one. After the NUL that ends it there may
    /// be the tail of an older name, which does not count.
    pub fn host_name(&self) -> Option<Name> {
        Name::from_field(self.raw.resource_name()).ok()
    }

    /// The host's monotonic seconds at its last renewal; 0 = free.
    pub fn timestamp(&self) -> u64 {
        self.raw.timestamp()
    }

    /// Nobody holds this host id.
    pub fn is_free(&self) -> bool {
        self.raw.timestamp() == 0
    }

    /// The host's io_timeout in seconds; `None` = the reader takes its own.
    pub fn io_timeout(&self) -> Option<u8> {
        u8::try_from(self.raw.io_timeout()).ok().filter(|t| *t > 0)
    }

    /// The note beside the record, if it is one and speaks of this very record.
    pub fn note(&self) -> Option<&HostNote> {
        self.note.as_ref()
    }

    /// How long after this timestamp, by its host's clock, nothing of an earlier life of the host
    /// id runs any more: zero from then on. `None`: it does not say.
    pub fn former_over_in(&self) -> Option<Duration> {
        let said = self.note.filter(|note| note.former_over > 0)?;
        let left = said.former_over.saturating_sub(self.timestamp());
        Some(Duration::from_secs(left))
    }

    /// The event fields.
    pub fn event(&self) -> Event {
        let [generation, number, data] = self.raw.tail();
        Event {
            generation,
            number,
            data,
        }
    }

    /// The host ids whose bit is set.
    pub fn bitmap(&self) -> Vec<HostId> {
        let hosts = HostId::all(self.geometry.max_hosts());
        hosts.filter(|host| self.calls(*host)).collect()
    }

    /// Whether this host's bit is set.
    pub fn calls(&self, host: HostId) -> bool {
        self.bitmap[host.index() / 8] & (1 << (host.index() % 8)) != 0
    }

    /// This record with the bits of these hosts set, and no others, and with this event.
    pub fn calling(mut self, hosts: impl IntoIterator<Item = HostId>, event: Event) -> Self {
        self.bitmap = [0; BITMAP_LEN];
        for host in hosts {
            self.bitmap[host.index() / 8] |= 1 << (host.index() % 8);
        }
        self.raw
            .set_tail([event.generation, event.number, event.data]);
        self
    }

    /// This record joined by a host: its name, one more life, a first timestamp; no event, no bit
    /// set.
    pub fn joined(mut self, name: &Name, timestamp: u64, io_timeout: u8, note: HostNote) -> Self {
        self.raw.set_owner(note.host, note.generation);
        self.raw.set_resource_name(name);
        self.raw.set_timestamp(timestamp);
        self.raw.set_io_timeout(u16::from(io_timeout));
        self.raw.set_tail([0; 3]);
        self.note = Some(note);
        self.bitmap = [0; BITMAP_LEN];
        self
    }

    /// This record with another io_timeout, in seconds.
    pub fn timed(mut self, io_timeout: u8) -> Self {
        self.raw.set_io_timeout(u16::from(io_timeout));
        self
    }

    /// This record, saying from which timestamp on its earlier lives are over; 0: not said.
    pub fn after_former(mut self, former_over: u64) -> Self {
        self.note = self.note.map(|note| HostNote {
            former_over,
            ..note
        });
        self
    }

    /// This record with a new timestamp; 0 frees it.
    pub fn stamped(mut self, timestamp: u64) -> Self {
        self.raw.set_timestamp(timestamp);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_USED: &[u8] = include_bytes!("../../golden/hb_id7_never_used_default.bin");
    const HELD: &[u8] = include_bytes!("../../golden/hb_id1_held_hostA_o1.bin");
    const EVENT: &[u8] = include_bytes!("../../golden/hb_id1_event_g1_e5_d77_to_host2.bin");
    const ASKING: &[u8] = include_bytes!("../../golden/hb_id2_bitmap_bit_host1.bin");
    const SHORTER_NAME: &[u8] = include_bytes!("../../golden/hb_id2_rejoined_shorter_name_hX.bin");
    const LONG_NAMES: &[u8] = include_bytes!("../../golden/hb_id1_name48_host47.bin");
    const FREED: &[u8] = include_bytes!("../../golden/hb_id1_freed_hostA.bin");
    const LEFTOVERS: &[u8] = include_bytes!("../../golden/hb_id1_held_after_garbage.bin");
    const RENEWED_4096: &[u8] = include_bytes!("../../golden/k_hb_id1_renewed.bin");

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn host(number: u64) -> HostId {
        HostId::new(number).unwrap()
    }

    fn note(generation: u64) -> HostNote {
        HostNote {
            watchdog: 10,
            host: host(1),
            generation: Generation(generation),
            boot_id: [7; 16],
            former_over: 1,
        }
    }

    /// A record that sanlock wrote says what it was told to say, and comes out the same.
    fn decoded(sector: &[u8]) -> Heartbeat {
        let record = Heartbeat::decode(sector).unwrap();
        assert_eq!(record.to_sector(), sector);
        record
    }

    #[test]
    fn golden_never_used() {
        let record = decoded(NEVER_USED);
        assert_eq!(record.geometry(), Geometry::ALL[0]);
        assert_eq!(record.lockspace(), &name("LS"));
        assert_eq!((record.owner(), record.host_name()), (None, None));
        assert_eq!(record.generation(), Generation(0));
        assert!(record.is_free());
        assert_eq!(record.io_timeout(), Some(10));
        assert_eq!(record.event(), Event::default());
        assert_eq!((record.bitmap(), record.note()), (vec![], None));
        let ours = Heartbeat::new(Geometry::ALL[0], &name("LS"), 10);
        assert_eq!(ours.to_sector(), NEVER_USED);
    }

    #[test]
    fn golden_held() {
        let record = decoded(HELD);
        assert_eq!(record.owner(), Some(host(1)));
        assert_eq!(record.generation(), Generation(1));
        assert_eq!(record.host_name(), Some(name("hostA")));
        assert_eq!((record.timestamp(), record.is_free()), (554, false));
        assert_eq!(record.io_timeout(), Some(1));

        let record = decoded(RENEWED_4096);
        assert_eq!(record.geometry(), Geometry::ALL[4]);
        assert_eq!(record.lockspace(), &name("LK"));
        assert_eq!((record.owner(), record.timestamp()), (Some(host(1)), 559));
    }

    #[test]
    fn golden_event() {
        let record = decoded(EVENT);
        let event = Event {
            generation: 1,
            number: 5,
            data: 77,
        };
        assert_eq!(record.event(), event);
        assert_eq!(record.bitmap(), [host(2)]);
        assert_eq!(decoded(ASKING).bitmap(), [host(1)]);
    }

    #[test]
    fn what_is_called_for_is_as_sanlock_writes_it_and_leaves_the_renewal_as_it_was() {
        let record = decoded(EVENT);
        let event = record.event();
        let quiet = record.calling([], Event::default());
        assert_eq!((quiet.bitmap(), quiet.event()), (vec![], Event::default()));
        assert_eq!(quiet.calling([host(2)], event).to_sector(), EVENT);
        assert_eq!(quiet.renewal_bytes(), record.renewal_bytes());
        assert_ne!(quiet.leader_bytes(), record.leader_bytes());
        let all = quiet.calling([1, 8, 9, 2000].map(host), event);
        assert_eq!(all.bitmap(), [1, 8, 9, 2000].map(host));
        assert!(all.calls(host(9)) && !all.calls(host(10)));
    }

    #[test]
    fn golden_the_tail_of_an_older_name_does_not_count() {
        let record = decoded(SHORTER_NAME);
        assert_eq!(record.host_name(), Some(name("hX")));
        assert_eq!(record.generation(), Generation(2));
    }

    #[test]
    fn golden_names_of_48_and_47_bytes() {
        let record = decoded(LONG_NAMES);
        assert_eq!(record.lockspace(), &name(&"L".repeat(48)));
        assert_eq!(record.host_name(), Some(name(&"B".repeat(47))));
    }

    #[test]
    fn golden_freed() {
        let record = decoded(FREED);
        assert!(record.is_free());
        assert_eq!(record.owner(), Some(host(1)));
        assert_eq!(record.host_name(), Some(name("hostA")));
        assert_eq!(record.bitmap(), []);
    }

    #[test]
    fn golden_bytes_without_a_name_survive_renewal() {
        let record = decoded(LEFTOVERS);
        let again = record.stamped(record.timestamp() + 1).to_sector();
        assert_eq!(again[160..168], LEFTOVERS[160..168]);
        assert_eq!(again[172..174], LEFTOVERS[172..174]);
        assert_ne!(LEFTOVERS[160], 0);
    }

    #[test]
    fn joining_ends_events_and_the_tail_of_the_old_name() {
        let joined = decoded(EVENT).joined(&name("h"), 600, 2, note(2));
        let read = Heartbeat::decode(&joined.to_sector()).unwrap();
        assert_eq!(read, joined);
        assert_eq!((read.event(), read.bitmap()), (Event::default(), vec![]));
        assert_eq!(read.host_name(), Some(name("h")));
        assert_eq!((read.timestamp(), read.io_timeout()), (600, Some(2)));
        assert_eq!(read.note(), Some(&note(2)));
    }

    #[test]
    fn an_io_timeout_is_1_to_255_seconds_and_0_leaves_it_to_the_reader() {
        for (seconds, told) in [(0, None), (1, Some(1)), (255, Some(255))] {
            let record = decoded(FREED).timed(seconds);
            let read = Heartbeat::decode(&record.to_sector()).unwrap();
            assert_eq!(read.io_timeout(), told);
        }
    }

    #[test]
    fn when_earlier_lives_are_over_is_said_in_timestamps_of_its_own() {
        let joined = decoded(FREED).joined(&name("h"), 600, 2, note(2));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (from, left) in [
            (0, None),
            (1, seconds(0)),
            (600, seconds(0)),
            (607, seconds(7)),
        ] {
            let sector = joined.after_former(from).to_sector();
            let read = Heartbeat::decode(&sector).unwrap();
            assert_eq!(read.former_over_in(), left);
        }
        assert_eq!(decoded(HELD).former_over_in(), None);
    }

    #[test]
    fn a_note_of_another_life_is_absent() {
        let joined = decoded(FREED).joined(&name("h"), 600, 2, note(2));
        let mut sector = joined.to_sector();
        put(&mut sector, HOST_NOTE_AT, &note(3).encode());
        assert_eq!(Heartbeat::decode(&sector).unwrap().note(), None);
    }
}
