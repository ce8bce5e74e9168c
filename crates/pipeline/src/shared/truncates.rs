//! Which transactions of the stream emptied tables.
//!
//! A transaction that truncates a table gives every partition new storage. If it writes rows afterwards and then
//! truncates a single partition, that removes some of these rows without any other trace, because PostgreSQL empties
//! the new storage in place. So only a transaction that leaves the table empty explains new storage.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use walvec_model::{Change, Op, TableName};

/// How many transactions are remembered for each table. If one is forgotten, the table is read again.
const REMEMBERED: usize = 64;

/// The noted transactions of each table. The reader of the stream notes them; looks at the catalogue query them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truncates(Arc<Mutex<HashMap<TableName, VecDeque<u32>>>>);

impl Truncates {
    /// Notes a change that transaction `xid` made.
    pub(crate) fn hear(&self, change: &Change, xid: u32) {
        match change.op {
            Op::Truncate => self.note(&change.table.name, xid),
            Op::Insert { .. } | Op::Update { .. } | Op::Delete { .. } => self.take_back(&change.table.name, xid),
        }
    }

    /// Notes that transaction `xid` emptied `table`, or changed it so that everything that depends on it is rebuilt.
    pub(crate) fn note(&self, table: &TableName, xid: u32) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let xids = noted.entry(table.clone()).or_default();
        if xids.back() != Some(&xid) {
            xids.push_back(xid);
            if xids.len() > REMEMBERED {
                xids.pop_front();
            }
        }
    }

    /// Notes that transaction `xid` wrote a row, so that it does not leave the table empty.
    fn take_back(&self, table: &TableName, xid: u32) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(xids) = noted.get_mut(table)
            && xids.back() == Some(&xid)
        {
            xids.pop_back();
        }
    }

    /// Returns whether all of these transactions have emptied the table.
    pub(crate) fn explain(&self, table: &TableName, xids: &[u32]) -> bool {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        xids.iter().all(|xid| noted.get(table).is_some_and(|noted| noted.contains(xid)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walvec_model::{Position, RowKey, Table};

    use super::*;

    #[test]
    fn other_storage_is_explained_only_by_the_transactions_that_made_it() {
        let (table, truncates) = (TableName::new("public", "items"), Truncates::default());
        assert!(!truncates.explain(&table, &[7]));
        truncates.note(&table, 7);
        truncates.note(&table, 8);
        assert!(truncates.explain(&table, &[7, 8, 7]));
        assert!(!truncates.explain(&table, &[7, 9]), "a partition was truncated on its own");
        assert!(!truncates.explain(&TableName::new("public", "others"), &[7]));
    }

    #[test]
    fn a_transaction_that_writes_rows_after_its_truncate_explains_nothing() {
        let table = Arc::new(Table { name: TableName::new("public", "items"), columns: Vec::new(), key: Vec::new() });
        let change = |op| Change { table: Arc::clone(&table), position: Position::default(), op };
        let (truncate, delete) = (change(Op::Truncate), change(Op::Delete { key: RowKey::new(Vec::new()) }));
        let truncates = Truncates::default();
        truncates.hear(&truncate, 7);
        truncates.hear(&delete, 8);
        assert!(truncates.explain(&table.name, &[7]), "the rows are another transaction's");
        truncates.hear(&truncate, 9);
        truncates.hear(&delete, 9);
        assert!(!truncates.explain(&table.name, &[9]), "a partition may have been truncated behind them");
        truncates.hear(&truncate, 9);
        assert!(truncates.explain(&table.name, &[9]), "the whole table was emptied again");
    }
    #[test]
    fn transactions_that_are_forgotten_explain_nothing_and_one_is_remembered_once() {
        let (table, truncates) = (TableName::new("public", "items"), Truncates::default());
        truncates.note(&table, 1);
        for _ in 0..REMEMBERED {
            truncates.note(&table, 2);
        }
        assert!(truncates.explain(&table, &[1]), "a transaction that truncates again takes no further place");
        (3..).take(REMEMBERED).for_each(|xid| truncates.note(&table, xid));
        assert!(!truncates.explain(&table, &[2]) && truncates.explain(&table, &[3]));
    }
}
