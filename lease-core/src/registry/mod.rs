//! What lease-join and lease-hold say to each other on one host.
//!
//! lease-join is the authority for its lockspace on its host. It owns a directory, one a
//! lockspace, with a lock file, a socket and state files ([`place`], [`journal`]). A lease-hold
//! registers before it writes to the disk: two holders on one host are told apart here, since the
//! disk knows hosts only. Messages are JSON lines ([`message`], [`wire`]); what is allowed is
//! judged in [`table`], which knows no socket and no file.

pub mod asking;
pub mod client;
pub mod journal;
pub mod message;
pub mod order;
pub mod place;
pub mod table;
pub mod wire;
