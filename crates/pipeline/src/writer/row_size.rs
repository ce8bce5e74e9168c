//! How many rows are completed at a time, so that large ones cannot exhaust the memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use walvec_model::Op;

/// The bytes of values with which a batch begins before it has all its rows, so that large rows cannot exhaust the
/// memory.
pub(crate) const BATCH_BYTES: usize = 8 << 20;

/// The assumed size of a row before any was measured.
const ROW_BYTES: usize = BATCH_BYTES / 64;

/// The size of rows once they have all their values, estimated from recent ones.
///
/// A change does not show it: PostgreSQL leaves out large values that an UPDATE did not touch, and looked-up rows are
/// not in it either.
#[derive(Debug)]
pub(crate) struct RowSize {
    bytes: AtomicUsize,
}

impl Default for RowSize {
    fn default() -> Self {
        Self { bytes: AtomicUsize::new(ROW_BYTES) }
    }
}

impl RowSize {
    /// Returns how many such rows may be completed at a time; at least one.
    pub(crate) fn rows_at_once(&self) -> usize {
        (BATCH_BYTES / self.bytes.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Notes that `rows` rows took `bytes` bytes. The estimate falls at most by half each time, because large rows may
    /// follow small ones.
    pub(crate) fn learn(&self, rows: usize, bytes: usize) {
        let Some(average) = bytes.checked_div(rows) else { return };
        let before = self.bytes.load(Ordering::Relaxed);
        self.bytes.store(average.max(before / 2), Ordering::Relaxed);
    }
}

/// Returns about how many bytes the values of a change take.
pub(crate) fn weight(op: &Op) -> usize {
    match op {
        Op::Insert { new } | Op::Update { new, .. } => new.weight(),
        Op::Delete { .. } | Op::Truncate => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_rows_are_taken_a_few_at_a_time_and_small_ones_together_once_they_are_known_to_be_small() {
        let size = RowSize::default();
        assert_eq!(size.rows_at_once(), 64);
        size.learn(2, 2 * BATCH_BYTES);
        assert_eq!(size.rows_at_once(), 1);
        size.learn(0, 0);
        assert_eq!(size.rows_at_once(), 1);
        for rows in [2, 4, 8, 16] {
            size.learn(256, 256 * 100);
            assert_eq!(size.rows_at_once(), rows);
        }
        for _ in 0..20 {
            size.learn(256, 256 * 100);
        }
        assert!(size.rows_at_once() > 10_000);
    }
}
