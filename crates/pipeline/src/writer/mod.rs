//! The writer of one collection: completes, renders, embeds, writes, parks.
//!
//! There is exactly one writer per collection, and a batch names each key once. Batches that have no key in common may
//! be in flight at the same time ([`Sequencer`](crate::sequencer::Sequencer) enforces that), so writes reach the sink in commit order
//! per key. A row that cannot be processed is parked and never stops other rows. Every other error is either retried
//! without end or ends the pipeline.
//!
//! - [`collection`]: the collection and the components that serve it
//! - [`batch`]: the rows to be written; [`coalesce`](mod@coalesce): the final state of each key inside a batch
//! - [`prepare`]: decides what the rows of a batch must be in the sink
//! - [`complete`]: fills in values that PostgreSQL did not send
//! - [`row_source`]: reads values that PostgreSQL did not send, and rows of looked-up tables
//! - [`looked_up`]: asks for each looked-up row once per batch; [`row_size`]: how many rows are completed at a time
//! - [`known`]: what is stored of the rows, and which of them need a vector, only a new payload, or nothing
//! - [`embed`]: computes the vectors that they need, for one part of the batch per call; [`early`]: begins with those of new rows
//!   while their points are read
//! - [`long`]: texts that are longer than the model reads
//! - [`apply`]: writes their points, in an order that a crash cannot break
//! - [`parked`]: which rows are parked, and their dead letters
//! - [`import`]: points that were read from a topic
//! - [`sweep`]: removes points in bulk: truncates, ends of snapshots, former tables
//! - [`late`]: writes of which a copy may still arrive late
//! - [`restored`]: detects that the collection is an older state of itself
//! - [`gateway`]: calls of the sink, which continue where a limit of the server has stopped them

mod apply;
mod batch;
pub(crate) mod coalesce;
mod collection;
mod complete;
mod early;
mod embed;
mod gateway;
mod import;
pub(crate) mod known;
mod late;
mod long;
pub(crate) mod looked_up;
mod parked;
mod prepare;
mod restored;
pub(crate) mod row_size;
pub(crate) mod row_source;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use walvec_model::{Change, Generation, Op, PointId, Row, RowKey, Table};
use walvec_sink::CollectionId;

use crate::error::PipelineError;
use crate::observe::telemetry::Telemetry;
use crate::shared::{Shared, first_error};
use crate::state::witness::Witnesses;
pub(crate) use batch::{Batch, BatchContext, Purpose, RowFailure};
use coalesce::coalesce;
pub use collection::Collection;
pub(crate) use complete::TOO_LARGE;
pub(crate) use embed::EmbedJob;
pub(crate) use import::ImportedPoint;
use late::LateWrites;
pub(crate) use late::Overtaken;
use long::CutLog;
pub use long::OnLong;
pub(crate) use parked::ParkedRows;
use row_size::RowSize;

/// How many points each request of a scan of the whole collection asks for.
const SCROLL_POINTS: usize = 1000;

/// Runs the writes of several writers concurrently: their collections have nothing in common.
///
/// Runs all of them to the end even if one fails: a write that is abandoned half-way may still arrive later.
pub(crate) async fn all<'w, T, F>(
    dealt: impl IntoIterator<Item = (&'w mut Writer, T)>,
    write: impl Fn(&'w mut Writer, T) -> F,
) -> Result<(), PipelineError>
where
    F: Future<Output = Result<(), PipelineError>>,
{
    let written = join_all(dealt.into_iter().map(|(writer, part)| write(writer, part))).await;
    written.into_iter().fold(Ok(()), first_error)
}

/// Writes one collection.
pub(crate) struct Writer {
    pub(crate) collection: Collection,
    shared: Shared,
    /// The collection's place in the status.
    index: usize,
    generation: Generation,
    parked: ParkedRows,
    witnesses: Mutex<Witnesses>,
    late: LateWrites,
    row_size: RowSize,
    cut_log: Arc<CutLog>,
}

impl Writer {
    pub(crate) fn new(index: usize, collection: Collection, shared: Shared) -> Result<Self, PipelineError> {
        let parked = ParkedRows::read(shared.letters.as_ref(), &collection.name)?;
        let (generation, witnesses, late, row_size, cut_log) = Default::default();
        Ok(Self { collection, shared, index, generation, parked, witnesses, late, row_size, cut_log })
    }

    /// Creates the collection if it does not exist, and returns its id.
    pub(crate) async fn prepare(&self) -> Result<CollectionId, PipelineError> {
        self.on_sink(|sink, _| async move { sink.prepare().await }).await
    }

    /// Returns whether the collection has no points.
    pub(crate) async fn is_empty(&self) -> Result<bool, PipelineError> {
        Ok(self.on_sink(|sink, _| async move { sink.count().await }).await? == 0)
    }

    /// Returns the generation with which points are written.
    pub(crate) const fn generation(&self) -> Generation {
        self.generation
    }

    /// Begins a generation, and forgets the witnesses: [`remember`](Self::remember) will set them, or the collection is
    /// read again as a whole.
    pub(crate) fn begin_generation(&mut self, generation: Generation) {
        self.generation = generation;
        *self.witnesses() = Witnesses::default();
        self.report_dead_letters();
    }

    /// Makes a batch of changes of the present generation.
    pub(crate) fn batch(&self, changes: Vec<Change>, purpose: Purpose) -> Batch {
        let context = Arc::new(BatchContext { generation: self.generation, places: HashMap::new() });
        let has_inserts_only =
            purpose == Purpose::Change && changes.iter().all(|change| matches!(change.op, Op::Insert { .. }));
        Batch { entries: coalesce(changes), purpose, has_inserts_only, context, failed: Vec::new() }
    }

    /// Returns the change with only the columns that the collection uses.
    pub(crate) fn reduced(&self, change: &Change) -> Change {
        let Change { table, position, op } = change;
        let row = |row: &Row| self.collection.transform.reduced(table, row);
        let op = match op {
            Op::Insert { new } => Op::Insert { new: row(new) },
            Op::Update { old_key, new } => Op::Update { old_key: old_key.clone(), new: row(new) },
            Op::Delete { .. } | Op::Truncate => op.clone(),
        };
        Change { table: Arc::clone(table), position: *position, op }
    }

    /// Returns whether the newest version of this row could not be processed.
    pub(crate) fn is_parked(&self, key: &RowKey) -> bool {
        self.parked.contains(key)
    }

    pub(crate) const fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    fn id(&self, table: &Table, key: &RowKey) -> PointId {
        self.collection.transform.point_id(table, key)
    }

    pub(crate) fn report_snapshot(&self, rows: usize) {
        self.shared.telemetry.collection(self.index, |status| status.snapshot_rows_copied += rows as u64);
    }
}

#[cfg(test)]
mod tests;
