//! Takes in records of changed rows, for the stages `index` and `embed`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::Span;
use walvec_broker::Record;
use walvec_broker::kafka::consumer::Offsets;
use walvec_broker::wire::{self, Arrived, Decoder, Event, Format, Malformed, header};
use walvec_model::{Change, Generation, Lsn, Op, Position, RowKey, Table, TableName};
use walvec_transform::point_id::with_uuid_key;

use super::held::{Truncate, Waiting};
use super::worker::{RecordHandler, Taken};
use crate::error::PipelineError;
use crate::observe::metrics::count_changes;
use crate::observe::trace;
use crate::sequencer::{Completion, EmbeddedPart, Sequencer};
use crate::shared::Shared;
use crate::source::rows::LazyRowSource;
use crate::state::dead_letters::Place;
use crate::writer::coalesce::{FinalRow, coalesce};
use crate::writer::known::FOREIGN;
use crate::writer::row_size::{BATCH_BYTES, weight};
use crate::writer::{Batch, BatchContext, Purpose, RowFailure, Writer};

/// The code of a dead letter whose record lacks a column.
const E_SCHEMA: &str = "E_SCHEMA";

/// The topics with changes.
pub(super) struct ChangeTopics<'a> {
    pub(super) format: Format,
    /// The topics, each with its table if it holds the records of only one.
    pub(super) topics: &'a [(String, Option<TableName>)],
    /// Those that are compacted.
    pub(super) compacted: HashSet<String>,
}

/// Takes changes in and writes them into collections.
pub(super) struct ChangeHandler {
    format: Format,
    decoder: Decoder,
    /// The table of each topic, if the topic holds the records of only one.
    tables: HashMap<String, Option<TableName>>,
    /// Compacted topics, which keep only the last record of each row: the stored point may lack versions that were
    /// never read.
    compacted: HashSet<String>,
    writers: Vec<Writer>,
    source: LazyRowSource,
    batch_rows: usize,
    shared: Shared,
    pending: Vec<(Arrived, Place)>,
    /// Deletes in `pending` to repeat after it as if the key were a uuid. Where nothing shows the type of the key it
    /// may be one, and then the row has another point id.
    as_uuids: Vec<(Arrived, Place)>,
    /// When the first of `pending` arrived.
    since: Option<Instant>,
    bytes: usize,
    /// The distinct traces of the records in `pending`.
    traces: BTreeSet<String>,
    /// The shape of each table in `pending`. Rows of another shape cannot complete these.
    shapes: HashMap<TableName, Arc<Table>>,
    /// The generation of each row in `pending`.
    generations: HashMap<(TableName, RowKey), Generation>,
    /// The position of the last truncate of each table that another program wrote.
    emptied: HashMap<TableName, Position>,
    sequencer: Sequencer<BatchCompletion>,
}

/// What to report when a batch is durable.
enum BatchCompletion {
    /// When its changes were committed, and the newest position among them.
    Found { times: Vec<SystemTime>, oldest: Option<SystemTime>, newest: Option<Lsn> },
    /// The offsets before which everything is durable.
    Reached(Offsets),
}

impl Completion for BatchCompletion {
    fn join(&mut self, mut later: Self) -> Option<Self> {
        match (self, &mut later) {
            (Self::Reached(offsets), Self::Reached(reached)) => {
                offsets.append(reached);
                None
            }
            _ => Some(later),
        }
    }
}

impl ChangeHandler {
    pub(super) fn new(
        topics: ChangeTopics<'_>,
        writers: Vec<Writer>,
        source: LazyRowSource,
        batch_rows: usize,
        shared: Shared,
    ) -> Self {
        let ChangeTopics { format, topics, compacted } = topics;
        let sequencer = Sequencer::new(shared.stop.clone());
        let mut needed: HashMap<TableName, Vec<String>> = HashMap::new();
        for writer in &writers {
            let columns = writer.collection.transform.named_columns();
            needed.entry(writer.collection.table.clone()).or_default().extend(columns);
        }
        Self {
            format,
            decoder: Decoder::new(format, needed),
            tables: topics.iter().cloned().collect(),
            compacted,
            writers,
            source,
            batch_rows,
            shared,
            pending: Vec::new(),
            as_uuids: Vec::new(),
            since: None,
            bytes: 0,
            traces: BTreeSet::new(),
            shapes: HashMap::new(),
            generations: HashMap::new(),
            emptied: HashMap::new(),
            sequencer,
        }
    }

    fn writers_of(&self, table: &TableName) -> Vec<usize> {
        (0..self.writers.len()).filter(|&index| self.writers[index].collection.table == *table).collect()
    }

    /// Returns whether a record of another program is older than a truncate that was read before it, in another
    /// partition. Such a program writes a truncate into one partition only, and may have been slow to send the record
    /// to its own.
    fn is_before_truncate(&self, arrived: &Arrived) -> bool {
        let emptied = self.emptied.get(&arrived.change.table.name);
        arrived.generation == FOREIGN && emptied.is_some_and(|emptied| arrived.change.position < *emptied)
    }

    async fn join(&mut self, arrived: Arrived, place: Place) -> Result<Taken, PipelineError> {
        let change = &arrived.change;
        let concerned = self.writers_of(&change.table.name);
        if concerned.is_empty() || self.is_before_truncate(&arrived) {
            return Ok(Taken::Joined);
        }
        if change.op == Op::Truncate {
            let (table, position) = (change.table.name.clone(), change.position);
            if arrived.generation == FOREIGN && self.format == Format::Debezium {
                return Ok(Taken::Waits(Waiting::Truncate(Truncate { table, position, place })));
            }
            self.drain().await?;
            for index in concerned {
                self.writers[index].truncate_before(position, arrived.generation, &place).await?;
            }
            return Ok(Taken::Joined);
        }
        if !matches!(change.op, Op::Delete { .. }) {
            let table = Arc::clone(&change.table);
            if self.shapes.get(&table.name).is_some_and(|known| *known != table) {
                self.begin().await?;
            }
            self.shapes.insert(table.name.clone(), table);
        }
        if let (Op::Update { new, .. }, Some(xid)) = (&arrived.change.op, arrived.xid)
            && new.is_partial()
        {
            self.source.unseen.begin(xid);
        }
        if let Op::Delete { key } = &arrived.change.op
            && let Some(table) = with_uuid_key(&arrived.change.table, key)
        {
            let as_uuid = Change { table: Arc::new(table), ..arrived.change.clone() };
            self.as_uuids.push((Arrived { change: as_uuid, ..arrived.clone() }, place.clone()));
        } else if !self.as_uuids.is_empty() {
            // The record may be of the same row.
            self.begin().await?;
        }
        self.push(arrived, place).await?;
        Ok(Taken::Joined)
    }

    async fn push(&mut self, arrived: Arrived, place: Place) -> Result<(), PipelineError> {
        // A batch is written generation by generation. A record of another program has none of walvec's generations,
        // wherever it is in the topic.
        let row = arrived.change.key().map(|key| (arrived.change.table.name.clone(), key));
        if let Some(row) = row {
            if self.generations.get(&row).is_some_and(|generation| *generation != arrived.generation) {
                self.begin().await?;
            }
            self.generations.insert(row, arrived.generation);
        }
        self.bytes += weight(&arrived.change.op);
        self.since.get_or_insert_with(Instant::now);
        self.pending.push((arrived, place));
        Ok(())
    }

    /// Parks a record that cannot be read, under its place, for every collection that it may have been for.
    async fn park(&mut self, place: &Place, malformed: &Malformed) -> Result<(), PipelineError> {
        let table = self.tables.get(&place.topic).cloned().flatten();
        for writer in &mut self.writers {
            if table.as_ref().is_none_or(|table| *table == writer.collection.table) {
                writer.park(place.clone(), malformed.code, malformed.reason.clone()).await?;
            }
        }
        Ok(())
    }

    /// Takes in a record that was written again, but only if its row is still parked: otherwise the row may have
    /// changed by now, or be gone.
    async fn take_again(&mut self, arrived: Arrived, place: Place) -> Result<(), PipelineError> {
        // Earlier records may clear the row, or remove it.
        self.drain().await?;
        let Some(key) = arrived.change.key() else { return Ok(()) };
        let Arrived { change, generation, xid, .. } = arrived;
        xid.into_iter().for_each(|xid| self.source.unseen.begin(xid));
        let shows = |index: &usize| self.writers[*index].is_parked(&key);
        let concerned = self.writers_of(&change.table.name).into_iter().filter(shows);
        let batch = |index| (index, self.batch(index, generation, vec![(change.clone(), place.clone())]));
        let batches = concerned.map(batch).collect();
        self.sequencer.begin(&mut self.writers, &self.source, batches, Span::none()).await
    }

    /// Makes a batch of the changes of one generation, for one collection.
    fn batch(&self, index: usize, generation: Generation, changes: Vec<(Change, Place)>) -> Batch {
        let transform = &self.writers[index].collection.transform;
        let places: HashMap<RowKey, Place> =
            changes.iter().filter_map(|(change, place)| Some((change.key()?, place.clone()))).collect();
        let mut readable = Vec::with_capacity(changes.len());
        // Rows whose last change lacks a column. They are parked, even if an earlier change could be read.
        let mut lacking: HashMap<RowKey, RowFailure> = HashMap::new();
        for (change, _) in changes {
            let lacks = match &change.op {
                Op::Insert { .. } | Op::Update { .. } => transform.check(&change.table).err(),
                Op::Delete { .. } | Op::Truncate => None,
            };
            match (lacks, change.key()) {
                (Some(error), Some(key)) => {
                    let (position, reason) = (change.position, error.to_string());
                    lacking.insert(key.clone(), RowFailure { key, position, code: E_SCHEMA, reason });
                }
                (_, key) => {
                    key.iter().for_each(|key| drop(lacking.remove(key)));
                    readable.push(change);
                }
            }
        }
        let is_compacted =
            |key: &RowKey| places.get(key).is_some_and(|place: &Place| self.compacted.contains(&place.topic));
        let entries = coalesce(readable).into_iter().map(|(key, last)| {
            let state = if is_compacted(&key) { last.state.without_stored() } else { last.state };
            (key, FinalRow { state, ..last })
        });
        let entries = entries.collect();
        Batch {
            entries,
            purpose: Purpose::Change,
            has_inserts_only: false,
            context: Arc::new(BatchContext { generation, places }),
            failed: lacking.into_values().collect(),
        }
    }

    /// Begins to write what is pending. Changes of older generations come first: a row has changes of one generation
    /// only.
    async fn begin(&mut self) -> Result<(), PipelineError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        self.since = None;
        self.shapes.clear();
        self.generations.clear();
        let (pending, as_uuids) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.as_uuids));
        let times: Vec<SystemTime> = pending.iter().filter_map(|(arrived, _)| arrived.committed_at).collect();
        let newest = pending.iter().map(|(arrived, _)| arrived.lsn).filter(|lsn| *lsn != Lsn::ZERO).max();
        let traces = std::mem::take(&mut self.traces);
        let span = trace::writing(pending.len(), traces.iter().map(String::as_str));
        pending.iter().for_each(|(arrived, _)| count_changes(std::slice::from_ref(&arrived.change)));
        for changes in [pending, as_uuids] {
            self.begin_changes(changes, &span).await?;
        }
        // Everything that was read for these changes has been read.
        self.source.unseen.clear();
        let oldest = times.iter().min().copied();
        self.sequencer.note(BatchCompletion::Found { times, oldest, newest });
        Ok(())
    }

    async fn begin_changes(&mut self, changes: Vec<(Arrived, Place)>, span: &Span) -> Result<(), PipelineError> {
        let mut dealt: BTreeMap<Generation, BTreeMap<usize, Vec<(Change, Place)>>> = BTreeMap::new();
        for (Arrived { change, generation, .. }, place) in changes {
            for index in self.writers_of(&change.table.name) {
                let changes = dealt.entry(generation).or_default().entry(index).or_default();
                changes.push((self.writers[index].reduced(&change), place.clone()));
            }
        }
        for (generation, dealt) in dealt {
            dealt.keys().for_each(|index| self.writers[*index].begin_generation(generation));
            let batch = |(index, changes)| (index, self.batch(index, generation, changes));
            let batches = dealt.into_iter().map(batch).collect();
            self.sequencer.begin(&mut self.writers, &self.source, batches, span.clone()).await?;
        }
        Ok(())
    }

    /// Writes what is pending and what is in flight, unless a stop comes first.
    async fn drain(&mut self) -> Result<(), PipelineError> {
        self.begin().await?;
        self.sequencer.drain(&mut self.writers).await
    }

    /// Reports when the oldest change was committed that cannot be found yet.
    fn report_waiting(&self) {
        let pending = self.pending.iter().filter_map(|(arrived, _)| arrived.committed_at);
        let under_way = self.sequencer.notes().filter_map(|told| match told {
            BatchCompletion::Found { oldest, .. } => *oldest,
            BatchCompletion::Reached(_) => None,
        });
        self.shared.telemetry.waiting_since(pending.chain(under_way).min());
    }
}

impl RecordHandler for ChangeHandler {
    type EmbeddedPart = EmbeddedPart;

    async fn take(&mut self, record: Record) -> Result<Taken, PipelineError> {
        let place = Place::from(&record);
        let table = self.tables.get(&*record.topic).cloned().flatten();
        if let Some(parent) = record.header(trace::HEADER)
            && !self.traces.contains(parent)
        {
            self.traces.insert(parent.to_owned());
        }
        match self.decoder.decode(&record, table.as_ref()) {
            Ok(Event::Change(arrived)) if record.header(header::AGAIN).is_some() => {
                self.take_again(arrived, place).await?;
                Ok(Taken::Joined)
            }
            Ok(Event::Change(arrived)) => self.join(arrived, place).await,
            Ok(Event::SnapshotEnd(end)) => Ok(Taken::Waits(Waiting::SnapshotEnd(end))),
            Ok(Event::Nothing) => Ok(Taken::Joined),
            Err(malformed) => {
                self.park(&place, &malformed).await?;
                Ok(Taken::Joined)
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.sequencer.due(&self.writers, self.pending.len(), self.batch_rows, self.since?)
    }

    fn wants_flush(&self) -> bool {
        self.pending.is_empty() || self.due().is_some_and(|due| due <= Instant::now())
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= self.batch_rows || self.bytes >= BATCH_BYTES
    }

    async fn flush(&mut self, reached: Offsets) -> Result<(), PipelineError> {
        self.begin().await?;
        if !reached.is_empty() {
            self.sequencer.note(BatchCompletion::Reached(reached));
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<EmbeddedPart> {
        self.sequencer.next().await
    }

    async fn write(&mut self, answer: EmbeddedPart) -> Result<(), PipelineError> {
        self.sequencer.write(&mut self.writers, answer).await
    }

    async fn finish(&mut self) -> Result<(), PipelineError> {
        self.begin().await?;
        self.sequencer.finish(&mut self.writers).await
    }

    async fn close(&mut self, outcome: Result<(), PipelineError>) -> Result<(), PipelineError> {
        self.sequencer.close(&mut self.writers, outcome).await
    }

    fn durable(&mut self) -> Offsets {
        let mut offsets = Offsets::new();
        for note in self.sequencer.durable() {
            match note {
                BatchCompletion::Found { times, newest, .. } => {
                    times.into_iter().for_each(|at| self.shared.telemetry.searchable(at, 1));
                    newest.into_iter().for_each(|newest| self.shared.telemetry.applied_at_least(newest));
                }
                BatchCompletion::Reached(mut reached) => offsets.append(&mut reached),
            }
        }
        self.report_waiting();
        offsets
    }

    async fn end(&mut self, waiting: &Waiting) -> Result<(), PipelineError> {
        match waiting {
            Waiting::SnapshotEnd(end) => {
                for index in self.writers_of(&end.table) {
                    self.writers[index].end_snapshot(end).await?;
                }
            }
            Waiting::Truncate(Truncate { table, position, place }) => {
                self.emptied.insert(table.clone(), *position);
                for index in self.writers_of(table) {
                    self.writers[index].truncate_before(*position, FOREIGN, place).await?;
                }
            }
        }
        Ok(())
    }

    /// Returns whether `record` is older than a truncate of another program at `position`.
    ///
    /// A record counts as older if it does not say when it was written, or if it cannot be read: the group will soon
    /// have read it. Records of walvec use other positions. They come after what the other program wrote, so they do
    /// not count as older.
    fn is_older(&mut self, record: &Record, position: Position) -> bool {
        let table = self.tables.get(&*record.topic).cloned().flatten();
        match self.decoder.decode(record, table.as_ref()) {
            Ok(Event::Change(Arrived { change, generation, .. })) => {
                generation == FOREIGN && (change.position < position || change.position == wire::UNPLACED)
            }
            Ok(Event::SnapshotEnd(_)) => false,
            Ok(Event::Nothing) | Err(_) => true,
        }
    }

    fn reload(&mut self) -> Result<(), PipelineError> {
        self.writers.iter_mut().try_for_each(Writer::reload_letters)
    }
}
