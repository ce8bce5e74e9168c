use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::testing::embedder::{away, bad_text, vector_of};
use crate::testing::rows::{insert, key, point, update};
use crate::testing::{CollectionOptions, TestCollection, TestEmbedder};
use crate::writer::Purpose;

fn in_chunks(texts_per_call: usize) -> TestCollection {
    let options = CollectionOptions { sentences: Some(1), ..CollectionOptions::default() };
    TestCollection::with(options, TestEmbedder::new(texts_per_call, 8))
}

fn that_reads(bytes: usize, on_long: OnLong) -> TestCollection {
    let options = CollectionOptions { on_long, ..CollectionOptions::default() };
    TestCollection::with(options, TestEmbedder::new(2, 8).reading(bytes))
}

fn away_for(seconds: u64) -> EmbedError {
    let after = Some(Duration::from_secs(seconds));
    EmbedError::ProviderUnavailable { at: "test".to_owned(), reason: "it is away".to_owned(), after }
}

fn parked(id: u64, code: &str) -> (String, String) {
    (key(id).to_string(), code.to_owned())
}

/// Returns the only part of a batch with these texts, for rows from 1 on.
async fn part(collection: &TestCollection, texts: &[&str]) -> EmbedJob {
    let rows = (1..).zip(texts).map(|(id, text)| insert(id, id, text)).collect();
    let batch = collection.writer.batch(rows, Purpose::Change);
    collection.writer.parts_of(&collection.source, batch).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_bad_text_parks_its_row_and_no_other_row_of_its_call() {
    let mut collection = TestCollection::new();
    collection.embedder.refuse("bad", bad_text());
    collection.put(vec![insert(10, 1, "good"), insert(11, 2, "bad")]).await.unwrap();
    assert_eq!(collection.parked(), [parked(2, "E_EMBED_TEXT")]);
    assert_eq!(collection.sink.points().into_keys().collect::<Vec<_>>(), [point(1)]);
    assert_eq!(collection.embedder.take_calls(), [["good", "bad"]], "it is not asked for again");
}

#[tokio::test]
async fn a_row_with_one_bad_chunk_keeps_all_its_points_as_they_were() {
    let mut collection = in_chunks(8);
    collection.put(vec![insert(10, 1, "One came. Two went.")]).await.unwrap();
    let before = collection.sink.points();
    collection.embedder.refuse("Bad.", bad_text());
    collection.put(vec![update(20, 1, "1", Some("Good. Bad. Two went."))]).await.unwrap();
    assert_eq!(collection.parked(), [parked(1, "E_EMBED_TEXT")]);
    assert_eq!(collection.sink.points(), before);
}

#[tokio::test]
async fn more_chunks_than_fit_into_a_call_are_asked_for_in_several_calls_at_once() {
    let mut collection = in_chunks(2);
    collection.embedder.hold();
    let embedder = Arc::clone(&collection.embedder);
    {
        let mut put = pin!(collection.put(vec![insert(10, 1, "One. Two. Three. Four. Five.")]));
        tokio::select! {
            _ = &mut put => panic!("the calls are held"),
            () = embedder.asked_for("Five.", 1) => {}
        }
        let mut calls = embedder.take_calls();
        calls.sort();
        assert_eq!(calls, [vec!["Five."], vec!["One.", "Two."], vec!["Three.", "Four."]]);
        embedder.release_all();
        put.await.unwrap();
    }
    assert_eq!(collection.sink.points().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn only_the_texts_that_have_no_vector_yet_are_asked_for_again() {
    let mut collection = TestCollection::new();
    let embedder = Arc::clone(&collection.embedder);
    embedder.refuse("late", away());
    {
        let mut put = pin!(collection.put(vec![insert(10, 1, "soon"), insert(11, 2, "late")]));
        tokio::select! {
            _ = &mut put => panic!("one text has no vector"),
            () = embedder.asked_for("late", 3) => {}
        }
        embedder.refuse_none();
        put.await.unwrap();
    }
    assert_eq!(embedder.times_asked_for("soon"), 1, "it may have cost money");
    assert_eq!(collection.sink.points()[&point(2)].vector, vector_of("late").await);
    assert_eq!(collection.shared.status().problem, None, "it is over");
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_too_few_vectors_is_used_for_no_text() {
    let mut collection = TestCollection::new();
    collection.embedder.shorten_next();
    collection.put(vec![insert(10, 1, "one"), insert(11, 2, "two")]).await.unwrap();
    assert_eq!(collection.embedder.take_calls(), [["one", "two"], ["one", "two"]]);
    assert_eq!(collection.sink.points()[&point(1)].vector, vector_of("one").await);
}

#[tokio::test(start_paused = true)]
async fn a_provider_is_asked_again_when_it_says_and_never_at_once() {
    for (error, expected) in [
        (away_for(30), Duration::from_secs(30)..Duration::from_secs(31)),
        (away_for(0), Duration::from_millis(100)..Duration::from_secs(1)),
        (away(), Duration::from_millis(100)..Duration::from_secs(1)),
    ] {
        let mut collection = TestCollection::new();
        let what = format!("{error:?}");
        collection.embedder.fail_next(error);
        let began = Instant::now();
        collection.put(vec![insert(10, 1, "one")]).await.unwrap();
        assert!(expected.contains(&began.elapsed()), "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_provider_that_refuses_for_good_ends_the_pipeline_and_parks_nothing() {
    let mut collection = TestCollection::new();
    let (at, reason, remedy) = ("test".to_owned(), "the key is wrong".to_owned(), String::new());
    collection.embedder.fail_next(EmbedError::ProviderRefused { at, reason, remedy });
    let outcome = collection.put(vec![insert(10, 1, "one")]).await;
    assert!(matches!(outcome, Err(PipelineError::Embed(EmbedError::ProviderRefused { .. }))), "{outcome:?}");
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_text_that_is_too_long_gets_the_vector_of_its_beginning_and_is_counted() {
    let mut collection = that_reads(4, OnLong::Cut);
    collection.put(vec![insert(10, 1, "long text"), insert(11, 2, "text")]).await.unwrap();
    assert_eq!(collection.embedder.take_calls(), [vec!["long text", "text"], vec!["long text"]]);
    assert_eq!((collection.sink.points().len(), collection.shared.status().collections[0].texts_cut), (2, 1));
}

#[tokio::test]
async fn a_text_that_is_too_long_parks_its_row_where_the_configuration_says_so() {
    let mut collection = that_reads(4, OnLong::Park);
    collection.put(vec![insert(10, 1, "long text"), insert(11, 2, "text")]).await.unwrap();
    assert_eq!(collection.embedder.take_calls(), [["long text", "text"]]);
    assert_eq!(collection.parked(), [parked(1, "E_EMBED_LONG")]);
    assert_eq!(collection.shared.status().collections[0].texts_cut, 0);
}

#[tokio::test]
async fn vectors_that_are_on_their_way_are_awaited_although_another_part_has_failed() {
    let collection = TestCollection::new();
    collection.embedder.hold();
    let given_up = CancellationToken::new();
    given_up.cancel();
    let mut embedded = pin!(collection.writer.embed(part(&collection, &["one"]).await, given_up));
    tokio::select! {
        _ = &mut embedded => panic!("the call is held"),
        () = collection.embedder.asked_for("one", 1) => {}
    }
    collection.embedder.release_all();
    assert_eq!(embedded.await.unwrap().vectors[&point(1)], vector_of("one").await);
}

#[tokio::test]
async fn vectors_are_not_asked_for_again_once_another_part_has_failed() {
    let collection = TestCollection::new();
    collection.embedder.fail_next(away_for(600));
    let given_up = CancellationToken::new();
    given_up.cancel();
    let embedded = collection.writer.embed(part(&collection, &["one"]).await, given_up).await;
    assert!(matches!(embedded, Err(PipelineError::Stopped)));
    assert_eq!(collection.embedder.times_asked_for("one"), 1);
}

#[tokio::test]
async fn a_stop_after_another_part_has_failed_does_not_wait_for_vectors() {
    let collection = TestCollection::new();
    collection.embedder.hold();
    let (part, given_up) = (part(&collection, &["one"]).await, CancellationToken::new());
    given_up.cancel();
    collection.shared.shared.stop.cancel();
    assert!(matches!(collection.writer.embed(part, given_up).await, Err(PipelineError::Stopped)));
}

#[tokio::test]
async fn a_failure_of_a_row_stays_in_the_part_of_the_row() {
    let collection = TestCollection::new();
    let whole = part(&collection, &["one", "two"]).await;
    let failure = |id| RowFailure { key: key(id), position: whole.rows[0].position, code: "E", reason: String::new() };
    let failed = vec![failure(2), failure(1), failure(9)];
    let rows = whole.rows.into_iter().collect();
    let divided = parts(rows, failed, HashMap::new(), &whole.context, 1);
    let keys: Vec<Vec<RowKey>> = divided.iter().map(|part| part.keys().cloned().collect()).collect();
    assert_eq!(keys, [vec![key(1), key(1)], vec![key(2), key(2)], vec![key(9)]]);
}
