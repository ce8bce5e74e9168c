//! Reads changes from records with wal2json's value.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use walvec_model::{Cell, Change, Lsn, Op, Row, RowKey, Table, TableName};

use super::super::control::Control;
use super::super::shapes::{SeenTables, ShownColumn};
use super::super::{Arrived, Event, Malformed, header, json, stamp};
use super::values;
use crate::Record;

/// The key column of the tutorial's tables.
const ID: &str = "id";

/// Reads changes of any table.
#[derive(Debug)]
pub(in crate::wire) struct ReferenceDecoder {
    /// For each table, the columns that are needed. Those that an update leaves out were not sent; another program's
    /// record does not list them.
    needed: HashMap<TableName, Vec<String>>,
    shapes: SeenTables,
    order: stamp::TopicOrder,
}

/// Columns of a change with their values.
struct NamedValues<'a> {
    names: Vec<&'a str>,
    types: Vec<&'a str>,
    values: Vec<Value>,
}

impl ReferenceDecoder {
    pub(in crate::wire) fn new(needed: HashMap<TableName, Vec<String>>) -> Self {
        Self { needed, shapes: SeenTables::default(), order: stamp::TopicOrder::default() }
    }

    pub(in crate::wire) fn decode(&mut self, record: &Record) -> Result<Event, Malformed> {
        let Some(bytes) = &record.value else { return Ok(Event::Nothing) };
        let value = json::parse(bytes, "value")?;
        let envelope = json::EnvelopeObject::of(&value, "")?;
        let kind = envelope.text("kind")?;
        if kind == "message" {
            let end = Control::read(&envelope)?.and_then(Control::end);
            return Ok(end.map_or(Event::Nothing, Event::SnapshotEnd));
        }
        if !matches!(kind, "insert" | "update" | "delete" | "truncate") {
            let known = "insert, update, delete, truncate and message";
            return Err(Malformed::op(format!("`kind` is {kind:?}, which is none of {known}")));
        }
        let name = TableName::new(envelope.text("schema")?, envelope.text("table")?);
        let (table, op) = match kind {
            "truncate" => (self.shapes.table(&name, &[], &[]), Op::Truncate),
            "delete" => {
                let key = NamedValues::old_keys(&envelope, record)?;
                let indexes: Vec<_> = (0..key.names.len()).collect();
                (self.shapes.table(&name, &key.shown(), &indexes), Op::Delete { key: RowKey::new(key.values) })
            }
            _ => self.row(&name, &envelope, kind == "update", record)?,
        };
        let (stamped, committed_at) = (stamp::position(record)?, stamp::committed_at(record)?);
        let in_topic = || self.order.position(record, committed_at, stamp::ordinal(record));
        let position = stamped.unwrap_or_else(in_topic);
        Ok(Event::Change(Arrived {
            change: Change { table, position, op },
            lsn: stamped.map_or(Lsn::ZERO, |position| position.commit_lsn),
            generation: stamp::generation(record)?,
            committed_at,
            xid: stamp::read(record, header::XID)?,
        }))
    }

    fn row(
        &mut self,
        name: &TableName,
        envelope: &json::EnvelopeObject<'_>,
        is_update: bool,
        record: &Record,
    ) -> Result<(Arc<Table>, Op), Malformed> {
        let row = NamedValues::read(envelope, ["columnnames", "columntypes", "columnvalues"])?;
        let old = match envelope.get("oldkeys") {
            Some(_) if is_update => Some(NamedValues::old_keys(envelope, record)?),
            _ => None,
        };
        let key = match &old {
            Some(old) => row.indexes(&old.names)?,
            None => row.key_of_insert(record)?,
        };
        let new_key = RowKey::new(key.iter().filter_map(|&index| row.values.get(index)).cloned().collect());
        let old_key = old.map(|old| RowKey::new(old.values)).filter(|old| *old != new_key);
        let not_sent = if is_update { names_in(record, header::NOT_SENT)?.unwrap_or_default() } else { Vec::new() };
        let needed = self.needed.get(name).filter(|_| is_update).into_iter().flatten();
        let mut columns = row.shown();
        for name in not_sent.iter().chain(needed) {
            if !columns.iter().any(|column| column.name == name) {
                columns.push(ShownColumn::named(name));
            }
        }
        let table = self.shapes.table(name, &columns, &key);
        let mut cells: Vec<_> = row.values.into_iter().map(Cell::Value).collect();
        cells.resize(columns.len(), Cell::Unchanged);
        let new = Row(cells);
        Ok((table, if is_update { Op::Update { old_key, new } } else { Op::Insert { new } }))
    }
}

impl<'a> NamedValues<'a> {
    /// Reads the key that the row had. With `REPLICA IDENTITY FULL`, wal2json writes all columns of the old row there.
    /// The key is then `id`, as for new rows.
    fn old_keys(envelope: &json::EnvelopeObject<'a>, record: &Record) -> Result<Self, Malformed> {
        let key = Self::read(&envelope.object("oldkeys")?, ["keynames", "keytypes", "keyvalues"])?;
        if key.names.is_empty() {
            return Err(Malformed::record("`oldkeys.keynames` is empty, so it cannot be told which row it is about"));
        }
        if key.names.len() == 1 || stamp::position(record)?.is_some() {
            return Ok(key);
        }
        match key.names.iter().position(|&name| name == ID) {
            Some(index) => Ok(key.only(index)),
            None => Err(Malformed::record(format!(
                "`oldkeys` names several columns ({}) and none of them is `{ID}`, so it cannot be told which row it is about",
                key.names.join(", ")
            ))),
        }
    }

    fn only(mut self, index: usize) -> Self {
        Self {
            names: vec![self.names[index]],
            types: vec![self.types[index]],
            values: vec![self.values.swap_remove(index)],
        }
    }

    /// Reads three lists of the same length: names, types, values.
    fn read(fields: &json::EnvelopeObject<'a>, lists: [&str; 3]) -> Result<Self, Malformed> {
        let texts =
            |name| fields.typed(name, "a list of texts", |list| list.as_array()?.iter().map(Value::as_str).collect());
        let (names, types): (Vec<_>, Vec<_>) = (texts(lists[0])?, texts(lists[1])?);
        let values = fields.list(lists[2])?;
        if names.len() != types.len() || names.len() != values.len() {
            let [names, types, values] = lists;
            return Err(Malformed::record(format!("`{names}`, `{types}` and `{values}` have different lengths")));
        }
        let values = types.iter().zip(values).map(|(kind, value)| values::read(kind, value.clone())).collect();
        Ok(Self { names, types, values })
    }

    fn shown(&self) -> Vec<ShownColumn<'a>> {
        let column = |(&name, &type_name)| ShownColumn { name, type_name, type_oid: values::oid(type_name), ty: None };
        self.names.iter().zip(&self.types).map(column).collect()
    }

    /// Returns the indexes of the columns called `names`.
    fn indexes(&self, names: &[&str]) -> Result<Vec<usize>, Malformed> {
        let absent = |name: &str| Malformed::record(format!("the key column \"{name}\" is not among `columnnames`"));
        let place = |name: &&str| self.names.iter().position(|found| found == name).ok_or_else(|| absent(name));
        names.iter().map(place).collect()
    }

    /// Returns the key columns of a new row, from walvec's header if there is one. wal2json does not write them: then
    /// `id` is the key, as in the tutorial's tables, or else the first column, where keys usually are.
    fn key_of_insert(&self, record: &Record) -> Result<Vec<usize>, Malformed> {
        if let Some(names) = names_in(record, header::KEY)? {
            if names.is_empty() {
                return Err(Malformed::record(format!("the header `{}` is empty", header::KEY)));
            }
            return self.indexes(&names.iter().map(String::as_str).collect::<Vec<_>>());
        }
        match self.names.iter().position(|&name| name == ID) {
            Some(index) => Ok(vec![index]),
            None if self.names.is_empty() => Err(Malformed::record("`columnnames` is empty")),
            None => Ok(vec![0]),
        }
    }
}

/// Returns the names in one of walvec's headers, if the record has it.
fn names_in(record: &Record, name: &str) -> Result<Option<Vec<String>>, Malformed> {
    let malformed = |_| Malformed::record(format!("the header `{name}` is not a list of texts"));
    record.header(name).map(serde_json::from_str).transpose().map_err(malformed)
}
