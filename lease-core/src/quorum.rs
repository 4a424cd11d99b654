//! Writes and reads on a majority of the disks that a resource lies on.
//!
//! Disk Paxos (Gafni and Lamport, section 3.1) ends a phase when, for a majority of disks, the
//! host has written its block *and then* read all others' **on that same disk**. So a read is asked
//! of the disks that took the write, and only those count. Two majorities share a disk: of two
//! hosts in a phase at once, one sees the other there.
//!
//! All disks are asked at the same time. Once a majority has answered, the others have about as
//! long again; then all goes on without them. What was asked of them is outstanding, as what has
//! timed out is: a write may still land, at any later moment.
//!
//! A disk with an outstanding I/O takes no other, and so stays out of every majority until that
//! has come back. Its answer is thrown away: it is one to an earlier question.

use crate::disk::{Disk, Fault, read_as};
use crate::layout::Geometry;
use std::time::Duration;

/// The least that the other disks have once a majority has answered: they are about as fast, and
/// one that is left out is to be caught up with later.
const GRACE: Duration = Duration::from_millis(1);

/// One disk and the byte at which the resource's area starts on it.
#[derive(Clone, Copy)]
pub struct Replica<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// Bytes from its start.
    pub offset: u64,
}

/// All the disks of one resource.
pub struct Quorum<'a> {
    replicas: Vec<Replica<'a>>,
}

/// The disks on which something succeeded: at least a majority, with what each returned.
pub type Votes<T> = Vec<(usize, T)>;

impl<'a> Quorum<'a> {
    /// Of 1..=4 replicas.
    pub fn new(replicas: Vec<Replica<'a>>) -> Self {
        Self { replicas }
    }

    /// How many disks there are.
    pub fn disks(&self) -> usize {
        self.replicas.len()
    }

    /// How many disks decide.
    pub fn majority(&self) -> usize {
        self.replicas.len() / 2 + 1
    }

    /// Writes `bytes` at byte `at` of the area on every disk. On failure some disks may have it.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<Votes<()>, Fault> {
        let begin = |replica: &Replica<'_>| {
            let offset = replica.offset + at as u64;
            replica.disk.begin_write(offset, bytes)
        };
        self.collect(0..self.replicas.len(), begin, |replica| {
            replica.disk.write(replica.offset + at as u64, bytes)
        })
    }

    /// Reads `len` bytes at byte `at` of the area from every disk; `check` turns them into what
    /// counts. A disk whose bytes do not check is out of this majority; if that leaves too few, the
    /// first such error is returned.
    pub fn read<T, E: From<Fault>>(
        &self,
        at: usize,
        len: usize,
        check: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Result<Votes<T>, E> {
        self.read_on(0..self.replicas.len(), at, len, check)
    }

    /// [`Quorum::read`] on the disks that took a write.
    pub fn read_after<T, E: From<Fault>>(
        &self,
        written: &Votes<()>,
        at: usize,
        len: usize,
        check: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Result<Votes<T>, E> {
        self.read_on(written.iter().map(|(index, ())| *index), at, len, check)
    }

    /// Waits until no disk has an outstanding I/O.
    pub fn settle(&self) -> Result<(), Fault> {
        self.replicas
            .iter()
            .try_for_each(|replica| replica.disk.settle())
    }

    fn read_on<T, E: From<Fault>>(
        &self,
        indices: impl Iterator<Item = usize>,
        at: usize,
        len: usize,
        check: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Result<Votes<T>, E> {
        let begin =
            |replica: &Replica<'_>| replica.disk.begin_read(replica.offset + at as u64, len);
        self.collect(indices, begin, |replica| {
            read_as(replica.disk, replica.offset + at as u64, len, &check)?
        })
    }

    /// Asks these disks, and takes their answers in the order in which they come.
    fn collect<T, E: From<Fault>>(
        &self,
        indices: impl Iterator<Item = usize>,
        begin: impl Fn(&Replica<'_>) -> Result<(), Fault>,
        io: impl Fn(&Replica<'_>) -> Result<T, E>,
    ) -> Result<Votes<T>, E> {
        let mut votes = Vec::with_capacity(self.replicas.len());
        let mut errors: Vec<(usize, E)> = Vec::new();
        let mut open = Vec::with_capacity(self.replicas.len());
        for index in indices {
            match self.replicas.len() {
                1 => open.push(index),
                _ => match begin(&self.replicas[index]) {
                    Ok(()) => open.push(index),
                    Err(fault) => errors.push((index, fault.into())),
                },
            }
        }
        let (mut waited, mut enough_at) = (Duration::ZERO, None);
        loop {
            open.retain(|index| {
                let replica = &self.replicas[*index];
                let answered = replica.disk.is_answered();
                if answered {
                    match io(replica) {
                        Ok(value) => votes.push((*index, value)),
                        Err(error) => errors.push((*index, error)),
                    }
                }
                !answered
            });
            let patience = match votes.len() < self.majority() {
                true => Duration::MAX,
                false => grace(*enough_at.get_or_insert(waited), waited),
            };
            match open.first() {
                Some(index) if !patience.is_zero() => {
                    waited += self.replicas[*index].disk.wait(patience);
                }
                _ => break,
            }
        }
        for index in open {
            self.replicas[index].disk.leave();
        }
        if votes.len() < self.majority()
            // Too few without any error cannot be: they are at least a majority.
            && let Some((_, error)) = errors.into_iter().min_by_key(|(index, _)| *index)
        {
            return Err(error);
        }
        votes.sort_by_key(|(index, _)| *index);
        Ok(votes)
    }
}

/// What is left, after `waited`, of the time that the others have once a majority has answered
/// after `enough`.
fn grace(enough: Duration, waited: Duration) -> Duration {
    (enough + enough.max(GRACE)).saturating_sub(waited)
}

/// The sector that starts at byte `at` of an area.
pub fn sector(bytes: &[u8], geometry: Geometry, at: usize) -> &[u8] {
    &bytes[at..at + geometry.sector_bytes()]
}
