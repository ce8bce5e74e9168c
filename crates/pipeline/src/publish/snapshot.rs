//! Writes the rows that existed before the slot, and the mark at their end.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use walvec_broker::wire::{ChangeContext, SnapshotEnd, Sweep};
use walvec_capture::Snapshot;
use walvec_model::{Change, Lsn, Op, RowKey, TableName};

use super::topic_writer::Oversized;
use super::{PublishSession, PublisherConfig};
use crate::error::PipelineError;
use crate::observe::metrics::count_changes;
use crate::observe::status::Phase;
use crate::shared::Shared;
use crate::source::snapshot::{abandon_slot, prepare_source};
use crate::source::watch;
use crate::state::dead_letters::DeadLetter;
use crate::state::records::{Checkpoint, SnapshotState};
use crate::writer::{ParkedRows, TOO_LARGE};

impl PublishSession<'_> {
    /// Writes a whole snapshot to the topics and returns the checkpoint at which the stream continues.
    pub(super) async fn take_snapshot(
        &mut self,
        mut checkpoint: Checkpoint,
        drop_slot: bool,
    ) -> Result<Checkpoint, PipelineError> {
        // Stored before the slot is created: without this note, the slot would look like that of another walvec.
        checkpoint.snapshot = SnapshotState::Copying;
        self.store.save_checkpoint(&checkpoint)?;
        let shared = self.shared;
        let prepared = prepare_source(&self.source, self.store, drop_slot);
        checkpoint.publication = shared.or_stop(prepared).await?;
        shared.or_stop(self.announce(&checkpoint)).await?;

        let mut snapshot = shared.or_stop(async { Ok(self.source.begin_snapshot().await?) }).await?;
        let position = snapshot.position();
        let context = ChangeContext {
            generation: checkpoint.generation,
            committed_at: SystemTime::now(),
            xid: None,
            snapshot: true,
        };
        let copied = self.copy(&mut snapshot, &context).await;
        let closed = snapshot.close().await;
        let newest = match copied {
            Ok(newest) => newest,
            Err(error) => {
                abandon_slot(&self.source).await;
                return Err(error);
            }
        };
        closed?;
        let unfollowed = self.source.unfollowed();
        for table in self.tables.clone().into_iter().filter(|table| !unfollowed.contains(&table.name)) {
            let generation = checkpoint.generation;
            let (table, sweep, barrier) = (table.name.clone(), Sweep::Generations, Vec::new());
            let end = SnapshotEnd { table, position, generation, sweep, barrier };
            // Tables that are only looked up are not copied.
            if self.topic_writer.end_snapshot(&end).await? {
                self.forget_too_large(&end).await?;
                tracing::info!(table = %end.table, "snapshot complete");
            }
        }
        checkpoint.snapshot = SnapshotState::Done;
        checkpoint.applied = position.commit_lsn;
        checkpoint.last_commit = Lsn::ZERO;
        checkpoint.written_to = Some(newest);
        checkpoint.written = self.topic_writer.written();
        self.store.save_checkpoint(&checkpoint)?;
        self.shared.telemetry.applied(checkpoint.applied);
        Ok(checkpoint)
    }

    async fn announce(&self, checkpoint: &Checkpoint) -> Result<(), PipelineError> {
        let estimates = self.source.estimate_rows().await?;
        let telemetry = &self.shared.telemetry;
        telemetry.phase(Phase::Snapshot);
        telemetry.all_well();
        telemetry.generation(checkpoint.generation);
        for (index, (_, table)) in self.config.collections.iter().enumerate() {
            let rows = estimates.iter().find(|(found, _)| found == table).map_or(0, |(_, rows)| *rows);
            telemetry.collection(index, |status| {
                status.snapshot_rows_estimated = rows;
                status.snapshot_rows_copied = 0;
            });
        }
        Ok(())
    }

    /// Copies all rows, and returns the position as of which the newest were read: a table that is rewritten during the
    /// copy is read again later.
    async fn copy(&mut self, snapshot: &mut Snapshot, context: &ChangeContext) -> Result<Lsn, PipelineError> {
        let shared = self.shared;
        shared.or_stop(watch::begun(&self.source, self.store, snapshot.position())).await?;
        let mut newest = snapshot.position().commit_lsn;
        while let Some(rows) = shared.or_stop(async { Ok(snapshot.next().await?) }).await? {
            newest = rows.iter().map(|row| row.position.commit_lsn).fold(newest, Lsn::max);
            // The broker's client accepts nothing while its buffer is full, for example because the broker is away.
            shared.or_stop(self.write_rows(rows, context)).await?;
            self.topic_writer.cut();
            self.topic_writer.acknowledged()?;
        }
        self.topic_writer.drain_or_stop().await?;
        Ok(newest)
    }

    /// Writes rows of a snapshot, or rows that were read again.
    pub(super) async fn write_rows(&mut self, rows: Vec<Change>, context: &ChangeContext) -> Result<(), PipelineError> {
        count_changes(&rows);
        // The truncate at the beginning of a table is not a row.
        let count = rows.iter().filter(|row| row.op != Op::Truncate).count();
        let table = rows.first().map(|row| row.table.name.clone());
        for row in rows {
            self.put(row, context, None).await?;
        }
        for (index, (_, shown)) in self.config.collections.iter().enumerate() {
            if table.as_ref() == Some(shown) {
                self.shared.telemetry.collection(index, |status| status.snapshot_rows_copied += count as u64);
            }
        }
        Ok(())
    }

    /// Writes one change. A row whose record is too large is parked. A newer version that fits clears it.
    pub(super) async fn put(
        &mut self,
        change: Change,
        context: &ChangeContext,
        traceparent: Option<&str>,
    ) -> Result<(), PipelineError> {
        let table = change.table.name.clone();
        let mut replaced = self.too_large_of(&change);
        // Only a snapshot has inserts with missing values.
        let parked = match &change.op {
            Op::Insert { new } if new.is_partial() => {
                self.park(&change, "E_TOO_LARGE", TOO_LARGE, context).await?;
                change.key()
            }
            _ => match self.topic_writer.send(change, context, traceparent).await? {
                Some(Oversized { change, error }) if change.key().is_some() => {
                    self.park(&change, error.code(), &error.to_string(), context).await?;
                    change.key()
                }
                Some(Oversized { error, .. }) => return Err(error.into()),
                None => None,
            },
        };
        if parked.is_some() {
            replaced.retain(|key| Some(key) != parked.as_ref());
            self.too_large.entry(table.clone()).or_default().extend(parked);
            self.show_too_large()?;
        }
        self.take_back(&table, &replaced).await
    }

    /// Clears these rows: newer versions of them are on their way to the topics, or the rows are gone.
    async fn take_back(&mut self, table: &TableName, replaced: &[RowKey]) -> Result<(), PipelineError> {
        if replaced.is_empty() {
            return Ok(());
        }
        // Deliver first. If a crash came between, a partial update would be completed from the version before the
        // parked one.
        self.topic_writer.deliver().await?;
        for (collection, _) in self.config.collections.iter().filter(|(_, shown)| shown == table) {
            self.shared.letters.update(collection, &[], replaced).await?;
        }
        if let Some(keys) = self.too_large.get_mut(table) {
            keys.retain(|key| !replaced.contains(key));
        }
        self.show_too_large()
    }

    /// Clears rows at the end of a snapshot: those that it did not park again fit into a record, or are gone.
    pub(super) async fn forget_too_large(&mut self, end: &SnapshotEnd) -> Result<(), PipelineError> {
        let is_of_before = |letter: &DeadLetter| match end.sweep {
            Sweep::Generations => letter.generation < end.generation,
            Sweep::Older => letter.position < end.position,
        };
        let mut gone = Vec::new();
        for (collection, _) in self.config.collections.iter().filter(|(_, shown)| *shown == end.table) {
            let stale = letters(self.shared, collection)?.into_iter().filter(is_of_before);
            gone.extend(stale.map(|letter| RowKey::new(letter.key)));
        }
        self.take_back(&end.table, &gone).await
    }

    /// Shows the rows that capture itself has parked in the status.
    pub(super) fn show_too_large(&self) -> Result<(), PipelineError> {
        for (index, (collection, _)) in self.config.collections.iter().enumerate() {
            let parked = ParkedRows::read(self.shared.letters.as_ref(), collection)?;
            self.shared.telemetry.collection(index, |status| parked.show_in(status));
        }
        Ok(())
    }

    /// Returns the parked rows that this change completes or removes.
    fn too_large_of(&self, change: &Change) -> Vec<RowKey> {
        let Some(keys) = self.too_large.get(&change.table.name) else { return Vec::new() };
        match &change.op {
            Op::Truncate => keys.iter().cloned().collect(),
            Op::Insert { .. } | Op::Delete { .. } => {
                change.key().filter(|key| keys.contains(key)).into_iter().collect()
            }
            Op::Update { old_key, .. } => {
                let both = old_key.clone().into_iter().chain(change.key());
                both.filter(|key| keys.contains(key)).collect()
            }
        }
    }

    /// Parks a row that is too large, for each collection that shows its table.
    async fn park(
        &self,
        change: &Change,
        code: &'static str,
        reason: &str,
        context: &ChangeContext,
    ) -> Result<(), PipelineError> {
        let Some(key) = change.key() else { return Ok(()) };
        tracing::warn!(table = %change.table.name, %key, code, "row parked: {reason}");
        for (collection, _) in self.config.collections.iter().filter(|(_, table)| *table == change.table.name) {
            let letter = DeadLetter {
                collection: collection.clone(),
                table: change.table.name.to_string(),
                key: key.values().to_vec(),
                position: change.position,
                generation: context.generation,
                place: None,
                code: code.to_owned(),
                reason: reason.to_owned(),
                dropped: false,
            };
            self.shared.letters.update(collection, &[letter], &[]).await?;
        }
        Ok(())
    }
}

/// Returns the rows that were parked because their record was too large.
pub(super) fn too_large(
    config: &PublisherConfig,
    shared: &Shared,
) -> Result<BTreeMap<TableName, HashSet<RowKey>>, PipelineError> {
    let mut found: BTreeMap<TableName, HashSet<RowKey>> = BTreeMap::new();
    for (collection, table) in &config.collections {
        let keys = letters(shared, collection)?.into_iter().map(|letter| RowKey::new(letter.key));
        found.entry(table.clone()).or_default().extend(keys);
    }
    Ok(found)
}

/// Returns the dead letters of a collection.
fn letters(shared: &Shared, collection: &str) -> Result<Vec<DeadLetter>, PipelineError> {
    let mut found = Vec::new();
    shared.letters.each(collection, &mut |letter| found.push(letter))?;
    Ok(found)
}
