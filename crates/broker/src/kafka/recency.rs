//! As of when a group has read its partitions.
//!
//! A compacted topic keeps deletes for a while (`delete.retention.ms`), and forgets them then, also behind a group that reads slowly: it
//! would have read the row, and never its delete. So each offset is committed with a time: everything that was written before it has
//! been read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::BrokerError;
use crate::record::Partition;

/// Times that are closer together are not told apart.
const STEP: Duration = Duration::from_secs(10);

/// As of when this worker has read the partitions of compacted topics.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    /// How long the topics keep deletes.
    kept: BTreeMap<String, Duration>,
    read: Mutex<HashMap<Partition, Read>>,
}

/// How far a partition was read.
#[derive(Debug)]
struct Read {
    /// Behind the last record. Marks of transactions may follow it, and are never committed.
    next: i64,
    /// Everything before an offset was read, and with it everything that was written before a time. Both grow.
    as_of: VecDeque<(i64, SystemTime)>,
}

impl Read {
    fn note(&mut self, offset: i64, at: SystemTime) {
        match self.as_of.back_mut() {
            Some((before, as_of)) if *before == offset => *as_of = at.max(*as_of),
            Some((before, as_of)) if *before > offset || *as_of + STEP > at => {}
            _ => self.as_of.push_back((offset, at)),
        }
    }
}

impl Recency {
    pub(crate) fn of(kept: &BTreeMap<String, Duration>) -> Self {
        Self { kept: kept.clone(), read: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Read>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the topic of a partition keeps deletes; `None` if it forgets none.
    pub(crate) fn kept(&self, partition: &Partition) -> Option<Duration> {
        self.kept.get(&*partition.topic).copied()
    }

    /// A partition has come, and is read from `offset` on.
    pub(crate) fn begins(&self, partition: &Partition, offset: i64, at: SystemTime) {
        if self.kept(partition).is_some() {
            self.lock().insert(partition.clone(), Read { next: offset, as_of: VecDeque::from([(offset, at)]) });
        }
    }

    /// The record before `next` was read, which was written at `at`.
    pub(crate) fn read(&self, partition: &Partition, next: i64, at: SystemTime) {
        if self.kept.is_empty() {
            return;
        }
        if let Some(read) = self.lock().get_mut(partition) {
            read.next = next;
            read.note(next, at);
        }
    }

    /// A partition was read to its end.
    pub(crate) fn ended(&self, partition: &Partition, at: SystemTime) {
        if let Some(read) = self.lock().get_mut(partition) {
            read.note(read.next, at);
        }
    }

    /// As of when everything before `offset` was read. It is not asked for a lower offset afterwards.
    pub(crate) fn as_of(&self, partition: &Partition, offset: i64) -> Option<SystemTime> {
        let mut read = self.lock();
        let as_of = &mut read.get_mut(partition)?.as_of;
        while as_of.get(1).is_some_and(|(next, _)| *next <= offset) {
            as_of.pop_front();
        }
        as_of.front().map(|(_, as_of)| *as_of)
    }

    /// A partition whose topic may have forgotten deletes that are still to be read: for how long that has not been read which was
    /// written then, and how long deletes are kept.
    pub(crate) fn too_far_behind(&self, partition: &Partition, now: SystemTime) -> Option<(Duration, Duration)> {
        let kept = self.kept(partition)?;
        let (_, as_of) = *self.lock().get(partition)?.as_of.back()?;
        let behind = now.duration_since(as_of).unwrap_or_default();
        (behind > kept).then_some((behind, kept))
    }
}

/// The topic may have forgotten deletes of the partition that were not read: it keeps them for `kept`, and what was written in the last
/// `behind` is still to be read.
pub(crate) fn deletes_gone(partition: &Partition, behind: Duration, kept: Duration) -> BrokerError {
    BrokerError::DeletesGone { topic: partition.topic.to_string(), partition: partition.number, behind, kept }
}

/// What is remembered with an offset: what it is about, and as of when everything before it was read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Mark<'a> {
    pub(crate) about: &'a str,
    at: Option<Duration>,
}

impl<'a> Mark<'a> {
    /// As it is written.
    pub(crate) fn write(about: &str, at: SystemTime) -> String {
        format!("{about} {}", at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis())
    }

    pub(crate) fn read(text: &'a str) -> Self {
        let (about, at) = text.split_once(' ').unwrap_or((text, ""));
        Self { about, at: at.parse().ok().map(Duration::from_millis) }
    }

    /// As of when; `None` if it does not say that.
    pub(crate) fn as_of(&self) -> Option<SystemTime> {
        self.at.map(|at| SystemTime::UNIX_EPOCH + at)
    }

    /// How long ago that was.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        Some(now.duration_since(self.as_of()?).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_offset_remembers_what_it_is_about_and_as_of_when() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let written = Mark::write("abc", at);
        let mark = Mark::read(&written);
        assert_eq!((mark.about, mark.as_of()), ("abc", Some(at)));
        assert_eq!(mark.age(at + Duration::from_secs(5)), Some(Duration::from_secs(5)));
        assert_eq!(mark.age(at - Duration::from_secs(5)), Some(Duration::ZERO), "a clock that was set back");
        assert_eq!(Mark::read("abc"), Mark { about: "abc", at: None });
        assert_eq!(Mark::read("").about, "");
    }

    #[test]
    fn what_is_committed_is_as_old_as_the_records_before_it() {
        let partition = Partition { topic: "t".into(), number: 0 };
        let recency = Recency::of(&BTreeMap::from([("t".to_owned(), KEPT)]));
        assert_eq!(recency.as_of(&partition, 5), None, "it is not ours");
        recency.begins(&partition, 5, at(1000));
        // A log that is older than the group.
        recency.read(&partition, 6, at(10));
        assert_eq!(recency.as_of(&partition, 6), Some(at(1000)));
        recency.read(&partition, 100, at(2000));
        recency.read(&partition, 101, at(2001));
        recency.read(&partition, 200, at(3000));
        for (offset, as_of) in [(99, 1000), (100, 2000), (199, 2000), (200, 3000), (201, 3000)] {
            assert_eq!(recency.as_of(&partition, offset), Some(at(as_of)), "{offset}");
        }
        // Read once more: it had to wait.
        recency.read(&partition, 150, at(9000));
        assert_eq!(recency.as_of(&partition, 201), Some(at(3000)));
    }

    #[test]
    fn a_partition_that_ends_with_the_mark_of_a_transaction_stays_as_new_as_the_last_look() {
        let partition = Partition { topic: "t".into(), number: 0 };
        let recency = Recency::of(&BTreeMap::from([("t".to_owned(), KEPT)]));
        recency.begins(&partition, 0, at(1000));
        recency.read(&partition, 7, at(1001));
        for seconds in [2000, 3000, 900_000] {
            recency.ended(&partition, at(seconds));
            // The mark has offset 7: what is committed is what was read.
            assert_eq!(recency.as_of(&partition, 7), Some(at(seconds)));
        }
        assert_eq!(recency.lock()[&partition].as_of.len(), 1);
    }

    #[test]
    fn a_partition_that_is_read_too_slowly_is_noticed() {
        let partition = Partition { topic: "t".into(), number: 0 };
        let recency = Recency::of(&BTreeMap::from([("t".to_owned(), KEPT)]));
        recency.begins(&partition, 0, at(1000));
        assert_eq!(recency.too_far_behind(&partition, at(4600)), None);
        assert_eq!(recency.too_far_behind(&partition, at(4700)), Some((Duration::from_secs(3700), KEPT)));
        recency.read(&partition, 7, at(2000));
        assert_eq!(recency.too_far_behind(&partition, at(4700)), None);
        let forgets_nothing = Partition { topic: "other".into(), number: 0 };
        recency.begins(&forgets_nothing, 0, at(0));
        assert_eq!(recency.too_far_behind(&forgets_nothing, at(4700)), None);
    }
}
