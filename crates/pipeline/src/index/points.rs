//! Takes in records of vectors, for the stage `sink`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::Instrument as _;
use walvec_broker::Record;
use walvec_broker::kafka::consumer::Offsets;
use walvec_broker::wire::vectors::{self, Upsert, VectorRecord as Said};
use walvec_broker::wire::{Format, Malformed, reference_vectors};
use walvec_model::{Column, InputHash, Lsn, Point, PointId, Position, Provenance, RowKey, Table, Value};

use super::held::Waiting;
use super::worker::{RecordHandler, Taken};
use crate::error::PipelineError;
use crate::observe::trace;
use crate::shared::Shared;
use crate::state::dead_letters::Place;
use crate::writer::{ImportedPoint, Writer, all};

/// `pg_type.oid` of int4: the tutorial's tables have serial keys.
const INT4: u32 = 23;

/// The key column of the tutorial's tables.
const ID: &str = "id";

/// Takes vectors in and writes them into collections.
pub(super) struct PointHandler {
    format: Format,
    writers: Vec<Writer>,
    batch_rows: usize,
    shared: Shared,
    /// Points to write or remove, each with the index of its collection, in the order of the records.
    pending: Vec<(usize, ImportedPoint)>,
    times: Vec<SystemTime>,
    /// The distinct traces of the records in `pending`.
    traces: BTreeSet<String>,
    /// Offsets before which everything is durable.
    durable: Offsets,
}

impl PointHandler {
    pub(super) fn new(format: Format, writers: Vec<Writer>, batch_rows: usize, shared: Shared) -> Self {
        let (traces, durable) = (BTreeSet::new(), Offsets::new());
        Self { format, writers, batch_rows, shared, pending: Vec::new(), times: Vec::new(), traces, durable }
    }

    fn writer_of(&self, collection: &str) -> Option<usize> {
        self.writers.iter().position(|writer| writer.collection.name == collection)
    }

    /// Decodes a record of either format into the connector's form.
    fn read(&self, record: &Record) -> Result<Said, Malformed> {
        match self.format {
            Format::Debezium => vectors::decode(record),
            Format::Reference => self.read_reference(record),
        }
    }

    /// Decodes a record of the tutorial's format. It names the table and holds the row's columns next to the vector, so
    /// the payload is laid out here.
    fn read_reference(&self, record: &Record) -> Result<Said, Malformed> {
        let Some(row) = reference_vectors::decode(record)? else { return Ok(Said::Nothing) };
        let refused = |reason: String| Malformed { code: "E_RECORD", reason };
        let Some(writer) = self.writers.iter().find(|writer| writer.collection.table == row.table) else {
            return Ok(Said::Nothing);
        };
        let collection = &writer.collection;
        let columns: Vec<Column> = row.fields.keys().map(|name| column(name)).collect();
        let Some(id) = columns.iter().position(|column| column.name == ID) else {
            return Err(refused(format!("the row has no `{ID}`, so nobody can tell which one it is")));
        };
        let table = Table { name: collection.table.clone(), columns, key: vec![id] };
        let values: Vec<Value> = row.fields.values().cloned().collect();
        let key = RowKey::new(vec![values[id].clone()]);
        // A collection that is filled with points of a topic has no chunks, so there is one document.
        let documents =
            collection.transform.render(&table, &key, &values).map_err(|error| refused(error.to_string()))?;
        let document = documents.into_iter().next().ok_or_else(|| refused("the row has no document".to_owned()))?;
        let provenance = Provenance {
            position: row.position.unwrap_or_else(|| place_of(record)),
            table: Provenance::table_tag(&document.table),
            key: key.values().to_vec(),
            input_hash: document.input_hash,
            fingerprint: collection.fingerprint.clone(),
            generation: row.generation,
            chunk: 0,
            chunks: 1,
        };
        let upsert = Upsert {
            collection: collection.name.clone(),
            id: document.id,
            vector: row.vector,
            vector_name: None,
            keywords: collection.keywords_of(&document.text),
            payload: document.payload,
            provenance: Some(provenance),
            generation: row.generation,
            committed_at: None,
        };
        Ok(Said::Upsert(Box::new(upsert)))
    }

    async fn say(&mut self, said: Said, record: &Record) -> Result<Taken, PipelineError> {
        let place = Place::from(record);
        match said {
            Said::Upsert(upsert) => {
                let Some(index) = self.writer_of(&upsert.collection) else { return Ok(Taken::Joined) };
                self.times.extend(upsert.committed_at);
                let point = self.point(index, *upsert, record);
                let (id, position, generation) = (point.id, point.provenance.position, point.provenance.generation);
                self.pending.push((
                    index,
                    ImportedPoint { id, point: Some(point), position: Some(position), generation, place },
                ));
            }
            Said::Delete { collection, id, position, generation } => {
                if let Some(index) = self.writer_of(&collection) {
                    self.pending.push((index, ImportedPoint { id, point: None, position, generation, place }));
                }
            }
            Said::Truncate { collection, position, generation, .. } => {
                self.write_pending().await?;
                if let Some(index) = self.writer_of(&collection) {
                    self.writers[index].truncate_before(position, generation, &place).await?;
                }
            }
            Said::SnapshotEnd { end, .. } => return Ok(Taken::Waits(Waiting::SnapshotEnd(end))),
            Said::Nothing => {}
        }
        Ok(Taken::Joined)
    }

    /// Converts an upsert into a point. A point that another program made gets the place of its record as its version.
    fn point(&self, index: usize, upsert: Upsert, record: &Record) -> Point {
        let collection = &self.writers[index].collection;
        let Upsert { id, vector, keywords, payload, provenance, generation, .. } = upsert;
        let provenance = provenance.unwrap_or_else(|| Provenance {
            position: place_of(record),
            table: Provenance::table_tag(&collection.table),
            key: vec![id_value(id)],
            input_hash: InputHash::of(""),
            fingerprint: collection.fingerprint.clone(),
            generation,
            chunk: 0,
            chunks: 1,
        });
        Point { id, vector, keywords, payload, provenance }
    }

    async fn park(&mut self, record: &Record, malformed: &Malformed) -> Result<(), PipelineError> {
        for writer in &mut self.writers {
            writer.park(Place::from(record), malformed.code, malformed.reason.clone()).await?;
        }
        Ok(())
    }

    /// Writes what is pending.
    async fn write_pending(&mut self) -> Result<(), PipelineError> {
        let pending = std::mem::take(&mut self.pending);
        let times = std::mem::take(&mut self.times);
        self.shared.telemetry.waiting_since(times.iter().min().copied());
        let mut by_writer: Vec<Vec<ImportedPoint>> = self.writers.iter().map(|_| Vec::new()).collect();
        for (index, placed) in pending {
            by_writer[index].push(placed);
        }
        let traces = std::mem::take(&mut self.traces);
        let span = trace::writing(by_writer.iter().map(Vec::len).sum(), traces.iter().map(String::as_str));
        let dealt = self.writers.iter_mut().zip(by_writer).filter(|(_, placed)| !placed.is_empty());
        all(dealt, |writer, placed| writer.place(placed)).instrument(span).await?;
        for at in times {
            self.shared.telemetry.searchable(at, 1);
        }
        self.shared.telemetry.waiting_since(None);
        Ok(())
    }
}

fn column(name: &str) -> Column {
    let type_oid = if name == ID { INT4 } else { 0 };
    Column::new(name, "", type_oid)
}

/// Returns the version of a record without a position: its place in the partition.
fn place_of(record: &Record) -> Position {
    Position { commit_lsn: Lsn::ZERO, ordinal: u64::try_from(record.offset).unwrap_or_default() + 1 }
}

fn id_value(id: PointId) -> Value {
    match id {
        PointId::Num(number) => Value::from(number),
        PointId::Uuid(uuid) => Value::from(uuid.to_string()),
    }
}

impl RecordHandler for PointHandler {
    /// Never: the vectors have been computed already.
    type EmbeddedPart = Infallible;

    async fn take(&mut self, record: Record) -> Result<Taken, PipelineError> {
        self.traces.extend(record.header(trace::HEADER).map(str::to_owned));
        match self.read(&record) {
            Ok(said) => self.say(said, &record).await,
            Err(malformed) => {
                self.park(&record, &malformed).await?;
                Ok(Taken::Joined)
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn wants_flush(&self) -> bool {
        true
    }

    fn is_full(&self) -> bool {
        self.pending.len() >= self.batch_rows
    }

    async fn flush(&mut self, mut reached: Offsets) -> Result<(), PipelineError> {
        self.write_pending().await?;
        self.durable.append(&mut reached);
        Ok(())
    }

    async fn next(&mut self) -> Option<Infallible> {
        None
    }

    async fn write(&mut self, answer: Infallible) -> Result<(), PipelineError> {
        match answer {}
    }

    async fn finish(&mut self) -> Result<(), PipelineError> {
        self.write_pending().await
    }

    async fn close(&mut self, outcome: Result<(), PipelineError>) -> Result<(), PipelineError> {
        outcome
    }

    fn durable(&mut self) -> Offsets {
        std::mem::take(&mut self.durable)
    }

    async fn end(&mut self, waiting: &Waiting) -> Result<(), PipelineError> {
        let Waiting::SnapshotEnd(end) = waiting else { return Ok(()) };
        for writer in self.writers.iter_mut().filter(|writer| writer.collection.table == end.table) {
            writer.end_snapshot(end).await?;
        }
        Ok(())
    }

    /// Returns false: truncates do not wait here, because each partition has a copy of them.
    fn is_older(&mut self, _: &Record, _: Position) -> bool {
        false
    }

    fn reload(&mut self) -> Result<(), PipelineError> {
        self.writers.iter_mut().try_for_each(Writer::reload_letters)
    }
}
