//! How many rows are completed at a time, so that large ones cannot fill the memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::pending::BATCH_BYTES;

/// A row that no experience tells the size of.
const ROW_BYTES: usize = BATCH_BYTES / 64;

/// How large rows are once they have all their values, judged by those of lately.
///
/// A change does not tell: PostgreSQL leaves large values out of it that an UPDATE did not touch, and what a row looks up is not
/// in it either.
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
    /// How many such rows may be completed at a time; at least one.
    pub(crate) fn rows_at_once(&self) -> usize {
        (BATCH_BYTES / self.bytes.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// So many rows have turned out to take so many bytes. Small ones are believed little by little: large ones may follow.
    pub(crate) fn learn(&self, rows: usize, bytes: usize) {
        let Some(average) = bytes.checked_div(rows) else { return };
        let before = self.bytes.load(Ordering::Relaxed);
        self.bytes.store(average.max(before / 2), Ordering::Relaxed);
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
