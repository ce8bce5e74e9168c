//! Partitions that the stream has brought rows of and that no shape has.
//!
//! A partition that is created, filled and then emptied or dropped between two looks leaves no difference to find. The
//! stream brings its rows as rows of the table, but not what removes them. It does name the partition before its first
//! row. A partition that is named and not known to have been read is a *stray*: only reading the whole table shows what
//! became of its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use walvec_capture::Shape;
use walvec_model::{Lsn, Position, StreamEvent, TableName};

use crate::error::StoreError;
use crate::state::records::{Baseline, Stray};
use crate::state::store::Store;

/// The partitions that the stream has named. The reader of the stream fills it; looks at the catalogue query it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaves(Arc<Mutex<BTreeMap<TableName, Partitions>>>);

/// The partitions of a table.
#[derive(Debug, Default)]
struct Partitions {
    /// Partitions of the shape that the table had when its rows were read. A later change to one of them is a
    /// difference of shapes.
    known: BTreeSet<u32>,
    /// The server's position at the look after which the table was read whole. Anything streamed from before it says
    /// nothing any more.
    read_from: Lsn,
    /// The other partitions that the stream has named.
    strays: BTreeMap<u32, Stray>,
}

impl Leaves {
    /// Continues from the stored baseline.
    pub(crate) fn begin(&self, baseline: &Baseline) {
        let mut tables = BTreeMap::<TableName, Partitions>::new();
        for (table, strays) in &baseline.strays {
            tables.entry(table.clone()).or_default().strays = strays.clone();
        }
        *self.tables() = tables;
        baseline.shapes.iter().for_each(|(table, shape)| self.know(table, shape));
    }

    /// Notes the partitions that these events name. Strays are stored before any of their rows: once those are
    /// confirmed, the stream does not bring them again.
    pub(crate) fn hear(&self, events: &[StreamEvent], store: &Store) -> Result<(), StoreError> {
        let mut has_new = false;
        for event in events {
            if let StreamEvent::Partition { table, leaf, position, xid } = event {
                has_new |= self.note(&table.name, *leaf, *position, *xid);
            }
        }
        if has_new {
            let stored = store.baseline()?.unwrap_or_default();
            store.save_baseline(&Baseline { strays: self.strays(), ..stored })?;
        }
        Ok(())
    }

    /// Notes that the stream has named a partition. Returns whether it is a stray.
    fn note(&self, table: &TableName, leaf: u32, position: Position, xid: u32) -> bool {
        let mut tables = self.tables();
        let partitions = tables.entry(table.clone()).or_default();
        let is_stray = !partitions.known.contains(&leaf) && position.commit_lsn >= partitions.read_from;
        if is_stray {
            // A partition that is attached again is named again.
            let stray = partitions.strays.entry(leaf).or_insert(Stray { named: position, first: xid });
            stray.named = position.max(stray.named);
        }
        is_stray
    }

    /// Notes the shape that a table had when its rows were read.
    pub(crate) fn know(&self, table: &TableName, shape: &Shape) {
        let mut tables = self.tables();
        let partitions = tables.entry(table.clone()).or_default();
        partitions.known = shape.leaves().collect();
        partitions.strays.retain(|leaf, _| !shape.has_leaf(*leaf));
    }

    /// Notes that a table was read whole after the server was at `from`.
    pub(crate) fn read(&self, table: &TableName, from: Lsn) {
        let mut tables = self.tables();
        let partitions = tables.entry(table.clone()).or_default();
        partitions.read_from = from;
        partitions.strays.retain(|_, stray| stray.named.commit_lsn >= from);
    }

    /// Returns whether the table has strays that its present shape `now` lacks. The server was at `flushed` just
    /// before.
    pub(crate) fn is_any_gone(&self, table: &TableName, now: &Shape, flushed: Lsn) -> bool {
        self.is_any(table, |leaf, stray| !now.has_leaf(leaf) && stray.named.commit_lsn < flushed)
    }

    /// Returns whether strays among the partitions of `now` had rows before the server was at `until`, and may have
    /// been emptied since.
    pub(crate) fn is_any_emptied(&self, table: &TableName, now: &Shape, until: Lsn) -> bool {
        let may_be_emptied = |leaf, stray: &Stray| now.has_leaf(leaf) && !now.was_never_emptied(leaf, stray.first);
        self.is_any(table, |leaf, stray| may_be_emptied(leaf, stray) && stray.named.commit_lsn < until)
    }

    /// Returns all strays, to be stored.
    pub(crate) fn strays(&self) -> Vec<(TableName, BTreeMap<u32, Stray>)> {
        let tables = self.tables();
        let with_strays = tables.iter().filter(|(_, partitions)| !partitions.strays.is_empty());
        with_strays.map(|(table, partitions)| (table.clone(), partitions.strays.clone())).collect()
    }

    fn is_any(&self, table: &TableName, is_wanted: impl Fn(u32, &Stray) -> bool) -> bool {
        let tables = self.tables();
        let Some(partitions) = tables.get(table) else { return false };
        partitions.strays.iter().any(|(leaf, stray)| is_wanted(*leaf, stray))
    }

    fn tables(&self) -> MutexGuard<'_, BTreeMap<TableName, Partitions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::Table;

    use super::*;

    fn shape(leaves: &[u32]) -> Shape {
        shape_of(leaves.iter().map(|leaf| (*leaf, *leaf, 1)))
    }

    /// Returns a shape with partitions of these oids, files and transactions.
    fn shape_of(leaves: impl Iterator<Item = (u32, u32, u32)>) -> Shape {
        let leaves: BTreeMap<u32, _> =
            leaves.map(|(leaf, file, xid)| (leaf, json!({ "file": file, "xid": xid }))).collect();
        let shape = json!({
            "oid": 1, "columns": "", "versions": "", "labels": [], "identity": "", "leaves": leaves
        });
        serde_json::from_value(shape).unwrap()
    }

    fn table() -> TableName {
        TableName::new("public", "items")
    }

    const fn at(lsn: u64) -> Position {
        Position { commit_lsn: Lsn(lsn), ordinal: 1 }
    }

    /// Returns the leaves of a table that had partition 2 when it was read.
    fn leaves() -> Leaves {
        let leaves = Leaves::default();
        leaves.know(&table(), &shape(&[2]));
        leaves
    }

    #[test]
    fn only_a_partition_that_was_not_read_is_a_stray() {
        let leaves = leaves();
        assert!(!leaves.note(&table(), 2, at(10), 7));
        assert!(leaves.note(&table(), 3, at(10), 7));
        let now = shape(&[2]);
        assert!(leaves.is_any_gone(&table(), &now, Lsn(11)));
        assert!(!leaves.is_any_gone(&table(), &now, Lsn(10)), "the look may have been before it came");
        leaves.know(&table(), &shape(&[2, 3]));
        assert!(!leaves.is_any_gone(&table(), &now, Lsn(11)), "that it is gone is a difference now");
    }

    #[test]
    fn a_partition_that_is_there_counts_if_it_may_have_been_emptied_before_it_was_seen() {
        let leaves = leaves();
        leaves.note(&table(), 3, at(10), 7);
        let now = shape(&[2, 3]);
        assert!(!leaves.is_any_gone(&table(), &now, Lsn(20)));
        assert!(!leaves.is_any_emptied(&table(), &now, Lsn(11)), "it has the storage with which it was made");
        let emptied = shape_of([(2, 2, 1), (3, 99, 8)].into_iter());
        assert!(leaves.is_any_emptied(&table(), &emptied, Lsn(11)));
        assert!(!leaves.is_any_emptied(&table(), &emptied, Lsn(10)), "the rows may have come later");
        let made_and_filled = shape_of([(2, 2, 1), (3, 3, 7)].into_iter());
        assert!(leaves.is_any_emptied(&table(), &made_and_filled, Lsn(11)), "TRUNCATE leaves the storage then");
    }

    #[test]
    fn what_was_streamed_before_the_whole_table_was_read_says_nothing_any_more() {
        let leaves = leaves();
        leaves.note(&table(), 3, at(10), 7);
        leaves.note(&table(), 4, at(25), 7);
        leaves.read(&table(), Lsn(20));
        assert_eq!(leaves.strays(), [(table(), BTreeMap::from([(4, Stray { named: at(25), first: 7 })]))]);
        assert!(!leaves.note(&table(), 5, at(15), 7), "a replay");
        assert!(leaves.note(&table(), 3, at(30), 7), "it was attached again");
    }

    #[test]
    fn a_stray_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.save_baseline(&Baseline { shapes: vec![(table(), shape(&[2]))], ..Baseline::default() }).unwrap();
        let named = |leaf| StreamEvent::Partition {
            table: Arc::new(Table { name: table(), columns: Vec::new(), key: Vec::new() }),
            leaf,
            position: at(10),
            xid: 7,
        };
        let leaves = Leaves::default();
        leaves.begin(&store.baseline().unwrap().unwrap());
        leaves.hear(&[named(2), named(3)], &store).unwrap();
        let next = Leaves::default();
        next.begin(&store.baseline().unwrap().unwrap());
        assert_eq!(next.strays(), [(table(), BTreeMap::from([(3, Stray { named: at(10), first: 7 })]))]);
    }
}
