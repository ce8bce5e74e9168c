//! Completes rows: fills in values that PostgreSQL did not send, from the stored point or else from the source.

use std::collections::HashMap;
use std::sync::Arc;

use walvec_model::{Cell, PointId, Position, Row, RowKey, StoredPoint, Table, Value, weight};
use walvec_transform::Completed;

use super::Writer;
use super::batch::RowFailure;
use super::coalesce::{FinalRow, RowState};
use super::known::Known;
use super::prepare::Work;
use super::row_source::{RowSource, RowsAnswer, arranged};
use crate::error::PipelineError;
use crate::observe::metrics::{TimedStage, Timer};

/// A row with all its values, on its way to a document.
pub(super) struct CompleteRow {
    pub(super) key: RowKey,
    pub(super) table: Arc<Table>,
    pub(super) values: Vec<Value>,
    pub(super) position: Position,
}

impl CompleteRow {
    /// Returns about how many bytes its values take.
    pub(super) fn weight(&self) -> usize {
        self.values.iter().map(weight).sum()
    }

    pub(super) fn not_looked_up(self, reason: &str) -> RowFailure {
        RowFailure { key: self.key, position: self.position, code: "E_TABLE", reason: reason.to_owned() }
    }
}

/// A row that lacks values.
struct IncompleteRow {
    key: RowKey,
    table: Arc<Table>,
    row: Row,
    position: Position,
}

impl IncompleteRow {
    fn not_sent(self, reason: &str) -> RowFailure {
        RowFailure { key: self.key, position: self.position, code: "E_NOT_SENT", reason: reason.to_owned() }
    }

    fn too_large(self) -> RowFailure {
        RowFailure { key: self.key, position: self.position, code: "E_TOO_LARGE", reason: TOO_LARGE.to_owned() }
    }
}

/// Returns whether a row that was read again has no value outside its key, which means that PostgreSQL cannot send the
/// row.
fn has_key_alone(row: &Row, table: &Table) -> bool {
    let mut others = row.0.iter().enumerate().filter(|(index, _)| !table.key.contains(index)).peekable();
    others.peek().is_some() && others.all(|(_, cell)| *cell == Cell::Unchanged)
}

/// For how many rows the stored fields are read at a time: the fields of each may be large.
const STORED_ROWS: usize = 32;

/// Why a row without all its values is parked.
const NO_SOURCE: &str = "an update left a large value out that is not stored, or may be out of date there, and no `source.url` says where to read it";
pub(crate) const TOO_LARGE: &str =
    "PostgreSQL cannot send the row: as text it is longer than 1 GB, and so fits into no message";
const NOT_IN_SOURCE: &str = "an update left a value out that is not stored, and the table has no such column";

impl Writer {
    /// Fills in values that PostgreSQL did not send, from the stored point or else from the source.
    pub(super) async fn complete(
        &self,
        source: &dyn RowSource,
        entries: Vec<(RowKey, FinalRow)>,
        known: &Known,
        work: &mut Work,
    ) -> Result<Vec<CompleteRow>, PipelineError> {
        let transform = &self.collection.transform;
        let mut rows = Vec::with_capacity(entries.len());
        let (mut stored, mut missing) = (Vec::new(), Vec::new());
        for (key, FinalRow { table, position, state }) in entries {
            let RowState::Present { row, base } = state else {
                work.rows.push(self.target(&table, key, position, known));
                continue;
            };
            let id = self.id(&table, &key);
            let base = known.base(&base, id, &key).filter(|_| transform.may_be_stored(&table, &row));
            let incomplete = IncompleteRow { key, table, row, position };
            match base {
                Some(_) => stored.push((id, incomplete)),
                None => self.sort(incomplete, None, &mut rows, &mut missing),
            }
        }
        let mut stored = stored.into_iter();
        while !stored.as_slice().is_empty() {
            let some: Vec<_> = stored.by_ref().take(STORED_ROWS).collect();
            let ids: Vec<PointId> = some.iter().map(|(id, _)| *id).collect();
            let found = self.read(&ids, |sink, ids| sink.faithful(ids)).await?;
            let found: HashMap<PointId, StoredPoint> = found.into_iter().map(|point| (point.id, point)).collect();
            for (id, incomplete) in some {
                let point = found.get(&id).filter(|point| known.has(point));
                self.sort(incomplete, point, &mut rows, &mut missing);
            }
        }
        rows.extend(self.refetch(source, missing, known, work).await?);
        Ok(rows)
    }

    /// Adds the row to `rows` if it has all its values, with the help of its stored point. Otherwise adds it to
    /// `missing`.
    fn sort(
        &self,
        incomplete: IncompleteRow,
        stored: Option<&StoredPoint>,
        rows: &mut Vec<CompleteRow>,
        missing: &mut Vec<IncompleteRow>,
    ) {
        let IncompleteRow { key, table, row, position } = incomplete;
        let partial = row.is_partial().then(|| row.clone());
        match self.collection.transform.complete(&table, row, stored) {
            Completed::Row(values) => rows.push(CompleteRow { key, table, values, position }),
            Completed::Refetch => {
                let row = partial.unwrap_or_else(|| Row(Vec::new()));
                missing.push(IncompleteRow { key, table, row, position });
            }
        }
    }

    /// Reads rows again that cannot be completed otherwise. The row that is read may be newer than the change; the
    /// changes in between are still to come and end in the same state. If the row does not exist any more, one of them
    /// deletes it.
    async fn refetch(
        &self,
        source: &dyn RowSource,
        missing: Vec<IncompleteRow>,
        known: &Known,
        work: &mut Work,
    ) -> Result<Vec<CompleteRow>, PipelineError> {
        let mut rows = Vec::new();
        let mut rest = missing;
        while let Some(IncompleteRow { table, .. }) = rest.first() {
            let _timer = Timer::start(TimedStage::RowSource);
            let table = Arc::clone(table);
            let (same, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|other| other.table == table);
            rest = others;
            let keys: Vec<RowKey> = same.iter().map(|incomplete| incomplete.key.clone()).collect();
            // Only the needed columns: the others may be large.
            let needed = self.collection.transform.needed(&table);
            let Some(fetched) = source.rows(&needed, &keys) else {
                work.failed.extend(same.into_iter().map(|incomplete| incomplete.not_sent(NO_SOURCE)));
                continue;
            };
            let mut found: HashMap<RowKey, Row> = match fetched.await? {
                RowsAnswer::Found(rows) => rows.into_iter().collect(),
                RowsAnswer::NoTable(reason) => {
                    work.failed.extend(same.into_iter().map(|incomplete| incomplete.not_sent(&reason)));
                    continue;
                }
            };
            for incomplete in same {
                let Some(row) = found.remove(&incomplete.key) else {
                    work.rows.push(self.target(&table, incomplete.key, incomplete.position, known));
                    continue;
                };
                let is_too_large = has_key_alone(&row, &needed);
                let mut filled = incomplete.row.clone();
                filled.fill(arranged(row, &needed, &table));
                match self.collection.transform.complete(&table, filled, None) {
                    Completed::Row(values) => {
                        let IncompleteRow { key, table, position, .. } = incomplete;
                        rows.push(CompleteRow { key, table, values, position });
                    }
                    Completed::Refetch if is_too_large => work.failed.push(incomplete.too_large()),
                    Completed::Refetch => work.failed.push(incomplete.not_sent(NOT_IN_SOURCE)),
                }
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
