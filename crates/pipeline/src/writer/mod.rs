//! The writer of one collection: completes, renders, embeds, writes, parks.
//!
//! There is exactly one writer per collection, and a batch names each key once. Batches that have no key in common may
//! be in flight at the same time ([`Line`](crate::line::Line) enforces that), so writes reach the sink in commit order
//! per key. A row that cannot be processed is parked and never stops other rows. Every other error is either retried
//! without end or ends the pipeline.
//!
//! - [`rows`]: decides what the rows of a batch must be in the sink
//! - [`vectors`]: computes the vectors that they need, for one part of the batch per call
//! - [`points`]: writes their points, in an order that a crash cannot break
//! - [`late`]: writes of which a copy may still arrive late
//! - [`put_back`]: detects that the collection is an older state of itself
//! - [`limits`]: calls that continue where a limit of the server has stopped them
//! - [`long`]: texts that are longer than the model reads
//! - [`placed`]: points that were read from a topic
//! - here: the collection as a whole, and which of its rows are parked

mod late;
mod limits;
mod long;
mod placed;
mod points;
mod put_back;
mod rows;
mod vectors;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use walvec_broker::wire::{SnapshotEnd, Sweep};
use walvec_embed::Embedder;
use walvec_model::{
    Change, Fingerprint, Generation, KeyDigest, Op, PointId, Position, Provenance, Row, RowKey, SparseVector, Table,
    TableName, Value,
};
use walvec_sink::{CollectionId, Generations, Keywords, Sink, SinkError, Write};
use walvec_transform::Transform;

use crate::batch::{Final, State, coalesce};
use crate::error::PipelineError;
use crate::letters::Letters;
use crate::plan::FOREIGN;
use crate::portion::RowSize;
use crate::retry::retrying;
use crate::status::LATEST_DEAD_LETTERS;
use crate::store::{DeadLetter, Place};
use crate::telemetry::Telemetry;
use crate::watch::{Leaves, Truncates};
use crate::witness::Witnesses;
use late::LateWrites;
pub(crate) use late::Overtaken;
use long::CutLog;
pub use long::OnLong;
pub(crate) use placed::Placed;
pub(crate) use rows::TOO_LARGE;
pub(crate) use vectors::Part;

/// How many points each request of a scan of the whole collection asks for.
const SCROLL_POINTS: usize = 1000;

/// A collection and the components that serve it.
#[derive(Clone)]
pub struct Collection {
    /// Its name.
    pub name: String,
    /// The table that it shows.
    pub table: TableName,
    /// Makes documents of rows.
    pub transform: Arc<Transform>,
    /// Makes vectors of texts.
    pub embedder: Arc<dyn Embedder>,
    /// Makes sparse vectors of texts, if the collection can be searched by keyword.
    pub keywords: Option<Arc<Keywords>>,
    /// What to do with a row that has a text longer than the model reads.
    pub on_long: OnLong,
    /// Where the points are stored.
    pub sink: Arc<dyn Sink>,
    /// The digest of what decides its vectors.
    pub fingerprint: Fingerprint,
}

impl Collection {
    /// Returns the sparse vector of a text; `None` if the collection has none.
    pub(crate) fn keywords_of(&self, text: &str) -> Option<SparseVector> {
        self.keywords.as_ref().map(|keywords| keywords.document(text))
    }
}

/// The answer to whether a worker may still write.
pub(crate) type Checked<'a> = Pin<Box<dyn Future<Output = Result<(), PipelineError>> + Send + 'a>>;

/// Decides whether this worker may still write, where several could write a collection. Checked right before each
/// write.
pub(crate) trait Guard: Send + Sync {
    /// Fails if another process may write in place of this one.
    fn check(&self) -> Checked<'_>;
}

/// What all writers of a pipeline share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) guard: Option<Arc<dyn Guard>>,
    pub(crate) telemetry: Telemetry,
    pub(crate) letters: Arc<dyn Letters>,
    /// The transactions of the stream that emptied tables.
    pub(crate) truncates: Truncates,
    /// The partitions that the stream has brought rows of.
    pub(crate) leaves: Leaves,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Waits for an answer, or for a stop: the component that answers may itself be waiting.
    pub(crate) async fn or_stop<T>(
        &self,
        answer: impl Future<Output = Result<T, PipelineError>>,
    ) -> Result<T, PipelineError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(PipelineError::Stopped),
            answer = answer => answer,
        }
    }
}

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

/// Returns the first error, but prefers any other error to [`PipelineError::Stopped`], which says less than its cause.
pub(crate) fn first_error(
    first: Result<(), PipelineError>,
    other: Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    match first {
        Ok(()) => other,
        Err(PipelineError::Stopped) if other.is_err() => other,
        Err(_) => first,
    }
}

/// The final states of rows to be written into one collection.
pub(crate) struct Batch {
    pub(crate) entries: Vec<(RowKey, Final)>,
    pub(crate) purpose: Purpose,
    pub(crate) context: Arc<Context>,
    /// Rows that cannot be processed in their newest version, whatever `entries` holds of an earlier one.
    pub(crate) failed: Vec<Failure>,
}

impl Batch {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.entries.iter().map(|(key, _)| key).chain(self.failed.iter().map(|failure| &failure.key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.failed.is_empty()
    }

    /// Stops the rows from being completed from stored points: these may be from before their table was altered, which
    /// the stream does not show.
    pub(crate) fn distrust_stored(&mut self) {
        for (_, last) in &mut self.entries {
            let state = std::mem::replace(&mut last.state, State::Gone);
            last.state = state.without_stored();
        }
    }

    /// Takes the first rows, at most `rows` of them, with their failures.
    pub(crate) fn take_first(&mut self, rows: usize) -> Self {
        let rest = self.entries.split_off(rows.min(self.entries.len()));
        let entries = std::mem::replace(&mut self.entries, rest);
        let later: HashSet<&RowKey> = self.entries.iter().map(|(key, _)| key).collect();
        let failed = self.failed.extract_if(.., |failure| !later.contains(&failure.key)).collect();
        Self { entries, purpose: self.purpose, context: Arc::clone(&self.context), failed }
    }
}

/// The reason why rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The rows have changed.
    Change,
    /// The whole table is read again as it was at one position. A point with that position may have been made by plain
    /// statements, which do not see a transaction that waits for a standby, so it is written again.
    Reread,
    /// The rows were read again because of a row that they look up. A stored point may have a newer version of its row
    /// and still be older than the looked-up row, so it never counts as current. If the texts have stayed the same,
    /// nothing is written.
    Refresh,
    /// The stored points are not trusted.
    Repair,
}

/// What the rows of a batch have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) generation: Generation,
    /// Where the changes were read, if they came through a topic.
    pub(crate) places: HashMap<RowKey, Place>,
}

/// A row that could not be processed, and why.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) key: RowKey,
    pub(crate) position: Position,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

/// Writes one collection.
pub(crate) struct Writer {
    pub(crate) collection: Collection,
    shared: Shared,
    /// The collection's place in the status.
    index: usize,
    generation: Generation,
    /// Which rows are parked, and in which version: only that version or a newer one clears the row. Digests instead of
    /// keys, because all rows of a table may be parked.
    parked: HashMap<KeyDigest, Version>,
    /// The parked rows whose dead letters are not shown.
    dropped: HashSet<KeyDigest>,
    witnesses: Mutex<Witnesses>,
    late: LateWrites,
    /// The newest dead letters, for the status.
    latest: Vec<DeadLetter>,
    row_size: RowSize,
    cut_log: Arc<CutLog>,
}

impl Writer {
    pub(crate) fn new(index: usize, collection: Collection, shared: Shared) -> Result<Self, PipelineError> {
        let (generation, parked, dropped, witnesses, late, latest, row_size, cut_log) = Default::default();
        let mut writer =
            Self { collection, shared, index, generation, parked, dropped, witnesses, late, latest, row_size, cut_log };
        writer.read_letters()?;
        Ok(writer)
    }

    fn read_letters(&mut self) -> Result<(), PipelineError> {
        self.parked.clear();
        self.dropped.clear();
        self.latest.clear();
        let Self { collection, shared, parked, dropped, latest, .. } = self;
        shared.letters.each(&collection.name, &mut |letter| {
            let (key, version) = version_of(&letter);
            // Capture and workers may both have parked a version of the row.
            let newest = parked.entry(key).or_insert(version);
            *newest = version.max(*newest);
            if letter.dropped {
                dropped.insert(key);
                return;
            }
            latest.push(letter);
            if latest.len() > 2 * LATEST_DEAD_LETTERS {
                keep_newest(latest);
            }
        })?;
        keep_newest(latest);
        Ok(())
    }

    /// Returns the keys of the parked rows whose letters are `wanted`.
    fn keys_of_letters(&self, wanted: impl Fn(&DeadLetter) -> bool) -> Result<Vec<RowKey>, PipelineError> {
        let mut keys = Vec::new();
        let mut see = |letter: DeadLetter| {
            if wanted(&letter) {
                keys.push(RowKey::new(letter.key));
            }
        };
        self.shared.letters.each(&self.collection.name, &mut see)?;
        Ok(keys)
    }

    /// Creates the collection if it does not exist, and returns its id.
    pub(crate) async fn prepare(&self) -> Result<CollectionId, PipelineError> {
        self.on_sink(|sink, _| async move { sink.prepare().await }).await
    }

    /// Returns whether the collection has no points.
    pub(crate) async fn is_empty(&self) -> Result<bool, PipelineError> {
        Ok(self.on_sink(|sink, _| async move { sink.count().await }).await? == 0)
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
        let context = Arc::new(Context { generation: self.generation, places: HashMap::new() });
        Batch { entries: coalesce(changes), purpose, context, failed: Vec::new() }
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

    /// Reads the dead letters again: another worker may have parked rows that this worker owns now.
    pub(crate) fn reload_letters(&mut self) -> Result<(), PipelineError> {
        self.read_letters()?;
        self.report_dead_letters();
        Ok(())
    }

    /// Returns whether the newest version of this row could not be processed.
    pub(crate) fn has_parked(&self, key: &RowKey) -> bool {
        !self.parked.is_empty() && self.parked.contains_key(&key.digest())
    }

    /// Parks a record that cannot be read, under its place.
    pub(crate) async fn park(&mut self, place: Place, code: &'static str, reason: String) -> Result<(), PipelineError> {
        let key = RowKey::new(vec![Value::from(place.to_string())]);
        let context = Context { generation: self.generation, places: HashMap::from([(key.clone(), place)]) };
        self.settle(&context, &[], &[Failure { key, position: Position::default(), code, reason }]).await
    }

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
        let gone = self.keys_of_letters(is_gone)?;
        self.shared.letters.update(&self.collection.name, &[], &gone).await?;
        self.forget(&gone);
        self.report_dead_letters();
        Ok(())
    }

    /// Removes points that still have the reported version; `None`: points that walvec did not write.
    pub(crate) async fn remove(&self, points: &[(PointId, Option<Position>)]) -> Result<(), PipelineError> {
        let ids: Vec<PointId> = points.iter().map(|(id, _)| *id).collect();
        let stored = self.retrieve(&ids).await?;
        let versions: HashMap<PointId, Option<Position>> = points.iter().copied().collect();
        let same = stored.into_iter().filter(|point| {
            versions.get(&point.id) == Some(&point.provenance.as_ref().map(|provenance| provenance.position))
        });
        let deletions: Vec<Write> = same.map(|point| Write::Delete(point.id)).collect();
        self.write_all(&deletions, &AtomicBool::default()).await?;
        let removed: Vec<PointId> = deletions.iter().map(Write::id).collect();
        self.forget_witnesses_among(&removed.iter().copied().collect());
        self.late.removed(Some(&removed));
        Ok(())
    }

    /// Removes the table's points and dead letters.
    pub(crate) async fn truncate(&mut self) -> Result<(), PipelineError> {
        self.as_owner(|sink, table| async move { sink.delete_table(table).await }).await?;
        self.witnesses().emptied();
        self.late.removed(None);
        let keys = self.keys_of_letters(|_| true)?;
        self.shared.letters.update(&self.collection.name, &[], &keys).await?;
        self.forget(&keys);
        self.report_dead_letters();
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

    /// Returns whether a late write may have set back the point, so that its stored state proves nothing.
    pub(super) fn is_late(&self, id: PointId) -> bool {
        !self.late.among(std::iter::once(id)).is_empty()
    }

    /// Begins to remember writes that were sent more than once, for [`overtaken`](Self::overtaken).
    pub(crate) fn watch_late_writes(&self) {
        // The engine inside the program never applies a write late.
        if self.collection.sink.is_shared() {
            self.late.watch();
        }
    }

    /// Returns the points that are not as they were written last, because a delayed request arrived after newer ones.
    /// Nothing may be in flight.
    pub(crate) async fn overtaken(&self) -> Result<Overtaken, PipelineError> {
        let mut overtaken = Overtaken::default();
        for ids in self.late.ids().chunks(SCROLL_POINTS) {
            let stored = self.retrieve(ids).await?;
            let Overtaken { rows, points } = self.late.compare(ids, &stored);
            overtaken.rows.extend(rows);
            overtaken.points.extend(points);
        }
        Ok(overtaken)
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

    /// Returns how many points of a table there are.
    async fn count_of(&self, table: &TableName) -> Result<u64, PipelineError> {
        let every = Generation(u64::MAX);
        self.on_sink(|sink, _| async move { sink.count_older(table, every).await }).await
    }

    /// Ends a snapshot: removes points and dead letters that it did not meet, because their rows are gone. Returns how
    /// many points.
    pub(crate) async fn finish_generation(&mut self) -> Result<u64, PipelineError> {
        let generation = self.generation;
        let swept = self.as_owner(|sink, table| async move { sink.sweep(table, generation).await }).await?;
        self.late.swept(generation);
        self.shared.letters.refresh().await?;
        let gone = self.keys_of_letters(|letter| letter.generation < generation)?;
        self.shared.letters.update(&self.collection.name, &[], &gone).await?;
        self.forget(&gone);
        self.report_dead_letters();
        Ok(swept)
    }

    pub(crate) const fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
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

    /// Ends the reading of a table as it was at `position`: removes older points and dead letters, because their rows
    /// are gone.
    pub(crate) async fn sweep_before(&mut self, position: Position, of: Generations) -> Result<(), PipelineError> {
        self.forget_witnesses_before(position);
        self.delete_older(position, &of).await?;
        self.late.swept_before(position);
        self.shared.letters.refresh().await?;
        let gone = self.keys_of_letters(|letter| of.contains(&letter.generation) && letter.position < position)?;
        self.shared.letters.update(&self.collection.name, &[], &gone).await?;
        self.forget(&gone);
        self.report_dead_letters();
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

    fn id(&self, table: &Table, key: &RowKey) -> PointId {
        self.collection.transform.point_id(table, key)
    }

    /// Parks the rows that failed, and clears parked rows that a newer version has healed.
    async fn settle(
        &mut self,
        context: &Context,
        versions: &[(RowKey, Position)],
        failed: &[Failure],
    ) -> Result<(), PipelineError> {
        let failed_keys: HashSet<&RowKey> = failed.iter().map(|failure| &failure.key).collect();
        let generation = context.generation;
        let heals = |key: &RowKey, position: Position| {
            let parked = if self.parked.is_empty() { None } else { self.parked.get(&key.digest()) };
            // Behind a broker a row may be parked before older versions of it have been read.
            parked.is_some_and(|parked| generation == FOREIGN || (generation, position) >= *parked)
        };
        let healed: Vec<RowKey> = versions
            .iter()
            .filter(|(key, position)| heals(key, *position) && !failed_keys.contains(key))
            .map(|(key, _)| key.clone())
            .collect();
        if failed.is_empty() && healed.is_empty() {
            return Ok(());
        }
        // A row may have failed in two versions: one that could not be processed, and a later one that could not even
        // be read.
        let mut newest_failures: HashMap<&RowKey, &Failure> = HashMap::new();
        for failure in failed {
            let newest = newest_failures.entry(&failure.key).or_insert(failure);
            if failure.position >= newest.position {
                *newest = failure;
            }
        }
        let letters: Vec<DeadLetter> =
            newest_failures.into_values().map(|failure| self.letter(context, failure)).collect();
        for letter in &letters {
            let key = RowKey::new(letter.key.clone());
            tracing::warn!(table = letter.table, %key, code = letter.code, "row parked: {}", letter.reason);
        }
        self.shared.letters.update(&self.collection.name, &letters, &healed).await?;
        self.forget(&healed);
        self.latest.retain(|letter| !failed_keys.contains(&RowKey::new(letter.key.clone())));
        for (key, version) in letters.iter().map(version_of) {
            self.parked.insert(key, version);
            self.dropped.remove(&key);
        }
        self.latest.extend(letters);
        keep_newest(&mut self.latest);
        self.report_dead_letters();
        Ok(())
    }

    fn forget(&mut self, keys: &[RowKey]) {
        for key in keys {
            self.parked.remove(&key.digest());
            self.dropped.remove(&key.digest());
        }
        let parked = &self.parked;
        self.latest.retain(|letter| parked.contains_key(&RowKey::new(letter.key.clone()).digest()));
    }

    fn letter(&self, context: &Context, Failure { key, position, code, reason }: &Failure) -> DeadLetter {
        DeadLetter {
            collection: self.collection.name.clone(),
            table: self.collection.table.to_string(),
            key: key.values().to_vec(),
            position: *position,
            generation: context.generation,
            place: context.places.get(key).cloned(),
            code: (*code).to_owned(),
            reason: reason.clone(),
            dropped: false,
        }
    }

    fn report_dead_letters(&self) {
        let count = (self.parked.len() - self.dropped.len()) as u64;
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

    /// Calls the sink for a change of what is stored, until it answers or fails for good. Before each attempt, which
    /// may come long after the first one, it checks that no other process writes in place of this one.
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

/// A version of a row that can be compared across snapshots.
type Version = (Generation, Position);

fn version_of(letter: &DeadLetter) -> (KeyDigest, Version) {
    (RowKey::new(letter.key.clone()).digest(), (letter.generation, letter.position))
}

/// Keeps the newest letters, the newest first.
fn keep_newest(letters: &mut Vec<DeadLetter>) {
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.position));
    letters.truncate(LATEST_DEAD_LETTERS);
}
