//! Retrieve, count, scroll, search. All of them only share locks with the writer, for the time of a few points each.

use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    CountRequest, EdgeShard, Filter as EdgeFilter, NamedQuery, QueryEnum, QueryRequest, Record, ScoredPoint,
    ScoringQuery, ScrollRequest, VectorInternal, WithPayloadInterface, WithVector,
};
use walvec_model::{Payload, PointId, RawPage, RawPoint, StoredPoint};

use super::convert::{edge_filter, edge_id, point_id, read_error, vector};
use crate::{Hit, MAX_HITS, ScrollPage, SearchRequest, SinkError, check_vector};

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
    Ok(records.into_iter().map(|record| raw_point(&target.vector, record)).collect())
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
    Ok(RawPage { points: records.into_iter().map(|record| raw_point(&target.vector, record)).collect(), next })
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
    let SearchRequest { vector, limit, filter, min_score } = request;
    check_vector(&vector, target.dimension).map_err(SinkError::BadRequest)?;
    if limit > MAX_HITS {
        return Err(SinkError::BadRequest(format!("the limit is {limit}, at most {MAX_HITS} is allowed")));
    }
    let filter = edge_filter(target.nesting.as_deref(), &filter)?;
    if limit == 0 {
        return Ok(Vec::new());
    }
    let nearest = NamedQuery { query: VectorInternal::Dense(vector), using: Some(target.vector.clone()) };
    let request = QueryRequest {
        prefetches: Vec::new(),
        query: Some(ScoringQuery::Vector(QueryEnum::Nearest(nearest))),
        filter,
        score_threshold: min_score.map(OrderedFloat),
        limit,
        offset: 0,
        params: None,
        with_vector: WithVector::Bool(false),
        with_payload: WithPayloadInterface::Bool(true),
    };
    let mut hits: Vec<_> = shard.query(request).map_err(read_error)?.into_iter().map(hit).collect();
    // The engine leaves the order of equal scores open; a result that jumps on reload looks broken.
    hits.sort_by(|left, right| right.score.total_cmp(&left.score).then(left.id.cmp(&right.id)));
    Ok(hits)
}

/// What a read has to know of the collection.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Dimension of its vectors.
    pub(super) dimension: usize,
    /// The name of its vectors; empty if they have none.
    pub(super) vector: String,
    /// The payload field that is an object of the user's fields, if there is one.
    pub(super) nesting: Option<String>,
}

fn stored_point(record: Record) -> StoredPoint {
    StoredPoint::from_raw(point_id(record.id), raw(record.payload))
}

/// `name`: that of the vector which searches compare with.
fn raw_point(name: &str, record: Record) -> RawPoint {
    let vector = record.vector.and_then(|stored| vector(name, stored));
    RawPoint { id: point_id(record.id), payload: raw(record.payload), vector }
}

fn hit(found: ScoredPoint) -> Hit {
    let StoredPoint { id, payload, provenance } = StoredPoint::from_raw(point_id(found.id), raw(found.payload));
    // Rounding can lift the similarity of a vector with itself above 1.
    Hit { id, score: found.score.min(1.0), payload, provenance }
}

fn raw(payload: Option<qdrant_edge::Payload>) -> Payload {
    payload.map_or_else(Payload::new, |payload| payload.0)
}
