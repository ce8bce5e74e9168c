//! Retrieve, scroll, search.

use qdrant_client::qdrant::vector_output::Vector as OutputVector;
use qdrant_client::qdrant::vectors_output::VectorsOptions;
use qdrant_client::qdrant::{GetPoints, Query, QueryPoints, RetrievedPoint, ScoredPoint, ScrollPoints, VectorsOutput};
use walvec_model::{PointId, RawPage, RawPoint, StoredPoint, Vector};

use super::Inner;
use super::convert::{client_filter, client_id, payload, point_id};
use super::tenants::selector;
use crate::{Hit, MAX_HITS, ScrollPage, SearchRequest, SinkError};

/// How many ids one request asks for.
pub(super) const RETRIEVE_POINTS: usize = 1000;

pub(super) async fn retrieve(inner: &Inner, ids: Vec<PointId>) -> Result<Vec<StoredPoint>, SinkError> {
    retrieved(inner, &ids, false).await?.into_iter().map(stored_point).collect()
}

pub(super) async fn get(inner: &Inner, ids: Vec<PointId>, with_vectors: bool) -> Result<Vec<RawPoint>, SinkError> {
    let points = retrieved(inner, &ids, with_vectors).await?;
    points.into_iter().map(|point| raw_point(inner, point)).collect()
}

async fn retrieved(inner: &Inner, ids: &[PointId], with_vectors: bool) -> Result<Vec<RetrievedPoint>, SinkError> {
    let Inner { client, place, .. } = inner;
    let mut found = Vec::with_capacity(ids.len());
    for ids in ids.chunks(RETRIEVE_POINTS) {
        let request = GetPoints {
            collection_name: inner.name(),
            ids: ids.iter().copied().map(client_id).collect(),
            with_payload: Some(true.into()),
            with_vectors: Some(with_vectors.into()),
            ..GetPoints::default()
        };
        found.extend(client.get_points(request).await.map_err(|error| place.error(error))?.result);
    }
    Ok(found)
}

pub(super) async fn scroll(inner: &Inner, from: Option<PointId>, limit: usize) -> Result<ScrollPage, SinkError> {
    let (points, next) = scrolled(inner, from, limit, false).await?;
    Ok(ScrollPage { points: points.into_iter().map(stored_point).collect::<Result<_, _>>()?, next })
}

pub(super) async fn page(
    inner: &Inner,
    from: Option<PointId>,
    limit: usize,
    with_vectors: bool,
) -> Result<RawPage, SinkError> {
    let (points, next) = scrolled(inner, from, limit, with_vectors).await?;
    Ok(RawPage { points: points.into_iter().map(|point| raw_point(inner, point)).collect::<Result<_, _>>()?, next })
}

async fn scrolled(
    inner: &Inner,
    from: Option<PointId>,
    limit: usize,
    with_vectors: bool,
) -> Result<(Vec<RetrievedPoint>, Option<PointId>), SinkError> {
    let Inner { client, place, .. } = inner;
    let request = ScrollPoints {
        collection_name: inner.name(),
        offset: from.map(client_id),
        limit: Some(u32::try_from(limit.clamp(1, MAX_HITS)).unwrap_or(u32::MAX)),
        with_payload: Some(true.into()),
        with_vectors: Some(with_vectors.into()),
        ..ScrollPoints::default()
    };
    let response = client.scroll(request).await.map_err(|error| place.error(error))?;
    let next = response.next_page_offset.map(|id| point_id(Some(id))).transpose()?;
    Ok((response.result, next))
}

pub(super) async fn search(inner: &Inner, request: SearchRequest) -> Result<Vec<Hit>, SinkError> {
    let Inner { client, spec, place, .. } = inner;
    let SearchRequest { vector, limit, filter, min_score } = request;
    crate::check_vector(&vector, spec.dimension).map_err(SinkError::BadRequest)?;
    if limit > MAX_HITS {
        return Err(SinkError::BadRequest(format!("the limit is {limit}, at most {MAX_HITS} is allowed")));
    }
    let tenant = inner.tenants.as_ref().and_then(|tenants| Some((tenants, tenants.shard_of_filter(&filter)?)));
    let request = QueryPoints {
        collection_name: inner.name(),
        query: Some(Query::new_nearest(vector)),
        filter: client_filter(spec.nesting.as_deref(), &filter)?,
        using: spec.vector.clone(),
        shard_key_selector: tenant.as_ref().map(|(_, shard)| selector(shard)),
        limit: Some(limit as u64),
        score_threshold: min_score,
        with_payload: Some(true.into()),
        with_vectors: Some(false.into()),
        ..QueryPoints::default()
    };
    if limit == 0 {
        return Ok(Vec::new());
    }
    if let Some((tenants, shard)) = &tenant
        && !tenants.exists(inner, shard).await?
    {
        return Ok(Vec::new());
    }
    let response = client.query(request).await.map_err(|error| place.error(error))?;
    let mut hits = response.result.into_iter().map(hit).collect::<Result<Vec<_>, _>>()?;
    // The server leaves the order of equal scores open; a result that jumps on reload looks broken.
    hits.sort_by(|left, right| right.score.total_cmp(&left.score).then(left.id.cmp(&right.id)));
    Ok(hits)
}

fn stored_point(point: RetrievedPoint) -> Result<StoredPoint, SinkError> {
    Ok(StoredPoint::from_raw(point_id(point.id)?, payload(point.payload)))
}

fn raw_point(inner: &Inner, point: RetrievedPoint) -> Result<RawPoint, SinkError> {
    let vector = point.vectors.and_then(|stored| dense(inner, stored));
    Ok(RawPoint { id: point_id(point.id)?, payload: payload(point.payload), vector })
}

/// The vector that searches compare with.
pub(super) fn dense(inner: &Inner, stored: VectorsOutput) -> Option<Vector> {
    let vector = match stored.vectors_options? {
        VectorsOptions::Vector(vector) => vector,
        VectorsOptions::Vectors(mut named) => named.vectors.remove(inner.spec.vector.as_deref().unwrap_or_default())?,
    };
    match vector.into_vector() {
        OutputVector::Dense(dense) => Some(dense.data),
        OutputVector::Sparse(_) | OutputVector::MultiDense(_) => None,
    }
}

fn hit(point: ScoredPoint) -> Result<Hit, SinkError> {
    let StoredPoint { id, payload, provenance } = StoredPoint::from_raw(point_id(point.id)?, payload(point.payload));
    // Rounding can lift the similarity of a vector with itself above 1.
    Ok(Hit { id, score: point.score.min(1.0), payload, provenance })
}
