//! What clients are answered.

use super::part::{EVENT_LEN, HEADER_LEN, Header, MAGIC, VERSION};

/// The version of the daemon that this speaks like: 3.8.5.
pub const DAEMON_VERSION: i32 = 0x0308_0500;

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Then {
    /// The next command.
    #[default]
    GoOn,
    /// The end of the connection.
    Close,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    /// The result: 0, an error below that, or what the command makes of it.
    pub data: i32,
    /// What else the command makes of it.
    pub data2: i32,
    /// What follows the header.
    pub body: Vec<u8>,
    /// The header says nothing of the body.
    pub uncounted: bool,
    /// What follows.
    pub then: Then,
}

impl Reply {
    /// A result and nothing else.
    pub fn of(data: i32) -> Self {
        Self {
            data,
            ..Self::default()
        }
    }

    /// The same with bytes that follow.
    pub fn with(self, body: Vec<u8>) -> Self {
        Self { body, ..self }
    }

    /// The same with a second number.
    pub fn and(self, data2: i32) -> Self {
        Self { data2, ..self }
    }

    /// The same; the header says nothing of the bytes that follow.
    pub fn uncounted(self) -> Self {
        Self {
            uncounted: true,
            ..self
        }
    }

    /// The same, and the connection ends.
    pub fn last(self) -> Self {
        Self {
            then: Then::Close,
            ..self
        }
    }

    /// Its bytes, as the answer to a message with this header.
    pub fn encode(&self, to: &Header) -> Vec<u8> {
        let counted = match self.uncounted {
            true => 0,
            false => self.body.len(),
        };
        let header = Header {
            length: u32::try_from(HEADER_LEN + counted).unwrap_or(u32::MAX),
            data: self.data,
            data2: self.data2,
            ..*to
        };
        [&header.encode()[..], &self.body].concat()
    }
}

/// An event as a listener hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The listener's own host id.
    pub host_id: u64,
    /// Its present life.
    pub generation: u64,
    /// The event.
    pub event: u64,
    /// What belongs to it.
    pub data: u64,
    /// Who sent it.
    pub from_host_id: u64,
    /// In which life.
    pub from_generation: u64,
}

impl Event {
    /// Its bytes, with a header of their own.
    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            command: 1,
            length: (HEADER_LEN + EVENT_LEN) as u32,
            ..Header::default()
        };
        let fields = [
            self.host_id,
            self.generation,
            self.event,
            self.data,
            self.from_host_id,
            self.from_generation,
        ];
        let fields = fields.iter().flat_map(|field| field.to_ne_bytes());
        header.encode().into_iter().chain(fields).collect()
    }
}
