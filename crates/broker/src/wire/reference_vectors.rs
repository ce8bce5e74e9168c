//! Rows with their vectors, in the form that the tutorial's programs write and read.
//!
//! The value is a flat object: `kind` and `table`, the row's columns, `embeddings` and `Timestamp` (nanoseconds since
//! 1970). The tutorial turns `year` into a text, so its readers get a text here too. As in the tutorial, a column can
//! replace `kind` and `table`, and no column can replace `embeddings` and `Timestamp`.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use walvec_model::{Generation, Payload, Position, TableName, Vector};

use super::{Malformed, json, stamp, vectors};
use crate::{Outgoing, Record};

/// A row with its vector.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddedRow {
    /// The table. Only the record's key contains its schema; without one the schema is `public`.
    pub table: TableName,
    /// wal2json's `insert` or `update`.
    pub kind: String,
    /// The row's columns.
    pub fields: Payload,
    /// The vector.
    pub vector: Vector,
    /// When the row was embedded.
    pub at: SystemTime,
    /// The position of the row, from a header; `None` if another program wrote the record.
    pub position: Option<Position>,
    /// The generation of the row, from a header; 0 if another program wrote the record.
    pub generation: Generation,
}

const KIND: &str = "kind";
const TABLE: &str = "table";
const EMBEDDINGS: &str = "embeddings";
const TIMESTAMP: &str = "Timestamp";

/// Returns the record of a row with its vector.
#[must_use]
pub fn encode(row: &EmbeddedRow) -> Outgoing {
    let mut value = Vec::with_capacity(512 + 12 * row.vector.len());
    value.push(b'{');
    for (name, text) in [(KIND, &row.kind), (TABLE, &row.table.name)] {
        if !row.fields.contains_key(name) {
            field(&mut value, name, text);
        }
    }
    for (name, column) in row.fields.iter().filter(|(name, _)| !matches!(name.as_str(), EMBEDDINGS | TIMESTAMP)) {
        match column {
            Value::Number(year) if name == "year" => field(&mut value, name, &year.to_string()),
            column => field(&mut value, name, column),
        }
    }
    field(&mut value, EMBEDDINGS, &row.vector);
    field(&mut value, TIMESTAMP, &(json::micros(row.at).saturating_mul(1000)));
    value.pop();
    value.push(b'}');
    let headers = row.position.map(|position| stamp::headers(position, row.generation, None)).unwrap_or_default();
    Outgoing { key: Some(row.table.to_string().into_bytes()), value: Some(value), headers, everywhere: false }
}

/// Appends a field and a comma.
fn field<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    json::value(out, name);
    out.push(b':');
    json::value(out, value);
    out.push(b',');
}

/// Reads the row in `record`; `None` if the record has no value.
///
/// # Errors
/// Fails if the record is not in the tutorial's form.
pub fn decode(record: &Record) -> Result<Option<EmbeddedRow>, Malformed> {
    let Some(bytes) = &record.value else { return Ok(None) };
    let value = json::parse(bytes, "value")?;
    let envelope = json::EnvelopeObject::of(&value, "")?;
    let (kind, name) = (envelope.text(KIND)?.to_owned(), envelope.text(TABLE)?);
    let vector = envelope.typed(EMBEDDINGS, "a list of numbers", vectors::numbers)?;
    let nanos = envelope.typed(TIMESTAMP, "a number of nanoseconds", Value::as_i64)?;
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let at = if nanos < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }.unwrap_or(epoch);
    let schema = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
    let schema = schema.and_then(|key| key.strip_suffix(name)?.strip_suffix('.')).unwrap_or("public");
    let table = TableName::new(schema, name);
    let (position, generation) = (stamp::position(record)?, stamp::generation(record)?);
    let Value::Object(mut fields) = value else { return Ok(None) };
    fields.retain(|name, _| !matches!(name.as_str(), KIND | TABLE | EMBEDDINGS | TIMESTAMP));
    Ok(Some(EmbeddedRow { table, kind, fields, vector, at, position, generation }))
}
