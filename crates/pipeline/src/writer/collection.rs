//! A collection, as a pipeline keeps it.

use std::sync::Arc;

use walvec_embed::Embedder;
use walvec_model::{Fingerprint, SparseVector, TableName};
use walvec_sink::{Keywords, Sink};
use walvec_transform::Transform;

use super::long::OnLong;

/// A collection and the components that serve it.
#[derive(Clone)]
pub struct Collection {
    /// Its name.
    pub name: String,
    /// The table that it shows.
    pub table: TableName,
    /// Makes documents of rows.
    pub transform: Arc<Transform>,
    /// Makes vectors of texts.
    pub embedder: Arc<dyn Embedder>,
    /// Makes sparse vectors of texts, if the collection can be searched by keyword.
    pub keywords: Option<Arc<Keywords>>,
    /// What to do with a row that has a text longer than the model reads.
    pub on_long: OnLong,
    /// Where the points are stored.
    pub sink: Arc<dyn Sink>,
    /// The digest of what decides its vectors.
    pub fingerprint: Fingerprint,
}

impl Collection {
    /// Returns the sparse vector of a text; `None` if the collection has none.
    pub(crate) fn keywords_of(&self, text: &str) -> Option<SparseVector> {
        self.keywords.as_ref().map(|keywords| keywords.document(text))
    }
}
