//! Chooses the topic of each change, and tracks which records the broker has acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walvec_broker::kafka::producer::{Producer, Segment};
use walvec_broker::wire::{ChangeContext, Encoder, SnapshotEnd, header};
use walvec_broker::{BrokerError, Outgoing};
use walvec_model::{Change, Lsn, Op, TableName};

use super::PublisherConfig;
use crate::error::PipelineError;
use crate::observe::trace;

/// Identifies a topic that still holds everything that was written to it.
const INTACT: &str = "topic";
/// Identifies a topic that has lost records.
const LOST: &str = "topic that has lost records";

/// A transaction whose last record is in a segment. One without rows says how far the server had come while it was
/// idle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Committed {
    pub(super) end_lsn: Lsn,
    pub(super) at: SystemTime,
    pub(super) rows: usize,
}

impl Committed {
    /// Adds it behind `others`. One without rows is merged into the last of them, since it says only how far everything
    /// has come: the list must not grow while a broker is away for long.
    fn push_to(self, others: &mut Vec<Self>) {
        match others.last_mut().filter(|_| self.rows == 0) {
            Some(last) => last.end_lsn = last.end_lsn.max(self.end_lsn),
            None => others.push(self),
        }
    }
}

/// A change of which a record is too large.
#[derive(Debug)]
pub(super) struct Oversized {
    pub(super) change: Change,
    pub(super) error: BrokerError,
}

/// Writes changes to topics.
pub(super) struct TopicWriter {
    producer: Arc<Producer>,
    encoder: Encoder,
    /// The topic of each table, and its number of partitions.
    routes: HashMap<TableName, (Arc<str>, i32)>,
    /// Topics that keep the last record of every key.
    compacted: BTreeSet<String>,
    /// Whether each topic still holds everything that was written to it.
    intact: BTreeMap<String, bool>,
    partitions: BTreeMap<String, i32>,
    /// Where the topics ended when the last session stored it, by `topic/partition`. Without topics that have lost records.
    written: BTreeMap<String, i64>,
    /// The segment to which records are added.
    open: Arc<Segment>,
    /// Whether `open` has no records yet.
    is_empty: bool,
    committed: Vec<Committed>,
    /// Segments in flight, in order.
    waiting: VecDeque<(Arc<Segment>, Vec<Committed>)>,
    /// Records of the change that is being sent.
    records: Vec<Outgoing>,
    /// Ends every wait for the broker, which may be away.
    stop: CancellationToken,
}

/// What is known of the topics before they are opened.
pub(super) struct KnownTopics {
    /// How many partitions each has.
    pub(super) partitions: BTreeMap<String, i32>,
    /// Where they ended when the last session stored it, by `topic/partition`.
    pub(super) written: BTreeMap<String, i64>,
}

impl TopicWriter {
    /// Opens the topics. One that ends earlier than when the last session stored it was recreated, or has lost records
    /// that the broker had acknowledged.
    pub(super) async fn open(
        config: &PublisherConfig,
        database: &str,
        producer: Producer,
        topics: KnownTopics,
        stop: CancellationToken,
    ) -> Result<Self, PipelineError> {
        let KnownTopics { partitions, mut written } = topics;
        let mut intact = BTreeMap::new();
        for (topic, count) in &partitions {
            let ends = producer.end_offsets(topic, *count).await?;
            let is_whole = (0..).zip(&ends).all(|(partition, end): (i32, &i64)| {
                written.get(&format!("{topic}/{partition}")).is_none_or(|before| before <= end)
            });
            if !is_whole {
                tracing::warn!(topic, "the topic was made anew or has lost records; everything is written again");
                written.retain(|partition, _| partition.rsplit_once('/').is_none_or(|(of, _)| of != topic));
            }
            intact.insert(topic.clone(), is_whole);
        }
        let route = |topic: &super::TableTopic| {
            let count = partitions.get(&topic.topic.name).copied().unwrap_or(1);
            (topic.table.clone(), (topic.topic.name.as_str().into(), count))
        };
        let compacted = config.topics.iter().filter(|topic| topic.topic.compact);
        Ok(Self {
            producer: Arc::new(producer),
            encoder: Encoder::new(config.format, &config.prefix, database),
            routes: config.topics.iter().map(route).collect(),
            compacted: compacted.map(|topic| topic.topic.name.clone()).collect(),
            intact,
            partitions,
            written,
            open: Segment::new(),
            is_empty: true,
            committed: Vec::new(),
            waiting: VecDeque::new(),
            records: Vec::new(),
            stop,
        })
    }

    /// Returns the identities that the checkpoint compares. A topic that has lost records counts as a new one. So does
    /// a topic with another number of partitions, in which the records of a row may be out of order.
    pub(super) fn identities(&self) -> BTreeMap<String, String> {
        let made = self.identities_made();
        let is_lost = |topic: &String| self.intact.get(topic) == Some(&false);
        made.into_iter()
            .map(|(topic, made)| (topic.clone(), if is_lost(&topic) { LOST.to_owned() } else { made }))
            .collect()
    }

    /// Returns the identities that the topics have once everything has been written again.
    pub(super) fn identities_made(&self) -> BTreeMap<String, String> {
        self.partitions
            .iter()
            .map(|(topic, count)| (topic.clone(), format!("{INTACT} of {count} partitions")))
            .collect()
    }

    /// Returns how many partitions each topic has.
    pub(super) const fn partitions(&self) -> &BTreeMap<String, i32> {
        &self.partitions
    }

    /// Writes the records of one change. Returns the change if one of its records is too large for the topic; its other
    /// records are written.
    pub(super) async fn send(
        &mut self,
        change: Change,
        context: &ChangeContext,
        traceparent: Option<&str>,
    ) -> Result<Option<Oversized>, PipelineError> {
        let Some((topic, partitions)) = self.routes.get(&change.table.name).cloned() else { return Ok(None) };
        let mut records = std::mem::take(&mut self.records);
        self.encoder.change(&change, context, &mut records);
        if let Some(parent) = traceparent {
            for record in &mut records {
                record.headers.push((trace::HEADER, parent.as_bytes().to_vec()));
            }
        }
        if change.op == Op::Truncate && self.compacted.contains(&*topic) {
            records = records.into_iter().map(|record| record.with_key_about("truncate")).collect();
        }
        let mut oversized = None;
        for record in &records {
            let copies = if record.everywhere { partitions } else { 1 };
            for partition in 0..copies {
                let partition = record.everywhere.then_some(partition);
                self.is_empty = false;
                let sent = self.producer.send(&topic, partition, record, &self.open);
                match self.or_stop(async { Ok(sent.await) }).await? {
                    Ok(()) => {}
                    Err(error @ BrokerError::TooLarge { .. }) => oversized = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        records.clear();
        self.records = records;
        Ok(oversized.map(|error| Oversized { change, error }))
    }

    /// Waits for an answer of the broker, or for a stop. The queue stays full for as long as the broker is away.
    async fn or_stop<T>(&self, answer: impl Future<Output = Result<T, PipelineError>>) -> Result<T, PipelineError> {
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.stop.cancelled() => Err(PipelineError::Stopped),
        }
    }

    /// Notes the end of a transaction: everything before it is confirmed once the broker has it.
    pub(super) fn commit(&mut self, committed: Committed) {
        committed.push_to(&mut self.committed);
    }

    /// Closes the open segment. The next records belong to the next segment.
    pub(super) fn cut(&mut self) {
        let committed = std::mem::take(&mut self.committed);
        if self.is_empty
            && let Some((_, waiting)) = self.waiting.back_mut()
        {
            committed.into_iter().for_each(|committed| committed.push_to(waiting));
            return;
        }
        self.is_empty = true;
        let segment = std::mem::replace(&mut self.open, Segment::new());
        self.producer.close(&segment);
        self.waiting.push_back((segment, committed));
    }

    /// Returns the transactions, in order, that the broker has acknowledged completely since the last call.
    pub(super) fn acknowledged(&mut self) -> Result<Vec<Committed>, PipelineError> {
        let mut done = Vec::new();
        while let Some((segment, _)) = self.waiting.front() {
            if !segment.is_done()? {
                break;
            }
            done.extend(self.waiting.pop_front().into_iter().flat_map(|(_, committed)| committed));
        }
        Ok(done)
    }

    /// Returns whether the broker has everything that was sent.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns a receiver that changes whenever the broker has acknowledged something.
    pub(super) fn progress(&self) -> watch::Receiver<()> {
        self.producer.progress()
    }

    /// Waits until the broker has everything, or for a stop.
    pub(super) async fn drain_or_stop(&mut self) -> Result<Vec<Committed>, PipelineError> {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            drained = self.drain() => drained,
            () = stop.cancelled() => Err(PipelineError::Stopped),
        }
    }

    /// Waits until the broker has everything, and returns the transactions that are complete with it.
    pub(super) async fn drain(&mut self) -> Result<Vec<Committed>, PipelineError> {
        self.cut();
        let mut done = Vec::new();
        while let Some((segment, committed)) = self.waiting.pop_front() {
            self.producer.done(&segment).await?;
            done.extend(committed);
        }
        Ok(done)
    }

    /// Waits until the broker has everything that was sent so far, or for a stop. The transactions stay for
    /// [`acknowledged`](Self::acknowledged).
    pub(super) async fn deliver(&mut self) -> Result<(), PipelineError> {
        self.cut();
        let delivered = async {
            for (segment, _) in &self.waiting {
                self.producer.done(segment).await?;
            }
            Ok(())
        };
        self.or_stop(delivered).await
    }

    /// Writes the mark at the end of a table's snapshot, once everything before it is written. Returns whether the
    /// table has a topic.
    pub(super) async fn end_snapshot(&mut self, end: &SnapshotEnd) -> Result<bool, PipelineError> {
        let Some((topic, partitions)) = self.routes.get(&end.table).cloned() else { return Ok(false) };
        let ends = async { Ok(self.producer.end_offsets(&topic, partitions).await?) };
        let barrier = self.or_stop(ends).await?;
        let mut record = self.encoder.snapshot_end(&SnapshotEnd { barrier, ..end.clone() });
        if self.compacted.contains(&*topic) {
            record = record.with_key_about("snapshot end");
        }
        record.headers.push((header::TOPIC, topic.as_bytes().to_vec()));
        self.is_empty = false;
        // Into one partition only: one worker sweeps, after all partitions have been read up to the barrier.
        self.or_stop(async { Ok(self.producer.send(&topic, Some(0), &record, &self.open).await?) }).await?;
        self.drain_or_stop().await?;
        Ok(true)
    }

    /// Returns where the topics end as far as this publisher has written them, by `topic/partition`.
    pub(super) fn written(&self) -> BTreeMap<String, i64> {
        let mut written = self.written.clone();
        written.extend(self.producer.ends());
        written
    }

    /// Returns the current problem that the client library reports about the broker.
    pub(super) fn trouble(&self) -> Option<BrokerError> {
        self.producer.trouble().current()
    }

    /// Returns a function that tells how many records the broker has acknowledged.
    pub(super) fn counter(&self) -> Box<dyn Fn() -> u64 + Send + Sync> {
        let producer = Arc::clone(&self.producer);
        Box::new(move || producer.acknowledged())
    }

    /// Waits up to `limit` until queued records are sent.
    pub(super) async fn flush(&self, limit: Duration) {
        self.producer.flush(limit).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_rows_is_told_together_with_what_came_before() {
        let committed = |end_lsn, rows| Committed { end_lsn: Lsn(end_lsn), at: SystemTime::UNIX_EPOCH, rows };
        let mut others = Vec::new();
        for (end_lsn, rows) in [(1, 0), (2, 3), (3, 0), (4, 0), (5, 1), (6, 0)] {
            committed(end_lsn, rows).push_to(&mut others);
        }
        assert_eq!(others, [committed(1, 0), committed(4, 3), committed(6, 1)]);
    }
}
