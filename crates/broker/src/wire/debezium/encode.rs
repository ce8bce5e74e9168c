//! Writes changes as Debezium's records.
//!
//! A row costs little more than its values: what is the same for all rows of a table is written once and copied.

use std::sync::Arc;
use std::{collections::HashMap, io::Write};

use walvec_model::{Cell, Change, Lsn, Op, Position, Row, RowKey, Table, TableName, Type, Value};

use super::super::{ChangeContext, SnapshotEnd, VERSION, control, header, json, stamp};
use super::UNAVAILABLE;
use crate::Outgoing;

/// Writes changes of any table.
#[derive(Debug)]
pub(in crate::wire) struct DebeziumEncoder {
    prefix: String,
    database: String,
    /// The index into `prepared` of each table.
    indexes: HashMap<TableName, usize>,
    prepared: Vec<DebeziumParts>,
}

impl DebeziumEncoder {
    pub(in crate::wire) fn new(prefix: &str, database: &str) -> Self {
        Self { prefix: prefix.to_owned(), database: database.to_owned(), indexes: HashMap::new(), prepared: Vec::new() }
    }

    pub(in crate::wire) fn change(&mut self, change: &Change, context: &ChangeContext, out: &mut Vec<Outgoing>) {
        let index = self.prepare(&change.table);
        let table = &mut self.prepared[index];
        let moment = ChangeParts { position: change.position, context, nth: table.nth(change.position) };
        match &change.op {
            Op::Insert { new } => {
                let op = if context.snapshot { "r" } else { "c" };
                out.push(keyed(table.key_of_row(new), table.upsert(op, new, &moment)));
            }
            Op::Update { old_key: None, new } => {
                out.push(keyed(table.key_of_row(new), table.upsert("u", new, &moment)));
            }
            Op::Update { old_key: Some(old), new } => {
                // The row's key is the record's key, so a row with a changed key is a deleted row and a new one. The
                // headers let consumers connect the two again.
                let (old_key, new_key) = (table.key(old), table.key_of_row(new));
                table.delete(old, &moment, vec![("__debezium.newkey", new_key.clone())], out);
                let headers = vec![("__debezium.oldkey", old_key)];
                out.push(Outgoing { headers, ..keyed(new_key, table.upsert("c", new, &moment)) });
            }
            Op::Delete { key } => table.delete(key, &moment, Vec::new(), out),
            Op::Truncate => {
                let mut value = Vec::with_capacity(512);
                json::raw(&mut value, r#"{"before":null,"after":null"#);
                table.finish("t", &mut value, &moment);
                out.push(Outgoing { value: Some(value), everywhere: true, ..Outgoing::default() });
            }
        }
    }

    pub(in crate::wire) fn snapshot_end(&self, end: &SnapshotEnd) -> Outgoing {
        let source = Constants::new(&self.prefix, &self.database, &end.table);
        let mut value = br#"{"op":"m","#.to_vec();
        value.extend_from_slice(&source.head);
        json::raw(&mut value, r#","snapshot":"false""#);
        value.extend_from_slice(&source.middle);
        sequence(&mut value, end.position.commit_lsn);
        value.extend_from_slice(&source.names);
        let (lsn, position, generation) = (end.position.commit_lsn.0, end.position, end.generation.0);
        let _ = write!(
            value,
            r#","txId":null,"lsn":{lsn},"xmin":null,"walvec":{{"v":{VERSION},"position":"{position}","generation":{generation},"end":"#
        );
        control::write_end_part(&mut value, end);
        json::raw(&mut value, "}}}");
        let headers = vec![(header::CONTROL, header::SNAPSHOT_END.into())];
        Outgoing { value: Some(value), headers, ..Outgoing::default() }
    }

    /// Returns the index of the parts prepared for `table`, in its current shape.
    fn prepare(&mut self, table: &Arc<Table>) -> usize {
        if let Some(&index) = self.indexes.get(&table.name) {
            let known = &self.prepared[index].table;
            if !Arc::ptr_eq(known, table) && known != table {
                self.prepared[index] = DebeziumParts::new(&self.prefix, &self.database, table);
            }
            return index;
        }
        self.prepared.push(DebeziumParts::new(&self.prefix, &self.database, table));
        self.indexes.insert(table.name.clone(), self.prepared.len() - 1);
        self.prepared.len() - 1
    }
}

fn keyed(key: Vec<u8>, value: Vec<u8>) -> Outgoing {
    Outgoing { key: Some(key), value: Some(value), ..Outgoing::default() }
}

/// The parts that are the same in every `source` of a table.
#[derive(Debug)]
struct Constants {
    /// The part before the times.
    head: Vec<u8>,
    /// The part between `snapshot` and the LSN inside `sequence`.
    middle: Vec<u8>,
    /// The part after `sequence`.
    names: Vec<u8>,
}

impl Constants {
    fn new(prefix: &str, database: &str, table: &TableName) -> Self {
        let mut head = br#""source":{"version":"walvec-"#.to_vec();
        json::raw(&mut head, concat!(env!("CARGO_PKG_VERSION"), r#"","connector":"postgresql","name":"#));
        json::value(&mut head, prefix);
        let mut middle = br#","db":"#.to_vec();
        json::value(&mut middle, database);
        let mut names = br#","schema":"#.to_vec();
        json::value(&mut names, &table.schema);
        json::raw(&mut names, r#","table":"#);
        json::value(&mut names, &table.name);
        Self { head, middle, names }
    }
}

/// Appends `sequence`: a text that holds a list of texts, as in Debezium.
fn sequence(out: &mut Vec<u8>, lsn: Lsn) {
    let _ = write!(out, r#","sequence":"[null,\"{}\"]""#, lsn.0);
}

/// The parts that are written once for each table.
#[derive(Debug)]
struct DebeziumParts {
    table: Arc<Table>,
    source: Constants,
    /// `"name":` for each column.
    columns: Vec<Vec<u8>>,
    /// The type oids of the key columns, as a JSON list.
    key_types: Vec<u8>,
    /// The types that values do not show, as a member of walvec's block; empty if there are none.
    types: Vec<u8>,
    /// The transaction that is being written, and how many of its changes of this table were written so far.
    transaction: (Lsn, u64),
}

/// Returns the columns, with their types, whose meaning is not visible in their values.
fn types(table: &Table) -> Vec<u8> {
    let is_hidden =
        |ty: &Type| matches!(ty, Type::Numeric { .. } | Type::Uuid | Type::Date | Type::Timestamp | Type::Boolean);
    let hidden = table.columns.iter().filter(|column| is_hidden(column.ty.scalar()));
    let types: serde_json::Map<String, Value> =
        hidden.map(|column| (column.name.clone(), column.ty.as_sql().into())).collect();
    let mut out = Vec::new();
    if !types.is_empty() {
        json::raw(&mut out, r#","types":"#);
        json::value(&mut out, &types);
    }
    out
}

/// The parts of a record that differ from change to change.
struct ChangeParts<'a> {
    position: Position,
    context: &'a ChangeContext,
    /// The change's number among the changes of this table in its transaction.
    nth: u64,
}

impl DebeziumParts {
    fn new(prefix: &str, database: &str, table: &Arc<Table>) -> Self {
        let name = |name: &str| {
            let mut bytes = json::bytes(name);
            bytes.push(b':');
            bytes
        };
        let key_types: Vec<_> =
            table.key.iter().filter_map(|&index| table.columns.get(index)).map(|column| column.type_oid).collect();
        Self {
            table: Arc::clone(table),
            source: Constants::new(prefix, database, &table.name),
            columns: table.columns.iter().map(|column| name(&column.name)).collect(),
            key_types: json::bytes(&key_types),
            types: types(table),
            transaction: (Lsn::ZERO, 0),
        }
    }

    fn nth(&mut self, position: Position) -> u64 {
        if self.transaction.0 != position.commit_lsn {
            self.transaction = (position.commit_lsn, 0);
        }
        self.transaction.1 += 1;
        self.transaction.1
    }

    /// Returns the record key: an object of the key columns, in key order.
    fn key(&self, key: &RowKey) -> Vec<u8> {
        self.key_object(key.values().iter())
    }

    fn key_of_row(&self, row: &Row) -> Vec<u8> {
        let value = |&index: &usize| row.0.get(index).and_then(Cell::value).unwrap_or(&Value::Null);
        self.key_object(self.table.key.iter().map(value))
    }

    fn key_object<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        let names = self.table.key.iter().filter_map(|&index| self.columns.get(index));
        object(&mut out, names.zip(values), json::value);
        out
    }

    /// Returns the value of a record that shows a row.
    fn upsert(&self, op: &str, row: &Row, moment: &ChangeParts<'_>) -> Vec<u8> {
        let mut value = Vec::with_capacity(640 + row.weight() + 24 * row.0.len());
        json::raw(&mut value, r#"{"before":null,"after":"#);
        object(&mut value, self.columns.iter().zip(&row.0), |out, cell| match cell {
            Cell::Value(value) => json::value(out, value),
            Cell::Unchanged => json::value(out, UNAVAILABLE),
        });
        self.finish(op, &mut value, moment);
        value
    }

    /// Appends the two records of a deleted row: the delete, and the tombstone that lets a compacted topic forget the key.
    fn delete(
        &self,
        key: &RowKey,
        moment: &ChangeParts<'_>,
        headers: Vec<(&'static str, Vec<u8>)>,
        out: &mut Vec<Outgoing>,
    ) {
        let key = self.key(key);
        let mut value = Vec::with_capacity(640);
        json::raw(&mut value, r#"{"before":"#);
        value.extend_from_slice(&key);
        json::raw(&mut value, r#","after":null"#);
        self.finish("d", &mut value, moment);
        out.push(Outgoing { headers, ..keyed(key.clone(), value) });
        // After compaction only the tombstone is left. Without its position it would remove a newer row when it is read again.
        let mut headers = stamp::headers(moment.position, moment.context.generation, None);
        headers.push((header::KEY_TYPES, self.key_types.clone()));
        out.push(Outgoing { key: Some(key), headers, ..Outgoing::default() });
    }

    /// Appends everything after `before` and `after`.
    ///
    /// Debezium's outer times are those at which it processed the change. This is a pure function without a clock, so
    /// they repeat the commit's time.
    fn finish(&self, op: &str, out: &mut Vec<u8>, moment: &ChangeParts<'_>) {
        let ChangeParts { position, context, nth } = moment;
        let lsn = position.commit_lsn.0;
        out.push(b',');
        out.extend_from_slice(&self.source.head);
        let us = json::micros(context.committed_at);
        let (ms, ns) = (us.div_euclid(1000), i128::from(us) * 1000);
        let _ = write!(out, r#","ts_ms":{ms},"ts_us":{us},"ts_ns":{ns},"snapshot":"{}""#, context.snapshot);
        out.extend_from_slice(&self.source.middle);
        sequence(out, position.commit_lsn);
        out.extend_from_slice(&self.source.names);
        json::raw(out, r#","txId":"#);
        match context.xid {
            Some(xid) => json::display(out, xid),
            None => json::raw(out, "null"),
        }
        let generation = context.generation.0;
        let _ = write!(
            out,
            r#","lsn":{lsn},"xmin":null,"walvec":{{"v":{VERSION},"position":"{position}","generation":{generation},"key_types":"#
        );
        out.extend_from_slice(&self.key_types);
        out.extend_from_slice(&self.types);
        let _ = write!(out, r#"}}}},"op":"{op}","ts_ms":{ms},"ts_us":{us},"ts_ns":{ns},"transaction":"#);
        match context.xid {
            Some(xid) if !context.snapshot => {
                let order = position.ordinal;
                let _ = write!(out, r#"{{"id":"{xid}:{lsn}","total_order":{order},"data_collection_order":{nth}}}}}"#);
            }
            _ => json::raw(out, "null}"),
        }
    }
}

/// Appends an object, whose field names are already encoded.
fn object<'a, T: 'a>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a Vec<u8>, T)>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    out.push(b'{');
    for (index, (name, value)) in fields.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        write(out, value);
    }
    out.push(b'}');
}
