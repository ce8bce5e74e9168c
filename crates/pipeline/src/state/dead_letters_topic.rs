//! Stores dead letters in a compacted topic, where all workers see them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use walvec_broker::kafka::connection::BrokerConnection;
use walvec_broker::kafka::producer::{Producer, Segment};
use walvec_broker::kafka::table::CompactedTopic;
use walvec_broker::kafka::topics::{TopicSpec, Topics};
use walvec_broker::wire::dead_letter::{self, Letter, LetterRecord, LetterSubject};
use walvec_broker::{BrokerError, Outgoing, Record};
use walvec_model::RowKey;

use crate::error::PipelineError;
use crate::state::dead_letters::{DeadLetter, DeadLetterStore, Place};

/// The code of a dead letter whose record is too large.
const E_RECORD_SIZE: &str = "E_RECORD_SIZE";

/// The letters that the topic holds.
#[derive(Debug, Default)]
struct LetterLedger(BTreeMap<LetterKey, DeadLetter>);

/// The collection, the bytes of the key, and whether capture has parked the row.
type LetterKey = (String, Vec<u8>, bool);

/// The topic of dead letters.
pub struct DeadLettersTopic {
    topic: String,
    producer: Arc<Producer>,
    table: CompactedTopic,
    ledger: Mutex<LetterLedger>,
}

impl DeadLettersTopic {
    /// Creates the topic if it is missing, and reads it.
    ///
    /// # Errors
    /// If the broker cannot be reached, or refuses access.
    pub async fn open(
        connection: &BrokerConnection,
        producer: Arc<Producer>,
        topic: &str,
        replication: Option<i32>,
    ) -> Result<Self, PipelineError> {
        let spec = TopicSpec { name: topic.to_owned(), partitions: 1, replication, retention: None, compact: true };
        let partitions = Topics::new(connection)?.ensure(std::slice::from_ref(&spec)).await?;
        let partitions = partitions.get(topic).copied().unwrap_or(1);
        let table = CompactedTopic::open(connection, topic, partitions)?;
        let letters = Self { topic: topic.to_owned(), producer, table, ledger: Mutex::default() };
        letters.catch_up().await?;
        Ok(letters)
    }

    async fn catch_up(&self) -> Result<(), PipelineError> {
        let news = self.table.news().await?;
        let mut ledger = self.lock();
        news.iter().for_each(|record| ledger.hear(record));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, LetterLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, records: &[Outgoing]) -> Result<(), BrokerError> {
        let segment = Segment::new();
        for record in records {
            self.producer.send(&self.topic, None, record, &segment).await?;
        }
        self.producer.close(&segment);
        self.producer.done(&segment).await
    }

    /// Waits up to `limit` until queued records are sent.
    pub async fn flush(&self, limit: Duration) {
        self.producer.flush(limit).await;
    }
}

impl LetterLedger {
    /// Notes what a record of the topic says.
    fn hear(&mut self, record: &Record) {
        match dead_letter::decode(record) {
            Ok(LetterRecord::Letter(letter)) => {
                let letter = from_wire(*letter);
                self.0.insert(letter_key_of(&letter), letter);
            }
            Ok(LetterRecord::Cleared(LetterSubject::Row { collection, key, by_capture, .. })) => {
                self.0.remove(&letter_key(&collection, &key, by_capture));
            }
            Ok(LetterRecord::Cleared(LetterSubject::Record(_))) => {}
            Err(error) => tracing::warn!(place = record.place(), "not a parked row: {error}"),
        }
    }

    /// Returns the records that park rows and clear others. A row that is not parked needs no record to be cleared.
    fn records(&self, parked: &[DeadLetter], cleared: &[LetterKey]) -> Vec<Outgoing> {
        let letters = parked.iter().map(|letter| dead_letter::encode(&to_wire(letter)));
        let found = cleared.iter().filter_map(|key| self.0.get(key));
        letters.chain(found.map(|letter| dead_letter::cleared(&subject(letter)))).collect()
    }

    /// Notes that the topic has these records.
    fn written(&mut self, parked: &[DeadLetter], cleared: &[LetterKey]) {
        for key in cleared {
            self.0.remove(key);
        }
        self.0.extend(parked.iter().map(|letter| (letter_key_of(letter), letter.clone())));
    }

    /// Returns the letters of a collection, by key.
    fn of<'a>(&'a self, collection: &'a str) -> impl Iterator<Item = &'a DeadLetter> {
        self.0.iter().filter(move |((found, ..), _)| found == collection).map(|(_, letter)| letter)
    }
}

fn letter_key(collection: &str, key: &[walvec_model::Value], by_capture: bool) -> LetterKey {
    (collection.to_owned(), RowKey::new(key.to_vec()).canonical().to_vec(), by_capture)
}

fn letter_key_of(letter: &DeadLetter) -> LetterKey {
    letter_key(&letter.collection, &letter.key, is_by_capture(letter))
}

/// Returns whether capture has parked the row. A letter of a worker has the place of a record.
fn is_by_capture(letter: &DeadLetter) -> bool {
    letter.code == E_RECORD_SIZE && letter.place.is_none()
}

fn subject(letter: &DeadLetter) -> LetterSubject {
    LetterSubject::Row {
        collection: letter.collection.clone(),
        table: letter.table.clone(),
        key: letter.key.clone(),
        by_capture: is_by_capture(letter),
    }
}

fn to_wire(letter: &DeadLetter) -> Letter {
    let place = letter.place.as_ref().map(|place| dead_letter::RecordPlace {
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
        LetterSubject::Row { collection, table, key, .. } => (collection, table, key),
        LetterSubject::Record(place) => (String::new(), String::new(), vec![place.topic.into()]),
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

impl DeadLettersTopic {
    /// Parks rows and clears others: those that capture has parked if `by_capture`, otherwise those that workers have.
    async fn change(
        &self,
        collection: &str,
        parked: &[DeadLetter],
        cleared: &[RowKey],
        by_capture: bool,
    ) -> Result<(), PipelineError> {
        let cleared: Vec<LetterKey> =
            cleared.iter().map(|key| letter_key(collection, key.values(), by_capture)).collect();
        let records = self.lock().records(parked, &cleared);
        self.write(&records).await?;
        self.lock().written(parked, &cleared);
        Ok(())
    }
}

/// The workers' view of the topic: reads every letter, and clears only letters of workers.
impl DeadLetterStore for DeadLettersTopic {
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError> {
        self.lock().of(collection).cloned().for_each(see);
        Ok(())
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        Box::pin(self.catch_up())
    }

    fn update<'a>(
        &'a self,
        collection: &'a str,
        parked: &'a [DeadLetter],
        cleared: &'a [RowKey],
    ) -> BoxFuture<'a, Result<(), PipelineError>> {
        Box::pin(self.change(collection, parked, cleared, false))
    }
}

/// The capture stage's view of the topic: reads and clears only its own letters, those of rows whose records are too
/// large.
pub struct CaptureLetters(pub Arc<DeadLettersTopic>);

impl DeadLetterStore for CaptureLetters {
    fn each(&self, collection: &str, see: &mut dyn FnMut(DeadLetter)) -> Result<(), PipelineError> {
        self.0.each(collection, &mut |letter| {
            if is_by_capture(&letter) {
                see(letter);
            }
        })
    }

    fn refresh(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        self.0.refresh()
    }

    fn update<'a>(
        &'a self,
        collection: &'a str,
        parked: &'a [DeadLetter],
        cleared: &'a [RowKey],
    ) -> BoxFuture<'a, Result<(), PipelineError>> {
        Box::pin(self.0.change(collection, parked, cleared, true))
    }
}

#[cfg(test)]
mod tests;
