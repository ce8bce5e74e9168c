use serde_json::json;
use walvec_model::Column;

use super::*;

fn table(columns: &[&str]) -> Table {
    let columns = columns.iter().map(|name| Column::new(*name, "text", 25)).collect();
    Table { name: TableName::new("public", "books"), columns, key: vec![0] }
}

fn row(values: &[&str]) -> Row {
    Row(values.iter().map(|value| Cell::Value(json!(value))).collect())
}

#[test]
fn cells_follow_their_columns_and_a_column_that_was_not_read_counts_as_not_sent() {
    let (from, to) = (table(&["body", "id", "extra"]), table(&["id", "title", "body"]));
    let arranged = arranged(row(&["text", "1", "more"]), &from, &to);
    assert_eq!(arranged.0, [Cell::Value(json!("1")), Cell::Unchanged, Cell::Value(json!("text"))]);
}

#[test]
fn a_row_that_is_shorter_than_its_table_lacks_its_last_values() {
    let table = table(&["id", "title"]);
    assert_eq!(arranged(row(&["1"]), &table, &table).0, [Cell::Value(json!("1")), Cell::Unchanged]);
}
