//! Estimates from a sample how many rows of a table have texts that are longer than the model reads.

use std::sync::Arc;

use walvec_capture::Source;
use walvec_embed::Embedder;
use walvec_model::{RowKey, Table, Value};
use walvec_transform::{Completed, Transform};

use crate::error::PipelineError;
use crate::writer::looked_up::Wanted;

/// How many rows the sample has.
const ROWS: usize = 1000;

/// How many of them are rendered at a time.
const AT_ONCE: usize = 100;

/// The result of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// Rows that were rendered.
    pub rows: usize,
    /// Rows with a text, or a chunk, that is too long for the model.
    pub long: usize,
}

/// Renders a sample of the rows of `table`, and counts those that `embedder` would not read to the end.
///
/// # Errors
/// If PostgreSQL does not answer, or a table has changed meanwhile.
pub async fn lengths(
    source: &Source,
    table: &Arc<Table>,
    transform: &Arc<Transform>,
    embedder: &Arc<dyn Embedder>,
) -> Result<Lengths, PipelineError> {
    let rows = source.sample_rows(table, ROWS).await?.into_iter();
    // Every value was read, so none has to come from a stored point.
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
        let count = move || count_long(&table, &transform, embedder.as_ref(), some.iter().zip(&looked_up));
        let counted = tokio::task::spawn_blocking(count).await;
        lengths.long += counted.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    Ok(lengths)
}

/// Returns how many of the rows, each with the values that it looks up, have a text or a chunk that the model does not
/// read to its end. A row that cannot be rendered is not counted: it will be parked for that reason.
fn count_long<'r>(
    table: &Table,
    transform: &Transform,
    embedder: &dyn Embedder,
    rows: impl Iterator<Item = (&'r Vec<Value>, &'r Vec<Arc<Value>>)>,
) -> usize {
    let is_long = |(row, looked_up): &(&Vec<Value>, &Vec<Arc<Value>>)| {
        let key = RowKey::new(table.key.iter().filter_map(|&index| row.get(index).cloned()).collect());
        let documents = transform.render_joined(table, &key, row, looked_up).unwrap_or_default();
        documents.iter().any(|document| embedder.is_too_long(&document.text))
    };
    rows.filter(is_long).count()
}

#[cfg(test)]
mod tests;
