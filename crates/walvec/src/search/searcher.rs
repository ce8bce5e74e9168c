//! Embeds, searches and counts, in one way for the API and the page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use walvec_embed::{EmbedError, Embedder};
use walvec_sink::{Hit, SinkError};
use walvec_transform::PayloadLayout;

use super::cursor::Cursor;
use super::mode::{Mode, SearchRefusal};
use super::ranking::{QueryVector, RankedPage, Ranking};
use super::request::SearchQuery;
use super::serving::{Searchable, Serving};
use super::{enum_labels, resolve};
use crate::api::problem::{ApiProblem, Reason};

/// Time from an accepted search to its hits, in seconds. Histogram.
pub(crate) const SEARCH_SECONDS: &str = "walvec_search_seconds";
/// Searches by collection and result (`ok`, `refused`, `busy`, `error`). Counter.
const SEARCHES_TOTAL: &str = "walvec_searches_total";
/// Searches whose text was longer than the model reads, by collection. Counter.
const QUERIES_CUT_TOTAL: &str = "walvec_queries_cut_total";

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
pub(crate) struct SearchOptions {
    /// Whether it can be searched by words.
    pub(crate) has_keywords: bool,
    /// Whether several of its points may belong to one row.
    pub(crate) is_chunked: bool,
}

/// The result of a search.
pub(crate) struct SearchResult {
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

impl Searcher {
    /// Makes one that runs at most `concurrent` searches, while at most `waiting` others wait for their turn.
    pub(crate) fn new(serving: watch::Receiver<Arc<Serving>>, concurrent: usize, waiting: usize) -> Self {
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
            admission: Arc::new(Semaphore::new(concurrent + waiting)),
            running: Arc::new(Semaphore::new(concurrent)),
        }
    }

    /// Returns the collections and the model that searches use at present.
    pub(crate) fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.borrow())
    }

    /// Returns the names of the collections, in the order of the configuration.
    pub(crate) fn collections(&self) -> Vec<String> {
        self.serving.borrow().collections.iter().map(|collection| collection.name.clone()).collect()
    }

    /// Returns the properties of a collection for a form; the defaults if no collection has this name.
    pub(crate) fn options(&self, name: &str) -> SearchOptions {
        let serving = self.serving();
        let options =
            |it: &Searchable| SearchOptions { has_keywords: it.keywords.is_some(), is_chunked: it.is_chunked };
        serving.collection(Some(name)).map(options).unwrap_or_default()
    }

    /// Embeds the query and finds the nearest points.
    pub(crate) async fn search(&self, query: &SearchQuery) -> Result<SearchResult, ApiProblem> {
        // A collection becomes a label only once it is known to exist: callers must not be able to invent labels.
        let serving = self.serving();
        let collection = serving.collection(query.collection.as_deref())?;
        let Searchable { name, layout, .. } = collection;
        let started = Instant::now();
        let result = self.find(&serving.embedder, collection, query).await;
        let label = result.as_ref().map_or_else(|problem| problem.reason().metric_label(), |_| "ok");
        counter!(SEARCHES_TOTAL, "collection" => name.clone(), "result" => label).increment(1);
        let (RankedPage { hits, next, note }, mode, is_cut) = result.inspect_err(|problem| {
            if problem.status().is_server_error() {
                tracing::warn!(collection = name.as_str(), status = problem.status().as_u16(), %problem, "a search failed");
            }
        })?;
        if is_cut {
            counter!(QUERIES_CUT_TOTAL, "collection" => name.clone()).increment(1);
        }
        let took = started.elapsed();
        histogram!(SEARCH_SECONDS, "collection" => name.clone()).record(took.as_secs_f64());
        Ok(SearchResult { collection: name.clone(), layout: *layout, mode, hits, next, note, is_cut, took })
    }

    /// Returns how many searches could start now.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.running.available_permits()
    }

    async fn find(
        &self,
        embedder: &Arc<dyn Embedder>,
        collection: &Searchable,
        query: &SearchQuery,
    ) -> Result<(RankedPage, Mode, bool), ApiProblem> {
        let known = collection.known();
        let filter = resolve::filter(&query.filter, &known)?;
        enum_labels::check(&query.filter, &known, collection.fields.as_ref()).await?;
        let mode = Mode::of(query.mode, collection.keywords.as_deref()).map_err(refused)?;
        mode.check_score(query.min_score).map_err(refused)?;
        let ranking = Ranking {
            collection: &collection.name,
            text: &query.text,
            mode: mode.mode(),
            filter: &filter,
            min_score: query.min_score,
            by_row: query.by_row,
            limit: query.limit,
        };
        let place = ranking.place(query.cursor.as_ref()).map_err(refused)?;
        let _admitted = Arc::clone(&self.admission).try_acquire_owned().map_err(|_| busy())?;
        let running = Arc::new(Arc::clone(&self.running).acquire_owned().await.map_err(|_| busy())?);
        let vector = embed(embedder, query.text.clone(), Arc::clone(&running));
        let (query, is_cut) = mode.query(ranking.text, vector).await?;
        let page = ranking.page(collection.search.as_ref(), query, place).await.map_err(sink_problem)?;
        Ok((page, ranking.mode, is_cut))
    }
}

/// Returns the vector of a text.
///
/// Runs as a task of its own, which shares the permit. When the caller goes away, as the page does at every keystroke, the
/// model goes on computing, and must continue to count.
async fn embed(
    embedder: &Arc<dyn Embedder>,
    text: String,
    running: Arc<OwnedSemaphorePermit>,
) -> Result<QueryVector, ApiProblem> {
    let embedder = Arc::clone(embedder);
    let task = tokio::spawn(async move {
        let _running = running;
        QueryVector::of(embedder.as_ref(), text).await
    });
    task.await.map_err(|_| embed_problem("the embedder stopped"))?.map_err(embed_error)
}

fn refused(SearchRefusal(reason): SearchRefusal) -> ApiProblem {
    ApiProblem::new(Reason::BadParameter, reason)
}

fn busy() -> ApiProblem {
    ApiProblem::new(Reason::Busy, "too many searches are waiting; try again in a second")
}

fn embed_problem(detail: &str) -> ApiProblem {
    ApiProblem::new(Reason::SearchFailed, format!("the query could not be embedded: {detail}"))
}

fn embed_error(error: EmbedError) -> ApiProblem {
    let reason = if error.is_retryable() { Reason::SearchUnavailable } else { Reason::SearchFailed };
    ApiProblem::new(reason, format!("the query could not be embedded: {error}"))
}

pub(crate) fn sink_problem(error: SinkError) -> ApiProblem {
    let reason = match &error {
        SinkError::BadRequest(_) => Reason::SearchRefused,
        SinkError::Limited(limited) if limited.is_too_large => Reason::SearchRefused,
        other if other.is_retryable() => Reason::SearchUnavailable,
        _ => Reason::SearchFailed,
    };
    ApiProblem::new(reason, error.to_string())
}
