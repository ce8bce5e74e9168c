//! The metrics: their names and what they mean, and the counters.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use tokio::time::Instant;
use walvec_model::{Change, Op, TableName};

/// The time from the commit timestamp in the WAL until the row is durable in the sink, in seconds, per row.
pub const COMMIT_TO_SEARCHABLE: &str = "walvec_commit_to_searchable_seconds";
/// The time from the commit timestamp in the WAL until the broker has acknowledged the row, in seconds, per row.
pub const COMMIT_TO_PUBLISHED: &str = "walvec_commit_to_published_seconds";
/// The time spent in one stage for one batch, or for one call's part of it, in seconds.
pub const STAGE_SECONDS: &str = "walvec_stage_seconds";

/// Counts snapshots that closed a gap, by the gap's code.
pub(crate) const RESYNCS: &str = "walvec_resyncs_total";

pub(super) const LAG_BYTES: &str = "walvec_replication_lag_bytes";
pub(super) const RETAINED_BYTES: &str = "walvec_retained_wal_bytes";

/// The value of a gauge that is not known. Exporters of the metrics leave it out.
pub const UNKNOWN: f64 = f64::NAN;

/// Gives the metrics their help texts. Call once, after the recorder is installed.
pub fn describe() {
    describe_counter!("walvec_changes_total", "Changes read from the stream or the snapshot, by table and operation.");
    describe_counter!(
        "walvec_embeddings_total",
        "Vectors computed, and vectors reused because the text was unchanged."
    );
    describe_counter!(
        "walvec_texts_cut_total",
        "Texts that were longer than the model reads, and were embedded by their beginnings, by table."
    );
    describe_counter!("walvec_points_written_total", "Points written or deleted, durably.");
    describe_counter!(
        "walvec_points_overtaken_total",
        "Points that a request had set back which arrived after newer ones."
    );
    describe_gauge!("walvec_dead_letters", "Parked rows: those that could not be processed.");
    describe_gauge!("walvec_followed", "1 while the table is followed, 0 while it cannot be and the others are.");
    describe_gauge!(
        LAG_BYTES,
        "WAL between what can be found and the server's position; absent while it is not known."
    );
    describe_gauge!(
        RETAINED_BYTES,
        "WAL that the slot makes PostgreSQL keep; absent while PostgreSQL cannot be asked."
    );
    describe_gauge!("walvec_snapshot_rows", "Rows of the current or last snapshot, by table and state.");
    describe_counter!(RESYNCS, "Times that all tables were read again because of a gap, by its code.");
    describe_gauge!("walvec_up", "1 while the part works, 0 while its error is being retried.");
    describe_histogram!(COMMIT_TO_SEARCHABLE, "Commit timestamp in the WAL to durable in the sink, per row.");
    describe_histogram!(COMMIT_TO_PUBLISHED, "Commit timestamp in the WAL to acknowledged by the broker, per row.");
    describe_counter!("walvec_records_produced_total", "Records that the broker has acknowledged.");
    describe_counter!("walvec_records_consumed_total", "Records read from topics, by topic.");
    describe_counter!("walvec_rebalances_total", "How often partitions of the consumer group have come or gone.");
    describe_gauge!("walvec_consumer_lag_records", "Records that wait in a partition, by topic and partition.");
    describe_histogram!(STAGE_SECONDS, "Time spent in one stage for one batch, or one call's part of it.");
}

/// The stages that are timed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimedStage {
    Retrieve,
    RowSource,
    Relate,
    LookUp,
    Render,
    Embed,
    Write,
}

impl TimedStage {
    const fn label(self) -> &'static str {
        match self {
            Self::Retrieve => "retrieve",
            Self::RowSource => "refetch",
            Self::Relate => "relate",
            Self::LookUp => "look_up",
            Self::Render => "render",
            Self::Embed => "embed",
            Self::Write => "write",
        }
    }
}

/// Converts to the float that Prometheus requires. Above 2^53, precision does not matter.
#[expect(clippy::cast_precision_loss, reason = "a gauge")]
pub(super) const fn as_gauge(value: u64) -> f64 {
    value as f64
}

/// Counts changes as they are read.
pub(crate) fn count_changes(changes: &[Change]) {
    for change in changes {
        let op = match change.op {
            Op::Insert { .. } => "insert",
            Op::Update { .. } => "update",
            Op::Delete { .. } => "delete",
            Op::Truncate => "truncate",
        };
        counter!("walvec_changes_total", "table" => change.table.name.to_string(), "op" => op).increment(1);
    }
}

pub(crate) fn count_embeddings(result: &'static str, count: usize) {
    counter!("walvec_embeddings_total", "result" => result).increment(count as u64);
}

pub(crate) fn count_cut(table: &TableName, texts: usize) {
    counter!("walvec_texts_cut_total", "table" => table.to_string()).increment(texts as u64);
}

/// Counts a record as it is read.
pub(crate) fn count_consumed(topic: &str) {
    counter!("walvec_records_consumed_total", "topic" => topic.to_owned()).increment(1);
}

pub(crate) fn count_written(count: usize) {
    counter!("walvec_points_written_total").increment(count as u64);
}

pub(crate) fn count_overtaken(count: usize) {
    counter!("walvec_points_overtaken_total").increment(count as u64);
}

/// Records the time of a stage, from its creation until it is dropped.
pub(crate) struct Timer(TimedStage, Instant);

impl Timer {
    pub(crate) fn start(stage: TimedStage) -> Self {
        Self(stage, Instant::now())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        histogram!(STAGE_SECONDS, "stage" => self.0.label()).record(self.1.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
