//! The collections, with the fields that filters can use.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::IndexKind;

/// The answer of `GET /api/v1/collections`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Collections {
    pub(crate) collections: Vec<CollectionInfo>,
}

/// A collection, as it is described to programs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct CollectionInfo {
    /// The collection's name.
    pub(crate) name: String,
    /// The table that it is filled from, `schema.table`.
    pub(crate) table: String,
    /// The layout of its payloads. In every layout, filters use the field names of this description.
    pub(crate) layout: String,
    /// How many points it has; null until they were counted.
    #[schema(required)]
    pub(crate) points: Option<u64>,
    /// The modes in which it can be searched; the first is the default.
    pub(crate) modes: Vec<String>,
    /// Whether its rows are cut into chunks, each a point of its own.
    pub(crate) chunked: bool,
    /// The fields: columns in the order of the payload, computed ones, the text of the chunk.
    pub(crate) fields: Vec<FieldInfo>,
}

/// A field of the payload.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FieldInfo {
    /// The field's name.
    pub(crate) name: String,
    /// The type of the column in SQL; null for a computed field, and until a row of the table was read.
    #[schema(required)]
    pub(crate) r#type: Option<String>,
    /// The origin of its values.
    pub(crate) from: FieldOrigin,
    /// The type of its index, if it has one.
    #[schema(required)]
    pub(crate) index: Option<IndexKind>,
    /// The operators with which a filter on it can match, of `=`, `!=`, `<`, `<=`, `>` and `>=`.
    pub(crate) filters: Vec<String>,
    /// Whether points can be listed in its order.
    #[serde(default)]
    #[schema(required)]
    pub(crate) sorted: bool,
}

/// The origin of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FieldOrigin {
    /// A column of the table.
    Column,
    /// A template in `computed`.
    Computed,
    /// The text of the chunk.
    Chunk,
}
