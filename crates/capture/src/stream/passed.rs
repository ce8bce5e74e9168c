//! Tables whose changes are passed over up to a position, because they are read whole as of that position or a later one.
//!
//! What the stream says about such a table's past may not match the present catalogue: a key column may have had
//! another name, or another table may have had the table's name. It is therefore ignored.

use std::collections::HashMap;

use walvec_model::{Lsn, TableName};

use crate::pgoutput::RelationMessage;

/// The tables that are passed over, and the Relation messages about them that have arrived.
pub(super) struct Passed {
    until: HashMap<TableName, Lsn>,
    /// The Relation messages of tables that are passed over at present. They are kept because the server does not repeat them.
    relations: Vec<(Lsn, RelationMessage)>,
}

impl Passed {
    /// Creates the state. `until` holds, for each table, the position from which transactions count. The position of a
    /// transaction is that of its commit.
    pub(super) fn new(until: HashMap<TableName, Lsn>) -> Self {
        Self { until, relations: Vec::new() }
    }

    /// Returns whether a relation is passed over in a transaction that commits at `commit_lsn`. `known` is the present
    /// name of the table with its oid, if it is configured.
    pub(super) fn holds(&mut self, relation: &RelationMessage, known: Option<&TableName>, commit_lsn: Lsn) -> bool {
        if self.until.is_empty() {
            return false;
        }
        self.relations.retain(|(_, held)| held.oid != relation.oid);
        let name = TableName::new(&relation.schema, &relation.name);
        let until = [Some(&name), known].into_iter().flatten().filter_map(|table| self.until.get(table)).max().copied();
        let until = until.filter(|until| commit_lsn < *until);
        self.relations.extend(until.map(|until| (until, relation.clone())));
        until.is_some()
    }

    /// Removes and returns the relations that count from a transaction that commits at `commit_lsn`, and did not count before.
    pub(super) fn over(&mut self, commit_lsn: Lsn) -> Vec<RelationMessage> {
        let is_over = |(until, _): &mut (Lsn, RelationMessage)| *until <= commit_lsn;
        self.relations.extract_if(.., is_over).map(|(_, relation)| relation).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(oid: u32, name: &str) -> RelationMessage {
        RelationMessage { oid, schema: "public".to_owned(), name: name.to_owned(), identity: b'd', columns: Vec::new() }
    }

    fn passed() -> Passed {
        Passed::new(HashMap::from([(TableName::new("public", "books"), Lsn(100))]))
    }

    #[test]
    fn a_table_is_passed_over_by_its_name_of_then_and_of_now() {
        let books = TableName::new("public", "books");
        assert!(passed().holds(&relation(1, "books"), None, Lsn(99)));
        assert!(passed().holds(&relation(1, "volumes"), Some(&books), Lsn(99)));
        assert!(!passed().holds(&relation(1, "books"), None, Lsn(100)));
        assert!(!passed().holds(&relation(1, "authors"), None, Lsn(99)));
    }

    #[test]
    fn what_the_server_said_last_of_a_relation_counts_afterwards_and_once() {
        let mut passed = passed();
        assert!(passed.holds(&relation(1, "books"), None, Lsn(10)));
        assert!(passed.holds(&RelationMessage { identity: b'f', ..relation(1, "books") }, None, Lsn(20)));
        assert_eq!(passed.over(Lsn(99)), []);
        assert_eq!(passed.over(Lsn(100)), [RelationMessage { identity: b'f', ..relation(1, "books") }]);
        assert_eq!(passed.over(Lsn(200)), []);
    }
}
