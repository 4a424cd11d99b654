//! The real surroundings of a host: sockets, threads, files, the service manager.

use crate::args::TOOL;
use crate::heart::Heartbeat;
use crate::host;
use crate::memory::Book;
use crate::notify::Notify;
use crate::peers::Peers;
use crate::scribe::Scribe;
use crate::seat::{self, Seat};
use crate::shares::Shares;
use crate::signals::Signals;
use crate::undertaker::Undertaker;
use anyhow::Context;
use lease_core::clock::{Clock, Moment};
use lease_core::delta::Calls;
use lease_core::device::Device;
use lease_core::host::giving_back::{Estate, GiveBack, Lease};
use lease_core::host::heart::Heart;
use lease_core::host::kept::{Holders, Life};
use lease_core::host::memory::{MachineId, Memory};
use lease_core::host::surroundings::{Event, HostSurroundings, PeerId};
use lease_core::host::watchdog::Watchdog;
use lease_core::id::{Generation, Name};
use lease_core::machine::Machine;
use lease_core::process::Process;
use lease_core::record::host_note::BootId;
use lease_core::registry::message::{HolderId, Phase, Tell};
use lease_core::registry::place::{Kept, Place};
use lease_core::registry::table::Changes;
use lease_core::surroundings::Surroundings;
use lease_core::timing::Timing;
use lease_core::tool::{Failure, Status, show};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

/// The loop looks around at least this often: for the service manager, for threads that could not
/// be had, for connections that could not be taken in.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// How long whoever reads stdout is waited for.
const READ_WITHIN: Duration = Duration::from_secs(1);
const NO_THREAD: &str = "cannot start a thread";

/// The real surroundings of a host.
#[derive(Debug)]
pub(crate) struct Here {
    seat: Seat,
    /// Where a host id is remembered that was not named.
    memory: Option<Book>,
    machine: Machine,
    signals: Signals,
    watchdog: Option<PathBuf>,
    notify: Notify,
    scribe: Scribe,
    undertaker: Undertaker,
    /// Once holders may connect.
    peers: Option<Peers>,
    /// Once there is a host id to renew.
    heart: Option<Heartbeat>,
    /// The server was told to leave.
    told_to_leave: bool,
}

impl Here {
    /// In directories that are ours alone, with a watchdog device or without one.
    pub(crate) fn new(
        seat: Seat,
        memory: Option<Book>,
        watchdog: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let signals = Signals::watch()?;
        let wake = || signals.wake.clone();
        let place = seat.place.try_clone().context("cannot keep a state file")?;
        Ok(Self {
            machine: Machine {
                tool: TOOL,
                clock: signals.clock.clone(),
            },
            watchdog,
            notify: Notify::new().context(NO_THREAD)?,
            scribe: Scribe::start(place, wake()).context(NO_THREAD)?,
            undertaker: Undertaker::new(wake()),
            peers: None,
            heart: None,
            told_to_leave: false,
            seat,
            memory,
            signals,
        })
    }

    fn place(&self) -> &Place {
        &self.seat.place
    }
}

/// An error of the tool itself.
fn internal<E: Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |why| Failure::new(Status::Internal, format!("{what}: {why}"))
}

impl HostSurroundings for Here {
    type Around = Machine;
    type Watchdog = Shares;

    const STRIKE_EVERY: Duration = Duration::from_millis(50);

    fn around(&self) -> &Machine {
        &self.machine
    }

    fn boot_id(&self) -> Result<BootId, Failure> {
        host::boot_id()
    }

    fn pid_namespace(&self) -> Result<u64, Failure> {
        host::pid_namespace()
    }

    fn random_name(&self) -> Result<Name, Failure> {
        host::random_name()
    }

    fn watchdog_name(&self) -> Option<String> {
        let path = self.watchdog.as_ref();
        path.map(|path| show(path.as_os_str()))
    }

    fn arm_watchdog(&self, timing: Timing) -> Result<Option<Watchdog<Shares>>, Failure> {
        let Some(path) = &self.watchdog else {
            return Ok(None);
        };
        let lockspace = (self.seat.run_dir.as_path(), self.seat.lockspace);
        let shares = Shares::of(path, lockspace, host::boot_id()?, timing)?;
        Watchdog::arm(shares, timing, &self.machine).map(Some)
    }

    fn machine_id(&self) -> MachineId {
        host::machine_id()
    }

    fn remembered(&self) -> Result<Option<Memory>, Failure> {
        self.memory.as_ref().map_or(Ok(None), Book::read)
    }

    fn remember(&self, memory: &Memory) -> Result<(), Failure> {
        self.memory
            .as_ref()
            .map_or(Ok(()), |book| book.write(memory))
    }

    fn run_dir(&self) -> String {
        self.place().shown().display().to_string()
    }

    fn life(&self) -> Result<Option<Life>, Failure> {
        seat::read_life(self.place())
    }

    fn holders(&self) -> Result<Option<Holders>, Failure> {
        seat::read_holders(self.place())
    }

    fn keep(&self, life: &Life) -> Result<(), String> {
        seat::keep(self.place(), life)
    }

    fn keep_holders(&mut self, page: u64, changes: Changes, all: impl FnOnce() -> Holders) {
        if let Err(why) = self.scribe.write(page, &changes, all) {
            let shown = self.run_dir();
            let text = format!("{shown}: cannot write the holders' file: {why}");
            self.machine.say(&text);
        }
    }

    fn take_mark(&self, generation: Generation, holder: HolderId) -> Option<Vec<Phase>> {
        self.place().take_mark(generation, holder)
    }

    fn forget(&self) -> Result<(), Failure> {
        let removed = self.place().remove(Kept::Holders);
        removed.map_err(internal("cannot remove the holders' file"))?;
        let removed = self.place().remove(Kept::Heartbeat);
        removed.map_err(internal("cannot remove the heartbeat's file"))
    }

    fn listen(&mut self, _: &Estate) -> Result<(), Failure> {
        let listener = self.seat.place.listen(&self.seat.lock);
        let listener = listener.and_then(|it| it.set_nonblocking(true).map(|()| it));
        let listener = listener.map_err(internal("cannot listen for lease-hold"))?;
        let peers = Peers::new(listener);
        self.peers = Some(peers.map_err(internal("cannot listen for lease-hold"))?);
        Ok(())
    }

    fn stop_listening(&mut self) -> Result<(), Failure> {
        let removed = self.place().remove_socket();
        removed.map_err(internal("cannot remove the socket"))
    }

    /// From a thread of its own: stdout may be a pipe that nobody reads.
    fn announce(&mut self, line: &str) -> Result<(), Failure> {
        let line = format!("{line}\n");
        let (told, written) = channel();
        let write = move || {
            let mut stdout = io::stdout();
            let result = stdout.write_all(line.as_bytes());
            let _ = told.send(result.and_then(|()| stdout.flush()));
        };
        let started = std::thread::Builder::new().spawn(write);
        started.map_err(internal(NO_THREAD))?;
        match written.recv_timeout(READ_WITHIN) {
            Ok(Err(why)) => {
                let text = format!("cannot write to stdout: {why}");
                Err(Failure::new(Status::Io, text))
            }
            Ok(Ok(())) | Err(_) => {
                self.notify.ready();
                Ok(())
            }
        }
    }

    fn doing(&mut self, what: impl Display) {
        self.notify.alive(self.machine.now());
        self.notify.status(what.to_string());
    }

    fn start_heart(&mut self, heart: Heart<Device>) -> Result<(), Failure> {
        let place = self.place().try_clone();
        let place = place.map_err(internal("cannot keep a state file"))?;
        let started = Heartbeat::start(heart, place, self.signals.wake.clone());
        self.heart = Some(started.map_err(internal(NO_THREAD))?);
        Ok(())
    }

    fn call(&mut self, calls: Calls) {
        self.heart
            .iter()
            .for_each(|heart| heart.call(calls.clone()));
    }

    fn give_back_host_id(&mut self, quiet_from: Moment) {
        if let Some(heart) = &self.heart {
            heart.leave(quiet_from);
        }
    }

    fn give_back(&mut self, lease: Lease, task: GiveBack) {
        self.undertaker.give_back(lease, task);
    }

    fn wait(&mut self, until: Moment) -> Result<(), Failure> {
        let mut fds = vec![PollFd::new(self.signals.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.peers.iter().flat_map(Peers::news));
        let left = until.since(self.machine.now()).min(LOOK_AROUND);
        let left = left.max(Duration::from_millis(1));
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let calls = match poll(&mut fds, left) {
            Ok(calls) => calls > 0,
            Err(nix::errno::Errno::EINTR) => false,
            Err(errno) => return Err(internal("cannot wait for news")(errno)),
        };
        let has_news = |fd: &PollFd<'_>| calls && fd.revents() != Some(PollFlags::empty());
        let called: Vec<bool> = fds.iter().skip(1).map(has_news).collect();
        self.signals.wake.clear();
        if let Some(peers) = &mut self.peers {
            peers.begin_round(&called);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<Event<Process>> {
        if self.signals.told_to_end() {
            return Some(Event::End);
        }
        if self.signals.told_to_leave() && !std::mem::replace(&mut self.told_to_leave, true) {
            return Some(Event::Leave);
        }
        let beat = self.heart.as_ref().and_then(Heartbeat::next);
        let written = || self.scribe.next().map(Event::Written);
        if let Some(event) = beat.map(Event::Beat).or_else(written) {
            return Some(event);
        }
        let peers = self.peers.as_mut();
        let said = peers.and_then(|peers| peers.next(&self.machine));
        said.or_else(|| {
            let (lease, progress) = self.undertaker.next()?;
            Some(Event::GivenBack(lease, progress))
        })
    }

    fn tell(&mut self, peer: PeerId, tell: &Tell) {
        if let Some(peers) = &mut self.peers {
            peers.tell(peer, tell);
        }
    }

    fn close(&mut self, peer: PeerId) {
        if let Some(peers) = &mut self.peers {
            peers.close(peer);
        }
    }
}
