//! Reads rows again while the stream goes on: a table or a part of it, because a user asked for it or because it was
//! altered, or single rows that turned out to be wrong.
//!
//! The rows come from a snapshot that has a place among the changes of the stream (`Source::begin_reread`). From before
//! the snapshot is taken until the last row is written, the keys that the stream touches are remembered with their
//! positions. A row that was changed or deleted after the snapshot is left as the stream has it. So no outdated row is
//! written and no deleted row comes back, however late a row is written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use walvec_capture::{CaptureError, Selection};
use walvec_model::{Change, KeyDigest, Op, PointId, Position, RowKey, TableName};

use crate::error::PipelineError;
use crate::error::policy::{During, Policy};
use crate::port::SourcePort;
use crate::retry::Retry;
use crate::shared::Shared;

/// How many rows are begun before the stream has its turn again: about a third of a second's work for a model that runs
/// here.
pub(crate) const PIECE_ROWS: usize = 32;

/// How many keys may be remembered, in about 250 MB. A table that changes faster than that while it is read has to be
/// read in parts.
const MAX_TOUCHED: usize = 4_000_000;

/// What to read again.
#[derive(Clone, Debug)]
pub enum JobSpec {
    /// Rows of a table, into every collection that shows it.
    Backfill {
        /// The table.
        table: TableName,
        /// A condition in SQL; only the rows that meet it are read.
        filter: Option<String>,
    },
    /// All tables, as a new generation.
    Resync {
        /// Whether more than half of a collection's points may be removed because their rows are gone.
        may_sweep_most: bool,
    },
    /// A table that the catalogue describes differently than before. The stream does not bring what that means for its
    /// rows.
    Altered {
        /// The table.
        table: TableName,
        /// The added partitions, if nothing else has happened. `None`: read the whole table, and remove what is gone
        /// from it.
        partitions: Option<Vec<u32>>,
        /// Whether more than half of a collection's points may be removed because their rows are gone.
        may_sweep_most: bool,
    },
    /// Rows and points of one collection that turned out to be wrong.
    Repair {
        /// The collection.
        collection: String,
        /// Keys of rows to read, embed and write again, whatever is stored.
        rows: Vec<RowKey>,
        /// Points to remove, if they still have this version; `None`: if walvec did not write them.
        points: Vec<(PointId, Option<Position>)>,
    },
}

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that were read again.
    pub rows: u64,
    /// How many rows there are, where that is known: from the server's statistics for a table, exactly for single rows.
    pub rows_estimated: Option<u64>,
    /// The position as of which the table was read whole. Nothing that the stream brings of it from before counts any
    /// more.
    pub superseded: Option<(TableName, Position)>,
    /// The result, once the job has ended.
    pub ended: Option<Result<(), Ended>>,
}

/// Why a job ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The error's code.
    pub code: String,
    /// The error in words.
    pub message: String,
    /// What to type, if anything helps.
    pub remedy: Option<String>,
}

/// The position from which the stream counts, for tables that were read whole because they were altered.
///
/// A TRUNCATE of a partition is not streamed. The rows that it removed were streamed, and come again when the stream is
/// replayed.
#[derive(Debug, Default)]
pub(crate) struct Floors(HashMap<TableName, Position>);

impl Floors {
    pub(crate) fn new(floors: impl IntoIterator<Item = (TableName, Position)>) -> Self {
        Self(floors.into_iter().collect())
    }

    pub(crate) fn raise(&mut self, table: TableName, position: Position) {
        self.0.insert(table, position);
    }

    /// Returns whether a change says nothing any more, because of a stored floor or the active job.
    pub(crate) fn cover(&self, change: &Change, active: Option<&RunningJob>) -> bool {
        self.of(&change.table.name, active).is_some_and(|floor| change.position < floor)
    }

    /// Raises the positions of rows that were read just now to that of their table's reading. Otherwise the sweep at
    /// its end would remove them.
    pub(crate) fn lift(&self, rows: &mut [Change], active: Option<&RunningJob>) {
        for row in rows {
            row.position = row.position.max(self.of(&row.table.name, active).unwrap_or_default());
        }
    }

    fn of(&self, table: &TableName, active: Option<&RunningJob>) -> Option<Position> {
        let reading = active.and_then(RunningJob::supersedes).filter(|(reading, _)| *reading == table);
        self.0.get(table).copied().max(reading.map(|(_, position)| position))
    }
}

/// A job with its progress.
pub(crate) struct QueuedJob {
    pub(crate) job: JobSpec,
    progress: watch::Sender<Progress>,
}

impl QueuedJob {
    /// Creates a job that the pipeline gives to itself.
    pub(crate) fn unasked(job: JobSpec) -> Self {
        Self { job, progress: watch::channel(Progress::default()).0 }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    pub(crate) fn end(&self, result: Result<(), &PipelineError>) {
        let ended = result.map_err(|error| Ended {
            code: error.code().to_owned(),
            message: error.to_string(),
            remedy: error.remedy(),
        });
        self.update(|progress| progress.ended = Some(ended));
    }
}

/// Gives jobs to a pipeline. It does one at a time while it follows the stream.
#[derive(Clone)]
pub struct Jobs(mpsc::Sender<QueuedJob>);

impl Jobs {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<QueuedJob>) {
        let (orders, queue) = mpsc::channel(1);
        (Self(orders), queue)
    }

    /// Gives a job to the pipeline, and returns its progress. When the pipeline ends, the receiver is closed.
    ///
    /// # Errors
    /// [`Busy`] if another job is waiting already, or the pipeline has ended.
    pub fn give(&self, job: JobSpec) -> Result<watch::Receiver<Progress>, Busy> {
        let (progress, shown) = watch::channel(Progress::default());
        self.0.try_send(QueuedJob { job, progress }).map(|()| shown).map_err(|_| Busy)
    }
}

/// The pipeline accepts no job at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another job is waiting already")]
pub struct Busy;

/// The keys that the stream has touched since the job began, with the positions of the changes.
#[derive(Debug, Default)]
pub(crate) struct KeysSeenInStream {
    keys: HashMap<KeyDigest, Position>,
    truncated: Option<Position>,
}

impl KeysSeenInStream {
    pub(crate) fn note(&mut self, change: &Change) {
        if change.op == Op::Truncate {
            self.keys.clear();
            self.truncated = Some(change.position);
        }
        if let Op::Update { old_key: Some(old_key), .. } = &change.op {
            self.keys.insert(old_key.digest(), change.position);
        }
        if let Some(key) = change.key() {
            self.keys.insert(key.digest(), change.position);
        }
    }

    /// Returns whether the stream has brought something newer than a row that was read at `position`.
    pub(crate) fn is_newer(&self, key: &RowKey, position: Position) -> bool {
        self.truncated.is_some_and(|truncated| truncated > position)
            || self.keys.get(&key.digest()).is_some_and(|touched| *touched > position)
    }
}

/// A message from the task that reads the rows of a job.
enum Read {
    /// The reading began. The rows that follow are those of this position only.
    Began(Position),
    Rows(Vec<Change>),
}

type ReadResult = Result<Read, PipelineError>;

/// A job that is running.
pub(crate) struct RunningJob {
    order: QueuedJob,
    table: TableName,
    touched: KeysSeenInStream,
    /// Rows that were read and not written yet.
    waiting: VecDeque<Change>,
    /// The position as of which the rows were read.
    position: Position,
    chunks: mpsc::Receiver<ReadResult>,
    reader: AbortOnDropHandle<()>,
}

/// The next step of an active job.
pub(crate) enum JobStep {
    /// Rows to write now, of one table.
    Write(Vec<Change>),
    /// Everything has been read and handed out, or the job failed.
    Ended(Result<(), PipelineError>),
}

impl RunningJob {
    /// Begins to read. From now on, every change of the stream must be passed to [`note`](Self::note).
    pub(crate) fn begin(source: &Arc<dyn SourcePort>, shared: &Shared, order: QueuedJob, table: TableName) -> Self {
        let rows = match &order.job {
            JobSpec::Backfill { filter, .. } => Selection::Where(filter.clone()),
            JobSpec::Altered { partitions: Some(partitions), .. } => Selection::Partitions(partitions.clone()),
            JobSpec::Altered { partitions: None, .. } => Selection::Where(None),
            JobSpec::Repair { rows, .. } => Selection::Keys(rows.clone()),
            JobSpec::Resync { .. } => Selection::Where(None),
        };
        let (chunks_in, chunks) = mpsc::channel(1);
        let reader = JobReader {
            source: Arc::clone(source),
            shared: shared.clone(),
            table: table.clone(),
            rows,
            progress: order.progress.clone(),
            chunks: chunks_in,
        };
        Self::reading(order, table, chunks, reader.read())
    }

    fn reading(
        order: QueuedJob,
        table: TableName,
        chunks: mpsc::Receiver<ReadResult>,
        reader: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let reader = AbortOnDropHandle::new(tokio::spawn(reader));
        let (touched, waiting, position) = Default::default();
        Self { order, table, touched, waiting, position, chunks, reader }
    }

    /// Returns the table that is read whole, and the position as of which. What is older is superseded.
    pub(crate) fn supersedes(&self) -> Option<(&TableName, Position)> {
        matches!(self.order.job, JobSpec::Altered { partitions: None, .. }).then_some((&self.table, self.position))
    }

    pub(crate) const fn order(&self) -> &QueuedJob {
        &self.order
    }

    /// Returns the order, to begin again in the next session; `None` for an altered table, which that session finds by
    /// itself.
    pub(crate) fn into_order(self) -> Option<QueuedJob> {
        (!matches!(self.order.job, JobSpec::Altered { .. })).then_some(self.order)
    }

    /// Returns whether the job reads rows of this table.
    pub(crate) fn concerns(&self, table: &TableName) -> bool {
        self.table == *table
    }

    /// Notes a change of the stream.
    pub(crate) fn note(&mut self, change: &Change) {
        if self.concerns(&change.table.name) {
            self.touched.note(change);
        }
    }

    /// Waits for the next step. Dropping the future loses nothing.
    pub(crate) async fn turn(&mut self) -> JobStep {
        loop {
            if self.touched.keys.len() > MAX_TOUCHED {
                return JobStep::Ended(Err(PipelineError::TooFast { table: self.table.clone() }));
            }
            if !self.waiting.is_empty() {
                let count = self.waiting.len().min(PIECE_ROWS);
                let piece: Vec<Change> = self.waiting.drain(..count).collect();
                self.order.update(|progress| progress.rows += count as u64);
                let touched = &self.touched;
                let is_current =
                    |change: &Change| change.key().is_some_and(|key| !touched.is_newer(&key, change.position));
                return JobStep::Write(piece.into_iter().filter(is_current).collect());
            }
            match self.chunks.recv().await {
                Some(Ok(Read::Began(position))) => self.position = position,
                Some(Ok(Read::Rows(rows))) => self.waiting = rows.into(),
                Some(Err(error)) => return JobStep::Ended(Err(error)),
                None => return JobStep::Ended(self.end_of_reading().await),
            }
        }
    }

    /// Waits for the end of the task that reads, which has closed its channel. A task that panicked closes it too, and has not
    /// read everything.
    async fn end_of_reading(&mut self) -> Result<(), PipelineError> {
        match (&mut self.reader).await {
            Err(error) if error.is_panic() => Err(CaptureError::Closed.into()),
            _ => Ok(()),
        }
    }

    /// Returns the next step, if there is one without waiting.
    pub(crate) fn turn_now(&mut self) -> Option<JobStep> {
        futures::FutureExt::now_or_never(self.turn())
    }
}

/// The task that reads the rows of a job.
struct JobReader {
    source: Arc<dyn SourcePort>,
    shared: Shared,
    table: TableName,
    rows: Selection,
    progress: watch::Sender<Progress>,
    chunks: mpsc::Sender<ReadResult>,
}

impl JobReader {
    /// Reads the rows. After a transient error it starts over, and counts them from zero.
    async fn read(self) {
        let mut retry = Retry::of_job(&self.shared.telemetry, &self.shared.stop);
        loop {
            let rows_estimated = self.estimate().await;
            self.progress.send_replace(Progress { rows_estimated, ..Progress::default() });
            let error = match self.read_once(&mut retry).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let error = match error.policy(During::Job) {
                Policy::Retry => retry.after(error).await.err(),
                Policy::Restart | Policy::Stop => Some(error),
            };
            if let Some(error) = error {
                // If the receiver is gone, no error needs to be reported: the job was dropped.
                let _ = self.chunks.send(Err(error)).await;
                return;
            }
        }
    }

    /// Estimates how many rows there are. The number is only shown, so an error leaves it unknown.
    async fn estimate(&self) -> Option<u64> {
        match &self.rows {
            Selection::Keys(keys) => Some(keys.len() as u64),
            // Not counted: the answer may take as long as reading the rows.
            Selection::Where(Some(_)) | Selection::Partitions(_) => None,
            Selection::Where(None) => {
                let estimates = self.source.estimate_rows().await.ok()?;
                estimates
                    .into_iter()
                    .find(|(name, _)| *name == self.table)
                    .map(|(_, rows)| rows)
                    .filter(|rows| *rows > 0)
            }
        }
    }

    async fn read_once(&self, retry: &mut Retry) -> Result<(), PipelineError> {
        if matches!(&self.rows, Selection::Keys(keys) if keys.is_empty()) {
            return Ok(());
        }
        let mut snapshot = self.source.begin_reread(&self.table, &self.rows).await?;
        if self.chunks.send(Ok(Read::Began(snapshot.position()))).await.is_err() {
            return Ok(());
        }
        while let Some(rows) = snapshot.next().await? {
            retry.succeeded();
            // The truncate at the beginning of a table is left out: the stream brings what is gone.
            let rows = rows.into_iter().filter(|row| row.op != Op::Truncate).collect();
            if self.chunks.send(Ok(Read::Rows(rows))).await.is_err() {
                return Ok(());
            }
        }
        Ok(snapshot.close().await?)
    }
}

/// Returns the next step of the running job; never resolves without one.
pub(crate) async fn step_of(active: &mut Option<RunningJob>) -> JobStep {
    match active {
        Some(active) => active.turn().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
