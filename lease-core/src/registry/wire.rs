//! JSON lines over a stream socket, file descriptors beside them.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Longest line that is taken from a peer, in bytes.
pub const LINE_MAX: usize = 256 << 10;
/// Bytes that may wait to be sent to a peer that does not read.
const BACKLOG_MAX: usize = 1 << 20;
/// Descriptors that may wait to be taken.
const DESCRIPTORS_MAX: usize = 4;

/// Reads in a row: more than a socket can hold.
const READS_MAX: usize = 64;

/// A peer that does not read delays nobody.
const NEVER_WAIT: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// One end of a connection. Writing never waits; whether reading does is the socket's own setting.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// The last message of those of which only the last counts. It goes after the outbox.
    newest: Option<Vec<u8>>,
    descriptors: VecDeque<OwnedFd>,
    line_max: usize,
}

impl Wire {
    /// Over a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        let (inbox, outbox, newest, descriptors) = Default::default();
        Self {
            stream,
            inbox,
            outbox,
            newest,
            descriptors,
            line_max: LINE_MAX,
        }
    }

    /// Takes lines of any length: for a peer that is trusted.
    pub fn without_limit(self) -> Self {
        Self {
            line_max: usize::MAX,
            ..self
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a message, with a descriptor beside its first byte. Fails if the socket takes nothing.
    pub fn send_with(&mut self, message: &impl Serialize, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.flush()?;
        let mut line = encode(message)?;
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let part = [IoSlice::new(&line)];
        let sent = sendmsg(&self.stream, &part, &mut control, NEVER_WAIT)?;
        self.outbox.extend(line.drain(sent..));
        self.flush()
    }

    /// Queues a message and sends as much of the queue as the socket takes.
    pub fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.outbox.extend(encode(message)?);
        self.flush()?;
        if self.outbox.len() > BACKLOG_MAX {
            return Err(io::Error::other("the peer does not read"));
        }
        Ok(())
    }

    /// Queues a message of which only the last counts: it takes the place of one that still waits
    /// since the peer does not read, and so nothing grows.
    pub fn send_newest(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.newest = Some(encode(message)?);
        self.flush()
    }

    /// Whether something is left to send.
    pub fn is_behind(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        loop {
            if self.outbox.is_empty() {
                match self.newest.take() {
                    Some(line) => self.outbox.extend(line),
                    None => return Ok(()),
                }
            }
            match send(&self.stream, self.outbox.make_contiguous(), NEVER_WAIT) {
                Ok(bytes) => drop(self.outbox.drain(..bytes)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads once. `false` at the end of the stream: all that the peer has sent is read by then.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.stream, &mut parts, &mut control, flags) {
                // Whoever was stopped meanwhile waits on.
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        let bytes = match received {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN) => return Ok(true),
            // It ended before it had read what was sent to it.
            Err(Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                self.descriptors.extend(fds);
            }
        }
        self.descriptors.truncate(DESCRIPTORS_MAX);
        self.inbox.extend_from_slice(&buffer[..bytes]);
        Ok(bytes > 0)
    }

    /// Reads all that has come, from a socket that does not wait. `false` at the end of the stream.
    pub fn drain(&mut self) -> io::Result<bool> {
        for _ in 0..READS_MAX {
            let before = self.inbox.len();
            if !self.fill()? {
                return Ok(false);
            }
            if self.inbox.len() == before {
                break;
            }
        }
        Ok(true)
    }

    /// The next message, however long it takes, or as long as the socket is set to wait. Blocking
    /// sockets only.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(message);
            }
            let before = self.inbox.len();
            if !self.fill()? {
                return Err(io::Error::other("the connection was closed"));
            }
            if self.inbox.len() == before {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The next whole message that has been read, if any. An error for one that is no message, or
    /// too long.
    pub fn take_message<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(end) = self.inbox.iter().position(|b| *b == b'\n') else {
            return match self.inbox.len() > self.line_max {
                true => Err(io::Error::other("a line that is too long")),
                false => Ok(None),
            };
        };
        let line: Vec<u8> = self.inbox.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// The oldest descriptor that came and was not taken yet.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        other.set_nonblocking(true).unwrap();
        (Wire::new(one), Wire::new(other))
    }

    #[test]
    fn of_what_a_peer_does_not_read_only_the_newest_is_kept() {
        const COUNT: u32 = 100_000;
        let (mut peer, mut wire) = pair();
        for number in 0..COUNT {
            peer.send_newest(&(number, "a renewal")).unwrap();
        }
        assert!(peer.is_behind() && peer.outbox.len() < 64);
        let mut heard: Vec<u32> = Vec::new();
        while heard.last() != Some(&(COUNT - 1)) {
            peer.flush().unwrap();
            assert!(wire.drain().unwrap());
            while let Some((number, _)) = wire.take_message::<(u32, String)>().unwrap() {
                heard.push(number);
            }
        }
        assert!(heard.is_sorted() && heard.len() < COUNT as usize);
        assert!(!peer.is_behind());
    }

    #[test]
    fn all_that_was_said_is_read_before_the_end() {
        const LINES: u32 = 50;
        let (mut peer, mut wire) = pair();
        assert!(wire.drain().unwrap(), "nothing was said, and it is open");
        let long = "x".repeat(1000);
        for number in 0..LINES {
            peer.send(&(number, &long)).unwrap();
        }
        assert!(!peer.is_behind());
        // It ends with something unread.
        wire.send(&"unheard").unwrap();
        drop(peer);
        assert!(!wire.drain().unwrap());
        for number in 0..LINES {
            let (said, _): (u32, String) = wire.take_message().unwrap().unwrap();
            assert_eq!(said, number);
        }
        assert_eq!(wire.take_message::<(u32, String)>().unwrap(), None);
        assert!(!wire.fill().unwrap());
    }
}
