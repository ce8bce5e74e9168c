//! How many rows of a table have texts that the model reads only the beginnings of, as far as a sample tells.

use std::sync::Arc;

use walvec_capture::Source;
use walvec_embed::Embedder;
use walvec_model::{RowKey, Table, Value};
use walvec_transform::{Completed, Transform};

use crate::error::PipelineError;
use crate::looked_up::Wanted;

/// How many rows are looked at.
const ROWS: usize = 1000;

/// How many of them are rendered at a time.
const AT_ONCE: usize = 100;

/// What a sample tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Rows that were looked at.
    pub rows: usize,
    /// Those of them that have a text, or a chunk, which is too long for the model.
    pub long: usize,
}

/// Renders a sample of the rows of `table`, and tells how many of them `embedder` would not read to the end.
///
/// # Errors
/// If PostgreSQL does not answer, or a table is no longer what it was.
pub async fn lengths(
    source: &Source,
    table: &Arc<Table>,
    transform: &Arc<Transform>,
    embedder: &Arc<dyn Embedder>,
) -> Result<Lengths, PipelineError> {
    let rows = source.sample_rows(table, ROWS).await?.into_iter();
    // Every value was read: none is to be taken from a stored point.
    let complete = |row| match transform.complete(table, row, None) {
        Completed::Row(values) => Some(values),
        Completed::Refetch => None,
    };
    let rows: Vec<Vec<Value>> = rows.filter_map(complete).collect();
    let mut lengths = Lengths { rows: rows.len(), long: 0 };
    let mut rows = rows.into_iter();
    while !rows.as_slice().is_empty() {
        let some: Vec<Vec<Value>> = rows.by_ref().take(AT_ONCE).collect();
        let mut looked_up = vec![Vec::new(); some.len()];
        for lookup in transform.lookups() {
            let wanted = Wanted::by(lookup, some.iter().map(|row| (table.as_ref(), row.as_slice())));
            let found = source.look_up(&table.name, lookup, wanted.keys()).await?;
            for (row, value) in looked_up.iter_mut().zip(wanted.answered(lookup, found)) {
                row.push(value);
            }
        }
        let (table, transform, embedder) = (Arc::clone(table), Arc::clone(transform), Arc::clone(embedder));
        let is_long = move |(row, looked_up): (&Vec<Value>, &Vec<Arc<Value>>)| {
            let key = RowKey::new(table.key.iter().filter_map(|&index| row.get(index).cloned()).collect());
            // A row that cannot be rendered will be parked for that.
            let documents = transform.render_joined(&table, &key, row, looked_up).unwrap_or_default();
            documents.iter().any(|document| embedder.is_too_long(&document.text))
        };
        let count = move || some.iter().zip(&looked_up).filter(|row| is_long(*row)).count();
        let counted = tokio::task::spawn_blocking(count).await;
        lengths.long += counted.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    Ok(lengths)
}
