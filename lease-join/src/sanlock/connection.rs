//! One client's connection, from its first message to its end.

use super::peer::Connection;
use super::told::Told;
use lease_core::sanlock::reply::Then;
use lease_core::sanlock::request::{self, Request};
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a thread's stack.
const STACK: usize = 256 << 10;
/// How long a client may take to read its answer.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Gives a connection a thread of its own; closes it if it cannot have one.
pub(super) fn take_in(told: &Arc<Told>, stream: UnixStream) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(READ_WITHIN)));
    let peer = rustix::net::sockopt::socket_peercred(&stream);
    let (Ok(()), Ok(peer)) = (ready, peer) else {
        return;
    };
    let pid = peer.pid.as_raw_nonzero().get();
    if !told.crowd.enter(pid) {
        return;
    }
    let served = Arc::clone(told);
    let builder = std::thread::Builder::new().stack_size(STACK);
    let started = builder.spawn(move || {
        let connection = Connection {
            pid,
            registered: false,
            closed_to_commands: false,
            ends_all: false,
            listens: None,
            stream: Arc::new(stream),
        };
        serve(&served, connection);
        served.crowd.leave(pid);
    });
    if started.is_err() {
        told.crowd.leave(pid);
    }
}

fn serve(told: &Arc<Told>, mut connection: Connection) {
    let stream = Arc::clone(&connection.stream);
    let mut reader = BufReader::new(&*stream);
    while let Ok(message) = request::read(&mut reader) {
        if connection.closed_to_commands {
            continue;
        }
        let ends = matches!(message.request, Request::Shutdown { .. });
        let reply = told.answer(&mut connection, message.request);
        let (written, then) = match &reply {
            Some(reply) => (send(&stream, &reply.encode(&message.header)), reply.then),
            None => (true, Then::GoOn),
        };
        told.listen(&mut connection);
        if connection.ends_all {
            told.finish();
        }
        if ends || !written || then == Then::Close {
            break;
        }
    }
    told.end_of(&connection);
}

fn send(mut stream: &UnixStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}
