//! Texts of several callers in one call.
//!
//! Collections that are written at the same time have few texts each. Together they make full batches, which run faster in this
//! process and cost fewer requests at a provider. While one call computes, the next is prepared: its texts are tokenized, or are
//! on their way to the provider. With fewer than [`CALLS`] calls in flight, the next call starts at once with all texts that
//! have arrived. An embedder that can have more calls gets further ones when they are full, or after [`COMPANY`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use walvec_model::Vector;

use crate::{BoxFuture, EmbedError, Embedder, EmbedderInfo, Reads};

/// How many calls start with whatever texts there are: one computes while the other is prepared.
const CALLS: usize = 2;

/// How long requests wait for more texts when [`CALLS`] calls are in flight and the embedder can have more: a provider may have
/// told those calls to wait.
const COMPANY: Duration = Duration::from_millis(250);

/// How many requests the queue holds; further callers wait until there is room.
const LINE: usize = 64;

/// The result of a call.
type CallAnswer = Result<Vec<Result<Vector, EmbedError>>, EmbedError>;

/// The texts of one caller, which waits for their vectors.
struct QueuedTexts {
    texts: Vec<String>,
    /// Whether texts that are too long are refused. All requests of a call want the same.
    is_whole: bool,
    answer: oneshot::Sender<CallAnswer>,
}

/// An embedder that joins the texts of several callers into one call.
struct Coalescing {
    inner: Arc<dyn Embedder>,
    requests: mpsc::Sender<QueuedTexts>,
    _server: AbortOnDropHandle<()>,
}

/// Wraps `inner` for concurrent callers. Queries do not queue. Needs a tokio runtime: a task runs there until the embedder is
/// dropped.
pub(crate) fn wrap(inner: Arc<dyn Embedder>) -> Arc<dyn Embedder> {
    let (requests, queue) = mpsc::channel(LINE);
    let server = AbortOnDropHandle::new(tokio::spawn(serve(Arc::clone(&inner), queue)));
    Arc::new(Coalescing { inner, requests, _server: server })
}

impl Coalescing {
    async fn ask(&self, texts: Vec<String>, is_whole: bool) -> CallAnswer {
        let (answer, answered) = oneshot::channel();
        let ended = || EmbedError::Failed("the embedder's task ended".to_owned());
        self.requests.send(QueuedTexts { texts, is_whole, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

impl Embedder for Coalescing {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }

    fn reads(&self) -> Option<Reads> {
        self.inner.reads()
    }

    fn is_too_long(&self, text: &str) -> bool {
        self.inner.is_too_long(text)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, CallAnswer> {
        Box::pin(self.ask(texts, false))
    }

    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, CallAnswer> {
        Box::pin(self.ask(texts, true))
    }

    fn embed_query(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        self.inner.embed_query(text)
    }

    fn embed_query_whole(&self, text: String) -> BoxFuture<'_, Result<Vector, EmbedError>> {
        self.inner.embed_query_whole(text)
    }

    fn sample(&self) -> BoxFuture<'_, Result<Option<Vector>, EmbedError>> {
        self.inner.sample()
    }

    fn texts_per_call(&self) -> usize {
        self.inner.texts_per_call()
    }

    fn calls_at_once(&self) -> usize {
        self.inner.calls_at_once()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

/// Joins requests into calls and answers them, until the last sender is dropped.
async fn serve(inner: Arc<dyn Embedder>, mut queue: mpsc::Receiver<QueuedTexts>) {
    let mut calls = JoinSet::new();
    let mut waiting = WaitingTexts::new(inner.texts_per_call());
    let most = inner.calls_at_once();
    loop {
        waiting.take_in(&mut queue);
        while !waiting.is_empty() && calls.len() < if waiting.is_due() { most } else { CALLS } {
            calls.spawn(answer(Arc::clone(&inner), waiting.joined()));
            waiting.take_in(&mut queue);
        }
        tokio::select! {
            Some(ended) = calls.join_next() => {
                // The callers of this call get an error and ask again.
                if let Err(error) = ended {
                    tracing::error!("a call of the embedder ended early: {error}");
                }
            }
            next = queue.recv(), if !waiting.is_full() => {
                let Some(next) = next else { break };
                waiting.push(next);
            }
            () = tokio::time::sleep_until(waiting.since + COMPANY), if !waiting.is_empty() && calls.len() < most => {}
        }
    }
}

/// Requests for the next call.
struct WaitingTexts {
    requests: VecDeque<QueuedTexts>,
    /// How many texts the requests have.
    texts: usize,
    /// The most texts that a call should have.
    most: usize,
    /// When the first of the requests came, or when the last call began, whichever is later.
    since: Instant,
}

impl WaitingTexts {
    fn new(most: usize) -> Self {
        Self { requests: VecDeque::new(), texts: 0, most, since: Instant::now() }
    }

    /// Returns whether the next call need not wait for more texts.
    fn is_due(&self) -> bool {
        self.is_full() || self.since.elapsed() >= COMPANY
    }

    const fn is_full(&self) -> bool {
        self.texts >= self.most
    }

    fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn push(&mut self, request: QueuedTexts) {
        if self.requests.is_empty() {
            self.since = Instant::now();
        }
        self.texts += request.texts.len();
        self.requests.push_back(request);
    }

    /// Takes requests from the queue until the call is full. Requests whose callers have gone are left out.
    fn take_in(&mut self, queue: &mut mpsc::Receiver<QueuedTexts>) {
        self.requests.retain(|request| !request.answer.is_closed());
        self.texts = self.requests.iter().map(|request| request.texts.len()).sum();
        while !self.is_full()
            && let Ok(request) = queue.try_recv()
        {
            if !request.answer.is_closed() {
                self.push(request);
            }
        }
    }

    /// Takes the requests of the next call: as many as fit and want the same, and at least one.
    fn joined(&mut self) -> Vec<QueuedTexts> {
        let mut texts = 0;
        let is_whole = self.requests.front().is_some_and(|first| first.is_whole);
        let fits = |request: &&QueuedTexts| {
            texts += request.texts.len();
            texts <= self.most && request.is_whole == is_whole
        };
        debug_assert!(!self.requests.is_empty(), "a call begins for a request");
        let count = self.requests.iter().take_while(fits).count().max(1).min(self.requests.len());
        self.since = Instant::now();
        self.requests.drain(..count).collect()
    }
}

/// Computes one call and gives every caller the vectors of its texts; stops when all callers have gone.
async fn answer(inner: Arc<dyn Embedder>, mut requests: Vec<QueuedTexts>) {
    let counts: Vec<usize> = requests.iter().map(|request| request.texts.len()).collect();
    let texts: Vec<String> = requests.iter_mut().flat_map(|request| std::mem::take(&mut request.texts)).collect();
    if requests.is_empty() {
        return;
    }
    let count = texts.len();
    let is_whole = requests.iter().all(|request| request.is_whole);
    let answer = tokio::select! {
        answer = if is_whole { inner.embed_whole(texts) } else { inner.embed(texts) } => answer,
        _ = join_all(requests.iter_mut().map(|request| request.answer.closed())) => return,
    };
    let mut answer = answer.and_then(|answers| {
        let reason = format!("{count} texts were given, {} vectors came back", answers.len());
        if answers.len() == count { Ok(answers.into_iter()) } else { Err(EmbedError::Failed(reason)) }
    });
    for (request, count) in requests.into_iter().zip(counts) {
        let own = match &mut answer {
            Ok(answers) => Ok(answers.take(count).collect()),
            Err(error) => Err(error.clone()),
        };
        // A caller that has gone was stopped: its rows are read again.
        let _ = request.answer.send(own);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::poll;
    use tokio::sync::{Notify, Semaphore};

    use super::*;
    use crate::hash::HashEmbedder;

    /// An embedder that shows its calls, and answers each when the test allows it.
    struct Slow {
        inner: HashEmbedder,
        calls: Mutex<Vec<Vec<String>>>,
        called: Notify,
        go: Semaphore,
        at_once: usize,
    }

    impl Slow {
        fn new() -> Arc<Self> {
            Self::with_calls(2)
        }

        /// Creates one that can have `at_once` calls.
        fn with_calls(at_once: usize) -> Arc<Self> {
            let inner = HashEmbedder::new(64).unwrap();
            Arc::new(Self { inner, calls: Mutex::default(), called: Notify::new(), go: Semaphore::new(0), at_once })
        }

        /// Waits until there have been `times` calls.
        async fn has_been_called(&self, times: usize) {
            while self.calls.lock().unwrap().len() < times {
                self.called.notified().await;
            }
        }
    }

    impl Embedder for Slow {
        fn info(&self) -> &EmbedderInfo {
            self.inner.info()
        }

        fn count_tokens(&self, text: &str) -> usize {
            self.inner.count_tokens(text)
        }

        fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, CallAnswer> {
            Box::pin(async move {
                self.calls.lock().unwrap().push(texts.clone());
                self.called.notify_one();
                self.go.acquire().await.unwrap().forget();
                if texts.contains(&"down".to_owned()) {
                    return Err(EmbedError::Failed("the provider is down".to_owned()));
                }
                self.inner.embed(texts).await
            })
        }

        fn texts_per_call(&self) -> usize {
            4
        }

        fn calls_at_once(&self) -> usize {
            self.at_once
        }
    }

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Fills both calls, so that later ones have to wait, and returns the tasks that wait for their vectors.
    async fn busy(slow: &Arc<Slow>, together: &Arc<dyn Embedder>) -> Vec<tokio::task::JoinHandle<CallAnswer>> {
        let mut waiting = Vec::new();
        for (at, word) in ["first", "second"].into_iter().enumerate() {
            let together = Arc::clone(together);
            waiting.push(tokio::spawn(async move { together.embed(texts(&[word])).await }));
            slow.has_been_called(at + 1).await;
        }
        waiting
    }

    #[tokio::test]
    async fn callers_that_wait_share_a_call_and_each_gets_its_own_vectors() {
        let slow = Slow::new();
        let together = wrap(slow.clone());
        let waiting = busy(&slow, &together).await;
        let asked = [texts(&["whale", "sea"]), texts(&[]), texts(&["mars"]), texts(&["moon", "sun"]), texts(&["late"])];
        let mut answers = join_all(asked.iter().map(|asked| together.embed(asked.clone())));
        assert!(poll!(&mut answers).is_pending(), "all stand in line");
        slow.go.add_permits(10);
        let answers = answers.await;
        join_all(waiting).await;
        let calls = slow.calls.lock().unwrap().clone();
        assert_eq!(calls[2..], [texts(&["whale", "sea", "mars"]), texts(&["moon", "sun", "late"])], "as many as fit");
        for (asked, answer) in asked.into_iter().zip(answers) {
            let alone = slow.inner.embed(asked).await.unwrap();
            let vectors =
                |answers: Vec<Result<Vector, EmbedError>>| answers.into_iter().map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(vectors(answer.unwrap()), vectors(alone));
        }
    }

    #[tokio::test]
    async fn whoever_wants_whole_texts_shares_no_call_with_others() {
        let slow = Slow::new();
        let together = wrap(slow.clone());
        let waiting = busy(&slow, &together).await;
        let mut all = join_all([
            together.embed_whole(texts(&["whale"])),
            together.embed_whole(texts(&["sea"])),
            together.embed(texts(&["mars"])),
        ]);
        assert!(poll!(&mut all).is_pending(), "all stand in line");
        slow.go.add_permits(10);
        assert!(all.await.into_iter().all(|answer| answer.unwrap()[0].is_ok()));
        join_all(waiting).await;
        assert_eq!(slow.calls.lock().unwrap()[2..], [texts(&["whale", "sea"]), texts(&["mars"])]);
    }

    #[tokio::test]
    async fn a_call_that_fails_fails_for_everybody_in_it_and_for_nobody_else() {
        let slow = Slow::new();
        let together = wrap(slow.clone());
        let waiting = busy(&slow, &together).await;
        let mut both = join_all([together.embed(texts(&["down"])), together.embed(texts(&["whale"]))]);
        assert!(poll!(&mut both).is_pending(), "both stand in line");
        slow.go.add_permits(10);
        for answer in both.await {
            assert!(answer.unwrap_err().to_string().contains("is down"));
        }
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
        }
        assert!(together.embed(texts(&["whale"])).await.unwrap()[0].is_ok(), "the next call is another one");
    }

    #[tokio::test]
    async fn nothing_is_computed_for_callers_that_have_gone() {
        let slow = Slow::new();
        let together = wrap(slow.clone());
        let waiting = busy(&slow, &together).await;
        let mut gone = together.embed(texts(&["gone"]));
        assert!(poll!(&mut gone).is_pending());
        drop(gone);
        // Calls that are being computed are dropped too when their callers go, which makes room.
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        let stays = tokio::spawn(async move { together.embed(texts(&["whale"])).await });
        slow.has_been_called(3).await;
        slow.go.add_permits(10);
        assert!(stays.await.unwrap().unwrap()[0].is_ok());
        assert_eq!(slow.calls.lock().unwrap()[2..], [texts(&["whale"])]);
    }

    #[tokio::test]
    async fn few_texts_begin_after_a_moment_although_two_calls_wait_and_full_calls_begin_at_once() {
        let slow = Slow::with_calls(4);
        let together = wrap(slow.clone());
        let waiting = busy(&slow, &together).await;
        let mut few = join_all(["whale", "sea"].map(|word| together.embed(texts(&[word]))));
        assert!(poll!(&mut few).is_pending());
        slow.has_been_called(3).await;
        let mut full = together.embed(texts(&["a", "b", "c", "d"]));
        assert!(poll!(&mut full).is_pending());
        slow.has_been_called(4).await;
        assert_eq!(slow.calls.lock().unwrap()[2..], [texts(&["whale", "sea"]), texts(&["a", "b", "c", "d"])]);
        slow.go.add_permits(4);
        assert!(few.await.into_iter().all(|answer| answer.unwrap()[0].is_ok()));
        assert_eq!(full.await.unwrap().len(), 4);
        join_all(waiting).await;
    }
}
