//! Points: what the sink stores and returns.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::{Fingerprint, InputHash, Position, TableName, Value};

/// A point's payload: field name to JSON value.
pub type Payload = serde_json::Map<String, Value>;

/// A dense vector of the model's dimension, normalised to length 1.
pub type Vector = Vec<f32>;

/// A sparse vector of a text: the ids of its tokens, ascending and without duplicates, and the weight of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparseVector {
    /// The ids of the tokens.
    pub indices: Vec<u32>,
    /// Their weights, in the same order.
    pub values: Vec<f32>,
}

impl SparseVector {
    /// Returns whether the vector has no token, so that no search finds it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// The payload field in which walvec keeps its own [`Provenance`].
pub const RESERVED_KEY: &str = "_walvec";

/// A point's id in Qdrant, which accepts only unsigned integers and UUIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PointId {
    /// A single non-negative integer key.
    Num(u64),
    /// A uuid key, or one derived from the key.
    Uuid(Uuid),
}

impl fmt::Display for PointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Num(number) => write!(f, "{number}"),
            Self::Uuid(uuid) => write!(f, "{uuid}"),
        }
    }
}

/// The snapshot that last saw a point: the number of the slot's snapshot, from 1, or behind a broker, seconds since 1970.
///
/// When a snapshot ends, the rows of points with an older generation were not in it. These rows are gone, so the points
/// are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// Returns the next generation.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What walvec stores with every point, under [`RESERVED_KEY`]. The one-letter names are the stored ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The version of the row from which the point was made.
    #[serde(rename = "v")]
    pub position: Position,
    /// The table, as `schema.table`.
    #[serde(rename = "t")]
    pub table: String,
    /// The key columns' values.
    #[serde(rename = "k")]
    pub key: Vec<Value>,
    /// The digest of the embedded text.
    #[serde(rename = "h")]
    pub input_hash: InputHash,
    /// The digest of what turned the text into the vector.
    #[serde(rename = "m")]
    pub fingerprint: Fingerprint,
    /// The generation of the snapshot that last confirmed the point.
    #[serde(rename = "g")]
    pub generation: Generation,
    /// The chunk's number inside its row, from 0.
    #[serde(rename = "c")]
    pub chunk: u32,
    /// How many chunks the row has.
    #[serde(rename = "n")]
    pub chunks: u32,
}

impl Provenance {
    /// Returns the value of `t` under which points of `table` are found.
    #[must_use]
    pub fn table_tag(table: &TableName) -> String {
        table.to_string()
    }

    /// Returns the table whose points are found under a tag. A schema with a dot in its name cannot be told from a
    /// table with one.
    #[must_use]
    pub fn tagged_table(tag: &str) -> TableName {
        let (schema, name) = tag.split_once('.').unwrap_or(("public", tag));
        TableName::new(schema, name)
    }
}

/// A point to store.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its id.
    pub id: PointId,
    /// Its vector.
    pub vector: Vector,
    /// Its sparse vector, for searches by keyword; `None` where the collection has none.
    pub keywords: Option<SparseVector>,
    /// The user's fields, without [`RESERVED_KEY`].
    pub payload: Payload,
    /// walvec's own field.
    pub provenance: Provenance,
}

/// A point as the sink returns it, without its vector.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPoint {
    /// Its id.
    pub id: PointId,
    /// The user's fields that were requested, without [`RESERVED_KEY`].
    pub payload: Payload,
    /// walvec's own field; `None` for a point that another program wrote.
    pub provenance: Option<Provenance>,
}

impl StoredPoint {
    /// Splits a raw payload into the user's fields and walvec's own field.
    #[must_use]
    pub fn from_raw(id: PointId, mut payload: Payload) -> Self {
        let provenance = payload.shift_remove(RESERVED_KEY).and_then(|value| serde_json::from_value(value).ok());
        Self { id, payload, provenance }
    }
}

/// A point exactly as it is stored. Nothing is removed from its payload, and nothing in it is trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawPoint {
    /// Its id.
    pub id: PointId,
    /// Every field, [`RESERVED_KEY`] included.
    pub payload: Payload,
    /// Its vector, if it was requested and the point has one.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "vector_or_nan")]
    pub vector: Option<Vector>,
    /// Its sparse vector, if vectors were requested and the point has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keywords: Option<SparseVector>,
}

/// A page of a scroll through a collection, in id order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RawPage {
    /// The points of this page.
    pub points: Vec<RawPoint>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<PointId>,
}

/// Reads a vector in which null stands for NaN. JSON writes numbers that are not finite as null; as NaN they stay
/// visible as errors.
fn vector_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vector>, D::Error> {
    let numbers = Option::<Vec<Option<f32>>>::deserialize(deserializer)?;
    Ok(numbers.map(|numbers| numbers.into_iter().map(|number| number.unwrap_or(f32::NAN)).collect()))
}

/// The deepest nesting of arrays and objects in a stored value.
///
/// Readers have limits: gRPC's limit of 100 messages is reached after some 30 objects, that of JSON readers after 128.
/// Deeper values are stored as their JSON text.
pub const MAX_NESTING: usize = 24;

/// How much deeper the values of a raw payload may be nested: inside a layout's object, or as keys in walvec's own field.
const HOLDERS: usize = 2;

/// Replaces the arrays and objects in `value` that are nested deeper than `levels` by their JSON texts.
pub fn limit_nesting(value: &mut Value, levels: usize) {
    match (value, levels.checked_sub(1)) {
        (Value::Array(items), Some(inner)) => items.iter_mut().for_each(|item| limit_nesting(item, inner)),
        (Value::Object(fields), Some(inner)) => fields.values_mut().for_each(|field| limit_nesting(field, inner)),
        (value @ (Value::Array(_) | Value::Object(_)), None) => *value = Value::String(value.to_string()),
        _ => {}
    }
}

/// Returns a key's value, or its JSON text if it is nested too deeply. To a [`RowKey`](crate::RowKey) both are equal.
fn shallow(value: &Value) -> Value {
    let mut limited = value.clone();
    limit_nesting(&mut limited, MAX_NESTING);
    if limited == *value { limited } else { Value::String(value.to_string()) }
}

/// Returns the stored form of a payload: the user's fields and, last, walvec's own. None of them is nested too deeply
/// for its readers.
///
/// # Errors
/// Fails if the provenance holds a key value that is not JSON, which its type rules out in practice.
pub fn raw_payload(mut payload: Payload, provenance: &Provenance) -> serde_json::Result<Payload> {
    let key = provenance.key.iter().map(shallow).collect();
    let provenance = Provenance { key, ..provenance.clone() };
    payload.insert(RESERVED_KEY.to_owned(), serde_json::to_value(provenance)?);
    limit_payload(&mut payload);
    Ok(payload)
}

/// Replaces values that are nested too deeply in a raw payload by their JSON texts. Other programs or earlier versions
/// may have written such values.
pub fn limit_payload(payload: &mut Payload) {
    payload.values_mut().for_each(|value| limit_nesting(value, MAX_NESTING + HOLDERS));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Lsn;

    #[test]
    fn a_point_comes_back_as_it_was_stored() {
        let provenance = Provenance {
            position: Position { commit_lsn: Lsn(0x1D5_C408), ordinal: 3 },
            table: "public.books".to_owned(),
            key: vec![json!(7)],
            input_hash: InputHash::of("a text"),
            fingerprint: Fingerprint::of(&["model"]),
            generation: Generation(2),
            chunk: 0,
            chunks: 1,
        };
        let payload = Payload::from_iter([("name".to_owned(), json!("Dune"))]);
        let raw = raw_payload(payload.clone(), &provenance).unwrap();
        assert_eq!(raw[RESERVED_KEY]["v"], "0/1D5C408.3");
        let stored = StoredPoint::from_raw(PointId::Num(7), raw);
        assert_eq!(stored, StoredPoint { id: PointId::Num(7), payload, provenance: Some(provenance) });
    }

    #[test]
    fn a_raw_point_travels_as_json_and_a_broken_vector_stays_broken() {
        let payload = Payload::from_iter([("name".to_owned(), json!("Dune"))]);
        let point = RawPoint { id: PointId::Num(7), payload, vector: Some(vec![0.25, f32::INFINITY]), keywords: None };
        let page = RawPage { points: vec![point.clone()], next: Some(PointId::Uuid(Uuid::from_u128(1))) };
        let text = serde_json::to_string(&page).unwrap();
        let back: RawPage = serde_json::from_str(&text).unwrap();
        assert_eq!((back.next, &back.points[0].payload), (page.next, &point.payload));
        let vector = back.points[0].vector.as_ref().unwrap();
        assert!(vector[0] == 0.25 && vector[1].is_nan(), "{vector:?}");
        let without = RawPoint { vector: None, ..point };
        assert_eq!(serde_json::from_value::<RawPoint>(serde_json::to_value(&without).unwrap()).unwrap(), without);
    }

    /// Returns `depth` arrays inside each other, around a 1.
    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn what_lies_too_deeply_is_stored_as_its_text() {
        let limited = |mut value: Value, levels| {
            limit_nesting(&mut value, levels);
            value
        };
        assert_eq!(limited(nested(3), 3), nested(3));
        assert_eq!(
            limited(json!({"a": [[1, {"b": 2}], "c"], "d": []}), 2),
            json!({"a": ["[1,{\"b\":2}]", "c"], "d": []})
        );
        assert_eq!(limited(json!({}), 0), json!("{}"));
        let mut payload = Payload::from_iter([("deep".to_owned(), nested(126))]);
        limit_payload(&mut payload);
        let text = serde_json::to_string(&payload).unwrap();
        assert!(text.contains(&"[".repeat(MAX_NESTING + HOLDERS)) && text.contains(&"]".repeat(100)));
    }

    #[test]
    fn a_foreign_point_has_no_provenance() {
        let payload = Payload::from_iter([("name".to_owned(), json!("Dune"))]);
        assert_eq!(StoredPoint::from_raw(PointId::Num(7), payload).provenance, None);
    }
}
