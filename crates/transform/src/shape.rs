//! What a table's columns mean to a transform, and a row as its templates see it.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, Value as Rendered};
use walvec_model::{Table, Value};

use crate::template::Template;
use crate::values;

/// The variable under which templates reach the whole row.
pub(crate) const ROW: &str = "row";

/// What a [`Transform`] needs of a table's columns.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) columns: Vec<String>,
    /// Payload fields that are columns, with their indexes.
    pub(crate) payload: Vec<(String, usize)>,
    /// Columns that templates can reach, with their indexes. Only these are converted for the template engine.
    pub(crate) reachable: Vec<(String, usize)>,
}

impl Shape {
    pub(crate) fn is_of(&self, table: &Table) -> bool {
        self.columns.iter().eq(table.columns.iter().map(|column| &column.name))
    }
}

/// A row as templates see it.
#[derive(Debug)]
pub(crate) struct RowContext {
    shape: Arc<Shape>,
    /// In the order of [`Shape::reachable`].
    values: Vec<Rendered>,
}

impl RowContext {
    pub(crate) fn new(shape: &Arc<Shape>, values: &[Value]) -> Self {
        let value = |(_, index): &(String, usize)| values.get(*index).map_or_else(values::null, values::from_json);
        Self { values: shape.reachable.iter().map(value).collect(), shape: Arc::clone(shape) }
    }
}

impl Object for RowContext {
    fn get_value(self: &Arc<Self>, key: &Rendered) -> Option<Rendered> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Rendered> {
        match self.shape.reachable.iter().position(|(name, _)| name == key) {
            Some(position) => self.values.get(position).cloned(),
            None => (key == ROW).then(|| Rendered::from_dyn_object(Arc::clone(self))),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.shape.reachable.iter().map(|(name, _)| Rendered::from(name.as_str())).collect())
    }
}

/// The columns that `template` can reach and that are NULL in this row.
fn null_columns<'a>(shape: &'a Shape, template: &'a Template, values: &'a [Value]) -> impl Iterator<Item = &'a str> {
    let is_null = |index: usize| values.get(index).is_none_or(Value::is_null);
    let reachable = shape.reachable.iter().filter(move |(name, index)| template.names.reaches(name) && is_null(*index));
    reachable.map(|(name, _)| name.as_str())
}

pub(crate) fn uses_null(shape: &Shape, template: &Template, values: &[Value]) -> bool {
    null_columns(shape, template, values).next().is_some()
}

/// A hint at the commonest reason why a template fails on some rows only.
pub(crate) fn nulls(shape: &Shape, template: &Template, values: &[Value]) -> String {
    let names: Vec<_> = null_columns(shape, template, values).collect();
    let Some(example) = names.first() else { return String::new() };
    format!("; NULL in this row: {}; where that matters write {{% if {example} is not none %}}", names.join(", "))
}
