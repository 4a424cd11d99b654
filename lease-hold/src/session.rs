//! The connection to the lease-join of one lockspace.

use crate::TOOL;
use crate::hub::Event;
use lease_core::delta::Tenure;
use lease_core::id::Name;
use lease_core::registry::message::{Ask, Asked, Tell, Welcome};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status, say, show};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// How long lease-join may take for its first answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A registration with one lease-join.
pub(crate) struct Session {
    /// What it said.
    pub(crate) welcome: Arc<Welcome>,
    /// What is known of its renewals.
    pub(crate) tenure: Arc<Tenure>,
    /// The connection has not ended.
    pub(crate) alive: bool,
    wire: Wire,
}

impl Session {
    /// Registers what is wanted in one lockspace. From then on `events` hears what lease-join
    /// says, as from session `number`.
    pub(crate) fn open(
        run_dir: &Path,
        lockspace: &Name,
        command: String,
        resources: Vec<Asked>,
        (number, events): (usize, Sender<Event>),
    ) -> Result<Self, Failure> {
        let absent = |why: String| {
            let shown = show(run_dir.as_os_str());
            let text = format!(
                "no live lease-join for lockspace {lockspace} in {shown}: {why}; \
                 start lease-join first"
            );
            Failure::new(Status::NotJoined, text)
        };
        let place = Place::open(run_dir, lockspace).map_err(|e| absent(e.desc().into()))?;
        let stream = place.connect().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let text = format!("lease-join of lockspace {lockspace}: permission denied");
                Failure::new(Status::Permission, text)
            }
            _ => absent(error.to_string()),
        })?;
        let welcome = register(stream.try_clone().map(Wire::new), command, resources);
        let welcome = match welcome.map_err(|error| absent(error.to_string()))? {
            (Tell::Registered(welcome), wire) => (*welcome, wire),
            (Tell::Refused { why }, _) => {
                let text = format!("lease-join of lockspace {lockspace} refused: {why}");
                return Err(Failure::new(Status::Refused, text));
            }
            _ => return Err(absent("it does not speak as expected".into())),
        };
        welcome
            .1
            .stream()
            .set_read_timeout(None)
            .map_err(|e| absent(e.to_string()))?;
        let tenure = Arc::new(Tenure::new(welcome.0.timing, welcome.0.renewed));
        listen(welcome.1, number, events);
        Ok(Self {
            welcome: Arc::new(welcome.0),
            tenure,
            alive: true,
            wire: Wire::new(stream),
        })
    }

    /// Says something; if that cannot be, the connection is as good as ended.
    pub(crate) fn say(&mut self, ask: &Ask) {
        if self.alive && self.wire.send(ask).is_err() {
            self.alive = false;
        }
    }

    /// Says something with a descriptor beside it.
    pub(crate) fn say_with(&mut self, ask: &Ask, fd: BorrowedFd<'_>) {
        if self.alive && self.wire.send_with(ask, fd).is_err() {
            self.alive = false;
        }
    }

    /// The connection has ended: without lease-join nothing is renewed.
    pub(crate) fn ended(&mut self) {
        if self.alive {
            self.alive = false;
            let timing = self.tenure.timing();
            say(
                TOOL,
                format!(
                    "lease-join has ended; without a renewal the lease is lost {} s after the last",
                    timing.lost_after().as_secs()
                ),
            );
        }
    }
}

fn register(
    wire: io::Result<Wire>,
    command: String,
    resources: Vec<Asked>,
) -> io::Result<(Tell, Wire)> {
    let mut wire = wire?;
    wire.stream().set_read_timeout(Some(ANSWER_WITHIN))?;
    wire.send(&Ask::Register { command, resources })?;
    loop {
        if let Some(tell) = wire.take_message()? {
            return Ok((tell, wire));
        }
        if !wire.fill()? {
            return Err(io::Error::other("it closed the connection"));
        }
    }
}

/// Reads for as long as the connection lasts, on a thread of its own.
fn listen(mut wire: Wire, number: usize, events: Sender<Event>) {
    std::thread::spawn(move || {
        loop {
            match wire.take_message::<Tell>() {
                Ok(Some(tell)) => {
                    if events.send(Event::Told(number, tell)).is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    if !wire.fill().unwrap_or(false) {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        // Without a main thread there is nobody to tell.
        let _ = events.send(Event::Gone(number));
    });
}
