use std::time::Duration;

use walvec_model::Cell;

use super::*;
use crate::testing::rows::{at, insert, key, point, update};
use crate::testing::sink::refused;
use crate::testing::{Fault, SinkCall, TestCollection};

#[tokio::test(start_paused = true)]
async fn a_writer_that_fails_does_not_abandon_the_writes_of_the_others() {
    let mut collections = [TestCollection::new(), TestCollection::new()];
    let [one, two] = &mut collections;
    one.sink.fail(SinkCall::DeleteTable, Fault::Before(refused()));
    two.put(vec![insert(10, 1, "text")]).await.unwrap();
    two.sink.delay(SinkCall::DeleteTable, Duration::from_secs(60));
    let dealt = [(&mut one.writer, ()), (&mut two.writer, ())];
    let outcome = all(dealt, |writer, ()| writer.truncate()).await;
    assert!(matches!(outcome, Err(PipelineError::Sink { .. })), "{outcome:?}");
    assert!(two.sink.points().is_empty());
}

#[tokio::test]
async fn the_points_of_a_batch_have_the_generation_in_which_it_was_made() {
    let mut collection = TestCollection::new();
    let batch = collection.writer.batch(vec![insert(10, 1, "text")], Purpose::Change);
    collection.writer.begin_generation(Generation(2));
    collection.write(batch).await.unwrap();
    let own = collection.sink.points().remove(&point(1)).unwrap().provenance.unwrap();
    assert_eq!((own.generation, own.position), (Generation(1), at(10)), "a sweep of the new one removes it");
}

#[tokio::test]
async fn a_new_writer_knows_the_rows_that_are_parked_and_shows_them() {
    let mut collection = TestCollection::new();
    collection.sink.refuse(point(1));
    collection.put(vec![insert(10, 1, "text")]).await.unwrap();
    let next = Writer::new(0, collection.writer.collection.clone(), collection.shared.shared.clone()).unwrap();
    assert!(next.is_parked(&key(1)) && !next.is_parked(&key(2)));
    collection.shared.shared.telemetry.collection(0, |status| status.dead_letters = 0);
    collection.writer = next;
    collection.writer.begin_generation(Generation(2));
    assert_eq!(collection.shared.status().collections[0].dead_letters, 1);
}

#[test]
fn a_change_keeps_its_key_and_what_was_not_sent_when_it_is_reduced() {
    let collection = TestCollection::new();
    for change in [update(10, 1, "title", None), insert(10, 1, "text")] {
        let reduced = collection.writer.reduced(&change);
        assert_eq!(reduced, change, "the collection uses every column");
    }
    let Op::Update { new, .. } = collection.writer.reduced(&update(10, 1, "title", None)).op else {
        panic!("an update")
    };
    assert_eq!(new.0[2], Cell::Unchanged, "not NULL");
}

#[tokio::test]
async fn a_collection_is_empty_only_without_any_point() {
    let mut collection = TestCollection::new();
    assert!(collection.writer.is_empty().await.unwrap());
    collection.put(vec![insert(10, 1, "text")]).await.unwrap();
    assert!(!collection.writer.is_empty().await.unwrap());
}
