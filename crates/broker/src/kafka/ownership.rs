//! Which partitions this worker may still write for.
//!
//! A worker that was stopped for a while (a long pause of the machine, a debugger, `SIGSTOP`) may wake up in the middle of a
//! batch whose partitions others have taken over. So a batch is written only while the group is known to count on this
//! worker: some seconds ago at most it has accepted a commit of offsets, which it does not from a member that it has given
//! up.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::record::Partition;

/// For how long an accepted commit proves that the partitions are still ours. Less than the shortest session that brokers
/// allow (6 s by default), so that nobody else can have taken over meanwhile.
const PROOF_LASTS: Duration = Duration::from_secs(3);

/// The partitions of this worker.
#[derive(Debug, Default)]
pub(crate) struct Ownership(Mutex<Owned>);

#[derive(Debug, Default)]
struct Owned {
    /// Counts assignments, so that what was read in a former one can be told.
    assignments: u64,
    /// The assignment in which each partition came.
    partitions: HashMap<Partition, u64>,
    /// Partitions whose reading waits on purpose.
    paused: HashSet<Partition>,
    /// When the group last accepted something from this worker.
    proved: Option<Instant>,
}

impl Ownership {
    fn lock(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Partitions have come. Being given them is a proof.
    pub(crate) fn add(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        owned.assignments += 1;
        let assignment = owned.assignments;
        owned.partitions.extend(partitions.iter().map(|partition| (partition.clone(), assignment)));
        owned.proved = Some(Instant::now());
    }

    /// A partition is read again from another place: what was read of it before does not count any more.
    pub(crate) fn renew(&self, partition: &Partition) {
        let mut owned = self.lock();
        owned.assignments += 1;
        let assignment = owned.assignments;
        if let Some(current) = owned.partitions.get_mut(partition) {
            *current = assignment;
        }
    }

    /// Partitions have gone.
    pub(crate) fn remove(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        for partition in partitions {
            owned.partitions.remove(partition);
            owned.paused.remove(partition);
        }
    }

    /// The assignment in which a partition came; `None` if it is not ours.
    pub(crate) fn assignment(&self, partition: &Partition) -> Option<u64> {
        self.lock().partitions.get(partition).copied()
    }

    /// Reading waits, or goes on.
    pub(crate) fn pause(&self, partition: &Partition, is_paused: bool) {
        let mut owned = self.lock();
        if is_paused {
            owned.paused.insert(partition.clone());
        } else {
            owned.paused.remove(partition);
        }
    }

    /// Whether reading waits.
    pub(crate) fn is_paused(&self, partition: &Partition) -> bool {
        self.lock().paused.contains(partition)
    }

    /// The group has accepted a commit that was sent at `sent`.
    pub(crate) fn prove(&self, sent: Instant) {
        let mut owned = self.lock();
        owned.proved = owned.proved.max(Some(sent));
    }

    /// Whether the last proof still holds.
    pub(crate) fn is_proved(&self) -> bool {
        self.lock().proved.is_some_and(|proved| proved.elapsed() < PROOF_LASTS)
    }

    /// The partitions, in no order.
    pub(crate) fn partitions(&self) -> Vec<Partition> {
        self.lock().partitions.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: i32) -> Partition {
        Partition { topic: "t".into(), number }
    }

    #[test]
    fn a_partition_that_comes_back_is_told_from_the_one_that_went() {
        let ownership = Ownership::default();
        ownership.add(&[partition(0), partition(1)]);
        let before = ownership.assignment(&partition(0));
        ownership.remove(&[partition(0)]);
        assert_eq!(ownership.assignment(&partition(0)), None);
        ownership.add(&[partition(0)]);
        assert!(ownership.assignment(&partition(0)) > before);
        assert_eq!(ownership.assignment(&partition(1)), before);
    }

    #[test]
    fn an_old_proof_proves_nothing() {
        let ownership = Ownership::default();
        assert!(!ownership.is_proved());
        if let Some(long_ago) = Instant::now().checked_sub(PROOF_LASTS) {
            ownership.prove(long_ago);
            assert!(!ownership.is_proved());
        }
        ownership.prove(Instant::now());
        assert!(ownership.is_proved());
    }
}
