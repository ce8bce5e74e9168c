//! A record that is read back equals what was written.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};
use walvec_broker::wire::{ChangeContext, Event, Format, SnapshotEnd, Sweep};
use walvec_model::{Cell, Change, Column, Generation, Lsn, Op, Position, Row, RowKey, Table, TableName, Type};

use crate::support::{arrived, at, books, change, context, decode, encode, encoder, key, row, stored};

/// Generates any value that capture can produce.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let float = prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        prop_oneof![Just(u64::MAX), any::<u64>()].prop_map(Value::from),
        float.prop_map(|float| Number::from_f64(float).map_or(Value::Null, Value::Number)),
        "\\PC{0,12}".prop_map(Value::String),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// Generates a table with unusual names, a key of one or two columns at any place, and two rows of it.
fn tables() -> impl Strategy<Value = (Arc<Table>, Vec<Value>, Vec<Value>)> {
    let types = prop::sample::select(vec![20_u32, 21, 23, 25, 2950]);
    (2_usize..6, any::<(String, String)>(), prop::collection::vec(types, 6), any::<bool>(), any::<bool>())
        .prop_flat_map(|(width, (schema, name), types, two, last)| {
            let values = || prop::collection::vec(value(), width);
            let first = if last { width - 1 } else { 0 };
            let key = if two { vec![first, 1 - first.min(1)] } else { vec![first] };
            let column = move |index: usize| {
                let type_oid = if key.contains(&index) { types[index] } else { 0 };
                Column::new(format!("\"c\\{index}é"), "", type_oid)
            };
            let key = if two { vec![first, 1 - first.min(1)] } else { vec![first] };
            let columns = (0..width).map(column).collect();
            let table = Arc::new(Table { name: TableName { schema, name }, columns, key });
            (Just(table), values(), values())
        })
        .prop_filter("a key of two different columns", |(table, ..)| {
            table.key.len() == 1 || table.key[0] != table.key[1]
        })
}

fn key_of(table: &Table, values: &[Value]) -> RowKey {
    RowKey::new(table.key.iter().map(|&index| values[index].clone()).collect())
}

/// Returns `values` as a row in which the columns marked in `unchanged` were not sent.
fn partial(table: &Table, values: &[Value], unchanged: &[bool]) -> Row {
    let cell = |(index, value): (usize, &Value)| match unchanged[index] && !table.key.contains(&index) {
        true => Cell::Unchanged,
        false => Cell::Value(value.clone()),
    };
    Row(values.iter().enumerate().map(cell).collect())
}

/// Returns a change without the types of its columns. Records contain only the types of columns whose values look like
/// another type.
fn untyped(mut change: Change) -> Change {
    let mut table = change.table.as_ref().clone();
    table.columns.iter_mut().for_each(|column| column.ty = Type::Unknown);
    change.table = Arc::new(table);
    change
}

proptest! {
    #[test]
    fn a_row_comes_out_of_debezium_records_as_it_went_in(
        (table, values, _) in tables(),
        unchanged in prop::collection::vec(any::<bool>(), 6),
        (lsn, ordinal, generation, micros, xid) in any::<(u64, u64, u64, i32, Option<u32>)>(),
    ) {
        let position = Position { commit_lsn: Lsn(lsn), ordinal };
        let committed_at = context().committed_at + std::time::Duration::from_micros(u64::from(micros.unsigned_abs()));
        let context = ChangeContext { generation: Generation(generation), committed_at, xid, snapshot: false };
        let new = partial(&table, &values, &unchanged);
        let complete = partial(&table, &values, &[false; 6]);
        for op in [Op::Update { old_key: None, new: new.clone() }, Op::Insert { new }, Op::Insert { new: complete }] {
            let change = Change { table: Arc::clone(&table), position, op };
            let records = encode(Format::Debezium, &change, &context);
            prop_assert_eq!(records.len(), 1);
            let found = arrived(decode(Format::Debezium, &records[0]));
            prop_assert_eq!(untyped(found.change), untyped(change));
            prop_assert_eq!((found.generation, found.committed_at), (Generation(generation), Some(committed_at)));
        }
    }

    #[test]
    fn a_deleted_row_and_a_changed_key_name_the_rows_they_mean(
        (table, old, new) in tables(),
    ) {
        let keys = (key_of(&table, &old), key_of(&table, &new));
        let new = partial(&table, &new, &[false; 6]);
        let op = Op::Update { old_key: Some(keys.0.clone()), new: new.clone() };
        let change = Change { table: Arc::clone(&table), position: at(7), op };
        let records = encode(Format::Debezium, &change, &context());
        prop_assert_eq!(records.len(), 3);
        let types: Vec<_> = table.key.iter().map(|&index| table.columns[index].type_oid).collect();
        for record in &records[..2] {
            let name = Some(&table.name);
            let event = crate::support::decoder(Format::Debezium).decode(&stored(record), name).unwrap();
            let found = arrived(event);
            prop_assert_eq!(&found.change.op, &Op::Delete { key: keys.0.clone() });
            prop_assert_eq!((found.change.position, found.generation), (at(7), Generation(2)));
            let table = &found.change.table;
            let found: Vec<_> = table.key.iter().map(|&index| table.columns[index].type_oid).collect();
            prop_assert_eq!(&found, &types);
        }
        let found = arrived(decode(Format::Debezium, &records[2]));
        let expected = Change { table, position: at(7), op: Op::Insert { new } };
        prop_assert_eq!(untyped(found.change), untyped(expected));
        prop_assert_eq!(records[2].key.as_ref(), records[0].headers.first().map(|(_, value)| value));
        prop_assert_eq!(records[0].key.as_ref(), records[2].headers.first().map(|(_, value)| value));
    }
}

#[test]
fn a_text_that_looks_like_a_missing_value_survives_where_values_cannot_be_missing() {
    let placeholder = "__debezium_unavailable_value";
    let new = row(json!([7, placeholder, placeholder, 1965, null]));
    let read = ChangeContext { snapshot: true, ..context() };
    let insert = change(at(0), Op::Insert { new: new.clone() });
    let found = arrived(decode(Format::Debezium, &encode(Format::Debezium, &insert, &read)[0]));
    assert_eq!(found.change.op, Op::Insert { new });
    assert_eq!(key(json!([7])), found.change.key().unwrap());
}

#[test]
fn a_truncated_table_is_told_to_every_partition() {
    let records = encode(Format::Debezium, &change(at(9), Op::Truncate), &context());
    assert!(records.len() == 1 && records[0].everywhere && records[0].key.is_none());
    let found = arrived(decode(Format::Debezium, &records[0]));
    assert_eq!((&found.change.table.name, found.change.position, found.change.op), (&books(), at(9), Op::Truncate));
}

#[test]
fn the_end_of_a_snapshot_comes_out_as_it_went_in() {
    let end = SnapshotEnd {
        table: books(),
        position: at(0),
        generation: Generation(3),
        sweep: Sweep::Generations,
        barrier: vec![0, i64::MAX],
    };
    let record = encoder(Format::Debezium).snapshot_end(&end);
    assert_eq!(decode(Format::Debezium, &record), Event::SnapshotEnd(end));
}
