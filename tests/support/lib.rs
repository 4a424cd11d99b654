//! What the tests of whole tools share.

pub mod files;
pub mod hosts;
pub mod process;
pub mod sanlock;
pub mod script;
pub mod storage;
