//! The id under which a row should be stored.
//!
//! A single key column of type smallint, integer or bigint that is not negative is the id; so is a single key column of
//! type uuid. Any other row, and every chunk of a row that is cut into chunks, has the UUIDv5 in [`NAMESPACE`] of
//!
//! ```text
//! len(schema) schema  len(table) table  len(key) key  chunk number
//! ```
//!
//! where `key` is, for each key column, the length of its text and the text (a string as it is, anything else as compact
//! JSON). Every length, and the chunk's number, takes 8 bytes, big endian.

use serde_json::Value;
use uuid::Uuid;
use walvec_model::{PointId, TableName};

/// The namespace of derived ids.
const NAMESPACE: Uuid = Uuid::from_u128(0xb3f4_9d0e_6c1a_5f27_8e5d_41c7_9a02_d6be);

/// The rule for the ids of a table's rows.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    /// `len(schema) schema len(table) table`.
    prefix: Vec<u8>,
    own: Own,
}

/// The keys that are ids themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Integers,
    Uuids,
    None,
}

impl Ids {
    /// Makes the rule for a table whose key columns have these types (`pg_type.oid`). `chunked`: its rows are cut into
    /// chunks.
    pub(crate) fn new(table: &TableName, key_types: &[u32], chunked: bool) -> Self {
        let own = match key_types {
            _ if chunked => Own::None,
            // smallint, integer, bigint.
            [20 | 21 | 23] => Own::Integers,
            [2950] => Own::Uuids,
            _ => Own::None,
        };
        let mut prefix = Vec::new();
        put(&mut prefix, table.schema.as_bytes());
        put(&mut prefix, table.name.as_bytes());
        Self { prefix, own }
    }

    /// Returns the id of the row with this key, or of its first chunk.
    pub(crate) fn of(&self, key: &[Value]) -> PointId {
        match (self.own, key) {
            (Own::Integers, [Value::Number(number)]) => {
                number.as_u64().map_or_else(|| self.chunk(key, 0), PointId::Num)
            }
            (Own::Uuids, [Value::String(text)]) => {
                Uuid::try_parse(text).map_or_else(|_| self.chunk(key, 0), PointId::Uuid)
            }
            _ => self.chunk(key, 0),
        }
    }

    /// Returns the key of the row that belongs under `id`, if it can be known: from the id itself, or from the key and
    /// chunk number that a point with this id claims to have.
    pub(crate) fn key_for(&self, id: PointId, claimed: PointClaim<'_>) -> Option<Vec<Value>> {
        match (self.own, id) {
            (Own::Integers, PointId::Num(number)) if i64::try_from(number).is_ok() => return Some(vec![number.into()]),
            (Own::Uuids, PointId::Uuid(uuid)) => return Some(vec![uuid.to_string().into()]),
            _ => {}
        }
        let key = claimed.key?.as_array()?;
        let chunk = claimed.chunk.and_then(Value::as_u64).unwrap_or(0);
        (self.of(key) == id || self.chunk(key, chunk) == id).then(|| key.clone())
    }

    /// Returns the id of a chunk, counted from 0.
    pub(crate) fn chunk(&self, key: &[Value], chunk: u64) -> PointId {
        let mut parts = Vec::new();
        for value in key {
            match value {
                Value::String(text) => put(&mut parts, text.as_bytes()),
                other => put(&mut parts, other.to_string().as_bytes()),
            }
        }
        let mut name = self.prefix.clone();
        put(&mut name, &parts);
        name.extend_from_slice(&chunk.to_be_bytes());
        PointId::Uuid(Uuid::new_v5(&NAMESPACE, &name))
    }
}

/// What a point claims about itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PointClaim<'a> {
    pub(crate) key: Option<&'a Value>,
    pub(crate) chunk: Option<&'a Value>,
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bytes.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: u32 = 25;

    fn ids(key_types: &[u32]) -> Ids {
        Ids::new(&TableName::new("public", "t"), key_types, false)
    }

    #[test]
    fn ids_are_what_the_documentation_says() {
        assert_eq!(ids(&[20]).of(&[json!(i64::MAX)]), PointId::Num(i64::MAX as u64));
        assert!(matches!(ids(&[23]).of(&[json!(-1)]), PointId::Uuid(_)));
        let uuid: Uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".parse().unwrap();
        assert_eq!(ids(&[2950]).of(&[json!(uuid.to_string())]), PointId::Uuid(uuid));
        // Computed by another program, from the documented bytes.
        let derived: Uuid = "c92f8770-52a3-514d-8693-103f00a36bfd".parse().unwrap();
        assert_eq!(ids(&[TEXT, TEXT]).of(&[json!("de"), json!("42")]), PointId::Uuid(derived));
    }

    #[test]
    fn a_point_under_a_strange_id_has_no_row() {
        let text = ids(&[TEXT]);
        let id = text.of(&[json!("a")]);
        let key_for = |claimed: Option<&Value>| text.key_for(id, PointClaim { key: claimed, chunk: None });
        assert_eq!(key_for(Some(&json!(["a"]))), Some(vec![json!("a")]));
        for claimed in [None, Some(json!(["b"])), Some(json!("a")), Some(json!([]))] {
            assert_eq!(key_for(claimed.as_ref()), None, "{claimed:?}");
        }
        assert_eq!(ids(&[20]).key_for(PointId::Num(7), PointClaim::default()), Some(vec![json!(7)]));
        assert_eq!(ids(&[20]).key_for(PointId::Num(u64::MAX), PointClaim::default()), None);
    }

    #[test]
    fn a_chunk_belongs_to_the_row_whose_key_and_number_it_claims() {
        let ids = Ids::new(&TableName::new("public", "t"), &[20], true);
        let (key, number) = (json!([7]), json!(3));
        let id = ids.chunk(&[json!(7)], 3);
        assert_eq!(ids.key_for(id, PointClaim { key: Some(&key), chunk: Some(&number) }), Some(vec![json!(7)]));
        assert_eq!(ids.key_for(id, PointClaim { key: Some(&key), chunk: Some(&json!(2)) }), None);
        assert_eq!(ids.of(&[json!(7)]), ids.chunk(&[json!(7)], 0), "not the number itself");
    }
}
