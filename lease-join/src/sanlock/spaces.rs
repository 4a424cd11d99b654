//! The lockspaces that clients add. Each is joined by a lease-join of its own, which has a thread
//! here that waits for its end: one that is killed is started again, as a service manager would do.
//!
//! What was added stands in a file until it is gone, so that the next one who serves sanlock's
//! clients finds it again.

use super::files::Files;
use super::known::Known;
use super::options::Options;
use super::tools;
use lease_core::failure::Status;
use lease_core::id::{HostId, Name};
use lease_core::layout::Geometry;
use lease_core::process::{Process, ProcessId};
use lease_core::registry::message::Description;
use lease_core::registry::place::{Kept, Place as Seat};
use lease_core::sanlock::number;
use lease_core::sanlock::part::Lockspace;
use lease_core::spec::{HostField, LockspaceSpec, Place};
use nix::errno::Errno;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a file of a lockspace is called, before its name.
const FILE: &str = "lockspace-";
/// Between two looks at a lease-join that is not our child.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Before one that was killed is started again.
const START_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// A lockspace as a client has added it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added {
    /// Its name.
    pub(super) name: Name,
    /// The host id.
    pub(super) host: HostId,
    /// Where it lies, absolute.
    pub(super) place: Place,
    /// t.
    pub(super) io_timeout: u8,
    /// Clients have said that they use it.
    #[serde(default)]
    pub(super) used: bool,
    /// Its sector and area size, if somebody has looked.
    pub(super) geometry: Option<Geometry>,
}

impl Added {
    /// Whether it is the same lockspace, joined as the same host.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.name, self.host, &self.place) == (other.name, other.host, &other.place)
    }

    /// As its lease-join says it.
    pub(super) fn of(says: &Description) -> Self {
        Self {
            name: says.lockspace,
            host: says.host_id,
            place: Place {
                path: says.path.clone(),
                offset: says.offset,
            },
            io_timeout: says.io_timeout,
            used: false,
            geometry: None,
        }
    }

    /// As clients are told of it.
    pub(super) fn shown(&self, state: State) -> Lockspace {
        Lockspace {
            name: Some(self.name),
            host_id: self.host.get(),
            flags: match state {
                State::Joined => 0,
                State::Adding => 1,
                State::Removing => 2,
            },
            place: self.place.clone(),
        }
    }

    fn spec(&self) -> LockspaceSpec {
        LockspaceSpec {
            name: self.name,
            host: HostField::Id(self.host),
            place: self.place.clone(),
        }
    }
}

/// What becomes of a lockspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is being joined.
    Adding,
    /// It is joined.
    Joined,
    /// It is being left.
    Removing,
}

/// One that is known.
#[derive(Debug, Clone)]
struct Space {
    added: Added,
    state: State,
    /// Its lease-join, as soon as there is one.
    process: Option<ProcessId>,
}

/// All that clients have added.
#[derive(Debug)]
pub(super) struct Spaces {
    options: Arc<Options>,
    files: Files,
    spaces: Mutex<BTreeMap<Name, Space>>,
    changed: Condvar,
}

impl Spaces {
    pub(super) fn new(options: Arc<Options>, files: Files) -> Self {
        Self {
            options,
            files,
            spaces: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Those that are added and not gone, with what becomes of them.
    pub(super) fn all(&self) -> Vec<(Added, State)> {
        let spaces = self.lock();
        let all = spaces.values();
        all.map(|space| (space.added.clone(), space.state))
            .collect()
    }

    /// One of them.
    pub(super) fn find(&self, name: &Name) -> Option<(Added, State)> {
        let spaces = self.lock();
        let space = spaces.get(name);
        space.map(|space| (space.added.clone(), space.state))
    }

    /// Starts to join one that is in nobody's way. How that went comes as a number, or the number
    /// of why not is the error.
    pub(super) fn add(self: &Arc<Self>, added: Added) -> Result<Receiver<i32>, i32> {
        let mut spaces = self.lock();
        if spaces.contains_key(&added.name) {
            return Err(-(Errno::EINPROGRESS as i32));
        }
        let kept = self.files.write(&file(&added.name), &added);
        kept.map_err(|why| {
            super::log::say(&format!("cannot join {}: {why}", added.spec()));
            -(Errno::EIO as i32)
        })?;
        let space = Space {
            added: added.clone(),
            state: State::Adding,
            process: None,
        };
        spaces.insert(added.name, space);
        drop(spaces);
        let (tell, told) = channel();
        self.keep(added, Some(tell));
        Ok(told)
    }

    /// Waits until one is joined, or gone; `None`: it is gone.
    pub(super) fn settled(&self, name: &Name) -> Option<State> {
        let mut spaces = self.lock();
        loop {
            match spaces.get(name).map(|space| space.state) {
                Some(State::Adding | State::Removing) => {}
                settled => return settled,
            }
            let woken = self.changed.wait(spaces);
            spaces = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until one is gone.
    pub(super) fn gone(&self, name: &Name) {
        let is_there = |spaces: &mut BTreeMap<Name, Space>| spaces.contains_key(name);
        let waited = self.changed.wait_while(self.lock(), is_there);
        drop(waited);
    }

    /// Nobody acquires anything there any more.
    pub(super) fn mark_removing(&self, name: &Name) {
        if let Some(space) = self.lock().get_mut(name) {
            space.state = State::Removing;
        }
    }

    /// Tells its lease-join to leave.
    pub(super) fn remove(&self, name: &Name) {
        let mut spaces = self.lock();
        if let Some(space) = spaces.get_mut(name) {
            space.state = State::Removing;
            tell_to_leave(space.process);
        }
    }

    /// Notes whether clients use it.
    pub(super) fn set_used(&self, name: &Name, used: bool) {
        let mut spaces = self.lock();
        if let Some(space) = spaces.get_mut(name) {
            space.added.used = used;
            // It is said again if that is lost.
            let _ = self.files.write(&file(name), &space.added);
        }
    }

    /// Those that an earlier one has left are gone on with.
    pub(super) fn find_again(self: &Arc<Self>) {
        for (name, read) in self.files.all::<Added>(FILE) {
            match read {
                Ok(added) => {
                    let space = Space {
                        added: added.clone(),
                        state: State::Adding,
                        process: None,
                    };
                    self.lock().insert(added.name, space);
                    self.keep(added, None);
                }
                Err(why) => super::log::say(&format!("{name}: {why}; it is left out")),
            }
        }
    }

    /// Watches over one from a thread of its own, and tells how the join went.
    fn keep(self: &Arc<Self>, added: Added, tell: Option<Sender<i32>>) {
        let spaces = Arc::clone(self);
        let name = added.name;
        let started = std::thread::Builder::new().spawn(move || {
            let number = spaces.keeper(&added, tell.as_ref());
            spaces.forget(&added.name);
            // Nobody may have waited.
            let _ = tell.map(|tell| tell.send(number));
        });
        if started.is_err() {
            super::log::say(&format!("{name}: cannot start a thread"));
            self.forget(&name);
        }
    }

    /// Until it is gone; why, as a number.
    fn keeper(&self, added: &Added, tell: Option<&Sender<i32>>) -> i32 {
        if let Some(id) = self.running(added) {
            self.joined(&added.name, id);
            wait_for(id);
            if !self.is_unfinished(added) {
                return 0;
            }
        }
        loop {
            let code = match self.start(added) {
                Ok(child) => self.watch(added, child, tell),
                Err(why) => {
                    super::log::say(&format!("cannot join {}: {why}", added.spec()));
                    return -(Errno::ENOSYS as i32);
                }
            };
            let killed = code.is_none() || code == Some(Status::Internal.code().into());
            if !killed || !self.is_unfinished(added) {
                return number_of(code);
            }
            std::thread::sleep(START_AGAIN_AFTER);
        }
    }

    /// The lease-join of a lockspace that runs already. One that still joins is waited for.
    fn running(&self, added: &Added) -> Option<ProcessId> {
        loop {
            if let Some(known) = Known::look(&self.options.run_dir, &added.name) {
                return ProcessId::of(known.pid);
            }
            let seat = Seat::open(&self.options.run_dir, &added.name).ok()?;
            if seat.lock().ok()?.is_some() {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn start(&self, added: &Added) -> std::io::Result<Child> {
        let options = &self.options;
        let mut command = tools::command(crate::args::TOOL);
        command.arg("-e").arg(options.host_name.to_string());
        command.arg("-o").arg(added.io_timeout.to_string());
        let watchdog_timeout = options.watchdog_timeout.to_string();
        command.args(["--watchdog-timeout", &watchdog_timeout]);
        if let Some(device) = &options.watchdog {
            command.arg("--watchdog").arg(device);
        }
        command.arg("--run-dir").arg(&options.run_dir);
        command.arg(added.spec().to_string());
        // What ends this process is not to end that one.
        command.process_group(0).stdout(Stdio::piped()).spawn()
    }

    /// Until it has ended; its exit code.
    fn watch(&self, added: &Added, mut child: Child, tell: Option<&Sender<i32>>) -> Option<i32> {
        let id = ProcessId::of(child.id().cast_signed());
        self.started(&added.name, id);
        if let Some(stdout) = child.stdout.take() {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            if read.is_ok_and(|bytes| bytes > 0)
                && let Some(id) = id
            {
                self.joined(&added.name, id);
                // Nobody may wait.
                let _ = tell.map(|tell| tell.send(0));
            }
        }
        child.wait().ok()?.code()
    }

    /// Whether a lease-join that has ended was neither told to leave nor has lost the host id.
    fn is_unfinished(&self, added: &Added) -> bool {
        let spaces = self.lock();
        let removing = spaces.get(&added.name).map(|space| space.state) == Some(State::Removing);
        drop(spaces);
        let seat = Seat::open(&self.options.run_dir, &added.name);
        let left = seat.is_ok_and(|seat| !matches!(seat.read(Kept::Heartbeat), Ok(None)));
        left && !removing
    }

    fn started(&self, name: &Name, id: Option<ProcessId>) {
        let mut spaces = self.lock();
        if let Some(space) = spaces.get_mut(name) {
            space.process = id;
            if space.state == State::Removing {
                tell_to_leave(id);
            }
        }
    }

    fn joined(&self, name: &Name, id: ProcessId) {
        let mut spaces = self.lock();
        if let Some(space) = spaces.get_mut(name) {
            space.process = Some(id);
            match space.state {
                State::Removing => tell_to_leave(Some(id)),
                _ => space.state = State::Joined,
            }
        }
        drop(spaces);
        self.changed.notify_all();
    }

    fn forget(&self, name: &Name) {
        self.lock().remove(name);
        self.files.remove(&file(name));
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Space>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// sanlock's number for the end of a lease-join that has not joined.
fn number_of(code: Option<i32>) -> i32 {
    let is = |status: Status| code == Some(status.code().into());
    match () {
        () if is(Status::Busy) => number::HOST_ID,
        () if is(Status::Invalid) => number::NO_LEASE,
        () if is(Status::NoPath) => -(Errno::ENODEV as i32),
        () if is(Status::Io) => number::IO_TIMEOUT,
        // It was told to leave.
        () if is(Status::Done) => -(Errno::ENOENT as i32),
        () => tools::number_of(code),
    }
}

/// Tells a lease-join to leave.
pub(super) fn tell_to_leave(id: Option<ProcessId>) {
    if let Some(process) = id.and_then(ProcessId::open) {
        process.signal(Signal::TERM);
    }
}

/// Until a process that is not our child has ended.
fn wait_for(id: ProcessId) {
    let Some(process) = id.open() else { return };
    while !Process::is_dead(&process) {
        std::thread::sleep(LOOK_EVERY);
    }
}

fn file(name: &Name) -> String {
    let hex: String = name
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{FILE}{hex}")
}
