//! Rows of other tables, as the text's template sees them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, Value as Rendered};
use walvec_model::{Lookup, Table, Take, Value};

use crate::absent::{Absences, WatchedValue};
use crate::error::TransformError;
use crate::names::unknown_column;
use crate::template::Template;
use crate::values::{self, Types};

/// A row together with the rows that it looks up. `row` is the row alone.
#[derive(Debug)]
struct JoinedRow {
    row: Rendered,
    looked_up: BTreeMap<String, Rendered>,
    /// Records the lookups that found nothing, when the template looks at them.
    absences: Option<Absences>,
}

impl Object for JoinedRow {
    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        match self.looked_up.get(key.as_str()?) {
            Some(found) => {
                if let Some(absences) = self.absences.as_ref().filter(|_| values::is_absent(found)) {
                    WatchedValue::variable(key.as_str()?, absences).found_no_row();
                }
                Some(found.clone())
            }
            None => self.row.as_object()?.get_value(key),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let columns = self.row.try_iter().into_iter().flatten();
        Enumerator::Values(columns.chain(self.looked_up.keys().map(|name| Rendered::from(name.as_str()))).collect())
    }
}

/// Returns `row` with a value for each lookup. A missing value is NULL, or an empty list. `types` holds the column
/// types of each lookup's table, as far as they are known.
pub(crate) fn joined(
    row: &Rendered,
    lookups: &[Lookup],
    looked_up: &[Arc<Value>],
    types: &[Arc<Types>],
    absences: Option<&Absences>,
) -> Rendered {
    let value = |(number, lookup): (usize, &Lookup)| {
        let value = match (looked_up.get(number), &lookup.take) {
            (Some(found), _) => {
                let watch = absences.map(|absences| WatchedValue::variable(&lookup.name, absences));
                let unknown = Arc::default();
                values::from_rows(found, types.get(number).unwrap_or(&unknown), watch)
            }
            (None, Take::One) => values::null(),
            (None, Take::Many { .. }) => Rendered::from(Vec::<Rendered>::new()),
        };
        (lookup.name.clone(), value)
    };
    let looked_up = lookups.iter().enumerate().map(value).collect();
    Rendered::from_object(JoinedRow { row: row.clone(), looked_up, absences: absences.cloned() })
}

/// Returns the column types of each lookup's table.
pub(crate) fn types(lookups: &[Lookup], tables: &[Arc<Table>]) -> Vec<Arc<Types>> {
    let of_table = |table: &Arc<Table>| {
        table.columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect::<Types>()
    };
    let of = |lookup: &Lookup| tables.iter().find(|table| table.name == lookup.table).map(of_table);
    lookups.iter().map(|lookup| Arc::new(of(lookup).unwrap_or_default())).collect()
}

/// The first name that is not a column of a looked-up table.
type Unknown = Arc<Mutex<Option<(Arc<Table>, String)>>>;

/// A row of which every column is NULL, and which records names that are not columns.
#[derive(Debug)]
struct SampleRow {
    table: Arc<Table>,
    unknown: Unknown,
}

impl Object for SampleRow {
    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        let name = key.as_str()?;
        if self.table.column_index(name).is_none() {
            let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            unknown.get_or_insert_with(|| (Arc::clone(&self.table), name.to_owned()));
        }
        Some(values::null())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.table.columns.iter().map(|column| Rendered::from(column.name.as_str())).collect())
    }
}

/// Checks that the looked-up tables have the columns that lookups name. Without such a column a lookup would find
/// nothing, and the source could only answer that it does not know the column.
///
/// Then renders a row of NULLs that looks up one row of each table, and records which of their columns are used. This
/// does not reach what is behind a condition that does not hold for NULL: a missing column there renders as nothing.
pub(crate) fn check(text: &Template, lookups: &[Lookup], tables: &[Arc<Table>]) -> Result<(), TransformError> {
    for lookup in lookups {
        let Some(table) = tables.iter().find(|table| table.name == lookup.table) else { continue };
        let on = lookup.on.iter().map(|(theirs, _)| ("on", theirs));
        let mut named = on.chain(lookup.order().iter().map(|by| ("order", &by.column)));
        if let Some((key, column)) = named.find(|(_, column)| table.column_index(column).is_none()) {
            return Err(unknown_column(table, &format!("lookup.{}.{key}", lookup.name), column));
        }
    }
    let unknown = Unknown::default();
    let sample = |lookup: &Lookup| {
        let table = tables.iter().find(|table| table.name == lookup.table)?;
        let row = Rendered::from_object(SampleRow { table: Arc::clone(table), unknown: Arc::clone(&unknown) });
        let value = match lookup.take {
            Take::One => row,
            Take::Many { .. } => Rendered::from(vec![row]),
        };
        Some((lookup.name.clone(), value))
    };
    let looked_up = lookups.iter().filter_map(sample).collect();
    // An error of the rendering does not matter here: some templates cannot be rendered with NULLs.
    let joined = JoinedRow { row: values::row_of_nulls(), looked_up, absences: None };
    let _ = text.render_text(Rendered::from_object(joined));
    let found = unknown.lock().unwrap_or_else(PoisonError::into_inner).take();
    match found {
        Some((table, column)) => Err(unknown_column(&table, &text.field, &column)),
        None => Ok(()),
    }
}
