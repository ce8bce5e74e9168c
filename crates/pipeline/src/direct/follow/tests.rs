use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use walvec_model::{Change, Generation, Op, PointId};

use super::*;
use crate::error::Resync;
use crate::sequencer::PipelineCollections;
use crate::source::gap::OnGap;
use crate::source::owner::Owner;
use crate::source::reread::{JobSpec, Jobs};
use crate::state::records::{Checkpoint, SnapshotState, SourceIdentity};
use crate::state::store::Store;
use crate::testing::rows::{at, delete, insert, point, table};
use crate::testing::sink::unavailable;
use crate::testing::source::stream;
use crate::testing::{Fault, SinkCall, TestCollection, TestEmbedder, TestServer, TestSink, TestSource};

/// How long rows of an unfinished transaction wait.
const WAIT: Duration = Duration::from_millis(200);

/// A pipeline that follows a stream of books.
struct Fixture {
    run: Run,
    sink: TestSink,
    embedder: Arc<TestEmbedder>,
    source: TestSource,
    server: TestServer,
    stream: Option<Box<dyn StreamPort>>,
    jobs: Jobs,
    replay: Replay,
    _root: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let TestCollection { writer, sink, embedder, shared, .. } = TestCollection::new();
        let mut collections = PipelineCollections::new(vec![writer]);
        collections.found(vec![table()]);
        let (jobs, orders) = Jobs::channel();
        let run = Run {
            shared: shared.shared,
            store: Arc::new(Store::open(root.path()).unwrap()),
            collections,
            batch_rows: 4,
            batch_wait: WAIT,
            on_gap: OnGap::Stop,
            owner: Arc::new(Owner::default()),
            held: None,
            orders,
            interrupted: None,
        };
        let (server, stream) = stream();
        let (source, replay) = (TestSource::new(), Replay::default());
        Self { run, sink, embedder, source, server, stream: Some(stream), jobs, replay, _root: root }
    }

    /// Follows the stream while `script` runs, then stops.
    async fn followed(&mut self, script: impl AsyncFnOnce(Script<'_>)) -> Result<(), PipelineError> {
        let Self { run, sink, embedder, source, server, stream, jobs, replay, .. } = self;
        let (store, stop) = (Arc::clone(&run.store), run.shared.stop.clone());
        let checkpointer = Checkpointer::open(Arc::clone(&store), source.port(), checkpoint()).unwrap();
        let (port, stream) = (source.port(), stream.take().unwrap());
        let follow = follow(run, &port, stream, checkpointer, std::mem::take(replay));
        let script = async {
            script(Script { sink, embedder, source, server, jobs, store: &store }).await;
            stop.cancel();
        };
        match futures::future::join(follow, script).await.0 {
            Err(PipelineError::Stopped) => Ok(()),
            outcome => outcome,
        }
    }
}

/// The partners of a pipeline that follows a stream.
struct Script<'a> {
    sink: &'a TestSink,
    embedder: &'a Arc<TestEmbedder>,
    source: &'a TestSource,
    server: &'a mut TestServer,
    jobs: &'a Jobs,
    store: &'a Store,
}

impl Script<'_> {
    fn applied(&self) -> Lsn {
        self.store.checkpoint().unwrap().unwrap().applied
    }

    fn has(&self, id: u64) -> bool {
        self.sink.points().contains_key(&point(id))
    }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        source: SourceIdentity { system_id: "1".to_owned(), timeline: 1, database_oid: 1, slot: "walvec".to_owned() },
        generation: Generation(1),
        snapshot: SnapshotState::Done,
        applied: Lsn(50),
        last_commit: Lsn::ZERO,
        written_to: None,
        resync: None,
        sweep_waits: false,
        witnesses: Default::default(),
        tables: Default::default(),
        publication: String::new(),
        config_digest: String::new(),
        digests: Vec::new(),
        collections: Default::default(),
        written: Default::default(),
    }
}

const fn begin() -> StreamEvent {
    StreamEvent::Begin { at: SystemTime::UNIX_EPOCH, xid: 7 }
}

const fn commit(end_lsn: u64) -> StreamEvent {
    StreamEvent::Commit { end_lsn: Lsn(end_lsn), at: SystemTime::UNIX_EPOCH }
}

/// Returns a transaction that inserts these books.
fn transaction(lsn: u64, ids: &[u64]) -> Vec<StreamEvent> {
    let rows = ids.iter().map(|id| StreamEvent::Change(insert(lsn, *id, &format!("text {id}"))));
    std::iter::once(begin()).chain(rows).chain([commit(lsn + 1)]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_confirmed_once_all_its_rows_are_durable() {
    let mut fixture = Fixture::new();
    let outcome = fixture.followed(async |script| {
        script.sink.hold(SinkCall::Write);
        script.server.send(transaction(100, &[1, 2])).await;
        script.sink.called(SinkCall::Write, 1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(script.server.highest(), Lsn::ZERO, "nothing is durable");
        assert_eq!(script.applied(), Lsn(50));
        script.sink.release(SinkCall::Write);
        script.server.confirmed(Lsn(101)).await;
        assert!(script.has(1) && script.has(2));
        assert_eq!(script.applied(), Lsn(101), "the checkpoint is stored first");
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rows_of_an_unfinished_transaction_wait_for_more_and_are_not_confirmed() {
    let mut fixture = Fixture::new();
    let outcome = fixture.followed(async |script| {
        script.server.send(vec![begin(), StreamEvent::Change(insert(100, 1, "one"))]).await;
        tokio::time::sleep(WAIT / 2).await;
        assert_eq!(script.sink.count_of(SinkCall::Write), 0);
        tokio::time::sleep(WAIT).await;
        assert!(script.has(1));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(script.server.highest(), Lsn::ZERO, "its end has not been read");
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_position_is_stored_and_confirmed_at_most_once_a_second() {
    let mut fixture = Fixture::new();
    let outcome = fixture.followed(async |script| {
        script.server.send(transaction(100, &[1])).await;
        script.server.confirmed(Lsn(101)).await;
        script.server.send(transaction(110, &[2])).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(script.has(2));
        assert_eq!((script.server.highest(), script.applied()), (Lsn(101), Lsn(101)));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!((script.server.highest(), script.applied()), (Lsn(111), Lsn(111)));
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_confirms_no_more_than_what_is_durable() {
    let mut fixture = Fixture::new();
    fixture.embedder.hold();
    let outcome = fixture.followed(async |script| {
        script.server.send(transaction(100, &[1])).await;
        script.embedder.asked_for("text 1", 1).await;
        script.server.send(transaction(110, &[2])).await;
        script.embedder.asked_for("text 2", 1).await;
        let embedder = Arc::clone(script.embedder);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            embedder.release(&["text 1"]);
        });
    });
    outcome.await.unwrap();
    assert_eq!(fixture.sink.points().keys().collect::<Vec<_>>(), [&PointId::Num(1)], "the oldest batch is waited for");
    assert_eq!(fixture.server.highest(), Lsn(101));
    assert_eq!(fixture.run.store.checkpoint().unwrap().unwrap().applied, Lsn(101));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_away_is_asked_again_and_nothing_is_confirmed_meanwhile() {
    let mut fixture = Fixture::new();
    let outcome = fixture.followed(async |script| {
        for _ in 0..3 {
            script.sink.fail(SinkCall::Write, Fault::Before(unavailable()));
        }
        script.server.send(transaction(100, &[1])).await;
        script.sink.called(SinkCall::Write, 3).await;
        assert_eq!(script.server.highest(), Lsn::ZERO);
        script.server.confirmed(Lsn(101)).await;
        assert!(script.has(1));
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_truncate_removes_what_was_written_before_it_and_nothing_that_follows() {
    let mut fixture = Fixture::new();
    let outcome = fixture.followed(async |script| {
        let truncate = Change { table: table(), position: at(105), op: Op::Truncate };
        script.embedder.hold();
        script
            .server
            .send(vec![begin(), StreamEvent::Change(insert(100, 1, "one")), StreamEvent::Change(truncate)])
            .await;
        script.embedder.asked_for("one", 1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(script.sink.count_of(SinkCall::DeleteTable), 0, "a row before it is in flight");
        script.embedder.release_all();
        script.server.send(vec![StreamEvent::Change(insert(106, 2, "two")), commit(107)]).await;
        script.server.confirmed(Lsn(107)).await;
        assert!(!script.has(1) && script.has(2));
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replay_with_a_gap_is_refused_and_nothing_of_it_is_written() {
    let mut fixture = Fixture::new();
    fixture.replay = Replay::new(Lsn(50), Lsn(90));
    let outcome = fixture.followed(async |script| {
        script.server.send(transaction(100, &[1])).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(outcome.await.unwrap_err().code(), "E_POSITION");
    assert!(fixture.sink.points().is_empty());
    assert_eq!(fixture.server.highest(), Lsn::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_an_error_interrupts_is_kept_for_the_next_session() {
    let mut fixture = Fixture::new();
    let progress = fixture.jobs.give(JobSpec::Backfill { table: table().name.clone(), filter: None }).unwrap();
    let outcome = fixture.followed(async |script| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        script.server.fail(CaptureError::Closed).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(outcome.await.unwrap_err().code(), CaptureError::Closed.code());
    assert!(fixture.run.interrupted.is_some());
    assert!(progress.borrow().ended.is_none(), "its user still waits");
}

#[tokio::test(start_paused = true)]
async fn a_backfill_does_not_bring_back_a_row_that_the_stream_deletes_meanwhile() {
    let mut fixture = Fixture::new();
    let outcome = fixture.followed(async |script| {
        let mut progress = script.jobs.give(JobSpec::Backfill { table: table().name.clone(), filter: None }).unwrap();
        script.source.asked_to_reread().await;
        script.server.send(vec![begin(), StreamEvent::Change(delete(100, 1)), commit(101)]).await;
        script.server.confirmed(Lsn(101)).await;
        script.source.reread(at(90), vec![Ok(vec![insert(90, 1, "old"), insert(90, 2, "two")])]);
        progress.wait_for(|progress| progress.ended.is_some()).await.unwrap();
        assert!(script.has(2) && !script.has(1));
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_collections_are_not_looked_at_before_the_replay_is_over() {
    let mut fixture = Fixture::new();
    fixture.source.set_flushed(Lsn(200));
    let looked = |script: &Script<'_>| script.sink.count_of(SinkCall::Retrieve);
    let outcome = fixture.followed(async |script| {
        script.server.send(transaction(100, &[1])).await;
        script.server.confirmed(Lsn(101)).await;
        let before = looked(&script);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(looked(&script), before);
        script.server.send(vec![StreamEvent::Idle { wal_end: Lsn(200) }]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(looked(&script) > before);
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_resync_that_is_asked_for_is_stored_for_the_next_session() {
    let mut fixture = Fixture::new();
    let progress = fixture.jobs.give(JobSpec::Resync { may_sweep_most: true }).unwrap();
    let outcome = fixture.followed(async |_| tokio::time::sleep(Duration::from_secs(1)).await).await;
    assert!(matches!(outcome, Err(PipelineError::Resync(Resync { may_sweep_most: true, .. }))));
    assert_eq!(fixture.run.store.checkpoint().unwrap().unwrap().snapshot, SnapshotState::Again);
    assert_eq!(progress.borrow().ended, Some(Ok(())));
}
