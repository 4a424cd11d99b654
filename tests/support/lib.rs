//! What the tests share.

#[path = "../sim/mod.rs"]
pub mod sim;
