use serde_json::json;
use walvec_model::{Cell, Column, Lsn, TableName};

use super::*;

fn table() -> Arc<Table> {
    let column = |name: &str| Column::new(name, "text", 25);
    Arc::new(Table {
        name: TableName::new("public", "books"),
        columns: ["id", "name", "body"].map(column).to_vec(),
        key: vec![0],
    })
}

fn at(ordinal: u64) -> Position {
    Position { commit_lsn: Lsn(100), ordinal }
}

fn row(id: i64, name: &str, body: Option<&str>) -> Row {
    let body = body.map_or(Cell::Unchanged, |text| Cell::Value(json!(text)));
    Row(vec![Cell::Value(json!(id)), Cell::Value(json!(name)), body])
}

fn key(id: i64) -> RowKey {
    RowKey::new(vec![json!(id)])
}

fn folded(ops: Vec<Op>) -> Vec<(RowKey, FinalRow)> {
    let table = table();
    let change = |(index, op)| Change { table: Arc::clone(&table), position: at(index as u64 + 1), op };
    coalesce(ops.into_iter().enumerate().map(change).collect())
}

fn state_of(entries: &[(RowKey, FinalRow)], id: i64) -> RowState {
    entries.iter().find(|(other, _)| *other == key(id)).map(|(_, last)| last.state.clone()).unwrap()
}

fn insert(id: i64, name: &str, body: &str) -> Op {
    Op::Insert { new: row(id, name, Some(body)) }
}

fn update(id: i64, name: &str, body: Option<&str>) -> Op {
    Op::Update { old_key: None, new: row(id, name, body) }
}

fn rename(from: i64, to: i64, name: &str) -> Op {
    Op::Update { old_key: Some(key(from)), new: row(to, name, None) }
}

fn present(row: Row) -> RowState {
    RowState::Present { row, base: BaseVersion::Complete }
}

fn stored(before: u64) -> BaseVersion {
    BaseVersion::Stored { before: at(before) }
}

#[test]
fn the_last_write_of_a_key_wins_and_keeps_its_version() {
    let entries = folded(vec![insert(1, "a", "x"), update(1, "b", Some("y")), Op::Delete { key: key(1) }]);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].1.state, RowState::Gone);
    assert_eq!(entries[0].1.position, at(3));
}

#[test]
fn a_row_deleted_and_inserted_again_is_there() {
    let entries = folded(vec![Op::Delete { key: key(1) }, insert(1, "again", "x")]);
    assert_eq!(state_of(&entries, 1), present(row(1, "again", Some("x"))));
}

#[test]
fn a_value_that_was_not_sent_comes_from_the_same_batch_first() {
    let entries = folded(vec![insert(1, "a", "long"), update(1, "b", None)]);
    assert_eq!(state_of(&entries, 1), present(row(1, "b", Some("long"))));
}

#[test]
fn a_value_that_was_not_sent_comes_from_the_stored_point_of_before_the_batch() {
    let entries = folded(vec![update(1, "a", None), update(1, "b", None)]);
    assert_eq!(state_of(&entries, 1), RowState::Present { row: row(1, "b", None), base: stored(1) });
}

#[test]
fn a_changed_key_leaves_nothing_under_the_old_one_and_takes_the_batch_s_values_along() {
    let entries = folded(vec![insert(1, "a", "long"), rename(1, 2, "moved")]);
    assert_eq!(state_of(&entries, 1), RowState::Gone);
    assert_eq!(state_of(&entries, 2), present(row(2, "moved", Some("long"))));
}

#[test]
fn a_row_under_another_key_is_never_completed_from_the_stored_point_of_its_old_key() {
    let unknown = |row| RowState::Present { row, base: BaseVersion::Unknown };
    let moved = folded(vec![update(1, "a", None), rename(1, 2, "moved")]);
    assert_eq!(state_of(&moved, 2), unknown(row(2, "moved", None)));
    let swapped = folded(vec![rename(1, 99, "one"), rename(2, 1, "two"), rename(99, 2, "one")]);
    assert_eq!(state_of(&swapped, 99), RowState::Gone);
    assert_eq!(state_of(&swapped, 1), unknown(row(1, "two", None)));
    assert_eq!(state_of(&swapped, 2), unknown(row(2, "one", None)));
}

#[test]
fn rows_stay_in_the_order_in_which_they_first_appear() {
    let entries =
        folded(vec![insert(3, "a", "x"), insert(1, "b", "x"), Op::Delete { key: key(3) }, insert(2, "c", "x")]);
    let keys: Vec<RowKey> = entries.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [3, 1, 2].map(key));
}

#[test]
fn an_update_of_a_row_that_the_batch_has_deleted_takes_nothing_from_before_the_delete() {
    let entries = folded(vec![insert(1, "a", "long"), Op::Delete { key: key(1) }, update(1, "b", None)]);
    assert_eq!(state_of(&entries, 1), RowState::Present { row: row(1, "b", None), base: BaseVersion::Unknown });
}

#[test]
fn a_value_that_is_sent_later_makes_the_stored_point_needless() {
    let entries = folded(vec![update(1, "a", None), update(1, "b", Some("sent")), update(1, "c", None)]);
    assert_eq!(state_of(&entries, 1), present(row(1, "c", Some("sent"))));
}

#[test]
fn a_row_that_takes_the_key_of_one_that_has_moved_away_is_there() {
    let entries = folded(vec![insert(1, "a", "x"), rename(1, 2, "a"), insert(1, "b", "y")]);
    assert_eq!(state_of(&entries, 1), present(row(1, "b", Some("y"))));
    assert_eq!(state_of(&entries, 2), present(row(2, "a", Some("x"))));
}
