//! The processes that have registered. Who they are stands in a file each, so that the next one who
//! serves sanlock's clients knows them.

use super::files::Files;
use super::peer::{Connection, errno};
use lease_core::id::Name;
use lease_core::process::ProcessId;
use lease_core::sanlock::reply::Reply;
use lease_core::sanlock::request::{Request, Target};
use lease_core::sanlock::status::{Entry, Kind, Line};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a file of a process is called, before its number.
const FILE: &str = "client-";

/// The connection accepts nothing more.
const RESTRICT_ALL: u32 = 1;

/// What is known of a process that has registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registration {
    /// Which process.
    process: ProcessId,
    /// What it is called, once it has said so.
    name: Option<Name>,
    /// What is run when it is to end.
    killpath: Option<Killpath>,
    /// What it has forbidden.
    restricted: u32,
}

/// A program and its arguments, as they came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Killpath {
    path: Vec<u8>,
    arguments: Vec<u8>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Clients {
    files: Files,
    all: Mutex<BTreeMap<i32, Registration>>,
}

impl Clients {
    /// Those that an earlier one has left, as far as they still run.
    pub(super) fn new(files: Files) -> Self {
        let mut all = BTreeMap::new();
        for (name, read) in files.all::<Registration>(FILE) {
            match read {
                Ok(found) if found.process.open().is_some() => {
                    all.insert(found.process.pid, found);
                }
                Ok(_) => files.remove(&name),
                Err(why) => super::log::say(&format!("{name}: {why}; it is left out")),
            }
        }
        Self {
            files,
            all: Mutex::new(all),
        }
    }

    /// 1: who has made this connection. A second time, here or elsewhere, changes nothing.
    pub(super) fn register(&self, at: &mut Connection) {
        let Some(process) = ProcessId::of(at.pid) else {
            return;
        };
        at.registered = true;
        let mut all = self.lock();
        if all
            .get(&at.pid)
            .is_some_and(|known| known.process == process)
        {
            return;
        }
        let registration = Registration {
            process,
            name: None,
            killpath: None,
            restricted: 0,
        };
        self.keep(&registration);
        all.insert(at.pid, registration);
    }

    /// A connection has ended: whoever registered on it is gone, even if it lives on.
    pub(super) fn end_of(&self, at: &Connection) {
        if at.registered {
            self.lock().remove(&at.pid);
            self.files.remove(&file(at.pid));
        }
    }

    /// What concerns registered processes.
    pub(super) fn answer(&self, at: &mut Connection, request: Request) -> Reply {
        match request {
            Request::Restrict { bits } => self.restrict(at, bits),
            Request::Killpath { path, arguments } => self.set_killpath(at, path, arguments),
            Request::Inquire(target) => self.inquire(at, target),
            _ => errno(Errno::ENOSYS),
        }
    }

    /// 10.
    fn restrict(&self, at: &mut Connection, bits: u32) -> Reply {
        at.closed_to_commands = bits & RESTRICT_ALL != 0;
        self.change(at, |registration| registration.restricted = bits);
        Reply::of(0)
    }

    /// 17.
    fn set_killpath(&self, at: &Connection, path: Vec<u8>, arguments: Vec<u8>) -> Reply {
        let killpath = Killpath { path, arguments };
        match self.change(at, |registration| registration.killpath = Some(killpath)) {
            true => Reply::of(0),
            false => errno(Errno::EBUSY),
        }
    }

    /// 9.
    fn inquire(&self, at: &Connection, target: Target) -> Reply {
        match self.find(at, target) {
            Ok(_) => Reply::of(0),
            Err(errno_of) => errno(errno_of),
        }
    }

    /// Which process a command is about.
    fn find(&self, at: &Connection, target: Target) -> Result<Registration, Errno> {
        let (pid, missing) = match target {
            Target::Connection if at.registered => (at.pid, Errno::EBUSY),
            Target::Connection => return Err(Errno::EBUSY),
            Target::Process(pid) => (pid, Errno::ESRCH),
        };
        self.lock().get(&pid).cloned().ok_or(missing)
    }

    fn change(&self, at: &Connection, change: impl FnOnce(&mut Registration)) -> bool {
        let mut all = self.lock();
        match all.get_mut(&at.pid).filter(|_| at.registered) {
            Some(registration) => {
                change(registration);
                self.keep(registration);
                true
            }
            None => false,
        }
    }

    fn keep(&self, registration: &Registration) {
        let pid = registration.process.pid;
        if let Err(why) = self.files.write(&file(pid), registration) {
            super::log::say(&format!(
                "cannot keep the registration of process {pid}: {why}"
            ));
        }
    }

    /// How they are shown, with the parts of the daemon that are shown as clients.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let all = self.lock();
        let registered = all.values().map(|it| {
            let pid = it.process.pid;
            let digits = Name::from_field(pid.to_string().as_bytes()).ok();
            (pid, it.name.or(digits), it.restricted)
        });
        let of_daemon = |name: &[u8]| (-1, Name::from_field(name).ok(), 0);
        let mut shown = vec![of_daemon(b"helper"), of_daemon(b"listener")];
        shown.extend(registered);
        shown.push(of_daemon(b"status"));
        (0..).zip(shown).map(entry).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Registration>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry((number, (pid, name, restricted)): (usize, (i32, Option<Name>, u32))) -> Entry {
    let line = Line::default()
        .with("ci", number)
        .with("fd", -1)
        .with("pid", pid)
        .with("flags", 0)
        .with("restricted", restricted)
        .with("cmd_active", 0)
        .with("cmd_last", 0)
        .with("pid_dead", 0)
        .with("kill_count", 0)
        .with("kill_last", 0)
        .with("suspend", 0)
        .with("need_free", 0);
    Entry {
        number: pid,
        name,
        line,
        ..Entry::new(Kind::Client)
    }
}

fn file(pid: i32) -> String {
    format!("{FILE}{pid}")
}
