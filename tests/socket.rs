//! sanlock's clients, unmodified, served by lease-join: what they print, beside what they print
//! where the real daemon serves them, and what no client can do to others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "socket/held.rs"]
mod held;
#[path = "socket/hostile.rs"]
mod hostile;
#[path = "socket/hosts.rs"]
mod hosts;
#[path = "socket/lockspaces.rs"]
mod lockspaces;
#[path = "socket/python.rs"]
mod python;
#[path = "socket/same.rs"]
mod same;
#[path = "socket/signals.rs"]
mod signals;
