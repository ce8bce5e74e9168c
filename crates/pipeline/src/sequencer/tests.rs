use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::poll;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use walvec_embed::hash::HashEmbedder;
use walvec_embed::{BoxFuture, EmbedError, Embedder, EmbedderInfo};
use walvec_model::{
    Cell, Change, Column, Fingerprint, Generation, Lsn, MadeWith, Op, PointId, Position, Row, Table, TableName, Value,
    Vector,
};
use walvec_sink::embedded::Embedded;
use walvec_sink::{CollectionSpec, Search as _};
use walvec_transform::{PayloadLayout, Transform, TransformSpec};

use super::*;
use crate::observe::status::CollectionStatus;
use crate::observe::telemetry::Telemetry;
use crate::shared::Shared;
use crate::source::rows::LazyRowSource;
use crate::state::store::Store;
use crate::writer::{Collection, Purpose};

const DIMENSION: usize = 64;

impl Completion for &'static str {
    fn join(&mut self, later: Self) -> Option<Self> {
        (*self != later).then_some(later)
    }
}

/// An embedder that answers for a text when the test allows it, and reports which texts it was asked for.
struct Gate {
    inner: HashEmbedder,
    open: watch::Sender<HashSet<String>>,
    asked: Mutex<Vec<String>>,
}

impl Embedder for Gate {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Result<Vector, EmbedError>>, EmbedError>> {
        Box::pin(async move {
            self.asked.lock().unwrap().extend(texts.iter().cloned());
            let mut open = self.open.subscribe();
            open.wait_for(|open| texts.iter().all(|text| open.contains(text))).await.unwrap();
            if texts.contains(&"down".to_owned()) {
                return Err(EmbedError::Failed("the provider is down".to_owned()));
            }
            self.inner.embed(texts).await
        })
    }

    fn texts_per_call(&self) -> usize {
        2
    }

    fn calls_at_once(&self) -> usize {
        8
    }
}

/// A line with one writer, whose points are in the real engine.
struct Fixture {
    sequencer: Sequencer<&'static str>,
    writers: Vec<Writer>,
    gate: Arc<Gate>,
    stop: CancellationToken,
    source: LazyRowSource,
    sink: Embedded,
    ordinal: u64,
    _root: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let fingerprint = Fingerprint::of(&["a model"]);
        let spec = CollectionSpec {
            name: "books".to_owned(),
            dimension: DIMENSION,
            fingerprint: fingerprint.clone(),
            made_with: MadeWith::default(),
            indexes: Vec::new(),
            vector: None,
            keywords: None,
            nesting: None,
        };
        let sink = Embedded::open(root.path(), spec).unwrap();
        let gate = Arc::new(Gate {
            inner: HashEmbedder::new(DIMENSION).unwrap(),
            open: watch::Sender::new(HashSet::new()),
            asked: Mutex::default(),
        });
        let transform = Transform::new(TransformSpec {
            table: table().name.clone(),
            shared: false,
            text: "{{ body }}".to_owned(),
            payload: None,
            computed: Vec::new(),
            layout: PayloadLayout::Flat,
            lookups: Vec::new(),
            indexes: Vec::new(),
        });
        let collection = Collection {
            name: "books".to_owned(),
            table: table().name.clone(),
            transform: Arc::new(transform.unwrap()),
            embedder: Arc::<Gate>::clone(&gate),
            keywords: None,
            on_long: crate::OnLong::Cut,
            sink: Arc::new(sink.clone()),
            fingerprint,
        };
        let stop = CancellationToken::new();
        let shared = Shared {
            guard: None,
            telemetry: Telemetry::new(vec![CollectionStatus::default()], false),
            letters: Arc::new(Store::open(root.path()).unwrap()),
            truncates: crate::shared::Truncates::default(),
            leaves: crate::shared::Leaves::default(),
            stop: stop.clone(),
        };
        let source = LazyRowSource::new(None, &shared);
        let mut writer = Writer::new(0, collection, shared).unwrap();
        writer.begin_generation(Generation(1));
        let (sequencer, writers) = (Sequencer::new(stop.clone()), vec![writer]);
        Self { sequencer, writers, gate, stop, source, sink, ordinal: 0, _root: root }
    }

    /// A fixture whose line has written enough lately to take several batches.
    async fn warm() -> Self {
        let mut fixture = Self::new();
        let words = ["one", "two", "three", "four"];
        fixture.let_go(&words);
        let rows: Vec<(u64, &str)> = (1001..).zip(words).collect();
        fixture.begin(&rows).await.unwrap();
        fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
        fixture
    }

    fn let_go(&self, texts: &[&str]) {
        self.gate.open.send_modify(|open| open.extend(texts.iter().map(|text| (*text).to_owned())));
    }

    /// Begins a batch of rows that have changed: their ids and texts.
    async fn begin(&mut self, rows: &[(u64, &str)]) -> Result<(), PipelineError> {
        let Self { sequencer, writers, source, ordinal, .. } = self;
        let change = |(id, body): &(u64, &str)| {
            *ordinal += 1;
            let new = Row(vec![Cell::Value(json!(id)), Cell::Value(json!(body))]);
            let position = Position { commit_lsn: Lsn(100), ordinal: *ordinal };
            Change { table: table(), position, op: Op::Insert { new } }
        };
        let batch = writers[0].batch(rows.iter().map(change).collect(), Purpose::Change);
        sequencer.begin(writers, source, vec![(0, batch)], Span::none()).await
    }

    async fn write_next(&mut self) {
        let answer = self.sequencer.next().await.unwrap();
        self.sequencer.write(&mut self.writers, answer).await.unwrap();
    }

    /// Returns what the collection shows of rows with small ids.
    async fn shown(&self) -> BTreeMap<u64, Value> {
        let points = self.sink.page(None, 100, false).await.unwrap().points;
        let small = points.into_iter().filter_map(|point| match point.id {
            PointId::Num(id) if id < 1000 => Some((id, point.payload["body"].clone())),
            PointId::Num(_) | PointId::Uuid(_) => None,
        });
        small.collect()
    }

    fn was_asked_for(&self, text: &str) -> bool {
        self.gate.asked.lock().unwrap().contains(&text.to_owned())
    }
}

fn table() -> Arc<Table> {
    let column = |(name, type_name, type_oid): (&str, &str, u32)| Column::new(name, type_name, type_oid);
    let columns = [("id", "bigint", 20), ("body", "text", 25)].map(column).to_vec();
    Arc::new(Table { name: TableName::new("public", "books"), columns, key: vec![0] })
}

fn shown<const N: usize>(rows: [(u64, &str); N]) -> BTreeMap<u64, Value> {
    rows.into_iter().map(|(id, body)| (id, json!(body))).collect()
}

#[tokio::test]
async fn vectors_that_are_late_hold_no_other_rows_up_but_nothing_is_durable_before_them() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    fixture.sequencer.note("first");
    fixture.begin(&[(2, "soon")]).await.unwrap();
    fixture.sequencer.note("second");
    fixture.sequencer.note("second");
    fixture.let_go(&["soon"]);
    fixture.write_next().await;
    assert_eq!(fixture.shown().await, shown([(2, "soon")]));
    assert_eq!(fixture.sequencer.durable(), [""; 0], "who reads on from behind the second would miss the first");
    assert_eq!(fixture.sequencer.notes().copied().collect::<Vec<_>>(), ["first", "second"]);
    fixture.let_go(&["late"]);
    fixture.write_next().await;
    assert_eq!(fixture.shown().await, shown([(1, "late"), (2, "soon")]));
    assert_eq!(fixture.sequencer.durable(), ["first", "second"]);
    assert!(fixture.sequencer.is_empty());
    fixture.sequencer.note("third");
    assert_eq!(fixture.sequencer.durable(), ["third"], "nothing is under way that it would have to wait for");
}

#[tokio::test]
async fn a_row_that_changes_again_waits_until_its_last_change_is_written() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "old"), (2, "two")]).await.unwrap();
    {
        let gate = Arc::clone(&fixture.gate);
        let rows = [(3, "three"), (1, "new")];
        let mut again = Box::pin(fixture.begin(&rows));
        assert!(poll!(&mut again).is_pending());
        tokio::task::yield_now().await;
        assert!(!gate.asked.lock().unwrap().contains(&"new".to_owned()), "it was not even rendered");
        gate.open.send_modify(|open| open.extend(["old".to_owned(), "new".to_owned()]));
        again.await.unwrap();
    }
    assert_eq!(fixture.shown().await, shown([(1, "old"), (2, "two")]));
    fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
    assert_eq!(fixture.shown().await, shown([(1, "new"), (2, "two"), (3, "three")]));
}

#[tokio::test]
async fn with_a_slow_embedder_there_are_two_calls_of_rows_at_a_time() {
    let mut fixture = Fixture::new();
    fixture.begin(&[(1, "first"), (2, "two")]).await.unwrap();
    fixture.begin(&[(3, "late"), (4, "four")]).await.unwrap();
    {
        let gate = Arc::clone(&fixture.gate);
        let mut third = Box::pin(fixture.begin(&[(5, "third")]));
        assert!(poll!(&mut third).is_pending(), "nothing was written lately");
        gate.open.send_modify(|open| open.extend(["first".to_owned(), "two".to_owned()]));
        third.await.unwrap();
    }
    assert_eq!(fixture.shown().await, shown([(1, "first"), (2, "two")]));
}

#[tokio::test]
async fn a_small_batch_grows_for_a_moment_while_another_is_under_way() {
    let mut fixture = Fixture::warm().await;
    let since = Instant::now();
    let due = |fixture: &Fixture, rows, batch_rows| fixture.sequencer.due(&fixture.writers, rows, batch_rows, since);
    assert_eq!(due(&fixture, 1, 256), Some(since), "nothing is under way");
    fixture.begin(&[(1, "first")]).await.unwrap();
    assert_eq!(due(&fixture, 1, 256), Some(since + COMPANY));
    assert_eq!(due(&fixture, 2, 256), Some(since), "that makes a call");
    assert_eq!(due(&fixture, 1, 1), Some(since), "it must not grow");
    assert_eq!(due(&fixture, 0, 256), Some(since), "there is nothing to embed");
    fixture.begin(&[(2, "second"), (3, "third"), (4, "fourth")]).await.unwrap();
    assert_eq!(due(&fixture, 2, 256), None, "more than was written lately is under way");
}

#[tokio::test]
async fn at_a_stop_the_oldest_batch_is_waited_for_and_the_others_come_again() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "oldest")]).await.unwrap();
    fixture.sequencer.note("first");
    fixture.begin(&[(2, "never")]).await.unwrap();
    fixture.sequencer.note("second");
    fixture.begin(&[(3, "soon")]).await.unwrap();
    fixture.stop.cancel();
    {
        let gate = Arc::clone(&fixture.gate);
        let mut closed = Box::pin(fixture.sequencer.close(&mut fixture.writers, Ok(())));
        assert!(poll!(&mut closed).is_pending());
        gate.open.send_modify(|open| open.extend(["soon".to_owned(), "oldest".to_owned()]));
        closed.await.unwrap();
    }
    assert_eq!(fixture.sequencer.durable(), ["first"]);
    assert_eq!(fixture.shown().await.get(&1), Some(&json!("oldest")));
    assert_eq!(fixture.shown().await.get(&2), None);
}

#[tokio::test]
async fn after_an_error_the_first_answers_of_the_oldest_batch_are_kept_and_nothing_is_asked_for_again() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "down"), (2, "with it"), (3, "paid for")]).await.unwrap();
    while !fixture.was_asked_for("paid for") {
        tokio::task::yield_now().await;
    }
    fixture.let_go(&["down", "with it", "paid for"]);
    let gone = PipelineError::Altered { table: table().name.clone() };
    let outcome = fixture.sequencer.close(&mut fixture.writers, Err(gone)).await;
    assert!(matches!(outcome, Err(PipelineError::Altered { .. })));
    assert_eq!(fixture.shown().await, shown([(3, "paid for")]));
    let asked = fixture.gate.asked.lock().unwrap().iter().filter(|text| *text == "down").count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_has_not_begun() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    let stop = fixture.stop.clone();
    let rows = [(1, "newer")];
    let mut newer = Box::pin(fixture.begin(&rows));
    assert!(poll!(&mut newer).is_pending());
    stop.cancel();
    assert!(matches!(newer.await, Err(PipelineError::Stopped)));
}

#[tokio::test]
async fn who_may_not_write_any_more_does_not_wait_for_vectors() {
    let mut fixture = Fixture::warm().await;
    fixture.begin(&[(1, "late")]).await.unwrap();
    let fenced = walvec_broker::BrokerError::Fenced { reason: "it was silent".to_owned() };
    let outcome = fixture.sequencer.close(&mut fixture.writers, Err(fenced.into())).await;
    assert!(outcome.is_err_and(|error| error.ends_membership()));
    assert_eq!(fixture.shown().await, shown([]));
}
