//! Answers searches.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::state::App;
use crate::api::problem::{ApiProblem, Reason};
use crate::api::search::{AnswerHit, Freshness, SearchAnswer};
use crate::search::request::SearchQuery;

/// Answers `GET /api/v1/search?q=…&collection=…&mode=…&limit=…&group=row&filter=field=value&cursor=…`.
pub(super) async fn by_query_string(
    State(app): State<Arc<App>>,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiProblem> {
    let Query(pairs) = pairs.map_err(|error| ApiProblem::new(Reason::BadParameter, error.body_text()))?;
    answer(&app, SearchQuery::from_pairs(pairs)?).await
}

/// Answers `POST /api/v1/search` with `{"query": …, "collection": …, "limit": …, "group": …, "filter": {…}}`.
pub(super) async fn by_json(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiProblem> {
    // This also keeps out the forms of other sites, which cannot send JSON without asking first.
    if !is_json(&headers) {
        return Err(ApiProblem::new(Reason::NotJson, "send the header Content-Type: application/json"));
    }
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiProblem::new(Reason::BodyTooLarge, format!("at most {} bytes are read", app.limits.body_bytes))
        }
        _ => ApiProblem::new(Reason::BadJson, error.body_text()),
    })?;
    answer(&app, SearchQuery::from_json(&body)?).await
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

async fn answer(app: &App, query: SearchQuery) -> Result<Response, ApiProblem> {
    // Read before the search, so the hits are never older than the answer claims.
    let freshness = Freshness::from(&*app.status.borrow());
    let found = app.searcher.search(&query).await?;
    let hits = found.hits.iter().map(AnswerHit::from).collect();
    let next = found.next.map(|next| next.to_string());
    let (collection, note, query_cut) = (found.collection.as_str(), found.note, found.is_cut);
    let answer = SearchAnswer { query: &query.text, collection, hits, next, note, query_cut, freshness };
    Ok(Json(answer).into_response())
}
