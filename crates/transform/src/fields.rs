//! The fields of a payload: what is stored in them, which index serves them, and what filters compare them with.

use std::fmt;
use std::sync::Arc;

use walvec_model::types::IndexType;
use walvec_model::{Column, Table, Type};

use crate::error::TransformError;
use crate::names::nearest;
use crate::transform::Transform;

/// A payload field, as filters see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What filters compare it with.
    pub compared: Compared,
    /// The type of the column; unknown for a computed field.
    pub ty: Type,
}

/// What filters compare a field with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// `true` or `false`.
    Boolean,
    /// Whole numbers.
    Whole,
    /// Numbers.
    Number,
    /// The text of a `numeric`, with this number of digits after the decimal point if the column declares one.
    Digits(Option<i16>),
    /// Texts, which have to be equal.
    Text,
    /// UUIDs.
    Uuid,
    /// Dates, with or without a time.
    Moment,
    /// Values of any type. Their members are reached by a path.
    Json,
    /// Anything. What the field holds is not known before it is rendered.
    Any,
}

impl Compared {
    /// Returns whether a range can match such a field.
    #[must_use]
    pub const fn has_order(self) -> bool {
        matches!(self, Self::Whole | Self::Number | Self::Moment | Self::Json | Self::Any)
    }

    fn of(ty: &Type, index: Option<IndexType>) -> Self {
        match (ty.scalar(), index) {
            (Type::Numeric { .. }, Some(index)) if index.is_number() => Self::indexed(index),
            (Type::Numeric { scale }, _) => Self::Digits(*scale),
            (Type::Boolean, _) => Self::Boolean,
            (Type::Integer, _) => Self::Whole,
            (Type::Float, _) => Self::Number,
            (Type::Text, Some(IndexType::Datetime)) => Self::Moment,
            (Type::Text | Type::Enum | Type::Printed, _) => Self::Text,
            (Type::Uuid, _) => Self::Uuid,
            (Type::Date | Type::Timestamp, _) => Self::Moment,
            (Type::Json, _) => Self::Json,
            (Type::Unknown | Type::Array(_), index) => index.map_or(Self::Any, Self::indexed),
        }
    }

    /// Returns what filters compare a field with, if only its index is known.
    const fn indexed(index: IndexType) -> Self {
        match index {
            IndexType::Keyword | IndexType::Text => Self::Text,
            IndexType::Integer => Self::Whole,
            IndexType::Float => Self::Number,
            IndexType::Bool => Self::Boolean,
            IndexType::Datetime => Self::Moment,
            IndexType::Uuid => Self::Uuid,
        }
    }
}

/// Formats the kind of value as messages name it.
impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "true or false",
            Self::Whole => "whole number",
            Self::Number => "number",
            Self::Digits(_) => "numeric, stored as text",
            Self::Text => "text",
            Self::Uuid => "UUID",
            Self::Moment => "date or time",
            Self::Json => "JSON",
            Self::Any => "anything",
        })
    }
}

impl Transform {
    /// Returns the columns of the table as it was last seen, with their types; `None` if the table was not seen yet.
    #[must_use]
    pub fn columns_seen(&self) -> Option<Vec<(String, Type)>> {
        let columns = self.shape_seen()?.columns.clone();
        Some(columns.into_iter().map(|column| (column.name, column.ty)).collect())
    }

    /// Returns the index type of a field, or of a member of a field, by its name in the configuration.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<IndexType> {
        self.spec().indexes.iter().find(|(field, _)| field == name).map(|(_, index)| *index)
    }

    /// Returns the fields of the payload, given the table's columns.
    #[must_use]
    pub fn fields(&self, columns: &[(String, Type)]) -> Vec<Field> {
        let field = |name: &str, ty: Type| {
            let compared = Compared::of(&ty, self.index(name));
            Field { name: name.to_owned(), compared, ty }
        };
        let stored = columns.iter().filter(|(name, _)| self.stores(name));
        let stored = stored.map(|(name, ty)| field(name, ty.clone()));
        let computed = self.spec().computed.iter().map(|(name, _)| field(name, Type::Unknown));
        let text = |name: &str| Field { name: name.to_owned(), compared: Compared::Text, ty: Type::Text };
        let chunk = self.chunk_field().map(text);
        stored.chain(computed).chain(chunk).collect()
    }

    /// Checks the table with [`check`](Self::check) and the looked-up tables with [`check_lookups`](Self::check_lookups). Also
    /// checks that there is a field for each index; the table of a single record need not have one.
    ///
    /// # Errors
    /// Returns the errors of [`check`](Self::check) and [`check_lookups`](Self::check_lookups), and [`TransformError::Index`].
    pub fn check_among(&self, table: &Table, tables: &[Arc<Table>]) -> Result<(), TransformError> {
        self.check(table)?;
        self.check_indexes(table)?;
        self.check_lookups(tables)
    }

    /// Checks that every index has a field, of a type that the index can serve.
    fn check_indexes(&self, table: &Table) -> Result<(), TransformError> {
        let columns: Vec<(String, Type)> =
            table.columns.iter().map(|column| (column.name.clone(), column.ty.clone())).collect();
        let fields = self.fields(&columns);
        let refused = |field: &str, reason: String| TransformError::Index {
            table: table.name.clone(),
            field: field.to_owned(),
            reason,
        };
        for (name, index) in &self.spec().indexes {
            let column = table.columns.iter().find(|column| column.name == *name && self.stores(name));
            if let Some(column) = column {
                check_type(column, *index).map_err(|reason| refused(name, reason))?;
                continue;
            }
            if fields.iter().any(|field| field.name == *name) {
                continue;
            }
            let first = name.split(['.', '[']).next().unwrap_or(name);
            match fields.iter().find(|field| field.name == first && first != name) {
                Some(Field { compared: Compared::Json | Compared::Any, .. }) => {}
                Some(Field { compared, .. }) => {
                    let reason = format!("names a member of \"{first}\", which holds no JSON: it is {compared}");
                    return Err(refused(name, reason));
                }
                None => return Err(refused(name, unknown(name, &fields))),
            }
        }
        Ok(())
    }
}

fn unknown(name: &str, fields: &[Field]) -> String {
    let names = || fields.iter().map(|field| field.name.as_str());
    let suggestion = nearest(name, names()).map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default();
    format!("names no field of the payload{suggestion}; there are: {}", names().collect::<Vec<_>>().join(", "))
}

/// Returns an error with what to write instead if the index would find nothing in the column.
fn check_type(column: &Column, index: IndexType) -> Result<(), String> {
    let Column { name, type_name, ty, .. } = column;
    let served = ty.indexes();
    if served.contains(&index) {
        return Ok(());
    }
    let declared = if type_name.is_empty() { ty.to_string() } else { type_name.clone() };
    let list: Vec<String> = served.iter().map(IndexType::to_string).collect();
    let mut reason = format!("is {index}, and the column is {declared}: write {}", list.join(" or "));
    let filter = match index {
        IndexType::Integer => Some("int"),
        IndexType::Float => Some("float"),
        _ => None,
    };
    if let (Some(filter), Type::Text | Type::Printed | Type::Enum) = (filter, ty) {
        reason.push_str(&format!(
            ", or make it a number where every text is one: computed: {{ {name}: \"{{{{ {name}|{filter} }}}}\" }}"
        ));
    }
    Err(reason)
}
