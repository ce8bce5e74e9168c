use serde_json::json;
use walvec_model::Cell;

use super::*;
use crate::testing::embedder::bad_text;
use crate::testing::rows::{at, insert, key, point, renumber, row, update};
use crate::testing::{CollectionOptions, SinkCall, TestCollection, TestRowSource};
use crate::writer::Purpose;

/// Returns a collection that shows row 1 with a large body as of 10, and a source that has it as of now.
async fn with_a_large_body() -> TestCollection {
    let mut collection = TestCollection::new();
    collection.source = TestRowSource::with([(key(1), row(1, "now", Some("as of now")))]);
    collection.put(vec![insert(10, 1, "large")]).await.unwrap();
    collection
}

/// Returns an update that leaves the body out.
fn retitle(lsn: u64) -> walvec_model::Change {
    update(lsn, 1, "retitled", None)
}

fn parked(id: u64, code: &str) -> (String, String) {
    (key(id).to_string(), code.to_owned())
}

#[tokio::test]
async fn a_value_that_was_not_sent_comes_from_the_stored_point_and_no_question_is_asked() {
    let mut collection = with_a_large_body().await;
    collection.put(vec![retitle(20)]).await.unwrap();
    assert_eq!(collection.shown("body")[&point(1)], json!("large"));
    assert_eq!(collection.shown("title")[&point(1)], json!("retitled"));
    assert!(collection.source.take_asked().is_empty());
    assert_eq!(collection.embedder.times_asked_for("large"), 1, "the text is the same");
}

#[tokio::test]
async fn a_complete_row_reads_no_fields_of_its_point() {
    let mut collection = with_a_large_body().await;
    collection.put(vec![update(20, 1, "retitled", Some("large"))]).await.unwrap();
    assert_eq!(collection.sink.count_of(SinkCall::Faithful), 0);
}

#[tokio::test]
async fn a_stored_point_that_proves_nothing_about_the_value_is_passed_over_for_the_source() {
    let cases = [
        ("it is not stored", 0),
        ("the row is parked", 1),
        ("an older snapshot wrote it", 2),
        ("another program has changed it", 3),
        ("the table was altered", 4),
        ("another table's rows were there", 5),
    ];
    for (why, case) in cases {
        let mut collection = with_a_large_body().await;
        match case {
            0 => collection.sink.lose(point(1)),
            1 => {
                collection.embedder.refuse("bad", bad_text());
                collection.put(vec![update(15, 1, "1", Some("bad"))]).await.unwrap();
            }
            2 => collection.writer.begin_generation(Generation(2)),
            _ => {}
        }
        let mut points = collection.sink.points();
        if let Some(held) = points.get_mut(&point(1)) {
            match case {
                3 => held.provenance = None,
                5 => held.provenance.as_mut().unwrap().table = "public.films".to_owned(),
                _ => {}
            }
            collection.sink.restore(points);
        }
        let mut batch = collection.writer.batch(vec![retitle(20)], Purpose::Change);
        if case == 4 {
            batch.distrust_stored();
        }
        collection.write(batch).await.unwrap();
        assert_eq!(collection.source.take_asked(), [[key(1)]], "{why}");
        assert_eq!(collection.shown("body")[&point(1)], json!("as of now"), "{why}");
        assert_eq!(collection.shown("title")[&point(1)], json!("retitled"), "what was sent is kept: {why}");
    }
}

#[tokio::test]
async fn a_point_that_changes_between_two_reads_supplies_no_value() {
    let collection = with_a_large_body().await;
    let batch = collection.writer.batch(vec![retitle(20)], Purpose::Change);
    collection.sink.hold(SinkCall::Faithful);
    let sink = collection.sink.clone();
    let (parts, ()) = tokio::join!(collection.writer.parts_of(&collection.source, batch), async {
        sink.called(SinkCall::Faithful, 1).await;
        let mut points = sink.points();
        points.get_mut(&point(1)).unwrap().provenance.as_mut().unwrap().position = at(15);
        sink.restore(points);
        sink.release(SinkCall::Faithful);
    });
    assert_eq!(parts.unwrap().len(), 1);
    assert_eq!(collection.source.take_asked(), [[key(1)]]);
}

#[tokio::test]
async fn a_row_under_a_new_key_is_completed_from_the_source_and_never_from_the_point_of_its_old_key() {
    let mut collection = with_a_large_body().await;
    collection.source = TestRowSource::with([(key(2), row(2, "2", Some("as of now")))]);
    collection.put(vec![renumber(20, 1, 2, None)]).await.unwrap();
    let shown = collection.shown("body");
    assert_eq!(shown.into_iter().collect::<Vec<_>>(), [(point(2), json!("as of now"))]);
}

#[tokio::test]
async fn a_row_that_the_source_does_not_have_any_more_is_removed() {
    let mut collection = with_a_large_body().await;
    collection.source = TestRowSource::with([]);
    collection.writer.begin_generation(Generation(2));
    collection.put(vec![retitle(20)]).await.unwrap();
    assert!(collection.sink.points().is_empty() && collection.parked().is_empty());
}

#[tokio::test]
async fn a_row_whose_value_is_nowhere_is_parked_and_never_written_with_null() {
    for (source, code) in [
        (TestRowSource::default(), "E_NOT_SENT"),
        (TestRowSource::with([(key(1), row(1, "1", None))]), "E_NOT_SENT"),
        (
            TestRowSource::with([(key(1), Row(vec![Cell::Value(json!(1)), Cell::Unchanged, Cell::Unchanged]))]),
            "E_TOO_LARGE",
        ),
    ] {
        let mut collection = TestCollection::new();
        collection.source = source;
        collection.put(vec![retitle(20), insert(21, 2, "sent")]).await.unwrap();
        assert_eq!(collection.parked(), [parked(1, code)]);
        assert_eq!(collection.sink.points().into_keys().collect::<Vec<_>>(), [point(2)]);
    }
}

#[tokio::test]
async fn rows_of_a_table_that_is_gone_are_parked_with_the_reason() {
    let mut collection = TestCollection::new();
    collection.source = TestRowSource::with([]);
    collection.source.lose_table("the table was dropped");
    collection.put(vec![retitle(20)]).await.unwrap();
    let status = &collection.shared.status().collections[0];
    let letter = &status.latest_dead_letters[0];
    assert_eq!((letter.code.as_str(), letter.reason.as_str()), ("E_NOT_SENT", "the table was dropped"));
}

#[tokio::test]
async fn a_source_that_fails_parks_nothing() {
    let mut collection = TestCollection::new();
    collection.source = TestRowSource::with([]);
    collection.source.fail(PipelineError::Disowned);
    let outcome = collection.put(vec![retitle(20)]).await;
    assert!(matches!(outcome, Err(PipelineError::Disowned)), "{outcome:?}");
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn a_large_value_that_nothing_uses_is_not_read() {
    let options = CollectionOptions { text: "{{ title }}", payload: Some(&["title"]), ..CollectionOptions::default() };
    let mut collection = TestCollection::with(options, crate::testing::TestEmbedder::new(2, 8));
    collection.put(vec![retitle(20)]).await.unwrap();
    assert_eq!(collection.shown("title")[&point(1)], json!("retitled"));
    assert!(collection.parked().is_empty());
}

#[tokio::test]
async fn the_fields_of_many_rows_are_read_a_few_rows_at_a_time() {
    let mut collection = TestCollection::new();
    let rows = STORED_ROWS as u64 + 1;
    collection.put((1..=rows).map(|id| insert(10, id, "large")).collect()).await.unwrap();
    collection.put((1..=rows).map(|id| update(20, id, "retitled", None)).collect()).await.unwrap();
    assert_eq!(collection.sink.count_of(SinkCall::Faithful), 2);
    assert!(collection.shown("title").values().all(|title| *title == json!("retitled")));
}
