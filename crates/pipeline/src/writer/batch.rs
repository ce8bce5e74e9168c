//! A batch: the final states of rows to be written into one collection.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use walvec_model::{Generation, Position, RowKey};

use super::coalesce::{FinalRow, RowState};
use crate::state::dead_letters::Place;

/// The final states of rows to be written into one collection.
pub(crate) struct Batch {
    pub(crate) entries: Vec<(RowKey, FinalRow)>,
    pub(crate) purpose: Purpose,
    /// Whether each row was inserted, so that it hardly has a point yet.
    pub(crate) has_inserts_only: bool,
    pub(crate) context: Arc<BatchContext>,
    /// Rows that cannot be processed in their newest version, whatever `entries` holds of an earlier one.
    pub(crate) failed: Vec<RowFailure>,
}

impl Batch {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.entries.iter().map(|(key, _)| key).chain(self.failed.iter().map(|failure| &failure.key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.failed.is_empty()
    }

    /// Stops the rows from being completed from stored points: these may be from before their table was altered, which
    /// the stream does not show.
    pub(crate) fn distrust_stored(&mut self) {
        for (_, last) in &mut self.entries {
            let state = std::mem::replace(&mut last.state, RowState::Gone);
            last.state = state.without_stored();
        }
    }

    /// Takes the first rows, at most `rows` of them, with their failures.
    pub(crate) fn take_first(&mut self, rows: usize) -> Self {
        let rest = self.entries.split_off(rows.min(self.entries.len()));
        let entries = std::mem::replace(&mut self.entries, rest);
        let later: HashSet<&RowKey> = self.entries.iter().map(|(key, _)| key).collect();
        let failed = self.failed.extract_if(.., |failure| !later.contains(&failure.key)).collect();
        let Self { purpose, has_inserts_only, .. } = *self;
        Self { entries, purpose, has_inserts_only, context: Arc::clone(&self.context), failed }
    }
}

/// The reason why rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The rows have changed.
    Change,
    /// The whole table is read again as it was at one position. A point with that position may have been made by plain
    /// statements, which do not see a transaction that waits for a standby, so it is written again.
    Reread,
    /// The rows were read again because of a row that they look up. A stored point may have a newer version of its row
    /// and still be older than the looked-up row, so it never counts as current. If the texts have stayed the same,
    /// nothing is written.
    Refresh,
    /// The stored points are not trusted.
    Repair,
}

/// What the rows of a batch have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct BatchContext {
    pub(crate) generation: Generation,
    /// Where the changes were read, if they came through a topic.
    pub(crate) places: HashMap<RowKey, Place>,
}

/// A row that could not be processed, and why.
#[derive(Clone, Debug)]
pub(crate) struct RowFailure {
    pub(crate) key: RowKey,
    pub(crate) position: Position,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

#[cfg(test)]
mod tests;
