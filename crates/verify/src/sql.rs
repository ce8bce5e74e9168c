//! Names and texts in SQL.

use walvec_model::TableName;

use crate::table::SentTable;

/// Returns the FROM item of a table, without tables that inherit from it in the old way: those are tables of their own.
pub(crate) fn only(table: &SentTable, alias: &str) -> String {
    let TableName { schema, name } = &table.name;
    format!("{}{}.{} AS {alias}", if table.partitioned { "" } else { "ONLY " }, quoted(schema), quoted(name))
}

/// Returns an identifier in quotes.
pub(crate) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Returns a text as an SQL literal, whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}
