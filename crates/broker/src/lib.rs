//! The change log between stages: topics of a Kafka-API broker.
//!
//! - [`record`]: records as a topic holds them
//! - [`wire`]: what records say, as versioned envelopes; pure
//! - [`kafka`]: the client: topics, producer, consumer
//! - `classify`: errors of the client library, sorted by what they mean
//! - [`error`]: what can go wrong, and whether trying again helps

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(feature = "kafka")]
mod classify;
pub mod error;
pub mod kafka;
pub mod record;
pub mod wire;

pub use error::BrokerError;
pub use record::{Outgoing, Partition, Received, Record};
