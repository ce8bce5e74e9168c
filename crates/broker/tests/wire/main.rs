//! What users and other programs can rely on when they read and write walvec's topics.
//!
//! - [`debezium`]: what Debezium's own records mean, and what is wrong with records that cannot be read
//! - [`reference`]: what wal2json's own records mean
//! - [`vectors`]: points and dead letters
//! - [`golden`]: the exact records of every envelope
//! - [`round_trip`]: what comes out of a topic is what went in
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
