//! What lease-join reads from its peers and from the files of an earlier lease-join, and what its
//! table of holders makes of what they say.

use super::host;
use crate::messages;
use crate::sim::LOCKSPACE;
use fastrand::Rng;
use lease_core::clock::Moment;
use lease_core::contain::{Containment, Guarded};
use lease_core::delta::Former;
use lease_core::failure::{Failure, Status};
use lease_core::host::kept::{Holders, Life, Remains};
use lease_core::id::{Generation, Lver};
use lease_core::process::ProcessId;
use lease_core::registry::journal;
use lease_core::registry::message::{AreaId, Ask, Asked, HolderId, Left, Phase, Tell, Turn};
use lease_core::registry::place::{Kept, Place};
use lease_core::registry::table::{Claimed, Holder, Link, OutOfOrder, Table};
use lease_core::registry::wire::{LINE_MAX, Wire};
use lease_core::spec::Mode;
use lease_core::storage::Identity;
use lease_core::timing::Timing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::os::unix::net::UnixStream;
use tempfile::TempDir;

/// It is read back as it was written.
fn keeps<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_vec(value).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&json).unwrap(), *value);
}

// ---- wire

/// How many bytes come at once; whether blanks up to the longest line come first; lines.
pub(super) fn good_lines(rng: &mut Rng) -> Vec<u8> {
    let mut lines = vec![rng.u8(..), rng.u8(..)];
    for _ in 0..rng.usize(1..4) {
        lines.extend(serde_json::to_vec(&messages::ask(rng)).unwrap());
        lines.push(b'\n');
    }
    lines
}

/// However a stream is cut, each line is one message, and what is no message, or too long, is one
/// error.
pub(super) fn wire(data: &[u8]) -> bool {
    let [piece, blanks, lines @ ..] = data else {
        return false;
    };
    let (mut piece, mut stream) = (usize::from(*piece) + 1, lines.to_vec());
    if *blanks < 4 {
        piece = 40 << 10;
        stream.splice(..0, vec![b' '; LINE_MAX + 2 - usize::from(*blanks)]);
    }
    let (mut peer, own) = UnixStream::pair().unwrap();
    own.set_nonblocking(true).unwrap();
    let mut wire = Wire::new(own);
    let (mut inbox, mut taken) = (Vec::new(), false);
    for part in stream.chunks(piece) {
        peer.write_all(part).unwrap();
        assert!(wire.drain().unwrap());
        inbox.extend_from_slice(part);
        while let Some(end) = inbox.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = inbox.drain(..=end).collect();
            let said = serde_json::from_slice::<Ask>(&line);
            match (wire.take_message::<Ask>(), said) {
                (Ok(Some(heard)), Ok(said)) => assert_eq!(heard, said),
                (Err(_), Err(_)) => return taken,
                (heard, said) => panic!("{heard:?} for {said:?}"),
            }
            taken = true;
        }
        match wire.take_message::<Ask>() {
            Ok(None) => assert!(inbox.len() <= LINE_MAX),
            Err(_) => {
                assert!(inbox.len() > LINE_MAX);
                return taken;
            }
            heard => panic!("{heard:?} of no line"),
        }
    }
    drop(peer);
    assert!(!wire.drain().unwrap());
    taken
}

// ---- files

const BOOT: [u8; 16] = [3; 16];

thread_local! {
    static PLACE: (TempDir, Place) = {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::create(dir.path(), &LOCKSPACE.name).unwrap();
        (dir, place)
    };
}

/// The heartbeat's file, the holders', and a mark, with a NUL in between.
pub(super) fn good_files(rng: &mut Rng) -> Vec<u8> {
    let mut play = Play::default();
    let steps: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(64).collect();
    steps.chunks_exact(4).for_each(|step| play.step(step));
    let generation = Generation(rng.u64(1..3));
    let life = Life {
        boot_id: BOOT,
        pid_namespace: 4,
        area: area(0),
        host: host(1),
        host_name: LOCKSPACE.name,
        timing: Timing::new(1, 2).unwrap(),
        watchdog: Some("/dev/watchdog0".to_owned()).filter(|_| rng.bool()),
        completed: Generation(rng.u64(1..3)),
        former: Former {
            generation,
            written: 7,
            unsure: vec![9; rng.usize(..3)],
            renewed: Moment(8),
            ballots_from: Moment(3),
        },
    };
    keeps(&life);
    let table = play.table;
    let holders = Holders { generation, table };
    let mark = [Phase::Idle, Phase::Held(Lver(7))];
    let life = serde_json::to_vec(&life).unwrap();
    let holders = serde_json::to_vec(&holders).unwrap();
    [life, holders, serde_json::to_vec(&mark).unwrap()].join(&0)
}

/// What can be read is read as it stands there; what cannot is never taken for nothing.
pub(super) fn kept_files(data: &[u8]) -> bool {
    let mut files = data.split(|byte| *byte == 0);
    let mut file = || files.next().unwrap_or_default();
    let (heartbeat, holders, mark) = (file(), file(), file());
    PLACE.with(|(_, place)| {
        for (kept, bytes) in [(Kept::Heartbeat, heartbeat), (Kept::Holders, holders)] {
            // Some file systems bring what is replaced to the disk at once.
            place.remove(kept).unwrap();
            place.write(kept, bytes).unwrap();
        }
        let (generation, holder) = (Generation(1), HolderId(1));
        std::fs::write(place.shown().join("gone-1-1"), mark).unwrap();
        let left = serde_json::from_slice::<Vec<Phase>>(mark).unwrap_or_default();
        assert_eq!(place.take_mark(generation, holder), Some(left));
        assert_eq!(place.take_mark(generation, holder), None);
        remains(place, heartbeat, holders)
    })
}

/// Whether there are any, of this boot.
fn remains(place: &Place, heartbeat: &[u8], holders: &[u8]) -> bool {
    let life = serde_json::from_slice::<Life>(heartbeat);
    let holders = serde_json::from_slice::<Holders>(holders);
    let cannot = |why: std::io::Error| Failure::new(Status::Busy, why.to_string());
    let kept_life = place.parsed(Kept::Heartbeat).map_err(cannot);
    let kept_holders = || {
        let records = journal::read(place).map_err(cannot)?;
        let parsed = records.map(|records| Holders::parse(&records)).transpose();
        parsed.map_err(|why| cannot(why.into()))
    };
    let read = Remains::read(&BOOT, kept_life, kept_holders);
    match (read, life, holders) {
        (Ok(None), Ok(life), _) => assert_ne!(life.boot_id, BOOT),
        (Ok(Some(remains)), Ok(life), Ok(holders)) => {
            assert_eq!((&remains.life, life.boot_id), (&life, BOOT));
            let generation = life.former.generation;
            let same = [life.completed, holders.generation] == [generation; 2];
            let table = if same {
                holders.table
            } else {
                Table::default()
            };
            assert_eq!(remains.table.unwrap(), table);
            assert_eq!(place.renewed(generation), Some(life.former.renewed));
            goes_on(life);
            ends_all(table);
            return true;
        }
        (Err(_), life, holders) => assert!(life.is_err() || holders.is_err()),
        (remains, ..) => panic!("{remains:?}"),
    }
    false
}

fn goes_on(mut life: Life) {
    keeps(&life);
    let timing = life.timing;
    assert_eq!(
        Timing::new(timing.io_timeout(), timing.watchdog()),
        Some(timing)
    );
    assert!(life.expires() >= life.former.renewed);
    let before = life.former.unsure.len();
    life.former.issue(9, timing);
    assert!(life.former.unsure.contains(&9) && life.former.unsure.len() <= before + 1);
    life.former.complete(9, Moment(9));
    assert!(!life.former.unsure.contains(&9));
    let _ = life.former.quiet_from(timing, Moment(9));
}

/// Nobody comes back: each holder is brought to its end, and a new one is not taken for an old one.
fn ends_all(mut table: Table) {
    keeps(&table);
    table.await_all();
    let ids: Vec<HolderId> = table.holders().map(|(id, _)| id).collect();
    if let Ok(new) = table.register(process(1), "c".into(), 9, vec![asked(0, 0)]) {
        assert!(!ids.contains(&new), "{new:?} is there already");
        table.disconnected(new);
    }
    let mut turns = Vec::new();
    for id in ids {
        turns.extend(table.disconnected(id).1);
        turns.extend(table.proven_gone(id));
    }
    while let Some((id, tell)) = turns.pop() {
        if let Tell::ReleaseTurn { index, last: true } = tell {
            turns.extend(
                table
                    .released(id, index, Left::NOTHING, Moment(0))
                    .unwrap_or_default(),
            );
        }
    }
}

// ---- holders

fn area(offset: u64) -> AreaId {
    let (device, inode) = (1, 2);
    let identity = Identity { device, inode };
    AreaId { identity, offset }
}

/// A resource on one to three disks; those of different numbers may have disks in common.
fn asked(which: u8, mode: u8) -> Asked {
    let areas = (0..3).filter(|bit| (which % 7 + 1) & (1 << bit) != 0);
    Asked {
        resource: LOCKSPACE.name,
        mode: [Mode::Shared, Mode::Exclusive][usize::from(mode % 4 / 3)],
        areas: areas.map(|bit| Some(area(bit))).collect(),
        places: Vec::new(),
        spec: String::new(),
    }
}

fn process(pid: i32) -> ProcessId {
    ProcessId { pid, started: 5 }
}

fn overlap(one: &Asked, other: &Asked) -> bool {
    one.areas.iter().any(|area| other.areas.contains(area))
}

/// Messages one after the other, and what becomes of their senders.
#[derive(Default)]
struct Play {
    table: Table,
    now: u64,
    /// Holders say what no lease-hold says.
    lies: bool,
    /// Who takes part in a share, and so writes nothing.
    sharing: BTreeMap<(HolderId, usize), bool>,
    /// Where writes may land, and until when.
    late: Vec<(Asked, Moment)>,
    buried: Vec<HolderId>,
}

const HELD: Phase = Phase::Held(Lver(7));

impl Play {
    /// What happens, to whom, to which of its resources, how.
    fn step(&mut self, step: &[u8]) {
        let [what, who, index, how] = [0, 1, 2, 3].map(|at| step[at]);
        if what.is_multiple_of(16) || self.table.holders().next().is_none() {
            self.register(how, index);
        }
        let count = self.table.holders().count() + usize::from(self.lies);
        let ids = self.table.holders().map(|(id, _)| id);
        let id = ids
            .chain([HolderId(99)])
            .nth(usize::from(who) % count.max(1));
        let id = id.unwrap_or(HolderId(99));
        let index = usize::from(index % 2);
        let link = self.table.holder(id).map(|holder| holder.link);
        let connected = link == Some(Link::Connected) || self.lies;
        let _: Result<(), OutOfOrder> = match what % 16 {
            1..4 if connected => self.acquire(id, index),
            4..7 if connected => self.acquired(id, index, how),
            7 if connected => self.guard(id, how),
            8 | 9 if connected => self.table.release(id, index).map(drop),
            10 | 11 => self.released(id, index, how),
            12 if connected || link == Some(Link::Awaited) => self.dies(id, how),
            12 | 13 if link == Some(Link::Crashed) || self.lies => self.bury(id),
            13 => self.restart(how),
            14 if link == Some(Link::Awaited) || self.lies => self.resume(id, how),
            15 => self.passes(id, how),
            _ => Ok(()),
        };
        if !self.lies {
            self.check();
        }
    }

    fn register(&mut self, how: u8, modes: u8) {
        let both = [asked(how, modes), asked(how / 16, modes / 4)];
        let twice = overlap(&both[0], &both[1]);
        let ids: Vec<_> = self.table.holders().map(|(id, _)| id).collect();
        let pid = ids.len() as i32;
        let new = self
            .table
            .register(process(pid), "c".into(), 9, both.to_vec());
        assert_eq!(new.is_err(), twice);
        let one = both[..1].to_vec();
        let new = new.or_else(|_| self.table.register(process(pid), "c".into(), 9, one));
        assert!(new.is_ok_and(|new| !ids.contains(&new)));
    }

    fn acquire(&mut self, id: HolderId, index: usize) -> Result<(), OutOfOrder> {
        if self.table.is_lost() && !self.lies {
            return Ok(());
        }
        let asked = self.claim(id, index).map(|claim| claim.asked.clone());
        let (to, tell) = self.table.acquire(id, index, Moment(self.now))?;
        assert_eq!(to, id);
        if let Tell::Turn { how, .. } = tell {
            self.sharing.insert((id, index), how == Turn::Share);
            if let (Turn::Ballot { not_before }, Some(asked)) = (how, asked) {
                let late = self.late.iter().filter(|(at, _)| overlap(at, &asked));
                let until = late.map(|(_, until)| *until).max().unwrap_or_default();
                assert!(not_before >= until || until <= Moment(self.now));
            }
        }
        Ok(())
    }

    /// In a share nothing is written, so nothing is left behind.
    fn left(&self, id: HolderId, index: usize, how: u8) -> Left {
        match self.sharing.get(&(id, index)) {
            Some(true) if !self.lies => Left::NOTHING,
            _ => Left {
                doubt: how & 2 != 0,
                late: how & 4 != 0,
            },
        }
    }

    fn acquired(&mut self, id: HolderId, index: usize, how: u8) -> Result<(), OutOfOrder> {
        let left = self.left(id, index, how);
        let lver = (how & 1 == 0 && !left.doubt).then_some(Lver(7));
        let until = Moment(self.now + 100);
        self.table.acquired(id, index, lver, left, until)?;
        let phase = match lver {
            Some(lver) => Phase::Held(lver),
            None if left.doubt => Phase::Doubt,
            None => Phase::Idle,
        };
        assert_eq!(self.claim(id, index).map(|claim| claim.phase), Some(phase));
        self.note_late(id, index, left.late);
        Ok(())
    }

    fn note_late(&mut self, id: HolderId, index: usize, late: bool) {
        let asked = self.claim(id, index).map(|claim| claim.asked.clone());
        let written = asked.filter(|_| late);
        let until = Moment(self.now + 100);
        self.late.extend(written.map(|asked| (asked, until)));
    }

    fn guard(&mut self, id: HolderId, how: u8) -> Result<(), OutOfOrder> {
        let process = process(i32::from(how % 2));
        let containment = Containment::PidNamespace;
        let guarded = Guarded {
            process,
            containment,
        };
        self.table.guard(id, guarded)?;
        let holder = self.table.holder(id).into_iter();
        let mut claims = holder.flat_map(|holder| &holder.claims);
        assert!(claims.all(|claim| matches!(claim.phase, Phase::Held(_))));
        Ok(())
    }

    fn released(&mut self, id: HolderId, index: usize, how: u8) -> Result<(), OutOfOrder> {
        self.sharing.remove(&(id, index));
        let mut left = self.left(id, index, how);
        match self.table.holder(id).is_some_and(Holder::ended) {
            // lease-join itself does it, until it is done.
            true => left.doubt = false,
            false => left = self.table.as_left(id, index, left, Moment(self.now)),
        }
        let until = Moment(self.now + 100);
        self.table.released(id, index, left, until)?;
        self.note_late(id, index, left.late);
        Ok(())
    }

    /// With a mark, if lease-join was away.
    fn dies(&mut self, id: HolderId, how: u8) -> Result<(), OutOfOrder> {
        if how & 1 == 0 && self.is_awaited(id) {
            let phases = self.phases(id, how / 2);
            self.table.left(id, &phases, Moment(self.now + 100));
        }
        self.table.disconnected(id);
        Ok(())
    }

    fn is_awaited(&self, id: HolderId) -> bool {
        let holder = self.table.holder(id);
        holder.is_some_and(|holder| holder.link == Link::Awaited)
    }

    /// Once.
    fn bury(&mut self, id: HolderId) -> Result<(), OutOfOrder> {
        if self.lies || !self.buried.contains(&id) {
            self.buried.push(id);
            self.table.proven_gone(id);
        }
        Ok(())
    }

    fn restart(&mut self, how: u8) -> Result<(), OutOfOrder> {
        if how.is_multiple_of(8) {
            keeps(&self.table);
            self.table.await_all();
        }
        Ok(())
    }

    /// What each resource may have come to while there was no lease-join.
    fn phases(&self, id: HolderId, how: u8) -> Vec<Phase> {
        let holder = self.table.holder(id).into_iter();
        let claims = holder.flat_map(|holder| &holder.claims).enumerate();
        let become_of = |(index, claim): (usize, &Claimed)| {
            let shares = self.sharing.get(&(id, index)) == Some(&true);
            match (claim.phase, how % 4) {
                (phase, 0) => phase,
                (Phase::Acquiring, 1) => HELD,
                (Phase::Acquiring, 2) if !shares => Phase::Doubt,
                (Phase::Releasing, 1) => Phase::Doubt,
                (_, 3) if self.lies => HELD,
                _ => Phase::Idle,
            }
        };
        claims.map(become_of).collect()
    }

    fn resume(&mut self, id: HolderId, how: u8) -> Result<(), OutOfOrder> {
        let phases = self.phases(id, how);
        let late = vec![false; phases.len() + usize::from(self.lies && how & 16 != 0)];
        let process = self.table.holder(id).map(|holder| holder.process);
        let process = process.unwrap_or(process_of_nobody());
        let late_until = Moment(self.now + 100);
        let standing = (&phases[..], &late[..], how & 8 != 0);
        self.table.resume(id, process, standing, late_until)
    }

    fn passes(&mut self, id: HolderId, how: u8) -> Result<(), OutOfOrder> {
        self.now += u64::from(how);
        match how {
            0 => self.table.lose(),
            1..4 if self.table.is_lost() || self.lies => self.table.gone(id),
            4 if self.lies => self.table.unproven(id),
            _ => {
                let idle = |holder: &Holder| holder.claims.iter().all(is_idle);
                let nothing_left = self.table.holder(id).is_some_and(idle);
                assert!(!self.table.forget(id) || nothing_left);
            }
        }
        Ok(())
    }

    fn claim(&self, id: HolderId, index: usize) -> Option<&Claimed> {
        self.table.holder(id)?.claims.get(index)
    }

    /// Of two that have to do with one resource, both share it, and one of them writes at most; who
    /// writes the release is alone.
    fn check(&self) {
        let claims = self.table.holders().flat_map(|(_, holder)| &holder.claims);
        let busy: Vec<_> = claims.filter(|claim| !is_idle(claim)).collect();
        for (at, one) in busy.iter().enumerate() {
            for other in &busy[at + 1..] {
                if overlap(&one.asked, &other.asked) {
                    let both = [one, other];
                    let shared = both.iter().all(|claim| claim.asked.mode == Mode::Shared);
                    let writes = |phase| both.iter().filter(|claim| claim.phase == phase).count();
                    let writers = (writes(Phase::Acquiring), writes(Phase::Releasing));
                    assert!(shared && writers.0 < 2 && writers.1 == 0, "{both:?}");
                }
            }
        }
    }

    /// Everybody dies, and is proven gone: nothing stays behind.
    fn ends(mut self) {
        let ids: Vec<_> = self.table.holders().map(|(id, _)| id).collect();
        for id in &ids {
            if self.table.holder(*id).is_some_and(|holder| !holder.ended()) {
                self.table.disconnected(*id);
            }
            let _ = self.bury(*id);
        }
        for _ in 0..2 * ids.len() {
            for (id, index) in ids.iter().flat_map(|id| [(*id, 0), (*id, 1)]) {
                let _ = self.table.released(id, index, Left::NOTHING, Moment(0));
            }
        }
        for id in ids {
            self.table.forget(id);
        }
        assert_eq!(self.table.holders().next(), None);
    }
}

fn is_idle(claim: &Claimed) -> bool {
    claim.phase == Phase::Idle
}

fn process_of_nobody() -> ProcessId {
    process(-1)
}

/// Whether they lie; steps.
pub(super) fn good_sequence(rng: &mut Rng) -> Vec<u8> {
    let bytes = std::iter::repeat_with(|| rng.u8(..));
    bytes.take(1 + 4 * 40).collect()
}

/// Whatever is said in whatever order, nobody writes where another does; and if holders lie,
/// lease-join still goes on.
pub(super) fn holders(data: &[u8]) -> bool {
    let [lies, steps @ ..] = data else {
        return false;
    };
    let mut play = Play {
        lies: lies % 8 == 0,
        ..Play::default()
    };
    for step in steps.chunks_exact(4).take(100) {
        play.step(step);
    }
    keeps(&play.table);
    if !play.lies {
        play.ends();
    }
    true
}
