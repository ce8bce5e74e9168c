//! The server, its record of requests, and its controls.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use walvec_embed::Embedder as _;
use walvec_embed::hash::HashEmbedder;

use crate::DIMENSION;
use crate::fault::Fault;
use crate::protocols::Spoken;

/// A request that the provider received.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its texts.
    pub texts: Vec<String>,
    /// The whole body.
    pub body: Value,
    /// The status it was answered with.
    pub status: u16,
}

/// A provider that listens on this machine until it is dropped.
pub struct TestProvider {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    asked: Vec<Asked>,
    key: Option<String>,
    /// Faults of the next requests, one after the other.
    next: VecDeque<Fault>,
    /// The fault of every second request.
    every_second: Option<Fault>,
    /// The fault of every request.
    always: Option<Fault>,
    /// How many requests are answered; others get 429.
    allowance: Option<Allowance>,
    requests: usize,
    /// Requests with a text that contains these words are refused.
    refused: Option<String>,
    /// Requests with a text that contains these words fail.
    failed: Option<String>,
    /// Requests with a text of more bytes than this are refused, with this status and message, unless they allow to cut the text.
    longest: Option<(usize, u16, String)>,
    /// Whether another model than the first one answers.
    is_another: bool,
    /// Texts that contain these words get a vector of zeros.
    zeros: Option<String>,
    /// Requests with a text that contains these words are held up until this is lifted.
    held: watch::Sender<Option<String>>,
    /// How many requests are held up.
    waiting: usize,
}

/// A limit of requests per second. At most one second's worth of unused requests is saved up.
struct Allowance {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    /// Returns whether one more request may be answered now.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.left = (self.left + (now - self.at).as_secs_f64() * self.per_second).min(self.per_second);
        self.at = now;
        let is_allowed = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_allowed));
        is_allowed
    }
}

impl TestProvider {
    /// Starts a provider on a port of its own, in the caller's runtime.
    ///
    /// # Errors
    /// If no port can be opened.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let router = Router::new().fallback(serve).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // The server ends with the test, and a test that needs it fails if it is gone.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, task })
    }

    /// Returns the provider's address for Ollama's protocol and that of Text Embeddings Inference.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the provider's address for OpenAI's protocol.
    #[must_use]
    pub fn openai_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requires this key in all later requests.
    pub fn require_key(&self, key: &str) {
        self.lock().key = Some(key.to_owned());
    }

    /// Gives the fault to the next request that has none yet. Several calls apply to several requests, in order.
    pub fn next(&self, fault: Fault) {
        self.lock().next.push_back(fault);
    }

    /// Gives the fault to every second request, starting with the next; `None` ends that.
    pub fn every_second(&self, fault: Option<Fault>) {
        let mut shared = self.lock();
        shared.every_second = fault;
        shared.requests = 0;
    }

    /// Gives the fault to every request; `None` ends that.
    pub fn always(&self, fault: Option<Fault>) {
        self.lock().always = fault;
    }

    /// Answers this many requests per second; the others get 429, with a `Retry-After` of one second.
    pub fn allow(&self, per_second: f64) {
        self.lock().allowance = Some(Allowance { per_second, left: 0.0, at: Instant::now() });
    }

    /// Refuses requests with a text that contains `words`, with 400.
    pub fn refuse(&self, words: &str) {
        self.lock().refused = Some(words.to_owned());
    }

    /// Fails requests with a text that contains `words`, with 500.
    pub fn fail_over(&self, words: &str) {
        self.lock().failed = Some(words.to_owned());
    }

    /// Reads this many bytes of a text. Refuses requests with a longer one, with this message, unless they say
    /// `truncate`.
    pub fn refuse_longer_than(&self, bytes: usize, status: u16, words: &str) {
        self.lock().longest = Some((bytes, status, words.to_owned()));
    }

    /// Gives texts that contain `words` vectors of zeros.
    pub fn give_zeros_to(&self, words: &str) {
        self.lock().zeros = Some(words.to_owned());
    }

    /// Serves another model under the same name, or the first one again.
    pub fn swap_model(&self) {
        let mut shared = self.lock();
        shared.is_another = !shared.is_another;
    }

    /// Holds up requests with a text that contains `words` until this is lifted with `None`.
    pub fn hold(&self, words: Option<&str>) {
        self.lock().held.send_replace(words.map(str::to_owned));
    }

    /// Returns how many requests are held up now.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.lock().waiting
    }

    /// Returns every request that was answered so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for TestProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Counts a request, and returns how it fails.
    fn next_fault(&mut self) -> Option<Fault> {
        self.requests += 1;
        let every_second = self.every_second.clone().filter(|_| self.requests % 2 == 1);
        let fault = self.next.pop_front().or(self.always.clone()).or(every_second);
        let is_allowed = fault.is_some() || self.allowance.as_mut().is_none_or(Allowance::take);
        if is_allowed { fault } else { Some(Fault::TooManyRequests("1".to_owned())) }
    }
}

async fn serve(State(shared): State<Arc<Mutex<Shared>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let Some(spoken) = Spoken::of(uri.path()) else { return status(404, Body::from("404 page not found")) };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Ok(texts) = spoken.texts(&body) else { return refusal(spoken, 400, "no texts") };
    let (fault, refused, failed, longest, zeros) = {
        let mut shared = lock(&shared);
        let given = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if shared.key.as_ref().is_some_and(|key| given != format!("Bearer {key}")) {
            drop(shared);
            return refusal(spoken, 401, &format!("wrong key: {given}"));
        }
        let fault = shared.next_fault();
        (fault, shared.refused.clone(), shared.failed.clone(), shared.longest.clone(), shared.zeros.clone())
    };
    let contains = |text: &String, words: &Option<String>| words.as_ref().is_some_and(|words| text.contains(words));
    let mut held = lock(&shared).held.subscribe();
    let is_let = |held: &Option<String>| !texts.iter().any(|text| contains(text, held));
    if !is_let(&held.borrow_and_update()) {
        let _waiting = Waiting::new(&shared);
        // The sender lives as long as the server.
        let _ = held.wait_for(is_let).await;
    }
    let is_another = lock(&shared).is_another;
    let truncates = body["truncate"] == true;
    let most = longest.as_ref().filter(|_| truncates).map_or(usize::MAX, |(bytes, ..)| *bytes);
    let read: Vec<String> = texts.iter().map(|text| text[..text.floor_char_boundary(most)].to_owned()).collect();
    let mut vectors = vectors(&read, &body).await;
    if is_another {
        vectors.iter_mut().for_each(|(_, vector)| vector.reverse());
    }
    for (vector, text) in vectors.iter_mut().zip(&texts) {
        if contains(text, &zeros) {
            vector.1.fill(0.0);
        }
    }
    let usual = || {
        if let Some((bytes, status, words)) = &longest
            && !truncates
            && texts.iter().any(|text| text.len() > *bytes)
        {
            return refusal(spoken, *status, words);
        }
        if texts.iter().any(|text| contains(text, &refused)) {
            return refusal(spoken, 400, &format!("this cannot be embedded: {}", texts.join(", ")));
        }
        if texts.iter().any(|text| contains(text, &failed)) {
            return refusal(spoken, 500, "out of memory");
        }
        answer(spoken, &vectors, body["encoding_format"] == "base64")
    };
    let response = match fault {
        None => usual(),
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            usual()
        }
        Some(fault) => faulty(spoken, vectors, fault),
    };
    lock(&shared).asked.push(Asked { texts, body, status: response.status().as_u16() });
    response
}

/// A request that is held up, until it is answered or the client has disconnected.
struct Waiting(Arc<Mutex<Shared>>);

impl Waiting {
    fn new(shared: &Arc<Mutex<Shared>>) -> Self {
        lock(shared).waiting += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.0).waiting -= 1;
    }
}

/// Returns the vectors of the texts, each with the place of its text.
async fn vectors(texts: &[String], body: &Value) -> Vec<(usize, Vec<f32>)> {
    let dimension = body["dimensions"].as_u64().and_then(|dimension| usize::try_from(dimension).ok());
    let Ok(embedder) = HashEmbedder::new(dimension.unwrap_or(DIMENSION)) else { return Vec::new() };
    let vectors = embedder.embed(texts.to_vec()).await.unwrap_or_default();
    vectors.into_iter().map(Result::unwrap_or_default).enumerate().collect()
}

fn faulty(spoken: Spoken, mut vectors: Vec<(usize, Vec<f32>)>, fault: Fault) -> Response {
    let mut as_base64 = false;
    match fault {
        Fault::TooManyRequests(after) => {
            let mut response = refusal(spoken, 429, "too many requests");
            if let Ok(after) = after.parse() {
                response.headers_mut().insert("retry-after", after);
            }
            return response;
        }
        Fault::Status(code) => return refusal(spoken, code, "told to fail"),
        Fault::Redirect => {
            let mut response = status(307, Body::empty());
            response.headers_mut().insert("location", axum::http::HeaderValue::from_static("/embed"));
            return response;
        }
        Fault::Page => return status(200, Body::from("<html>Welcome</html>")),
        Fault::Endless => {
            let chunk = || async { Ok::<_, io::Error>(Bytes::from_static(&[b'['; 65_536])) };
            return status(200, Body::from_stream(stream::repeat_with(chunk).then(|chunk| chunk)));
        }
        Fault::BreakOff => {
            let parts = [Ok(Bytes::from_static(b"[[0.1,")), Err(io::Error::other("broken off"))];
            return status(200, Body::from_stream(stream::iter(parts)));
        }
        Fault::MissingVector => drop(vectors.pop()),
        Fault::Shuffled => vectors.reverse(),
        Fault::Dimension(dimension) => vectors.iter_mut().for_each(|(_, vector)| vector.resize(dimension, 0.5)),
        Fault::NotANumber => vectors.first_mut().into_iter().for_each(|(_, vector)| vector[0] = f32::NAN),
        Fault::Zeros => vectors.iter_mut().for_each(|(_, vector)| vector.fill(0.0)),
        Fault::Base64 => as_base64 = true,
        // Answered as usual.
        Fault::Slow(_) => {}
    }
    answer(spoken, &vectors, as_base64)
}

fn answer(spoken: Spoken, vectors: &[(usize, Vec<f32>)], as_base64: bool) -> Response {
    Json(spoken.answer(vectors, as_base64)).into_response()
}

fn refusal(spoken: Spoken, code: u16, message: &str) -> Response {
    status(code, Body::from(spoken.error(message).to_string()))
}

fn status(code: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = axum::http::StatusCode::from_u16(code).unwrap_or_default();
    response
}
