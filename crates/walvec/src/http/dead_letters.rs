//! Rows that could not be processed, page by page.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use walvec_model::RowKey;
use walvec_pipeline::state::dead_letters::DeadLetter;
use walvec_pipeline::state::dead_letters::DeadLetterStore;
use walvec_pipeline::{PipelineError, Store};

use super::state::App;
use crate::api::dead_letters::DeadLetterPage;
use crate::api::problem::{ApiProblem, Reason};

/// The most dead letters of a page, and the default.
pub(super) const MAX_LIMIT: usize = 1000;

/// Reads dead letters of a collection: up to this many, in the order of their keys, after a key. Blocks.
pub(crate) type DeadLetters =
    Arc<dyn Fn(&str, Option<&RowKey>, usize) -> Result<Vec<DeadLetter>, PipelineError> + Send + Sync>;

/// Reads dead letters of a state file.
pub(crate) fn from_store(store: &Arc<Store>) -> DeadLetters {
    let store = Arc::clone(store);
    Arc::new(move |collection, after, limit| Ok(store.dead_letters_after(collection, after, limit)?))
}

/// Reads the dead letters that all workers behind a broker share.
pub(crate) fn from_topic(letters: Arc<dyn DeadLetterStore>) -> DeadLetters {
    Arc::new(move |collection, after, limit| {
        let canonical = |letter: &DeadLetter| RowKey::new(letter.key.clone()).canonical().to_vec();
        let mut found = letters.of(collection)?;
        found.retain(|letter| after.is_none_or(|after| canonical(letter).as_slice() > after.canonical()));
        found.sort_by_key(canonical);
        found.truncate(limit);
        Ok(found)
    })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadLettersQuery {
    /// The collection; required if there are several.
    collection: Option<String>,
    /// The cursor: `next` of the page before, a JSON array of key values.
    after: Option<String>,
    /// The maximum number of parked rows.
    #[param(minimum = 1, maximum = 1000, default = 1000)]
    limit: Option<usize>,
}

/// Returns rows that could not be processed, in the order of their keys.
#[utoipa::path(get, path = "/api/v1/dead-letters", operation_id = "pageOfDeadLetters", params(DeadLettersQuery),
    responses((status = OK, description = "The answer", body = DeadLetterPage)))]
pub(super) async fn page(
    State(app): State<Arc<App>>,
    query: Result<Query<DeadLettersQuery>, QueryRejection>,
) -> Result<Response, ApiProblem> {
    let Query(query) = query.map_err(|error| ApiProblem::new(Reason::BadParameter, error.body_text()))?;
    let limit = query.limit.unwrap_or(MAX_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("the limit is \"{limit}\"; a whole number from 1 to {MAX_LIMIT} is expected");
        return Err(ApiProblem::new(Reason::BadLimit, detail));
    }
    let after = query.after.map(|text| serde_json::from_str(&text).map(RowKey::new)).transpose().map_err(|error| {
        ApiProblem::new(Reason::BadParameter, format!("after is no JSON array of key values: {error}"))
    })?;
    let collection = app.searcher.serving().collection(query.collection.as_deref())?.name.clone();
    let read = Arc::clone(&app.dead_letters);
    // One more row tells whether there is another page.
    let found = tokio::task::spawn_blocking(move || read(&collection, after.as_ref(), limit + 1)).await;
    let failed = |reason: String| ApiProblem::new(Reason::StateFailed, reason);
    let found = found.map_err(|panic| failed(panic.to_string()))?;
    let mut letters = found.map_err(|error| failed(error.to_string()))?;
    let is_last = letters.len() <= limit;
    letters.truncate(limit);
    let next = if is_last { None } else { letters.last().map(|letter| letter.key.clone()) };
    letters.retain(|letter| !letter.dropped);
    Ok(Json(DeadLetterPage { dead_letters: letters, next }).into_response())
}
