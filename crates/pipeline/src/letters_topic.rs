//! Dead letters in a compacted topic, where all workers see them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use walvec_broker::kafka::connection::Connection;
use walvec_broker::kafka::producer::{Producer, Segment};
use walvec_broker::kafka::table::Table;
use walvec_broker::kafka::topics::{TopicSpec, Topics};
use walvec_broker::wire::dead_letter::{self, Letter, Parked, Subject};
use walvec_broker::{BrokerError, Outgoing};
use walvec_model::RowKey;

use crate::error::PipelineError;
use crate::letters::{Kept, Letters};
use crate::store::{DeadLetter, Place};

/// By collection and the bytes of the key.
type Known = BTreeMap<(String, Vec<u8>), DeadLetter>;

/// The topic of dead letters.
pub struct LettersTopic {
    topic: String,
    producer: Arc<Producer>,
    table: Table,
    known: Mutex<Known>,
}

impl LettersTopic {
    /// Makes the topic if it is missing, and reads it.
    ///
    /// # Errors
    /// If the broker cannot be reached, or does not let us.
    pub async fn open(
        connection: &Connection,
        producer: Arc<Producer>,
        topic: &str,
        replication: Option<i32>,
    ) -> Result<Self, PipelineError> {
        let spec = TopicSpec { name: topic.to_owned(), partitions: 1, replication, retention: None, compact: true };
        let partitions = Topics::new(connection)?.ensure(std::slice::from_ref(&spec)).await?;
        let partitions = partitions.get(topic).copied().unwrap_or(1);
        let table = Table::open(connection, topic, partitions)?;
        let letters = Self { topic: topic.to_owned(), producer, table, known: Mutex::default() };
        letters.catch_up().await?;
        Ok(letters)
    }

    async fn catch_up(&self) -> Result<(), PipelineError> {
        for record in self.table.news().await? {
            match dead_letter::decode(&record) {
                Ok(Parked::Letter(letter)) => {
                    let letter = from_wire(*letter);
                    self.lock().insert(slot(&letter.collection, &letter.key), letter);
                }
                Ok(Parked::Cleared(Subject::Row { collection, key, .. })) => {
                    self.lock().remove(&slot(&collection, &key));
                }
                Ok(Parked::Cleared(Subject::Record(_))) => {}
                Err(error) => tracing::warn!(place = record.place(), "not a parked row: {error}"),
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, records: &[Outgoing]) -> Result<(), BrokerError> {
        let segment = Segment::new();
        for record in records {
            self.producer.send(&self.topic, None, record, &segment).await?;
        }
        self.producer.close(&segment);
        self.producer.done(&segment).await
    }

    /// How long to let go out what is still queued.
    pub async fn flush(&self, limit: Duration) {
        self.producer.flush(limit).await;
    }
}

fn slot(collection: &str, key: &[walvec_model::Value]) -> (String, Vec<u8>) {
    (collection.to_owned(), RowKey::new(key.to_vec()).canonical().to_vec())
}

fn subject(letter: &DeadLetter) -> Subject {
    Subject::Row { collection: letter.collection.clone(), table: letter.table.clone(), key: letter.key.clone() }
}

fn to_wire(letter: &DeadLetter) -> Letter {
    let place = letter.place.as_ref().map(|place| dead_letter::Place {
        topic: place.topic.clone(),
        partition: place.partition,
        offset: place.offset,
    });
    Letter {
        subject: subject(letter),
        position: Some(letter.position),
        generation: Some(letter.generation),
        code: letter.code.clone(),
        reason: letter.reason.clone(),
        dropped: letter.dropped,
        at: SystemTime::now(),
        source: place,
        record: None,
    }
}

fn from_wire(letter: Letter) -> DeadLetter {
    let place =
        letter.source.map(|place| Place { topic: place.topic, partition: place.partition, offset: place.offset });
    let (collection, table, key) = match letter.subject {
        Subject::Row { collection, table, key } => (collection, table, key),
        Subject::Record(place) => (String::new(), String::new(), vec![place.topic.into()]),
    };
    DeadLetter {
        collection,
        table,
        key,
        position: letter.position.unwrap_or_default(),
        generation: letter.generation.unwrap_or_default(),
        place,
        code: letter.code,
        reason: letter.reason,
        dropped: letter.dropped,
    }
}

impl Letters for LettersTopic {
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError> {
        let known = self.lock();
        known.iter().filter(|((found, _), _)| found == collection).for_each(|(_, letter)| see(letter.clone()));
        Ok(())
    }

    fn refresh(&self) -> Kept<'_> {
        Box::pin(self.catch_up())
    }

    fn update<'a>(&'a self, collection: &'a str, parked: &'a [DeadLetter], cleared: &'a [RowKey]) -> Kept<'a> {
        Box::pin(async move {
            let mut records: Vec<Outgoing> =
                parked.iter().map(|letter| dead_letter::encode(&to_wire(letter))).collect();
            for key in cleared {
                let found = self.lock().get(&slot(collection, key.values())).map(subject);
                records.extend(found.map(|subject| dead_letter::cleared(&subject)));
            }
            self.write(&records).await?;
            let mut known = self.lock();
            for key in cleared {
                known.remove(&slot(collection, key.values()));
            }
            for letter in parked {
                known.insert(slot(&letter.collection, &letter.key), letter.clone());
            }
            Ok(())
        })
    }
}
