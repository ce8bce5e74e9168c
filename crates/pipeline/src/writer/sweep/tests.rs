use std::collections::HashMap;

use super::*;
use crate::state::dead_letters::DeadLetterStore as _;
use crate::testing::embedder::bad_text;
use crate::testing::rows::{at, insert, key, point, table, table_named, update};
use crate::testing::sink::HeldPoint;
use crate::testing::{SinkCall, TestCollection};

/// Returns a collection with rows 1 to 4 of generation 1, as of their ids, and the text `bad` that is refused.
async fn with_four_rows() -> TestCollection {
    let mut collection = TestCollection::new();
    collection.embedder.refuse("bad", bad_text());
    collection.put((1..=4).map(|id| insert(id, id, "text")).collect()).await.unwrap();
    collection
}

fn ids(collection: &TestCollection) -> Vec<PointId> {
    collection.sink.points().into_keys().collect()
}

/// Adds a copy of a point under another id, changed.
fn copy(collection: &TestCollection, id: u64, change: impl Fn(&mut HeldPoint)) {
    let mut points = collection.sink.points();
    let mut point_copied = points[&point(1)].clone();
    change(&mut point_copied);
    points.insert(point(id), point_copied);
    collection.sink.restore(points);
}

fn add_foreign(collection: &TestCollection, id: u64) {
    copy(collection, id, |point| point.provenance = None);
}

fn add_of_table(collection: &TestCollection, id: u64, name: &str) {
    let tag = Provenance::table_tag(&table_named(name).name);
    copy(collection, id, |point| point.provenance.as_mut().unwrap().table = tag.clone());
}

fn parked_keys(collection: &TestCollection) -> Vec<String> {
    collection.parked().into_iter().map(|(key, _)| key).collect()
}

fn place(partition: i32) -> Place {
    Place { topic: "books".to_owned(), partition, offset: 9 }
}

#[tokio::test]
async fn the_end_of_a_snapshot_removes_what_it_did_not_meet_and_nothing_of_other_programs() {
    let mut collection = with_four_rows().await;
    collection.put(vec![insert(5, 5, "bad")]).await.unwrap();
    add_foreign(&collection, 8);
    add_of_table(&collection, 9, "films");
    collection.writer.begin_generation(Generation(2));
    collection.put(vec![insert(7, 2, "text"), insert(7, 6, "bad")]).await.unwrap();
    let counted = collection.writer.count_swept(&BTreeSet::new()).await.unwrap();
    assert_eq!(counted, (3, 6), "what would be removed, and all there is");
    assert_eq!(collection.writer.finish_generation().await.unwrap(), 3);
    assert_eq!(ids(&collection), [2, 8, 9].map(point));
    assert_eq!(parked_keys(&collection), [key(6).to_string()], "the snapshot met that row");
}

#[tokio::test]
async fn rows_of_former_tables_count_among_those_that_a_snapshot_would_remove() {
    let collection = with_four_rows().await;
    add_of_table(&collection, 8, "films");
    add_of_table(&collection, 9, "films");
    let tables = ["books", "films"].map(|name| table_named(name).name.clone());
    let counted = collection.writer.count_swept(&BTreeSet::from(tables)).await.unwrap();
    assert_eq!(counted, (2, 6), "the present table's rows are of this generation");
}

#[tokio::test]
async fn letters_that_another_worker_has_stored_meanwhile_are_cleared_with_their_rows() {
    let mut collection = with_four_rows().await;
    collection.put(vec![insert(5, 5, "bad")]).await.unwrap();
    let letters = &collection.shared.letters;
    let mut elsewhere = letters.of("books").unwrap().remove(0);
    elsewhere.key = key(9).values().to_vec();
    letters.put_elsewhere(elsewhere);
    collection.writer.begin_generation(Generation(2));
    collection.writer.finish_generation().await.unwrap();
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_truncate_leaves_no_row_no_dead_letter_and_every_point_of_other_programs() {
    let mut collection = with_four_rows().await;
    collection.put(vec![insert(5, 5, "bad")]).await.unwrap();
    add_foreign(&collection, 8);
    collection.writer.truncate().await.unwrap();
    assert_eq!(ids(&collection), [point(8)]);
    assert!(collection.parked().is_empty() && !collection.writer.is_parked(&key(5)));
}

#[tokio::test]
async fn a_collection_that_has_its_rows_again_after_a_truncate_was_restored() {
    let mut collection = with_four_rows().await;
    collection.writer.wrote_everything();
    let before = collection.sink.points();
    collection.writer.truncate().await.unwrap();
    collection.writer.look().await.unwrap();
    collection.sink.restore(before);
    tokio::time::pause();
    assert!(matches!(collection.writer.look().await, Err(PipelineError::Behind { .. })));
}

#[tokio::test]
async fn a_sweep_by_position_goes_through_the_whole_collection() {
    let mut collection = with_four_rows().await;
    collection.put(vec![insert(3, 7, "bad"), insert(5, 8, "bad")]).await.unwrap();
    collection.writer.sweep_before(at(4), Generation(0)..=Generation(1)).await.unwrap();
    assert_eq!(collection.sink.count_of(SinkCall::DeleteOlder), 2);
    assert_eq!(ids(&collection), [point(4)]);
    assert_eq!(parked_keys(&collection), [key(8).to_string()]);
}

#[tokio::test]
async fn a_sweep_by_position_leaves_rows_of_later_generations() {
    let mut collection = with_four_rows().await;
    collection.writer.begin_generation(Generation(2));
    collection.put(vec![insert(2, 2, "other")]).await.unwrap();
    collection.writer.sweep_before(at(9), Generation(0)..=Generation(1)).await.unwrap();
    assert_eq!(ids(&collection), [point(2)], "the database was restored, and positions begin again");
}

#[tokio::test]
async fn a_truncate_in_one_partition_leaves_the_letters_of_the_others() {
    let mut collection = with_four_rows().await;
    let mut batch =
        collection.writer.batch(vec![insert(1, 7, "bad"), insert(1, 8, "bad")], crate::writer::Purpose::Change);
    let places = HashMap::from([(key(7), place(0)), (key(8), place(1))]);
    batch.context = std::sync::Arc::new(crate::writer::BatchContext { generation: Generation(1), places });
    collection.write(batch).await.unwrap();
    collection.writer.truncate_before(at(4), Generation(1), &place(0)).await.unwrap();
    assert_eq!(ids(&collection), [point(4)]);
    assert_eq!(parked_keys(&collection), [key(8).to_string()], "its worker has yet to read the truncate");
    collection.writer.truncate_before(at(5), FOREIGN, &place(0)).await.unwrap();
    assert!(ids(&collection).is_empty() && collection.parked().is_empty(), "another program waits for all workers");
}

#[tokio::test]
async fn only_points_that_still_have_the_reported_version_are_removed() {
    let mut collection = with_four_rows().await;
    add_foreign(&collection, 8);
    add_foreign(&collection, 9);
    collection.put(vec![update(20, 2, "newer", Some("text"))]).await.unwrap();
    let version = |id| Some(at(id));
    let reported =
        [(point(1), version(1)), (point(2), version(2)), (point(3), None), (point(8), None), (point(9), version(9))];
    collection.writer.remove(&reported).await.unwrap();
    assert_eq!(ids(&collection), [2, 3, 4, 9].map(point));
}

#[tokio::test]
async fn a_point_that_is_reported_twice_is_removed_once() {
    let collection = with_four_rows().await;
    collection.sink.take_batches();
    let reported = [(point(1), Some(at(1))), (point(2), Some(at(2))), (point(1), Some(at(1)))];
    collection.writer.remove(&reported).await.unwrap();
    assert_eq!(collection.sink.take_batches(), [[1, 2].map(|id| Write::Delete(point(id)))]);
}

#[tokio::test]
async fn a_collection_keeps_no_rows_of_other_tables_after_a_snapshot_through_topics() {
    let mut collection = with_four_rows().await;
    add_of_table(&collection, 8, "films");
    add_foreign(&collection, 9);
    let end = |sweep, generation| SnapshotEnd {
        table: table().name.clone(),
        position: at(3),
        generation: Generation(generation),
        sweep,
        barrier: Vec::new(),
    };
    collection.writer.end_snapshot(&end(Sweep::Older, 1)).await.unwrap();
    assert_eq!(ids(&collection), [3, 4, 8, 9].map(point));
    collection.writer.end_snapshot(&end(Sweep::Generations, 2)).await.unwrap();
    assert_eq!(ids(&collection), [point(9)]);
    assert_eq!(collection.writer.generation(), Generation(2));
}

#[tokio::test]
async fn what_the_collection_holds_is_counted_over_all_its_pages() {
    let mut collection = with_four_rows().await;
    add_foreign(&collection, 8);
    add_of_table(&collection, 9, "films");
    collection.writer.begin_generation(Generation(3));
    collection.put(vec![insert(9, 4, "text")]).await.unwrap();
    assert_eq!(collection.writer.count_before(at(3)).await.unwrap(), (3, 5), "films 1, books 1 and 2");
    let films = table_named("films").name.clone();
    assert_eq!(collection.writer.stored().await.unwrap(), (Generation(3), BTreeSet::from([films])));
}

#[tokio::test]
async fn every_removal_asks_the_fence_first() {
    let mut collection = with_four_rows().await;
    collection.shared.fence.allow(0);
    let before = collection.sink.points();
    let writer = &mut collection.writer;
    let outcomes = [
        writer.truncate().await,
        writer.finish_generation().await.map(drop),
        writer.sweep_before(at(9), Generation(0)..=Generation(9)).await,
        writer.remove_table(&table().name).await,
        writer.remove(&[(point(1), Some(at(1)))]).await,
    ];
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(PipelineError::Disowned))), "{outcomes:?}");
    assert_eq!(collection.sink.points(), before);
}
