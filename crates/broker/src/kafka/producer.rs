//! Writes records and tracks which of them the broker has acknowledged.
//!
//! Records are written in [`Segment`]s: a segment is done when the broker has acknowledged every record of it, with all
//! its in-sync copies. The library keeps the order of each partition and writes nothing twice, however often it retries
//! (an idempotent producer).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::watch;

use super::connection::{BrokerConnection, LastClientError, log};
pub use super::settings::{LARGEST_RECORD, Sending};
use super::topics::blocking;
use super::watermarks::watermarks;
use crate::error::BrokerError;
use crate::record::{Outgoing, Record};
use crate::wire::again;

/// Records that are acknowledged together.
#[derive(Debug)]
pub struct Segment {
    /// The number of records that the broker has not acknowledged, plus one while records are still being added.
    pending: AtomicUsize,
    failed: OnceLock<BrokerError>,
}

impl Segment {
    /// Creates a segment to which records can be added.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { pending: AtomicUsize::new(1), failed: OnceLock::new() })
    }

    /// Returns whether the broker has all records of the segment. Never true before [`Producer::close`].
    ///
    /// # Errors
    /// Fails if the broker has refused a record of the segment.
    pub fn is_done(&self) -> Result<bool, BrokerError> {
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(self.pending.load(Ordering::Acquire) == 0),
        }
    }
}

/// Writes records to topics.
pub struct Producer {
    inner: Arc<ThreadedProducer<Deliveries>>,
    deliveries: Deliveries,
    sending: Sending,
}

#[derive(Clone)]
struct Deliveries(Arc<ProducerState>);

struct ProducerState {
    trouble: LastClientError,
    /// Notifies whenever the broker has acknowledged or refused a record.
    progress: watch::Sender<()>,
    acknowledged: AtomicU64,
    /// For each topic, by partition, the offset after the last acknowledged record.
    ends: Mutex<BTreeMap<String, Vec<i64>>>,
}

impl Producer {
    /// Creates a producer. It does not connect yet.
    ///
    /// # Errors
    /// Returns [`BrokerError::Settings`] if the library does not accept the settings.
    pub fn new(connection: &BrokerConnection, sending: Sending) -> Result<Self, BrokerError> {
        let trouble = LastClientError::new(connection);
        let deliveries = Deliveries(Arc::new(ProducerState {
            trouble: trouble.clone(),
            progress: watch::Sender::new(()),
            acknowledged: AtomicU64::new(0),
            ends: Mutex::default(),
        }));
        let mut config = connection.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", sending.patience.map_or(0, |patience| patience.as_millis()).to_string())
            // The partitioner of the Java clients, so that other programs that write the same keys choose the same partitions.
            .set("partitioner", "murmur2_random")
            // A single record waits at most this long for others.
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "65536")
            .set("compression.type", &sending.compression)
            .set("message.max.bytes", sending.largest_record.to_string());
        let inner = config
            .create_with_context(deliveries.clone())
            .map_err(|error| trouble.classify("making a producer", &error))?;
        Ok(Self { inner: Arc::new(inner), deliveries, sending })
    }

    /// Adds a record to a segment, and waits while the queue is full. `partition` replaces the partition that follows
    /// from the key.
    ///
    /// # Errors
    /// Returns [`BrokerError::TooLarge`] if only this record is not written. Any other error ends the producer.
    pub async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        record: &Outgoing,
        segment: &Arc<Segment>,
    ) -> Result<(), BrokerError> {
        let headers = headers(record.headers.iter().map(|(name, value)| (*name, value.as_slice())));
        let parts = (record.key.as_deref(), record.value.as_deref());
        self.add(to_message(topic, partition, parts, headers, segment)).await
    }

    /// Adds a record once more as it was read, at the end of its own partition. `to_be_asked`: whether the record
    /// counts only while its row is parked. Such a record gets a key of its own, so that in a compacted topic it does
    /// not replace the record that the topic holds for the row.
    ///
    /// # Errors
    /// Returns the errors of [`send`](Self::send).
    pub async fn send_again(
        &self,
        record: Record,
        to_be_asked: bool,
        segment: &Arc<Segment>,
    ) -> Result<(), BrokerError> {
        let record = if to_be_asked { again::marked(record) } else { record };
        let headers = headers(record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        let parts = (record.key.as_deref(), record.value.as_deref());
        self.add(to_message(&record.topic, Some(record.partition), parts, headers, segment)).await
    }

    async fn add(&self, mut message: ProducerRecord<'_>) -> Result<(), BrokerError> {
        let (topic, segment) = (message.topic, Arc::clone(&message.delivery_opaque));
        let bytes = message.key.map_or(0, <[u8]>::len) + message.payload.map_or(0, <[u8]>::len);
        segment.pending.fetch_add(1, Ordering::AcqRel);
        let mut room: Option<watch::Receiver<()>> = None;
        loop {
            let (error, rejected) = match self.inner.send(message) {
                Ok(()) => return Ok(()),
                Err(rejected) => rejected,
            };
            if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
                match &mut room {
                    // `self` holds the sender, which therefore outlives the wait.
                    Some(room) => drop(room.changed().await),
                    // Subscribe before the next attempt, so that room that is made between that attempt and the wait is
                    // noticed.
                    None => room = Some(self.progress()),
                }
                message = rejected;
                continue;
            }
            segment.pending.fetch_sub(1, Ordering::AcqRel);
            return Err(match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    BrokerError::TooLarge { topic: topic.to_owned(), bytes, limit: self.sending.largest_record }
                }
                _ => self.deliveries.0.trouble.classify(&format!("writing to topic \"{topic}\""), &error),
            });
        }
    }

    /// Closes the segment: no more records are added to it.
    pub fn close(&self, segment: &Segment) {
        acknowledge(segment, &self.deliveries.0.progress);
    }

    /// Waits until the broker has acknowledged all records of a closed segment.
    ///
    /// # Errors
    /// Fails if the broker has refused a record of the segment.
    pub async fn done(&self, segment: &Segment) -> Result<(), BrokerError> {
        loop {
            let mut progress = self.progress();
            if segment.is_done()? {
                return Ok(());
            }
            let _ = progress.changed().await;
        }
    }

    /// Returns a receiver that is notified whenever the broker acknowledges or refuses a record after this call.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<()> {
        self.deliveries.0.progress.subscribe()
    }

    /// Returns how many records the broker has acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.deliveries.0.acknowledged.load(Ordering::Relaxed)
    }

    /// Returns, by `topic/partition`, the offset after the last acknowledged record.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<String, i64> {
        let ends = self.deliveries.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = |(topic, ends): (&String, &Vec<i64>)| {
            let written = ends.iter().enumerate().filter(|(_, end)| **end > 0);
            written.map(|(partition, end)| (format!("{topic}/{partition}"), *end)).collect::<Vec<_>>()
        };
        ends.iter().flat_map(of_topic).collect()
    }

    /// Returns for each partition the offset at which the topic currently ends.
    ///
    /// # Errors
    /// Fails if the broker cannot be asked.
    pub async fn end_offsets(&self, topic: &str, partitions: i32) -> Result<Vec<i64>, BrokerError> {
        let (client, topic) = (Arc::clone(&self.inner), topic.to_owned());
        let trouble = self.deliveries.0.trouble.clone();
        let ask = move || {
            (0..partitions)
                .map(|partition| {
                    let found = watermarks(client.client(), &topic, partition);
                    found.map(|(_, end)| end)
                })
                .collect::<Result<Vec<_>, _>>()
        };
        blocking(ask).await?.map_err(|error| trouble.classify("asking where a topic ends", &error))
    }

    /// Returns the errors that the library has reported outside of requests.
    #[must_use]
    pub fn trouble(&self) -> &LastClientError {
        &self.deliveries.0.trouble
    }

    /// Waits until the queued records are written, but at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let inner = Arc::clone(&self.inner);
        if let Ok(Err(error)) = blocking(move || inner.flush(limit)).await {
            tracing::debug!(%error, "flush");
        }
    }
}

type ProducerRecord<'a> = BaseRecord<'a, [u8], [u8], Arc<Segment>>;

fn to_message<'a>(
    topic: &'a str,
    partition: Option<i32>,
    (key, value): (Option<&'a [u8]>, Option<&'a [u8]>),
    headers: Option<OwnedHeaders>,
    segment: &Arc<Segment>,
) -> ProducerRecord<'a> {
    let mut message = BaseRecord::with_opaque_to(topic, Arc::clone(segment));
    message.partition = partition;
    message.key = key;
    message.payload = value;
    message.headers = headers;
    message
}

fn headers<'a>(headers: impl ExactSizeIterator<Item = (&'a str, &'a [u8])>) -> Option<OwnedHeaders> {
    if headers.len() == 0 {
        return None;
    }
    let room = OwnedHeaders::new_with_capacity(headers.len());
    Some(headers.fold(room, |owned, (key, value)| owned.insert(Header { key, value: Some(value) })))
}

fn acknowledge(segment: &Segment, progress: &watch::Sender<()>) {
    let pending = segment.pending.fetch_sub(1, Ordering::AcqRel);
    debug_assert!(pending > 0, "a record is acknowledged once");
    if pending == 1 {
        progress.send_replace(());
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.trouble.error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Segment>;

    fn delivery(&self, result: &DeliveryResult<'_>, segment: Arc<Segment>) {
        let shared = &self.0;
        match result {
            Ok(message) => {
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                let mut ends = shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
                note_end(&mut ends, message.topic(), message.partition(), message.offset() + 1);
                drop(ends);
                if shared.trouble.current().is_some() {
                    shared.trouble.over();
                }
                // `add` may be waiting for room.
                shared.progress.send_replace(());
                acknowledge(&segment, &shared.progress);
            }
            Err((error, message)) => {
                let doing = format!("writing to topic \"{}\"", message.topic());
                // Keep the first failure. Later ones follow from it.
                let _ = segment.failed.set(shared.trouble.classify(&doing, error));
                shared.progress.send_replace(());
            }
        }
    }
}

fn note_end(ends: &mut BTreeMap<String, Vec<i64>>, topic: &str, partition: i32, end: i64) {
    let Ok(partition) = usize::try_from(partition) else { return };
    if !ends.contains_key(topic) {
        ends.insert(topic.to_owned(), Vec::new());
    }
    if let Some(ends) = ends.get_mut(topic) {
        if ends.len() <= partition {
            ends.resize(partition + 1, 0);
        }
        ends[partition] = ends[partition].max(end);
    }
}
