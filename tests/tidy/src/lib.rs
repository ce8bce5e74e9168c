//! What the tests of the house need to know about the sources: which files there are, which modules they make, and who uses whom.
//!
//! - [`files`]: the Rust files of the workspace
//! - [`modules`]: the top-level modules of a crate, and the circles in which they use each other

pub mod files;
pub mod modules;
