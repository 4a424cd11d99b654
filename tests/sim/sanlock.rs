//! A second kind of host: sanlock's, by the rules that lease-disk(5) gives for it, its order of
//! I/O and its W of 60 s; where its rules are not safe (the numbered points there) it follows
//! them all the same.

use super::checker::Run;
use super::hold::Errand;
use super::machine::{Command, Machine, Membership, Work};
use super::port::{File, Port};
use super::{LOCKSPACE, RESOURCE_GEOMETRY, area_offset};
use lease_core::clock::{Clock, Moment};
use lease_core::delta::Tenure;
use lease_core::disk::{Disk, Fault};
use lease_core::id::{BallotNumber, Generation, HostId, Lver};
use lease_core::record::ballot::{Ballot, BallotSector};
use lease_core::record::heartbeat::Heartbeat;
use lease_core::record::host_note::HostNote;
use lease_core::record::leader::{Leader, Stamp};
use lease_core::spec::Mode;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// sanlock's watchdog_fire_timeout, which it takes for everybody's.
pub const WATCHDOG: u64 = 60;
const SECOND: Duration = Duration::from_secs(1);

/// When, by its rules, a host is dead that has not been seen to change.
fn dead_after(io_timeout: u64) -> Duration {
    Duration::from_secs(8 * io_timeout + WATCHDOG)
}

// ---- heartbeat

/// The daemon's lockspace thread: join, renew, and join again after a loss.
pub fn lockspace(port: &Port<'_>, machine: &Rc<Machine>) {
    let file = port.file(machine.new_handle(0));
    loop {
        if let Ok(Some(record)) = join(port, machine, &file) {
            renew(port, machine, &file, record);
        }
        if machine.leaving.get() {
            return;
        }
        let _ = port.wait(SECOND);
        while machine.is_busy() {
            port.back_off(SECOND);
        }
    }
}

fn read_own(file: &File<'_>, host: HostId) -> Result<Option<Heartbeat>, Fault> {
    Ok(LOCKSPACE.read_host(file, host)?.ok())
}

fn write_own(file: &File<'_>, host: HostId, record: &Heartbeat) -> Result<(), Fault> {
    // Its sector holds no note of ours.
    let mut sector = record.to_sector();
    sector[200..256].fill(0);
    file.write(LOCKSPACE.geometry.heartbeat_at(host) as u64, &sector)
}

fn join(port: &Port<'_>, machine: &Machine, file: &File<'_>) -> Result<Option<Heartbeat>, Fault> {
    let (host, name) = (machine.setup.host, machine.name());
    let Some(first) = read_own(file, host)? else {
        return Ok(None);
    };
    let io_timeout = u64::from(first.io_timeout().unwrap_or(10));
    if !first.is_free() && first.host_name() != Some(name) {
        let until = port.now().after(dead_after(io_timeout));
        while port.now() <= until {
            let _ = port.wait(SECOND);
            match read_own(file, host)? {
                Some(record) if record.is_free() => break,
                Some(record) if record.leader_bytes() == first.leader_bytes() => {}
                _ => return Ok(None),
            }
        }
    }
    let Some(record) = read_own(file, host)? else {
        return Ok(None);
    };
    let record = joined(&record, machine, port.now());
    write_own(file, host, &record)?;
    let _ = port.wait(Duration::from_secs(2 * io_timeout));
    let again = read_own(file, host)?;
    let ours = again.is_some_and(|again| again.leader_bytes() == record.leader_bytes());
    Ok(ours.then_some(record))
}

fn joined(record: &Heartbeat, machine: &Machine, now: Moment) -> Heartbeat {
    // Of the note only the owner and the generation get into the record.
    let note = HostNote {
        watchdog: 60,
        host: machine.setup.host,
        generation: record.generation().next(),
        boot_id: [0; 16],
        former_over: 0,
    };
    let io_timeout = machine.setup.timing.io_timeout();
    record.joined(&machine.name(), now.seconds().max(1), io_timeout, note)
}

fn renew(port: &Port<'_>, machine: &Rc<Machine>, file: &File<'_>, mut record: Heartbeat) {
    let (host, timing) = (machine.setup.host, machine.setup.timing);
    machine.tell(|| {
        format!(
            "sanlock joined as host {host} generation {}",
            record.generation()
        )
    });
    let member = Rc::new(Membership {
        generation: record.generation(),
        tenure: Arc::new(Tenure::new(timing, port.now())),
        ballots_from: Moment(0),
        seen: RefCell::default(),
        left: Cell::new(false),
    });
    *machine.member.borrow_mut() = Some(Rc::clone(&member));
    machine
        .shared
        .members
        .borrow_mut()
        .push((machine.index, Rc::clone(&member)));
    loop {
        let stopped = port.wait(timing.renewal_period()).is_err();
        if stopped && !machine.is_busy() {
            machine.member.take();
            let freed = write_own(file, host, &record.stamped(0)).is_ok();
            member.left.set(freed);
            return member.tenure.note_loss();
        }
        if stopped {
            port.back_off(SECOND);
        }
        if !member.tenure.holds(port.now()) {
            return member.tenure.note_loss();
        }
        let Ok(area) = LOCKSPACE.read_all(file) else {
            continue;
        };
        for other in HostId::all(machine.setup.num_hosts) {
            if let Ok(beat) = area.host(other) {
                member
                    .seen
                    .borrow_mut()
                    .look(other, &beat, timing, port.now());
            }
        }
        let ours = area.host(host).is_ok_and(|now| {
            now.generation() == record.generation() && now.host_name() == record.host_name()
        });
        if !ours {
            return member.tenure.note_loss();
        }
        let next = record.stamped(port.now().seconds().max(record.timestamp() + 1));
        if write_own(file, host, &next).is_ok() {
            record = next;
            // Point 9: it counts from when the write was over.
            member.tenure.note_renewal(port.now());
        }
    }
}

// ---- resources

/// What it holds.
struct Had {
    lver: Lver,
    block: BallotSector,
    leader: Leader,
}

/// One client of the daemon at one resource.
struct Client<'a> {
    port: &'a Port<'a>,
    machine: &'a Rc<Machine>,
    errand: &'a Errand,
    life: &'a Rc<Membership>,
}

enum Try {
    Had(Box<Had>),
    Failed,
    Again,
}

/// Acquires, runs the command, releases. Whether the lease was had.
pub fn run_errand(port: &Port<'_>, machine: &Rc<Machine>, holder: usize, errand: &Errand) -> bool {
    let Some(life) = machine.live_member().filter(|_| !machine.leaving.get()) else {
        return false;
    };
    if machine
        .working
        .borrow()
        .values()
        .any(|work| work.resource == errand.resource)
    {
        return false;
    }
    let work = Work {
        life: Rc::clone(&life),
        resource: errand.resource,
    };
    machine.working.borrow_mut().insert(holder, work);
    let client = Client {
        port,
        machine,
        errand,
        life: &life,
    };
    let had = client.acquire();
    if let Some(had) = &had {
        client.hold(had, holder);
    }
    machine.working.borrow_mut().remove(&holder);
    had.is_some()
}

impl Client<'_> {
    /// Each I/O on a file of its own: what is outstanding on another is forgotten (point 3).
    fn file(&self) -> File<'_> {
        self.port.file(self.machine.new_handle(0))
    }

    fn base(&self) -> u64 {
        area_offset(1 + self.errand.resource)
    }

    fn host(&self) -> HostId {
        self.machine.setup.host
    }

    fn is_ours(&self) -> bool {
        self.life.tenure.holds(self.port.now())
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            host: self.host(),
            generation: self.life.generation,
            timestamp: self.port.now().seconds(),
        }
    }

    fn read_leader(&self) -> Result<Leader, Fault> {
        let sector = self.file().read(self.base(), 512)?;
        Leader::decode(&sector).map_err(|error| Fault::Failed(error.to_string()))
    }

    /// Leader and blocks; a block with a bad checksum is skipped (point 5).
    fn read_area(&self) -> Result<(Leader, Vec<BallotSector>), Fault> {
        let hosts = self.machine.setup.num_hosts;
        let area = self
            .file()
            .read(self.base(), RESOURCE_GEOMETRY.ballots_len(hosts))?;
        let leader = Leader::decode(&area).map_err(|error| Fault::Failed(error.to_string()))?;
        let block = |host: HostId| {
            let at = RESOURCE_GEOMETRY.ballot_at(host);
            BallotSector::decode(&area[at..at + 512]).unwrap_or_default()
        };
        Ok((leader, HostId::all(hosts).map(block).collect()))
    }

    fn write_block(&self, host: HostId, block: &BallotSector) -> Result<(), Fault> {
        let at = self.base() + RESOURCE_GEOMETRY.ballot_at(host) as u64;
        self.file()
            .write(at, &block.to_sector(RESOURCE_GEOMETRY.sector()))
    }

    fn write_leader(&self, leader: &Leader) -> Result<(), Fault> {
        self.file().write(self.base(), &leader.to_sector())
    }

    fn acquire(&self) -> Option<Had> {
        let give_up = self.port.now().after(self.errand.waits_for());
        loop {
            match self.once() {
                Ok(Try::Had(had)) => return Some(*had),
                Ok(Try::Again) => {}
                Ok(Try::Failed) | Err(_) if self.port.now() >= give_up => return None,
                Ok(Try::Failed) | Err(_) => {}
            }
            if !self.is_ours() || self.machine.closing.get() || self.machine.leaving.get() {
                return None;
            }
            let _ = self.port.wait(SECOND);
        }
    }

    fn once(&self) -> Result<Try, Fault> {
        let (leader, blocks) = self.read_area()?;
        let own = self.stamp();
        if let Some(owner) = leader.owner()
            && !(owner.host == own.host && owner.generation <= own.generation)
        {
            // The released flag of any version counts.
            let by_another = leader
                .writer()
                .is_none_or(|writer| writer.host != owner.host);
            let released = by_another && blocks[owner.host.index()].released;
            if !released && !self.is_dead(owner, &leader)? {
                return Ok(Try::Failed);
            }
            if self.read_leader()? != leader {
                return Ok(Try::Again);
            }
        }
        self.ballots(leader, &blocks)
    }

    /// Watches the owner until it is known.
    fn is_dead(&self, owner: Stamp, leader: &Leader) -> Result<bool, Fault> {
        let mut last = None;
        let mut since = self.port.now();
        loop {
            let Ok(beat) = LOCKSPACE.read_host(&self.file(), owner.host)? else {
                return Ok(false);
            };
            let other = beat.owner() != Some(owner.host) || beat.generation() > owner.generation;
            if beat.is_free() || other {
                return Ok(true);
            }
            match last {
                None => last = Some(beat.timestamp()),
                Some(before) if before != beat.timestamp() => return Ok(false),
                _ => {}
            }
            let scanned = self.life.seen.borrow();
            if let Some(seen) = scanned.of(owner.host)
                && seen.timestamp == beat.timestamp()
            {
                since = since.min(seen.since);
            }
            drop(scanned);
            let io_timeout = u64::from(beat.io_timeout().unwrap_or(10));
            if self.port.now().since(since) > dead_after(io_timeout) {
                return Ok(true);
            }
            let _ = self.port.wait(SECOND);
            if !self.is_ours() || self.read_leader()? != *leader {
                return Ok(false);
            }
        }
    }

    fn ballots(&self, leader: Leader, blocks: &[BallotSector]) -> Result<Try, Fault> {
        let max_hosts = RESOURCE_GEOMETRY.max_hosts();
        let lver = leader.lver().next();
        let largest = blocks
            .iter()
            .map(|block| block.ballot.mbal.0)
            .max()
            .unwrap_or(0);
        let mut mbal = match largest {
            0 => self.host().get(),
            seen => seen / max_hosts * max_hosts + max_hosts + self.host().get(),
        };
        for _ in 0..32 {
            if !self.is_ours() {
                return Ok(Try::Failed);
            }
            if let Some(result) = self.ballot(&leader, BallotNumber(mbal), lver)? {
                return Ok(result);
            }
            self.port.back_off(SECOND);
            mbal += max_hosts;
            let now = self.read_leader()?;
            if now != leader {
                return Ok(Try::Again);
            }
        }
        Ok(Try::Failed)
    }

    /// One ballot; `None`: lost.
    fn ballot(
        &self,
        leader: &Leader,
        mbal: BallotNumber,
        lver: Lver,
    ) -> Result<Option<Try>, Fault> {
        // Phase 1 forgets what was accepted (point 2).
        let mut own = BallotSector {
            ballot: Ballot {
                mbal,
                lver,
                ..Ballot::default()
            },
            ..BallotSector::default()
        };
        self.write_block(self.host(), &own)?;
        let (_, blocks) = self.read_area()?;
        if self.is_outbid(&blocks, mbal, lver) {
            return Ok(None);
        }
        // Mode records are looked at here only (point 6).
        let sharers = self.sharers(&blocks);
        let accepted = |block: &&BallotSector| {
            block.ballot.lver == lver && block.ballot.bal.0 > 0 && block.ballot.value.is_some()
        };
        let last = blocks
            .iter()
            .filter(accepted)
            .max_by_key(|block| block.ballot.bal);
        let value = last
            .and_then(|block| block.ballot.value)
            .unwrap_or(self.stamp());
        own.ballot.bal = mbal;
        own.ballot.value = Some(value);
        let committed = self.accept_and_commit(leader, &own, value);
        match committed {
            Ok(None) => Ok(None),
            Ok(Some(new)) => Ok(Some(self.finish(new, own, value, &sharers)?)),
            Err(fault) => {
                // In doubt: it zeroes its record and hopes (point 4).
                self.write_block(self.host(), &BallotSector::default())?;
                Err(fault)
            }
        }
    }

    fn is_outbid(&self, blocks: &[BallotSector], mbal: BallotNumber, lver: Lver) -> bool {
        let outbids = |(index, block): (usize, &BallotSector)| {
            let ballot = &block.ballot;
            index != self.host().index()
                && (ballot.lver > lver || ballot.lver == lver && ballot.mbal > mbal)
        };
        blocks.iter().enumerate().any(outbids)
    }

    fn sharers(&self, blocks: &[BallotSector]) -> Vec<Stamp> {
        let shares = |(index, block): (usize, &BallotSector)| {
            let host = HostId::new(index as u64 + 1).unwrap();
            block
                .shared
                .filter(|_| host != self.host())
                .map(|generation| Stamp {
                    host,
                    generation,
                    timestamp: 0,
                })
        };
        blocks.iter().enumerate().filter_map(shares).collect()
    }

    fn accept_and_commit(
        &self,
        leader: &Leader,
        own: &BallotSector,
        value: Stamp,
    ) -> Result<Option<Leader>, Fault> {
        self.write_block(self.host(), own)?;
        let (_, blocks) = self.read_area()?;
        let Ballot { mbal, lver, .. } = own.ballot;
        if self.is_outbid(&blocks, mbal, lver) {
            return Ok(None);
        }
        let short = (value.host == self.host()).then_some(self.errand.mode == Mode::Shared);
        let new = leader.committed(lver, value, self.stamp(), short);
        self.write_leader(&new)?;
        Ok(Some(new))
    }

    fn finish(
        &self,
        leader: Leader,
        block: BallotSector,
        value: Stamp,
        sharers: &[Stamp],
    ) -> Result<Try, Fault> {
        // The host alone is compared, not the generation (point 1).
        if value.host != self.host() {
            return Ok(Try::Failed);
        }
        let mut had = Had {
            lver: leader.lver(),
            block,
            leader,
        };
        if self.errand.mode == Mode::Shared {
            had.block.released = true;
            had.block.shared = Some(Generation(self.life.generation.0));
            self.write_block(self.host(), &had.block)?;
            self.write_leader(&leader.released(self.stamp()))?;
            return Ok(Try::Had(Box::new(had)));
        }
        for sharer in sharers {
            if self.share_is_over(*sharer)? {
                // Its whole record goes, whatever stands there by now (point 7).
                self.write_block(sharer.host, &BallotSector::default())?;
            } else {
                self.release(&had)?;
                return Ok(Try::Failed);
            }
        }
        Ok(Try::Had(Box::new(had)))
    }

    fn share_is_over(&self, sharer: Stamp) -> Result<bool, Fault> {
        let Ok(beat) = LOCKSPACE.read_host(&self.file(), sharer.host)? else {
            return Ok(false);
        };
        if beat.is_free() || beat.generation() > sharer.generation {
            return Ok(true);
        }
        let scanned = self.life.seen.borrow();
        let io_timeout = u64::from(beat.io_timeout().unwrap_or(10));
        // Never scanned: alive.
        Ok(scanned.of(sharer.host).is_some_and(|seen| {
            seen.timestamp == beat.timestamp()
                && self.port.now().since(seen.since) > dead_after(io_timeout)
        }))
    }

    fn release(&self, had: &Had) -> Result<(), Fault> {
        let block = BallotSector {
            ballot: had.block.ballot,
            released: true,
            ..BallotSector::default()
        };
        self.write_block(self.host(), &block)?;
        if self.errand.mode == Mode::Shared {
            return Ok(());
        }
        let leader = self.read_leader()?;
        if leader == had.leader {
            self.write_leader(&leader.released(self.stamp()))?;
        }
        Ok(())
    }

    /// Nobody looks at the leader while the command runs (point 8).
    fn hold(&self, had: &Had, holder: usize) {
        if !self.is_ours() {
            return;
        }
        let id = self.start_command(had, holder);
        let over = self.port.now().after(self.errand.hold);
        while self.port.now() < over && !self.machine.closing.get() {
            let left = over.since(self.port.now());
            let _ = self.port.wait(left.min(SECOND / 2));
            if !self.is_ours() {
                return; // Lost; the watchdog ends the command.
            }
        }
        self.machine.stop_command(id);
        // A release that got no answer is done again at once (point 3).
        for _ in 0..3 {
            if self.release(had).is_ok() {
                return;
            }
        }
    }

    fn start_command(&self, had: &Had, holder: usize) -> u64 {
        let machine = self.machine;
        let id = machine.shared.checker.borrow_mut().start(Run {
            id: 0,
            resource: self.errand.resource,
            machine: machine.index,
            life: (self.host().get(), self.life.generation.0),
            exclusive: self.errand.mode == Mode::Exclusive,
            lver: had.lver.0,
            since: machine.shared.now.get(),
        });
        machine.commands.borrow_mut().push(Command {
            id,
            holder,
            life: Rc::clone(self.life),
        });
        id
    }
}
