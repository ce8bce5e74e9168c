//! Quotes names and values for statements that take no parameters: COPY, CREATE PUBLICATION, replication commands.

use postgres_protocol::escape;
use walvec_model::TableName;

/// Returns `name` as a quoted identifier. Always quoted, so that keywords, capitals, dots and spaces need no exceptions.
pub(crate) fn quote_ident(name: &str) -> String {
    escape::escape_identifier(&without_nul(name))
}

/// Returns `schema.table`, with both parts quoted.
pub(crate) fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name))
}

/// Returns `text` as a string literal that is correct under either setting of `standard_conforming_strings`.
pub(crate) fn quote_literal(text: &str) -> String {
    escape::escape_literal(&without_nul(text))
}

/// Returns a comma-separated list of quoted identifiers.
pub(crate) fn quote_columns<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote_ident).collect::<Vec<_>>().join(", ")
}

/// Removes NUL characters. PostgreSQL cannot store them in names or values, and one from a configuration must not cut a
/// statement short.
fn without_nul(text: &str) -> String {
    text.replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_keeps_every_character() {
        assert_eq!(quote_ident("books"), r#""books""#);
        assert_eq!(quote_ident(r#"a"b.c d"#), r#""a""b.c d""#);
        assert_eq!(quote_ident("Bücher 書"), r#""Bücher 書""#);
        assert_eq!(quote_table(&TableName::new("my.schema", "Ta\"ble")), r#""my.schema"."Ta""ble""#);
        assert_eq!(quote_columns(["a", "B"]), r#""a", "B""#);
    }

    #[test]
    fn a_literal_cannot_end_early() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'; DROP").trim(), r"E'a\\''; DROP'");
        assert_eq!(quote_literal("a\0b"), "'ab'");
    }
}
