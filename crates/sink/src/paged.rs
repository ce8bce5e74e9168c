//! The hits of a search, page by page.

use std::collections::HashMap;

use walvec_model::{PointId, StoredPoint};

use crate::nearest_rows::one_per_row;
use crate::{Hit, MAX_HITS, Query, Search, SearchRequest, SinkError, nearest_rows};

/// How many times as many points are ranked next, if those that were ranked do not settle the page.
const FURTHER: usize = 4;

/// The place in the ranking of a search where a page begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitPlace {
    /// How many hits come before it.
    pub offset: usize,
    /// For how many hits each side of a hybrid search brings in points, as [`Search::rank`] takes it. The first page decides this
    /// number, because with more points the ranking would differ. 0 on the first page.
    pub fused_for: usize,
}

/// One page of the hits of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct HitPage {
    /// The hits, best first.
    pub hits: Vec<Hit>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<HitPlace>,
}

/// Returns the hits of a search from a place on, at most `request.limit`. With `by_row`, a row counts once, as its nearest chunk.
///
/// While nothing is written, consecutive pages hold every hit once: hits with equal scores are ordered by id, however many there are. At
/// most [`MAX_HITS`] points are ranked, and in a hybrid search those that its two sides bring in for the first page.
///
/// # Errors
/// Those of [`Search::search`].
pub async fn page_of_hits(
    collection: &dyn Search,
    request: SearchRequest,
    place: HitPlace,
    by_row: bool,
) -> Result<HitPage, SinkError> {
    let per_page = request.limit;
    if place.offset == 0
        && let Some(page) = first_page(collection, &request, by_row).await?
    {
        return Ok(page);
    }
    let end = place.offset.saturating_add(per_page);
    let (mut ranked, fused_for) = ranking(collection, request, end.saturating_add(1), place.fused_for, by_row).await?;
    let next = (ranked.len() > end).then_some(HitPlace { offset: end, fused_for });
    ranked.truncate(end);
    let hits = ranked.split_off(place.offset.min(ranked.len()));
    debug_assert!(hits.len() <= per_page, "a page has at most {per_page} hits, not {}", hits.len());
    Ok(HitPage { hits: with_fields(collection, hits).await?, next })
}

/// Returns the first page if one search settles it: the hit behind it has another score than its last one, or there is none.
async fn first_page(
    collection: &dyn Search,
    request: &SearchRequest,
    by_row: bool,
) -> Result<Option<HitPage>, SinkError> {
    let limit = request.limit;
    let fused_for = limit.saturating_add(1).min(MAX_HITS);
    let with_next = SearchRequest { limit: fused_for, ..request.clone() };
    let mut hits = match (&request.query, by_row) {
        // How many points the sides must bring in becomes known only on the way.
        (Query::Hybrid(..), true) => return Ok(None),
        (_, true) => nearest_rows(collection, with_next).await?,
        (_, false) => collection.search(with_next).await?,
    };
    let next = (hits.len() > limit).then_some(HitPlace { offset: limit, fused_for });
    let is_settled = match hits.get(limit.saturating_sub(1)..) {
        Some([last, behind, ..]) => last.score > behind.score,
        _ => true,
    };
    hits.truncate(limit);
    Ok(is_settled.then_some(HitPage { hits, next }))
}

/// Returns the ranking up to at least `wanted` hits, or to its end, and for how many hits the sides of a hybrid search brought in
/// points. Leaves out points that share their score with points beyond the ranking.
async fn ranking(
    collection: &dyn Search,
    request: SearchRequest,
    wanted: usize,
    fused_for: usize,
    by_row: bool,
) -> Result<(Vec<Hit>, usize), SinkError> {
    // The chunks of a few rows may be all that the sides bring in.
    let may_grow = by_row && fused_for == 0 && matches!(request.query, Query::Hybrid(..));
    let mut fused_for = if fused_for == 0 { wanted } else { fused_for };
    let mut limit = wanted.saturating_add(1).min(MAX_HITS);
    loop {
        let mut hits = collection.rank(SearchRequest { limit, ..request.clone() }, fused_for).await?;
        let is_all = hits.len() < limit || limit >= MAX_HITS;
        if !is_all && let Some(last) = hits.last().map(|hit| hit.score) {
            // Points with this score and lower ids may be missing.
            hits.retain(|hit| hit.score > last);
        }
        if by_row {
            hits = one_per_row(hits, usize::MAX);
        }
        let may_find_more = may_grow && fused_for < MAX_HITS;
        if hits.len() >= wanted || (is_all && !may_find_more) {
            return Ok((hits, fused_for));
        }
        if is_all {
            fused_for = fused_for.saturating_mul(FURTHER).min(MAX_HITS);
        } else {
            limit = limit.saturating_mul(FURTHER).min(MAX_HITS);
        }
    }
}

/// Returns the hits with all of the user's fields, without points that were removed meanwhile.
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
