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
use crate::search::body::Members;
use crate::search::mode::Mode;
use crate::search::request::SearchQuery;

/// The parameters of a search, which [`SearchQuery::from_pairs`] reads.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the pairs are read one by one, so that errors name them")]
struct SearchParameters {
    /// The text to search for.
    #[param(min_length = 1, max_length = 8192)]
    q: String,
    /// The collection; required if there are several.
    collection: Option<String>,
    /// What the search compares: the meaning of the text (dense), its words (keyword), or both rankings fused (hybrid).
    /// Default: hybrid if the collection has it, else dense.
    #[param(inline)]
    mode: Option<Mode>,
    /// The maximum number of hits.
    #[param(minimum = 1, maximum = 100, default = 5)]
    limit: Option<usize>,
    /// With `row`, each row is shown once, by its best chunk.
    #[param(pattern = "^row$")]
    group: Option<String>,
    /// The lowest score of a hit: a cosine similarity in the mode dense, a BM25 score in the mode keyword; not in the mode
    /// hybrid.
    min_score: Option<f32>,
    /// One condition per parameter: `field=value`, `field!=value`, `field=["one","other"]`, or `field>=end` with `>`, `>=`,
    /// `<` or `<=`, where the end is a number, a date, or a date and a time as in RFC 3339; or `field is null`, `field is
    /// not null`. Values are read as the type of the field; `meta.color` is a member of the JSON field `meta`. A condition
    /// that can never match is refused; the message lists the fields.
    filter: Option<Vec<String>>,
    /// The cursor: `next` of the page before. Send everything else unchanged.
    cursor: Option<String>,
}

/// Finds points by meaning, by words, or by both.
#[utoipa::path(get, path = "/api/v1/search", operation_id = "search", params(SearchParameters),
    responses((status = OK, description = "The answer", body = SearchAnswer)))]
pub(super) async fn by_query_string(
    State(app): State<Arc<App>>,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiProblem> {
    let Query(pairs) = pairs.map_err(|error| ApiProblem::new(Reason::BadParameter, error.body_text()))?;
    answer(&app, SearchQuery::from_pairs(pairs)?).await
}

/// Finds points by meaning, by words, or by both.
#[utoipa::path(post, path = "/api/v1/search", operation_id = "searchByJson", request_body = Members,
    responses((status = OK, description = "The answer", body = SearchAnswer)))]
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
