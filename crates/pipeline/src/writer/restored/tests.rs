use std::collections::BTreeMap;

use tokio::time::Instant;

use super::*;
use crate::testing::TestCollection;
use crate::testing::rows::{at, delete, insert, point};
use crate::testing::sink::HeldPoint;

type Points = BTreeMap<PointId, HeldPoint>;

/// Returns a collection whose last look found rows 1 and 2, and its points before row 2 was written.
async fn with_two_rows() -> (TestCollection, Points) {
    let mut collection = TestCollection::new();
    collection.put(vec![insert(10, 1, "one")]).await.unwrap();
    let before = collection.sink.points();
    collection.put(vec![insert(11, 2, "two")]).await.unwrap();
    collection.writer.wrote_everything();
    (collection, before)
}

fn is_behind<T>(outcome: &Result<T, PipelineError>) -> bool {
    matches!(outcome, Err(PipelineError::Behind { collection }) if collection == "books")
}

#[tokio::test(start_paused = true)]
async fn a_collection_that_has_what_was_written_is_not_behind() {
    let (collection, _) = with_two_rows().await;
    let began = Instant::now();
    collection.writer.look().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing was missing that a replica might still get");
}

#[tokio::test(start_paused = true)]
async fn a_restored_collection_is_found_out_by_a_look() {
    let (collection, before) = with_two_rows().await;
    collection.sink.restore(before);
    assert!(is_behind(&collection.writer.look().await));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_catches_up_in_time_is_not_behind() {
    let (collection, before) = with_two_rows().await;
    let all = collection.sink.points();
    collection.sink.restore(before);
    let (looked, ()) = tokio::join!(collection.writer.look(), async {
        tokio::time::sleep(SETTLING / 2).await;
        collection.sink.restore(all);
    });
    looked.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restored_collection_is_found_out_before_its_rows_are_written_again() {
    let (mut collection, before) = with_two_rows().await;
    collection.sink.restore(before);
    collection.sink.take_batches();
    assert!(is_behind(&collection.put(vec![insert(20, 2, "two again")]).await));
    assert!(collection.sink.take_batches().is_empty(), "what was written would hide it");
}

#[tokio::test(start_paused = true)]
async fn a_point_that_another_program_removed_does_not_mean_that_the_collection_was_restored() {
    let (mut collection, _) = with_two_rows().await;
    collection.sink.lose(point(1));
    collection.put(vec![insert(20, 1, "one again")]).await.unwrap();
    assert_eq!(collection.sink.points().len(), 2, "row 2 proves that everything before it is there");
}

#[tokio::test(start_paused = true)]
async fn points_that_are_repaired_prove_nothing() {
    let (mut collection, before) = with_two_rows().await;
    collection.sink.restore(before);
    collection.put_for(vec![insert(11, 2, "two")], Purpose::Repair).await.unwrap();
    assert_eq!(collection.sink.points().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_since_the_last_look_is_looked_for_at_the_next_but_one() {
    let (mut collection, _) = with_two_rows().await;
    let before = collection.sink.points();
    collection.put(vec![insert(12, 3, "three")]).await.unwrap();
    collection.sink.restore(before);
    collection.writer.look().await.unwrap();
    assert!(is_behind(&collection.writer.look().await), "the first look may have asked a replica that was late");
}

#[tokio::test(start_paused = true)]
async fn a_removed_row_that_is_back_was_restored() {
    let (mut collection, _) = with_two_rows().await;
    let before = collection.sink.points();
    collection.put(vec![delete(20, 1)]).await.unwrap();
    collection.writer.look().await.unwrap();
    collection.sink.restore(before);
    assert!(is_behind(&collection.writer.look().await));
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_to_be_swept_are_not_looked_for() {
    let (collection, before) = with_two_rows().await;
    collection.writer.forget_witnesses_before(at(12));
    collection.sink.restore(before);
    collection.writer.look().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_a_restart_is_still_looked_for() {
    let (collection, before) = with_two_rows().await;
    let stored = collection.writer.to_remember();
    let restarted = TestCollection::new();
    restarted.writer.remember(stored);
    restarted.sink.restore(collection.sink.points());
    restarted.writer.look().await.unwrap();
    restarted.sink.restore(before);
    assert!(is_behind(&restarted.writer.look().await));
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_replica() {
    let (collection, before) = with_two_rows().await;
    collection.sink.restore(before);
    collection.shared.shared.stop.cancel();
    let began = Instant::now();
    assert!(matches!(collection.writer.look().await, Err(PipelineError::Stopped)));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_new_snapshot_forgets_what_an_older_state_would_lack() {
    let (mut collection, before) = with_two_rows().await;
    collection.writer.begin_generation(walvec_model::Generation(2));
    collection.sink.restore(before);
    collection.writer.look().await.unwrap();
}
