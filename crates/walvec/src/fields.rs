//! The fields of collections with types, indexes and the filters that can match, for `/api/v1/collections` and `walvec
//! collections`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use walvec_model::{IndexType, Type};
use walvec_transform::{Compared, PayloadLayout, Transform};

use crate::config::{CollectionConfig, IndexKind};
use crate::http::read::Known;

/// A collection, as it is described to programs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CollectionInfo {
    /// The collection's name.
    pub(crate) name: String,
    /// The table that it is filled from, `schema.table`.
    pub(crate) table: String,
    /// The layout of its payloads. In every layout, filters use the field names of this description.
    pub(crate) layout: String,
    /// How many points it has; null until they were counted.
    pub(crate) points: Option<u64>,
    /// The modes in which it can be searched; the first is the default.
    pub(crate) modes: Vec<String>,
    /// Whether its rows are cut into chunks, each a point of its own.
    pub(crate) chunked: bool,
    /// The fields: columns in the order of the payload, computed ones, the text of the chunk.
    pub(crate) fields: Vec<FieldInfo>,
}

/// A field of the payload.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FieldInfo {
    /// The field's name.
    pub(crate) name: String,
    /// The type of the column in SQL; null for a computed field, and until a row of the table was read.
    pub(crate) r#type: Option<String>,
    /// The origin of its values.
    pub(crate) from: Origin,
    /// The type of its index, if it has one.
    pub(crate) index: Option<IndexKind>,
    /// The operators with which a filter on it can match.
    pub(crate) filters: Vec<String>,
    /// Whether points can be listed in its order.
    #[serde(default)]
    pub(crate) sorted: bool,
}

/// The origin of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// A column of the table.
    Column,
    /// A template in `computed`.
    Computed,
    /// The text of the chunk.
    Chunk,
}

/// The source of a collection's description for programs.
pub(crate) struct Description {
    table: String,
    layout: PayloadLayout,
    chunked: bool,
    has_keywords: bool,
    /// The columns that the configuration names; `None`: all columns of the table.
    payload: Option<Vec<String>>,
    computed: Vec<String>,
    chunk: Option<String>,
    index: BTreeMap<String, IndexKind>,
    /// Knows the columns of the table, once it has read some.
    transform: Arc<Transform>,
}

impl Description {
    pub(crate) fn new(collection: &CollectionConfig, transform: Arc<Transform>) -> Self {
        Self {
            table: collection.table.to_string(),
            layout: collection.layout(),
            chunked: collection.chunk.is_some(),
            has_keywords: collection.hybrid.is_some(),
            payload: collection.payload.clone(),
            computed: collection.computed.keys().cloned().collect(),
            chunk: collection.chunk_field().map(str::to_owned),
            index: collection.index.clone(),
            transform,
        }
    }

    /// Describes the collection called `name` at this moment. `known`: its fields, as filters see them.
    pub(crate) fn describe(&self, name: &str, points: Option<u64>, known: &Known) -> CollectionInfo {
        let modes: &[&str] = if self.has_keywords { &["hybrid", "dense", "keyword"] } else { &["dense"] };
        CollectionInfo {
            name: name.to_owned(),
            table: self.table.clone(),
            layout: self.layout.to_string(),
            points,
            modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
            chunked: self.chunked,
            fields: self.fields(known),
        }
    }

    fn fields(&self, known: &Known) -> Vec<FieldInfo> {
        let columns = self.transform.stored_columns().unwrap_or_else(|| {
            let named = self.payload.iter().flatten().filter(|name| !self.computed.contains(name));
            named.map(|name| (name.clone(), String::new())).collect()
        });
        let columns =
            columns.into_iter().map(|(name, ty)| (name, Some(ty).filter(|ty| !ty.is_empty()), Origin::Column));
        let computed = self.computed.iter().map(|name| (name.clone(), None, Origin::Computed));
        let chunk = self.chunk.iter().map(|name| (name.clone(), Some("text".to_owned()), Origin::Chunk));
        let field = |(name, ty, from): (String, Option<String>, Origin)| {
            let field = known.iter().flatten().find(|field| field.name == name);
            let compared = field.map_or(Compared::Any, |field| field.compared);
            let index = self.index.get(&name).copied();
            let has_order = index.is_some_and(|index| IndexType::from(index).has_order());
            FieldInfo {
                filters: operators(compared).iter().map(|operator| (*operator).to_owned()).collect(),
                sorted: has_order && !field.is_some_and(|field| matches!(field.ty, Type::Array(_))),
                index,
                r#type: ty,
                from,
                name,
            }
        };
        columns.chain(computed).chain(chunk).map(field).collect()
    }
}

/// Returns the operators that can match.
const fn operators(compared: Compared) -> &'static [&'static str] {
    if compared.has_order() { &["=", "!=", "<", "<=", ">", ">="] } else { &["=", "!="] }
}
