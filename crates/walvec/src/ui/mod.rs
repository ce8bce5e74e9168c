//! The search page. It is rendered on the server, and complete without JavaScript. The script only requests the same
//! fragments while the user types, so there is one renderer, and payloads become text in one place.
//!
//! - [`page_query`]: the page's address: a tolerant parser, and links to other addresses
//! - [`layout`]: the frame of the page
//! - [`results`]: the hits, or why there are none
//! - [`hit`]: one hit: title, texts, facts
//! - [`highlight`]: query words inside texts, as markup
//! - [`pipeline_state`]: the state of the pipeline: the live line, snapshot progress, problems
//! - [`format`](mod@format): numbers and times in a readable form
//! - [`assets`]: style sheet, scripts and icon, under names that change with their content

mod assets;
mod format;
mod highlight;
mod hit;
mod layout;
mod page_query;
mod pipeline_state;
mod results;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::Markup;
use walvec_pipeline::observe::status::Status;

use self::page_query::PageQuery;
use self::results::SearchOutcome;
use crate::http::App;
use crate::search::request::SearchQuery;
use crate::search::searcher::SearchOptions;

/// A parsed query string; one that cannot be parsed counts as empty.
type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// Returns the routes of the page, its fragments and its assets.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(page))
        .route("/ui/results", get(results_fragment))
        .route("/ui/status", get(status_fragment))
        .merge(assets::routes())
}

/// Returns the page for a browser that has not shown the token yet; `refused` if it has shown a wrong one.
pub(crate) fn sign_in_page(refused: bool) -> Response {
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], layout::sign_in(refused)).into_response()
}

/// The data of one rendering.
struct View {
    page_query: PageQuery,
    collections: Vec<String>,
    options: SearchOptions,
    examples: Vec<String>,
    status: Status,
    outcome: SearchOutcome,
}

impl View {
    async fn new(app: &App, pairs: Pairs) -> Self {
        let collections: Vec<String> = app.searcher.collections();
        let page_query = PageQuery::from_pairs(pairs.map(|Query(pairs)| pairs).unwrap_or_default(), &collections);
        let options = app.searcher.options(&page_query.collection);
        let outcome = match page_query.to_query() {
            None => SearchOutcome::NothingAsked,
            Some(Err(problem)) => SearchOutcome::Failed(problem),
            Some(Ok(query)) => {
                // People look for rows; a row that fills the page with its chunks would hide the others.
                let query = SearchQuery { by_row: options.is_chunked, ..query };
                app.searcher.search(&query).await.map_or_else(SearchOutcome::Failed, SearchOutcome::Found)
            }
        };
        let status = app.status.borrow().clone();
        Self { page_query, collections, options, examples: app.examples.clone(), status, outcome }
    }

    fn respond(&self, markup: Markup) -> Response {
        let status = match &self.outcome {
            SearchOutcome::Failed(problem) => problem.status(),
            SearchOutcome::NothingAsked | SearchOutcome::Found(_) => StatusCode::OK,
        };
        (status, markup).into_response()
    }
}

/// Answers `GET /?q=…&collection=…&mode=…&limit=…&filter=…` with the page.
async fn page(State(app): State<Arc<App>>, pairs: Pairs) -> Response {
    let view = View::new(&app, pairs).await;
    view.respond(layout::page(&view))
}

/// Answers `GET /ui/results?…` with the parts of the page that follow the query.
async fn results_fragment(State(app): State<Arc<App>>, pairs: Pairs) -> Response {
    let view = View::new(&app, pairs).await;
    view.respond(results::render(&view))
}

/// Answers `GET /ui/status` with the parts of the page that follow the pipeline.
async fn status_fragment(State(app): State<Arc<App>>) -> Markup {
    let status = app.status.borrow().clone();
    pipeline_state::render(&status)
}
