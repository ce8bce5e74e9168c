//! Tables as PostgreSQL describes them, reduced to what processing a row requires.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Type;

/// A schema-qualified table name, unquoted: exactly the characters that the catalogue holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema, e.g. `public`.
    pub schema: String,
    /// The table, e.g. `books`.
    pub name: String,
}

impl TableName {
    /// Creates a name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// One published column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Unquoted name.
    pub name: String,
    /// The type as SQL names it, for messages and envelopes, e.g. `bigint` or `character varying(20)`.
    pub type_name: String,
    /// `pg_type.oid` of the column's declared type.
    pub type_oid: u32,
    /// The type below all domains.
    pub ty: Type,
}

impl Column {
    /// Creates a column of a built-in type.
    pub fn new(name: impl Into<String>, type_name: impl Into<String>, type_oid: u32) -> Self {
        Self { name: name.into(), type_name: type_name.into(), type_oid, ty: Type::of_oid(type_oid) }
    }
}

/// A table's published columns and its key, as of one moment of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The name under which changes arrive: for a partitioned table, the root.
    pub name: TableName,
    /// Published columns, in the order of the table.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the primary key (or the unique index that stands in for it), in key order. Never empty.
    pub key: Vec<usize>,
}

impl Table {
    /// Returns the table with its key and only those of the other columns that are wanted.
    #[must_use]
    pub fn reduced(&self, is_wanted: impl Fn(&Column) -> bool) -> Self {
        let is_kept = |(index, column): &(usize, &Column)| self.key.contains(index) || is_wanted(column);
        let kept: Vec<usize> = self.columns.iter().enumerate().filter(is_kept).map(|(index, _)| index).collect();
        Self {
            name: self.name.clone(),
            columns: kept.iter().map(|&index| self.columns[index].clone()).collect(),
            key: self.key.iter().filter_map(|index| kept.iter().position(|kept| kept == index)).collect(),
        }
    }

    /// Returns the index of the column called `name`.
    #[must_use]
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}
