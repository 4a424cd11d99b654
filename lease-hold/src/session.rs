//! The connection to the lease-join of one lockspace. When lease-join ends it is looked for again;
//! what was asked and not answered is asked again.

use crate::TOOL;
use crate::hub::Event;
use lease_core::clock::{BootClock, Clock};
use lease_core::delta::Tenure;
use lease_core::id::Name;
use lease_core::process::Process;
use lease_core::registry::message::{Ask, Asked, Left, Phase, Tell, Welcome};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status, say, show};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// How long lease-join may take for its first answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks for a lease-join that has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A registration with one lease-join.
pub(crate) struct Session {
    /// What it said.
    pub(crate) welcome: Arc<Welcome>,
    /// What is known of its renewals.
    pub(crate) tenure: Arc<Tenure>,
    number: usize,
    events: Sender<Event>,
    run_dir: PathBuf,
    own: Process,
    /// `None` while there is no lease-join.
    wire: Option<Wire>,
    /// What is done with each resource.
    phases: Vec<Phase>,
    /// On which of them a write of ours may still land.
    late: Vec<bool>,
    /// Questions without an answer yet, and the descriptor that goes with one.
    unanswered: Vec<(Ask, Option<OwnedFd>)>,
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
        let forbidden = || {
            let text = format!("lease-join of lockspace {lockspace}: permission denied");
            Failure::new(Status::Permission, text)
        };
        let own = Process::own()
            .ok_or_else(|| Failure::new(Status::System, "cannot open a pidfd of our own"))?;
        let place = Place::open(run_dir, lockspace).map_err(|errno| match errno {
            nix::errno::Errno::EACCES => forbidden(),
            errno => absent(errno.desc().into()),
        })?;
        let stream = place.connect().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => forbidden(),
            _ => absent(error.to_string()),
        })?;
        let phases = vec![Phase::Idle; resources.len()];
        let late = vec![false; resources.len()];
        let ask = Ask::Register { command, resources };
        let greeted = greet(stream, &ask, &own).map_err(|error| absent(error.to_string()))?;
        let (welcome, wire) = match greeted {
            (Tell::Registered(welcome), wire) => (*welcome, wire),
            (Tell::Refused { why }, _) => {
                let text = format!("lease-join of lockspace {lockspace} refused: {why}");
                return Err(Failure::new(Status::Refused, text));
            }
            _ => return Err(absent("it does not speak as expected".into())),
        };
        let tenure = Arc::new(Tenure::new(welcome.timing, welcome.renewed));
        let mut session = Self {
            welcome: Arc::new(welcome),
            tenure,
            number,
            events,
            run_dir: run_dir.to_owned(),
            own,
            wire: None,
            phases,
            late,
            unanswered: Vec::new(),
        };
        session
            .listen(wire)
            .map_err(|error| absent(error.to_string()))?;
        Ok(session)
    }

    /// Whether there is a lease-join.
    pub(crate) fn is_alive(&self) -> bool {
        self.wire.is_some()
    }

    /// Asks something that is answered, with a descriptor beside it.
    pub(crate) fn ask(&mut self, ask: Ask, fd: Option<OwnedFd>) {
        send(&mut self.wire, &ask, fd.as_ref());
        self.unanswered.push((ask, fd));
    }

    /// Says how an acquire went.
    pub(crate) fn acquired(
        &mut self,
        index: usize,
        lver: Option<lease_core::id::Lver>,
        left: Left,
    ) {
        let without = if left.doubt {
            Phase::Doubt
        } else {
            Phase::Idle
        };
        self.phases[index] = lver.map_or(without, Phase::Held);
        self.late[index] |= left.late;
        send(&mut self.wire, &Ask::Acquired { index, lver, left }, None);
    }

    /// Says how a release went.
    pub(crate) fn released(&mut self, index: usize, left: Left) {
        self.phases[index] = if left.doubt {
            Phase::Doubt
        } else {
            Phase::Idle
        };
        self.late[index] |= left.late;
        send(&mut self.wire, &Ask::Released { index, left }, None);
    }

    /// Says that all is gone, and nothing held any more; to the next lease-join if there is none.
    pub(crate) fn gone(&mut self) {
        let Welcome {
            holder, generation, ..
        } = *self.welcome;
        send(&mut self.wire, &Ask::Gone, None);
        if self.wire.is_none()
            && let Ok(place) = Place::open(&self.run_dir, &self.name())
        {
            // Without the mark the next lease-join cannot know.
            let _ = place.mark_gone(generation, holder);
        }
    }

    /// Takes note of what lease-join said.
    pub(crate) fn heard(&mut self, tell: &Tell) {
        match tell {
            Tell::Renewed { renewed } | Tell::Resumed { renewed } => {
                self.tenure.note_renewal(*renewed);
            }
            Tell::Lost { .. } => self.tenure.note_loss(),
            Tell::Turn { index, .. } => {
                self.phases[*index] = Phase::Acquiring;
                self.answered(|ask| matches!(ask, Ask::Acquire { index: i } if i == index));
            }
            Tell::Busy { index, .. } => {
                self.answered(|ask| matches!(ask, Ask::Acquire { index: i } if i == index));
            }
            Tell::ReleaseTurn { index, last } => {
                self.phases[*index] = if *last { Phase::Releasing } else { Phase::Idle };
                self.answered(|ask| matches!(ask, Ask::Release { index: i } if i == index));
            }
            Tell::Go { .. } => self.answered(|ask| matches!(ask, Ask::Guard { .. })),
            Tell::Registered(_) | Tell::Described(_) | Tell::Refused { .. } | Tell::Stop => {}
        }
    }

    fn answered(&mut self, is_it: impl Fn(&Ask) -> bool) {
        self.unanswered.retain(|(ask, _)| !is_it(ask));
    }

    /// The connection has ended: without lease-join nothing is renewed. Looks for another one that
    /// goes on in its place, until there is one or it is too late.
    pub(crate) fn ended(&mut self) {
        let lockspace = self.name();
        if self.wire.take().is_some() {
            let seconds = self.tenure.timing().lost_after().as_secs();
            let text = format!(
                "lease-join of lockspace {lockspace} has ended; unless it is started again the \
                 lease is lost {seconds} s after the last renewal"
            );
            say(TOOL, text);
        }
        let (run_dir, tenure) = (self.run_dir.clone(), self.tenure.clone());
        let (number, events) = (self.number, self.events.clone());
        std::thread::spawn(move || {
            let clock = BootClock::default();
            while tenure.holds(clock.now()) {
                std::thread::sleep(LOOK_AGAIN);
                let place = Place::open(&run_dir, &lockspace).ok();
                if let Some(stream) = place.and_then(|place| place.connect().ok()) {
                    // Without a main thread there is nobody to tell.
                    let _ = events.send(Event::Found(number, stream));
                    return;
                }
            }
        });
    }

    /// A lease-join is there again: registers with it as before, and asks again what the other
    /// did not answer.
    pub(crate) fn resume(&mut self, stream: UnixStream) {
        // A question that was not answered was not acted on by us.
        let Welcome {
            holder, generation, ..
        } = *self.welcome;
        let ask = Ask::Resume {
            holder,
            generation,
            phases: self.phases.clone(),
            late: self.late.clone(),
        };
        match greet(stream, &ask, &self.own) {
            Ok((tell @ Tell::Resumed { .. }, wire)) => {
                self.heard(&tell);
                if self.listen(wire).is_ok() {
                    say(
                        TOOL,
                        format!("lease-join of lockspace {} is back", self.name()),
                    );
                    for (ask, fd) in &self.unanswered {
                        send(&mut self.wire, ask, fd.as_ref());
                    }
                }
            }
            Ok((Tell::Refused { why }, _)) => {
                say(
                    TOOL,
                    format!("lease-join of lockspace {} refused: {why}", self.name()),
                );
                self.tenure.note_loss();
            }
            _ => self.ended(),
        }
    }

    fn name(&self) -> Name {
        self.welcome.lockspace
    }

    /// Reads for as long as the connection lasts, on a thread of its own.
    fn listen(&mut self, mut wire: Wire) -> io::Result<()> {
        self.wire = Some(Wire::new(wire.stream().try_clone()?));
        let (number, events) = (self.number, self.events.clone());
        std::thread::spawn(move || {
            // Without a main thread there is nobody to tell.
            while let Ok(tell) = wire.receive::<Tell>() {
                if events.send(Event::Told(number, tell)).is_err() {
                    return;
                }
            }
            let _ = events.send(Event::Gone(number));
        });
        Ok(())
    }
}

/// Sends, if there is a lease-join. If that cannot be, the end of the connection is about to be
/// heard.
fn send(wire: &mut Option<Wire>, ask: &Ask, fd: Option<&OwnedFd>) {
    let Some(wire) = wire else { return };
    let _ = match fd {
        Some(fd) => wire.send_with(ask, fd.as_fd()),
        None => wire.send(ask),
    };
}

/// Says the first thing on a connection, and hears the answer.
fn greet(stream: UnixStream, ask: &Ask, own: &Process) -> io::Result<(Tell, Wire)> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut wire = Wire::new(stream);
    wire.send_with(ask, own.as_fd())?;
    // A renewal may come in between.
    let tell = loop {
        match wire.receive()? {
            Tell::Renewed { .. } => {}
            tell => break tell,
        }
    };
    wire.stream().set_read_timeout(None)?;
    Ok((tell, wire))
}
