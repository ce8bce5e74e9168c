//! The collections and their fields.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::state::App;
use crate::api::collections::Collections;

/// Returns the collections that can be searched, with their fields, types, indexes and filters.
#[utoipa::path(get, path = "/api/v1/collections", operation_id = "collections",
    responses((status = OK, description = "The answer", body = Collections)))]
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Collections> {
    let serving = app.searcher.serving();
    let status = app.status.borrow().clone();
    let points = |name: &str| status.collections.iter().find(|it| it.collection == name).and_then(|it| it.points);
    let described =
        serving.collections.iter().map(|it| it.description.describe(&it.name, points(&it.name), &it.fields.known()));
    Json(Collections { collections: described.collect() })
}
