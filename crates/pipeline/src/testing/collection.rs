//! A collection of books with its writer, and what writers share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use walvec_model::{Change, Fingerprint, Generation, Lookup, PointId, Value};
use walvec_transform::{ChunkSpec, Chunker, PayloadLayout, Transform, TransformSpec, Unit};

use crate::error::PipelineError;
use crate::observe::status::{CollectionStatus, Status};
use crate::observe::telemetry::Telemetry;
use crate::shared::{Fence, Leaves, Shared, Truncates};
use crate::testing::rows::table_named;
use crate::testing::{TestEmbedder, TestLetters, TestRowSource, TestSink};
use crate::writer::{Batch, Collection, EmbedJob, OnLong, Purpose, Writer};

/// A fence that lets through as many writes as the test allows.
pub(crate) struct TestFence {
    checks: AtomicUsize,
    allowed: AtomicUsize,
}

impl TestFence {
    /// Lets through so many more checks.
    pub(crate) fn allow(&self, checks: usize) {
        self.allowed.store(self.checks() + checks, Ordering::Relaxed);
    }

    /// Returns how often it was asked.
    pub(crate) fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }
}

impl Fence for TestFence {
    fn check(&self) -> BoxFuture<'_, Result<(), PipelineError>> {
        let is_allowed = self.checks.fetch_add(1, Ordering::Relaxed) < self.allowed.load(Ordering::Relaxed);
        Box::pin(std::future::ready(if is_allowed { Ok(()) } else { Err(PipelineError::Disowned) }))
    }
}

/// What writers share, with the fakes in it.
#[derive(Clone)]
pub(crate) struct TestShared {
    pub(crate) shared: Shared,
    pub(crate) letters: Arc<TestLetters>,
    pub(crate) fence: Arc<TestFence>,
}

impl TestShared {
    /// Returns what the writers of these collections share.
    pub(crate) fn of(collections: &[&str]) -> Self {
        let status = |name: &&str| CollectionStatus {
            collection: (*name).to_owned(),
            table: format!("public.{name}"),
            ..CollectionStatus::default()
        };
        let letters = Arc::new(TestLetters::default());
        let fence = Arc::new(TestFence { checks: AtomicUsize::new(0), allowed: AtomicUsize::new(usize::MAX) });
        let shared = Shared {
            guard: Some(Arc::<TestFence>::clone(&fence)),
            telemetry: Telemetry::new(collections.iter().map(status).collect(), false),
            letters: Arc::<TestLetters>::clone(&letters),
            truncates: Truncates::default(),
            leaves: Leaves::default(),
            stop: CancellationToken::new(),
        };
        Self { shared, letters, fence }
    }

    /// Returns the present status.
    pub(crate) fn status(&self) -> Status {
        self.shared.telemetry.subscribe().borrow().clone()
    }
}

/// How a test's collection differs from the usual one.
pub(crate) struct CollectionOptions {
    /// The collection and its table.
    pub(crate) name: &'static str,
    /// The template of the text.
    pub(crate) text: &'static str,
    /// The columns that are stored; `None`: all of them.
    pub(crate) payload: Option<&'static [&'static str]>,
    /// How many sentences a chunk has; `None`: texts are not cut.
    pub(crate) sentences: Option<usize>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) on_long: OnLong,
}

impl Default for CollectionOptions {
    fn default() -> Self {
        Self {
            name: "books",
            text: "{{ body }}",
            payload: None,
            sentences: None,
            lookups: Vec::new(),
            on_long: OnLong::Cut,
        }
    }
}

/// Makes a collection.
pub(crate) fn collection(options: CollectionOptions, sink: &TestSink, embedder: &Arc<TestEmbedder>) -> Collection {
    let CollectionOptions { name, text, payload, sentences, lookups, on_long } = options;
    let table = table_named(name).name.clone();
    let transform = Transform::new(TransformSpec {
        table: table.clone(),
        shared: false,
        text: text.to_owned(),
        payload: payload.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        computed: Vec::new(),
        layout: PayloadLayout::Flat,
        lookups,
        indexes: Vec::new(),
    });
    let cut =
        |length| ChunkSpec { unit: Unit::Sentences, length, overlap: 0, markdown: false, field: "chunk".to_owned() };
    let chunker = sentences.map(|length| Chunker::new(cut(length), Arc::new(str::len)));
    let transform = transform.unwrap();
    Collection {
        name: name.to_owned(),
        table,
        transform: Arc::new(match chunker {
            Some(chunker) => transform.in_chunks(chunker),
            None => transform,
        }),
        embedder: Arc::<TestEmbedder>::clone(embedder),
        keywords: None,
        on_long,
        sink: Arc::new(sink.clone()),
        fingerprint: Fingerprint::of(&["a model"]),
    }
}

/// A collection with its writer, in generation 1.
pub(crate) struct TestCollection {
    pub(crate) writer: Writer,
    pub(crate) sink: TestSink,
    pub(crate) embedder: Arc<TestEmbedder>,
    pub(crate) source: TestRowSource,
    pub(crate) shared: TestShared,
}

impl TestCollection {
    /// Creates the usual collection, whose calls have two texts.
    pub(crate) fn new() -> Self {
        Self::with(CollectionOptions::default(), TestEmbedder::new(2, 8))
    }

    pub(crate) fn with(options: CollectionOptions, embedder: TestEmbedder) -> Self {
        let shared = TestShared::of(&[options.name]);
        let (sink, embedder) = (TestSink::default(), Arc::new(embedder));
        let collection = collection(options, &sink, &embedder);
        let mut writer = Writer::new(0, collection, shared.shared.clone()).unwrap();
        writer.begin_generation(Generation(1));
        Self { writer, sink, embedder, source: TestRowSource::default(), shared }
    }

    /// Processes changes from their batch to durable points.
    pub(crate) async fn put(&mut self, changes: Vec<Change>) -> Result<(), PipelineError> {
        self.put_for(changes, Purpose::Change).await
    }

    /// Processes rows for a purpose.
    pub(crate) async fn put_for(&mut self, changes: Vec<Change>, purpose: Purpose) -> Result<(), PipelineError> {
        let batch = self.writer.batch(changes, purpose);
        self.write(batch).await
    }

    /// Prepares, embeds and writes a batch, part by part.
    pub(crate) async fn write(&mut self, batch: Batch) -> Result<(), PipelineError> {
        for part in self.writer.parts_of(&self.source, batch).await? {
            self.embed_and_write(part).await?;
        }
        Ok(())
    }

    pub(crate) async fn embed_and_write(&mut self, part: EmbedJob) -> Result<(), PipelineError> {
        let given_up = CancellationToken::new();
        let part = self.writer.embed(part, given_up.clone()).await?;
        self.writer.write(part, &given_up).await
    }

    /// Returns a field of each point.
    pub(crate) fn shown(&self, field: &str) -> BTreeMap<PointId, Value> {
        let points = self.sink.points().into_iter();
        points.map(|(id, point)| (id, point.payload.get(field).cloned().unwrap_or_default())).collect()
    }

    /// Returns the codes of the dead letters by the text of their keys.
    pub(crate) fn parked(&self) -> Vec<(String, String)> {
        self.shared.letters.codes(&self.writer.collection.name)
    }
}
