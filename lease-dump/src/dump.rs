//! The work: open, read, show; what fails is said and remembered for the exit code.

use crate::live::Watched;
use crate::object::{Object, View, describe};
use crate::operand::{self, At, Expected, Target};
use crate::output::Output;
use lease_core::clock::{BootClock, Clock};
use lease_core::device::Device;
use lease_core::disk::Fault;
use lease_core::index;
use lease_core::storage::{Access, Volume};
use lease_core::survey::{self, Area, Content, Probe};
use lease_core::timing::DEFAULT_IO_TIMEOUT;
use lease_core::tool::{self, Failure, Status, show};
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;

/// The name that messages start with.
pub(crate) const TOOL: &str = "lease-dump";

/// How long one I/O may take: as for a host with the usual io_timeout.
const IO_LIMIT: Duration = Duration::from_secs(DEFAULT_IO_TIMEOUT as u64);
/// The smallest unit of direct I/O.
const SECTOR_MIN: u64 = 512;

/// A dump under way.
pub(crate) struct Dump {
    all: bool,
    live: bool,
    out: Output,
    /// With --live nothing is printed before the second look.
    pending: Vec<Pending>,
    /// The first thing that went wrong.
    wrong: Option<Status>,
}

/// An area that was looked at once.
struct Pending {
    device: Rc<Device>,
    expected: Expected,
    what: Looked,
}

enum Looked {
    /// It is shown as it was.
    Once(Box<Object>),
    /// A lockspace, which is looked at again.
    Lockspace(Watched),
}

impl Dump {
    pub(crate) fn new(all: bool, live: bool) -> Self {
        Self {
            all,
            live,
            out: Output::new(),
            pending: Vec::new(),
            wrong: None,
        }
    }

    /// Everything that an operand speaks of. Fails only if nothing more can be printed.
    pub(crate) fn operand(&mut self, text: &OsString) -> Result<(), Failure> {
        let targets = match operand::parse(text) {
            Ok(targets) => targets,
            Err(error) => {
                self.note(&cannot(Status::Usage, &show(text), error));
                return Ok(());
            }
        };
        for target in targets {
            match self.target(&target) {
                Err(Stop::Output(failure)) => return Err(failure),
                Err(Stop::Target(failure)) => self.note(&failure),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// The second look, if there is to be one, and the exit code.
    pub(crate) fn finish(mut self) -> Result<Status, Failure> {
        let periods = self
            .pending
            .iter()
            .filter_map(|pending| match &pending.what {
                Looked::Lockspace(watched) => watched.period(),
                Looked::Once(_) => None,
            });
        if let Some(period) = periods.max() {
            let interrupted = |_| Failure::new(Status::Internal, "interrupted");
            BootClock::default().wait(period).map_err(interrupted)?;
        }
        for pending in std::mem::take(&mut self.pending) {
            self.show_pending(pending)?;
        }
        self.out.finish()?;
        Ok(self.wrong.unwrap_or(Status::Done))
    }

    fn target(&mut self, target: &Target) -> Result<(), Stop> {
        let path = show(target.path.as_os_str());
        let device = Device::open(&target.path, Access::Read, IO_LIMIT).map_err(|error| {
            match &target.place {
                At::Named(spec) => {
                    let tried = format!("cannot dump {spec}");
                    Failure::of_open_by_name(tried, &target.path, &error)
                }
                _ => {
                    let status = Status::of_open(&error);
                    let hint = match status {
                        Status::NoPath => "; is the path right, and its disk there?",
                        _ => "",
                    };
                    cannot(status, &path, format!("{error}{hint}"))
                }
            }
        })?;
        let device = Rc::new(device);
        let offset = match &target.place {
            At::Everywhere => return self.scan(&device, target.expected),
            At::Offset(offset) => *offset,
            At::Named(spec) => {
                let found =
                    index::locate(device.as_ref(), device.size(), spec.lockspace, spec.name);
                let tried = format!("cannot dump {spec}");
                found.map_err(|error| error.failure(tried))?
            }
        };
        let area = read_one(&device, offset)?;
        self.area(&device, target.expected, &area)
    }

    /// Every area of a file or device.
    fn scan(&mut self, device: &Rc<Device>, expected: Expected) -> Result<(), Stop> {
        let (path, size) = (show(device.path().as_os_str()), device.size());
        let mut from = 0;
        let next = |from| survey::next_area(device.as_ref(), from, size);
        while let Some(area) = next(from).map_err(|fault| unreadable(&path, &fault))? {
            from = area.end();
            self.area(device, expected, &area)?;
        }
        if from == 0 {
            let why = format!(
                "no lockspace or resource is to be found in its {size} bytes; lease-init formats one"
            );
            return Err(cannot(Status::Invalid, &path, why).numbered(-223).into());
        }
        Ok(())
    }

    /// One area: shown now, or after the second look.
    fn area(&mut self, device: &Rc<Device>, expected: Expected, area: &Area) -> Result<(), Stop> {
        let what = match &area.content {
            Content::Lockspace(hosts) if self.live => {
                let read_ended = BootClock::boot_time();
                Looked::Lockspace(Watched::new(area.offset, hosts, read_ended))
            }
            _ => {
                let (all, states) = (self.all, None);
                let object = object(device, expected, area, View { all, states });
                Looked::Once(Box::new(object))
            }
        };
        let device = Rc::clone(device);
        let pending = Pending {
            device,
            expected,
            what,
        };
        if self.live {
            self.pending.push(pending);
            return Ok(());
        }
        self.show_pending(pending).map_err(Stop::Output)
    }

    fn show_pending(&mut self, pending: Pending) -> Result<(), Failure> {
        let Pending {
            device,
            expected,
            what,
        } = pending;
        let mut watched = match what {
            Looked::Once(object) => return self.show(&object),
            Looked::Lockspace(watched) => watched,
        };
        let path = show(device.path().as_os_str());
        match watched.again(&device) {
            Ok(Some((area, read_began))) => {
                let state = |host, record: &_| watched.state(host, record, read_began);
                let (all, states) = (self.all, Some(&state as _));
                self.show(&object(&device, expected, &area, View { all, states }))
            }
            Ok(None) => {
                let why = "a lockspace was gone at the second look";
                self.note(&cannot(Status::Invalid, &path, why));
                Ok(())
            }
            Err(fault) => {
                self.note(&unreadable(&path, &fault));
                Ok(())
            }
        }
    }

    fn show(&mut self, object: &Object) -> Result<(), Failure> {
        // A pipe loses the exit code, and whoever looks at the owner may not look at the errors.
        if let Some(text) = object.damage() {
            tool::say(TOOL, text);
            self.wrong.get_or_insert(Status::Invalid);
        }
        self.out.print(object)
    }

    fn note(&mut self, failure: &Failure) {
        tool::say(TOOL, failure);
        self.wrong.get_or_insert(failure.status);
    }
}

/// Why a target was not shown.
enum Stop {
    /// It cannot be read; others can.
    Target(Failure),
    /// Nothing can be printed any more.
    Output(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Target(failure)
    }
}

/// The area at an offset that was given: there must be one.
fn read_one(device: &Device, offset: u64) -> Result<Area, Failure> {
    let place = format!("{}:{offset}", show(device.path().as_os_str()));
    if !offset.is_multiple_of(SECTOR_MIN) {
        let why = format!("the offset is not a multiple of {SECTOR_MIN}");
        return Err(cannot(Status::Usage, &place, why));
    }
    let size = device.size();
    if offset >= size {
        let why = format!("it ends at byte {size}; is the offset right?");
        return Err(cannot(Status::Invalid, &place, why).numbered(-223));
    }
    // What stands in the middle of one area may look like another.
    let around = survey::enclosing_area(device, offset, size);
    if let Some(around) = around.map_err(|fault| unreadable(&place, &fault))? {
        let around = describe(&around, device.path());
        let why = format!("that is in the middle of {around}; is the offset right?");
        return Err(cannot(Status::Invalid, &place, why).numbered(-223));
    }
    let found = survey::read_area(device, offset, size);
    if let Some(area) = found.map_err(|fault| unreadable(&place, &fault))? {
        return Ok(area);
    }
    let why = match survey::probe(device, offset) {
        Ok(Probe::Empty) => {
            "there are zeros: it was never formatted; lease-init does that".to_owned()
        }
        Ok(Probe::Unknown(error)) => format!("{error}{}", error.what_next()),
        _ => "there is no lockspace or resource; without an offset all are shown".to_owned(),
    };
    Err(cannot(Status::Invalid, &place, why).numbered(-223))
}

fn object(device: &Device, expected: Expected, area: &Area, view: View<'_>) -> Object {
    let mut object = Object::new(device.path(), area, view);
    if let Some(error) = expected.mismatch(area) {
        object.mistaken(error);
    }
    object
}

fn cannot(status: Status, what: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(status, format!("cannot dump {what}: {why}"))
}

fn unreadable(what: &str, fault: &Fault) -> Failure {
    Failure::of_fault(format!("cannot dump {what}"), fault)
}
