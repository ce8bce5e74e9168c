//! Turns a row into its document.
//!
//! - `check`: whether a table has what the specification names
//! - `complete`: the values of a row that were not sent

mod check;
mod complete;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

pub use complete::Completed;
use minijinja::value::Value as Rendered;
use walvec_model::point::{MAX_NESTING, limit_nesting};
use walvec_model::{Document, IndexType, InputHash, Lookup, Payload, PointId, RowKey, Table, TableName, Value};

use crate::absent::Absences;
use crate::chunk::{Chunker, MAX_CHUNKS};
use crate::error::TransformError;
use crate::layout::PayloadLayout;
use crate::point_id;
use crate::shape::{ColumnPlan, RowContext, uses_null};
use crate::template::{SyntaxError, Template};
use crate::values::Types;
use crate::{indexed, lookup};

/// The upper bound for a number of chunks that a stored point claims. No row has more, whichever program wrote the point.
#[expect(clippy::cast_possible_truncation, reason = "a small number")]
const MOST_STORED: u32 = MAX_CHUNKS as u32;

/// How the rows of one table become documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformSpec {
    /// The table.
    pub table: TableName,
    /// Whether several tables write to the collection. If so, ids are always derived, so that row 7 of one table never
    /// overwrites row 7 of another.
    pub shared: bool,
    /// The template of the text to embed.
    pub text: String,
    /// The columns to store as payload; `None` for every published column.
    pub payload: Option<Vec<String>>,
    /// Further payload fields, each with its name and template. A computed field replaces the column of the same name.
    pub computed: Vec<(String, String)>,
    /// How the payload is laid out.
    pub layout: PayloadLayout,
    /// Rows of other tables that the text is rendered with.
    pub lookups: Vec<Lookup>,
    /// Which fields of the payload are indexed, and with which index type. A field that is indexed as a number is
    /// stored as one.
    pub indexes: Vec<(String, IndexType)>,
}

/// A compiled [`TransformSpec`]. It is cheap to share and can be used from several threads.
#[derive(Debug)]
pub struct Transform {
    spec: TransformSpec,
    text: Template,
    computed: Vec<(String, Template)>,
    chunker: Option<Chunker>,
    /// The last shape that was seen. A table keeps its shape for millions of rows.
    shape: RwLock<Option<Arc<ColumnPlan>>>,
    /// The column types of looked-up tables, as far as those tables were seen.
    lookup_types: RwLock<Arc<[Arc<Types>]>>,
}

impl Transform {
    /// Compiles a specification.
    ///
    /// # Errors
    /// [`TransformError::Template`] if a template cannot be compiled.
    pub fn new(spec: TransformSpec) -> Result<Self, TransformError> {
        let compile = |(name, source): &(String, String)| {
            let field = format!("computed.{name}");
            let template = Template::value(&field, source).map_err(|error| located(&spec.table, &field, error))?;
            Ok((name.clone(), template))
        };
        let text = Template::text("text", &spec.text).map_err(|error| located(&spec.table, "text", error))?;
        let computed = spec.computed.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { spec, text, computed, chunker: None, shape: RwLock::default(), lookup_types: RwLock::default() })
    }

    /// Returns the transform, changed so that it cuts each text into chunks.
    #[must_use]
    pub fn in_chunks(self, chunker: Chunker) -> Self {
        Self { chunker: Some(chunker), ..self }
    }

    /// Checks that `table` has every column that the specification names.
    ///
    /// # Errors
    /// Returns [`TransformError::UnknownColumn`] or [`TransformError::ReservedField`].
    pub fn check(&self, table: &Table) -> Result<(), TransformError> {
        self.shape(table).map(|_| ())
    }

    /// Returns the payload fields that are columns, in the order of the payload, each with its type as SQL names it.
    /// `None` if the table was not seen yet.
    #[must_use]
    pub fn stored_columns(&self) -> Option<Vec<(String, String)>> {
        let shape = self.shape.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let type_of =
            |index: usize| shape.columns.get(index).map(|column| column.type_name.clone()).unwrap_or_default();
        let column = |(name, index): &(String, usize)| (name.clone(), type_of(*index));
        Some(shape.payload.iter().map(column).collect())
    }

    /// Returns the id under which the row, or its first chunk, is stored. The rules are in [`point_id`](mod@point_id).
    #[must_use]
    pub fn point_id(&self, table: &Table, key: &RowKey) -> PointId {
        match self.chunker {
            Some(_) => point_id::chunk_id(&table.name, key, 0),
            None => point_id::point_id(table, key, self.spec.shared),
        }
    }

    /// Returns the ids of the row's further chunks, up to `chunks` in all.
    pub fn further_ids(&self, table: &TableName, key: &RowKey, chunks: u32) -> impl Iterator<Item = PointId> {
        let chunks = if self.chunker.is_some() { chunks.min(MOST_STORED) } else { 1 };
        (1..chunks).map(move |chunk| point_id::chunk_id(table, key, chunk))
    }

    /// Returns the names of all columns that the specification may use, whichever the table has; `None` if it may use any.
    #[must_use]
    pub fn columns(&self) -> Option<BTreeSet<String>> {
        let mut names: BTreeSet<String> = self.spec.payload.as_ref()?.iter().cloned().collect();
        for template in self.templates() {
            names.extend(template.names.names()?.cloned());
        }
        names.extend(self.spec.lookups.iter().flat_map(|lookup| &lookup.on).map(|(_, ours)| ours.clone()));
        Some(names)
    }

    /// Returns the table with its key and only those of the other columns that the specification uses.
    #[must_use]
    pub fn needed(&self, table: &Table) -> Table {
        table.reduced(|column| self.needs(&column.name))
    }

    /// Renders a row whose values are complete. Returns its document, or one document for each chunk, in order.
    ///
    /// # Errors
    /// Returns [`TransformError::Render`] if a template fails on this row, or the row has too many chunks. Returns the
    /// errors of [`new`](Self::new) and [`check`](Self::check) if the table has changed its shape, or a filter that
    /// does not exist is reached only now.
    pub fn render(&self, table: &Table, key: &RowKey, values: &[Value]) -> Result<Vec<Document>, TransformError> {
        self.render_joined(table, key, values, &[])
    }

    /// Renders a row together with the rows that it looks up: for each of [`lookups`](Self::lookups) an object, NULL,
    /// or a list of objects.
    ///
    /// # Errors
    /// Returns the errors of [`render`](Self::render).
    pub fn render_joined(
        &self,
        table: &Table,
        key: &RowKey,
        values: &[Value],
        looked_up: &[Arc<Value>],
    ) -> Result<Vec<Document>, TransformError> {
        debug_assert_eq!(values.len(), table.columns.len(), "a complete row has a value for each column");
        let shape = self.shape(table)?;
        let context = |absences: Option<&Absences>| Rendered::from_object(RowContext::new(&shape, values, absences));
        let failed = |template: &Template, error: &minijinja::Error| match template.mistake(error) {
            Some(mistake) => located(&table.name, &template.field, mistake),
            None => TransformError::Render {
                table: table.name.clone(),
                key: key.to_string(),
                field: template.field.clone(),
                reason: template
                    .reason(error, |absences| self.joined(&context(Some(absences)), looked_up, Some(absences))),
            },
        };
        let row = context(None);
        let text =
            self.text.render_text(self.joined(&row, looked_up, None)).map_err(|error| failed(&self.text, &error))?;
        let mut fields: Payload = shape.payload.iter().map(|(name, i)| (name.clone(), value_at(values, *i))).collect();
        for (name, template) in &self.computed {
            let value = match template.render_value(row.clone()) {
                Err(error) if template.is_operand_error(&error) && uses_null(&shape, template, values) => Value::Null,
                result => result.map_err(|error| failed(template, &error))?,
            };
            fields.insert(name.clone(), value);
        }
        indexed::store_numbers(&self.spec.indexes, &mut fields);
        fields.values_mut().for_each(|field| limit_nesting(field, MAX_NESTING));
        Ok(self.documents((table, key), &self.pieces((table, key), &text)?, fields))
    }

    /// Cuts the text of a row into its chunks.
    fn pieces<'a>(&'a self, (table, key): (&Table, &RowKey), text: &'a str) -> Result<Vec<&'a str>, TransformError> {
        let Some(chunker) = &self.chunker else { return Ok(vec![text]) };
        chunker.split(text).map_err(|error| TransformError::Render {
            table: table.name.clone(),
            key: key.to_string(),
            field: self.text.field.clone(),
            reason: error.to_string(),
        })
    }

    /// Makes a document of each piece of a row's text.
    fn documents(&self, (table, key): (&Table, &RowKey), pieces: &[&str], fields: Payload) -> Vec<Document> {
        debug_assert!(!pieces.is_empty(), "a row has a document");
        let row = self.point_id(table, key);
        let chunks = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let ids = std::iter::once(row).chain(self.further_ids(&table.name, key, chunks));
        // The last document takes the fields; the ones before it get copies.
        let fields = std::iter::repeat_n(fields, pieces.len());
        let document = |(chunk, ((id, piece), mut fields)): (u32, ((PointId, &&str), Payload))| {
            if let Some(name) = self.chunk_field() {
                fields.insert(name.to_owned(), (*piece).into());
            }
            Document {
                id,
                table: table.name.clone(),
                key: key.clone(),
                text: (*piece).to_owned(),
                input_hash: InputHash::of(piece),
                payload: self.spec.layout.lay_out(id, row, piece, fields),
                chunk,
                chunks,
            }
        };
        (0..).zip(ids.zip(pieces).zip(fields)).map(document).collect()
    }

    /// Returns the lookups that the text uses.
    #[must_use]
    pub fn lookups(&self) -> &[Lookup] {
        &self.spec.lookups
    }

    /// Checks that the text uses no missing column of a looked-up table, as far as rendering one row of each can show that.
    ///
    /// # Errors
    /// Returns [`TransformError::UnknownColumn`].
    pub fn check_lookups(&self, tables: &[Arc<Table>]) -> Result<(), TransformError> {
        let types = lookup::types(&self.spec.lookups, tables).into();
        *self.lookup_types.write().unwrap_or_else(PoisonError::into_inner) = types;
        lookup::check(&self.text, &self.spec.lookups, tables)
    }

    fn joined(&self, row: &Rendered, looked_up: &[Arc<Value>], absences: Option<&Absences>) -> Rendered {
        match self.spec.lookups.as_slice() {
            [] => row.clone(),
            lookups => {
                let types = Arc::clone(&self.lookup_types.read().unwrap_or_else(PoisonError::into_inner));
                lookup::joined(row, lookups, looked_up, &types, absences)
            }
        }
    }

    /// Returns the payload field that holds a chunk's text; `None` if there are no chunks, or the layout has a place
    /// for the text.
    pub(crate) fn chunk_field(&self) -> Option<&str> {
        let chunker = self.chunker.as_ref()?;
        (!self.spec.layout.holds_text()).then_some(&chunker.spec.field)
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        std::iter::once(&self.text).chain(self.computed.iter().map(|(_, template)| template))
    }

    /// Returns the columns that the configuration lists for the payload.
    #[must_use]
    pub fn named_columns(&self) -> Vec<String> {
        self.spec.payload.iter().flatten().filter(|name| self.stores(name)).cloned().collect()
    }

    fn is_computed(&self, field: &str) -> bool {
        self.computed.iter().any(|(name, _)| name == field)
    }

    /// Returns whether the column's value is stored under its name.
    pub(crate) fn stores(&self, column: &str) -> bool {
        let selected = self.spec.payload.as_ref().is_none_or(|names| names.iter().any(|name| name == column));
        selected && !self.is_computed(column)
    }

    pub(crate) fn spec(&self) -> &TransformSpec {
        &self.spec
    }

    /// Returns the shape that was seen last.
    pub(crate) fn shape_seen(&self) -> Option<Arc<ColumnPlan>> {
        self.shape.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reaches(&self, column: &str) -> bool {
        self.templates().any(|template| template.names.reaches(column))
    }

    fn needs(&self, column: &str) -> bool {
        let joins = |lookup: &Lookup| lookup.on.iter().any(|(_, ours)| ours == column);
        self.stores(column) || self.reaches(column) || self.spec.lookups.iter().any(joins)
    }

    /// Returns the shape of `table`, which is checked when it is first seen.
    fn shape(&self, table: &Table) -> Result<Arc<ColumnPlan>, TransformError> {
        if let Some(shape) = self.shape_seen().filter(|shape| shape.is_of(table)) {
            return Ok(shape);
        }
        let shape = Arc::new(self.new_shape(table)?);
        *self.shape.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&shape));
        Ok(shape)
    }
}

fn located(table: &TableName, field: &str, error: SyntaxError) -> TransformError {
    TransformError::Template {
        table: table.clone(),
        field: field.to_owned(),
        line: error.line,
        column: error.column,
        reason: format!("{}\n{}", error.reason, error.snippet),
    }
}

fn value_at(values: &[Value], index: usize) -> Value {
    values.get(index).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests;
