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
//! - [`supervisor`]: starts, runs and stops the pipeline; its module comment gives the order of shutdown
//! - [`start`]: decides how to start, from the stored state and what PostgreSQL says; pure
//! - [`facts`](mod@facts): collects the facts for that decision
//! - [`anew`]: which tables must be read again at a start, while the stream of the others continues
//! - `aside`: tables that cannot be followed any more, while the others go on
//! - [`gap`]: changes that the stream can no longer prove to bring, and what follows; [`replay`]: proof that there are none
//! - [`owner`]: the right to write collections that other processes can reach; `filled_from`: which database a collection is filled from
//! - [`witness`]: proof that a collection is not an older state of itself
//! - [`snapshot`]: copies the rows that existed before the slot, as one generation
//! - [`follow`]: follows the stream, transaction by transaction; [`pending`]: changes that were read and have not begun yet
//! - [`line`](mod@line): batches whose vectors are computed concurrently; [`portion`]: how many rows of a batch are completed at a time
//! - [`publish`]: writes changes to topics instead of collections; workers read them there
//! - [`index`]: moves records from topics into collections, with any number of workers
//! - [`reread`]: reads rows again while the stream goes on: backfill, repair and altered tables
//! - [`batch`]: the final state of each key inside a batch; pure
//! - [`plan`]: which rows need a vector, only a new payload, or nothing; pure
//! - [`writer`]: the writer of one collection: completes, renders, embeds, writes, parks
//! - [`letters`] and [`letters_topic`]: where dead letters are stored
//! - [`refetch`]: reads values that PostgreSQL did not send, and rows of looked-up tables
//! - `looked_up`: asks for each looked-up row once per batch; `lengths`: how many rows have texts that are too long for the model
//! - [`watch`]: looks at the server, the catalogue and the collections concurrently with the stream; `waits`: shows lock waits in the status
//! - [`rounds`]: divides checks of many collections into turns
//! - [`unseen`]: transactions that the stream has brought and that a statement may not see yet
//! - [`related`]: finds the rows whose documents use a changed row of a looked-up table
//! - [`checkpoint`]: the only module that advances the confirmed position
//! - [`store`]: the state file, which survives a restart: checkpoint, baseline and dead letters
//! - [`error`], [`policy`] and [`retry`]: errors, the decision about each, and retries; [`trouble`]: problems that the status shows meanwhile
//! - [`status`] and [`telemetry`]: what the status and the metrics show; [`trace`]: follows a change across processes

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

/// Marks a step at which a test can crash the program. Expands to nothing without the feature `failpoints`.
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
