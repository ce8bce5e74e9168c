//! Tests of the sequencer, with writers whose embedder answers for a text when the test releases it.
//!
//! - [`order`]: what waits for what, and when notes are handed out
//! - [`room`]: how much is in flight, and when a batch is due
//! - [`end`]: what a stop and an error leave behind

mod end;
mod order;
mod room;

use std::collections::BTreeMap;

use futures::poll;
use serde_json::{Value, json};
use walvec_model::{Change, Generation, PointId};

use super::*;
use crate::testing::collection::collection;
use crate::testing::rows::{delete, insert};
use crate::testing::{CollectionOptions, TestEmbedder, TestRowSource, TestShared, TestSink};
use crate::writer::Purpose;

impl Completion for &'static str {
    fn join(&mut self, later: Self) -> Option<Self> {
        (*self != later).then_some(later)
    }
}

/// A sequencer with a writer for each collection. All of them share an embedder, whose calls have two texts and of which
/// eight keep it busy.
struct Fixture {
    sequencer: Sequencer<&'static str>,
    writers: Vec<Writer>,
    sinks: Vec<TestSink>,
    embedder: Arc<TestEmbedder>,
    shared: TestShared,
    source: TestRowSource,
    lsn: u64,
}

impl Fixture {
    fn new() -> Self {
        Self::of(&["books"])
    }

    fn of(collections: &[&'static str]) -> Self {
        let shared = TestShared::of(collections);
        let embedder = Arc::new(TestEmbedder::new(2, 8));
        embedder.hold();
        let sinks: Vec<TestSink> = collections.iter().map(|_| TestSink::default()).collect();
        let writer = |(index, name): (usize, &&'static str)| {
            let options = CollectionOptions { name, ..CollectionOptions::default() };
            let collection = collection(options, &sinks[index], &embedder);
            let mut writer = Writer::new(index, collection, shared.shared.clone()).unwrap();
            writer.begin_generation(Generation(1));
            writer
        };
        let writers = collections.iter().enumerate().map(writer).collect();
        let sequencer = Sequencer::new(shared.shared.stop.clone());
        Self { sequencer, writers, sinks, embedder, shared, source: TestRowSource::default(), lsn: 0 }
    }

    /// Returns a fixture that has written enough lately to take several batches.
    async fn warm() -> Self {
        let mut fixture = Self::new();
        let words = ["one", "two", "three", "four"];
        fixture.embedder.release(&words);
        let rows: Vec<(u64, &str)> = (1001..).zip(words).collect();
        fixture.begin(&rows).await.unwrap();
        fixture.sequencer.finish(&mut fixture.writers).await.unwrap();
        fixture
    }

    /// Returns a batch of changes for a writer.
    fn batch(&self, writer: usize, changes: Vec<Change>) -> (usize, Batch) {
        (writer, self.writers[writer].batch(changes, Purpose::Change))
    }

    /// Returns a batch of rows for a writer: their ids and texts.
    fn rows(&mut self, writer: usize, rows: &[(u64, &str)]) -> (usize, Batch) {
        let mut lsn = self.lsn;
        let change = |(id, text): &(u64, &str)| {
            lsn += 1;
            insert(lsn, *id, text)
        };
        let changes = rows.iter().map(change).collect();
        self.lsn = lsn;
        self.batch(writer, changes)
    }

    /// Begins a batch of rows of the first writer: their ids and texts.
    async fn begin(&mut self, rows: &[(u64, &str)]) -> Result<(), PipelineError> {
        let batch = self.rows(0, rows);
        self.begin_batches(vec![batch]).await
    }

    async fn begin_batches(&mut self, batches: Vec<(usize, Batch)>) -> Result<(), PipelineError> {
        let Self { sequencer, writers, source, .. } = self;
        sequencer.begin(writers, source, batches, Span::none()).await
    }

    async fn begin_delete(&mut self, id: u64) -> Result<(), PipelineError> {
        self.lsn += 1;
        let batch = self.batch(0, vec![delete(self.lsn, id)]);
        self.begin_batches(vec![batch]).await
    }

    async fn write_next(&mut self) {
        let answer = self.sequencer.next().await.unwrap();
        self.sequencer.write(&mut self.writers, answer).await.unwrap();
    }

    /// Returns what the first collection shows of rows with small ids.
    fn shown(&self) -> BTreeMap<u64, Value> {
        let points = self.sinks[0].points().into_iter();
        let small = points.filter_map(|(id, point)| match id {
            PointId::Num(id) if id < 1000 => Some((id, point.payload["body"].clone())),
            PointId::Num(_) | PointId::Uuid(_) => None,
        });
        small.collect()
    }
}

fn shown<const N: usize>(rows: [(u64, &str); N]) -> BTreeMap<u64, Value> {
    rows.into_iter().map(|(id, body)| (id, json!(body))).collect()
}

/// Lets the tasks that embed go on until each of them waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
