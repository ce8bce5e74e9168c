//! The statements that read rows.

use serde_json::{Value, json};

use crate::lookup::SentLookup;
use crate::sql::{literal, only, quoted};
use crate::table::{SentColumn, SentTable};
use crate::values::expression;

/// Returns the statement for the rows that the publication sends, except those with the keys `without`: one text per column
/// and one per lookup.
pub(crate) fn all_rows(table: &SentTable, joined: &[SentLookup], without: &[Vec<Value>]) -> String {
    let mut query = format!("SELECT {} FROM {}{}", expressions(table, joined), only(table, "r"), condition(table));
    if !without.is_empty() {
        query.push_str(if table.filter.is_some() { " AND" } else { " WHERE" });
        let keys = literal(&key_texts(without));
        query.push_str(&format!(" NOT EXISTS (SELECT FROM {} WHERE {})", wanted(&keys), has_wanted_key(table)));
    }
    query
}

/// Returns the statement for the rows with the keys in `$1`, a JSON array of arrays of the key columns' texts. One more
/// column distinguishes the versions of a row.
pub(crate) fn rows_by_key(table: &SentTable, joined: &[SentLookup]) -> String {
    format!(
        "SELECT {}, r.tableoid::text || '/' || r.xmin::text || '/' || r.ctid::text FROM (SELECT *, tableoid, xmin, ctid FROM {}{}) AS r \
         JOIN {} ON {}",
        expressions(table, joined),
        only(table, "r"),
        condition(table),
        wanted("$1::text"),
        has_wanted_key(table)
    )
}

/// Returns keys as a JSON array of arrays of the key columns' texts.
pub(crate) fn key_texts(keys: &[Vec<Value>]) -> String {
    let texts: Vec<Vec<String>> = keys.iter().map(|key| key.iter().map(key_text).collect()).collect();
    json!(texts).to_string()
}

/// Returns the SQL that turns such an array into rows.
fn wanted(keys: &str) -> String {
    format!("json_array_elements({keys}::json) AS wanted (key)")
}

fn has_wanted_key(table: &SentTable) -> String {
    let same_key = |(place, index): (usize, &usize)| {
        let column = table.columns.get(*index)?;
        let SentColumn { name, equality, type_name, .. } = column;
        Some(format!("r.{} {equality} (wanted.key->>{place})::{type_name}", quoted(name)))
    };
    table.key.iter().enumerate().filter_map(same_key).collect::<Vec<_>>().join(" AND ")
}

fn expressions(table: &SentTable, joined: &[SentLookup]) -> String {
    let expressions = table.columns.iter().map(|column| expression(&format!("r.{}", quoted(&column.name)), column));
    expressions.chain(joined.iter().map(SentLookup::expression)).collect::<Vec<_>>().join(", ")
}

fn condition(table: &SentTable) -> String {
    table.filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default()
}

/// Returns a key value in the text form that PostgreSQL reads.
pub(crate) fn key_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let quoted = |item: &Value| match item {
                Value::Null => "NULL".to_owned(),
                Value::Array(_) => key_text(item),
                other => format!("\"{}\"", key_text(other).replace('\\', "\\\\").replace('"', "\\\"")),
            };
            format!("{{{}}}", items.iter().map(quoted).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use walvec_model::TableName;

    use super::*;
    use crate::table::TextForm;

    #[test]
    fn names_and_keys_cannot_leave_their_quotes() {
        let column = |name: &str| SentColumn {
            name: name.to_owned(),
            kind: TextForm::Text,
            type_oid: 25,
            type_name: "character varying(3)".to_owned(),
            equality: "=".to_owned(),
        };
        let table = SentTable {
            name: TableName::new("s", "T\"1"),
            columns: vec![column("a\"b"), column("c")],
            key: vec![1],
            filter: Some("c > 1".to_owned()),
            partitioned: false,
        };
        assert_eq!(
            all_rows(&table, &[], &[]),
            r#"SELECT r."a""b"::text, r."c"::text FROM ONLY "s"."T""1" AS r WHERE (c > 1)"#
        );
        assert!(all_rows(&table, &[], &[vec![json!("it's \\")], vec![json!(7)]]).ends_with(
            r#" WHERE (c > 1) AND NOT EXISTS (SELECT FROM json_array_elements(E'[["it''s \\\\"],["7"]]'::json) AS wanted (key) WHERE r."c" = (wanted.key->>0)::character varying(3))"#
        ));
        assert!(rows_by_key(&table, &[]).ends_with(r#"ON r."c" = (wanted.key->>0)::character varying(3)"#));
        assert_eq!(key_text(&json!(["a\"b", null, ["\\"], 1.5])), r#"{"a\"b",NULL,{"\\"},"1.5"}"#);
    }
}
