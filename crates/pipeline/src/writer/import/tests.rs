use walvec_model::{Fingerprint, InputHash, Payload};

use super::*;
use crate::testing::rows::{at, key, point};
use crate::testing::{SinkCall, TestCollection};

fn place(offset: i64) -> Place {
    Place { topic: "points".to_owned(), partition: 0, offset }
}

/// Returns a point of generation 1 as it was read from a topic.
fn imported(id: u64, lsn: u64) -> ImportedPoint {
    imported_by("a model", id, lsn, Generation(1))
}

fn imported_by(model: &str, id: u64, lsn: u64, generation: Generation) -> ImportedPoint {
    let provenance = Provenance {
        position: at(lsn),
        table: "public.books".to_owned(),
        key: key(id).values().to_vec(),
        input_hash: InputHash::of("text"),
        fingerprint: Fingerprint::of(&[model]),
        generation,
        chunk: 0,
        chunks: 1,
    };
    let made = Point { id: point(id), vector: vec![1.0], keywords: None, payload: Payload::new(), provenance };
    ImportedPoint {
        id: point(id),
        point: Some(made),
        position: Some(at(lsn)),
        generation,
        place: place(lsn.cast_signed()),
    }
}

fn removed(id: u64, position: Option<Position>) -> ImportedPoint {
    ImportedPoint { id: point(id), point: None, position, generation: Generation(1), place: place(0) }
}

/// Returns the version of each point that is stored.
fn versions(collection: &TestCollection) -> Vec<(PointId, Position)> {
    let points = collection.sink.points().into_iter();
    points.map(|(id, point)| (id, point.provenance.unwrap().position)).collect()
}

async fn with(points: Vec<ImportedPoint>) -> TestCollection {
    let mut collection = TestCollection::new();
    collection.writer.place(points).await.unwrap();
    collection
}

#[tokio::test]
async fn the_last_state_of_a_point_wins_and_is_written_once() {
    let collection = with(vec![imported(1, 10), imported(2, 11), imported(1, 12), removed(2, Some(at(13)))]).await;
    assert_eq!(versions(&collection), [(point(1), at(12))]);
    assert_eq!(collection.sink.count_of(SinkCall::Write), 1);
}

#[tokio::test]
async fn a_record_that_is_read_again_changes_nothing() {
    // The stored point is of generation 1 and 10.
    for (again, expected) in [
        (imported(1, 9), 10),
        (imported(1, 10), 10),
        (imported(1, 11), 11),
        (imported_by("a model", 1, 9, Generation(2)), 9),
        (imported_by("a model", 1, 9, FOREIGN), 9),
    ] {
        let mut collection = with(vec![imported(1, 10)]).await;
        collection.sink.take_batches();
        collection.writer.place(vec![again]).await.unwrap();
        assert_eq!(versions(&collection), [(point(1), at(expected))]);
    }
}

#[tokio::test]
async fn a_removal_without_a_version_is_newer_than_any_point_and_one_with_an_older_version_is_not() {
    let mut collection = with(vec![imported(1, 10), imported(2, 10)]).await;
    collection.writer.place(vec![removed(1, Some(at(9))), removed(2, None)]).await.unwrap();
    assert_eq!(versions(&collection), [(point(1), at(10))]);
}

#[tokio::test]
async fn a_vector_of_another_model_is_parked_and_never_stored() {
    let other = imported_by("another model", 1, 10, Generation(1));
    let collection = with(vec![other, imported(2, 11)]).await;
    assert_eq!(versions(&collection), [(point(2), at(11))]);
    assert_eq!(collection.parked(), [(key(1).to_string(), "E_FINGERPRINT".to_owned())]);
}

#[tokio::test]
async fn a_point_that_the_sink_refuses_is_parked_with_its_place_and_the_others_are_written() {
    let mut collection = TestCollection::new();
    collection.sink.refuse(point(1));
    collection.sink.refuse(point(3));
    collection.writer.place((1..=4).map(|id| imported(id, 10 + id)).collect()).await.unwrap();
    assert_eq!(versions(&collection), [(point(2), at(12)), (point(4), at(14))]);
    let letters = &collection.shared.status().collections[0].latest_dead_letters;
    let parked: Vec<_> = letters.iter().map(|letter| (letter.code.as_str(), letter.place.clone())).collect();
    assert_eq!(parked, [("E_POINT", Some(place(13))), ("E_POINT", Some(place(11)))]);
}

#[tokio::test]
async fn a_point_that_is_written_clears_its_parked_row() {
    let mut collection = with(vec![imported_by("another model", 1, 10, Generation(1))]).await;
    assert_eq!(collection.parked().len(), 1);
    collection.writer.place(vec![imported(1, 11)]).await.unwrap();
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn points_are_placed_only_by_who_owns_the_collection() {
    let mut collection = TestCollection::new();
    collection.shared.fence.allow(0);
    let outcome = collection.writer.place(vec![imported(1, 10)]).await;
    assert!(matches!(outcome, Err(PipelineError::Disowned)), "{outcome:?}");
    assert!(collection.sink.points().is_empty());
}
