//! Reads rows again by key.

use futures::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use walvec_model::{Cell, Column, Row, RowKey, Table};

use crate::CaptureError;
use crate::connect::{Session, describe, statement_error};
use crate::copy_text::RowDecoder;
use crate::limits::is_too_large;
use crate::server::Source;
use crate::sql::{quote_ident, quote_literal, quote_table};
use crate::value::{self, ValueKind};

/// The maximum number of keys in one statement.
pub(crate) const KEYS_PER_STATEMENT: usize = 500;

/// Reads rows by their keys, for [`Source::fetch_rows`].
pub(crate) async fn rows(source: &Source, table: &Table, keys: &[RowKey]) -> Result<Vec<(RowKey, Row)>, CaptureError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let kinds = source.catalog.kinds_of(&table.columns, &table.key).await?;
    let equalities = source.catalog.equalities_of(&table.columns).await?;
    // The shape as of the time when the source was connected: after a table was altered, the session begins again.
    let shape = source.shape_of(&table.name).await?;
    // With `INHERITS`, child tables are separate tables.
    let only = if shape.as_ref().is_some_and(|shape| !shape.partitioned) { "ONLY " } else { "" };
    let filter = shape.as_ref().and_then(|shape| shape.filter.as_deref());
    let session = source.catalog.rows_session().await?;
    let columns = source.select_list(table);
    let mut decoder = RowDecoder::new(table, &kinds);
    let mut found = Vec::with_capacity(keys.len());
    let mut rest: Vec<&[RowKey]> = keys.chunks(KEYS_PER_STATEMENT).rev().collect();
    while let Some(keys) = rest.pop() {
        let read = |by: KeysAs| {
            statement(table, &columns, &keys_condition(table, &kinds, &equalities, keys, by), only, filter)
        };
        let rows = match read_rows(&session, &read(KeysAs::TheirTypes), &mut decoder).await {
            // Some values are no longer valid for their types, for example labels of an enum. No row has them; comparing
            // as text finds the other keys.
            Err(Unread::Refused(error)) if error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION) => {
                read_rows(&session, &read(KeysAs::Text), &mut decoder).await
            }
            rows => rows,
        };
        let rows = match rows {
            Err(Unread::Refused(error)) if is_row_too_large(&error) => {
                match keys {
                    [key] => found.push((key.clone(), key_alone(table, key))),
                    _ => rest.extend([keys.split_at(keys.len() / 2).1, keys.split_at(keys.len() / 2).0]),
                }
                continue;
            }
            rows => rows,
        };
        let rows = rows.map_err(|error| match error {
            Unread::Refused(error) => fetch_error(table, &error),
            Unread::Value(error) => error,
        })?;
        for row in rows {
            let key = table.key.iter().filter_map(|&index| row.0.get(index)?.value().cloned()).collect();
            found.push((RowKey::new(key), row));
        }
    }
    source.catalog.note_read(&session).await?;
    Ok(found)
}

/// Returns whether the server could not fit a row into a message.
pub(crate) fn is_row_too_large(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| is_too_large(error.code().code(), error.message()))
}

/// Returns a row of which only the key can be sent.
fn key_alone(table: &Table, key: &RowKey) -> Row {
    let mut row = Row(vec![Cell::Unchanged; table.columns.len()]);
    for (&index, value) in table.key.iter().zip(key.values()) {
        if let Some(cell) = row.0.get_mut(index) {
            *cell = Cell::Value(value.clone());
        }
    }
    row
}

/// Why rows could not be read.
enum Unread {
    /// The server refused the statement.
    Refused(tokio_postgres::Error),
    /// A value could not be decoded.
    Value(CaptureError),
}

/// Reads rows line by line, because they may be large.
async fn read_rows(session: &Session, statement: &str, decoder: &mut RowDecoder<'_>) -> Result<Vec<Row>, Unread> {
    let copy = session.copy_out(statement).await.map_err(Unread::Refused)?;
    let mut lines = std::pin::pin!(copy);
    let mut rows = Vec::new();
    while let Some(line) = lines.try_next().await.map_err(Unread::Refused)? {
        rows.push(decoder.row(&line).map_err(Unread::Value)?);
    }
    Ok(rows)
}

/// Returns a COPY statement, which gives every value the text form that it has in the stream.
fn statement(table: &Table, columns: &str, condition: &str, only: &str, filter: Option<&str>) -> String {
    let filter = filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default();
    let table_name = quote_table(&table.name);
    format!("COPY (SELECT {columns} FROM {only}{table_name} WHERE {condition}{filter}) TO STDOUT")
}

/// How keys are compared.
#[derive(Clone, Copy)]
enum KeysAs {
    /// As values of the columns' types, with an index.
    TheirTypes,
    /// As text, which every value has, without an index.
    Text,
}

/// Returns the condition for rows with one of the keys, compared by the `equalities` of the columns' own types.
pub(crate) fn condition(table: &Table, kinds: &[ValueKind], equalities: &[String], keys: &[RowKey]) -> String {
    keys_condition(table, kinds, equalities, keys, KeysAs::TheirTypes)
}

/// Returns the condition for rows with one of the keys. COPY takes no parameters, so keys become literals, whose types
/// follow from the comparison with the key columns.
fn keys_condition(table: &Table, kinds: &[ValueKind], equalities: &[String], keys: &[RowKey], by: KeysAs) -> String {
    let equality = |index: &usize| match by {
        KeysAs::TheirTypes => equalities.get(*index).map_or("=", String::as_str),
        KeysAs::Text => "=",
    };
    let name = |column: &Column| match by {
        KeysAs::TheirTypes => quote_ident(&column.name),
        KeysAs::Text => format!("{}::text", quote_ident(&column.name)),
    };
    let names = || {
        let columns = table.key.iter().filter_map(|&index| table.columns.get(index));
        columns.map(name)
    };
    let literals = |key: &RowKey| -> Vec<String> {
        let kind = |index: usize| kinds.get(index).unwrap_or(&ValueKind::Text);
        let values = key.values().iter().zip(&table.key);
        values.map(|(value, &index)| quote_literal(&value::encode(value, kind(index)))).collect()
    };
    if table.key.iter().all(|index| equality(index) == "=") {
        // A single literal is not accepted as a value of a composite type ("input of anonymous composite types is not
        // implemented"). With two, PostgreSQL uses the type of the column.
        let twice = if keys.len() == 1 { keys } else { &[] };
        let tuples = keys.iter().chain(twice).map(|key| format!("({})", literals(key).join(", ")));
        let tuples: Vec<_> = tuples.collect();
        return format!("({}) IN ({})", names().collect::<Vec<_>>().join(", "), tuples.join(", "));
    }
    let one = |key: &RowKey| {
        let pairs = names().zip(&table.key).zip(literals(key));
        let pairs = pairs.map(|((name, index), literal)| format!("{name} {} {literal}", equality(index)));
        format!("({})", pairs.collect::<Vec<_>>().join(" AND "))
    };
    format!("({})", keys.iter().map(one).collect::<Vec<_>>().join(" OR "))
}

fn fetch_error(table: &Table, error: &tokio_postgres::Error) -> CaptureError {
    match error.code() {
        Some(state) if *state == SqlState::UNDEFINED_COLUMN || *state == SqlState::UNDEFINED_TABLE => {
            CaptureError::Altered { table: table.name.clone(), reason: describe(error) }
        }
        _ => statement_error(&format!("reading rows of {} again", table.name), error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::TableName;

    use super::*;

    #[test]
    fn keys_cannot_leave_their_literals() {
        let column = |name: &str| Column::new(name, "text", 25);
        let table = Table {
            name: TableName::new("s", "T"),
            columns: vec![column("x"), column("a"), column("b")],
            key: vec![2, 1],
        };
        let keys = [RowKey::new(vec![json!("'); DROP"), json!(-1)])];
        let kinds = [ValueKind::Text, ValueKind::Integer, ValueKind::Text];
        assert_eq!(
            statement(&table, r#""x", NULL, "b""#, &condition(&table, &kinds, &[], &keys), "ONLY ", Some("x > 1")),
            r#"COPY (SELECT "x", NULL, "b" FROM ONLY "s"."T" WHERE ("b", "a") IN (('''); DROP', '-1'), ('''); DROP', '-1')) AND (x > 1)) TO STDOUT"#
        );
        let equalities = ["=", "=", "OPERATOR(public.=)"].map(str::to_owned);
        assert_eq!(
            condition(&table, &kinds, &equalities, &keys),
            r#"(("b" OPERATOR(public.=) '''); DROP' AND "a" = '-1'))"#
        );
    }
}
