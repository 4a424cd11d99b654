//! The server: one thread, one loop. It answers holders, hears of renewals, keeps the deadline. It
//! does no disk I/O and never waits for a peer.

use crate::TOOL;
use crate::args::Spec;
use crate::heartbeat::{Beat, Heartbeat};
use crate::membership::{Found, Seat};
use crate::scribe::Scribe;
use crate::signals::Signals;
use crate::state::State;
use anyhow::Context;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::delta::{Claim, HostLease, Lockspace, Tenure};
use lease_core::id::{Generation, escape};
use lease_core::liveness::Sightings;
use lease_core::registry::message::{Ask, HolderId, Tell, Welcome};
use lease_core::registry::table::{Answer, Holder, OutOfOrder, Phase, Table, landed_by};
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status, say};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 4096;
/// A connection that has not registered after this long is closed.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// The loop looks around at least this often.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// One connection.
#[derive(Debug)]
struct Peer {
    wire: Wire,
    pid: i32,
    since: Moment,
    holder: Option<HolderId>,
}

/// Where the server is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Renewing and answering.
    Serving,
    /// Told to leave: holders stop, release, go.
    Stopping,
    /// No holder is left; the host id is being given back.
    Leaving,
    /// The host id is lost: holders kill and go.
    Lost(String),
}

/// The registry of one joined host id.
#[derive(Debug)]
pub(crate) struct Server {
    seat: Seat,
    listener: UnixListener,
    heartbeat: Heartbeat,
    scribe: Scribe,
    signals: Signals,
    clock: BootClock,
    /// For messages: the LOCKSPACE string.
    shown: String,
    claim: Claim,
    path: PathBuf,
    lockspace: Lockspace,
    generation: Generation,
    ballots_from: Moment,
    tenure: Tenure,
    hosts: Sightings,
    table: Table,
    peers: BTreeMap<u64, Peer>,
    next_peer: u64,
    /// Answers that must not leave before the page with this number is written.
    unsent: VecDeque<(u64, Answer)>,
    stage: Stage,
    warned: bool,
}

impl Server {
    /// Opens the socket, starts to renew, and says on stdout that the host id is joined.
    pub(crate) fn start(
        seat: Seat,
        spec: &Spec,
        disk: Found,
        lease: HostLease,
        signals: Signals,
    ) -> anyhow::Result<Self> {
        let listener = seat
            .place
            .listen(&seat.lock)
            .context("cannot listen for lease-hold")?;
        listener
            .set_nonblocking(true)
            .context("cannot listen for lease-hold")?;
        let path =
            std::path::absolute(&spec.lockspace.place.path).context("no working directory")?;
        let writer = seat.place.try_clone().context("cannot keep a state file")?;
        let mut server = Self {
            scribe: Scribe::start(writer, signals.wake.clone()),
            listener,
            clock: BootClock::default(),
            shown: spec.lockspace.to_string(),
            claim: *lease.claim(),
            path,
            lockspace: *lease.lockspace(),
            generation: lease.generation(),
            ballots_from: lease.ballots_from(),
            tenure: Tenure::new(lease.claim().timing, lease.renewed()),
            hosts: Sightings::default(),
            table: Table::default(),
            peers: BTreeMap::new(),
            next_peer: 0,
            unsent: VecDeque::new(),
            stage: Stage::Serving,
            warned: false,
            heartbeat: Heartbeat::start(lease, disk, signals.wake.clone()),
            signals,
            seat,
        };
        server.save()?;
        server.announce()?;
        Ok(server)
    }

    /// Serves until the host id is given back or lost. Returns the exit code.
    pub(crate) fn run(mut self) -> anyhow::Result<u8> {
        loop {
            self.wait_for_news()?;
            self.hear_signals();
            let ended = self.hear_heartbeat()?;
            self.check_deadline();
            self.accept();
            self.hear_peers()?;
            self.send_answers()?;
            if let Some(end) = ended.or_else(|| self.end()) {
                return end.map_err(Into::into);
            }
        }
    }

    fn announce(&self) -> anyhow::Result<()> {
        let line = format!("joined {} generation {}\n", self.shown, self.generation);
        let mut stdout = io::stdout();
        stdout
            .write_all(line.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|why| Failure::new(Status::Io, format!("cannot write to stdout: {why}")))?;
        // Without a service manager there is nobody to notify.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Ok(())
    }

    fn wait_for_news(&mut self) -> anyhow::Result<()> {
        let mut fds = vec![
            PollFd::new(self.signals.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for peer in self.peers.values() {
            let write = if peer.wire.is_behind() {
                PollFlags::POLLOUT
            } else {
                PollFlags::empty()
            };
            fds.push(PollFd::new(
                peer.wire.stream().as_fd(),
                PollFlags::POLLIN | write,
            ));
        }
        let left = self
            .tenure
            .deadline()
            .since(self.clock.now())
            .min(LOOK_AROUND);
        let left = left.max(Duration::from_millis(1));
        match poll(
            &mut fds,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for news"),
        }
        self.signals.wake.clear();
        Ok(())
    }

    // ---- the host id

    fn hear_signals(&mut self) {
        if self.signals.told_to_leave() && self.stage == Stage::Serving {
            self.stage = Stage::Stopping;
            self.tell_all(&Tell::Stop);
        }
    }

    /// The result with which to end, if this was the heartbeat's last report.
    fn hear_heartbeat(&mut self) -> anyhow::Result<Option<Result<u8, Failure>>> {
        while let Some(beat) = self.heartbeat.next() {
            match beat {
                Beat::Renewed { renewed, hosts } => self.renewed(renewed, hosts),
                Beat::Failed(why) => self.not_renewed(&why),
                Beat::Lost(why) => self.lose(&why),
                Beat::Left(Ok(())) => {
                    self.seat
                        .place
                        .remove_socket()
                        .context("cannot remove the socket")?;
                    self.seat
                        .place
                        .remove_state()
                        .context("cannot remove the state file")?;
                    return Ok(Some(Ok(Status::Done.code())));
                }
                Beat::Left(Err(why)) => {
                    let text = format!("cannot give back {}: {why}", self.shown);
                    return Ok(Some(Err(Failure::new(Status::Lost, text))));
                }
            }
        }
        Ok(None)
    }

    fn renewed(&mut self, renewed: Moment, hosts: Sightings) {
        if matches!(self.stage, Stage::Lost(_)) {
            return;
        }
        if self.warned {
            self.warned = false;
            say(TOOL, format!("{}: renewed again", self.shown));
        }
        self.tenure.note_renewal(renewed);
        self.hosts = hosts;
        self.tell_all(&Tell::Renewed { renewed });
    }

    fn not_renewed(&mut self, why: &str) {
        if self.warned || matches!(self.stage, Stage::Lost(_)) {
            return;
        }
        self.warned = true;
        let left = self.tenure.deadline().since(self.clock.now()).as_secs();
        say(
            TOOL,
            format!(
                "cannot renew {}: {why}; lost in {left} s if it stays so",
                self.shown
            ),
        );
    }

    fn check_deadline(&mut self) {
        let over = !self.tenure.holds(self.clock.now());
        if over && !matches!(self.stage, Stage::Lost(_) | Stage::Leaving) {
            let seconds = self.claim.timing.lost_after().as_secs();
            self.lose(&format!("no renewal for {seconds} s"));
        }
    }

    fn lose(&mut self, why: &str) {
        if matches!(self.stage, Stage::Lost(_)) {
            return;
        }
        self.tenure.note_loss();
        say(
            TOOL,
            format!("lost {}: {why}; what it guards is being killed", self.shown),
        );
        self.tell_all(&Tell::Lost {
            why: why.to_owned(),
        });
        self.stage = Stage::Lost(why.to_owned());
    }

    /// The result with which to end, if nothing is left to wait for.
    fn end(&mut self) -> Option<Result<u8, Failure>> {
        if self.peers.values().any(|peer| peer.holder.is_some()) {
            return None;
        }
        let left = self
            .table
            .holders()
            .next()
            .map(|(_, holder)| describe(holder));
        match (&self.stage, left) {
            (Stage::Serving | Stage::Leaving, _) => None,
            (Stage::Stopping, None) => {
                self.stage = Stage::Leaving;
                self.heartbeat.leave();
                None
            }
            (Stage::Stopping, Some(holder)) => {
                let text = format!(
                    "cannot give back {}: {holder} ended without a release, and what it started \
                     may still run; other hosts can take over {} s after this",
                    self.shown,
                    self.claim.timing.dead_after().as_secs()
                );
                Some(Err(Failure::new(Status::Busy, text)))
            }
            (Stage::Lost(why), _) => {
                let text = format!("lost {}: {why}", self.shown);
                Some(Err(Failure::new(Status::Lost, text)))
            }
        }
    }

    // ---- connections

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() >= CONNECTIONS_MAX {
                continue;
            }
            let Some(peer) = self.admit(stream) else {
                continue;
            };
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
        let since = self.clock.now();
        Some(Peer {
            wire: Wire::new(stream),
            pid: credentials.pid(),
            since,
            holder: None,
        })
    }

    fn hear_peers(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        let numbers: Vec<u64> = self.peers.keys().copied().collect();
        for number in numbers {
            let Some(peer) = self.peers.get_mut(&number) else {
                continue;
            };
            let late = peer.holder.is_none() && now.since(peer.since) > REGISTER_WITHIN;
            let open = peer.wire.flush().is_ok() && peer.wire.fill().unwrap_or(false);
            let heard = self.hear_peer(number)?;
            if !open || !heard || late {
                self.close(number)?;
            }
        }
        Ok(())
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
            let (pid, holder) = (peer.pid, peer.holder);
            let answers = match (ask, holder) {
                (Ask::Register { command, resources }, None) => {
                    if let Some(why) = self.refusal() {
                        self.tell(number, &Tell::Refused { why });
                        return Ok(false);
                    }
                    match self.table.register(pid, command, resources) {
                        Ok(id) => {
                            if let Some(peer) = self.peers.get_mut(&number) {
                                peer.holder = Some(id);
                            }
                            self.tell(number, &Tell::Registered(Box::new(self.welcome(id))));
                            continue;
                        }
                        Err(why) => {
                            self.tell(number, &Tell::Refused { why });
                            return Ok(false);
                        }
                    }
                }
                (ask, Some(id)) => self.answer(number, id, ask),
                (_, None) => return Ok(false),
            };
            match answers {
                Ok(answers) => self.save_then_send(answers)?,
                Err(OutOfOrder) => return Ok(false),
            }
        }
    }

    fn refusal(&self) -> Option<String> {
        match &self.stage {
            Stage::Serving => None,
            Stage::Stopping | Stage::Leaving => Some("lease-join is leaving".into()),
            Stage::Lost(why) => Some(format!("the host id is lost: {why}")),
        }
    }

    fn answer(&mut self, number: u64, id: HolderId, ask: Ask) -> Result<Vec<Answer>, OutOfOrder> {
        let now = self.clock.now();
        let late_until = landed_by(now, self.claim.timing.dead_after());
        match ask {
            Ask::Register { .. } => Err(OutOfOrder),
            Ask::Acquire { .. } | Ask::Guard { .. } if self.stage != Stage::Serving => {
                Ok(vec![(id, self.farewell())])
            }
            Ask::Acquire { index } => Ok(vec![self.table.acquire(id, index, now)?]),
            Ask::Acquired { index, lver, left } => {
                self.table.acquired(id, index, lver, left, late_until)
            }
            Ask::Release { index } => self.table.release(id, index),
            Ask::Released { index, left } => self.table.released(id, index, left, late_until),
            Ask::Guard { pid } => {
                let peer = self.peers.get_mut(&number).ok_or(OutOfOrder)?;
                let _pidfd = peer.wire.take_descriptor().ok_or(OutOfOrder)?;
                self.table.guard(id, pid)?;
                let (generation, renewed) = (self.generation, self.tenure.renewed());
                Ok(vec![(
                    id,
                    Tell::Go {
                        generation,
                        renewed,
                    },
                )])
            }
        }
    }

    fn farewell(&self) -> Tell {
        match &self.stage {
            Stage::Lost(why) => Tell::Lost { why: why.clone() },
            Stage::Serving | Stage::Stopping | Stage::Leaving => Tell::Stop,
        }
    }

    fn welcome(&self, holder: HolderId) -> Welcome {
        Welcome {
            holder,
            host: self.claim.host,
            generation: self.generation,
            host_name: self.claim.name,
            path: self.path.clone(),
            offset: self.lockspace.offset,
            geometry: self.lockspace.geometry,
            timing: self.claim.timing,
            renewed: self.tenure.renewed(),
            ballots_from: self.ballots_from,
            hosts: self.hosts.clone(),
        }
    }

    fn close(&mut self, number: u64) -> anyhow::Result<()> {
        let Some(peer) = self.peers.remove(&number) else {
            return Ok(());
        };
        let Some(id) = peer.holder else { return Ok(()) };
        let (left, answers) = self.table.disconnected(id);
        if let Some(holder) = left {
            let text = format!(
                "{} ended without a release; its leases stay owned by this host: {}",
                describe(holder),
                leases(holder)
            );
            say(TOOL, text);
        }
        self.save_then_send(answers)
    }

    // ---- answers

    /// Answers leave when what they allow is in the state file.
    fn save_then_send(&mut self, answers: Vec<Answer>) -> anyhow::Result<()> {
        let page = self.save()?;
        self.unsent
            .extend(answers.into_iter().map(|answer| (page, answer)));
        Ok(())
    }

    fn save(&mut self) -> anyhow::Result<u64> {
        let state = State {
            boot_id: self.claim.boot_id,
            host: self.claim.host,
            host_name: self.claim.name,
            generation: self.generation,
            timing: self.claim.timing,
            table: self.table.clone(),
        };
        Ok(self.scribe.write(serde_json::to_vec(&state)?))
    }

    fn send_answers(&mut self) -> anyhow::Result<()> {
        let done = self.scribe.done().context("cannot write the state file")?;
        while let Some((page, (id, tell))) = self.unsent.pop_front() {
            if page > done {
                self.unsent.push_front((page, (id, tell)));
                break;
            }
            let number = self
                .peers
                .iter()
                .find(|(_, p)| p.holder == Some(id))
                .map(|(n, _)| *n);
            if let Some(number) = number {
                self.tell(number, &tell);
            }
        }
        Ok(())
    }

    /// A peer that cannot be told is closed when it is next heard.
    fn tell(&mut self, number: u64, tell: &Tell) {
        if let Some(peer) = self.peers.get_mut(&number)
            && peer.wire.send(tell).is_err()
        {
            let _ = peer.wire.stream().shutdown(std::net::Shutdown::Both);
        }
    }

    fn tell_all(&mut self, tell: &Tell) {
        let holders = |(number, peer): (&u64, &Peer)| peer.holder.map(|_| *number);
        let numbers: Vec<u64> = self.peers.iter().filter_map(holders).collect();
        for number in numbers {
            self.tell(number, tell);
        }
    }
}

fn describe(holder: &Holder) -> String {
    format!(
        "lease-hold pid {} ({})",
        holder.pid,
        escape(holder.command.as_bytes())
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
