//! Retrieve, count, scroll, search. All of them only share locks with the writer, for the time of a few points each.

use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    CountRequest, EdgeShard, Filter as EdgeFilter, Fusion, NamedQuery, Prefetch, QueryEnum, QueryRequest, Record,
    ScoredPoint, ScoringQuery, ScrollRequest, VectorInternal, WithPayloadInterface, WithVector,
};
use walvec_model::{Payload, PointId, RawPage, RawPoint, StoredPoint};

use super::convert::{edge_filter, edge_id, edge_sparse, point_id, read_error, vectors};
use crate::{Hit, MAX_HITS, Query, RRF_K, RRF_WEIGHTS, ScrollPage, SearchRequest, SinkError, fused_from, in_order};

pub(super) fn retrieve(shard: &EdgeShard, ids: &[PointId]) -> Result<Vec<StoredPoint>, SinkError> {
    Ok(records(shard, ids, false)?.into_iter().map(stored_point).collect())
}

pub(super) fn get(
    shard: &EdgeShard,
    target: &Target,
    ids: &[PointId],
    with_vectors: bool,
) -> Result<Vec<RawPoint>, SinkError> {
    let records = records(shard, ids, with_vectors)?;
    Ok(records.into_iter().map(|record| raw_point(&target.vectors, record)).collect())
}

fn records(shard: &EdgeShard, ids: &[PointId], with_vectors: bool) -> Result<Vec<Record>, SinkError> {
    let ids: Vec<_> = ids.iter().copied().map(edge_id).collect();
    let payload = WithPayloadInterface::Bool(true);
    shard.retrieve(&ids, Some(payload), Some(WithVector::Bool(with_vectors))).map_err(read_error)
}

pub(super) fn count(shard: &EdgeShard, filter: Option<EdgeFilter>) -> Result<u64, SinkError> {
    let points = shard.count(CountRequest { filter, exact: true }).map_err(read_error)?;
    Ok(points as u64)
}

pub(super) fn scroll(shard: &EdgeShard, from: Option<PointId>, limit: usize) -> Result<ScrollPage, SinkError> {
    let (records, next) = page_of_records(shard, from, limit, false)?;
    Ok(ScrollPage { points: records.into_iter().map(stored_point).collect(), next })
}

pub(super) fn page(
    shard: &EdgeShard,
    target: &Target,
    from: Option<PointId>,
    limit: usize,
    with_vectors: bool,
) -> Result<RawPage, SinkError> {
    let (records, next) = page_of_records(shard, from, limit, with_vectors)?;
    Ok(RawPage { points: records.into_iter().map(|record| raw_point(&target.vectors, record)).collect(), next })
}

fn page_of_records(
    shard: &EdgeShard,
    from: Option<PointId>,
    limit: usize,
    with_vectors: bool,
) -> Result<(Vec<Record>, Option<PointId>), SinkError> {
    let request = ScrollRequest {
        offset: from.map(edge_id),
        limit: Some(limit.clamp(1, MAX_HITS)),
        filter: None,
        with_payload: Some(WithPayloadInterface::Bool(true)),
        with_vector: WithVector::Bool(with_vectors),
        order_by: None,
    };
    let (records, next) = shard.scroll(request).map_err(read_error)?;
    Ok((records, next.map(point_id)))
}

pub(super) fn search(shard: &EdgeShard, request: SearchRequest, target: &Target) -> Result<Vec<Hit>, SinkError> {
    request.check(target.dimension, target.vectors.keywords.is_some())?;
    let filter = edge_filter(target.nesting.as_deref(), &request.filter)?;
    if request.finds_nothing() {
        return Ok(Vec::new());
    }
    let bound = request.engine_bound();
    let SearchRequest { query, limit, min_score, .. } = request;
    let is_dense = matches!(query, Query::Dense(_));
    let using = &target.vectors;
    let dense = |vector| nearest(VectorInternal::Dense(vector), Some(using.dense.clone()));
    let keyword = |tokens| nearest(VectorInternal::Sparse(edge_sparse(tokens)), using.keywords.clone());
    let (prefetches, query) = match query {
        Query::Dense(vector) => (Vec::new(), dense(vector)),
        Query::Keyword(tokens) => (Vec::new(), keyword(tokens)),
        Query::Hybrid(vector, tokens) => {
            let sides = [Some(dense(vector)), (!tokens.is_empty()).then(|| keyword(tokens))];
            let weights = RRF_WEIGHTS.into_iter().zip(&sides).filter(|(_, side)| side.is_some());
            let weights = weights.map(|(weight, _)| OrderedFloat(weight)).collect();
            let prefetch = |query| Prefetch {
                prefetches: Vec::new(),
                query: Some(query),
                limit: fused_from(limit),
                params: None,
                filter: filter.clone(),
                score_threshold: None,
            };
            let sides = sides.into_iter().flatten().map(prefetch).collect();
            (sides, ScoringQuery::Fusion(Fusion::Rrf { k: RRF_K as usize, weights: Some(weights) }))
        }
    };
    let request = QueryRequest {
        prefetches,
        query: Some(query),
        filter,
        score_threshold: bound.map(OrderedFloat),
        limit,
        offset: 0,
        params: None,
        with_vector: WithVector::Bool(false),
        with_payload: WithPayloadInterface::Bool(true),
    };
    let hits = shard.query(request).map_err(read_error)?.into_iter().map(hit).collect();
    Ok(in_order(hits, is_dense, min_score))
}

fn nearest(query: VectorInternal, using: Option<String>) -> ScoringQuery {
    ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query, using }))
}

/// The names of a collection's vectors.
#[derive(Clone, Debug)]
pub(super) struct VectorNames {
    /// That of the dense one; empty if it has none.
    pub(super) dense: String,
    /// That of the sparse one, if there is one.
    pub(super) keywords: Option<String>,
}

/// What a read has to know of the collection.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Dimension of its vectors.
    pub(super) dimension: usize,
    /// What its vectors are called.
    pub(super) vectors: VectorNames,
    /// The payload field that is an object of the user's fields, if there is one.
    pub(super) nesting: Option<String>,
}

fn stored_point(record: Record) -> StoredPoint {
    StoredPoint::from_raw(point_id(record.id), raw(record.payload))
}

fn raw_point(names: &VectorNames, record: Record) -> RawPoint {
    let (vector, keywords) = record.vector.map_or((None, None), |stored| vectors(names, stored));
    RawPoint { id: point_id(record.id), payload: raw(record.payload), vector, keywords }
}

fn hit(found: ScoredPoint) -> Hit {
    let StoredPoint { id, payload, provenance } = StoredPoint::from_raw(point_id(found.id), raw(found.payload));
    Hit { id, score: found.score, payload, provenance }
}

fn raw(payload: Option<qdrant_edge::Payload>) -> Payload {
    payload.map_or_else(Payload::new, |payload| payload.0)
}
