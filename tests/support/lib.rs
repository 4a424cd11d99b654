//! What the tests share: whole tools run as a user runs them, the real sanlock beside them, a disk
//! that does what it is told, and a simulated world.

pub mod family;
pub mod files;
pub mod fuzz;
pub mod hosts;
pub mod libvirt;
pub mod messages;
pub mod path;
pub mod process;
pub mod sanlock;
pub mod scene;
pub mod script;
pub mod served;
pub mod shelf;
pub mod storage;
pub mod watchdog;

#[path = "../sim/mod.rs"]
pub mod sim;
