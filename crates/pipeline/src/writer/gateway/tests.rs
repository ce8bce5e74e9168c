use super::*;
use crate::testing::rows::{at, insert, point};
use crate::testing::sink::{refused, unavailable};
use crate::testing::{Fault, SinkCall, TestCollection};

async fn with_rows(rows: u64) -> TestCollection {
    let mut collection = TestCollection::new();
    collection.put((1..=rows).map(|id| insert(10, id, "text")).collect()).await.unwrap();
    collection.sink.take_batches();
    collection
}

fn deletions(ids: impl IntoIterator<Item = u64>) -> Vec<Write> {
    ids.into_iter().map(|id| Write::Delete(point(id))).collect()
}

#[tokio::test]
async fn points_are_read_as_many_at_a_time_as_the_server_allows() {
    let collection = with_rows(5).await;
    let before = collection.sink.count_of(SinkCall::Retrieve);
    collection.sink.set_ids_per_read(2);
    let ids: Vec<PointId> = (1..=7).map(point).collect();
    let mut found: Vec<PointId> =
        collection.writer.retrieve(&ids).await.unwrap().into_iter().map(|point| point.id).collect();
    found.sort();
    assert_eq!(found, ids[..5], "each point once, and only those that there are");
    assert_eq!(collection.sink.count_of(SinkCall::Retrieve) - before, 4);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_half_way_keeps_what_it_has() {
    let collection = with_rows(4).await;
    let before = collection.sink.count_of(SinkCall::Retrieve);
    collection.sink.set_ids_per_read(2);
    let ids: Vec<PointId> = (1..=4).map(point).collect();
    collection.sink.pass(SinkCall::Retrieve);
    collection.sink.fail(SinkCall::Retrieve, Fault::Before(unavailable()));
    let found = collection.writer.retrieve(&ids).await;
    assert_eq!(found.unwrap().len(), 4);
    assert_eq!(collection.sink.count_of(SinkCall::Retrieve) - before, 3, "two portions, one of them twice");
}

#[tokio::test(start_paused = true)]
async fn what_a_limit_has_let_through_is_not_sent_again() {
    let collection = with_rows(5).await;
    collection.sink.limit(2);
    collection.sink.limit(1);
    let is_doubtful = AtomicBool::default();
    collection.writer.write_all(&deletions(1..=5), &is_doubtful).await.unwrap();
    assert_eq!(collection.sink.take_batches(), [deletions(1..=5), deletions(3..=5), deletions(4..=5)]);
    assert!(collection.sink.points().is_empty());
    assert!(!is_doubtful.into_inner(), "the server has answered each request");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_doubtful() {
    let collection = with_rows(1).await;
    collection.sink.fail(SinkCall::Write, Fault::After(unavailable()));
    let is_doubtful = AtomicBool::default();
    collection.writer.write_all(&deletions([1]), &is_doubtful).await.unwrap();
    assert!(is_doubtful.into_inner());
    assert_eq!(collection.sink.take_batches().len(), 2);
}

#[tokio::test]
async fn a_write_that_is_answered_at_once_is_not_doubtful() {
    let collection = with_rows(1).await;
    let is_doubtful = AtomicBool::default();
    collection.writer.write_all(&deletions([1]), &is_doubtful).await.unwrap();
    assert!(!is_doubtful.into_inner());
}

#[tokio::test]
async fn reads_do_not_ask_the_fence_and_writes_do() {
    let collection = with_rows(1).await;
    collection.shared.fence.allow(0);
    assert_eq!(collection.writer.retrieve(&[point(1)]).await.unwrap().len(), 1);
    let outcome = collection.writer.write_all(&deletions([1]), &AtomicBool::default()).await;
    assert!(matches!(outcome, Err(PipelineError::Disowned)), "{outcome:?}");
    assert_eq!(collection.sink.points()[&point(1)].provenance.as_ref().unwrap().position, at(10));
}

#[tokio::test]
async fn an_error_names_the_collection_and_a_stop_ends_the_attempts() {
    let collection = with_rows(1).await;
    collection.sink.fail(SinkCall::Count, Fault::Before(refused()));
    let outcome = collection.writer.is_empty().await;
    assert!(matches!(&outcome, Err(PipelineError::Sink { collection, .. }) if collection == "books"), "{outcome:?}");
    collection.sink.fail(SinkCall::Count, Fault::Before(unavailable()));
    collection.shared.shared.stop.cancel();
    assert!(matches!(collection.writer.is_empty().await, Err(PipelineError::Stopped)));
}
