//! The program walvec as a child process, for the end-to-end tests and the benchmarks.
//!
//! - `binary`: the program that was built from these sources
//! - `command`: commands that run to their end
//! - `walvec`: a running `walvec run`: its API, its signals, its end
//! - `memory`: the memory of a process
//! - [`wait`]: waiting for something to become true

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod binary;
mod command;
mod memory;
pub mod wait;
mod walvec;

pub use binary::{check, path};
pub use command::{CONFIGURATION, command, crash, run, run_unread, stage_directory};
pub use memory::memory;
pub use walvec::{Start, Walvec, wal_position};
