//! The change log between stages: topics of a broker with Kafka's protocol.
//!
//! - [`record`]: records as a topic holds them
//! - [`wire`]: the contents of records, as versioned envelopes; no I/O
//! - [`kafka`]: the client: topics, producer, consumer
//! - `classify`: sorts errors of the client library by their meaning
//! - [`error`]: errors, and whether trying again helps

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(feature = "kafka")]
mod classify;
pub mod error;
pub mod kafka;
pub mod record;
pub mod wire;

pub use error::BrokerError;
pub use record::{Outgoing, Partition, Received, Record};
