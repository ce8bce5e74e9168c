//! What the pipeline is doing, for people and programs that ask.

use serde::{Deserialize, Serialize};
use walvec_model::{Generation, Lsn, Moment};

use crate::error::Resync;
use crate::state::dead_letters::DeadLetter;

/// A picture of the pipeline at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The present phase.
    pub phase: Phase,
    /// The generation of the current or last snapshot.
    pub generation: Generation,
    /// Why the tables were read again for this generation, if that was a gap or `walvec resync`.
    #[serde(default)]
    pub resync: Option<Resync>,
    /// One entry per collection.
    pub collections: Vec<CollectionStatus>,
    /// Since when the rows and texts of the collections are counted: since this process was started, or since the
    /// reindex that filled them began. `None` before anything runs.
    #[serde(default)]
    pub counted_since: Option<Moment>,
    /// The position up to which every commit can be found. Zero, which is null in JSON, before the first snapshot is
    /// complete.
    #[serde(with = "known")]
    pub applied_lsn: Lsn,
    /// The position up to which PostgreSQL may forget WAL; never beyond `applied_lsn`. Null in JSON while there is
    /// none.
    #[serde(with = "known")]
    pub confirmed_lsn: Lsn,
    /// The server's last known position, as of `server_asked`. Null in JSON while it is not known.
    #[serde(with = "known")]
    pub server_lsn: Lsn,
    /// When the server last reported its position and how much WAL it keeps.
    pub server_asked: Option<Moment>,
    /// WAL between `applied_lsn` and `server_lsn`, in bytes; `None` while it is not known.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest commit that was read and cannot be found yet, in milliseconds; 0 when there is none, `None` while it is
    /// not known: before a snapshot is complete, and while nothing can be read.
    pub lag_ms: Option<u64>,
    /// Since when the lag has not been known; `None` while it is known.
    pub lag_unknown_since: Option<Moment>,
    /// WAL that PostgreSQL keeps because of the slot, in bytes; `None` while PostgreSQL does not answer.
    pub retained_wal_bytes: Option<u64>,
    /// The problem that is being retried at the moment, if there is one.
    pub problem: Option<Problem>,
    /// The work of the broker, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerStatus>,
}

/// Serialises a position, as null while there is none.
mod known {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use walvec_model::Lsn;

    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        (*lsn != Lsn::ZERO).then_some(lsn).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        Ok(Option::<Lsn>::deserialize(deserializer)?.unwrap_or_default())
    }
}

impl Status {
    /// Returns the rows that the snapshot has copied, and those that PostgreSQL estimates it has to copy, summed over
    /// all collections.
    #[must_use]
    pub fn snapshot_rows(&self) -> (u64, u64) {
        let sum = |rows: fn(&CollectionStatus) -> u64| self.collections.iter().map(rows).sum();
        (sum(|collection| collection.snapshot_rows_copied), sum(|collection| collection.snapshot_rows_estimated))
    }
}

/// The records and partitions of a pipeline behind a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// The consumer group, for stages that read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Records that the broker has acknowledged since the start.
    pub produced: u64,
    /// Records read since the start.
    pub consumed: u64,
    /// How often partitions were assigned or revoked.
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
    /// Records in the partition that have not been read.
    pub lag: u64,
}

/// The pipeline's phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Connecting and checking.
    #[default]
    Starting,
    /// Copying the rows that existed before the slot.
    Snapshot,
    /// Following the stream.
    Streaming,
    /// Shutting down.
    Stopping,
}

/// One collection's part of the status.
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
    /// Points stored at the last count; `None` before the first count, and where no points are stored.
    pub points: Option<u64>,
    /// The time of the last count.
    pub points_counted: Option<Moment>,
    /// About how many of the points an index covers; the others are compared one by one. `None` before the first count,
    /// and where walvec does not build the index.
    #[serde(default)]
    pub points_indexed: Option<u64>,
    /// Texts embedded since [`Status::counted_since`].
    pub embeddings_computed: u64,
    /// Vectors reused because the text had not changed, since [`Status::counted_since`].
    pub embeddings_reused: u64,
    /// Texts among those embedded that were longer than the model reads, so that their ends are not found, since
    /// [`Status::counted_since`].
    #[serde(default)]
    pub texts_cut: u64,
    /// Parked rows: those that could not be processed.
    pub dead_letters: u64,
    /// The newest parked rows, the newest first, at most [`LATEST_DEAD_LETTERS`].
    #[serde(default)]
    pub latest_dead_letters: Vec<DeadLetter>,
    /// Why its table is not followed at present; `None` while it is.
    #[serde(default)]
    pub set_aside: Option<SetAside>,
    /// How far its table has been read again concurrently with the stream, if that is running or waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_again: Option<ReadAgain>,
}

/// The progress of a table that is read again while the stream goes on, because it was altered or is new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAgain {
    /// Rows that were read.
    pub rows: u64,
    /// How many rows there are by the server's statistics, if they say.
    pub rows_estimated: Option<u64>,
}

/// Why a table is not followed while the others are. Its points stay as they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The code of the error that would stop walvec if there were no other table.
    pub code: String,
    /// The reason in words.
    pub message: String,
    /// What to do. walvec then follows the table again by itself.
    pub remedy: String,
}

/// How many parked rows the status shows.
pub const LATEST_DEAD_LETTERS: usize = 20;

/// A transient error that is being retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The part that fails, for example `source`, `embedder` or `sink`.
    pub part: String,
    /// The error.
    pub message: String,
    /// What to do, if anything helps.
    pub remedy: Option<String>,
    /// Attempts so far.
    pub attempts: u64,
}
