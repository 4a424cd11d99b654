//! The holders' file: a page that names all of them, then one record for each change since.
//!
//! Each record is a line and its checksum; zeros follow up to the end of the file, so that there is
//! room for what changes next also where the file system has become full. Only the last record can
//! be incomplete, and nobody has had an answer that rests on it. Everything before it is whole, or
//! the file is damaged.

use super::place::{Kept, Place, SEAL, seal};
use std::io;

/// Room for changes after a page, at least.
const ROOM: usize = 16 << 10;

/// Bytes of changes for which there is room after a page of so many bytes. With as much room as
/// the page has bytes, each byte of it is written anew at most once for each byte of changes.
pub fn room_after(page: usize) -> usize {
    page.max(ROOM)
}

/// Bytes that a change takes.
pub fn size_of(change: usize) -> usize {
    change + SEAL
}

/// The holders' file of one lockspace, as its lease-join writes it.
#[derive(Debug)]
pub struct Journal {
    place: Place,
    /// What is to stand in the file.
    content: Vec<u8>,
    /// Bytes of the file, with the zeros at its end.
    len: usize,
    /// How much of the content stands there. 0: perhaps nothing.
    written: usize,
}

impl Journal {
    /// Of a place where nothing of this process stands yet: the first thing written is a page.
    pub fn new(place: Place) -> Self {
        let (content, len, written) = Default::default();
        Self {
            place,
            content,
            len,
            written,
        }
    }

    /// The place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// From now on it begins with this page.
    pub fn start_page(&mut self, page: &[u8]) {
        self.content = seal(page);
        self.len = self.content.len() + room_after(page.len());
        self.written = 0;
    }

    /// Adds a change.
    pub fn add(&mut self, change: &[u8]) {
        self.content.extend(seal(change));
    }

    /// Writes what does not stand there yet: at the end of the file if that is the one that was
    /// written before, else the file as a whole. After an error the next attempt does the latter.
    pub fn write(&mut self) -> io::Result<()> {
        let written = std::mem::take(&mut self.written);
        let more = &self.content[written..];
        let fits = written > 0 && self.content.len() <= self.len;
        if !fits || self.place.append(self.len, written, more).is_err() {
            self.len = self.len.max(self.content.len());
            let mut whole = self.content.clone();
            whole.resize(self.len, 0);
            self.place.replace(Kept::Holders, &whole)?;
        }
        self.written = self.content.len();
        Ok(())
    }
}

/// The records of the holders' file: the page, and the changes after it; `None` if there is no
/// file.
pub fn read(place: &Place) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(bytes) = place.get(Kept::Holders.name())? else {
        return Ok(None);
    };
    match records(&bytes) {
        Some(records) => Ok(Some(records)),
        None => Err(io::Error::other("it is damaged")),
    }
}

fn records(mut rest: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut records = Vec::new();
    while let Some(end) = end_of_record(rest) {
        records.push(rest[..end - SEAL].to_vec());
        rest = &rest[end..];
    }
    let last = rest.iter().rposition(|byte| *byte != 0);
    let begun = &rest[..last.map_or(0, |last| last + 1)];
    let line = begun.iter().position(|byte| *byte == b'\n');
    // Of a record that somebody was writing when it ended, not even the checksum is complete.
    let torn = line.is_none_or(|line| begun.len() < line + SEAL);
    (torn && !records.is_empty()).then_some(records)
}

/// Where the record ends that `bytes` begin with.
fn end_of_record(bytes: &[u8]) -> Option<usize> {
    let lines = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let mut ends = lines.map(|(line, _)| line + SEAL);
    ends.find(|end| *end <= bytes.len() && seal(&bytes[..end - SEAL]) == bytes[..*end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Name;

    /// A directory of its own, removed at the end.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("lease-journal-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn place(&self) -> Place {
            Place::create(&self.0, &Name::new(b"LS").unwrap()).unwrap()
        }

        fn file(&self) -> std::path::PathBuf {
            self.0.join("LS").join(Kept::Holders.name())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read_all(place: &Place) -> Vec<String> {
        let records = read(place).unwrap().unwrap();
        let text = |record| String::from_utf8(record).unwrap();
        records.into_iter().map(text).collect()
    }

    #[test]
    fn what_changes_is_written_behind_the_page_and_the_page_is_not_written_again() {
        let scratch = Scratch::new("changes");
        let mut journal = Journal::new(scratch.place());
        journal.start_page(&vec![b'x'; 100_000]);
        journal.write().unwrap();
        let inode = |path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let before = inode(scratch.file());
        let mut expected = vec!["x".repeat(100_000)];
        for number in 0..50 {
            let text = format!("change {number}");
            journal.add(text.as_bytes());
            journal.write().unwrap();
            expected.push(text);
            assert_eq!(read_all(&scratch.place()), expected);
        }
        assert_eq!(inode(scratch.file()), before, "the same file");
        // Another page takes its place, and nothing of the first is left.
        journal.start_page(b"page");
        journal.write().unwrap();
        assert_eq!(read_all(&scratch.place()), ["page"]);
    }

    #[test]
    fn what_is_not_the_file_that_was_written_is_written_as_a_whole() {
        let scratch = Scratch::new("whole");
        let mut journal = Journal::new(scratch.place());
        journal.start_page(b"page");
        journal.write().unwrap();
        let spoil: [fn(&std::path::Path); 3] = [
            |file| std::fs::remove_file(file).unwrap(),
            |file| std::fs::write(file, "short").unwrap(),
            |file| std::fs::write(file, vec![b'y'; 50_000]).unwrap(),
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            spoil(&scratch.file());
            journal.add(b"more");
            journal.write().unwrap();
            assert_eq!(read_all(&scratch.place()).len(), number + 2);
        }
        // More than there is room for.
        journal.add(&vec![b'z'; 100_000]);
        journal.write().unwrap();
        assert_eq!(read_all(&scratch.place()).len(), 5);
    }

    #[test]
    fn only_the_end_of_the_last_record_may_be_missing() {
        let page = seal(b"page");
        let change = seal(b"change");
        let whole = [&page[..], &change].concat();
        let found = |bytes: &[u8]| records(bytes).map(|records| records.len());
        assert_eq!(found(&whole), Some(2));
        for end in 0..whole.len() {
            let torn = [&whole[..end], &[0; 30]].concat();
            let expected = (end >= page.len()).then_some(1);
            assert_eq!(found(&torn), expected, "only {end} bytes");
        }
        let zeros = [&whole[..], &[0; 30]].concat();
        // Without the end of its line the last record is one whose line has just been written.
        let end_of_line = page.len() + b"change".len();
        for at in (0..whole.len()).filter(|at| *at != end_of_line) {
            let mut damaged = zeros.clone();
            damaged[at] ^= 1;
            assert_eq!(found(&damaged), None, "byte {at} is another");
        }
    }
}
