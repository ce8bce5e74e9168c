//! Reads values that PostgreSQL did not send and that are stored nowhere, and rows that other rows look up.

use futures::future::BoxFuture;
use walvec_model::{Cell, Lookup, Row, RowKey, Table, TableName, Value};

use crate::error::PipelineError;

/// Rows that were read again and still exist, with their keys.
pub(crate) type Fetched<'a> = Asking<'a, Vec<(RowKey, Row)>>;

/// Rows that were looked up, each with the index of the key that it was found by.
pub(crate) type LookedUp<'a> = Asking<'a, Vec<(usize, Value)>>;

type Asking<'a, T> = BoxFuture<'a, Result<RowsAnswer<T>, PipelineError>>;

/// The answer of the source.
pub(crate) enum RowsAnswer<T> {
    /// The rows that were asked for.
    Found(T),
    /// A table does not exist any more, or has lost its key; the text says why. Only a worker that reads older records
    /// gets this answer. A session that follows the stream ends instead, and the next one sets the table aside.
    NoTable(String),
}

/// Reads rows again by their keys, as of now.
pub(crate) trait RowSource: Send + Sync {
    /// Returns the rows of `table` with these keys; `None` if no source is configured.
    fn rows<'a>(&'a self, table: &'a Table, keys: &'a [RowKey]) -> Option<Fetched<'a>>;

    /// Returns what rows of `main` with these values look up; `None` if no source is configured.
    fn look_up<'a>(&'a self, main: &'a TableName, lookup: &'a Lookup, wanted: &'a [RowKey]) -> Option<LookedUp<'a>>;
}

/// Returns the cells of a row of `from` in the order of the columns of `to`. A missing column counts as not sent.
pub(crate) fn arranged(row: Row, from: &Table, to: &Table) -> Row {
    let mut cells = row.0;
    let cell = |column: &walvec_model::Column| {
        let found = from.column_index(&column.name).and_then(|index| cells.get_mut(index));
        found.map_or(Cell::Unchanged, |cell| std::mem::replace(cell, Cell::Unchanged))
    };
    Row(to.columns.iter().map(cell).collect())
}

#[cfg(test)]
mod tests;
