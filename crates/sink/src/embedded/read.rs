//! Retrieve, count, scroll, search. They share locks with the writer, and hold each only for the time of a few points.

use std::collections::HashMap;

use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    CountRequest, EdgeShard, Filter as EdgeFilter, Fusion, NamedQuery, OrderByInterface, Prefetch, QueryEnum,
    QueryRequest, Record, ScoredPoint, ScoringQuery, ScrollRequest, VectorInternal, WithPayloadInterface, WithVector,
};
use walvec_model::point::limit_payload;
use walvec_model::{Payload, PointId, RESERVED_KEY, RawPage, RawPoint, StoredPoint};

use super::convert::{edge_filter, edge_id, edge_sparse, order_by, point_id, read_error, sort_value, vectors};
use super::store::guarded;
use crate::faithful;
use crate::{
    Filter, Hit, MAX_POINTS, Query, RRF_K, RRF_WEIGHTS, ScrollPage, SearchRequest, SinkError, SortRequest, SortValue,
    fused_from, in_order,
};

pub(super) fn retrieve(shard: &EdgeShard, ids: &[PointId]) -> Result<Vec<StoredPoint>, SinkError> {
    Ok(records(shard, ids, &own_field()?, false)?.into_iter().map(stored_point).collect())
}

/// Implements [`Sink::faithful`](crate::Sink::faithful). The engine keeps the order of the fields of objects.
pub(super) fn faithful(shard: &EdgeShard, target: &ReadTarget, ids: &[PointId]) -> Result<Vec<StoredPoint>, SinkError> {
    let points = records(shard, ids, &ALL_FIELDS, false)?.into_iter().map(stored_point);
    Ok(points.map(|point| faithful::faithful(point, target.nesting.as_deref(), true)).collect())
}

pub(super) fn get(
    shard: &EdgeShard,
    target: &ReadTarget,
    ids: &[PointId],
    with_vectors: bool,
) -> Result<Vec<RawPoint>, SinkError> {
    let records = records(shard, ids, &ALL_FIELDS, with_vectors)?;
    Ok(records.into_iter().map(|record| raw_point(&target.vectors, record)).collect())
}

const ALL_FIELDS: WithPayloadInterface = WithPayloadInterface::Bool(true);
const NO_FIELDS: WithPayloadInterface = WithPayloadInterface::Bool(false);

/// Selects walvec's own field and no other.
fn own_field() -> Result<WithPayloadInterface, SinkError> {
    let path = RESERVED_KEY.parse().map_err(|()| SinkError::Engine(format!("\"{RESERVED_KEY}\" is not a path")))?;
    Ok(WithPayloadInterface::Fields(vec![path]))
}

/// Returns the points with these ids that exist. A point whose payload the engine cannot read is returned without one.
fn records(
    shard: &EdgeShard,
    ids: &[PointId],
    fields: &WithPayloadInterface,
    with_vectors: bool,
) -> Result<Vec<Record>, SinkError> {
    let edge_ids: Vec<_> = ids.iter().copied().map(edge_id).collect();
    let retrieve = || shard.retrieve(&edge_ids, Some(fields.clone()), Some(WithVector::Bool(with_vectors)));
    match guarded(|| retrieve().map_err(read_error)) {
        Err(error) if is_too_deep(&error) && *fields != NO_FIELDS => match ids {
            [_] => records(shard, ids, &NO_FIELDS, with_vectors),
            ids => {
                let (left, right) = ids.split_at(ids.len() / 2);
                let mut found = records(shard, left, fields, with_vectors)?;
                found.extend(records(shard, right, fields, with_vectors)?);
                Ok(found)
            }
        },
        answer => answer,
    }
}

/// Returns whether the engine panicked over a payload that it has stored and cannot read: one that is nested 127 times. Earlier
/// versions of walvec stored such payloads.
fn is_too_deep(error: &SinkError) -> bool {
    error.to_string().contains("recursion limit exceeded")
}

pub(super) fn count(shard: &EdgeShard, filter: Option<EdgeFilter>) -> Result<u64, SinkError> {
    let points = shard.count(CountRequest { filter, exact: true }).map_err(read_error)?;
    Ok(points as u64)
}

pub(super) fn scroll(shard: &EdgeShard, from: Option<PointId>, limit: usize) -> Result<ScrollPage, SinkError> {
    let (records, next) =
        scrolled(shard, ScrollRequest { with_payload: Some(own_field()?), ..in_id_order(from, limit) })?;
    Ok(ScrollPage { points: records.into_iter().map(stored_point).collect(), next })
}

pub(super) fn page(
    shard: &EdgeShard,
    target: &ReadTarget,
    filter: &Filter,
    (from, limit): (Option<PointId>, usize),
    with_vectors: bool,
) -> Result<RawPage, SinkError> {
    let filter = edge_filter(target.nesting.as_deref(), filter)?;
    let request = ScrollRequest { filter, with_vector: WithVector::Bool(with_vectors), ..in_id_order(from, limit) };
    let (records, next) = scrolled(shard, request)?;
    Ok(RawPage { points: records.into_iter().map(|record| raw_point(&target.vectors, record)).collect(), next })
}

/// Implements [`Search::sorted`](crate::Search::sorted).
pub(super) fn sorted(
    shard: &EdgeShard,
    target: &ReadTarget,
    request: &SortRequest,
) -> Result<Vec<(SortValue, RawPoint)>, SinkError> {
    let nesting = target.nesting.as_deref();
    let scroll = ScrollRequest {
        offset: None,
        limit: Some(request.limit),
        filter: edge_filter(nesting, &request.filter())?,
        with_payload: Some(ALL_FIELDS),
        with_vector: WithVector::Bool(request.with_vectors),
        order_by: Some(OrderByInterface::Struct(order_by(nesting, request)?)),
    };
    let (records, _) = scrolled(shard, scroll).map_err(|error| request.explained(error))?;
    let with_value = |record: Record| {
        let value = sort_value(request.order.by, record.order_value).ok_or_else(|| request.other_index())?;
        Ok((value, raw_point(&target.vectors, record)))
    };
    records.into_iter().map(with_value).collect()
}

fn in_id_order(from: Option<PointId>, limit: usize) -> ScrollRequest {
    ScrollRequest {
        offset: from.map(edge_id),
        limit: Some(limit.clamp(1, MAX_POINTS)),
        filter: None,
        with_payload: Some(ALL_FIELDS),
        with_vector: WithVector::Bool(false),
        order_by: None,
    }
}

/// Returns the points, and where the next page starts. A point whose payload the engine cannot read is returned without one.
fn scrolled(shard: &EdgeShard, request: ScrollRequest) -> Result<(Vec<Record>, Option<PointId>), SinkError> {
    let scroll = |request: ScrollRequest| guarded(|| shard.scroll(request).map_err(read_error));
    let (found, next) = match scroll(request.clone()) {
        Err(error) if is_too_deep(&error) => {
            let (mut found, next) = scroll(ScrollRequest { with_payload: Some(NO_FIELDS), ..request.clone() })?;
            let ids: Vec<PointId> = found.iter().map(|record| point_id(record.id)).collect();
            let payloads = records(shard, &ids, &request.with_payload.unwrap_or(ALL_FIELDS), false)?.into_iter();
            let mut payloads: HashMap<_, _> = payloads.map(|record| (record.id, record.payload)).collect();
            found.iter_mut().for_each(|record| record.payload = payloads.remove(&record.id).flatten());
            (found, next)
        }
        answer => answer?,
    };
    Ok((found, next.map(point_id)))
}

pub(super) fn search(shard: &EdgeShard, request: SearchRequest, target: &ReadTarget) -> Result<Vec<Hit>, SinkError> {
    let fused_for = request.limit;
    find(shard, request, target, fused_for, ALL_FIELDS)
}

/// Implements [`Search::rank`](crate::Search::rank).
pub(super) fn rank(
    shard: &EdgeShard,
    request: SearchRequest,
    target: &ReadTarget,
    fused_for: usize,
) -> Result<Vec<Hit>, SinkError> {
    find(shard, request, target, fused_for, own_field()?)
}

fn find(
    shard: &EdgeShard,
    request: SearchRequest,
    target: &ReadTarget,
    fused_for: usize,
    fields: WithPayloadInterface,
) -> Result<Vec<Hit>, SinkError> {
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
                limit: fused_from(fused_for),
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
        with_payload: fields,
    };
    let hits = queried(shard, request)?.into_iter().map(hit).collect();
    Ok(in_order(hits, is_dense, min_score))
}

fn queried(shard: &EdgeShard, request: QueryRequest) -> Result<Vec<ScoredPoint>, SinkError> {
    match guarded(|| shard.query(request.clone()).map_err(read_error)) {
        Err(error) if is_too_deep(&error) => {
            let fields = request.with_payload.clone();
            let request = QueryRequest { with_payload: NO_FIELDS, ..request };
            let mut found = shard.query(request).map_err(read_error)?;
            let ids: Vec<PointId> = found.iter().map(|hit| point_id(hit.id)).collect();
            let payloads = records(shard, &ids, &fields, false)?.into_iter();
            let mut payloads: HashMap<_, _> = payloads.map(|record| (record.id, record.payload)).collect();
            found.iter_mut().for_each(|hit| hit.payload = payloads.remove(&hit.id).flatten());
            Ok(found)
        }
        answer => answer,
    }
}

fn nearest(query: VectorInternal, using: Option<String>) -> ScoringQuery {
    ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query, using }))
}

/// The names of a collection's vectors.
#[derive(Clone, Debug)]
pub(super) struct VectorNames {
    /// The name of the dense vectors; empty if they have none.
    pub(super) dense: String,
    /// The name of the sparse vectors, if there are any.
    pub(super) keywords: Option<String>,
}

/// What a read needs to know about the collection.
#[derive(Clone, Debug)]
pub(super) struct ReadTarget {
    /// Dimension of its vectors.
    pub(super) dimension: usize,
    /// The names of its vectors.
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
    let mut payload = payload.map_or_else(Payload::new, |payload| payload.0);
    limit_payload(&mut payload);
    payload
}
