//! What the tests share: whole tools run as a user runs them, and a simulated world.

pub mod files;

#[path = "../sim/mod.rs"]
pub mod sim;
