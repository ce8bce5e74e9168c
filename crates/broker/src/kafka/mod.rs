//! The client of the broker, based on librdkafka. No code outside this folder refers to that library.
//!
//! - [`settings`]: plain data in and out of the client
//! - [`connection`]: client settings for reaching a broker, and the errors that arrive outside of requests
//! - [`topics`]: lists topics and creates missing ones
//! - [`producer`]: writes records and tracks which of them the broker has acknowledged
//! - [`consumer`]: reads topics as a member of a consumer group
//! - [`poll`]: the consumer's own thread
//! - [`table`]: a compacted topic as a table
//! - [`lookup`]: reads single records, and the offsets of groups without members
//! - [`ownership`]: the partitions that this worker may still write for
//! - [`recency`]: the times up to which partitions were read
//! - [`statistics`]: how far partitions were read
//! - [`watermarks`]: where a partition begins and ends
//! - `absent`: stands for the client in a program that was built without it

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
