//! Records of changed rows, for the stages `index` and `embed`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::Instrument as _;
use walvec_broker::Record;
use walvec_broker::wire::{Arrived, Decoder, Event, Format, Malformed, SnapshotEnd, header};
use walvec_model::{Change, Generation, Lsn, Op, Position, RowKey, Table, TableName, Value};

use super::worker::{Intake, Taken};
use crate::batch::coalesce;
use crate::error::PipelineError;
use crate::follow::{BATCH_BYTES, weight};
use crate::refetch::OnDemand;
use crate::store::Place;
use crate::telemetry::count_changes;
use crate::trace;
use crate::writer::{Shared, Writer, all};

/// The code of a dead letter whose record lacks a column.
const E_SCHEMA: &str = "E_SCHEMA";

/// Takes changes in and brings them into collections.
pub(super) struct Rows {
    decoder: Decoder,
    /// The table that each topic is for, where it is for one alone.
    tables: HashMap<String, Option<TableName>>,
    writers: Vec<Writer>,
    source: OnDemand,
    batch_rows: usize,
    shared: Shared,
    pending: Vec<(Arrived, Place)>,
    bytes: usize,
    /// The traces that the records in `pending` belong to, each once.
    traces: BTreeSet<String>,
    /// The shape of each table in `pending`: rows of another shape cannot complete them.
    shapes: HashMap<TableName, Arc<Table>>,
}

impl Rows {
    pub(super) fn new(
        format: Format,
        topics: &[(String, Option<TableName>)],
        writers: Vec<Writer>,
        source: OnDemand,
        batch_rows: usize,
        shared: Shared,
    ) -> Self {
        let mut needed: HashMap<TableName, Vec<String>> = HashMap::new();
        for writer in &writers {
            let columns = writer.collection.transform.named_columns();
            needed.entry(writer.collection.table.clone()).or_default().extend(columns);
        }
        Self {
            decoder: Decoder::new(format, needed),
            tables: topics.iter().cloned().collect(),
            writers,
            source,
            batch_rows,
            shared,
            pending: Vec::new(),
            bytes: 0,
            traces: BTreeSet::new(),
            shapes: HashMap::new(),
        }
    }

    fn writers_of(&self, table: &TableName) -> Vec<usize> {
        (0..self.writers.len()).filter(|&index| self.writers[index].collection.table == *table).collect()
    }

    async fn join(&mut self, arrived: Arrived, place: Place) -> Result<(), PipelineError> {
        let change = &arrived.change;
        if change.op == Op::Truncate {
            self.flush().await?;
            for index in self.writers_of(&change.table.name) {
                self.writers[index].truncate_before(change.position, &place).await?;
            }
            return Ok(());
        }
        if !matches!(change.op, Op::Delete { .. }) {
            let table = Arc::clone(&change.table);
            if self.shapes.get(&table.name).is_some_and(|known| *known != table) {
                self.flush().await?;
            }
            self.shapes.insert(table.name.clone(), table);
        }
        self.bytes += weight(&arrived.change.op);
        self.pending.push((arrived, place));
        Ok(())
    }

    /// A record that nobody can read is parked under its place, for every collection that it might have been for.
    async fn park(&mut self, place: &Place, malformed: &Malformed) -> Result<(), PipelineError> {
        let table = self.tables.get(&place.topic).cloned().flatten();
        let key = RowKey::new(vec![Value::from(place.to_string())]);
        for writer in &mut self.writers {
            if table.as_ref().is_none_or(|table| *table == writer.collection.table) {
                writer.come_from(HashMap::from([(key.clone(), place.clone())]));
                writer.park(&key, Position::default(), malformed.code, &malformed.reason).await?;
            }
        }
        Ok(())
    }

    /// A record that was written again is worth something only while its row is still parked: by now the row may have
    /// changed, or be gone.
    async fn take_again(&mut self, arrived: Arrived, place: Place) -> Result<(), PipelineError> {
        // What came before it may take the row back, or remove it.
        self.flush().await?;
        let Some(key) = arrived.change.key() else { return Ok(()) };
        let (source, Arrived { change, generation, .. }) = (&self.source, arrived);
        let shows = |writer: &&mut Writer| writer.collection.table == change.table.name && writer.has_parked(&key);
        let dealt = self.writers.iter_mut().filter(shows).map(|writer| (writer, vec![(change.clone(), place.clone())]));
        all(dealt, |writer, changes| write(writer, source, generation, changes)).await
    }
}

/// Writes the changes of one snapshot's time into one collection.
async fn write(
    writer: &mut Writer,
    source: &OnDemand,
    generation: Generation,
    changes: Vec<(Change, Place)>,
) -> Result<(), PipelineError> {
    writer.begin_generation(generation);
    let places = changes.iter().filter_map(|(change, place)| Some((change.key()?, place.clone()))).collect();
    writer.come_from(places);
    let mut readable = Vec::with_capacity(changes.len());
    // Rows whose last change lacks a column: parked after the others are written, which would take them back.
    let mut lacking: HashMap<RowKey, (Position, String)> = HashMap::new();
    for (change, _) in changes {
        let lacks = match &change.op {
            Op::Insert { .. } | Op::Update { .. } => writer.collection.transform.check(&change.table).err(),
            Op::Delete { .. } | Op::Truncate => None,
        };
        match (lacks, change.key()) {
            (Some(error), Some(key)) => drop(lacking.insert(key, (change.position, error.to_string()))),
            (_, key) => {
                key.iter().for_each(|key| drop(lacking.remove(key)));
                readable.push(change);
            }
        }
    }
    writer.write(source, coalesce(readable)).await?;
    for (key, (position, reason)) in lacking {
        writer.park(&key, position, E_SCHEMA, &reason).await?;
    }
    Ok(())
}

impl Intake for Rows {
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
            Ok(Event::Change(arrived)) => {
                self.join(arrived, place).await?;
                Ok(Taken::Joined)
            }
            Ok(Event::SnapshotEnd(end)) => Ok(Taken::SnapshotEnd(end)),
            Ok(Event::Nothing) => Ok(Taken::Joined),
            Err(malformed) => {
                self.park(&place, &malformed).await?;
                Ok(Taken::Joined)
            }
        }
    }

    /// Older snapshots' changes come first: inside one partition they do, and a key is in one partition.
    async fn flush(&mut self) -> Result<(), PipelineError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        self.shapes.clear();
        let pending = std::mem::take(&mut self.pending);
        let times: Vec<SystemTime> = pending.iter().filter_map(|(arrived, _)| arrived.committed_at).collect();
        self.shared.telemetry.waiting_since(times.iter().min().copied());
        let newest = pending.iter().map(|(arrived, _)| arrived.change.position.commit_lsn);
        let newest = newest.filter(|lsn| *lsn != Lsn(u64::MAX)).max();
        let mut dealt: Vec<BTreeMap<Generation, Vec<(Change, Place)>>> =
            self.writers.iter().map(|_| BTreeMap::new()).collect();
        for (Arrived { change, generation, .. }, place) in pending {
            count_changes(std::slice::from_ref(&change));
            for index in self.writers_of(&change.table.name) {
                dealt[index].entry(generation).or_default().push((change.clone(), place.clone()));
            }
        }
        let traces = std::mem::take(&mut self.traces);
        let span = trace::writing(times.len(), traces.iter().map(String::as_str));
        let source = &self.source;
        let written = all(self.writers.iter_mut().zip(dealt), |writer, groups| async move {
            for (generation, changes) in groups {
                write(writer, source, generation, changes).await?;
            }
            Ok(())
        });
        written.instrument(span).await?;
        for at in times {
            self.shared.telemetry.searchable(at, 1);
        }
        if let Some(newest) = newest {
            self.shared.telemetry.applied_at_least(newest);
        }
        self.shared.telemetry.waiting_since(None);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= self.batch_rows || self.bytes >= BATCH_BYTES
    }

    async fn end_snapshot(&mut self, end: &SnapshotEnd) -> Result<(), PipelineError> {
        for index in self.writers_of(&end.table) {
            let writer = &mut self.writers[index];
            writer.begin_generation(end.generation);
            let swept = writer.finish_generation().await?;
            tracing::info!(collection = writer.collection.name, swept, "snapshot complete");
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<(), PipelineError> {
        self.writers.iter_mut().try_for_each(Writer::reload_letters)
    }
}
