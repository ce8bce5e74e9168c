//! Removes points of a collection in bulk, and counts what would be removed: truncates, ends of snapshots, former tables.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicBool;

use walvec_broker::wire::{SnapshotEnd, Sweep};
use walvec_model::{Generation, PointId, Position, Provenance, StoredPoint, TableName};
use walvec_sink::{Generations, Write};

use super::{SCROLL_POINTS, Writer};
use crate::error::PipelineError;
use crate::state::dead_letters::{DeadLetter, Place};
use crate::writer::known::FOREIGN;

impl Writer {
    /// Removes points and dead letters from before a truncate that was read at `place`.
    ///
    /// At this moment, other workers may be parking rows of other partitions. They reach the same truncate later,
    /// unless another program has written it: that one has waited until they had read so far.
    pub(crate) async fn truncate_before(
        &mut self,
        position: Position,
        of: Generation,
        place: &Place,
    ) -> Result<(), PipelineError> {
        let is_foreign = of == FOREIGN;
        // Other programs have no generations.
        let of = Generation::default()..=if is_foreign { Generation(u64::MAX) } else { of };
        self.delete_older(position, &of).await?;
        if is_foreign {
            // By now, other workers have parked older rows too.
            self.shared.letters.refresh().await?;
        }
        let is_here = |at: &Place| at.topic == place.topic && at.partition == place.partition;
        let is_older = |letter: &DeadLetter| of.contains(&letter.generation) && letter.position < position;
        let is_gone =
            |letter: &DeadLetter| is_older(letter) && (is_foreign || letter.place.as_ref().is_none_or(is_here));
        self.clear_letters(is_gone).await
    }

    /// Removes the table's points and dead letters.
    pub(crate) async fn truncate(&mut self) -> Result<(), PipelineError> {
        self.as_owner(|sink, table| async move { sink.delete_table(table).await }).await?;
        self.witnesses().emptied();
        self.late.removed(None);
        self.clear_letters(|_| true).await
    }

    /// Removes points that still have the reported version; `None`: points that walvec did not write.
    pub(crate) async fn remove(&self, points: &[(PointId, Option<Position>)]) -> Result<(), PipelineError> {
        // A batch of the sink names each point once, and a report may name one twice.
        let ids: BTreeSet<PointId> = points.iter().map(|(id, _)| *id).collect();
        let stored = self.retrieve(&ids.into_iter().collect::<Vec<_>>()).await?;
        let reported: HashSet<(PointId, Option<Position>)> = points.iter().copied().collect();
        let version = |point: &StoredPoint| point.provenance.as_ref().map(|provenance| provenance.position);
        let same = stored.into_iter().filter(|point| reported.contains(&(point.id, version(point))));
        let deletions: Vec<Write> = same.map(|point| Write::Delete(point.id)).collect();
        self.write_all(&deletions, &AtomicBool::default()).await?;
        let removed: Vec<PointId> = deletions.iter().map(Write::id).collect();
        self.forget_witnesses_among(&removed.iter().copied().collect());
        self.late.removed(Some(&removed));
        Ok(())
    }

    /// Removes the points of every other table. A collection belongs to one table, and a worker that reads topics does
    /// not know which one that was before.
    pub(crate) async fn remove_other_tables(&self) -> Result<(), PipelineError> {
        let ours = self.count_of(&self.collection.table).await?;
        if self.on_sink(|sink, _| async move { sink.count().await }).await? == ours {
            return Ok(());
        }
        let (_, others) = self.stored().await?;
        for table in &others {
            tracing::info!(
                collection = self.collection.name,
                %table,
                "removing the rows of the table that the collection showed before"
            );
            self.remove_table(table).await?;
        }
        Ok(())
    }

    /// Removes the points of another table.
    pub(crate) async fn remove_table(&self, table: &TableName) -> Result<(), PipelineError> {
        self.as_owner(|sink, _| async move { sink.delete_table(table).await }).await
    }

    /// Ends a snapshot that was read through topics.
    pub(crate) async fn end_snapshot(&mut self, end: &SnapshotEnd) -> Result<(), PipelineError> {
        match end.sweep {
            Sweep::Generations => {
                self.begin_generation(end.generation);
                let swept = self.finish_generation().await?;
                tracing::info!(collection = self.collection.name, swept, "snapshot complete");
                self.remove_other_tables().await
            }
            Sweep::Older => self.sweep_before(end.position, Generation::default()..=end.generation).await,
        }
    }

    /// Ends a snapshot: removes points and dead letters that it did not meet, because their rows are gone. Returns how
    /// many points.
    pub(crate) async fn finish_generation(&mut self) -> Result<u64, PipelineError> {
        let generation = self.generation;
        let swept = self.as_owner(|sink, table| async move { sink.sweep(table, generation).await }).await?;
        self.late.swept(generation);
        self.shared.letters.refresh().await?;
        self.clear_letters(|letter| letter.generation < generation).await?;
        Ok(swept)
    }

    /// Ends the reading of a table as it was at `position`: removes older points and dead letters, because their rows
    /// are gone.
    pub(crate) async fn sweep_before(&mut self, position: Position, of: Generations) -> Result<(), PipelineError> {
        self.forget_witnesses_before(position);
        self.delete_older(position, &of).await?;
        self.late.swept_before(position);
        self.shared.letters.refresh().await?;
        self.clear_letters(|letter| of.contains(&letter.generation) && letter.position < position).await?;
        tracing::info!(collection = self.collection.name, "a table that was altered or rewritten was read again");
        Ok(())
    }

    async fn delete_older(&self, position: Position, of: &Generations) -> Result<(), PipelineError> {
        let mut from = None;
        loop {
            let next = self.as_owner(|sink, table| {
                let of = of.clone();
                async move { sink.delete_older(table, position, of, from).await }
            });
            from = next.await?;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// Returns how many points the end of the present generation's snapshot would remove, including those of other
    /// `tables`, and how many points there are.
    pub(crate) async fn count_swept(&self, tables: &BTreeSet<TableName>) -> Result<(u64, u64), PipelineError> {
        let generation = self.generation;
        let mut swept = self.as_owner(|sink, table| async move { sink.count_older(table, generation).await }).await?;
        for former in tables.iter().filter(|table| **table != self.collection.table) {
            swept += self.count_of(former).await?;
        }
        let all = self.on_sink(|sink, _| async move { sink.count().await }).await?;
        Ok((swept, all))
    }

    /// Returns how many of walvec's points are older than `position`, and how many there are. Reads the whole
    /// collection.
    pub(crate) async fn count_before(&self, position: Position) -> Result<(u64, u64), PipelineError> {
        let (mut older, mut all) = (0, 0);
        self.see_stored(|provenance| {
            all += 1;
            older += u64::from(provenance.position < position);
        })
        .await?;
        Ok((older, all))
    }

    /// Returns how many points of a table there are.
    async fn count_of(&self, table: &TableName) -> Result<u64, PipelineError> {
        let every = Generation(u64::MAX);
        self.on_sink(|sink, _| async move { sink.count_older(table, every).await }).await
    }

    /// Returns the newest generation of the stored points, and the other tables that points belong to. Reads the whole
    /// collection.
    pub(crate) async fn stored(&self) -> Result<(Generation, BTreeSet<TableName>), PipelineError> {
        let (mut newest, mut tags) = (Generation::default(), BTreeSet::new());
        self.see_stored(|provenance| {
            newest = newest.max(provenance.generation);
            if !tags.contains(&provenance.table) {
                tags.insert(provenance.table);
            }
        })
        .await?;
        // Tags are compared, not tables: a tag does not show where a schema with a dot in its name ends.
        tags.remove(&Provenance::table_tag(&self.collection.table));
        Ok((newest, tags.iter().map(|tag| Provenance::tagged_table(tag)).collect()))
    }

    /// Calls `see` with the provenance of each of walvec's points. Reads the whole collection.
    async fn see_stored(&self, mut see: impl FnMut(Provenance)) -> Result<(), PipelineError> {
        let mut from = None;
        loop {
            let page = self.on_sink(|sink, _| async move { sink.scroll(from, SCROLL_POINTS).await }).await?;
            page.points.into_iter().filter_map(|point| point.provenance).for_each(&mut see);
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
