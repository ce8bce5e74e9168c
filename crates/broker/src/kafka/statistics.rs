//! How far partitions were read, from the client library's statistics once a second.

use std::time::{Duration, Instant};

use rdkafka::Statistics;

use super::ownership::PartitionOwnership;
pub use super::settings::{ConsumerState, PartitionProgress};
use crate::error::BrokerError;
use crate::record::Partition;

/// How long a consumer may receive nothing although there is more to read, before it is restarted.
const STALL: Duration = Duration::from_secs(30);

impl ConsumerState {
    /// Reads the state from the library's statistics. Calls `at_end` for each partition that was read to its known end.
    pub(crate) fn new(
        statistics: &Statistics,
        ownership: &PartitionOwnership,
        mut at_end: impl FnMut(&Partition),
    ) -> Self {
        let mut partitions: Vec<PartitionProgress> = Vec::new();
        for partition in ownership.partitions() {
            let found =
                statistics.topics.get(&*partition.topic).and_then(|topic| topic.partitions.get(&partition.number));
            let Some(found) = found else { continue };
            // The application's position; before the first record, the offset at which it will begin.
            let next = if found.app_offset >= 0 { found.app_offset } else { found.next_offset.max(0) };
            let everything_came = found.next_offset >= found.hi_offset && found.fetchq_cnt == 0;
            let lag = if everything_came { 0 } else { (found.hi_offset - next).max(0) };
            // The end is not known before the broker's first answer.
            if lag == 0 && found.hi_offset >= 0 {
                at_end(&partition);
            }
            let is_paused = ownership.is_paused(&partition);
            partitions.push(PartitionProgress { partition, next, lag, is_paused });
        }
        partitions.sort_by(|left, right| {
            let name = |progress: &PartitionProgress| (progress.partition.topic.clone(), progress.partition.number);
            name(left).cmp(&name(right))
        });
        let rebalances = statistics.cgrp.as_ref().and_then(|group| u64::try_from(group.rebalance_cnt).ok());
        Self { partitions, rebalances: rebalances.unwrap_or_default() }
    }
}

/// Notices a consumer that has stopped delivering records. Such faults of the library have been reported, and only a
/// look from outside finds them.
#[derive(Debug, Default)]
pub(crate) struct StallWatch {
    seen: Option<(Vec<PartitionProgress>, Instant)>,
}

impl StallWatch {
    /// Checks a new state. `idle`: whether the application is waiting for records.
    pub(crate) fn look(&mut self, now: Instant, reading: &ConsumerState, idle: bool) -> Option<BrokerError> {
        let behind: Vec<PartitionProgress> =
            reading.partitions.iter().filter(|progress| progress.lag > 0 && !progress.is_paused).cloned().collect();
        let moved = |before: &Vec<PartitionProgress>| {
            let at = |partition: &Partition| behind.iter().find(|now| now.partition == *partition).map(|now| now.next);
            before.iter().any(|before| at(&before.partition) != Some(before.next))
        };
        match &self.seen {
            Some((before, since)) if idle && !behind.is_empty() && !moved(before) => {
                let stalled = now.duration_since(*since);
                let first = before.first()?;
                (stalled >= STALL).then(|| BrokerError::Stalled {
                    topic: first.partition.topic.to_string(),
                    partition: first.partition.number,
                    seconds: stalled.as_secs(),
                })
            }
            _ => {
                self.seen = (idle && !behind.is_empty()).then_some((behind, now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(next: i64, end: i64) -> ConsumerState {
        let partition = Partition { topic: "t".into(), number: 3 };
        let progress = PartitionProgress { partition, next, lag: end - next, is_paused: false };
        ConsumerState { partitions: vec![progress], rebalances: 0 }
    }

    #[test]
    fn a_consumer_that_gets_nothing_although_there_is_more_is_noticed() {
        let (mut watch, begin) = (StallWatch::default(), Instant::now());
        assert!(watch.look(begin, &reading(5, 9), true).is_none());
        assert!(watch.look(begin + STALL / 2, &reading(5, 10), true).is_none(), "not yet");
        let error = watch.look(begin + STALL, &reading(5, 10), true);
        assert!(matches!(error, Some(BrokerError::Stalled { partition: 3, .. })), "{error:?}");
    }

    #[test]
    fn a_partition_that_waits_on_purpose_is_no_stall() {
        let (mut watch, begin, mut reading) = (StallWatch::default(), Instant::now(), reading(5, 9));
        reading.partitions[0].is_paused = true;
        watch.look(begin, &reading, true);
        assert!(watch.look(begin + STALL, &reading, true).is_none());
    }

    #[test]
    fn progress_an_empty_partition_and_a_busy_worker_are_no_stall() {
        let begin = Instant::now();
        let mut watch = StallWatch::default();
        watch.look(begin, &reading(5, 9), true);
        assert!(watch.look(begin + STALL, &reading(6, 9), true).is_none(), "it moves");
        assert!(watch.look(begin + STALL * 2 - Duration::from_secs(1), &reading(6, 9), true).is_none());
        watch.look(begin + STALL * 3, &reading(9, 9), true);
        assert!(watch.look(begin + STALL * 5, &reading(9, 9), true).is_none(), "there is nothing more");
        watch.look(begin, &reading(5, 9), false);
        assert!(watch.look(begin + STALL, &reading(5, 9), false).is_none(), "it is the worker that takes long");
    }
}
