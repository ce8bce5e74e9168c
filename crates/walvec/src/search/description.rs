//! The fields of collections with types, indexes and the filters that can match, for `/api/v1/collections` and `walvec
//! collections`.

use std::collections::BTreeMap;
use std::sync::Arc;

use walvec_model::{IndexType, Type};
use walvec_transform::{Compared, PayloadLayout, Transform};

use super::resolve::KnownFields;
use crate::api::collections::{CollectionInfo, FieldInfo, FieldOrigin};
use crate::config::{CollectionConfig, IndexKind};

/// The source of a collection's description for programs.
pub(crate) struct CollectionDescription {
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

impl CollectionDescription {
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
    pub(crate) fn describe(&self, name: &str, points: Option<u64>, known: &KnownFields) -> CollectionInfo {
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

    fn fields(&self, known: &KnownFields) -> Vec<FieldInfo> {
        let columns = self.transform.stored_columns().unwrap_or_else(|| {
            let named = self.payload.iter().flatten().filter(|name| !self.computed.contains(name));
            named.map(|name| (name.clone(), String::new())).collect()
        });
        let columns =
            columns.into_iter().map(|(name, ty)| (name, Some(ty).filter(|ty| !ty.is_empty()), FieldOrigin::Column));
        let computed = self.computed.iter().map(|name| (name.clone(), None, FieldOrigin::Computed));
        let chunk = self.chunk.iter().map(|name| (name.clone(), Some("text".to_owned()), FieldOrigin::Chunk));
        let field = |(name, ty, from): (String, Option<String>, FieldOrigin)| {
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
