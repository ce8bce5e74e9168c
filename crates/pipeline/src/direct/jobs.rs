//! Jobs that run concurrently with the stream: backfill, repair, resync, and tables that were altered.

use walvec_model::{Generation, PointId, Position, TableName};

use super::follow::Follower;
use crate::error::{PipelineError, Refusal, Resync};
use crate::observe::trace;
use crate::source::gap;
use crate::source::reread::{JobSpec, JobStep, QueuedJob, RunningJob};
use crate::writer::{Batch, Purpose};

impl Follower<'_> {
    /// Stops rows of a table that is being read again from being completed from their stored points: the job leaves newer
    /// rows alone, so it would not correct a value that came from an outdated point.
    pub(super) fn distrust_stored(&self, batches: &mut [(usize, Batch)]) {
        let Some(active) = &self.active else { return };
        let concerned = |index: usize| active.concerns(&self.run.collections.writers[index].collection.table);
        batches.iter_mut().filter(|(index, _)| concerned(*index)).for_each(|(_, batch)| batch.distrust_stored());
    }

    /// Returns the table of a job; `None` for a resync, which reads all tables.
    pub(super) fn table_of(&self, job: &JobSpec) -> Option<TableName> {
        match job {
            JobSpec::Resync { .. } => None,
            JobSpec::Backfill { table, .. } | JobSpec::Altered { table, .. } => Some(table.clone()),
            JobSpec::Repair { collection, .. } => {
                let index = self.run.collections.writer_of(collection)?;
                Some(self.run.collections.writers[index].collection.table.clone())
            }
        }
    }

    /// Begins a job. A job that cannot be done ends at once.
    pub(super) async fn begin(&mut self, order: QueuedJob) -> Result<(), PipelineError> {
        if let JobSpec::Resync { may_sweep_most } = order.job {
            return self.resync(order, may_sweep_most).await;
        }
        let is_known = |table: &TableName| {
            self.run.collections.is_aside(table) || !self.run.collections.writers_of(table).is_empty()
        };
        let Some(table) = self.table_of(&order.job).filter(is_known) else {
            let what = "it is not part of the configuration that is running".to_owned();
            refuse(order, what, "name a table or a collection of the configuration");
            return Ok(());
        };
        if self.run.collections.is_aside(&table) {
            let what = format!("table {table} is not followed at present; its points stay as they are");
            refuse(order, what, "walvec status");
            return Ok(());
        }
        if let JobSpec::Repair { collection, points, .. } = &order.job
            && !points.is_empty()
            && let Some(index) = self.run.collections.writer_of(collection)
            && let Err(error) = self.remove(index, points).await
        {
            self.run.interrupted = Some(order);
            return Err(error);
        }
        self.active = Some(RunningJob::begin(self.source, &self.run.shared, order, table));
        Ok(())
    }

    /// Has the next session read all tables again. If points of the last snapshot wait for an operator's decision and
    /// `may_sweep_most` gives it, removes those points instead.
    pub(super) async fn resync(&mut self, order: QueuedJob, may_sweep_most: bool) -> Result<(), PipelineError> {
        if !(may_sweep_most && self.checkpointer.sweep_waits()) {
            let resync = Resync::asked(may_sweep_most);
            self.checkpointer.want(&resync)?;
            order.end(Ok(()));
            return Err(PipelineError::Resync(resync));
        }
        self.drain().await?;
        for writer in self.run.collections.followed() {
            let swept = writer.finish_generation().await?;
            writer.remove_other_tables().await?;
            tracing::warn!(
                collection = writer.collection.name,
                swept,
                "points without a row were removed, as was asked for"
            );
            order.update(|progress| progress.rows += swept);
        }
        self.checkpointer.swept()?;
        self.run.held = None;
        order.end(Ok(()));
        Ok(())
    }

    /// Removes points of a collection. First writes everything in flight, which may have been prepared from these
    /// points.
    pub(super) async fn remove(
        &mut self,
        index: usize,
        points: &[(PointId, Option<Position>)],
    ) -> Result<(), PipelineError> {
        self.drain().await?;
        self.run.collections.writers[index].remove(points).await
    }

    /// Gives a job its turn. The stream goes first, but a stream that never pauses must not block a job for ever: the
    /// job has a turn after each batch.
    pub(super) async fn reread_a_piece(&mut self) -> Result<(), PipelineError> {
        if self.active.is_none()
            && let Ok(order) = self.run.orders.try_recv()
        {
            self.begin(order).await?;
        }
        match self.active.as_mut().and_then(RunningJob::turn_now) {
            Some(turn) => self.reread(turn).await,
            None => Ok(()),
        }
    }

    /// Begins to write the rows that a job has read. Later changes of these rows in the stream wait until they are
    /// written.
    pub(super) async fn reread(&mut self, turn: JobStep) -> Result<(), PipelineError> {
        let rows = match turn {
            JobStep::Write(rows) => rows,
            JobStep::Ended(result) => {
                // The job left the pending rows alone. They must not be completed from points that the job was to
                // replace.
                self.flush().await?;
                self.drain().await?;
                if result.is_ok() {
                    self.sweep().await?;
                }
                if let Some(active) = self.active.take() {
                    active.order().end(result.as_ref().copied());
                }
                return Ok(());
            }
        };
        rows.iter().for_each(|row| self.checkpointer.takes_as_of(row.position.commit_lsn));
        let batches = match self.active.as_ref().map(|active| &active.order().job) {
            Some(JobSpec::Altered { partitions: None, .. }) => self.run.collections.batches(rows, Purpose::Reread),
            Some(JobSpec::Backfill { .. } | JobSpec::Altered { .. }) => {
                self.run.collections.batches(rows, Purpose::Change)
            }
            Some(JobSpec::Repair { collection, .. }) => {
                let index = self.run.collections.writer_of(collection);
                index
                    .map(|index| (index, self.run.collections.writers[index].batch(rows, Purpose::Repair)))
                    .into_iter()
                    .collect()
            }
            Some(JobSpec::Resync { .. }) | None => return Ok(()),
        };
        let rows = batches.iter().map(|(_, batch)| batch.entries.len()).sum();
        self.begin_batches(batches, trace::writing(rows, [])).await
    }

    /// Removes points whose rows an altered table does not have any more. First writes everything pending: it may be
    /// newer versions of rows whose points are older than the position, and which were not read again for that reason.
    pub(super) async fn sweep(&mut self) -> Result<(), PipelineError> {
        let swept = self.active.as_ref().and_then(RunningJob::supersedes);
        let Some((table, position)) = swept.map(|(table, position)| (table.clone(), position)) else { return Ok(()) };
        self.flush().await?;
        self.drain().await?;
        self.checkpointer.takes_as_of(position.commit_lsn);
        if matches!(
            self.active.as_ref().map(|active| &active.order().job),
            Some(JobSpec::Altered { may_sweep_most: false, .. })
        ) {
            self.refuse_to_sweep_most(&table, position).await?;
        }
        for index in self.run.collections.writers_of(&table) {
            let writer = &mut self.run.collections.writers[index];
            // Stored before the sweep: after a crash, no replay explains why these points are gone.
            writer.forget_witnesses_before(position);
            self.checkpointer.note_witnesses(&writer.collection.name, writer.to_remember());
            self.checkpointer.save()?;
            let newest = writer.generation();
            // Points of former generations may wait for an operator's decision.
            let oldest = if self.checkpointer.sweep_waits() { newest } else { Generation::default() };
            writer.sweep_before(position, oldest..=newest).await?;
        }
        self.floors.raise(table.clone(), position);
        if let Some(active) = &self.active {
            active.order().update(|progress| progress.superseded = Some((table, position)));
        }
        Ok(())
    }

    /// Fails if a table that was read again lacks the rows of more than half of a collection's points. Everything is
    /// then read as a new generation, at whose end an operator decides.
    pub(super) async fn refuse_to_sweep_most(
        &self,
        table: &TableName,
        position: Position,
    ) -> Result<(), PipelineError> {
        for index in self.run.collections.writers_of(table) {
            let writer = &self.run.collections.writers[index];
            let (older, all) = writer.count_before(position).await?;
            if older > all / 2 {
                let gap = gap::most_has_gone(&writer.collection.name, table, older, all);
                return Err(PipelineError::Resync(gap.resync()));
            }
        }
        Ok(())
    }
}

/// Ends a job that cannot be done, with the reason.
fn refuse(order: QueuedJob, what: String, remedy: &str) {
    let refusal = Refusal { code: "E_TABLE", what, remedy: remedy.to_owned() };
    order.end(Err(&refusal.into()));
}
