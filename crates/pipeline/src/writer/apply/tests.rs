use super::*;
use crate::testing::embedder::vector_of;
use crate::testing::rows::{at, delete, insert, key, point, table, update};
use crate::testing::sink::{refused, unavailable};
use crate::testing::{CollectionOptions, Fault, SinkCall, TestCollection, TestEmbedder};
use crate::writer::Purpose;

fn in_chunks() -> TestCollection {
    let options = CollectionOptions { sentences: Some(1), ..CollectionOptions::default() };
    TestCollection::with(options, TestEmbedder::new(8, 8))
}

/// Returns each batch of the sink as the kinds of its writes, with the chunks that they are of and how many chunks these
/// say there are; the chunk that has no version is marked.
fn batches(collection: &TestCollection) -> Vec<Vec<String>> {
    let first = collection.writer.id(&table(), &key(1));
    let transform = &collection.writer.collection.transform;
    let ids: Vec<PointId> = std::iter::once(first).chain(transform.further_ids(&table().name, &key(1), 9)).collect();
    let chunk = |id| ids.iter().position(|other| *other == id).unwrap();
    let of = |kind: &str, id, own: &Provenance| {
        let mark = if own.position == Position::default() { " without version" } else { "" };
        format!("{kind} {} of {}{mark}", chunk(id), own.chunks)
    };
    let described = |write: &Write| match write {
        Write::Upsert(point) => of("point", point.id, &point.provenance),
        Write::Payload { id, provenance, .. } => of("payload", *id, provenance),
        Write::Delete(id) => format!("delete {}", chunk(*id)),
    };
    collection.sink.take_batches().iter().map(|batch| batch.iter().map(described).collect()).collect()
}

#[tokio::test]
async fn a_row_that_grows_is_announced_before_its_chunks_and_gets_its_version_last() {
    let mut collection = in_chunks();
    collection.put(vec![insert(10, 1, "One.")]).await.unwrap();
    assert_eq!(batches(&collection), [["point 0 of 1"]], "a single point needs a single step");
    collection.put(vec![update(20, 1, "1", Some("One. Two. Three."))]).await.unwrap();
    let expected =
        [vec!["payload 0 of 3 without version"], vec!["point 1 of 3", "point 2 of 3"], vec!["payload 0 of 3"]];
    assert_eq!(batches(&collection), expected);
}

#[tokio::test]
async fn a_row_that_shrinks_loses_its_chunks_before_its_first_one_says_so() {
    let mut collection = in_chunks();
    collection.put(vec![insert(10, 1, "One. Two. Three.")]).await.unwrap();
    batches(&collection);
    collection.put(vec![update(20, 1, "1", Some("One."))]).await.unwrap();
    assert_eq!(batches(&collection), [vec!["delete 1", "delete 2"], vec!["payload 0 of 1"]]);
    collection.put(vec![update(30, 1, "1", Some("One. Two."))]).await.unwrap();
    batches(&collection);
    collection.put(vec![delete(40, 1)]).await.unwrap();
    assert_eq!(batches(&collection), [["delete 1"], ["delete 0"]], "a first chunk that is left names the others");
}

#[tokio::test]
async fn a_crash_between_two_steps_leaves_a_row_that_is_written_again() {
    for step in 1..=2 {
        let mut collection = in_chunks();
        collection.put(vec![insert(10, 1, "One.")]).await.unwrap();
        collection.shared.fence.allow(step);
        let grown = || vec![update(20, 1, "1", Some("One. Two."))];
        let outcome = collection.put(grown()).await;
        assert!(matches!(outcome, Err(PipelineError::Disowned)), "{outcome:?}");
        collection.shared.fence.allow(100);
        collection.put(grown()).await.unwrap();
        let points = collection.sink.points();
        assert_eq!(points.len(), 2, "after {step}");
        let versions = points.values().map(|point| point.provenance.as_ref().unwrap().position);
        assert_eq!(versions.collect::<Vec<_>>(), [at(20), at(20)], "after {step}");
    }
}

#[tokio::test]
async fn a_point_that_the_sink_refuses_parks_its_row_and_the_others_are_written() {
    let mut collection = TestCollection::new();
    collection.sink.refuse(point(1));
    collection.put(vec![insert(10, 1, "one"), insert(11, 2, "two")]).await.unwrap();
    assert_eq!(collection.parked(), [(key(1).to_string(), "E_POINT".to_owned())]);
    assert_eq!(collection.sink.points().into_keys().collect::<Vec<_>>(), [point(2)]);
}

#[tokio::test]
async fn a_refused_chunk_leaves_a_row_that_does_not_count_as_current() {
    let mut collection = in_chunks();
    let second = collection.writer.collection.transform.further_ids(&table().name, &key(1), 2).next().unwrap();
    collection.sink.refuse(second);
    collection.put(vec![insert(10, 1, "One. Two.")]).await.unwrap();
    assert_eq!(collection.parked(), [(key(1).to_string(), "E_POINT".to_owned())]);
    assert_eq!(batches(&collection).len(), 2, "the first chunk gets no version");
}

#[tokio::test]
async fn a_refused_point_of_no_row_ends_the_pipeline() {
    let mut collection = TestCollection::new();
    let refusal = SinkError::BadPoint { id: point(99), reason: String::new() };
    collection.sink.fail(SinkCall::Write, Fault::Before(refusal));
    let outcome = collection.put(vec![insert(10, 1, "one")]).await;
    assert!(matches!(outcome, Err(PipelineError::Sink { .. })), "{outcome:?}");
    assert!(collection.parked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_waited_for_and_the_fence_is_asked_before_each_attempt() {
    let mut collection = TestCollection::new();
    for _ in 0..3 {
        collection.sink.fail(SinkCall::Write, Fault::Before(unavailable()));
    }
    collection.put(vec![insert(10, 1, "one")]).await.unwrap();
    assert_eq!(collection.sink.points().len(), 1);
    assert_eq!((collection.sink.count_of(SinkCall::Write), collection.shared.fence.checks()), (4, 4));
    assert!(collection.parked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_lost_the_collection_between_two_attempts_writes_no_more() {
    let mut collection = TestCollection::new();
    collection.sink.fail(SinkCall::Write, Fault::Before(unavailable()));
    collection.shared.fence.allow(1);
    let outcome = collection.put(vec![insert(10, 1, "one")]).await;
    assert!(matches!(outcome, Err(PipelineError::Disowned)), "{outcome:?}");
    assert_eq!(collection.sink.count_of(SinkCall::Write), 1);
}

#[tokio::test]
async fn an_error_that_lasts_ends_the_pipeline_and_parks_nothing() {
    let mut collection = TestCollection::new();
    collection.sink.fail(SinkCall::Write, Fault::Before(refused()));
    let outcome = collection.put(vec![insert(10, 1, "one")]).await;
    assert!(matches!(outcome, Err(PipelineError::Sink { .. })), "{outcome:?}");
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_point_that_has_vanished_is_embedded_and_written_whole() {
    let mut collection = TestCollection::new();
    collection.put(vec![insert(10, 1, "one"), insert(11, 2, "two")]).await.unwrap();
    let rows = vec![update(20, 1, "1", Some("one")), update(21, 2, "2", Some("two"))];
    let batch = collection.writer.batch(rows, Purpose::Change);
    let part = collection.writer.parts_of(&collection.source, batch).await.unwrap().remove(0);
    collection.sink.lose(point(1));
    collection.embed_and_write(part).await.unwrap();
    let points = collection.sink.points();
    assert_eq!((points.len(), &points[&point(1)].vector), (2, &vector_of("one").await));
    assert_eq!(collection.embedder.times_asked_for("two"), 1, "its point is there");
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_first_chunk_that_vanishes_after_it_was_announced_is_written_whole() {
    let mut collection = in_chunks();
    collection.put(vec![insert(10, 1, "One.")]).await.unwrap();
    let batch = collection.writer.batch(vec![update(20, 1, "1", Some("One. Two."))], Purpose::Change);
    let mut part = collection.writer.parts_of(&collection.source, batch).await.unwrap().remove(0);
    let given_up = CancellationToken::new();
    part = collection.writer.embed(part, given_up.clone()).await.unwrap();
    collection.writer.take_step(&mut part, WriteStep::Announce, &given_up).await.unwrap();
    collection.sink.lose(part.rows[0].first);
    collection.writer.take_step(&mut part, WriteStep::First, &given_up).await.unwrap();
    let first = &collection.sink.points()[&part.rows[0].first];
    assert_eq!(first.vector, vector_of("One.").await);
    assert_eq!(first.provenance.as_ref().unwrap().position, at(20));
}
