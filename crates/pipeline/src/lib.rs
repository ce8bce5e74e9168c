//! Wiring of the stages, and the only place that decides which WAL position PostgreSQL may forget.
//!
//! ```text
//!            snapshot rows, then the stream
//! capture ─────────────────────────────────▶ batch ─▶ prepare ─▶ embed ─▶ apply
//!    ▲                                     coalesce  what is   only new  durable
//!    │                                     per key   new       texts      │
//!    └────────────── confirm ◀── checkpoint ◀──────────────────────────────┘
//! ```
//!
//! A change enters each of these rooms once on its way:
//!
//! - [`source`]: what is read from PostgreSQL, and in which order
//! - [`direct`]: the pipeline without a broker: follows the stream and writes collections
//! - [`publish`]: writes changes to topics instead of collections
//! - [`index`]: moves records from topics into collections, with any number of workers
//! - [`sequencer`]: batches in flight, whose vectors are computed concurrently
//! - [`writer`]: the writer of one collection: completes, renders, embeds, writes, parks
//! - [`state`]: what survives a restart: the checkpoint, which alone advances the confirmed position, and dead letters
//!
//! Every room uses these:
//!
//! - [`port`]: what a running pipeline asks of PostgreSQL, as traits that a test can script
//! - [`session`]: one session after the other, until a stop; [`retry`]: back-off and waiting
//! - [`error`]: errors and what follows from each
//! - [`observe`]: the status, the metrics and the traces
//! - [`shared`]: what the components of one pipeline share
//! - [`upkeep`]: counts points and builds indexes; [`rounds`]: divides checks of many collections into turns
//! - [`lengths`](mod@lengths): how many rows have texts that are too long for the model

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

/// Marks a step at which a test can crash the program. Expands to nothing without the feature `failpoints`.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}

mod direct;
pub mod error;
pub mod index;
mod lengths;
pub mod observe;
mod port;
pub mod publish;
mod retry;
mod rounds;
mod sequencer;
mod session;
mod shared;
pub mod source;
pub mod state;
#[cfg(test)]
mod testing;
mod upkeep;
pub mod writer;

pub use direct::{Pipeline, PipelineConfig};
pub use error::PipelineError;
pub use error::policy::{During, Policy};
pub use lengths::{Lengths, lengths};
pub use observe::status::Status;
pub use source::facts::{Before, ConfigDigest, Followed, facts};
pub use source::preflight::check_columns;
pub use state::dead_letters::DeadLetter;
pub use state::records::Checkpoint;
pub use state::store::Store;
pub use writer::{Collection, OnLong};
