//! Liveness, readiness, status, metrics.
//!
//! Lag never fails a probe: a restart would make it worse, and stale hits are better than none.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use walvec_pipeline::observe::status::{Phase, Status};

use super::state::App;
use crate::api::problem::{ApiProblem, Reason};

/// The body of a healthy probe.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `alive` or `ready`.
    status: &'static str,
    /// The part whose error is being retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    problem: Option<String>,
}

/// Returns 200 as long as the process serves.
///
/// Needs no token: orchestrators have none.
#[utoipa::path(get, path = "/livez", operation_id = "livez", security(()),
    responses((status = OK, description = "The answer", body = Health)))]
pub(super) async fn livez() -> Json<Health> {
    Json(Health { status: "alive", problem: None })
}

/// Returns 200 once the slot is held, the sink open and the model loaded; else 503.
///
/// Needs no token, and says no more than which part does not work.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", security(()),
    responses((status = OK, description = "The answer", body = Health)))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiProblem> {
    let (phase, problem) = {
        let status = app.status.borrow();
        (status.phase, status.problem.as_ref().map(|problem| problem.part.clone()))
    };
    match phase {
        Phase::Snapshot | Phase::Streaming => Ok(Json(Health { status: "ready", problem })),
        Phase::Starting => Err(ApiProblem::new(
            Reason::NotReady,
            match problem {
                Some(part) => format!("the {part} does not work, and is tried again; /api/v1/status says why"),
                None => "starting: the slot, the sink and the model are not all open yet".to_owned(),
            },
        )),
        Phase::Stopping => Err(ApiProblem::new(Reason::NotReady, "stopping: writing what is in flight")),
    }
}

/// Returns what the pipeline is doing.
#[utoipa::path(get, path = "/api/v1/status", operation_id = "status",
    responses((status = OK, description = "The answer", body = Object)))]
pub(super) async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    Json(app.status.borrow().clone())
}

/// Returns the metrics in the text format of Prometheus.
///
/// Needs the token where there is one, because the labels name tables. Unknown values are left out.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics",
    responses((status = OK, description = "The answer", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let rendered = app.metrics.render();
    let known: String = rendered.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(" NaN")).collect();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], known)
}
