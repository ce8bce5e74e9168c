//! The hits of a search, page by page.

use std::collections::HashMap;

use walvec_model::{PointId, StoredPoint};

use crate::nearest_rows::one_per_row;
use crate::{Hit, MAX_HITS, Search, SearchRequest, SinkError, nearest_rows};

/// How many times as many points are ranked, where those that were ranked do not settle the page.
const FURTHER: usize = 4;

/// One page of the hits of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct HitPage {
    /// The hits, best first.
    pub hits: Vec<Hit>,
    /// Whether there are more behind them.
    pub has_more: bool,
}

/// The hits of a search from the place `offset` on, `request.limit` of them at most. `by_row`: a row counts once, as its nearest
/// chunk.
///
/// While nothing is written, pages that follow each other hold every hit once: equal scores are told apart by the id, however many
/// there are. At most [`MAX_HITS`] points are ranked.
///
/// # Errors
/// As [`Search::search`].
pub async fn page_of_hits(
    collection: &dyn Search,
    request: SearchRequest,
    offset: usize,
    by_row: bool,
) -> Result<HitPage, SinkError> {
    let per_page = request.limit;
    if offset == 0
        && let Some(page) = first_page(collection, &request, by_row).await?
    {
        return Ok(page);
    }
    let end = offset.saturating_add(per_page);
    let mut ranked = ranking(collection, request, per_page, end.saturating_add(1), by_row).await?;
    let has_more = ranked.len() > end;
    ranked.truncate(end);
    let hits = ranked.split_off(offset.min(ranked.len()));
    Ok(HitPage { hits: with_fields(collection, hits).await?, has_more })
}

/// The first page, if one search settles it: the hit behind it has another score than its last one, or there is none.
async fn first_page(
    collection: &dyn Search,
    request: &SearchRequest,
    by_row: bool,
) -> Result<Option<HitPage>, SinkError> {
    let limit = request.limit;
    let with_next = SearchRequest { limit: limit.saturating_add(1).min(MAX_HITS), ..request.clone() };
    let mut hits =
        if by_row { nearest_rows(collection, with_next).await? } else { collection.search(with_next).await? };
    let has_more = hits.len() > limit;
    let is_settled = match hits.get(limit.saturating_sub(1)..) {
        Some([last, next, ..]) => last.score > next.score,
        _ => true,
    };
    hits.truncate(limit);
    Ok(is_settled.then_some(HitPage { hits, has_more }))
}

/// The ranking up to `wanted` hits at least, or up to its end. It says nothing of points whose score is that of points behind it.
async fn ranking(
    collection: &dyn Search,
    request: SearchRequest,
    per_page: usize,
    wanted: usize,
    by_row: bool,
) -> Result<Vec<Hit>, SinkError> {
    let mut limit = wanted.saturating_add(1).min(MAX_HITS);
    loop {
        // Chunks of a few rows may fill what each side of a hybrid search brings in, so that it has to bring in more.
        let fused = if by_row { limit } else { per_page.saturating_add(1) };
        let mut hits = collection.rank(SearchRequest { limit, ..request.clone() }, fused).await?;
        let is_all = hits.len() < limit || limit >= MAX_HITS;
        if !is_all && let Some(last) = hits.last().map(|hit| hit.score) {
            // Others may have this score, with lower ids.
            hits.retain(|hit| hit.score > last);
        }
        if by_row {
            hits = one_per_row(hits, usize::MAX);
        }
        if is_all || hits.len() >= wanted {
            return Ok(hits);
        }
        limit = limit.saturating_mul(FURTHER).min(MAX_HITS);
    }
}

/// The hits with all of the user's fields, without those that are gone by now.
async fn with_fields(collection: &dyn Search, hits: Vec<Hit>) -> Result<Vec<Hit>, SinkError> {
    if hits.is_empty() {
        return Ok(hits);
    }
    let points = collection.get(hits.iter().map(|hit| hit.id).collect(), false).await?;
    let mut points: HashMap<PointId, StoredPoint> =
        points.into_iter().map(|point| (point.id, StoredPoint::from_raw(point.id, point.payload))).collect();
    let complete = |hit: Hit| {
        let StoredPoint { id, payload, provenance } = points.remove(&hit.id)?;
        Some(Hit { id, score: hit.score, payload, provenance })
    };
    Ok(hits.into_iter().filter_map(complete).collect())
}
