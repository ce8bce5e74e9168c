//! What a transform needs of a table's columns, and a row as its templates see it.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, Value as Rendered};
use walvec_model::{Column, Table, Type, Value};

use crate::absent::{Absences, WatchedValue};
use crate::names::{ALWAYS_ROW, ROW};
use crate::template::Template;
use crate::values;

/// What a [`Transform`](crate::Transform) needs of a table's columns.
#[derive(Debug)]
pub(crate) struct ColumnPlan {
    pub(crate) columns: Vec<Column>,
    /// The payload fields that are columns, with the columns' indexes.
    pub(crate) payload: Vec<(String, usize)>,
    /// The columns that templates can reach, with their indexes and types. Only these are converted for the template engine.
    pub(crate) reachable: Vec<(String, usize, Type)>,
    /// For each column, whether the key, the payload, a template or a lookup uses it.
    pub(crate) needed: Vec<bool>,
}

impl ColumnPlan {
    pub(crate) fn is_of(&self, table: &Table) -> bool {
        let same = |(own, other): (&Column, &Column)| {
            own.name == other.name && own.ty == other.ty && own.type_name == other.type_name
        };
        self.columns.len() == table.columns.len() && self.columns.iter().zip(&table.columns).all(same)
    }
}

/// A row as templates see it.
#[derive(Debug)]
pub(crate) struct RowContext {
    shape: Arc<ColumnPlan>,
    /// The values, in the order of [`ColumnPlan::reachable`].
    values: Vec<Rendered>,
    /// Records the NULLs that the template looks at.
    absences: Option<Absences>,
}

impl RowContext {
    pub(crate) fn new(shape: &Arc<ColumnPlan>, values: &[Value], absences: Option<&Absences>) -> Self {
        let value = |(name, index, ty): &(String, usize, Type)| {
            let watch = absences.map(|absences| WatchedValue::variable(name, absences));
            values.get(*index).map_or_else(values::null, |value| values::from_typed(value, ty, watch))
        };
        let values = shape.reachable.iter().map(value).collect();
        Self { values, shape: Arc::clone(shape), absences: absences.cloned() }
    }
}

impl Object for RowContext {
    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Rendered> {
        match self.shape.reachable.iter().position(|(name, ..)| name == key) {
            Some(position) => {
                let value = self.values.get(position)?;
                if let Some(absences) = self.absences.as_ref().filter(|_| values::is_absent(value)) {
                    WatchedValue::variable(key, absences).is_null();
                }
                Some(value.clone())
            }
            None => (key == ROW || key == ALWAYS_ROW).then(|| Rendered::from_dyn_object(Arc::clone(self))),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.shape.reachable.iter().map(|(name, ..)| Rendered::from(name.as_str())).collect())
    }
}

/// Returns whether the template can reach a column that is NULL in this row.
pub(crate) fn uses_null(shape: &ColumnPlan, template: &Template, values: &[Value]) -> bool {
    let is_null = |index: usize| values.get(index).is_none_or(Value::is_null);
    shape.reachable.iter().any(|(name, index, _)| template.names.reaches(name) && is_null(*index))
}
