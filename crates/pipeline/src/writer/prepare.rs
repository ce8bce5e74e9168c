//! Decides what the rows of a batch must be in the sink: completes them, renders them, and compares them with what is
//! stored.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use walvec_model::{
    Document, Generation, InputHash, Lookup, PointId, Position, RowKey, StoredPoint, Table, Value, Vector, weight,
};
use walvec_transform::TransformError;

use super::embed::{EmbedJob, parts};
use super::{Batch, Purpose, RowFailure, Writer};
use crate::error::{PipelineError, Refusal};
use crate::observe::metrics::{TimedStage, Timer, count_embeddings};
use crate::writer::coalesce::FinalRow;
use crate::writer::complete::CompleteRow;
use crate::writer::known::{Known, Versioned};
use crate::writer::looked_up::Wanted;
use crate::writer::row_source::{RowSource, RowsAnswer};

/// A row and its documents, chunk by chunk, or why it has none.
struct RenderedRow {
    key: RowKey,
    table: Arc<Table>,
    position: Position,
    documents: Result<Vec<Document>, TransformError>,
}

/// The work that is left to do for a batch.
pub(super) struct Work {
    pub(super) rows: Vec<RowPlan>,
    /// Rows that could not be processed.
    pub(super) failed: Vec<RowFailure>,
}

/// What a row must be in the sink.
pub(super) struct RowPlan {
    pub(super) key: RowKey,
    pub(super) position: Position,
    /// The id of its point, or of its first chunk.
    pub(super) first: PointId,
    /// Its documents, chunk by chunk; none if the row is gone.
    pub(super) documents: Vec<(Versioned, VectorSource)>,
    /// How many of its points are stored, as far as known.
    pub(super) stored: u32,
    /// Stored points that it does not need any more, except the first.
    pub(super) surplus: Vec<PointId>,
}

/// Where the vector of a document comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VectorSource {
    /// The stored point has the vector.
    Kept,
    /// Another point of the row has the vector: the text has moved to another chunk.
    Moved(PointId),
    /// The vector is still to be computed.
    New,
}

/// Returns whether every document of a row is stored with the text that it should have.
fn is_shown(target: &RowPlan, known: &Known) -> bool {
    let is_kept = |(_, origin): &(Versioned, VectorSource)| *origin == VectorSource::Kept;
    let chunks = u32::try_from(target.documents.len()).unwrap_or(u32::MAX);
    known.is_complete(target.first)
        && !known.parked.contains(&target.key)
        && target.stored == chunks
        && target.documents.iter().all(is_kept)
}

impl Writer {
    /// Finds out what the rows of a batch need, and divides them into parts that are embedded and written separately.
    /// No other batch with one of these keys may be prepared until they are written. All rows are in memory at the same
    /// time, so a batch should have at most [`rows_at_once`](Self::rows_at_once).
    pub(crate) async fn parts_of(&self, source: &dyn RowSource, batch: Batch) -> Result<Vec<EmbedJob>, PipelineError> {
        let mut early = self.embed_early(&batch);
        let Batch { entries, purpose, context, failed, .. } = batch;
        let mut known = self.known(&entries, purpose, context.generation).await?;
        let mut doubted = self.late.of_rows(entries.iter().map(|(key, _)| key));
        if purpose == Purpose::Repair {
            for (key, last) in &entries {
                doubted.entry(key.clone()).or_default().extend(self.stored_ids(&last.table, key, &known));
            }
        }
        known.doubted = doubted;
        let is_news = |key: &RowKey, last: &FinalRow| {
            let id = self.id(&last.table, key);
            match purpose {
                Purpose::Change => !known.is_current(id, key, last.position),
                Purpose::Reread => !known.is_newer(id, key, last.position),
                Purpose::Refresh | Purpose::Repair => true,
            }
        };
        let fresh: Vec<_> = entries.into_iter().filter(|(key, last)| is_news(key, last)).collect();
        let mut work = Work { rows: Vec::with_capacity(fresh.len()), failed };
        let rows = self.complete(source, fresh, &known, &mut work).await?;
        let (rows, looked_up) = self.look_up(source, rows, &mut work).await?;
        let (count, bytes) = (rows.len(), rows.iter().map(CompleteRow::weight).sum::<usize>());
        let bytes = bytes + looked_up.iter().flatten().map(|value| weight(value)).sum::<usize>();
        let rendered = self.rendered(rows, looked_up).await?;
        self.find_vectors(rendered, &known, &mut work)?;
        if purpose == Purpose::Refresh {
            work.rows.retain(|target| !is_shown(target, &known));
        }
        self.forget_witnesses_among(&work.rows.iter().map(|target| target.first).collect());
        let moved = self.moved_vectors(&work.rows).await?;
        // The text may be a small part of its row, or its chunks may repeat the payload.
        self.row_size.learn(count, bytes.max(work.rows.iter().map(RowPlan::weight).sum()));
        let most = self.collection.embedder.texts_per_call().max(1);
        let mut parts = parts(work.rows, work.failed, moved, &context, most);
        // Only its first part waits for them: the few rows of such a batch rarely have more texts than a call.
        parts.iter_mut().take(1).for_each(|part| part.early = early.take());
        Ok(parts)
    }

    /// Returns how many rows may be prepared at a time.
    pub(crate) fn rows_at_once(&self) -> usize {
        self.row_size.rows_at_once()
    }

    /// Retrieves the points of the batch's rows from the sink.
    async fn known(
        &self,
        entries: &[(RowKey, FinalRow)],
        purpose: Purpose,
        generation: Generation,
    ) -> Result<Known, PipelineError> {
        let _timer = Timer::start(TimedStage::Retrieve);
        let rows: HashMap<PointId, &RowKey> =
            entries.iter().map(|(key, last)| (self.id(&last.table, key), key)).collect();
        let mut stored = self.retrieve(&rows.keys().copied().collect::<Vec<_>>()).await?;
        self.compare(&rows, &stored, purpose).await?;
        stored.extend(self.retrieve(&self.further_ids(&stored)).await?);
        Ok(Known::new(stored, self.parked_among(entries), generation))
    }

    fn parked_among(&self, entries: &[(RowKey, FinalRow)]) -> HashSet<RowKey> {
        entries.iter().map(|(key, _)| key).filter(|key| self.parked.contains(key)).cloned().collect()
    }

    /// Returns the ids of a row's points, according to its first one.
    fn stored_ids(&self, table: &Table, key: &RowKey, known: &Known) -> HashSet<PointId> {
        let first = self.id(table, key);
        let further = self.collection.transform.further_ids(&table.name, key, known.chunks(first));
        std::iter::once(first).chain(further).collect()
    }

    /// Returns the ids of the further chunks of rows whose first chunks are stored.
    fn further_ids(&self, first: &[StoredPoint]) -> Vec<PointId> {
        let (transform, table) = (&self.collection.transform, &self.collection.table);
        let ours = first.iter().filter_map(|point| point.provenance.as_ref());
        let further = ours.flat_map(|provenance| {
            let key = RowKey::new(provenance.key.clone());
            transform.further_ids(table, &key, provenance.chunks).collect::<Vec<_>>()
        });
        further.collect()
    }

    /// Returns a target without documents: all stored points of the row are surplus, as for a row that is gone.
    pub(super) fn target(&self, table: &Table, key: RowKey, position: Position, known: &Known) -> RowPlan {
        let first = self.id(table, &key);
        let stored = known.chunks(first);
        let mut surplus: Vec<PointId> = self.collection.transform.further_ids(&table.name, &key, stored).collect();
        // The stored first point may be outdated, and may name too few chunks.
        for id in known.doubted.get(&key).into_iter().flatten() {
            if *id != first && !surplus.contains(id) {
                surplus.push(*id);
            }
        }
        RowPlan { key, position, first, documents: Vec::new(), stored, surplus }
    }

    /// Looks up rows in other tables. Returns the remaining rows and, for each, the values of the lookups in their
    /// order. Each lookup is one question, and rows that look up the same thing share the answer.
    async fn look_up(
        &self,
        source: &dyn RowSource,
        rows: Vec<CompleteRow>,
        work: &mut Work,
    ) -> Result<(Vec<CompleteRow>, Vec<Vec<Arc<Value>>>), PipelineError> {
        let mut looked_up = vec![Vec::new(); rows.len()];
        for lookup in self.collection.transform.lookups() {
            let wanted = Wanted::by(lookup, rows.iter().map(|row| (row.table.as_ref(), row.values.as_slice())));
            let mut found = Vec::new();
            if !wanted.keys().is_empty() {
                let _timer = Timer::start(TimedStage::LookUp);
                let asked = source.look_up(&self.collection.table, lookup, wanted.keys());
                let Some(asked) = asked else { return Err(self.no_source(lookup).into()) };
                match asked.await? {
                    RowsAnswer::Found(rows) => found = rows,
                    RowsAnswer::NoTable(reason) => {
                        work.failed.extend(rows.into_iter().map(|row| row.not_looked_up(&reason)));
                        return Ok((Vec::new(), Vec::new()));
                    }
                }
            }
            for (row, value) in looked_up.iter_mut().zip(wanted.answered(lookup, found)) {
                row.push(value);
            }
        }
        Ok((rows, looked_up))
    }

    fn no_source(&self, lookup: &Lookup) -> Refusal {
        Refusal {
            code: "E_CONFIG",
            what: format!(
                "collection \"{}\" looks up \"{}\" in {}, and no `source.url` says where that is",
                self.collection.name, lookup.name, lookup.table
            ),
            remedy: "give `source.url`; who renders documents has to read what they look up".to_owned(),
        }
    }

    /// Renders the documents of rows. Cutting a long text takes time, so it runs on a blocking thread: neither a task
    /// of this thread nor a stop waits for it.
    async fn rendered(
        &self,
        rows: Vec<CompleteRow>,
        looked_up: Vec<Vec<Arc<Value>>>,
    ) -> Result<Vec<RenderedRow>, PipelineError> {
        let _timer = Timer::start(TimedStage::Render);
        let (transform, stop) = (Arc::clone(&self.collection.transform), self.shared.stop.clone());
        let render = move || {
            let rows = rows.into_iter().zip(&looked_up).take_while(|_| !stop.is_cancelled());
            let rendered = rows.map(|(row, looked_up)| {
                let documents = transform.render_joined(&row.table, &row.key, &row.values, looked_up);
                RenderedRow { key: row.key, table: row.table, position: row.position, documents }
            });
            rendered.collect()
        };
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => Err(PipelineError::Stopped),
            rendered = tokio::task::spawn_blocking(render) => {
                Ok(rendered.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
            }
        }
    }

    /// Decides which documents have a vector already. Rows that could not be rendered are parked.
    fn find_vectors(&self, rows: Vec<RenderedRow>, known: &Known, work: &mut Work) -> Result<(), PipelineError> {
        let mut reused = 0;
        for RenderedRow { key, table, position, documents } in rows {
            let documents = match documents {
                Ok(documents) => documents,
                Err(error) if error.is_row_error() => {
                    let (code, reason) = (error.code(), error.to_string());
                    work.failed.push(RowFailure { key, position, code, reason });
                    continue;
                }
                Err(error) => {
                    let collection = self.collection.name.clone();
                    return Err(PipelineError::Transform { collection, source: error.into() });
                }
            };
            let mut target = self.target(&table, key, position, known);
            let wanted: HashSet<PointId> = documents.iter().map(|document| document.id).collect();
            target.surplus.retain(|id| !wanted.contains(id));
            let moved = self.vectors_by_text(&table, &target, known);
            target.documents.reserve_exact(documents.len());
            for document in documents {
                let origin = match moved.get(&document.input_hash) {
                    _ if known.has_vector_for(&document, &self.collection.fingerprint) => VectorSource::Kept,
                    Some(id) => VectorSource::Moved(*id),
                    None => VectorSource::New,
                };
                reused += usize::from(origin != VectorSource::New);
                target.documents.push((Versioned { document, position }, origin));
            }
            work.rows.push(target);
        }
        if reused > 0 {
            count_embeddings("reused", reused);
            self.shared.telemetry.collection(self.index, |status| status.embeddings_reused += reused as u64);
        }
        Ok(())
    }

    /// Returns, by text, which stored chunk of a row has its vector. Empty for a row with one point, which cannot have
    /// moved a text.
    fn vectors_by_text(&self, table: &Table, target: &RowPlan, known: &Known) -> HashMap<InputHash, PointId> {
        if target.stored <= 1 {
            return HashMap::new();
        }
        let further = self.collection.transform.further_ids(&table.name, &target.key, target.stored);
        let stored = std::iter::once(target.first).chain(further).filter_map(|id| known.points.get(&id));
        let usable = stored.filter(|point| !known.is_doubted(&target.key, point.id));
        let usable = usable.filter_map(|point| Some((point.id, point.provenance.as_ref()?)));
        usable
            .filter(|(_, provenance)| provenance.fingerprint == self.collection.fingerprint)
            .map(|(id, provenance)| (provenance.input_hash.clone(), id))
            .collect()
    }

    /// Reads the vectors of texts that have moved from one chunk to another.
    async fn moved_vectors(&self, rows: &[RowPlan]) -> Result<HashMap<PointId, Vector>, PipelineError> {
        let all = rows.iter().flat_map(|row| &row.documents);
        let moved: Vec<(PointId, PointId)> = all
            .filter_map(|(versioned, origin)| match origin {
                VectorSource::Moved(from) => Some((versioned.document.id, *from)),
                VectorSource::Kept | VectorSource::New => None,
            })
            .collect();
        if moved.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: HashSet<PointId> = moved.iter().map(|(_, from)| *from).collect();
        let ids: Vec<PointId> = ids.into_iter().collect();
        let stored = self.read(&ids, |sink, ids| sink.vectors(ids)).await?;
        let stored: HashMap<PointId, Vector> = stored.into_iter().collect();
        Ok(moved.into_iter().filter_map(|(id, from)| Some((id, stored.get(&from)?.clone()))).collect())
    }
}

#[cfg(test)]
mod tests;
