//! A compacted topic as a table: the last record of every key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::connection::{BrokerConnection, LastClientError, Listener};
use super::poll::to_record;
use super::topics::blocking;
use super::watermarks::watermarks;
use crate::error::BrokerError;
use crate::record::{Partition, Record};

/// The time limit of one poll.
const POLL: Duration = Duration::from_millis(100);

/// How long reading may take without a new record.
const PATIENCE: Duration = Duration::from_secs(30);

impl ConsumerContext for Listener {}

/// Reads a compacted topic. It joins no consumer group: every reader reads all records.
pub struct CompactedTopic {
    topic: Arc<str>,
    reader: Arc<Mutex<TopicReader>>,
    trouble: LastClientError,
}

struct TopicReader {
    client: BaseConsumer<Listener>,
    /// For each partition, the offset of the next record to read.
    next: BTreeMap<i32, i64>,
    /// Records that were read before an error and not returned yet.
    news: Vec<Record>,
}

impl CompactedTopic {
    /// Opens a topic, which exists and has this many partitions. Does not connect yet.
    ///
    /// # Errors
    /// Returns [`BrokerError::Settings`] if the library does not accept the settings.
    pub fn open(connection: &BrokerConnection, topic: &str, partitions: i32) -> Result<Self, BrokerError> {
        let trouble = LastClientError::new(connection);
        let failed = |error: &KafkaError| trouble.classify("reading a topic", error);
        let mut config = connection.client();
        config
            // The library requires a group. No consumer joins it and nothing is committed.
            .set("group.id", "walvec-none")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // A request that waits at the end of the topic would delay the next read.
            .set("fetch.wait.max.ms", "10")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false");
        let client: BaseConsumer<Listener> =
            config.create_with_context(Listener(trouble.clone())).map_err(|error| failed(&error))?;
        let next = (0..partitions).map(|partition| (partition, 0)).collect();
        let reader = Arc::new(Mutex::new(TopicReader { client, next, news: Vec::new() }));
        Ok(Self { topic: topic.into(), reader, trouble })
    }

    /// Returns the records that were written since the last call, up to the current end of the topic, ordered within
    /// each partition.
    ///
    /// # Errors
    /// Fails if the broker cannot be asked.
    pub async fn news(&self) -> Result<Vec<Record>, BrokerError> {
        let (reader, topic, trouble) = (Arc::clone(&self.reader), Arc::clone(&self.topic), self.trouble.clone());
        let read = move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.read(&topic).map_err(|error| trouble.classify(&format!("reading topic \"{topic}\""), &error))
        };
        blocking(read).await?
    }
}

impl TopicReader {
    fn read(&mut self, topic: &Arc<str>) -> Result<Vec<Record>, KafkaError> {
        let mut ends = BTreeMap::new();
        for partition in self.next.keys() {
            ends.insert(*partition, watermarks(self.client.client(), topic, *partition)?);
        }
        if self
            .next
            .iter()
            .all(|(partition, next)| ends.get(partition).is_some_and(|(first, end)| next.max(first) >= end))
        {
            return Ok(std::mem::take(&mut self.news));
        }
        // Assign the partitions again: events that the library still holds may report an end that is outdated.
        let mut list = TopicPartitionList::new();
        for (partition, next) in &self.next {
            let first = ends.get(partition).map_or(0, |(first, _)| *first);
            list.add_partition_offset(topic, *partition, Offset::Offset((*next).max(first)))?;
        }
        self.client.assign(&list)?;
        let mut heard = Instant::now();
        while self
            .next
            .iter()
            .any(|(partition, next)| ends.get(partition).is_some_and(|(first, end)| next.max(first) < end))
        {
            match self.client.poll(POLL) {
                Some(Ok(message)) => {
                    let partition = Partition { topic: Arc::clone(topic), number: message.partition() };
                    self.next.insert(partition.number, message.offset() + 1);
                    self.news.push(to_record(&message, &partition));
                    heard = Instant::now();
                }
                // The last records of a partition may have been compacted away.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let (Some(next), Some((_, end))) = (self.next.get_mut(&partition), ends.get(&partition)) {
                        *next = (*next).max(*end);
                    }
                }
                // Errors stay in the queue until the next poll, so these may come from an outage that has passed. The
                // request for the ends has just shown that the broker is there.
                Some(Err(error))
                    if error.rdkafka_error_code().is_some_and(is_passing) && heard.elapsed() < PATIENCE => {}
                Some(Err(error)) => return Err(error),
                None if heard.elapsed() > PATIENCE => {
                    return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                }
                None => {}
            }
        }
        // Stop fetching. The next call reads what is written until then.
        self.client.unassign()?;
        Ok(std::mem::take(&mut self.news))
    }
}

/// Returns whether the library recovers from an error by itself.
const fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
    )
}
