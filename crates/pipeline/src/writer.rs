//! One collection's writer: complete, render, embed, write, park.
//!
//! There is exactly one writer per collection, and a batch names each key once, so writes reach the sink in commit order
//! per key. A row that cannot be processed is parked and never stops its neighbours; every other error is either retried
//! for ever or ends the pipeline.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walvec_embed::{EmbedError, Embedder};
use walvec_model::{
    Cell, Document, Fingerprint, Generation, Point, PointId, Position, Provenance, Row, RowKey, Table, TableName,
    Value, Vector,
};
use walvec_sink::{CollectionId, Sink, SinkError, Write};
use walvec_transform::{Completed, Transform};

use crate::batch::{Final, State};
use crate::error::PipelineError;
use crate::letters::Letters;
use crate::plan::{FOREIGN, Known, Versioned};
use crate::refetch::Refetch;
use crate::retry::{Retry, retrying};
use crate::status::LATEST_DEAD_LETTERS;
use crate::store::{DeadLetter, Place};
use crate::telemetry::{Stage, Telemetry, Timer, count_embeddings, count_written};

/// How many points a read of a whole collection asks for at a time.
const SCROLL_POINTS: usize = 1000;

/// A collection and the parts that serve it.
#[derive(Clone)]
pub struct Collection {
    /// Its name.
    pub name: String,
    /// The table that it shows.
    pub table: TableName,
    /// Row to document.
    pub transform: Arc<Transform>,
    /// Text to vector.
    pub embedder: Arc<dyn Embedder>,
    /// Where the points live.
    pub sink: Arc<dyn Sink>,
    /// What makes its vectors comparable.
    pub fingerprint: Fingerprint,
}

/// Whether a worker may still write.
pub(crate) type Checked<'a> = Pin<Box<dyn Future<Output = Result<(), PipelineError>> + Send + 'a>>;

/// Asked right before each write, where several workers share the work.
pub(crate) trait Guard: Send + Sync {
    /// Fails if somebody else may write in the place of this worker.
    fn check(&self) -> Checked<'_>;
}

/// What all writers of a pipeline share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) telemetry: Telemetry,
    pub(crate) letters: Arc<dyn Letters>,
    pub(crate) stop: CancellationToken,
}

/// A point that came from somewhere else, or its removal.
pub(crate) struct Placed {
    pub(crate) id: PointId,
    /// The point; `None` removes it.
    pub(crate) point: Option<Point>,
    /// Its version; `None`: newer than whatever is stored.
    pub(crate) position: Option<Position>,
    pub(crate) generation: Generation,
    pub(crate) place: Place,
}

impl Placed {
    /// Whether the sink shows this version already, or a newer one.
    fn is_in(&self, stored: &Provenance) -> bool {
        self.generation != FOREIGN
            && self.position.is_some_and(|position| stored.position >= position && stored.generation >= self.generation)
    }
}

/// Writes one collection.
pub(crate) struct Writer {
    pub(crate) collection: Collection,
    shared: Shared,
    /// The collection's place in the status.
    index: usize,
    generation: Generation,
    /// Which rows are parked, and in which version: only that one or a newer one takes a row back.
    parked: HashMap<RowKey, Version>,
    /// The newest dead letters, for the status.
    latest: Vec<DeadLetter>,
    /// Where the changes of the batch were read, if they came through a topic.
    places: HashMap<RowKey, Place>,
}

/// A row with all its values, on its way to a document.
struct Complete {
    key: RowKey,
    table: Arc<Table>,
    values: Vec<Value>,
    position: Position,
}

/// A row that lacks values.
struct Incomplete {
    key: RowKey,
    table: Arc<Table>,
    row: Row,
    position: Position,
}

impl Incomplete {
    /// What was read again, and of this row only what the source does not have: a program between capture and us may have
    /// added columns.
    fn filled(&self, mut read: Row) -> Row {
        let columns = read.0.len().max(self.row.0.len());
        read.0.resize(columns, Cell::Unchanged);
        for (cell, here) in read.0.iter_mut().zip(&self.row.0) {
            if *cell == Cell::Unchanged {
                cell.clone_from(here);
            }
        }
        read
    }
}

/// Why a row without all its values is parked.
const NO_SOURCE: &str =
    "an update left a large value out that is not stored, and no `source.url` says where to read it";
const NOT_IN_SOURCE: &str = "an update left a value out that is not stored, and the table has no such column";

/// What is left to do for a batch.
#[derive(Default)]
struct Work {
    /// Deletes and payload updates.
    writes: Vec<Write>,
    /// The documents of the payload updates; their payloads are in `writes`.
    reused: HashMap<PointId, Versioned>,
    /// Documents that need a vector.
    texts: Vec<Versioned>,
    /// Rows that could not be processed.
    failed: Vec<DeadLetter>,
}

impl Writer {
    pub(crate) fn new(index: usize, collection: Collection, shared: Shared) -> Result<Self, PipelineError> {
        let letters = shared.letters.of(&collection.name)?;
        let parked = letters.iter().map(version_of).collect();
        let latest = newest(letters);
        Ok(Self {
            collection,
            shared,
            index,
            generation: Generation::default(),
            parked,
            latest,
            places: HashMap::new(),
        })
    }

    /// Makes the collection if there is none, and says which one it is.
    pub(crate) async fn prepare(&self) -> Result<CollectionId, PipelineError> {
        self.on_sink(|sink, _| async move { sink.prepare().await }).await
    }

    /// The newest generation of any stored point. Reads the whole collection.
    pub(crate) async fn newest_stored(&self) -> Result<Generation, PipelineError> {
        let mut newest = Generation::default();
        let mut from = None;
        loop {
            let page = self.on_sink(|sink, _| async move { sink.scroll(from, SCROLL_POINTS).await }).await?;
            let generations = page.points.iter().filter_map(|point| Some(point.provenance.as_ref()?.generation));
            newest = newest.max(generations.max().unwrap_or_default());
            from = page.next;
            if from.is_none() {
                return Ok(newest);
            }
        }
    }

    pub(crate) fn begin_generation(&mut self, generation: Generation) {
        self.generation = generation;
        self.report_dead_letters();
    }

    /// Says where the changes of the next batch were read.
    pub(crate) fn come_from(&mut self, places: HashMap<RowKey, Place>) {
        self.places = places;
    }

    /// Looks again which rows are parked: another worker may have parked some of those that are ours now.
    pub(crate) fn reload_letters(&mut self) -> Result<(), PipelineError> {
        let letters = self.shared.letters.of(&self.collection.name)?;
        self.parked = letters.iter().map(version_of).collect();
        self.latest = newest(letters);
        self.report_dead_letters();
        Ok(())
    }

    /// Whether the newest version of this row could not be processed.
    pub(crate) fn has_parked(&self, key: &RowKey) -> bool {
        self.parked.contains_key(key)
    }

    /// Parks a change that no stage can process, as if it had failed on its way.
    pub(crate) async fn park(
        &mut self,
        key: &RowKey,
        position: Position,
        code: &str,
        reason: &str,
    ) -> Result<(), PipelineError> {
        let letter = self.letter(key, position, code, reason);
        self.settle(&HashMap::new(), &[letter]).await
    }

    /// Brings points into the sink that somebody else has made, in the order in which they were made.
    pub(crate) async fn place(&mut self, placed: Vec<Placed>) -> Result<(), PipelineError> {
        let mut last: HashMap<PointId, Placed> = HashMap::with_capacity(placed.len());
        for point in placed {
            last.insert(point.id, point);
        }
        let ids: Vec<PointId> = last.keys().copied().collect();
        let ids = &ids;
        let stored = self.on_sink(|sink, _| async move { sink.retrieve(ids.clone()).await }).await?;
        for point in stored {
            let Some(provenance) = point.provenance else { continue };
            if last.get(&point.id).is_some_and(|placed| placed.is_in(&provenance)) {
                last.remove(&point.id);
            }
        }
        let mut versions = HashMap::with_capacity(last.len());
        let (mut writes, mut failed, mut places) = (Vec::with_capacity(last.len()), Vec::new(), HashMap::new());
        for Placed { id, point, position, place, .. } in last.into_values() {
            let key = RowKey::new(point.as_ref().map(|point| point.provenance.key.clone()).unwrap_or_default());
            places.insert(key.clone(), place);
            versions.insert(id, (key, position.unwrap_or_default()));
            writes.push(point.map_or(Write::Delete(id), Write::Upsert));
        }
        self.come_from(places);
        let other = |write: &Write| matches!(write, Write::Upsert(point) if point.provenance.fingerprint != self.collection.fingerprint);
        let (others, writes): (Vec<Write>, Vec<Write>) = writes.into_iter().partition(other);
        for (key, position) in others.iter().filter_map(|write| versions.get(&write.id())) {
            let reason = "the vector was made by another model, or from another text, than the configuration says";
            failed.push(self.letter(key, *position, "E_FINGERPRINT", reason));
        }
        self.store(writes, &versions, &mut HashMap::new(), &mut failed).await?;
        self.settle(&versions, &failed).await
    }

    /// Removes what the table's part of the collection shows of the time before a truncate that was read at `place`. Rows
    /// of other partitions may be parked by other workers at this moment; they come to the same truncate.
    pub(crate) async fn truncate_before(&mut self, position: Position, place: &Place) -> Result<(), PipelineError> {
        self.as_owner(|sink, table| async move { sink.delete_older(table, position).await }).await?;
        let letters = self.shared.letters.of(&self.collection.name)?;
        let is_here = |at: &Place| at.topic == place.topic && at.partition == place.partition;
        let gone = letters
            .into_iter()
            .filter(|letter| letter.position < position && letter.place.as_ref().is_none_or(is_here));
        let gone: Vec<RowKey> = gone.map(|letter| RowKey::new(letter.key)).collect();
        self.shared.letters.update(&self.collection.name, &[], &gone).await?;
        self.forget(&gone);
        self.report_dead_letters();
        Ok(())
    }

    /// Brings the final states of a batch into the sink. When this returns they are durable there, or parked.
    pub(crate) async fn write(
        &mut self,
        source: &dyn Refetch,
        entries: Vec<(RowKey, Final)>,
    ) -> Result<(), PipelineError> {
        let known = self.known(&entries).await?;
        self.write_over(known, source, entries).await
    }

    /// The same, whatever the sink holds: it is not to be trusted.
    pub(crate) async fn rewrite(
        &mut self,
        source: &dyn Refetch,
        entries: Vec<(RowKey, Final)>,
    ) -> Result<(), PipelineError> {
        let nothing = Known::new(Vec::new(), self.parked.keys().cloned().collect());
        self.write_over(nothing, source, entries).await
    }

    /// Removes points that still have the version with which they were reported; `None`: that are not walvec's own.
    pub(crate) async fn remove(&self, points: &[(PointId, Option<Position>)]) -> Result<(), PipelineError> {
        let ids: Vec<PointId> = points.iter().map(|(id, _)| *id).collect();
        let ids = &ids;
        let stored = self.on_sink(|sink, _| async move { sink.retrieve(ids.clone()).await }).await?;
        let versions: HashMap<PointId, Option<Position>> = points.iter().copied().collect();
        let same = stored.into_iter().filter(|point| {
            versions.get(&point.id) == Some(&point.provenance.as_ref().map(|provenance| provenance.position))
        });
        let deletions: Vec<Write> = same.map(|point| Write::Delete(point.id)).collect();
        let deletions = &deletions;
        self.on_sink(|sink, _| async move { sink.write(deletions.clone()).await }).await
    }

    async fn write_over(
        &mut self,
        known: Known,
        source: &dyn Refetch,
        entries: Vec<(RowKey, Final)>,
    ) -> Result<(), PipelineError> {
        let fresh: Vec<_> = entries
            .into_iter()
            .filter(|(key, last)| !known.is_current(self.id(&last.table, key), key, last.position, self.generation))
            .collect();
        let versions: HashMap<PointId, (RowKey, Position)> =
            fresh.iter().map(|(key, last)| (self.id(&last.table, key), (key.clone(), last.position))).collect();
        let mut work = Work::default();
        let rows = self.complete(source, fresh, &known, &mut work).await?;
        self.render(rows, &known, &mut work)?;
        let failed = self.apply(work, &versions).await?;
        self.settle(&versions, &failed).await
    }

    /// Empties the table's part of the collection.
    pub(crate) async fn truncate(&mut self) -> Result<(), PipelineError> {
        self.on_sink(|sink, table| async move { sink.delete_table(table).await }).await?;
        let keys: Vec<RowKey> = self.parked.keys().cloned().collect();
        self.shared.letters.update(&self.collection.name, &[], &keys).await?;
        self.latest.clear();
        self.report_dead_letters();
        Ok(())
    }

    /// Ends a snapshot: points and dead letters that it did not meet belong to rows that are gone.
    pub(crate) async fn finish_generation(&mut self) -> Result<u64, PipelineError> {
        let generation = self.generation;
        let swept = self.as_owner(|sink, table| async move { sink.sweep(table, generation).await }).await?;
        self.shared.letters.refresh().await?;
        let letters = self.shared.letters.of(&self.collection.name)?;
        let stale = letters.into_iter().filter(|letter| letter.generation < generation);
        let gone: Vec<RowKey> = stale.map(|letter| RowKey::new(letter.key)).collect();
        self.shared.letters.update(&self.collection.name, &[], &gone).await?;
        self.forget(&gone);
        self.report_dead_letters();
        Ok(swept)
    }

    fn id(&self, table: &Table, key: &RowKey) -> PointId {
        self.collection.transform.point_id(table, key)
    }

    /// What the sink holds under the ids of the batch.
    async fn known(&self, entries: &[(RowKey, Final)]) -> Result<Known, PipelineError> {
        let _timer = Timer::start(Stage::Retrieve);
        let ids: HashSet<PointId> = entries.iter().map(|(key, last)| self.id(&last.table, key)).collect();
        let ids: Vec<PointId> = ids.into_iter().collect();
        let ids = &ids;
        let stored = self.on_sink(|sink, _| async move { sink.retrieve(ids.clone()).await }).await?;
        Ok(Known::new(stored, self.parked.keys().cloned().collect()))
    }

    /// Fills in values that PostgreSQL did not send, from the stored point or else from the source.
    async fn complete(
        &self,
        source: &dyn Refetch,
        entries: Vec<(RowKey, Final)>,
        known: &Known,
        work: &mut Work,
    ) -> Result<Vec<Complete>, PipelineError> {
        let mut rows = Vec::with_capacity(entries.len());
        let mut missing: Vec<Incomplete> = Vec::new();
        for (key, Final { table, position, state }) in entries {
            let State::Present { row, base } = state else {
                work.writes.push(Write::Delete(self.id(&table, &key)));
                continue;
            };
            let stored = known.base(&base, self.id(&table, &key), &key);
            let partial = row.is_partial().then(|| row.clone());
            match self.collection.transform.complete(&table, row, stored) {
                Completed::Row(values) => rows.push(Complete { key, table, values, position }),
                Completed::Refetch => {
                    let row = partial.unwrap_or_else(|| Row(Vec::new()));
                    missing.push(Incomplete { key, table, row, position });
                }
            }
        }
        rows.extend(self.refetch(source, missing, work).await?);
        Ok(rows)
    }

    fn not_sent(&self, Incomplete { key, position, .. }: &Incomplete, reason: &str) -> DeadLetter {
        self.letter(key, *position, "E_NOT_SENT", reason)
    }

    /// Reads rows again that cannot be completed otherwise. What is read may be newer than the change; the changes in
    /// between are still to come and end in the same state. A row that is not there any more will be deleted by one of them.
    async fn refetch(
        &self,
        source: &dyn Refetch,
        missing: Vec<Incomplete>,
        work: &mut Work,
    ) -> Result<Vec<Complete>, PipelineError> {
        let mut rows = Vec::new();
        let mut rest = missing;
        while let Some(Incomplete { table, .. }) = rest.first() {
            let _timer = Timer::start(Stage::Refetch);
            let table = Arc::clone(table);
            let (same, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|other| other.table == table);
            rest = others;
            let keys: Vec<RowKey> = same.iter().map(|incomplete| incomplete.key.clone()).collect();
            let Some(fetched) = source.rows(&table, &keys) else {
                work.failed.extend(same.iter().map(|incomplete| self.not_sent(incomplete, NO_SOURCE)));
                continue;
            };
            let mut found: HashMap<RowKey, Row> = fetched.await?.into_iter().collect();
            for incomplete in same {
                let Some(row) = found.remove(&incomplete.key) else {
                    work.writes.push(Write::Delete(self.id(&table, &incomplete.key)));
                    continue;
                };
                match self.collection.transform.complete(&table, incomplete.filled(row), None) {
                    Completed::Row(values) => {
                        let Incomplete { key, table, position, .. } = incomplete;
                        rows.push(Complete { key, table, values, position });
                    }
                    Completed::Refetch => work.failed.push(self.not_sent(&incomplete, NOT_IN_SOURCE)),
                }
            }
        }
        Ok(rows)
    }

    /// Renders documents and sorts them by what they need.
    fn render(&self, rows: Vec<Complete>, known: &Known, work: &mut Work) -> Result<(), PipelineError> {
        let _timer = Timer::start(Stage::Render);
        let name = &self.collection.name;
        for Complete { key, table, values, position } in rows {
            match self.collection.transform.render(&table, &key, &values) {
                Ok(document) => {
                    let mut versioned = Versioned { document, position };
                    if known.has_vector_for(&versioned.document, &self.collection.fingerprint) {
                        let provenance = versioned.provenance(&self.collection.fingerprint, self.generation);
                        let payload = std::mem::take(&mut versioned.document.payload);
                        let id = versioned.document.id;
                        work.writes.push(Write::Payload { id, payload, provenance });
                        work.reused.insert(id, versioned);
                    } else {
                        work.texts.push(versioned);
                    }
                }
                Err(error) if error.is_row_error() => {
                    work.failed.push(self.letter(&key, position, error.code(), &error.to_string()));
                }
                Err(error) => {
                    return Err(PipelineError::Transform { collection: name.clone(), source: error.into() });
                }
            }
        }
        let reused = work.reused.len();
        if reused > 0 {
            count_embeddings("reused", reused);
            self.shared.telemetry.collection(self.index, |status| status.embeddings_reused += reused as u64);
        }
        Ok(())
    }

    /// Embeds and writes, slice by slice. Returns the rows that could not be processed.
    async fn apply(
        &self,
        work: Work,
        versions: &HashMap<PointId, (RowKey, Position)>,
    ) -> Result<Vec<DeadLetter>, PipelineError> {
        let Work { mut writes, mut reused, mut texts, mut failed } = work;
        while !(texts.is_empty() && writes.is_empty()) {
            let rest = texts.split_off(texts.len().min(self.collection.embedder.texts_per_call().max(1)));
            let slice = std::mem::replace(&mut texts, rest);
            if !slice.is_empty() {
                writes.extend(self.embed(&slice, &mut failed).await?);
            }
            let vanished = self.store(std::mem::take(&mut writes), versions, &mut reused, &mut failed).await?;
            texts.extend(vanished);
        }
        Ok(failed)
    }

    async fn embed(&self, slice: &[Versioned], failed: &mut Vec<DeadLetter>) -> Result<Vec<Write>, PipelineError> {
        let _timer = Timer::start(Stage::Embed);
        let texts: Vec<&str> = slice.iter().map(|versioned| versioned.document.text.as_str()).collect();
        let answers = self.embed_texts(&texts).await?;
        let mut writes = Vec::with_capacity(slice.len());
        for (versioned, answer) in slice.iter().zip(answers) {
            let document = &versioned.document;
            match answer {
                Ok(vector) => writes.push(Write::Upsert(Point {
                    id: document.id,
                    vector,
                    payload: document.payload.clone(),
                    provenance: versioned.provenance(&self.collection.fingerprint, self.generation),
                })),
                Err(error) => {
                    failed.push(self.letter(&document.key, versioned.position, error.code(), &error.to_string()));
                }
            }
        }
        count_embeddings("computed", writes.len());
        self.shared.telemetry.collection(self.index, |status| status.embeddings_computed += writes.len() as u64);
        Ok(writes)
    }

    /// A vector for each text, or why it will never have one. What may still come is asked for again, for ever; what has come
    /// is kept, because somebody may have paid for it.
    async fn embed_texts(&self, texts: &[&str]) -> Result<Vec<Result<Vector, EmbedError>>, PipelineError> {
        let mut retry = Retry::new(&self.shared.telemetry, &self.shared.stop);
        let mut done: Vec<Option<Result<Vector, EmbedError>>> = texts.iter().map(|_| None).collect();
        loop {
            let open: Vec<usize> = (0..texts.len()).filter(|at| done[*at].is_none()).collect();
            let asked: Vec<String> = open.iter().map(|at| texts[*at].to_owned()).collect();
            let again = match self.collection.embedder.embed(asked).await {
                Ok(answers) if answers.len() != open.len() => {
                    let reason = format!("{} texts were given, {} vectors came back", open.len(), answers.len());
                    Some(EmbedError::Failed(reason))
                }
                Ok(answers) => {
                    let mut again = None;
                    for (at, answer) in open.iter().zip(answers) {
                        match answer {
                            Err(error) if error.is_retryable() => again = Some(error),
                            answer => done[*at] = Some(answer),
                        }
                    }
                    if open.iter().any(|at| done[*at].is_some()) {
                        retry.succeeded();
                    }
                    again
                }
                Err(error) => Some(error),
            };
            let Some(error) = again else { return Ok(done.into_iter().flatten().collect()) };
            // "At once" it was tried already.
            match error.after().filter(|delay| !delay.is_zero()) {
                Some(delay) => retry.soon(error.into(), delay).await?,
                None => retry.after(error.into()).await?,
            }
        }
    }

    /// Writes durably; a point that the sink refuses is parked and the others are tried again without it. Returns the
    /// documents that need a vector after all.
    async fn store(
        &self,
        mut writes: Vec<Write>,
        versions: &HashMap<PointId, (RowKey, Position)>,
        reused: &mut HashMap<PointId, Versioned>,
        failed: &mut Vec<DeadLetter>,
    ) -> Result<Vec<Versioned>, PipelineError> {
        let _timer = Timer::start(Stage::Write);
        let mut vanished = Vec::new();
        while !writes.is_empty() {
            let batch = &writes;
            let answer = self.as_owner(|sink, _| async move { sink.write(batch.clone()).await }).await;
            match answer {
                Ok(()) => break,
                Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection }) => {
                    let before = vanished.len();
                    if reused.contains_key(&id) {
                        vanished.extend(self.take_vanished(&mut writes, reused).await?);
                    }
                    if vanished.len() > before {
                        continue;
                    }
                    let batch = &writes;
                    let Some((key, position)) = versions.get(&id).filter(|_| batch.iter().any(|w| w.id() == id)) else {
                        return Err(PipelineError::Sink { source: SinkError::BadPoint { id, reason }, collection });
                    };
                    failed.push(self.letter(key, *position, "E_POINT", &reason));
                    writes.retain(|write| write.id() != id);
                }
                Err(other) => return Err(other),
            }
        }
        count_written(writes.len());
        Ok(vanished)
    }

    /// Takes the payload updates out of `writes` whose points have gone since they were looked up, because another worker
    /// has come to a truncate, or somebody has removed them. Returns their documents.
    async fn take_vanished(
        &self,
        writes: &mut Vec<Write>,
        reused: &mut HashMap<PointId, Versioned>,
    ) -> Result<Vec<Versioned>, PipelineError> {
        let ids = writes.iter().map(Write::id).filter(|id| reused.contains_key(id));
        let ids = &ids.collect::<Vec<_>>();
        let stored = self.on_sink(|sink, _| async move { sink.retrieve(ids.clone()).await }).await?;
        let stored: HashSet<PointId> = stored.into_iter().map(|point| point.id).collect();
        let mut vanished = Vec::new();
        for write in std::mem::take(writes) {
            match write {
                Write::Payload { id, payload, .. } if !stored.contains(&id) && reused.contains_key(&id) => {
                    let versioned = reused.remove(&id);
                    vanished.extend(versioned.map(|Versioned { document, position }| Versioned {
                        document: Document { payload, ..document },
                        position,
                    }));
                }
                other => writes.push(other),
            }
        }
        Ok(vanished)
    }

    /// Remembers the rows that failed and forgets failures that a newer version has healed.
    async fn settle(
        &mut self,
        versions: &HashMap<PointId, (RowKey, Position)>,
        failed: &[DeadLetter],
    ) -> Result<(), PipelineError> {
        let failed_keys: HashSet<RowKey> = failed.iter().map(|letter| RowKey::new(letter.key.clone())).collect();
        let heals = |key: &RowKey, position: Position| {
            let parked = self.parked.get(key);
            // Behind a broker a row may be parked before older versions of it have been read.
            parked.is_some_and(|parked| self.generation == FOREIGN || (self.generation, position) >= *parked)
        };
        let healed: Vec<RowKey> = versions
            .values()
            .filter(|(key, position)| heals(key, *position) && !failed_keys.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        if failed.is_empty() && healed.is_empty() {
            return Ok(());
        }
        for letter in failed {
            tracing::warn!(table = letter.table, key = ?letter.key, code = letter.code, "row parked: {}", letter.reason);
        }
        self.shared.letters.update(&self.collection.name, failed, &healed).await?;
        self.forget(&healed);
        self.latest.retain(|letter| !failed_keys.contains(&RowKey::new(letter.key.clone())));
        self.latest = newest(self.latest.drain(..).chain(failed.iter().cloned()).collect());
        self.parked.extend(failed.iter().map(version_of));
        self.report_dead_letters();
        Ok(())
    }

    fn forget(&mut self, keys: &[RowKey]) {
        for key in keys {
            self.parked.remove(key);
        }
        let parked = &self.parked;
        self.latest.retain(|letter| parked.contains_key(&RowKey::new(letter.key.clone())));
    }

    fn letter(&self, key: &RowKey, position: Position, code: &str, reason: &str) -> DeadLetter {
        DeadLetter {
            collection: self.collection.name.clone(),
            table: self.collection.table.to_string(),
            key: key.values().to_vec(),
            position,
            generation: self.generation,
            place: self.places.get(key).cloned(),
            code: code.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn report_dead_letters(&self) {
        let count = self.parked.len() as u64;
        self.shared.telemetry.collection(self.index, |status| {
            status.dead_letters = count;
            status.latest_dead_letters.clone_from(&self.latest);
        });
    }

    pub(crate) fn report_snapshot(&self, rows: usize) {
        self.shared.telemetry.collection(self.index, |status| status.snapshot_rows_copied += rows as u64);
    }

    /// Calls the sink until it answers or fails for good.
    async fn on_sink<'a, T, F, Fut>(&'a self, call: F) -> Result<T, PipelineError>
    where
        F: FnMut(&'a dyn Sink, &'a TableName) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        self.guarded(None, call).await
    }

    /// The same for a call that changes what is stored: before each attempt, which may come long after the first one, it is
    /// made sure that nobody else writes in the place of this worker.
    async fn as_owner<'a, T, F, Fut>(&'a self, call: F) -> Result<T, PipelineError>
    where
        F: FnMut(&'a dyn Sink, &'a TableName) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        self.guarded(self.shared.guard.as_deref(), call).await
    }

    async fn guarded<'a, T, F, Fut>(&'a self, guard: Option<&'a dyn Guard>, mut call: F) -> Result<T, PipelineError>
    where
        F: FnMut(&'a dyn Sink, &'a TableName) -> Fut,
        Fut: Future<Output = Result<T, SinkError>>,
    {
        let Collection { name, table, sink, .. } = &self.collection;
        retrying(&self.shared.telemetry, &self.shared.stop, || {
            let answer = call(sink.as_ref(), table);
            async move {
                if let Some(guard) = guard {
                    guard.check().await?;
                }
                answer.await.map_err(|source| PipelineError::Sink { collection: name.clone(), source })
            }
        })
        .await
    }
}

/// A version of a row, among those of all snapshots.
type Version = (Generation, Position);

fn version_of(letter: &DeadLetter) -> (RowKey, Version) {
    (RowKey::new(letter.key.clone()), (letter.generation, letter.position))
}

/// The newest letters, the newest first.
fn newest(mut letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.position));
    letters.truncate(LATEST_DEAD_LETTERS);
    letters
}
