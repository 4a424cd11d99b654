//! The processes that have registered. Who they are stands in a file each, so that the next one who
//! serves sanlock's clients knows them; so does what is to be done to them on a loss, as a script
//! that whoever guards them runs then.

use super::files::Files;
use super::peer::Connection;
use lease_core::id::Name;
use lease_core::process::ProcessId;
use lease_core::registry::order::LeaseName;
use lease_core::sanlock::request::Target;
use lease_core::sanlock::status::{Entry, Kind, Line};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a file of a process is called, before its number.
const FILE: &str = "client-";
/// How the script for a loss is called, before the number of the process.
const LOSS: &str = "loss-";
/// How the script is called for another host that asks for a lease.
const REQUEST: &str = "request-";

/// The connection accepts nothing more.
const RESTRICT_ALL: u32 = 1;
/// The process is not to get SIGKILL.
const NO_SIGKILL: u32 = 2;
/// The process is not to get SIGTERM.
const NO_SIGTERM: u32 = 4;

/// What is known of a process that has registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registration {
    /// Which process.
    pub(super) process: ProcessId,
    /// What it is called; its number, until it has said so.
    name: Option<Name>,
    /// What is run on a loss: a program and its arguments.
    killpath: Option<Vec<Vec<u8>>>,
    /// What it has forbidden.
    restricted: u32,
    /// The leases that it has acquired with their value blocks.
    #[serde(default)]
    values: Vec<LeaseName>,
}

impl Registration {
    /// Whether it may get SIGKILL.
    pub(super) fn may_be_killed(&self) -> bool {
        self.restricted & NO_SIGKILL == 0
    }

    /// What is done on a loss until it gets SIGKILL, for sh: again and again, but for a killpath.
    fn on_loss(&self) -> Vec<u8> {
        let again = |kill: String| format!("while {kill}; do sleep 1; done\n").into_bytes();
        self.killpath().unwrap_or_else(|| again(self.kill()))
    }

    /// What is done when another host asks for a lease, for sh: once.
    fn on_request(&self) -> Vec<u8> {
        let once = |kill: String| format!("{kill}\n").into_bytes();
        self.killpath().unwrap_or_else(|| once(self.kill()))
    }

    fn kill(&self) -> String {
        // With neither signal allowed it is SIGKILL too.
        let signal = match self.restricted & NO_SIGTERM {
            0 => "TERM",
            _ => "KILL",
        };
        format!("kill -{signal} {}", self.process.pid)
    }

    fn killpath(&self) -> Option<Vec<u8>> {
        let mut script = b"exec".to_vec();
        for word in self.killpath.as_ref()? {
            script.extend(b" '");
            for byte in word {
                match byte {
                    b'\'' => script.extend(b"'\\''"),
                    other => script.push(*other),
                }
            }
            script.push(b'\'');
        }
        script.push(b'\n');
        Some(script)
    }
}

/// One of them, while it is registered.
#[derive(Debug)]
struct Client {
    registration: Registration,
    /// Connections on which it has registered.
    lifelines: usize,
    /// A command about it is carried out.
    busy: bool,
}

/// The files that whoever guards a process goes by.
#[derive(Debug)]
pub(super) struct GuardedBy {
    /// What it runs when a lease is lost.
    pub(super) on_loss: PathBuf,
    /// What it runs when another host asks for a lease.
    pub(super) on_request: PathBuf,
    /// Locked as long as clients are served.
    pub(super) lock: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Clients {
    files: Files,
    all: Mutex<BTreeMap<i32, Client>>,
}

/// While it lives, no other command about the process is carried out.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    clients: &'a Clients,
    /// Whose turn it is.
    pub(super) pid: i32,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.clients.lock().get_mut(&self.pid) {
            client.busy = false;
        }
    }
}

impl Clients {
    /// Those that an earlier one has left, as far as they still run.
    pub(super) fn new(files: Files) -> Self {
        let mut all = BTreeMap::new();
        for (name, read) in files.all::<Registration>(FILE) {
            match read {
                Ok(registration) if runs(registration.process) => {
                    let client = Client {
                        registration,
                        lifelines: 0,
                        busy: false,
                    };
                    all.insert(client.registration.process.pid, client);
                }
                Ok(found) => forget(&files, found.process.pid),
                Err(why) => super::log::say(&format!("{name}: {why}; it is left out")),
            }
        }
        Self {
            files,
            all: Mutex::new(all),
        }
    }

    /// 1: whoever has made this connection. A second time on it changes nothing.
    pub(super) fn register(&self, at: &mut Connection) {
        let Some(process) = ProcessId::of(at.pid) else {
            return;
        };
        if std::mem::replace(&mut at.registered, true) {
            return;
        }
        let mut all = self.lock();
        if let Some(client) = all.get_mut(&at.pid)
            && client.registration.process == process
        {
            client.lifelines += 1;
            return;
        }
        let registration = Registration {
            process,
            name: Name::from_field(at.pid.to_string().as_bytes()).ok(),
            killpath: None,
            restricted: 0,
            values: Vec::new(),
        };
        self.keep(&registration);
        let client = Client {
            registration,
            lifelines: 1,
            busy: false,
        };
        all.insert(at.pid, client);
    }

    /// A connection has ended. The process, if it is registered on none any more: it is gone then,
    /// even if it lives on.
    pub(super) fn end_of(&self, at: &Connection) -> Option<i32> {
        if !at.registered {
            return None;
        }
        let mut all = self.lock();
        let client = all.get_mut(&at.pid)?;
        client.lifelines = client.lifelines.saturating_sub(1);
        if client.lifelines > 0 {
            return None;
        }
        all.remove(&at.pid);
        forget(&self.files, at.pid);
        Some(at.pid)
    }

    /// Whose turn a command is, if no other one about it is carried out.
    pub(super) fn turn(&self, at: &Connection, target: Target) -> Result<Turn<'_>, Errno> {
        let pid = match target {
            Target::Process(pid) => pid,
            Target::Connection if at.registered => at.pid,
            Target::Connection => return Err(Errno::EBUSY),
        };
        let mut all = self.lock();
        let client = all.get_mut(&pid).ok_or(Errno::ESRCH)?;
        if !runs(client.registration.process) {
            return Err(Errno::ESRCH);
        }
        if std::mem::replace(&mut client.busy, true) {
            return Err(Errno::EBUSY);
        }
        Ok(Turn { clients: self, pid })
    }

    /// What is known of a process.
    pub(super) fn find(&self, pid: i32) -> Option<Registration> {
        let all = self.lock();
        all.get(&pid).map(|client| client.registration.clone())
    }

    /// What a process is called from now on.
    pub(super) fn set_name(&self, pid: i32, name: Option<Name>) {
        self.change(pid, |registration| registration.name = name);
    }

    /// Whether these leases were acquired with their value blocks.
    pub(super) fn set_values(&self, pid: i32, leases: &[LeaseName], with_value: bool) {
        self.change(pid, |registration| {
            registration.values.retain(|lease| !leases.contains(lease));
            if with_value {
                registration.values.extend(leases);
            }
        });
    }

    /// Whether this one was.
    pub(super) fn has_value(&self, pid: i32, lease: &LeaseName) -> bool {
        let found = self.find(pid);
        found.is_some_and(|registration| registration.values.contains(lease))
    }

    /// 10.
    pub(super) fn restrict(&self, at: &mut Connection, bits: u32) {
        if at.registered {
            at.closed_to_commands = bits & RESTRICT_ALL != 0;
            self.change(at.pid, |registration| registration.restricted = bits);
        }
    }

    /// 17: a program, and its arguments in one string, split at spaces that no backslash precedes.
    /// `false`: nobody has registered on this connection.
    pub(super) fn set_killpath(&self, at: &Connection, path: Vec<u8>, arguments: &[u8]) -> bool {
        let killpath = std::iter::once(path).chain(split(arguments)).collect();
        let set = |registration: &mut Registration| registration.killpath = Some(killpath);
        at.registered && self.change(at.pid, set)
    }

    /// The files that whoever guards this process goes by.
    pub(super) fn guarded_by(&self, pid: i32) -> GuardedBy {
        GuardedBy {
            on_loss: self.files.path(&format!("{LOSS}{pid}")),
            on_request: self.files.path(&format!("{REQUEST}{pid}")),
            lock: self.files.lock_path(),
        }
    }

    fn change(&self, pid: i32, change: impl FnOnce(&mut Registration)) -> bool {
        let mut all = self.lock();
        let Some(client) = all.get_mut(&pid) else {
            return false;
        };
        change(&mut client.registration);
        self.keep(&client.registration);
        true
    }

    fn keep(&self, registration: &Registration) {
        let pid = registration.process.pid;
        let write = |name: &str, script: Vec<u8>| {
            let name = format!("{name}{pid}");
            self.files.write_bytes(&name, &script)
        };
        let kept = write(LOSS, registration.on_loss());
        let kept = kept.and_then(|()| write(REQUEST, registration.on_request()));
        let kept = kept.and_then(|()| self.files.write(&format!("{FILE}{pid}"), registration));
        if let Err(why) = kept {
            super::log::say(&format!(
                "cannot keep the registration of process {pid}: {why}"
            ));
        }
    }

    /// How they are shown, with the parts of the daemon that are shown as clients.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let all = self.lock();
        let alive = all.values().map(|client| &client.registration);
        let alive = alive.filter(|registration| runs(registration.process));
        let registered = alive.map(|registration| {
            let pid = registration.process.pid;
            (pid, registration.name, registration.restricted)
        });
        let of_daemon = |name: &[u8]| (-1, Name::from_field(name).ok(), 0);
        let mut shown = vec![of_daemon(b"helper"), of_daemon(b"listener")];
        shown.extend(registered);
        shown.push(of_daemon(b"status"));
        (0..).zip(shown).map(entry).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Client>> {
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

/// Whether a process is there and has not ended.
fn runs(id: ProcessId) -> bool {
    id.open().is_some_and(|process| !process.is_dead())
}

fn forget(files: &Files, pid: i32) {
    files.remove(&format!("{FILE}{pid}"));
    files.remove(&format!("{LOSS}{pid}"));
    files.remove(&format!("{REQUEST}{pid}"));
}

fn split(arguments: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = arguments.iter().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, words.last_mut()) {
            (b'\\', Some(word)) if bytes.next_if(|next| **next == b' ').is_some() => {
                word.push(b' ');
            }
            (b' ', _) => words.push(Vec::new()),
            (other, Some(word)) => word.push(*other),
            (_, None) => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(killpath: Option<Vec<&str>>, restricted: u32) -> Registration {
        let words = |words: Vec<&str>| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Registration {
            process: ProcessId {
                pid: 47,
                started: 1,
            },
            name: None,
            killpath: killpath.map(words),
            restricted,
            values: Vec::new(),
        }
    }

    #[test]
    fn arguments_are_split_at_spaces_that_no_backslash_precedes() {
        let words = |text: &[u8]| split(text);
        assert_eq!(words(b"a b\\ c 7"), [&b"a"[..], b"b c", b"7"]);
        assert_eq!(words(b""), Vec::<Vec<u8>>::new());
        assert_eq!(words(b" a  b\\"), [&b"a"[..], b"b\\"]);
    }

    #[test]
    fn what_is_done_on_a_loss_read_aloud() {
        let script = |killpath, restricted| {
            String::from_utf8(registration(killpath, restricted).on_loss()).unwrap()
        };
        let term = "while kill -TERM 47; do sleep 1; done\n";
        let kill = "while kill -KILL 47; do sleep 1; done\n";
        assert_eq!(script(None, 0), term);
        assert_eq!(script(None, 1), term);
        assert_eq!(script(None, NO_SIGKILL), term);
        assert_eq!(script(None, NO_SIGTERM), kill);
        assert_eq!(script(None, NO_SIGKILL | NO_SIGTERM), kill);
        let killpath = Some(vec!["/bin/fence", "it's", "$HOME", "a b"]);
        let fenced = "exec '/bin/fence' 'it'\\''s' '$HOME' 'a b'\n";
        assert_eq!(script(killpath.clone(), NO_SIGTERM), fenced);
        let asked = registration(killpath, 0).on_request();
        assert_eq!(String::from_utf8(asked).unwrap(), fenced);
        assert_eq!(registration(None, 0).on_request(), b"kill -TERM 47\n");
    }
}
