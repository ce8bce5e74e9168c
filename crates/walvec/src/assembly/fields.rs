//! The payload fields of a collection.

use std::sync::Arc;

use walvec_model::{IndexType, Type};
use walvec_sink::BoxFuture;
use walvec_transform::Transform;

use super::enum_labels::EnumLabels;
use crate::search::resolve::KnownFields;
use crate::search::serving::Fields;

/// The fields of a collection, from its table as it was last read by this process or by an earlier one.
pub(crate) struct TableFields {
    pub(crate) transform: Arc<Transform>,
    pub(crate) stored_columns: Option<Vec<(String, Type)>>,
    pub(crate) labels: Option<EnumLabels>,
}

impl Fields for TableFields {
    fn known(&self) -> KnownFields {
        let columns = self.transform.columns_seen().or_else(|| self.stored_columns.clone());
        columns.map(|columns| self.transform.fields(&columns))
    }

    fn index(&self, name: &str) -> Option<IndexType> {
        self.transform.index(name)
    }

    fn labels<'a>(&'a self, column: &'a str, wanted: &'a str) -> BoxFuture<'a, Option<Vec<String>>> {
        Box::pin(async move { self.labels.as_ref()?.of(column, wanted).await })
    }
}
