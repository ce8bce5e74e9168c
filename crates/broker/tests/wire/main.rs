//! What users and other programs can rely on when they read and write walvec's topics.
//!
//! - [`debezium`]: how Debezium's own records are read, and which errors unreadable records give
//! - [`reference`]: how wal2json's own records are read
//! - [`vectors`]: points and dead letters
//! - [`golden`]: the exact records of every envelope
//! - [`round_trip`]: a record that is read back equals what was written
//! - [`any_bytes`]: no record makes a reader panic
//! - [`debezium_engine`]: records of a real Debezium engine, where they have been recorded

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod any_bytes;
mod debezium;
mod debezium_engine;
mod golden;
mod reference;
mod round_trip;
mod support;
mod vectors;
