//! Rows read again by key.

use futures::TryStreamExt as _;
use tokio_postgres::error::SqlState;
use walvec_model::{Row, RowKey, Table};

use crate::CaptureError;
use crate::connect::{describe, statement_error};
use crate::copy_text::RowDecoder;
use crate::source::Source;
use crate::sql::{quote_columns, quote_ident, quote_literal, quote_table};
use crate::value::{self, Kind};

/// How many keys one statement names.
pub(crate) const KEYS_PER_STATEMENT: usize = 500;

/// See [`Source::fetch_rows`].
pub(crate) async fn rows(source: &Source, table: &Table, keys: &[RowKey]) -> Result<Vec<(RowKey, Row)>, CaptureError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let kinds = source.catalog.kinds_of(&table.columns).await?;
    let equalities = source.catalog.equalities_of(&table.columns).await?;
    let published = source.published_tables().await?.into_iter().find(|found| found.table.name == table.name);
    // Tables that inherit in the old way are tables of their own.
    let only = if published.as_ref().is_some_and(|published| published.facts.kind != "p") { "ONLY " } else { "" };
    let filter = published.and_then(|published| published.filter);
    let session = source.catalog.rows_session().await?;
    let mut decoder = RowDecoder::new(table, &kinds);
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(KEYS_PER_STATEMENT) {
        let failed = |error: tokio_postgres::Error| fetch_error(table, &error);
        let condition = condition(table, &kinds, &equalities, keys);
        let copy = session.copy_out(&statement(table, &condition, only, filter.as_deref())).await.map_err(failed)?;
        let mut lines = std::pin::pin!(copy);
        while let Some(line) = lines.try_next().await.map_err(failed)? {
            let row = decoder.row(&line)?;
            let key = table.key.iter().filter_map(|&index| row.0.get(index)?.value().cloned()).collect();
            found.push((RowKey::new(key), row));
        }
    }
    Ok(found)
}

/// COPY gives every value in the text form of the stream.
fn statement(table: &Table, condition: &str, only: &str, filter: Option<&str>) -> String {
    let columns = quote_columns(table.columns.iter().map(|column| column.name.as_str()));
    let filter = filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default();
    let table_name = quote_table(&table.name);
    format!("COPY (SELECT {columns} FROM {only}{table_name} WHERE {condition}{filter}) TO STDOUT")
}

/// Whether a row has one of the keys. COPY takes no parameters, so that keys become literals. Their types are left to the
/// comparison with the key columns, which is by the columns' own `equalities`.
pub(crate) fn condition(table: &Table, kinds: &[Kind], equalities: &[String], keys: &[RowKey]) -> String {
    let equality = |index: &usize| equalities.get(*index).map_or("=", String::as_str);
    let names = || {
        let columns = table.key.iter().filter_map(|&index| table.columns.get(index));
        columns.map(|column| quote_ident(&column.name))
    };
    let literals = |key: &RowKey| -> Vec<String> {
        let kind = |index: usize| kinds.get(index).unwrap_or(&Kind::Text);
        let values = key.values().iter().zip(&table.key);
        values.map(|(value, &index)| quote_literal(&value::encode(value, kind(index)))).collect()
    };
    if table.key.iter().all(|index| equality(index) == "=") {
        let tuples: Vec<_> = keys.iter().map(|key| format!("({})", literals(key).join(", "))).collect();
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
            CaptureError::Schema { table: table.name.clone(), reason: describe(error) }
        }
        _ => statement_error(&format!("reading rows of {} again", table.name), error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{Column, TableName};

    use super::*;

    #[test]
    fn keys_cannot_leave_their_literals() {
        let column = |name: &str| Column { name: name.to_owned(), type_name: "text".to_owned(), type_oid: 25 };
        let table = Table {
            name: TableName::new("s", "T"),
            columns: vec![column("x"), column("a"), column("b")],
            key: vec![2, 1],
        };
        let keys = [RowKey::new(vec![json!("'); DROP"), json!(-1)])];
        let kinds = [Kind::Text, Kind::Integer, Kind::Text];
        assert_eq!(
            statement(&table, &condition(&table, &kinds, &[], &keys), "ONLY ", Some("x > 1")),
            r#"COPY (SELECT "x", "a", "b" FROM ONLY "s"."T" WHERE ("b", "a") IN (('''); DROP', '-1')) AND (x > 1)) TO STDOUT"#
        );
        let equalities = ["=", "=", "OPERATOR(public.=)"].map(str::to_owned);
        assert_eq!(
            condition(&table, &kinds, &equalities, &keys),
            r#"(("b" OPERATOR(public.=) '''); DROP' AND "a" = '-1'))"#
        );
    }
}
