//! Long work: how to ask for it, and its progress.
//!
//! These calls change what is stored, so they need more than the right to search: the key that the running process keeps
//! in its data directory, readable for its owner only.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use walvec_model::{Position, RowKey};
use walvec_pipeline::source::reread::JobSpec;

use super::state::App;
use crate::api::announcement::KEY_HEADER;
use crate::api::problem::{ApiProblem, Reason};
use crate::api::tasks::{Accepted, BackfillRequest, ReindexRequest, RepairRequest, ResyncRequest, Task, TaskKind};
use crate::config;
use crate::search::body::object;
use crate::tasks::{TaskHandle, TaskRequest, Tasks};

/// The largest body of these calls, in bytes.
pub(super) const BODY_BYTES: usize = 4 << 20;

/// The receiver of requests, and the key that callers need.
pub(crate) struct Operations {
    /// The tasks of this process.
    pub(crate) tasks: Tasks,
    /// The queue to the owner of the pipeline.
    pub(crate) requests: mpsc::Sender<(TaskRequest, TaskHandle)>,
    /// The key that a caller has to show.
    pub(crate) key: SecretString,
}

impl Operations {
    /// Returns whether a request shows the key, which proves that it comes from the owner of the data directory.
    pub(super) fn is_from_owner(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(KEY_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Digests are compared, so that the time of the comparison reveals nothing.
        blake3::hash(shown.as_bytes()) == blake3::hash(self.key.expose_secret().as_bytes())
    }
}

/// A body, or why it could not be read.
type BodyResult = Result<Bytes, BytesRejection>;

/// Reads rows of a table again while the stream continues.
#[utoipa::path(post, path = "/api/v1/backfill", operation_id = "backfill", request_body = BackfillRequest, security(("key" = [])),
    responses((status = ACCEPTED, description = "The task has begun", body = Accepted)))]
pub(super) async fn backfill(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiProblem> {
    let BackfillRequest { table, filter } = parse(&app, &headers, body, r#"{"table": …, "where": …}"#)?;
    let table = config::table_name(&table).map_err(|reason| ApiProblem::new(Reason::BadParameter, reason))?;
    accept(&app, TaskKind::Backfill, TaskRequest::Job(JobSpec::Backfill { table, filter }))
}

/// Reads and embeds rows again, and removes points that have no row.
#[utoipa::path(post, path = "/api/v1/repair", operation_id = "repair", request_body = RepairRequest, security(("key" = [])),
    responses((status = ACCEPTED, description = "The task has begun", body = Accepted)))]
pub(super) async fn repair(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiProblem> {
    let expected = r#"{"collection": …, "rows": […], "points": […]}"#;
    let RepairRequest { collection, rows, points } = parse(&app, &headers, body, expected)?;
    // A text that is not a version cannot be parsed in the stored point either, which therefore counts as foreign.
    let version = |text: Option<String>| text.and_then(|text| text.parse::<Position>().ok());
    let job = JobSpec::Repair {
        collection,
        rows: rows.into_iter().map(RowKey::new).collect(),
        points: points.into_iter().map(|point| (point.id, version(point.version))).collect(),
    };
    accept(&app, TaskKind::Repair, TaskRequest::Job(job))
}

/// Reads all tables again, or, with `force`, removes points that wait for this permission.
#[utoipa::path(post, path = "/api/v1/resync", operation_id = "resync", request_body = ResyncRequest, security(("key" = [])),
    responses((status = ACCEPTED, description = "The task has begun", body = Accepted)))]
pub(super) async fn resync(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiProblem> {
    let ResyncRequest { force } = parse(&app, &headers, body, r#"{"force": …}"#)?;
    accept(&app, TaskKind::Resync, TaskRequest::Job(JobSpec::Resync { may_sweep_most: force }))
}

/// Builds new collections while the present ones are served, then switches.
#[utoipa::path(post, path = "/api/v1/reindex", operation_id = "reindex", request_body = ReindexRequest, security(("key" = [])),
    responses((status = ACCEPTED, description = "The task has begun", body = Accepted)))]
pub(super) async fn reindex(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiProblem> {
    let ReindexRequest { rollback } = parse(&app, &headers, body, r#"{"rollback": …}"#)?;
    accept(&app, TaskKind::Reindex, TaskRequest::Reindex { rollback })
}

/// Returns how far the latest backfill, repair, resync or reindex has come.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", operation_id = "task", params(("id" = u64, Path, description = "The task's number")),
    responses((status = OK, description = "The answer", body = Task)))]
pub(super) async fn task(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiProblem> {
    match id.parse().ok().and_then(|id| app.operations.tasks.get(id)) {
        Some(task) => Ok(Json(task).into_response()),
        None => Err(ApiProblem::new(Reason::NotFound, format!("there is no task {id}; only the latest is remembered"))),
    }
}

/// Parses the body of a caller that has shown the key. `expected` is an example of a body.
fn parse<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: BodyResult,
    expected: &str,
) -> Result<T, ApiProblem> {
    if !app.operations.is_from_owner(headers) {
        let detail = "this changes what is stored: use the walvec commands on the machine and as the user that runs it";
        return Err(ApiProblem::new(Reason::ForbiddenOperation, detail));
    }
    if !super::search::is_json(headers) {
        return Err(ApiProblem::new(Reason::NotJson, "send the header Content-Type: application/json"));
    }
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiProblem::new(Reason::BodyTooLarge, format!("at most {BODY_BYTES} bytes are read"))
        }
        _ => ApiProblem::new(Reason::BadJson, error.body_text()),
    })?;
    object(&body, expected)
}

fn accept(app: &App, kind: TaskKind, request: TaskRequest) -> Result<Response, ApiProblem> {
    let busy = || ApiProblem::new(Reason::TaskRunning, "another task is running; wait for its end");
    let handle = app.operations.tasks.begin(kind).ok_or_else(busy)?;
    let task = handle.id();
    app.operations.requests.try_send((request, handle)).map_err(|_| busy())?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { task })).into_response())
}
