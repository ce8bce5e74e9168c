//! Reads a sample of a table's rows, with values as in the stream.

use futures::TryStreamExt as _;
use walvec_model::{Row, Table};

use crate::CaptureError;
use crate::connect::statement_error;
use crate::copy_text::RowDecoder;
use crate::server::Source;
use crate::sql::{quote_columns, quote_table};

/// Reading stops when the rows have this many bytes, since each row may be large.
const BYTES: usize = 32 << 20;

/// Reads a sample of rows, for [`Source::sample_rows`].
pub(crate) async fn rows(source: &Source, table: &Table, most: usize) -> Result<Vec<Row>, CaptureError> {
    let kinds = source.catalog.kinds_of(&table.columns, &table.key).await?;
    let shape = source.shape_of(&table.name).await?;
    // With `INHERITS`, child tables are separate tables.
    let only = if shape.as_ref().is_some_and(|shape| !shape.partitioned) { "ONLY " } else { "" };
    let filter = shape.as_ref().and_then(|shape| shape.filter.as_deref());
    let statement = statement(table, only, filter, most);
    let failed = |error| statement_error(&format!("reading some rows of {}", table.name), &error);
    let session = source.catalog.rows_session().await?;
    let mut lines = std::pin::pin!(session.copy_out(statement.as_str()).await.map_err(failed)?);
    let mut decoder = RowDecoder::new(table, &kinds);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(line) = lines.try_next().await.map_err(failed)? {
        bytes += line.len();
        rows.push(decoder.row(&line)?);
        if bytes >= BYTES {
            break;
        }
    }
    Ok(rows)
}

fn statement(table: &Table, only: &str, filter: Option<&str>, most: usize) -> String {
    let columns = quote_columns(table.columns.iter().map(|column| column.name.as_str()));
    let filter = filter.map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
    format!("COPY (SELECT {columns} FROM {only}{}{filter} LIMIT {most}) TO STDOUT", quote_table(&table.name))
}

#[cfg(test)]
mod tests {
    use walvec_model::{Column, TableName};

    use super::*;

    #[test]
    fn a_sample_has_the_rows_that_are_followed() {
        let column = Column::new("T", "text", 25);
        let table = Table { name: TableName::new("s", "t"), columns: vec![column], key: vec![0] };
        assert_eq!(
            statement(&table, "ONLY ", Some("x > 1"), 5),
            r#"COPY (SELECT "T" FROM ONLY "s"."t" WHERE (x > 1) LIMIT 5) TO STDOUT"#
        );
        assert_eq!(statement(&table, "", None, 5), r#"COPY (SELECT "T" FROM "s"."t" LIMIT 5) TO STDOUT"#);
    }
}
