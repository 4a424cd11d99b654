//! How a simulated process reaches its world: every disk operation and every wait suspends its
//! coroutine with an [`Op`] and goes on with the [`Answer`] that the scheduler gives.

use super::clock::Face;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use lease_core::clock::{Clock, Interrupted, Moment};
use lease_core::disk::{Disk, Fault};
use std::cell::RefCell;
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
    /// Wait for what is outstanding on a handle.
    Settle { handle: Handle },
    /// Wait until the process's clock shows a moment.
    Wait { until: Moment },
    /// Wait for a random time.
    BackOff { most: Duration },
    /// Wait until there is a letter in a mailbox, or until the process's clock shows a moment.
    Listen { mailbox: usize, until: Moment },
    /// Write a file of the machine's own.
    Page,
}

/// An open file: which one of its process, and the disk it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Number within the process.
    pub file: usize,
    /// The disk.
    pub disk: usize,
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

/// One process's way to the world.
pub struct Port<'y> {
    yielder: &'y Yielder<Answer, Op>,
    face: Rc<Face>,
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
        match self.yielder.suspend(op) {
            Answer::Done => Ok(Vec::new()),
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::Fault(fault) => Err(fault),
        }
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
    handle: Handle,
}

impl File<'_> {
    /// Of the zeros at the end there may be one sector only.
    fn start_of(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        let handle = self.handle;
        self.port.ask(Op::Read {
            handle,
            offset,
            len,
        })
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
        let (handle, bytes) = (self.handle, bytes.into());
        let op = Op::Write {
            handle,
            offset,
            bytes,
        };
        self.port.ask(op).map(drop)
    }

    fn settle(&self) -> Result<(), Fault> {
        let handle = self.handle;
        self.port.ask(Op::Settle { handle }).map(drop)
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
    /// Starts a process and runs it up to its first operation.
    pub fn start(face: Rc<Face>, body: Body) -> Self {
        let its = Rc::clone(&face);
        let coroutine = Coroutine::with_stack(a_stack(), move |yielder, _| {
            let port = Port { yielder, face };
            body(&port);
        });
        let mut process = Self {
            face: its,
            coroutine: Some(coroutine),
            pending: None,
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
