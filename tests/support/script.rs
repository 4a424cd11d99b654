//! A disk and a clock that do what a test says: what another host writes at which moment, which
//! I/O fails, which write lands late. And a log of every I/O.
#![allow(clippy::expect_used, clippy::panic)] // A test's helper fails the test by panicking.

use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::disk::{Disk, Fault};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// One I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Io {
    /// Byte of the disk.
    pub offset: u64,
    /// What is written; nothing for a read.
    pub written: Option<Vec<u8>>,
}

impl Io {
    /// Whether it writes the sector at `offset`.
    pub fn writes(&self, offset: u64) -> bool {
        self.written.is_some() && self.offset == offset
    }
}

/// What becomes of an I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It fails, and a write is not on the disk.
    Fails,
    /// It fails, but a write is on the disk.
    FailsWritten,
    /// No answer comes, until [`ScriptDisk::land`].
    Hangs,
}

type Rule = Box<dyn FnMut(&Io, &mut Vec<u8>) -> Fate>;

/// A disk in memory.
pub struct ScriptDisk {
    bytes: RefCell<Vec<u8>>,
    log: RefCell<Vec<Io>>,
    rule: RefCell<Rule>,
    hanging: RefCell<Option<Io>>,
}

impl ScriptDisk {
    /// With these bytes; every I/O is done.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RefCell::new(bytes),
            log: RefCell::default(),
            rule: RefCell::new(Box::new(|_, _| Fate::Done)),
            hanging: RefCell::default(),
        }
    }

    /// From now on `rule` is asked before each I/O, and may change what is on the disk.
    pub fn rule(&self, rule: impl FnMut(&Io, &mut Vec<u8>) -> Fate + 'static) {
        *self.rule.borrow_mut() = Box::new(rule);
    }

    /// The next write of the sector at `offset` has this fate, all else is done.
    pub fn next_write(&self, offset: u64, fate: Fate) {
        let mut fate = Some(fate);
        self.rule(move |io, _| match io.writes(offset) {
            true => fate.take().unwrap_or(Fate::Done),
            false => Fate::Done,
        });
    }

    /// What hangs comes to its end: a write lands.
    pub fn land(&self) {
        if let Some(io) = self.hanging.take() {
            self.put(&io);
        }
    }

    /// A copy of `len` bytes at `offset`.
    pub fn at(&self, offset: u64, len: usize) -> Vec<u8> {
        let start = usize::try_from(offset).expect("it fits");
        self.bytes.borrow()[start..start + len].to_vec()
    }

    /// Writes past the log, as another host would.
    pub fn put_at(&self, offset: u64, bytes: &[u8]) {
        put(&mut self.bytes.borrow_mut(), offset, bytes);
    }

    /// Every I/O since the last call.
    pub fn log(&self) -> Vec<Io> {
        self.log.take()
    }

    fn put(&self, io: &Io) {
        if let Some(written) = &io.written {
            self.put_at(io.offset, written);
        }
    }

    fn io(&self, io: Io) -> Result<(), Fault> {
        if self.hanging.borrow().is_some() {
            return Err(Fault::Outstanding);
        }
        self.log.borrow_mut().push(io.clone());
        let fate = (self.rule.borrow_mut())(&io, &mut self.bytes.borrow_mut());
        match fate {
            Fate::Done => {
                self.put(&io);
                Ok(())
            }
            Fate::Fails => Err(Fault::Failed("it failed".into())),
            Fate::FailsWritten => {
                self.put(&io);
                Err(Fault::Failed("it failed".into()))
            }
            Fate::Hangs => {
                *self.hanging.borrow_mut() = Some(io);
                Err(Fault::TimedOut(1))
            }
        }
    }
}

/// Writes into bytes of a disk.
pub fn put(bytes: &mut [u8], offset: u64, sector: &[u8]) {
    let start = usize::try_from(offset).expect("it fits");
    bytes[start..start + sector.len()].copy_from_slice(sector);
}

impl Disk for ScriptDisk {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let written = None;
        self.io(Io { offset, written })?;
        Ok(self.at(offset, len))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let written = Some(bytes.to_vec());
        self.io(Io { offset, written })
    }

    fn settle(&self) -> Result<(), Fault> {
        match *self.hanging.borrow() {
            Some(_) => Err(Fault::Outstanding),
            None => Ok(()),
        }
    }
}

/// The disk, with reads and writes that take their time.
pub struct SlowDisk<'a> {
    /// The disk.
    pub disk: &'a ScriptDisk,
    /// Whose time it takes.
    pub clock: &'a ScriptClock,
    /// How long a write takes until it is done, or fails.
    pub write: Duration,
    /// How long it takes until what was read is known.
    pub read: Duration,
}

impl<'a> SlowDisk<'a> {
    /// Its reads take no time.
    pub fn new(disk: &'a ScriptDisk, clock: &'a ScriptClock, write: Duration) -> Self {
        let read = Duration::ZERO;
        Self {
            disk,
            clock,
            write,
            read,
        }
    }
}

impl Disk for SlowDisk<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let bytes = self.disk.read(offset, len);
        self.clock.pass(self.read);
        bytes
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.clock.pass(self.write);
        self.disk.write(offset, bytes)
    }

    fn settle(&self) -> Result<(), Fault> {
        self.disk.settle()
    }
}

/// A disk that takes its time: a write that was begun is done when it is answered, also if it was
/// left.
pub struct Slow<'a> {
    disk: Rc<ScriptDisk>,
    /// How long its user, who has several, has waited.
    waited: &'a Cell<Duration>,
    /// How long each I/O takes.
    pub takes: Cell<Duration>,
    /// From which I/O on another time.
    later: Cell<(u32, Duration)>,
    begun: RefCell<Option<Begun>>,
    /// How many I/Os were begun.
    pub count: Cell<u32>,
}

/// What was begun.
struct Begun {
    due: Duration,
    read: Vec<u8>,
    /// What is still to be written, and where.
    write: Option<(u64, Vec<u8>)>,
    left: bool,
}

/// How long `Slow` waits at once.
const TICK: Duration = Duration::from_micros(100);

impl<'a> Slow<'a> {
    /// It takes a millisecond.
    pub fn new(disk: Rc<ScriptDisk>, waited: &'a Cell<Duration>) -> Self {
        Self {
            disk,
            waited,
            takes: Cell::new(Duration::from_millis(1)),
            later: Cell::new((u32::MAX, Duration::ZERO)),
            begun: RefCell::default(),
            count: Cell::new(0),
        }
    }

    /// From the I/O of this number on each takes as long.
    pub fn takes_from(&self, number: u32, takes: Duration) {
        self.later.set((number, takes));
    }

    /// What was begun and was not left stays: its answer is the next one's.
    fn begin(&self, read: Vec<u8>, write: Option<(u64, Vec<u8>)>) -> Result<(), Fault> {
        self.land();
        let (now, mut begun) = (self.waited.get(), self.begun.borrow_mut());
        match &*begun {
            Some(before) if !before.left => return Ok(()),
            Some(before) if before.due > now => return Err(Fault::Outstanding),
            _ => {}
        }
        let (from, later) = self.later.get();
        let takes = match self.count.get() >= from {
            true => later,
            false => self.takes.get(),
        };
        self.count.set(self.count.get() + 1);
        *begun = Some(Begun {
            due: now.saturating_add(takes),
            read,
            write,
            left: false,
        });
        Ok(())
    }

    /// What is due is done.
    fn land(&self) {
        if let Some(begun) = &mut *self.begun.borrow_mut()
            && begun.due <= self.waited.get()
            && let Some((offset, bytes)) = begun.write.take()
        {
            self.disk.put_at(offset, &bytes);
        }
    }

    fn end(&self) -> Vec<u8> {
        self.land();
        let begun = self.begun.take().expect("it was begun");
        assert!(!begun.left && begun.due <= self.waited.get(), "it waits");
        begun.read
    }
}

impl Disk for Slow<'_> {
    fn begin_read(&self, offset: u64, len: usize) -> Result<(), Fault> {
        self.begin(self.disk.at(offset, len), None)
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.begin(Vec::new(), Some((offset, bytes.to_vec())))
    }

    fn is_answered(&self) -> bool {
        let begun = self.begun.borrow();
        begun.as_ref().is_none_or(|it| it.due <= self.waited.get())
    }

    fn wait(&self, patience: Duration) -> Duration {
        let wait = patience.min(TICK);
        self.waited.set(self.waited.get() + wait);
        wait
    }

    fn leave(&self) {
        if let Some(begun) = &mut *self.begun.borrow_mut() {
            begun.left = true;
        }
    }

    fn read(&self, _: u64, _: usize) -> Result<Vec<u8>, Fault> {
        Ok(self.end())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Fault> {
        self.end();
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        self.land();
        let begun = self.begun.borrow();
        let over = |it: &Begun| it.left && it.due <= self.waited.get();
        match begun.as_ref().is_none_or(over) {
            true => Ok(()),
            false => Err(Fault::Outstanding),
        }
    }
}

/// A clock that stands still unless somebody waits.
#[derive(Debug, Default)]
pub struct ScriptClock(Cell<u64>);

impl ScriptClock {
    /// At this second.
    pub fn at(second: u64) -> Self {
        let clock = Self::default();
        clock.pass(Duration::from_secs(second));
        clock
    }

    /// Time passes.
    pub fn pass(&self, duration: Duration) {
        self.0.set(Moment(self.0.get()).after(duration).0);
    }
}

impl Clock for ScriptClock {
    fn now(&self) -> Moment {
        Moment(self.0.get())
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        self.pass(duration);
        Ok(())
    }

    fn back_off(&self, most: Duration) {
        self.pass(most / 2);
    }
}
