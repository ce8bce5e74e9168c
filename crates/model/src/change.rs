//! What capture emits.

use std::sync::Arc;
use std::time::SystemTime;

use crate::{Lsn, Position, Row, RowKey, Table};

/// What happened to a row, or to a whole table.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A new row; also every row of a snapshot. Complete: no cell is unchanged.
    Insert {
        /// The row.
        new: Row,
    },
    /// A changed row.
    Update {
        /// The key before the change, only if the change gave the row another key.
        old_key: Option<RowKey>,
        /// The row after the change; cells may be [`Cell::Unchanged`](crate::Cell::Unchanged).
        new: Row,
    },
    /// A deleted row.
    Delete {
        /// Its key.
        key: RowKey,
    },
    /// The table was emptied; nothing before this change survives it.
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
    /// The key of the row after the change; `None` for [`Op::Truncate`].
    ///
    /// A key column is never TOASTed out of a message: PostgreSQL sends key columns whole or as the old key, and
    /// capture fills them in, so a cell that was not sent cannot be part of a key.
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
    /// Where in the stream the change is.
    pub position: Position,
    /// Which of its rows.
    pub touched: Touched,
}

/// Rows of a looked-up table that a change was about.
#[derive(Clone, Debug, PartialEq)]
pub enum Touched {
    /// The row before and after the change, as far as there is one and it was sent. Before an update there is one only if
    /// the update changed a column of the replica identity. Of a row before the change only the columns of the replica
    /// identity mean something.
    Rows(Vec<Row>),
    /// The table was emptied.
    All,
}

/// One step of the replication stream, in commit order.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// The beginning of a transaction, which has committed: the server sends it only then.
    Begin {
        /// When it committed, by the server's clock.
        at: SystemTime,
        /// Its id.
        xid: u32,
    },
    /// A change inside the transaction that the next [`Commit`](Self::Commit) ends.
    Change(Change),
    /// A change, inside the transaction as well, of a table that documents look something up in. One that shows the table
    /// itself is a [`Change`](Self::Change) too, which comes first.
    LookedUp(LookedUpChange),
    /// The change that follows is of a row in this partition of the table. Said before the first row that a stream brings of the
    /// partition, and again after the partition was altered.
    Partition {
        /// The table that is followed.
        table: Arc<Table>,
        /// The partition's `pg_class.oid`.
        leaf: u32,
        /// The position of the change.
        position: Position,
        /// The transaction.
        xid: u32,
    },
    /// The end of a transaction. All its changes came before.
    Commit {
        /// The LSN to confirm once everything up to here is durable: `Commit.end_lsn`, and nothing else ever is.
        end_lsn: Lsn,
        /// When the transaction committed, by the server's clock.
        at: SystemTime,
    },
    /// The server has nothing more to send up to `wal_end`, and no transaction is open. If nothing is in flight, this
    /// position may be confirmed too, so that a quiet table does not hold back the WAL of its busy neighbours.
    Idle {
        /// The server's position.
        wal_end: Lsn,
    },
}
