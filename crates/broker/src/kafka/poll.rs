//! The consumer's polling thread.
//!
//! The library has to be polled, and calls back from inside a poll when partitions come or go. The thread hands over
//! what it reads through a bounded channel. While the channel is full, the thread keeps polling now and then, so that
//! the group does not take a busy worker for dead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, Statistics, TopicPartitionList};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connection::{LastClientError, log};
use super::consumer::Polled;
use super::ownership::PartitionOwnership;
use super::recency::{Mark, Recency, deletes_gone};
use super::statistics::{ConsumerState, StallWatch};
use super::topics::ANSWER;
use super::watermarks::watermarks;
use crate::classify::is_fenced;
use crate::error::BrokerError;
use crate::record::{Partition, Received, Record};

/// How long a poll waits for the first record.
const POLL: Duration = Duration::from_millis(100);

/// The maximum number of records, and of bytes, that are handed over together.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;

/// How long to wait before trying again to hand over records while the channel is full.
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// How long the channel has to be full before reading is paused. Pausing discards what the library has fetched.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// How long a worker may take to write and commit the records of partitions that it has to give back. The group waits
/// five minutes for it (`max.poll.interval.ms`).
const DRAIN: Duration = Duration::from_secs(120);

/// The state that a consumer's callbacks need.
pub(crate) struct MemberContext {
    pub(crate) trouble: LastClientError,
    pub(crate) ownership: Arc<PartitionOwnership>,
    pub(crate) outbox: mpsc::Sender<Polled>,
    pub(crate) reading: watch::Sender<ConsumerState>,
    /// What the offsets of this group are about: where the records go.
    pub(crate) about: String,
    /// The times up to which the partitions were read.
    pub(crate) recency: Arc<Recency>,
    /// The group, and this worker's name in it.
    pub(crate) group: String,
    pub(crate) instance: String,
}

pub(crate) type ConsumerClient = BaseConsumer<MemberContext>;

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble.error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let at_end = |partition: &Partition| self.recency.ended(partition, SystemTime::now());
        self.reading.send_replace(ConsumerState::new(&statistics, &self.ownership, at_end));
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, client: &ConsumerClient, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let done = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.take(client, list),
            _ => self.let_go(client, list),
        };
        if let Err(error) = done {
            self.tell(Polled::Failed(self.trouble.classify("changing partitions", &error)));
        }
    }
}

impl MemberContext {
    fn tell(&self, polled: Polled) {
        // There is no receiver while the consumer is being closed.
        let _ = self.outbox.blocking_send(polled);
    }

    /// Handles assigned partitions. Reading begins where the group's offsets are.
    fn take(&self, client: &ConsumerClient, list: &mut TopicPartitionList) -> Result<(), KafkaError> {
        let partitions = partitions_of(list);
        let starts = match self.starts(client, list, &partitions) {
            Ok(starts) => starts,
            Err(error) => {
                self.tell(Polled::Failed(error));
                // The group protocol requires an answer. The consumer is closed right after it.
                Vec::new()
            }
        };
        for (partition, start) in &starts {
            list.set_partition_offset(&partition.topic, partition.number, Offset::Offset(*start))?;
        }
        self.ownership.add(&partitions);
        if is_cooperative(client) {
            client.incremental_assign(list)?
        } else {
            client.assign(list)?
        }
        if starts.len() < partitions.len() {
            client.pause(list)?;
        }
        self.tell(Polled::Assigned(partitions));
        Ok(())
    }

    /// Returns the offset at which to begin, for each partition.
    fn starts(
        &self,
        client: &ConsumerClient,
        list: &TopicPartitionList,
        partitions: &[Partition],
    ) -> Result<Vec<(Partition, i64)>, BrokerError> {
        let failed = |error: KafkaError| self.trouble.classify("asking where to begin", &error);
        let committed = client.committed_offsets(list.clone(), ANSWER).map_err(failed)?;
        let mut starts = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (first, end) = watermarks(client.client(), &partition.topic, partition.number).map_err(failed)?;
            let found = committed.find_partition(&partition.topic, partition.number);
            let mark = found.as_ref().map(|found| Mark::read(found.metadata())).unwrap_or_default();
            if !mark.about.is_empty() && mark.about != self.about {
                return Err(BrokerError::OtherTarget { partition: partition.to_string() });
            }
            let committed = found.as_ref().and_then(|found| found.offset().to_raw().filter(|offset| *offset >= 0));
            let now = SystemTime::now();
            if let (Some(kept), Some(behind)) = (self.recency.kept(partition), mark.age(now))
                && committed.is_some_and(|committed| committed < end)
                && behind > kept
            {
                return Err(deletes_gone(partition, behind, kept));
            }
            let start = start(partition, committed, first, end)?;
            // A group that begins reads the topic's rows and deletes as of now.
            self.recency.begins(partition, start, mark.as_of().filter(|_| start < end).unwrap_or(now));
            starts.push((partition.clone(), start));
        }
        Ok(starts)
    }

    /// Handles revoked partitions: waits until what was read of them is written and committed, before another worker
    /// reads them.
    fn let_go(&self, client: &ConsumerClient, list: &TopicPartitionList) -> Result<(), KafkaError> {
        let partitions = partitions_of(list);
        if client.assignment_lost() {
            // Another worker may already write for them.
            self.ownership.remove(&partitions);
            self.tell(Polled::Lost(partitions));
        } else {
            let (done, drained) = std::sync::mpsc::sync_channel(1);
            self.tell(Polled::Revoked { partitions: partitions.clone(), done });
            if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = drained.recv_timeout(DRAIN) {
                tracing::warn!(?DRAIN, "partitions are given back before what was read of them is written");
            }
            self.ownership.remove(&partitions);
        }
        if is_cooperative(client) { client.incremental_unassign(list) } else { client.unassign() }
    }
}

fn is_cooperative(client: &ConsumerClient) -> bool {
    matches!(client.rebalance_protocol(), rdkafka::consumer::RebalanceProtocol::Cooperative)
}

/// Returns the offset at which to begin. A group that reads for the first time needs all records; otherwise reading
/// continues at the committed offset. If records are gone, reading the rest would silently lose changes.
fn start(partition: &Partition, committed: Option<i64>, first: i64, end: i64) -> Result<i64, BrokerError> {
    let expected = committed.unwrap_or(0);
    let found = if expected < first {
        format!("the oldest record that is left has offset {first}")
    } else if expected > end {
        format!("the topic ends at offset {end}: it was created again, or has lost records")
    } else {
        return Ok(expected);
    };
    Err(BrokerError::Gap { topic: partition.topic.to_string(), partition: partition.number, expected, found })
}

fn partitions_of(list: &TopicPartitionList) -> Vec<Partition> {
    let partition = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| Partition {
        topic: element.topic().into(),
        number: element.partition(),
    };
    list.elements().iter().map(partition).collect()
}

/// Polls until told to stop. The thread drops the client, which then leaves the group.
pub(crate) fn run(client: Arc<ConsumerClient>, stop: &CancellationToken) {
    let mut poller = Poller {
        client,
        chunk: Vec::new(),
        bytes: 0,
        waiting: VecDeque::new(),
        blocked_since: None,
        watch: StallWatch::default(),
    };
    while !stop.is_cancelled() {
        if !poller.turn() {
            break;
        }
    }
    while Arc::strong_count(&poller.client) > 1 {
        // A commit of the last offsets may still be in flight.
        poller.client.poll(POLL);
    }
}

struct Poller {
    client: Arc<ConsumerClient>,
    /// Records that were read and not handed over yet.
    chunk: Vec<Received>,
    bytes: usize,
    /// Complete chunks for which the channel had no room.
    waiting: VecDeque<Vec<Received>>,
    /// When the channel became full.
    blocked_since: Option<Instant>,
    watch: StallWatch,
}

impl Poller {
    /// Runs one round. Returns whether the receiver still exists.
    fn turn(&mut self) -> bool {
        if !self.hand_over() {
            return false;
        }
        if self.wait_for_room() {
            return true;
        }
        let mut wait = POLL;
        while self.chunk.len() < CHUNK_RECORDS && self.bytes < CHUNK_BYTES && self.poll(wait) {
            wait = Duration::ZERO;
        }
        self.finish_chunk();
        self.look_for_a_stall();
        true
    }

    /// Reads nothing while the channel is full. After a while, the library has to be polled nevertheless, for its
    /// events, since the consumer would otherwise leave the group. Returns whether the channel is still full.
    fn wait_for_room(&mut self) -> bool {
        if self.waiting.is_empty() {
            if self.blocked_since.take().is_some_and(|since| since.elapsed() >= PAUSE_AFTER) {
                self.pause_all(false);
            }
            return false;
        }
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        if since.elapsed() < PAUSE_AFTER {
            std::thread::sleep(BUSY_WAIT);
            return true;
        }
        // Includes partitions that were assigned in the meantime.
        self.pause_all(true);
        self.poll(BUSY_WAIT);
        self.finish_chunk();
        true
    }

    /// Pauses or resumes all owned partitions, except those that are paused on purpose.
    fn pause_all(&self, is_paused: bool) {
        let ownership = &self.client.context().ownership;
        let mut list = TopicPartitionList::new();
        for partition in ownership.partitions().iter().filter(|partition| !ownership.is_paused(partition)) {
            list.add_partition(&partition.topic, partition.number);
        }
        let done = if is_paused { self.client.pause(&list) } else { self.client.resume(&list) };
        if let Err(error) = done {
            tracing::debug!(%error, is_paused, "pausing partitions");
        }
    }

    fn finish_chunk(&mut self) {
        if !self.chunk.is_empty() {
            self.bytes = 0;
            self.waiting.push_back(std::mem::take(&mut self.chunk));
        }
    }

    fn hand_over(&mut self) -> bool {
        while let Some(chunk) = self.waiting.pop_front() {
            match self.client.context().outbox.try_send(Polled::Records(chunk)) {
                Ok(()) => {}
                Err(TrySendError::Full(Polled::Records(chunk))) => {
                    self.waiting.push_front(chunk);
                    return true;
                }
                Err(TrySendError::Full(_)) => return true,
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    /// Polls for one record. Returns whether there was one.
    fn poll(&mut self, wait: Duration) -> bool {
        let context = self.client.context();
        match self.client.poll(wait) {
            None => false,
            Some(Ok(message)) => {
                context.trouble.over();
                let partition = Partition { topic: message.topic().into(), number: message.partition() };
                // A record of a partition that is not owned was fetched before the partition was revoked.
                if let Some(assignment) = context.ownership.assignment(&partition) {
                    self.bytes += message.payload_len() + message.key_len();
                    let record = to_record(&message, &partition);
                    if let Some(written) = record.timestamp {
                        context.recency.read(&partition, record.offset + 1, written);
                    }
                    self.chunk.push(Received { record, assignment });
                }
                true
            }
            Some(Err(KafkaError::PartitionEOF(_))) => true,
            Some(Err(error)) => {
                self.report(&error);
                false
            }
        }
    }

    fn report(&self, error: &KafkaError) {
        let context = self.client.context();
        let code = error.rdkafka_error_code();
        let passing = [
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::Resolve,
            RDKafkaErrorCode::OperationTimedOut,
        ];
        match code {
            // The library recovers by itself. The status shows what it reported.
            Some(code) if passing.contains(&code) => tracing::debug!(%error, "poll"),
            Some(RDKafkaErrorCode::UnsupportedFeature | RDKafkaErrorCode::UnsupportedVersion) => {
                context.tell(Polled::Failed(BrokerError::OldProtocol { reason: error.to_string() }));
            }
            Some(RDKafkaErrorCode::UnreleasedInstanceId) => {
                context.tell(Polled::Failed(BrokerError::InstanceTaken { instance: context.instance.clone() }));
            }
            Some(code) if is_fenced(code) => {
                context.ownership.remove(&context.ownership.partitions());
                context.tell(Polled::Failed(BrokerError::Fenced { reason: error.to_string() }));
            }
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                context.tell(Polled::Failed(BrokerError::Gap {
                    topic: self.subscription(),
                    partition: -1,
                    expected: -1,
                    found: format!("the broker has removed them meanwhile ({error})"),
                }));
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                context.tell(Polled::Failed(BrokerError::Topic {
                    topic: self.subscription(),
                    reason: "does not exist, or may not be seen".to_owned(),
                }));
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                let doing = format!("being a member of the group \"{}\"", context.group);
                context.tell(Polled::Failed(context.trouble.classify(&doing, error)));
            }
            _ => {
                let doing = format!("reading \"{}\"", self.subscription());
                context.tell(Polled::Failed(context.trouble.classify(&doing, error)));
            }
        }
    }

    fn subscription(&self) -> String {
        let topics = self.client.subscription().map(|list| {
            list.elements().iter().map(|element| element.topic().to_owned()).collect::<Vec<_>>().join(", ")
        });
        topics.unwrap_or_default()
    }

    fn look_for_a_stall(&mut self) {
        let context = self.client.context();
        let idle = self.chunk.is_empty() && self.waiting.is_empty();
        let stalled = self.watch.look(Instant::now(), &context.reading.borrow(), idle);
        if let Some(stalled) = stalled {
            context.tell(Polled::Failed(stalled));
        }
    }
}

pub(crate) fn to_record(message: &BorrowedMessage<'_>, partition: &Partition) -> Record {
    let millis = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
    let headers = message.headers().map(|headers| {
        let owned = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
        };
        headers.iter().map(owned).collect()
    });
    Record {
        topic: Arc::clone(&partition.topic),
        partition: partition.number,
        offset: message.offset(),
        timestamp: millis.map(|millis| std::time::UNIX_EPOCH + Duration::from_millis(millis)),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_goes_on_where_it_was_and_a_new_one_needs_all_records() {
        let partition = Partition { topic: "t".into(), number: 0 };
        let start = |committed, first, end| start(&partition, committed, first, end);
        assert!(matches!(start(None, 0, 9), Ok(0)));
        assert!(matches!(start(Some(5), 0, 9), Ok(5)));
        assert!(matches!(start(Some(5), 5, 5), Ok(5)));
        for (committed, first, end) in [(None, 3, 9), (Some(2), 3, 9), (Some(10), 0, 9)] {
            assert!(
                matches!(start(committed, first, end), Err(BrokerError::Gap { .. })),
                "{committed:?} in {first}..{end}"
            );
        }
    }
}
