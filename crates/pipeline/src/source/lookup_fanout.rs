//! Finds the rows whose documents use a changed row of a looked-up table.
//!
//! This happens once per batch. It waits until a statement can see everything that was read of the stream, asks page by
//! page for the keys of the rows that look up something that has changed, and reads those rows again. They are at least
//! as new as anything read so far, and later changes are still to come, so they get the version of the last change of
//! the batch. Any later change of such a row, or of a row that it looks up, renders it once more.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use walvec_capture::{KeyPage, LookupSpec, Related};
use walvec_model::{Change, LookedUpChange, Lookup, Op, Position, Row, RowKey, Table, TableName, Touched, Value};

use crate::error::PipelineError;
use crate::observe::metrics::{TimedStage, Timer};
use crate::port::SourcePort;
use crate::shared::Shared;
use crate::source::unseen::Unseen;
use crate::writer::row_size::RowSize;

/// How many keys one page asks for.
const PAGE_KEYS: usize = 10_000;

/// What has changed in a looked-up table since the last batch.
#[derive(Debug, Default, PartialEq)]
enum Changed {
    #[default]
    Nothing,
    /// Rows with these values in the columns of `on`.
    Rows(HashSet<RowKey>),
    Everything,
}

/// A lookup of a main table, shared by all collections that have it.
#[derive(Debug)]
struct LookupRelation {
    main: TableName,
    lookup: Lookup,
    changed: Changed,
}

/// Gathers the changes of looked-up tables.
#[derive(Debug, Default)]
pub(crate) struct ChangedLookups {
    relations: Vec<LookupRelation>,
    /// The position of the last change that was read.
    reached: Position,
}

impl ChangedLookups {
    /// Creates an empty value for these lookups. Lookups that several collections share become one question.
    pub(crate) fn new(lookups: &[LookupSpec]) -> Self {
        let mut relations: Vec<LookupRelation> = Vec::new();
        for LookupSpec { main, lookup } in lookups {
            let is_same = |known: &LookupRelation| {
                (&known.main, &known.lookup.table, &known.lookup.on) == (main, &lookup.table, &lookup.on)
            };
            if !relations.iter().any(is_same) {
                relations.push(LookupRelation {
                    main: main.clone(),
                    lookup: lookup.clone(),
                    changed: Changed::Nothing,
                });
            }
        }
        Self { relations, ..Self::default() }
    }

    /// Notes the position of a change of any table.
    pub(crate) fn reach(&mut self, position: Position) {
        self.reached = self.reached.max(position);
    }

    /// Notes a change of a looked-up table.
    pub(crate) fn note(&mut self, change: &LookedUpChange) {
        self.reach(change.position);
        for relation in self.relations.iter_mut().filter(|relation| relation.lookup.table == change.table.name) {
            match &change.touched {
                Touched::All => relation.changed = Changed::Everything,
                Touched::Rows(rows) => rows.iter().for_each(|row| relation.note(&change.table, row)),
            }
        }
    }

    /// Returns how many values have to be asked for.
    pub(crate) fn len(&self) -> usize {
        let count = |relation: &LookupRelation| match &relation.changed {
            Changed::Nothing => 0,
            Changed::Rows(values) => values.len(),
            Changed::Everything => 1,
        };
        self.relations.iter().map(count).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what was gathered, once a statement sees everything that was read of the stream so far. Changes of
    /// looked-up tables alone are not enough: a main row that cannot be seen yet would not be found by what it looks
    /// up.
    pub(crate) async fn take(
        &mut self,
        source: &dyn SourcePort,
        tables: &[Arc<Table>],
        unseen: &Unseen,
        shared: &Shared,
    ) -> Result<AffectedRows, PipelineError> {
        if self.is_empty() {
            unseen.prune(source).await?;
            return Ok(AffectedRows::default());
        }
        unseen.seen(source, shared).await?;
        let mut questions = VecDeque::new();
        for relation in &mut self.relations {
            let values = match std::mem::take(&mut relation.changed) {
                Changed::Nothing => continue,
                Changed::Rows(values) if values.is_empty() => continue,
                Changed::Rows(values) => Some(values.into_iter().collect()),
                Changed::Everything => None,
            };
            let Some(table) = tables.iter().find(|table| table.name == relation.main) else { continue };
            questions.push_back(LookupQuery {
                table: Arc::clone(table),
                lookup: relation.lookup.clone(),
                values,
                after: None,
            });
        }
        Ok(AffectedRows { questions, position: self.reached, ..AffectedRows::default() })
    }
}

impl LookupRelation {
    fn note(&mut self, table: &Table, row: &Row) {
        let value = |(theirs, _): &(String, String)| row.0.get(table.column_index(theirs)?)?.value().cloned();
        let values: Option<Vec<_>> = self.lookup.on.iter().map(value).collect();
        match (&mut self.changed, values) {
            (Changed::Everything, _) => {}
            // Without the value, any row may be affected.
            (changed, None) => *changed = Changed::Everything,
            // NULL is equal to nothing.
            (_, Some(values)) if values.iter().any(Value::is_null) => {}
            (Changed::Rows(known), Some(values)) => drop(known.insert(RowKey::new(values))),
            (changed @ Changed::Nothing, Some(values)) => {
                *changed = Changed::Rows(HashSet::from([RowKey::new(values)]))
            }
        }
    }
}

/// A query for the rows of a table that look up something that has changed.
#[derive(Debug)]
struct LookupQuery {
    table: Arc<Table>,
    lookup: Lookup,
    /// The changed values; `None`: any value.
    values: Option<Vec<RowKey>>,
    /// The last key of the previous page.
    after: Option<RowKey>,
}

/// The rows to render again.
#[derive(Debug, Default)]
pub(crate) struct AffectedRows {
    questions: VecDeque<LookupQuery>,
    position: Position,
    /// Keys that were found and not read yet.
    found: Option<(Arc<Table>, VecDeque<RowKey>)>,
    row_size: RowSize,
}

impl AffectedRows {
    /// Returns the next rows as they are now, of one table and at most `count`; `None` at the end. A row that has been
    /// deleted meanwhile is left out: its deletion is still to come.
    pub(crate) async fn next(
        &mut self,
        source: &dyn SourcePort,
        count: usize,
    ) -> Result<Option<Vec<Change>>, PipelineError> {
        loop {
            if let Some((table, keys)) = &mut self.found {
                let count = count.min(self.row_size.rows_at_once());
                let some: Vec<RowKey> = keys.drain(..keys.len().min(count)).collect();
                if !some.is_empty() {
                    let _timer = Timer::start(TimedStage::RowSource);
                    let rows = source.fetch_rows(table, &some).await?;
                    self.row_size.learn(rows.len(), rows.iter().map(|(_, row)| row.weight()).sum());
                    let change = |row| Change {
                        table: Arc::clone(table),
                        position: self.position,
                        op: Op::Update { old_key: None, new: row },
                    };
                    return Ok(Some(rows.into_iter().map(|(_, row)| change(row)).collect()));
                }
            }
            let Some(question) = self.questions.front_mut() else { return Ok(None) };
            let keys = question.ask(source).await?;
            let table = Arc::clone(&question.table);
            if keys.len() < PAGE_KEYS {
                self.questions.pop_front();
            } else {
                question.after = keys.last().cloned();
            }
            self.found = Some((table, keys.into()));
        }
    }
}

impl LookupQuery {
    async fn ask(&self, source: &dyn SourcePort) -> Result<Vec<RowKey>, PipelineError> {
        let _timer = Timer::start(TimedStage::Relate);
        let changed = self.values.as_deref().map_or(Related::ToAny, Related::To);
        Ok(source
            .related_keys(
                &self.table.name,
                &self.lookup,
                &changed,
                KeyPage { after: self.after.as_ref(), limit: PAGE_KEYS },
            )
            .await?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use walvec_model::{Cell, Column, Lsn, Take};

    use super::*;

    fn gathered() -> ChangedLookups {
        let lookup = |name: &str, column: &str| LookupSpec {
            main: TableName::new("public", "books"),
            lookup: Lookup {
                name: name.to_owned(),
                table: TableName::new("public", "reviews"),
                on: vec![(column.to_owned(), "id".to_owned())],
                take: Take::One,
            },
        };
        ChangedLookups::new(&[lookup("a", "book"), lookup("b", "book"), lookup("c", "other")])
    }

    fn change(touched: Touched) -> LookedUpChange {
        let column = |name: &str| Column::new(name, "int", 23);
        let columns = ["id", "book", "other"].map(column).to_vec();
        let table = Table { name: TableName::new("public", "reviews"), columns, key: vec![0] };
        LookedUpChange { table: Arc::new(table), position: Position { commit_lsn: Lsn(5), ordinal: 2 }, touched }
    }

    fn row(values: &[Value]) -> Row {
        Row(values.iter().cloned().map(Cell::Value).collect())
    }

    fn rows(values: &[i32]) -> Changed {
        Changed::Rows(values.iter().map(|value| RowKey::new(vec![json!(value)])).collect())
    }

    #[test]
    fn the_rows_of_before_and_after_are_both_affected_and_each_is_asked_for_once() {
        let mut gathered = gathered();
        let moved = vec![row(&[json!(1), json!(7), json!(null)]), row(&[json!(1), json!(8), json!(9)])];
        gathered.note(&change(Touched::Rows(moved.clone())));
        gathered.note(&change(Touched::Rows(moved)));
        let changed: Vec<&Changed> = gathered.relations.iter().map(|relation| &relation.changed).collect();
        assert_eq!(changed, [&rows(&[7, 8]), &rows(&[9])], "what two collections look up alike is one question");
        assert_eq!((gathered.len(), gathered.reached.ordinal), (3, 2));
    }

    #[test]
    fn a_row_that_belongs_to_nothing_asks_for_nothing() {
        let mut gathered = gathered();
        gathered.note(&change(Touched::Rows(vec![row(&[json!(1), json!(null), json!(null)])])));
        assert!(gathered.is_empty());
    }

    #[test]
    fn without_its_value_a_change_concerns_every_row() {
        let mut gathered = gathered();
        let unknown = Row(vec![Cell::Value(json!(1)), Cell::Unchanged, Cell::Value(json!(1))]);
        gathered.note(&change(Touched::Rows(vec![unknown])));
        assert_eq!(gathered.relations[0].changed, Changed::Everything);
        gathered.note(&change(Touched::All));
        assert_eq!(gathered.relations[1].changed, Changed::Everything);
        gathered.note(&change(Touched::Rows(vec![row(&[json!(1), json!(7), json!(7)])])));
        assert_eq!(gathered.len(), 2, "everything stays everything");
    }
}
