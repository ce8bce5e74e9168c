//! Searches in the engine's terms.

use qdrant_client::qdrant::query::Variant;
use qdrant_client::qdrant::{
    Fusion as ClientFusion, PrefetchQuery, Query, QueryPoints, ShardKeySelector, VectorInput, vector_input,
};
use qdrant_edge::{
    Fusion, NamedQuery, Prefetch, QueryEnum, QueryRequest, ScoringQuery, SparseVector, VectorInternal,
    external::ordered_float::OrderedFloat,
};
use tonic::Status;

use crate::convert::{check_dimension, check_name, invalid, with_payload, with_vector};
use crate::limits::asked;
use crate::registry::{Collection, VectorSpec};
use crate::sharding::within;

/// How many points are returned if a request does not say.
pub(crate) const DEFAULT_LIMIT: usize = 10;
/// The constant of rank fusion if a request does not say.
const DEFAULT_RRF_K: usize = 2;

pub(crate) fn edge_query(request: QueryPoints, collection: &Collection) -> Result<QueryRequest, Status> {
    let shard = request.shard_key_selector.as_ref();
    let prefetches = request.prefetch.into_iter().map(|prefetch| edge_prefetch(prefetch, collection, shard));
    let prefetches = prefetches.collect::<Result<Vec<_>, _>>()?;
    let query = scoring(request.query, request.using, &collection.vector, !prefetches.is_empty())?;
    Ok(QueryRequest {
        prefetches,
        query: Some(query),
        filter: within(collection.sharding.as_ref(), request.filter, shard)?,
        score_threshold: request.score_threshold.map(OrderedFloat),
        limit: number(request.limit, DEFAULT_LIMIT),
        offset: number(request.offset, 0),
        params: None,
        with_vector: with_vector(request.with_vectors)?,
        with_payload: with_payload(request.with_payload, false)?,
    })
}

/// Returns the cost of a search. If it fuses several searches, each of them counts.
pub(crate) fn searched(request: &QueryPoints) -> usize {
    match request.prefetch.as_slice() {
        [] => asked(request.filter.as_ref()),
        sides => sides.iter().map(|side| asked(side.filter.as_ref())).sum(),
    }
}

fn edge_prefetch(
    prefetch: PrefetchQuery,
    collection: &Collection,
    shard: Option<&ShardKeySelector>,
) -> Result<Prefetch, Status> {
    if !prefetch.prefetch.is_empty() {
        return Err(Status::unimplemented("the test server does not know prefetches of prefetches"));
    }
    Ok(Prefetch {
        prefetches: Vec::new(),
        query: Some(scoring(prefetch.query, prefetch.using, &collection.vector, false)?),
        limit: number(prefetch.limit, DEFAULT_LIMIT),
        params: None,
        filter: within(collection.sharding.as_ref(), prefetch.filter, shard)?,
        score_threshold: prefetch.score_threshold.map(OrderedFloat),
    })
}

fn scoring(
    query: Option<Query>,
    using: Option<String>,
    spec: &VectorSpec,
    has_prefetches: bool,
) -> Result<ScoringQuery, Status> {
    let rrf = |k, weights: Vec<f32>| match has_prefetches {
        true => {
            let weights = weights.into_iter().map(OrderedFloat).collect::<Vec<_>>();
            let weights = (!weights.is_empty()).then_some(weights);
            Ok(ScoringQuery::Fusion(Fusion::Rrf { k, weights }))
        }
        false => Err(invalid("cannot apply fusion without prefetches")),
    };
    match query.and_then(|query| query.variant) {
        Some(Variant::Nearest(input)) => nearest(input, using.unwrap_or_default(), spec),
        Some(Variant::Fusion(fusion)) if fusion == i32::from(ClientFusion::Rrf) => rrf(DEFAULT_RRF_K, Vec::new()),
        Some(Variant::Rrf(fusion)) => {
            let k = fusion.k.map_or(DEFAULT_RRF_K, |k| usize::try_from(k).unwrap_or(usize::MAX));
            rrf(k, fusion.weights)
        }
        other => Err(Status::unimplemented(format!("the test server does not know the query {other:?}"))),
    }
}

fn nearest(input: VectorInput, using: String, spec: &VectorSpec) -> Result<ScoringQuery, Status> {
    let query = match input.variant {
        Some(vector_input::Variant::Dense(dense)) => {
            check_name(&using, spec)?;
            check_dimension(&dense.data, spec.dimension)?;
            VectorInternal::Dense(dense.data)
        }
        Some(vector_input::Variant::Sparse(sparse)) if spec.sparse.as_ref() == Some(&using) => {
            VectorInternal::Sparse(SparseVector { indices: sparse.indices, values: sparse.values })
        }
        Some(vector_input::Variant::Sparse(_)) => {
            return Err(invalid(format_args!("Not existing vector name error: {using}")));
        }
        other => return Err(Status::unimplemented(format!("the test server does not search by {other:?}"))),
    };
    Ok(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query, using: Some(using) })))
}

fn number(number: Option<u64>, default: usize) -> usize {
    number.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
}
