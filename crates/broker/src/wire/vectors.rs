//! Points in the form that the Qdrant connector for Kafka reads.
//!
//! <https://github.com/qdrant/qdrant-kafka>: the value is `{"collection_name","id","vector","payload"}`, where `vector` is a
//! list of numbers or an object of named vectors. A null value deletes the point that the key `{"collection_name","id"}` names.
//! The same topic can therefore fill a Qdrant cluster with walvec or with the connector at its end.
//!
//! Control records (a truncated table, the end of a snapshot) are values with a `walvec` block and without an id. The
//! connector cannot read them and needs `errors.tolerance=all` where they occur.

use std::collections::HashSet;
use std::time::SystemTime;

use serde_json::{Map, Value};
use walvec_model::{
    Generation, Payload, Point, PointId, Position, Provenance, RESERVED_KEY, SparseVector, TableName, Vector,
};

use super::control::{self, Control};
use super::{Malformed, SnapshotEnd, header, json, stamp};
use crate::{Outgoing, Record};

/// The contents of a record of vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum VectorRecord {
    /// A point to store.
    Upsert(Box<Upsert>),
    /// A point to remove.
    Delete {
        /// The collection.
        collection: String,
        /// The point's id.
        id: PointId,
        /// The position of the delete; `None` if another program wrote the record.
        position: Option<Position>,
        /// The generation of the delete; 0 if another program wrote the record.
        generation: Generation,
    },
    /// All points of a table that are not newer than this position are to be removed.
    Truncate {
        /// The collection.
        collection: String,
        /// The table that was emptied.
        table: TableName,
        /// The position of the truncation.
        position: Position,
        /// The generation of the truncation.
        generation: Generation,
    },
    /// The end of a snapshot.
    SnapshotEnd {
        /// The collection.
        collection: String,
        /// The table, position and barrier of the end.
        end: SnapshotEnd,
    },
    /// A record that says nothing about points.
    Nothing,
}

/// A point that was read from a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Upsert {
    /// The collection.
    pub collection: String,
    /// The point's id.
    pub id: PointId,
    /// The point's vector.
    pub vector: Vector,
    /// The vector's name, if it has one.
    pub vector_name: Option<String>,
    /// The point's sparse vector under any name, if there is one.
    pub keywords: Option<SparseVector>,
    /// The user's fields, without walvec's own.
    pub payload: Payload,
    /// walvec's own field; `None` if another program wrote the record.
    pub provenance: Option<Provenance>,
    /// The generation: that of the provenance, else that of the headers, else 0.
    pub generation: Generation,
    /// When the change was committed, if the record contains it.
    pub committed_at: Option<SystemTime>,
}

impl Upsert {
    /// Returns the point, if walvec made it. Without a provenance, versions of a point cannot be told apart.
    #[must_use]
    pub fn into_point(self) -> Option<Point> {
        let Self { id, vector, keywords, payload, provenance, .. } = self;
        Some(Point { id, vector, keywords, payload, provenance: provenance? })
    }
}

/// The names of a collection's vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorFieldNames<'a> {
    /// The name of the dense vector, if the collection's layout has one.
    pub dense: Option<&'a str>,
    /// The name of the sparse vector, if there is one.
    pub keywords: Option<&'a str>,
}

/// Returns the record that stores `point`.
#[must_use]
pub fn upsert(
    collection: &str,
    point: &Point,
    names: VectorFieldNames<'_>,
    committed_at: Option<SystemTime>,
) -> Outgoing {
    let key = key(collection, point.id);
    let mut value = Vec::with_capacity(512 + 12 * point.vector.len());
    value.extend_from_slice(&key[..key.len() - 1]);
    json::raw(&mut value, r#","vector":"#);
    let keywords = names.keywords.zip(point.keywords.as_ref().filter(|keywords| !keywords.is_empty()));
    match (names.dense, keywords) {
        (None, None) => json::value(&mut value, &point.vector),
        (dense, keywords) => {
            value.push(b'{');
            // Together with other vectors, an unnamed one is called "".
            json::value(&mut value, dense.unwrap_or_default());
            value.push(b':');
            json::value(&mut value, &point.vector);
            if let Some((name, keywords)) = keywords {
                value.push(b',');
                json::value(&mut value, name);
                value.push(b':');
                json::value(&mut value, keywords);
            }
            value.push(b'}');
        }
    }
    json::raw(&mut value, r#","payload":{"#);
    for (name, field) in &point.payload {
        json::value(&mut value, name);
        value.push(b':');
        json::value(&mut value, field);
        value.push(b',');
    }
    json::value(&mut value, RESERVED_KEY);
    value.push(b':');
    json::value(&mut value, &point.provenance);
    json::raw(&mut value, "}}");
    let headers = stamp::headers(point.provenance.position, point.provenance.generation, committed_at);
    Outgoing { key: Some(key), value: Some(value), headers, everywhere: false }
}

/// Returns the record that removes the point `id`.
#[must_use]
pub fn delete(collection: &str, id: PointId, position: Position, generation: Generation) -> Outgoing {
    let headers = stamp::headers(position, generation, None);
    Outgoing { key: Some(key(collection, id)), headers, ..Outgoing::default() }
}

/// Returns the record that removes all points of `table` up to `position`.
#[must_use]
pub fn truncate(collection: &str, table: &TableName, position: Position, generation: Generation) -> Outgoing {
    let block = |out: &mut Vec<u8>| control::write(out, table, position, generation, None);
    Outgoing { everywhere: true, ..control_record(collection, header::TRUNCATE, block) }
}

/// Returns the record that ends a snapshot. It has no key, and one partition is enough for it.
#[must_use]
pub fn snapshot_end(collection: &str, end: &SnapshotEnd) -> Outgoing {
    control_record(collection, header::SNAPSHOT_END, |out| control::write_end(out, end))
}

fn control_record(collection: &str, purpose: &str, block: impl FnOnce(&mut Vec<u8>)) -> Outgoing {
    let mut value = br#"{"collection_name":"#.to_vec();
    json::value(&mut value, collection);
    json::raw(&mut value, r#","walvec":"#);
    block(&mut value);
    value.push(b'}');
    Outgoing { value: Some(value), headers: vec![(header::CONTROL, purpose.into())], ..Outgoing::default() }
}

fn key(collection: &str, id: PointId) -> Vec<u8> {
    let mut key = br#"{"collection_name":"#.to_vec();
    json::value(&mut key, collection);
    json::raw(&mut key, r#","id":"#);
    json::value(&mut key, &id);
    key.push(b'}');
    key
}

/// Reads `record`.
///
/// # Errors
/// Fails if the record is not in the connector's form, or has vectors that walvec does not use: several dense or
/// several sparse ones.
pub fn decode(record: &Record) -> Result<VectorRecord, Malformed> {
    let Some(bytes) = &record.value else { return tombstone(record) };
    let mut value = json::parse(bytes, "value")?;
    let envelope = json::EnvelopeObject::of(&value, "")?;
    let collection = envelope.text("collection_name")?.to_owned();
    if let Some(control) = Control::read(&envelope)? {
        let Control { table, position, generation, end } = control;
        return Ok(match end {
            Some((barrier, sweep)) => VectorRecord::SnapshotEnd {
                collection,
                end: SnapshotEnd { table, position, generation, sweep, barrier },
            },
            None => VectorRecord::Truncate { collection, table, position, generation },
        });
    }
    let id = id(&envelope)?;
    let mut take = |name: &str| value.get_mut(name).map(Value::take).filter(|value| !value.is_null());
    let (vector, vector_name, keywords) = vectors(take("vector"))?;
    let mut payload = match take("payload") {
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(Malformed::record(format!("`payload` is {}, not an object", json::kind(&other)))),
        None => Map::new(),
    };
    let unreadable = |error| Malformed::record(format!("`payload.{RESERVED_KEY}` cannot be read: {error}"));
    let own = payload.shift_remove(RESERVED_KEY).map(serde_json::from_value::<Provenance>);
    let provenance = own.transpose().map_err(unreadable)?;
    let generation = match &provenance {
        Some(provenance) => provenance.generation,
        None => stamp::generation(record)?,
    };
    let committed_at = stamp::committed_at(record)?;
    let upsert =
        Upsert { collection, id, vector, vector_name, keywords, payload, provenance, generation, committed_at };
    Ok(VectorRecord::Upsert(Box::new(upsert)))
}

fn tombstone(record: &Record) -> Result<VectorRecord, Malformed> {
    let Some(key) = &record.key else { return Ok(VectorRecord::Nothing) };
    let key = json::parse(key, "key")?;
    let fields = json::EnvelopeObject::of(&key, "key")?;
    let (position, generation) = (stamp::position(record)?, stamp::generation(record)?);
    let collection = fields.text("collection_name")?.to_owned();
    Ok(VectorRecord::Delete { collection, id: id(&fields)?, position, generation })
}

fn id(fields: &json::EnvelopeObject<'_>) -> Result<PointId, Malformed> {
    fields.typed("id", "a non-negative integer or a UUID", |id| serde_json::from_value(id.clone()).ok())
}

type ReadVectors = (Vector, Option<String>, Option<SparseVector>);

/// Reads a list of numbers, or an object with one named dense vector and perhaps a sparse one under another name.
fn vectors(value: Option<Value>) -> Result<ReadVectors, Malformed> {
    let unknown = || {
        let reason =
            "`vector` is neither a list of numbers nor an object with one such list and at most one sparse vector";
        Malformed::record(reason)
    };
    let fields = match value.ok_or_else(|| Malformed::record("`vector` is missing"))? {
        Value::Object(fields) => fields,
        other => return Ok((numbers(&other).ok_or_else(unknown)?, None, None)),
    };
    let (mut dense, mut keywords) = (None, None);
    for (name, vector) in fields {
        let is_second = match numbers(&vector) {
            Some(vector) => dense.replace((name, vector)).is_some(),
            None => keywords.replace(sparse(vector).ok_or_else(unknown)?).is_some(),
        };
        if is_second {
            return Err(unknown());
        }
    }
    let (name, dense) = dense.ok_or_else(unknown)?;
    Ok((dense, (!name.is_empty()).then_some(name), keywords))
}

/// Reads a sparse vector; `None` if the value is not one, or names a token twice.
fn sparse(value: Value) -> Option<SparseVector> {
    let sparse: SparseVector = serde_json::from_value(value).ok()?;
    let distinct: HashSet<u32> = sparse.indices.iter().copied().collect();
    (sparse.indices.len() == sparse.values.len() && distinct.len() == sparse.indices.len()).then_some(sparse)
}

/// Reads a dense vector; `None` if it contains anything but numbers. Numbers that are not finite were written as null,
/// and are refused.
pub(super) fn numbers(value: &Value) -> Option<Vector> {
    serde::Deserialize::deserialize(value).ok()
}
