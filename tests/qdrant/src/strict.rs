//! Filters by fields without an index, which strict mode may refuse: `unindexed_filtering_retrieve` and `unindexed_filtering_update`.
//!
//! This works as in the real server (`lib/collection/src/operations/verification`), except that an index of any type is
//! enough.

use std::sync::Arc;

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_update_operation::Operation;
use qdrant_client::qdrant::{Condition, Filter, QueryPoints};
use tonic::Status;

use crate::registry::Collection;

/// Fails if a filter names a field of the collection that has no index.
pub(crate) async fn check<'f>(
    collection: &Arc<Collection>,
    filters: impl IntoIterator<Item = &'f Filter>,
) -> Result<(), Status> {
    let mut fields: Vec<String> = filters.into_iter().flat_map(fields).collect();
    if fields.is_empty() {
        return Ok(());
    }
    let indexed = move |shard: &qdrant_edge::EdgeShard| {
        let indexes = shard.info().payload_schema;
        fields.retain(|field| !indexes.keys().any(|path| path.to_string() == *field));
        Ok(fields)
    };
    match Arc::clone(collection).run(indexed).await?.first() {
        None => Ok(()),
        Some(field) => Err(Status::invalid_argument(format!(
            "Bad request: Index required but not found for \"{field}\" of one of the following types: [keyword]. Help: Create an index for \
             this key or use a different filter."
        ))),
    }
}

/// Returns the filters of a search.
pub(crate) fn searching(request: &QueryPoints) -> impl Iterator<Item = &Filter> {
    request.filter.iter().chain(request.prefetch.iter().filter_map(|side| side.filter.as_ref()))
}

/// Returns the filters by which operations select points.
pub(crate) fn changing(operations: &[Operation]) -> impl Iterator<Item = &Filter> {
    operations.iter().filter_map(|operation| {
        let points = match operation {
            Operation::DeletePoints(delete) => delete.points.as_ref(),
            Operation::OverwritePayload(set) => set.points_selector.as_ref(),
            Operation::SetPayload(set) => set.points_selector.as_ref(),
            _ => None,
        };
        match &points?.points_selector_one_of {
            Some(PointsSelectorOneOf::Filter(filter)) => Some(filter),
            _ => None,
        }
    })
}

fn fields(filter: &Filter) -> Vec<String> {
    filter.must.iter().chain(&filter.should).chain(&filter.must_not).flat_map(fields_of).collect()
}

fn fields_of(condition: &Condition) -> Vec<String> {
    match &condition.condition_one_of {
        Some(ConditionOneOf::Field(field)) => vec![field.key.clone()],
        Some(ConditionOneOf::IsEmpty(empty)) => vec![empty.key.clone()],
        Some(ConditionOneOf::IsNull(nothing)) => vec![nothing.key.clone()],
        Some(ConditionOneOf::Filter(filter)) => fields(filter),
        _ => Vec::new(),
    }
}
