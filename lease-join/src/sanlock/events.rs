//! Events that hosts send each other: each listener has a connection of its own to the lease-join
//! of its lockspace, and a thread that hands on what comes.

use lease_core::id::Name;
use lease_core::registry::message::{Ask, EventRefused, HeardEvent, SetEvent, Tell};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::sanlock::part::HostEvent;
use lease_core::sanlock::reply::Event;
use nix::errno::Errno;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a lease-join may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long one that has ended is looked for.
const LOOKS_MAX: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whoever listens.
#[derive(Debug, Default)]
pub(super) struct Events {
    all: Mutex<Vec<Listener>>,
    count: AtomicU64,
}

#[derive(Debug, Clone)]
struct Listener {
    number: u64,
    pid: i32,
    lockspace: Name,
    /// Where the client reads.
    client: Arc<UnixStream>,
}

impl Events {
    /// 30, once it is answered: from now on events go to this client of process `pid`.
    pub(super) fn listen(
        self: &Arc<Self>,
        run_dir: &Path,
        (lockspace, pid): (Name, i32),
        client: Arc<UnixStream>,
    ) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let listener = Listener {
            number,
            pid,
            lockspace,
            client,
        };
        self.lock().push(listener.clone());
        let (events, run_dir): (_, PathBuf) = (Arc::clone(self), run_dir.to_owned());
        let hear = move || {
            events.hand_on(&run_dir, &listener);
            events.end(|it| it.number == number);
        };
        if std::thread::Builder::new().spawn(hear).is_err() {
            self.end(|it| it.number == number);
        }
    }

    /// 31, and the end of a client's connection.
    pub(super) fn end_of(&self, pid: i32, lockspace: &Name) {
        self.end(|it| it.pid == pid && it.lockspace == *lockspace);
    }

    /// The connection of a client has ended.
    pub(super) fn end_with(&self, client: &Arc<UnixStream>) {
        self.end(|it| Arc::ptr_eq(&it.client, client));
    }

    fn end(&self, is_it: impl Fn(&Listener) -> bool) {
        self.lock().retain(|listener| {
            let ends = is_it(listener);
            if ends {
                // Whoever hands events on to it notices, and so does the client.
                let _ = listener.client.shutdown(Shutdown::Both);
            }
            !ends
        });
    }

    fn is_there(&self, number: u64) -> bool {
        self.lock().iter().any(|listener| listener.number == number)
    }

    /// Until the client or the lockspace is gone.
    fn hand_on(&self, run_dir: &Path, listener: &Listener) {
        let mut looks = 0;
        while looks < LOOKS_MAX && self.is_there(listener.number) {
            looks += 1;
            // Whoever has heard something and then nothing looks anew.
            if self.hear(run_dir, listener).is_ok() {
                looks = 0;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// One connection to the lease-join, to its end. Fails if there is none.
    fn hear(&self, run_dir: &Path, listener: &Listener) -> io::Result<()> {
        let mut wire = connect(run_dir, &listener.lockspace)?;
        wire.send(&Ask::Listen)?;
        loop {
            let heard = match wire.receive() {
                Ok(Tell::Event(heard)) => event(&heard).encode(),
                Ok(_) => continue,
                Err(why) if why.kind() == io::ErrorKind::TimedOut => Vec::new(),
                Err(_) => return Ok(()),
            };
            if !self.is_there(listener.number) {
                return Ok(());
            }
            // One that does not read is dropped.
            if (&*listener.client).write_all(&heard).is_err() {
                self.end(|it| it.number == listener.number);
                return Ok(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 32: sends an event; 0, or the number of why not.
pub(super) fn set(run_dir: &Path, lockspace: &Name, event: &HostEvent, flags: u32) -> i32 {
    let refused = match ask(run_dir, lockspace, event, flags) {
        Ok(Ok(())) => return 0,
        Ok(Err(EventRefused::NoHost)) => Errno::EINVAL,
        Ok(Err(EventRefused::Busy)) => Errno::EBUSY,
        Ok(Err(EventRefused::Leaving)) | Err(_) => Errno::ENOENT,
    };
    -(refused as i32)
}

fn ask(
    run_dir: &Path,
    lockspace: &Name,
    event: &HostEvent,
    flags: u32,
) -> io::Result<Result<(), EventRefused>> {
    let mut wire = connect(run_dir, lockspace)?;
    wire.send(&Ask::SetEvent(SetEvent {
        host_id: event.host_id,
        generation: event.generation,
        event: event.event,
        data: event.data,
        flags,
    }))?;
    match wire.receive()? {
        Tell::EventSet(result) => Ok(result),
        _ => Err(io::Error::other("it does not speak as expected")),
    }
}

fn connect(run_dir: &Path, lockspace: &Name) -> io::Result<Wire> {
    let stream = Place::open(run_dir, lockspace)?.connect()?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(Wire::new(stream))
}

fn event(heard: &HeardEvent) -> Event {
    Event {
        host_id: heard.host_id.get(),
        generation: heard.generation,
        event: heard.event,
        data: heard.data,
        from_host_id: heard.from_host_id.get(),
        from_generation: heard.from_generation.0,
    }
}
