//! Changes that have been read from the stream and have not begun yet.
//!
//! This module decides what an event demands; [`follow`](crate::direct::follow) does it.

use std::time::SystemTime;

use tokio::time::Instant;
use walvec_capture::LookupSpec;
use walvec_model::{Change, Lsn, Op, StreamEvent, TableName};

use crate::sequencer::Completion;
use crate::source::lookup_fanout::ChangedLookups;
use crate::source::unseen::Unseen;
use crate::writer::row_size::{BATCH_BYTES, weight};

/// Changes that have been read and have not begun to be written.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    changes: Vec<Change>,
    /// Changes of looked-up tables.
    pub(crate) related: ChangedLookups,
    /// Transactions that a statement must see before it reads rows again.
    pub(crate) unseen: Unseen,
    /// The weight of the rows in `changes`.
    bytes: usize,
    /// When the oldest pending event arrived.
    since: Option<Instant>,
    /// Transactions whose end has been read. Their rows are in `changes` or have begun.
    commits: Vec<Commit>,
    /// Rows of the transaction whose end has not been read yet, including those that have begun.
    open_rows: usize,
}

/// The end of a transaction.
#[derive(Debug, PartialEq)]
pub(crate) struct Commit {
    pub(crate) end_lsn: Lsn,
    /// The end of the last transaction with rows up to there; zero if there was none.
    pub(crate) with_rows: Lsn,
    pub(crate) at: SystemTime,
    pub(crate) rows: usize,
}

impl Commit {
    /// Returns a note for a position at which the server had nothing more to send.
    pub(crate) const fn idle(wal_end: Lsn) -> Self {
        Self { end_lsn: wal_end, with_rows: Lsn::ZERO, at: SystemTime::UNIX_EPOCH, rows: 0 }
    }
}

impl Completion for Commit {
    /// Joins a transaction without rows, which says only how far the stream has come, to the note before it.
    fn join(&mut self, later: Self) -> Option<Self> {
        if later.rows > 0 {
            return Some(later);
        }
        self.end_lsn = self.end_lsn.max(later.end_lsn);
        None
    }
}

/// What has to be done about an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Demand {
    /// Go on reading.
    Nothing,
    /// Begin to write what is pending.
    Flush,
    /// Write what is pending, then empty this table.
    Truncate(TableName),
    /// Confirm this position: nothing is pending, and the server has nothing more to send up to there.
    Idle(Lsn),
}

impl Pending {
    /// Creates an empty value for tables with these lookups.
    pub(crate) fn new(lookups: &[LookupSpec]) -> Self {
        Self { related: ChangedLookups::new(lookups), ..Self::default() }
    }

    /// Takes in one event.
    pub(crate) fn push(&mut self, event: StreamEvent, max_rows: usize) -> Demand {
        if !matches!(event, StreamEvent::Idle { .. }) {
            self.since.get_or_insert_with(Instant::now);
        }
        match event {
            StreamEvent::Change(change) if change.op == Op::Truncate => {
                self.open_rows += 1;
                self.related.reach(change.position);
                Demand::Truncate(change.table.name.clone())
            }
            StreamEvent::Change(change) => {
                self.open_rows += 1;
                self.bytes += weight(&change.op);
                self.related.reach(change.position);
                self.changes.push(change);
                self.flush_if_full(max_rows)
            }
            StreamEvent::LookedUp(change) => {
                self.open_rows += 1;
                self.related.note(&change);
                self.flush_if_full(max_rows)
            }
            StreamEvent::Commit { end_lsn, at } => {
                let rows = std::mem::take(&mut self.open_rows);
                let with_rows = if rows > 0 { end_lsn } else { Lsn::ZERO };
                Commit { end_lsn, with_rows, at, rows }.push_to(&mut self.commits);
                self.flush_if_full(max_rows)
            }
            StreamEvent::Begin { xid, .. } => {
                self.unseen.begin(xid);
                Demand::Nothing
            }
            StreamEvent::Partition { .. } => Demand::Nothing,
            StreamEvent::Idle { wal_end } if self.is_empty() => Demand::Idle(wal_end),
            StreamEvent::Idle { wal_end } => {
                // Confirm this position together with the last transaction, since nothing lies in between: the server
                // may not repeat it for half a minute.
                if let Some(last) = self.commits.last_mut().filter(|_| self.open_rows == 0) {
                    last.end_lsn = last.end_lsn.max(wal_end);
                }
                Demand::Nothing
            }
        }
    }

    fn flush_if_full(&self, max_rows: usize) -> Demand {
        // Many transactions may change the same looked-up value, so count them too.
        let full = self.rows().max(self.commits.len()) >= max_rows || self.bytes >= BATCH_BYTES;
        if full { Demand::Flush } else { Demand::Nothing }
    }

    /// Returns how many rows are pending, plus how many looked-up values to find rows by.
    pub(crate) fn rows(&self) -> usize {
        self.changes.len() + self.related.len()
    }

    /// Returns when the oldest pending event arrived; `None` if nothing is pending.
    pub(crate) const fn since(&self) -> Option<Instant> {
        self.since
    }

    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        self.since = None;
        self.bytes = 0;
        std::mem::take(&mut self.changes)
    }

    /// Returns whether nothing waits to begin or to be confirmed.
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.related.is_empty() && self.commits.is_empty() && self.open_rows == 0
    }

    /// Returns whether a transaction has ended and no other has begun, so that the pending changes should begin.
    pub(crate) fn is_complete(&self) -> bool {
        self.open_rows == 0 && !self.commits.is_empty()
    }

    /// Takes the transactions that end with the changes that [`take_changes`](Self::take_changes) took.
    pub(crate) fn take_commits(&mut self) -> Vec<Commit> {
        std::mem::take(&mut self.commits)
    }

    pub(crate) fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.commits.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use walvec_model::{Cell, Position, Row, RowKey, Table};

    use super::*;

    fn change(op: Op) -> StreamEvent {
        let table = Table { name: TableName::new("public", "books"), columns: Vec::new(), key: Vec::new() };
        StreamEvent::Change(Change { table: Arc::new(table), position: Position::default(), op })
    }

    fn delete() -> StreamEvent {
        change(Op::Delete { key: RowKey::new(vec![json!(1)]) })
    }

    const fn commit(end_lsn: u64) -> StreamEvent {
        StreamEvent::Commit { end_lsn: Lsn(end_lsn), at: SystemTime::UNIX_EPOCH }
    }

    const fn idle(wal_end: u64) -> StreamEvent {
        StreamEvent::Idle { wal_end: Lsn(wal_end) }
    }

    #[tokio::test]
    async fn an_idle_server_is_confirmed_only_when_nothing_is_in_flight() {
        let mut pending = Pending::default();
        assert_eq!(pending.push(idle(10), 256), Demand::Idle(Lsn(10)));
        pending.push(delete(), 256);
        assert_eq!(pending.push(idle(20), 256), Demand::Nothing, "inside a transaction");
        pending.push(commit(15), 256);
        assert_eq!(pending.push(idle(20), 256), Demand::Nothing, "read but not written");
        let ends: Vec<Lsn> = pending.commits.iter().map(|commit| commit.end_lsn).collect();
        assert_eq!(ends, [Lsn(20)], "confirmed with the transaction before it");
    }

    #[tokio::test]
    async fn a_large_transaction_is_written_in_bounded_batches() {
        let mut pending = Pending::default();
        assert_eq!(pending.push(delete(), 2), Demand::Nothing);
        assert_eq!(pending.push(delete(), 2), Demand::Flush);
        assert!(!pending.is_complete(), "nothing may be confirmed before its end");
    }

    #[tokio::test]
    async fn large_rows_make_small_batches() {
        let insert = |length| {
            let text = json!("x".repeat(length));
            change(Op::Insert { new: Row(vec![Cell::Value(text)]) })
        };
        let mut pending = Pending::default();
        assert_eq!(pending.push(insert(BATCH_BYTES / 2), 256), Demand::Nothing);
        assert_eq!(pending.push(insert(BATCH_BYTES / 2), 256), Demand::Flush);
        assert_eq!(pending.take_changes().len(), 2);
        assert_eq!(pending.push(insert(1), 256), Demand::Nothing);
    }

    #[tokio::test]
    async fn a_transaction_is_complete_when_its_end_has_been_read() {
        let mut pending = Pending::default();
        pending.push(delete(), 256);
        assert!(!pending.is_complete());
        pending.push(commit(15), 256);
        assert!(pending.is_complete());
        assert_eq!(
            pending.commits,
            [Commit { end_lsn: Lsn(15), with_rows: Lsn(15), at: SystemTime::UNIX_EPOCH, rows: 1 }]
        );
    }

    #[tokio::test]
    async fn a_truncate_is_a_barrier() {
        let mut pending = Pending::default();
        let table = TableName::new("public", "books");
        assert_eq!(pending.push(change(Op::Truncate), 256), Demand::Truncate(table));
    }
}
