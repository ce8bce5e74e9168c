//! The HTTP surface for programs.
//!
//! - [`state`]: the state of the surface, and its limits
//! - [`guard`]: access control: host allow-list, origin, token and session, security headers, time limit
//! - [`search`]: answers searches
//! - [`collections`]: the collections and their fields
//! - [`points`]: points exactly as they are stored
//! - [`dead_letters`]: rows that could not be processed
//! - [`tasks`]: long work: backfill, repair, reindex
//! - [`health`]: liveness, readiness, status, metrics
//! - [`openapi`]: the description of the surface for programs
//! - [`problem`]: errors as answers
//!
//! Pages for people come from the caller.

mod collections;
pub(crate) mod dead_letters;
mod guard;
mod health;
mod openapi;
mod points;
mod problem;
mod search;
mod state;
pub(crate) mod tasks;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Router, serve as serve_http};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::guard::LOGIN_PATH;
pub(crate) use self::state::{AllowedHosts, App, AppState, Limits};
use crate::api::problem::{ApiProblem, Reason};

/// How long open requests may take after the shutdown signal before their connections are dropped.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How often histogram samples are folded into their buckets. Without it they accumulate until a scraper reads
/// `/metrics`.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Builds the whole surface as one router, without a socket. `pages`: the routes for people.
pub(crate) fn router(state: AppState, pages: Router<Arc<App>>, allowed_hosts: AllowedHosts, limits: Limits) -> Router {
    let app = Arc::new(App::new(state, allowed_hosts, limits));
    Router::new()
        .route("/api/v1/search", get(search::by_query_string).post(search::by_json))
        .route("/api/v1/collections", get(collections::list))
        .route("/api/v1/status", get(health::status))
        .route("/api/v1/points", get(points::page).post(points::by_id))
        .route("/api/v1/dead-letters", get(dead_letters::page))
        .route("/api/v1/tasks/{id}", get(tasks::task))
        .merge(operations())
        .route("/openapi.json", get(openapi::document))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route(LOGIN_PATH, get(guard::to_page).post(guard::login))
        .merge(pages)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(from_fn_with_state(Arc::clone(&app), guard::admit))
        .layer(from_fn_with_state(Arc::clone(&app), guard::limit_time))
        .layer(from_fn(guard::add_headers))
        .with_state(app)
}

fn operations() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/resync", post(tasks::resync))
        .route("/api/v1/backfill", post(tasks::backfill))
        .route("/api/v1/repair", post(tasks::repair))
        .route("/api/v1/reindex", post(tasks::reindex))
        .layer(DefaultBodyLimit::max(tasks::BODY_BYTES))
}

/// Answers on `listener` until `stop` is cancelled, then finishes the open requests within [`DRAIN_TIMEOUT`].
///
/// A loopback listener answers to loopback names and to configured ones only, see [`AllowedHosts`].
///
/// # Errors
/// If the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    state: AppState,
    pages: Router<Arc<App>>,
    stop: CancellationToken,
) -> io::Result<()> {
    let metrics = state.metrics.clone();
    let hosts = AllowedHosts::for_listener(listener.local_addr()?, &state.allowed_hosts);
    let router = router(state, pages, hosts, Limits::default());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    let upkeep = async move {
        let mut ticks = tokio::time::interval(METRICS_UPKEEP);
        loop {
            ticks.tick().await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        result = serve_http(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned()) => result,
        () = drained => Ok(()),
        () = upkeep => Ok(()),
    }
}

async fn not_found(uri: Uri) -> ApiProblem {
    ApiProblem::new(Reason::NotFound, format!("there is nothing at {}; /openapi.json lists what there is", uri.path()))
}

async fn method_not_allowed(method: axum::http::Method, uri: Uri) -> ApiProblem {
    ApiProblem::new(Reason::MethodNotAllowed, format!("{} does not accept {method}; see the Allow header", uri.path()))
}
