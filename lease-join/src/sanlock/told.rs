//! What each message is answered, by the command.

use super::clients::Clients;
use super::events::{self, Events};
use super::files::Files;
use super::guards::Guards;
use super::known::Known;
use super::options::Options;
use super::peer::{Connection, Crowd, errno};
use super::spaces::{Added, Spaces, State};
use super::{indexed, log, spaces, storage};
use crate::signals::Wake;
use lease_core::id::{HostId, MAX_HOST_ID, Name};
use lease_core::process::ProcessId;
use lease_core::sanlock::number;
use lease_core::sanlock::part::Lockspace;
use lease_core::sanlock::reply::{DAEMON_VERSION, Reply};
use lease_core::sanlock::request::Request;
use nix::errno::Errno;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at a lease-join that is to leave.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two signals to what has to end.
const KILL_EVERY: Duration = Duration::from_secs(1);

/// All that the threads share.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) options: Arc<Options>,
    pub(super) spaces: Arc<Spaces>,
    pub(super) clients: Clients,
    pub(super) guards: Guards,
    events: Arc<Events>,
    pub(super) crowd: Crowd,
    wake: Wake,
    over: AtomicBool,
}

impl Told {
    pub(super) fn new(options: Options, files: Files, wake: Wake) -> anyhow::Result<Self> {
        let options = Arc::new(options);
        let spaces = Spaces::new(Arc::clone(&options), files.clone());
        Ok(Self {
            spaces: Arc::new(spaces),
            clients: Clients::new(files),
            guards: Guards::default(),
            events: Arc::default(),
            options,
            crowd: Crowd::default(),
            wake,
            over: AtomicBool::new(false),
        })
    }

    /// Whether a client has asked for the end.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The answer; `None`: none is given.
    pub(super) fn answer(self: &Arc<Self>, at: &mut Connection, request: Request) -> Option<Reply> {
        Some(match request {
            Request::Register => {
                self.clients.register(at);
                return None;
            }
            Request::Shutdown { force } => {
                self.shut_down(at, force);
                return None;
            }
            Request::AddLockspace {
                lockspace,
                no_wait,
                io_timeout,
            } => self.add_lockspace(&lockspace, no_wait, io_timeout),
            Request::RemLockspace {
                lockspace,
                no_wait,
                unused,
            } => self.rem_lockspace(&lockspace, no_wait, unused),
            Request::InqLockspace { lockspace, wait } => self.inq_lockspace(&lockspace, wait),
            Request::SetConfig { lockspace, bits } => self.set_config(lockspace, bits),
            Request::ShutdownWait { force } => Reply::of(self.shut_down(at, force)),
            Request::LogDump => {
                let lines = log::dump();
                let len = i32::try_from(lines.len()).unwrap_or(i32::MAX);
                Reply::of(len).with(lines).uncounted().last()
            }
            Request::Version => Reply::of(0).and(DAEMON_VERSION),
            Request::Examine => Reply::of(0),
            Request::Status { level } => self.status(level),
            Request::HostStatus(name) => self.host_status(name),
            Request::Renewal(name) => self.renewal(name),
            Request::GetLockspaces => self.get_lockspaces(),
            Request::GetHosts(lockspace) => self.get_hosts(&lockspace),
            Request::RegEvent(name) => self.reg_event(at, name),
            Request::EndEvent(name) => {
                if let Some(name) = name {
                    self.events.end_of(at.pid, &name);
                }
                Reply::of(0).last()
            }
            Request::SetEvent {
                lockspace,
                event,
                flags,
            } => Reply::of(lockspace.map_or(-(Errno::ENOENT as i32), |name| {
                events::set(&self.options.run_dir, &name, &event, flags)
            })),
            request => return Some(self.answer_on_storage(at, request)),
        })
    }

    fn answer_on_storage(&self, at: &mut Connection, request: Request) -> Reply {
        match request {
            Request::Align(place) => storage::align(&place),
            Request::WriteLockspace {
                lockspace,
                io_timeout,
                ..
            } => storage::write_lockspace(&lockspace, io_timeout),
            Request::WriteResource {
                resource,
                num_hosts,
                clear,
                ..
            } => storage::write_resource(&resource, num_hosts, clear),
            Request::ReadLockspace(lockspace) => storage::read_lockspace(&lockspace),
            Request::ReadResource(resource) => storage::read_resource(&resource),
            Request::ReadOwners(resource) => storage::read_owners(&resource),
            Request::FormatIndex(index) => indexed::format(&index),
            Request::LookupIndex { index, entry } => indexed::look_up(&index, &entry),
            Request::UpdateIndex {
                index,
                entry,
                flags,
            } => indexed::update(&self.options.run_dir, &index, &entry, flags),
            Request::CreateResource { index, entry } => {
                indexed::create(&self.options.run_dir, &index, &entry)
            }
            Request::DeleteResource { index, entry } => {
                indexed::delete(&self.options.run_dir, &index, &entry)
            }
            Request::RebuildIndex(index) => indexed::rebuild(&self.options.run_dir, &index),
            request => self.answer_about_leases(at, request),
        }
    }

    /// A connection has ended.
    pub(super) fn end_of(&self, at: &Connection) {
        self.events.end_with(&at.stream);
        let _ = at.stream.shutdown(std::net::Shutdown::Both);
        if let Some(pid) = self.clients.end_of(at) {
            self.gone(pid);
        }
    }

    fn add_lockspace(&self, asked: &Lockspace, no_wait: bool, io_timeout: i32) -> Reply {
        let added = match self.to_add(asked, io_timeout) {
            Ok(added) => added,
            Err(number) => return Reply::of(number),
        };
        match self.spaces.add(added) {
            Err(number) => Reply::of(number),
            Ok(_) if no_wait => Reply::of(0),
            // The thread that would tell is there as long as the lockspace.
            Ok(told) => Reply::of(told.recv().unwrap_or(-(Errno::EIO as i32))),
        }
    }

    /// What is to be joined, if nothing is in its way.
    fn to_add(&self, asked: &Lockspace, io_timeout: i32) -> Result<Added, i32> {
        let failed = |errno: Errno| -(errno as i32);
        let io_timeout = match io_timeout {
            0 => Some(self.options.io_timeout),
            other => u8::try_from(other).ok(),
        };
        if asked.host_id > u64::from(MAX_HOST_ID) {
            return Err(number::NO_HOST_ID);
        }
        let added = named(asked)
            .zip(io_timeout)
            .map(|(added, io_timeout)| Added {
                io_timeout,
                ..added
            });
        let added = added.ok_or(failed(Errno::EINVAL))?;
        if let Some((there, state)) = self.find(&added.name) {
            return Err(failed(match (there.is(&added), state) {
                (false, _) => Errno::EINVAL,
                (true, State::Adding) => Errno::EINPROGRESS,
                (true, State::Joined | State::Removing) => Errno::EEXIST,
            }));
        }
        let geometry = storage::check_lockspace(&added.name, &added.place, added.host)?;
        Ok(Added {
            geometry: Some(geometry),
            ..added
        })
    }

    fn rem_lockspace(self: &Arc<Self>, asked: &Lockspace, no_wait: bool, unused: bool) -> Reply {
        let found = named(asked).and_then(|added| Some((self.find(&added.name)?, added)));
        let Some(((there, _), added)) = found else {
            return errno(Errno::ENOENT);
        };
        if !there.is(&added) {
            return errno(Errno::ENOENT);
        }
        if unused && self.is_used(&there) {
            return errno(Errno::EBUSY);
        }
        self.spaces.mark_removing(&there.name);
        let told = Arc::clone(self);
        let left = there.clone();
        let started = std::thread::Builder::new().spawn(move || told.leave(&left));
        if started.is_err() {
            return errno(Errno::EAGAIN);
        }
        if !no_wait {
            self.wait_until_gone(&there.name);
        }
        Reply::of(0)
    }

    /// A lockspace that this host has joined or joins, whoever has started that.
    pub(super) fn find(&self, name: &Name) -> Option<(Added, State)> {
        self.spaces.find(name).or_else(|| {
            let known = Known::look(&self.options.run_dir, name)?;
            Some((Added::of(&known.says), State::Joined))
        })
    }

    /// Kills what has registered and holds a lease there, until none does, and tells the lease-join
    /// to leave.
    fn leave(&self, space: &Added) {
        self.spaces.mark_removing(&space.name);
        while self.kill_holders(&space.name) {
            std::thread::sleep(KILL_EVERY);
        }
        if self.spaces.find(&space.name).is_some() {
            self.spaces.remove(&space.name);
        } else if let Some(known) = Known::look(&self.options.run_dir, &space.name) {
            spaces::tell_to_leave(ProcessId::of(known.pid));
        }
    }

    /// Whether there was one to be killed.
    fn kill_holders(&self, name: &Name) -> bool {
        let Some(known) = Known::look(&self.options.run_dir, name) else {
            return false;
        };
        let guarded = known.claims().filter_map(|(holder, _)| holder.guarded);
        let pids: BTreeSet<i32> = guarded.collect();
        let registered = pids.into_iter().filter_map(|pid| self.clients.find(pid));
        let alive = registered.filter_map(|it| Some((it.process.open()?, it.may_be_killed())));
        let signalled = alive.map(|(process, may_be_killed)| match may_be_killed {
            true => process.signal(Signal::KILL),
            false => process.signal(Signal::TERM),
        });
        signalled.count() > 0
    }

    fn wait_until_gone(&self, name: &Name) {
        self.spaces.gone(name);
        while Known::look(&self.options.run_dir, name).is_some() {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn is_used(&self, space: &Added) -> bool {
        let known = Known::look(&self.options.run_dir, &space.name);
        space.used || known.is_some_and(|known| known.claims().next().is_some())
    }

    fn inq_lockspace(&self, asked: &Lockspace, wait: bool) -> Reply {
        let Some(added) = named(asked) else {
            return errno(Errno::ENOENT);
        };
        if wait {
            self.spaces.settled(&added.name);
        }
        match self.find(&added.name) {
            Some((there, State::Joined)) if there.is(&added) => Reply::of(0),
            Some((there, _)) if there.is(&added) => errno(Errno::EINPROGRESS),
            _ => errno(Errno::ENOENT),
        }
    }

    /// 30: this connection is where events go, once that is answered.
    fn reg_event(&self, at: &mut Connection, name: Option<Name>) -> Reply {
        let known = name.filter(|name| Known::look(&self.options.run_dir, name).is_some());
        match known {
            Some(name) => {
                at.listens = Some(name);
                Reply::of(0)
            }
            None => errno(Errno::ENOENT),
        }
    }

    /// What was asked for last is answered: events come.
    pub(super) fn listen(&self, at: &mut Connection) {
        if let Some(name) = at.listens.take() {
            let client = Arc::clone(&at.stream);
            self.events
                .listen(&self.options.run_dir, (name, at.pid), client);
        }
    }

    fn set_config(&self, name: Option<Name>, bits: i32) -> Reply {
        let found = name.and_then(|name| self.find(&name));
        let Some((space, _)) = found else {
            return errno(Errno::ENOENT);
        };
        match bits {
            1 | 2 => self.spaces.set_used(&space.name, bits == 1),
            4 | 8 => {}
            _ => return errno(Errno::EINVAL),
        }
        Reply::of(0)
    }

    /// Ends, if no lockspace is joined, or with force; 0, or the number of why not.
    fn shut_down(&self, at: &mut Connection, force: bool) -> i32 {
        let spaces = self.spaces.all();
        if !spaces.is_empty() && !force {
            return -(Errno::EBUSY as i32);
        }
        for (space, _) in &spaces {
            self.leave(space);
        }
        for (space, _) in &spaces {
            self.wait_until_gone(&space.name);
        }
        at.ends_all = true;
        0
    }

    /// What was asked for last is answered: ends.
    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake.wake();
    }
}

/// The lockspace that is asked for, if there can be such a one.
fn named(asked: &Lockspace) -> Option<Added> {
    let name = asked.name.and_then(|name| Name::new(name.as_bytes()).ok());
    let path = &asked.place.path;
    let place = (!path.as_os_str().is_empty()).then(|| asked.place.clone());
    Some(Added {
        name: name?,
        host: HostId::new(asked.host_id).ok()?,
        place: place?,
        io_timeout: 0,
        used: false,
        geometry: None,
    })
}
