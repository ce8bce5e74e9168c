//! Writes changes as records with wal2json's value.

use std::collections::HashMap;
use std::sync::Arc;

use walvec_model::{Change, Column, Op, Row, RowKey, Table, TableName, Value};

use super::super::{ChangeContext, SnapshotEnd, control, header, json, stamp};
use super::values;
use crate::Outgoing;

/// Writes changes of any table.
#[derive(Debug, Default)]
pub(in crate::wire) struct ReferenceEncoder {
    prepared: HashMap<TableName, ReferenceParts>,
}

/// The parts that are written once for each table.
#[derive(Debug)]
struct ReferenceParts {
    table: Arc<Table>,
    /// `,"schema":..,"table":..`
    names: Vec<u8>,
    /// The names of the key columns, as a JSON list.
    key: Vec<u8>,
}

impl ReferenceParts {
    fn new(table: &Arc<Table>) -> Self {
        let mut names = br#","schema":"#.to_vec();
        json::value(&mut names, &table.name.schema);
        json::raw(&mut names, r#","table":"#);
        json::value(&mut names, &table.name.name);
        let key: Vec<_> = key_columns(table).map(|column| column.name.as_str()).collect();
        Self { table: Arc::clone(table), names, key: json::bytes(&key) }
    }
}

impl ReferenceEncoder {
    pub(in crate::wire) fn change(&mut self, change: &Change, context: &ChangeContext) -> Outgoing {
        let table = &change.table;
        let prepared = self.prepared.entry(table.name.clone()).or_insert_with(|| ReferenceParts::new(table));
        if !Arc::ptr_eq(&prepared.table, table) && prepared.table != *table {
            *prepared = ReferenceParts::new(table);
        }
        let mut headers =
            stamp::headers(change.position, context.generation, (!context.snapshot).then_some(context.committed_at));
        let mut value = Vec::with_capacity(512);
        let mut start = |kind: &str| {
            json::raw(&mut value, r#"{"kind":""#);
            json::raw(&mut value, kind);
            value.push(b'"');
            value.extend_from_slice(&prepared.names);
        };
        match &change.op {
            Op::Insert { new } => {
                start("insert");
                row(&mut value, table, new);
                // wal2json does not write which columns are the key of a new row.
                headers.push((header::KEY, prepared.key.clone()));
            }
            Op::Update { old_key, new } => {
                start("update");
                row(&mut value, table, new);
                let key = old_key.clone().or_else(|| change.key()).unwrap_or_else(|| RowKey::new(Vec::new()));
                old_keys(&mut value, table, &key);
                if new.is_partial() {
                    headers.push((header::NOT_SENT, json::bytes(&not_sent(table, new))));
                    headers.extend(context.xid.map(|xid| (header::XID, xid.to_string().into_bytes())));
                }
            }
            Op::Delete { key } => {
                start("delete");
                old_keys(&mut value, table, key);
            }
            Op::Truncate => start("truncate"),
        }
        value.push(b'}');
        let everywhere = change.op == Op::Truncate;
        Outgoing { key: Some(table.name.to_string().into_bytes()), value: Some(value), headers, everywhere }
    }
}

/// Returns the record that ends a snapshot. wal2json's readers see a message about a table that is not theirs.
pub(in crate::wire) fn snapshot_end(end: &SnapshotEnd) -> Outgoing {
    let mut value = br#"{"kind":"message","table":"","walvec":"#.to_vec();
    control::write_end(&mut value, end);
    value.push(b'}');
    let headers = vec![(header::CONTROL, header::SNAPSHOT_END.into())];
    Outgoing { value: Some(value), headers, ..Outgoing::default() }
}

fn key_columns(table: &Table) -> impl Iterator<Item = &Column> + Clone {
    table.key.iter().filter_map(|&index| table.columns.get(index))
}

/// Returns the names of the columns that were not sent. wal2json silently leaves them out.
fn not_sent<'a>(table: &'a Table, row: &'a Row) -> Vec<&'a str> {
    let columns = table.columns.iter().zip(&row.0);
    columns.filter(|(_, cell)| cell.value().is_none()).map(|(column, _)| column.name.as_str()).collect()
}

/// Appends the columns that were sent.
fn row(out: &mut Vec<u8>, table: &Table, row: &Row) {
    let sent = || table.columns.iter().zip(&row.0).filter_map(|(column, cell)| Some((column, cell.value()?)));
    lists(out, ["columnnames", "columntypes", "columnvalues"], sent);
}

fn old_keys(out: &mut Vec<u8>, table: &Table, key: &RowKey) {
    json::raw(out, r#","oldkeys":"#);
    let start = out.len();
    lists(out, ["keynames", "keytypes", "keyvalues"], || key_columns(table).zip(key.values()));
    // The list of fields begins with a comma. The first fields of an object begin with its brace instead.
    out[start] = b'{';
    out.push(b'}');
}

/// Appends three lists of the same length: names, types, values.
fn lists<'a, I>(out: &mut Vec<u8>, names: [&str; 3], columns: impl Fn() -> I)
where
    I: Iterator<Item = (&'a Column, &'a Value)>,
{
    let mut list = |name: &str, write: &dyn Fn(&mut Vec<u8>, &Column, &Value)| {
        json::raw(out, ",\"");
        json::raw(out, name);
        json::raw(out, "\":[");
        for (index, (column, value)) in columns().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write(out, column, value);
        }
        out.push(b']');
    };
    list(names[0], &|out, column, _| json::value(out, &column.name));
    list(names[1], &|out, column, _| json::value(out, &column.type_name));
    list(names[2], &|out, column, value| values::write(out, &column.type_name, value));
}
