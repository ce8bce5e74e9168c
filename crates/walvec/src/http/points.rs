//! Points exactly as they are stored, to list them and to compare them with their rows (`walvec verify`).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use walvec_model::{Payload, PointId, RawPage, RawPoint};
use walvec_sink::page_in_order;

use super::search::is_json;
use super::state::App;
use crate::api::points::PointsRequest;
use crate::api::problem::{ApiProblem, Reason};
use crate::api::schema::IdSchema;
use crate::search::order::{OF_ANOTHER_ORDER, OrderCursor, check_single, parse_order};
use crate::search::searcher::sink_problem;
use crate::search::serving::Searchable;

/// The default number of points of a page.
pub(super) const DEFAULT_LIMIT: usize = 100;
/// The most points of a page.
pub(super) const MAX_LIMIT: usize = 10_000;
/// The most ids of one request: as many as fit into a body.
pub(super) const MAX_IDS: usize = 1000;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PointsQuery {
    /// The collection; required if there are several.
    collection: Option<String>,
    /// Without `order_by`, the id that the page begins with: `next` of the page before.
    #[param(value_type = Option<IdSchema>)]
    from: Option<String>,
    /// The maximum number of points.
    #[param(minimum = 1, maximum = 10000, default = 100)]
    limit: Option<usize>,
    /// Whether the answer has the vectors.
    #[serde(default)]
    #[param(default = false)]
    vectors: bool,
    /// A field that is indexed as integer, float or datetime: `price`, or `price:desc` for the greatest first. Points
    /// without a value come last.
    order_by: Option<String>,
    /// With `order_by`, the cursor: `next` of the page before. Send the same `collection` and `order_by` as for that page.
    cursor: Option<String>,
}

/// A page of points.
// `RawPage` and `SortedAnswer` are what is sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes types that other crates declare")]
pub(super) struct PointsPage {
    /// The points of this page.
    points: Vec<PagePoint>,
    /// The next page: with `order_by` its cursor, else its first id; null on the last page.
    #[schema(required, value_type = Option<IdSchema>)]
    next: Option<PointId>,
}

/// A point exactly as it is stored.
#[derive(ToSchema)]
#[schema(as = Point)]
#[expect(dead_code, reason = "describes a type that another crate declares")]
struct PagePoint {
    /// The id.
    #[schema(value_type = IdSchema)]
    id: PointId,
    /// Every stored field, walvec's own under `_walvec`.
    #[schema(value_type = Object)]
    payload: Payload,
    /// The vector, if it was requested and the point has one.
    #[schema(nullable = false)]
    vector: Option<Vec<Option<f32>>>,
}

/// A page in the order of a field.
#[derive(Serialize)]
struct SortedAnswer {
    points: Vec<RawPoint>,
    /// The cursor of the next page; null at the end.
    next: Option<String>,
}

/// Returns a page of points, exactly as they are stored, in the order of their ids or of a field.
#[utoipa::path(get, path = "/api/v1/points", operation_id = "pageOfPoints", params(PointsQuery),
    responses((status = OK, description = "The answer", body = PointsPage)))]
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

/// Returns those of the named points that exist.
#[utoipa::path(post, path = "/api/v1/points", operation_id = "pointsById", request_body = PointsRequest,
    responses((status = OK, description = "The answer", body = PointsPage)))]
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
