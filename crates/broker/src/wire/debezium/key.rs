//! Finds out which row a record is about.

use serde_json::Value;
use walvec_model::{RowKey, TableName};

use super::super::{Malformed, header, json, shapes};
use super::schema::Schema;
use crate::Record;

/// The key columns of a record, in key order.
#[derive(Debug)]
pub(super) struct RecordKey {
    pub(super) columns: Vec<KeyColumn>,
}

/// One key column.
#[derive(Debug)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    value: Value,
    /// The type oid, if the record contains it.
    type_oid: Option<u32>,
}

impl RecordKey {
    /// Reads the record's key; `None` if it has none.
    pub(super) fn read(record: &Record) -> Result<Option<Self>, Malformed> {
        let Some(bytes) = record.key.as_deref().filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let (payload, schema) = Schema::unwrap(json::parse(bytes, "key")?);
        let schema = Schema::of(schema.as_ref());
        match payload {
            Value::Null => Ok(None),
            Value::Object(fields) if !fields.is_empty() => {
                let column = |(name, value): (String, Value)| {
                    let schema = schema.field(&name);
                    KeyColumn { value: schema.convert_key(value), type_oid: schema.key_type(), name }
                };
                Ok(Some(Self { columns: fields.into_iter().map(column).collect() }))
            }
            other => {
                let kind = json::kind(&other);
                Err(Malformed::record(format!("the key is {kind}, not an object of the key columns")))
            }
        }
    }

    /// Reads the key of a deleted row from `before`, if the record has lost its own key: walvec writes exactly the key
    /// columns there.
    pub(super) fn from_before(before: Option<&Value>, schema: Schema<'_>, key_types: Option<&[u32]>) -> Option<Self> {
        let fields = before?.as_object()?;
        let types = key_types.filter(|types| types.len() == fields.len() && !types.is_empty())?;
        let column = |((name, value), &oid): ((&String, &Value), &u32)| KeyColumn {
            name: name.clone(),
            value: schema.field(name).convert_key(value.clone()),
            type_oid: Some(oid),
        };
        Some(Self { columns: fields.iter().zip(types).map(column).collect() })
    }

    /// Sets the types that walvec wrote, if there is one for each column.
    pub(super) fn with_types(mut self, types: Option<&[u32]>) -> Self {
        if let Some(types) = types.filter(|types| types.len() == self.columns.len()) {
            for (column, &oid) in self.columns.iter_mut().zip(types) {
                column.type_oid = Some(oid);
            }
        }
        self
    }

    /// Sets the types found in other records of the table, for columns whose type this record lacks.
    pub(super) fn with_known_types(self, table: &TableName, known: &shapes::SeenTables) -> Self {
        if self.columns.iter().all(|column| column.type_oid.is_some()) {
            return self;
        }
        let types = known.key_types(table, self.names());
        self.with_types(types.as_deref())
    }

    /// Marks types that are not known as unknown instead of guessing: a text may be a uuid, whose point has another id.
    pub(super) fn without_guesses(mut self) -> Self {
        for column in &mut self.columns {
            if column.type_oid.is_none() && column.oid() == shapes::TEXT {
                column.type_oid = Some(shapes::UNKNOWN);
            }
        }
        self
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Returns the row's key.
    pub(super) fn row_key(&self) -> RowKey {
        RowKey::new(self.columns.iter().map(|column| column.value.clone()).collect())
    }

    /// Returns the key columns, as the columns of a table that has no others.
    pub(super) fn shown(&self) -> Vec<shapes::ShownColumn<'_>> {
        self.columns
            .iter()
            .map(|column| shapes::ShownColumn { type_oid: column.oid(), ..shapes::ShownColumn::named(&column.name) })
            .collect()
    }
}

impl KeyColumn {
    pub(super) fn oid(&self) -> u32 {
        self.type_oid.unwrap_or_else(|| shapes::guess(&self.value))
    }
}

/// Returns the key types that a tombstone of walvec carries in a header.
pub(super) fn types_in_header(record: &Record) -> Option<Vec<u32>> {
    serde_json::from_str(record.header(header::KEY_TYPES)?).ok()
}
