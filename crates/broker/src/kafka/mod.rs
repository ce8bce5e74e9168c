//! The client of the broker, on librdkafka. Nothing outside this folder names it.
//!
//! - [`settings`]: what it is told, and what it tells
//! - [`connection`]: where the broker is, and how to get in
//! - [`topics`]: topics that are there, and making those that are not
//! - [`producer`]: writing records, and knowing which of them the broker has
//! - [`consumer`]: reading as a member of a group
//! - [`poll`]: the consumer's own thread
//! - [`table`]: a compacted topic as a table
//! - [`lookup`]: single records, and the offsets of a group that nobody is in
//! - [`ownership`]: which partitions may still be written for
//! - [`recency`]: as of when they were read
//! - [`statistics`]: how far reading has come
//! - [`watermarks`]: where a partition begins and ends

#[cfg(not(feature = "kafka"))]
mod absent;
#[cfg(feature = "kafka")]
pub mod connection;
#[cfg(feature = "kafka")]
pub mod consumer;
#[cfg(feature = "kafka")]
pub mod lookup;
#[cfg(feature = "kafka")]
mod ownership;
#[cfg(feature = "kafka")]
mod poll;
#[cfg(feature = "kafka")]
pub mod producer;
#[cfg(feature = "kafka")]
mod recency;
pub mod settings;
#[cfg(feature = "kafka")]
pub mod statistics;
#[cfg(feature = "kafka")]
pub mod table;
#[cfg(feature = "kafka")]
pub mod topics;
#[cfg(feature = "kafka")]
mod watermarks;

#[cfg(not(feature = "kafka"))]
pub use absent::{connection, consumer, lookup, producer, statistics, table, topics};
