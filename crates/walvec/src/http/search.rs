//! Embed, search, count; the same path for the API and the page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use metrics::{counter, histogram};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use walvec_embed::{EmbedError, Embedder};
use walvec_model::{Lsn, Vector};
use walvec_pipeline::status::Status;
use walvec_sink::{Hit, HitPlace, Query as Wanted, SearchRequest, SinkError, page_of_hits};
use walvec_transform::PayloadLayout;

use super::hits::AnswerHit;
use super::problem::{Problem, Reason};
use super::request::SearchQuery;
use super::state::{App, Limits, Searchable};
use super::{labels, read};
use crate::cursor::{Cursor, OF_ANOTHER_SEARCH, Ranking};
use crate::mode::{By, Mode, NO_WORD_COUNTS, Refused};

/// Time from an accepted search to its hits, in seconds. Histogram.
pub(crate) const SEARCH_SECONDS: &str = "walvec_search_seconds";
/// Searches by collection and result (`ok`, `refused`, `busy`, `error`). Counter.
const SEARCHES_TOTAL: &str = "walvec_searches_total";
/// Searches whose text was longer than the model reads, by collection. Counter.
const QUERIES_CUT_TOTAL: &str = "walvec_queries_cut_total";

/// The collections and the model that searches use. They are replaced as a whole, so that the text of a search is never
/// embedded by another model than the vectors that it meets.
pub(crate) struct Serving {
    /// Every collection by name, in the order of the configuration. The first one is the page's default.
    pub(crate) collections: Vec<Searchable>,
    /// Turns queries into vectors: the model that made the stored ones.
    pub(crate) embedder: Arc<dyn Embedder>,
}

/// Finds points by the meaning of a text, a bounded number of texts at a time.
pub(crate) struct Searcher {
    serving: watch::Receiver<Arc<Serving>>,
    /// One permit for every search that runs or waits. If none is left, the queue is full.
    admission: Arc<Semaphore>,
    /// One permit for every search that runs.
    running: Arc<Semaphore>,
}

/// The properties of a collection that a search form needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    /// Whether it can be searched by words.
    pub(crate) has_keywords: bool,
    /// Whether several of its points may belong to one row.
    pub(crate) is_chunked: bool,
}

/// The result of a search.
pub(crate) struct Found {
    /// The collection that was searched.
    pub(crate) collection: String,
    /// The layout of its payloads.
    pub(crate) layout: PayloadLayout,
    /// The mode of the search, which decides what the scores mean.
    pub(crate) mode: Mode,
    /// The hits, best first.
    pub(crate) hits: Vec<Hit>,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<Cursor>,
    /// Why there can be no hits.
    pub(crate) note: Option<&'static str>,
    /// Whether the model has read only the beginning of the text.
    pub(crate) is_cut: bool,
    /// How long it took, waiting included.
    pub(crate) took: Duration,
}

/// The answer of a collection.
struct Answered {
    mode: Mode,
    /// Why there can be no hits.
    note: Option<&'static str>,
    hits: Vec<Hit>,
    next: Option<Cursor>,
    is_cut: bool,
}

impl Serving {
    pub(super) fn collection(&self, wanted: Option<&str>) -> Result<&Searchable, Problem> {
        let found = match wanted {
            Some(wanted) => self.collections.iter().find(|collection| collection.name == wanted),
            None if self.collections.len() == 1 => self.collections.first(),
            None => None,
        };
        found.ok_or_else(|| {
            let names: Vec<_> = self.collections.iter().map(|it| format!("\"{}\"", it.name)).collect();
            let names = names.join(", ");
            Problem::new(
                Reason::UnknownCollection,
                match wanted {
                    Some(wanted) => format!("there is no collection \"{wanted}\"; there are: {names}"),
                    None => format!("say which collection to search; there are: {names}"),
                },
            )
        })
    }
}

impl Searcher {
    pub(super) fn new(serving: watch::Receiver<Arc<Serving>>, limits: Limits) -> Self {
        metrics::describe_histogram!(
            SEARCH_SECONDS,
            metrics::Unit::Seconds,
            "Time from an accepted search to its hits"
        );
        metrics::describe_counter!(SEARCHES_TOTAL, "Searches by collection and result");
        metrics::describe_counter!(
            QUERIES_CUT_TOTAL,
            "Searches whose text was longer than the model reads, by collection"
        );
        Self {
            serving,
            admission: Arc::new(Semaphore::new(limits.concurrent_searches + limits.waiting_searches)),
            running: Arc::new(Semaphore::new(limits.concurrent_searches)),
        }
    }

    /// Returns the collections and the model that searches use at present.
    pub(super) fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.borrow())
    }

    /// Returns the names of the collections, in the order of the configuration.
    pub(crate) fn collections(&self) -> Vec<String> {
        self.serving.borrow().collections.iter().map(|collection| collection.name.clone()).collect()
    }

    /// Returns the properties of a collection for a form; the defaults if no collection has this name.
    pub(crate) fn offered(&self, name: &str) -> Offered {
        let serving = self.serving();
        let offered = |it: &Searchable| Offered { has_keywords: it.keywords.is_some(), is_chunked: it.is_chunked };
        serving.collection(Some(name)).map(offered).unwrap_or_default()
    }

    /// Embeds the query and finds the nearest points.
    pub(crate) async fn search(&self, query: &SearchQuery) -> Result<Found, Problem> {
        // A collection becomes a label only once it is known to exist: callers must not be able to invent labels.
        let serving = self.serving();
        let collection = serving.collection(query.collection.as_deref())?;
        let Searchable { name, layout, .. } = collection;
        let started = Instant::now();
        let result = self.find(&serving.embedder, collection, query).await;
        let label = result.as_ref().map_or_else(|problem| problem.reason().metric_label(), |_| "ok");
        counter!(SEARCHES_TOTAL, "collection" => name.clone(), "result" => label).increment(1);
        let Answered { mode, note, hits, next, is_cut } = result.inspect_err(|problem| {
            if problem.status().is_server_error() {
                tracing::warn!(collection = name.as_str(), status = problem.status().as_u16(), %problem, "a search failed");
            }
        })?;
        if is_cut {
            counter!(QUERIES_CUT_TOTAL, "collection" => name.clone()).increment(1);
        }
        let took = started.elapsed();
        histogram!(SEARCH_SECONDS, "collection" => name.clone()).record(took.as_secs_f64());
        Ok(Found { collection: name.clone(), layout: *layout, mode, hits, next, note, is_cut, took })
    }

    /// Returns how many searches could start now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.running.available_permits()
    }

    async fn find(
        &self,
        embedder: &Arc<dyn Embedder>,
        collection: &Searchable,
        query: &SearchQuery,
    ) -> Result<Answered, Problem> {
        let known = collection.known();
        let filter = read::filter(&query.filter, &known)?;
        labels::check(&query.filter, &known, collection.fields.as_ref()).await?;
        let by = Mode::of(query.mode, collection.keywords.as_deref()).map_err(refused)?;
        by.check_score(query.min_score).map_err(refused)?;
        let SearchQuery { text, limit, min_score, by_row, .. } = query;
        let (limit, min_score, by_row) = (*limit, *min_score, *by_row);
        let (mode, filter) = (by.mode(), &filter);
        let ranking = Ranking { collection: &collection.name, text, mode, filter, min_score, by_row, limit };
        let place = match &query.cursor {
            Some(cursor) => cursor.place_in(&ranking).ok_or_else(|| refused(Refused(OF_ANOTHER_SEARCH.to_owned())))?,
            None => HitPlace::default(),
        };
        let _admitted = Arc::clone(&self.admission).try_acquire_owned().map_err(|_| busy())?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?;
        let (wanted, is_cut, _running) = match by {
            By::Keyword(keywords) => (Wanted::Keyword(keywords.query(text)), false, running),
            By::Dense => {
                let (Embedded { vector, is_cut }, running) = embed(embedder, text.clone(), running).await?;
                (Wanted::Dense(vector), is_cut, running)
            }
            By::Hybrid(keywords) => {
                let (Embedded { vector, is_cut }, running) = embed(embedder, text.clone(), running).await?;
                (Wanted::Hybrid(vector, keywords.query(text)), is_cut, running)
            }
        };
        let counts_no_word = matches!(&wanted, Wanted::Keyword(tokens) if tokens.is_empty());
        let note = counts_no_word.then_some(NO_WORD_COUNTS);
        let request = SearchRequest { query: wanted, limit, filter: filter.clone(), min_score };
        let page = page_of_hits(collection.search.as_ref(), request, place, by_row).await.map_err(sink_problem)?;
        let next = page.next.map(|next| Cursor::new(&ranking, next));
        Ok(Answered { mode, note, hits: page.hits, next, is_cut })
    }
}

/// The vector of a query.
pub(crate) struct Embedded {
    pub(crate) vector: Vector,
    /// Whether the model has read only the beginning of the text.
    pub(crate) is_cut: bool,
}

impl Embedded {
    /// Embeds as much of the text as the model reads.
    pub(crate) async fn of(embedder: &dyn Embedder, text: String) -> Result<Self, EmbedError> {
        match embedder.embed_query_whole(text.clone()).await {
            Ok(vector) => Ok(Self { vector, is_cut: false }),
            Err(EmbedError::TooLong { .. }) => Ok(Self { vector: embedder.embed_query(text).await?, is_cut: true }),
            Err(error) => Err(error),
        }
    }
}

/// Returns the vector of a text, and the permit under which it was computed.
///
/// Runs as a task of its own, which owns the permit. When the caller goes away, as the page does at every keystroke, the
/// model goes on computing, and must continue to count.
async fn embed(
    embedder: &Arc<dyn Embedder>,
    text: String,
    running: OwnedSemaphorePermit,
) -> Result<(Embedded, OwnedSemaphorePermit), Problem> {
    let embedder = Arc::clone(embedder);
    let task = tokio::spawn(async move { (Embedded::of(embedder.as_ref(), text).await, running) });
    let (result, running) = task.await.map_err(|_| embed_problem("the embedder stopped"))?;
    Ok((result.map_err(embed_error)?, running))
}

fn refused(Refused(reason): Refused) -> Problem {
    Problem::new(Reason::BadParameter, reason)
}

fn busy() -> Problem {
    Problem::new(Reason::Busy, "too many searches are waiting; try again in a second")
}

fn embed_problem(detail: &str) -> Problem {
    Problem::new(Reason::SearchFailed, format!("the query could not be embedded: {detail}"))
}

fn embed_error(error: EmbedError) -> Problem {
    let reason = if error.is_retryable() { Reason::SearchUnavailable } else { Reason::SearchFailed };
    Problem::new(reason, format!("the query could not be embedded: {error}"))
}

pub(super) fn sink_problem(error: SinkError) -> Problem {
    let reason = match &error {
        SinkError::BadRequest(_) => Reason::SearchRefused,
        SinkError::Limited(limited) if limited.is_too_large => Reason::SearchRefused,
        other if other.is_retryable() => Reason::SearchUnavailable,
        _ => Reason::SearchFailed,
    };
    Problem::new(reason, error.to_string())
}

/// The answer of the search API.
#[derive(Serialize)]
struct Answer<'a> {
    query: &'a str,
    collection: &'a str,
    hits: Vec<AnswerHit<'a>>,
    /// The cursor of the next page; null at the end.
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
    query_cut: bool,
    freshness: Freshness,
}

/// How current the answer is.
#[derive(Serialize)]
struct Freshness {
    lag_ms: Option<u64>,
    applied_lsn: Option<Lsn>,
}

impl From<&Status> for Freshness {
    fn from(status: &Status) -> Self {
        let applied_lsn = (status.applied_lsn != Lsn::ZERO).then_some(status.applied_lsn);
        Self { lag_ms: status.lag_ms, applied_lsn }
    }
}

/// Answers `GET /api/v1/search?q=…&collection=…&mode=…&limit=…&group=row&filter=field=value&cursor=…`.
pub(super) async fn by_query_string(
    State(app): State<Arc<App>>,
    pairs: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(pairs) = pairs.map_err(|error| Problem::new(Reason::BadParameter, error.body_text()))?;
    answer(&app, SearchQuery::from_pairs(pairs)?).await
}

/// Answers `POST /api/v1/search` with `{"query": …, "collection": …, "limit": …, "group": …, "filter": {…}}`.
pub(super) async fn by_json(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    // This also keeps out the forms of other sites, which cannot send JSON without asking first.
    if !is_json(&headers) {
        return Err(Problem::new(Reason::NotJson, "send the header Content-Type: application/json"));
    }
    let body = body.map_err(|error| match error.status() {
        http::StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Reason::BodyTooLarge, format!("at most {} bytes are read", app.limits.body_bytes))
        }
        _ => Problem::new(Reason::BadJson, error.body_text()),
    })?;
    answer(&app, SearchQuery::from_json(&body)?).await
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

async fn answer(app: &App, query: SearchQuery) -> Result<Response, Problem> {
    // Read before the search, so the hits are never older than the answer claims.
    let freshness = Freshness::from(&*app.status.borrow());
    let found = app.searcher.search(&query).await?;
    let hits = found.hits.iter().map(AnswerHit::from).collect();
    let next = found.next.map(|next| next.to_string());
    let (collection, note, query_cut) = (found.collection.as_str(), found.note, found.is_cut);
    let answer = Answer { query: &query.text, collection, hits, next, note, query_cut, freshness };
    Ok(Json(answer).into_response())
}
