//! Which transactions of the stream emptied tables.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use walvec_model::TableName;

/// How many transactions are remembered for each table. One that is forgotten costs reading the table again.
const REMEMBERED: usize = 64;

/// Noted by whoever reads the stream, asked by whoever looks at the catalogue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truncates(Arc<Mutex<HashMap<TableName, VecDeque<u32>>>>);

impl Truncates {
    /// Notes that transaction `xid` emptied `table`, or changed it so that everything that depends on it is made anew.
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

    /// Whether all of these transactions have emptied the table.
    pub(crate) fn explain(&self, table: &TableName, xids: &[u32]) -> bool {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(table).is_some_and(|noted| xids.iter().all(|xid| noted.contains(xid)))
    }
}

#[cfg(test)]
mod tests {
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
}
