//! Values, rows and row keys.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A column's value.
///
/// A JSON value, because everything downstream (templates, payloads, envelopes) is JSON. Integers, booleans, finite
/// floats, json, jsonb and arrays are represented as such. What JSON cannot hold exactly (numeric, timestamps, bytea,
/// ranges, NaN and the infinities, arrays with unusual bounds) is PostgreSQL's own text.
pub type Value = serde_json::Value;

/// One column of a changed row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The value, possibly [`Value::Null`].
    Value(Value),
    /// The value is stored out of line (TOAST) and this UPDATE did not change it, so PostgreSQL did not send it. Not NULL.
    Unchanged,
}

impl Cell {
    /// Returns the value, or `None` if it was not sent.
    #[must_use]
    pub const fn value(&self) -> Option<&Value> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unchanged => None,
        }
    }
}

/// The assumed size in bytes of a value that was not sent. The real one may be a hundred times as large, or a tenth.
const UNSENT_BYTES: usize = 64 << 10;

/// A row's cells, one for each column of its [`Table`](crate::Table), in the same order.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Row(pub Vec<Cell>);

impl Row {
    /// Returns whether PostgreSQL left out at least one value of this row.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.0.contains(&Cell::Unchanged)
    }

    /// Fills in the values that were not sent, and no others, from another state of the same row with the columns in
    /// the same order.
    pub fn fill(&mut self, other: Self) {
        self.0.resize(other.0.len().max(self.0.len()), Cell::Unchanged);
        for (cell, other) in self.0.iter_mut().zip(other.0) {
            if *cell == Cell::Unchanged {
                *cell = other;
            }
        }
    }

    /// Estimates how many bytes the row's values take: the lengths of texts, and a few bytes for everything else. A
    /// value that was not sent counts as a large one, since it has to be fetched before the row can be written.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.iter().map(|cell| cell.value().map_or(UNSENT_BYTES, weight)).sum()
    }
}

/// Estimates how many bytes a value takes.
#[must_use]
pub fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => size_of::<Value>(),
    }
}

/// The values of a row's key columns, in key order.
///
/// Keys are compared and hashed by their [`canonical`](Self::canonical) bytes: two keys are equal exactly if they name
/// the same row.
#[derive(Clone, Debug)]
pub struct RowKey {
    values: Arc<[Value]>,
    canonical: Arc<[u8]>,
}

impl RowKey {
    /// Creates a key from its column values.
    #[must_use]
    pub fn new(values: Vec<Value>) -> Self {
        let canonical = canonical_bytes(&values);
        Self { values: values.into(), canonical: canonical.into() }
    }

    /// Returns the values of the key columns.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Returns an unambiguous byte form: for each value, the length of its text (8 bytes, big endian) and its text in UTF-8.
    ///
    /// The length prefixes keep `("a", "bc")` and `("ab", "c")` apart. Point ids are derived from this form, so it
    /// never changes.
    #[must_use]
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// Returns 128 bits of BLAKE3 of the canonical form. Used where very many keys are remembered and never read back.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        let mut digest = KeyDigest::default();
        digest.copy_from_slice(&blake3::hash(&self.canonical).as_bytes()[..16]);
        digest
    }
}

/// 128 bits of BLAKE3 of a key's canonical form, from [`RowKey::digest`].
pub type KeyDigest = [u8; 16];

/// Returns a value's text: a string as it is, everything else as compact JSON.
///
/// All values of one column have the same type, so `1` and `"1"` are never compared.
fn text_of(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

fn canonical_bytes(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 24);
    for value in values {
        let text = text_of(value);
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

impl PartialEq for RowKey {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for RowKey {}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

/// Formats the key for people: `42`, or `(de, 42)` for a composite key.
impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.values() {
            [single] => f.write_str(&text_of(single)),
            many => {
                let texts: Vec<_> = many.iter().map(text_of).collect();
                write!(f, "({})", texts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_with_shifted_boundaries_are_different() {
        let left = RowKey::new(vec![json!("a"), json!("bc")]);
        let right = RowKey::new(vec![json!("ab"), json!("c")]);
        assert_ne!(left, right);
        assert_eq!(left, RowKey::new(vec![json!("a"), json!("bc")]));
    }

    #[test]
    fn the_weight_of_a_row_is_that_of_its_texts_and_of_what_was_not_sent() {
        let cell = |value| Cell::Value(value);
        let row = Row(vec![cell(json!("four")), cell(json!(["a", {"bc": "def"}])), Cell::Unchanged]);
        assert_eq!(row.weight(), 10 + UNSENT_BYTES);
    }

    #[test]
    fn only_what_was_not_sent_is_filled_in() {
        let (sent, other) = (Cell::Value(json!("sent")), Cell::Value(json!("other")));
        let mut row = Row(vec![sent.clone(), Cell::Unchanged, Cell::Unchanged]);
        row.fill(Row(vec![other.clone(), other.clone()]));
        assert_eq!(row, Row(vec![sent, other, Cell::Unchanged]));
    }

    #[test]
    fn a_key_reads_well() {
        assert_eq!(RowKey::new(vec![json!(-42)]).to_string(), "-42");
        assert_eq!(RowKey::new(vec![json!("de"), json!(42)]).to_string(), "(de, 42)");
    }
}
