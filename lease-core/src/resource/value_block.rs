//! The value block: one sector of a resource that is its users' own. Whoever holds the lease reads
//! it; whoever holds it exclusively writes it before the release, so that the next holder finds it.
//!
//! The block has no version. On several disks it is written to a majority, so what was written last
//! stands on a majority, unless that write was broken off. The first to hold the lease afterwards
//! brings the disks together, before anything is written again.

use super::{AcquireError, Held, Member, Resource};
use crate::disk::Fault;
use crate::spec::Mode;
use std::collections::BTreeMap;

/// How often the disks are read, before it is given up that those which can be read tell which
/// block is the newest.
const READS_MAX: u32 = 3;

impl Resource<'_> {
    /// The value block of a lease that we hold. If we hold it exclusively, all disks that can be
    /// written have it from then on.
    pub fn read_value_block(
        &self,
        member: &Member<'_>,
        held: &Held,
    ) -> Result<Vec<u8>, AcquireError> {
        for _ in 0..READS_MAX {
            let blocks = self.value_blocks()?;
            let Some(newest) = newest(self.quorum.disks(), self.quorum.majority(), &blocks) else {
                // A disk that is only slower than the others has answered by then.
                match self.quorum.settle() {
                    Ok(()) => continue,
                    Err(_) => break,
                }
            };
            let differ = blocks.iter().any(|block| *block != newest);
            if differ && held.mode == Mode::Exclusive {
                self.write_value_block(member, &newest)?;
            }
            return Ok(newest);
        }
        Err(AcquireError::ValueBlocksDiffer)
    }

    /// Writes the value block of a lease that we hold exclusively: as many bytes as a sector has.
    /// After a failure it may come to be there later, over what anyone has written since: nobody
    /// else is to have the lease before it cannot.
    pub fn write_value_block(&self, member: &Member<'_>, block: &[u8]) -> Result<(), AcquireError> {
        let at = self.value_block_at()?;
        self.write(member, at, block)
    }

    fn value_blocks(&self) -> Result<Vec<Vec<u8>>, AcquireError> {
        let (at, len) = (self.value_block_at()?, self.geometry.sector_bytes());
        let check = |bytes: &[u8]| Ok::<_, AcquireError>(bytes.to_vec());
        let votes = self.quorum.read(at, len, check)?;
        Ok(votes.into_iter().map(|(_, block)| block).collect())
    }

    fn value_block_at(&self) -> Result<usize, AcquireError> {
        let none = || Fault::Unfit("its areas have no room for a value block".to_owned());
        let at = self.geometry.value_block_at();
        at.ok_or_else(|| AcquireError::Disk(none()))
    }
}

/// Of the blocks that were read, in the order of the disks, the one that was written last. `None`:
/// they do not tell.
///
/// What a majority has, or may have, was written last. If no block can be on a majority, the last
/// write was broken off: then what most have is that block or the one before, and either will do;
/// if no block is on more disks than another, that is so only where all are these two.
fn newest(disks: usize, majority: usize, blocks: &[Vec<u8>]) -> Option<Vec<u8>> {
    let unread = disks - blocks.len();
    let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
    for block in blocks {
        *counts.entry(block).or_default() += 1;
    }
    let may_be_whole = |count: usize| count + unread >= majority;
    let whole: Vec<&[u8]> = counts
        .iter()
        .filter(|(_, count)| may_be_whole(**count))
        .map(|(block, _)| *block)
        .collect();
    match whole.as_slice() {
        [one] => return Some(one.to_vec()),
        [_, ..] => return None,
        [] => {}
    }
    let most = counts.values().max().copied()?;
    match (most, counts.len()) {
        (1, 3..) => None,
        _ => blocks
            .iter()
            .find(|block| counts.get(block.as_slice()) == Some(&most))
            .cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which block counts, by the letters that the disks were read to have; `-`: not read.
    fn of(disks: &str) -> Option<char> {
        let read: Vec<Vec<u8>> = disks
            .chars()
            .filter(|letter| *letter != '-')
            .map(|letter| vec![letter as u8; 512])
            .collect();
        let count = disks.len();
        let block = newest(count, count / 2 + 1, &read)?;
        Some(char::from(block[0]))
    }

    #[test]
    fn what_a_majority_of_the_disks_has_was_written_last() {
        for (disks, expected) in [
            ("a", 'a'),
            ("aa", 'a'),
            ("aab", 'a'),
            ("abb", 'b'),
            ("aa-", 'a'),
            ("-bb", 'b'),
            ("aaab", 'a'),
            ("aaa-", 'a'),
            ("aab-", 'a'),
        ] {
            assert_eq!(of(disks), Some(expected), "{disks}");
        }
    }

    #[test]
    fn a_write_that_was_broken_off_may_count_or_not() {
        for (disks, expected) in [("ab", 'a'), ("aabb", 'a'), ("abbc", 'b'), ("abcc", 'c')] {
            assert_eq!(of(disks), Some(expected), "{disks}");
        }
    }

    #[test]
    fn where_a_disk_that_was_not_read_would_decide_nothing_is_taken() {
        for disks in ["ab-", "-ab", "abc", "abcd", "abc-"] {
            assert_eq!(of(disks), None, "{disks}");
        }
    }
}
