//! A client's connection as commands see it, and how many there may be.

use lease_core::id::Name;
use lease_core::sanlock::reply::Reply;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections at a time. Others are closed at once.
const CONNECTIONS_MAX: usize = 4096;
/// Of one process.
const OF_ONE_PROCESS_MAX: usize = 1024;
/// How many connections each process has.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<BTreeMap<i32, usize>>);

impl Crowd {
    /// One more of this process; `false`: that is too many.
    pub(super) fn enter(&self, pid: i32) -> bool {
        let mut crowd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = crowd.values().sum();
        let own = crowd.entry(pid).or_default();
        let enters = all < CONNECTIONS_MAX && *own < OF_ONE_PROCESS_MAX;
        *own += usize::from(enters);
        enters
    }

    /// One less.
    pub(super) fn leave(&self, pid: i32) {
        let mut crowd = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = crowd.get_mut(&pid) {
            *own -= 1;
            if *own == 0 {
                crowd.remove(&pid);
            }
        }
    }
}

/// A connection, as commands see it.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who has made it.
    pub(super) pid: i32,
    /// That process has registered here.
    pub(super) registered: bool,
    /// Nothing more is accepted here.
    pub(super) closed_to_commands: bool,
    /// With the answer that comes now all ends.
    pub(super) ends_all: bool,
    /// From the answer that comes now on, events of this lockspace go there.
    pub(super) listens: Option<Name>,
    /// Its socket.
    pub(super) stream: Arc<UnixStream>,
}

/// The answer to what cannot be done, as a negative errno.
pub(super) fn errno(errno: nix::errno::Errno) -> Reply {
    Reply::of(-(errno as i32))
}
