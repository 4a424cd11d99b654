//! The server's talk with its holders: what each asks, and what it is answered.

use crate::TOOL;
use crate::server::{Server, Stage};
use crate::state::Holders;
use crate::undertaker::Victim;
use lease_core::clock::{Clock, Moment};
use lease_core::contain::{Containment, Guarded};
use lease_core::id::escape;
use lease_core::process::Process;
use lease_core::registry::message::{Ask, HolderId, Phase, Tell, Welcome};
use lease_core::registry::table::{Answer, Holder, OutOfOrder};
use lease_core::registry::wire::Wire;
use lease_core::tool::say;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

/// Most connections at a time, where there are descriptors for so many.
const CONNECTIONS_MAX: u64 = 4096;
/// Descriptors that one of them takes: its own, those of two processes, one that comes beside a
/// message.
const DESCRIPTORS_EACH: u64 = 4;
/// Descriptors that are kept for all else.
const DESCRIPTORS_KEPT: u64 = 128;
/// How long new connections wait where one could not be taken in.
const DEAF_FOR: Duration = Duration::from_millis(500);
/// A connection that has not registered after this long is closed.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) wire: Wire,
    pid: i32,
    since: Moment,
    /// Its registration.
    pub(crate) holder: Option<HolderId>,
    /// Its process, and what it has started.
    pub(crate) victim: Victim,
    /// What it is to start stands behind its gate, for all that was said here.
    at_gate: bool,
}

/// What comes of a message.
enum Heard {
    Answers(Vec<Answer>),
    /// An answer that rests on nothing that must be kept before it leaves.
    Now(Tell),
    /// Goodbye.
    Last(Tell),
}

/// Takes as many descriptors as this process may have. Returns for how many connections they are
/// enough.
pub(crate) fn raise_descriptor_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    let most = limit.saturating_sub(DESCRIPTORS_KEPT) / DESCRIPTORS_EACH;
    usize::try_from(most.clamp(1, CONNECTIONS_MAX)).unwrap_or(1)
}

impl Server {
    /// Takes in new connections.
    pub(crate) fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.take_in(stream),
                Err(error) => {
                    // What cannot be taken in stays there, and would call without a pause.
                    if error.kind() != ErrorKind::WouldBlock {
                        self.deaf_until = self.clock.now().after(DEAF_FOR);
                    }
                    return;
                }
            }
        }
    }

    fn take_in(&mut self, stream: UnixStream) {
        if self.peers.len() < self.connections_max
            && let Some(peer) = self.admit(stream)
        {
            self.next_peer += 1;
            self.peers.insert(self.next_peer, peer);
        }
    }

    /// Only our own user and root may talk.
    fn admit(&self, stream: UnixStream) -> Option<Peer> {
        let credentials = getsockopt(&stream, PeerCredentials).ok()?;
        let ours = nix::unistd::geteuid().as_raw();
        if credentials.uid() != ours && credentials.uid() != 0 {
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        let victim = Victim {
            holder: None,
            guarded: None,
            guarded_process: None,
        };
        Some(Peer {
            wire: Wire::new(stream),
            pid: credentials.pid(),
            since: self.clock.now(),
            holder: None,
            victim,
            at_gate: false,
        })
    }

    /// Hears every connection that has something to say, and closes those that wait too long with
    /// it. For one that is idle nothing is done, not even a system call.
    pub(crate) fn hear_peers(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        let is_late =
            |peer: &Peer| peer.holder.is_none() && now.since(peer.since) > REGISTER_WITHIN;
        let late = self.peers.iter().filter(|(_, peer)| is_late(peer));
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        for number in std::mem::take(&mut self.called).into_iter().chain(late) {
            let Some(peer) = self.peers.get_mut(&number) else {
                continue;
            };
            let late = is_late(peer);
            // What was said before the connection broke is heard all the same, to the last word.
            let written = peer.wire.flush().is_ok();
            let filled = match written {
                true => peer.wire.fill(),
                false => peer.wire.drain(),
            };
            let heard = self.hear_peer(number)?;
            if heard && matches!(filled, Ok(false)) {
                self.hear_the_end_of(number);
            }
            if !written || !heard || late || !filled.unwrap_or(false) {
                self.close(number)?;
            }
        }
        Ok(())
    }

    /// A lease-hold that ends before it has said that the command starts has not started it: it
    /// opens the gate only after it has said so, on a connection that it knows to be open.
    fn hear_the_end_of(&mut self, number: u64) {
        if let Some(peer) = self.peers.get_mut(&number)
            && peer.at_gate
        {
            peer.victim.nothing_runs();
        }
    }

    /// Takes all messages that a peer has sent. `false`: it is to be closed.
    fn hear_peer(&mut self, number: u64) -> anyhow::Result<bool> {
        loop {
            let Some(peer) = self.peers.get_mut(&number) else {
                return Ok(true);
            };
            let ask = match peer.wire.take_message::<Ask>() {
                Ok(Some(ask)) => ask,
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            };
            match self.answer(number, ask) {
                Ok(Heard::Answers(answers)) => self.save_then_send(answers)?,
                Ok(Heard::Now(tell)) => self.tell(number, &tell),
                Ok(Heard::Last(tell)) => {
                    self.tell(number, &tell);
                    return Ok(false);
                }
                Err(OutOfOrder) => return Ok(false),
            }
        }
    }

    fn answer(&mut self, number: u64, ask: Ask) -> Result<Heard, OutOfOrder> {
        let (now, late_until) = (self.clock.now(), self.late_until());
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        let id = match (peer.holder, &ask) {
            (Some(id), _) => id,
            (None, Ask::Register { .. } | Ask::Resume { .. } | Ask::Describe) => HolderId(0),
            (None, _) => return Err(OutOfOrder),
        };
        let answers = match ask {
            Ask::Describe => {
                return Ok(Heard::Now(Tell::Described(Box::new(self.describe()))));
            }
            Ask::Register { .. } | Ask::Resume { .. } if peer.holder.is_some() => {
                return Err(OutOfOrder);
            }
            Ask::Register { command, resources } => {
                match self.register(number, command, resources)? {
                    Ok(welcome) => {
                        vec![(welcome.holder, Tell::Registered(Box::new(welcome)))]
                    }
                    Err(refusal) => return Ok(Heard::Last(refusal)),
                }
            }
            Ask::Resume {
                holder,
                generation,
                phases,
                late,
            } => {
                return self.resume(number, holder, generation, (&phases, &late));
            }
            Ask::Acquire { .. } | Ask::Guard { .. } if self.stage != Stage::Serving => {
                vec![(id, self.farewell())]
            }
            Ask::Acquire { index } => match self.table.acquire(id, index, now)? {
                // Nothing has changed, and this is asked again and again.
                (_, busy @ Tell::Busy { .. }) => return Ok(Heard::Now(busy)),
                turn => vec![turn],
            },
            Ask::Acquired { index, lver, left } => {
                self.table.acquired(id, index, lver, left, late_until)?
            }
            Ask::Gone => {
                peer.victim.nothing_runs();
                if matches!(self.stage, Stage::Lost { .. }) {
                    self.table.gone(id);
                }
                Vec::new()
            }
            Ask::Start => {
                peer.at_gate = false;
                Vec::new()
            }
            Ask::Release { index } => {
                let answers = self.table.release(id, index)?;
                peer.victim.nothing_runs();
                answers
            }
            Ask::Released { index, left } => {
                let left = self.table.as_left(id, index, left, now);
                self.table.released(id, index, left, late_until)?
            }
            Ask::Guard { containment } => vec![(id, self.guard(number, id, containment)?)],
        };
        Ok(Heard::Answers(answers))
    }

    /// What a holder is to start stands behind its gate.
    fn guard(
        &mut self,
        number: u64,
        id: HolderId,
        containment: Containment,
    ) -> Result<Tell, OutOfOrder> {
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        let descriptor = peer.wire.take_descriptor().ok_or(OutOfOrder)?;
        let Some(process) = Process::received(descriptor) else {
            // Given up meanwhile, as a rule: nobody waits for this answer.
            let why = "it ended behind its gate".into();
            return Ok(Tell::NotGuarded { why });
        };
        let guarded = Guarded {
            process: process.id(),
            containment,
        };
        if !guarded.is_within_reach() {
            return Ok(Tell::NotGuarded {
                why: out_of_reach(&guarded),
            });
        }
        self.table.guard(id, guarded.clone())?;
        peer.at_gate = guarded.containment == Containment::Tree;
        peer.victim.guarded = Some(guarded);
        peer.victim.guarded_process = Some(process);
        Ok(Tell::Go {
            generation: self.life.former.generation,
            renewed: self.tenure.renewed(),
        })
    }

    /// The peer's own process, by the descriptor that it sent: it must be the one that connected.
    fn own_process(&mut self, number: u64) -> Result<Process, OutOfOrder> {
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        let process = peer.wire.take_descriptor().and_then(Process::received);
        process
            .filter(|process| process.id().pid == peer.pid)
            .ok_or(OutOfOrder)
    }

    fn register(
        &mut self,
        number: u64,
        command: String,
        resources: Vec<lease_core::registry::message::Asked>,
    ) -> Result<Result<Welcome, Tell>, OutOfOrder> {
        let process = self.own_process(number)?;
        if self.stage != Stage::Serving {
            return Ok(Err(self.farewell()));
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_or(0, |since| since.as_secs());
        let id = match self.table.register(process.id(), command, since, resources) {
            Ok(id) => id,
            Err(why) => return Ok(Err(Tell::Refused { why })),
        };
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        peer.holder = Some(id);
        peer.victim.holder = Some(process);
        Ok(Ok(self.welcome(id)))
    }

    /// A holder of the former lease-join comes back.
    fn resume(
        &mut self,
        number: u64,
        id: HolderId,
        generation: lease_core::id::Generation,
        standing: (&[Phase], &[bool]),
    ) -> Result<Heard, OutOfOrder> {
        let process = self.own_process(number)?;
        if generation != self.life.former.generation {
            let why = "the host id has been joined again since".into();
            return Ok(Heard::Last(Tell::Refused { why }));
        }
        let when = (self.clock.now(), self.late_until());
        self.table.resume(id, process.id(), standing, when)?;
        let mut victim = self.awaited.remove(&id).ok_or(OutOfOrder)?;
        victim.holder = Some(process);
        let known = self.table.holder(id).ok_or(OutOfOrder)?;
        if known.guarded.is_none() {
            victim.nothing_runs();
        }
        let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
        peer.holder = Some(id);
        peer.victim = victim;
        if self.stage != Stage::Serving {
            let farewell = self.farewell();
            self.tell(number, &farewell);
        }
        let renewed = self.tenure.renewed();
        Ok(Heard::Answers(vec![(id, Tell::Resumed { renewed })]))
    }

    /// When nothing that has been written up to now can land any more.
    pub(crate) fn late_until(&self) -> Moment {
        self.clock.now().after(self.life.timing.takeover_after())
    }

    fn farewell(&self) -> Tell {
        match &self.stage {
            Stage::Lost { why, .. } => Tell::Lost { why: why.clone() },
            Stage::Serving | Stage::Stopping { .. } | Stage::Leaving => Tell::Stop,
        }
    }

    fn welcome(&self, holder: HolderId) -> Welcome {
        let estate = &self.estate;
        Welcome {
            holder,
            lockspace: estate.lockspace.name,
            host: estate.host,
            generation: estate.generation,
            host_name: self.life.host_name,
            path: estate.path.clone(),
            offset: estate.lockspace.offset,
            geometry: estate.lockspace.geometry,
            timing: self.life.timing,
            renewed: self.tenure.renewed(),
            ballots_from: estate.ballots_from,
            hosts: self.hosts.clone(),
        }
    }

    fn close(&mut self, number: u64) -> anyhow::Result<()> {
        let Some(peer) = self.peers.remove(&number) else {
            return Ok(());
        };
        let Some(id) = peer.holder else { return Ok(()) };
        self.ended(id, peer.victim)
    }

    /// A holder has ended: what it left is to be cleared.
    pub(crate) fn ended(&mut self, id: HolderId, victim: Victim) -> anyhow::Result<()> {
        let (left, answers) = self.table.disconnected(id);
        if let Some(holder) = left {
            let name = describe(holder);
            let leases = leases(holder);
            let ending = match victim.guarded {
                Some(_) => ": ending what it started",
                None => "",
            };
            say(
                TOOL,
                format!("{name} ended without a release{ending} ({leases})"),
            );
            self.graves.insert(id, victim);
        }
        self.save_then_send(answers)
    }

    /// Answers leave when what they allow is in the holders' file.
    pub(crate) fn save_then_send(&mut self, answers: Vec<Answer>) -> anyhow::Result<()> {
        let page = self.save();
        self.unsent
            .extend(answers.into_iter().map(|answer| (page, answer)));
        Ok(())
    }

    /// Asks for the holders' file to be written. Returns the page's number.
    pub(crate) fn save(&mut self) -> u64 {
        self.scribe.ask()
    }

    /// Hands over what was asked for since the last time, once for all: what has changed, and now
    /// and then all of it.
    pub(crate) fn write_page(&mut self) -> anyhow::Result<()> {
        if self.scribe.is_asked() {
            let changes = serde_json::to_vec(&self.table.take_changes())?;
            if !self.scribe.change(changes) {
                let holders = Holders {
                    generation: self.life.former.generation,
                    table: self.table.clone(),
                };
                self.scribe.page(serde_json::to_vec(&holders)?);
            }
        }
        Ok(())
    }

    /// Sends the answers whose page is written. A turn to release of a holder that has ended is
    /// taken here.
    pub(crate) fn send_answers(&mut self) -> anyhow::Result<()> {
        self.write_page()?;
        let done = self.scribe.done();
        while let Some((page, (id, tell))) = self.unsent.pop_front() {
            if page > done {
                self.unsent.push_front((page, (id, tell)));
                break;
            }
            if self.table.holder(id).is_some_and(Holder::ended) {
                self.release_for(id, &tell)?;
            } else if let Some(number) = self.number_of(id) {
                self.tell(number, &tell);
            }
        }
        Ok(())
    }

    fn number_of(&self, id: HolderId) -> Option<u64> {
        self.peers
            .iter()
            .find(|(_, peer)| peer.holder == Some(id))
            .map(|(number, _)| *number)
    }

    /// A peer that cannot be told is closed when it is next heard.
    fn tell(&mut self, number: u64, tell: &Tell) {
        let Some(peer) = self.peers.get_mut(&number) else {
            return;
        };
        let sent = match tell {
            Tell::Renewed { .. } => peer.wire.send_newest(tell),
            _ => peer.wire.send(tell),
        };
        if sent.is_err() {
            // Whether it was still open does not matter: it is closed now.
            let _ = peer.wire.stream().shutdown(std::net::Shutdown::Both);
        }
    }

    /// Tells every holder.
    pub(crate) fn tell_all(&mut self, tell: &Tell) {
        let holders = |(number, peer): (&u64, &Peer)| peer.holder.map(|_| *number);
        let numbers: Vec<u64> = self.peers.iter().filter_map(holders).collect();
        for number in numbers {
            self.tell(number, tell);
        }
    }
}

/// `lease-hold pid 4711 (qemu-system-x86_64)`.
pub(crate) fn describe(holder: &Holder) -> String {
    format!(
        "lease-hold pid {} ({})",
        holder.process.pid,
        escape(holder.command.as_bytes())
    )
}

/// Why what a lease-hold would start cannot be guarded from here.
fn out_of_reach(guarded: &Guarded) -> String {
    let what = match &guarded.containment {
        Containment::Cgroup(path) => format!("control group {}", path.display()),
        Containment::PidNamespace | Containment::Tree => "its containment".into(),
    };
    format!(
        "lease-join does not see {what}; run both in the same mount and cgroup namespace, or try \
         --contain pidns"
    )
}

fn leases(holder: &Holder) -> String {
    let held = holder
        .claims
        .iter()
        .filter(|claim| claim.phase != Phase::Idle);
    held.map(|claim| claim.asked.spec.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}
