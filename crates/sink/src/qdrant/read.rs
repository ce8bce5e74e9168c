//! Retrieve, scroll, search.

use qdrant_client::qdrant::vector_output::Vector as OutputVector;
use qdrant_client::qdrant::vectors_output::VectorsOptions;
use qdrant_client::qdrant::{
    Filter as ClientFilter, GetPoints, PrefetchQuery, Query as ClientQuery, QueryPoints, RetrievedPoint, Rrf,
    ScoredPoint, ScrollPoints, VectorInput, VectorsOutput, WithPayloadSelector,
};
use walvec_model::{PointId, RESERVED_KEY, RawPage, RawPoint, SparseVector, StoredPoint, Vector};

use super::RemoteCollection;
use super::convert::{client_filter, client_id, client_ids, order_by, payload, point_id, sort_value};
use super::tenants::{Tenants, selector};
use crate::faithful;
use crate::{
    CollectionSpec, Filter, Hit, MAX_POINTS, Query, RRF_K, RRF_WEIGHTS, SCROLL_POINTS, ScrollPage, SearchRequest,
    SinkError, SortRequest, SortValue, fused_from, in_order,
};

/// How many ids one request asks for.
pub(super) const RETRIEVE_POINTS: usize = 1000;

pub(super) async fn retrieve(inner: &RemoteCollection, ids: &[PointId]) -> Result<Vec<StoredPoint>, SinkError> {
    asked_for(inner, ids, own_field(), false).await?.into_iter().map(stored_point).collect()
}

/// Implements [`Sink::faithful`](crate::Sink::faithful).
pub(super) async fn faithful(inner: &RemoteCollection, ids: &[PointId]) -> Result<Vec<StoredPoint>, SinkError> {
    let points = asked_for(inner, ids, true.into(), false).await?.into_iter().map(stored_point);
    let nesting = inner.spec.nesting.as_deref();
    points.map(|point| Ok(faithful::faithful(point?, nesting, false))).collect()
}

/// Selects walvec's own field and no other.
fn own_field() -> WithPayloadSelector {
    vec![RESERVED_KEY].into()
}

pub(super) async fn get(
    inner: &RemoteCollection,
    ids: &[PointId],
    with_vectors: bool,
) -> Result<Vec<RawPoint>, SinkError> {
    let points = asked_for(inner, ids, true.into(), with_vectors).await?;
    points.into_iter().map(|point| raw_point(inner, point)).collect()
}

async fn asked_for(
    inner: &RemoteCollection,
    ids: &[PointId],
    fields: WithPayloadSelector,
    with_vectors: bool,
) -> Result<Vec<RetrievedPoint>, SinkError> {
    let found = retrieved(inner, ids, &fields, with_vectors).await?;
    inner.pace.reads.passed(ids.len());
    Ok(found)
}

/// Returns the points with these ids, as many at a time as the server answers.
pub(super) async fn retrieved(
    inner: &RemoteCollection,
    ids: &[PointId],
    fields: &WithPayloadSelector,
    with_vectors: bool,
) -> Result<Vec<RetrievedPoint>, SinkError> {
    let (RemoteCollection { client, place, .. }, size) = (inner, &inner.pace.reads);
    let (mut found, mut rest) = (Vec::with_capacity(ids.len()), ids);
    while !rest.is_empty() {
        let (some, later) = rest.split_at(size.of(RETRIEVE_POINTS).min(rest.len()));
        let request = GetPoints {
            collection_name: inner.name(),
            ids: client_ids(some),
            with_payload: Some(fields.clone()),
            with_vectors: Some(with_vectors.into()),
            ..GetPoints::default()
        };
        match client.get_points(request).await.map_err(|error| place.error(error)) {
            Ok(response) => {
                found.extend(response.result);
                rest = later;
            }
            Err(SinkError::Limited(limited)) if size.refused(&limited, some.len()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

pub(super) async fn scroll(
    inner: &RemoteCollection,
    from: Option<PointId>,
    limit: usize,
) -> Result<ScrollPage, SinkError> {
    let request = ScrollPoints { with_payload: Some(own_field()), ..in_id_order(from, limit) };
    let (points, next) = scrolled(inner, request).await?;
    Ok(ScrollPage { points: points.into_iter().map(stored_point).collect::<Result<_, _>>()?, next })
}

/// Returns the ids of points that match `filter`, in id order from `from` on, and where the next page
/// starts.
pub(super) async fn ids(
    inner: &RemoteCollection,
    from: Option<PointId>,
    filter: ClientFilter,
) -> Result<(Vec<PointId>, Option<PointId>), SinkError> {
    let with_payload = Some(false.into());
    let request = ScrollPoints { filter: Some(filter), with_payload, ..in_id_order(from, SCROLL_POINTS) };
    let (points, next) = scrolled(inner, request).await?;
    Ok((points.into_iter().map(|point| point_id(point.id)).collect::<Result<_, _>>()?, next))
}

pub(super) async fn page(
    inner: &RemoteCollection,
    filter: Filter,
    from: Option<PointId>,
    limit: usize,
    with_vectors: bool,
) -> Result<RawPage, SinkError> {
    let filter = client_filter(inner.spec.nesting.as_deref(), &filter)?;
    let request = ScrollPoints { filter, with_vectors: Some(with_vectors.into()), ..in_id_order(from, limit) };
    let (points, next) = scrolled(inner, request).await?;
    Ok(RawPage { points: points.into_iter().map(|point| raw_point(inner, point)).collect::<Result<_, _>>()?, next })
}

/// Implements [`Search::sorted`](crate::Search::sorted).
pub(super) async fn sorted(
    inner: &RemoteCollection,
    request: SortRequest,
) -> Result<Vec<(SortValue, RawPoint)>, SinkError> {
    let nesting = inner.spec.nesting.as_deref();
    let scroll = ScrollPoints {
        filter: client_filter(nesting, &request.filter())?,
        limit: Some(u32::try_from(request.limit).unwrap_or(u32::MAX)),
        with_payload: Some(true.into()),
        with_vectors: Some(request.with_vectors.into()),
        order_by: Some(order_by(nesting, &request)?),
        ..ScrollPoints::default()
    };
    let (points, _) = scrolled(inner, scroll).await.map_err(|error| request.explained(error))?;
    let with_value = |point: RetrievedPoint| {
        let value = sort_value(request.order.by, point.order_value).ok_or_else(|| request.other_index())?;
        Ok((value, raw_point(inner, point)?))
    };
    points.into_iter().map(with_value).collect()
}

fn in_id_order(from: Option<PointId>, limit: usize) -> ScrollPoints {
    ScrollPoints {
        offset: from.map(client_id),
        limit: Some(u32::try_from(limit.clamp(1, MAX_POINTS)).unwrap_or(u32::MAX)),
        with_payload: Some(true.into()),
        with_vectors: Some(false.into()),
        ..ScrollPoints::default()
    }
}

/// Returns the points, and where the next page starts.
async fn scrolled(
    inner: &RemoteCollection,
    request: ScrollPoints,
) -> Result<(Vec<RetrievedPoint>, Option<PointId>), SinkError> {
    let RemoteCollection { client, place, .. } = inner;
    let request = ScrollPoints { collection_name: inner.name(), ..request };
    let response = client.scroll(request).await.map_err(|error| with_remedy(place.error(error)))?;
    let next = response.next_page_offset.map(|id| point_id(Some(id))).transpose()?;
    Ok((response.result, next))
}

pub(super) async fn search(inner: &RemoteCollection, request: SearchRequest) -> Result<Vec<Hit>, SinkError> {
    let fused_for = request.limit;
    find(inner, request, fused_for, true.into()).await
}

/// Implements [`Search::rank`](crate::Search::rank).
pub(super) async fn rank(
    inner: &RemoteCollection,
    request: SearchRequest,
    fused_for: usize,
) -> Result<Vec<Hit>, SinkError> {
    find(inner, request, fused_for, own_field()).await
}

async fn find(
    inner: &RemoteCollection,
    request: SearchRequest,
    fused_for: usize,
    fields: WithPayloadSelector,
) -> Result<Vec<Hit>, SinkError> {
    let RemoteCollection { client, spec, place, .. } = inner;
    request.check(spec.dimension, spec.keywords.is_some())?;
    let filter = client_filter(spec.nesting.as_deref(), &request.filter)?;
    if request.finds_nothing() {
        return Ok(Vec::new());
    }
    let shard = |tenants: &Tenants| tenants.shard_of_filter(&request.filter);
    let tenant = inner.tenants.as_ref().and_then(|tenants| Some((tenants, shard(tenants)?)));
    let (is_dense, min_score) = (matches!(request.query, Query::Dense(_)), request.min_score);
    let asked = QueryPoints {
        collection_name: inner.name(),
        shard_key_selector: tenant.as_ref().map(|(_, shard)| selector(shard)),
        limit: Some(request.limit as u64),
        score_threshold: request.engine_bound(),
        with_payload: Some(fields),
        with_vectors: Some(false.into()),
        ..query(spec, request.query, fused_for, filter)
    };
    if let Some((tenants, shard)) = &tenant
        && !tenants.exists(inner, shard).await?
    {
        return Ok(Vec::new());
    }
    let response = client.query(asked).await.map_err(|error| with_remedy(place.error(error)))?;
    let hits = response.result.into_iter().map(hit).collect::<Result<Vec<_>, _>>()?;
    Ok(in_order(hits, is_dense, min_score))
}

/// Adds the remedy to the refusal of a filter by strict mode (`unindexed_filtering_retrieve`).
fn with_remedy(error: SinkError) -> SinkError {
    match error {
        SinkError::BadRequest(reason) if reason.contains("Index required") => SinkError::BadRequest(format!(
            "{reason}; name the field and its type in `index:` of the collection in walvec's configuration, for example \
             `index: {{ year: integer }}`, and start walvec again"
        )),
        other => other,
    }
}

/// Builds the part of a request that says what is searched for, and where.
fn query(spec: &CollectionSpec, query: Query, fused_for: usize, filter: Option<ClientFilter>) -> QueryPoints {
    let dense = |vector: Vector| (ClientQuery::new_nearest(vector), spec.vector.clone());
    let keyword = |SparseVector { indices, values }: SparseVector| {
        (ClientQuery::new_nearest(VectorInput::new_sparse(indices, values)), spec.keywords.clone())
    };
    let (query, using, prefetch) = match query {
        Query::Dense(vector) => {
            let (query, using) = dense(vector);
            (query, using, Vec::new())
        }
        Query::Keyword(tokens) => {
            let (query, using) = keyword(tokens);
            (query, using, Vec::new())
        }
        Query::Hybrid(vector, tokens) => {
            let sides = [Some(dense(vector)), (!tokens.is_empty()).then(|| keyword(tokens))];
            let weights = RRF_WEIGHTS.into_iter().zip(&sides).filter(|(_, side)| side.is_some());
            let weights = weights.map(|(weight, _)| weight).collect();
            let prefetch = |(query, using)| PrefetchQuery {
                query: Some(query),
                using,
                filter: filter.clone(),
                limit: Some(fused_from(fused_for) as u64),
                ..PrefetchQuery::default()
            };
            let sides = sides.into_iter().flatten().map(prefetch).collect();
            (ClientQuery::new_rrf(Rrf { k: Some(RRF_K), weights }), None, sides)
        }
    };
    QueryPoints { query: Some(query), using, prefetch, filter, ..QueryPoints::default() }
}

fn stored_point(point: RetrievedPoint) -> Result<StoredPoint, SinkError> {
    Ok(StoredPoint::from_raw(point_id(point.id)?, payload(point.payload)))
}

fn raw_point(inner: &RemoteCollection, point: RetrievedPoint) -> Result<RawPoint, SinkError> {
    let (vector, keywords) = point.vectors.map_or((None, None), |stored| vectors(inner, stored));
    Ok(RawPoint { id: point_id(point.id)?, payload: payload(point.payload), vector, keywords })
}

/// Returns the vectors that searches compare with.
pub(super) fn vectors(inner: &RemoteCollection, stored: VectorsOutput) -> (Option<Vector>, Option<SparseVector>) {
    let (dense, sparse) = match stored.vectors_options {
        None => (None, None),
        Some(VectorsOptions::Vector(vector)) => (Some(vector), None),
        Some(VectorsOptions::Vectors(mut named)) => {
            let mut take = |name: Option<&str>| named.vectors.remove(name?);
            (take(Some(inner.spec.vector.as_deref().unwrap_or_default())), take(inner.spec.keywords.as_deref()))
        }
    };
    let dense = dense.and_then(|vector| match vector.into_vector() {
        OutputVector::Dense(dense) => Some(dense.data),
        OutputVector::Sparse(_) | OutputVector::MultiDense(_) => None,
    });
    let sparse = sparse.and_then(|vector| match vector.into_vector() {
        OutputVector::Sparse(sparse) => Some(SparseVector { indices: sparse.indices, values: sparse.values }),
        OutputVector::Dense(_) | OutputVector::MultiDense(_) => None,
    });
    (dense, sparse)
}

fn hit(point: ScoredPoint) -> Result<Hit, SinkError> {
    let StoredPoint { id, payload, provenance } = StoredPoint::from_raw(point_id(point.id)?, payload(point.payload));
    Ok(Hit { id, score: point.score, payload, provenance })
}
