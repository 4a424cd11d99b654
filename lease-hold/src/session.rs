//! The connection to the lease-join of one lockspace. When lease-join ends it is looked for again;
//! what was asked and not answered is asked again.

use crate::TOOL;
use crate::carrier::CarriedHost;
use crate::hub::{Event, Outbox};
use lease_core::clock::{BootClock, Clock};
use lease_core::delta::Tenure;
use lease_core::id::Name;
use lease_core::process::Process;
use lease_core::registry::message::{Ask, Asked, Left, Phase, Tell, Welcome};
use lease_core::registry::place::Place;
use lease_core::registry::wire::Wire;
use lease_core::tool::{Failure, Status, say, show};
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    events: Outbox,
    run_dir: PathBuf,
    own: Process,
    /// `None` while there is no lease-join.
    wire: Option<Wire>,
    /// It was asked to go on as before, and has not answered yet.
    resuming: bool,
    /// What is done with each resource.
    phases: Vec<Phase>,
    /// On which of them a write of ours may still land.
    late: Vec<bool>,
    /// Questions without an answer yet, and the descriptor that goes with one.
    unanswered: Vec<(Ask, Option<OwnedFd>)>,
}

impl Session {
    /// Registers what is wanted in one lockspace, as session `number`.
    pub(crate) fn open(
        run_dir: &Path,
        lockspace: &Name,
        command: String,
        resources: Vec<Asked>,
        (number, events): (usize, Outbox),
    ) -> Result<Self, Failure> {
        let absent = |why: String| {
            let shown = show(run_dir.as_os_str());
            let text = format!(
                "no live lease-join for lockspace {lockspace} in {shown}: {why}; \
                 start lease-join first"
            );
            Failure::new(Status::NotJoined, text)
        };
        // Not for long: another one can be there soon.
        let ending = |how: String| {
            let text = format!(
                "lease-join of lockspace {lockspace} {how}; start it again when it has ended"
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
            (Tell::Stop, _) => return Err(ending("is leaving".into())),
            (Tell::Lost { why }, _) => return Err(ending(format!("has lost the host id: {why}"))),
            _ => return Err(absent("it does not speak as expected".into())),
        };
        let tenure = Arc::new(Tenure::new(welcome.timing, welcome.renewed));
        Ok(Self {
            welcome: Arc::new(welcome),
            tenure,
            number,
            events,
            run_dir: run_dir.to_owned(),
            own,
            wire: Some(wire),
            resuming: false,
            phases,
            late,
            unanswered: Vec::new(),
        })
    }

    /// What a carrier of the last deadline has to know of it.
    pub(crate) fn carried(&self) -> CarriedHost {
        let timing = self.tenure.timing();
        CarriedHost {
            lockspace: self.welcome.lockspace,
            generation: self.welcome.generation,
            lapse: timing.lapse_after(),
            early: timing.lapse_after() - timing.lost_after(),
        }
    }

    /// Whether there is a lease-join.
    pub(crate) fn is_alive(&self) -> bool {
        self.wire.is_some()
    }

    /// Asks something that is answered, with a descriptor beside it.
    pub(crate) fn ask(&mut self, ask: Ask, fd: Option<OwnedFd>) {
        // What is not answered is asked once lease-join goes on as before.
        if !self.resuming {
            send(&mut self.wire, &ask, fd.as_ref());
        }
        self.unanswered.push((ask, fd));
    }

    /// No lease-join is asked again to guard what stands behind the gate: it has answered, or that
    /// is given up.
    pub(crate) fn withdraw_guard(&mut self) {
        self.answered(|ask| matches!(ask, Ask::Guard { .. }));
    }

    /// A resource is released without a lease-join: the next one gives no turn for it.
    pub(crate) fn releases_alone(&mut self, index: usize) {
        self.phases[index] = Phase::Releasing;
        self.answered(|ask| matches!(ask, Ask::Release { index: i } if *i == index));
    }

    /// Says that the command starts. `false`: it must not, for lease-join may not hear of that.
    pub(crate) fn start(&mut self) -> bool {
        let Some(wire) = self.wire.as_mut().filter(|_| !self.resuming) else {
            return false;
        };
        wire.send(&Ask::Start).is_ok() && !wire.is_behind()
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

    /// Says that all is gone; and to the next lease-join, if there is none, what was not released.
    pub(crate) fn gone(&mut self) {
        let Welcome {
            holder, generation, ..
        } = *self.welcome;
        let told = self.wire.as_mut().map(|wire| wire.send(&Ask::Gone));
        if !matches!(told, Some(Ok(())))
            && let Ok(place) = Place::open(&self.run_dir, &self.name())
        {
            // Without the mark the next lease-join cannot know.
            let _ = place.mark_gone(generation, holder, &self.left_behind());
        }
    }

    /// What the next lease-join has to bring to its end: also where a write may still land on what
    /// was released.
    fn left_behind(&self) -> Vec<Phase> {
        let of = |(phase, late): (&Phase, &bool)| match (phase, late) {
            (Phase::Idle, true) => Phase::Doubt,
            (phase, _) => *phase,
        };
        self.phases.iter().zip(&self.late).map(of).collect()
    }

    /// What tells of it.
    pub(crate) fn news(&self) -> Option<PollFd<'_>> {
        let wire = self.wire.as_ref()?;
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, wire.is_behind());
        Some(PollFd::new(wire.stream().as_fd(), flags))
    }

    /// Takes all that lease-join has said, and notes what it says of renewals.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        let Some(wire) = &mut self.wire else {
            return Vec::new();
        };
        let written = wire.flush().is_ok();
        let mut open = wire.drain().unwrap_or(false) && written;
        let mut said = Vec::new();
        loop {
            match wire.take_message() {
                Ok(Some(tell)) => said.push(tell),
                Ok(None) => break,
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        said.iter().for_each(|tell| self.heard(tell));
        if !open {
            self.ended();
        }
        let number = self.number;
        said.into_iter()
            .map(|tell| Event::Told(number, tell))
            .collect()
    }

    fn heard(&mut self, tell: &Tell) {
        match tell {
            Tell::Renewed { renewed } => self.tenure.note_renewal(*renewed),
            Tell::Resumed { renewed } => {
                self.tenure.note_renewal(*renewed);
                self.resumed();
            }
            Tell::Refused { why } => {
                let lockspace = self.name();
                say(
                    TOOL,
                    format!("lease-join of lockspace {lockspace} refused: {why}"),
                );
                self.tenure.note_loss();
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
            Tell::Go { .. } | Tell::NotGuarded { .. } => self.withdraw_guard(),
            Tell::Registered(_) | Tell::Described(_) | Tell::Stop => {}
        }
    }

    fn answered(&mut self, is_it: impl Fn(&Ask) -> bool) {
        self.unanswered.retain(|(ask, _)| !is_it(ask));
    }

    /// The connection has ended: without lease-join nothing is renewed. Looks for another one that
    /// goes on in its place, until there is one or it is too late.
    fn ended(&mut self) {
        let lockspace = self.name();
        self.wire = None;
        if !std::mem::take(&mut self.resuming) && !self.tenure.is_lost() {
            let seconds = self.tenure.timing().lost_after().as_secs();
            let text = format!(
                "lease-join of lockspace {lockspace} has ended; unless it is started again the \
                 lease is lost {seconds} s after the last renewal"
            );
            say(TOOL, text);
        }
        let (run_dir, tenure) = (self.run_dir.clone(), self.tenure.clone());
        let (number, events) = (self.number, self.events.clone());
        let look = move || {
            let clock = BootClock::default();
            // For some time in any case: whether it is too late may not be known yet.
            let until = clock.now().after(tenure.timing().lost_after());
            while !tenure.is_lost() && clock.now() < until.max(tenure.deadline()) {
                std::thread::sleep(LOOK_AGAIN);
                let place = Place::open(&run_dir, &lockspace).ok();
                if let Some(stream) = place.and_then(|place| place.connect().ok()) {
                    // Without a main thread there is nobody to tell.
                    let _ = events.send(Event::Found(number, stream));
                    return;
                }
            }
        };
        // Without the thread it is as if none could be found.
        let _ = std::thread::Builder::new().spawn(look);
    }

    /// A lease-join is there again: asks it to go on as before.
    pub(crate) fn resume(&mut self, stream: UnixStream) {
        let Welcome {
            holder, generation, ..
        } = *self.welcome;
        // A question that was not answered was not acted on by us.
        let ask = Ask::Resume {
            holder,
            generation,
            phases: self.phases.clone(),
            late: self.late.clone(),
        };
        let mut wire = Wire::new(stream);
        let asked = wire
            .stream()
            .set_nonblocking(true)
            .and_then(|()| wire.send_with(&ask, self.own.as_fd()));
        self.resuming = true;
        match asked {
            Ok(()) => self.wire = Some(wire),
            Err(_) => self.ended(),
        }
    }

    /// It does: asks again what the other did not answer.
    fn resumed(&mut self) {
        let lockspace = self.name();
        say(TOOL, format!("lease-join of lockspace {lockspace} is back"));
        self.resuming = false;
        for (ask, fd) in &self.unanswered {
            send(&mut self.wire, ask, fd.as_ref());
        }
    }

    fn name(&self) -> Name {
        self.welcome.lockspace
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
    wire.stream().set_nonblocking(true)?;
    Ok((tell, wire))
}
