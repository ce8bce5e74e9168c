//! Changes and stream events: what capture emits.

use std::sync::Arc;
use std::time::SystemTime;

use crate::{Lsn, Position, Row, RowKey, Table};

/// What happened to a row, or to a whole table.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A new row, or any row of a snapshot. It is complete: no cell is unchanged.
    Insert {
        /// The row.
        new: Row,
    },
    /// A changed row.
    Update {
        /// The key before the change, present only if the change gave the row another key.
        old_key: Option<RowKey>,
        /// The row after the change; cells may be [`Cell::Unchanged`](crate::Cell::Unchanged).
        new: Row,
    },
    /// A deleted row.
    Delete {
        /// The row's key.
        key: RowKey,
    },
    /// The table was emptied. No row from before this change survives it.
    Truncate,
}

/// One change of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table as it was when the change was made.
    pub table: Arc<Table>,
    /// The version that this change gives the row.
    pub position: Position,
    /// What happened.
    pub op: Op,
}

impl Change {
    /// Returns the key of the row after the change; `None` for [`Op::Truncate`].
    ///
    /// A cell that was not sent cannot be part of a key: PostgreSQL sends key columns whole or as the old key, never as
    /// an unchanged TOAST value, and capture fills them in.
    #[must_use]
    pub fn key(&self) -> Option<RowKey> {
        match &self.op {
            Op::Insert { new } | Op::Update { new, .. } => Some(key_of(&self.table, new)),
            Op::Delete { key } => Some(key.clone()),
            Op::Truncate => None,
        }
    }
}

fn key_of(table: &Table, row: &Row) -> RowKey {
    let value = |&index: &usize| row.0.get(index).and_then(|cell| cell.value()).cloned().unwrap_or_default();
    RowKey::new(table.key.iter().map(value).collect())
}

/// A change of a table whose rows are looked up by documents of other tables.
#[derive(Clone, Debug, PartialEq)]
pub struct LookedUpChange {
    /// The looked-up table as it was when the change was made.
    pub table: Arc<Table>,
    /// The position of the change in the stream.
    pub position: Position,
    /// The rows of the looked-up table that the change was about.
    pub touched: Touched,
}

/// The rows of a looked-up table that a change was about.
#[derive(Clone, Debug, PartialEq)]
pub enum Touched {
    /// The row before and the row after the change, where they exist and were sent. Before an update, PostgreSQL sends
    /// the old row only if the update changed a column of the replica identity. In a row from before the change, only
    /// the columns of the replica identity have a meaning.
    Rows(Vec<Row>),
    /// The table was emptied.
    All,
}

/// One step of the replication stream, in commit order.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// The beginning of a transaction. The server sends it only after the transaction has committed.
    Begin {
        /// When the transaction committed, by the server's clock.
        at: SystemTime,
        /// The transaction's id.
        xid: u32,
    },
    /// A change inside the transaction that the next [`Commit`](Self::Commit) ends.
    Change(Change),
    /// A change of a table in which documents look something up, also inside the transaction. If the table also has
    /// documents of its own, a [`Change`](Self::Change) for it comes first.
    LookedUp(LookedUpChange),
    /// Announces that the change that follows is of a row in this partition of the table. Sent before the first row
    /// that a stream brings of the partition, and again after the partition was altered.
    Partition {
        /// The followed table that the partition belongs to.
        table: Arc<Table>,
        /// The partition's `pg_class.oid`.
        leaf: u32,
        /// The position of the change.
        position: Position,
        /// The id of the transaction.
        xid: u32,
    },
    /// The end of a transaction. All its changes came before this event.
    Commit {
        /// The LSN to confirm once everything up to here is durable: `Commit.end_lsn`. No other LSN of a transaction is
        /// ever confirmed.
        end_lsn: Lsn,
        /// When the transaction committed, by the server's clock.
        at: SystemTime,
    },
    /// The server has nothing more to send up to `wal_end`, and no transaction is open. If nothing is in flight, this
    /// position may be confirmed too, so that a quiet table does not hold back the WAL that other tables write.
    Idle {
        /// The server's WAL position.
        wal_end: Lsn,
    },
}
