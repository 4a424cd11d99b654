//! Connections of holders, and of whoever asks what is known.

use lease_core::clock::{BootClock, Clock, Moment};
use lease_core::host::surroundings::{Beside, Event, PeerId};
use lease_core::process::Process;
use lease_core::registry::message::{Ask, Tell};
use lease_core::registry::wire::Wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Most connections at a time, where there are descriptors for so many.
const CONNECTIONS_MAX: u64 = 4096;
/// Descriptors that one of them takes: its own, those of two processes, one that comes beside a
/// message.
const DESCRIPTORS_EACH: u64 = 4;
/// Descriptors that are kept for all else.
const DESCRIPTORS_KEPT: u64 = 128;
/// How long new connections wait where one could not be taken in.
const DEAF_FOR: Duration = Duration::from_millis(500);

/// One connection.
#[derive(Debug)]
struct Peer {
    wire: Wire,
    /// What came of sending and reading in this round, once that was tried.
    heard: Option<Heard>,
}

/// What came of sending to a peer and of reading from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It is open.
    Open,
    /// It has ended, and all that it had said was read.
    Ended,
    /// It has broken.
    Broken,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Peers {
    listener: UnixListener,
    /// What tells which of them have said something: those that are idle cost nothing.
    said: Epoll,
    peers: BTreeMap<PeerId, Peer>,
    next: u64,
    most: usize,
    /// Before this moment no new connection is looked for.
    deaf_until: Moment,
    /// Whether there may be a new connection in this round.
    may_be_new: bool,
    /// Who is still to be heard in this round.
    turns: VecDeque<PeerId>,
}

/// Takes as many descriptors as this process may have. Returns for how many connections they are
/// enough.
fn raise_descriptor_limit() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    let most = limit.saturating_sub(DESCRIPTORS_KEPT) / DESCRIPTORS_EACH;
    usize::try_from(most.clamp(1, CONNECTIONS_MAX)).unwrap_or(1)
}

impl Peers {
    /// Nobody has connected yet.
    pub(crate) fn new(listener: UnixListener) -> Result<Self, Errno> {
        Ok(Self {
            said: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listener,
            peers: BTreeMap::new(),
            next: 0,
            most: raise_descriptor_limit(),
            deaf_until: Moment::default(),
            may_be_new: false,
            turns: VecDeque::new(),
        })
    }

    /// What tells of news: of new connections, of peers that have said something, and of those that
    /// read again.
    pub(crate) fn news(&self) -> Vec<PollFd<'_>> {
        let calls = match BootClock::boot_time() >= self.deaf_until {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        };
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), calls),
            PollFd::new(self.said.0.as_fd(), PollFlags::POLLIN),
        ];
        let behind = self.behind().map(|(_, peer)| peer.wire.stream().as_fd());
        fds.extend(behind.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
        fds
    }

    fn behind(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        let peers = self.peers.iter();
        peers.filter(|(_, peer)| peer.wire.is_behind())
    }

    /// A new round: who has news, as [`Peers::news`] told, is heard. For one that is idle nothing
    /// is done, not even a system call.
    pub(crate) fn begin_round(&mut self, has_news: &[bool]) {
        self.may_be_new = has_news.first().is_some_and(|is_new| *is_new);
        let behind = self.behind().zip(has_news.iter().skip(2));
        let called = behind.filter(|(_, has_news)| **has_news);
        self.turns = called.map(|((peer, _), _)| *peer).collect();
        if has_news.get(1).is_some_and(|said| *said) {
            let mut said = vec![EpollEvent::empty(); self.peers.len().max(1)];
            // What is not heard of now is at the next round.
            let count = self.said.wait(&mut said, EpollTimeout::ZERO).unwrap_or(0);
            let said = said.iter().take(count).map(|event| PeerId(event.data()));
            self.turns.extend(said);
        }
    }

    /// The next that is heard in this round.
    pub(crate) fn next(&mut self, clock: &impl Clock) -> Option<Event<Process>> {
        while self.may_be_new {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(connected) = self.take_in(stream) {
                        return Some(connected);
                    }
                }
                Err(error) => {
                    self.may_be_new = false;
                    // What cannot be taken in stays there, and would call without a pause.
                    if error.kind() != ErrorKind::WouldBlock {
                        self.deaf_until = clock.now().after(DEAF_FOR);
                    }
                }
            }
        }
        while let Some(peer) = self.turns.front().copied() {
            if let Some(event) = self.hear(peer) {
                return Some(event);
            }
            self.turns.pop_front();
        }
        None
    }

    /// Only our own user and root may talk.
    fn take_in(&mut self, stream: UnixStream) -> Option<Event<Process>> {
        if self.peers.len() >= self.most {
            return None;
        }
        let credentials = getsockopt(&stream, PeerCredentials).ok()?;
        let ours = nix::unistd::geteuid().as_raw();
        if credentials.uid() != ours && credentials.uid() != 0 {
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        self.next += 1;
        let peer = PeerId(self.next);
        // It ends there when it is closed.
        let calls = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
        self.said.add(&stream, calls).ok()?;
        let (wire, heard) = (Wire::new(stream), None);
        self.peers.insert(peer, Peer { wire, heard });
        self.turns.push_back(peer);
        let pid = credentials.pid();
        Some(Event::Connected { peer, pid })
    }

    /// The next that a peer has said, or its end.
    fn hear(&mut self, id: PeerId) -> Option<Event<Process>> {
        let peer = self.peers.get_mut(&id)?;
        let wire = &mut peer.wire;
        let heard = *peer.heard.get_or_insert_with(|| send_and_read(wire));
        let said = wire.take_message::<Ask>();
        if let Ok(Some(ask)) = said {
            let beside = match ask {
                Ask::Register { .. } | Ask::Resume { .. } | Ask::Guard { .. } => beside(wire),
                _ => Beside::Nothing,
            };
            let peer = id;
            return Some(Event::Said { peer, ask, beside });
        }
        peer.heard = None;
        if said.is_ok() && heard == Heard::Open {
            return None;
        }
        self.close(id);
        let whole = said.is_ok() && heard == Heard::Ended;
        Some(Event::Ended { peer: id, whole })
    }

    /// Tells a peer. One that cannot be told is heard to have ended in the next round.
    pub(crate) fn tell(&mut self, peer: PeerId, tell: &Tell) {
        let Some(Peer { wire, .. }) = self.peers.get_mut(&peer) else {
            return;
        };
        let sent = match tell {
            Tell::Renewed { .. } => wire.send_newest(tell),
            _ => wire.send(tell),
        };
        if sent.is_err() {
            // Whether it was still open does not matter: it is closed now.
            let _ = wire.stream().shutdown(Shutdown::Both);
        }
    }

    /// Ends a connection.
    pub(crate) fn close(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }
}

/// What was said before a connection broke is read all the same, to the last word.
fn send_and_read(wire: &mut Wire) -> Heard {
    let written = wire.flush().is_ok();
    let read = match written {
        true => wire.fill(),
        false => wire.drain(),
    };
    match read {
        Ok(true) if written => Heard::Open,
        Ok(false) => Heard::Ended,
        Ok(true) | Err(_) => Heard::Broken,
    }
}

/// The process whose descriptor came with a message.
fn beside(wire: &mut Wire) -> Beside<Process> {
    match wire.take_descriptor() {
        None => Beside::Nothing,
        Some(descriptor) => Process::received(descriptor).map_or(Beside::Gone, Beside::Process),
    }
}
