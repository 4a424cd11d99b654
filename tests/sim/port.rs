//! How a simulated process reaches its world: every disk operation and every wait suspends its
//! coroutine with an [`Op`] and goes on with the [`Answer`] that the scheduler gives.

use super::clock::Face;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::disk::{Disk, Fault};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What a process asks for. `handle` is one open file of that process, on one disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    /// Read bytes.
    Read {
        handle: Handle,
        offset: u64,
        len: usize,
    },
    /// Write bytes.
    Write {
        handle: Handle,
        offset: u64,
        bytes: Rc<[u8]>,
    },
    /// Begin a read or a write, and go on.
    Begin(Box<Self>),
    /// Wait until one that was begun has been answered, or until the process's clock shows a
    /// moment.
    Await { until: Moment },
    /// Wait for what is outstanding on a handle, for as long as an I/O may take, or shorter.
    Settle {
        handle: Handle,
        patience: Option<Duration>,
    },
    /// Wait until the process's clock shows a moment.
    Wait { until: Moment },
    /// Wait for a random time.
    BackOff { most: Duration },
    /// Wait until there is a letter in a mailbox, or until the process's clock shows a moment.
    Listen { mailbox: usize, until: Moment },
    /// Write a file of the machine's own.
    Page,
}

impl Op {
    /// The read or write that it begins, or is.
    pub fn io(&self) -> &Self {
        match self {
            Self::Begin(io) => io,
            io => io,
        }
    }
}

/// An open file: which one of its process, and the disk it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Number within the process.
    pub file: usize,
    /// The disk.
    pub disk: usize,
    /// How long each I/O may take.
    pub limit: Duration,
}

/// How an [`Op`] ended.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Done: written, settled, waited.
    Done,
    /// What was read.
    Bytes(Vec<u8>),
    /// Not done, or not known to be.
    Fault(Fault),
}

/// What a process has begun on its files and has not asked for yet, by their numbers: which I/O of
/// its world, and its answer once that has come.
#[derive(Debug, Default)]
pub struct Begun(RefCell<BTreeMap<usize, (usize, Option<Answer>)>>);

impl Begun {
    /// It has begun this I/O.
    pub fn begin(&self, handle: Handle, io: usize) {
        self.0.borrow_mut().insert(handle.file, (io, None));
    }

    /// That has been answered; if it was left meanwhile, that is nobody's.
    pub fn answer(&self, handle: Handle, io: usize, answer: Answer) {
        if let Some((of, place)) = self.0.borrow_mut().get_mut(&handle.file)
            && *of == io
        {
            *place = Some(answer);
        }
    }

    fn waits(&self, handle: Handle) -> bool {
        let begun = self.0.borrow();
        begun
            .get(&handle.file)
            .is_some_and(|(_, answer)| answer.is_none())
    }

    fn has(&self, handle: Handle) -> bool {
        self.0.borrow().contains_key(&handle.file)
    }

    fn take(&self, handle: Handle) -> Option<Answer> {
        self.0.borrow_mut().remove(&handle.file)?.1
    }
}

impl From<Answer> for Result<Vec<u8>, Fault> {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done => Ok(Vec::new()),
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::Fault(fault) => Err(fault),
        }
    }
}

/// One process's way to the world.
pub struct Port<'y> {
    yielder: &'y Yielder<Answer, Op>,
    face: Rc<Face>,
    /// Unless the world takes one operation after another.
    begun: Option<Rc<Begun>>,
}

impl Port<'_> {
    /// The file `handle`.
    pub fn file(&self, handle: Handle) -> File<'_> {
        File { port: self, handle }
    }

    /// The process's clock.
    pub fn face(&self) -> Rc<Face> {
        Rc::clone(&self.face)
    }

    /// Waits for a letter, or until `until`.
    pub fn listen(&self, mailbox: usize, until: Moment) {
        self.yielder.suspend(Op::Listen { mailbox, until });
    }

    /// A file is about to be written: a moment in which everything may end.
    pub fn page(&self) {
        self.yielder.suspend(Op::Page);
    }

    fn ask(&self, op: Op) -> Result<Vec<u8>, Fault> {
        self.yielder.suspend(op).into()
    }
}

impl Clock for Port<'_> {
    fn now(&self) -> Moment {
        self.face.now()
    }

    fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        if !self.face.is_stopped() {
            let until = self.now().after(duration);
            self.yielder.suspend(Op::Wait { until });
        }
        if self.face.is_stopped() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    fn back_off(&self, most: Duration) {
        self.yielder.suspend(Op::BackOff { most });
    }
}

/// One open file of one process.
pub struct File<'p> {
    port: &'p Port<'p>,
    /// What it is.
    pub handle: Handle,
}

impl File<'_> {
    /// Of the zeros at the end there may be one sector only.
    fn start_of(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let handle = self.handle;
        self.end(Op::Read {
            handle,
            offset,
            len,
        })
    }

    fn write_of(&self, offset: u64, bytes: &[u8]) -> Op {
        let (handle, bytes) = (self.handle, bytes.into());
        Op::Write {
            handle,
            offset,
            bytes,
        }
    }

    fn begin(&self, io: Op) -> Result<(), Fault> {
        match self.port.begun {
            Some(_) => {
                self.leave();
                self.port.ask(Op::Begin(Box::new(io))).map(drop)
            }
            None => Ok(()),
        }
    }

    fn settled(&self, patience: Option<Duration>) -> Result<(), Fault> {
        self.leave();
        let handle = self.handle;
        self.port.ask(Op::Settle { handle, patience }).map(drop)
    }

    /// The answer to what was begun, or else to this.
    fn end(&self, io: Op) -> Result<Vec<u8>, Fault> {
        match &self.port.begun {
            Some(begun) if begun.has(self.handle) => {
                while begun.waits(self.handle) {
                    self.wait(Duration::MAX);
                }
                begun.take(self.handle).unwrap().into()
            }
            _ => self.port.ask(io),
        }
    }
}

impl Disk for File<'_> {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = self.start_of(offset, len)?;
        bytes.resize(len, 0);
        Ok(bytes)
    }

    fn inspect(&self, offset: u64, len: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        see(&self.start_of(offset, len)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.end(self.write_of(offset, bytes)).map(drop)
    }

    fn begin_read(&self, offset: u64, len: usize) -> Result<(), Fault> {
        let handle = self.handle;
        self.begin(Op::Read {
            handle,
            offset,
            len,
        })
    }

    fn begin_write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.begin(self.write_of(offset, bytes))
    }

    fn is_answered(&self) -> bool {
        let begun = self.port.begun.as_ref();
        !begun.is_some_and(|begun| begun.waits(self.handle))
    }

    fn wait(&self, patience: Duration) -> Duration {
        let since = self.port.now();
        let until = since.after(patience);
        self.port.yielder.suspend(Op::Await { until });
        self.port.now().since(since)
    }

    fn leave(&self) {
        if let Some(begun) = &self.port.begun {
            begun.take(self.handle);
        }
    }

    fn settle(&self) -> Result<(), Fault> {
        self.settled(None)
    }

    fn settle_within(&self, patience: Duration) -> Result<(), Fault> {
        self.settled(Some(patience))
    }
}

/// What a process does.
pub type Body = Box<dyn for<'p, 'y> FnOnce(&'p Port<'y>)>;

/// A process: a coroutine that stands still at its pending operation.
pub struct Process {
    /// Its clock.
    pub face: Rc<Face>,
    coroutine: Option<Coroutine<Answer, Op, (), DefaultStack>>,
    /// What it waits for; `None` once it has ended.
    pub pending: Option<Op>,
    /// What it has begun, where several operations can be under way.
    pub begun: Option<Rc<Begun>>,
}

thread_local! {
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

const STACK_BYTES: usize = 256 << 10;

fn a_stack() -> DefaultStack {
    let used = STACKS.with_borrow_mut(Vec::pop);
    used.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).unwrap())
}

impl Process {
    /// Starts a process whose operations come one after another, and runs it up to its first.
    pub fn start(face: Rc<Face>, body: Body) -> Self {
        Self::start_with(face, None, body)
    }

    /// Starts a process that asks several disks at the same time, and runs it up to its first
    /// operation.
    pub fn start_at_once(face: Rc<Face>, body: Body) -> Self {
        Self::start_with(face, Some(Rc::default()), body)
    }

    fn start_with(face: Rc<Face>, begun: Option<Rc<Begun>>, body: Body) -> Self {
        let (its, known) = (Rc::clone(&face), begun.clone());
        let coroutine = Coroutine::with_stack(a_stack(), move |yielder, _| {
            let port = Port {
                yielder,
                face,
                begun,
            };
            body(&port);
        });
        let mut process = Self {
            face: its,
            coroutine: Some(coroutine),
            pending: None,
            begun: known,
        };
        process.resume(Answer::Done);
        process
    }

    /// Gives the answer to the pending operation and runs on to the next one.
    pub fn resume(&mut self, answer: Answer) {
        let Some(mut coroutine) = self.coroutine.take() else {
            return;
        };
        match coroutine.resume(answer) {
            CoroutineResult::Yield(op) => {
                self.pending = Some(op);
                self.coroutine = Some(coroutine);
            }
            CoroutineResult::Return(()) => {
                self.pending = None;
                STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
            }
        }
    }

    /// Whether it has come to its end, or was killed.
    pub fn is_over(&self) -> bool {
        self.coroutine.is_none()
    }

    /// Ends it where it stands.
    pub fn kill(&mut self) {
        self.pending = None;
        if let Some(mut coroutine) = self.coroutine.take() {
            coroutine.force_unwind();
            STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
