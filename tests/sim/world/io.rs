//! The disks of a world: how an operation of a process happens, and how it ends.

use super::super::clock::Instant;
use super::super::machine::Machine;
use super::super::port::{Answer, Handle, Op};
use super::super::{area_offset, resource_at};
use super::{
    Broken, Event, IoId, Kind, LARGEST_SECTOR, MILLI, ProcessId, Running, SECOND, TWINS, World,
};
use lease_core::disk::Fault;
use lease_core::record::heartbeat::Heartbeat;
use std::ops::Range;
use std::rc::Rc;

/// An I/O on its way.
pub(super) struct Io {
    process: ProcessId,
    machine: usize,
    handle: Handle,
    offset: u64,
    issued: Instant,
    /// How often its machine had lost power.
    boot: u64,
    what: Transfer,
    landed: bool,
    /// Its process was told that it has failed.
    failed: bool,
    /// Its process has gone on.
    begun: bool,
}

/// A write that lands.
struct Write {
    machine: usize,
    boot: u64,
    issued: Instant,
    handle: Handle,
    offset: u64,
    bytes: Rc<[u8]>,
}

/// How it shows that a disk is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dark {
    /// I/O fails.
    Fails,
    /// I/O hangs.
    Hangs,
}

pub(super) enum Transfer {
    Read(Vec<u8>),
    Write(Rc<[u8]>),
}

impl Io {
    fn len(&self) -> usize {
        match &self.what {
            Transfer::Read(buffer) => buffer.len(),
            Transfer::Write(bytes) => bytes.len(),
        }
    }
}

impl Running {
    /// Until when a file has an I/O outstanding.
    fn back(&self, of: Handle) -> Instant {
        self.outstanding.get(&of.file).copied().unwrap_or(0)
    }

    /// Whether a write to it is known to have failed that may still land.
    fn is_unsure(&self, of: Handle, at: Instant) -> bool {
        self.unsure.get(&of.file).is_some_and(|from| *from <= at)
    }
}

impl World {
    /// Takes the next operation of a process.
    pub(super) fn submit(&mut self, id: ProcessId) {
        self.asked += 1;
        let (asked, now) = (self.asked, self.now());
        let running = self.processes.get_mut(id).unwrap();
        running.asked = asked;
        let machine = running.machine;
        let running = self.processes.get(id).unwrap();
        let Some(op) = running.process.pending.clone() else {
            return;
        };
        match op.io() {
            Op::Await { until } => {
                let at = self.machines[machine].face.when(*until).max(self.now());
                // Later than this world lasts: only an answer ends that.
                if at < self.faults_end + 1000 * SECOND {
                    self.at(at, Event::Answer(id, asked, None));
                }
            }
            Op::Begin(_) => {}
            &Op::Wait { until } => {
                let jitter = self.below(MILLI) + self.stall();
                let at = self.machines[machine].face.when(until).max(self.now());
                self.at(at + jitter, Event::Answer(id, asked, None));
            }
            &Op::Listen { mailbox, until } => {
                self.listening.insert(mailbox, id);
                let at = self.machines[machine].face.when(until);
                let mail = self.shared.letters.next(mailbox);
                let at = mail.map_or(at, |mail| mail.min(at)).max(self.now());
                // Later than this world lasts: only a letter ends that.
                if at < self.faults_end + 1000 * SECOND {
                    let jitter = self.below(MILLI / 10);
                    self.at(at + jitter, Event::Answer(id, asked, None));
                }
            }
            Op::Page => {
                let delay = self.below(MILLI) + self.stall();
                self.after(delay, Event::Answer(id, asked, None));
            }
            &Op::BackOff { most } => {
                let delay = self.below(most.as_nanos() as u64);
                self.after(delay, Event::Answer(id, asked, None));
            }
            &Op::Settle { handle, patience } => {
                let patience = patience.unwrap_or(handle.limit).as_nanos() as u64;
                let (back, limit) = (running.back(handle), now + patience);
                if back <= limit {
                    let unsure = running.is_unsure(handle, back.max(now));
                    let fault = unsure.then_some(Fault::Unsure);
                    self.at(back.max(now) + 1000, Event::Answer(id, asked, fault));
                } else {
                    self.at(limit, Event::Answer(id, asked, Some(Fault::Outstanding)));
                }
            }
            Op::Read { handle, .. } | Op::Write { handle, .. } if running.back(*handle) > now => {
                self.after(1000, Event::Answer(id, asked, Some(Fault::Outstanding)));
            }
            Op::Write { handle, .. } if running.is_unsure(*handle, now) => {
                self.after(1000, Event::Answer(id, asked, Some(Fault::Unsure)));
            }
            Op::Read { .. } | Op::Write { .. } => {
                let stall = self.stall();
                self.after(stall, Event::Issue(id));
            }
        }
    }

    fn stall(&mut self) -> u64 {
        if self.chance(self.weather.stall) {
            let most = if self.rng.bool() {
                self.weather.stall_most
            } else {
                SECOND
            };
            let most = most.min(self.weather.stall_most);
            self.below(most)
        } else {
            0
        }
    }

    /// The operation reaches the kernel: what becomes of it?
    pub(super) fn issue(&mut self, id: ProcessId) {
        let Some(running) = self.processes.get(id) else {
            return;
        };
        let machine = running.machine;
        let Some(op) = running.process.pending.clone() else {
            return;
        };
        let begun = matches!(op, Op::Begin(_));
        let (handle, offset, what) = match op.io() {
            &Op::Read {
                handle,
                offset,
                len,
            } => {
                // What follows is zeros, and is added by whoever asks for them.
                let real = self.disks[handle.disk].real_len(offset, len);
                let buffer = vec![0; len.min(real + LARGEST_SECTOR)];
                (handle, offset, Transfer::Read(buffer))
            }
            Op::Write {
                handle,
                offset,
                bytes,
            } => (*handle, *offset, Transfer::Write(Rc::clone(bytes))),
            _ => return,
        };
        let reads = matches!(what, Transfer::Read(_));
        self.tell_io(machine, handle, offset, &what);
        let issued = self.now();
        let io = self.ios.add(Io {
            process: id,
            machine,
            handle,
            offset,
            issued,
            boot: self.machines[machine].boot.get(),
            what,
            landed: false,
            failed: false,
            begun,
        });
        let dark = self.is_dark(machine, handle, offset);
        let silent = self.lockspace_of(handle, offset).and_then(|lockspace| {
            let until = self.silent_until.get(&(machine, lockspace));
            until.filter(|until| self.now() < **until)
        });
        let cut = self.now() < self.cut_until[machine] || dark == Some(Dark::Hangs);
        let cut = cut || silent.is_some();
        if cut || self.chance(self.weather.time_out) {
            self.time_out(id, io, cut);
        } else if dark.is_some() || self.chance(self.weather.fail) {
            self.fail(id, io);
        } else if reads {
            self.serve_read(id, io);
        } else {
            let (first, second) = (self.latency(machine), self.latency(machine));
            self.after(first.min(second), Event::Land(io));
            self.comes_back_after(first.max(second), id, io, None);
        }
        if begun {
            let running = self.processes.get(id);
            let known = running.and_then(|running| running.process.begun.clone());
            known.unwrap().begin(handle, io);
            self.resume(id, Answer::Done);
        }
    }

    /// An I/O comes back to its process. One that was begun bars all others of its file until then,
    /// also if it is left.
    fn comes_back_after(&mut self, delay: u64, id: ProcessId, io: IoId, fault: Option<Fault>) {
        let Io { begun, handle, .. } = *self.io(io);
        if !begun {
            return self.after(delay, Event::Return(id, io, fault));
        }
        let at = self.now() + delay;
        let running = self.processes.get_mut(id).unwrap();
        let back = running.outstanding.entry(handle.file).or_default();
        *back = at.max(*back);
        self.at(at, Event::Back(id, handle, io, fault));
    }

    /// The answer to an I/O that was begun is here, for whoever asks for it.
    pub(super) fn comes_back(
        &mut self,
        id: ProcessId,
        handle: Handle,
        io: IoId,
        fault: Option<Fault>,
    ) {
        let answer = self.answer_to(io, fault);
        let Some(process) = self.processes.get(id).map(|running| &running.process) else {
            return;
        };
        let awaits = matches!(process.pending, Some(Op::Await { .. }));
        if let Some(begun) = &process.begun {
            begun.answer(handle, io, answer);
        }
        if awaits {
            self.resume(id, Answer::Done);
        }
    }

    /// The machine in the lockspace that what lies there belongs to.
    fn owner_of(&self, machine: usize, handle: Handle, offset: u64) -> Rc<Machine> {
        let host = &self.machines[machine];
        let of_resource = || resource_at(offset) % host.setup.lockspaces();
        host.in_lockspace(
            self.lockspace_of(handle, offset)
                .unwrap_or_else(of_resource),
        )
    }

    /// Whose heartbeats lie there, if any do.
    fn lockspace_of(&self, handle: Handle, offset: u64) -> Option<usize> {
        let of_it = |host: Rc<Machine>| host.setup.heartbeats() == handle.disk;
        let found = || self.machines[0].in_all().position(of_it);
        (offset < area_offset(1)).then(found).flatten()
    }

    /// Heartbeats lie elsewhere.
    fn is_dark(&self, machine: usize, handle: Handle, offset: u64) -> Option<Dark> {
        let (until, how) = self.dark.get(&(machine, handle.disk))?;
        (self.now() < *until && offset >= area_offset(1)).then_some(*how)
    }

    /// A disk goes out of the reach of some machines, or of all.
    pub(super) fn darken(&mut self, disk: usize) {
        let all = self.rng.u8(..4) == 0;
        for machine in 0..self.machines.len() {
            if !all && self.rng.bool() {
                continue;
            }
            let most = 4 * self.dead_after(machine);
            let until = self.now() + self.below(most);
            let how = if self.rng.bool() {
                Dark::Fails
            } else {
                Dark::Hangs
            };
            self.dark.insert((machine, disk), (until, how));
            self.shared.tell(Some(machine), || {
                let seconds = (until - self.shared.now.get()) as f64 / 1e9;
                format!("disk {disk} is out of reach for {seconds:.3} s: {how:?}")
            });
        }
    }

    fn io(&self, io: IoId) -> &Io {
        self.ios.get(io).unwrap()
    }

    fn tell_io(&self, machine: usize, handle: Handle, offset: u64, what: &Transfer) {
        if let Transfer::Write(bytes) = what {
            self.shared.tell(Some(machine), || {
                format!("write {}", describe(handle.disk, offset, bytes))
            });
        }
    }

    fn latency(&mut self, machine: usize) -> u64 {
        if self.chance(self.weather.slow) {
            let limit = self.io_limit(machine);
            self.below(limit * 99 / 100)
        } else {
            let most = self.weather.latency;
            1000 + self.below(most)
        }
    }

    fn time_out(&mut self, id: ProcessId, io: IoId, cut: bool) {
        let Io {
            machine, handle, ..
        } = *self.io(io);
        let (limit, bound) = (handle.limit.as_nanos() as u64, self.late_bound(io));
        let least = self.io_limit(machine).min(limit);
        let reads = matches!(self.io(io).what, Transfer::Read(_));
        let lands = !reads && {
            let share = self.weather.lands;
            self.chance(share)
        };
        let back = self.now() + least + self.below(bound.saturating_sub(least));
        let comes_back = lands || cut || self.rng.u8(..4) > 0;
        if lands {
            self.at(back, Event::Land(io));
        }
        if comes_back && (lands || reads) && back < self.now() + limit {
            // Whoever waits for longer has it after all.
            let len = self.io(io).len();
            self.at(back, Event::Fill(io, 0..len));
            return self.comes_back_after(back + 1 - self.now(), id, io, None);
        }
        let until = if comes_back { back + 1 } else { Instant::MAX };
        if !lands && self.may_land_after_failing(io) {
            self.fails_for_now(id, io, until);
        } else if comes_back {
            self.at(until, Event::Over(io));
        }
        self.processes
            .get_mut(id)
            .unwrap()
            .outstanding
            .insert(handle.file, until);
        let seconds = limit / SECOND;
        self.comes_back_after(limit, id, io, Some(Fault::TimedOut(seconds)));
    }

    /// Assumption c: how long a write may be on its way.
    fn late_bound(&self, io: IoId) -> u64 {
        let Io {
            machine,
            handle,
            offset,
            ..
        } = *self.io(io);
        let host = self.owner_of(machine, handle, offset);
        let bound = host.setup.lands_within().as_nanos() as u64;
        match self.kind {
            Kind::Broken(Broken::LateWrites) => 4 * bound,
            _ => bound,
        }
    }

    fn fail(&mut self, id: ProcessId, io: IoId) {
        let machine = self.io(io).machine;
        let (first, second) = (self.latency(machine), self.latency(machine));
        if self.may_land_after_failing(io) {
            self.fails_for_now(id, io, self.now() + first.max(second));
        } else if !matches!(self.io(io).what, Transfer::Read(_)) && self.rng.bool() {
            self.after(first.min(second), Event::Land(io));
        }
        let fault = Fault::Failed("Input/output error".into());
        self.comes_back_after(first.max(second), id, io, Some(fault));
    }

    fn may_land_after_failing(&self, io: IoId) -> bool {
        let io = self.io(io);
        let storage = &self.machines[io.machine].setup.storage;
        matches!(io.what, Transfer::Write(_)) && !storage.failure_is_final
    }

    /// A write fails, which is known at `known`, and lands some time, or never. Until its file is
    /// closed no other is written, unless it is the heartbeat's: of whose writes any will do.
    fn fails_for_now(&mut self, id: ProcessId, io: IoId, known: Instant) {
        let Io {
            handle,
            offset,
            issued,
            ..
        } = *self.io(io);
        if self.rng.bool() {
            let late = self.below(self.late_bound(io));
            self.at(issued + late, Event::Land(io));
        }
        if offset >= area_offset(1) {
            let running = self.processes.get_mut(id).unwrap();
            let from = running.unsure.entry(handle.file).or_insert(known);
            *from = known.min(*from);
        }
    }

    /// A read of many sectors is of up to three moments, in any order.
    fn serve_read(&mut self, id: ProcessId, io: IoId) {
        let Io {
            machine,
            handle,
            offset,
            ref what,
            ..
        } = *self.io(io);
        let Transfer::Read(buffer) = what else {
            return;
        };
        let len = self.disks[handle.disk].real_len(offset, buffer.len());
        let sector = if offset < area_offset(1) { 4096 } else { 512 };
        // What stands first is looked at before it is known how large they are.
        let sector = sector.min(len.max(1));
        let sectors = len / sector;
        let mut cuts = [0, 0, sectors];
        if sectors > 1 && !self.kind.has_sanlock() {
            cuts[0] = self.rng.usize(0..=sectors);
            cuts[1] = self.rng.usize(0..=sectors);
            cuts[..2].sort_unstable();
        }
        let mut last = 0;
        let mut start = 0;
        for cut in cuts {
            if cut > start {
                let latency = self.latency(machine);
                last = last.max(latency);
                self.after(latency, Event::Fill(io, start * sector..cut * sector));
                start = cut;
            }
        }
        let more = self.rng.u64(1..1000);
        self.comes_back_after(last + more, id, io, None);
    }

    pub(super) fn fill(&mut self, io: IoId, range: Range<usize>) {
        if let Some(io) = self.ios.get_mut(io)
            && let Transfer::Read(buffer) = &mut io.what
        {
            let stale = self.kind == Kind::Broken(Broken::StaleReads) && self.rng.u8(..4) == 0;
            let disks = if stale { &self.old_disks } else { &self.disks };
            disks[io.handle.disk].read_into(buffer, io.offset, range);
        }
    }

    pub(super) fn land(&mut self, io: IoId) {
        let Some(io) = self.ios.get_mut(io).filter(|io| !io.landed) else {
            return;
        };
        io.landed = true;
        let Transfer::Write(bytes) = &io.what else {
            return;
        };
        let write = Write {
            machine: io.machine,
            boot: io.boot,
            issued: io.issued,
            handle: io.handle,
            offset: io.offset,
            bytes: Rc::clone(bytes),
        };
        if self.kind == Kind::Broken(Broken::StaleReads) && self.rng.u8(..16) == 0 {
            self.old_disks = self.disks.clone();
        }
        let mut len = write.bytes.len();
        let late = self.now() - write.issued;
        if late > SECOND {
            self.shared.tell(None, || {
                let what = describe(write.handle.disk, write.offset, &write.bytes);
                let machine = write.machine;
                format!("m{machine}'s write lands, {} ms late: {what}", late / MILLI)
            });
            len = self.part(write.handle.disk, write.offset, len);
        }
        self.disks[write.handle.disk].write(write.offset, &write.bytes[..len]);
        self.watch(&write);
    }

    /// What stands where something was written, as the checker sees it.
    fn watch(&self, write: &Write) {
        let sector = self.disks[write.handle.disk].read(write.offset, write.bytes.len());
        let resource = (write.offset >> 20) as usize;
        if resource == 0 {
            return self.note_heartbeat(write, &sector);
        }
        if write.offset.is_multiple_of(area_offset(1)) {
            let mut checker = self.shared.checker.borrow_mut();
            checker.leader_written(resource - 1, &sector);
        }
        self.compare(resource - 1);
    }

    /// What a machine had on its way when it lost power it knows nothing of; and of two machines
    /// with one host id, one may be stopped before its join's write for longer than the other
    /// waits.
    fn note_heartbeat(&self, write: &Write, sector: &[u8]) {
        let machine = self.owner_of(write.machine, write.handle, write.offset);
        let host = (machine.setup.lockspace, machine.setup.host.get());
        let mut checker = self.shared.checker.borrow_mut();
        let whole = Heartbeat::decode(sector);
        let is_twin = self.has_twins && TWINS.contains(&write.machine);
        let broken = matches!(self.kind, Kind::Broken(_));
        let forgotten = broken || is_twin || write.boot < machine.boot.get();
        checker.heartbeat_written(host, sector, forgotten);
        if let Ok(beat) = whole {
            machine.note_landed(&beat, write.issued);
            if !forgotten {
                checker.life_written(host, sector);
            }
        }
    }

    /// What holders believe, with what stands on the disks.
    pub(super) fn compare(&self, resource: usize) {
        let excused = self.shared.excused.borrow();
        if excused.all || self.is_damaged(resource) {
            return;
        }
        let disks = self.disks.iter().take(self.machines[0].setup.disks);
        let areas: Vec<&[u8]> = disks.map(|disk| disk.area(1 + resource)).collect();
        let mut checker = self.shared.checker.borrow_mut();
        checker.compare(resource, &areas, &excused.hosts);
    }

    pub(super) fn give_back(&mut self, id: ProcessId, io: IoId, fault: Option<Fault>) {
        let answer = self.answer_to(io, fault);
        self.resume(id, answer);
    }

    fn answer_to(&mut self, io: IoId, fault: Option<Fault>) -> Answer {
        match fault {
            Some(fault) => {
                let machine = self.ios.get(io).map(|io| io.machine);
                let known = self.ios.get(io).is_some();
                if !matches!(fault, Fault::TimedOut(_)) && known && !self.may_land_after_failing(io)
                {
                    // It is over, and lands no more.
                    self.ios.remove(io);
                } else if let Some(io) = self.ios.get_mut(io) {
                    io.failed = matches!(fault, Fault::Failed(_));
                }
                self.shared.tell(machine, || format!("I/O: {fault}"));
                Answer::Fault(fault)
            }
            None => match self.ios.remove(io).map(|io| io.what) {
                Some(Transfer::Read(buffer)) => Answer::Bytes(buffer),
                _ => Answer::Done,
            },
        }
    }

    /// A process is gone, and what it has on its way lands as it would have, late, or never.
    /// `powerless`: so is the machine's kernel, which else may see to it that none of the dead has
    /// any on its way, but what has failed.
    pub(super) fn orphan_all(&mut self, id: ProcessId, powerless: bool) {
        let mine = self.ios.iter().filter(|(_, io)| io.process == id);
        let mine: Vec<IoId> = mine.map(|(io, _)| io).collect();
        for io in mine {
            let Io {
                machine, failed, ..
            } = *self.io(io);
            match self.machines[machine].setup.storage.io_ends_with_process && !powerless {
                true if failed => {}
                true => self.comes_to_its_end(io),
                false => self.orphan(io),
            }
        }
    }

    /// Whether a heartbeat of this machine may still land.
    pub(super) fn heartbeat_is_on_its_way(&self, machine: usize) -> bool {
        let heartbeat = |(_, io): (IoId, &Io)| {
            io.machine == machine && io.offset < area_offset(1) && !io.landed
        };
        self.ios.iter().any(heartbeat)
    }

    /// It lands now, if it has not, or never.
    fn comes_to_its_end(&mut self, io: IoId) {
        let in_time = self.now() <= self.io(io).issued + self.late_bound(io);
        if in_time && self.rng.bool() {
            self.land(io);
        }
        self.ios.remove(io);
    }

    /// The process of an I/O is gone: it lands as it would have, late, or never.
    fn orphan(&mut self, io: IoId) {
        match self.rng.u8(..3) {
            _ if self.io(io).landed => {}
            0 => {}
            1 => {
                self.ios.remove(io);
            }
            _ => {
                let until = self.io(io).issued + self.late_bound(io);
                let at = self.rng.u64(self.now()..=until.max(self.now()));
                if at < until {
                    // Under another number: the event that was to land it finds nothing.
                    let orphan = self.ios.remove(io).unwrap();
                    let orphan = self.ios.add(orphan);
                    self.at(at, Event::Land(orphan));
                }
            }
        }
    }
}

/// A write in words.
pub fn describe(disk: usize, offset: u64, bytes: &[u8]) -> String {
    use lease_core::record::{ballot::BallotSector, heartbeat::Heartbeat, leader::Leader};
    let (area, at) = (offset >> 20, (offset % area_offset(1)) as usize);
    let name = format!("r{}{}", area.saturating_sub(1), "'".repeat(disk));
    if area == 0 {
        return match Heartbeat::decode(bytes) {
            Ok(beat) => format!("heartbeat g{} at {}", beat.generation(), beat.timestamp()),
            Err(error) => format!("heartbeat {error}"),
        };
    }
    let owner = |stamp: Option<lease_core::record::leader::Stamp>| match stamp {
        Some(stamp) => format!("{}:{}", stamp.host, stamp.generation),
        None => "free".into(),
    };
    if at == 0 {
        return match Leader::decode(bytes) {
            Ok(leader) => format!(
                "{name} leader lver {} {}",
                leader.lver(),
                owner(leader.owner())
            ),
            Err(error) => format!("{name} leader {error}"),
        };
    }
    match BallotSector::decode(bytes) {
        Ok(BallotSector {
            ballot,
            released,
            shared,
            ..
        }) => format!(
            "{name} block {} lver {} mbal {} bal {} {}{}{}",
            at / 512 - 1,
            ballot.lver,
            ballot.mbal,
            ballot.bal,
            owner(ballot.value),
            if released { " released" } else { "" },
            if shared.is_some() { " shared" } else { "" },
        ),
        Err(error) => format!("{name} block {error}"),
    }
}
