//! Points exactly as they are stored, for whoever compares them with their rows (`walvec verify`).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use walvec_model::{PointId, RawPage};
use walvec_sink::Search;

use super::problem::{Problem, Reason};
use super::search::{is_json, sink_problem};
use super::state::App;

/// Points of a page when nothing is asked for.
pub(super) const DEFAULT_LIMIT: usize = 100;
/// Most points of a page.
pub(super) const MAX_LIMIT: usize = 10_000;
/// Most ids of one request: as many as fit into a body.
pub(super) const MAX_IDS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    collection: Option<String>,
    from: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    vectors: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdQuery {
    collection: Option<String>,
    ids: Vec<PointId>,
    #[serde(default)]
    vectors: bool,
}

/// `GET /api/v1/points?collection=…&from=…&limit=…&vectors=true`: a page in id order, and where the next one begins.
pub(super) async fn page(
    State(app): State<Arc<App>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::new(Reason::BadParameter, error.body_text()))?;
    let from = query.from.as_deref().map(point_id).transpose()?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("the limit is \"{limit}\"; a whole number from 1 to {MAX_LIMIT} is expected");
        return Err(Problem::new(Reason::BadLimit, detail));
    }
    let page = find(&app, query.collection.as_deref())?.page(from, limit, query.vectors).await;
    Ok(Json(page.map_err(sink_problem)?).into_response())
}

/// `POST /api/v1/points` with `{"collection": …, "ids": […], "vectors": true}`: those of the points that exist.
pub(super) async fn by_id(State(app): State<Arc<App>>, headers: HeaderMap, body: String) -> Result<Response, Problem> {
    if !is_json(&headers) {
        return Err(Problem::new(Reason::NotJson, "send the header Content-Type: application/json"));
    }
    let query: IdQuery =
        serde_json::from_str(&body).map_err(|error| Problem::new(Reason::BadJson, error.to_string()))?;
    if query.ids.len() > MAX_IDS {
        let detail = format!("{} ids are given; at most {MAX_IDS} are read", query.ids.len());
        return Err(Problem::new(Reason::BadParameter, detail));
    }
    let points = find(&app, query.collection.as_deref())?.get(query.ids, query.vectors).await.map_err(sink_problem)?;
    Ok(Json(RawPage { points, next: None }).into_response())
}

fn find(app: &App, collection: Option<&str>) -> Result<Arc<dyn Search>, Problem> {
    let serving = app.searcher.serving();
    serving.collection(collection).map(|collection| Arc::clone(&collection.search))
}

fn point_id(text: &str) -> Result<PointId, Problem> {
    let number = text.parse().map(PointId::Num);
    number.or_else(|_| serde_json::from_value(text.into())).map_err(|_| {
        Problem::new(Reason::BadParameter, format!("\"{text}\" is no point's id: neither a number nor a UUID"))
    })
}
