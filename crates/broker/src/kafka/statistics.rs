//! How far reading has come, as the client library counts it once a second.

use std::time::{Duration, Instant};

use rdkafka::Statistics;

use crate::error::BrokerError;
use crate::record::Partition;

/// How long a consumer may get nothing although there is more, before it is started again.
const STALL: Duration = Duration::from_secs(30);

/// How far one partition has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: Partition,
    /// The offset that is read next.
    pub next: i64,
    /// The offset after the last record there is.
    pub end: i64,
}

/// A picture of the consumer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The partitions of this worker.
    pub partitions: Vec<Progress>,
    /// How often partitions have come or gone.
    pub rebalances: u64,
}

impl Reading {
    pub(crate) fn new(statistics: &Statistics, owned: &[Partition]) -> Self {
        let mut partitions: Vec<Progress> = Vec::with_capacity(owned.len());
        for partition in owned {
            let found =
                statistics.topics.get(&*partition.topic).and_then(|topic| topic.partitions.get(&partition.number));
            let Some(found) = found else { continue };
            // The position of the application; before the first record, where it will begin.
            let next = if found.app_offset >= 0 { found.app_offset } else { found.next_offset.max(0) };
            partitions.push(Progress { partition: partition.clone(), next, end: found.hi_offset.max(next) });
        }
        partitions.sort_by(|left, right| {
            let name = |progress: &Progress| (progress.partition.topic.clone(), progress.partition.number);
            name(left).cmp(&name(right))
        });
        let rebalances = statistics.cgrp.as_ref().and_then(|group| u64::try_from(group.rebalance_cnt).ok());
        Self { partitions, rebalances: rebalances.unwrap_or_default() }
    }
}

/// Notices a consumer that has stopped to deliver: such things have been reported of the library, and nothing but a look
/// from outside finds them.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: Option<(Vec<Progress>, Instant)>,
}

impl Watch {
    /// Takes in a picture. `idle`: the application waits for records, and none of its partitions is paused.
    pub(crate) fn look(&mut self, now: Instant, reading: &Reading, idle: bool) -> Option<BrokerError> {
        let behind: Vec<Progress> =
            reading.partitions.iter().filter(|progress| progress.next < progress.end).cloned().collect();
        let moved = |before: &Vec<Progress>| {
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

    fn reading(next: i64, end: i64) -> Reading {
        let partition = Partition { topic: "t".into(), number: 3 };
        Reading { partitions: vec![Progress { partition, next, end }], rebalances: 0 }
    }

    #[test]
    fn a_consumer_that_gets_nothing_although_there_is_more_is_noticed() {
        let (mut watch, begin) = (Watch::default(), Instant::now());
        assert!(watch.look(begin, &reading(5, 9), true).is_none());
        assert!(watch.look(begin + STALL / 2, &reading(5, 10), true).is_none(), "not yet");
        let error = watch.look(begin + STALL, &reading(5, 10), true);
        assert!(matches!(error, Some(BrokerError::Stalled { partition: 3, .. })), "{error:?}");
    }

    #[test]
    fn progress_an_empty_partition_and_a_busy_worker_are_no_stall() {
        let begin = Instant::now();
        let mut watch = Watch::default();
        watch.look(begin, &reading(5, 9), true);
        assert!(watch.look(begin + STALL, &reading(6, 9), true).is_none(), "it moves");
        assert!(watch.look(begin + STALL * 2 - Duration::from_secs(1), &reading(6, 9), true).is_none());
        watch.look(begin + STALL * 3, &reading(9, 9), true);
        assert!(watch.look(begin + STALL * 5, &reading(9, 9), true).is_none(), "there is nothing more");
        watch.look(begin, &reading(5, 9), false);
        assert!(watch.look(begin + STALL, &reading(5, 9), false).is_none(), "it is the worker that takes long");
    }
}
