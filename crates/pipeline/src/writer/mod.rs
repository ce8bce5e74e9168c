//! One collection's writer: complete, render, embed, write, park.
//!
//! There is exactly one writer per collection, and a batch names each key once. Batches that have no key in common may be
//! under way at the same time ([`Line`](crate::line::Line) sees to it), so writes reach the sink in commit order per key. A
//! row that cannot be processed is parked and never stops its neighbours; every other error is either retried for ever or
//! ends the pipeline.
//!
//! - [`rows`]: what the rows of a batch shall be in the sink
//! - [`vectors`]: the vectors that they need, a part of the batch in each call
//! - [`points`]: their points, written in an order that a crash cannot break
//! - [`late`]: writes of which a copy may still arrive late
//! - [`put_back`]: whether the collection is an older state of itself
//! - [`limits`]: calls that go on where a limit of the server has stopped them
//! - [`long`]: texts that are longer than the model reads
//! - [`placed`]: points that came from somewhere else
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
    /// Text to sparse vector, where the collection can be searched by keyword.
    pub keywords: Option<Arc<Keywords>>,
    /// What becomes of a row with a text that is longer than the model reads.
    pub on_long: OnLong,
    /// Where the points live.
    pub sink: Arc<dyn Sink>,
    /// What makes its vectors comparable.
    pub fingerprint: Fingerprint,
}

impl Collection {
    /// The sparse vector of a text; `None` where the collection has none.
    pub(crate) fn keywords_of(&self, text: &str) -> Option<SparseVector> {
        self.keywords.as_ref().map(|keywords| keywords.document(text))
    }
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
    /// The transactions of the stream that emptied tables.
    pub(crate) truncates: Truncates,
    /// The partitions that the stream has brought rows of.
    pub(crate) leaves: Leaves,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// Waits for an answer, unless a stop comes first: whoever is asked may be waiting for something else.
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

/// Lets writers write beside each other: their collections have nothing in common.
///
/// All of them come to their end, whatever becomes of one: a write that is given up half-way may still arrive later.
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

/// The first error. That something was stopped says less than what it was stopped for.
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

/// Final states of rows on their way into one collection.
pub(crate) struct Batch {
    pub(crate) entries: Vec<(RowKey, Final)>,
    pub(crate) purpose: Purpose,
    pub(crate) context: Arc<Context>,
    /// Rows that cannot be processed as they are now, whatever `entries` says of an earlier version.
    pub(crate) failed: Vec<Failure>,
}

impl Batch {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.entries.iter().map(|(key, _)| key).chain(self.failed.iter().map(|failure| &failure.key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.failed.is_empty()
    }

    /// Takes nothing from stored points: they may be of before their table was altered, without a word of it in the stream.
    pub(crate) fn distrust_stored(&mut self) {
        for (_, last) in &mut self.entries {
            let state = std::mem::replace(&mut last.state, State::Gone);
            last.state = state.without_stored();
        }
    }

    /// Takes its first rows, at most so many, with everything that is said of them.
    pub(crate) fn take_first(&mut self, rows: usize) -> Self {
        let rest = self.entries.split_off(rows.min(self.entries.len()));
        let entries = std::mem::replace(&mut self.entries, rest);
        let later: HashSet<&RowKey> = self.entries.iter().map(|(key, _)| key).collect();
        let failed = self.failed.extract_if(.., |failure| !later.contains(&failure.key)).collect();
        Self { entries, purpose: self.purpose, context: Arc::clone(&self.context), failed }
    }
}

/// Why rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// They have changed.
    Change,
    /// The whole table is read again as it was at one position. What is stored with that position was made of it by plain statements, which
    /// do not see a transaction that waits for a standby.
    Reread,
    /// They were read again because of something that they look up. What is stored may be of a newer version of the row and
    /// all the same older than that, so that it never counts as current; but where the texts have stayed the same, nothing has
    /// to be written.
    Refresh,
    /// What is stored is not to be trusted.
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
    /// Which rows are parked, and in which version: only that one or a newer one takes a row back. All rows of a table may be, so
    /// that their keys are not kept.
    parked: HashMap<KeyDigest, Version>,
    /// Those of them that are not shown.
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
            // Capture and workers may both have parked a version of it.
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

    /// The keys of the parked rows whose letters are `wanted`.
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

    /// Makes the collection if there is none, and says which one it is.
    pub(crate) async fn prepare(&self) -> Result<CollectionId, PipelineError> {
        self.on_sink(|sink, _| async move { sink.prepare().await }).await
    }

    /// Whether there are no points.
    pub(crate) async fn is_empty(&self) -> Result<bool, PipelineError> {
        Ok(self.on_sink(|sink, _| async move { sink.count().await }).await? == 0)
    }

    /// How many points of walvec's are older than `position`, and how many there are. Reads the whole collection.
    pub(crate) async fn count_before(&self, position: Position) -> Result<(u64, u64), PipelineError> {
        let (mut older, mut all) = (0, 0);
        self.see_stored(|provenance| {
            all += 1;
            older += u64::from(provenance.position < position);
        })
        .await?;
        Ok((older, all))
    }

    /// The newest generation of any stored point, and the other tables that points are of. Reads the whole collection.
    pub(crate) async fn stored(&self) -> Result<(Generation, BTreeSet<TableName>), PipelineError> {
        let (mut newest, mut tags) = (Generation::default(), BTreeSet::new());
        self.see_stored(|provenance| {
            newest = newest.max(provenance.generation);
            if !tags.contains(&provenance.table) {
                tags.insert(provenance.table);
            }
        })
        .await?;
        // Tags are compared, not tables: a tag does not tell where a schema with a dot in its name ends.
        tags.remove(&Provenance::table_tag(&self.collection.table));
        Ok((newest, tags.iter().map(|tag| Provenance::tagged_table(tag)).collect()))
    }

    /// Shows whatever walvec's own points say of themselves. Reads the whole collection.
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

    /// The generation of what is written.
    pub(crate) const fn generation(&self) -> Generation {
        self.generation
    }

    /// What was written before is not looked for any more: it will be remembered, or be read again as a whole.
    pub(crate) fn begin_generation(&mut self, generation: Generation) {
        self.generation = generation;
        *self.witnesses() = Witnesses::default();
        self.report_dead_letters();
    }

    /// These rows have changed, in the time of the present snapshot.
    pub(crate) fn batch(&self, changes: Vec<Change>, purpose: Purpose) -> Batch {
        let context = Arc::new(Context { generation: self.generation, places: HashMap::new() });
        Batch { entries: coalesce(changes), purpose, context, failed: Vec::new() }
    }

    /// A change with what the collection shows of its row.
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

    /// Looks again which rows are parked: another worker may have parked some of those that are ours now.
    pub(crate) fn reload_letters(&mut self) -> Result<(), PipelineError> {
        self.read_letters()?;
        self.report_dead_letters();
        Ok(())
    }

    /// Whether the newest version of this row could not be processed.
    pub(crate) fn has_parked(&self, key: &RowKey) -> bool {
        !self.parked.is_empty() && self.parked.contains_key(&key.digest())
    }

    /// Parks a record that nobody can read, under its place.
    pub(crate) async fn park(&mut self, place: Place, code: &'static str, reason: String) -> Result<(), PipelineError> {
        let key = RowKey::new(vec![Value::from(place.to_string())]);
        let context = Context { generation: self.generation, places: HashMap::from([(key.clone(), place)]) };
        self.settle(&context, &[], &[Failure { key, position: Position::default(), code, reason }]).await
    }

    /// Removes what the table's part of the collection shows of the time before a truncate that was read at `place`. Rows
    /// of other partitions may be parked by other workers at this moment; they come to the same truncate, unless another program has
    /// written it: that one has waited for them.
    pub(crate) async fn truncate_before(
        &mut self,
        position: Position,
        of: Generation,
        place: &Place,
    ) -> Result<(), PipelineError> {
        let is_foreign = of == FOREIGN;
        // Other programs know no generations.
        let of = Generation::default()..=if is_foreign { Generation(u64::MAX) } else { of };
        self.delete_older(position, &of).await?;
        if is_foreign {
            // Other workers have parked rows by now that are older.
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

    /// Removes points that still have the version with which they were reported; `None`: that are not walvec's own.
    pub(crate) async fn remove(&self, points: &[(PointId, Option<Position>)]) -> Result<(), PipelineError> {
        let ids: Vec<PointId> = points.iter().map(|(id, _)| *id).collect();
        let stored = self.retrieve(&ids).await?;
        let versions: HashMap<PointId, Option<Position>> = points.iter().copied().collect();
        let same = stored.into_iter().filter(|point| {
            versions.get(&point.id) == Some(&point.provenance.as_ref().map(|provenance| provenance.position))
        });
        let deletions: Vec<Write> = same.map(|point| Write::Delete(point.id)).collect();
        self.write_all(|| deletions.iter().cloned(), &AtomicBool::default()).await?;
        let removed: Vec<PointId> = deletions.iter().map(Write::id).collect();
        self.forget_witnesses_among(&removed.iter().copied().collect());
        self.late.removed(Some(&removed));
        Ok(())
    }

    /// Empties the table's part of the collection.
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

    /// Removes the points of every other table: a collection belongs to one, and who reads topics does not know which one that was before.
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

    /// Whether what is stored of a point may be of before, and cannot tell anything.
    pub(super) fn is_late(&self, id: PointId) -> bool {
        !self.late.among(std::iter::once(id)).is_empty()
    }

    /// Begins to remember which writes were sent more than once, for [`overtaken`](Self::overtaken).
    pub(crate) fn watch_late_writes(&self) {
        // The engine inside the program gives no answer late.
        if self.collection.sink.is_shared() {
            self.late.watch();
        }
    }

    /// Which points are not as they were written last, because a request was kept on its way and came after newer ones. Nothing may be
    /// in flight.
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

    /// How many points the end of the present generation's snapshot removes, those of other `tables` among them, and how many there
    /// are.
    pub(crate) async fn count_swept(&self, tables: &BTreeSet<TableName>) -> Result<(u64, u64), PipelineError> {
        let generation = self.generation;
        let mut swept = self.as_owner(|sink, table| async move { sink.count_older(table, generation).await }).await?;
        for former in tables.iter().filter(|table| **table != self.collection.table) {
            swept += self.count_of(former).await?;
        }
        let all = self.on_sink(|sink, _| async move { sink.count().await }).await?;
        Ok((swept, all))
    }

    /// How many points of a table there are.
    async fn count_of(&self, table: &TableName) -> Result<u64, PipelineError> {
        let every = Generation(u64::MAX);
        self.on_sink(|sink, _| async move { sink.count_older(table, every).await }).await
    }

    /// Ends a snapshot: points and dead letters that it did not meet belong to rows that are gone.
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

    /// Comes to the end of a snapshot that was read through topics.
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

    /// Ends the reading of a table as it was at `position`: points and dead letters that are older belong to rows that are gone.
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

    /// Remembers the rows that failed and forgets failures that a newer version has healed.
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
        // A version that failed on its way may be followed by one that cannot even be read.
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

fn version_of(letter: &DeadLetter) -> (KeyDigest, Version) {
    (RowKey::new(letter.key.clone()).digest(), (letter.generation, letter.position))
}

/// Keeps the newest letters, the newest first.
fn keep_newest(letters: &mut Vec<DeadLetter>) {
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.position));
    letters.truncate(LATEST_DEAD_LETTERS);
}
