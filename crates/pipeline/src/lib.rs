//! Wiring of the stages, and the only place that decides which WAL position PostgreSQL may forget.
//!
//! ```text
//!            snapshot rows, then the stream
//! capture ──────────────────────────────────▶ batch ──▶ plan ──▶ embed ──▶ sink
//!    ▲                                       coalesce   what     only      durable
//!    │                                       per key    is new   new text    │
//!    └────────────── confirm ◀── checkpoint ◀────────────────────────────────┘
//! ```
//!
//! - [`supervisor`]: starts, runs and stops the whole; the order of shutdown is written there
//! - [`start`]: what to do at start, from what is stored and what PostgreSQL says; pure
//! - [`facts`](mod@facts): what is asked before that is decided
//! - [`anew`]: which tables have to be read anew then, while the others go on
//! - [`gap`]: changes that can no longer be had, and what is done about them; [`replay`]: proof that there are none
//! - [`owner`]: the right to write collections that others can reach; `filled_from`: from which database; [`witness`]: proof that a collection is not an older state of itself
//! - [`snapshot`]: copies the rows that were there before, as one generation
//! - [`follow`]: follows the stream, transaction by transaction; [`pending`]: what it has read and not begun yet
//! - [`line`]: batches whose vectors are being computed, side by side; [`portion`]: how many of their rows are completed at a time
//! - [`publish`]: changes into topics instead, for others to go on with
//! - [`index`]: topics into collections, by any number of workers
//! - [`reread`]: reads rows again while the stream goes on: backfill and repair
//! - [`batch`]: the last word per key inside a batch; pure
//! - [`plan`]: which rows need a vector, which only a new payload, which nothing; pure
//! - [`writer`]: one collection's writer: complete, render, embed, write, park
//! - [`letters`] and [`letters_topic`]: where dead letters are kept
//! - [`refetch`]: where values come from that PostgreSQL did not send, and rows of other tables
//! - `looked_up`: what rows look up in other tables, each thing once; `lengths`: how many rows have texts that are too long
//! - [`watch`]: looks at the server and the catalogue beside the stream
//! - [`rounds`]: looks at many collections that take turns
//! - [`unseen`]: transactions that the stream has brought and a statement may not see yet
//! - [`related`]: the rows whose documents a change of another table is part of
//! - [`checkpoint`]: the only module that advances the confirmed position
//! - [`store`]: what survives a restart: checkpoint and dead letters
//! - [`error`], [`policy`] and [`retry`]: what can go wrong, what is decided about it, and trying again; [`trouble`]: what is shown meanwhile
//! - [`status`] and [`telemetry`]: what people and programs see; [`trace`]: following a change across processes

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

/// A step at which a test can crash the program; nothing without the feature `failpoints`.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}

pub mod anew;
mod aside;
pub mod batch;
pub mod checkpoint;
pub mod error;
mod facts;
mod filled_from;
mod follow;
pub mod gap;
pub mod index;
mod lengths;
pub mod letters;
pub mod letters_topic;
mod line;
mod looked_up;
mod owner;
mod pending;
pub mod plan;
pub mod policy;
mod portion;
pub mod publish;
mod refetch;
mod related;
mod replay;
pub mod reread;
mod retry;
mod rounds;
mod snapshot;
pub mod start;
pub mod status;
pub mod store;
mod supervisor;
pub mod telemetry;
pub mod trace;
mod trouble;
mod unseen;
mod waits;
mod watch;
mod witness;
pub mod writer;

pub use error::PipelineError;
pub use facts::{Before, ConfigDigest, facts};
pub use lengths::{Lengths, lengths};
pub use policy::{During, Policy};
pub use status::Status;
pub use store::{Checkpoint, DeadLetter, Store};
pub use supervisor::{Collection, Pipeline, PipelineConfig, check_columns};
pub use writer::OnLong;
