//! sanlock's clients, served: each message is translated into what the tools do anyway, and what
//! they answer is translated back. Nothing is decided here that concerns a lease.
//!
//! A lockspace that a client adds is joined by a lease-join of its own, which outlives this
//! process; what is asked about it is asked there. What has to outlive this process beside that
//! stands in a directory of its own in the run directory. A connection has a thread: one that is
//! slow, or says half a message, holds up nobody else.

mod answers;
mod clients;
mod connection;
mod events;
mod files;
mod guards;
mod indexed;
mod known;
mod leases;
mod log;
mod member;
pub(crate) mod options;
mod peer;
mod seat;
mod spaces;
mod storage;
mod told;
mod tools;
mod value;

use self::options::Options;
use crate::signals::Signals;
use lease_core::tool::{Failure, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Serves until it is told to end. What it has joined and what it guards stays as it is.
pub(crate) fn serve(options: Options) -> anyhow::Result<Status> {
    let signals = Signals::watch()?;
    let seat = seat::take(&options)?;
    let told = Arc::new(told::Told::new(options, seat.files, signals.wake.clone())?);
    told.spaces.find_again();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        let mut fds = [
            PollFd::new(signals.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(seat.listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => {
                let text = format!("cannot wait for clients: {}", errno.desc());
                return Err(Failure::new(Status::System, text).into());
            }
        }
        signals.wake.clear();
        if signals.told_to_leave() || signals.told_to_end() || told.is_over() {
            seat::remove(&told.options.socket);
            return Ok(Status::Done);
        }
        if let Ok((stream, _)) = seat.listener.accept() {
            connection::take_in(&told, stream);
        }
    }
}
