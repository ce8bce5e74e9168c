//! The final state of each key inside a batch.
//!
//! Writes of one batch reach the sink together, so only the final state of each key matters. Folding the changes in
//! commit order gives that state. For a row with values that PostgreSQL did not send, it also gives the stored point
//! that those values have to come from.

use std::collections::HashMap;
use std::sync::Arc;

use walvec_model::{Change, Op, Position, Row, RowKey, Table};

/// The state of a key after a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FinalRow {
    /// The table as of the last change of this key.
    pub(crate) table: Arc<Table>,
    /// The version that the key has after the batch.
    pub(crate) position: Position,
    /// The row, or that it is gone.
    pub(crate) state: RowState,
}

/// The final state of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RowState {
    /// The row exists.
    Present {
        /// Its cells.
        row: Row,
        /// Where the cells that were not sent can be found.
        base: BaseVersion,
    },
    /// The row does not exist (any more).
    Gone,
}

impl RowState {
    /// Returns this state, but takes no cell from the stored point.
    #[must_use]
    pub(crate) fn without_stored(self) -> Self {
        match self {
            Self::Present { row, base: BaseVersion::Stored { .. } } => {
                Self::Present { row, base: BaseVersion::Unknown }
            }
            other => other,
        }
    }
}

/// Where the values are that PostgreSQL did not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BaseVersion {
    /// No value is missing: every cell was sent.
    Complete,
    /// The missing values are in the stored point of the same key.
    Stored {
        /// The first change of the batch that builds upon the stored point. A stored point that is not older than this
        /// change shows a later state (the stream is being replayed), perhaps of another row under the same key. It
        /// cannot be used.
        before: Position,
    },
    /// The missing values are only in the source.
    Unknown,
}

/// Folds changes of one table, given in commit order, into the final state per key, in order of first appearance.
///
/// [`Op::Truncate`] is a barrier between batches. `changes` must not contain one.
#[must_use]
pub(crate) fn coalesce(changes: Vec<Change>) -> Vec<(RowKey, FinalRow)> {
    let mut fold = Fold::default();
    for change in changes {
        fold.apply(change);
    }
    fold.entries
}

#[derive(Default)]
struct Fold {
    entries: Vec<(RowKey, FinalRow)>,
    index: HashMap<RowKey, usize>,
}

impl Fold {
    fn apply(&mut self, change: Change) {
        let Some(key) = change.key() else { return };
        let Change { table, position, op } = change;
        let state = match op {
            Op::Insert { new } => RowState::Present { row: new, base: BaseVersion::Complete },
            Op::Update { old_key: None, new } => self.merge(&key, position, new),
            Op::Update { old_key: Some(old_key), new } => {
                // Take nothing from the stored point of the old key: a read from the source may have filled that point
                // after another row had already taken the key. Later changes in the stream correct a row under its own
                // key, but not one under a new key.
                let merged = self.merge(&old_key, position, new).without_stored();
                self.put(old_key, FinalRow { table: Arc::clone(&table), position, state: RowState::Gone });
                merged
            }
            Op::Delete { .. } => RowState::Gone,
            Op::Truncate => return,
        };
        self.put(key, FinalRow { table, position, state });
    }

    /// Returns the row after an update of `key`. Cells that were not sent come from the batch if it has them, else from
    /// the stored point.
    fn merge(&self, key: &RowKey, position: Position, mut new: Row) -> RowState {
        if !new.is_partial() {
            return RowState::Present { row: new, base: BaseVersion::Complete };
        }
        let base = match self.index.get(key).map(|&at| &self.entries[at].1.state) {
            None => BaseVersion::Stored { before: position },
            // Only a replay updates a row that does not exist.
            Some(RowState::Gone) => BaseVersion::Unknown,
            Some(RowState::Present { row: earlier, base }) => {
                new.fill(earlier.clone());
                if new.is_partial() { base.clone() } else { BaseVersion::Complete }
            }
        };
        RowState::Present { row: new, base }
    }

    fn put(&mut self, key: RowKey, last: FinalRow) {
        if let Some(&at) = self.index.get(&key) {
            self.entries[at].1 = last;
        } else {
            self.index.insert(key.clone(), self.entries.len());
            self.entries.push((key, last));
        }
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
