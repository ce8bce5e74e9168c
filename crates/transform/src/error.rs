//! Errors between a row and its document.

use walvec_model::TableName;

/// An error of the transform stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// A template that cannot be compiled.
    #[error("{table}: {field}, line {line}, column {column}: {reason}")]
    Template {
        /// The table that the template is for.
        table: TableName,
        /// `text`, or `computed.` and the field's name.
        field: String,
        /// The line inside the template, from 1.
        line: usize,
        /// The column inside the line, in characters, from 1.
        column: usize,
        /// What is wrong, followed on separate lines by the source line and a mark under the column.
        reason: String,
    },
    /// A template or the payload names a column that the table does not publish.
    #[error("{table}: {field} uses column \"{column}\", which the table does not have{hint}")]
    UnknownColumn {
        /// The table.
        table: TableName,
        /// `text`, `payload`, or `computed.` and the field's name.
        field: String,
        /// The name that was not found.
        column: String,
        /// The column that was probably meant, and all columns there are.
        hint: String,
    },
    /// A field has a name that walvec or the payload's layout uses for something else.
    #[error(
        "{table}: {field} writes the payload field \"{name}\", {purpose}; choose another name, or list the columns to \
         store under payload"
    )]
    ReservedField {
        /// The table.
        table: TableName,
        /// `payload`, or `computed.` and the field's name.
        field: String,
        /// The reserved name.
        name: String,
        /// What the name is reserved for, as a relative clause.
        purpose: String,
    },
    /// A column is itself called `row`, and so hides the variable with which the template means the whole row.
    #[error("{table}: {field}: {reason}")]
    HiddenRow {
        /// The table.
        table: TableName,
        /// `text`, or `computed.` and the field's name.
        field: String,
        /// Which column it is, and what to write instead.
        reason: String,
    },
    /// An index that no field of the payload can use.
    #[error("{table}: index.{field} {reason}")]
    Index {
        /// The table.
        table: TableName,
        /// The field, as the configuration names it.
        field: String,
        /// What is wrong with the index, and what to write instead.
        reason: String,
    },
    /// One row could not be rendered. Other rows are not affected.
    #[error("{table}, row {key}: {field} cannot be rendered: {reason}")]
    Render {
        /// The table.
        table: TableName,
        /// The row's key, for people.
        key: String,
        /// `text`, or `computed.` and the field's name.
        field: String,
        /// Why the field cannot be rendered.
        reason: String,
    },
}

impl TransformError {
    /// Returns the stable code of this error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Template { .. } => "E_TEMPLATE",
            Self::UnknownColumn { .. } | Self::ReservedField { .. } | Self::Index { .. } | Self::HiddenRow { .. } => {
                "E_SCHEMA"
            }
            Self::Render { .. } => "E_RENDER",
        }
    }

    /// Returns whether the error concerns only this row. All other errors concern every row of the table.
    #[must_use]
    pub const fn is_row_error(&self) -> bool {
        match self {
            Self::Render { .. } => true,
            Self::Template { .. }
            | Self::UnknownColumn { .. }
            | Self::ReservedField { .. }
            | Self::Index { .. }
            | Self::HiddenRow { .. } => false,
        }
    }
}
