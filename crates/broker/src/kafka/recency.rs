//! Tracks up to which time a group has read its partitions.
//!
//! A compacted topic keeps deletes for a while (`delete.retention.ms`) and then forgets them, even if a slow group has
//! not read them yet. Such a group would have read a row, and would never read its delete. Each offset is therefore
//! committed with a time: everything that was written before that time has been read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::BrokerError;
use crate::record::Partition;

/// The smallest difference between two recorded times.
const STEP: Duration = Duration::from_secs(10);

/// The times up to which this worker has read the partitions of compacted topics.
#[derive(Debug, Default)]
pub(crate) struct Recency {
    /// How long each topic keeps deletes.
    kept: BTreeMap<String, Duration>,
    read: Mutex<HashMap<Partition, PartitionRead>>,
}

/// How far a partition was read.
#[derive(Debug)]
struct PartitionRead {
    /// The offset after the last record. Transaction markers may follow it; their offsets are never committed.
    next: i64,
    /// Pairs of offset and time, both ascending: everything before the offset was read, and with it everything written
    /// before the time.
    as_of: VecDeque<(i64, SystemTime)>,
}

impl PartitionRead {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, PartitionRead>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how long a partition's topic keeps deletes; `None` if it forgets none.
    pub(crate) fn kept(&self, partition: &Partition) -> Option<Duration> {
        self.kept.get(&*partition.topic).copied()
    }

    /// Records that a partition was assigned and is read from `offset` on.
    pub(crate) fn begins(&self, partition: &Partition, offset: i64, at: SystemTime) {
        if self.kept(partition).is_some() {
            self.lock()
                .insert(partition.clone(), PartitionRead { next: offset, as_of: VecDeque::from([(offset, at)]) });
        }
    }

    /// Records that the record before the offset `next`, written at `at`, was read.
    pub(crate) fn read(&self, partition: &Partition, next: i64, at: SystemTime) {
        if self.kept.is_empty() {
            return;
        }
        if let Some(read) = self.lock().get_mut(partition) {
            read.next = next;
            read.note(next, at);
        }
    }

    /// Records that a partition was read to its end at the time `at`.
    pub(crate) fn ended(&self, partition: &Partition, at: SystemTime) {
        if let Some(read) = self.lock().get_mut(partition) {
            read.note(read.next, at);
        }
    }

    /// Returns the time up to which everything before `offset` was read. Later calls must not ask for a lower offset.
    pub(crate) fn as_of(&self, partition: &Partition, offset: i64) -> Option<SystemTime> {
        let mut read = self.lock();
        let as_of = &mut read.get_mut(partition)?.as_of;
        while as_of.get(1).is_some_and(|(next, _)| *next <= offset) {
            as_of.pop_front();
        }
        as_of.front().map(|(_, as_of)| *as_of)
    }

    /// Returns whether a partition's topic may have forgotten deletes that were not read yet. If so, how old the oldest
    /// unread records may be, and how long deletes are kept.
    pub(crate) fn too_far_behind(&self, partition: &Partition, now: SystemTime) -> Option<(Duration, Duration)> {
        let kept = self.kept(partition)?;
        let (_, as_of) = *self.lock().get(partition)?.as_of.back()?;
        let behind = now.duration_since(as_of).unwrap_or_default();
        (behind > kept).then_some((behind, kept))
    }
}

/// Returns the error for a topic that may have forgotten unread deletes of the partition: it keeps them for `kept`, and
/// what was written in the last `behind` was not read yet.
pub(crate) fn deletes_gone(partition: &Partition, behind: Duration, kept: Duration) -> BrokerError {
    BrokerError::DeletesGone { topic: partition.topic.to_string(), partition: partition.number, behind, kept }
}

/// The text that is committed with an offset: what the offset is about, and the time up to which everything before it was read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Mark<'a> {
    pub(crate) about: &'a str,
    at: Option<Duration>,
}

impl<'a> Mark<'a> {
    /// Formats a mark as it is committed.
    pub(crate) fn write(about: &str, at: SystemTime) -> String {
        format!("{about} {}", at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis())
    }

    pub(crate) fn read(text: &'a str) -> Self {
        let (about, at) = text.split_once(' ').unwrap_or((text, ""));
        Self { about, at: at.parse().ok().map(Duration::from_millis) }
    }

    /// Returns the time up to which everything was read; `None` if the mark has none.
    pub(crate) fn as_of(&self) -> Option<SystemTime> {
        self.at.map(|at| SystemTime::UNIX_EPOCH + at)
    }

    /// Returns how long ago that time was.
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
        // The records are older than the group.
        recency.read(&partition, 6, at(10));
        assert_eq!(recency.as_of(&partition, 6), Some(at(1000)));
        recency.read(&partition, 100, at(2000));
        recency.read(&partition, 101, at(2001));
        recency.read(&partition, 200, at(3000));
        for (offset, as_of) in [(99, 1000), (100, 2000), (199, 2000), (200, 3000), (201, 3000)] {
            assert_eq!(recency.as_of(&partition, offset), Some(at(as_of)), "{offset}");
        }
        // The record is read a second time, after a pause.
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
            // A transaction marker has offset 7. The committed offset is the one after the last record.
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
