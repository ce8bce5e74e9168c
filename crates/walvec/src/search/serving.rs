//! What searches need of the collections.

use std::sync::Arc;

use walvec_embed::Embedder;
use walvec_model::IndexType;
use walvec_sink::{BoxFuture, Keywords, Search};
use walvec_transform::PayloadLayout;

use super::description::CollectionDescription;
use super::resolve::KnownFields;
use crate::api::problem::{ApiProblem, Reason};

/// The collections and the model that searches use. They are replaced as a whole, so that the text of a search is never
/// embedded by another model than the vectors that it meets.
pub(crate) struct Serving {
    /// Every collection by name, in the order of the configuration. The first one is the page's default.
    pub(crate) collections: Vec<Searchable>,
    /// Turns queries into vectors: the model that made the stored ones.
    pub(crate) embedder: Arc<dyn Embedder>,
}

impl Serving {
    pub(crate) fn collection(&self, wanted: Option<&str>) -> Result<&Searchable, ApiProblem> {
        let found = match wanted {
            Some(wanted) => self.collections.iter().find(|collection| collection.name == wanted),
            None if self.collections.len() == 1 => self.collections.first(),
            None => None,
        };
        found.ok_or_else(|| {
            let names: Vec<_> = self.collections.iter().map(|it| format!("\"{}\"", it.name)).collect();
            let names = names.join(", ");
            ApiProblem::new(
                Reason::UnknownCollection,
                match wanted {
                    Some(wanted) => format!("there is no collection \"{wanted}\"; there are: {names}"),
                    None => format!("say which collection to search; there are: {names}"),
                },
            )
        })
    }
}

/// A collection that can be searched.
#[derive(Clone)]
pub(crate) struct Searchable {
    /// The collection's name.
    pub(crate) name: String,
    /// The layout of its payloads, so that people see the fields and not what holds them.
    pub(crate) layout: PayloadLayout,
    /// Makes the sparse vectors of queries, where it can be searched by keyword.
    pub(crate) keywords: Option<Arc<Keywords>>,
    /// Whether its rows are cut into chunks, each a point of its own.
    pub(crate) is_chunked: bool,
    /// Its description for programs.
    pub(crate) description: Arc<CollectionDescription>,
    /// The fields of its payloads.
    pub(crate) fields: Arc<dyn Fields>,
    /// The points that are searched.
    pub(crate) search: Arc<dyn Search>,
}

/// The fields of payloads. They are known once a row of the table was read, and change with the table.
pub(crate) trait Fields: Send + Sync {
    /// Returns the fields as they are now.
    fn known(&self) -> KnownFields;

    /// Returns the type of the index of a field, or of a member of one; `None` if it has none.
    fn index(&self, name: &str) -> Option<IndexType>;

    /// Returns the labels of a column that holds enums, if they are known. If `wanted` is not among them, the label does not
    /// exist now.
    fn labels<'a>(&'a self, _column: &'a str, _wanted: &'a str) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(std::future::ready(None))
    }
}

impl Searchable {
    /// Returns the payload's fields, if they are known.
    pub(crate) fn known(&self) -> KnownFields {
        self.fields.known()
    }
}
