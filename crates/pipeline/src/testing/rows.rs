//! A table of books, its rows and their changes.

use std::sync::Arc;

use serde_json::json;
use walvec_model::{Cell, Change, Column, Lsn, Op, PointId, Position, Row, RowKey, Table, TableName};

/// Returns the table `public.books` with the columns `id`, `title` and `body`, the last of which is embedded.
pub(crate) fn table() -> Arc<Table> {
    table_named("books")
}

/// Returns a table with the columns of [`table`].
pub(crate) fn table_named(name: &str) -> Arc<Table> {
    let column = |(name, type_name, type_oid): (&str, &str, u32)| Column::new(name, type_name, type_oid);
    let columns = [("id", "bigint", 20), ("title", "text", 25), ("body", "text", 25)].map(column).to_vec();
    Arc::new(Table { name: TableName::new("public", name), columns, key: vec![0] })
}

/// Returns the position of the first change of the transaction that committed at `lsn`.
pub(crate) const fn at(lsn: u64) -> Position {
    Position { commit_lsn: Lsn(lsn), ordinal: 1 }
}

/// Returns the key of a book.
pub(crate) fn key(id: u64) -> RowKey {
    RowKey::new(vec![json!(id)])
}

/// Returns the point of a book in a collection without chunks.
pub(crate) const fn point(id: u64) -> PointId {
    PointId::Num(id)
}

/// Returns a row; without a `body`, that value was not sent.
pub(crate) fn row(id: u64, title: &str, body: Option<&str>) -> Row {
    let body = body.map_or(Cell::Unchanged, |body| Cell::Value(json!(body)));
    Row(vec![Cell::Value(json!(id)), Cell::Value(json!(title)), body])
}

fn changed(lsn: u64, op: Op) -> Change {
    Change { table: table(), position: at(lsn), op }
}

/// Returns a new book, whose title is its id.
pub(crate) fn insert(lsn: u64, id: u64, body: &str) -> Change {
    changed(lsn, Op::Insert { new: row(id, &id.to_string(), Some(body)) })
}

/// Returns an update of a book; without a `body`, PostgreSQL did not send that value.
pub(crate) fn update(lsn: u64, id: u64, title: &str, body: Option<&str>) -> Change {
    changed(lsn, Op::Update { old_key: None, new: row(id, title, body) })
}

/// Returns an update that gives a book another id.
pub(crate) fn renumber(lsn: u64, from: u64, to: u64, body: Option<&str>) -> Change {
    changed(lsn, Op::Update { old_key: Some(key(from)), new: row(to, &to.to_string(), body) })
}

/// Returns the removal of a book.
pub(crate) fn delete(lsn: u64, id: u64) -> Change {
    changed(lsn, Op::Delete { key: key(id) })
}
