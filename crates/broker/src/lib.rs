//! The change log between stages: topics of a Kafka-API broker.
//!
//! - [`record`]: records as a topic holds them
//! - `wire`: what records say, as versioned envelopes; pure

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod record;

pub use record::{Outgoing, Record};
