//! A small collection and a small embedder, both real enough to find things, and requests without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tower::ServiceExt;
use walvec_embed::{EmbedError, Embedder, EmbedderInfo};
use walvec_model::{Column, IndexType, Lsn, Payload, PointId, RawPage, RawPoint, SparseVector, Table, Type, Vector};
use walvec_pipeline::observe::status::{CollectionStatus, Phase, Status};
use walvec_sink::{
    BoxFuture, Condition, Filter, Hit, Keywords, Query, Search, SearchRequest, SinkError, SortRequest, SortValue,
};
use walvec_transform::{Compared, Field, PayloadLayout};

use crate::assembly::transform;
use crate::config::CollectionConfig;
use crate::http::tasks::Operations;
use crate::http::{self, AllowedHosts, AppState, Limits};
use crate::search::description::CollectionDescription;
use crate::search::resolve::KnownFields;
use crate::search::serving::{Fields, Searchable, Serving};
use crate::tasks::Tasks;
use crate::ui;

const DIMENSION: usize = 64;

/// Embeds a text as the bag of its words: texts that share words are near each other.
pub(crate) struct BagOfWords {
    info: EmbedderInfo,
    /// One permit per text that may be embedded; tests close or drain the semaphore.
    pub(crate) gate: Arc<Semaphore>,
    fails: bool,
}

impl BagOfWords {
    pub(crate) fn new() -> Self {
        Self::behind(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)))
    }

    /// Creates one that waits for a permit before every text.
    pub(crate) fn behind(gate: Arc<Semaphore>) -> Self {
        let info = EmbedderInfo {
            model: "bag-of-words".to_owned(),
            revision: "1".to_owned(),
            dimension: DIMENSION,
            max_tokens: 512,
            pooling: "mean".to_owned(),
        };
        Self { info, gate, fails: false }
    }

    /// Creates one that fails on every text.
    pub(crate) fn broken() -> Self {
        Self { fails: true, ..Self::new() }
    }
}

pub(crate) fn vector_of(text: &str) -> Vector {
    let mut vector = vec![0.01_f32; DIMENSION];
    for word in text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()) {
        vector[usize::from(blake3::hash(word.to_lowercase().as_bytes()).as_bytes()[0]) % DIMENSION] += 1.0;
    }
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    vector.iter().map(|number| number / length).collect()
}

impl Embedder for BagOfWords {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            if self.fails {
                return Err(EmbedError::Model { path: "model.onnx".into(), reason: "out of order".to_owned() });
            }
            Ok(texts.iter().map(|text| Ok(vector_of(text))).collect())
        })
    }
}

/// A collection in memory.
#[derive(Default)]
pub(crate) struct Memory(Vec<(PointId, Vector, Payload)>);

impl Memory {
    /// Creates one point per payload, numbered from 1; all texts of the payload are embedded.
    pub(crate) fn of(payloads: Value) -> Self {
        let Value::Array(payloads) = payloads else { panic!("an array of payloads") };
        let points = payloads.into_iter().zip(1..).map(|(payload, number)| {
            let Value::Object(payload) = payload else { panic!("a payload is an object") };
            let text = payload.values().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
            (PointId::Num(number), vector_of(&text), payload)
        });
        Self(points.collect())
    }
}

impl Search for Memory {
    fn search(&self, request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        Box::pin(async move {
            let matching = self.0.iter().filter(|(_, _, payload)| matches(&request.filter, payload));
            let mut hits: Vec<Hit> = matching
                .map(|(id, vector, payload)| {
                    let score = match &request.query {
                        Query::Dense(wanted) => cosine(vector, wanted),
                        Query::Keyword(wanted) => shared_words(payload, wanted),
                        Query::Hybrid(wanted, words) => cosine(vector, wanted) + shared_words(payload, words),
                    };
                    Hit { id: *id, score, payload: payload.clone(), provenance: None }
                })
                .collect();
            hits.sort_by(|a, b| b.score.total_cmp(&a.score));
            hits.truncate(request.limit);
            Ok(hits)
        })
    }

    fn rank(&self, request: SearchRequest, _fused_for: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        self.search(request)
    }

    fn page_where(
        &self,
        filter: Filter,
        from: Option<PointId>,
        limit: usize,
        with_vectors: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
        let wanted = |(id, _, payload): &&(PointId, Vector, Payload)| {
            from.is_none_or(|from| *id >= from) && matches(&filter, payload)
        };
        let mut rest = self.0.iter().filter(wanted);
        let points = rest.by_ref().take(limit).map(|point| raw_point(point, with_vectors)).collect();
        let next = rest.next().map(|(id, ..)| *id);
        Box::pin(async move { Ok(RawPage { points, next }) })
    }

    /// Returns equal values with the greatest id first, so that no caller can rely on their order. Points up to `after` are
    /// returned again, which the contract allows.
    fn sorted(&self, request: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>> {
        let SortRequest { order, after, limit, with_vectors } = request;
        let value = |payload: &Payload| payload.get(&order.field.name)?.as_i64().map(SortValue::Whole);
        let is_behind = |value: &SortValue| {
            after.is_none_or(|after| if order.descending { *value <= after } else { *value >= after })
        };
        let points = self.0.iter().rev().filter_map(|point| Some((value(&point.2)?, raw_point(point, with_vectors))));
        let mut points: Vec<_> = points.filter(|(value, _)| is_behind(value)).collect();
        points.sort_by(|(left, _), (right, _)| {
            let ascending = left.partial_cmp(right).unwrap();
            if order.descending { ascending.reverse() } else { ascending }
        });
        points.truncate(limit);
        Box::pin(async move { Ok(points) })
    }

    fn get(&self, ids: Vec<PointId>, with_vectors: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>> {
        let wanted = self.0.iter().filter(|(id, ..)| ids.contains(id));
        let points = wanted.map(|point| raw_point(point, with_vectors)).collect();
        Box::pin(async move { Ok(points) })
    }
}

fn cosine(left: &Vector, right: &Vector) -> f32 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}

/// Counts the query's words that the payload has.
fn shared_words(payload: &Payload, wanted: &SparseVector) -> f32 {
    let text = payload.values().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let stored = english().document(&text);
    wanted.indices.iter().filter(|token| stored.indices.contains(token)).map(|_| 1.0).sum()
}

pub(crate) fn english() -> Keywords {
    Keywords::new("english").unwrap()
}

fn raw_point((id, vector, payload): &(PointId, Vector, Payload), with_vectors: bool) -> RawPoint {
    RawPoint { id: *id, payload: payload.clone(), vector: with_vectors.then(|| vector.clone()), keywords: None }
}

fn matches(filter: &Filter, payload: &Payload) -> bool {
    filter.0.iter().all(|condition| holds(condition, payload))
}

fn holds(condition: &Condition, payload: &Payload) -> bool {
    match condition {
        Condition::Equals { field, value } => match payload.get(&field.name) {
            Some(Value::Array(items)) => items.contains(value),
            stored => stored == Some(value),
        },
        Condition::Range { field, bounds } => {
            payload.get(&field.name).and_then(Value::as_f64).is_some_and(|number| bounds.contain(&number))
        }
        Condition::DatetimeRange { field, bounds } => {
            let moment = payload.get(&field.name).and_then(Value::as_str).and_then(|text| text.parse().ok());
            moment.is_some_and(|moment| bounds.contain(&moment))
        }
        Condition::Null { field } => payload.get(&field.name).is_none_or(Value::is_null),
        Condition::AnyOf(conditions) => conditions.iter().any(|condition| holds(condition, payload)),
        Condition::Not(condition) => !holds(condition, payload),
    }
}

/// A collection that answers every call with one error.
pub(crate) struct Failing(pub(crate) fn() -> SinkError);

impl Search for Failing {
    fn search(&self, _request: SearchRequest) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        Box::pin(async { Err((self.0)()) })
    }

    fn rank(&self, _request: SearchRequest, _fused_for: usize) -> BoxFuture<'_, Result<Vec<Hit>, SinkError>> {
        Box::pin(async { Err((self.0)()) })
    }

    fn page_where(
        &self,
        _: Filter,
        _: Option<PointId>,
        _: usize,
        _: bool,
    ) -> BoxFuture<'_, Result<RawPage, SinkError>> {
        Box::pin(async { Err((self.0)()) })
    }

    fn sorted(&self, _: SortRequest) -> BoxFuture<'_, Result<Vec<(SortValue, RawPoint)>, SinkError>> {
        Box::pin(async { Err((self.0)()) })
    }

    fn get(&self, _: Vec<PointId>, _: bool) -> BoxFuture<'_, Result<Vec<RawPoint>, SinkError>> {
        Box::pin(async { Err((self.0)()) })
    }
}

/// Makes a collection of three books.
pub(crate) fn books() -> Arc<dyn Search> {
    Arc::new(Memory::of(json!([
        {"name": "Moby-Dick", "author": "Herman Melville", "year": 1851, "classic": true, "tags": ["sea", "whale"],
         "description": "A captain hunts a white whale across the sea."},
        {"name": "Dune", "author": "Frank Herbert", "year": 1965, "classic": false, "tags": ["desert"],
         "description": "A desert planet, a noble family and the worms of the sand."},
        {"name": "Emma", "author": "Jane Austen", "year": 1815, "classic": true, "tags": [],
         "description": "A young woman makes matches for her friends in an English village."},
    ])))
}

/// Returns the status of a pipeline that follows the stream, with three points in `books`.
pub(crate) fn streaming() -> Status {
    let books = CollectionStatus {
        collection: "books".to_owned(),
        table: "public.books".to_owned(),
        snapshot_rows_estimated: 3,
        snapshot_rows_copied: 3,
        points: Some(3),
        ..CollectionStatus::default()
    };
    Status {
        phase: Phase::Streaming,
        collections: vec![books],
        applied_lsn: Lsn(0x1D5_C408),
        lag_ms: Some(12),
        ..Status::default()
    }
}

/// Describes the books for programs.
fn description() -> CollectionDescription {
    let collection = r#"{"name": "books", "table": "public.books", "text": "{{ name }}", "index": {"year": "integer"},
        "computed": {"decade": "{{ year // 10 * 10 }}"}}"#;
    let collection: CollectionConfig = serde_json::from_str(collection).unwrap();
    let transform = transform::compile(&collection, Arc::new(str::len)).unwrap();
    let columns =
        vec![Column::new("id", "bigint", 20), Column::new("name", "text", 25), Column::new("year", "integer", 23)];
    transform.check(&Table { name: collection.table.clone(), columns, key: vec![0] }).unwrap();
    CollectionDescription::new(&collection, Arc::new(transform))
}

/// The fields of the books.
pub(crate) struct BookFields;

impl Fields for BookFields {
    fn known(&self) -> KnownFields {
        let texts = ["name", "author", "tags", "description"].map(|name| (name, Compared::Text));
        let texts = texts.map(|(name, compared)| (name, compared, Type::Text));
        let others = [("year", Compared::Whole, Type::Integer), ("classic", Compared::Boolean, Type::Boolean)];
        let field = |(name, compared, ty): (&str, _, _)| Field { name: name.to_owned(), compared, ty };
        Some(texts.into_iter().chain(others).map(field).collect())
    }

    fn index(&self, name: &str) -> Option<IndexType> {
        (name == "year").then_some(IndexType::Integer)
    }
}

/// A table of which no row was read yet.
pub(crate) struct Unseen;

impl Fields for Unseen {
    fn known(&self) -> KnownFields {
        None
    }

    fn index(&self, _name: &str) -> Option<IndexType> {
        None
    }
}

/// Makes a collection whose payloads are flat.
pub(crate) fn searchable(name: &str, search: Arc<dyn Search>) -> Searchable {
    Searchable {
        name: name.to_owned(),
        layout: PayloadLayout::Flat,
        keywords: None,
        is_chunked: false,
        description: Arc::new(description()),
        fields: Arc::new(Unseen),
        search,
    }
}

/// Makes the state of one collection of books, without a token.
pub(crate) fn state() -> AppState {
    state_with(streaming())
}

/// Makes a state with other collections.
pub(crate) fn with_collections(collections: Vec<Searchable>) -> AppState {
    AppState { serving: serving(collections, Arc::new(BagOfWords::new())), ..state() }
}

/// Makes a state with another embedder.
pub(crate) fn with_embedder(embedder: Arc<dyn Embedder>) -> AppState {
    AppState { serving: serving(vec![searchable("books", books())], embedder), ..state() }
}

fn serving(collections: Vec<Searchable>, embedder: Arc<dyn Embedder>) -> watch::Receiver<Arc<Serving>> {
    watch::Sender::new(Arc::new(Serving { collections, embedder })).subscribe()
}

/// The key of the owner of the data directory.
pub(crate) const KEY: &str = "a-key";

/// Makes a state with another status of the pipeline.
pub(crate) fn state_with(status: Status) -> AppState {
    AppState {
        serving: serving(
            vec![Searchable { fields: Arc::new(BookFields), ..searchable("books", books()) }],
            Arc::new(BagOfWords::new()),
        ),
        operations: Operations { tasks: Tasks::default(), requests: mpsc::channel(1).0, key: KEY.into() },
        dead_letters: Arc::new(|_, _, _| Ok(Vec::new())),
        status: watch::Sender::new(status).subscribe(),
        metrics: PrometheusBuilder::new().build_recorder().handle(),
        token: None,
        allowed_hosts: Vec::new(),
        examples: vec!["a whale at sea".to_owned()],
        sign_in_page: ui::sign_in_page,
    }
}

/// Builds the surface behind a loopback listener with the default limits.
pub(crate) fn router(state: AppState) -> Router {
    router_with(state, Limits::default())
}

/// Builds the surface behind a loopback listener with other limits.
pub(crate) fn router_with(state: AppState, limits: Limits) -> Router {
    http::router(state, ui::routes(), loopback(), limits)
}

/// Returns the rule for a loopback listener.
pub(crate) fn loopback() -> AllowedHosts {
    AllowedHosts::for_listener(([127, 0, 0, 1], 8082).into(), &[])
}

/// The answer to a request.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Checks that this is a complete problem of this kind, and returns its detail.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:walvec:problem:{kind}"));
        assert_eq!(problem["status"], status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Sends a request; the Host header is `localhost:8082` unless the request has one.
pub(crate) async fn send(router: &Router, mut request: Request<Body>) -> Answer {
    request.headers_mut().entry("host").or_insert("localhost:8082".parse().unwrap());
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

/// Sends a GET request.
pub(crate) async fn get(router: &Router, path: &str) -> Answer {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

/// Sends a POST request with a JSON body.
pub(crate) async fn post(router: &Router, path: &str, body: impl Into<Body>) -> Answer {
    send(router, Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()).await
}
