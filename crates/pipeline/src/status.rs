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
    /// Everything committed up to here can be found. Zero, which is null in JSON, before the first snapshot is complete.
    #[serde(with = "known")]
    pub applied_lsn: Lsn,
    /// The position that PostgreSQL may forget WAL up to; never beyond `applied_lsn`. Null in JSON while there is none.
    #[serde(with = "known")]
    pub confirmed_lsn: Lsn,
    /// The server's position when it was asked last, see `server_asked`. Null in JSON while it was not.
    #[serde(with = "known")]
    pub server_lsn: Lsn,
    /// When the server last said its position and how much WAL it keeps.
    pub server_asked: Option<Moment>,
    /// WAL between `applied_lsn` and `server_lsn`, in bytes; `None` while it is not known.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest commit that was read and cannot be found yet, in milliseconds; 0 when there is none, `None` while it is
    /// not known: before a snapshot is complete, and while nothing can be read.
    pub lag_ms: Option<u64>,
    /// Since when the lag is not known; `None` while it is.
    pub lag_unknown_since: Option<Moment>,
    /// WAL that the slot makes PostgreSQL keep, in bytes; `None` while PostgreSQL cannot be asked.
    pub retained_wal_bytes: Option<u64>,
    /// What is being retried at the moment, if anything.
    pub problem: Option<Problem>,
    /// What goes through the broker, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerStatus>,
}

/// A position that is null as long as there is none.
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
    /// When they were counted last.
    pub points_counted: Option<Moment>,
    /// About how many of the points an index covers; the others are compared one by one. `None` before the first count, and where walvec does
    /// not build the index.
    #[serde(default)]
    pub points_indexed: Option<u64>,
    /// Texts embedded, see [`Status::counted_since`].
    pub embeddings_computed: u64,
    /// Vectors kept because the text had not changed, see [`Status::counted_since`].
    pub embeddings_reused: u64,
    /// Texts among those embedded that were longer than the model reads, so that their ends are not found, see
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
    /// How far the reading of its table has come that goes on beside the stream, or waits for its turn; `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_again: Option<ReadAgain>,
}

/// A table that is read again, because it was altered or is new, while the stream goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadAgain {
    /// Rows that were read.
    pub rows: u64,
    /// How many there are by the server's statistics, if they tell.
    pub rows_estimated: Option<u64>,
}

/// Why a table is not followed, while the others are. Its points stay as they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The code that the error would have, if there were no other table.
    pub code: String,
    /// What is in the way.
    pub message: String,
    /// What to do. The table is followed by itself once that is done.
    pub remedy: String,
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
