//! Liveness, readiness, status, metrics.
//!
//! Lag never fails a probe: a restart would make it worse, and stale hits are better than none.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use walvec_pipeline::status::{Phase, Status};

use super::problem::{Problem, Reason};
use super::state::App;

/// The body of a healthy probe.
#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
}

/// `GET /livez`: the process serves. Needs no token: orchestrators have none.
pub(super) async fn livez() -> Json<Health> {
    Json(Health { status: "alive" })
}

/// `GET /readyz`: the slot is held, the sink is open, the model is loaded. Needs no token, and says no more than that.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<Json<Health>, Problem> {
    match app.status.borrow().phase {
        Phase::Snapshot | Phase::Streaming => Ok(Json(Health { status: "ready" })),
        Phase::Starting => Err(Problem::new(
            Reason::NotReady,
            "starting: the slot, the sink and the model are not all open yet; /api/v1/status says what is being retried",
        )),
        Phase::Stopping => Err(Problem::new(Reason::NotReady, "stopping: draining what is under way")),
    }
}

/// `GET /api/v1/status`
pub(super) async fn status(State(app): State<Arc<App>>) -> Json<Status> {
    Json(app.status.borrow().clone())
}

/// `GET /metrics`, in the text format of Prometheus. Needs the token where there is one: the labels name tables.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
}
