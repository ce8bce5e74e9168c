//! Tracks which partitions this worker may still write for.
//!
//! A worker that was stopped for a while (a long pause of the machine, a debugger, `SIGSTOP`) may wake up in the middle
//! of a batch whose partitions other workers have taken over. A batch is therefore written only while the group is
//! known to count on this worker, which means that it has accepted a commit of offsets within the last few seconds. The
//! group accepts none from a member that it has given up.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::record::Partition;

/// How long an accepted commit proves that the worker still owns its partitions. Less than the shortest session that
/// brokers allow (6 s by default), so that no other worker can have taken over in the meantime.
const PROOF_LASTS: Duration = Duration::from_secs(3);

/// The partitions of this worker.
#[derive(Debug, Default)]
pub(crate) struct PartitionOwnership(Mutex<OwnedPartitions>);

#[derive(Debug, Default)]
struct OwnedPartitions {
    /// Counts assignments, so that records read in an earlier one can be recognised.
    assignments: u64,
    /// The number of the assignment in which each partition was received.
    partitions: HashMap<Partition, u64>,
    /// Partitions that are paused on purpose.
    paused: HashSet<Partition>,
    /// When the group last accepted something from this worker.
    proved: Option<Instant>,
}

impl PartitionOwnership {
    fn lock(&self) -> MutexGuard<'_, OwnedPartitions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds partitions that the group has assigned. An assignment is a proof of ownership.
    pub(crate) fn add(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        owned.assignments += 1;
        let assignment = owned.assignments;
        owned.partitions.extend(partitions.iter().map(|partition| (partition.clone(), assignment)));
        owned.proved = Some(Instant::now());
    }

    /// Gives a partition a new assignment number, because it is read again from another offset. Records read before no
    /// longer count.
    pub(crate) fn renew(&self, partition: &Partition) {
        let mut owned = self.lock();
        owned.assignments += 1;
        let assignment = owned.assignments;
        if let Some(current) = owned.partitions.get_mut(partition) {
            *current = assignment;
        }
    }

    /// Removes partitions that the worker has lost.
    pub(crate) fn remove(&self, partitions: &[Partition]) {
        let mut owned = self.lock();
        for partition in partitions {
            owned.partitions.remove(partition);
            owned.paused.remove(partition);
        }
    }

    /// Returns the assignment number of a partition; `None` if this worker does not own it.
    pub(crate) fn assignment(&self, partition: &Partition) -> Option<u64> {
        self.lock().partitions.get(partition).copied()
    }

    /// Marks a partition as paused or resumed.
    pub(crate) fn pause(&self, partition: &Partition, is_paused: bool) {
        let mut owned = self.lock();
        if is_paused {
            owned.paused.insert(partition.clone());
        } else {
            owned.paused.remove(partition);
        }
    }

    /// Returns whether a partition is paused on purpose.
    pub(crate) fn is_paused(&self, partition: &Partition) -> bool {
        self.lock().paused.contains(partition)
    }

    /// Records that the group has accepted a commit that was sent at `sent`.
    pub(crate) fn prove(&self, sent: Instant) {
        let mut owned = self.lock();
        owned.proved = owned.proved.max(Some(sent));
    }

    /// Returns whether the last proof is still valid.
    pub(crate) fn is_proved(&self) -> bool {
        self.lock().proved.is_some_and(|proved| proved.elapsed() < PROOF_LASTS)
    }

    /// Returns the owned partitions, in no particular order.
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
        let ownership = PartitionOwnership::default();
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
        let ownership = PartitionOwnership::default();
        assert!(!ownership.is_proved());
        if let Some(long_ago) = Instant::now().checked_sub(PROOF_LASTS) {
            ownership.prove(long_ago);
            assert!(!ownership.is_proved());
        }
        ownership.prove(Instant::now());
        assert!(ownership.is_proved());
    }
}
