use tokio::time::Instant;

use super::*;
use crate::testing::sink::unavailable;
use crate::testing::{CollectionOptions, Fault, SinkCall, TestCollection, TestEmbedder, TestShared, TestSink};

/// Returns sinks of three collections, the second of which holds a point.
async fn three() -> (Vec<TestSink>, Vec<Arc<dyn Sink>>, TestShared) {
    let mut second = TestCollection::with(CollectionOptions::default(), TestEmbedder::new(1, 1));
    second.put(vec![crate::testing::rows::insert(10, 1, "text")]).await.unwrap();
    let sinks = vec![TestSink::default(), second.sink, TestSink::default()];
    let as_sinks = sinks.iter().map(|sink| Arc::new(sink.clone()) as Arc<dyn Sink>).collect();
    (sinks, as_sinks, TestShared::of(&["books", "films", "plays"]))
}

fn counted(shared: &TestShared) -> Vec<Option<u64>> {
    shared.status().collections.iter().map(|collection| collection.points).collect()
}

#[tokio::test]
async fn only_the_collections_whose_turn_it_is_are_counted_each_at_its_place() {
    let (_, sinks, shared) = three().await;
    count_points(&sinks, 1..3, &shared.shared.telemetry).await.unwrap();
    assert_eq!(counted(&shared), [None, Some(1), Some(0)]);
    assert!(shared.status().collections[1].points_counted.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_collection_that_does_not_answer_keeps_its_count_and_delays_no_other() {
    let (sinks, as_sinks, shared) = three().await;
    count_points(&as_sinks, 0..3, &shared.shared.telemetry).await.unwrap();
    sinks[0].delay(SinkCall::Count, Duration::from_secs(600));
    sinks[1].fail(SinkCall::Count, Fault::Before(unavailable()));
    let began = Instant::now();
    count_points(&as_sinks, 0..3, &shared.shared.telemetry).await.unwrap();
    assert_eq!((counted(&shared), began.elapsed()), (vec![Some(0), Some(1), Some(0)], COUNT_LIMIT));
}

#[tokio::test]
async fn a_collection_that_is_missing_is_an_error_with_its_name() {
    let (sinks, as_sinks, shared) = three().await;
    let missing = SinkError::Missing { url: "test".to_owned(), collection: "films__1".to_owned() };
    sinks[1].fail(SinkCall::Count, Fault::Before(missing));
    let outcome = count_points(&as_sinks, 0..3, &shared.shared.telemetry).await;
    assert!(matches!(&outcome, Err(PipelineError::Sink { collection, .. }) if collection == "films"), "{outcome:?}");
}

/// Returns how many indexes each sink built while filling and after, in so many seconds of a phase.
async fn built(phase: Phase, seconds: u64, sinks: &[TestSink]) -> Vec<(usize, usize)> {
    let shared = TestShared::of(&[]);
    shared.shared.telemetry.phase(phase);
    let as_sinks: Vec<Arc<dyn Sink>> = sinks.iter().map(|sink| Arc::new(sink.clone()) as Arc<dyn Sink>).collect();
    let maintained = maintain(&as_sinks, shared.shared.telemetry.subscribe());
    tokio::time::timeout(Duration::from_secs(seconds), maintained).await.expect_err("it never ends");
    let count = |sink: &TestSink| (sink.count_of(SinkCall::OptimizeWhileFilling), sink.count_of(SinkCall::Optimize));
    sinks.iter().map(count).collect()
}

#[tokio::test(start_paused = true)]
async fn indexes_are_built_every_two_seconds_and_fewer_while_the_snapshot_runs() {
    let sinks = || [TestSink::default(), TestSink::default()];
    assert_eq!(built(Phase::Snapshot, 5, &sinks()).await, [(3, 0), (3, 0)]);
    assert_eq!(built(Phase::Streaming, 5, &sinks()).await, [(0, 3), (0, 3)]);
    for phase in [Phase::Starting, Phase::Stopping] {
        assert_eq!(built(phase, 5, &sinks()).await, [(0, 0), (0, 0)], "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_that_cannot_be_built_is_tried_again_a_minute_later_and_holds_no_other_up() {
    let sinks = [TestSink::default(), TestSink::default()];
    sinks[0].fail(SinkCall::Optimize, Fault::Before(unavailable()));
    assert_eq!(built(Phase::Streaming, 59, &sinks).await, [(0, 1), (0, 1)]);
    assert_eq!(built(Phase::Streaming, 1, &sinks).await, [(0, 2), (0, 2)]);
}

#[tokio::test(start_paused = true)]
async fn indexes_wait_until_the_pipeline_has_started() {
    let (sink, shared) = (TestSink::default(), TestShared::of(&[]));
    let as_sinks: [Arc<dyn Sink>; 1] = [Arc::new(sink.clone())];
    let began = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(sink.count_of(SinkCall::Optimize), 0);
        shared.shared.telemetry.phase(Phase::Streaming);
        sink.called(SinkCall::Optimize, 1).await;
    };
    tokio::select! {
        () = maintain(&as_sinks, shared.shared.telemetry.subscribe()) => panic!("it never ends"),
        () = began => {}
    }
}
