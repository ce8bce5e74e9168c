//! What the pipeline is doing, for people and programs that ask.

use serde::{Deserialize, Serialize};
use walvec_model::{Generation, Lsn, Moment};

use crate::gap::Resync;
use crate::store::DeadLetter;

/// A picture of the pipeline at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// The generation of the current or last snapshot.
    pub generation: Generation,
    /// Why the tables were read again for this generation, if that was a gap or `walvec resync`.
    #[serde(default)]
    pub resync: Option<Resync>,
    /// One entry per collection.
    pub collections: Vec<CollectionStatus>,
    /// Since when the rows and texts of the collections are counted: since this process was started, or since the reindex
    /// began that filled them. `None` before anything runs.
    #[serde(default)]
    pub counted_since: Option<Moment>,
    /// Everything committed up to here can be found.
    pub applied_lsn: Lsn,
    /// The position that PostgreSQL may forget WAL up to; never beyond `applied_lsn`.
    pub confirmed_lsn: Lsn,
    /// The server's newest known position.
    pub server_lsn: Lsn,
    /// WAL between `applied_lsn` and `server_lsn`, in bytes.
    pub lag_bytes: u64,
    /// Age of the oldest commit that cannot be found yet, in milliseconds; 0 when there is none.
    pub lag_ms: u64,
    /// WAL that the slot makes PostgreSQL keep, in bytes.
    pub retained_wal_bytes: u64,
    /// What is being retried at the moment, if anything.
    pub problem: Option<Problem>,
    /// What goes through the broker, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerStatus>,
}

impl Status {
    /// Rows that the snapshot has copied, and that PostgreSQL estimates it has to copy, of all collections.
    #[must_use]
    pub fn snapshot_rows(&self) -> (u64, u64) {
        let sum = |rows: fn(&CollectionStatus) -> u64| self.collections.iter().map(rows).sum();
        (sum(|collection| collection.snapshot_rows_copied), sum(|collection| collection.snapshot_rows_estimated))
    }
}

/// What goes through the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// The consumer group, for stages that read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Records that the broker has acknowledged since the start.
    pub produced: u64,
    /// Records read since the start.
    pub consumed: u64,
    /// How often partitions have come or gone.
    pub rebalances: u64,
    /// The partitions of this worker.
    pub partitions: Vec<PartitionStatus>,
}

/// How far a partition has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to be read.
    pub next: i64,
    /// Records that wait.
    pub lag: u64,
}

/// The pipeline's phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting and checking.
    #[default]
    Starting,
    /// Copying the rows that were there before.
    Snapshot,
    /// Following the stream.
    Streaming,
    /// Shutting down.
    Stopping,
}

/// One collection's part of the picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CollectionStatus {
    /// The collection.
    pub collection: String,
    /// Its table, `schema.table`.
    pub table: String,
    /// Rows that PostgreSQL estimates the snapshot has to copy.
    pub snapshot_rows_estimated: u64,
    /// Rows copied by the current or last snapshot.
    pub snapshot_rows_copied: u64,
    /// Points stored at last count; `None` before the first count, and where nothing is stored.
    pub points: Option<u64>,
    /// Texts embedded, see [`Status::counted_since`].
    pub embeddings_computed: u64,
    /// Vectors kept because the text had not changed, see [`Status::counted_since`].
    pub embeddings_reused: u64,
    /// Parked rows: those that could not be processed.
    pub dead_letters: u64,
    /// The newest parked rows, the newest first, at most [`LATEST_DEAD_LETTERS`].
    #[serde(default)]
    pub latest_dead_letters: Vec<DeadLetter>,
}

/// How many parked rows the status shows.
pub const LATEST_DEAD_LETTERS: usize = 20;

/// A transient error that is being retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The part that fails: `source`, `embedder`, `sink`.
    pub part: String,
    /// The error.
    pub message: String,
    /// What to do, if anything helps.
    pub remedy: Option<String>,
    /// Attempts so far.
    pub attempts: u64,
}
