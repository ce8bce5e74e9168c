//! Points exactly as they are stored, to list them and to compare them with their rows (`walvec verify`).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use walvec_model::{PointId, RawPage, RawPoint};
use walvec_sink::page_in_order;

use super::search::is_json;
use super::state::App;
use crate::api::points::PointsRequest;
use crate::api::problem::{ApiProblem, Reason};
use crate::search::order::{OF_ANOTHER_ORDER, OrderCursor, check_single, parse_order};
use crate::search::searcher::sink_problem;
use crate::search::serving::Searchable;

/// The default number of points of a page.
pub(super) const DEFAULT_LIMIT: usize = 100;
/// The most points of a page.
pub(super) const MAX_LIMIT: usize = 10_000;
/// The most ids of one request: as many as fit into a body.
pub(super) const MAX_IDS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PointsQuery {
    collection: Option<String>,
    from: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    vectors: bool,
    order_by: Option<String>,
    cursor: Option<String>,
}

/// A page in the order of a field.
#[derive(Serialize)]
struct SortedAnswer {
    points: Vec<RawPoint>,
    /// The cursor of the next page; null at the end.
    next: Option<String>,
}

/// Answers `GET /api/v1/points?collection=…&from=…&limit=…&vectors=true` with a page in id order, and where the next
/// one begins.
///
/// With `order_by=field:desc` the page is in the order of the field, and the next page begins at `cursor=…`.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    query: Result<Query<PointsQuery>, QueryRejection>,
) -> Result<Response, ApiProblem> {
    let Query(query) = query.map_err(|error| ApiProblem::new(Reason::BadParameter, error.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("the limit is \"{limit}\"; a whole number from 1 to {MAX_LIMIT} is expected");
        return Err(ApiProblem::new(Reason::BadLimit, detail));
    }
    let collection = find(&app, query.collection.as_deref())?;
    if let Some(wanted) = &query.order_by {
        return Ok(Json(sorted(&collection, wanted, &query, limit).await?).into_response());
    }
    if query.cursor.is_some() {
        let detail = "cursor belongs to order_by; a page in the order of the ids begins at from";
        return Err(ApiProblem::new(Reason::BadParameter, detail));
    }
    let from = query.from.as_deref().map(point_id).transpose()?;
    let page = collection.search.page(from, limit, query.vectors).await;
    Ok(Json(page.map_err(sink_problem)?).into_response())
}

async fn sorted(
    collection: &Searchable,
    wanted: &str,
    query: &PointsQuery,
    limit: usize,
) -> Result<SortedAnswer, ApiProblem> {
    let refused = |detail: &str| ApiProblem::new(Reason::BadParameter, detail);
    if query.from.is_some() {
        return Err(refused(
            "from is an id; with order_by a page begins at cursor: what the page before says in \"next\"",
        ));
    }
    let Searchable { name, layout, fields, search, .. } = collection;
    let order = parse_order(wanted, fields.as_ref())?;
    let cursor: Option<OrderCursor> = query.cursor.as_deref().map(str::parse).transpose()?;
    let place = |cursor: OrderCursor| cursor.place_in(name, &order).ok_or_else(|| refused(OF_ANOTHER_ORDER));
    let from = cursor.map(place).transpose()?;
    let page = page_in_order(search.as_ref(), &order, from, limit, query.vectors).await.map_err(sink_problem)?;
    page.points.iter().try_for_each(|point| check_single(&order, *layout, point.id, &point.payload))?;
    let next = page.next.map(|next| OrderCursor::new(name, &order, next).to_string());
    Ok(SortedAnswer { points: page.points, next })
}

/// Answers `POST /api/v1/points` with `{"collection": …, "ids": […], "vectors": true}`: returns the points with
/// these ids that exist.
pub(super) async fn by_id(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, ApiProblem> {
    if !is_json(&headers) {
        return Err(ApiProblem::new(Reason::NotJson, "send the header Content-Type: application/json"));
    }
    let query: PointsRequest =
        serde_json::from_str(&body).map_err(|error| ApiProblem::new(Reason::BadJson, error.to_string()))?;
    if query.ids.len() > MAX_IDS {
        let detail = format!("{} ids are given; at most {MAX_IDS} are read", query.ids.len());
        return Err(ApiProblem::new(Reason::BadParameter, detail));
    }
    let collection = find(&app, query.collection.as_deref())?;
    let points = collection.search.get(query.ids, query.vectors).await.map_err(sink_problem)?;
    Ok(Json(RawPage { points, next: None }).into_response())
}

fn find(app: &App, collection: Option<&str>) -> Result<Searchable, ApiProblem> {
    app.searcher.serving().collection(collection).cloned()
}

fn point_id(text: &str) -> Result<PointId, ApiProblem> {
    let number = text.parse().map(PointId::Num);
    number.or_else(|_| serde_json::from_value(text.into())).map_err(|_| {
        ApiProblem::new(Reason::BadParameter, format!("\"{text}\" is no point's id: neither a number nor a UUID"))
    })
}
