//! One disk of Disk Paxos in memory: the blocks of all hosts, and a log of what is done to them.
#![allow(clippy::unwrap_used)] // A test's helper fails the test by panicking.

use crate::storage::host_id;
use lease_core::disk::{Disk, Fault};
use lease_core::layout::{Geometry, SectorSize};
use lease_core::record::ballot::BallotSector;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Hosts that have a block on it.
pub const HOSTS: u64 = 3;
/// Of the area that it holds.
pub const GEOMETRY: Geometry = Geometry::ALL[0];

/// What is done to a disk's bytes just before its nth read.
type Meddling = Box<dyn FnMut(usize, &mut Vec<u8>)>;

/// A disk in memory that keeps a log, can fail, and can be meddled with.
pub struct Shelf {
    name: char,
    /// All that is on it.
    pub bytes: RefCell<Vec<u8>>,
    log: Rc<RefCell<String>>,
    reads: Cell<usize>,
    fails: Cell<(bool, bool)>,
    meddling: RefCell<Option<Meddling>>,
}

impl Shelf {
    /// Empty. All shelves of a test write to one log.
    pub fn new(name: char, log: &Rc<RefCell<String>>) -> Self {
        Self {
            name,
            bytes: RefCell::new(vec![0; GEOMETRY.ballots_len(HOSTS)]),
            log: Rc::clone(log),
            reads: Cell::new(0),
            fails: Cell::new((false, false)),
            meddling: RefCell::default(),
        }
    }

    /// From now on writes, or reads, fail.
    pub fn fail(&self, writes: bool, reads: bool) {
        self.fails.set((writes, reads));
    }

    /// From now on this happens just before each read; it is told how many there were.
    pub fn meddle(&self, meddling: impl FnMut(usize, &mut Vec<u8>) + 'static) {
        *self.meddling.borrow_mut() = Some(Box::new(meddling));
    }

    /// A host's block.
    pub fn block(&self, host: u64) -> BallotSector {
        BallotSector::decode(&self.bytes.borrow()[at(host)..][..512]).unwrap()
    }

    /// Puts a host's block there, past the log.
    pub fn put(&self, host: u64, block: &BallotSector) {
        put(&mut self.bytes.borrow_mut(), host, block);
    }

    fn note(&self, what: char) {
        self.log.borrow_mut().extend([what, self.name, ' ']);
    }
}

/// Where a host's block is.
pub fn at(host: u64) -> usize {
    GEOMETRY.ballot_at(host_id(host))
}

/// Puts a host's block among these bytes.
pub fn put(bytes: &mut [u8], host: u64, block: &BallotSector) {
    bytes[at(host)..][..512].copy_from_slice(&block.to_sector(SectorSize::B512));
}

impl Disk for Shelf {
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
        self.note('r');
        let nth = self.reads.replace(self.reads.get() + 1);
        if let Some(meddling) = self.meddling.borrow_mut().as_mut() {
            meddling(nth, &mut self.bytes.borrow_mut());
        }
        match self.fails.get() {
            (_, true) => Err(Fault::Failed("read".into())),
            _ => Ok(self.bytes.borrow()[offset as usize..][..len].to_vec()),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.note('w');
        if self.fails.get().0 {
            return Err(Fault::Failed("write".into()));
        }
        self.bytes.borrow_mut()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn settle(&self) -> Result<(), Fault> {
        Ok(())
    }
}
