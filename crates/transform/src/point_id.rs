//! Derives a row's point id from its key.
//!
//! In a collection of one table, a key of one non-negative integer or one uuid is the id itself. In every other case
//! (text, a negative number, several columns, a collection that several tables share, chunks) the id is a UUIDv5 over
//! this name, in which every variable part is preceded by its length in 8 bytes, big endian:
//!
//! ```text
//! len(schema) schema  len(table) table  len(key) key  chunk number (8 bytes, big endian)
//! ```
//!
//! where `key` is [`RowKey::canonical`]. Ids are stored with the points, so none of this ever changes.

use uuid::Uuid;
use walvec_model::{PointId, RowKey, Table, TableName};

/// The UUIDv5 namespace of derived ids.
pub const NAMESPACE: Uuid = Uuid::from_u128(0xb3f4_9d0e_6c1a_5f27_8e5d_41c7_9a02_d6be);

/// `pg_type.oid` of the integer types, from PostgreSQL's `pg_type.dat`.
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
/// `pg_type.oid` of uuid.
const UUID: u32 = 2950;
/// The oid of a type that is not known.
const UNKNOWN: u32 = 0;

/// Returns the id under which a row that is not cut into chunks is stored. `shared`: whether several tables write to
/// the collection.
#[must_use]
pub fn point_id(table: &Table, key: &RowKey, shared: bool) -> PointId {
    let own = if shared { None } else { own_id(table, key) };
    own.unwrap_or_else(|| chunk_id(&table.name, key, 0))
}

/// Returns the id under which a chunk of a row is stored.
#[must_use]
pub fn chunk_id(table: &TableName, key: &RowKey, chunk: u32) -> PointId {
    PointId::Uuid(derived_id(table, key, chunk.into()))
}

/// Returns the key itself as an id, if it can be one.
fn own_id(table: &Table, key: &RowKey) -> Option<PointId> {
    let ([index], [value]) = (table.key.as_slice(), key.values()) else { return None };
    match table.columns.get(*index)?.type_oid {
        INT2 | INT4 | INT8 => value.as_u64().map(PointId::Num),
        UUID => Uuid::try_parse(value.as_str()?).ok().map(PointId::Uuid),
        _ => None,
    }
}

/// Returns the table with a uuid as its key, if the key's type is not known and the value may be a uuid. The row then
/// has another id.
#[must_use]
pub fn with_uuid_key(table: &Table, key: &RowKey) -> Option<Table> {
    let ([index], [value]) = (table.key.as_slice(), key.values()) else { return None };
    let mut table = table.clone();
    let column = table.columns.get_mut(*index)?;
    let may_be_uuid = column.type_oid == UNKNOWN && Uuid::try_parse(value.as_str()?).is_ok();
    column.type_oid = UUID;
    may_be_uuid.then_some(table)
}

fn derived_id(table: &TableName, key: &RowKey, chunk: u64) -> Uuid {
    let mut name = Vec::with_capacity(32 + table.schema.len() + table.name.len() + key.canonical().len());
    for part in [table.schema.as_bytes(), table.name.as_bytes(), key.canonical()] {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    name.extend_from_slice(&chunk.to_be_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use walvec_model::Column;

    use super::*;

    const TEXT: u32 = 25;

    fn table(schema: &str, name: &str, key_types: &[u32]) -> Table {
        let column = |(i, &type_oid): (usize, &u32)| Column::new(format!("k{i}"), "", type_oid);
        Table {
            name: TableName::new(schema, name),
            columns: key_types.iter().enumerate().map(column).collect(),
            key: (0..key_types.len()).collect(),
        }
    }

    fn id(key_types: &[u32], values: &[Value]) -> PointId {
        point_id(&table("public", "t", key_types), &RowKey::new(values.to_vec()), false)
    }

    fn texts(values: &[&str]) -> PointId {
        id(&vec![TEXT; values.len()], &values.iter().map(|v| json!(v)).collect::<Vec<_>>())
    }

    #[test]
    fn a_non_negative_integer_key_is_its_own_id() {
        assert_eq!(id(&[INT2], &[json!(0)]), PointId::Num(0));
        assert_eq!(id(&[INT4], &[json!(42)]), PointId::Num(42));
        assert_eq!(id(&[INT8], &[json!(i64::MAX)]), PointId::Num(i64::MAX as u64));
    }

    #[test]
    fn a_uuid_key_is_its_own_id_in_upper_and_lower_case() {
        let uuid = Uuid::from_u128(0xA0EE_BC99_9C0B_4EF8_BB6D_6BB9_BD38_0A11);
        assert_eq!(id(&[UUID], &[json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]), PointId::Uuid(uuid));
        assert_eq!(id(&[UUID], &[json!("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")]), PointId::Uuid(uuid));
    }

    #[test]
    fn a_text_that_looks_like_a_number_or_a_uuid_is_derived() {
        assert!(matches!(texts(&["42"]), PointId::Uuid(_)));
        let text = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        assert_ne!(texts(&[text]), PointId::Uuid(text.parse().unwrap()));
    }

    #[test]
    fn keys_with_shifted_boundaries_have_different_ids() {
        assert_ne!(texts(&["a", "bc"]), texts(&["ab", "c"]));
        assert_ne!(texts(&["", "a"]), texts(&["a", ""]));
    }

    #[test]
    fn schema_and_table_do_not_run_into_each_other() {
        let key = RowKey::new(vec![json!("k")]);
        let left = point_id(&table("a.b", "c", &[TEXT]), &key, false);
        let right = point_id(&table("a", "b.c", &[TEXT]), &key, false);
        assert_ne!(left, right);
    }

    #[test]
    fn tables_that_share_a_collection_never_share_an_id() {
        let key = RowKey::new(vec![json!(7)]);
        let books = point_id(&table("public", "books", &[INT4]), &key, true);
        let films = point_id(&table("public", "films", &[INT4]), &key, true);
        assert_ne!(books, films);
        assert!(matches!(books, PointId::Uuid(_)));
    }

    #[test]
    fn a_derived_id_never_changes() {
        // Computed independently, as uuid5 over the documented bytes.
        let expected: Uuid = "c92f8770-52a3-514d-8693-103f00a36bfd".parse().unwrap();
        assert_eq!(texts(&["de", "42"]), PointId::Uuid(expected));
    }

    proptest! {
        #[test]
        fn every_integer_has_an_id_of_its_own(left: i64, right: i64) {
            let (a, b) = (id(&[INT8], &[json!(left)]), id(&[INT8], &[json!(right)]));
            prop_assert_eq!(a == b, left == right);
            prop_assert_eq!(matches!(a, PointId::Num(_)), left >= 0);
        }

        #[test]
        fn different_keys_or_tables_have_different_ids(
            left in ("[a-c.]{0,3}", "[a-c.]{0,3}", prop::collection::vec("[a-c]{0,3}", 1..4)),
            right in ("[a-c.]{0,3}", "[a-c.]{0,3}", prop::collection::vec("[a-c]{0,3}", 1..4)),
        ) {
            let id = |(schema, name, values): &(String, String, Vec<String>)| {
                let key = RowKey::new(values.iter().map(|v| json!(v)).collect());
                point_id(&table(schema, name, &vec![TEXT; values.len()]), &key, false)
            };
            prop_assert_eq!(id(&left) == id(&right), left == right);
        }

        #[test]
        fn a_key_always_has_the_same_id(values in prop::collection::vec(any::<String>(), 1..4)) {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            prop_assert_eq!(texts(&values), texts(&values));
        }
    }
}
