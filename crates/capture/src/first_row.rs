//! Reads a row of a table, on which templates are tried.

use std::sync::Arc;

use walvec_model::{Row, Table, TableName};

use crate::CaptureError;
use crate::lookup::AnswerForm;
use crate::server::Source;
use crate::sql::{quote_columns, quote_table};

impl Source {
    /// Reads the row that the server returns first; `None` if there is none, or the table is not followed.
    ///
    /// # Errors
    /// Fails if the table cannot be read.
    pub async fn first_row(&self, table: &TableName) -> Result<Option<(Arc<Table>, Row)>, CaptureError> {
        let Some(shape) = self.shape_of(table).await? else { return Ok(None) };
        let columns = quote_columns(shape.table.columns.iter().map(|column| column.name.as_str()));
        let only = if shape.partitioned { "" } else { "ONLY " };
        let filter = shape.filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
        let query = format!("SELECT {columns} FROM {only}{}{filter} LIMIT 1", quote_table(table));
        let form = AnswerForm { table: &shape.table, kinds: &shape.kinds };
        let rows = self.copied(&query, form).await.map_err(|error| error.about(table))?;
        Ok(rows.into_iter().next().map(|row| (shape.table, row)))
    }
}
