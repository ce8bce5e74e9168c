//! Turns replication messages into changes with positions, keys and values. Pure: everything it needs from the
//! catalogue is passed in with [`FollowedTable`]. `row` reads the tuples of a change.
//!
//! Positions follow from the messages alone, so a replay gives every change the same position again: the commit LSN is that of
//! Begin, and the ordinal counts all row changes of the transaction, including those of tables that are not followed.

mod row;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use row::FollowedTable;
use row::{incomplete_key, key_of, row, rows};
use walvec_model::{Cell, Change, LookedUpChange, Lsn, Op, Position, Row, RowKey, StreamEvent, Touched};

use crate::CaptureError;
use crate::pgoutput::{ReplicationMessage, Tuple};

/// Turns the messages of one stream into events.
#[derive(Default)]
pub(crate) struct Assembler {
    /// The latest description of each relation; `None` for relations that are not followed.
    relations: HashMap<u32, Option<FollowedTable>>,
    /// The relation that was described last, if it is not followed and no row has come since. The server describes a
    /// partition right before the partition's first row, and attributes that row to the followed table.
    described: Option<u32>,
    transaction: Option<OpenTransaction>,
}

struct OpenTransaction {
    commit_lsn: Lsn,
    xid: u32,
    /// The number of row changes so far.
    changes: u64,
}

impl Assembler {
    /// Returns whether a transaction has begun and not ended.
    pub(crate) const fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Sets how the rows of a relation are read from now on. It may change in the middle of a transaction.
    pub(crate) fn set_relation(&mut self, oid: u32, followed: Option<FollowedTable>) {
        self.described = followed.is_none().then_some(oid);
        self.relations.insert(oid, followed);
    }

    /// Appends the events of one message. Relation messages go through [`set_relation`](Self::set_relation) instead.
    pub(crate) fn apply(
        &mut self,
        message: ReplicationMessage<'_>,
        events: &mut Vec<StreamEvent>,
    ) -> Result<(), CaptureError> {
        match message {
            ReplicationMessage::Begin { commit_lsn, at, xid } => {
                events.push(StreamEvent::Begin { at, xid });
                if self.transaction.replace(OpenTransaction { commit_lsn, xid, changes: 0 }).is_some() {
                    return Err(protocol("a transaction began inside another one"));
                }
            }
            ReplicationMessage::Commit { end_lsn, at } => {
                if self.transaction.take().is_none() {
                    return Err(protocol("a transaction ended that had not begun"));
                }
                events.push(StreamEvent::Commit { end_lsn, at });
            }
            ReplicationMessage::Insert { relation, new } => {
                let touched = |followed: &FollowedTable| rows(followed, None, Some(&new));
                self.change(relation, events, |followed| insert(followed, &new), touched)?;
            }
            ReplicationMessage::Update { relation, old, new } => {
                let touched = |followed: &FollowedTable| match old {
                    None if followed.may_lack_old => Ok(Touched::All),
                    _ => rows(followed, old.as_ref(), Some(&new)),
                };
                self.change(relation, events, |followed| update(followed, old.as_ref(), &new), touched)?;
            }
            ReplicationMessage::Delete { relation, old } => {
                let touched = |followed: &FollowedTable| rows(followed, Some(&old), None);
                self.change(relation, events, |followed| Ok(Op::Delete { key: key_of(followed, &old)? }), touched)?;
            }
            ReplicationMessage::Truncate { relations } => {
                // Every table in a TRUNCATE was described before it, and none of them is a partition.
                self.described = None;
                for relation in relations {
                    self.change(relation, events, |_| Ok(Op::Truncate), |_| Ok(Touched::All))?;
                }
            }
            ReplicationMessage::Relation(_) | ReplicationMessage::Other => {}
        }
        Ok(())
    }

    fn change(
        &mut self,
        relation: u32,
        events: &mut Vec<StreamEvent>,
        op: impl FnOnce(&FollowedTable) -> Result<Op, CaptureError>,
        touched: impl FnOnce(&FollowedTable) -> Result<Touched, CaptureError>,
    ) -> Result<(), CaptureError> {
        let transaction = self.transaction.as_mut().ok_or_else(|| protocol("a row came outside of a transaction"))?;
        transaction.changes += 1;
        let position = Position { commit_lsn: transaction.commit_lsn, ordinal: transaction.changes };
        let xid = transaction.xid;
        let described = self.described.take().filter(|described| *described != relation);
        let followed =
            self.relations.get(&relation).ok_or_else(|| protocol("a row came before its table was described"))?;
        let Some(followed) = followed else { return Ok(()) };
        if let Some(leaf) = described {
            events.push(StreamEvent::Partition { table: Arc::clone(&followed.table), leaf, position, xid });
        }
        if followed.is_main {
            let op = op(followed)?;
            events.push(StreamEvent::Change(Change { table: Arc::clone(&followed.table), position, op }));
        }
        if followed.is_looked_up {
            let (table, touched) = (Arc::clone(&followed.table), touched(followed)?);
            events.push(StreamEvent::LookedUp(LookedUpChange { table, position, touched }));
        }
        Ok(())
    }
}

fn insert(followed: &FollowedTable, new: &Tuple<'_>) -> Result<Op, CaptureError> {
    let new = row(followed, new, None)?;
    if new.is_partial() {
        // An update that moves a row into the row filter arrives as an insert, but without its unchanged TOAST values.
        // As an update, those values are looked up.
        return updated(followed, None, new);
    }
    Ok(Op::Insert { new })
}

fn update(followed: &FollowedTable, old: Option<&Tuple<'_>>, new: &Tuple<'_>) -> Result<Op, CaptureError> {
    let new = row(followed, new, old)?;
    let old_key = old.map(|old| key_of(followed, old)).transpose()?;
    updated(followed, old_key, new)
}

fn updated(followed: &FollowedTable, old_key: Option<RowKey>, new: Row) -> Result<Op, CaptureError> {
    let mut key = Vec::with_capacity(followed.table.key.len());
    for &index in &followed.table.key {
        match new.0.get(index) {
            Some(Cell::Value(value)) if old_key.is_some() => key.push(value.clone()),
            Some(Cell::Value(_)) => {}
            Some(Cell::Unchanged) | None => return Err(incomplete_key(followed, index)),
        }
    }
    // The old tuple is also sent if other columns of the identity changed, and always if the identity is the whole row.
    let old_key = old_key.filter(|old| *old != RowKey::new(key));
    Ok(Op::Update { old_key, new })
}

fn protocol(reason: impl Into<String>) -> CaptureError {
    CaptureError::Protocol { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;
    use walvec_model::{Column, Table, TableName};

    use super::*;
    use crate::pgoutput;
    use crate::value::ValueKind;

    /// Returns an assembler with a table `s.t (id int primary key, body text)` under oid 7; oid 8 is not followed.
    fn assembler() -> Assembler {
        let column = |name: &str, type_oid| Column::new(name, "", type_oid);
        let table =
            Table { name: TableName::new("s", "t"), columns: vec![column("id", 23), column("body", 25)], key: vec![0] };
        let mut assembler = Assembler::default();
        assembler.set_relation(8, None);
        assembler.set_relation(7, Some(followed(table, true, false)));
        let begin = ReplicationMessage::Begin { commit_lsn: Lsn(100), at: std::time::UNIX_EPOCH, xid: 5 };
        assembler.apply(begin, &mut Vec::new()).unwrap();
        assembler
    }

    fn followed(table: Table, is_main: bool, is_looked_up: bool) -> FollowedTable {
        let kinds = vec![ValueKind::Integer, ValueKind::Text];
        let used = vec![true; kinds.len()];
        FollowedTable { table: Arc::new(table), kinds, used, is_main, is_looked_up, may_lack_old: is_looked_up }
    }

    fn tuple(fields: &[&str]) -> Vec<u8> {
        let mut bytes = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        for field in fields {
            match *field {
                "NULL" => bytes.push(b'n'),
                "UNCHANGED" => bytes.push(b'u'),
                text => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    fn frame(tag: &str, relation: u8, tuples: &[(&str, &[&str])]) -> Vec<u8> {
        let mut bytes = [tag.as_bytes(), &[0, 0, 0, relation]].concat();
        for (tag, fields) in tuples {
            bytes.extend(tag.as_bytes());
            bytes.extend(tuple(fields));
        }
        bytes
    }

    fn apply(assembler: &mut Assembler, bytes: &[u8]) -> Result<Vec<Change>, CaptureError> {
        let mut events = Vec::new();
        assembler.apply(pgoutput::message(bytes).unwrap(), &mut events)?;
        let change = |event| match event {
            StreamEvent::Change(change) => change,
            other => panic!("{other:?}"),
        };
        Ok(events.into_iter().map(change).collect())
    }

    fn one(bytes: &[u8]) -> Op {
        apply(&mut assembler(), bytes).unwrap().remove(0).op
    }

    fn cells(id: i64, body: &str) -> Row {
        Row(vec![Cell::Value(json!(id)), Cell::Value(json!(body))])
    }

    #[test]
    fn ordinals_count_every_row_of_the_transaction_also_unfollowed_ones() {
        let mut assembler = assembler();
        let insert = |relation| frame("I", relation, &[("N", &["1", "a"])]);
        assert_eq!(apply(&mut assembler, &insert(7)).unwrap()[0].position.ordinal, 1);
        assert_eq!(apply(&mut assembler, &insert(8)).unwrap(), []);
        let third = apply(&mut assembler, &insert(7)).unwrap();
        assert_eq!(third[0].position, Position { commit_lsn: Lsn(100), ordinal: 3 });
    }

    #[test]
    fn only_a_changed_key_has_an_old_one() {
        let old_key = |bytes: &[u8]| match one(bytes) {
            Op::Update { old_key, .. } => old_key,
            other => panic!("{other:?}"),
        };
        assert_eq!(old_key(&frame("U", 7, &[("N", &["1", "b"])])), None);
        assert_eq!(old_key(&frame("U", 7, &[("O", &["1", "a"]), ("N", &["1", "b"])])), None);
        let moved = old_key(&frame("U", 7, &[("K", &["1", "NULL"]), ("N", &["2", "b"])]));
        assert_eq!(moved, Some(RowKey::new(vec![json!(1)])));
    }

    #[test]
    fn an_untouched_value_comes_from_the_old_row_or_stays_unchanged_but_never_becomes_null() {
        let new = |bytes: &[u8]| match one(bytes) {
            Op::Update { new, .. } => new,
            other => panic!("{other:?}"),
        };
        assert_eq!(new(&frame("U", 7, &[("O", &["1", "long"]), ("N", &["1", "UNCHANGED"])])), cells(1, "long"));
        let partial = Row(vec![Cell::Value(json!(2)), Cell::Unchanged]);
        assert_eq!(new(&frame("U", 7, &[("K", &["1", "NULL"]), ("N", &["2", "UNCHANGED"])])), partial);
        assert_eq!(new(&frame("U", 7, &[("N", &["2", "UNCHANGED"])])), partial);
        assert_eq!(new(&frame("I", 7, &[("N", &["2", "UNCHANGED"])])), partial);
    }

    #[test]
    fn a_change_without_its_key_stops_the_stream() {
        for bytes in [
            frame("D", 7, &[("K", &["NULL", "NULL"])]),
            frame("U", 7, &[("N", &["UNCHANGED", "a"])]),
            frame("U", 7, &[("K", &["NULL", "NULL"]), ("N", &["1", "a"])]),
        ] {
            let error = apply(&mut assembler(), &bytes).unwrap_err();
            assert!(error.code() == "E_SCHEMA" && error.to_string().contains("s.t"), "{error}");
        }
    }

    #[test]
    fn a_looked_up_row_comes_as_it_was_and_as_it_is() {
        let touched = |is_main, bytes: &[u8]| {
            let mut assembler = assembler();
            let table = assembler.relations[&7].as_ref().unwrap().table.as_ref().clone();
            assembler.set_relation(7, Some(followed(table, is_main, true)));
            let mut events = Vec::new();
            assembler.apply(pgoutput::message(bytes).unwrap(), &mut events).unwrap();
            assert_eq!(events.len(), 1 + usize::from(is_main));
            match events.pop() {
                Some(StreamEvent::LookedUp(LookedUpChange { touched, .. })) => touched,
                other => panic!("{other:?}"),
            }
        };
        let update = frame("U", 7, &[("O", &["1", "a"]), ("N", &["2", "b"])]);
        for is_main in [true, false] {
            assert_eq!(touched(is_main, &update), Touched::Rows(vec![cells(1, "a"), cells(2, "b")]));
        }
        let untouched = frame("U", 7, &[("O", &["1", "a"]), ("N", &["2", "UNCHANGED"])]);
        assert_eq!(touched(false, &untouched), Touched::Rows(vec![cells(1, "a"), cells(2, "a")]));
        let insert = frame("I", 7, &[("N", &["1", "a"])]);
        assert_eq!(touched(false, &insert), Touched::Rows(vec![cells(1, "a")]));
        let delete = frame("D", 7, &[("O", &["1", "a"])]);
        assert_eq!(touched(false, &delete), Touched::Rows(vec![cells(1, "a")]));
        let unknown = Row(vec![Cell::Value(json!(1)), Cell::Unchanged]);
        assert_eq!(touched(false, &frame("D", 7, &[("K", &["1", "NULL"])])), Touched::Rows(vec![unknown]));
        // As the server sends it for a partition with another identity than its table: the old row's values are not known.
        for bytes in [
            frame("D", 7, &[("O", &["1", "NULL"])]),
            frame("U", 7, &[("O", &["1", "NULL"]), ("N", &["2", "b"])]),
            frame("U", 7, &[("N", &["1", "b"])]),
        ] {
            assert_eq!(touched(false, &bytes), Touched::All);
        }
        assert_eq!(touched(false, b"T\0\0\0\x01\0\0\0\0\x07"), Touched::All);
    }

    #[test]
    fn a_partition_is_named_before_its_first_row_and_a_table_of_its_own_is_none() {
        let mut assembler = assembler();
        let mut leaves = |described: &[u32], bytes: &[u8]| {
            described.iter().for_each(|oid| assembler.set_relation(*oid, None));
            let mut events = Vec::new();
            assembler.apply(pgoutput::message(bytes).unwrap(), &mut events).unwrap();
            let leaf = |event: &StreamEvent| match event {
                StreamEvent::Partition { leaf, position, .. } => Some((*leaf, position.ordinal)),
                _ => None,
            };
            events.iter().filter_map(leaf).collect::<Vec<_>>()
        };
        let insert = |relation| frame("I", relation, &[("N", &["1", "a"])]);
        assert_eq!(leaves(&[9], &insert(7)), [(9, 1)]);
        assert_eq!(leaves(&[], &insert(7)), [], "it is known by now");
        assert_eq!(leaves(&[8], &insert(8)), []);
        assert_eq!(leaves(&[], &insert(7)), []);
        assert_eq!(leaves(&[8], b"T\0\0\0\x02\0\0\0\0\x07\0\0\0\x08"), []);
        assert_eq!(leaves(&[], &insert(7)), [], "two tables that were emptied together");
    }

    #[test]
    fn truncate_names_every_followed_table() {
        let bytes = b"T\0\0\0\x02\0\0\0\0\x07\0\0\0\x08";
        let changes = apply(&mut assembler(), bytes).unwrap();
        assert_eq!(changes.iter().map(|change| &change.op).collect::<Vec<_>>(), [&Op::Truncate]);
    }

    #[test]
    fn what_the_protocol_forbids_is_an_error_and_not_a_guess() {
        let insert = frame("I", 7, &[("N", &["1", "a"])]);
        let mut outside = Assembler::default();
        assert_eq!(apply(&mut outside, &insert).unwrap_err().code(), "E_PROTOCOL");
        assert_eq!(apply(&mut assembler(), &frame("I", 9, &[("N", &["1"])])).unwrap_err().code(), "E_PROTOCOL");
        assert_eq!(apply(&mut assembler(), &frame("I", 7, &[("N", &["1"])])).unwrap_err().code(), "E_PROTOCOL");
        let commit = ReplicationMessage::Commit { end_lsn: Lsn(1), at: SystemTime::UNIX_EPOCH };
        assert!(Assembler::default().apply(commit, &mut Vec::new()).is_err());
    }
}
