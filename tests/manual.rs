//! Holds the manual against the tools, and the tools against the manual.

#![allow(clippy::unwrap_used)]
