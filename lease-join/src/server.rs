//! The server: one thread, one loop. It answers holders, hears of renewals, keeps the deadline,
//! and kills what a holder does not. It does no disk I/O and never waits for a peer.

use crate::TOOL;
use crate::heartbeat::{Beat, Heartbeat};
use crate::membership::{Joined, Seat, leave_as_found};
use crate::notify::Notify;
use crate::peers::{Peer, describe, raise_descriptor_limit};
use crate::scribe::Scribe;
use crate::signals::Signals;
use crate::state::{Life, Logged};
use crate::undertaker::{Estate, Progress, Undertaker, Victim};
use crate::watchdog::{KernelDevice, Watchdog};
use anyhow::Context;
use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::contain::Remains;
use lease_core::delta::Tenure;
use lease_core::id::HostId;
use lease_core::liveness::Sightings;
use lease_core::registry::message::{HolderId, Left, Phase, Renewal, Tell};
use lease_core::registry::table::{Answer, Holder, Link, OutOfOrder, Table};
use lease_core::storage::Volume;
use lease_core::tool::{Failure, Status, say};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How many renewals are remembered: an hour of them at t = 10.
const RENEWALS_KEPT: usize = 180;
/// The loop looks around at least this often.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// And this often while somebody is to die.
const STRIKE_EVERY: Duration = Duration::from_millis(50);

/// How long whoever reads stdout is waited for.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// What is waited for besides the peers.
const FDS_BEFORE_PEERS: usize = 2;
const NO_THREAD: &str = "cannot start a thread";

/// Where the server is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Renewing and answering.
    Serving,
    /// Told to leave: holders stop, release, go; those that do not are killed at `strike_at`. What
    /// cannot be given back by `give_up_at` stays owned.
    Stopping {
        strike_at: Moment,
        give_up_at: Moment,
    },
    /// No holder is left; the host id is being given back.
    Leaving,
    /// The host id is lost: holders kill and go; those that do not are killed at `strike_at`.
    Lost { why: String, strike_at: Moment },
}

/// What was said about missing renewals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// That one has failed.
    Failed,
    /// That the lease will be lost.
    Warned,
}

/// The registry of one joined host id.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) seat: Seat,
    pub(crate) listener: UnixListener,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) scribe: Scribe,
    pub(crate) signals: Signals,
    pub(crate) clock: BootClock,
    /// For messages: the LOCKSPACE string.
    pub(crate) shown: String,
    pub(crate) life: Life,
    pub(crate) estate: Estate,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) hosts: Sightings,
    /// The last renewals, the oldest first.
    pub(crate) renewals: VecDeque<Renewal>,
    pub(crate) table: Table,
    pub(crate) peers: BTreeMap<u64, Peer>,
    pub(crate) next_peer: u64,
    /// The connections that have something to say.
    pub(crate) called: Vec<u64>,
    pub(crate) connections_max: usize,
    /// Before this moment no new connection is looked for.
    pub(crate) deaf_until: Moment,
    /// Holders of a former lease-join that have not come back yet.
    pub(crate) awaited: BTreeMap<HolderId, Victim>,
    /// Holders that have ended, until all that they started is proven gone.
    pub(crate) graves: BTreeMap<HolderId, Victim>,
    undertaker: Undertaker,
    /// Resources whose holder was writing to the disk when it died.
    died_writing: BTreeSet<(HolderId, usize)>,
    /// Resources that are being given back for a holder that has ended, and why they are not yet.
    pub(crate) giving_back: BTreeMap<(HolderId, usize), String>,
    /// Answers that must not leave before the page with this number is written.
    pub(crate) unsent: VecDeque<(u64, Answer)>,
    pub(crate) stage: Stage,
    /// What was said about missing renewals, since the last one.
    trouble: Option<Trouble>,
    pub(crate) watchdog: Option<Watchdog<KernelDevice>>,
    notify: Notify,
    /// What to end with, once the host id is given back.
    pub(crate) failure: Option<Failure>,
}

impl Server {
    /// Opens the socket, starts to renew, and says on stdout that the host id is joined.
    pub(crate) fn start(seat: Seat, mut joined: Joined, signals: Signals) -> anyhow::Result<Self> {
        let watchdog = joined.watchdog.take();
        let guarding = joined.table.holders().next().is_some();
        match Self::begin(seat, joined, signals) {
            Ok(server) => Ok(Self { watchdog, ..server }),
            Err(error) => {
                leave_as_found(watchdog, guarding);
                Err(error)
            }
        }
    }

    fn begin(seat: Seat, joined: Joined, signals: Signals) -> anyhow::Result<Self> {
        let listener = seat
            .place
            .listen(&seat.lock)
            .context("cannot listen for lease-hold")?;
        listener
            .set_nonblocking(true)
            .context("cannot listen for lease-hold")?;
        let Joined {
            shown,
            path,
            mut found,
            lease,
            life,
            mut table,
            ..
        } = joined;
        // A slow renewal is still one: it counts until the lease is lost.
        found.device.set_limit(life.timing.lost_after());
        let copy = || seat.place.try_clone().context("cannot keep a state file");
        let logged = Logged::new(found.device, copy()?, life.clone())
            .map_err(|fault| Failure::new(Status::System, fault.to_string()))?;
        table.await_all();
        let awaited = table
            .holders()
            .map(|(id, holder)| (id, Victim::of(holder)))
            .collect();
        let tenure = Arc::new(Tenure::new(life.timing, lease.renewed()));
        let estate = Estate {
            path,
            lockspace: *lease.lockspace(),
            host: life.host,
            generation: life.former.generation,
            ballots_from: lease.ballots_from(),
            tenure: tenure.clone(),
        };
        let mut server = Self {
            scribe: Scribe::start(copy()?, signals.wake.clone()).context(NO_THREAD)?,
            listener,
            clock: BootClock::default(),
            shown,
            undertaker: Undertaker::new(estate.clone(), signals.wake.clone()),
            estate,
            tenure,
            hosts: Sightings::default(),
            renewals: VecDeque::new(),
            table,
            peers: BTreeMap::new(),
            next_peer: 0,
            called: Vec::new(),
            connections_max: raise_descriptor_limit(),
            deaf_until: Moment::default(),
            awaited,
            graves: BTreeMap::new(),
            died_writing: BTreeSet::new(),
            giving_back: BTreeMap::new(),
            unsent: VecDeque::new(),
            stage: Stage::Serving,
            trouble: None,
            watchdog: None,
            notify: Notify::new().context(NO_THREAD)?,
            failure: None,
            heartbeat: Heartbeat::start(lease, logged, signals.wake.clone()).context(NO_THREAD)?,
            signals,
            seat,
            life,
        };
        server.save();
        server.write_page()?;
        server.announce()?;
        Ok(server)
    }

    /// Serves until the host id is given back or lost. Returns the exit code. Whatever that is, a
    /// device that guards nothing any more costs nobody a host; only SIGUSR1 leaves it armed.
    pub(crate) fn run(mut self) -> anyhow::Result<u8> {
        let ended = self.serve();
        if ended.is_err()
            && !self.may_run()
            && let Some(Err(why)) = self.watchdog.take().map(Watchdog::disarm)
        {
            let text = format!("{}: cannot disarm the watchdog: {why}", self.shown);
            say(TOOL, text);
        }
        ended
    }

    fn serve(&mut self) -> anyhow::Result<u8> {
        loop {
            self.wait_for_news()?;
            self.tend_watchdog();
            if self.signals.told_to_end() {
                return Ok(Status::Done.code());
            }
            self.hear_signals();
            let ended = self.hear_heartbeat()?;
            self.check_deadline();
            self.accept();
            self.hear_peers()?;
            self.strike()?;
            self.hear_undertaker()?;
            self.send_answers()?;
            if let Some(end) = ended.or_else(|| self.end()) {
                return end.map_err(Into::into);
            }
        }
    }

    /// On stdout, from a thread of its own: it may be a pipe that nobody reads, and holders of a
    /// former lease-join may be waiting.
    fn announce(&mut self) -> anyhow::Result<()> {
        let line = format!(
            "joined {} generation {}\n",
            self.shown, self.life.former.generation
        );
        let (told, written) = channel();
        let write = move || {
            let mut stdout = io::stdout();
            let result = stdout.write_all(line.as_bytes());
            let _ = told.send(result.and_then(|()| stdout.flush()));
        };
        let started = std::thread::Builder::new().spawn(write);
        started.context(NO_THREAD)?;
        match written.recv_timeout(READ_WITHIN) {
            Ok(Err(why)) => {
                let text = format!("cannot write to stdout: {why}");
                self.leave_because(Failure::new(Status::Io, text));
            }
            Ok(Ok(())) | Err(_) => self.notify.ready(),
        }
        Ok(())
    }

    fn wait_for_news(&mut self) -> anyhow::Result<()> {
        let calls = match self.clock.now() >= self.deaf_until {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        };
        let mut fds = vec![
            PollFd::new(self.signals.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), calls),
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
        let most = if self.graves.is_empty() {
            LOOK_AROUND
        } else {
            STRIKE_EVERY
        };
        let most = self
            .watchdog
            .as_ref()
            .map_or(most, |dog| most.min(dog.pause()));
        let left = self.next_deadline().since(self.clock.now()).min(most);
        let left = left.max(Duration::from_millis(1));
        let most = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let calls = match poll(&mut fds, most) {
            Ok(calls) => calls > 0,
            Err(nix::errno::Errno::EINTR) => false,
            Err(errno) => return Err(errno).context("cannot wait for news"),
        };
        let has_news = |fd: &PollFd<'_>| fd.revents() != Some(PollFlags::empty());
        let of_peers = fds[FDS_BEFORE_PEERS..].iter().zip(self.peers.keys());
        let called = of_peers.filter(|(fd, _)| calls && has_news(fd));
        self.called = called.map(|(_, number)| *number).collect();
        self.signals.wake.clear();
        Ok(())
    }

    /// Pets the device, tells the service manager that we live, and what we do.
    fn tend_watchdog(&mut self) {
        let guarding = self.is_guarding();
        if let Some(watchdog) = &mut self.watchdog
            && let Err(why) = watchdog.tend(&self.clock, self.tenure.renewed(), guarding)
        {
            say(
                TOOL,
                format!("{}: cannot pet the watchdog: {why}", self.shown),
            );
        }
        self.notify.alive(self.clock.now());
        let holders = self.table.holders().count();
        let state = self.stage_name();
        self.notify
            .status(format!("{}: {state}, {holders} holders", self.shown));
    }

    /// Whether anything may run that a lease of this host allows, or write in its name.
    fn is_guarding(&self) -> bool {
        self.may_run() || !self.giving_back.is_empty()
    }

    /// Whether anything may run that a lease of this host allows. What was left of a holder that is
    /// proven gone does not, though its leases may stay owned.
    fn may_run(&self) -> bool {
        let unproven = |holder: &Holder| holder.link == Link::Unproven;
        let unproven = self.table.holders().any(|(_, holder)| unproven(holder));
        self.is_busy() || unproven
    }

    /// Whether holders live, or are to be buried.
    pub(crate) fn is_busy(&self) -> bool {
        let connected = self.peers.values().any(|peer| peer.holder.is_some());
        connected || !self.graves.is_empty() || !self.awaited.is_empty()
    }

    /// When something has to be done even if nothing is heard.
    fn next_deadline(&self) -> Moment {
        // Once that moment has come, striking has its own pace.
        let paced = |strike_at: Moment| strike_at.max(self.clock.now().after(STRIKE_EVERY));
        match self.stage {
            Stage::Serving => self.tenure.deadline(),
            Stage::Stopping { strike_at, .. } => paced(strike_at).min(self.tenure.deadline()),
            Stage::Leaving => self.clock.now().after(LOOK_AROUND),
            Stage::Lost { strike_at, .. } => paced(strike_at),
        }
    }

    // ---- the host id

    fn hear_signals(&mut self) {
        if self.signals.told_to_leave() && self.stage == Stage::Serving {
            self.stop();
        }
    }

    /// The result with which to end, if this was the heartbeat's last report.
    fn hear_heartbeat(&mut self) -> anyhow::Result<Option<Result<u8, Failure>>> {
        while let Some(beat) = self.heartbeat.next() {
            match beat {
                Beat::Renewed {
                    renewed,
                    hosts,
                    renewal,
                } => {
                    self.note(renewal);
                    self.renewed(renewed, hosts);
                }
                Beat::Namesake(host) => self.warn_of(host),
                Beat::Failed(why) => self.not_renewed(&why),
                Beat::Lost(why) => self.lose(&why),
                Beat::Left(Ok(free)) => {
                    self.clear(free)?;
                    let failure = self.failure.take();
                    return Ok(Some(failure.map_or(Ok(Status::Done.code()), Err)));
                }
                Beat::Left(Err(why)) => {
                    let text = format!("cannot give back {}: {why}", self.shown);
                    return Ok(Some(Err(Failure::new(Status::Lost, text))));
                }
            }
        }
        Ok(None)
    }

    /// Whoever has our name may take a record of ours for its own.
    fn warn_of(&self, namesake: HostId) {
        let (shown, name, host) = (&self.shown, self.life.host_name, self.life.host);
        let text = format!(
            "{shown}: host id {namesake} is held by a live host that is called {name}, as this one \
             with host id {host} is; give each a name of its own (--host-name): after a reboot one \
             may take the other's host id for its own"
        );
        say(TOOL, text);
    }

    fn note(&mut self, renewal: Renewal) {
        if self.renewals.len() == RENEWALS_KEPT {
            self.renewals.pop_front();
        }
        self.renewals.push_back(renewal);
    }

    fn renewed(&mut self, renewed: Moment, hosts: Sightings) {
        if matches!(self.stage, Stage::Lost { .. }) {
            return;
        }
        if self.trouble.take().is_some() {
            say(TOOL, format!("{}: renewed again", self.shown));
        }
        self.tenure.note_renewal(renewed);
        self.hosts = hosts;
        self.tell_all(&Tell::Renewed { renewed });
    }

    fn not_renewed(&mut self, why: &str) {
        if self.trouble.is_none() && !matches!(self.stage, Stage::Lost { .. }) {
            say(
                TOOL,
                format!("cannot renew {}: {why}; trying again", self.shown),
            );
            self.trouble = Some(Trouble::Failed);
        }
    }

    /// Warns at 6t without a renewal; at 8t it is lost.
    fn check_deadline(&mut self) {
        let now = self.clock.now();
        let timing = self.life.timing;
        let age = now.since(self.tenure.renewed());
        if !self.tenure.holds(now) && self.stage != Stage::Leaving {
            let seconds = timing.lost_after().as_secs();
            self.lose(&format!("no renewal for {seconds} s"));
        } else if age >= timing.warn_after() && self.trouble != Some(Trouble::Warned) {
            let left = self.tenure.deadline().since(now).as_secs() + 1;
            let age = age.as_secs();
            let shown = &self.shown;
            say(
                TOOL,
                format!("{shown}: no renewal for {age} s; lost in {left} s if it stays so"),
            );
            self.trouble = Some(Trouble::Warned);
        }
    }

    /// Holders kill by themselves, half-way to the moment at which another host may take over; at
    /// three quarters we do it for them. Taken on the disk there is no time to wait for.
    fn lose(&mut self, why: &str) {
        if matches!(self.stage, Stage::Lost { .. }) {
            return;
        }
        let (timing, renewed) = (self.life.timing, self.tenure.renewed());
        let now = self.clock.now();
        let strike_at = match now >= renewed.after(timing.lost_after()) {
            true => renewed.after(timing.strike_after()),
            false => now.after(timing.strike_within()),
        };
        self.tenure.note_loss();
        self.table.lose();
        self.save();
        say(
            TOOL,
            format!("lost {}: {why}; what it guards is being ended", self.shown),
        );
        self.tell_all(&Tell::Lost {
            why: why.to_owned(),
        });
        self.stage = Stage::Lost {
            why: why.to_owned(),
            strike_at,
        };
    }

    // ---- the dead, and those who are to die

    fn strike(&mut self) -> anyhow::Result<()> {
        self.strike_those_who_stay();
        self.bury_those_who_do_not_come_back()?;
        let ids: Vec<HolderId> = self.graves.keys().copied().collect();
        for id in ids {
            let remains = self.graves.get(&id).map(Victim::strike);
            match remains {
                Some(Remains::Nothing) => self.proven_gone(id)?,
                Some(Remains::NotKnown) => self.unproven(id)?,
                Some(Remains::Something) | None => {}
            }
        }
        Ok(())
    }

    /// Whoever has not gone by the time at which it had to is killed, with all that it started;
    /// its connection ends by that.
    fn strike_those_who_stay(&self) {
        let (Stage::Stopping { strike_at, .. } | Stage::Lost { strike_at, .. }) = &self.stage
        else {
            return;
        };
        if self.clock.now() < *strike_at {
            return;
        }
        let connected = self.peers.values().filter(|peer| peer.holder.is_some());
        for victim in connected
            .map(|peer| &peer.victim)
            .chain(self.awaited.values())
        {
            victim.strike();
        }
    }

    fn bury_those_who_do_not_come_back(&mut self) -> anyhow::Result<()> {
        let gone = |victim: &Victim| victim.holder.as_ref().is_none_or(|holder| holder.is_dead());
        let ids: Vec<HolderId> = self
            .awaited
            .iter()
            .filter(|(_, victim)| gone(victim))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(mut victim) = self.awaited.remove(&id) {
                if let Some(phases) = self.seat.place.take_mark(self.life.former.generation, id) {
                    let when = (self.clock.now(), self.late_until());
                    self.table.left(id, &phases, when);
                    victim.nothing_runs();
                }
                // Without a lease-join it may have begun to release, and told nobody.
                self.note_writing(id, |phase| phase != Phase::Idle);
                self.ended(id, victim)?;
            }
        }
        Ok(())
    }

    /// Notes of which of its resources a holder may have been writing to the disk when it died.
    fn note_writing(&mut self, id: HolderId, writes: fn(Phase) -> bool) {
        let claims = self.table.holder(id).into_iter().flat_map(|h| &h.claims);
        let wrote = claims.enumerate().filter(|(_, claim)| writes(claim.phase));
        self.died_writing
            .extend(wrote.map(|(index, _)| (id, index)));
    }

    fn proven_gone(&mut self, id: HolderId) -> anyhow::Result<()> {
        self.graves.remove(&id);
        self.note_writing(id, |phase| {
            matches!(phase, Phase::Acquiring | Phase::Releasing | Phase::Doubt)
        });
        let answers = self.table.proven_gone(id);
        self.save_then_send(answers)?;
        self.forget(id)
    }

    fn unproven(&mut self, id: HolderId) -> anyhow::Result<()> {
        self.graves.remove(&id);
        self.table.unproven(id);
        if let Some(holder) = self.table.holder(id) {
            let name = describe(holder);
            say(
                TOOL,
                format!(
                    "{name} is dead, but what it started may still run, so its leases stay owned \
                     by this host: end what is left of it, then stop lease-join and start it again"
                ),
            );
        }
        self.save_then_send(Vec::new())
    }

    /// The turn of a dead holder to release: taken in its place, unless others on this host share.
    /// Not before it is proven gone, and once: a turn that it had asked for itself may be on its
    /// way when it dies, and then there are two.
    pub(crate) fn release_for(&mut self, id: HolderId, tell: &Tell) -> anyhow::Result<()> {
        if let Tell::ReleaseTurn { index, last } = tell
            && !self.graves.contains_key(&id)
        {
            let asked = self.table.holder(id).and_then(|h| h.claims.get(*index));
            match asked.map(|claim| claim.asked.clone()) {
                Some(_) if *last && self.giving_back.contains_key(&(id, *index)) => {}
                Some(asked) if *last => {
                    let unheard = "its storage has not answered".to_owned();
                    self.giving_back.insert((id, *index), unheard);
                    let wrote = self.died_writing.remove(&(id, *index));
                    let quiet_from = self.table.quiet_from(&asked.areas);
                    self.undertaker
                        .give_back((id, *index), asked, wrote, quiet_from);
                }
                _ => self.forget(id)?,
            }
        }
        Ok(())
    }

    fn hear_undertaker(&mut self) -> anyhow::Result<()> {
        while let Some(((id, index), progress)) = self.undertaker.next() {
            let late = match progress {
                Progress::Failed(why) => {
                    self.giving_back.insert((id, index), why);
                    continue;
                }
                Progress::Done { late } => late,
            };
            self.giving_back.remove(&(id, index));
            let (doubt, late_until) = (false, self.late_until());
            let left = Left { doubt, late };
            match self.table.released(id, index, left, late_until) {
                Ok(answers) => self.save_then_send(answers)?,
                Err(OutOfOrder) => continue,
            }
            self.forget(id)?;
        }
        Ok(())
    }

    fn forget(&mut self, id: HolderId) -> anyhow::Result<()> {
        let name = self.table.holder(id).map(describe);
        if self.table.forget(id) {
            say(
                TOOL,
                format!(
                    "{}: nothing is left; its leases are free",
                    name.unwrap_or_default()
                ),
            );
            self.save();
        }
        Ok(())
    }
}
