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
pub struct Final {
    /// The table as of the last change of this key.
    pub table: Arc<Table>,
    /// The version that the key has after the batch.
    pub position: Position,
    /// The row, or that it is gone.
    pub state: State,
}

/// The final state of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The row exists.
    Present {
        /// Its cells.
        row: Row,
        /// Where the cells that were not sent can be found.
        base: Base,
    },
    /// The row does not exist (any more).
    Gone,
}

impl State {
    /// Returns this state, but takes no cell from the stored point.
    #[must_use]
    pub fn without_stored(self) -> Self {
        match self {
            Self::Present { row, base: Base::Stored { .. } } => Self::Present { row, base: Base::Unknown },
            other => other,
        }
    }
}

/// Where the values are that PostgreSQL did not send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
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
pub fn coalesce(changes: Vec<Change>) -> Vec<(RowKey, Final)> {
    let mut fold = Fold::default();
    for change in changes {
        fold.apply(change);
    }
    fold.entries
}

#[derive(Default)]
struct Fold {
    entries: Vec<(RowKey, Final)>,
    index: HashMap<RowKey, usize>,
}

impl Fold {
    fn apply(&mut self, change: Change) {
        let Some(key) = change.key() else { return };
        let Change { table, position, op } = change;
        let state = match op {
            Op::Insert { new } => State::Present { row: new, base: Base::Complete },
            Op::Update { old_key: None, new } => self.merge(&key, position, new),
            Op::Update { old_key: Some(old_key), new } => {
                // Take nothing from the stored point of the old key: a read from the source may have filled that point
                // after another row had already taken the key. Later changes in the stream correct a row under its own
                // key, but not one under a new key.
                let merged = self.merge(&old_key, position, new).without_stored();
                self.put(old_key, Final { table: Arc::clone(&table), position, state: State::Gone });
                merged
            }
            Op::Delete { .. } => State::Gone,
            Op::Truncate => return,
        };
        self.put(key, Final { table, position, state });
    }

    /// Returns the row after an update of `key`. Cells that were not sent come from the batch if it has them, else from
    /// the stored point.
    fn merge(&self, key: &RowKey, position: Position, mut new: Row) -> State {
        if !new.is_partial() {
            return State::Present { row: new, base: Base::Complete };
        }
        let base = match self.index.get(key).map(|&at| &self.entries[at].1.state) {
            None => Base::Stored { before: position },
            // Only a replay updates a row that does not exist.
            Some(State::Gone) => Base::Unknown,
            Some(State::Present { row: earlier, base }) => {
                new.fill(earlier.clone());
                if new.is_partial() { base.clone() } else { Base::Complete }
            }
        };
        State::Present { row: new, base }
    }

    fn put(&mut self, key: RowKey, last: Final) {
        if let Some(&at) = self.index.get(&key) {
            self.entries[at].1 = last;
        } else {
            self.index.insert(key.clone(), self.entries.len());
            self.entries.push((key, last));
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
