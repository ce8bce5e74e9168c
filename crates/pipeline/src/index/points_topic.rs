//! A topic as the sink of the stage `embed`.
//!
//! It can be written but not read back. So every row is embedded again, and only the source can supply large values
//! that PostgreSQL did not send.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use tracing::Span;
use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::producer::{Producer, Segment};
use walvec_broker::kafka::topics::{TopicSpec, Topics};
use walvec_broker::wire::reference_vectors::{self, EmbeddedRow};
use walvec_broker::wire::{Format, SnapshotEnd, Sweep, header, vectors};
use walvec_broker::{BrokerError, Outgoing};
use walvec_model::{Generation, Point, PointId, Position, Provenance, StoredPoint, TableName, Vector};
use walvec_sink::{BoxFuture, CollectionId, Generations, ScrollPage, Sink, SinkError, Write};

use crate::observe::trace;

/// The collection whose points a topic holds.
#[derive(Clone, Debug)]
pub struct TopicCollection {
    /// Its name.
    pub name: String,
    /// The name of the dense vectors, if the collection's layout requires one.
    pub vector: Option<String>,
    /// The name of the sparse vectors, if there are any.
    pub keywords: Option<String>,
}

/// One collection's points in a topic.
pub struct VectorsTopic {
    topics: Topics,
    producer: Arc<Producer>,
    spec: TopicSpec,
    partitions: AtomicI32,
    format: Format,
    collection: TopicCollection,
    /// How many deletes were dropped, because the tutorial's format cannot express them.
    dropped: AtomicU64,
}

impl VectorsTopic {
    /// Creates the sink. Connects to nothing yet.
    ///
    /// # Errors
    /// [`BrokerError::Settings`].
    pub fn new(
        connection: &BrokerConnection,
        producer: Arc<Producer>,
        spec: TopicSpec,
        format: Format,
        collection: TopicCollection,
    ) -> Result<Self, BrokerError> {
        let partitions = AtomicI32::new(spec.partitions);
        let topics = Topics::new(connection)?;
        let dropped = AtomicU64::new(0);
        Ok(Self { topics, producer, spec, partitions, format, collection, dropped })
    }

    fn record(&self, write: &Write) -> Option<Outgoing> {
        match (write, self.format) {
            (Write::Upsert(point), Format::Debezium) => {
                let TopicCollection { name, vector, keywords } = &self.collection;
                let names = vectors::VectorFieldNames { dense: vector.as_deref(), keywords: keywords.as_deref() };
                Some(vectors::upsert(name, point, names, None))
            }
            (Write::Upsert(point), Format::Reference) => Some(reference_vectors::encode(&embedded(point))),
            (Write::Delete(id), Format::Debezium) => {
                let record = vectors::delete(&self.collection.name, *id, Position::default(), Generation::default());
                // Without headers: the delete has no position of its own here, and its order in the partition is
                // enough.
                Some(Outgoing { headers: Vec::new(), ..record })
            }
            (Write::Delete(id), Format::Reference) => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(%id, dropped, "the tutorial's form of vectors knows no deletes: the point stays where it is");
                None
            }
            // Never happens: only a point that was retrieved is written as a payload alone, and this sink returns no
            // points.
            (Write::Payload { .. }, _) => None,
        }
    }

    /// Gives a record about the whole collection a key, if the topic is compacted and accepts no record without one.
    fn keyed(&self, record: Outgoing, purpose: &str) -> Outgoing {
        if self.spec.compact {
            record.with_key_about(&format!("{purpose} of {}", self.collection.name))
        } else {
            record
        }
    }

    async fn send(&self, mut records: Vec<(Option<PointId>, Outgoing)>) -> Result<(), SinkError> {
        if let Some(parent) = trace::traceparent(&Span::current()) {
            for (_, record) in &mut records {
                record.headers.push((trace::HEADER, parent.as_bytes().to_vec()));
            }
        }
        let segment = Segment::new();
        for (id, record) in &records {
            let copies = if record.everywhere { self.partitions.load(Ordering::Relaxed) } else { 1 };
            for partition in 0..copies {
                let partition = record.everywhere.then_some(partition);
                match self.producer.send(&self.spec.name, partition, record, &segment).await {
                    Ok(()) => {}
                    Err(error @ BrokerError::TooLarge { .. }) if id.is_some() => {
                        return Err(SinkError::BadPoint {
                            id: id.unwrap_or(PointId::Num(0)),
                            reason: error.to_string(),
                        });
                    }
                    Err(error) => return Err(refused(&error)),
                }
            }
        }
        self.producer.close(&segment);
        self.producer.done(&segment).await.map_err(|error| refused(&error))
    }
}

fn refused(error: &BrokerError) -> SinkError {
    SinkError::Topic { reason: error.to_string(), passes: error.is_retryable() }
}

/// Converts a point to the tutorial's format: the row's columns that the payload has, and its key, which every reader
/// needs.
fn embedded(point: &Point) -> EmbeddedRow {
    let mut fields = point.payload.clone();
    if let [key] = point.provenance.key.as_slice() {
        fields.entry("id").or_insert_with(|| key.clone());
    }
    EmbeddedRow {
        table: Provenance::tagged_table(&point.provenance.table),
        kind: "insert".to_owned(),
        fields,
        vector: point.vector.clone(),
        at: std::time::SystemTime::now(),
        position: Some(point.provenance.position),
        generation: point.provenance.generation,
    }
}

impl Sink for VectorsTopic {
    fn prepare(&self) -> BoxFuture<'_, Result<CollectionId, SinkError>> {
        Box::pin(async move {
            let made = self.topics.ensure(std::slice::from_ref(&self.spec)).await.map_err(|error| refused(&error))?;
            if let Some(partitions) = made.get(&self.spec.name) {
                self.partitions.store(*partitions, Ordering::Relaxed);
            }
            Ok(CollectionId(format!("topic {}", self.spec.name)))
        })
    }

    fn write<'a>(&'a self, batch: &'a [Write]) -> BoxFuture<'a, Result<(), SinkError>> {
        let records = batch.iter().filter_map(|write| Some((Some(write.id()), self.record(write)?))).collect();
        Box::pin(self.send(records))
    }

    fn retrieve<'a>(&'a self, _ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn faithful<'a>(&'a self, _ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<StoredPoint>, SinkError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn vectors<'a>(&'a self, _ids: &'a [PointId]) -> BoxFuture<'a, Result<Vec<(PointId, Vector)>, SinkError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn delete_table(&self, table: &TableName) -> BoxFuture<'_, Result<(), SinkError>> {
        let newest = Position { commit_lsn: walvec_model::Lsn(u64::MAX), ordinal: 0 };
        let (table, of) = (table.clone(), Generation::default()..=Generation(u64::MAX));
        Box::pin(async move { self.delete_older(&table, newest, of, None).await.map(drop) })
    }

    fn delete_older<'a>(
        &'a self,
        table: &'a TableName,
        before: Position,
        of: Generations,
        _from: Option<PointId>,
    ) -> BoxFuture<'a, Result<Option<PointId>, SinkError>> {
        if self.format == Format::Reference {
            tracing::warn!(%table, "the tutorial's form of vectors knows no truncates: the points stay where they are");
            return Box::pin(std::future::ready(Ok(None)));
        }
        let record = vectors::truncate(&self.collection.name, table, before, *of.end());
        let sent = self.send(vec![(None, self.keyed(record, "truncate"))]);
        Box::pin(async move { sent.await.map(|()| None) })
    }

    /// Returns 0. The reader of the topic sweeps, once all partitions were read as far as they are written now.
    fn count_older(&self, _table: &TableName, _current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn sweep(&self, table: &TableName, current: Generation) -> BoxFuture<'_, Result<u64, SinkError>> {
        let table = table.clone();
        Box::pin(async move {
            if self.format == Format::Reference {
                return Ok(0);
            }
            let partitions = self.partitions.load(Ordering::Relaxed);
            let barrier = self.producer.end_offsets(&self.spec.name, partitions).await;
            let barrier = barrier.map_err(|error| refused(&error))?;
            let end = SnapshotEnd {
                table,
                position: Position::default(),
                generation: current,
                sweep: Sweep::Generations,
                barrier,
            };
            let mut record = self.keyed(vectors::snapshot_end(&self.collection.name, &end), "snapshot end");
            record.headers.push((header::TOPIC, self.spec.name.as_bytes().to_vec()));
            self.send(vec![(None, record)]).await?;
            Ok(0)
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<u64, SinkError>> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn scroll(&self, _from: Option<PointId>, _limit: usize) -> BoxFuture<'_, Result<ScrollPage, SinkError>> {
        Box::pin(std::future::ready(Ok(ScrollPage { points: Vec::new(), next: None })))
    }

    fn optimize(&self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
