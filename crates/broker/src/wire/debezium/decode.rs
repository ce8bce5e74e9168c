//! Reads changes from Debezium's records.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use walvec_model::{Cell, Change, Lsn, Op, Row, Table, TableName, Type};

use super::super::shapes::{SeenTables, ShownColumn};
use super::super::{Arrived, Event, Malformed, UNPLACED, json, stamp};
use super::key::{self, RecordKey};
use super::schema::Schema;
use super::source::{self, SourceBlock};
use super::{UNAVAILABLE, UNAVAILABLE_BYTES};
use crate::Record;

/// Reads changes of any table.
#[derive(Debug, Default)]
pub(in crate::wire) struct DebeziumDecoder {
    shapes: SeenTables,
    order: stamp::TopicOrder,
}

/// The meaning of an `op`.
#[derive(Clone, Copy, PartialEq)]
enum OpKind {
    /// A row that a snapshot read. It is always complete.
    Read,
    Create,
    Update,
    Delete,
    Truncate,
    Message,
}

impl OpKind {
    fn of(op: &str) -> Result<Self, Malformed> {
        Ok(match op {
            "r" => Self::Read,
            "c" => Self::Create,
            "u" => Self::Update,
            "d" => Self::Delete,
            "t" => Self::Truncate,
            "m" => Self::Message,
            unknown => return Err(Malformed::op(format!("`op` is {unknown:?}, which is none of c, r, u, d, t and m"))),
        })
    }
}

impl DebeziumDecoder {
    pub(in crate::wire) fn decode(&mut self, record: &Record, topic: Option<&TableName>) -> Result<Event, Malformed> {
        let Some(bytes) = &record.value else { return self.tombstone(record, topic) };
        let (mut payload, schema) = Schema::unwrap(json::parse(bytes, "value")?);
        if payload.is_null() {
            return self.tombstone(record, topic);
        }
        let envelope = json::EnvelopeObject::of(&payload, "")?;
        if envelope.get("op").is_none() && is_no_row(&envelope) {
            return Ok(Event::Nothing);
        }
        let kind = OpKind::of(envelope.text("op")?)?;
        if kind == OpKind::Message {
            return Ok(source::snapshot_end(&envelope)?.map_or(Event::Nothing, Event::SnapshotEnd));
        }
        let source = SourceBlock::read(&envelope)?;
        let in_topic = || self.order.position(record, source.committed_at, source.lsn.0);
        let position = source.position.unwrap_or_else(in_topic);
        let mut take = |name: &str| payload.get_mut(name).map(Value::take).filter(|value| !value.is_null());
        let schema = Schema::of(schema.as_ref());
        let (table, op) = match kind {
            OpKind::Truncate => (self.shapes.table(&source.table, &[], &[]), Op::Truncate),
            OpKind::Delete => self.delete(&source, take("before").as_ref(), schema.field("before"), record)?,
            _ => {
                let key = RecordKey::read(record)?.ok_or_else(no_key)?.with_types(source.key_types.as_deref());
                let after = fields(take("after"), "after")?;
                let (table, new) = self.row(&source, kind, (after, schema.field("after")), key)?;
                let op = if kind == OpKind::Update { Op::Update { old_key: None, new } } else { Op::Insert { new } };
                (table, op)
            }
        };
        let lsn = source.position.map_or(source.lsn, |position| position.commit_lsn);
        let change = Change { table, position, op };
        // The commit time of a row of a snapshot is not known.
        let committed_at = source.committed_at.filter(|_| kind != OpKind::Read);
        Ok(Event::Change(Arrived { change, lsn, generation: source.generation, committed_at, xid: source.xid }))
    }

    fn row(
        &mut self,
        source: &SourceBlock,
        kind: OpKind,
        (after, schema): (Map<String, Value>, Schema<'_>),
        key: RecordKey,
    ) -> Result<(Arc<Table>, Row), Malformed> {
        let key = key.with_known_types(&source.table, &self.shapes);
        let by_schema = |name: &String| Some((name.clone(), schema.field(name).ty()?));
        let types: HashMap<String, Type> = after.keys().filter_map(by_schema).chain(source.types.clone()).collect();
        let shown = |name| ShownColumn { ty: types.get(name), ..ShownColumn::named(name) };
        let mut columns: Vec<_> = after.keys().map(|name| shown(name.as_str())).collect();
        let indexes = key_among(&key, &mut columns).ok_or_else(|| not_among(&key, &after))?;
        let table = self.shapes.table(&source.table, &columns, &indexes);
        let cell = |(index, (name, value)): (usize, (String, Value))| {
            // A key is always sent, and a snapshot leaves nothing out. In both the text is a value, not the placeholder.
            if kind != OpKind::Read && is_unavailable(&value, source.ours) && !indexes.contains(&index) {
                return Cell::Unchanged;
            }
            let schema = schema.field(&name);
            Cell::Value(if indexes.contains(&index) { schema.convert_key(value) } else { schema.convert(value) })
        };
        Ok((table, Row(after.into_iter().enumerate().map(cell).collect())))
    }

    fn delete(
        &mut self,
        source: &SourceBlock,
        before: Option<&Value>,
        schema: Schema<'_>,
        record: &Record,
    ) -> Result<(Arc<Table>, Op), Malformed> {
        let types = source.key_types.as_deref();
        let key = match RecordKey::read(record)? {
            Some(key) => key.with_types(types),
            None => RecordKey::from_before(before, schema, types).ok_or_else(no_key)?,
        };
        let key = key.with_known_types(&source.table, &self.shapes).without_guesses();
        let mut columns: Vec<_> =
            before.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| ShownColumn::named(name)).collect();
        // A program in between may have removed fields from `before`. The key still identifies the row.
        let table = match key_among(&key, &mut columns) {
            Some(indexes) => self.shapes.table(&source.table, &columns, &indexes),
            None => self.key_table(&source.table, &key),
        };
        Ok((table, Op::Delete { key: key.row_key() }))
    }

    /// Reads a null value: the key has no row, as of the position in the header. A tombstone of another program has no such
    /// header. It follows a delete that says the same, or is left alone after compaction if no newer record has its key.
    fn tombstone(&mut self, record: &Record, topic: Option<&TableName>) -> Result<Event, Malformed> {
        let (Some(name), Some(key)) = (topic, RecordKey::read(record)?) else { return Ok(Event::Nothing) };
        let (position, generation) = (stamp::position(record)?.unwrap_or(UNPLACED), stamp::generation(record)?);
        let key = key.with_types(key::types_in_header(record).as_deref());
        let key = key.with_known_types(name, &self.shapes).without_guesses();
        let table = self.key_table(name, &key);
        let lsn = if position == UNPLACED { Lsn::ZERO } else { position.commit_lsn };
        let change = Change { table, position, op: Op::Delete { key: key.row_key() } };
        Ok(Event::Change(Arrived { change, lsn, generation, committed_at: None, xid: None }))
    }

    fn key_table(&mut self, name: &TableName, key: &RecordKey) -> Arc<Table> {
        let indexes: Vec<_> = (0..key.columns.len()).collect();
        self.shapes.table(name, &key.shown(), &indexes)
    }
}

/// Returns where the key's columns are among `columns`, which take over the key's types; `None` if one is missing.
fn key_among(key: &RecordKey, columns: &mut [ShownColumn<'_>]) -> Option<Vec<usize>> {
    let place = |column: &key::KeyColumn| {
        let index = columns.iter().position(|shown| shown.name == column.name)?;
        columns[index].type_oid = column.oid();
        Some(index)
    };
    key.columns.iter().map(place).collect()
}

fn no_key() -> Malformed {
    Malformed::record(
        "the record has no key, so it cannot be told which row it is about; the table needs a primary key",
    )
}

fn not_among(key: &RecordKey, after: &Map<String, Value>) -> Malformed {
    let missing = key.names().find(|name| !after.contains_key(*name)).unwrap_or_default();
    Malformed::record(format!("the key column \"{missing}\" is not a field of `after`"))
}

fn fields(value: Option<Value>, name: &str) -> Result<Map<String, Value>, Malformed> {
    match value {
        Some(Value::Object(fields)) => Ok(fields),
        Some(other) => Err(Malformed::record(format!("`{name}` is {}, not an object", json::kind(&other)))),
        None => Err(Malformed::record(format!("`{name}` is missing"))),
    }
}

/// Returns whether an object without `op` is another kind of record that Debezium writes: a heartbeat, the begin or end
/// of a transaction, or a change of a schema.
fn is_no_row(envelope: &json::EnvelopeObject<'_>) -> bool {
    let border = matches!(envelope.get("status").and_then(Value::as_str), Some("BEGIN" | "END"));
    let heartbeat = envelope.get("ts_ms").is_some() && envelope.names().all(|name| name.starts_with("ts_"));
    border || heartbeat || envelope.get("ddl").is_some() || envelope.get("tableChanges").is_some()
}

/// Returns whether a value is the placeholder of a value that was not sent. walvec always writes the text; Debezium has
/// a form for every type.
fn is_unavailable(value: &Value, ours: bool) -> bool {
    match value {
        Value::String(text) => text == UNAVAILABLE || (!ours && text == UNAVAILABLE_BYTES),
        Value::Array(items) if !ours => {
            let bytes = || items.iter().map(Value::as_u64).eq(UNAVAILABLE.bytes().map(|byte| Some(u64::from(byte))));
            matches!(items.as_slice(), [Value::String(text)] if text == UNAVAILABLE) || bytes()
        }
        Value::Object(fields) if !ours => fields.len() == 1 && fields.contains_key(UNAVAILABLE),
        _ => false,
    }
}
