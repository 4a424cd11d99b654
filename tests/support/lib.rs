//! What the tests of whole tools share.

pub mod files;
