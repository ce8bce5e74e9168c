//! What the tests of the house need to know about the sources: which files there are, which modules they make, who uses whom, and what
//! is declared.
//!
//! - [`files`]: the Rust files of the workspace
//! - [`modules`]: the top-level modules of a crate, and the circles in which they use each other
//! - [`types`]: the types that the crates declare, and the names that several declarations share

pub mod files;
pub mod modules;
pub mod types;
