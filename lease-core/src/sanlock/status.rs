//! The entries of what the daemon knows, as `sanlock client status` reads them: 80 bytes, a line of
//! `key=value`, and what the entry is about.

use super::part::{Resource, encode_place, put, put_name};
use crate::id::Name;
use crate::spec::Place;
use std::fmt::{Display, Write};
use std::os::unix::ffi::OsStrExt;

/// Bytes of an entry before its line.
const ENTRY_LEN: usize = 80;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// The daemon.
    Daemon = 1,
    /// A client.
    Client = 2,
    /// A lockspace.
    Lockspace = 3,
    /// A resource that is held.
    Resource = 4,
    /// A host.
    Host = 5,
    /// A renewal.
    Renewal = 6,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub kind: Kind,
    /// A process or a host id.
    pub number: i32,
    /// A host id, a version or a timestamp.
    pub data: u64,
    /// A name.
    pub name: Option<Name>,
    /// What is known, in words.
    pub line: Line,
    /// The struct that follows.
    pub tail: Vec<u8>,
}

impl Entry {
    /// An entry of this kind about nothing yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            number: 0,
            data: 0,
            name: None,
            line: Line::default(),
            tail: Vec::new(),
        }
    }

    /// Adds its bytes.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let line = &self.line.0;
        let mut entry = [0; ENTRY_LEN];
        put(&mut entry, 0, &(self.kind as u32).to_ne_bytes());
        put(&mut entry, 8, &self.number.to_ne_bytes());
        put(&mut entry, 16, &self.data.to_ne_bytes());
        put_name(&mut entry, 24, self.name.as_ref());
        let len = u32::try_from(line.len() + 1).unwrap_or(u32::MAX);
        put(&mut entry, 72, &len.to_ne_bytes());
        bytes.extend(entry);
        bytes.extend(line);
        bytes.push(0);
        bytes.extend(&self.tail);
    }
}

/// `key=value`, joined by spaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line(Vec<u8>);

impl Line {
    /// The same with one more.
    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = write!(text, "{key}={value}");
        if !self.0.is_empty() {
            self.0.push(b' ');
        }
        self.0.extend(text.bytes());
        self
    }
}

/// What follows the line of a resource.
pub fn resource_tail(resource: &Resource, sector_size: u32) -> Vec<u8> {
    let mut tail = resource.encode();
    for place in &resource.places {
        tail.extend(encode_place(place, sector_size));
    }
    tail
}

/// A lease that is held, as the answer to an inquiry names it; `state` is its version or `SH`. What
/// separates names and leases has a backslash before it where it is part of one.
pub fn inquired(lockspace: &Name, name: &Name, places: &[Place], state: &str) -> Vec<u8> {
    let mut line = escaped(lockspace.as_bytes(), b" ");
    line.push(b':');
    line.extend(escaped(name.as_bytes(), b" "));
    for place in places {
        line.push(b':');
        line.extend(escaped(place.path.as_os_str().as_bytes(), b": "));
        line.extend(format!(":{}", place.offset).bytes());
    }
    line.extend(format!(":{state}").bytes());
    line
}

fn escaped(text: &[u8], separators: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for byte in text {
        if separators.contains(byte) {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    bytes
}
