//! The client of the broker, on librdkafka. Nothing outside this folder names it.
//!
//! - [`connection`]: where the broker is, and how to get in
//! - [`topics`]: topics that are there, and making those that are not
//! - [`producer`]: writing records, and knowing which of them the broker has
//! - [`consumer`]: reading as a member of a group
//! - [`poll`]: the consumer's own thread
//! - [`table`]: a compacted topic as a table
//! - [`lookup`]: single records, and the offsets of a group that nobody is in
//! - [`ownership`]: which partitions may still be written for
//! - [`statistics`]: how far reading has come

pub mod connection;
pub mod consumer;
pub mod lookup;
mod ownership;
mod poll;
pub mod producer;
pub mod statistics;
pub mod table;
pub mod topics;
