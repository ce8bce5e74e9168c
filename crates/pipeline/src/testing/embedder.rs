//! An embedder that fails, holds and refuses texts on command, and remembers what it was asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;

use tokio::sync::watch;
use walvec_embed::hash::HashEmbedder;
use walvec_embed::{BoxFuture, EmbedError, Embedder, EmbedderInfo};
use walvec_model::Vector;

/// The dimension of its vectors.
pub(crate) const DIMENSION: usize = 64;

/// What happens to a text, or to a call, that the test has chosen.
enum TextFault {
    /// The text fails, and the others of its call do not.
    Text(EmbedError),
    /// Every call with the text fails.
    Call(EmbedError),
}

/// An embedder whose vectors are those of [`HashEmbedder`].
pub(crate) struct TestEmbedder {
    inner: HashEmbedder,
    texts_per_call: usize,
    calls_at_once: usize,
    /// How many bytes of a text the model reads.
    reads: Option<usize>,
    /// The texts whose calls are answered; `None`: all of them.
    released: watch::Sender<Option<HashSet<String>>>,
    calls: watch::Sender<Vec<Vec<String>>>,
    by_text: Mutex<HashMap<String, TextFault>>,
    /// The answers of the next calls.
    next: Mutex<VecDeque<NextAnswer>>,
}

enum NextAnswer {
    Error(EmbedError),
    /// The last vector is left out.
    Short,
}

impl TestEmbedder {
    /// Creates an embedder with calls of so many texts.
    pub(crate) fn new(texts_per_call: usize, calls_at_once: usize) -> Self {
        Self {
            inner: HashEmbedder::new(DIMENSION).unwrap(),
            texts_per_call,
            calls_at_once,
            reads: None,
            released: watch::Sender::new(None),
            calls: watch::Sender::default(),
            by_text: Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// Returns the embedder of a model that reads only so many bytes of a text.
    pub(crate) fn reading(self, bytes: usize) -> Self {
        Self { reads: Some(bytes), ..self }
    }

    /// Lets calls wait until all their texts are released.
    pub(crate) fn hold(&self) {
        self.released.send_replace(Some(HashSet::new()));
    }

    /// Releases texts.
    pub(crate) fn release(&self, texts: &[&str]) {
        let texts = texts.iter().map(|text| (*text).to_owned());
        self.released.send_modify(|released| released.get_or_insert_default().extend(texts));
    }

    /// Releases every text.
    pub(crate) fn release_all(&self) {
        self.released.send_replace(None);
    }

    /// Lets the next call fail; several errors are met one after the other.
    pub(crate) fn fail_next(&self, error: EmbedError) {
        self.next.lock().unwrap().push_back(NextAnswer::Error(error));
    }

    /// Lets the next call answer one vector too few.
    pub(crate) fn shorten_next(&self) {
        self.next.lock().unwrap().push_back(NextAnswer::Short);
    }

    /// Refuses this text, and no other text of its call.
    pub(crate) fn refuse(&self, text: &str, error: EmbedError) {
        self.by_text.lock().unwrap().insert(text.to_owned(), TextFault::Text(error));
    }

    /// Fails every call with this text.
    pub(crate) fn fail_calls_with(&self, text: &str, error: EmbedError) {
        self.by_text.lock().unwrap().insert(text.to_owned(), TextFault::Call(error));
    }

    /// Accepts every text again.
    pub(crate) fn refuse_none(&self) {
        self.by_text.lock().unwrap().clear();
    }

    /// Waits until so many calls with this text have begun.
    pub(crate) async fn asked_for(&self, text: &str, times: usize) {
        let has = |calls: &Vec<Vec<String>>| calls.iter().flatten().filter(|asked| *asked == text).count() >= times;
        self.calls.subscribe().wait_for(has).await.unwrap();
    }

    /// Returns how often a text was asked for.
    pub(crate) fn times_asked_for(&self, text: &str) -> usize {
        self.calls.borrow().iter().flatten().filter(|asked| *asked == text).count()
    }

    /// Takes the texts of the calls since the last time, call by call.
    pub(crate) fn take_calls(&self) -> Vec<Vec<String>> {
        let mut taken = Vec::new();
        self.calls.send_modify(|calls| taken = std::mem::take(calls));
        taken
    }

    async fn call(&self, texts: Vec<String>, whole: bool) -> Result<Vec<Result<Vector, EmbedError>>, EmbedError> {
        assert!(!texts.is_empty() && texts.len() <= self.texts_per_call, "a call has texts, and not too many");
        self.calls.send_modify(|calls| calls.push(texts.clone()));
        let is_released =
            |released: &Option<HashSet<String>>| released.as_ref().is_none_or(|r| texts.iter().all(|t| r.contains(t)));
        self.released.subscribe().wait_for(is_released).await.unwrap();
        let next = self.next.lock().unwrap().pop_front();
        if let Some(NextAnswer::Error(error)) = next {
            return Err(error);
        }
        let mut answers = self.inner.embed(texts.clone()).await?;
        for (text, answer) in texts.iter().zip(&mut answers) {
            match self.by_text.lock().unwrap().get(text) {
                Some(TextFault::Call(error)) => return Err(error.clone()),
                Some(TextFault::Text(error)) => *answer = Err(error.clone()),
                None if whole && self.reads.is_some_and(|bytes| text.len() > bytes) => {
                    *answer = Err(EmbedError::TooLong { bytes: text.len(), reads: None });
                }
                None => {}
            }
        }
        if next.is_some() {
            answers.pop();
        }
        Ok(answers)
    }
}

/// Returns the vector of a text.
pub(crate) async fn vector_of(text: &str) -> Vector {
    let mut answers = HashEmbedder::new(DIMENSION).unwrap().embed(vec![text.to_owned()]).await.unwrap();
    answers.remove(0).unwrap()
}

/// Returns the error of a text that no attempt turns into a vector.
pub(crate) fn bad_text() -> EmbedError {
    EmbedError::Text { bytes: 3, reason: "the test refuses it".to_owned() }
}

/// Returns the error of a provider that does not answer for the moment.
pub(crate) fn away() -> EmbedError {
    EmbedError::ProviderUnavailable { at: "test".to_owned(), reason: "it is away".to_owned(), after: None }
}

impl Embedder for TestEmbedder {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(self.call(texts, false))
    }

    fn embed_whole(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(self.call(texts, true))
    }

    fn texts_per_call(&self) -> usize {
        self.texts_per_call
    }

    fn calls_at_once(&self) -> usize {
        self.calls_at_once
    }
}
